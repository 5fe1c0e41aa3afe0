"""Seeded scenes of known ground, as an optical or radar satellite would have seen them, and what changes on it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from data_engine.landscape import FORESTS, ROOFS, WATERS, Canvas, Landscape, town
from data_engine.shapes import fractal, patchwork
from data_engine.spectra import CODE, SURFACES, backscatters, reflectances
from rsvlm.errors import ConfigError
from rsvlm.scene import Scene

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from rsvlm.sensors import Band, Sensor

LOOKS = 4.9  # equivalent number of looks of Sentinel-1 GRD in IW mode, high resolution
CLOUD_HEIGHT_M = 900.0
INCIDENCE_DEG = 38.0  # at which spectra.toml gives backscatter
DISPLAY_WHITE = 0.4  # reflectance that a picture for display shows as white
PARTNERS = np.array([CODE[surface.mixes_with[0]] for surface in SURFACES])


def _property(name: str) -> NDArray[np.float32]:
    return np.array([getattr(surface, name) for surface in SURFACES], dtype=np.float32)


SHARES = np.array([surface.mixes_with[1:] for surface in SURFACES], dtype=np.float32)
TINTS, TEXTURES = _property("tint"), _property("texture")
INCIDENCE_POWERS = _property("incidence_power")
TALL = (  # surfaces that throw shadows, and their heights in metres
    (ROOFS, 6.0),
    (FORESTS, 9.0),
    (("dark roof", "blue roof", "white metal", "grey metal", "white hull", "grey hull", "red hull"), 8.0),
    (("glass",), 4.0),
)
TALL_NAMES = tuple(name for names, _ in TALL for name in names)


def simulate(
    landscape: Landscape,
    sensor: Sensor,
    *,
    seed: int,
    acquired: datetime | None = None,
    clouds: float = 0.0,
    incidence_deg: tuple[float, float] = (INCIDENCE_DEG, INCIDENCE_DEG),
) -> Scene:
    """A scene of the landscape in the sensor's units: reflectance (0-1), display values (0-1) or dB.

    The ground's own variation follows landscape.seed, weather and noise follow `seed`, so two dates of one place
    differ as two passes do. `clouds` is the share of the scene under cloud; radar sees through. Optical values are
    surface reflectance (no atmosphere); thermal bands are left out. `incidence_deg` is the radar's incidence angle at
    the first and the last column; backscatter falls with it as (cos i / cos 38 degrees)^n, n by surface (the cosine
    power law, as in Mladenova et al. 2013). Raises ConfigError and BandError.
    """
    if not 0 <= clouds <= 1:
        raise ConfigError(f"clouds is a share from 0 to 1; got {clouds}")
    if not all(0 <= angle < 80 for angle in incidence_deg):
        raise ConfigError(f"incidence angles are degrees from 0 to below 80; got {incidence_deg}")
    bands = tuple(band for band in sensor.bands if band.units != "K")
    rng = np.random.default_rng((seed, 1))
    if sensor.kind == "sar":
        pixels = _radar(landscape, bands, rng, incidence_deg)
    else:
        pixels = _optical(landscape, bands, rng, clouds)
    if sensor.units == "display":
        pixels = np.sqrt(np.clip(pixels / DISPLAY_WHITE, 0, 1))
    valid = np.ones(landscape.grid.shape, dtype=bool)
    return Scene(pixels.astype(np.float32), valid, bands, sensor, landscape.grid, acquired, "simulated by rsvlm")


def _optical(
    landscape: Landscape, bands: Sequence[Band], rng: np.random.Generator, clouds: float
) -> NDArray[np.float32]:
    """Mixed, shaded, clouded, blurred to each band's own resolution, with a little noise: (C, H, W) reflectance."""
    spectra, surfaces = reflectances(bands), landscape.surfaces
    partners, share, shade = PARTNERS[surfaces], _mixing(landscape), _shade(landscape)
    cloud, shadow = cloud_and_shadow(landscape.grid.shape, clouds, landscape.pixel_m, rng)
    brightness = shade * (1 - 0.6 * shadow)
    white = 1 + TEXTURES[CODE["cloud"]] * fractal(rng, surfaces.shape, scale=600 / landscape.pixel_m, slope=1.5)
    layers = np.empty((len(bands), *surfaces.shape), dtype=np.float32)
    for layer, spectrum, band in zip(layers, spectra.T, bands, strict=True):
        pure = spectrum[surfaces]
        ground = (pure + share * (spectrum[partners] - pure)) * brightness
        seen = ground + cloud * (spectrum[CODE["cloud"]] * white - ground)
        sigma = max(0.45, 0.4 * band.gsd_m / landscape.pixel_m)
        layer[:] = ndimage.gaussian_filter(seen, sigma, truncate=3.0)
        layer += 0.0015 * rng.standard_normal(surfaces.shape, dtype=np.float32)
    return np.asarray(np.clip(layers, 0.0001, 1.2), dtype=np.float32)


