"""COCO detections: any annotation file of that layout, with the images it lists."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_engine.annotated import Annotated, Box, Ring, Target
from data_engine.layout import field_of, listed, number, numbers, one_of, read_json
from data_engine.splits import split_of
from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

ABSENT = 2  # phrases an image gets for categories that are not there, so that false alarms can be measured


@dataclass(frozen=True, slots=True)
class Marked:
    """One marked object; `ring` outlines it, () where the file has no polygon for it."""

    category: str
    box: Box
    ring: Ring = ()


@dataclass(frozen=True, slots=True)
class Detections:
    """One annotation file: what it lists by image file name, and there by annotation id.

    `unclear` are categories an image shows only as a crowd or with an empty box: neither there nor absent.
    """

    path: Path
    categories: tuple[str, ...]
    sizes: dict[str, tuple[float, float]]  # width, height in pixels
    marked: dict[str, dict[int | str, Marked]]
    unclear: dict[str, set[str]]


def read(folder: Path) -> Iterator[Annotated]:
    """Yield the images of `annotations/instances_<part>.json` with folders `<part>`, or of one `instances.json`.

    Parts named train, val or test are those splits; otherwise the image is the place that is split by.
    Raises DatasetError where a file or image is missing, a record lacks a field, or a number is none.
    """
    parts = sorted((folder / "annotations").glob("instances_*.json"))
    for path in parts:
        part = path.stem.removeprefix("instances_")
        split = next((name for name in ("train", "val", "test") if part.startswith(name)), "")
        yield from read_detections(load_detections(path), one_of(folder, part, f"images/{part}"), split=split)
    if not parts:
        path = one_of(folder, "instances.json", "annotations.json", "annotations/instances.json")
        yield from read_detections(load_detections(path), folder)


def read_detections(
    detections: Detections, images: Path, *, name: str = "coco", split: str = ""
) -> Iterator[Annotated]:
    """Yield every image of an annotation file, by file name, with one class target a category.

    COCO detections are complete for their categories: at most two that are not there become targets without
    boxes, chosen by the file name. `boxes[i]` and `polygons[i]` of a target are of one object; polygons are given
    where every object of the category has one (of an object in parts, the largest).

    Args:
        detections: as loaded.
        images: the folder that file names are relative to; images/ below it is looked in too.
        name: of the dataset, goes before the file name to make the place.
        split: of all images; "" cuts by place.
    """
    below = images / "images"
    for position, file_name in enumerate(sorted(detections.sizes)):
        found = below if (below / file_name).is_file() else images
        place = f"{name}-{file_name}"
        things = present_targets(detections.marked[file_name].values())
        labels = tuple(target.phrase for target in things)
        there = {*labels, *detections.unclear[file_name]}
        yield Annotated(
            image=listed(found, file_name, detections.path, position),
            sensor="rgb",
            place=place,
            split=split or split_of(place),
            labels=labels,
            targets=things + absent_targets(detections.categories, there, place),
        )


def load_detections(path: Path) -> Detections:
    """Read an annotation file; crowds (iscrowd 1) and boxes without area are passed over."""
    data = read_json(path)
    categories = {
        identity_of(row, "id", path, n): words(str(identity_of(row, "name", path, n)))
        for n, row in enumerate(records(field_of(data, "categories", path, 0), "categories", path))
    }
    names: dict[int | str, str] = {}
    sizes: dict[str, tuple[float, float]] = {}
    for n, row in enumerate(records(field_of(data, "images", path, 0), "images", path)):
        file_name = str(identity_of(row, "file_name", path, n))
        names[identity_of(row, "id", path, n)] = file_name
        sizes[file_name] = (number(row, "width", path, n), number(row, "height", path, n))
    marked: dict[str, dict[int | str, Marked]] = {file_name: {} for file_name in sizes}
    unclear: dict[str, set[str]] = {file_name: set() for file_name in sizes}
    for n, row in enumerate(records(field_of(data, "annotations", path, 0), "annotations", path)):
        file_name = _known(names, row, "image_id", path, n)
        category = _known(categories, row, "category_id", path, n)
        x, y, width, height = numbers(field_of(row, "bbox", path, n), 4, path, n)
        if row.get("iscrowd") or width <= 0 or height <= 0:
            unclear[file_name].add(category)
            continue
        ring = _largest_ring(row.get("segmentation"), path, n)
        marked[file_name][identity_of(row, "id", path, n)] = Marked(category, (x, y, x + width, y + height), ring)
    return Detections(path, tuple(sorted(set(categories.values()))), sizes, marked, unclear)


def present_targets(things: Iterable[Marked]) -> tuple[Target, ...]:
    """One class target a category, sorted by category."""
    groups: dict[str, list[Marked]] = {}
    for thing in things:
        groups.setdefault(thing.category, []).append(thing)
    return tuple(target_of(category, "class", group) for category, group in sorted(groups.items()))


def target_of(phrase: str, kind: str, things: Sequence[Marked]) -> Target:
    """A target of these objects; polygons only where each of them has one."""
    rings = tuple(thing.ring for thing in things)
    return Target(phrase, kind, tuple(thing.box for thing in things), rings if all(rings) else ())


def absent_targets(categories: Iterable[str], there: set[str], place: str) -> tuple[Target, ...]:
    """Targets without boxes for at most two categories that are not there; the place decides which."""
    missing = sorted(set(categories) - there)
    chosen = random.Random(place).sample(missing, min(ABSENT, len(missing)))
    return tuple(Target(category) for category in sorted(chosen))


def words(name: str) -> str:
    """A category name as words: "storage_tank" -> "storage tank"."""
    return " ".join(re.split(r"[\s_-]+", name.strip("_- "))).lower()


def records(rows: Any, key: str, path: Path) -> list[dict[str, Any]]:
    """A list of records, called `key` in the error; raises DatasetError where it is none."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DatasetError(f"{path} has no list of records as its {key}; is this the published file?")
    return rows


def identity_of(row: Any, key: str, path: Path, position: int) -> int | str:
    """One id of a record, a number or a text; raises DatasetError where it is neither."""
    value = field_of(row, key, path, position)
    if not isinstance(value, int | str):
        raise DatasetError(f"record {position} of {path} has {value!r:.80} as {key!r}, which is no id; fix it")
    return value


def _known(names: dict[int | str, str], row: Any, key: str, path: Path, position: int) -> str:
    identity = identity_of(row, key, path, position)
    if identity not in names:
        raise DatasetError(f"record {position} of {path} has {key} {identity!r}, which the file does not list; fix it")
    return names[identity]


def _largest_ring(segmentation: Any, path: Path, position: int) -> Ring:
    """The largest polygon of a segmentation; () for none and for run lengths."""
    if not isinstance(segmentation, list):
        return ()
    rings: list[Ring] = []
    for flat in segmentation:
        count = len(flat) if isinstance(flat, list) and len(flat) >= 6 and len(flat) % 2 == 0 else 6
        values = numbers(flat, count, path, position)
        rings.append(tuple(zip(values[::2], values[1::2], strict=True)))
    return max(rings, key=ring_area, default=())


def ring_area(ring: Ring) -> float:
    """Square pixels inside a ring, by the shoelace formula."""
    pairs = zip(ring, ring[1:] + ring[:1], strict=True)
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairs)) / 2
