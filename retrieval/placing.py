"""Where the chips of a raster lie on Earth: outlines and bounds in longitude and latitude, all chips in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import shapely
from pyproj.exceptions import ProjError
from shapely.geometry import MultiPolygon

from retrieval.places import SIDES
from rsvlm.errors import GeoreferenceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from rsvlm.scene import Grid, Window


def placed_columns(grid: Grid, windows: Sequence[Window]) -> dict[str, Any]:
    """Columns of the table that tell where chips lie: footprint (WKB) and its bounds, null where that is nowhere."""
    outlines = outlines_of(grid, windows)
    bounds = [(None,) * 4 if outline is None else lonlat_bounds(outline) for outline in outlines]
    sides = zip(*bounds, strict=True) if bounds else [()] * 4
    footprints = pa.array(shapely.to_wkb(outlines).tolist(), pa.binary())
    return {"footprint": footprints, **{name: list(side) for name, side in zip(SIDES, sides, strict=True)}}


def outlines_of(grid: Grid, windows: Sequence[Window]) -> NDArray[Any]:
    """The footprints (N,) of windows of a raster, None where there is none; as `Grid.footprint`, at a tenth the cost.

    One projection is set up for the whole raster and run over the points of all windows.
    """
    nowhere = np.full(len(windows), None, dtype=object)
    if grid.crs is None or not len(windows):
        return nowhere
    rows, cols, heights, widths = np.array([(w.row, w.col, w.height, w.width) for w in windows], np.float64).T
    boxes = shapely.box(cols, rows, cols + widths, rows + heights)
    boxes = shapely.orient_polygons(shapely.segmentize(boxes, np.maximum(heights, widths) / 8))
    try:
        placed = shapely.transform(boxes, grid.place)
    except (GeoreferenceError, ProjError):  # some of it cannot be placed
        return np.array([*(_placed(grid, outline) for outline in boxes), None], dtype=object)[:-1]
    west, _, east, _ = shapely.bounds(placed).T
    for number in np.flatnonzero(east - west > 180):  # they cross the antimeridian or hold a pole
        placed[number] = _placed(grid, boxes[number])
    found: NDArray[Any] = placed
    return found


def _placed(grid: Grid, outline: BaseGeometry) -> BaseGeometry | None:
    try:
        return grid.geometry_lonlat(outline)
    except (GeoreferenceError, ProjError):  # a coordinate system that cannot be placed on Earth
        return None


def lonlat_bounds(outline: BaseGeometry) -> tuple[float, float, float, float]:
    """(west, south, east, north); west > east where the outline was cut at the antimeridian."""
    west, south, east, north = outline.bounds
    if isinstance(outline, MultiPolygon) and west == -180 and east == 180:
        parts = [part.bounds for part in shapely.get_parts(outline)]
        west = min(bounds[0] for bounds in parts if bounds[2] == 180)
        east = max(bounds[2] for bounds in parts if bounds[0] == -180)
    return west, south, east, north
