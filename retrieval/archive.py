"""The archive: chips of any sensor, found again in words, by example, by place and by date."""

from __future__ import annotations

import importlib.util
import os
import threading
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.adding import Adding, AddReport
from retrieval.address import TableAddress, archive_folder
from retrieval.asking import condition_sql, encoder_for, hits_of, query_vector, query_vectors, require_page
from retrieval.embed import Job, embed_rasters, pace_of
from retrieval.faults import LANCE_ERRORS
from retrieval.filters import text_sql
from retrieval.folder import create_remote, locked, new_folder, readable
from retrieval.index import (
    VectorIndex,
    asked_of,
    build_index,
    extend_index,
    index_facts,
    index_problem,
    open_index,
    prune,
)
from retrieval.intake import as_paths, hash_files, plan_intake
from retrieval.journal import Journal
from retrieval.kinds import AUTO, DEPTH, TARGET, TUNING_TEXTS, require_kind
from retrieval.repair import RepairReport, mend_table, note_table, table_problems
from retrieval.schema import HIT_COLUMNS, ArchiveConfig, read_config, unit, vectors_in
from retrieval.search import Query, Ranking, likeness_threshold, to_hit
from retrieval.stamps import Stamps
from retrieval.store import TABLE, ChipTable, table_address
from retrieval.sums import manifest_of, noted
from rsvlm.errors import ArchiveError, FingerprintError, QueryError
from rsvlm.files import imagery_files
from rsvlm.scene import Scene
from rsvlm.sensors import find_sensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import date
    from types import TracebackType

    import pyarrow as pa
    from numpy.typing import NDArray

    from retrieval.asking import ArchiveEncoder
    from rsvlm.answer import Hit
    from rsvlm.sensors import Sensor

    AnyPath = str | os.PathLike[str]

MAX_CHIP = 4096  # pixels; a batch of larger ones does not fit into memory


@dataclass(frozen=True)
class _Generation:
    """One version of the table with its index: what searches see until `refresh`."""

    table: ChipTable
    index: VectorIndex | None = None
    before: VectorIndex | None = None  # of the version that was left, whose parts in memory may serve on


