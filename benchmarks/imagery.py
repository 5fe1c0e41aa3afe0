"""Rasters to measure on: pixels of a real Sentinel-2 scene, mirrored to any size, in any layout."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from rsvlm.sensors import SENSORS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

SCENE = "scenes/s2_l1c_t33uuu_20170216.tif"
SENSOR = "sentinel-2-l2a"  # 12 bands; the level says nothing about speed
BANDS = tuple(band.name for band in SENSORS[SENSOR].bands)
PIXEL_M = 10.0
CORNER = (500_000.0, 5_800_000.0)  # of UTM zone 33 north
BLOCK = 512
WHITE = 3000  # stored reflectance shown as 255 in pictures
CONTENT = "pixels of a real Sentinel-2 scene, mirrored to size"
NO_CONTENT = "seeded smooth noise, for want of the project's imagery"


@dataclass(frozen=True, slots=True)
class Layout:
    """How a GeoTIFF is stored."""

    tiled: bool = True
    interleave: str = "band"
    compress: str = "deflate"

    def __str__(self) -> str:
        shape = "tiled" if self.tiled else "striped"
        return f"{shape}, {self.interleave}-interleaved, {'uncompressed' if self.compress == 'none' else self.compress}"

    def options(self) -> dict[str, Any]:
        """Options of rasterio's writer."""
        found: dict[str, Any] = {"interleave": self.interleave, "compress": self.compress, "tiled": self.tiled}
        if self.tiled:
            found |= {"blockxsize": BLOCK, "blockysize": BLOCK}
        if self.compress == "deflate":
            found |= {"predictor": 2}
        return found


LAYOUTS = tuple(Layout(*parts) for parts in product((True, False), ("band", "pixel"), ("deflate", "none")))


def scene_pixels(data: Path, size: int, *, seed: int = 0) -> tuple[NDArray[np.uint16], str]:
    """Stored values (12, size, size) and where they come from; every seed begins elsewhere in the scene."""
    if not (data / SCENE).is_file():
        return _noise(size, seed), NO_CONTENT
    import rasterio

    with rasterio.open(data / SCENE) as file:
        pixels = file.read([file.descriptions.index(name) + 1 for name in BANDS])
    shift = np.random.default_rng(seed).integers(0, min(pixels.shape[1:]), 2).tolist()
    pixels = np.roll(pixels, shift, axis=(1, 2))
    rows, cols = (_mirrored(length, size) for length in pixels.shape[1:])
    return np.maximum(pixels[:, rows][:, :, cols], 1), CONTENT  # 0 would be missing


def _mirrored(length: int, size: int) -> NDArray[np.int64]:
    """Positions 0 to length - 1 and back again, over and over."""
    there_and_back = np.concatenate([np.arange(length), np.arange(length)[::-1]])
    return np.resize(there_and_back, size)


def _noise(size: int, seed: int) -> NDArray[np.uint16]:
    random = np.random.default_rng(seed)
    coarse = random.integers(200, 6000, (len(BANDS), size // 16 + 1, size // 16 + 1))
    smooth = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :size, :size]
    return (smooth + random.integers(0, 100, smooth.shape)).astype(np.uint16)


def as_picture(pixels: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Red, green and blue (3, H, W) of stored values (12, H, W), as people look at them."""
    colours = pixels[[BANDS.index(name) for name in ("B04", "B03", "B02")]]
    picture: NDArray[np.uint8] = np.clip(colours.astype(np.float32) * (255 / WHITE), 1, 255).astype(np.uint8)
    return picture


def write_tiff(path: Path, pixels: NDArray[Any], layout: Layout, *, bands: tuple[str, ...] = BANDS) -> Path:
    """A GeoTIFF of these pixels (C, H, W)."""
    import rasterio
    from affine import Affine

    size = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2], "dtype": pixels.dtype.name}
    place = {"crs": "EPSG:32633", "transform": Affine(PIXEL_M, 0, CORNER[0], 0, -PIXEL_M, CORNER[1])}
    with rasterio.open(path, "w", driver="GTiff", **size, **place, **layout.options()) as file:
        file.write(pixels)
        file.descriptions = bands
    return path


def warm(paths: Iterable[Path]) -> str:
    """Bring files into the page cache, and say so."""
    for path in paths:
        with path.open("rb") as file:
            while file.read(2**24):
                pass
    return "warm: every file was read once before the first round"


def described(layout: Layout, path: Path, pixels: NDArray[Any], content: str) -> dict[str, Any]:
    """Notes of a case on one raster."""
    return {
        **asdict(layout),
        "shape": list(pixels.shape),
        "dtype": pixels.dtype.name,
        "content": content,
        "file_mb": round(path.stat().st_size / 1e6, 1),
        "page_cache": warm([path]),
    }
