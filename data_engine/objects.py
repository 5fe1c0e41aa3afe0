"""Objects with known outlines on simulated ground: ships, aircraft, storage tanks, buildings, greenhouses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from rasterio.features import rasterize
from scipy import ndimage

from data_engine.landscape import CROPS, WATERS
from data_engine.spectra import CODE
from rsvlm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from data_engine.annotated import Ring
    from data_engine.landscape import Landscape

Outline = tuple[tuple[float, float], ...]  # along and across the heading, in lengths and widths

OPEN_LAND = (*CROPS, "bare soil", "garden", "sand", "shrubland")
RECTANGLE: Outline = ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))
ANGLE: Outline = ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (0.1, 0.5), (0.1, 0.05), (-0.5, 0.05))
HULL: Outline = ((-0.5, -0.4), (-0.44, -0.5), (0.25, -0.5), (0.5, 0.0), (0.25, 0.5), (-0.44, 0.5), (-0.5, 0.4))
CIRCLE: Outline = tuple((float(np.cos(a)) / 2, float(np.sin(a)) / 2) for a in np.linspace(0, 2 * np.pi, 24, False))
HALF_AIRCRAFT = (
    (0.5, 0.0),
    (0.42, 0.06),
    (0.14, 0.07),
    (-0.12, 0.5),
    (-0.21, 0.5),
    (-0.1, 0.07),
    (-0.36, 0.06),
    (-0.47, 0.2),
    (-0.5, 0.2),
    (-0.47, 0.0),
)
AIRCRAFT: Outline = (*HALF_AIRCRAFT, *((x, -y) for x, y in HALF_AIRCRAFT[-2:0:-1]))
ATTEMPTS = 60
WAKE_PIXEL_M = 3.0  # wakes are drawn on grids as fine as this


@dataclass(frozen=True, slots=True)
class Kind:
    """What objects of a category look like and where they stand; lengths are metres."""

    lengths_m: tuple[float, float]
    widths: tuple[float, float]  # in lengths
    medium_m: float  # from this length on an object is "medium", ...
    large_m: float  # ... and from this on "large"
    finest_px: float  # an object shorter than this many pixels would lose its shape
    colours: dict[str, str]  # colour word -> surface
    outlines: tuple[Outline, ...]
    stands_on: tuple[str, ...]
    pad: str = ""  # surface laid below a group; objects without one stand alone


METAL = {"white": "white metal", "grey": "grey metal"}
ROOFING = {"white": "pale roof", "red": "tiled roof", "dark": "dark roof", "blue": "blue roof"}
HULLS = {"white": "white hull", "grey": "grey hull", "red": "red hull"}
CATEGORIES: dict[str, Kind] = {
    "ship": Kind((10, 330), (0.15, 0.24), 50, 150, 5, HULLS, (HULL,), WATERS),
    "aircraft": Kind((14, 72), (0.9, 1.0), 25, 45, 16, METAL, (AIRCRAFT,), OPEN_LAND, "asphalt"),
    "storage tank": Kind((8, 90), (1.0, 1.0), 20, 45, 4, METAL, (CIRCLE,), OPEN_LAND, "bare soil"),
    "building": Kind((8, 110), (0.45, 0.8), 18, 45, 6, ROOFING, (RECTANGLE, ANGLE), OPEN_LAND, "garden"),
    "greenhouse": Kind((20, 220), (0.2, 0.4), 50, 110, 10, {"white": "glass"}, (RECTANGLE,), OPEN_LAND, "bare soil"),
}


@dataclass(frozen=True, slots=True)
class Thing:
    """One object: its category, its oriented outline in pixels of the landscape, and how one would describe it."""

    category: str
    polygon: Ring
    size: str  # "small", "medium" or "large" for its category
    colour: str
    surface: str
    parcel: int  # its own, so that it keeps its tint whatever comes and goes around it
    wake: Ring = ()  # foam behind a moving ship


@dataclass(frozen=True, slots=True)
class Stage:
    """Ground, pads included, and the objects on it; the ground below them is kept, so that they can leave."""

    ground: Landscape
    things: tuple[Thing, ...] = ()

    def landscape(self) -> Landscape:
        """The ground with the objects on it: a pixel is an object's where its centre lies inside the outline."""
        surfaces, parcels = self.ground.surfaces.copy(), self.ground.parcels.copy()
        for thing in self.things:
            if thing.wake:
                surfaces[covered(thing.wake, surfaces.shape) & self.ground.is_any(*WATERS)] = CODE["wake"]
        for thing in self.things:
            where = covered(thing.polygon, surfaces.shape)
            surfaces[where] = CODE[thing.surface]
            parcels[where] = thing.parcel
        return replace(self.ground, surfaces=surfaces, parcels=parcels)