def _per_parcel(landscape: Landscape, rng: np.random.Generator) -> NDArray[np.float32]:
    """One normal number per parcel, (H, W). Drawn last: a change may add parcels, and the others keep theirs."""
    level: NDArray[np.float32] = rng.standard_normal(int(landscape.parcels.max()) + 1, dtype=np.float32)
    spread: NDArray[np.float32] = level[landscape.parcels]
    return spread


def _mixing(landscape: Landscape) -> NDArray[np.float32]:
    """Share of the surface that shows through, (H, W): one level per parcel, with patches inside it."""
    rng = np.random.default_rng((landscape.seed, 2))
    shape, codes = landscape.grid.shape, landscape.surfaces
    patches = fractal(rng, shape, scale=400 / landscape.pixel_m, slope=1.6)
    level = _per_parcel(landscape, rng) * ~landscape.is_any(*WATERS)  # water covers the parcels below it
    mean, spread = SHARES[codes, 0], SHARES[codes, 1]
    return np.asarray(np.clip(mean + spread * (0.8 * level + 0.6 * patches), 0, 0.9), dtype=np.float32)


def _shade(landscape: Landscape) -> NDArray[np.float32]:
    """Brightness around 1, (H, W): tint of parcels, texture, slopes, and shadows of houses and trees where seen."""
    rng = np.random.default_rng((landscape.seed, 3))
    shape, codes, pixel_m = landscape.grid.shape, landscape.surfaces, landscape.pixel_m
    texture = fractal(rng, shape, scale=max(12 / pixel_m, 1.5), slope=1.3)
    tint = _per_parcel(landscape, rng)
    south, east = np.gradient(landscape.relief_m, pixel_m)  # rows run south, columns east
    slope = np.clip(1 - 0.9 * (0.7 * south - 0.7 * east) * ~landscape.is_any(*WATERS), 0.6, 1.4)
    shade = np.exp(TINTS[codes] * tint) * (1 + TEXTURES[codes] * texture) * slope
    if pixel_m < 3:
        shade *= 1 - 0.6 * _cast_shadows(landscape)
    return np.asarray(np.clip(shade, 0.2, 2.5), dtype=np.float32)


def _cast_shadows(landscape: Landscape) -> NDArray[np.bool_]:
    """Ground shaded by houses and trees, with the sun in the south-east at 45 degrees."""
    shaded = np.zeros(landscape.grid.shape, dtype=bool)
    for names, height_m in TALL:
        tall = landscape.is_any(*names)
        for step in range(1, max(1, round(0.7 * height_m / landscape.pixel_m)) + 1):
            shaded[:-step, :-step] |= tall[step:, step:]
    return shaded & ~landscape.is_any(*TALL_NAMES)


