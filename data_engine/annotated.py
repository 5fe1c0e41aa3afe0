"""What every source yields: one image with whatever people said or marked about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Annotated:
    """One image (or several files of it) with its sensor, place and annotations.

    `split` is "train" or "val", cut by place; `fractions` are shares (0 to 1) of land-cover classes.
    """

    image: Path
    sensor: str
    place: str
    split: str
    captions: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    fractions: dict[str, float] = field(default_factory=dict)
