"""What the images of a list show: bytes, outline on Earth, thumbnail and vector, each file read once."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from rsvlm.errors import GeoreferenceError, RsvlmError
from rsvlm.leakage.likeness import thumbnail
from rsvlm.raster import open_raster

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from rsvlm.interfaces import Encoder
    from rsvlm.scene import Grid, Scene

SHOWN = 256  # longest side, in pixels, of the scene that thumbnail and vector are made from
BATCH = 64
READERS = 4


@dataclass(frozen=True, slots=True)
class Listed:
    """One image of a list; `place` is any name that the images of one place share, "" where none is known."""

    path: Path
    sensor: str | None
    place: str = ""


@dataclass(frozen=True, eq=False)
class Seen:
    """What one image shows; None where it does not."""

    listed: Listed
    size: int | None = None  # bytes
    footprint: BaseGeometry | None = None
    thumbnail: NDArray[np.uint8] | None = None  # (64, 64), grey; None where flat or mostly missing
    scene: Scene | None = None  # only until it is encoded
    vector: NDArray[np.float32] | None = None  # (D,), unit length
    sensor: str = ""
    failure: str = ""


def look(images: Sequence[Listed], encoder: Encoder | None, progress: bool, side: str) -> list[Seen]:
    """Read every different image of a list once, sorted by path; memory holds the pixels of one batch."""
    different = sorted(set(images), key=lambda each: (str(each.path), each.sensor or "", each.place))
    seen: list[Seen] = []
    with (
        ThreadPoolExecutor(READERS) as pool,
        tqdm(total=len(different), desc=f"reading {side}", disable=not progress) as bar,
    ):
        for start in range(0, len(different), BATCH):
            batch = list(pool.map(_read, different[start : start + BATCH]))
            seen += [replace(one, scene=None) for one in (_encoded(batch, encoder) if encoder else batch)]
            bar.update(len(batch))
    return seen


def _read(listed: Listed) -> Seen:
    try:
        with listed.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        return Seen(listed, failure=f"cannot be opened: {error.strerror}")
    try:
        with open_raster(listed.path, sensor=listed.sensor) as raster:
            height, width = raster.grid.shape
            shrink = min(1.0, SHOWN / max(height, width))
            scene = raster.read(shape=(max(1, round(height * shrink)), max(1, round(width * shrink))))
            seen = Seen(listed, size, _footprint(raster.grid), thumbnail(scene), sensor=raster.sensor.name)
    except (RsvlmError, OSError) as error:
        return Seen(listed, size, failure=str(error))
    return seen if seen.thumbnail is None else replace(seen, scene=scene)


def _footprint(grid: Grid) -> BaseGeometry | None:
    """Outline in longitude and latitude; None where the file has no coordinates or senseless ones."""
    try:
        return grid.footprint
    except GeoreferenceError:
        return None


def _encoded(batch: list[Seen], encoder: Encoder) -> list[Seen]:
    """The batch with vectors; what the encoder refuses or spoils carries its reason."""
    scenes = [one.scene for one in batch if one.scene is not None]
    try:
        vectors = iter(encoder.encode_scenes(scenes))
    except RsvlmError as error:
        if len(batch) > 1:
            return [done for one in batch for done in _encoded([one], encoder)]
        return [replace(batch[0], failure=f"cannot be encoded: {error}")]
    return [one if one.scene is None else _with_vector(one, next(vectors)) for one in batch]


def _with_vector(one: Seen, vector: NDArray[np.float32]) -> Seen:
    if not np.isfinite(vector).all() or not vector.any():
        return replace(one, failure="cannot be encoded: its vector is zero or not finite")
    return replace(one, vector=vector)
