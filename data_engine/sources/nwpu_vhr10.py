"""NWPU VHR-10: instances.json (COCO), referring.json (template expressions) and images/."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from data_engine.annotated import Box, Target
from data_engine.layout import field_of, numbers, one_of, read_json
from data_engine.sources.coco import Detections, Marked, load_detections, read_detections, records, target_of
from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from data_engine.annotated import Annotated


def read(folder: Path) -> Iterator[Annotated]:
    """Yield every image with its class targets, as `coco` does, and after them its expressions as referring targets.

    An expression's boxes are those of the annotations it names; only where it names none, its own boxes, which are
    rounded to percent of the image. The dataset gives no coordinates: the image is the place.
    Raises DatasetError as `coco.read`, and for an expression about an image or annotation that is not listed.
    """
    detections = load_detections(one_of(folder, "instances.json"))
    referring = _expressions(one_of(folder, "referring.json"), detections)
    items = read_detections(detections, folder, name="nwpu-vhr10")
    for file_name, item in zip(sorted(detections.sizes), items, strict=True):
        yield replace(item, targets=item.targets + tuple(referring.get(file_name, ())))


def _expressions(path: Path, detections: Detections) -> dict[str, list[Target]]:
    targets: dict[str, list[Target]] = {}
    for position, row in enumerate(records(read_json(path), "expressions", path)):
        file_name = str(field_of(row, "image", path, position))
        if file_name not in detections.sizes:
            raise DatasetError(f"record {position} of {path} is about {file_name!r}, which {detections.path} lacks")
        things = _named(row, detections, path, position)
        phrase = str(field_of(row, "expression", path, position))
        targets.setdefault(file_name, []).append(target_of(phrase, "referring", things))
    return targets


def _named(row: Any, detections: Detections, path: Path, position: int) -> list[Marked]:
    file_name = row["image"]
    marked = detections.marked[file_name]
    things = []
    for identity in _list(row, "ann_ids", path, position):
        if not isinstance(identity, int | str) or identity not in marked:
            raise DatasetError(f"record {position} of {path} names annotation {identity!r}, which {file_name} lacks")
        things.append(marked[identity])
    if things:
        return things
    percent = _list(row, "boxes_pct_earthdial", path, position)
    return [Marked("", _pixels(numbers(box, 4, path, position), detections.sizes[file_name])) for box in percent]


def _list(row: Any, key: str, path: Path, position: int) -> list[Any]:
    values = field_of(row, key, path, position)
    if not isinstance(values, list):
        raise DatasetError(f"record {position} of {path} has {values!r:.80} as {key!r}, which is no list; fix it")
    return values


def _pixels(percent: tuple[float, ...], size: tuple[float, float]) -> Box:
    x0, y0, x1, y1 = percent
    width, height = size
    return x0 * width / 100, y0 * height / 100, x1 * width / 100, y1 * height / 100
