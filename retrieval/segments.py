"""One part of the search index: the vectors of some fragments of the table in one FAISS file."""

from __future__ import annotations

import logging
import threading
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.kinds import (
    Effort,
    choose_kind,
    deepened,
    exact_is_cheaper,
    faiss_module,
    make_index,
    most_effort,
    parameters,
    queries_like_texts,
    training_rows,
    true_neighbours,
    tune,
    widened,
)
from retrieval.rows import RowRuns
from retrieval.sums import sha256_of
from rsvlm.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from retrieval.store import ChipTable

    Queries = Callable[[], NDArray[np.float32]]

logger = logging.getLogger(__name__)
BLOCK, ASKED = 16_384, 256  # rows scored at once on the exact path, and queries
WIDER = 4  # times the effort, where a search met fewer rows than it was asked for
GPU_LEAST = 100_000  # fewer rows are found faster than they reach a GPU
GPU_TURN = threading.Lock()  # FAISS's GPU resources serve one thread at a time
GPU_MOST = 2048  # neighbours FAISS selects on a GPU


@dataclass(frozen=True, slots=True)
class IndexPlan:
    """What is wanted of an index: its kind, the recall to tune to, memory in bytes, and queries to tune on."""

    kind: str
    target: float
    memory: int
    texts: Queries | None = None


@dataclass(frozen=True)
class SegmentFacts:
    """What the manifest says of a segment."""

    file: str
    kind: str
    reason: str
    fragments: dict[int, str]  # fragment of the table -> the file that holds its vectors
    runs: RowRuns  # row addresses in the order of the vectors
    tuned_rows: int
    effort: Effort
    size: int = 0  # bytes
    sha256: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        plain = {name: getattr(self, name) for name in ("file", "kind", "reason", "tuned_rows", "size", "sha256")}
        fragments = {str(number): name for number, name in sorted(self.fragments.items())}
        return {**plain, "fragments": fragments, "runs": self.runs.to_json(), "effort": asdict(self.effort)}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> SegmentFacts:
        """Read what `to_json` wrote; raises ValueError, KeyError or TypeError for anything else."""
        return cls(
            **{
                **plain,
                "fragments": {int(number): str(name) for number, name in plain["fragments"].items()},
                "runs": RowRuns.from_json(plain["runs"]),
                "effort": Effort(**plain["effort"]),
            }
        )


