"""What of large files is encoded already, kept beside the table until the file is whole: an add goes on inside it.

A part is a few hundred chips in one file that is named by the sha256 of its bytes. It appears whole or not at all, and
one that holds other bytes than its name says is passed over. Parts lie in a folder named by the content of the raster
and by all that its chips depend on, so that they are never taken for another file's, sensor's, layout's or encoder's.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.sums import settle
from rsvlm.scene import Window

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

UNFINISHED = "unfinished"  # folder of the archive
PART_CHIPS = 256  # files of no more chips than this have no parts: losing one is losing no more than a part
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
    """The parts of one archive and one encoder. Only who holds the archive's lock may use it."""

    def __init__(self, archive: Path, *, fingerprint: str, dim: int) -> None:
        self._folder, self._fingerprint = archive / UNFINISHED, fingerprint
        self.part, self.pause = PART_CHIPS, PART_SECONDS
        fields: list[Any] = [("place", np.int64), ("window", np.int64, 4), ("valid", np.float64)]
        self._row = np.dtype([*fields, ("cloud", np.float64), ("vector", np.float32, dim)])

    def key(self, content_hash: str, *facts: object) -> str:
        """Where the parts of a raster lie, told from its content and from all else that its chips depend on."""
        told = hashlib.sha256(json.dumps([self._fingerprint, *(repr(fact) for fact in facts)]).encode())
        return f"{content_hash}-{told.hexdigest()[:32]}"

    def finished(self, key: str) -> dict[int, EncodedChip]:
        """The chips that are encoded already, by their places among the chips of the raster."""
        chips: dict[int, EncodedChip] = {}
        for path in sorted((self._folder / key).glob("*.part")):
            rows = self._read(path)
            for row in () if rows is None else rows:
                cloud = None if np.isnan(row["cloud"]) else float(row["cloud"])
                window = Window(*row["window"].tolist())
                chips[int(row["place"])] = EncodedChip(window, row["vector"], float(row["valid"]), cloud)
        return chips

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

    def forget(self, content_hash: str) -> None:
        """Drop the parts of a raster: all of it is in the table, or it is no longer wanted."""
        for folder in self._folder.glob(f"{content_hash}-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def prune(self) -> None:
        """Drop parts that nobody came back for in a week."""
        for folder in sorted(self._folder.glob("*")):
            if time.time() - folder.stat().st_mtime > KEEP_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)

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
