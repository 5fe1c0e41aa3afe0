"""What every source yields: one image, or one pair of dates, with whatever people said or marked about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels of the image
Ring = tuple[tuple[float, float], ...]  # x, y in pixels of the image


@dataclass(frozen=True, slots=True)
class Target:
    """Something named, and where it is; no boxes, polygons or mask where it is not there.

    `kind` is "class" for a category and "referring" for an expression that means one thing of many.
    """

    phrase: str
    kind: str = "class"
    boxes: tuple[Box, ...] = ()
    polygons: tuple[Ring, ...] = ()
    mask: Path | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with its answer; `kind` is the question type its publishers give ("presence", "count", ...)."""

    question: str
    answer: str
    kind: str


@dataclass(frozen=True, slots=True)
class ClassMap:
    """A raster of class codes on the image's grid; `codes` names each, codes in `ignore` count nowhere."""

    path: Path
    codes: dict[str, str]
    band: int = 1
    ignore: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Pair:
    """Two dates of one place, seen by one or several sensors: `before[i]` and `after[i]` are of `sensors[i]`.

    Pixels of `mask` above 0 changed; `phrase` says into what ("flood"), "" for any change.
    """

    before: tuple[Path, ...]
    after: tuple[Path, ...]
    sensors: tuple[str, ...]
    mask: Path | None = None
    phrase: str = ""
    captions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Annotated:
    """One image with its sensor, place and annotations.

    `image` is one raster, or one file a band in the order of `bands`. Of a `pair` it is the later date.
    `split` is "train", "val" or "test": as published where it is, else cut by place. `labels` are all classes that
    are there, `scene` the one class of the whole image. `fractions` are shares (0 to 1) of land-cover classes.
    """

    image: Path | tuple[Path, ...]
    sensor: str
    place: str
    split: str
    captions: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    fractions: dict[str, float] = field(default_factory=dict)
    scene: str = ""
    bands: tuple[str, ...] = ()
    acquired: str = ""  # ISO 8601
    targets: tuple[Target, ...] = ()
    questions: tuple[Asked, ...] = ()
    class_map: ClassMap | None = None
    pair: Pair | None = None
