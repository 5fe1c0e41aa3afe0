"""Columns as others write them, turned into those of an archive: vectors, places, dates, names, windows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from retrieval.places import SIDES
from retrieval.placing import lonlat_bounds
from retrieval.schema import unit
from rsvlm.errors import ArchiveError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

WINDOW = ("row", "col", "height", "width")
UNKNOWN_WINDOW = (0, 0, 1, 1)
BAND_LIST = pa.list_(pa.string())
MAX_VERTICES = 10_000
MAX_TEXT = 1000  # characters of an id or a path


def vectors(path: Path, column: pa.Array, dim: int) -> tuple[pa.Array, NDArray[np.bool_]]:
    """Unit vectors as an Arrow column, and which rows had one; raises ArchiveError for another length."""
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    there = pc.is_valid(column).to_numpy(zero_copy_only=False)
    wrong = np.unique(lengths[there & (lengths != dim)])
    if len(wrong):
        raise ArchiveError(f"the archive's vectors have {dim} numbers; those of {path} have {int(wrong[0])}")
    found = np.zeros((len(column), dim), np.float32)
    flat = pc.list_flatten(column).to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and so unsound
        found[there] = unit(np.asarray(flat).astype(np.float32).reshape(-1, dim))
    sound: NDArray[np.bool_] = np.asarray((found != 0).any(axis=1))
    return pa.FixedSizeListArray.from_arrays(pa.array(found.astype(np.float16).reshape(-1)), dim), sound


def places(column: pa.Array) -> tuple[dict[str, pa.Array], NDArray[np.bool_]]:
    """Footprints with their bounds, and which rows have a place: none is fine, one that is not on Earth is not."""
    count = len(column)
    raw = np.array([value if isinstance(value, bytes) else None for value in column.to_pylist()], dtype=object)
    shapes = shapely.from_wkb(raw, on_invalid="ignore")
    missing = ~pc.is_valid(column).to_numpy(zero_copy_only=False)
    bounds = shapely.bounds(shapes)
    with np.errstate(invalid="ignore"):
        inside = (np.abs(bounds[:, ::2]) <= 180).all(axis=1) & (np.abs(bounds[:, 1::2]) <= 90).all(axis=1)
    small = shapely.get_num_coordinates(shapes) <= MAX_VERTICES
    good = inside & small & np.isfinite(bounds).all(axis=1) & shapely.is_valid(shapes)
    corners = np.full((count, 4), np.nan)
    for row in np.flatnonzero(good):
        corners[row] = lonlat_bounds(shapes[row])
    bounds_of = {name: pa.array(corners[:, i], mask=~good) for i, name in enumerate(SIDES)}
    outlines = [shape if fine else None for shape, fine in zip(shapely.to_wkb(shapes), good, strict=True)]
    return {"footprint": pa.array(outlines, pa.binary()), **bounds_of}, good | missing


def texts(path: Path, column: pa.Array, what: str) -> pa.Array:
    """A column of names; raises ArchiveError for one that is empty, very long or holds NUL."""
    named = column.cast(pa.string())
    for text in named.to_pylist():
        if not text or len(text) > MAX_TEXT or "\0" in text:
            raise ArchiveError(f"every {what} in {path} has 1 to {MAX_TEXT} characters; got {str(text)[:40]!r}")
    return named


def sensors(path: Path, column: pa.Array | None, said: str | None, count: int) -> pa.Array:
    """Names of sensors, where the file gives none the one that was said; raises ArchiveError for neither."""
    named = pa.nulls(count, pa.string()) if column is None else column.cast(pa.string())
    if said is not None:
        return pc.fill_null(named, said)
    if named.null_count:
        raise ArchiveError(
            f"{named.null_count} rows of {path} name no sensor; say with --sensor what they were made from"
        )
    return named


def moments(path: Path, column: pa.Array) -> pa.Array:
    """Dates as UTC; one without a zone counts as UTC. Raises ArchiveError for what is no date."""
    moment = pa.timestamp("us", tz="UTC")
    try:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            return pa.array([_utc(text) for text in column.to_pylist()], moment)
        return (column if pa.types.is_timestamp(column.type) else column.cast(pa.timestamp("us"))).cast(moment)
    except (pa.ArrowException, ValueError) as error:
        raise ArchiveError(f"a date in {path} cannot be read ({str(error)[:100]}); write 2024-06-30T10:00Z") from error


def _utc(text: str | None) -> datetime | None:
    if text is None:
        return None
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def windows(columns: dict[str, pa.Array], count: int) -> NDArray[np.int32]:
    """Row, column, height and width (N, 4); a chip whose window is not known has one pixel in the corner."""
    found = np.tile(np.array(UNKNOWN_WINDOW, np.int32), (count, 1))
    if "window" in columns:
        given = columns["window"].to_pylist()
    elif all(name in columns for name in WINDOW):
        given = list(zip(*(columns[name].to_pylist() for name in WINDOW), strict=True))
    else:
        return found
    for row, window in enumerate(given):
        if window is not None and len(window) == 4 and None not in window and min(window[2:]) >= 1:
            found[row] = window
    return found


def first_href(assets: Any) -> str | None:
    """Where the first asset of a STAC item is."""
    known = [asset for asset in (assets or {}).values() if isinstance(asset, dict)]
    return next((asset["href"] for asset in known if isinstance(asset.get("href"), str)), None)


def local_path(href: str) -> str:
    """A file URI as a path; anything else as it is."""
    parts = urlsplit(href)
    return unquote(parts.path) if parts.scheme == "file" and not parts.netloc else href
