"""refGeo: referring expressions of RSVG, DIOR-RSVG, GeoChat, VRSBench and AVVG in one form, JSON Lines."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from data_engine.annotated import Annotated, Box, Ring, Target
from data_engine.layout import SPLITS, every, field_of, listed, numbers, one_of, words
from data_engine.layout import read_records as read_lines
from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LISTING = re.compile(r"(?P<part>\w+)_(?P<split>train|val|test)")
FOLDERS = {
    "avvg": ("avvg", "AVVG"),
    "dior_rsvg": ("dior_rsvg", "DIOR-RSVG"),
    "geochat": ("geochat", "GeoChat"),
    "rsvg": ("rsvg", "RSVG"),
    "vrsbench": ("vrsbench", "VRSBench"),
}
ORIENTED = ("avvg", "geochat", "vrsbench")  # in the others `poly` repeats the upright box


@dataclass(slots=True)
class _Referred:
    """What is asked of one image: the boxes and rings of each expression."""

    position: int
    boxes: dict[str, list[Box]] = field(default_factory=dict)
    rings: dict[str, list[Ring]] = field(default_factory=dict)


def read(folder: Path) -> Iterator[Annotated]:
    """Yield every image of metainfo/<part>_<split>.jsonl with its expressions, boxes, and oriented boxes as polygons.

    Records with one expression on one image are one target with several boxes. Places of images that DIOR-RSVG's and
    VRSBench's own readers yield too are named as there. The names of files and fields are those that published loaders
    and evaluations use, with pixels as units; no copy was at hand.
    Raises DatasetError for missing files, unknown parts, and records without image, question or a box with area.
    """
    root = one_of(folder, "metainfo")
    for listing in every(root, "*.jsonl"):
        match = LISTING.fullmatch(listing.stem)
        if match is None or match["part"] not in FOLDERS:
            raise DatasetError(f"{listing} is no part of refGeo; the parts are {', '.join(FOLDERS)}; take it away")
        images = one_of(one_of(folder, "images"), *FOLDERS[match["part"]])
        yield from _part(images, listing, match["part"], SPLITS[match["split"]])


def _part(images: Path, listing: Path, part: str, split: str) -> Iterator[Annotated]:
    told: dict[str, _Referred] = {}
    for position, row in enumerate(read_lines(listing), 1):
        referred = told.setdefault(words(row, "image_id", listing, position), _Referred(position))
        phrase = words(row, "question", listing, position)
        box, ring = _outline(row, listing, position)
        referred.boxes.setdefault(phrase, []).append(box)
        if part in ORIENTED:
            referred.rings.setdefault(phrase, []).append(ring)
    for name, referred in told.items():
        targets = (
            Target(phrase, "referring", tuple(boxes), tuple(referred.rings.get(phrase, ())))
            for phrase, boxes in referred.boxes.items()
        )
        image = listed(images, name, listing, referred.position)
        yield Annotated(image, "rgb", _place(part, image.stem), split, targets=tuple(targets))


def _outline(row: Any, listing: Path, position: int) -> tuple[Box, Ring]:
    """The upright box and the four corners of the oriented one, in pixels; each is told by the other."""
    corners = row.get("poly") if isinstance(row, dict) else None
    if corners is None:
        x0, y0, x1, y1 = numbers(field_of(row, "bbox", listing, position), 4, listing, position)
        ring: Ring = ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
    else:
        nested = isinstance(corners, list) and all(isinstance(corner, list) for corner in corners)
        flat = numbers([n for corner in corners for n in corner] if nested else corners, 8, listing, position)
        ring = tuple(zip(flat[::2], flat[1::2], strict=True))
        around = [f(axis) for f in (min, max) for axis in zip(*ring, strict=True)]
        x0, y0, x1, y1 = numbers(row.get("bbox", around), 4, listing, position)
    if x0 >= x1 or y0 >= y1:
        raise DatasetError(f"record {position} of {listing} has the box {(x0, y0, x1, y1)}, which has no area; fix it")
    return (x0, y0, x1, y1), ring


def _place(part: str, stem: str) -> str:
    if part == "dior_rsvg":
        return f"dior-rsvg-{stem}"
    if part == "vrsbench":
        return f"vrsbench-{stem.rsplit('_', 1)[0]}"
    return f"refgeo-{part}-{stem}"
