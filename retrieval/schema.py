"""What a row of an archive's table holds, and what all its rows have in common."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from retrieval.placing import placed_columns
from rsvlm.errors import ArchiveError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from retrieval.embed import EmbeddedChips, Source
    from rsvlm.scene import Window

FORMAT_VERSION = 1
METRIC = "cosine"
METADATA_KEY = b"rsvlm"
HIT_COLUMNS = (
    *("chip_id", "footprint", "acquired", "sensor", "bands", "valid", "cloud"),
    *("path", "row", "col", "height", "width", "caption"),
)


@dataclass(frozen=True, slots=True)
class ArchiveConfig:
    """What every chip of an archive has in common."""

    encoder: str
    fingerprint: str
    dim: int
    chip: int
    stride: int
    metric: str = METRIC
    format_version: int = FORMAT_VERSION


def schema_for(config: ArchiveConfig) -> pa.Schema:
    """Columns of the table; degrees are WGS84 longitude and latitude, west > east crosses the antimeridian."""
    moment, number, text = pa.timestamp("us", tz="UTC"), pa.float64(), pa.string()
    columns = [
        pa.field("chip_id", text, nullable=False),
        pa.field("vector", pa.list_(pa.float16(), config.dim), nullable=False),
        pa.field("footprint", pa.binary()),
        *(pa.field(name, number) for name in ("west", "south", "east", "north")),
        pa.field("acquired", moment),
        pa.field("sensor", text, nullable=False),
        pa.field("bands", pa.list_(text), nullable=False),
        pa.field("valid", number, nullable=False),
        pa.field("cloud", number),
        pa.field("path", text, nullable=False),
        *(pa.field(name, pa.int32(), nullable=False) for name in ("row", "col", "height", "width")),
        pa.field("content_hash", text, nullable=False),
        pa.field("file_chips", pa.int32(), nullable=False),
        pa.field("caption", text),
        pa.field("added", moment, nullable=False),
    ]
    return pa.schema(columns, metadata={METADATA_KEY: json.dumps(asdict(config), sort_keys=True).encode()})


def chip_id(source: Source, window: Window) -> str:
    """Sha256 over the file's content, the window, the sensor and the bands, in hex."""
    place = [window.row, window.col, window.height, window.width]
    parts = [source.content_hash, place, source.sensor, [band.name for band in source.bands]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def rows_of(result: EmbeddedChips, schema: pa.Schema) -> pa.Table:
    """The table rows of one embedded file."""
    source = result.source
    if source is None:
        raise ArchiveError(f"{result.job.path} was never opened, so it has no rows; this is a fault of the caller")
    moment, count = source.acquired, len(result.windows)
    shared = {
        "acquired": moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC),
        "sensor": source.sensor,
        "bands": [band.name for band in source.bands],
        "path": str(result.job.path),
        "content_hash": source.content_hash,
        "file_chips": count,
        "caption": None,
        "added": datetime.now(UTC),
    }
    flat = pa.array(np.ascontiguousarray(result.vectors, np.float16).reshape(-1))
    columns = {
        **{name: pa.repeat(pa.scalar(value, schema.field(name).type), count) for name, value in shared.items()},
        **{name: [getattr(window, name) for window in result.windows] for name in ("row", "col", "height", "width")},
        **placed_columns(source.grid, result.windows),
        "chip_id": [chip_id(source, window) for window in result.windows],
        "vector": pa.FixedSizeListArray.from_arrays(flat, schema.field("vector").type.list_size),
        "valid": result.valid,
        "cloud": result.cloud if source.cloud_cover is None else [source.cloud_cover] * count,
    }
    return pa.table(columns).select(schema.names).cast(schema)


def read_config(schema: pa.Schema, folder: Path) -> ArchiveConfig:
    """What the table says about itself; raises ArchiveError where it says nothing or something newer."""
    try:
        plain = json.loads((schema.metadata or {})[METADATA_KEY])
        newer = int(plain["format_version"]) > FORMAT_VERSION
        if not newer:
            return ArchiveConfig(**plain)
    except (KeyError, TypeError, ValueError) as error:
        raise ArchiveError(f"{folder} holds a table that no rsvlm archive wrote; give another folder") from error
    raise ArchiveError(
        f"{folder} has archive format {plain['format_version']}, this software reads up to {FORMAT_VERSION}; "
        "update rsvlm"
    )


def vectors_in(batch: pa.RecordBatch, dim: int) -> NDArray[np.float32]:
    """The vector column as (n, D)."""
    flat = batch["vector"].flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype=np.float32).reshape(-1, dim)


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors (n, D) brought to length 1; those without a length become zero, which no query is near to."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    sound = np.isfinite(lengths) & (lengths > 0)
    return np.where(sound, vectors / np.where(sound, lengths, 1), 0).astype(np.float32)
