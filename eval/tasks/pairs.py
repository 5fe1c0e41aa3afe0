"""Image-to-image retrieval between two manifests, as of two sensors: the image of the same place is right."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from eval.manifests import read_captioned
from eval.metrics.pairs import pair_statistics
from eval.predictions import Prediction
from eval.tasks.retrieval import BY_PLACE, packed, unit_vectors, unpacked_vector
from rsvlm.errors import EvaluationError

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray

    from eval.manifests import Captioned, Picture
    from eval.models import Models
    from eval.statistics import Statistics
    from eval.tasks.task import Settings
    from rsvlm.scene import Scene

PROTOCOL = next(iter(BY_PLACE))
SIDES = ("image", "onto")


@dataclass(frozen=True)
class Pairs:
    """`partners` holds the image of the second manifest by the place both show; a line's prediction is two vectors."""

    partners: dict[str, Picture]
    settings: Settings
    name: ClassVar[str] = "retrieval"
    protocols: ClassVar[dict[str, str]] = BY_PLACE
    uses: ClassVar[frozenset[str]] = frozenset({"encoder"})

    @classmethod
    def of(cls, rows: Sequence[Captioned], settings: Settings) -> Pairs:
        """The task over two whole manifests; raises EvaluationError unless each shows the same places once."""
        if not settings.onto or settings.protocol != PROTOCOL:
            raise EvaluationError(
                f"a second manifest (--onto) goes with the protocol {PROTOCOL} and no other; got the protocol "
                f"{settings.protocol} and {settings.onto or 'no second manifest'}"
            )
        manifest = Path(settings.onto)
        asked = _by_place(rows, "the manifest")
        found = _by_place(read_captioned(manifest), str(manifest))
        for ours, theirs, lacking in ((asked, found, str(manifest)), (found, asked, "the manifest")):
            alone = next((place for place in ours if place not in theirs), None)
            if alone is not None:
                raise EvaluationError(
                    f"{lacking} has no image of {alone!r}, which line {ours[alone].number} of the other shows; "
                    "leave that line out or add the image"
                )
        return cls({place: row.picture for place, row in found.items()}, settings)

    def pictures(self, row: Captioned) -> tuple[Picture, ...]:
        """The image and the one of the other manifest that shows the same place."""
        return (row.picture, self.partners[row.picture.place])

    def asked(self, row: Captioned) -> Hashable:
        """Nothing: a pair is two images."""
        return ""

    def predict(
        self, rows: Sequence[Captioned], scenes: Sequence[tuple[Scene, ...]], models: Models, folder: Path
    ) -> list[Prediction]:
        """The vectors of both images, float32, as base64."""
        sides = [
            models.encoder.encode_scenes([self.settings.shown(scenes_of[side]) for scenes_of in scenes])
            for side in range(len(SIDES))
        ]
        return [
            {side: packed(vector) for side, vector in zip(SIDES, vectors, strict=True)}
            for vectors in zip(*sides, strict=True)
        ]

    def statistics(self, rows: Sequence[Captioned], predictions: Sequence[Prediction], folder: Path) -> Statistics:
        """Recalls onto the second manifest and back."""
        return pair_statistics(*(_vectors(predictions, side) for side in SIDES))

    def baselines(
        self, rows: Sequence[Captioned], predictions: Sequence[Prediction], seed: int
    ) -> dict[str, Statistics]:
        """Images in a drawn order, and all images alike (ties by place in the manifest)."""
        shape = _vectors(predictions, SIDES[0]).shape
        chance = np.random.default_rng(seed)
        drawn = [unit_vectors(chance.standard_normal(shape).astype(np.float32)) for _ in SIDES]
        alike = unit_vectors(np.ones(shape, np.float32))
        return {"random": pair_statistics(*drawn), "constant": pair_statistics(alike, alike)}


def _vectors(predictions: Sequence[Prediction], side: str) -> NDArray[np.float32]:
    """(N, D) unit vectors of one side of every pair."""
    found = [unpacked_vector(prediction.get(side)) for prediction in predictions]
    sizes = sorted({len(vector) for vector in found})
    if len(sizes) > 1:
        raise EvaluationError(f"vectors of one run have one length; got {', '.join(map(str, sizes))}")
    return np.stack(found)


def _by_place(rows: Sequence[Captioned], manifest: str) -> dict[str, Captioned]:
    found: dict[str, Captioned] = {}
    for row in rows:
        place = row.picture.place
        if not place:
            raise EvaluationError(f"line {row.number} of {manifest} names no place to find its partner by")
        if place in found:
            raise EvaluationError(
                f"line {row.number} of {manifest} shows {place!r} as line {found[place].number} does; "
                "give every place one image"
            )
        found[place] = row
    return found
