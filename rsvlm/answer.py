"""What an answer is made of: the plan, the measured facts, the regions, the numbered evidence, the sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rsvlm.errors import GeoreferenceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shapely.geometry.base import BaseGeometry

    from rsvlm.language.plan import Plan
    from rsvlm.scene import Region, Window


@dataclass(frozen=True)
class Fact:
    """One measured thing. `how` says by what method, so that a reader can repeat it; confidence is 0 to 1."""

    name: str
    value: float | int | str | bool
    unit: str  # "ha", "percent", "count", "" for words
    how: str
    confidence: float
    regions: tuple[Region, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the regions."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "how": self.how,
            "confidence": round(self.confidence, 3),
        }


@dataclass(frozen=True)
class Hit:
    """One piece of evidence from an archive; `rank` is the number it is cited by.

    `threshold` is the score up to which a chip, as a whole, is not what was asked for in words; None where the encoder
    has none for such chips, or the search was not in words alone.
    """

    rank: int
    chip_id: str
    score: float
    footprint: BaseGeometry | None  # longitude and latitude
    acquired: str | None  # ISO 8601
    sensor: str
    caption: str
    path: str
    window: Window
    metadata: dict[str, Any]
    threshold: float | None = None

    @property
    def unlike(self) -> bool:
        """Whether it is no more than the nearest of what does not fit; False where nothing can tell."""
        return self.threshold is not None and self.score <= self.threshold

    def to_json(self) -> dict[str, Any]:
        """Plain values, the footprint as GeoJSON."""
        w = self.window
        return {
            "rank": self.rank,
            "chip_id": self.chip_id,
            "score": round(self.score, 4),
            "threshold": None if self.threshold is None else round(self.threshold, 4),
            "unlike": self.unlike,
            "sensor": self.sensor,
            "acquired": self.acquired,
            "caption": self.caption,
            "path": self.path,
            "window": [w.row, w.col, w.height, w.width],
            "footprint": None if self.footprint is None else self.footprint.__geo_interface__,
            **self.metadata,
        }

    def to_feature(self) -> dict[str, Any]:
        """GeoJSON feature; geometry is null for a chip without a place."""
        properties = {key: value for key, value in self.to_json().items() if key != "footprint"}
        geometry = None if self.footprint is None else self.footprint.__geo_interface__
        return {"type": "Feature", "geometry": geometry, "properties": properties}


def nothing_like_that(hits: Sequence[Hit]) -> str:
    """Why the hits of a search are no answer to it, as a clause; "" where one may be, or nothing can tell.

    The best hit must be among them. The more chips an archive holds, the likelier one is above the threshold by
    chance, so silence says less than the clause.
    """
    if not hits or hits[0].rank != 1 or not all(hit.unlike for hit in hits):
        return ""
    scores = f"best score {hits[0].score:.2f}, threshold {hits[0].threshold:.2f}"
    return f"none of the best matches is like that as a whole ({scores}); small objects in them are not ruled out"


@dataclass(frozen=True)
class Answer:
    """A sentence with everything it rests on."""

    text: str
    question: str
    plan: Plan
    facts: tuple[Fact, ...]
    regions: tuple[Region, ...]
    hits: tuple[Hit, ...]
    model: str
    abstained: bool
    source: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        return {
            "text": self.text,
            "question": self.question,
            "abstained": self.abstained,
            "plan": self.plan.to_json(),
            "facts": [fact.to_json() for fact in self.facts],
            "regions": [region.to_json() for region in self.regions],
            "hits": [hit.to_json() for hit in self.hits],
            "model": self.model,
            "source": self.source,
        }

    def to_geojson(self) -> dict[str, Any]:
        """GeoJSON FeatureCollection (RFC 7946) of the regions; raises GeoreferenceError without a place on Earth."""
        if any(region.grid.crs is None for region in self.regions):
            raise GeoreferenceError(
                "GeoJSON needs longitude and latitude, but the image has no coordinate system; "
                "use the JSON answer, which holds pixel outlines"
            )
        return {"type": "FeatureCollection", "features": [region.to_feature() for region in self.regions]}