def covered(ring: Ring, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Pixels whose centre lies inside an outline, (H, W)."""
    found: NDArray[np.uint8] = rasterize([{"type": "Polygon", "coordinates": [ring]}], shape[:2], dtype="uint8")
    return found.astype(bool)


def place_objects(ground: Landscape, counts: Mapping[str, int], *, seed: int, rim_m: float = 0.0) -> Stage:
    """Exactly `counts` objects of each category in CATEGORIES, none touching another or closer than `rim_m` to the rim.

    Ships float on water; the others stand in groups on open land, on a pad of asphalt, soil or gardens. Sizes are
    true metres, as large as fits; objects that pixels of this size would blur are not made smaller. The same arguments
    give the same objects. Raises ConfigError for unknown categories and where there is no room.
    """
    rim = np.ones(ground.grid.shape, dtype=bool)
    edge = max(1, round(rim_m / ground.pixel_m))
    rim[edge:-edge, edge:-edge] = False
    return _with(Stage(ground), counts, rim, np.random.default_rng((seed, 7)))


def replace_objects(stage: Stage, *, lost: int, new: Mapping[str, int], seed: int, rim_m: float = 0.0) -> Stage:
    """A later date: `lost` of the objects are gone, and new ones stand where none stood before.

    Raises ConfigError where more would be lost than there are, and as `place_objects`.
    """
    if not 0 <= lost <= len(stage.things):
        raise ConfigError(f"of {len(stage.things)} objects {lost} cannot be lost; ask for fewer")
    rng = np.random.default_rng((seed, 8))
    gone = set(rng.permutation(len(stage.things))[:lost].tolist())
    shape = stage.ground.grid.shape
    taken = np.ones(shape, dtype=bool)
    edge = max(1, round(rim_m / stage.ground.pixel_m))
    taken[edge:-edge, edge:-edge] = False
    for thing in stage.things:
        taken |= _with_margin(covered(thing.polygon, shape))
    later = _with(stage, new, taken, rng)
    return replace(later, things=tuple(thing for number, thing in enumerate(later.things) if number not in gone))


def _with(stage: Stage, counts: Mapping[str, int], taken: NDArray[np.bool_], rng: np.random.Generator) -> Stage:
    taken = taken.copy()
    for category, count in counts.items():
        if category not in CATEGORIES or count < 0:
            raise ConfigError(f"{count} x {category!r} cannot be placed; known are {', '.join(CATEGORIES)}, from 0 on")
        groups = [count] if CATEGORIES[category].pad else [1] * count
        for size in groups:
            stage = _with_group(stage, category, size, taken, rng) if size else stage
    return stage


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where a group stands, its heading, and the cells (metres) that hold one object each."""

    centre: NDArray[np.float64]  # x, y in pixels
    heading: float
    cell: tuple[float, float]
    columns: int
    rows: int
    pixel_m: float

    def ring(self, points_m: NDArray[np.float64]) -> Ring:
        """Points (N, 2: along, across, metres) as an outline in pixels."""
        cos, sin = np.cos(self.heading), np.sin(self.heading)
        turned = points_m @ np.array([[cos, sin], [-sin, cos]]) / self.pixel_m + self.centre
        return tuple((round(float(x), 3), round(float(y), 3)) for x, y in turned)

    def site(self) -> Ring:
        """The outline of all cells."""
        return self.ring(np.array(RECTANGLE) * (self.columns * self.cell[0], self.rows * self.cell[1]))

    def middle(self, number: int) -> NDArray[np.float64]:
        """The middle of a cell, metres from the centre."""
        row, column = divmod(number, self.columns)
        return np.array(((column + 0.5 - self.columns / 2), (row + 0.5 - self.rows / 2))) * self.cell


def _with_group(stage: Stage, category: str, count: int, taken: NDArray[np.bool_], rng: np.random.Generator) -> Stage:
    """The stage with one more group; marks its ground as taken."""
    kind, ground = CATEGORIES[category], stage.ground
    length, widest = _length(kind, ground, rng), kind.widths[1]
    free = ground.is_any(*kind.stands_on) & ~taken
    frame = _place(kind, count, length, free, ground.pixel_m, rng)
    first = 1 + max([int(ground.parcels.max()), *(thing.parcel for thing in stage.things)])
    things = []
    for number in range(count):
        size_m = frame.cell[0] / 1.4 * (rng.uniform(0.8, 1.0) if count > 1 else 1.0)
        size_m = max(size_m, kind.finest_px * ground.pixel_m)
        across = size_m * min(rng.uniform(*kind.widths), widest)
        things.append(_thing(category, frame, number, (size_m, across), first + number, rng))
    site = covered(frame.site(), taken.shape)
    taken |= _with_margin(site)
    if kind.pad:
        surfaces = ground.surfaces.copy()
        surfaces[site] = CODE[kind.pad]
        ground = replace(ground, surfaces=surfaces)
    return Stage(ground, (*stage.things, *things))


def _length(kind: Kind, ground: Landscape, rng: np.random.Generator) -> float:
    """A length in metres that pixels resolve and the scene can hold; small ones are commoner than large ones."""
    low = max(kind.lengths_m[0], kind.finest_px * ground.pixel_m * 1.25)
    high = min(kind.lengths_m[1], 0.3 * min(ground.grid.shape) * ground.pixel_m)
    if low > high:
        raise ConfigError(
            f"objects of {kind.lengths_m[0]} to {kind.lengths_m[1]} m do not show on {ground.grid.shape} pixels of "
            f"{ground.pixel_m} m; draw the ground finer or larger"
        )
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _place(
    kind: Kind, count: int, length: float, free: NDArray[np.bool_], pixel_m: float, rng: np.random.Generator
) -> _Frame:
    """Somewhere free for a group; where there is nowhere, its objects get smaller down to what pixels resolve."""
    spots = np.argwhere(free)
    columns = int(np.ceil(np.sqrt(count)))
    rows = int(np.ceil(count / columns))
    while len(spots) and length >= max(kind.lengths_m[0], kind.finest_px * pixel_m):
        cell = (1.4 * length, 1.4 * length * min(1.0, 1.3 * kind.widths[1]))
        for _ in range(ATTEMPTS):
            spot = spots[rng.integers(len(spots))][::-1] + 0.5
            frame = _Frame(spot, float(rng.uniform(0, 2 * np.pi)), cell, columns, rows, pixel_m)
            if _fits(frame.site(), free):
                return frame
        length *= 0.85
    raise ConfigError(f"there is no room for {count} more objects here; ask for fewer or draw a larger scene")


def _fits(site: Ring, free: NDArray[np.bool_]) -> bool:
    points = np.array(site)
    if (points < 1).any() or (points > np.array(free.shape)[::-1] - 1).any():
        return False
    return bool(free[covered(site, free.shape)].all())


def _thing(
    category: str, frame: _Frame, number: int, sides_m: tuple[float, float], parcel: int, rng: np.random.Generator
) -> Thing:
    kind = CATEGORIES[category]
    outline = np.array(kind.outlines[rng.integers(len(kind.outlines))]) * sides_m
    slack = np.maximum(np.array(frame.cell) - sides_m, 0) * (0.15 if kind.pad else 0.0)
    middle = frame.middle(number) + rng.uniform(-0.5, 0.5, 2) * slack
    colour = sorted(kind.colours)[rng.integers(len(kind.colours))]
    size = "large" if sides_m[0] >= kind.large_m else "medium" if sides_m[0] >= kind.medium_m else "small"
    wake: Ring = ()
    if category == "ship" and frame.pixel_m <= WAKE_PIXEL_M and rng.random() < 0.4:
        foam = np.array([(-0.48, -0.3), (-0.48, 0.3), (-1.6, 0.9), (-1.3, 0.0), (-1.6, -0.9)])
        wake = frame.ring(foam * sides_m + middle)
    return Thing(category, frame.ring(outline + middle), size, colour, kind.colours[colour], parcel, wake)


def _with_margin(where: NDArray[np.bool_]) -> NDArray[np.bool_]:
    wider: NDArray[np.bool_] = ndimage.binary_dilation(where, np.ones((3, 3)), iterations=3)
    return wider
