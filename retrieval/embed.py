"""The batched embedding core: readers bring raw chips, the device scales, masks and encodes, order is kept."""

from __future__ import annotations

import queue
import threading
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from tqdm import tqdm

from rsvlm.errors import RsvlmError, SceneError
from rsvlm.raster import open_raster, tiles
from rsvlm.scene import Grid, Scene
from rsvlm.spectral import clouds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from rsvlm.raster import Raster
    from rsvlm.scene import Window
    from rsvlm.sensors import Band, Sensor

MIN_VALID = 0.1  # a chip with less valid ground than this says more about its mask than about the place
CLOUD_PIXELS = 64  # of a chip's side that are looked at for clouds; the others are skipped
POLL_SECONDS = 0.1


class PixelEncoder(Protocol):
    """What the core needs of an encoder: unit vectors from physical pixels that already lie on its device."""

    @property
    def device(self) -> torch.device:
        """Where `embed` wants its pixels."""
        ...

    @property
    def dim(self) -> int:
        """Length D of every vector."""
        ...

    def embed(self, pixels: Tensor, valid: Tensor, bands: tuple[Band, ...]) -> Tensor:
        """Vectors (N, D) of pixels (N, C, H, W) float32 in physical units with valid (N, H, W) bool."""
        ...


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
    cloud_cover: float | None  # fraction, as the producer states it


@dataclass(frozen=True)
class EmbeddedChips:
    """The chips of one job, in row-major order; `failure` says why there are none, `skipped` counts invalid ones."""

    job: Job
    source: Source | None
    windows: tuple[Window, ...]
    vectors: NDArray[np.float32]  # (N, D), unit length
    valid: NDArray[np.float64]  # (N,), fraction of valid pixels
    cloud: tuple[float | None, ...]  # (N,), fraction of valid pixels measured as cloud; None where none was
    skipped: int = 0
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class _Kind:
    """Chips that can share a batch."""

    bands: tuple[Band, ...]
    linear: bool
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _RawChip:
    number: int
    place: int
    window: Window
    raw: NDArray[Any]  # (C, h, w), as stored
    valid: NDArray[np.bool_]  # (h, w)
    kind: _Kind
    cloud: float | None  # fraction


@dataclass(frozen=True, slots=True)
class _Opened:
    number: int
    source: Source


@dataclass(frozen=True, slots=True)
class _Ended:
    number: int
    chips: int
    failure: str | None = None


_Message = _RawChip | _Opened | _Ended


def physical(raw: Tensor, valid: Tensor, bands: tuple[Band, ...], *, linear: bool) -> tuple[Tensor, Tensor]:
    """Stored numbers (N, C, H, W) as float32 physical units, and what is valid of them (N, H, W).

    Linear backscatter becomes dB, where only positive power is valid. Invalid pixels hold 0.
    """
    factors = torch.tensor([(band.scale, band.offset) for band in bands], dtype=torch.float32).to(raw.device)
    scale, offset = factors.T[:, :, None, None]
    pixels = raw.to(torch.float32) * scale + offset
    if linear:
        valid = valid & (pixels > 0).all(dim=1)
        pixels = 10 * torch.log10(pixels)
    valid = valid & torch.isfinite(pixels).all(dim=1)
    return torch.where(valid[:, None], pixels, torch.zeros_like(pixels)), valid


