"""DSIFN change pairs: folders A (before), B (after) and label, with the same file names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data_engine.annotated import Annotated, Pair
from data_engine.layout import every, one_of
from data_engine.splits import split_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def read(folder: Path) -> Iterator[Annotated]:
    """Yield one pair a file name; mask pixels above 0 changed. Names are <scene>_<crop>: the scene is the place.

    Raises DatasetError where a folder, the later date or the label of a pair is missing.
    """
    later, labels = one_of(folder, "B"), one_of(folder, "label")
    for before in every(one_of(folder, "A"), "*.png"):
        after, mask = one_of(later, before.name), one_of(labels, before.name)
        place = f"dsifn-{before.stem.split('_')[0]}"
        pair = Pair((before,), (after,), ("rgb",), mask=mask)
        yield Annotated(image=after, sensor="rgb", place=place, split=split_of(place), pair=pair)
