"""A finished evaluation as its page sees it: lines, predictions, scores by line and the report, no model needed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.metrics.ranking import caption_ranks
from eval.runs import REPORT, Run, read_json, reopen, scorable, scored
from eval.tasks.grounding import predicted_shapes, true_shapes
from eval.tasks.retrieval import unpacked_vector
from rsvlm.errors import EvaluationError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from eval.metrics.boxes import Shapes
    from eval.metrics.ranking import Ranks
    from eval.predictions import Prediction
    from eval.statistics import Statistics


@dataclass(frozen=True)
class Finished:
    """Lines that have a prediction, those predictions, what they score, and the report that was written of them."""

    run: Run
    rows: list[Any]
    predictions: list[Prediction]
    statistics: Statistics
    report: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Finished:
        """Read an evaluation's folder; raises EvaluationError where it has no report or another manifest."""
        if not (folder / REPORT).is_file():
            raise EvaluationError(
                f"{folder} holds no {REPORT}; run the evaluation to its end, or score it with rsvlm eval score"
            )
        report = read_json(folder / REPORT)
        task, settings = report.get("task"), report.get("settings")
        if not isinstance(task, str) or not isinstance(settings, dict):
            raise EvaluationError(f"{folder / REPORT} names no task and settings; write it anew by rsvlm eval score")
        run = reopen(folder, name=task, protocol=str(settings.get("protocol", "")))
        rows, predictions, _ = scorable(run)
        return cls(run, rows, predictions, scored(run, rows, predictions, folder), report)

    def each(self, name: str) -> NDArray[np.float64]:
        """(N,) a metric of every unit by itself, NaN where it is not defined."""
        return self.statistics.values(self.statistics.rows)[name]

    @cached_property
    def images(self) -> NDArray[np.float32]:
        """(N, D) unit vectors of a retrieval's images."""
        return np.stack([unpacked_vector(prediction.get("image")) for prediction in self.predictions])

    @cached_property
    def texts(self) -> list[NDArray[np.float32]]:
        """(T, D) unit vectors of the texts of each line of a retrieval."""
        return [np.stack([unpacked_vector(text) for text in prediction["texts"]]) for prediction in self.predictions]

    @cached_property
    def ranks(self) -> tuple[Ranks, Ranks]:
        """As `caption_ranks`: each image's rank for its captions, and the ranks of its captions for it."""
        owners = np.repeat(np.arange(len(self.rows)), [len(each) for each in self.texts])
        return caption_ranks(self.images, np.concatenate(self.texts), owners, protocol=self.run.settings.protocol)

    @cached_property
    def shapes(self) -> list[tuple[Shapes, Shapes]]:
        """True and predicted shapes of every line of a grounding."""
        return [
            (true_shapes(row), predicted_shapes(row, given))
            for row, given in zip(self.rows, self.predictions, strict=True)
        ]
