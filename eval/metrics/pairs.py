"""Retrieval between two lists of images where one image of each list shows the same place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from eval.metrics.ranking import CUTS, mean_statistics, ranks_of
from rsvlm.errors import EvaluationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from eval.statistics import Statistics

NAMES = [*(f"onto_R@{cut}" for cut in CUTS), *(f"back_R@{cut}" for cut in CUTS), "mR"]


def pair_statistics(first: NDArray[np.float32], second: NDArray[np.float32]) -> Statistics:
    """R@1, 5 and 10 from the first list onto the second and back, and mR, the mean of the six; in percent.

    Args:
        first: (N, D) unit vectors.
        second: (N, D) unit vectors; only the one in the same position is right.

    Ranks are by cosine and then by position. Raises EvaluationError for lists that do not fit.
    """
    if first.shape != second.shape:
        raise EvaluationError(f"both images of a pair need vectors of one length; got {first.shape}, {second.shape}")
    own = list(np.arange(len(first))[:, None])
    ranks = [np.stack(ranks_of(*lists, own)) for lists in ((first, second), (second, first))]  # (N, 1) each
    found = np.hstack([each < np.array(CUTS) for each in ranks])
    rows = np.hstack([found, found.mean(axis=1, keepdims=True), np.ones((len(first), 1))])
    return mean_statistics(NAMES, rows, unit="images")