class Archive:
    """A folder with a table of chips and a search index. Use as a context manager; readers see one version."""

    def __init__(self, folder: Path, table: ChipTable, encoder: ArchiveEncoder | None) -> None:
        self.folder = folder
        self.encoder = encoder
        self._generation = _Generation(table)
        self._opening = threading.Lock()

    @classmethod
    def create(
        cls,
        path: AnyPath,
        encoder: ArchiveEncoder,
        *,
        chip: int = 256,
        stride: int = 256,
        table: str | None = None,
        storage_options: Mapping[str, str] | None = None,
    ) -> Archive:
        """Make an empty archive in a new or empty folder; raises ArchiveError where there is something already.

        Its table lies in the folder, or at `table`, a URI on object storage as s3://bucket/path. `storage_options` are
        Lance's and kept with the archive; secrets are not among them, but in the environment, as AWS_ACCESS_KEY_ID.
        """
        if not 1 <= stride <= chip <= MAX_CHIP:
            raise ArchiveError(f"chips need 1 <= stride <= chip <= {MAX_CHIP} pixels; got chip {chip}, stride {stride}")
        folder = archive_folder(path)
        remote = table is not None or storage_options is not None
        address = TableAddress.on_storage(table or "", storage_options) if remote else None
        config = ArchiveConfig(encoder.name, encoder.fingerprint, encoder.dim, chip, stride)
        with new_folder(folder) as whole:
            if address is not None:
                address.save(whole)
                create_remote(address, config, folder)
            else:
                note_table(whole, ChipTable.create(whole, config).address)
        return cls(folder, ChipTable.open(folder), encoder)

    @classmethod
    def attach(
        cls,
        path: AnyPath,
        table: str,
        encoder: ArchiveEncoder | None = None,
        *,
        storage_options: Mapping[str, str] | None = None,
    ) -> Archive:
        """Make an archive in a new or empty folder of a table that is on object storage already.

        As on a second machine: it sees what the first one writes after `refresh`, and builds an index of its own at the
        first search. Machines write one at a time; a second one gets ArchiveBusyError. Raises ArchiveError where there
        is no such table, FingerprintError for another encoder's; `storage_options` are as in `create`.
        """
        folder, address = archive_folder(path), TableAddress.on_storage(table, storage_options)
        try:
            found = read_config(address.dataset().schema, Path(address.uri))
        except LANCE_ERRORS as error:
            if isinstance(error, ArchiveError):
                raise
            raise ArchiveError(
                f"no table can be read at {address.uri} ({str(error)[:200]}); see to the URI, its connection and keys, "
                f"or make a new one with `rsvlm index add {folder} PATH... --table {address.uri}`"
            ) from error
        _require_made_with(encoder, found, folder)
        with new_folder(folder) as whole:
            address.save(whole)
        return cls.open(folder, encoder)

    @classmethod
    def open(cls, path: AnyPath, encoder: ArchiveEncoder | None = None) -> Archive:
        """Open an archive; without an encoder it can tell about itself, be verified and searched by vectors.

        Raises ArchiveError for what is no archive, damaged or newer, FingerprintError for another encoder's.
        """
        folder = archive_folder(path)
        table = ChipTable.open(folder)
        _require_made_with(encoder, table.config, folder)
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

    @property
    def table(self) -> str:
        """Path or URI of its table."""
        return self._generation.table.address.uri

    @property
    def is_remote(self) -> bool:
        """Whether the table lies on object storage, which answers for its files; for those here sums are kept."""
        return self._generation.table.address.is_remote

    def refresh(self) -> None:
        """See what has been written since."""
        table = ChipTable.open(self.folder)
        if table.version != self._generation.table.version:
            self._generation = _Generation(table, before=self._generation.index or self._generation.before)

    def add(
        self,
        paths: AnyPath | Iterable[AnyPath],
        *,
        sensor: str | Path | Sensor | None = None,
        progress: bool = True,
        batch: int | None = None,
        readers: int | None = None,
    ) -> AddReport:
        """Add files, and the images in folders, that are not there yet; a file with new content replaces its chips.

        `batch` chips are encoded at once, and `readers` threads bring them; by default as suits the encoder's device.
        Commits every few seconds, whole files at a time, and keeps what is encoded meanwhile: once interrupted, the
        same call goes on from there. A file whose size, times and number are those of an earlier add is not read.
        Raises ArchiveBusyError while someone else writes. Files that cannot be read are listed as failed.
        """
        encoder = encoder_for("adding", self.encoder)
        usual = pace_of(encoder)
        batch, readers = usual.batch if batch is None else batch, usual.readers if readers is None else readers
        wanted = None if sensor is None else find_sensor(sensor)
        files, missing = imagery_files(as_paths(paths))
        with self._writing() as table:
            with Stamps(self.folder) as stamps:
                hashes, unreadable = hash_files(files, threads=readers, progress=progress, stamps=stamps)
            stored = table.files(hashes, hashes.values()) if hashes else []
            plan = plan_intake(hashes, stored, wanted.name if wanted else None)
            journal = Journal(self.folder, fingerprint=self.config.fingerprint, dim=self.config.dim, logs=True)
            intake = Adding(table, journal, stored)
            intake.failed += [*missing, *unreadable]
            intake.pass_over(plan)
            work = {item.path: item for item in plan if item.action != "leave"}
            results = embed_rasters(
                [Job(path, wanted) for path in work],
                encoder,
                chip=self.config.chip,
                stride=self.config.stride,
                batch=batch,
                readers=readers,
                progress=progress,
                in_order=False,
                journal=journal,
            )
            with closing(results):  # type: ignore[type-var]
                for result in results:
                    intake.take(work[result.job.path], result)
            intake.commit()
            journal.prune()
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
        query: str | Scene | NDArray[np.float32] | Query,
        k: int = 10,
        *,
        where: str | None = None,
        bbox: tuple[float, float, float, float] | None = None,
        start: date | None = None,
        end: date | None = None,
        min_score: float | None = None,
        offset: int = 0,
        apart_km: float | None = None,
    ) -> list[Hit]:
        """The k chips nearest to a text, a scene, a vector (D,) or a `Query` of several, best first; ties by chip id.

        `where` is a condition on columns (see `filters.COLUMNS` and `annotate`), `bbox` west, south, east, north in
        degrees, `start` and `end` dates of acquisition, both included. All act inside the search. `offset` passes over
        the best ones: pages of one open archive neither overlap nor leave gaps. `apart_km` passes over chips whose
        middle is nearer than that to a better one's. Hits of a search in words say whether they are `unlike` it, where
        the encoder was calibrated; see `rsvlm.answer.nothing_like_that`. Raises QueryError.
        """
        require_page(k, offset, apart_km)
        asked = query if isinstance(query, Query) else None
        condition = condition_sql(self._generation.table, where, bbox, start, end)
        vector = query_vector(query, self.encoder, self.config.dim)
        generation = self._indexed()
        table, index = generation.table, generation.index
        if index is None or not len(table):
            return []
        near = asked if asked is not None and asked.near is not None else None
        with readable(self.folder):
            allowed = None if condition is None else table.addresses(condition)
            ranking = Ranking(table, index, vector, allowed, near)
            page = ranking.page(int(k), int(offset), min_score=min_score, apart_km=apart_km)
            return hits_of(table, [page], offset, [likeness_threshold(query, self.encoder)])[0]

    def search_many(
        self, queries: Sequence[str] | NDArray[np.float32], k: int = 10, *, where: str | None = None
    ) -> list[list[Hit]]:
        """What `search` finds for each of many texts or vectors (Q, D), several times faster than one by one.

        Raises QueryError for any query that cannot be answered.
        """
        require_page(k)
        condition = condition_sql(self._generation.table, where)
        if not len(queries):
            return []
        vectors = query_vectors(queries, self.encoder, self.config.dim)
        generation = self._indexed()
        table, index = generation.table, generation.index
        if index is None or not len(table):
            return [[] for _ in queries]
        with readable(self.folder):
            allowed = None if condition is None else table.addresses(condition)
            found = index.search(vectors, DEPTH, allowed)
            rankings = [
                Ranking(table, index, vector, allowed, first=first)
                for vector, first in zip(vectors, found, strict=True)
            ]
            pages = [ranking.page(int(k), 0, min_score=None, apart_km=None) for ranking in rankings]
            return hits_of(table, pages, 0, [likeness_threshold(query, self.encoder) for query in queries])

    def chip(self, chip_id: str) -> Hit:
        """One chip by its id, as a hit of rank 0 and score 1; raises QueryError where there is none."""
        table = self._generation.table
        row = table.row(chip_id, (*HIT_COLUMNS, *table.added_columns))
        if row is None:
            raise QueryError(f"there is no chip {chip_id!r} in {self.folder}; take ids from a search")
        return to_hit(0, 1.0, row, tuple(table.added_columns))

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
        condition = condition_sql(self._generation.table, where)
        dataset = self._generation.table.dataset
        with readable(self.folder):
            self._generation.table.require_sound()
            for batch in dataset.to_batches(columns=["chip_id", "path", "vector"], filter=condition):
                if batch.num_rows:
                    stored = unit(vectors_in(batch, self.config.dim))
                    yield batch["chip_id"].to_pylist(), batch["path"].to_pylist(), stored

    @property
    def index_kind(self) -> str:
        """What FAISS calls the index that searches go through, such as "IndexFlatIP"; several where it has parts."""
        index = self._indexed().index
        parts = () if index is None else index.segments
        return " + ".join(type(segment.load().index).__name__ for segment in parts) or "none"

    def build_index(self, kind: str = AUTO, *, recall: float = TARGET) -> dict[str, Any]:
        """Build the search index anew, as kind "flat", "hnsw" or "ivf", or "auto" to let size and memory decide.

        Later adds keep to the kind. Approximate kinds are tuned until they find `recall` of the 10 true neighbours of
        texts, or without an encoder of directions as far from all chips. Returns what `info` says of the index.
        """
        if not 0 < recall <= 1:
            raise QueryError(f"a recall to tune to is over 0 and at most 1; got {recall}")
        require_kind(kind)
        with locked(self.folder):
            table = ChipTable.open(self.folder)
            with readable(self.folder):
                index = build_index(table, self.folder, kind=kind, target=recall, texts=self._texts())
            self._generation = _Generation(table, index)
            prune(self.folder, keep=table.version)
        return index_facts(self.folder, table)

    def annotate(self, values: pa.Table, *, on: str = "path") -> tuple[str, ...]:
        """Add columns to chips, to filter by and to be told with hits: rows meet by `on`, "path" or "chip_id".

        Columns hold texts, numbers, times or yes and no. One of the same name is replaced; chips that no row names,
        and those added later, have none. Returns the names of the columns; raises QueryError for what does not fit.
        """
        with self._writing() as table:
            return table.annotate(values, on)

    def info(self) -> dict[str, Any]:
        """What the archive holds, in plain values."""
        table, config = self._generation.table, self.config
        facts = table.summary()
        return {
            "path": str(self.folder),
            "table": self.table if self.is_remote else TABLE,
            "checksums": "left to the object storage" if self.is_remote else "of every file of the table",
            "format_version": config.format_version,
            "encoder": {"name": config.encoder, "fingerprint": config.fingerprint},
            "dim": config.dim,
            "metric": config.metric,
            "chip": config.chip,
            "stride": config.stride,
            "version": table.version,
            **facts,
            "columns": table.added_columns,
            "index": index_facts(self.folder, table),
        }

    def verify(self) -> list[str]:
        """Every problem found by reading all of the table and the index; an empty list means it is whole.

        Files of a table on object storage have no sums here: that they come as they were written is its own business.
        """
        table = ChipTable.open(self.folder)
        problems = table_problems(table)
        if problems:  # an index of a damaged table says nothing
            return problems
        if table.address.is_remote and importlib.util.find_spec("faiss"):  # another machine may have written
            extend_index(table, self.folder, texts=self._texts())
        index = index_problem(self.folder, table)
        return [] if index is None else [f"the search index is not usable: {index}"]

    def repair(self) -> RepairReport:
        """Mend what `verify` finds: see `mend`."""
        report = self.mend(self.folder)
        self.refresh()
        return report

    @staticmethod
    def mend(path: AnyPath) -> RepairReport:
        """Bring an archive that may not even open back to a whole state; says what was lost, to be added again."""
        folder = archive_folder(path)
        address = table_address(folder)
        with locked(folder):
            report = mend_table(folder)
            note_table(folder, address)
            table, (kind, recall) = ChipTable.open(folder), asked_of(folder)
            if importlib.util.find_spec("faiss"):
                build_index(table, folder, kind=kind, target=recall)
            prune(folder, keep=table.version)
        return report

    @contextmanager
    def _writing(self) -> Iterator[ChipTable]:
        """The newest table, held by this writer alone; afterwards this archive sees what was written."""
        with locked(self.folder):
            table = ChipTable.open(self.folder)
            table.require_sound()
            before = table.version
            yield table
            if table.version != before or not noted(self.folder, manifest_of(table.dataset)):  # a writer was killed
                table.tidy()
                note_table(self.folder, table.address)
                previous = self._generation.index
                self._generation = _Generation(ChipTable.open(self.folder))
                if importlib.util.find_spec("faiss"):
                    self._extend_index(previous)
                prune(self.folder, keep=table.version)

    def _extend_index(self, previous: VectorIndex | None) -> None:
        """Index what was written; parts that were not in memory are not read for that."""
        table = self._generation.table
        with readable(self.folder):
            index = extend_index(table, self.folder, previous=previous, texts=self._texts())
        if all(segment.index is not None for segment in index.segments):
            self._generation = _Generation(table, index)

    def _texts(self) -> Callable[[], NDArray[np.float32]] | None:
        encoder = self.encoder
        return None if encoder is None else lambda: encoder.encode_texts(TUNING_TEXTS)

    def _indexed(self) -> _Generation:
        generation = self._generation
        if generation.index is not None:
            return generation
        with self._opening:
            generation = self._generation
            if generation.index is None:
                with readable(self.folder):
                    index = open_index(generation.table, self.folder, before=generation.before, texts=self._texts())
                generation = _Generation(generation.table, index)
                if self._generation.table is generation.table:  # not refreshed meanwhile
                    self._generation = generation
            return generation


def _require_made_with(encoder: ArchiveEncoder | None, config: ArchiveConfig, folder: Path) -> None:
    if encoder is not None and encoder.fingerprint != config.fingerprint:
        raise FingerprintError(
            f"{folder} was made with encoder {config.encoder} ({config.fingerprint[:12]}), not with {encoder.name} "
            f"({encoder.fingerprint[:12]}); open it with the first, or make a new archive with the second"
        )
