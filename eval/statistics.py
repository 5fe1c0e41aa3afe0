"""Additive statistics: one row of counts per unit, and every metric a function of their sums; intervals follow."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from rsvlm.errors import EvaluationError

Sums = NDArray[np.float64]  # (R, K): R resamplings (or 1) of K summed counts
Values = Callable[[Sums], dict[str, NDArray[np.float64]]]  # metric name -> (R,), NaN where it is not defined
ROUNDS = 1000
BLOCK = 64  # resamplings at a time: bounds the memory of their weights


@dataclass(frozen=True)
class Statistics:
    """What metrics are computed from.

    `rows` (N, K) holds the counts of one unit ("images", "questions", "queries") a row, in manifest order;
    `values` turns sums over any multiset of rows into metrics. So a bootstrap resamples rows, never re-scores them.
    `fixed` are metrics that are no function of sums; they have a value and no interval.
    """

    unit: str
    rows: NDArray[np.float64]
    values: Values
    fixed: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rows.ndim != 2 or not len(self.rows):
            raise EvaluationError("there is nothing to score: give at least one line")
        if not np.isfinite(self.rows).all():
            raise EvaluationError("a score is not a number; look for broken predictions before scoring")

    def metrics(self) -> dict[str, float]:
        """Every metric over all rows."""
        found = self.values(self.rows.sum(axis=0)[None])
        return {name: float(value[0]) for name, value in found.items()} | self.fixed


@dataclass(frozen=True, slots=True)
class Interval:
    """A metric with its 95 % bootstrap interval; all three are NaN where the metric is not defined."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """Two decimals; null where not defined."""
        plain = {"value": self.value, "low": self.low, "high": self.high}
        return {name: None if np.isnan(number) else round(number, 2) for name, number in plain.items()}


def by_group(statistics: Statistics, groups: Sequence[Hashable], unit: str) -> Statistics:
    """The same counts with one row for each different group, so that a bootstrap draws a group as a whole.

    Metrics stay as they are; `groups` names that of every row, `unit` what a group is.
    """
    place: dict[Hashable, int] = {}
    at = [place.setdefault(group, len(place)) for group in groups]
    rows = np.zeros((len(place), statistics.rows.shape[1]))
    np.add.at(rows, at, statistics.rows)
    return replace(statistics, unit=unit, rows=rows)


def intervals(statistics: Statistics, *, seed: int = 0, rounds: int = ROUNDS) -> dict[str, Interval]:
    """Every metric with a percentile interval from `rounds` resamplings of the rows."""
    drawn = _resampled(statistics, _weights(len(statistics.rows), seed, rounds))
    nothing = np.zeros(0)
    return {name: _interval(value, drawn.get(name, nothing)) for name, value in statistics.metrics().items()}


def paired(one: Statistics, other: Statistics, *, seed: int = 0, rounds: int = ROUNDS) -> dict[str, Interval]:
    """Differences other - one of the metrics both have, from the same resampling of the same rows."""
    if len(one.rows) != len(other.rows) or one.unit != other.unit:
        raise EvaluationError(
            f"runs over {len(one.rows)} {one.unit} and {len(other.rows)} {other.unit} cannot be paired; "
            "run both over the same lines"
        )
    first, second = (_resampled(each, _weights(len(each.rows), seed, rounds)) for each in (one, other))
    values = one.metrics(), other.metrics()
    shared = [name for name in values[0] if name in values[1] and name not in one.fixed]
    return {name: _interval(values[1][name] - values[0][name], second[name] - first[name]) for name in shared}


def _weights(count: int, seed: int, rounds: int) -> list[NDArray[np.float64]]:
    """How often each row is drawn: blocks of (R, N)."""
    chance = np.random.default_rng(seed)
    share = np.full(count, 1 / count)
    sizes = [min(BLOCK, rounds - start) for start in range(0, rounds, BLOCK)]
    return [chance.multinomial(count, share, size=size).astype(np.float64) for size in sizes]


def _resampled(statistics: Statistics, weights: list[NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    parts = [statistics.values(block @ statistics.rows) for block in weights]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _interval(value: float, drawn: NDArray[np.float64]) -> Interval:
    known = drawn[np.isfinite(drawn)]
    if not len(known) or np.isnan(value):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.percentile(known, [2.5, 97.5])
    return Interval(value, float(low), float(high))


def ratio(over: NDArray[np.float64], under: NDArray[np.float64]) -> NDArray[np.float64]:
    """Percent, NaN where there is nothing to divide by."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(under > 0, 100 * over / under, np.nan), np.float64)
