"""Search indexes to compare: the project's three kinds, FAISS as it comes, hnswlib, USearch and Lance's IVF-PQ.

Each is built once, in a process of its own, and kept; each is tuned on the same texts to the same recall; each answers
queries with row numbers. All graphs have 32 links and are built looking at 128 nodes.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from benchmarks.measure import Contender, Outcome, timed_apart
from benchmarks.vectors import BLOCK, recall
from rsvlm.errors import ArchiveError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.measure import Steps
    from benchmarks.vectors import Corpus

    Rows = NDArray[np.int64]

TOP = 10
LINKS, LOOK = 32, 128
MOST_EFFORT = 4096
LANCE_REFINE = 10  # candidates ranked again by their full vectors, for every neighbour asked for
BUILT = "built.json"
STATUS = Path("/proc/self/status")


class Searcher(Protocol):
    """An index that can be built, kept, opened and asked."""

    effort: int

    def build(self, corpus: Corpus, place: Path) -> None:
        """Index all vectors and keep the result in a folder."""
        ...

    def open(self, corpus: Corpus, place: Path, threads: int) -> None:
        """Make ready to search."""
        ...

    def search(self, queries: NDArray[np.float32], chosen: Rows | None = None, where: str = "") -> Rows:
        """Row numbers (Q, 10), best first; among the chosen rows, which are those where a condition holds."""
        ...


class Ours:
    """One of the project's kinds, through the index that archives search in: scores ranked again, ties completed."""

    def __init__(self, kind: str) -> None:
        self.kind, self.effort, self.hot = kind, 0, 0.0

    def build(self, corpus: Corpus, place: Path) -> None:
        """By `build_index`, which tunes itself."""
        from retrieval.index import build_index

        build_index(corpus.table(), place, kind=self.kind, target=0.95, texts=corpus.tuning)

    def open(self, corpus: Corpus, place: Path, threads: int) -> None:
        """By `open_index`, checked against its sum."""
        from retrieval.index import open_index
        from retrieval.kinds import faiss_module

        faiss = faiss_module()
        faiss.omp_set_num_threads(threads)
        self._index = open_index(corpus.table(), place, texts=corpus.tuning)
        self._runs = self._index.table.runs
        (segment,) = self._index.segments
        self.effort = segment.facts.effort.amount
        self.hot = float(4 * corpus.vectors.shape[1])
        if self.kind == "hnsw":
            self.hot += 8 * LINKS + 16
        elif self.kind == "ivf":
            lists = faiss.extract_index_ivf(segment.index)
            self.hot = lists.code_size + 8 + 4 * lists.d * lists.nlist / corpus.rows

    def search(self, queries: NDArray[np.float32], chosen: Rows | None = None, where: str = "") -> Rows:
        """As deep as every search of an archive looks."""
        from retrieval.kinds import DEPTH

        del chosen
        allowed = self._index.table.addresses(where) if where else None  # the last few are remembered
        found = self._index.search(queries, DEPTH, allowed)
        return np.stack([self._runs.positions(rows[:TOP]) for _, rows in found])


class FaissFlat:
    """IndexFlatIP as it comes, its thresholds untouched."""

    def __init__(self) -> None:
        self.effort = 0

    def build(self, corpus: Corpus, place: Path) -> None:
        """Copy the vectors."""
        faiss: Any = import_module("faiss")
        index = faiss.IndexFlatIP(corpus.vectors.shape[1])
        index.add(np.ascontiguousarray(corpus.vectors))
        faiss.write_index(index, str(place / "flat.faiss"))

    def open(self, corpus: Corpus, place: Path, threads: int) -> None:
        """Read into memory."""
        faiss: Any = import_module("faiss")
        del corpus
        faiss.omp_set_num_threads(threads)
        self._index = faiss.read_index(str(place / "flat.faiss"))

    def search(self, queries: NDArray[np.float32], chosen: Rows | None = None, where: str = "") -> Rows:
        """Exactly."""
        faiss: Any = import_module("faiss")
        del where
        options = (
            {} if chosen is None else {"params": faiss.SearchParameters(sel=_selector(chosen, self._index.ntotal))}
        )
        rows: Rows = self._index.search(queries, TOP, **options)[1]
        return rows


