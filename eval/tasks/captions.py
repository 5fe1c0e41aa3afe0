"""Captions against references, by the COCO protocol."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from eval.metrics.captions import PROTOCOL, caption_statistics, constant_caption, meteor, random_captions
from eval.predictions import Prediction, text_of
from rsvlm.errors import EvaluationError

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from pathlib import Path

    from eval.manifests import Captioned, Picture
    from eval.models import Models
    from eval.statistics import Statistics
    from eval.tasks.task import Settings
    from rsvlm.scene import Scene


@dataclass(frozen=True)
class Captions:
    """The captions of a line are its references."""

    settings: Settings
    name: ClassVar[str] = "captions"
    protocols: ClassVar[dict[str, str]] = {
        "coco": f"{PROTOCOL}; METEOR 1.5 by its Java scorer where Java is present",
        "coco-without-meteor": PROTOCOL,
    }
    uses: ClassVar[frozenset[str]] = frozenset({"encoder", "language"})

    @classmethod
    def of(cls, rows: Sequence[Captioned], settings: Settings) -> Captions:
        """The task over a whole manifest; raises EvaluationError for a line without references."""
        bare = next((row for row in rows if not row.captions), None)
        if bare is not None:
            raise EvaluationError(f"line {bare.number} of the manifest has no captions to compare with")
        return cls(settings)

    def pictures(self, row: Captioned) -> tuple[Picture, ...]:
        """The one image."""
        return (row.picture,)

    def asked(self, row: Captioned) -> Hashable:
        """Nothing but the image."""
        return ""

    def predict(
        self, rows: Sequence[Captioned], scenes: Sequence[tuple[Scene, ...]], models: Models, folder: Path
    ) -> list[Prediction]:
        """What the assistant says of each image."""
        answers = [models.assistant.caption(scene) for (scene,) in scenes]
        return [{"caption": answer.text, "abstained": answer.abstained} for answer in answers]

    def statistics(self, rows: Sequence[Captioned], predictions: Sequence[Prediction], folder: Path) -> Statistics:
        """BLEU, ROUGE-L and CIDEr, and METEOR where Java is present."""
        texts, references = [text_of(each, "caption") for each in predictions], [row.captions for row in rows]
        return self._statistics(texts, references)

    def baselines(
        self, rows: Sequence[Captioned], predictions: Sequence[Prediction], seed: int
    ) -> dict[str, Statistics]:
        """The most frequent reference for all (which no model can know), and a reference of another image."""
        references = [row.captions for row in rows]
        said = baseline_captions(references, seed)
        return {name: self._statistics(texts, references) for name, texts in said.items()}

    def _statistics(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
        statistics = caption_statistics(texts, references)
        if self.settings.protocol != "coco" or shutil.which("java") is None:
            return statistics
        # METEOR of a set is no mean of its images, so it has no interval
        return replace(statistics, fixed={"METEOR": meteor(texts, references)[0]})


def baseline_captions(references: Sequence[Sequence[str]], seed: int) -> dict[str, Sequence[str]]:
    """The most frequent reference for all (which no model can know), and a reference of another image."""
    found: dict[str, Sequence[str]] = {"constant": [constant_caption(references)] * len(references)}
    if len(references) > 1:
        found["random"] = random_captions(references, seed)
    return found