@torch.inference_mode()
def encode_raw(
    encoder: PixelEncoder, raw: NDArray[Any], valid: NDArray[np.bool_], bands: tuple[Band, ...], *, linear: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Vectors (N, D) and valid fractions (N,) of stored pixels (N, C, H, W); too invalid chips get zero vectors."""
    layers, mask = (_to_device(array, encoder.device) for array in (raw, valid))
    pixels, mask = physical(layers, mask, bands, linear=linear)
    fractions = mask.float().mean(dim=(1, 2))
    usable = fractions >= MIN_VALID
    vectors = torch.zeros(len(raw), encoder.dim, device=encoder.device)
    if bool(usable.any()):
        vectors[usable] = encoder.embed(pixels[usable], mask[usable], bands)
    return vectors.cpu().numpy(), fractions.double().cpu().numpy()


def _to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class _Feed:
    """Hands jobs to the readers in order, and holds them back from running far ahead of the oldest unfinished job."""

    def __init__(self, jobs: Sequence[Job], ahead: int) -> None:
        self._jobs, self._ahead = jobs, ahead
        self._changed = threading.Condition()
        self._next = self._finished = self.waiting = 0
        self.stopped = False

    def take(self) -> int | None:
        """Number of the next job, None when there is none; blocks while too far ahead."""
        with self._changed:
            self.waiting += 1
            self._changed.wait_for(lambda: self.stopped or self._next < min(len(self._jobs), self._limit) or self._dry)
            self.waiting -= 1
            if self.stopped or self._dry:
                return None
            self._next += 1
            return self._next - 1

    @property
    def _limit(self) -> int:
        return self._finished + self._ahead

    @property
    def _dry(self) -> bool:
        return self._next >= len(self._jobs)

    def finish(self, count: int) -> None:
        """The first `count` jobs are done."""
        with self._changed:
            self._finished = count
            self._changed.notify_all()

    def stop(self) -> None:
        """Let every reader go home."""
        with self._changed:
            self.stopped = True
            self._changed.notify_all()


def _messages(number: int, job: Job, chip: int, stride: int) -> Iterator[_Message]:
    """Everything one raster has to say; a file that cannot be read ends with its reason."""
    count = 0
    try:
        with open_raster(job.path, sensor=job.sensor) as raster:
            yield _Opened(number, _source(raster))
            for count, window in enumerate(tiles(raster.grid, chip, stride), start=1):
                raw, valid = raster.read_raw(window)
                kind = _Kind(raster.bands, raster.linear_backscatter, str(raw.dtype), raw.shape)
                cloud = cloud_fraction(raster, raw, valid) if raster.cloud_cover is None else None
                yield _RawChip(number, count - 1, window, raw, valid, kind, cloud)
    except (RsvlmError, OSError) as error:
        yield _Ended(number, count, str(error) or type(error).__name__)
    else:
        yield _Ended(number, count)


def cloud_fraction(raster: Raster, raw: NDArray[Any], valid: NDArray[np.bool_]) -> float | None:
    """Share of the valid pixels of a raw chip (C, H, W) that are likely cloud; None where its bands do not tell."""
    if raster.sensor.units != "reflectance":
        return None
    step = max(1, min(valid.shape) // CLOUD_PIXELS)
    seen = valid[::step, ::step]
    scale, offset = np.array([(band.scale, band.offset) for band in raster.bands], np.float32).T[:, :, None, None]
    pixels = np.where(seen, raw[:, ::step, ::step].astype(np.float32) * scale + offset, np.float32(0))
    found = clouds(Scene(pixels, seen, raster.bands, raster.sensor, Grid(*seen.shape)))
    return None if found is None or not seen.any() else float(found.sum() / seen.sum())


def _source(raster: Raster) -> Source:
    return Source(
        sensor=raster.sensor.name,
        bands=raster.bands,
        grid=raster.grid,
        acquired=raster.acquired,
        content_hash=raster.content_hash,
        cloud_cover=None if raster.cloud_cover is None else raster.cloud_cover / 100,
    )


@dataclass
class _Progress:
    """What is known of one job so far."""

    source: Source | None = None
    chips: dict[int, tuple[Window, NDArray[np.float32], float, float | None]] = field(default_factory=dict)
    ended: _Ended | None = None

    @property
    def complete(self) -> bool:
        return self.ended is not None and (self.ended.failure is not None or len(self.chips) == self.ended.chips)

    def result(self, job: Job, dim: int) -> EmbeddedChips:
        rows = [self.chips[place] for place in sorted(self.chips)]
        used = [row for row in rows if row[2] >= MIN_VALID]
        failure = self.ended.failure if self.ended else None
        if failure is None and not all(np.isfinite(vector).all() and vector.any() for _, vector, *_ in used):
            failure = "the encoder made a vector that is zero or not finite from it"
        used = [] if failure else used
        return EmbeddedChips(
            job=job,
            source=self.source,
            windows=tuple(window for window, *_ in used),
            vectors=np.stack([vector for _, vector, *_ in used]) if used else np.zeros((0, dim), np.float32),
            valid=np.array([fraction for _, _, fraction, _ in used]),
            cloud=tuple(cloud for *_, cloud in used),
            skipped=len(rows) - len(used),
            failure=failure,
        )


class _Assembly:
    """Gathers raw chips into batches of one kind, encodes them and files the vectors under their jobs."""

    def __init__(self, encoder: PixelEncoder, batch: int) -> None:
        self._encoder, self._batch = encoder, batch
        self._groups: dict[_Kind, list[_RawChip]] = {}
        self._pending = 0
        self._jobs: defaultdict[int, _Progress] = defaultdict(_Progress)

    def accept(self, message: _Message) -> None:
        if isinstance(message, _Opened):
            self._jobs[message.number].source = message.source
        elif isinstance(message, _Ended):
            self._jobs[message.number].ended = message
        else:
            group = self._groups.setdefault(message.kind, [])
            group.append(message)
            self._pending += 1
            if len(group) == self._batch:
                self._encode(message.kind)
            elif self._pending >= 2 * self._batch:  # many kinds with few chips each: memory stays flat
                self._encode(max(self._groups, key=lambda kind: len(self._groups[kind])))

    def flush(self) -> None:
        for kind in list(self._groups):
            self._encode(kind)

    def _encode(self, kind: _Kind) -> None:
        chips = self._groups.pop(kind)
        self._pending -= len(chips)
        raw, valid = np.stack([chip.raw for chip in chips]), np.stack([chip.valid for chip in chips])
        vectors, fractions = encode_raw(self._encoder, raw, valid, kind.bands, linear=kind.linear)
        for chip, vector, fraction in zip(chips, vectors, fractions, strict=True):
            if chip.number in self._jobs:  # a raster that failed further on is gone already
                self._jobs[chip.number].chips[chip.place] = (chip.window, vector, float(fraction), chip.cloud)

    def pop(self, number: int, job: Job) -> EmbeddedChips | None:
        """The finished result of a job, None while it is not finished."""
        if not self._jobs[number].complete:
            return None
        return self._jobs.pop(number).result(job, self._encoder.dim)


class _Readers:
    """Threads that open rasters of their own and put raw chips into one bounded queue."""

    def __init__(self, jobs: Sequence[Job], *, threads: int, chip: int, stride: int, depth: int, ahead: int) -> None:
        self.feed = _Feed(jobs, ahead)
        self._jobs, self._tiling = jobs, (chip, stride)
        self._channel: queue.Queue[_Message | None] = queue.Queue(maxsize=depth)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="reader")
        self._futures: list[Future[None]] = [self._pool.submit(self._read) for _ in range(threads)]

    def _read(self) -> None:
        while (number := self.feed.take()) is not None:
            with closing(_messages(number, self._jobs[number], *self._tiling)) as messages:  # type: ignore[type-var]
                for message in messages:
                    if not self._put(message):
                        return
        self._put(None)

    def _put(self, message: _Message | None) -> bool:
        while not self.feed.stopped:
            try:
                self._channel.put(message, timeout=POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False

    def messages(self) -> Iterator[_Message | None]:
        """Messages as they come; None where the readers wait or are done, so that open batches must be encoded."""
        running = len(self._futures)
        while running:
            try:
                message = self._channel.get(timeout=POLL_SECONDS)
            except queue.Empty:
                for future in self._futures:
                    if future.done():
                        future.result()  # raises here what went wrong there
                if self.feed.waiting == running:
                    yield None
                continue
            if message is None:
                running -= 1
            else:
                yield message
        yield None

    def close(self) -> None:
        self.feed.stop()
        self._pool.shutdown(wait=True)


def embed_rasters(
    jobs: Sequence[Job],
    encoder: PixelEncoder,
    *,
    chip: int = 256,
    stride: int = 256,
    batch: int = 64,
    readers: int = 2,
    progress: bool = False,
) -> Iterator[EmbeddedChips]:
    """Embed every chip of every raster: one result a job, in the order of the jobs, memory flat in their number.

    A raster that cannot be read becomes a result with its `failure`; a fault of the software itself is raised.
    Closing the iterator early stops the readers. Chips of one sensor and size share batches across files.
    """
    if min(chip, stride, batch, readers) < 1:
        raise SceneError(f"chip, stride, batch and readers start at 1; got {chip}, {stride}, {batch}, {readers}")
    source = _Readers(jobs, threads=readers, chip=chip, stride=stride, depth=batch, ahead=4 * batch)
    assembly, done = _Assembly(encoder, batch), 0
    try:
        with tqdm(total=len(jobs), unit="file", desc="embed", disable=not progress) as bar:
            for message in source.messages():
                if message is None:
                    assembly.flush()
                else:
                    assembly.accept(message)
                while done < len(jobs) and (result := assembly.pop(done, jobs[done])) is not None:
                    done += 1
                    source.feed.finish(done)
                    bar.update()
                    yield result
    finally:
        source.close()
