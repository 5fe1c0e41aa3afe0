"""Graded retrieval: items are the more relevant the more labels they share with the query."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from eval.metrics.ranking import CUTS, best_within, check_finite, mean_statistics
from rsvlm.errors import EvaluationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from eval.statistics import Statistics

SCALE = 720_720  # least common multiple of 1 to 16: Jaccard of sets with up to 16 labels between them is whole
GRADED_CELLS = 2**20  # relevance judgements at a time: each is an entry of a dictionary
GRADED_CUTS = (10, 100, 1000)


def graded_statistics(
    scores: NDArray[np.float64] | Iterable[NDArray[np.float64]],
    labels_of_query: Sequence[frozenset[str]],
    labels_of_item: Sequence[frozenset[str]],
    ids: Sequence[str],
    *,
    cuts: Sequence[int] = GRADED_CUTS,
) -> Statistics:
    """Retrieval of what shares labels, through ir-measures (trec_eval), as means over queries in percent.

    Args:
        scores: (Q, G), or blocks (q, G) of it one after the other; higher is better, ties go by id.
        labels_of_query: Q label sets.
        labels_of_item: G label sets.
        ids: G distinct names of the items.
        cuts: values of K for mAP@K, nDCG@K and nDCG_binary@K.

    Relevant is what shares a label. mAP@K divides by all relevant items, as trec_eval does. nDCG@K takes the Jaccard
    of the label sets as gain and log2(rank + 1) as discount (Jarvelin and Kekalainen 2002), nDCG_binary@K a gain of 1;
    R@1, 5, 10 is the share of queries with a relevant item among the first, P@10 the share of relevant among ten.
    Raises EvaluationError for repeated ids, scores that do not fit or are not numbers, and, by its number, for a query
    without a relevant item.
    """
    if len(set(ids)) != len(ids) or len(ids) != len(labels_of_item):
        raise EvaluationError(
            f"{len(labels_of_item)} items need as many distinct ids; got {len(ids)}, {len(set(ids))} of them distinct"
        )
    if not cuts or min(cuts) < 1:
        raise EvaluationError(f"cuts are whole numbers from 1; got {tuple(cuts)}")
    by_id = np.array(sorted(range(len(ids)), key=ids.__getitem__), np.int64)
    step = max(1, GRADED_CELLS // max(1, len(ids)))
    rows: list[NDArray[np.float64]] = []
    done = 0
    for block in _bounded([scores] if isinstance(scores, np.ndarray) else scores, step):
        if block.ndim != 2 or block.shape[1] != len(ids) or done + len(block) > len(labels_of_query):
            raise EvaluationError(f"scores are ({len(labels_of_query)}, {len(ids)}); got a block {block.shape}")
        check_finite(block, done)
        gains = _gains(labels_of_query[done : done + len(block)], labels_of_item)
        _check_gains(gains, done)
        order = by_id[best_within(block[:, by_id], min(len(ids), max(*cuts, *CUTS)))]
        rows.append(_graded_rows(order, gains, cuts))
        done += len(block)
    if done != len(labels_of_query) or not rows:
        raise EvaluationError(
            f"{len(labels_of_query)} queries need as many rows of scores and at least one; got {done}"
        )
    counted = np.concatenate(rows)
    return mean_statistics(_graded_names(cuts), np.hstack([counted, np.ones((done, 1))]), unit="queries")


def _graded_names(cuts: Sequence[int]) -> list[str]:
    names = [f"{name}@{cut}" for name in ("nDCG", "nDCG_binary", "mAP") for cut in cuts]
    return [*names, *(f"R@{cut}" for cut in CUTS), "P@10"]


def _graded_rows(order: NDArray[np.int64], gains: NDArray[np.int64], cuts: Sequence[int]) -> NDArray[np.float64]:
    """(q, M) values of `_graded_names` from the best items (q, K) in order and whole gains (q, G)."""
    from ir_measures import AP, P, Success, iter_calc, nDCG

    run = {
        str(query): {str(item): float(-rank) for rank, item in enumerate(items)}
        for query, items in enumerate(order.tolist())
    }
    graded, binary = {}, {}
    for query, gain in enumerate(gains):
        items = np.flatnonzero(gain)
        names = [str(item) for item in items.tolist()]
        graded[str(query)] = dict(zip(names, (gain[items] // np.gcd.reduce(gain[items])).tolist(), strict=True))
        binary[str(query)] = dict.fromkeys(names, 1)
    by_gain = [nDCG @ cut for cut in cuts]
    by_share = [*by_gain, *(AP @ cut for cut in cuts), *(Success @ cut for cut in CUTS), P @ 10]
    rows = np.full((len(order), len(by_gain) + len(by_share)), np.nan)
    for measures, judged, first in ((by_gain, graded, 0), (by_share, binary, len(by_gain))):
        columns = {measure: first + i for i, measure in enumerate(measures)}
        for found in iter_calc(measures, judged, run):
            rows[int(found.query_id), columns[found.measure]] = found.value
    return rows


def _gains(queries: Sequence[frozenset[str]], items: Sequence[frozenset[str]]) -> NDArray[np.int64]:
    """(q, G) Jaccard of label sets times SCALE, as the whole numbers trec_eval takes."""
    column = {label: i for i, label in enumerate(sorted(frozenset().union(*queries)))}
    wanted = np.zeros((len(queries), len(column)), np.float32)
    held = np.zeros((len(items), len(column)), np.float32)
    for matrix, sets in ((wanted, queries), (held, items)):
        for row, labels in enumerate(sets):
            matrix[row, [column[label] for label in labels if label in column]] = 1
    shared = (wanted @ held.T).astype(np.float64)
    sizes = (np.array([len(labels) for labels in sets], np.float64) for sets in (queries, items))
    union = np.add.outer(*sizes) - shared
    return np.rint(SCALE * shared / np.maximum(union, 1)).astype(np.int64)


def _bounded(blocks: Iterable[NDArray[np.float64]], step: int) -> Iterator[NDArray[np.float64]]:
    for block in blocks:
        for start in range(0, len(block), step):
            yield block[start : start + step]


def _check_gains(gains: NDArray[np.int64], first: int) -> None:
    empty = ~gains.any(axis=1)
    if empty.any():
        raise EvaluationError(
            f"query {first + int(np.argmax(empty))} has no relevant item; leave it out of the manifest or add items"
        )
