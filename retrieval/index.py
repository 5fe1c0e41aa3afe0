"""The FAISS index: built from the table, kept beside it, never trusted without its size and sha256."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rsvlm.errors import ArchiveError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from retrieval.store import ChipTable

INDEX_FORMAT = 1
FOLDER = "index"
SPARE = 16  # neighbours asked beyond k, so that ties at the end of the list are usually seen at once
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


@dataclass(frozen=True)
class VectorIndex:
    """Exact inner-product search over the rows of one generation."""

    key: IndexKey
    faiss_index: Any

    def search(
        self, vector: NDArray[np.float32], k: int, allowed: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and row positions of the k best, best first, and all that tie with the last of them.

        `allowed` are the positions to search among; the filter works inside the search, so nothing is lost to it.
        """
        count = self.key.rows if allowed is None else len(allowed)
        k = min(k, count)
        if k == 0:
            return np.zeros(0, np.float32), np.zeros(0, np.int64)
        options = {} if allowed is None else {"params": _selection(allowed, self.key.rows)}
        fetch = min(count, k + SPARE)
        while True:
            scores, positions = (found[0] for found in self.faiss_index.search(vector[None], fetch, **options))
            if fetch == count or scores[-1] < scores[k - 1]:
                break
            fetch = min(count, 2 * fetch)
        kept = (positions >= 0) & (scores >= scores[k - 1])
        return scores[kept], positions[kept]


def faiss_module() -> Any:
    """FAISS, or a sentence on how to get it."""
    try:
        import faiss
    except ImportError as error:
        raise ArchiveError(
            "searching needs FAISS, which is not installed; run `pip install rsvlm[cpu]` (or `rsvlm[gpu]`)"
        ) from error
    # By default FAISS uses its matrix product only for very many queries; from 20 on it is 5 times faster already.
    faiss.cvar.distance_compute_blas_threshold = 20
    return faiss


def _selection(allowed: NDArray[np.int64], rows: int) -> Any:
    faiss = faiss_module()
    chosen = np.zeros(rows, np.bool_)
    chosen[allowed] = True
    return faiss.SearchParameters(sel=faiss.IDSelectorBitmap(np.packbits(chosen, bitorder="little")))


def open_index(table: ChipTable, folder: Path) -> VectorIndex:
    """The index of this version of the table: read when it is whole and its own, else built and written beside."""
    key = IndexKey.of(table)
    problem = index_problem(folder, key)
    if problem is None:
        try:
            return VectorIndex(key, faiss_module().read_index(str(_index_file(folder, key.generation))))
        except RuntimeError as error:  # removed since it was checked
            problem = str(error)
    logger.info("building the search index: %s", problem)
    index = build(table, key)
    try:
        _save(index, folder)
    except (OSError, RuntimeError) as error:
        logger.warning("the search index could not be kept and will be built again next time: %s", error)
    return index


def build(table: ChipTable, key: IndexKey) -> VectorIndex:
    """An exact index of all vectors, in row order."""
    index = faiss_module().IndexFlatIP(key.dim)
    for vectors in table.vectors():
        index.add(np.ascontiguousarray(vectors))
    return VectorIndex(key, index)


def index_problem(folder: Path, key: IndexKey) -> str | None:
    """Why the index on disk cannot be served for this key, None when it can. FAISS is not asked: it may crash."""
    path = _index_file(folder, key.generation)
    try:
        manifest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        size, digest = manifest.pop("size"), manifest.pop("sha256")
    except FileNotFoundError:
        return "there is none for this version of the table"
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return "its manifest is damaged"
    differing = [name for name, value in asdict(key).items() if manifest.get(name) != value]
    if differing:
        return f"it was built from something else ({', '.join(differing)} differ)"
    if not path.is_file() or path.stat().st_size != size or _sha256(path) != digest:
        return "its file is damaged"
    return None


def prune(folder: Path, keep: int | None) -> None:
    """Remove the indexes of other generations, and what interrupted builds left behind."""
    for path in sorted((folder / FOLDER).glob("*")):
        if path.suffix == ".tmp":
            old = time.time() - path.stat().st_mtime > LEFTOVER_SECONDS
        else:
            old = path.suffix in (".faiss", ".json") and path.stem != str(keep)
        if old:
            path.unlink(missing_ok=True)


def _index_file(folder: Path, generation: int) -> Path:
    return folder / FOLDER / f"{generation}.faiss"


def _save(index: VectorIndex, folder: Path) -> None:
    """Write beside, flush to the disk, rename; the manifest comes last, so its presence means the index is whole."""
    target = _index_file(folder, index.key.generation)
    target.parent.mkdir(exist_ok=True)
    beside = target.with_suffix(f".{os.getpid()}.tmp")
    faiss_module().write_index(index.faiss_index, str(beside))
    manifest = {**asdict(index.key), "size": beside.stat().st_size, "sha256": _sha256(beside)}
    _settle(beside, target)
    beside.write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
    _settle(beside, target.with_suffix(".json"))


def _settle(beside: Path, target: Path) -> None:
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(beside, target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
