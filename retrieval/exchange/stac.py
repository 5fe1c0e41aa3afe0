"""An archive as stac-geoparquet: every chip a STAC item, written in blocks so that memory stays flat."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retrieval.faults import LANCE_ERRORS, damaged
from retrieval.filters import all_of, where_sql
from retrieval.schema import unit, vectors_in
from retrieval.store import TABLE, ChipTable
from rsvlm.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from retrieval.archive import AnyPath, Archive
    from retrieval.schema import ArchiveConfig

STAC_VERSION = "1.1.0"
STAC_GEOPARQUET_VERSION = "1.0.0"
GEOPARQUET_VERSION = "1.1.0"
CLOUD_EXTENSION = "https://stac-extensions.github.io/eo/v2.0.0/schema.json"
ITEM = "footprint IS NOT NULL AND acquired IS NOT NULL"  # STAC knows no item without a date or, in Parquet, a place
BLOCK_ROWS = 16_384
COLUMNS = (
    *("chip_id", "footprint", "west", "south", "east", "north", "acquired", "added", "sensor", "bands", "valid"),
    *("cloud", "path", "row", "col", "height", "width", "content_hash", "caption"),
)
LINK = pa.struct([("href", pa.string()), ("rel", pa.string()), ("type", pa.string())])
ASSET = pa.struct([("href", pa.string()), ("title", pa.string()), ("roles", pa.list_(pa.string()))])


@dataclass(frozen=True, slots=True)
class StacReport:
    """How many chips became items, and how many were left out because they have no date or no place."""

    items: int = 0
    left_out: int = 0


def export_stac(archive: Archive, out: AnyPath, *, where: str | None = None, vectors: bool = True) -> StacReport:
    """Write chips as STAC items into one stac-geoparquet file, which appears whole or not at all.

    Args:
        archive: Its newest version is written.
        out: A .parquet file.
        where: As in a search; all chips by default.
        vectors: Also write each chip's unit vector, float32 (D,), as property `vector`.

    Returns:
        Counts. Sensor, window and other things STAC has no word for carry the prefix `rsvlm:`.

    Raises:
        ExportError: The file cannot be written. QueryError for `where`, ArchiveError for a damaged table.
    """
    target = _target(archive, out)
    table = ChipTable.open(archive.folder)
    table.require_sound()
    wanted = "" if where is None else where_sql(where, table.added_columns)
    schema = item_schema(table.config, vectors=vectors)
    items = 0
    try:
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=target.parent) as folder:
            part = Path(folder, "part.parquet")
            with pq.ParquetWriter(part, schema, compression="zstd") as writer:
                for batch in _items(table, all_of(ITEM, wanted), schema):
                    writer.write_batch(batch)
                    items += batch.num_rows
            part.replace(target)
    except OSError as error:
        raise ExportError(f"{target} cannot be written: {error.strerror or error}; choose another place") from error
    return StacReport(items, int(table.dataset.count_rows(filter=wanted or None)) - items)


def item_schema(config: ArchiveConfig, *, vectors: bool = True) -> pa.Schema:
    """Columns of stac-geoparquet with GeoParquet's metadata, and the encoder's under the key `rsvlm`."""
    moment, number, text = pa.timestamp("us", tz="UTC"), pa.float64(), pa.string()
    corners = pa.struct([(name, number) for name in ("xmin", "ymin", "xmax", "ymax")])
    columns: list[tuple[str, pa.DataType]] = [
        *(("type", text), ("stac_version", text), ("stac_extensions", pa.list_(text)), ("id", text)),
        *(("geometry", pa.binary()), ("bbox", corners), ("links", pa.list_(LINK))),
        *(("assets", pa.struct([("image", ASSET)])), ("datetime", moment), ("created", moment)),
        *(("rsvlm:caption", text), ("eo:cloud_cover", number), ("rsvlm:sensor", text)),
        *(("rsvlm:bands", pa.list_(text)), ("rsvlm:valid", number), ("rsvlm:window", pa.list_(pa.int32()))),
        *(("rsvlm:content_hash", text), ("rsvlm:encoder", text)),
    ]
    if vectors:
        columns.append(("vector", pa.list_(pa.float32(), config.dim)))
    covering = {name: ["bbox", name] for name in ("xmin", "ymin", "xmax", "ymax")}
    geometry = {"encoding": "WKB", "geometry_types": ["Polygon", "MultiPolygon"], "covering": {"bbox": covering}}
    geo = {"version": GEOPARQUET_VERSION, "primary_column": "geometry", "columns": {"geometry": geometry}}
    notes = {"geo": geo, "stac-geoparquet": {"version": STAC_GEOPARQUET_VERSION}, "rsvlm": asdict(config)}
    return pa.schema(columns, metadata={key: json.dumps(value) for key, value in notes.items()})


def _target(archive: Archive, out: AnyPath) -> Path:
    target = Path(os.path.abspath(out))
    if target.suffix.lower() not in (".parquet", ".geoparquet"):
        raise ExportError(f"stac-geoparquet is written as .parquet; got {target.name}")
    if target.is_dir() or not target.parent.is_dir():
        raise ExportError(f"{target} is a folder, or there is none for it; name a file in a folder that is there")
    if (archive.folder / TABLE) in target.parents:
        raise ExportError(f"{target} lies inside the archive's table; choose another place")
    return target


def _items(table: ChipTable, condition: str | None, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    columns = [*COLUMNS, "vector"] if "vector" in schema.names else list(COLUMNS)
    try:
        for batch in table.dataset.to_batches(columns=columns, filter=condition, batch_size=BLOCK_ROWS):
            if batch.num_rows:
                yield _block(batch, table.config, schema)
    except LANCE_ERRORS as error:
        raise damaged(table.folder, error) from error


def _block(batch: pa.RecordBatch, config: ArchiveConfig, schema: pa.Schema) -> pa.RecordBatch:
    count = batch.num_rows
    extensions = [[] if cloud is None else [CLOUD_EXTENSION] for cloud in batch["cloud"].to_pylist()]
    assets = [{"image": _asset(path)} for path in batch["path"].to_pylist()]
    sides = [batch[name].to_numpy() for name in ("row", "col", "height", "width")]
    values: dict[str, Any] = {
        "type": ["Feature"] * count,
        "stac_version": [STAC_VERSION] * count,
        "stac_extensions": extensions,
        "id": batch["chip_id"],
        "geometry": batch["footprint"],
        "bbox": pa.StructArray.from_arrays(
            [batch[name] for name in ("west", "south", "east", "north")], names=["xmin", "ymin", "xmax", "ymax"]
        ),
        "links": [[]] * count,
        "assets": assets,
        "datetime": batch["acquired"],
        "created": batch["added"],
        "rsvlm:caption": batch["caption"],
        "eo:cloud_cover": pc.multiply(batch["cloud"], 100.0),
        "rsvlm:sensor": batch["sensor"],
        "rsvlm:bands": batch["bands"],
        "rsvlm:valid": batch["valid"],
        "rsvlm:window": [list(window) for window in zip(*(side.tolist() for side in sides), strict=True)],
        "rsvlm:content_hash": batch["content_hash"],
        "rsvlm:encoder": [config.encoder] * count,
    }
    if "vector" in schema.names:
        flat = pa.array(unit(vectors_in(batch, config.dim)).reshape(-1))
        values["vector"] = pa.FixedSizeListArray.from_arrays(flat, config.dim)
    arrays = [_array(values[field.name], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    return values.cast(kind) if isinstance(values, pa.Array) else pa.array(values, kind)


def _asset(path: str) -> dict[str, Any]:
    href = Path(path).as_uri() if os.path.isabs(path) else path
    return {"href": href, "title": Path(path).name, "roles": ["data"]}
