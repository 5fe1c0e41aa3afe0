"""What recipes make and packs hold: one text with the images it is about, and where all of it came from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from rsvlm.errors import DatasetError
from rsvlm.language.plan import Plan

if TYPE_CHECKING:
    from pathlib import Path

KINDS = ("caption", "question", "referring", "change", "plan", "wording")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a sample came from, so that it can be found, repeated and left out."""

    source: str  # name in the catalogue
    place: str
    split: str
    recipe: str  # "questions/presence@1": module, template group, version of the recipe
    seed: int


@dataclass(frozen=True, slots=True)
class Shown:
    """One image a sample is about: a raster, or one file a band in the order of `bands`."""

    files: tuple[str, ...]
    sensor: str
    bands: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """One training example. Fields that a kind does not use are empty.

    caption    images; text is the caption
    question   images; text is the question, answer its short answer, type as in protocols.md, plan what to measure
    referring  images; text is the expression; boxes, polygons (pixels) or mask (a file) say where; none: not there
    change     two images (or two a sensor, all before then all after); text is the question or "", answer the
               sentence or short answer, mask the changed pixels
    plan       no images; text is a question, plan what it should become
    wording    no images; text is the question, facts and hits what was measured and found, answer the sentence
    """

    kind: str
    text: str
    origin: Origin
    images: tuple[Shown, ...] = ()
    answer: str = ""
    type: str = ""
    plan: Plan | None = None
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    polygons: tuple[tuple[tuple[float, float], ...], ...] = ()
    mask: str = ""
    facts: tuple[dict[str, Any], ...] = field(default=())  # Fact.to_json()
    hits: tuple[dict[str, Any], ...] = field(default=())  # rank, score, sensor, acquired, caption, chip_id

    def __post_init__(self) -> None:
        if self.kind not in KINDS or not (self.text.strip() or self.kind == "change"):
            raise DatasetError(f"a sample is one of {', '.join(KINDS)} with a text; got {self.kind!r}, {self.text!r}")

    def to_json(self) -> dict[str, Any]:
        """Plain values, empty fields left out."""
        plain = {key: value for key, value in asdict(self).items() if value or key == "text"}
        return plain | ({"plan": self.plan.to_json()} if self.plan else {})

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Sample:
        """Read back `to_json`, also after a trip through JSON; raises DatasetError on what does not fit."""
        try:
            given = dict(plain)
            unknown = sorted(set(given) - {f.name for f in fields(cls)})
            if unknown:
                raise DatasetError(f"a sample has no fields {', '.join(unknown)}")
            given["origin"] = Origin(**given["origin"])
            given["images"] = tuple(
                Shown(tuple(each["files"]), each["sensor"], tuple(each.get("bands", ())))
                for each in given.get("images", ())
            )
            given["boxes"] = tuple(tuple(box) for box in given.get("boxes", ()))
            given["polygons"] = tuple(tuple(tuple(p) for p in ring) for ring in given.get("polygons", ()))
            given["plan"] = Plan.from_json(given["plan"]) if given.get("plan") else None
            given["facts"], given["hits"] = tuple(given.get("facts", ())), tuple(given.get("hits", ()))
            return cls(**given)
        except (KeyError, TypeError) as error:
            raise DatasetError(f"this is no sample ({error}): {json.dumps(plain, default=str)[:120]}") from error


def shown(image: Path | tuple[Path, ...], sensor: str, bands: tuple[str, ...] = ()) -> Shown:
    """An image of an annotation as a sample names it."""
    files = image if isinstance(image, tuple) else (image,)
    return Shown(tuple(str(file) for file in files), sensor, bands)
