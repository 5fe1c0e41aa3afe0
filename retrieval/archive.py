"""The archive: chips of any sensor, found again in words, by example, by place and by date."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import threading
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import shapely
from filelock import FileLock, Timeout

from retrieval.adding import Adding, AddReport
from retrieval.embed import Job, PixelEncoder, embed_rasters
from retrieval.filters import all_of, bbox_sql, dates_sql, text_sql, where_sql
from retrieval.index import IndexKey, VectorIndex, index_problem, open_index, prune
from retrieval.intake import as_paths, hash_files, plan_intake
from retrieval.repair import RepairReport, mend_table, table_problems
from retrieval.store import LANCE_ERRORS, TABLE, ArchiveConfig, ChipTable, damaged, unit, vectors_in
from rsvlm.answer import Hit
from rsvlm.errors import ArchiveBusyError, ArchiveError, FingerprintError, QueryError
from rsvlm.files import imagery_files
from rsvlm.scene import Scene, Window
from rsvlm.sensors import find_sensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import date
    from types import TracebackType

    from numpy.typing import NDArray

    from rsvlm.sensors import Sensor

    AnyPath = str | os.PathLike[str]

MAX_CHIP = 4096  # pixels; a batch of larger ones does not fit into memory
MAX_K = 10_000
MAX_QUERY = 10_000  # characters
LOCK_SECONDS = 2.0


class ArchiveEncoder(PixelEncoder, Protocol):
    """What an archive needs of an encoder."""

    @property
    def name(self) -> str:
        """What to call it."""
        ...

    @property
    def fingerprint(self) -> str:
        """Sha256 over weights and preprocessing."""
        ...

    def encode_scenes(self, scenes: Sequence[Scene]) -> NDArray[np.float32]:
        """Embed N scenes: (N, D), unit length."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed N texts: (N, D), unit length."""
        ...


@dataclass(frozen=True)
class _Generation:
    """One version of the table with its index: what searches see until `refresh`."""

    table: ChipTable
    index: VectorIndex | None = None


