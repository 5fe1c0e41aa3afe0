"""Hashes of files that were hashed before: a file whose size, times and number stayed the same is not read again.

A cache in one SQLite file, never trusted further than its own checksums: what is damaged in it is hashed anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

STAMPS = "stamps.sqlite"
FLUSH_SECONDS = 2.0
TABLE = "CREATE TABLE IF NOT EXISTS stamps (path TEXT PRIMARY KEY, stamp TEXT, digest TEXT, seal TEXT) WITHOUT ROWID"
Stamp = tuple[int, ...]
logger = logging.getLogger(__name__)


class Stamps:
    """What is known of files by path and stamp; a context manager, for several threads, one process at a time."""

    def __init__(self, folder: Path) -> None:
        self._file, self._lock = folder / STAMPS, threading.Lock()
        self._new: dict[str, tuple[Stamp, str]] = {}
        self._last = time.monotonic()
        self._store: sqlite3.Connection | None = None
        try:
            self._store = self._opened()
        except sqlite3.Error as error:
            self._give_up(error)

    def __enter__(self) -> Stamps:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._flush()
            if self._store is not None:
                self._store.close()

    def known(self, path: Path, stamp: Stamp) -> str | None:
        """Sha256 of a file, in hex, where it was hashed with this stamp; None where it must be read."""
        with self._lock:
            if self._store is None:
                return None
            try:
                query = "SELECT stamp, digest, seal FROM stamps WHERE path = ?"
                row = self._store.execute(query, (str(path),)).fetchone()
            except sqlite3.Error as error:
                self._give_up(error)
                return None
        if row is None or row[0] != json.dumps(stamp) or row[2] != _seal(str(path), stamp, str(row[1])):
            return None
        return str(row[1])

    def note(self, path: Path, stamp: Stamp, digest: str) -> None:
        """Keep the hash of a file that had this stamp before and after it was read."""
        with self._lock:
            self._new[str(path)] = stamp, digest
            if time.monotonic() - self._last > FLUSH_SECONDS:
                self._flush()

    def _opened(self) -> sqlite3.Connection:
        store = sqlite3.connect(self._file, isolation_level=None, check_same_thread=False)
        store.text_factory = lambda raw: raw.decode("utf-8", "replace")
        store.execute("PRAGMA synchronous = NORMAL")
        store.execute(TABLE)
        return store

    def _flush(self) -> None:
        rows = [
            (path, json.dumps(stamp), digest, _seal(path, stamp, digest)) for path, (stamp, digest) in self._new.items()
        ]
        self._new, self._last = {}, time.monotonic()
        if self._store is None or not rows:
            return
        try:
            self._store.execute("BEGIN")
            self._store.executemany("INSERT OR REPLACE INTO stamps VALUES (?, ?, ?, ?)", rows)
            self._store.execute("COMMIT")
        except sqlite3.Error as error:
            self._give_up(error)

    def _give_up(self, error: sqlite3.Error) -> None:
        """Start anew next time; until then every file is read."""
        logger.warning("the hashes of earlier adds cannot be used and are made anew: %s", error)
        if self._store is not None:
            self._store.close()
        self._store = None
        try:
            for path in self._file.parent.glob(f"{STAMPS}*"):
                path.unlink(missing_ok=True)
        except OSError:
            logger.warning("%s cannot be removed", self._file)


def _seal(path: str, stamp: Stamp, digest: str) -> str:
    return hashlib.sha256(json.dumps([path, stamp, digest]).encode()).hexdigest()[:32]
