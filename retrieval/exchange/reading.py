"""A Parquet file of vectors as its makers wrote it, read as columns of an archive."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retrieval.exchange.columns import (
    BAND_LIST,
    WINDOW,
    first_href,
    local_path,
    moments,
    places,
    sensors,
    texts,
    vectors,
    windows,
)
from rsvlm.errors import ArchiveError, FingerprintError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from retrieval.schema import ArchiveConfig

NAMES = {  # of the archive's columns, as others call them, the first that is there is taken
    "vector": ("vector", "embedding", "embeddings"),
    "footprint": ("geometry", "footprint", "wkb"),
    "chip_id": ("id", "chip_id"),
    "acquired": ("datetime", "acquired", "date", "timestamp"),
    "sensor": ("rsvlm:sensor", "sensor"),
    "path": ("path", "assets", "href", "url"),
    "cloud": ("cloud", "eo:cloud_cover"),
    "valid": ("rsvlm:valid", "valid"),
    "bands": ("rsvlm:bands", "bands"),
    "caption": ("rsvlm:caption", "caption", "description"),
    "window": ("rsvlm:window", "window"),
    "encoder": ("rsvlm:encoder", "encoder", "model"),
    **{side: (side,) for side in WINDOW},
}
ENCODER_KEYS = ("encoder", "model")  # of the file's own metadata
FORMAT_KEYS = ("ARROW:schema", "geo", "pandas", "stac-geoparquet")  # metadata that says how, not what
LONLAT = (None, "OGC:CRS84", "EPSG:4326")
BLOCK_ROWS = 8192
PARQUET_ERRORS = (pa.ArrowException, OSError)


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows, N, with which of them are sound."""

    ids: pa.Array  # (N,) text
    paths: pa.Array  # (N,) text
    columns: dict[str, pa.Array]  # the other columns of the archive that there are
    sound: NDArray[np.bool_]  # (N,)


@dataclass(frozen=True, slots=True)
class VectorFile:
    """A Parquet file whose columns and encoder fit an archive."""

    path: Path
    config: ArchiveConfig
    encoder: str
    columns: dict[str, str]  # ours -> theirs
    sensor: str | None = None
    notes: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, config: ArchiveConfig, *, encoder: str | None, sensor: str | None) -> VectorFile:
        """Read the header; raises ArchiveError or FingerprintError for what does not fit the archive."""
        try:
            schema = pq.read_schema(path)
        except PARQUET_ERRORS as error:
            raise ArchiveError(f"{path} is no Parquet file that can be read ({str(error)[:120]})") from error
        columns = {
            ours: next(name for name in theirs if name in schema.names)
            for ours, theirs in NAMES.items()
            if any(name in schema.names for name in theirs)
        }
        notes = {
            key.decode("utf-8", "replace"): value.decode("utf-8", "replace")
            for key, value in (schema.metadata or {}).items()
        }
        _require_columns(path, columns, sensor)
        _require_degrees(path, notes, columns["footprint"])
        _require_types(path, schema.field(columns["vector"]), schema.field(columns["footprint"]), config)
        name = _require_encoder(path, config, columns, notes, encoder)
        kept = {key: text for key, text in sorted(notes.items()) if key not in FORMAT_KEYS}
        return cls(path, config, name, columns, sensor, kept)

    def blocks(self) -> Iterator[Block]:
        """All rows, in their order."""
        first = 0
        try:
            with pq.ParquetFile(self.path) as file:
                for batch in file.iter_batches(BLOCK_ROWS, columns=sorted(set(self.columns.values()))):
                    yield self._block(batch, first)
                    first += batch.num_rows
        except PARQUET_ERRORS as error:
            raise ArchiveError(f"{self.path} cannot be read to its end ({str(error)[:120]})") from error

    def _block(self, batch: pa.RecordBatch, first: int) -> Block:
        columns = {ours: batch[theirs] for ours, theirs in self.columns.items()}
        self._require_own_encoder(columns)
        unit_vectors, sound = vectors(self.path, columns["vector"], self.config.dim)
        footprints, placed = places(columns["footprint"])
        ids = self._ids(columns, first, batch.num_rows)
        paths = self._paths(columns, batch.num_rows)
        return Block(
            ids, paths, {**self._facts(columns, batch.num_rows), **footprints, "vector": unit_vectors}, sound & placed
        )

    def _require_own_encoder(self, columns: dict[str, pa.Array]) -> None:
        if "encoder" in columns:
            foreign = sorted(set(columns["encoder"].cast(pa.string()).to_pylist()) - {None, *_accepted(self.config)})
            if foreign:
                raise _foreign(self.path, foreign[0], self.config)

    def _ids(self, columns: dict[str, pa.Array], first: int, count: int) -> pa.Array:
        if "chip_id" in columns:
            return texts(self.path, columns["chip_id"], "id")
        keys = (f"{self.path}:{row}" for row in range(first, first + count))
        return pa.array([hashlib.sha256(key.encode()).hexdigest() for key in keys])

    def _paths(self, columns: dict[str, pa.Array], count: int) -> pa.Array:
        """Where a row's pixels are, where the file says so; else the file itself."""
        given = columns.get("path")
        if given is None:
            return pa.array([str(self.path)] * count)
        if pa.types.is_struct(given.type):
            given = pa.array([first_href(assets) for assets in given.to_pylist()], pa.string())
        known = [str(self.path) if text is None else local_path(text) for text in given.cast(pa.string()).to_pylist()]
        return texts(self.path, pa.array(known), "path")

    def _facts(self, columns: dict[str, pa.Array], count: int) -> dict[str, pa.Array]:
        names = columns["bands"].to_pylist() if "bands" in columns else [None] * count
        facts = {"valid": pa.array(np.ones(count)), "bands": pa.array([have or [] for have in names], BAND_LIST)}
        if "valid" in columns:
            facts["valid"] = pc.fill_null(columns["valid"].cast(pa.float64()), 1.0)
        if "caption" in columns:
            facts["caption"] = columns["caption"].cast(pa.string())
        facts["sensor"] = sensors(self.path, columns.get("sensor"), self.sensor, count)
        if "acquired" in columns:
            facts["acquired"] = moments(self.path, columns["acquired"])
        if "cloud" in columns:
            percent = self.columns["cloud"] == "eo:cloud_cover"
            facts["cloud"] = pc.divide(columns["cloud"].cast(pa.float64()), 100.0 if percent else 1.0)
        sides = windows(columns, count)
        return {**facts, **{name: pa.array(sides[:, i]) for i, name in enumerate(WINDOW)}}