class Archive:
    """A folder with a table of chips and a search index. Use as a context manager; readers see one version."""

    def __init__(self, folder: Path, table: ChipTable, encoder: ArchiveEncoder | None) -> None:
        self.folder = folder
        self.encoder = encoder
        self._generation = _Generation(table)
        self._opening = threading.Lock()

    @classmethod
    def create(cls, path: AnyPath, encoder: ArchiveEncoder, *, chip: int = 256, stride: int = 256) -> Archive:
        """Make an empty archive in a new or empty folder; raises ArchiveError where there is something already."""
        if not 1 <= stride <= chip <= MAX_CHIP:
            raise ArchiveError(f"chips need 1 <= stride <= chip <= {MAX_CHIP} pixels; got chip {chip}, stride {stride}")
        folder = Path(os.path.abspath(path))
        if (folder / TABLE).exists():
            raise ArchiveError(f"{folder} is an archive already; open it, or give another folder")
        config = ArchiveConfig(encoder.name, encoder.fingerprint, encoder.dim, chip, stride)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as beside:
                whole = Path(beside, "archive")
                whole.mkdir()
                ChipTable.create(whole, config)
                whole.rename(folder)  # appears whole or not at all
        except OSError as error:
            raise ArchiveError(f"no archive can be made at {folder} ({error.strerror or error})") from error
        return cls(folder, ChipTable.open(folder), encoder)

    @classmethod
    def open(cls, path: AnyPath, encoder: ArchiveEncoder | None = None) -> Archive:
        """Open an archive; without an encoder it can tell about itself, be verified and searched by vectors.

        Raises ArchiveError for what is no archive, damaged or newer, FingerprintError for another encoder's.
        """
        folder = Path(os.path.abspath(path))
        table = ChipTable.open(folder)
        config = table.config
        if encoder is not None and encoder.fingerprint != config.fingerprint:
            raise FingerprintError(
                f"{folder} was made with encoder {config.encoder} ({config.fingerprint[:12]}), not with {encoder.name} "
                f"({encoder.fingerprint[:12]}); open it with the first, or make a new archive with the second"
            )
        return cls(folder, table, encoder)

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._generation = _Generation(self._generation.table)

    def __len__(self) -> int:
        return len(self._generation.table)

    @property
    def config(self) -> ArchiveConfig:
        """Encoder, chip size and format."""
        return self._generation.table.config

    def refresh(self) -> None:
        """See what has been written since."""
        table = ChipTable.open(self.folder)
        if table.version != self._generation.table.version:
            self._generation = _Generation(table)

    def add(
        self,
        paths: AnyPath | Iterable[AnyPath],
        *,
        sensor: str | Path | Sensor | None = None,
        progress: bool = True,
        batch: int = 64,
        readers: int = 2,
    ) -> AddReport:
        """Add files, and the images in folders, that are not there yet; a file with new content replaces its chips.

        Commits every few seconds, whole files at a time: after an interruption, the same call goes on from there.
        Raises ArchiveBusyError while someone else writes. Files that cannot be read are listed as failed.
        """
        encoder = self._encoder_for("adding")
        wanted = None if sensor is None else find_sensor(sensor)
        files, missing = imagery_files(as_paths(paths))
        with self._writing() as table:
            hashes, unreadable = hash_files(files, threads=readers, progress=progress)
            plan = plan_intake(hashes, table.files(), wanted.name if wanted else None)
            intake = Adding(table)
            intake.failed += [*missing, *unreadable]
            intake.forget_stale(plan)
            work = [item for item in plan if item.action != "leave"]
            jobs = [Job(item.path, wanted) for item in work]
            size = {"chip": self.config.chip, "stride": self.config.stride}
            results = embed_rasters(jobs, encoder, **size, batch=batch, readers=readers, progress=progress)
            with closing(results):  # type: ignore[type-var]
                for item, result in zip(work, results, strict=True):
                    intake.take(item, result)
            intake.commit()
        return intake.report()

    def remove(self, paths: AnyPath | Iterable[AnyPath]) -> int:
        """Forget the chips of these files, or of every file in these folders; returns how many chips went."""
        conditions = []
        for path in as_paths(paths):
            inside = str(path).rstrip("/") + "/"
            conditions.append(f"path = {text_sql(str(path))} OR starts_with(path, {text_sql(inside)})")
        with self._writing() as table:
            return table.remove(" OR ".join(conditions))

    def search(
        self,
        query: str | Scene | NDArray[np.float32],
        k: int = 10,
        *,
        where: str | None = None,
        bbox: tuple[float, float, float, float] | None = None,
        start: date | None = None,
        end: date | None = None,
        min_score: float | None = None,
    ) -> list[Hit]:
        """The k chips nearest to a text, a scene or a vector (D,), best first; ties go by chip id.

        `where` is a condition on columns (see `filters.COLUMNS`), `bbox` west, south, east, north in degrees, `start`
        and `end` dates of acquisition, both included. All act inside the search. Raises QueryError.
        """
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= MAX_K:
            raise QueryError(f"k is a whole number from 1 to {MAX_K}; got {k!r}")
        condition = all_of(
            where_sql(where) if where is not None else "",
            bbox_sql(bbox) if bbox is not None else "",
            dates_sql(start, end),
        )
        vector = self._query_vector(query)
        generation = self._indexed()
        table, index = generation.table, generation.index
        if index is None or not len(table):
            return []
        try:
            allowed = None if condition is None else table.positions(condition)
            scores, positions = index.search(vector, int(k), allowed)
            rows = table.take(positions)
        except LANCE_ERRORS as error:
            raise damaged(self.folder, error) from error
        ranked = sorted(zip(scores.tolist(), rows, strict=True), key=lambda pair: (-pair[0], pair[1]["chip_id"]))
        chosen = [pair for pair in ranked[:k] if min_score is None or pair[0] >= min_score]
        return [_hit(rank, score, row) for rank, (score, row) in enumerate(chosen, start=1)]

    def chip(self, chip_id: str) -> Hit:
        """One chip by its id, as a hit of rank 0 and score 1; raises QueryError where there is none."""
        row = self._generation.table.row(chip_id)
        if row is None:
            raise QueryError(f"there is no chip {chip_id!r} in {self.folder}; take ids from a search")
        return _hit(0, 1.0, row)

    def vector(self, chip_id: str) -> NDArray[np.float32]:
        """The unit vector (D,) of one chip, to search for more like it; raises QueryError where there is none."""
        row = self._generation.table.row(chip_id, ["vector"])
        if row is None:
            raise QueryError(f"there is no chip {chip_id!r} in {self.folder}; take ids from a search")
        stored: NDArray[np.float32] = unit(np.asarray(row["vector"], np.float32)[None])[0]
        return stored

    def vectors(self, *, where: str | None = None) -> Iterator[tuple[list[str], list[str], NDArray[np.float32]]]:
        """Chip ids, paths and unit vectors (n, D) of all chips, or of those that meet a condition, in row order.

        Comes in blocks; `where` is as in `search`. Raises QueryError, and ArchiveError for a damaged table.
        """
        condition = None if where is None else where_sql(where)
        dataset = self._generation.table.dataset
        try:
            for batch in dataset.to_batches(columns=["chip_id", "path", "vector"], filter=condition):
                if batch.num_rows:
                    stored = unit(vectors_in(batch, self.config.dim))
                    yield batch["chip_id"].to_pylist(), batch["path"].to_pylist(), stored
        except LANCE_ERRORS as error:
            raise damaged(self.folder, error) from error

    @property
    def index_kind(self) -> str:
        """What FAISS calls the index that searches go through, such as "IndexFlatIP"."""
        index = self._indexed().index
        return "none" if index is None else type(index.faiss_index).__name__

    def info(self) -> dict[str, Any]:
        """What the archive holds, in plain values."""
        table, config = self._generation.table, self.config
        facts = table.summary()
        return {
            "path": str(self.folder),
            "format_version": config.format_version,
            "encoder": {"name": config.encoder, "fingerprint": config.fingerprint},
            "dim": config.dim,
            "metric": config.metric,
            "chip": config.chip,
            "stride": config.stride,
            "version": table.version,
            **facts,
            "index": index_problem(self.folder, IndexKey.of(table)) or "whole",
        }

    def verify(self) -> list[str]:
        """Every problem found by reading all of the table and the index; an empty list means it is whole."""
        table = ChipTable.open(self.folder)
        problems = table_problems(table)
        index = index_problem(self.folder, IndexKey.of(table))
        return problems if index is None else [*problems, f"the search index is not usable: {index}"]

    def repair(self) -> RepairReport:
        """Mend what `verify` finds: see `mend`."""
        report = self.mend(self.folder)
        self.refresh()
        return report

    @staticmethod
    def mend(path: AnyPath) -> RepairReport:
        """Bring an archive that may not even open back to a whole state; says what was lost, to be added again."""
        folder = Path(os.path.abspath(path))
        if not (folder / TABLE).is_dir():
            raise ArchiveError(f"{folder} is no archive; there is nothing to repair")
        with _locked(folder):
            report = mend_table(folder)
            prune(folder, keep=None)
            open_index(ChipTable.open(folder), folder)
        return report

    def _encoder_for(self, purpose: str) -> ArchiveEncoder:
        if self.encoder is None:
            raise ArchiveError(f"{purpose} needs an encoder; open the archive with Archive.open(path, encoder)")
        return self.encoder

    @contextmanager
    def _writing(self) -> Iterator[ChipTable]:
        """The newest table, held by this writer alone; afterwards this archive sees what was written."""
        with _locked(self.folder):
            table = ChipTable.open(self.folder)
            before = table.version
            yield table
            if table.version != before:
                table.tidy()
                self._generation = _Generation(ChipTable.open(self.folder))
                if importlib.util.find_spec("faiss"):
                    self._indexed()
                prune(self.folder, keep=table.version)

    def _indexed(self) -> _Generation:
        generation = self._generation
        if generation.index is not None:
            return generation
        with self._opening:
            generation = self._generation
            if generation.index is None:
                try:
                    generation = _Generation(generation.table, open_index(generation.table, self.folder))
                except LANCE_ERRORS as error:
                    if isinstance(error, ArchiveError):
                        raise
                    raise damaged(self.folder, error) from error
                if self._generation.table is generation.table:  # not refreshed meanwhile
                    self._generation = generation
            return generation

    def _query_vector(self, query: str | Scene | NDArray[np.float32]) -> NDArray[np.float32]:
        if isinstance(query, str):
            if not query.strip() or len(query) > MAX_QUERY:
                raise QueryError(f"a text to search for has 1 to {MAX_QUERY} characters; got {len(query.strip())}")
            text = query.encode("utf-8", "replace").decode()  # lone surrogates are no text
            query = self._encoder_for("searching in words").encode_texts([text])[0]
        elif isinstance(query, Scene):
            if not query.valid.any():
                raise QueryError("the scene to search for has no valid pixel; give one that shows some ground")
            query = self._encoder_for("searching by example").encode_scenes([query])[0]
        elif not isinstance(query, np.ndarray) or query.dtype.kind not in "fiu":
            raise QueryError(f"a search takes a text, a scene or a vector of numbers; got {type(query).__name__}")
        vector = np.asarray(query, np.float64)
        if vector.shape != (self.config.dim,) or not np.isfinite(vector).all() or not vector.any():
            raise QueryError(
                f"a query vector has {self.config.dim} finite numbers that are not all 0; got shape {vector.shape}"
            )
        return (vector / np.linalg.norm(vector)).astype(np.float32)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        with FileLock(folder / "write.lock", timeout=LOCK_SECONDS):
            yield
    except Timeout as error:
        raise ArchiveBusyError(f"another process is writing to {folder}; wait until it is done") from error
    except PermissionError as error:
        raise ArchiveError(f"{folder} cannot be written to ({error.strerror})") from error


def _hit(rank: int, score: float, row: dict[str, Any]) -> Hit:
    return Hit(
        rank=rank,
        chip_id=row["chip_id"],
        score=score,
        footprint=None if row["footprint"] is None else shapely.from_wkb(row["footprint"]),
        acquired=None if row["acquired"] is None else row["acquired"].isoformat(),
        sensor=row["sensor"],
        caption=row["caption"] or "",
        path=row["path"],
        window=Window(row["row"], row["col"], row["height"], row["width"]),
        metadata={"valid": row["valid"], "cloud": row["cloud"], "bands": row["bands"]},
    )
