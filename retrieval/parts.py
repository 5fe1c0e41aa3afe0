"""Parts of a table that many hands write beside it, and the one commit that makes them part of it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import lance
import pyarrow as pa
from lance.file import LanceFileReader
from lance.fragment import FragmentMetadata, write_fragments

from retrieval import places
from retrieval.faults import LANCE_ERRORS, not_written
from retrieval.filters import text_sql

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from retrieval.store import ChipTable, Stored
    from rsvlm.files import Failure

Content = tuple[str, str]  # path, content hash


@dataclass(frozen=True, slots=True)
class Part:
    """What one unit of work wrote: Lance's fragments, not yet committed, and the files they hold."""

    fragments: tuple[dict[str, Any], ...] = ()  # as FragmentMetadata.to_json gives them
    contents: tuple[Content, ...] = ()
    failed: tuple[Failure, ...] = ()
    rows: int = 0
    skipped: int = 0

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads back."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Part:
        """Read what `to_json` wrote; raises ValueError, KeyError or TypeError for anything else."""
        plain = json.loads(line)
        for key in ("contents", "failed"):
            plain[key] = tuple((str(path), str(value)) for path, value in plain[key])
        return cls(**{**plain, "fragments": tuple(plain["fragments"])})

    def save(self, path: Path) -> None:
        """Write to a file that appears whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        with beside.open("w", encoding="utf-8") as file:
            file.write(self.to_json())
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)

    @classmethod
    def load(cls, path: Path) -> Part | None:
        """What `save` wrote; None where there is nothing or nothing that can be read."""
        try:
            return cls.from_json(path.read_text("utf-8"))
        except (OSError, ValueError, KeyError, TypeError):
            return None


def write_rows(
    rows: pa.Table | pa.RecordBatchReader, uri: str, storage_options: dict[str, str] | None = None
) -> tuple[dict[str, Any], ...]:
    """Write rows as fragments beside the table at `uri`, a path or any URI Lance knows; no reader sees them yet."""
    try:
        if places.carried_by(lance.dataset(uri, storage_options=storage_options).schema):
            rows = _with_bounds(rows)
        written = write_fragments(rows, uri, schema=rows.schema, mode="append", storage_options=storage_options)
    except LANCE_ERRORS as error:
        raise not_written(error) from error
    return tuple(fragment.to_json() for fragment in written)


def _with_bounds(rows: pa.Table | pa.RecordBatchReader) -> pa.Table | pa.RecordBatchReader:
    if isinstance(rows, pa.Table):
        return places.with_bounds(rows)
    return pa.RecordBatchReader.from_batches(rows.schema.append(places.FIELD), map(places.with_bounds, rows))


def fragments_whole(part: Part, uri: str, storage_options: dict[str, str] | None = None) -> bool:
    """Whether every data file of a part is still there and complete."""
    try:
        for fragment in part.fragments:
            for name in _data_files(fragment):
                LanceFileReader(f"{uri}/data/{name}", storage_options=storage_options).metadata()
    except LANCE_ERRORS:
        return False
    return True


def committed_files(table: ChipTable) -> set[str]:
    """Names of the data files that the table is made of."""
    return {name for part in table.dataset.get_fragments() for name in _data_files(part.metadata.to_json())}


def fragment_files(part: Part) -> set[str]:
    """Names of the data files that a part is made of."""
    return {name for fragment in part.fragments for name in _data_files(fragment)}


def outdated_rows(stored: Iterable[Stored], contents: Sequence[Content], stale: Iterable[Content] = ()) -> str | None:
    """SQL for rows that new contents put out of date, by path or by content, and for stale paths' other contents.

    Args:
        stored: Files the table holds.
        contents: Files that come in, with all of their rows.
        stale: Files whose content stays where it is while rows of their path with other content go.

    Returns:
        A condition, None where no row is out of date.
    """
    paths, hashes, kept = {path for path, _ in contents}, {digest for _, digest in contents}, dict(stale)
    gone = [
        file
        for file in stored
        if file.path in paths
        or file.content_hash in hashes
        or kept.get(file.path, file.content_hash) != file.content_hash
    ]
    if not gone:
        return None
    named = ", ".join(sorted({text_sql(file.path) for file in gone}))
    held = ", ".join(sorted({text_sql(file.content_hash) for file in gone}))
    return f"path IN ({named}) AND content_hash IN ({held})"


def commit_parts(table: ChipTable, fragments: Iterable[dict[str, Any]], outdated: str | None = None) -> None:
    """In one commit, add fragments and drop outdated rows; the table moves on to the new version.

    Raises ArchiveError where it cannot be written; then the table is as it was.
    """
    table.require_newest()
    added = [FragmentMetadata.from_json(json.dumps(fragment)) for fragment in fragments]
    try:
        removed, updated = _without(table, outdated) if outdated else ([], [])
        if added or removed or updated:
            change = lance.LanceOperation.Update(
                removed_fragment_ids=removed, updated_fragments=updated, new_fragments=added
            )
            table.dataset = lance.LanceDataset.commit(table.dataset, change, read_version=table.version)
    except LANCE_ERRORS as error:
        raise not_written(error) from error


def _without(table: ChipTable, outdated: str) -> tuple[list[int], list[FragmentMetadata]]:
    """Fragments that lose all rows, and those that lose some, with new deletion files that nothing refers to yet."""
    removed, updated = [], []
    for fragment in table.dataset.get_fragments():
        if not fragment.count_rows(filter=outdated):
            continue
        left = fragment.delete(outdated)
        if left is None:
            removed.append(fragment.fragment_id)
        else:
            updated.append(left)
    return removed, updated


def _data_files(fragment: dict[str, Any]) -> list[str]:
    return [file["path"] for file in fragment["files"]]
