"""Band files of one place, at different pixel sizes, stacked on the finest grid among them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rsvlm.errors import SceneError
from rsvlm.resample import resample
from rsvlm.scene import Grid, Scene, Window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rsvlm.raster import Raster

MARGIN = 2  # coarse pixels read around a window so that bilinear sees the neighbours it would see in the whole


def stacked(rasters: Sequence[Raster], window: Window | None, shape: tuple[int, int] | None) -> Scene:
    """One scene of all bands; raises SceneError where the files do not share CRS and extent."""
    finest = max((raster.grid for raster in rasters), key=lambda grid: grid.height * grid.width)
    for raster in rasters:
        _refuse_other_ground(raster, finest)
    if window is None and shape is not None:
        parts = [raster.read(shape=shape) for raster in rasters]
    else:
        parts = [_on_grid(raster, finest, window or Window(0, 0, *finest.shape)) for raster in rasters]
    valid = np.logical_and.reduce([part.valid for part in parts])
    pixels = np.concatenate([part.pixels for part in parts])
    pixels[:, ~valid] = 0
    bands = tuple(part.bands[0] for part in parts)
    scene = replace(parts[0], pixels=pixels, valid=valid, bands=bands)
    if shape is not None and scene.shape != shape:
        pixels, valid = resample(pixels, valid, shape)
        scene = replace(scene, pixels=pixels, valid=valid, grid=scene.grid.resized(*shape))
    return scene


def _refuse_other_ground(raster: Raster, finest: Grid) -> None:
    grid = raster.grid
    if grid.crs != finest.crs:
        raise SceneError(f"{raster.path.name} has another coordinate system than the finest band; reproject it first")
    for col, row in ((0, 0), (1, 0), (1, 1)):
        here = ~finest.transform @ (grid.transform @ (col * grid.width, row * grid.height))
        if max(abs(here[0] - col * finest.width), abs(here[1] - row * finest.height)) > 0.5:
            raise SceneError(
                f"{raster.path.name} covers other ground than the finest band; cut the files to one extent first"
            )


def _on_grid(raster: Raster, finest: Grid, window: Window) -> Scene:
    """The window of one file, in pixels of the finest grid."""
    if raster.grid.shape == finest.shape:
        return raster.read(window)
    rows, uneven_rows = divmod(finest.height, raster.grid.height)
    cols, uneven_cols = divmod(finest.width, raster.grid.width)
    if uneven_rows or uneven_cols:  # coarse pixels do not start on fine ones: bring the whole, then cut
        return raster.read(shape=finest.shape).crop(window)
    top, height = _outward(window.row, window.height, rows, raster.grid.height)
    left, width = _outward(window.col, window.width, cols, raster.grid.width)
    part = raster.read(Window(top, left, height, width), shape=(height * rows, width * cols))
    return part.crop(Window(window.row - top * rows, window.col - left * cols, window.height, window.width))


def _outward(start: int, length: int, ratio: int, limit: int) -> tuple[int, int]:
    """First coarse pixel and how many, around a stretch of fine ones."""
    first = max(start // ratio - MARGIN, 0)
    last = min(-(-(start + length) // ratio) + MARGIN, limit)
    return first, last - first
