"""What can be wrong with an archive's table, and how it is brought back to a whole state."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import lance
import numpy as np

from retrieval.faults import LANCE_ERRORS, damaged, withheld
from retrieval.filters import text_sql
from retrieval.objects import StoredObjects
from retrieval.places import INDEX, unreadable
from retrieval.schema import read_config, vectors_in
from retrieval.store import UNIT_TOLERANCE, ChipTable, table_address
from retrieval.sums import (
    changed_files,
    files_in,
    forget_notes,
    index_files,
    manifest_of,
    newest_problem,
    note_files,
    noted_damage,
)
from rsvlm.errors import ArchiveError

if TYPE_CHECKING:
    from retrieval.address import TableAddress

SOME_FILES = "some files (part of the table could not be read; what is still there is left alone)"
NEWER_FILES = "some files (the newest version of the table could not be read; also remove again what was removed last)"
EVERY_FILE = "every file (the table could not be read and is empty now)"


@dataclass(frozen=True)
class RepairReport:
    """What a repair did, and which files lost chips and must be added again; one line stands for unknown ones."""

    actions: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


def table_problems(table: ChipTable) -> list[str]:
    """Every problem in the table, found by reading all of it."""
    notes = noted_damage(table.folder)
    if notes is not None:
        return [notes]
    own = manifest_of(table.dataset) + index_files(table.folder, table.dataset)
    changed = changed_files(table.folder, own, thorough=True)
    if changed:
        return list(changed.values())
    if unreadable(table.dataset):
        return ["the index of places cannot be read"]
    broken = _broken_fragments(table)
    if broken:
        return [f"{len(broken)} of {len(table.dataset.get_fragments())} parts of the table cannot be read"]
    return [f"{path}: {reason}" for (path, _), reason in _unsound_files(table).items()]


def mend_table(folder: Path) -> RepairReport:
    """Leave out what cannot be read, and forget files whose chips are not all there and sound."""
    actions, lost, address = [], set(), table_address(folder)
    if noted_damage(folder):
        forget_notes(folder)
        actions.append("noted the sizes and sums of all files anew; the notes were damaged")
    newest_gone = newest_problem(folder) is not None
    set_aside = _newest_readable(folder, address)
    if set_aside or newest_gone:
        note_table(folder, address)
        lost.add(NEWER_FILES)
        set_aside = max(1, set_aside)
        actions.append(f"went back over {set_aside} unreadable version(s) of the table")
    table = ChipTable.open(folder)
    if changed_files(folder, index_files(folder, table.dataset), thorough=True) or unreadable(table.dataset):
        table.dataset.drop_index(INDEX)
        actions.append("left out the index of places; the next add makes it anew")
        table = ChipTable.open(folder)
    broken = _broken_fragments(table)
    if broken:
        left = len(table.dataset.get_fragments()) - len(broken)
        without = lance.LanceOperation.Update(sorted(broken), updated_fragments=[], new_fragments=[])
        lance.LanceDataset.commit(table.dataset, without, read_version=table.version)
        actions.append(f"left out {len(broken)} unreadable part(s) of the table; add your files again")
        table = ChipTable.open(folder)
        lost.add(SOME_FILES if left else EVERY_FILE)
    for (path, digest), reason in _unsound_files(table).items():
        table.remove(f"content_hash = {text_sql(digest)}")
        actions.append(f"forgot {path}: {reason}")
        lost.add(path)
    return RepairReport(tuple(actions), tuple(sorted(lost)))


def note_table(folder: Path, address: TableAddress) -> None:
    """Note sizes and sums of the table's files; those on object storage are left to its own checks."""
    if not address.is_remote:
        note_files(folder, Path(address.uri))


