"""What is encoded already, kept beside the table until it is committed: a killed add goes on where it was.

Of small files every batch goes to a log. Each of its rows carries a checksum, so that a torn end is passed over; what a
killed process wrote is there, what the power took is encoded again. Of large files there are parts: a few hundred chips
in one file named by the sha256 of its bytes. It appears whole or not at all, and one that holds other bytes than
its name says is passed over. Both are kept under a key, told from the content of the raster and from all that its chips
depend on, so that they are never taken for another file's, sensor's, layout's or encoder's.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
import zlib
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.sums import settle
from rsvlm.scene import Window

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

UNFINISHED = "unfinished"  # folder of the archive
LOG = "small.log"
PART_CHIPS = 256  # files of no more chips than this have no parts
PART_SECONDS = 1.0  # at least from part to part of a file, so that a fast encoder does not wait for the disk
KEEP_SECONDS = 7 * 86_400
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EncodedChip:
    """One chip once it was encoded."""

    window: Window
    vector: NDArray[np.float32]  # (D,); empty or zero where too little is valid
    valid: float
    cloud: float | None


class Journal:
    """The parts and, where `logs`, the log of one archive and one encoder. For who holds the archive's lock alone."""

    def __init__(self, archive: Path, *, fingerprint: str, dim: int, logs: bool = False) -> None:
        self._folder, self._fingerprint, self.logs = archive / UNFINISHED, fingerprint, logs
        self.part, self.pause = PART_CHIPS, PART_SECONDS
        fields: list[Any] = [("place", np.int64), ("window", np.int64, 4), ("valid", np.float64)]
        self._row = np.dtype([*fields, ("cloud", np.float64), ("vector", np.float32, dim)])
        self._logged = np.dtype([("checksum", np.uint32), ("key", "S97"), ("chip", self._row)])
        self._before = self._read_log() if logs else {}  # of a run that was killed
        self._live = {key: [rows.tobytes()] for key, rows in self._before.items()}
        if logs and (self._folder / LOG).exists():
            self._rewrite_log()  # without a torn end, after which nothing could be read

    def key(self, content_hash: str, *facts: object) -> str:
        """Where the parts of a raster lie, told from its content and from all else that its chips depend on."""
        told = hashlib.sha256(json.dumps([self._fingerprint, *(repr(fact) for fact in facts)]).encode())
        return f"{content_hash}-{told.hexdigest()[:32]}"

    def finished(self, key: str) -> dict[int, EncodedChip]:
        """The chips that are encoded already, by their places among the chips of the raster."""
        parts = [self._read(path) for path in sorted((self._folder / key).glob("*.part"))]
        if key in self._before:
            parts.append(self._before[key]["chip"])
        return {int(row["place"]): _as_chip(row) for rows in parts if rows is not None for row in rows}

    def note(self, key: str, chips: Iterable[tuple[int, EncodedChip]]) -> None:
        """Keep some chips of a raster. Where that is not possible the add goes on without."""
        rows = np.array([self._as_row(place, chip) for place, chip in chips], self._row).tobytes()
        target = self._folder / key / f"{hashlib.sha256(rows).hexdigest()}.part"
        beside = target.with_suffix(f".{os.getpid()}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(rows)
            settle(beside, target)
        except OSError as error:
            logger.warning("a finished part of a large file could not be kept: %s", error)

    def log(self, chips: Iterable[tuple[str, int, EncodedChip]]) -> None:
        """Keep some chips of small rasters, by key and place. Where that is not possible the add goes on without."""
        rows = np.array([(0, key, self._as_row(place, chip)) for key, place, chip in chips], self._logged)
        rows["checksum"] = [zlib.crc32(row.tobytes()[4:]) for row in rows]
        for row in rows:
            self._live.setdefault(row["key"].decode(), []).append(row.tobytes())
        try:
            self._folder.mkdir(exist_ok=True)
            with (self._folder / LOG).open("ab") as file:
                file.write(rows.tobytes())
        except OSError as error:
            logger.warning("encoded chips could not be kept: %s", error)

    def forget(self, hashes: Iterable[str]) -> None:
        """Drop what was kept of rasters by content: all of them is in the table, or they are no longer wanted."""
        gone = set(hashes)
        for folder in sorted(self._folder.glob("*-*")):
            if folder.name.split("-")[0] in gone:
                shutil.rmtree(folder, ignore_errors=True)
        if self.logs and any(key.split("-")[0] in gone for key in self._live):
            self._live = {key: rows for key, rows in self._live.items() if key.split("-")[0] not in gone}
            self._rewrite_log()

    def prune(self) -> None:
        """At the end of an add: drop its log, and parts that nobody came back for in a week."""
        self._live.clear()
        for name in (LOG, f"{LOG}.tmp"):  # the latter of a run that was killed
            (self._folder / name).unlink(missing_ok=True)
        for folder in sorted(self._folder.glob("*")):
            if time.time() - folder.stat().st_mtime > KEEP_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)

    def _rewrite_log(self) -> None:
        beside = self._folder / f"{LOG}.tmp"
        try:
            beside.write_bytes(b"".join(chain.from_iterable(self._live.values())))
            os.replace(beside, self._folder / LOG)
        except OSError as error:
            logger.warning("encoded chips could not be kept: %s", error)

    def _read_log(self) -> dict[str, NDArray[Any]]:
        """The whole rows of a log, by key."""
        try:
            raw = (self._folder / LOG).read_bytes()
        except OSError:
            return {}
        size = self._logged.itemsize
        rows = np.frombuffer(raw[: len(raw) // size * size], self._logged)
        sound = np.array([zlib.crc32(row.tobytes()[4:]) == row["checksum"] for row in rows], np.bool_)
        rows = rows[sound]
        return {key.decode(): rows[rows["key"] == key] for key in np.unique(rows["key"])}

    def _read(self, path: Path) -> NDArray[Any] | None:
        try:
            raw = path.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(raw).hexdigest() != path.stem or len(raw) % self._row.itemsize:
            logger.warning("passing over %s: it is damaged, and its chips are encoded again", path.name)
            return None
        return np.frombuffer(raw, self._row)

    def _as_row(self, place: int, chip: EncodedChip) -> tuple[Any, ...]:
        window, cloud = chip.window, np.nan if chip.cloud is None else chip.cloud
        vector = chip.vector if len(chip.vector) else np.zeros(self._row["vector"].shape, np.float32)
        return place, (window.row, window.col, window.height, window.width), chip.valid, cloud, vector


def _as_chip(row: Any) -> EncodedChip:
    cloud = None if np.isnan(row["cloud"]) else float(row["cloud"])
    return EncodedChip(Window(*row["window"].tolist()), row["vector"], float(row["valid"]), cloud)
