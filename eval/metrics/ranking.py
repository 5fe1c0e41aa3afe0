"""Ranking metrics: exact ranks in blocks, recall over captions, and chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from eval.statistics import Statistics, ratio
from rsvlm.errors import EvaluationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from eval.statistics import Sums

    Scores = NDArray[np.floating[Any]]
    Ranks = list[NDArray[np.int64]]  # for each query, or each image, the 0-based ranks of its own items

PROTOCOLS = {
    "all-captions": "cosine, unique images, every caption of every image a query and a target, ties by position",
    "first-caption": "cosine, unique images, only the first caption of every image a query and a target, "
    "ties by position",
}
CUTS = (1, 5, 10)
CELLS = 2**22  # scores at a time: bounds the memory of a block
FEW = 8  # up to so many relevant items, counting those ahead of each is faster than sorting


def ranks_of(
    queries: NDArray[np.float32], gallery: NDArray[np.float32], relevant: Sequence[NDArray[np.int64]]
) -> list[NDArray[np.int64]]:
    """Rank (0 is best) of every relevant item of every query, by cosine and then by position.

    Args:
        queries: (Q, D) unit vectors.
        gallery: (G, D) unit vectors; equal ones tie exactly.
        relevant: for each query the positions of its relevant items in the gallery.

    Returns:
        For each query its ranks, in the order of its relevant items.

    Raises:
        EvaluationError: names the query without a relevant item, with an unknown or repeated position or whose score
            is not a number.
    """
    _check_relevant(relevant, len(queries), len(gallery))
    found: list[NDArray[np.int64]] = []
    for scores in score_blocks(queries, gallery):
        wanted = relevant[len(found) : len(found) + len(scores)]
        found += [_ranks(row, items) for row, items in zip(scores, wanted, strict=True)]
    return found


def ranks_within(scores: Scores, relevant: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """As `ranks_of`, from scores (Q, G) that are there already."""
    _check_relevant(relevant, *scores.shape)
    check_finite(scores, 0)
    return [_ranks(row, items) for row, items in zip(scores, relevant, strict=True)]


def best(
    queries: NDArray[np.float32], gallery: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scores and positions (Q, k) of the exact k best items of every query, by cosine and then by position.

    Queries are (Q, D) and the gallery (G, D) unit vectors; raises EvaluationError unless 1 <= k <= G.
    """
    if not 1 <= k <= len(gallery):
        raise EvaluationError(f"k is a whole number from 1 to the {len(gallery)} items of the gallery; got {k}")
    scores, positions = [np.zeros((0, k), np.float32)], [np.zeros((0, k), np.int64)]
    for block in score_blocks(queries, gallery):
        positions.append(best_within(block, k))
        scores.append(np.take_along_axis(block, positions[-1], axis=1))
    return np.concatenate(scores), np.concatenate(positions)


def best_within(scores: Scores, k: int) -> NDArray[np.int64]:
    """Positions (Q, k) of the k best of scores (Q, G), by score and then by position."""
    last = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
    ahead, tied = scores > last, scores == last
    room = k - ahead.sum(axis=1, keepdims=True)
    chosen = ahead | (tied & (np.cumsum(tied, axis=1, dtype=np.int32) <= room))
    positions = np.nonzero(chosen)[1].reshape(-1, k)
    order = np.argsort(-np.take_along_axis(scores, positions, axis=1), axis=1, kind="stable")
    return np.take_along_axis(positions, order, axis=1)


