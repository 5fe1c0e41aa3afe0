"""What an add has to do: which files there are, what they hold, and which of it the table knows already."""

from __future__ import annotations

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tqdm import tqdm

from rsvlm.errors import QueryError
from rsvlm.files import Failure

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from retrieval.stamps import Stamps
    from retrieval.store import Stored

SETTLED_NS = 2 * 10**9  # a file that changed later than this may change again within one tick of its clock
KEPT_HASHES = 2**16


@dataclass(frozen=True, slots=True)
class Intake:
    """One file and what becomes of it. `stale` says that the table holds rows of its path with other content."""

    path: Path
    content_hash: str
    action: Literal["add", "replace", "leave"]
    stale: bool = False


def as_paths(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """One path or many, absolute, each once, in the order given; raises QueryError for none."""
    many = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not many or not all(isinstance(path, str | os.PathLike) and "\0" not in os.fspath(path) for path in many):
        raise QueryError(f"files or folders are wanted; got {paths!r}")
    return list(dict.fromkeys(Path(os.path.abspath(path)) for path in many))


def hash_files(
    files: Sequence[Path], *, threads: int, progress: bool, stamps: Stamps | None = None
) -> tuple[dict[Path, str], list[Failure]]:
    """Sha256 of every file, in their order, and the files that cannot be read.

    With `stamps`, a file whose size, times and number are those of an earlier add is not read: it has the hash it had.
    """
    hashes: dict[Path, str] = {}
    failed: list[Failure] = []
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(total=len(files), unit="file", desc="hash", disable=not progress) as bar,
    ):
        found = pool.map(partial(_digest, stamps=stamps), files)
        for path, (digest, reason) in zip(files, found, strict=True):
            bar.update()
            if reason:
                failed.append((str(path), reason))
            else:
                hashes[path] = digest
    return hashes, failed


def stamp_of(path: Path) -> tuple[int, ...]:
    """What changes when a file does: size, times of change in ns, and its number; raises OSError."""
    state = path.stat()
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino


def content_hash(path: Path) -> str:
    """Sha256 of a file's bytes, read once while its size and times stay as they are; raises OSError."""
    stamp = stamp_of(path)
    return _sha256_of(path, stamp, 0 if _settled(stamp) else time.perf_counter_ns())


def _settled(stamp: tuple[int, ...]) -> bool:
    return time.time_ns() - max(stamp[1:3]) > SETTLED_NS


@lru_cache(maxsize=KEPT_HASHES)
def _sha256_of(path: Path, stamp: tuple[int, ...], once: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(path: Path, stamps: Stamps | None) -> tuple[str, str]:
    try:
        str(path).encode("utf-8")
        if not path.is_file():  # a pipe or a device would be read for ever
            return "", "it is no regular file"
        stamp = stamp_of(path)
        known = stamps.known(path, stamp) if stamps else None
        digest = known or content_hash(path)
        if stamps and not known and _settled(stamp) and stamp_of(path) == stamp:
            stamps.note(path, stamp, digest)
        return digest, ""
    except OSError as error:
        return "", f"it cannot be read: {error.strerror}"
    except UnicodeEncodeError:
        return "", "its name is not valid UTF-8, so it cannot be stored; rename it"


def plan_intake(hashes: dict[Path, str], stored: Iterable[Stored], sensor: str | None) -> list[Intake]:
    """Decide for every file: every content is kept once, at a path that still holds it.

    A stored row counts while its file is there, whole, of the sensor asked for, and not given with other content.
    Of what is stored, only files with one of these paths or contents matter; the others may be left out.
    """
    known = {str(path): digest for path, digest in hashes.items()}
    places: dict[str, str] = {}  # content -> the path that holds it
    at_path: dict[str, set[str]] = {}
    for file in stored:
        at_path.setdefault(file.path, set()).add(file.content_hash)
        current = known.get(file.path, file.content_hash) == file.content_hash
        fits = sensor in (None, file.sensor) or file.path not in known
        if current and fits and file.chips == file.expected and os.path.exists(file.path):
            places.setdefault(file.content_hash, file.path)
    plan = []
    for path, digest in hashes.items():
        stale = bool(at_path.get(str(path), set()) - {digest})
        if digest in places:
            plan.append(Intake(path, digest, "leave", stale))
        else:
            places[digest] = str(path)
            plan.append(Intake(path, digest, "replace" if str(path) in at_path else "add", stale))
    return plan
