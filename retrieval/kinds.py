"""Which kind of FAISS index a number of vectors calls for, how it is made, and how hard it must look."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rsvlm.errors import ArchiveError, QueryError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

KINDS = ("flat", "hnsw", "ivf")
AUTO = "auto"
FLAT_ROWS = 1_000_000  # beyond, one exact search takes longer than a person waits
HNSW_ROWS = 15_000_000  # beyond, the graph and the float32 vectors outgrow most machines and days of building
IVF_LEAST = 10_000  # fewer vectors train no lists worth having
MEMORY_SHARE = 0.5  # of the machine's memory that an index may take
HNSW_LINKS = 32
HNSW_BUILD = 128
REFINE = 4  # candidates refined for every neighbour asked for
TRAINING_PER_LIST = 64
RECALL_AT = 10
MANY_QUERIES = 20  # from which one matrix product beats one scan a query
DEPTH = 128  # neighbours every search asks for, and so every tuning
FEW = 1 / 256  # of all rows
TARGET = 0.95  # recall at 10 that approximate kinds are tuned to
TUNING_QUERIES = 64
TEXT_COSINE = 0.3  # what a text has in common with its image, in most encoders of this kind
TUNING_TEXTS = tuple(
    f"{start} {what}"
    for start in ("a satellite image of", "many small")
    for what in (
        *("farmland", "dense forest", "a river", "a harbour with ships", "an airport runway", "houses along a road"),
        *("a lake", "snow on mountains", "storage tanks", "a solar farm", "clouds over the sea", "bare soil"),
        *("a flooded village", "burnt ground", "a stadium", "greenhouses"),
    )
)


@dataclass(frozen=True, slots=True)
class Choice:
    """A kind of index and the sentence that defends it."""

    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard a search looks: nodes kept (hnsw) or lists read (ivf), and the recall at 10 measured with it."""

    amount: int = 0
    recall: float = 1.0
    queries: str = ""  # what kind of queries it was measured on; empty for exact search


def faiss_module() -> Any:
    """FAISS, or a sentence on how to get it."""
    try:
        import faiss
    except ImportError as error:
        raise ArchiveError(
            "searching needs FAISS, which is not installed; run `pip install rsvlm[cpu]` (or `rsvlm[gpu]`)"
        ) from error
    # By default FAISS multiplies matrices only from queries x dimension = 128,000; from 20 it is 5 times faster.
    faiss.cvar.distance_compute_blas_threshold = MANY_QUERIES
    return faiss


