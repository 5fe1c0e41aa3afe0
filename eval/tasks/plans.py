"""How often a language model reads a question as the plan it should be."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from eval.predictions import Prediction
from eval.statistics import Statistics, Sums, ratio
from rsvlm.errors import EvaluationError, PlanError, QueryError
from rsvlm.language.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from eval.manifests import Picture, Planned
    from eval.models import Models
    from eval.tasks.task import Settings
    from rsvlm.scene import Scene

KEYS = ("exact", "task", "target")


@dataclass(frozen=True)
class Plans:
    """There is no image, so there is no blind baseline: the model itself sees none."""

    settings: Settings
    name: ClassVar[str] = "plan"
    protocols: ClassVar[dict[str, str]] = {
        "exact": "exact: every field of the plan is equal; task and target (letter case aside) by themselves"
    }
    uses: ClassVar[frozenset[str]] = frozenset({"language"})

    @classmethod
    def of(cls, rows: Sequence[Planned], settings: Settings) -> Plans:
        """The task over a whole manifest."""
        return cls(settings)

    def pictures(self, row: Planned) -> tuple[Picture, ...]:
        """None."""
        return ()

    def asked(self, row: Planned) -> Hashable:
        """The question."""
        return row.question

    def predict(
        self, rows: Sequence[Planned], scenes: Sequence[tuple[Scene, ...]], models: Models, folder: Path
    ) -> list[Prediction]:
        """The plan of each question."""
        return [_planned(row.question, models) for row in rows]

    def statistics(self, rows: Sequence[Planned], predictions: Sequence[Prediction], folder: Path) -> Statistics:
        """Accuracies in percent."""
        return _statistics(rows, [_plan(prediction) for prediction in predictions])

    def baselines(self, rows: Sequence[Planned], predictions: Sequence[Prediction], seed: int) -> dict[str, Statistics]:
        """The most frequent plan of the most frequent task, "describe" for all, and the plan of another question."""
        task, _ = Counter(row.plan.task for row in rows).most_common(1)[0]
        majority, _ = Counter(row.plan for row in rows if row.plan.task == task).most_common(1)[0]
        drawn = np.random.default_rng(seed).permutation(len(rows))
        return {
            "majority": _statistics(rows, [majority] * len(rows)),
            "constant": _statistics(rows, [Plan("describe")] * len(rows)),
            "random": _statistics(rows, [rows[i].plan for i in drawn]),
        }


def _planned(question: str, models: Models) -> Prediction:
    """A question the model refuses, such as a very long one, counts as one it cannot answer."""
    try:
        return {"plan": models.language.plan(question, "").to_json()}
    except QueryError as error:
        return {"plan": Plan("abstain").to_json(), "text": str(error)}


def _plan(prediction: Prediction) -> Plan:
    try:
        return Plan.from_json(prediction["plan"])
    except (KeyError, TypeError, AttributeError, PlanError) as error:
        raise EvaluationError(f"a prediction needs a plan: {error}") from error


def _statistics(rows: Sequence[Planned], plans: Sequence[Plan]) -> Statistics:
    right = [
        (1, given == row.plan, given.task == row.plan.task, given.target.lower() == row.plan.target.lower())
        for row, given in zip(rows, plans, strict=True)
    ]
    return Statistics("questions", np.array(right, np.float64), _values)


def _values(sums: Sums) -> dict[str, NDArray[np.float64]]:
    return {key: ratio(sums[:, at], sums[:, 0]) for at, key in enumerate(KEYS, 1)}
