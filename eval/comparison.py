"""Two runs over the same lines: the difference of every metric, with a paired bootstrap interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eval.runner import statistics_of
from eval.runs import sha256_of
from eval.statistics import Interval, paired
from rsvlm.errors import EvaluationError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Comparison:
    """Metrics of two runs and their differences, second minus first."""

    task: str
    protocol: str
    units: int
    unit: str
    first: dict[str, float]
    second: dict[str, float]
    difference: dict[str, Interval]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        rows = {
            name: {"first": _plain(self.first[name]), "second": _plain(self.second[name]), **change.to_json()}
            for name, change in self.difference.items()
        }
        return {"task": self.task, "protocol": self.protocol, "n": self.units, "unit": self.unit, "metrics": rows}


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 2)


def compare_runs(first: Path, second: Path, *, seed: int = 0) -> Comparison:
    """Compare two finished runs; raises EvaluationError where task, protocol, manifest or lines differ."""
    (one, statistics), (other, others) = statistics_of(first), statistics_of(second)
    differing = [
        what
        for what, a, b in (
            ("task", one.task.name, other.task.name),
            ("protocol", one.settings.protocol, other.settings.protocol),
            ("manifest", sha256_of(one.manifest), sha256_of(other.manifest)),
            ("lines chosen and read", [r.number for r in one.rows], [r.number for r in other.rows]),
        )
        if a != b
    ]
    if differing:
        raise EvaluationError(f"{first} and {second} differ in {' and '.join(differing)}, so they cannot be compared")
    return Comparison(
        one.task.name,
        one.settings.protocol,
        len(statistics.rows),
        statistics.unit,
        statistics.metrics(),
        others.metrics(),
        paired(statistics, others, seed=seed),
    )
