"""Selective prediction: risk against coverage, the area under it, and thresholds fitted on validation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eval.statistics import ROUNDS, Interval
from rsvlm.errors import EvaluationError

PROTOCOL = (
    "risk-coverage curve by falling confidence, equal confidences entering together; AURC the mean of the selective "
    "risk over coverages 1/n..n/n (Geifman and El-Yaniv 2017), within equal confidences the risk expected of a random "
    "order; excess is AURC less that of the best possible order of the same answers"
)


@dataclass(frozen=True, slots=True)
class RiskCoverage:
    """The curve: one point for each distinct confidence, the highest first.

    `coverage` (G,) is the share of questions answered, rising to 1; `risk` (G,) the share of wrong ones among them.
    """

    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Steps:
    """Questions of equal confidence together, the most confident first."""

    confidence: NDArray[np.float64]  # (G,), falling
    size: NDArray[np.float64]  # (G,) questions
    wrong: NDArray[np.float64]  # (G,) of them


def risk_coverage(confidence: ArrayLike, correct: ArrayLike) -> RiskCoverage:
    """The selective risk at every coverage that a threshold on confidence can give.

    Args:
        confidence: (N,) finite, higher is surer, on any scale.
        correct: (N,) whether the answer is right.

    Raises:
        EvaluationError: the arrays do not fit, are empty, or a confidence is not a finite number.
    """
    steps = _steps(confidence, correct)
    answered = np.cumsum(steps.size)
    return RiskCoverage(answered / answered[-1], np.cumsum(steps.wrong) / answered)


def aurc(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Area under the risk-coverage curve, 0-1, less is better: the mean over k = 1..N of the risk of the k surest.

    Where confidences are equal, each of those ranks has the risk expected of a random order, so that the order of
    the lines cannot help: with one confidence for all, AURC is the plain error rate. Geifman and El-Yaniv 2017;
    the errors are as in `risk_coverage`.
    """
    steps = _steps(confidence, correct)
    before = np.cumsum(steps.size) - steps.size, np.cumsum(steps.wrong) - steps.wrong
    step = np.repeat(np.arange(len(steps.size)), steps.size.astype(int))  # (N,) the step of each rank
    rank = np.arange(1, len(step) + 1)
    wrong = before[1][step] + (rank - before[0][step]) * (steps.wrong / steps.size)[step]
    return float((wrong / rank).mean())


def optimal_aurc(correct: ArrayLike) -> float:
    """The AURC of a confidence that puts every right answer before every wrong one, 0-1."""
    return aurc(np.asarray(correct, np.float64), correct)


def excess_aurc(confidence: ArrayLike, correct: ArrayLike) -> float:
    """How far AURC is above its optimum, 0-1: what is lost by the order alone, whatever the accuracy."""
    return aurc(confidence, correct) - optimal_aurc(correct)


def aurc_intervals(
    confidence: ArrayLike, correct: ArrayLike, *, seed: int = 0, rounds: int = ROUNDS
) -> dict[str, Interval]:
    """`AURC`, `AURC_optimal` and `AURC_excess` x100 with 95 % intervals from `rounds` resamplings of the questions.

    AURC is no function of sums, so every resampling is ordered anew; the errors are as in `risk_coverage`.
    """
    sure, right = _checked(confidence, correct)
    chance = np.random.default_rng(seed)
    drawn = (chance.integers(len(sure), size=len(sure)) for _ in range(rounds))
    names = ("AURC", "AURC_optimal", "AURC_excess")
    values = _areas(sure, right)
    bounds = np.percentile([_areas(sure[each], right[each]) for each in drawn], [2.5, 97.5], axis=0)
    return {name: Interval(value, *map(float, pair)) for name, value, pair in zip(names, values, bounds.T, strict=True)}


def fit_threshold(confidence: ArrayLike, correct: ArrayLike, *, max_risk: float) -> float:
    """The smallest confidence from which on answering keeps the risk within `max_risk`; infinity where none does.

    To be fitted on validation, then used elsewhere: answer where confidence >= threshold.

    Args:
        confidence: (N,) of the validation questions.
        correct: (N,) whether each was answered rightly.
        max_risk: the share of wrong answers to bear among those given, 0-1.

    Raises:
        EvaluationError: as `risk_coverage`, or `max_risk` is no share.
    """
    if not 0 <= max_risk <= 1:
        raise EvaluationError(f"max_risk is a share from 0 to 1 and not {max_risk}; give 0.05 for 5 percent")
    steps = _steps(confidence, correct)
    borne = np.flatnonzero(np.cumsum(steps.wrong) / np.cumsum(steps.size) <= max_risk)
    return float(steps.confidence[borne[-1]]) if len(borne) else float("inf")


def _areas(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> tuple[float, float, float]:
    found, best = aurc(confidence, correct), optimal_aurc(correct)
    return 100 * found, 100 * best, 100 * (found - best)


def _steps(confidence: ArrayLike, correct: ArrayLike) -> _Steps:
    sure, right = _checked(confidence, correct)
    falling, step = np.unique(-sure, return_inverse=True)
    return _Steps(-falling, np.bincount(step).astype(np.float64), np.bincount(step, ~right).astype(np.float64))


def _checked(confidence: ArrayLike, correct: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    sure, right = np.asarray(confidence, np.float64), np.asarray(correct, bool)
    if sure.ndim != 1 or sure.shape != right.shape or not len(sure):
        raise EvaluationError(
            f"confidences of shape {sure.shape} and marks of shape {right.shape} do not fit; "
            "give one of each for every question, and at least one"
        )
    broken = np.flatnonzero(~np.isfinite(sure))
    if len(broken):
        raise EvaluationError(
            f"the confidence of question {broken[0]} is {sure[broken[0]]}; give every question a finite number"
        )
    return sure, right
