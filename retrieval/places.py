"""An R-tree over where chips lie, kept by Lance beside the table: a box among millions is found without a scan.

The table carries the bounds of every chip a second time, as geometries Lance can index. What the index lets through is
compared with the plain columns again, so it changes how long a search takes and never what it finds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import shapely

from retrieval.filters import bbox_sql

if TYPE_CHECKING:
    import lance

COLUMN = "bounds"
FIELD = pa.field(COLUMN, pa.binary(), metadata={"ARROW:extension:name": "geoarrow.wkb"})
SIDES = ("west", "south", "east", "north")
INDEX = "places"
INDEXED_ROWS = 100_000  # fewer are scanned in a few milliseconds
FRESH_SHARE = 0.9  # of the rows; with fewer of them in the index, it is brought up to date
EARTH = (-180, -90, 180, 90)
MARGIN = 1e-6  # degrees around boxes, so that points and lines have an inside too


def with_bounds(rows: pa.Table | pa.RecordBatch) -> pa.Table | pa.RecordBatch:
    """Rows with their geometries, if they have none yet; null for those without a place."""
    if COLUMN in rows.schema.names:
        return rows
    sides = np.stack([np.asarray(rows[name].to_numpy(zero_copy_only=False), np.float64) for name in SIDES], axis=1)
    return rows.append_column(FIELD, pa.array(shapely.to_wkb(_boxes(sides)).tolist(), pa.binary()))


def _boxes(sides: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Boxes (N,) of west, south, east, north (N, 4); in two parts where they cross the antimeridian."""
    placed = np.isfinite(sides).all(axis=1)
    west, south, east, north = np.where(placed[:, None], sides, 0).T
    wraps = west > east
    boxes = shapely.box(west - MARGIN, south - MARGIN, np.where(wraps, 180, east) + MARGIN, north + MARGIN)
    for place in np.flatnonzero(wraps):
        other = shapely.box(-180 - MARGIN, south[place] - MARGIN, east[place] + MARGIN, north[place] + MARGIN)
        boxes[place] = shapely.MultiPolygon([boxes[place], other])
    boxes[~placed] = None
    return boxes


def inside_sql(dataset: lance.LanceDataset, bbox: tuple[float, float, float, float]) -> str:
    """SQL for the chips whose bounding box touches a box, as `bbox_sql`; through the index where there is one."""
    plain = bbox_sql(bbox)
    if not indexes_of(dataset):
        return plain
    (area,) = _boxes(np.array([bbox], np.float64))
    return f"(ST_Intersects({COLUMN}, ST_GeomFromText('{area.wkt}')) OR {COLUMN} IS NULL) AND {plain}"


def indexes_of(dataset: lance.LanceDataset) -> list[Any]:
    """What Lance says of the R-tree, in a list; an empty one where there is none."""
    return [found for found in dataset.describe_indices() if found.name == INDEX]


def carried_by(schema: pa.Schema) -> bool:
    """Whether a table has the geometries; tables made before have not, and may have a column of the same name."""
    return COLUMN in schema.names and (schema.field(COLUMN).metadata or {}) == FIELD.metadata


def unreadable(dataset: lance.LanceDataset) -> bool:
    """Whether there is an R-tree that does not answer."""
    try:
        return bool(indexes_of(dataset)) and dataset.count_rows(filter=inside_sql(dataset, EARTH)) < 0
    except (ValueError, OSError, RuntimeError):
        return True


def index_places(dataset: lance.LanceDataset) -> None:
    """Make the R-tree of a table that has grown large, or bring in what was written since."""
    rows = dataset.count_rows()
    if not carried_by(dataset.schema) or rows < INDEXED_ROWS:
        return
    if not indexes_of(dataset):
        dataset.create_scalar_index(COLUMN, "RTREE", name=INDEX)
        return
    known = sum(found.num_rows_indexed for found in indexes_of(dataset))
    if known < FRESH_SHARE * rows:
        dataset.optimize.optimize_indices(index_names=[INDEX])
