"""Metrics as the project defines them, each over plain arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rsvlm.errors import QueryError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

CUTS = (1, 5, 10)
BLOCK = 1024


def first_ranks(
    queries: NDArray[np.float32], gallery: NDArray[np.float32], relevant: Sequence[Sequence[int]]
) -> NDArray[np.int64]:
    """Rank (0 is best) of each query's best relevant item among the gallery, by cosine.

    Args:
        queries: (Q, D) unit vectors.
        gallery: (G, D) unit vectors.
        relevant: for each query the positions of its relevant items; a query without any raises QueryError.

    Returns:
        (Q,) ranks. An item of equal score and lower position counts as better, so ties never help.
    """
    ranks = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), BLOCK):
        scores = queries[start : start + BLOCK] @ gallery.T
        if not np.isfinite(scores).all():
            raise QueryError("a score is not a number; look for broken vectors before ranking")
        for row, score in enumerate(scores):
            wanted = relevant[start + row]
            if len(wanted) == 0:
                raise QueryError(f"query {start + row} has no relevant item; give every query at least one")
            best = min(wanted, key=lambda item: (-score[item], item))
            ahead = (score > score[best]).sum() + (score[:best] == score[best]).sum()
            ranks[start + row] = ahead
    return ranks


def recall_at(ranks: NDArray[np.int64], cut: int) -> float:
    """Percent of queries with a relevant item among the first `cut`."""
    return 100 * float((ranks < cut).mean())


def retrieval_metrics(text_ranks: NDArray[np.int64], image_ranks: NDArray[np.int64]) -> dict[str, float]:
    """R@1, 5 and 10 in both directions and their mean, mR, in percent."""
    found = {f"t2i_R@{cut}": recall_at(text_ranks, cut) for cut in CUTS}
    found |= {f"i2t_R@{cut}": recall_at(image_ranks, cut) for cut in CUTS}
    return {**found, "mR": float(np.mean(list(found.values())))}


def bootstrap_retrieval(
    text_ranks: NDArray[np.int64], owners: NDArray[np.int64], image_ranks: NDArray[np.int64], *, seed: int, rounds: int
) -> dict[str, tuple[float, float]]:
    """95 % intervals by resampling images, each with all its captions.

    Args:
        text_ranks: (Q,) rank of each caption's image.
        owners: (Q,) image of each caption.
        image_ranks: (I,) rank of each image's best caption.
        seed: of the resampling.
        rounds: how many resamplings.
    """
    chance = np.random.default_rng(seed)
    captions_of = [np.flatnonzero(owners == image) for image in range(len(image_ranks))]
    drawn: dict[str, list[float]] = {}
    for _ in range(rounds):
        images = chance.integers(len(image_ranks), size=len(image_ranks))
        captions = np.concatenate([captions_of[image] for image in images])
        for name, value in retrieval_metrics(text_ranks[captions], image_ranks[images]).items():
            drawn.setdefault(name, []).append(value)
    return {name: (float(np.percentile(v, 2.5)), float(np.percentile(v, 97.5))) for name, v in drawn.items()}
