"""Captioned images as RSICD's publishers lay them out: one JSON with five sentences an image, beside the images."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data_engine.annotated import Annotated
from data_engine.layout import field_of, listed, one_of, read_json, split_in, words
from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IMAGE_FOLDERS = ("images", "imgs")
NAMED_AFTER_SCENE = re.compile(r"([A-Za-z]+)_\d+\.\w+")  # "airport_1.jpg"; "00001.jpg" says nothing
SPOKEN = {
    "bareland": "bare land",
    "baseballfield": "baseball field",
    "denseresidential": "dense residential",
    "mediumresidential": "medium residential",
    "railwaystation": "railway station",
    "sparseresidential": "sparse residential",
    "storagetanks": "storage tanks",
}


@dataclass(frozen=True, slots=True)
class Layout:
    """How one dataset names its files: the listing, the folder of images, and scenes in the names of images."""

    name: str
    listings: tuple[str, ...]
    images: tuple[str, ...]
    scene_in_name: bool = False


RSICD = Layout(
    "rsicd",
    ("dataset_rsicd.json", "annotations_rsicd/dataset_rsicd.json"),
    ("RSICD_images", *IMAGE_FOLDERS),
    scene_in_name=True,
)
UCM = Layout("ucm", ("dataset.json", "dataset_ucm.json"), (*IMAGE_FOLDERS, "UCM_images", "UCM_imgs"))
SYDNEY = Layout("sydney", ("dataset.json", "dataset_sydney.json"), (*IMAGE_FOLDERS, "Sydney_images", "Sydney_imgs"))
RSITMD = Layout("rsitmd", ("dataset_RSITMD.json",), ("images", "RSITMD_images", "imgs"), scene_in_name=True)


def read_rsicd(folder: Path) -> Iterator[Annotated]:
    """RSICD with its published split; raises DatasetError as `read_layout`."""
    return read_layout(folder, RSICD)


def read_ucm(folder: Path) -> Iterator[Annotated]:
    """UCM-Captions with its published split; raises DatasetError as `read_layout`."""
    return read_layout(folder, UCM)


def read_sydney(folder: Path) -> Iterator[Annotated]:
    """Sydney-Captions with its published split; raises DatasetError as `read_layout`."""
    return read_layout(folder, SYDNEY)


def read_rsitmd(folder: Path) -> Iterator[Annotated]:
    """RSITMD with its published split, train and test; raises DatasetError as `read_layout`.

    Its training part contains images of RSICD's test part under other names: check for near-duplicates before
    training on one and testing on the other.
    """
    return read_layout(folder, RSITMD)


def read_layout(folder: Path, layout: Layout) -> Iterator[Annotated]:
    """Yield every listed image with its sentences, in the order of the listing; the image is the place.

    Raises DatasetError for a missing file, a record without a needed field, and a name that leads out of the folder.
    """
    listing = one_of(folder, *layout.listings)
    images = one_of(folder, *layout.images)
    for position, row in enumerate(records(read_json(listing), "images", listing), 1):
        name = words(row, "filename", listing, position)
        scene = scene_of(name) if layout.scene_in_name else ""
        yield Annotated(
            image=listed(images, name, listing, position),
            sensor="rgb",
            place=f"{layout.name}-{name}",
            split=split_in(row, listing, position),
            captions=sentences(row, listing, position),
            labels=(scene,) if scene else (),
            scene=scene,
        )


def records(content: Any, key: str, listing: Path) -> list[Any]:
    """The list under a key of a listing; raises DatasetError where there is none."""
    rows = content.get(key) if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise DatasetError(f"{listing} holds no list {key!r}; is this the published file?")
    return rows


def sentences(row: Any, listing: Path, position: int) -> tuple[str, ...]:
    """The `raw` text of every sentence that is not blank (early RSITMD has blank ones); raises without any."""
    told = field_of(row, "sentences", listing, position)
    if not isinstance(told, list):
        raise DatasetError(f"record {position} of {listing} needs a list in 'sentences', got {told!r}; fetch it again")
    return spoken([field_of(sentence, "raw", listing, position) for sentence in told], listing, position)


def spoken(raw: list[Any], listing: Path, position: int) -> tuple[str, ...]:
    """Sentences without the blank ones, runs of white space made one; raises DatasetError where none is left."""
    wrong = [text for text in raw if not isinstance(text, str)]
    kept = tuple(" ".join(text.split()) for text in raw if isinstance(text, str) and text.strip())
    if wrong or not kept:
        found = repr(wrong[0]) if wrong else "only blanks"
        raise DatasetError(f"record {position} of {listing} needs text in 'raw', got {found}; fetch the file again")
    return kept


def scene_of(name: str) -> str:
    """The scene a file is named after, as words ("storagetanks_3.jpg" -> "storage tanks"), or "" where it is not."""
    match = NAMED_AFTER_SCENE.fullmatch(name)
    scene = match[1].lower() if match else ""
    return SPOKEN.get(scene, scene)
