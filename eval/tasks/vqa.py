"""Questions about one image or two dates, answered by the whole assistant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from eval.answering import confidence_of, short_answer
from eval.metrics.answers import (
    PROTOCOLS,
    answer_statistics,
    constant_answer,
    majority_answers,
    random_answers,
)
from eval.predictions import Prediction, text_of
from rsvlm.errors import RsvlmError

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from pathlib import Path

    from eval.manifests import Picture, Questioned
    from eval.models import Models
    from eval.statistics import Statistics
    from eval.tasks.task import Settings
    from rsvlm.scene import Scene


@dataclass(frozen=True)
class Questions:
    """The protocol names the matcher of answers."""

    settings: Settings
    name: ClassVar[str] = "vqa"
    protocols: ClassVar[dict[str, str]] = PROTOCOLS
    uses: ClassVar[frozenset[str]] = frozenset({"encoder", "language"})

    @classmethod
    def of(cls, rows: Sequence[Questioned], settings: Settings) -> Questions:
        """The task over a whole manifest."""
        return cls(settings)

    def pictures(self, row: Questioned) -> tuple[Picture, ...]:
        """The image, or the earlier and the later one."""
        return row.pictures

    def asked(self, row: Questioned) -> Hashable:
        """The question."""
        return row.question

    def predict(
        self, rows: Sequence[Questioned], scenes: Sequence[tuple[Scene, ...]], models: Models, folder: Path
    ) -> list[Prediction]:
        """The short answer, the sentence, and how sure it is."""
        return [_answered(row, seen, models) for row, seen in zip(rows, scenes, strict=True)]

    def statistics(self, rows: Sequence[Questioned], predictions: Sequence[Prediction], folder: Path) -> Statistics:
        """Accuracies by type."""
        return self._statistics(rows, [text_of(prediction, "answer") for prediction in predictions])

    def baselines(
        self, rows: Sequence[Questioned], predictions: Sequence[Prediction], seed: int
    ) -> dict[str, Statistics]:
        """The most frequent answer of each type, of all, and a draw from each type's answers."""
        answers, kinds = [row.answer for row in rows], [row.kind for row in rows]
        return {
            "majority": self._statistics(rows, majority_answers(answers, kinds)),
            "constant": self._statistics(rows, [constant_answer(answers)] * len(rows)),
            "random": self._statistics(rows, random_answers(answers, kinds, seed)),
        }

    def _statistics(self, rows: Sequence[Questioned], given: Sequence[str]) -> Statistics:
        answers, kinds = [row.answer for row in rows], [row.kind for row in rows]
        return answer_statistics(given, answers, kinds, matcher=self.settings.protocol)


def _answered(row: Questioned, scenes: tuple[Scene, ...], models: Models) -> Prediction:
    """A question the assistant refuses (a change without overlap, hectares without a place) counts as abstained."""
    try:
        if len(scenes) == 2:
            answer = models.assistant.compare(scenes[0], scenes[1], row.question)
        else:
            answer = models.assistant.ask(scenes[0], row.question)
    except RsvlmError as error:
        return {"answer": "", "text": str(error), "abstained": True, "confidence": 0.0}
    return {
        "answer": short_answer(answer),
        "text": answer.text,
        "abstained": answer.abstained,
        "confidence": round(confidence_of(answer), 4),
    }
