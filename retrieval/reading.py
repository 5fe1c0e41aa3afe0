"""Readers: threads with handles of their own turn rasters into raw chips, each block read once, memory bounded."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import rasterio

from retrieval.block_cache import BlockCache
from retrieval.cutting import CELL_BYTES, Blocks, Cut, Layout, Part, Sheet
from retrieval.desk import Channel, Desk
from retrieval.intake import content_hash, stamp_of
from retrieval.quality import CloudTest, cloud_map, cloud_test
from rsvlm.errors import RsvlmError
from rsvlm.raster import open_raster, tiles

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path
    from types import TracebackType

    from retrieval.journal import EncodedChip, Journal
    from rsvlm.raster import Raster
    from rsvlm.scene import Grid, Window
    from rsvlm.sensors import Band, Sensor

WAITING_BYTES = 128 * 2**20  # of chips between the readers and the encoder
POLL_SECONDS = 0.1
NO_BLOCKS = Blocks()


@dataclass(frozen=True, slots=True)
class Job:
    """One raster to embed, and the sensor it is said to come from."""

    path: Path
    sensor: str | Path | Sensor | None = None


@dataclass(frozen=True)
class Source:
    """What a raster says about itself."""

    sensor: str
    bands: tuple[Band, ...]
    grid: Grid
    acquired: datetime | None
    content_hash: str
    cloud_cover: float | None  # fraction, as the producer states it; None where it can be told chip by chip


@dataclass(frozen=True, slots=True)
class Kind:
    """Chips that can share a batch."""

    bands: tuple[Band, ...]
    linear: bool
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Chip:
    """A chip cut from the raster of a job, by its number."""

    number: int
    cut: Cut
    kind: Kind


@dataclass(frozen=True, slots=True)
class Opened:
    """The raster of a job could be opened. `kept` are chips that need no reading, by their places."""

    number: int
    source: Source
    stamp: tuple[int, ...] = ()
    key: str = ""  # under which the journal keeps what of it is encoded; none where it does not
    kept: Mapping[int, EncodedChip] = field(default_factory=dict)
    small: bool = False  # kept in the journal's log, not in parts


@dataclass(frozen=True, slots=True)
class Ended:
    """All chips of a job were read, or it failed."""

    number: int
    chips: int = 0
    failure: str | None = None
    blocks: Blocks = NO_BLOCKS


Message = Chip | Opened | Ended


def layout_of(raster: Raster) -> Layout:
    """How a raster is stored."""
    return Layout(raster.grid.shape, raster.block_shape, len(raster.bands) * raster.dtype.itemsize)


def cached_bytes(raster: Raster) -> int:
    """Bytes of a cell in all layers of the file and its mask or alpha: some drivers decode them together."""
    height, width = raster.block_shape
    pixels = max(height * width, CELL_BYTES // layout_of(raster).pixel_bytes)
    return pixels * (len(raster.layer_names) + 1) * raster.dtype.itemsize


def read_part(raster: Raster, window: Window, clouds: CloudTest | None = None) -> Part:
    """Some blocks of a raster as stored, and their clouds where a test is given; raises as `Raster.read_raw`."""
    raw, valid = raster.read_raw(window)
    found = None if clouds is None else cloud_map(raster, clouds, window, raw, valid)
    return Part(window, raw, valid, found)


def read_chips(raster: Raster, sheet: Sheet, clouds: CloudTest | None = None) -> Iterator[Cut]:
    """The chips of a sheet, each as soon as it is complete; threads may share a sheet, with a raster each."""
    while (taken := sheet.take()) is not None:
        cell, window = taken
        yield from sheet.put(cell, read_part(raster, window, clouds))


@dataclass(eq=False)
class _Reading:
    """A raster that is being read, by one thread or by several."""

    number: int
    job: Job
    raster: Raster  # of the thread that began; others take handles of their own from it
    stamp: tuple[int, ...]
    sheet: Sheet
    places: tuple[int, ...]  # of the sheet's chips among all chips of the raster
    chips: int  # of the raster
    kind: Kind
    clouds: CloudTest | None
    shared: bool
    ended: threading.Lock = field(default_factory=threading.Lock)  # taken once, by who ends it

    @property
    def joinable(self) -> bool:
        """Whether another reader would find enough left to do."""
        return self.shared and self.sheet.cells_left > 1


class Readers:
    """Threads that read the rasters of many jobs; a context manager whose end stops them.

    `waiting` bounds the bytes of chips that wait (the listener holds as much again); `ahead` the jobs begun but not
    finished.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        *,
        chip: int,
        stride: int,
        threads: int = 2,
        ahead: int = 256,
        waiting: int = WAITING_BYTES,
        journal: Journal | None = None,
    ) -> None:
        self._jobs, self._tiling, self._threads, self._journal = jobs, (chip, stride), threads, journal
        self._desk, self._channel = Desk[_Reading](len(jobs), ahead), Channel[Message](waiting)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="reader")
        self._cache, self._futures = BlockCache(threads), list[Future[None]]()

    def __enter__(self) -> Readers:
        self._cache.__enter__()
        self._futures = [self._pool.submit(self._run) for _ in range(self._threads)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._desk.stop()
        self._channel.close()
        try:
            self._pool.shutdown(wait=True)
        finally:
            self._cache.__exit__(kind, error, trace)

    def finish(self, count: int) -> None:
        """The first `count` jobs are done with: as many more may be begun."""
        self._desk.finish(count)

    def messages(self) -> Iterator[Message | None]:
        """Messages as they come; None where the readers wait or are done, so that open batches must be encoded."""
        running = len(self._futures)
        while running:
            items = self._channel.drain(POLL_SECONDS)
            if not items:
                self._raise_faults()
                if self._desk.waiting == running:
                    yield None
            for item in items:
                if item is None:
                    running -= 1
                else:
                    yield item
        yield None

    def _raise_faults(self) -> None:
        for future in self._futures:
            if future.done():
                future.result()  # raises here what went wrong there

    def _run(self) -> None:
        with rasterio.Env():
            while (task := self._desk.take()) is not None:
                if isinstance(task, int):
                    self._begin(task, self._jobs[task])
                else:
                    self._join(task)
        self._channel.put(None)

    def _begin(self, number: int, job: Job) -> None:
        reading = None
        try:
            stamp = stamp_of(job.path)
            with open_raster(job.path, sensor=job.sensor) as raster:
                self._cache.fit(cached_bytes(raster))
                windows = list(tiles(raster.grid, *self._tiling))
                opened = self._opened(number, job, stamp, raster, len(windows))
                found = self._reading(opened, job, raster, windows)
                if self._channel.put(opened):
                    reading = found
                    self._desk.opened(reading)
                    self._work(reading, raster)
        except (RsvlmError, OSError) as error:
            if reading is None:
                self._channel.put(Ended(number, failure=_in_words(error, job)))
            else:
                self._end(reading, _in_words(error, reading.job))
        finally:
            if reading is None:
                self._desk.opened(None)

    def _join(self, reading: _Reading) -> None:
        try:
            with reading.raster.again() as raster:
                self._work(reading, raster)
        except (RsvlmError, OSError) as error:
            self._end(reading, _in_words(error, reading.job))

    def _opened(self, number: int, job: Job, stamp: tuple[int, ...], raster: Raster, chips: int) -> Opened:
        """What the raster says, and what the journal holds of it."""
        source = _source(raster, job)
        small = self._journal is not None and chips <= self._journal.part
        if self._journal is None or (small and not self._journal.logs):
            return Opened(number, source, stamp)
        told = (source.sensor, source.bands, source.cloud_cover, raster.fill, raster.linear_backscatter)
        key = self._journal.key(source.content_hash, self._tiling, raster.grid.shape, *told)
        return Opened(number, source, stamp, key, self._journal.finished(key), small)

    def _reading(self, opened: Opened, job: Job, raster: Raster, windows: Sequence[Window]) -> _Reading:
        layout, size = layout_of(raster), (windows[0].height, windows[0].width)
        places = tuple(place for place in range(len(windows)) if place not in opened.kept)
        return _Reading(
            number=opened.number,
            job=job,
            raster=raster,
            stamp=opened.stamp,
            sheet=Sheet([windows[place] for place in places], layout),
            places=places,
            chips=len(windows),
            kind=Kind(raster.bands, raster.linear_backscatter, str(raster.dtype), (len(raster.bands), *size)),
            clouds=cloud_test(raster, size),
            # Striped files and pictures are decoded from their start on: one reader.
            shared=self._threads > 1 and layout.blocks[1] > 1,
        )

    def _work(self, reading: _Reading, raster: Raster) -> None:
        if not reading.places:
            self._end(reading, _change(reading))
        for cut in read_chips(raster, reading.sheet, reading.clouds):
            placed = replace(cut, place=reading.places[cut.place])
            if not self._channel.put(Chip(reading.number, placed, reading.kind), cut.raw.nbytes + cut.valid.nbytes):
                return
            if reading.sheet.finished(1):
                self._end(reading, _change(reading))
        self._desk.closed(reading)

    def _end(self, reading: _Reading, failure: str | None) -> None:
        reading.sheet.stop()
        self._desk.closed(reading)
        if reading.ended.acquire(blocking=False):
            self._channel.put(Ended(reading.number, reading.chips, failure, reading.sheet.blocks))


def _change(reading: _Reading) -> str | None:
    """Why what was read cannot be taken for one content, None where it can."""
    return "it changed while it was read; add it again" if stamp_of(reading.job.path) != reading.stamp else None


def _in_words(error: RsvlmError | OSError, job: Job) -> str:
    if isinstance(error, OSError):
        return f"{job.path.name} cannot be read: {error.strerror or type(error).__name__}; check the path and the disk"
    return str(error) or type(error).__name__


def _source(raster: Raster, job: Job) -> Source:
    stated = raster.cloud_cover if cloud_test(raster, raster.grid.shape) is None else None
    return Source(
        sensor=raster.sensor.name,
        bands=raster.bands,
        grid=raster.grid,
        acquired=raster.acquired,
        content_hash=content_hash(job.path),
        cloud_cover=None if stated is None else stated / 100,
    )
