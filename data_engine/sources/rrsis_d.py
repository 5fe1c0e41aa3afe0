"""RRSIS-D: expressions in a pickle of plain records, boxes and masks in a COCO-like instances.json."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import rasterio.features

from data_engine.annotated import Annotated, Ring, Target
from data_engine.layout import field_of, listed, numbers, one_of, read_json
from data_engine.sources.coco import identity_of, records, ring_area
from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SPLITS = ("train", "val", "test")
LARGEST = 1 << 28  # bytes of the pickle; the published one has a few million
PIXELS = 1 << 26  # of one mask


def read(folder: Path) -> Iterator[Annotated]:
    """Yield every image with its expressions as referring targets, in the published splits.

    The box is the annotation's `bbox`, which holds corners x0, y0, x1, y1 in this dataset. The polygon is the outline
    of the mask's largest part along pixel edges: holes and smaller parts are lost, so that the dataset's own mask IoU
    needs the run lengths in instances.json. An image with expressions in two splits is yielded once a split.
    Expressions do not cover every object, so that there are no labels. Raises DatasetError for what is missing, a
    pickle that holds more than containers, numbers and text, and records that lack a field or do not fit.
    """
    source = one_of(folder, "rrsisd/refs(unc).p", "refs(unc).p")
    images = one_of(folder, "images/rrsisd/JPEGImages", "JPEGImages")
    instances = one_of(folder, "rrsisd/instances.json", "instances.json")
    annotations = {
        identity_of(row, "id", instances, n): row
        for n, row in enumerate(
            records(field_of(read_json(instances), "annotations", instances, 0), "annotations", instances)
        )
    }
    found: dict[tuple[str, str], list[Target]] = {}
    for position, row in enumerate(_load_plain(source)):
        split = field_of(row, "split", source, position)
        if split not in SPLITS:
            raise DatasetError(f"record {position} of {source} is of split {split!r}; splits are {', '.join(SPLITS)}")
        file_name = field_of(row, "file_name", source, position)
        listed(images, file_name, source, position)
        annotation = annotations.get(identity_of(row, "ann_id", source, position))
        if annotation is None:
            raise DatasetError(f"record {position} of {source} is of annotation {row['ann_id']!r}, not in {instances}")
        found.setdefault((file_name, split), []).extend(_targets(row, annotation, (source, instances), position))
    for (file_name, split), targets in sorted(found.items()):
        yield Annotated(images / file_name, "rgb", f"rrsis-d-{file_name}", split, targets=tuple(targets))


class _PlainUnpickler(pickle.Unpickler):
    """Builds containers, numbers and text; nothing is looked up by name, so that nothing can be called."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _load_plain(path: Path) -> list[dict[str, Any]]:
    """The list in a pickle; raises DatasetError where it holds anything but plain values, before it is made."""
    if path.stat().st_size > LARGEST:
        raise DatasetError(f"{path} has more than {LARGEST} bytes, which the published file has not; fetch it again")
    try:
        with path.open("rb") as file:
            rows = _PlainUnpickler(file, encoding="utf-8").load()
    except (
        pickle.UnpicklingError,
        AttributeError,
        EOFError,
        LookupError,
        OverflowError,
        TypeError,
        ValueError,
    ) as error:
        raise DatasetError(
            f"{path} is no pickle of plain records ({error}); do not trust it, fetch it again"
        ) from error
    return records(rows, "expressions", path)


def _targets(row: Any, annotation: Any, sources: tuple[Path, Path], position: int) -> list[Target]:
    """One target a sentence about an annotation."""
    source, instances = sources
    identity = annotation["id"]
    x0, y0, x1, y1 = numbers(field_of(annotation, "bbox", instances, identity), 4, instances, identity)
    if x1 < x0 or y1 < y0:
        raise DatasetError(f"record {identity} of {instances} has bbox {annotation['bbox']}; wanted x0, y0, x1, y1")
    ring = _outline(annotation.get("segmentation"), instances, identity)
    sentences = records(field_of(row, "sentences", source, position), f"sentences of record {position}", source)
    phrases = [str(field_of(sentence, "sent", source, position)) for sentence in sentences]
    return [Target(phrase, "referring", ((x0, y0, x1, y1),), (ring,) if ring else ()) for phrase in phrases]


def _outline(segmentation: Any, path: Path, position: int) -> Ring:
    """The outer ring, in pixels, of the largest part of run lengths; () where there are none."""
    from pycocotools import mask

    rle = segmentation[0] if isinstance(segmentation, list) and segmentation else segmentation
    if not rle:
        return ()
    counts = field_of(rle, "counts", path, position)
    height, width = numbers(field_of(rle, "size", path, position), 2, path, position)
    if not isinstance(counts, str) or not counts.isascii() or not 0 < height * width <= PIXELS:
        raise DatasetError(f"record {position} of {path} has no run lengths of a mask up to {PIXELS} pixels; fix it")
    try:
        pixels = mask.decode({"size": [int(height), int(width)], "counts": counts})
    except ValueError as error:
        raise DatasetError(f"record {position} of {path} has damaged run lengths ({error}); fetch it again") from error
    if mask.encode(pixels)["counts"] != counts.encode():  # decode fills what runs do not reach with anything
        raise DatasetError(f"record {position} of {path} has run lengths that do not fill its mask; fetch it again")
    shapes = rasterio.features.shapes(pixels, mask=pixels > 0)
    rings: list[Ring] = [tuple((float(x), float(y)) for x, y in shape["coordinates"][0][:-1]) for shape, _ in shapes]
    return max(rings, key=ring_area, default=())
