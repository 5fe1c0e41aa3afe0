"""Simulated places as a source: written once, a folder a place, and read as every other source is."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from tqdm import tqdm

from data_engine.annotated import Annotated, ClassMap, Pair, Target
from data_engine.layout import every, field_of, read_json
from data_engine.simulated_place import CODES, MOST, RECORD, VERSION, Image, Place
from data_engine.splits import split_of
from rsvlm.errors import ConfigError, DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def write_places(out: Path, count: int, *, seed: int) -> None:
    """Make places 0 to `count` - 1 in `out`, one folder each; those that are there are not made again.

    A place's folder appears whole or not at all. The same seed gives the same files. Raises ConfigError for more
    places than Earth has room for, DatasetError where `out` holds places of another seed or version.
    """
    if not 0 <= count <= MOST:
        raise ConfigError(f"there is room for {MOST} places; got {count}")
    out.mkdir(parents=True, exist_ok=True)
    for number in tqdm(range(count), desc="simulating", unit="place"):
        folder = out / f"simulated-{number:05d}"
        if folder.exists():
            _check_made(folder, seed)
            continue
        draft = out / f".{folder.name}.partial"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        Place(draft, number, seed).write()
        os.replace(draft, folder)


def _check_made(folder: Path, seed: int) -> None:
    record = read_json(folder / RECORD)
    made = (field_of(record, "seed", folder / RECORD, 1), field_of(record, "version", folder / RECORD, 1))
    if made != (seed, VERSION):
        raise DatasetError(f"{folder} is of seed and version {made}, not {(seed, VERSION)}; give a new folder")


def read(folder: Path) -> Iterator[Annotated]:
    """Yield every image of every place `write_places` made, pairs at their later date.

    Labels are the classes of at least a twentieth of the mapped pixels. Targets name every category of objects, with
    no outlines where there is none, and single objects by what sets them apart. Raises DatasetError where a record is
    missing or lacks a field.
    """
    for path in every(folder, f"simulated-*/{RECORD}"):
        record = read_json(path)
        place = field_of(record, "place", path, 1)
        for position, row in enumerate(field_of(record, "images", path, 1), 1):
            try:
                image = Image(**row)
            except TypeError as error:
                raise DatasetError(f"image {position} of {path} is not as write_places wrote it: {error}") from error
            yield _annotated(path.parent, place, image)


def _annotated(folder: Path, place: str, image: Image) -> Annotated:
    with rasterio.open(folder / image.classes) as file:
        codes = file.read(1)
    counts = np.bincount(codes[codes > 0], minlength=256)
    fractions = {name: float(counts[int(code)] / counts.sum()) for code, name in CODES.items() if counts[int(code)]}
    return Annotated(
        image=folder / image.file,
        sensor=image.sensor,
        place=place,
        split=split_of(place),
        scene=image.scene,
        acquired=image.acquired,
        labels=tuple(sorted(name for name, share in fractions.items() if share >= 0.05)),
        fractions=fractions,
        class_map=ClassMap(folder / image.classes, CODES, ignore=(0,)),
        targets=tuple(_target(row) for row in image.targets),
        pair=_pair(folder, image.pair) if image.pair else None,
    )


def _target(row: dict[str, Any]) -> Target:
    rings = tuple(tuple((float(x), float(y)) for x, y in ring) for ring in row["polygons"])
    boxes = tuple(
        (min(x for x, _ in ring), min(y for _, y in ring), max(x for x, _ in ring), max(y for _, y in ring))
        for ring in rings
    )
    return Target(row["phrase"], row["kind"], boxes, rings)


def _pair(folder: Path, row: dict[str, Any]) -> Pair:
    before, after = (tuple(folder / name for name in row[key]) for key in ("before", "after"))
    return Pair(before, after, tuple(row["sensors"]), folder / row["mask"], row["phrase"], tuple(row["captions"]))