@dataclass
class Segment:
    """A segment, its FAISS index read when it is first needed and never without its size and sha256."""

    facts: SegmentFacts
    folder: Path
    index: Any = None
    gpu: Any = field(default=None, repr=False)
    selector: tuple[NDArray[np.int64], Any] | None = field(default=None, repr=False)

    @property
    def rows(self) -> int:
        """Vectors in it, those of removed rows too."""
        return len(self.facts.runs)

    def problem(self) -> str | None:
        """Why its file cannot be served, None when it can. FAISS is not asked: it may crash."""
        path = self.folder / self.facts.file
        try:
            sound = path.stat().st_size == self.facts.size and sha256_of(path) == self.facts.sha256
        except OSError:
            sound = False
        return None if sound else "its file is damaged"

    def load(self) -> Segment:
        """Read the file; raises ArchiveError for a damaged one."""
        if self.index is None:
            problem = self.problem()
            if problem is not None:
                raise ArchiveError(f"{self.facts.file}: {problem}")
            try:
                self.index = faiss_module().read_index(str(self.folder / self.facts.file), self._reading())
            except RuntimeError as error:  # removed since it was checked
                raise ArchiveError(f"{self.facts.file}: {str(error)[:120]}") from error
            if self.index.ntotal != self.rows:
                raise ArchiveError(f"{self.facts.file}: {self.index.ntotal} vectors, {self.rows} expected")
        return self

    def copy(self) -> Any:
        """An index of its own to add to: read again where the one in memory is mapped, for adding to that crashes."""
        self.load()
        if self._reading() and self.facts.sha256:
            return faiss_module().read_index(str(self.folder / self.facts.file))
        return faiss_module().clone_index(self.index)

    def _reading(self) -> int:
        """How to read: compressed lists stay on the disk, mapped, and what searches touch stays in memory."""
        mapped: int = getattr(faiss_module(), "IO_FLAG_MMAP_IFC", 0) if self.facts.kind == "ivf" else 0
        return mapped

    def search(
        self, queries: NDArray[np.float32], depth: int, chosen: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and positions of the best rows for queries (Q, D): (Q, depth), or (Q, rows there are) where fewer.

        `chosen` are the positions to search among, ascending, or None for all.
        """
        kind, count = self.facts.kind, self.rows if chosen is None else len(chosen)
        depth, counts = min(depth, count), {"allowed": count, "rows": self.rows}
        if kind == "flat" and chosen is None:
            return self._approximate(queries, depth, 0, None)
        effort = deepened(kind, self.index, self.facts.effort.amount, depth=depth, rows=self.rows)
        apart = chosen is not None or effort > self.facts.effort.amount
        if depth == 0 or (apart and exact_is_cheaper(kind, self.index, effort, queries=len(queries), **counts)):
            return self._exact(queries, depth, chosen)
        effort = effort if kind == "flat" else widened(kind, self.index, effort, **counts)
        scores, rows = self._approximate(queries, depth, effort, chosen)
        while (short := (rows < 0).any(axis=1)).any():  # fewer were met than there are
            if (effort := WIDER * effort) < most_effort(kind, self.index):
                scores[short], rows[short] = self._approximate(queries[short], depth, effort, chosen)
            else:
                scores[short], rows[short] = self._exact(queries[short], depth, chosen)
        return scores, rows

    def _approximate(
        self, queries: NDArray[np.float32], depth: int, effort: int, chosen: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        if chosen is None and depth <= GPU_MOST and self._on_gpu():
            try:
                with GPU_TURN:
                    scores, rows = self.gpu.search(queries, depth)
            except RuntimeError as error:
                self._without_gpu(error)
            else:
                return scores, rows
        selector = None if chosen is None else self._selector_of(chosen)
        options = {"params": parameters(self.facts.kind, effort, depth, selector)}
        if self.facts.kind == "flat" and selector is None:
            options = {}  # with parameters, even empty ones, the matrix product is not used
        scores, rows = self.index.search(queries, depth, **options)
        return scores, rows

    def _selector_of(self, chosen: NDArray[np.int64]) -> Any:
        """FAISS's filter for some positions; the last one is remembered."""
        held = self.selector
        if held is None or held[0] is not chosen:
            allowed = np.zeros(self.rows, np.bool_)
            allowed[chosen] = True
            held = self.selector = chosen, faiss_module().IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        return held[1]

    def _on_gpu(self) -> bool:
        """Whether an exact search can go through a GPU; the copy is made the first time."""
        faiss = faiss_module()
        if self.facts.kind != "flat" or self.rows < GPU_LEAST or not hasattr(faiss, "StandardGpuResources"):
            return False
        with GPU_TURN:
            if self.gpu is None and faiss.get_num_gpus() > 0:
                try:
                    self.gpu = faiss.index_cpu_to_all_gpus(self.index)
                except RuntimeError as error:
                    self._without_gpu(error)
        return bool(self.gpu)

    def _without_gpu(self, error: RuntimeError) -> None:
        logger.warning("searching without the GPU, whose memory does not suffice: %s", str(error)[:120])
        self.gpu = False

    def _exact(
        self, queries: NDArray[np.float32], depth: int, chosen: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Score every chosen row: of a graph in its own vectors, passing over the others, unless few are chosen."""
        count = self.rows if chosen is None else len(chosen)
        few = exact_is_cheaper("flat", None, 0, queries=len(queries), allowed=count, rows=self.rows)
        if self.facts.kind != "hnsw" or (few and chosen is not None):
            return self._score_all(queries, depth, chosen)
        vectors = faiss_module().downcast_index(self.index.storage)
        options = {} if chosen is None else {"params": parameters("flat", 0, depth, self._selector_of(chosen))}
        scores, rows = vectors.search(queries, depth, **options)
        return scores, rows

    def _score_all(
        self, queries: NDArray[np.float32], depth: int, chosen: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The chosen rows one by one, in blocks, so that memory stays flat."""
        if len(queries) > ASKED:
            parts = [self._score_all(queries[i : i + ASKED], depth, chosen) for i in range(0, len(queries), ASKED)]
            return np.concatenate([scores for scores, _ in parts]), np.concatenate([rows for _, rows in parts])
        scores = np.zeros((len(queries), 0), np.float32)
        rows = np.zeros((len(queries), 0), np.int64)
        count = self.rows if chosen is None else len(chosen)
        for start in range(0, count, BLOCK):
            stop = min(start + BLOCK, count)
            part = np.arange(start, stop) if chosen is None else chosen[start:stop]
            scores = np.hstack([scores, queries @ self.vectors_at(part).T])
            rows = np.hstack([rows, np.broadcast_to(part, (len(queries), len(part)))])
            if scores.shape[1] > depth:
                best = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
                scores, rows = np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)
        order = np.argsort(-scores, axis=1, kind="stable")
        return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)

    @property
    def keeps_vectors(self) -> bool:
        """Whether it holds the vectors themselves and not 8-bit copies."""
        return self.facts.kind != "ivf"

    def vectors_at(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors (n, D) at these positions; 8-bit copies in an index of kind ivf."""
        faiss = faiss_module()
        if self.facts.kind == "ivf":
            codes: NDArray[np.float32] = faiss.downcast_index(self.index.refine_index).reconstruct_batch(positions)
            return codes
        store = self.index if self.facts.kind == "flat" else faiss.downcast_index(self.index.storage)
        flat = faiss.rev_swig_ptr(store.get_xb(), self.rows * store.d).reshape(self.rows, store.d)
        taken: NDArray[np.float32] = flat[positions]
        return taken


def build_segment(table: ChipTable, fragments: set[int], plan: IndexPlan, *, folder: Path, file: str) -> Segment:
    """A new segment over all rows of these fragments, of the kind their number calls for."""
    runs = table.runs.in_fragments(fragments)
    choice = choose_kind(len(runs), table.config.dim, memory=plan.memory, wanted=plan.kind)
    index = make_index(choice.kind, _sample(table, fragments, training_rows(choice.kind, len(runs))), len(runs))
    if choice.kind == "flat":
        for _, vectors in table.vectors(fragments):
            index.add(np.ascontiguousarray(vectors))
        effort = Effort()
    else:
        effort = _filled_and_tuned(table, fragments, index, choice.kind, plan)
    named = {number: table.vector_files[number] for number in sorted(fragments)}
    facts = SegmentFacts(file, choice.kind, choice.reason, named, runs, len(runs), effort)
    return Segment(facts, folder, index)


def _filled_and_tuned(table: ChipTable, fragments: set[int], index: Any, kind: str, plan: IndexPlan) -> Effort:
    """Add every vector, and find the true neighbours of the tuning queries in the same pass."""
    queries, described = _tuning_queries(table, fragments, plan)

    def adding() -> Iterator[NDArray[np.float32]]:
        for _, vectors in table.vectors(fragments):
            index.add(np.ascontiguousarray(vectors))  # never add_core with lists of one's own: recall falls to 0.02
            yield vectors

    truth = true_neighbours(queries, adding())
    return tune(kind, index, queries, truth, target=plan.target, described=described)


def _tuning_queries(table: ChipTable, fragments: set[int], plan: IndexPlan) -> tuple[NDArray[np.float32], str]:
    if plan.texts is not None:
        texts = plan.texts()
        return np.ascontiguousarray(texts, np.float32), f"{len(texts)} texts"
    queries = queries_like_texts(_sample(table, fragments, 4096))
    return queries, f"{len(queries)} directions as far from any chip as texts are"


def _sample(table: ChipTable, fragments: set[int], count: int) -> NDArray[np.float32]:
    """About `count` vectors, evenly spread over the rows, at least one."""
    step, seen, parts = max(1, len(table.runs.in_fragments(fragments)) // max(count, 1)), 0, []
    if count == 0:
        return np.zeros((1, table.config.dim), np.float32)
    for _, vectors in table.vectors(fragments):
        parts.append(vectors[-seen % step :: step])
        seen += len(vectors)
    return np.concatenate(parts)


def covered(segment: Segment, table: ChipTable) -> set[int]:
    """Fragments of the table whose vectors a segment holds: same number and same file."""
    return {number for number, file in segment.facts.fragments.items() if table.vector_files.get(number) == file}


def joined(
    segments: list[Segment], missing: set[int], table: ChipTable, plan: IndexPlan, *, folder: Path, file: str
) -> Segment:
    """One segment over several, largest first, and the missing fragments: added to the largest, or all built anew.

    Anew where the kind must change, where rows of it were removed, or where it would outgrow what it was tuned for.
    """
    largest, *smaller = segments
    others = missing.union(*(covered(segment, table) for segment in smaller))
    fragments = others | covered(largest, table)
    rows = len(table.runs.in_fragments(fragments))
    choice = choose_kind(rows, table.config.dim, memory=plan.memory, wanted=plan.kind)
    whole = len(table.runs.in_fragments(covered(largest, table))) == largest.rows
    if choice.kind == "flat" or choice.kind != largest.facts.kind or not whole or rows > 2 * largest.facts.tuned_rows:
        return build_segment(table, fragments, plan, folder=folder, file=file)
    index = largest.copy()  # searches may still run in the old one
    for _, vectors in table.vectors(others):
        index.add(np.ascontiguousarray(vectors))
    facts = replace(
        largest.facts,
        file=file,
        reason=choice.reason,
        fragments={number: table.vector_files[number] for number in sorted(fragments)},
        runs=RowRuns.join([largest.facts.runs, table.runs.in_fragments(others)]),
        size=0,
        sha256="",
    )
    return Segment(facts, folder, index)
