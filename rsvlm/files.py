"""Which files a command means: files as named, folders walked for imagery in a fixed order."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rsvlm.errors import QueryError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SUFFIXES = (".tif", ".tiff", ".jp2", ".png", ".jpg", ".jpeg", ".webp")
Failure = tuple[str, str]  # path, reason


def imagery_files(paths: Sequence[Path]) -> tuple[list[Path], list[Failure]]:
    """Every image among files and folders, folders walked in sorted order; what is not there comes back as a failure.

    Hidden files, hidden folders and sidecars are passed over in folders; a file named outright is always taken.
    """
    files: dict[Path, None] = {}
    failed: list[Failure] = []
    for path in paths:
        if path.is_dir():
            files.update(dict.fromkeys(_walk(path)))
        elif path.exists():
            files[path] = None
        else:
            failed.append((str(path), "there is no such file or folder"))
    return list(files), failed


def _walk(folder: Path) -> Iterable[Path]:
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name.lower().endswith(SUFFIXES):
                yield Path(here, name)


def require_imagery(paths: Sequence[Path]) -> list[Path]:
    """The same, where every name must be there and something must be found; raises QueryError."""
    files, failed = imagery_files(paths)
    if failed:
        raise QueryError(f"there is no file or folder {failed[0][0]}")
    if not files:
        raise QueryError(f"no imagery ({', '.join(SUFFIXES)}) in {', '.join(str(path) for path in paths)}")
    return files
