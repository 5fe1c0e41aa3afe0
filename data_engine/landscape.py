"""A landscape is a seeded map of surfaces with the shapes real ground has: fields, woods, rivers, towns, coasts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from data_engine.shapes import fractal, patchwork
from data_engine.spectra import CODE, COVERS, SURFACES
from rsvlm.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rsvlm.scene import Grid

CROPS = ("growing crop", "ripe crop", "stubble", "ploughed field", "grassland")
SEASONS: dict[str, tuple[float, ...]] = {  # how common each of CROPS is
    "spring": (0.52, 0.0, 0.05, 0.25, 0.18),
    "summer": (0.38, 0.32, 0.07, 0.05, 0.18),
    "autumn": (0.22, 0.02, 0.33, 0.25, 0.18),
    "winter": (0.30, 0.0, 0.20, 0.32, 0.18),
}
WATERS = ("clear water", "turbid water", "flood water")
FORESTS = ("broadleaved forest", "coniferous forest")
ROOFS = ("pale roof", "tiled roof")


@dataclass(frozen=True, slots=True)
class Layout:
    """What a landscape holds; shares are fractions of the scene, widths and lengths metres."""

    season: str = "summer"
    forest: float = 0.15
    conifers: float = 0.3
    lakes: float = 0.0
    sea: float = 0.0
    river_m: float = 0.0
    roads: int = 1
    towns: int = 1
    town_m: float = 450.0
    field_m: float = 230.0
    wild: bool = False  # grassland in place of fields
    relief_m: float = 20.0
    shrubs: float = 0.0
    marsh_m: float = 0.0  # width of reeds along lakes and rivers

    def __post_init__(self) -> None:
        if self.season not in SEASONS:
            raise ConfigError(f"there is no season {self.season!r}; known are {', '.join(SEASONS)}")
        for name in ("forest", "conifers", "lakes", "sea", "shrubs"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is a share from 0 to 1; got {getattr(self, name)}")


@dataclass(frozen=True)
class Landscape:
    """Known ground: what lies at each pixel, which parcel it belongs to and how high it stands."""

    surfaces: NDArray[np.uint8]  # (H, W), codes of data_engine.spectra.SURFACES
    parcels: NDArray[np.int32]  # (H, W), pixels of one field or house share a number
    relief_m: NDArray[np.float32]  # (H, W), height
    grid: Grid
    seed: int

    @property
    def pixel_m(self) -> float:
        """Side of a pixel in metres."""
        return abs(self.grid.transform.a)

    def is_any(self, *names: str) -> NDArray[np.bool_]:
        """Where one of these surfaces lies, (H, W)."""
        return np.isin(self.surfaces, [CODE[name] for name in names])

    def surface_fractions(self) -> dict[str, float]:
        """Share of each surface present, largest first."""
        counts = np.bincount(self.surfaces.ravel(), minlength=len(SURFACES)) / self.surfaces.size
        return _ranked({surface.name: float(n) for surface, n in zip(SURFACES, counts, strict=True)})

    def cover_fractions(self) -> dict[str, float]:
        """Share of each land cover present, largest first."""
        totals = dict.fromkeys(COVERS, 0.0)
        for name, share in self.surface_fractions().items():
            totals[SURFACES[CODE[name]].cover] += share
        return _ranked(totals)


def _ranked(shares: dict[str, float]) -> dict[str, float]:
    present = [(name, share) for name, share in shares.items() if share > 0]
    return dict(sorted(present, key=lambda item: (-item[1], item[0])))


@dataclass
class Canvas:
    """The map while it is being painted."""

    rng: np.random.Generator
    surfaces: NDArray[np.uint8]
    parcels: NDArray[np.int32]
    relief: NDArray[np.float32]  # deviation 1
    pixel_m: float

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.surfaces.shape[0], self.surfaces.shape[1]

    def paint(self, where: NDArray[np.bool_], surface: str) -> None:
        """Lay a surface over the true pixels."""
        self.surfaces[where] = CODE[surface]

    def noise(self, scale_m: float, slope: float = 2.0) -> NDArray[np.float32]:
        """A fresh fractal field over the map, (H, W)."""
        return fractal(self.rng, self.shape, scale=scale_m / self.pixel_m, slope=slope)

    def is_any(self, *names: str) -> NDArray[np.bool_]:
        """Where one of these surfaces lies, (H, W)."""
        return np.isin(self.surfaces, [CODE[name] for name in names])


def draw(layout: Layout, grid: Grid, *, seed: int) -> Landscape:
    """Paint a landscape on a grid in metres; the same arguments give the same map."""
    rng = np.random.default_rng((seed, 0))
    pixel_m = abs(grid.transform.a)
    relief = fractal(rng, grid.shape, scale=4000 / pixel_m, slope=2.4)
    blank = np.full(grid.shape, CODE["grassland"], dtype=np.uint8)
    canvas = Canvas(rng, blank, np.zeros(grid.shape, dtype=np.int32), relief, pixel_m)
    _fields(canvas, layout)
    _forest(canvas, layout)
    if layout.shrubs:
        scrub = canvas.noise(700, 1.5)
        canvas.paint((scrub > np.quantile(scrub, 1 - layout.shrubs)) & ~canvas.is_any(*FORESTS), "shrubland")
    if layout.lakes:
        canvas.paint(canvas.relief < np.quantile(canvas.relief, layout.lakes), "clear water")
    if layout.river_m:
        _river(canvas, layout.river_m)
    if layout.marsh_m:
        away = ndimage.distance_transform_edt(~canvas.is_any(*WATERS)) * canvas.pixel_m
        canvas.paint((away > 0) & (away < layout.marsh_m * (1 + 0.6 * canvas.noise(300, 1.6))), "marsh")
    for _ in range(layout.towns):
        centre = rng.uniform(0.2, 0.8, 2) * canvas.shape
        town(canvas, centre_px=(float(centre[0]), float(centre[1])), radius_m=layout.town_m)
    for _ in range(layout.roads):
        _road(canvas)
    if layout.sea:
        _coast(canvas, layout.sea)
    return Landscape(canvas.surfaces, canvas.parcels, relief * np.float32(layout.relief_m), grid, seed)


def _fields(canvas: Canvas, layout: Layout) -> None:
    """Blocks of strips, each with one crop; grassy edges between some blocks."""
    size = layout.field_m / canvas.pixel_m
    land = patchwork(canvas.rng, canvas.shape, block=4.5 * size, length=1.8 * size, width=0.8 * size)
    crops = np.array([CODE[name] for name in CROPS], dtype=np.uint8)
    count = int(land.parcels.max()) + 1
    chosen = canvas.rng.choice(crops, size=count, p=SEASONS[layout.season])
    canvas.parcels[:] = land.parcels
    if layout.wild:
        canvas.paint(canvas.noise(300, 1.6) + 0.3 * canvas.relief > 1.7, "bare soil")
        return
    canvas.surfaces[:] = chosen[land.parcels]
    hedged = canvas.rng.random(int(land.blocks.max()) + 1)[land.blocks] < 0.6
    edge = hedged & (land.edge < max(14 / canvas.pixel_m, 1.2))
    canvas.paint(edge, "grassland")
    canvas.paint(edge & (canvas.noise(60) > 0.5), "broadleaved forest")


def _forest(canvas: Canvas, layout: Layout) -> None:
    """Woods with ragged edges, here and there cut straight along a parcel; conifers in patches of their own."""
    if not layout.forest:
        return
    per_parcel = canvas.rng.standard_normal(int(canvas.parcels.max()) + 1)[canvas.parcels]
    wish = canvas.noise(1500, 1.75) + 0.3 * canvas.relief + (0 if layout.wild else 0.4) * per_parcel
    woods = wish > np.quantile(wish, 1 - layout.forest)
    woods = ndimage.binary_opening(woods, iterations=1) | (canvas.noise(40) > 3.2)
    kind = canvas.noise(900, 1.6) + 0.2 * canvas.relief
    conifers = kind > np.quantile(kind, 1 - layout.conifers)
    canvas.paint(woods & ~conifers, "broadleaved forest")
    canvas.paint(woods & conifers, "coniferous forest")


def _course(canvas: Canvas, *, wavelength_m: float, swing: float) -> NDArray[np.float64]:
    """Points (N, 2: row, column) of a line across the scene: a sine-generated curve (Langbein and Leopold 1966)."""
    rng, size = canvas.rng, max(canvas.shape)
    step = 0.5
    count = int(5 * size / step)
    distance = np.arange(count) * step
    wander = ndimage.gaussian_filter1d(rng.standard_normal((2, count)), wavelength_m / canvas.pixel_m / step, axis=1)
    wander = (wander - wander.mean(axis=1, keepdims=True)) / wander.std(axis=1, keepdims=True)
    phase = 2 * np.pi * distance * canvas.pixel_m / wavelength_m + 1.2 * wander[0]
    heading = rng.uniform(0, 2 * np.pi) + swing * (1 + 0.35 * wander[1]) * np.sin(phase)
    points = np.cumsum(np.stack([np.sin(heading), np.cos(heading)], axis=1), axis=0) * step
    middle = points[count // 2]
    return np.asarray(points - middle + rng.uniform(0.35, 0.65, 2) * canvas.shape)


def _corridor(
    canvas: Canvas, points: NDArray[np.float64], widths_m: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distance of each pixel to a line and the line's half width at its nearest point, (H, W) each, metres."""
    cells = np.floor(points).astype(np.intp)
    inside = ((cells >= 0) & (cells < canvas.shape)).all(axis=1)
    rows, cols = cells[inside].T
    width = np.zeros(canvas.shape)
    width[rows, cols] = widths_m[inside]
    line = np.zeros(canvas.shape, dtype=bool)
    line[rows, cols] = True
    if not line.any():
        return np.full(canvas.shape, np.inf), width
    distance, (near_row, near_col) = ndimage.distance_transform_edt(~line, return_indices=True)
    return distance * canvas.pixel_m, width[near_row, near_col] / 2


