"""The archive's table: one row a chip, kept in Lance with atomic commits and versions."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from retrieval import places
from retrieval.address import TableAddress, remote_address
from retrieval.annotations import kind_of, plain_columns
from retrieval.faults import LANCE_ERRORS, damaged, not_written
from retrieval.filters import text_sql
from retrieval.rows import FRAGMENT_BITS, RowRuns
from retrieval.schema import HIT_COLUMNS, ArchiveConfig, read_config, schema_for, unit, vectors_in
from retrieval.sums import changed_files, files_of, index_files, newest_problem, noted_damage
from rsvlm.errors import ArchiveBusyError, ArchiveError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

TABLE = "chips.lance"
UNIT_TOLERANCE = 5e-3  # float16 moves the length of a unit vector by less
MANY_FRAGMENTS = 32
TIERS = (16_384, 65_536, 262_144, 1_048_576)  # rows up to which fragments are joined
MANY_NAMES, BATCH = 2048, 2**18  # more files are looked for without SQL, which would list them all for every row
REMEMBERED = 8  # selections of rows, so that pages and repeated filters scan once
KEEP_VERSIONS = timedelta(days=1)  # longer than any reader stays on an old version

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stored:
    """A file as the table knows it."""

    path: str
    content_hash: str
    sensor: str
    chips: int  # rows there are
    expected: int  # rows there must be


class ChipTable:
    """The table at one version. Reading never sees what is written after it was opened; writing moves it on."""

    def __init__(self, dataset: lance.LanceDataset, config: ArchiveConfig, address: TableAddress, folder: Path) -> None:
        self.dataset = dataset
        self.config = config
        self.address = address
        self.folder = folder  # of the archive
        self._selections: dict[str, NDArray[np.int64]] = {}
        self._sound = False

    @classmethod
    def create(cls, folder: Path, config: ArchiveConfig, address: TableAddress | None = None) -> ChipTable:
        """Write an empty table into a folder, or where its address says; raises what Lance raises, as OSError."""
        schema, at = schema_for(config).append(places.FIELD), address or TableAddress(str(folder / TABLE))
        dataset = lance.write_dataset(schema.empty_table(), at.uri, schema=schema, storage_options=at.storage_options)
        return cls(dataset, config, at, folder)

    @classmethod
    def open(cls, folder: Path) -> ChipTable:
        """Open the newest version; raises ArchiveError for what is missing, damaged or newer than this software."""
        address = table_address(folder)
        problem = None if noted_damage(folder) else newest_problem(folder)
        if problem is not None:
            raise damaged(folder, ArchiveError(problem))
        try:
            dataset = address.dataset()
        except LANCE_ERRORS as error:
            raise damaged(folder, error) from error
        return cls(dataset, read_config(dataset.schema, folder), address, folder)

    @property
    def version(self) -> int:
        """Number of this version."""
        return int(self.dataset.version)

    @property
    def schema(self) -> pa.Schema:
        """Columns and metadata."""
        return schema_for(self.config)

    def __len__(self) -> int:
        return int(self.dataset.count_rows())

    def replace(self, rows: pa.Table, *, fresh: bool = False) -> None:
        """In one commit, put these rows in place of every row of the same files, by path or by content.

        `fresh` says that there are none, so that nobody needs to look. Raises ArchiveError, ArchiveBusyError where
        another machine writes to a table on object storage.
        """
        before = self.version
        self._put(rows, fresh=fresh)
        if self.address.is_remote and self.version > before + 1:
            raise ArchiveBusyError(
                f"another machine wrote to {self.address.uri} in the same moment, and some chips may be there twice; "
                f"run `rsvlm index verify {self.folder}` once it is done"
            )

    def _put(self, rows: pa.Table, *, fresh: bool) -> None:
        outdated = (
            f"path IN ({_listed(_once(rows['path']))}) OR content_hash IN ({_listed(_once(rows['content_hash']))})"
        )
        with self._committing():
            if fresh or not self.dataset.count_rows(filter=outdated):  # no need to join with every row there is
                self.dataset = lance.write_dataset(self._widened(rows), self.dataset, mode="append")
                return
            merge = self.dataset.merge_insert("chip_id").when_matched_update_all().when_not_matched_insert_all()
            merge.when_not_matched_by_source_delete(outdated).execute(self._widened(rows))

    def _widened(self, rows: pa.Table) -> pa.Table:
        """Rows with their places as geometries, and with nothing in the columns that were added to the table."""
        if places.carried_by(self.dataset.schema):
            rows = places.with_bounds(rows)
        for field in self.dataset.schema:
            if field.name not in rows.column_names:
                rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
        return rows.select(self.dataset.schema.names)

    @property
    def added_columns(self) -> dict[str, str]:
        """Columns that were added to the table, in order: name to kind, "text", "number", "time" or "flag"."""
        own = {*self.schema.names, *([places.COLUMN] if places.carried_by(self.dataset.schema) else [])}
        return {field.name: kind_of(field.type) for field in self.dataset.schema if field.name not in own}

    def annotate(self, values: pa.Table, on: str) -> tuple[str, ...]:
        """Add or replace columns in commits of their own; see `Archive.annotate`."""
        wanted = plain_columns(values, on, taken=[*self.schema.names, places.COLUMN])
        names = [name for name in wanted.column_names if name != on]
        with self._committing():
            outdated = [name for name in names if name in self.added_columns]
            if outdated:
                self.dataset.drop_columns(outdated)
            self.dataset.merge(wanted, on)
        return tuple(names)

    def remove(self, condition: str) -> int:
        """Delete the rows that meet an SQL condition in one commit, and say how many they were."""
        with self._committing():
            count = int(self.dataset.count_rows(filter=condition))
            if count:
                self.dataset.delete(condition)
        return count

    def tidy(self) -> None:
        """Join many small fragments and forget versions older than a day.

        Only fragments smaller than a tier are joined, and only when there are several, so that every row is written a
        few times at most however often a little is added. Where another machine is writing, it is left to that.
        """
        if not self._is_newest():
            return
        with self._committing():
            rows = [part.count_rows() for part in self.dataset.get_fragments()]
            small = (tier for tier in TIERS if sum(count < tier for count in rows) > MANY_FRAGMENTS // len(TIERS))
            if len(rows) > MANY_FRAGMENTS and (tier := next(small, None)) is not None:
                self.dataset.optimize.compact_files(target_rows_per_fragment=tier)
            self._index_places()
            self.dataset.cleanup_old_versions(older_than=KEEP_VERSIONS)

    def _index_places(self) -> None:
        try:
            places.index_places(self.dataset)
        except LANCE_ERRORS as error:  # boxes are found by a scan instead
            logger.warning("the index of places could not be made: %s", str(error)[:200])

    @cached_property
    def runs(self) -> RowRuns:
        """Addresses of all rows, in their order. Only fragments with removed rows are looked into."""
        parts = []
        for part in self.dataset.get_fragments():
            if part.num_deletions:
                ids = part.to_table(columns=[], with_row_id=True)["_rowid"]
                parts.append(RowRuns.of(np.asarray(ids.to_numpy(), np.int64)))
            else:
                first = np.array([part.fragment_id], np.int64) << FRAGMENT_BITS
                parts.append(RowRuns(first, first + part.physical_rows))
        return RowRuns.join(parts)

    @cached_property
    def vector_files(self) -> dict[int, str]:
        """Of every fragment, the file that holds its vectors. Lance never writes to a file again, so it names them."""
        named = self.dataset.lance_schema.field("vector")
        if named is None:
            raise damaged(self.folder, ArchiveError("it has no vectors"))
        field = named.id()
        return {
            part.fragment_id: next(file.path for file in part.metadata.files if field in file.fields)
            for part in self.dataset.get_fragments()
        }

    def vectors(self, fragments: set[int] | None = None) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Row addresses (n,) and unit vectors (n, D) of all rows or those of some fragments, in blocks, in order."""
        parts = [part for part in self.dataset.get_fragments() if fragments is None or part.fragment_id in fragments]
        if not parts:
            return
        self.require_sound()
        for batch in self.dataset.scanner(columns=["vector"], fragments=parts, with_row_id=True).to_batches():
            if batch.num_rows:
                yield np.asarray(batch["_rowid"].to_numpy(), np.int64), unit(vectors_in(batch, self.config.dim))

    def addresses(self, condition: str) -> NDArray[np.int64]:
        """Addresses of the rows that meet an SQL condition, ascending. The last few conditions are remembered."""
        if condition not in self._selections:
            with self._reading():
                ids = self.dataset.to_table(columns=[], filter=condition, with_row_id=True)["_rowid"]
            while len(self._selections) >= REMEMBERED:
                self._selections.pop(next(iter(self._selections)), None)
            self._selections[condition] = np.sort(np.asarray(ids.to_numpy(), np.int64))
        return self._selections[condition]

    def inside_sql(self, bbox: tuple[float, float, float, float]) -> str:
        """SQL for the chips whose bounding box touches a box: see `bbox_sql`."""
        with self._reading():
            return places.inside_sql(self.dataset, bbox)

    def bounds(self, bbox: tuple[float, float, float, float]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Addresses (n,) of the chips that touch a box, and their west, south, east, north (n, 4)."""
        condition = self.inside_sql(bbox)
        with self._reading():
            found = self.dataset.to_table(columns=list(places.SIDES), filter=condition, with_row_id=True)
        columns = [np.asarray(found[name].to_numpy(), np.float64) for name in places.SIDES]
        return np.asarray(found["_rowid"].to_numpy(), np.int64), np.stack(columns, axis=1)

    def take(self, addresses: NDArray[np.int64], columns: Iterable[str] = HIT_COLUMNS) -> list[dict[str, Any]]:
        """Rows at these addresses, in their order."""
        rows: list[dict[str, Any]] = self._take(addresses, columns).to_pylist() if len(addresses) else []
        return rows

    def vectors_at(self, addresses: NDArray[np.int64]) -> NDArray[np.float32]:
        """Unit vectors (n, D) of the rows at these addresses, in their order."""
        taken = self._take(addresses, ["vector"]).combine_chunks().to_batches()
        return unit(vectors_in(taken[0], self.config.dim)) if taken else np.zeros((0, self.config.dim), np.float32)

    def _take(self, addresses: NDArray[np.int64], columns: Iterable[str]) -> pa.Table:
        with self._reading():
            if not len(addresses):
                return self.dataset.schema.empty_table().select(list(columns))
            # `take` counts positions past every removed row: 50 times slower, once rows have been removed
            return self.dataset._take_rows(addresses.tolist(), columns=list(columns))

    def row(self, chip: str, columns: Iterable[str] = HIT_COLUMNS) -> dict[str, Any] | None:
        """The row of one chip, None where there is none."""
        with self._reading():
            rows = self.dataset.to_table(columns=list(columns), filter=f"chip_id = {text_sql(chip)}").to_pylist()
        return rows[0] if rows else None

    def summary(self) -> dict[str, Any]:
        """Counts and extremes: chips, files, chips per sensor, first and last date, bytes on disk."""
        with self._reading():
            columns = self.dataset.to_table(columns=["sensor", "content_hash", "acquired"])
        days = pc.min_max(columns["acquired"]).as_py()
        return {
            "chips": columns.num_rows,
            "files": len(columns["content_hash"].unique()),
            "sensors": dict(sorted(Counter(columns["sensor"].to_pylist()).items())),
            "acquired": [None if day is None else day.isoformat() for day in (days["min"], days["max"])],
            "bytes": self._bytes(),
        }

    def _bytes(self) -> int:
        """Of all files where they are on this machine; on object storage of this version's chips."""
        if not self.address.is_remote:
            return sum(path.stat().st_size for path in Path(self.dataset.uri).rglob("*") if path.is_file())
        parts = self.dataset.get_fragments()
        return sum(file.file_size_bytes or 0 for part in parts for file in part.metadata.files)

    def files(self, paths: Iterable[Path | str] = (), hashes: Iterable[str] = ()) -> list[Stored]:
        """Every file with rows here, sorted by path; given some, those that have one of the paths or contents."""
        names, contents = sorted(map(str, set(paths))), sorted(set(hashes))
        keys, condition = ["path", "content_hash", "sensor", "file_chips"], None
        few, all_of_them = len(names) + len(contents) <= MANY_NAMES, not (names or contents)
        if few and not all_of_them:
            named = (("path", names), ("content_hash", contents))
            condition = " OR ".join(f"{key} IN ({_listed(values)})" for key, values in named if values)
        groups: Counter[tuple[str, str, str, int]] = Counter()
        with self._reading():
            for batch in self.dataset.to_batches(columns=keys, filter=condition, batch_size=BATCH):
                rows = pa.Table.from_batches([batch])
                if not few:
                    meet = _among(rows["path"], names), _among(rows["content_hash"], contents)
                    rows = rows.filter(pc.or_(*meet))
                for group in rows.group_by(keys).aggregate([([], "count_all")]).to_pylist():
                    groups[group["path"], group["content_hash"], group["sensor"], group["file_chips"]] += group[
                        "count_all"
                    ]
        return [Stored(*key[:3], chips=count, expected=key[3]) for key, count in sorted(groups.items())]

    def require_sound(self) -> None:
        """Raise ArchiveError, once a version, where a file of it is not as it was written: see `sums`."""
        if not self._sound:
            try:
                files = files_of(self.dataset) + index_files(self.folder, self.dataset)
            except LANCE_ERRORS as error:
                raise error if isinstance(error, ArchiveError) else damaged(self.folder, error) from error
            problems = changed_files(self.folder, files)
            if problems:
                raise damaged(self.folder, ArchiveError(next(iter(problems.values()))))
            self._sound = True

    def _is_newest(self) -> bool:
        return not self.address.is_remote or int(self.dataset.latest_version) == self.version

    def require_newest(self) -> None:
        """Raise ArchiveBusyError where another machine wrote to the table meanwhile: the archive's lock is local."""
        if not self._is_newest():
            raise ArchiveBusyError(
                f"another machine is writing to {self.address.uri}; wait until it is done, then repeat the command"
            )

    @contextmanager
    def _committing(self) -> Iterator[None]:
        try:
            self.require_newest()
            yield
        except LANCE_ERRORS as error:
            raise error if isinstance(error, ArchiveError) else not_written(error) from error

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Raises ArchiveError, which names the repair, for what cannot be read."""
        self.require_sound()
        try:
            yield
        except LANCE_ERRORS as error:
            raise damaged(self.folder, error) from error


def table_address(folder: Path) -> TableAddress:
    """Where the table of an archive is; raises ArchiveError for a folder that is none."""
    address = remote_address(folder)
    if address is None and not (folder / TABLE).is_dir():
        raise ArchiveError(f"{folder} is no archive; make one with `rsvlm index add {folder} PATH...`")
    return address or TableAddress(str(folder / TABLE))


def _once(column: pa.ChunkedArray) -> list[str]:
    return sorted(column.unique().to_pylist())


def _among(column: pa.ChunkedArray, values: Sequence[str]) -> pa.ChunkedArray:
    return pc.is_in(column, pa.array(values, pa.string()))


def _listed(values: Iterable[str]) -> str:
    return ", ".join(text_sql(value) for value in values)