def _newest_readable(folder: Path, address: TableAddress) -> int:
    """Set unreadable manifests of the table aside until one opens; how many those were."""
    manifests = _manifests(address)
    for count, manifest in enumerate([*manifests, None]):
        try:
            dataset = address.dataset()
            changed = changed_files(folder, manifest_of(dataset), thorough=True)
            if changed and manifest is not None:
                raise OSError(*changed.values())
            read_config(dataset.schema, folder)
        except ArchiveError:
            raise
        except LANCE_ERRORS as error:
            if manifest is None or withheld(folder, error) is not None:
                raise damaged(folder, error) from error
            _set_aside(address, manifest)
        else:
            return count
    return len(manifests)


def _manifests(address: TableAddress) -> list[str]:
    """Manifests of all versions, the newest first, for so Lance names them."""
    if address.is_remote:
        return StoredObjects(address).manifests()
    table = Path(address.uri)
    return sorted(path.relative_to(table).as_posix() for path in table.glob("_versions/*.manifest"))


def _set_aside(address: TableAddress, manifest: str) -> None:
    """Keep a manifest under a name that Lance passes over."""
    if address.is_remote:
        StoredObjects(address).set_aside(manifest)
        return
    path = Path(address.uri, manifest)
    path.rename(path.with_suffix(".damaged"))
    (path.parent / "latest_version_hint.json").unlink(missing_ok=True)


def _broken_fragments(table: ChipTable) -> set[int]:
    """Parts whose files hold other bytes than were written, or that Lance cannot read.

    Raises ArchiveError for a part on object storage that does not answer, or that may not be read: what cannot be had
    now is not lost.
    """
    broken = set()
    for part in table.dataset.get_fragments():
        if noted_damage(table.folder) is None and changed_files(table.folder, files_in(part), thorough=True):
            broken.add(part.fragment_id)
        elif not _readable(part, table.folder):
            if table.address.is_remote:
                StoredObjects(table.address).require_answer(files_in(part))
            if not table.address.is_remote or not _readable(part, table.folder):
                broken.add(part.fragment_id)
    return broken


def _readable(part: lance.LanceFragment, folder: Path) -> bool:
    try:
        for _ in part.to_batches():
            pass
    except LANCE_ERRORS as error:
        if (refusal := withheld(folder, error)) is not None:
            raise refusal from error
        return False
    return True


def _unsound_files(table: ChipTable) -> dict[tuple[str, str], str]:
    """Files, by path and content, whose chips are missing, doubled or carry vectors that are no unit vectors."""
    unsound: dict[tuple[str, str], str] = {}
    for batch in table.dataset.to_batches(columns=["vector", "path", "content_hash"]):
        lengths = np.linalg.norm(vectors_in(batch, table.config.dim), axis=1)
        for position in np.flatnonzero(~(np.abs(lengths - 1) <= UNIT_TOLERANCE)).tolist():
            key = batch["path"][position].as_py(), batch["content_hash"][position].as_py()
            unsound[key] = "a vector of it is damaged"
    for file in table.files():
        if file.chips != file.expected:
            unsound[file.path, file.content_hash] = f"{file.chips} chips are there, {file.expected} are expected"
    for chip in _doubled(table):
        row = table.row(chip, ["path", "content_hash"])
        if row is not None:
            unsound.setdefault((row["path"], row["content_hash"]), "a chip of it is there twice")
    return dict(sorted(unsound.items()))


def _doubled(table: ChipTable) -> list[str]:
    """Chip ids that several rows have. Of all ids hashes are held; ids are only where those are equal."""
    ids = (batch["chip_id"].to_pylist() for batch in table.dataset.to_batches(columns=["chip_id"]))
    hashes = np.concatenate(
        [np.zeros(0, np.int64), *(np.fromiter(map(hash, part), np.int64, len(part)) for part in ids)]
    )
    hashes.sort()
    equal = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    if not equal:
        return []
    ids = (batch["chip_id"].to_pylist() for batch in table.dataset.to_batches(columns=["chip_id"]))
    seen = Counter(chip for part in ids for chip in part if hash(chip) in equal)
    return sorted(chip for chip, count in seen.items() if count > 1)
