"""DIOR detections, upright and oriented (DIOR-R): a VOC XML file an image."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from data_engine.annotated import Annotated, Target
from data_engine.layout import every, listed, numbers, one_of, read_xml
from data_engine.sources.coco import Marked, absent_targets, present_targets, words
from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from xml.etree import ElementTree

SPLITS = ("train", "val", "test")
SPOKEN = {
    "baseballfield": "baseball field",
    "basketballcourt": "basketball court",
    "golffield": "golf course",
    "groundtrackfield": "ground track field",
    "storagetank": "storage tank",
    "tenniscourt": "tennis court",
    "trainstation": "train station",
    "windmill": "windmill",
}
FOLDERS = {False: "Horizontal Bounding Boxes", True: "Oriented Bounding Boxes"}
SIDES = ("xmin", "ymin", "xmax", "ymax")
CORNERS = tuple(
    f"{axis}_{corner}" for corner in ("left_top", "right_top", "right_bottom", "left_bottom") for axis in "xy"
)


def read(folder: Path, *, oriented: bool = False) -> Iterator[Annotated]:
    """Yield the images of ImageSets/Main/<split>.txt, in their order, with one target a class.

    Labels are complete: at most two classes that an image lacks become targets without boxes. Of oriented boxes the
    polygon has the four corners and the box lies around them. Images have the places of DIOR-RSVG's reader, which
    describes some of them. Folder and field names are those of published loaders; no copy was at hand.
    Raises DatasetError for missing folders, lists and images, damaged XML and objects without name or box.
    """
    lists = one_of(folder, "ImageSets/Main", "Main", "ImageSets")
    notes = one_of(
        folder, f"Annotations/{FOLDERS[oriented]}", FOLDERS[oriented], *(() if oriented else ("Annotations",))
    )
    one_of(lists, *(f"{split}.txt" for split in SPLITS))
    parts = [(split, lists / f"{split}.txt") for split in SPLITS if (lists / f"{split}.txt").is_file()]
    classes = sorted({thing.category for path in every(notes, "*.xml") for thing in _things(path, oriented)})
    for split, path in parts:
        names = path.read_text(encoding="utf-8-sig", errors="replace").split()
        for position, name in enumerate(names, 1):
            things = _things(listed(notes, f"{name}.xml", path, position), oriented)
            yield _annotated(_image(folder, name, path, position), things, classes, split)


read_oriented = partial(read, oriented=True)


def _annotated(image: Path, things: list[Marked], classes: list[str], split: str) -> Annotated:
    place = f"dior-rsvg-{image.stem}"
    targets: tuple[Target, ...] = present_targets(things)
    labels = tuple(target.phrase for target in targets)
    absent = absent_targets(classes, set(labels), place)
    return Annotated(image, "rgb", place, split, labels=labels, targets=targets + absent)


def _image(folder: Path, name: str, listing: Path, position: int) -> Path:
    roots = [folder / part for part in ("JPEGImages-trainval", "JPEGImages-test", "JPEGImages")]
    there = [root for root in roots if root.is_dir()]
    if not there:
        raise DatasetError(f"{folder} holds no JPEGImages-trainval, JPEGImages-test or JPEGImages; unpack them")
    root = next((root for root in there if (root / f"{name}.jpg").is_file()), there[0])
    return listed(root, f"{name}.jpg", listing, position)


def _things(path: Path, oriented: bool) -> list[Marked]:
    objects = read_xml(path).findall("object")
    return [_thing(element, path, position, oriented) for position, element in enumerate(objects, 1)]


def _thing(element: ElementTree.Element, path: Path, position: int, oriented: bool) -> Marked:
    name = (element.findtext("name") or "").strip()
    box = element.find("robndbox" if oriented else "bndbox")
    if not name or box is None:
        raise DatasetError(f"record {position} of {path} has no name or no box; is this the published file?")
    values = numbers(
        [_value(box, side) for side in (CORNERS if oriented else SIDES)], 8 if oriented else 4, path, position
    )
    xs, ys = values[::2], values[1::2]
    ring = tuple(zip(xs, ys, strict=True)) if oriented else ()
    plain = words(name)
    return Marked(SPOKEN.get(plain, plain), (min(xs), min(ys), max(xs), max(ys)), ring)


def _value(box: ElementTree.Element, side: str) -> object:
    text = box.findtext(side)
    try:
        return float(text) if text is not None else f"no {side}"
    except ValueError:
        return text
