"""Vectors that others made, from a Parquet file into an archive: checked, placed, and told where they came from."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from retrieval.exchange.reading import VectorFile
from retrieval.filters import text_sql
from retrieval.intake import hash_files
from retrieval.parts import commit_parts, write_rows
from retrieval.schema import schema_for
from rsvlm.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from retrieval.archive import AnyPath, Archive
    from retrieval.schema import ArchiveConfig
    from retrieval.store import ChipTable

IMPORTS = "imports"


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did, in rows: brought in, there already, without a sound vector or place, and put out of date."""

    imported: int = 0
    already: int = 0
    skipped: int = 0
    replaced: int = 0
    unchanged: bool = False  # the same file was imported before


@dataclass(frozen=True, slots=True)
class Provenance:
    """What is kept of an import beside its rows, which carry the file's sha256 as their content hash."""

    file: str
    sha256: str
    encoder: str
    rows: int
    imported: str
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which rows of a file are brought in, block by block, and how many of each path."""

    keep: tuple[NDArray[Any], ...] = ()
    per_path: Counter[str] = field(default_factory=Counter)
    already: int = 0
    skipped: int = 0

    @property
    def rows(self) -> int:
        """How many are brought in."""
        return sum(self.per_path.values())


def import_vectors(
    archive: Archive, file: AnyPath, *, encoder: str | None = None, sensor: str | None = None
) -> ImportReport:
    """Add the rows of a Parquet file in one commit; the same file again changes nothing, a new one there replaces it.

    Columns are found by name: `vector` or `embedding` (lists of D numbers), `geometry` or `footprint` (WKB, degrees),
    and, where there are any, `id`, `datetime`, `sensor`, `path`, `cloud`, `caption`, `bands` and a window; a file
    from `export_stac` has them all. Ids that the archive holds already are left alone. Rows whose vector is zero or not
    finite, or whose place is none on Earth, are passed over and counted.

    Args:
        archive: Held for writing.
        file: The Parquet file.
        encoder: Its encoder's name, where neither a column `encoder` nor the file's metadata names one.
        sensor: Of rows that name none.

    Returns:
        Counts.

    Raises:
        FingerprintError: The vectors are another encoder's. ArchiveError for another length of vectors, doubled ids,
            coordinates that are no degrees, missing columns, and for what is no Parquet file.
    """
    path = Path(os.path.abspath(file))
    hashes, failed = hash_files([path], threads=1, progress=False)
    if failed:
        raise ArchiveError(f"{path} cannot be imported: {failed[0][1]}; give a Parquet file")
    source = VectorFile.open(path, archive.config, encoder=encoder, sensor=sensor)
    digest = hashes[path]
    with archive._writing() as table:
        stored = {kept.content_hash for kept in table.files()}
        plan, older = _Plan(), None
        if digest not in stored:
            older = _older(archive.folder, path, stored)
            plan = _planned(source, _known_ids(table, older))
        replaced = _commit(table, source, plan, digest, older) if plan.rows else 0
        if plan.rows or digest in stored:
            _note(archive.folder, source, digest, table)
    return ImportReport(plan.rows, plan.already, plan.skipped, replaced, unchanged=digest in stored)


def _commit(table: ChipTable, source: VectorFile, plan: _Plan, digest: str, older: str | None) -> int:
    """Write the rows and put them in place of those of an older file; how many those were."""
    replaced = int(table.dataset.count_rows(filter=older)) if older else 0
    blocks = _rows(source, plan, table.config, digest)
    reader = pa.RecordBatchReader.from_batches(schema_for(table.config), blocks)
    commit_parts(table, write_rows(reader, table.address.uri, table.address.storage_options), older)
    return replaced


def _note(folder: Path, source: VectorFile, digest: str, table: ChipTable) -> None:
    """Keep where the rows came from, unless that was kept before."""
    record = folder / IMPORTS / f"{digest}.json"
    if record.exists():
        return
    rows = int(table.dataset.count_rows(filter=f"content_hash = {text_sql(digest)}"))
    note = Provenance(str(source.path), digest, source.encoder, rows, datetime.now(UTC).isoformat(), source.notes)
    record.parent.mkdir(exist_ok=True)
    beside = record.with_suffix(".tmp")
    beside.write_text(json.dumps(asdict(note), indent=1), encoding="utf-8")
    beside.replace(record)


def provenance(archive: Archive) -> list[Provenance]:
    """What is known of every import, sorted by file."""
    return sorted(_records(archive.folder), key=lambda note: (note.file, note.imported))


def _records(folder: Path) -> Iterator[Provenance]:
    for record in sorted((folder / IMPORTS).glob("*.json")):
        try:
            yield Provenance(**json.loads(record.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ArchiveError(f"{record} is damaged; remove it, and import the file again") from error


def _older(folder: Path, path: Path, stored: set[str]) -> str | None:
    """SQL for the rows of earlier imports of the same path; None where there are none."""
    hashes = sorted({note.sha256 for note in _records(folder) if note.file == str(path)} & stored)
    return f"content_hash IN ({', '.join(map(text_sql, hashes))})" if hashes else None


def _known_ids(table: ChipTable, older: str | None) -> pa.Array:
    ids = table.dataset.to_table(columns=["chip_id"], filter=f"NOT ({older})" if older else None)["chip_id"]
    return ids.combine_chunks()


def _planned(source: VectorFile, known: pa.Array) -> _Plan:
    keep, per_path, seen = [], Counter[str](), set[str]()
    already = skipped = 0
    for block in source.blocks():
        ids = block.ids.to_pylist()
        doubled = next((name for name, count in Counter(ids).items() if count > 1 or name in seen), None)
        if doubled is not None:
            raise ArchiveError(f"{source.path} has the id {doubled!r} twice; ids must be unique")
        seen.update(ids)
        there = pc.is_in(block.ids, value_set=known).to_numpy(zero_copy_only=False)
        kept = block.sound & ~there
        already += int(there.sum())
        skipped += int((~block.sound & ~there).sum())
        per_path.update(block.paths.filter(pa.array(kept)).to_pylist())
        keep.append(kept)
    return _Plan(tuple(keep), per_path, already, skipped)


def _rows(source: VectorFile, plan: _Plan, config: ArchiveConfig, digest: str) -> Iterator[pa.RecordBatch]:
    schema, now = schema_for(config), datetime.now(UTC)
    for block, kept in zip(source.blocks(), plan.keep, strict=True):
        if not kept.any():
            continue
        count = len(kept)
        values = {
            **block.columns,
            "chip_id": block.ids,
            "path": block.paths,
            "content_hash": pa.array([digest] * count),
            "file_chips": pa.array([plan.per_path[path] for path in block.paths.to_pylist()]),
            "added": pa.array([now] * count),
        }
        arrays = [
            values[field.name].cast(field.type) if field.name in values else pa.nulls(count, field.type)
            for field in schema
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema).filter(pa.array(kept))
