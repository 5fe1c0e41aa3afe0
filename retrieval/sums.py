"""Sizes and sha256 of the table's files, for Lance's pages carry no checksums of their own.

Written when a writer lets go of the archive. Before a version is read, its files must have the sizes and times that
were noted; one whose time differs (a copy, a restored backup, a changed file) is hashed, and so are all files of a
small table. `verify` hashes every file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsvlm.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import lance

SUMS = "sums.json"
HASHED_BYTES = 64 * 2**20  # about 50 ms; damage that leaves no trace in a file's times is found up to this size
FILED = (
    "data",
    "_deletions",
    "_versions",
    "_indices",
)  # folders of the table; files there are written once and never again
WITHHELD = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # of the reader, not of the file
Noted = dict[str, tuple[int, int, str]]  # relative path -> size, time of change in ns, sha256


def files_of(dataset: lance.LanceDataset) -> list[str]:
    """What one version of the table consists of, as paths inside the table's folder."""
    return sorted([*manifest_of(dataset), *(name for part in dataset.get_fragments() for name in files_in(part))])


def index_files(folder: Path, dataset: lance.LanceDataset) -> list[str]:
    """The noted files of the indexes that Lance keeps for one version of the table."""
    places = {f"_indices/{part.uuid}/" for index in dataset.describe_indices() for part in index.segments}
    return [name for name in read_noted(folder) or () if any(name.startswith(place) for place in places)]


def files_in(part: lance.LanceFragment) -> list[str]:
    """The files of one fragment: its data, and the list of its removed rows."""
    removed = part.deletion_file()
    return [f"data/{file.path}" for file in part.metadata.files] + ([removed] if removed else [])


def manifest_of(dataset: lance.LanceDataset) -> list[str]:
    """The manifest of this version, under either of Lance's ways to name it; none where it is elsewhere."""
    version = int(dataset.version)
    names = [f"_versions/{2**64 - 1 - version}.manifest", f"_versions/{version}.manifest"]
    return [name for name in names if Path(dataset.uri, name).exists()][:1]


def newest_problem(folder: Path) -> str | None:
    """Why the newest version cannot be opened: its manifest is gone or not as it was noted. None where Lance may try.

    Lance itself would open an older version, and crash over some damages.
    """
    known = {name: _version(name) for name in read_noted(folder) or () if _version(name) is not None}
    newest = max(known, key=lambda name: known[name] or 0, default=None)
    present = [_version(path.name) or 0 for path in Path(folder, "chips.lance", "_versions").glob("*.manifest")]
    if newest is None or max(present, default=0) > (known[newest] or 0):  # a writer was killed before it noted it
        return None
    return changed_files(folder, [newest], thorough=True).get(newest)


def _version(name: str) -> int | None:
    """The version that a manifest is of; None for any other file."""
    number = Path(name).stem
    if not name.endswith(".manifest") or not number.isdecimal():
        return None
    return 2**64 - 1 - int(number) if int(number) >= 2**63 else int(number)


def note_files(folder: Path, table: Path) -> None:
    """Note the files that are new since the last time, and forget those that are gone."""
    before = read_noted(folder) or {}
    present = sorted(
        path.relative_to(table).as_posix()
        for name in FILED
        for path in (table / name).rglob("*")
        if path.is_file() and path.suffix not in (".json", ".damaged")
    )
    kept = {name: before[name] if name in before else _note(table / name) for name in present}
    if kept != before:
        _write(folder / SUMS, kept)


def changed_files(folder: Path, names: Iterable[str], *, thorough: bool | None = None) -> dict[str, str]:
    """Which of these files of the table are not as they were noted, and how; `thorough` hashes all of them.

    By default all are hashed where they are no more than HASHED_BYTES together. Files that were never noted, as after
    a writer was killed, are left to Lance's own checks.
    """
    known = read_noted(folder)
    if known is None:
        return {}
    table, names = Path(folder, "chips.lance"), [name for name in names if name in known]
    if thorough is None:
        thorough = sum(known[name][0] for name in names) <= HASHED_BYTES
    problems = {}
    for name in names:
        reason = _problem(table / name, known[name], thorough)
        if reason:
            problems[name] = f"{name} {reason}"
    return problems


def noted(folder: Path, names: Iterable[str]) -> bool:
    """Whether all of these files of the table were noted; raises ArchiveError for damaged notes."""
    return set(names) <= set(read_noted(folder) or ())


def noted_damage(folder: Path) -> str | None:
    """Why the notes themselves cannot be trusted, None where they can or were never made."""
    try:
        read_noted(folder)
    except ArchiveError as error:
        return str(error)
    return None


def read_noted(folder: Path) -> Noted | None:
    """What was noted, None where nothing was; raises ArchiveError for damaged notes."""
    try:
        plain: dict[str, Any] = json.loads((folder / SUMS).read_text(encoding="utf-8"))
        files, digest = plain["files"], plain["sha256"]
        if digest != _digest(files):
            raise ValueError("the digest of the notes is another")
        return {str(name): (int(size), int(time), str(digest)) for name, (size, time, digest) in files.items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArchiveError(f"{folder / SUMS} is damaged ({error}); run `rsvlm index repair {folder}`") from error


def forget_notes(folder: Path) -> None:
    """Start anew: everything that is there is noted next time."""
    (folder / SUMS).unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Sha256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def settle(beside: Path, target: Path) -> None:
    """Flush a finished file to the disk and give it its name, at once; a crash leaves the old one or the new."""
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(beside, target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _note(path: Path) -> tuple[int, int, str]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns, sha256_of(path)


def _problem(path: Path, known: tuple[int, int, str], thorough: bool) -> str | None:
    size, time, digest = known
    try:
        facts = path.stat()
        if facts.st_size != size:
            return f"has {facts.st_size} bytes, not the {size} that were written"
        if (thorough or facts.st_mtime_ns != time) and sha256_of(path) != digest:
            return "holds other bytes than were written"
    except OSError as error:
        if error.errno in WITHHELD:
            raise ArchiveError(f"{path} may not be read ({error.strerror}); see to that, then repeat") from error
        return f"cannot be read ({error.strerror})"
    return None


def _digest(files: Any) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _write(target: Path, facts_of: Noted) -> None:
    files = {name: list(facts) for name, facts in facts_of.items()}
    beside = target.with_suffix(f".{os.getpid()}.tmp")
    beside.write_text(json.dumps({"files": files, "sha256": _digest(files)}, indent=0), encoding="utf-8")
    settle(beside, target)