def _require_columns(path: Path, columns: dict[str, str], sensor: str | None) -> None:
    for ours in ("vector", "footprint"):
        if ours not in columns:
            raise ArchiveError(f"{path} has no column {' or '.join(map(repr, NAMES[ours]))}; rename the one it has")
    if sensor is None and "sensor" not in columns:
        raise ArchiveError(f"{path} has no column 'sensor'; say with --sensor what its vectors were made from")


def _require_degrees(path: Path, notes: dict[str, str], column: str) -> None:
    try:
        crs = json.loads(notes.get("geo", "{}"))["columns"][column].get("crs")
    except (ValueError, KeyError, TypeError, AttributeError):
        return
    identity = crs.get("id", {}) if isinstance(crs, dict) else {}
    name = f"{identity.get('authority')}:{identity.get('code')}" if identity else crs
    if name not in LONLAT:
        raise ArchiveError(f"footprints are wanted in degrees (OGC:CRS84); {path} has {str(name)[:80]}; reproject them")


def _require_types(path: Path, column: pa.Field, place: pa.Field, config: ArchiveConfig) -> None:
    kind = column.type
    if not (pa.types.is_binary(place.type) or pa.types.is_large_binary(place.type)):
        raise ArchiveError(f"column {place.name!r} of {path} is {place.type}; footprints are wanted as WKB")
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not lists or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise ArchiveError(f"column {column.name!r} of {path} is {kind}; lists of {config.dim} numbers are wanted")


def _require_encoder(
    path: Path, config: ArchiveConfig, columns: dict[str, str], notes: dict[str, str], said: str | None
) -> str:
    """The encoder's name as the file or the caller gives it; a fingerprint in the file must be the archive's."""
    own = _own_notes(notes)
    named = own.get("fingerprint") or next((notes[key] for key in ENCODER_KEYS if key in notes), None)
    for name in (named, said):
        if name is not None and name not in _accepted(config):
            raise _foreign(path, name, config)
    if named is None and said is None and "encoder" not in columns:
        raise FingerprintError(
            f"{path} does not name the encoder of its vectors; if it is the archive's, say so with "
            f"--encoder-name {config.encoder}"
        )
    return config.encoder


def _own_notes(notes: dict[str, str]) -> dict[str, str]:
    try:
        plain = json.loads(notes.get("rsvlm", "{}"))
    except ValueError:
        return {}
    return {key: str(value) for key, value in plain.items()} if isinstance(plain, dict) else {}


def _accepted(config: ArchiveConfig) -> tuple[str, str]:
    return config.encoder, config.fingerprint


def _foreign(path: Path, name: str, config: ArchiveConfig) -> FingerprintError:
    return FingerprintError(
        f"the vectors of {path} were made with encoder {name[:80]}, the archive's with {config.encoder} "
        f"({config.fingerprint[:12]}); import them into an archive of their own encoder"
    )
