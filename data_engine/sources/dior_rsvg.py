"""DIOR-RSVG: a VOC XML file an image, whose objects carry a description, and lists of objects by running number."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree

from data_engine.annotated import Annotated, Target
from data_engine.layout import every, listed, numbers, one_of, read_xml
from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SPLITS = ("train", "val", "test")


def read(folder: Path) -> Iterator[Annotated]:
    """Yield every image with its described objects as referring targets.

    train.txt, val.txt and test.txt number the objects of all XML files in order of file name, from 0. An image with
    objects in several splits is yielded once a split, so that the splits share images: a leakage check will name
    them. Descriptions do not cover every object, so that there are no labels. Boxes as published.
    Raises DatasetError for what is missing, XML that is damaged, too large or declares a document type, an object
    that lacks a field, and numbers that no object has or two lists share.
    """
    splits = _splits(folder)
    images = one_of(folder, "JPEGImages")
    total = 0
    for path in every(one_of(folder, "Annotations"), "*.xml"):
        root = read_xml(path)
        targets: dict[str, list[Target]] = {}
        for position, element in enumerate(root.findall("object")):
            if total in splits:
                targets.setdefault(splits[total], []).append(_target(element, path, position))
            total += 1
        for split in sorted(targets):
            image = listed(images, _text(root, "filename", path, 0), path, 0)
            yield Annotated(image, "rgb", f"dior-rsvg-{image.stem}", split, targets=tuple(targets[split]))
    if splits and max(splits) >= total:
        raise DatasetError(f"{folder} lists object {max(splits)} but its XML files hold {total}; unpack all of them")


def _splits(folder: Path) -> dict[int, str]:
    """The split of each object, by its running number."""
    splits: dict[int, str] = {}
    for split in SPLITS:
        path = one_of(folder, f"{split}.txt")
        for position, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").split(), 1):
            if not (line.isascii() and line.isdigit() and len(line) < 10):
                raise DatasetError(f"{path}:{position} is {line!r:.40}, not the running number of an object; fix it")
            if int(line) in splits:
                raise DatasetError(f"{path}:{position} lists object {line}, which is in {splits[int(line)]} already")
            splits[int(line)] = split
    return splits


def _target(element: ElementTree.Element, path: Path, position: int) -> Target:
    box: list[object] = []
    for side in ("xmin", "ymin", "xmax", "ymax"):
        value = _text(element, f"bndbox/{side}", path, position)
        try:
            box.append(float(value))
        except ValueError:
            box.append(value)
    x0, y0, x1, y1 = numbers(box, 4, path, position)
    return Target(_text(element, "description", path, position), "referring", ((x0, y0, x1, y1),))


def _text(element: ElementTree.Element, name: str, path: Path, position: int) -> str:
    text = (element.findtext(name) or "").strip()
    if not text:
        raise DatasetError(f"record {position} of {path} has no {name!r}; is this the published file?")
    return text
