"""What can be wrong with an archive's table, and how it is brought back to a whole state."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import lance
import numpy as np

from retrieval.filters import text_sql
from retrieval.store import (
    LANCE_ERRORS,
    TABLE,
    UNIT_TOLERANCE,
    ChipTable,
    damaged,
    read_config,
    vectors_in,
)
from retrieval.sums import (
    changed_files,
    files_in,
    forget_notes,
    manifest_of,
    newest_problem,
    note_files,
    noted_damage,
)
from rsvlm.errors import ArchiveError

if TYPE_CHECKING:
    from pathlib import Path

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
    manifest = changed_files(table.folder, manifest_of(table.dataset), thorough=True)
    if manifest:
        return list(manifest.values())
    broken = _broken_fragments(table)
    if broken:
        return [f"{len(broken)} of {len(table.dataset.get_fragments())} parts of the table cannot be read"]
    return [f"{path}: {reason}" for (path, _), reason in _unsound_files(table).items()]


def mend_table(folder: Path) -> RepairReport:
    """Leave out what cannot be read, and forget files whose chips are not all there and sound."""
    actions, lost = [], set()
    if noted_damage(folder):
        forget_notes(folder)
        actions.append("noted the sizes and sums of all files anew; the notes were damaged")
    newest_gone = newest_problem(folder) is not None
    set_aside = _newest_readable(folder)
    if set_aside or newest_gone:
        note_files(folder, folder / TABLE)
        lost.add(NEWER_FILES)
        set_aside = max(1, set_aside)
        actions.append(f"went back over {set_aside} unreadable version(s) of the table")
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


def _newest_readable(folder: Path) -> int:
    """Set unreadable manifests of the table aside until one opens; how many those were."""
    versions = folder / TABLE / "_versions"
    manifests = sorted(versions.glob("*.manifest"))  # Lance names them so that the newest sorts first
    for count, manifest in enumerate([*manifests, None]):
        try:
            dataset = lance.dataset(str(folder / TABLE))
            changed = changed_files(folder, manifest_of(dataset), thorough=True)
            if changed and manifest is not None:
                raise OSError(*changed.values())
            read_config(dataset.schema, folder)
        except ArchiveError:
            raise
        except LANCE_ERRORS as error:
            if manifest is None:
                raise damaged(folder, error) from error
            manifest.rename(manifest.with_suffix(".damaged"))
            (versions / "latest_version_hint.json").unlink(missing_ok=True)
        else:
            return count
    return len(manifests)


def _broken_fragments(table: ChipTable) -> set[int]:
    """Parts whose files hold other bytes than were written, or that Lance cannot read."""
    broken = set()
    for part in table.dataset.get_fragments():
        if noted_damage(table.folder) is None and changed_files(table.folder, files_in(part), thorough=True):
            broken.add(part.fragment_id)
            continue
        try:
            for _ in part.to_batches():
                pass
        except LANCE_ERRORS:
            broken.add(part.fragment_id)
    return broken


def _unsound_files(table: ChipTable) -> dict[tuple[str, str], str]:
    """Files, by path and content, whose chips are missing, doubled or carry vectors that are no unit vectors."""
    unsound: dict[tuple[str, str], str] = {}
    seen: Counter[str] = Counter()
    for batch in table.dataset.to_batches(columns=["chip_id", "vector", "path", "content_hash"]):
        seen.update(batch["chip_id"].to_pylist())
        lengths = np.linalg.norm(vectors_in(batch, table.config.dim), axis=1)
        for position in np.flatnonzero(~(np.abs(lengths - 1) <= UNIT_TOLERANCE)).tolist():
            key = batch["path"][position].as_py(), batch["content_hash"][position].as_py()
            unsound[key] = "a vector of it is damaged"
    for file in table.files():
        if file.chips != file.expected:
            unsound[file.path, file.content_hash] = f"{file.chips} chips are there, {file.expected} are expected"
    doubled = sorted(chip for chip, count in seen.items() if count > 1)
    for chip in doubled:
        row = table.row(chip, ["path", "content_hash"])
        if row is not None:
            unsound.setdefault((row["path"], row["content_hash"]), "a chip of it is there twice")
    return dict(sorted(unsound.items()))
