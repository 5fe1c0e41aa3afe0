"""Search past one machine: what a server of vectors must do, and how an archive is brought to one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from retrieval.faults import LANCE_ERRORS, damaged
from retrieval.filters import where_sql
from retrieval.schema import unit, vectors_in
from retrieval.store import ChipTable
from rsvlm.errors import ArchiveError, QueryError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from retrieval.archive import Archive

CURSORS = "exports"
BATCH = 512
KEYWORDS = ("sensor", "path", "content_hash")
NUMBERS = ("cloud", "valid", "west", "south", "east", "north", "row", "col", "height", "width")
TIMES = ("acquired", "added")
PAYLOAD = ("chip_id", *KEYWORDS, *NUMBERS, *TIMES, "bands", "caption")
GENERATION = "generation"


@dataclass(frozen=True, slots=True)
class Point:
    """One chip as a server keeps it: its id, its unit vector (D,) and what filters and hits need."""

    chip_id: str
    vector: NDArray[np.float32]
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """One result: chip, cosine and payload."""

    chip_id: str
    score: float
    payload: Mapping[str, Any]


@dataclass(frozen=True)
class Conditions:
    """What a hit must meet: keys that equal a text, and keys from a least to a greatest value, both included."""

    equal: Mapping[str, str] = field(default_factory=dict)
    within: Mapping[str, tuple[float | datetime | None, float | datetime | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = sorted({*self.equal} - {*KEYWORDS}) + sorted({*self.within} - {*NUMBERS, *TIMES})
        if unknown:
            raise QueryError(
                f"{unknown[0]!r} is no key of this kind; equal takes {', '.join(KEYWORDS)}, "
                f"within takes {', '.join((*NUMBERS, *TIMES))}"
            )
        for key, bounds in self.within.items():
            wanted = datetime if key in TIMES else int | float
            if not all(bound is None or isinstance(bound, wanted) for bound in bounds):
                raise QueryError(f"{key} lies between two {'dates' if key in TIMES else 'numbers'}; got {bounds!r}")

    @classmethod
    def touching(cls, bbox: tuple[float, float, float, float]) -> Conditions:
        """Chips whose bounding box touches (west, south, east, north) in degrees; none may cross the antimeridian."""
        west, south, east, north = bbox
        if not (-180 <= west <= east <= 180 and -90 <= south <= north <= 90):
            raise QueryError(f"west <= east and south <= north are wanted, in degrees; got {bbox!r}")
        sides = {"west": (None, east), "east": (west, None), "south": (None, north), "north": (south, None)}
        return cls(within=sides)


class VectorServer(Protocol):
    """A server of vectors, one collection of one encoder. Another product needs these four methods."""

    def upsert(self, points: Sequence[Point]) -> None:
        """Put points there, each once: a point whose chip is there already takes its place."""
        ...

    def search(self, vector: NDArray[np.float32], k: int = 10, *, where: Conditions | None = None) -> list[Found]:
        """The k nearest to a vector (D,), best first."""
        ...

    def count(self) -> int:
        """How many points there are."""
        ...

    def keep_generation(self, generation: str) -> None:
        """Forget every point whose payload names another generation."""
        ...


@dataclass(frozen=True, slots=True)
class ServerReport:
    """What an export sent, and how many points the server holds now."""

    sent: int
    held: int


def export_vectors(
    archive: Archive, server: VectorServer, *, name: str, where: str | None = None, batch: int = BATCH
) -> ServerReport:
    """Bring a server to the state of an archive; after an interruption the same call goes on from the last batch.

    Args:
        archive: Its newest version is sent.
        server: Where to; chips that are not in the archive any more are forgotten there at the end.
        name: Of the server and collection, under which the archive remembers how far it came.
        where: As in a search; all chips by default.
        batch: Points sent at once.

    Returns:
        Counts.

    Raises:
        QueryError: For `where` or `batch`. ArchiveError for a damaged table or a server that does not answer.
    """
    if batch < 1:
        raise QueryError(f"at least 1 point is sent at once; got {batch}")
    table = ChipTable.open(archive.folder)
    table.require_sound()
    condition = None if where is None else where_sql(where, table.added_columns)
    generation = hashlib.sha256(json.dumps([str(archive.folder), table.version, condition]).encode()).hexdigest()[:16]
    cursor = _Cursor(archive.folder, name, {"generation": generation, "batch": batch})
    expected = int(table.dataset.count_rows(filter=condition))
    batches = partial(_points, table, condition, generation, batch)
    sent = _send(batches(), server, cursor)
    server.keep_generation(generation)
    if server.count() < expected:  # it lost what it had acknowledged before the interruption
        cursor.forget()
        sent += _send(batches(), server, cursor)
    cursor.forget()
    return ServerReport(sent, server.count())


def _send(batches: Iterator[list[Point]], server: VectorServer, cursor: _Cursor) -> int:
    done, sent = cursor.read(), 0
    for number, points in enumerate(batches):
        if number >= done:
            server.upsert(points)
            sent += len(points)
            cursor.write(number + 1)
    return sent


class _Cursor:
    """How many batches of one version of an archive a server has acknowledged."""

    def __init__(self, folder: Path, name: str, work: dict[str, Any]) -> None:
        self._path = folder / CURSORS / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.json"
        self._work = {"name": name, **work}

    def read(self) -> int:
        try:
            plain = json.loads(self._path.read_text(encoding="utf-8"))
            return int(plain["done"]) if plain["work"] == self._work else 0
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return 0  # sent again from the start, which changes nothing on the server

    def write(self, done: int) -> None:
        self._path.parent.mkdir(exist_ok=True)
        beside = self._path.with_suffix(".tmp")
        beside.write_text(json.dumps({"work": self._work, "done": done}), encoding="utf-8")
        beside.replace(self._path)

    def forget(self) -> None:
        self._path.unlink(missing_ok=True)


def _points(table: ChipTable, condition: str | None, generation: str, batch: int) -> Iterator[list[Point]]:
    """All rows in their order, in lists of `batch`; the last may be shorter."""
    waiting: list[Point] = []
    try:
        for block in table.dataset.to_batches(columns=[*PAYLOAD, "vector"], filter=condition, scan_in_order=True):
            waiting += _points_in(block, table.config.dim, generation)
            while len(waiting) >= batch:
                yield waiting[:batch]
                waiting = waiting[batch:]
    except LANCE_ERRORS as error:
        if isinstance(error, ArchiveError):
            raise
        raise damaged(table.folder, error) from error
    if waiting:
        yield waiting


def _points_in(block: pa.RecordBatch, dim: int, generation: str) -> list[Point]:
    if not block.num_rows:
        return []
    vectors = unit(vectors_in(block, dim))
    rows = block.select(list(PAYLOAD)).to_pylist()
    shared = {GENERATION: generation}
    return [
        Point(row["chip_id"], vector, {**{key: _plain(value) for key, value in row.items()}, **shared})
        for row, vector in zip(rows, vectors, strict=True)
    ]


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
