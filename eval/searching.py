"""Retrieval over an archive: what its index returns against exact search over the vectors in its table."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.metrics.ranking import best_within, mean_statistics, ranks_within, recall_statistics, score_blocks
from eval.statistics import intervals
from retrieval.asking import MAX_K
from rsvlm.errors import EvaluationError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from eval.statistics import Statistics
    from retrieval.archive import Archive

FIRST = 10  # files that recall looks at
ASKED = 100  # chips asked for at first, to see that many files
TOLERANCE = 1e-6  # of a cosine: two ways of adding up differ by less, so a tie is no loss


@dataclass(frozen=True)
class Stored:
    """All vectors of an archive, or of the part of it that is searched, in memory."""

    chips: tuple[str, ...]
    paths: tuple[str, ...]
    vectors: NDArray[np.float32]  # (N, D), unit length

    @classmethod
    def read(cls, archive: Archive, where: str | None = None) -> Stored:
        """Read the table; raises EvaluationError where there is no chip to search among."""
        blocks = list(archive.vectors(where=where))
        if not blocks:
            raise EvaluationError(f"{archive.folder} has no chip to search among; add files, or widen the condition")
        return cls(
            chips=tuple(chip for chips, _, _ in blocks for chip in chips),
            paths=tuple(path for _, paths, _ in blocks for path in paths),
            vectors=np.concatenate([vectors for _, _, vectors in blocks]),
        )


def index_loss(
    archive: Archive,
    queries: NDArray[np.float32],
    *,
    cuts: Sequence[int] = (1, 10, 100),
    where: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """What is lost, and what time is won, by searching through the archive's index rather than all its vectors.

    Args:
        archive: an open archive with at least one chip.
        queries: (Q, D) vectors.
        cuts: values of K.
        where: a condition on columns as in `Archive.search`, for both.
        seed: of the intervals.

    Returns:
        "recall@K": the mean percent, over queries, of the exact K best chips that the index returned among its K best,
        with its 95 % interval (a chip that ties with the last of the exact ones counts as one of them); "n" queries,
        "chips" searched among, "index", and "latency_ms": median and p95 of one search, "index" as `Archive.search`
        with the rows it reads from the table, "exact" as one product with all vectors and the choice of the best.

    Raises:
        EvaluationError: for cuts or queries that do not fit, or nothing to search among.
    """
    if not cuts or min(cuts) < 1 or max(cuts) > MAX_K:
        raise EvaluationError(f"cuts are whole numbers from 1 to {MAX_K}; got {tuple(cuts)}")
    unit_queries = _checked(archive, queries)
    stored = Stored.read(archive, where)
    row_of = {chip: row for row, chip in enumerate(stored.chips)}
    k = min(max(cuts), len(stored.chips))
    archive.search(unit_queries[0], k, where=where)  # opens or builds the index
    rows, through_index, exactly = [], [], []
    for query in unit_queries:
        started = time.perf_counter()
        hits = archive.search(query, k, where=where)
        through_index.append(time.perf_counter() - started)
        started = time.perf_counter()
        scores = stored.vectors @ query
        order = best_within(scores[None], k)[0]
        exactly.append(time.perf_counter() - started)
        rows.append(_found(scores, order, [row_of[hit.chip_id] for hit in hits], cuts))
    counted = np.hstack([np.array(rows), np.ones((len(rows), 1))])
    recall = mean_statistics([f"recall@{cut}" for cut in cuts], counted, unit="queries")
    return {
        "index": archive.index_kind,
        "n": len(rows),
        "chips": len(stored.chips),
        **{name: interval.to_json() for name, interval in intervals(recall, seed=seed).items()},
        "latency_ms": {"index": _milliseconds(through_index), "exact": _milliseconds(exactly)},
    }


def archive_statistics(
    archive: Archive, queries: NDArray[np.float32], relevant_paths: Sequence[Collection[str]]
) -> tuple[Statistics, Statistics]:
    """R@1, 5 and 10 over files, through the archive's index and exactly; unit "queries".

    A file stands where its best chip stands; files of equal score go by path. `queries` are (Q, D) vectors,
    `relevant_paths` the files, as the archive names them, that are right for each. Raises EvaluationError for a query
    without a relevant file, or with one that the archive does not hold.
    """
    unit_queries = _checked(archive, queries)
    stored = Stored.read(archive)
    files = sorted(set(stored.paths))
    relevant = _relevant_files(relevant_paths, files, len(unit_queries))
    place = {path: position for position, path in enumerate(files)}
    file_of = np.array([place[path] for path in stored.paths])
    by_file = np.argsort(file_of, kind="stable")
    starts = np.searchsorted(file_of[by_file], np.arange(len(files)))
    exactly: list[NDArray[np.int64]] = []
    for scores in score_blocks(unit_queries, stored.vectors[by_file]):
        best_chips = np.maximum.reduceat(scores, starts, axis=1)
        exactly += ranks_within(best_chips, relevant[len(exactly) : len(exactly) + len(scores)])
    through_index = [
        _ranks_of_files(archive, query, {files[position] for position in wanted})
        for query, wanted in zip(unit_queries, relevant, strict=True)
    ]
    return recall_statistics(through_index), recall_statistics(exactly)


def _ranks_of_files(archive: Archive, query: NDArray[np.float32], wanted: set[str]) -> NDArray[np.int64]:
    """Rank of the best wanted file among the first FIRST that the index finds, FIRST where it is not there."""
    most = min(len(archive), MAX_K)
    asked = min(ASKED, most)
    while True:
        hits = archive.search(query, asked)
        scores: dict[str, float] = {}
        for hit in hits:
            scores.setdefault(hit.path, hit.score)
        ranked = sorted(scores, key=lambda path: (-scores[path], path))[:FIRST]
        settled = len(ranked) == FIRST and hits[-1].score < scores[ranked[-1]]
        if settled or asked == most:
            break
        asked = min(most, 4 * asked)
    return np.array([rank for rank, path in enumerate(ranked) if path in wanted][:1] or [FIRST])


def _found(
    scores: NDArray[np.float32], order: NDArray[np.int64], returned: list[int], cuts: Sequence[int]
) -> list[float]:
    """Share of the exact K best that is among the first K returned, for every K."""
    shares = []
    for cut in cuts:
        last = order[: min(cut, len(order))]
        right = int((scores[returned[:cut]] >= scores[last[-1]] - TOLERANCE).sum())
        shares.append(min(right, len(last)) / len(last))
    return shares


def _relevant_files(
    relevant_paths: Sequence[Collection[str]], files: list[str], queries: int
) -> list[NDArray[np.int64]]:
    if len(relevant_paths) != queries:
        raise EvaluationError(f"{queries} queries need as many sets of relevant files; got {len(relevant_paths)}")
    place = {path: position for position, path in enumerate(files)}
    for query, paths in enumerate(relevant_paths):
        unknown = sorted(set(paths) - place.keys())
        if unknown:
            raise EvaluationError(
                f"query {query} wants {unknown[0]}, which the archive does not hold; name files as it does, "
                f"such as {files[0]}"
            )
        if not paths:
            raise EvaluationError(f"query {query} has no relevant file; give every query at least one")
    return [np.array(sorted(place[path] for path in set(paths)), np.int64) for paths in relevant_paths]


def _checked(archive: Archive, queries: NDArray[np.float32]) -> NDArray[np.float32]:
    """Queries (Q, D) brought to length 1."""
    dim = archive.config.dim
    if queries.ndim != 2 or queries.shape[1] != dim or not len(queries):
        raise EvaluationError(f"queries are (Q, {dim}) vectors, at least one; got shape {queries.shape}")
    lengths = np.linalg.norm(queries, axis=1, keepdims=True)
    broken = ~(np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0))
    if broken.any():
        raise EvaluationError(
            f"query {int(np.argmax(broken))} is not a vector of numbers with a length; look for broken vectors"
        )
    return np.asarray(queries / lengths, np.float32)


def _milliseconds(seconds: list[float]) -> dict[str, float]:
    median, tail = 1000 * np.percentile(seconds, [50, 95])
    return {"median": round(float(median), 3), "p95": round(float(tail), 3)}
