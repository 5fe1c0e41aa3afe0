"""The search index: segments built from the table, kept beside it, never trusted without their size and sha256.

A segment covers whole fragments of the table. An add writes a segment of what is new and leaves the others alone;
segments of like size are joined, so that there are few. Removed rows stay in their segment and are passed over.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import numpy as np

from retrieval.kinds import AUTO, KINDS, TARGET, faiss_module, machine_memory
from retrieval.segments import IndexPlan, Segment, SegmentFacts, build_segment, covered, joined
from retrieval.sums import settle, sha256_of
from rsvlm.errors import ArchiveError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from retrieval.segments import Queries
    from retrieval.store import ChipTable

    Found = tuple[NDArray[np.float32], NDArray[np.int64]]  # scores and row addresses, best first

INDEX_FORMAT = 2
FOLDER = "index"
SMALL_ROWS = 16_384  # smaller segments are always joined: writing them again takes less than a search through many
REMOVED_SHARE = 0.3  # of a segment's rows, beyond which it is built anew
TIE = 1e-5  # scores closer than this may change places when they are computed exactly
SPARE = 8  # neighbours found beyond those asked for: the last of them shows that none ties with what was asked for
SCORED = 256  # queries whose vectors are read together,
REMEMBERED = 16  # selections of rows, a segment each
READ_ROWS = 32_768  # and so many of these at once
LEFTOVER_SECONDS = 3600
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class IndexKey:
    """What an index must have been built from to be served."""

    generation: int  # version of the table
    rows: int
    dim: int
    metric: str
    fingerprint: str
    format_version: int = INDEX_FORMAT

    @classmethod
    def of(cls, table: ChipTable) -> IndexKey:
        """The key of a table at its version."""
        config = table.config
        return cls(table.version, len(table), config.dim, config.metric, config.fingerprint)


class _Selection(NamedTuple):
    """Row addresses that were let through, and their positions in one segment."""

    allowed: NDArray[np.int64] | None
    positions: NDArray[np.int64]


@dataclass(frozen=True)
class VectorIndex:
    """Inner-product search over the rows of one version of the table."""

    key: IndexKey
    table: ChipTable
    segments: tuple[Segment, ...]
    kind: str = AUTO  # as asked for
    target: float = TARGET
    selections: dict[tuple[str, int], _Selection] = field(default_factory=dict, repr=False)  # the last few

    def search(self, queries: NDArray[np.float32], depth: int, allowed: NDArray[np.int64] | None = None) -> list[Found]:
        """For each query (Q, D) the `depth` best rows, best first, and all that tie with the last of them.

        `allowed` are the row addresses to search among. Scores are float32 products computed anew from the vectors,
        so that they do not depend on the kind, the segment or the batch they were found in.
        """
        found = [self._found(segment, queries, depth, allowed) for segment in self.segments]
        return [_best([parts[i] for parts in found], depth) for i in range(len(queries))]

    def _found(
        self, segment: Segment, queries: NDArray[np.float32], depth: int, allowed: NDArray[np.int64] | None
    ) -> list[Found]:
        chosen = self._chosen(segment, allowed)
        count = segment.rows if chosen is None else len(chosen)
        rows: dict[int, NDArray[np.int64]] = {}
        unsettled, fetched = np.arange(len(queries)), min(count, depth + SPARE)
        while len(unsettled):
            scores, positions = segment.load().search(queries[unsettled], fetched, chosen)
            tied = np.zeros(len(unsettled), np.bool_)
            if segment.keeps_vectors and fetched < count:
                tied = scores[:, -1] >= scores[:, depth - 1] - TIE
            rows.update(zip(unsettled[~tied].tolist(), positions[~tied], strict=True))
            unsettled, fetched = unsettled[tied], min(count, 2 * fetched)
        return self._scored(segment, queries, [rows[i] for i in range(len(queries))])

    def _scored(self, segment: Segment, queries: NDArray[np.float32], rows: list[NDArray[np.int64]]) -> list[Found]:
        """The products of queries (Q, D) with the vectors at some positions of a segment each, and their addresses."""
        found: list[Found] = []
        for start in range(0, len(queries), SCORED):
            several = rows[start : start + SCORED]
            positions, places = np.unique(np.concatenate(several), return_inverse=True)  # each is read once
            parts = np.split(places, np.cumsum([len(own) for own in several])[:-1])
            scores = [np.zeros(len(own), np.float32) for own in several]
            for low in range(0, len(positions), READ_ROWS):
                vectors = self._vectors(segment, positions[low : low + READ_ROWS])
                for query, own, out in zip(queries[start : start + SCORED], parts, scores, strict=True):
                    here = (own >= low) & (own < low + READ_ROWS)
                    chosen = vectors[own[here] - low].astype(np.float64)
                    out[here] = np.einsum("nd,d->n", chosen, query.astype(np.float64))
            addresses = segment.facts.runs.at(positions)
            found += [(out, addresses[own]) for out, own in zip(scores, parts, strict=True)]
        return found

    def _vectors(self, segment: Segment, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        if segment.keeps_vectors:
            return segment.vectors_at(positions)
        return self.table.vectors_at(segment.facts.runs.at(positions))

    def scores(self, query: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The products of one query (D,) with the vectors of the rows at these addresses (n,), as in a search."""
        found = np.zeros(len(rows), np.float32)
        for segment in self.segments:
            positions = segment.load().facts.runs.positions(rows)
            live = self.table.runs.in_fragments(covered(segment, self.table)).positions(rows) >= 0
            here = np.flatnonzero((positions >= 0) & live)
            ((scores, _),) = self._scored(segment, query[None], [positions[here]])
            found[here] = scores
        return found

    def _chosen(self, segment: Segment, allowed: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
        """Positions in a segment to search among; None where nothing is filtered and nothing was removed.

        The last few are remembered: pages and repeated filters come with the same array of rows.
        """
        own = segment.facts.runs
        live = self.table.runs.in_fragments(covered(segment, self.table))
        if allowed is None and len(live) == len(own):
            return None
        key = segment.facts.file, id(allowed)
        held = self.selections.get(key)
        if held is None or held.allowed is not allowed:
            rows = live.addresses() if allowed is None else allowed[live.positions(allowed) >= 0]
            positions = own.positions(rows)
            held = _Selection(allowed, np.sort(positions[positions >= 0]))
            while len(self.selections) >= REMEMBERED:
                self.selections.pop(next(iter(self.selections)), None)
            self.selections[key] = held
        return held.positions

    @property
    def described(self) -> list[dict[str, Any]]:
        """Every segment in plain values: kind, rows, bytes, why, and how hard it looks for what recall."""
        return [_described(segment, self.table) for segment in self.segments]


def open_index(
    table: ChipTable, folder: Path, *, before: VectorIndex | None = None, texts: Queries | None = None
) -> VectorIndex:
    """The index of this version of the table, ready to search; what is missing or damaged is built and kept.

    Of the index of an earlier version the parts that are still named serve on. Then what is missing is not kept: a
    writer is at work, who makes it.
    """
    index = _newest_usable(table, folder, None)
    if before is not None:
        index = replace(index, segments=tuple(_loaded(segment, before) for segment in index.segments))
    if index.key != IndexKey.of(table) or _missing(index):
        index = _completed(replace(index, key=IndexKey.of(table)), folder, texts)
        if before is None:
            _keep(index, folder)
    damaged = []
    for segment in index.segments:
        try:
            segment.load()
        except ArchiveError as error:
            logger.warning("building part of the search index again: %s", error)
            damaged.append(segment)
    if damaged:
        sound = tuple(segment for segment in index.segments if segment not in damaged)
        index = _completed(replace(index, segments=sound), folder, texts)
        _keep(index, folder)
    return index


def extend_index(
    table: ChipTable, folder: Path, *, previous: VectorIndex | None = None, texts: Queries | None = None
) -> VectorIndex:
    """Bring the index to this version of the table: only what no segment covers is read and written."""
    key = IndexKey.of(table)
    base = _newest_usable(table, folder, previous)
    if base.key == key and not _missing(base):
        return base
    index = _completed(replace(base, key=key), folder, texts)
    _keep(index, folder)
    return index


def build_index(
    table: ChipTable, folder: Path, *, kind: str = AUTO, target: float = TARGET, texts: Queries | None = None
) -> VectorIndex:
    """A new index of all rows in one segment, of the kind asked for, and written beside the old one."""
    index = _completed(VectorIndex(IndexKey.of(table), table, (), kind, target), folder, texts)
    _keep(index, folder)
    return index


def index_problem(folder: Path, table: ChipTable) -> str | None:
    """Why the index on disk cannot be served for this table, None when it can. FAISS is not asked: it may crash."""
    key = IndexKey.of(table)
    try:
        plain = json.loads(_manifest_file(folder, key.generation).read_text(encoding="utf-8"))
        differing = [name for name, value in asdict(key).items() if plain.get(name) != value]
        if not differing:
            index = _from_manifest(plain, table, folder)
    except FileNotFoundError:
        return "there is none for this version of the table"
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return "its manifest is damaged"
    if differing:
        return f"it was built from something else ({', '.join(differing)} differ)"
    if _missing(index):
        return "it was built from something else (files of the table differ)"
    return next((problem for segment in index.segments if (problem := segment.problem())), None)


def index_facts(folder: Path, table: ChipTable) -> dict[str, Any]:
    """The index on disk in plain values: state, kind asked for, and every segment with its reasons."""
    problem = index_problem(folder, table)
    if problem is not None:
        return {"state": problem}
    index = _newest_usable(table, folder, None)
    return {"state": "whole", "asked": index.kind, "target_recall": index.target, "segments": index.described}


def asked_of(folder: Path) -> tuple[str, float]:
    """The kind and the recall that were asked for last, as the manifests tell; "auto" where none can be read."""
    for path in _manifests(folder):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            plain = json.loads(path.read_text(encoding="utf-8"))
            if plain.pop("sha256") == _digest(plain) and plain["kind"] in (AUTO, *KINDS):
                return plain["kind"], float(plain["target"])
    return AUTO, TARGET


def prune(folder: Path, keep: int | None) -> None:
    """Remove the indexes of other generations, and what interrupted builds left behind."""
    named = set()
    if keep is not None:
        try:
            plain = json.loads(_manifest_file(folder, keep).read_text(encoding="utf-8"))
            named = {_manifest_file(folder, keep).name, *(str(part["file"]) for part in plain["segments"])}
        except (OSError, ValueError, KeyError, TypeError):
            return  # without a manifest nobody knows what is still of use
    for path in sorted((folder / FOLDER).glob("*")):
        if path.suffix == ".tmp":
            old = time.time() - path.stat().st_mtime > LEFTOVER_SECONDS
        else:
            old = path.suffix in (".faiss", ".json") and path.name not in named
        if old:
            path.unlink(missing_ok=True)


def _loaded(segment: Segment, before: VectorIndex) -> Segment:
    """The same segment of another index, where that holds it in memory."""
    wanted = segment.facts.file, segment.facts.sha256
    held = (one for one in before.segments if one.index is not None)
    return next((one for one in held if (one.facts.file, one.facts.sha256) == wanted), segment)


def _newest_usable(table: ChipTable, folder: Path, previous: VectorIndex | None) -> VectorIndex:
    """The index to go on from: the one in memory, or the newest on disk that this encoder's vectors are in."""
    if previous is not None and previous.segments:
        return replace(previous, table=table, segments=_of_table(previous.segments, table), selections={})
    wanted = asdict(IndexKey.of(table))
    for path in [_manifest_file(folder, table.version), *_manifests(folder)]:
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            if all(plain[name] == wanted[name] for name in ("dim", "metric", "fingerprint", "format_version")):
                return _from_manifest(plain, table, folder)
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            if not isinstance(error, FileNotFoundError):
                logger.warning("passing over the damaged index manifest %s", path.name)
    return VectorIndex(replace(IndexKey.of(table), generation=-1), table, ())


def _from_manifest(plain: dict[str, Any], table: ChipTable, folder: Path) -> VectorIndex:
    """Read a manifest; raises ValueError, KeyError or TypeError for a damaged one."""
    body = {name: value for name, value in plain.items() if name != "sha256"}
    if plain["sha256"] != _digest(body) or body["kind"] not in (AUTO, *KINDS):
        raise ValueError("the digest of the manifest is another")
    segments = [Segment(SegmentFacts.from_json(part), folder / FOLDER) for part in body["segments"]]
    key = IndexKey(**{name: body[name] for name in asdict(IndexKey.of(table))})
    return VectorIndex(key, table, _of_table(tuple(segments), table), body["kind"], float(body["target"]))


def _of_table(segments: tuple[Segment, ...], table: ChipTable) -> tuple[Segment, ...]:
    """The segments that still hold enough rows of this table to be worth keeping."""
    kept = []
    for segment in segments:
        live = len(table.runs.in_fragments(covered(segment, table)))
        if live and live >= (1 - REMOVED_SHARE) * segment.rows:
            kept.append(segment)
    return tuple(kept)


def _missing(index: VectorIndex) -> set[int]:
    """Fragments of the table that no segment covers."""
    there = {number for segment in index.segments for number in covered(segment, index.table)}
    return set(index.table.vector_files) - there


def _completed(index: VectorIndex, folder: Path, texts: Queries | None) -> VectorIndex:
    """Cover what is missing with one new segment, joined with those that are not much larger."""
    missing = _missing(index)
    if not missing:
        return index
    logger.info("indexing %d rows", len(index.table.runs.in_fragments(missing)))
    plan = IndexPlan(index.kind, index.target, machine_memory(), texts)
    table, place = index.table, folder / FOLDER
    kept = sorted(index.segments, key=lambda segment: segment.rows)
    size, joining = len(table.runs.in_fragments(missing)), []
    while kept and (kept[0].rows < 2 * size or kept[0].rows + size <= SMALL_ROWS):
        size += kept[0].rows
        joining.append(kept.pop(0))
    file = f"{index.key.generation}-{uuid4().hex[:12]}.faiss"  # readers may build the same at once, no two alike
    if joining:
        made = joined(joining[::-1], missing, table, plan, folder=place, file=file)
    else:
        made = build_segment(table, missing, plan, folder=place, file=file)
    return replace(index, segments=(*kept, made))


def _keep(index: VectorIndex, folder: Path) -> None:
    """Write what is not on disk yet; an index that cannot be kept is searched all the same."""
    try:
        _save(index, folder)
    except (OSError, RuntimeError) as error:
        logger.warning("the search index could not be kept and will be built again next time: %s", error)


def _save(index: VectorIndex, folder: Path) -> None:
    """Write beside, flush to the disk, rename; the manifest comes last, so its presence means the index is whole."""
    manifest = _manifest_file(folder, index.key.generation)
    manifest.parent.mkdir(exist_ok=True)
    beside = manifest.with_suffix(f".{uuid4().hex}.tmp")
    for segment in index.segments:
        if not segment.facts.sha256:
            faiss_module().write_index(segment.index, str(beside))
            segment.facts = replace(segment.facts, size=beside.stat().st_size, sha256=sha256_of(beside))
            settle(beside, manifest.parent / segment.facts.file)
    parts = [segment.facts.to_json() for segment in index.segments]
    body = {**asdict(index.key), "kind": index.kind, "target": index.target, "segments": parts}
    beside.write_text(json.dumps({**body, "sha256": _digest(body)}, indent=1, sort_keys=True), encoding="utf-8")
    settle(beside, manifest)


def _manifests(folder: Path) -> list[Path]:
    """All that are there, the newest first."""
    return sorted((folder / FOLDER).glob("*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _manifest_file(folder: Path, generation: int) -> Path:
    return folder / FOLDER / f"{generation}.json"


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _best(parts: list[Found], depth: int) -> Found:
    """The best of several lists, best first, and all that tie with the last of them."""
    scores = np.concatenate([np.zeros(0, np.float32), *(part[0] for part in parts)])
    rows = np.concatenate([np.zeros(0, np.int64), *(part[1] for part in parts)])
    order = np.argsort(-scores, kind="stable")
    if len(order) > depth:
        order = order[scores[order] >= scores[order[depth - 1]]]
    return scores[order], rows[order]


def _described(segment: Segment, table: ChipTable) -> dict[str, Any]:
    facts = segment.facts
    live = len(table.runs.in_fragments(covered(segment, table)))
    found = (
        "all true neighbours are found, exactly"
        if facts.kind == "flat"
        else f"{100 * facts.effort.recall:.1f} % of the 10 true neighbours were found for {facts.effort.queries}, "
        f"looking at {facts.effort.amount} {'lists' if facts.kind == 'ivf' else 'nodes of the graph'}"
    )
    return {
        "file": facts.file,
        "kind": facts.kind,
        "why": facts.reason,
        "recall": found,
        "rows": live,
        "removed_rows": segment.rows - live,
        "bytes": facts.size,
    }