def cloud_and_shadow(
    shape: tuple[int, int], share: float, pixel_m: float, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cloud opacity (above 0 on `share` of the scene) and its shadow on the ground, (H, W) each, 0 to 1."""
    if share == 0:
        clear = np.zeros(shape, dtype=np.float32)
        return clear, clear
    away = round(0.7 * CLOUD_HEIGHT_M / pixel_m)  # the sun in the south-east throws shadows north-west
    sky = fractal(rng, (shape[0] + away, shape[1] + away), scale=1800 / pixel_m, slope=1.75)
    above = sky[: shape[0], : shape[1]]
    opacity = np.clip((sky - np.quantile(above, 1 - share)) / 0.9, 0, 1)
    over, sunward = opacity[: shape[0], : shape[1]], opacity[away:, away:]
    return over, np.clip(sunward - over, 0, 1)


def clouded(landscape: Landscape, clouds: float, *, seed: int) -> NDArray[np.bool_]:
    """Where `simulate` with this seed and share of clouds shows cloud more than ground, (H, W)."""
    over, _ = cloud_and_shadow(landscape.grid.shape, clouds, landscape.pixel_m, np.random.default_rng((seed, 1)))
    return over > 0.5


def beyond_swath(scene: Scene, share: float, *, seed: int) -> Scene:
    """The scene with a slanted wedge of no data along its left or right side, as where a swath ends.

    `share` (0 to below 1) of the pixels become invalid and 0. Raises ConfigError.
    """
    if not 0 <= share < 1:
        raise ConfigError(f"the share beyond the swath is from 0 to below 1; got {share}")
    rng = np.random.default_rng((seed, 6))
    rows, cols = np.indices(scene.shape)
    away = (cols + np.tan(np.radians(rng.uniform(8, 16))) * rows) * rng.choice((-1.0, 1.0))
    valid = scene.valid & (away >= np.quantile(away, share))
    return replace(scene, pixels=scene.pixels * valid, valid=valid)


def _radar(
    landscape: Landscape, bands: Sequence[Band], rng: np.random.Generator, incidence_deg: tuple[float, float]
) -> NDArray[np.float32]:
    """Mean backscatter with variation by parcel, texture and incidence angle, then speckle: (C, H, W) dB."""
    ground = np.random.default_rng((landscape.seed, 4))
    shape, codes = landscape.grid.shape, landscape.surfaces
    texture = fractal(ground, shape, scale=60 / landscape.pixel_m, slope=1.3)
    level = _per_parcel(landscape, ground)
    variation = 8 * TINTS[codes] * level + 5 * TEXTURES[codes] * texture
    angles = np.radians(np.linspace(*incidence_deg, shape[1]))
    falloff = (10 * np.log10(np.cos(angles) / np.cos(np.radians(INCIDENCE_DEG)))).astype(np.float32)
    variation += INCIDENCE_POWERS[codes] * falloff
    layers = np.empty((len(bands), *shape), dtype=np.float32)
    for layer, mean_db in zip(layers, backscatters(bands).T, strict=True):
        power = ndimage.gaussian_filter(10 ** ((mean_db[codes] + variation) / 10), 0.8)
        layer[:] = 10 * np.log10(power * rng.gamma(LOOKS, 1 / LOOKS, shape))
    return layers


def change(landscape: Landscape, kind: str, *, seed: int) -> tuple[Landscape, NDArray[np.bool_]]:
    """The landscape after a change of one of KINDS, and where its surface is another now, (H, W).

    Floods are drawn where water would be seen: roofs and closed forest stay. Raises ConfigError.
    """
    if kind not in KINDS:
        raise ConfigError(f"there is no change {kind!r}; known are {', '.join(KINDS)}")
    after = KINDS[kind](landscape, np.random.default_rng((seed, 5)))
    return after, after.surfaces != landscape.surfaces


def _repainted(landscape: Landscape, where: NDArray[np.bool_], surface: str) -> Landscape:
    surfaces = landscape.surfaces.copy()
    surfaces[where] = CODE[surface]
    return replace(landscape, surfaces=surfaces)


def _flood(landscape: Landscape, rng: np.random.Generator) -> Landscape:
    """The lowest ground nearest to water, about a fifth of the open land."""
    water = landscape.is_any(*WATERS)
    away = ndimage.distance_transform_edt(~water) * landscape.pixel_m if water.any() else 0.0
    rough = fractal(rng, landscape.grid.shape, scale=1500 / landscape.pixel_m, slope=1.6)
    level = landscape.relief_m / max(float(landscape.relief_m.std()), 1e-6) + 0.5 * rough + np.asarray(away) / 260
    open_land = ~water & ~landscape.is_any(*ROOFS, *FORESTS)
    return _repainted(landscape, open_land & (level < np.quantile(level[open_land], 0.22)), "flood water")


def _burn(landscape: Landscape, rng: np.random.Generator) -> Landscape:
    """A ragged scar around one point in vegetation, with islands that the fire left."""
    fuel = landscape.is_any(*FORESTS, "grassland", "ripe crop", "stubble")
    places = np.argwhere(fuel)
    if not len(places):
        return landscape
    row, col = places[rng.integers(len(places))]
    shape = landscape.grid.shape
    rows, cols = np.indices(shape)
    ragged = fractal(rng, shape, scale=max(shape) / 3, slope=1.5)
    reach = np.hypot(rows - row, cols - col) / max(shape) + 0.12 * ragged
    left = fractal(rng, shape, scale=max(shape) / 25, slope=1.6) > 1.4
    return _repainted(landscape, fuel & ~left & (reach < np.quantile(reach, 0.25)), "burnt ground")


def _clear_cut(landscape: Landscape, rng: np.random.Generator) -> Landscape:
    """Whole stands with straight sides, about a seventh of the forest; the most wooded one where none is whole."""
    size = 300 / landscape.pixel_m
    stands = patchwork(rng, landscape.grid.shape, block=3.5 * size, length=1.3 * size, width=0.9 * size).parcels
    forest = landscape.is_any(*FORESTS)
    pixels, wooded = np.bincount(stands.ravel()), np.bincount(stands.ravel(), weights=forest.ravel())
    whole = np.flatnonzero((wooded > 0.85 * pixels) & (pixels > size**2 / 3))
    order = rng.permutation(whole) if len(whole) else np.array([np.argmax(wooded)])
    enough = int(np.searchsorted(np.cumsum(wooded[order]), forest.sum() / 7)) + 1
    return _repainted(landscape, forest & np.isin(stands, order[:enough]), "felled forest")


def _new_buildings(landscape: Landscape, rng: np.random.Generator) -> Landscape:
    """A new quarter on open land, next to what is built already."""
    built = landscape.is_any(*ROOFS, "asphalt", "garden")
    closed = built | landscape.is_any(*WATERS)
    radius = 0.12 * max(landscape.grid.shape)
    room = ndimage.distance_transform_edt(np.pad(~closed, 1))[1:-1, 1:-1]  # the scene's rim counts as taken
    near = ndimage.distance_transform_edt(~built) if built.any() else np.zeros(landscape.grid.shape)
    score = np.minimum(room, radius) - 0.3 * near + 0.1 * radius * rng.random(landscape.grid.shape)
    centre = np.unravel_index(int(np.argmax(score)), score.shape)
    after = replace(landscape, surfaces=landscape.surfaces.copy(), parcels=landscape.parcels.copy())
    canvas = Canvas(rng, after.surfaces, after.parcels, after.relief_m, after.pixel_m)
    town(canvas, centre_px=(float(centre[0]), float(centre[1])), radius_m=radius * landscape.pixel_m)
    after.surfaces[closed] = landscape.surfaces[closed]
    after.parcels[closed] = landscape.parcels[closed]
    return after


def _snowfall(landscape: Landscape, rng: np.random.Generator) -> Landscape:
    """Snow on everything but water, cleared roads and forest; broadleaved stands stay bare in part."""
    bare = landscape.is_any(*WATERS, "asphalt", *FORESTS)
    thawed = fractal(rng, landscape.grid.shape, scale=300 / landscape.pixel_m, slope=1.4) > 1.9
    return _repainted(landscape, ~bare & ~thawed, "snow")


def _harvest(landscape: Landscape, rng: np.random.Generator) -> Landscape:
    """Ripe crops of about six parcels in ten, of one at least, cut to stubble."""
    ripe = landscape.is_any("ripe crop")
    parcels = np.unique(landscape.parcels[ripe])
    if not len(parcels):
        return landscape
    cut = rng.permutation(parcels)[: max(1, round(0.6 * len(parcels)))]
    return _repainted(landscape, ripe & np.isin(landscape.parcels, cut), "stubble")


KINDS: dict[str, Callable[[Landscape, np.random.Generator], Landscape]] = {
    "flood": _flood,
    "burn": _burn,
    "clear-cut": _clear_cut,
    "new buildings": _new_buildings,
    "snowfall": _snowfall,
    "harvest": _harvest,
}
