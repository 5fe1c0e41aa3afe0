"""The folder of an archive: made whole or not at all, written to by one process at a time."""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from retrieval.address import POINTER
from retrieval.faults import LANCE_ERRORS, damaged
from retrieval.store import TABLE, ChipTable
from rsvlm.errors import ArchiveBusyError, ArchiveError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from retrieval.address import TableAddress
    from retrieval.schema import ArchiveConfig

LOCK_SECONDS = 2.0


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A place to make an archive in, which appears at `folder` whole or not at all."""
    if (folder / TABLE).exists() or (folder / POINTER).exists():
        raise ArchiveError(f"{folder} is an archive already; open it, or give another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists() and any(folder.iterdir()):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as beside:
            whole = Path(beside, "archive")
            whole.mkdir()
            yield whole
            whole.rename(folder)
    except OSError as error:
        raise ArchiveError(f"no archive can be made at {folder} ({error.strerror or error})") from error


def create_remote(address: TableAddress, config: ArchiveConfig, folder: Path) -> None:
    """Write an empty table to object storage; raises ArchiveError where one is or none can be."""
    try:
        ChipTable.create(folder, config, address)
    except LANCE_ERRORS as error:
        raise ArchiveError(
            f"no new table can be made at {address.uri} ({str(error)[:200]}); see to its connection and keys, or take "
            f"one that is there with `rsvlm index attach {folder} {address.uri}`"
        ) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Held for writing; raises ArchiveBusyError where another process holds it."""
    try:
        with FileLock(folder / "write.lock", timeout=LOCK_SECONDS):
            yield
    except Timeout as error:
        raise ArchiveBusyError(f"another process is writing to {folder}; wait until it is done") from error
    except PermissionError as error:
        raise ArchiveError(f"{folder} cannot be written to ({error.strerror})") from error


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Raises ArchiveError, which names the repair, for a table that cannot be read."""
    try:
        yield
    except LANCE_ERRORS as error:
        raise error if isinstance(error, ArchiveError) else damaged(folder, error) from error
