"""How cloudy a chip is, told from the pixels that are read anyway: by the producer's classes or a spectral test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.cutting import CloudMap
from rsvlm.scene import Grid, Scene
from rsvlm.spectral import CLOUD_BANDS, clouds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rsvlm.raster import Raster
    from rsvlm.scene import Window

CLOUD_PIXELS = 64  # of a chip's side that are looked at for clouds; the others are skipped
TESTED = frozenset([*CLOUD_BANDS, "nir", "nir08", "swir16", "lwir11"])  # what `rsvlm.spectral.clouds` looks at
CLASSES = "SCL"  # scene classification layer of Sen2Cor, Sentinel-2 level 2A
NOTHING, CLOUDY = 0, (8, 9, 10)  # its codes: no data; medium and high probability of cloud, thin cirrus


@dataclass(frozen=True, slots=True)
class CloudTest:
    """Which way a raster tells clouds: a layer of classes, by its name, else the bands at these positions."""

    step: int  # every which row and column is looked at
    layer: str | None = None
    positions: tuple[int, ...] = ()


def cloud_test(raster: Raster, chip: tuple[int, int]) -> CloudTest | None:
    """How to tell the clouds of chips (H, W): by its classes, else by its bands; None where neither is there."""
    step = max(1, min(chip) // CLOUD_PIXELS)
    layer = classes_layer(raster)
    if layer is not None:
        return CloudTest(step, layer=layer)
    names = [{band.name, band.common_name} for band in raster.bands]
    told = raster.sensor.units == "reflectance" and set(CLOUD_BANDS) <= set().union(*names)
    if not told:
        return None
    return CloudTest(step, positions=tuple(place for place, two in enumerate(names) if two & TESTED))


def classes_layer(raster: Raster) -> str | None:
    """What the file calls its layer of scene classes, None where it has none."""
    return next((name for name in raster.layer_names if name.strip().upper() == CLASSES), None)


def cloud_map(
    raster: Raster, test: CloudTest, window: Window, raw: NDArray[Any], valid: NDArray[np.bool_]
) -> CloudMap | None:
    """Clouds in a window whose stored values (C, h, w) and validity (h, w) were read; None where bands do not tell."""
    thin = (slice(-window.row % test.step, None, test.step), slice(-window.col % test.step, None, test.step))
    seen = valid[thin]
    if test.layer is not None:  # the block comes out of GDAL's cache where layers are stored together
        codes = raster.read_layer(test.layer, window)[thin]
        seen = seen & (codes != NOTHING)
        return CloudMap(test.step, seen, seen & np.isin(codes, CLOUDY))
    if not seen.size:
        return CloudMap(test.step, seen, seen)
    bands = tuple(raster.bands[place] for place in test.positions)
    scale, offset = np.array([(band.scale, band.offset) for band in bands], np.float32).T[:, :, None, None]
    pixels = raw[:, *thin][list(test.positions)].astype(np.float32) * scale + offset
    pixels[:, ~seen] = 0
    found = clouds(Scene(pixels, seen, bands, raster.sensor, Grid(*seen.shape)))
    return None if found is None else CloudMap(test.step, seen, found)