def _river(canvas: Canvas, width_m: float) -> None:
    """A meandering river of changing width, with trees along its banks and bars of sand."""
    points = _course(canvas, wavelength_m=14 * width_m, swing=1.0)
    slow = ndimage.gaussian_filter1d(canvas.rng.standard_normal(len(points)), 4 * width_m / canvas.pixel_m)
    widths = width_m * np.exp(0.25 * slow / slow.std())
    distance, half = _corridor(canvas, points, widths)
    ragged = distance + 0.12 * width_m * canvas.noise(3 * width_m, 1.6)
    canvas.paint((ragged < half + 60) & (canvas.noise(180, 1.5) > 0.2), "broadleaved forest")
    canvas.paint((ragged < half + 12) & (canvas.noise(250) > 1.3), "sand")
    canvas.paint(ragged < half, "turbid water")


def _road(canvas: Canvas) -> None:
    """A gently curving road; it ends at lakes and bridges rivers."""
    points = _course(canvas, wavelength_m=2500, swing=0.35)
    distance, half = _corridor(canvas, points, np.full(len(points), 10.0))
    road = distance < np.maximum(half, 0.5 * canvas.pixel_m)
    canvas.paint(road & ~canvas.is_any("clear water"), "asphalt")


def town(canvas: Canvas, *, centre_px: tuple[float, float], radius_m: float) -> None:
    """A town with streets, houses among gardens, a dense centre, halls with yards and a few parks."""
    pixel, rng = canvas.pixel_m, canvas.rng
    rows, cols = np.indices(canvas.shape)
    distance = np.hypot(rows - centre_px[0], cols - centre_px[1]) * pixel / radius_m
    inside = ndimage.binary_fill_holes(distance + 0.28 * canvas.noise(radius_m, 2.2) < 1) & ~canvas.is_any(*WATERS)
    plan = patchwork(rng, canvas.shape, block=260 / pixel, length=1e6, width=1e6, bend=0.004)
    blocks = int(plan.blocks.max()) + 1
    kind = rng.random(blocks)[plan.blocks]
    along, across = plan.along * pixel, plan.across * pixel
    canvas.paint(inside, "garden")
    canvas.paint(inside & (canvas.noise(14, 2.5) > 1.1), "broadleaved forest")
    park = inside & (kind < 0.08)
    halls = inside & (kind > 0.85) & (distance > 0.35)
    centre = inside & ~park & ~halls & (distance < 0.35)
    homes = inside & ~park & ~halls & ~centre
    canvas.paint(park & (canvas.noise(40) < 0.3), "grassland")
    canvas.paint(halls, "asphalt")
    _houses(canvas, homes, along, across, cell=(26.0, 21.0), fill=(0.45, 0.7), vacant=0.15)
    _houses(canvas, centre, along, across, cell=(30.0, 26.0), fill=(0.65, 0.95), vacant=0.1)
    _houses(canvas, halls, along, across, cell=(110.0, 70.0), fill=(0.5, 0.85), vacant=0.2)
    street = max(7.0, 0.95 * pixel)
    grid = (np.mod(along, 104) < street) | (np.mod(across, 84) < street) | (plan.edge * pixel < 1.4 * street)
    canvas.paint(inside & ~park & grid, "asphalt")