def score_blocks(queries: NDArray[np.float32], gallery: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Cosines (q, G) of one block of queries (Q, D) after the other with a gallery (G, D); equal items tie exactly.

    Raises EvaluationError for vectors that do not fit, and for a score that is not a number, naming the query.
    """
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise EvaluationError(f"vectors are (Q, D) and (G, D) of one D; got {queries.shape} and {gallery.shape}")
    # A matrix product may give equal vectors scores that differ in the last digit, by where they stand.
    where: dict[bytes, int] = {}
    inverse = np.array([where.setdefault(row.tobytes(), len(where)) for row in gallery], np.int64)
    distinct = gallery if len(where) == len(gallery) else gallery[np.unique(inverse, return_index=True)[1]]
    step = max(1, CELLS // max(1, len(gallery)))
    for start in range(0, len(queries), step):
        with np.errstate(invalid="ignore", over="ignore"):
            scores = queries[start : start + step] @ distinct.T
        check_finite(scores, start)
        yield scores if distinct is gallery else scores[:, inverse]


def caption_ranks(
    images: NDArray[np.float32], texts: NDArray[np.float32], owners: NDArray[np.int64], *, protocol: str
) -> tuple[Ranks, Ranks]:
    """Ranks in both directions under one of PROTOCOLS, for `caption_statistics`.

    Args:
        images: (I, D) unit vectors.
        texts: (C, D) unit vectors of all captions.
        owners: (C,) position of each caption's image.
        protocol: "all-captions" or "first-caption".

    Returns:
        Per image its rank for each of its captions, and the ranks of all its captions. Raises EvaluationError.
    """
    captions = _captions_of(owners, len(images), protocol)
    used = np.sort(np.concatenate(captions))
    captions = [np.searchsorted(used, each) for each in captions]
    ranks = ranks_of(texts[used], images, list(owners[used][:, None]))
    return [np.concatenate([ranks[i] for i in each]) for each in captions], ranks_of(images, texts[used], captions)


def caption_statistics(t2i: Sequence[NDArray[np.int64]], i2t: Sequence[NDArray[np.int64]]) -> Statistics:
    """R@1, 5 and 10 from text to image and from image to text, and mR, the mean of the six; in percent.

    Args:
        t2i: per image its 0-based rank for each of its own captions; every caption counts once.
        i2t: per image the 0-based ranks of all its own captions; the best one counts.
    """
    if len(t2i) != len(i2t):
        raise EvaluationError(f"ranks of {len(t2i)} and of {len(i2t)} images do not fit; give the same images twice")
    for image, (texts, own) in enumerate(zip(t2i, i2t, strict=True)):
        if not len(texts) or not len(own):
            raise EvaluationError(f"image {image} has no caption; give every image at least one")
    rows = [
        [*((texts[:, None] < CUTS).sum(axis=0)), len(texts), *(own.min() < CUTS), 1]
        for texts, own in zip(t2i, i2t, strict=True)
    ]
    return Statistics("images", np.array(rows, np.float64).reshape(-1, 2 * len(CUTS) + 2), _caption_values)


def _caption_values(sums: Sums) -> dict[str, NDArray[np.float64]]:
    n = len(CUTS)
    found = {f"t2i_R@{cut}": ratio(sums[:, i], sums[:, n]) for i, cut in enumerate(CUTS)}
    found |= {f"i2t_R@{cut}": ratio(sums[:, n + 1 + i], sums[:, -1]) for i, cut in enumerate(CUTS)}
    return {**found, "mR": np.mean(list(found.values()), axis=0)}


def recall_statistics(ranks: Sequence[NDArray[np.int64]], *, unit: str = "queries") -> Statistics:
    """R@1, 5 and 10: percent of queries with a relevant item among the first; `ranks` are 0-based, per query."""
    rows = [[*(own.min() < CUTS), 1] for own in ranks]
    return mean_statistics(
        [f"R@{cut}" for cut in CUTS], np.array(rows, np.float64).reshape(-1, len(CUTS) + 1), unit=unit
    )


def mean_statistics(names: Sequence[str], rows: NDArray[np.float64], *, unit: str) -> Statistics:
    """Plain means in percent: rows (N, M + 1) hold M named values of 0 to 1 and a 1."""

    def values(sums: Sums) -> dict[str, NDArray[np.float64]]:
        return {name: ratio(sums[:, i], sums[:, -1]) for i, name in enumerate(names)}

    return Statistics(unit, rows, values)


def random_ranks(counts: Sequence[int], gallery: int, *, seed: int) -> list[NDArray[np.int64]]:
    """Ranks as chance gives them: for each query the places of its `counts` items in a random order of the gallery."""
    chance = np.random.default_rng(seed)
    for query, count in enumerate(counts):
        if not 1 <= count <= gallery:
            raise EvaluationError(f"query {query} needs 1 to {gallery} relevant items; got {count}")
    return [chance.choice(gallery, size=count, replace=False) for count in counts]


def _captions_of(owners: NDArray[np.int64], images: int, protocol: str) -> list[NDArray[np.int64]]:
    """For each image the positions of its captions that the protocol uses, ascending."""
    if protocol not in PROTOCOLS:
        raise EvaluationError(f"there is no retrieval protocol {protocol!r}; take one of {', '.join(PROTOCOLS)}")
    if not images or not len(owners) or owners.min() < 0 or owners.max() >= images:
        raise EvaluationError(f"every caption belongs to one of {images} images by its position from 0; got others")
    counts = np.bincount(owners, minlength=images)
    if not counts.all():
        raise EvaluationError(f"image {int(np.argmin(counts))} has no caption; give every image at least one")
    captions = np.split(np.argsort(owners, kind="stable"), np.cumsum(counts)[:-1])
    return captions if protocol == "all-captions" else [each[:1] for each in captions]


def _ranks(scores: Scores, wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ranks of the wanted positions among scores (G,)."""
    if len(wanted) <= FEW:
        pairs = [(scores[item], scores[:item]) for item in wanted]
        return np.array([np.count_nonzero(scores > own) + np.count_nonzero(before == own) for own, before in pairs])
    ranks = np.empty(len(scores), np.int64)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    return ranks[wanted]


def check_finite(scores: Scores, first: int) -> None:
    """Raise EvaluationError naming the query, counted on from `first`, with a score that is not a number."""
    broken = ~np.isfinite(scores).all(axis=1)
    if broken.any():
        raise EvaluationError(
            f"a score of query {first + int(np.argmax(broken))} is not a number; look for broken vectors before ranking"
        )


def _check_relevant(relevant: Sequence[NDArray[np.int64]], queries: int, gallery: int) -> None:
    if len(relevant) != queries:
        raise EvaluationError(f"{queries} queries need as many lists of relevant items; got {len(relevant)}")
    if not queries:
        return
    counts = np.array([len(items) for items in relevant])
    if not counts.all():
        raise EvaluationError(f"query {int(np.argmin(counts))} has no relevant item; give every query at least one")
    owners, items = np.repeat(np.arange(queries), counts), np.concatenate(list(relevant))
    unknown = (items < 0) | (items >= gallery)
    if unknown.any():
        at = int(np.argmax(unknown))
        raise EvaluationError(f"query {owners[at]} wants item {items[at]}; the gallery has items 0 to {gallery - 1}")
    keys = np.sort(owners * gallery + items)
    repeated = keys[1:] == keys[:-1]
    if repeated.any():
        query, item = divmod(int(keys[1:][repeated][0]), gallery)
        raise EvaluationError(f"query {query} names item {item} twice; name every relevant item once")
