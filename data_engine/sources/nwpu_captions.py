"""NWPU-Captions: dataset_nwpu.json lists five sentences an image under each of the 45 scenes of NWPU-RESISC45."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from data_engine.annotated import Annotated
from data_engine.layout import field_of, listed, one_of, read_json, split_in, words
from data_engine.sources.captioned import records, spoken
from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

logger = logging.getLogger(__name__)

SENTENCES = ("raw", "raw_1", "raw_2", "raw_3", "raw_4")
NEVER_PUBLISHED = frozenset({"airplane_111.jpg"})  # listed, but the archive holds 31,499 of the 31,500 images


def read(folder: Path) -> Iterator[Annotated]:
    """Yield every listed image with its sentences, its scene as words, and the published split.

    Images lie in NWPU_images/<scene>/ or flat in NWPU_images/. The one image that the published archive lacks is
    passed over, and logged, where it is missing; any other missing image raises DatasetError, as do missing fields
    and names that lead out of the folder.
    """
    listing = one_of(folder, "dataset_nwpu.json")
    images = one_of(folder, "NWPU_images", "images", "NWPU-Captions_images")
    content = read_json(listing)
    if not isinstance(content, dict):
        raise DatasetError(f"{listing} is no list of images under scenes; is this the published file?")
    position = 0
    for scene in content:
        for row in records(content, scene, listing):
            position += 1
            name = words(row, "filename", listing, position)
            if name in NEVER_PUBLISHED and not _present(images, scene, name):
                logger.warning("%s is listed by NWPU-Captions and missing from its archive; it is left out", name)
                continue
            inside = f"{scene}/{name}" if (images / scene).is_dir() else name
            yield _annotated(row, scene, listed(images, inside, listing, position), listing, position)


def _annotated(row: Any, scene: str, image: Path, listing: Path, position: int) -> Annotated:
    label = " ".join(scene.replace("_", " ").split())
    return Annotated(
        image=image,
        sensor="rgb",
        place=f"nwpu-{image.name}",
        split=split_in(row, listing, position),
        captions=spoken([field_of(row, key, listing, position) for key in SENTENCES], listing, position),
        labels=(label,),
        scene=label,
    )


def _present(images: Path, scene: str, name: str) -> bool:
    return (images / scene / name).is_file() or (images / name).is_file()