def machine_memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def bytes_per_vector(kind: str, dim: int) -> int:
    """Memory of one vector: float32, with the links of its graph, or 1 bit and 8 bits a number."""
    return {"flat": 4 * dim, "hnsw": 4 * dim + 8 * HNSW_LINKS + 16, "ivf": dim // 8 + dim + 32}[kind]


def require_kind(kind: str) -> str:
    """The kind, if it is one; raises QueryError."""
    if kind not in (AUTO, *KINDS):
        raise QueryError(f"an index is of kind {', '.join((AUTO, *KINDS))}; got {kind!r}")
    return kind


def choose_kind(rows: int, dim: int, *, memory: int, wanted: str = AUTO) -> Choice:
    """The kind for this many vectors of this length (`memory` in bytes), or the one asked for."""
    room = memory * MEMORY_SHARE
    sizes = {kind: rows * bytes_per_vector(kind, dim) for kind in KINDS}
    if require_kind(wanted) != AUTO:
        if wanted == "ivf" and rows < IVF_LEAST:
            return Choice("flat", f"ivf was asked for, but {rows:,} vectors are fewer than the {IVF_LEAST:,} it needs")
        return Choice(wanted, f"asked for; {rows:,} vectors take {_size(sizes[wanted])}")
    facts = f"{rows:,} vectors of {dim} numbers"
    limit = f"half of this machine's {_size(memory)}"
    if rows < IVF_LEAST or (rows <= FLAT_ROWS and sizes["flat"] <= room):
        return Choice("flat", f"exact: {facts} take {_size(sizes['flat'])} and are up to {FLAT_ROWS:,}")
    if FLAT_ROWS < rows <= HNSW_ROWS and sizes["hnsw"] <= room:
        return Choice(
            "hnsw",
            f"a graph: {facts} are over {FLAT_ROWS:,}, where exact search is slow, and take {_size(sizes['hnsw'])}, "
            f"within {limit}",
        )
    why = f"over {HNSW_ROWS:,}" if rows > HNSW_ROWS else f"too many to keep as float32 in {limit}"
    return Choice("ivf", f"lists of 1-bit codes refined by 8-bit ones: {facts} are {why}; {_size(sizes['ivf'])}")


def make_index(kind: str, sample: NDArray[np.float32], rows: int) -> Any:
    """An empty index for about `rows` vectors, trained on a sample (n, D) where its kind needs that."""
    faiss, dim = faiss_module(), sample.shape[1]
    if kind == "flat":
        return faiss.IndexFlatIP(dim)
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = HNSW_BUILD
        return index
    index = faiss.index_factory(dim, f"IVF{lists_for(rows)},RaBitQfs,Refine(SQ8)", faiss.METRIC_INNER_PRODUCT)
    faiss.extract_index_ivf(index).cp.seed = 1234
    index.train(np.ascontiguousarray(sample))
    return index


def lists_for(rows: int) -> int:
    """Number of lists: the power of two nearest to 4 times the root of the rows, as 4,096 for a million."""
    return int(2 ** np.clip(np.round(np.log2(4 * np.sqrt(max(rows, 1)))), 6, 16))


def training_rows(kind: str, rows: int) -> int:
    """How many vectors the training of a kind looks at."""
    return min(rows, TRAINING_PER_LIST * lists_for(rows)) if kind == "ivf" else 0


def parameters(kind: str, effort: int, depth: int, chosen: Any = None) -> Any:
    """FAISS search parameters of a kind; `chosen` is an IDSelector, or None to search everything."""
    faiss = faiss_module()
    options = {} if chosen is None else {"sel": chosen}
    if kind == "flat":
        return faiss.SearchParameters(**options)
    if kind == "hnsw":
        return faiss.SearchParametersHNSW(efSearch=max(effort, depth), **options)
    inside = faiss.SearchParametersIVF(nprobe=effort, **options)
    return faiss.IndexRefineSearchParameters(k_factor=REFINE, base_index_params=inside)


def most_effort(kind: str, index: Any) -> int:
    """Where more effort stops to make sense: all lists, or a graph walk of thousands of nodes."""
    return int(faiss_module().extract_index_ivf(index).nlist) if kind == "ivf" else 4096


def exact_is_cheaper(kind: str, index: Any, effort: int, *, queries: int, allowed: int, rows: int) -> bool:
    """Whether scoring the allowed rows one by one is less work than an approximate search that must skip the others.

    Work is counted in float32 products. An approximate search has to look 1 / selectivity times further for as many
    allowed rows. A graph looks at about HNSW_LINKS neighbours of every node; a 1-bit code costs 1/16 of a product.
    """
    selectivity = max(allowed, 1) / max(rows, 1)
    if kind == "flat":
        # beyond, copying the rows costs one query more than passing over the others; a product of many needs the copy
        return selectivity <= FEW or queries >= MANY_QUERIES
    if kind == "hnsw":
        return allowed <= HNSW_LINKS * effort / selectivity
    return allowed <= rows * effort / most_effort(kind, index) / 16 / selectivity


def deepened(kind: str, index: Any, effort: int, *, depth: int, rows: int) -> int:
    """The effort for so many neighbours: as many nodes of a graph, or lists that hold twice as many rows."""
    if kind == "ivf":
        return max(effort, min(int(np.ceil(2 * depth * most_effort(kind, index) / rows)), most_effort(kind, index)))
    return max(effort, depth) if kind == "hnsw" else effort


def widened(kind: str, index: Any, effort: int, *, allowed: int, rows: int) -> int:
    """The effort for a filtered search: as many allowed rows are met as an unfiltered search meets rows."""
    return min(int(np.ceil(effort * rows / max(allowed, 1))), most_effort(kind, index))


def queries_like_texts(sample: NDArray[np.float32], count: int = TUNING_QUERIES) -> NDArray[np.float32]:
    """Stand-ins for texts (count, D): seeded directions that lie at cosine TEXT_COSINE to a stored vector.

    Texts are out of distribution: an index tuned on stored vectors finds far less for them than it promises.
    """
    random = np.random.default_rng(0)
    near = sample[random.integers(0, len(sample), count)]
    away = random.normal(size=near.shape).astype(np.float32)
    away -= (away * near).sum(1, keepdims=True) * near
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    return np.ascontiguousarray(TEXT_COSINE * near + np.sqrt(1 - TEXT_COSINE**2) * away, np.float32)


def true_neighbours(queries: NDArray[np.float32], blocks: Iterable[NDArray[np.float32]]) -> NDArray[np.int64]:
    """Row positions (Q, RECALL_AT) of the nearest rows of all blocks, found exactly in one pass."""
    scores = np.full((len(queries), 0), -np.inf, np.float32)
    rows, seen = np.zeros((len(queries), 0), np.int64), 0
    for block in blocks:
        scores = np.hstack([scores, queries @ block.T])
        numbers = np.broadcast_to(np.arange(seen, seen + len(block)), (len(queries), len(block)))
        rows, seen = np.hstack([rows, numbers]), seen + len(block)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :RECALL_AT]
        scores, rows = np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)
    return rows


def tune(
    kind: str, index: Any, queries: NDArray[np.float32], truth: NDArray[np.int64], *, target: float, described: str
) -> Effort:
    """The least effort, doubling from 16, that finds `target` of the true neighbours of these queries."""
    if kind == "flat":
        return Effort()
    amount, depth = 16, min(DEPTH, int(index.ntotal))
    while True:
        _, found = index.search(queries, depth, params=parameters(kind, amount, depth))
        # as in every search, the best of what comes back are ranked again exactly: being among them is being found
        recall = float(np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, truth, strict=True)]))
        if recall >= target or amount >= most_effort(kind, index):
            return Effort(amount, round(recall, 4), described)
        amount = min(2 * amount, most_effort(kind, index))


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
