"""DOTA 1.0, 1.5 and 2.0: oriented boxes, one text file an image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from data_engine.annotated import Annotated, Ring, Target
from data_engine.layout import every, one_of
from data_engine.sources.coco import absent_targets, words
from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PARTS = ("train", "val")  # the labels of test are not published
HEADERS = ("imagesource:", "gsd:")
ENDINGS = (".png", ".jpg", ".tif", ".bmp")


def read(folder: Path) -> Iterator[Annotated]:
    """Yield the images of train/ and val/ with one target a class; its polygons are the oriented boxes, four corners.

    Of several label folders in a part the newest version is read. Objects marked difficult are kept, as DOTA's own
    training does. Labels are complete: at most two of the part's classes that an image lacks become targets
    without polygons. Raises DatasetError for a missing folder or image and for a line that is no label.
    """
    one_of(folder, *PARTS)
    for part in PARTS:
        if (folder / part).is_dir():
            yield from _read_part(folder / part, part)


def _read_part(folder: Path, part: str) -> Iterator[Annotated]:
    labels = {path: _polygons(path) for path in every(_label_folder(folder, part), "*.txt")}
    images = one_of(folder, "images")
    classes = sorted({name for polygons in labels.values() for name in polygons})
    for path, polygons in labels.items():
        place = f"dota-{path.stem}"
        present = tuple(Target(name, polygons=tuple(rings)) for name, rings in sorted(polygons.items()))
        yield Annotated(
            image=one_of(images, *(path.stem + ending for ending in ENDINGS)),
            sensor="rgb",
            place=place,
            split=part,
            labels=tuple(sorted(polygons)),
            targets=present + absent_targets(classes, set(polygons), place),
        )


def _label_folder(folder: Path, part: str) -> Path:
    """Archives of 1.5 and 2.0 unpack to a folder of their own below the labels."""
    versions = [f"labelTxt-v{v}" for v in ("2.0", "1.5", "1.0")]
    nested = [(f"{name}/DOTA-{name[9:]}_{part}", name) for name in versions]
    return one_of(folder, *(name for pair in nested for name in pair), "labelTxt")


def _polygons(path: Path) -> dict[str, list[Ring]]:
    """The rings of each class in one label file, header lines passed over."""
    polygons: dict[str, list[Ring]] = {}
    for position, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        if line.strip() and not line.lower().lstrip().startswith(HEADERS):
            name, ring = _label(line.split(), path, position)
            polygons.setdefault(name, []).append(ring)
    return polygons


def _label(fields: list[str], path: Path, position: int) -> tuple[str, Ring]:
    """`x1 y1 x2 y2 x3 y3 x4 y4 class difficult`; the last is left out in some copies."""
    try:
        corners = [float(value) for value in fields[:8]]
    except ValueError:
        corners = []
    if len(fields) not in (9, 10) or len(corners) != 8 or not all(map(math.isfinite, corners)):
        raise DatasetError(f"{path}:{position} is {' '.join(fields)!r:.80}, not eight numbers, a class and difficult")
    return words(fields[8]), tuple(zip(corners[::2], corners[1::2], strict=True))
