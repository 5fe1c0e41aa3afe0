"""LEVIR-CC and LEVIR-MCI: two dates of one place with five sentences on what changed, and in MCI the changed pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data_engine.annotated import Annotated, Pair
from data_engine.layout import listed, one_of, read_json, split_in, words
from data_engine.sources.captioned import records, sentences

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def read_cc(folder: Path) -> Iterator[Annotated]:
    """Yield every pair of LEVIR-CC with its sentences and published split; raises DatasetError as `read_mci`."""
    return _read(folder, masks=False)


def read_mci(folder: Path) -> Iterator[Annotated]:
    """Yield every pair of LEVIR-MCI with its mask beside sentences and split.

    In a mask 128 is a changed road, 255 a changed building. The images are LEVIR-CC's under the same names, so that
    both give one place for one image.
    Raises DatasetError for a missing file, a record without a needed field, and a name that leads out of the folder.
    """
    return _read(folder, masks=True)


def _read(folder: Path, *, masks: bool) -> Iterator[Annotated]:
    listing = one_of(folder, "LevirCCcaptions.json")
    images = one_of(folder, "images")
    kinds = ("A", "B", "label") if masks else ("A", "B")
    for position, row in enumerate(records(read_json(listing), "images", listing), 1):
        part = words(row, "filepath", listing, position)
        name = words(row, "filename", listing, position)
        before, after, *mask = (listed(images, f"{part}/{kind}/{name}", listing, position) for kind in kinds)
        pair = Pair(
            before=(before,),
            after=(after,),
            sensors=("rgb",),
            mask=mask[0] if masks else None,
            captions=sentences(row, listing, position),
        )
        yield Annotated(
            image=after, sensor="rgb", place=f"levir-{name}", split=split_in(row, listing, position), pair=pair
        )