class FaissGraph:
    """IndexHNSWFlat with an IDSelector for filters."""

    def __init__(self) -> None:
        self.effort = 16

    def build(self, corpus: Corpus, place: Path) -> None:
        """Link every vector."""
        faiss: Any = import_module("faiss")
        index = faiss.IndexHNSWFlat(corpus.vectors.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = LOOK
        index.add(np.ascontiguousarray(corpus.vectors))
        faiss.write_index(index, str(place / "hnsw.faiss"))

    def open(self, corpus: Corpus, place: Path, threads: int) -> None:
        """Read into memory."""
        faiss: Any = import_module("faiss")
        del corpus
        faiss.omp_set_num_threads(threads)
        self._index = faiss.read_index(str(place / "hnsw.faiss"))

    def search(self, queries: NDArray[np.float32], chosen: Rows | None = None, where: str = "") -> Rows:
        """Looking at `effort` nodes."""
        faiss: Any = import_module("faiss")
        del where
        options = {} if chosen is None else {"sel": _selector(chosen, self._index.ntotal)}
        found = self._index.search(queries, TOP, params=faiss.SearchParametersHNSW(efSearch=self.effort, **options))
        rows: Rows = found[1]
        return rows


class Hnswlib:
    """hnswlib, with its callback for filters."""

    def __init__(self) -> None:
        self.effort, self._kept = 16, (np.zeros(0, np.int64), frozenset[int]())

    def build(self, corpus: Corpus, place: Path) -> None:
        """Link every vector."""
        hnsw: Any = import_module("hnswlib")

        vectors = corpus.vectors
        index = hnsw.Index(space="ip", dim=vectors.shape[1])
        index.init_index(max_elements=len(vectors), M=LINKS, ef_construction=LOOK, random_seed=100)
        for first in range(0, len(vectors), BLOCK):
            index.add_items(vectors[first : first + BLOCK])
        index.save_index(str(place / "hnswlib.bin"))

    def open(self, corpus: Corpus, place: Path, threads: int) -> None:
        """Read into memory."""
        hnsw: Any = import_module("hnswlib")

        self._index = hnsw.Index(space="ip", dim=corpus.vectors.shape[1])
        self._index.load_index(str(place / "hnswlib.bin"), max_elements=corpus.rows)
        self._index.set_num_threads(threads)

    def search(self, queries: NDArray[np.float32], chosen: Rows | None = None, where: str = "") -> Rows:
        """Looking at `effort` nodes; a filter runs in one thread, as its makers advise."""
        del where
        self._index.set_ef(max(self.effort, TOP))
        if chosen is None:
            return np.asarray(self._index.knn_query(queries, k=TOP)[0], np.int64)
        if self._kept[0] is not chosen:
            self._kept = chosen, frozenset(chosen.tolist())
        found = self._index.knn_query(queries, k=TOP, num_threads=1, filter=self._kept[1].__contains__)
        return np.asarray(found[0], np.int64)


class Usearch:
    """USearch in half precision; it does not filter."""

    def __init__(self) -> None:
        self.effort, self._threads = 16, 1

    def build(self, corpus: Corpus, place: Path) -> None:
        """Link every vector."""
        usearch: Any = import_module("usearch.index")

        vectors = corpus.vectors
        index = usearch.Index(ndim=vectors.shape[1], metric="ip", dtype="f16", connectivity=LINKS, expansion_add=LOOK)
        for first in range(0, len(vectors), BLOCK):
            stop = min(first + BLOCK, len(vectors))
            index.add(np.arange(first, stop), np.asarray(vectors[first:stop]))
        index.save(str(place / "index.usearch"))

    def open(self, corpus: Corpus, place: Path, threads: int) -> None:
        """Read into memory."""
        usearch: Any = import_module("usearch.index")

        self._threads = threads
        self._index = usearch.Index(ndim=corpus.vectors.shape[1], metric="ip", dtype="f16")
        self._index.load(str(place / "index.usearch"))

    def search(self, queries: NDArray[np.float32], chosen: Rows | None = None, where: str = "") -> Rows:
        """Looking at `effort` nodes."""
        if chosen is not None or where:
            raise ArchiveError("USearch for Python does not search among chosen rows")
        self._index.expansion_search = max(self.effort, TOP)
        return np.asarray(self._index.search(queries, TOP, threads=self._threads).keys, np.int64).reshape(-1, TOP)


class LanceIvfPq:
    """Lance's IVF-PQ with the sizes its guide names, refined from the table; one query at a time, as it takes them."""

    def __init__(self) -> None:
        self.effort = 1

    def build(self, corpus: Corpus, place: Path) -> None:
        """Write a table of the vectors and the column of filters, and index it."""
        import pyarrow as pa

        lance: Any = import_module("lance")

        dim = corpus.vectors.shape[1]

        def batches() -> Any:
            for first in range(0, corpus.rows, BLOCK):
                part = np.ascontiguousarray(corpus.vectors[first : first + BLOCK])
                vectors = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), dim)
                numbers = pa.array(np.arange(first, first + len(part)))
                clouds = pa.array(corpus.clouds[first : first + len(part)])
                yield pa.record_batch([vectors, numbers, clouds], schema=schema)

        schema = pa.schema(
            [
                ("vector", pa.list_(pa.float32(), corpus.vectors.shape[1])),
                ("number", pa.int64()),
                ("cloud", pa.float64()),
            ]
        )
        reader = pa.RecordBatchReader.from_batches(schema, batches())
        table = lance.write_dataset(reader, str(place / "table.lance"), schema=schema)
        lists = round(np.sqrt(corpus.rows))
        table.create_index("vector", "IVF_PQ", metric="dot", num_partitions=lists, num_sub_vectors=dim // 8)

    def open(self, corpus: Corpus, place: Path, threads: int) -> None:
        """Open; Lance reads from the disk as it searches."""
        del corpus, threads
        self._table: Any = import_module("lance").dataset(str(place / "table.lance"))

    def search(self, queries: NDArray[np.float32], chosen: Rows | None = None, where: str = "") -> Rows:
        """Reading `effort` lists, filtered before."""
        del chosen
        found = np.full((len(queries), TOP), -1, np.int64)
        for place, query in enumerate(queries):
            near = {"column": "vector", "q": query, "k": TOP, "nprobes": self.effort, "refine_factor": LANCE_REFINE}
            options = {"filter": where, "prefilter": True} if where else {}
            rows = self._table.to_table(columns=["number", "_distance"], nearest=near, **options)["number"].to_numpy()
            found[place, : len(rows)] = rows
        return found


def _selector(chosen: Rows, rows: int) -> Any:
    faiss: Any = import_module("faiss")
    flags = np.zeros(rows, np.bool_)
    flags[chosen] = True
    return faiss.IDSelectorBitmap(np.packbits(flags, bitorder="little"))


@dataclass(frozen=True, slots=True)
class Kind:
    """An index to compare, by its name."""

    name: str
    make: Any  # () -> Searcher
    package: str = "faiss"
    own: bool = False
    tuned: bool = True
    filters: bool = True


KINDS = {
    kind.name: kind
    for kind in (
        Kind("ours flat", lambda: Ours("flat"), own=True, tuned=False),
        Kind("ours hnsw", lambda: Ours("hnsw"), own=True),
        Kind("ours ivf", lambda: Ours("ivf"), own=True),
        Kind("FAISS IndexFlatIP", FaissFlat, tuned=False),
        Kind("FAISS HNSW32", FaissGraph),
        Kind("hnswlib", Hnswlib, "hnswlib"),
        Kind("USearch f16", Usearch, "usearch", filters=False),
        Kind("Lance IVF-PQ", LanceIvfPq, "lance"),
    )
}


def build(corpus: Corpus, name: str, threads: int) -> str:
    """Build and tune an index in a process of its own, unless it is there already; returns why it is not there.

    Raises RuntimeError where one of the project's own cannot be built.
    """
    kind, place = KINDS[name], place_of(corpus, name)
    contender = Contender(name, building, {"corpus": corpus, "name": name, "threads": threads}, (kind.package,))
    if (place / BUILT).is_file() or contender.missing:
        return contender.missing
    shutil.rmtree(place, ignore_errors=True)  # what an interrupted build left
    place.mkdir(parents=True)
    sample = timed_apart(contender)
    if isinstance(sample, str):
        if kind.own:
            raise RuntimeError(f"{name} could not be built: {sample}")
        return sample
    size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    facts = {"cpu_s": sample.cpu, "wall_s": sample.wall, "bytes": size, **sample.outcome.facts}
    (place / BUILT).write_text(json.dumps(facts), encoding="utf-8")
    return ""


def built(corpus: Corpus, name: str) -> dict[str, float]:
    """What building took, and the effort it was tuned to."""
    found: dict[str, float] = json.loads((place_of(corpus, name) / BUILT).read_text(encoding="utf-8"))
    return found


def place_of(corpus: Corpus, name: str) -> Path:
    """The folder of an index."""
    return corpus.folder / name.replace(" ", "-").lower()


def building(corpus: Corpus, name: str, threads: int) -> Steps:
    """Build, then tune on texts: the effort doubles until 95 of 100 true neighbours are found."""
    kind, place = KINDS[name], place_of(corpus, name)
    searcher: Searcher = kind.make()
    _set_threads(threads)
    yield
    searcher.build(corpus, place)
    yield
    searcher.open(corpus, place, threads)
    if kind.tuned and not kind.own:
        while recall(searcher.search(corpus.tuning()), corpus.truth("tuning")) < 0.95 and searcher.effort < MOST_EFFORT:
            searcher.effort *= 2
    return Outcome(corpus.rows, {"effort": searcher.effort})


def _set_threads(threads: int) -> None:
    faiss: Any = import_module("faiss")
    faiss.omp_set_num_threads(threads)


def ready(corpus: Corpus, name: str, threads: int) -> tuple[Searcher, int]:
    """An index opened, with the effort it was tuned to; and the bytes of memory this process held before."""
    for module in ("retrieval.index", "torch", KINDS[name].package):
        import_module(module)
    before = resident()
    searcher: Searcher = KINDS[name].make()
    searcher.open(corpus, place_of(corpus, name), threads)
    searcher.effort = int(built(corpus, name)["effort"])
    return searcher, before


def resident() -> int:
    """Bytes of memory this process holds, mapped files that were touched included; 0 where the system does not tell."""
    if not STATUS.is_file():
        return 0
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024