def _houses(
    canvas: Canvas,
    where: NDArray[np.bool_],
    along: NDArray[np.float64],
    across: NDArray[np.float64],
    *,
    cell: tuple[float, float],
    fill: tuple[float, float],
    vacant: float,
) -> None:
    """One roof per cell (metres), each with its own size and place in the cell; `fill` is its share of each side."""
    rng = canvas.rng
    steps = [np.floor(axis / size).astype(np.intp) for axis, size in zip((along, across), cell, strict=True)]
    house = np.unique((steps[0] + 5000) * 10000 + steps[1] + 5000, return_inverse=True)[1].reshape(canvas.shape)
    count = int(house.max()) + 1
    roof = where & (rng.random(count) > vacant)[house]
    for axis, size in zip((along, across), cell, strict=True):
        part = rng.uniform(*fill, count)
        start = rng.uniform(0, 1, count) * (1 - part)
        place = np.mod(axis, size) / size
        roof &= (place >= start[house]) & (place < (start + part)[house])
    pale = (rng.random(count) < (0.85 if cell[0] > 50 else 0.4))[house]
    canvas.paint(roof & pale, "pale roof")
    canvas.paint(roof & ~pale, "tiled roof")
    canvas.parcels[roof] = int(canvas.parcels.max()) + 1 + house[roof]


def _coast(canvas: Canvas, share: float) -> None:
    """Sea on one side, with a ragged shore, turbid shallows and beaches of changing width."""
    turn = canvas.rng.uniform(0, 2 * np.pi)
    rows, cols = np.indices(canvas.shape) / max(canvas.shape)
    level = rows * np.sin(turn) + cols * np.cos(turn) + 0.13 * canvas.noise(2500, 1.9)
    sea = level < np.quantile(level, share)
    inland = ndimage.distance_transform_edt(~sea) * canvas.pixel_m
    offshore = ndimage.distance_transform_edt(sea) * canvas.pixel_m
    canvas.paint((inland < 160) & (canvas.noise(500) > -0.4) & ~canvas.is_any(*ROOFS, "asphalt"), "grassland")
    canvas.paint(inland < 22 + 16 * canvas.noise(700, 1.7), "sand")
    canvas.paint(sea, "clear water")
    canvas.paint(sea & (offshore < 80 + 60 * canvas.noise(700, 2.5)), "turbid water")
