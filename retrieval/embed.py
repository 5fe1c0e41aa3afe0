"""The batched embedding core: readers bring raw chips, the device scales, masks and encodes, order is kept.

A chip's vector depends on the chip alone: whatever the batch, the threads and the order of the files, the vectors of
one encoder differ by rounding only, by less than 1e-5 in any component on a CPU, where its bfloat16 is used only if
that holds, and by a cosine of 0.999 at least in half precision on a GPU.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from tqdm import tqdm

from retrieval.intake import stamp_of
from retrieval.journal import EncodedChip
from retrieval.reading import NO_BLOCKS, Chip, Ended, Job, Kind, Opened, Readers, Source
from rsvlm.encoder.preprocessing import constants
from rsvlm.errors import SceneError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from retrieval.cutting import Blocks
    from retrieval.journal import Journal
    from retrieval.reading import Message
    from rsvlm.scene import Window
    from rsvlm.sensors import Band

__all__ = ["EmbeddedChips", "Job", "PixelEncoder", "Source", "embed_rasters", "encode_raw", "physical"]

CPU_CHIPS, CPU_BYTES = 16, 16 * 2**20  # more at once falls out of a CPU's cache and takes twice the time per chip
BATCH_BYTES = 256 * 2**20  # of stored values in the open batches of all kinds; large chips make small batches
MIN_VALID = 0.1  # a chip with less valid ground than this says more about its mask than about the place


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
    blocks: Blocks = NO_BLOCKS  # reads of the file's blocks, and how many of them the chips lie on


def physical(raw: Tensor, valid: Tensor, bands: tuple[Band, ...], *, linear: bool) -> tuple[Tensor, Tensor]:
    """Stored numbers (N, C, H, W) as float32 physical units, and what is valid of them (N, H, W).

    Linear backscatter becomes dB, where only positive power is valid. Invalid pixels hold 0.
    """
    scale, offset = constants(tuple((band.scale, band.offset) for band in bands), raw.device)
    pixels = raw.to(torch.float32) * scale + offset  # float32 before anything else: bfloat16 keeps 3 digits of 5
    if linear:
        valid = valid & (pixels > 0).all(dim=1)
        pixels = 10 * torch.log10(pixels)
    if linear or raw.is_floating_point():
        valid = valid & torch.isfinite(pixels).all(dim=1)
    return torch.where(valid[:, None], pixels, torch.zeros_like(pixels)), valid


def encode_raw(
    encoder: PixelEncoder, raw: NDArray[Any], valid: NDArray[np.bool_], bands: tuple[Band, ...], *, linear: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Vectors (N, D) and valid fractions (N,) of stored pixels (N, C, H, W); too invalid chips get zero vectors."""
    vectors = np.zeros((len(raw), encoder.dim), np.float32)
    fractions = valid.mean(axis=(1, 2), dtype=np.float64)
    usable = fractions >= MIN_VALID
    if usable.any():
        found, shares = _launch(encoder, raw[usable], valid[usable], bands, linear=linear)
        fractions[usable] = shares.cpu().numpy()
        vectors[usable] = np.where(fractions[usable, None] >= MIN_VALID, found.cpu().numpy(), 0)
    return vectors, fractions


@torch.inference_mode()
def _launch(
    encoder: PixelEncoder,
    raw: Sequence[NDArray[Any]] | NDArray[Any],
    valid: Sequence[NDArray[np.bool_]] | NDArray[np.bool_],
    bands: tuple[Band, ...],
    *,
    linear: bool,
) -> tuple[Tensor, Tensor]:
    """Vectors (N, D) and valid fractions (N,), on the device; nothing here waits for a GPU to be done."""
    step = len(raw)
    if encoder.device.type == "cpu":
        step = min(CPU_CHIPS, max(1, CPU_BYTES // (4 * raw[0].size)))
    found = []
    for start in range(0, len(raw), step):
        part = slice(start, start + step)
        layers, mask = _stacked(raw[part], encoder.device), _stacked(valid[part], encoder.device)
        pixels, mask = physical(layers, mask, bands, linear=linear)
        found.append((encoder.embed(pixels, mask, bands), mask.float().mean(dim=(1, 2))))
    vectors, fractions = zip(*found, strict=True)
    return torch.cat(vectors), torch.cat(fractions)


def _stacked(arrays: Sequence[NDArray[Any]] | NDArray[Any], device: torch.device) -> Tensor:
    """Arrays of one shape as a tensor on the device, as stored; by way of pinned memory to a GPU."""
    first, pinned = arrays[0], device.type == "cuda"
    dtype = torch.from_numpy(np.empty(0, first.dtype)).dtype
    host = torch.empty((len(arrays), *first.shape), dtype=dtype, pin_memory=pinned)
    np.stack(list(arrays), out=host.numpy())
    return host.to(device, non_blocking=pinned)


@dataclass
class _Progress:
    """What is known of one job so far."""

    opened: Opened | None = None
    chips: dict[int, EncodedChip] = field(default_factory=dict)
    unkept: list[tuple[int, EncodedChip]] = field(default_factory=list)  # not in the journal yet
    kept_at: float = field(default_factory=time.monotonic)
    ended: Ended | None = None

    @property
    def complete(self) -> bool:
        return self.ended is not None and (self.ended.failure is not None or len(self.chips) == self.ended.chips)

    def result(self, job: Job, dim: int) -> EmbeddedChips:
        rows = [self.chips[place] for place in sorted(self.chips)]
        used = [row for row in rows if row.valid >= MIN_VALID]
        failure = self.ended.failure if self.ended else None
        if failure is None and not all(map(_sound, used)):
            failure = "the encoder made a vector that is zero or not finite from it"
        used = [] if failure else used
        return EmbeddedChips(
            job=job,
            source=self.opened.source if self.opened else None,
            windows=tuple(row.window for row in used),
            vectors=np.stack([row.vector for row in used]) if used else np.zeros((0, dim), np.float32),
            valid=np.array([row.valid for row in used]),
            cloud=tuple(row.cloud for row in used),
            skipped=len(rows) - len(used),
            failure=failure,
            blocks=self.ended.blocks if self.ended else NO_BLOCKS,
        )


def _sound(chip: EncodedChip) -> bool:
    return bool(chip.valid < MIN_VALID or (np.isfinite(chip.vector).all() and chip.vector.any()))


class _Assembly:
    """Gathers raw chips into batches of one kind, encodes them and files the vectors under their jobs.

    Batches go to the encoders in turn, one for each device. While a device works on one, the next is brought to it.
    """

    def __init__(
        self, jobs: Sequence[Job], encoders: Sequence[PixelEncoder], batch: int, journal: Journal | None
    ) -> None:
        self._given, self._encoders, self._batch, self._journal, self._turn = jobs, encoders, batch, journal, 0
        self._groups: dict[Kind, list[Chip]] = {}
        self._pending = self._pending_bytes = 0
        self._launched: deque[tuple[list[Chip], Tensor, Tensor]] = deque()
        self._jobs: defaultdict[int, _Progress] = defaultdict(_Progress)
        self._complete: list[int] = []
        self._unlogged: list[tuple[Opened, int, EncodedChip]] = []  # chips of small files, not in the journal yet

    def accept(self, message: Message) -> None:
        if isinstance(message, Opened):
            self._jobs[message.number] = _Progress(message, dict(message.kept))
        elif isinstance(message, Ended):
            self._jobs[message.number].ended = message
            self._part_with(message.number)
            self._note_complete(message.number)
        elif message.cut.share < MIN_VALID:
            self._file(message, np.zeros(0, np.float32), message.cut.share)
        else:
            group = self._groups.setdefault(message.kind, [])
            group.append(message)
            self._pending, self._pending_bytes = self._pending + 1, self._pending_bytes + message.cut.raw.nbytes
            if len(group) == self._batch:
                self._encode(message.kind)
            elif self._pending >= 2 * self._batch or self._pending_bytes >= BATCH_BYTES:  # memory stays flat
                self._encode(max(self._groups, key=self._bytes))

    def _part_with(self, number: int) -> None:
        """Chips of a raster that is done with may wait long for their batch: no longer as views of large parts."""
        for group in self._groups.values():
            for i, chip in enumerate(group):
                if chip.number == number:
                    group[i] = replace(chip, cut=chip.cut.alone())

    def _bytes(self, kind: Kind) -> int:
        return sum(chip.cut.raw.nbytes for chip in self._groups[kind])

    def flush(self) -> None:
        for kind in list(self._groups):
            self._encode(kind)
        while self._launched:
            self._collect()

    def _encode(self, kind: Kind) -> None:
        self._pending_bytes -= self._bytes(kind)
        chips = self._groups.pop(kind)
        self._pending -= len(chips)
        encoder = self._encoders[self._turn % len(self._encoders)]
        self._turn += 1
        raw, valid = [chip.cut.raw for chip in chips], [chip.cut.valid for chip in chips]
        self._launched.append((chips, *_launch(encoder, raw, valid, kind.bands, linear=kind.linear)))
        while len(self._launched) > sum(one.device.type != "cpu" for one in self._encoders):
            self._collect()

    def _collect(self) -> None:
        chips, vectors, fractions = self._launched.popleft()
        for chip, vector, fraction in zip(chips, vectors.cpu().numpy(), fractions.tolist(), strict=True):
            self._file(chip, vector, fraction)
        self._log()

    def _file(self, chip: Chip, vector: NDArray[np.float32], fraction: float) -> None:
        if chip.number not in self._jobs:  # a raster that failed further on is gone already
            return
        progress, encoded = self._jobs[chip.number], EncodedChip(chip.cut.window, vector, fraction, chip.cut.cloud)
        progress.chips[chip.cut.place] = encoded
        if self._journal is not None and progress.opened and progress.opened.key and _sound(encoded):
            self._note(self._journal, progress.opened, progress, (chip.cut.place, encoded))
        self._note_complete(chip.number)

    def _note(self, journal: Journal, opened: Opened, progress: _Progress, placed: tuple[int, EncodedChip]) -> None:
        if opened.small:
            self._unlogged.append((opened, *placed))
            return
        progress.unkept.append(placed)
        rested = time.monotonic() - progress.kept_at >= journal.pause
        if rested and len(progress.unkept) >= journal.part:
            self._keep(journal, opened, progress)

    def _log(self) -> None:
        """Note the chips of small files in the journal, but of those that are no longer the ones that were opened."""
        if self._journal is None or not self._unlogged:
            return
        same = {opened.number: self._unchanged(opened) for opened, _, _ in self._unlogged}
        self._journal.log((opened.key, place, chip) for opened, place, chip in self._unlogged if same[opened.number])
        self._unlogged = []

    def _unchanged(self, opened: Opened) -> bool:
        with suppress(OSError):
            return stamp_of(self._given[opened.number].path) == opened.stamp
        return False

    def _keep(self, journal: Journal, opened: Opened, progress: _Progress) -> None:
        """Note what is new in the journal, unless the file is no longer the one that was opened."""
        if self._unchanged(opened):
            journal.note(opened.key, progress.unkept)
        progress.unkept, progress.kept_at = [], time.monotonic()

    def _note_complete(self, number: int) -> None:
        if self._jobs[number].complete:
            self._complete.append(number)

    def results(self) -> Iterator[tuple[int, EmbeddedChips]]:
        """The jobs that were completed since the last time, by their numbers."""
        while self._complete:
            number = self._complete.pop(0)
            yield number, self._jobs.pop(number).result(self._given[number], self._encoders[0].dim)


@dataclass(frozen=True, slots=True)
class Pace:
    """Chips encoded at once, and threads that read them."""

    batch: int
    readers: int


def pace_of(encoder: PixelEncoder) -> Pace:
    """What suits a device: a GPU waits for decoding, so every core reads for it; beside a CPU's encoder two do.

    Processes that were started together on a machine share its cores.
    """
    together = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return Pace(64, 2) if encoder.device.type == "cpu" else Pace(256, max(2, (os.cpu_count() or 2) // together))


def _on_every_device(encoder: PixelEncoder) -> list[PixelEncoder]:
    replicas: Callable[[], list[PixelEncoder]] | None = getattr(encoder, "replicas", None)
    return [encoder] if replicas is None else replicas()


def embed_rasters(
    jobs: Sequence[Job],
    encoder: PixelEncoder | Sequence[PixelEncoder],
    *,
    chip: int = 256,
    stride: int = 256,
    batch: int = 64,
    readers: int = 2,
    progress: bool = False,
    in_order: bool = True,
    journal: Journal | None = None,
) -> Iterator[EmbeddedChips]:
    """Embed every chip of every raster: one result a job, in the order of the jobs, memory flat in their number.

    A raster that cannot be read becomes a result with its `failure`; a fault of the software itself is raised.
    Closing the iterator early stops the readers. Chips of one sensor and size share batches across files, and
    batches go in turn to the encoders where there are several, equal ones on a device each: those given, or the
    `replicas` of the one given, if it has such.
    Not `in_order`, results come as they are finished, so that none waits for a large file before it. With a `journal`,
    finished parts of large files are kept, and chips kept there by an interrupted run are not read again.
    """
    if min(chip, stride, batch, readers) < 1:
        raise SceneError(f"chip, stride, batch and readers start at 1; got {chip}, {stride}, {batch}, {readers}")
    encoders = list(encoder) if isinstance(encoder, Sequence) else _on_every_device(encoder)
    if len({one.dim for one in encoders}) != 1:
        raise SceneError("several encoders must be equal but for their device; these make vectors of other lengths")
    assembly, waiting, done = _Assembly(jobs, encoders, batch, journal), dict[int, EmbeddedChips](), 0
    with (
        Readers(jobs, chip=chip, stride=stride, threads=readers, ahead=4 * batch, journal=journal) as source,
        tqdm(total=len(jobs), unit="file", desc="embed", disable=not progress) as bar,
    ):
        for message in source.messages():
            if message is None:
                assembly.flush()
            else:
                assembly.accept(message)
            waiting.update(assembly.results())
            while waiting and (not in_order or done in waiting):
                result = waiting.pop(done if in_order else next(iter(waiting)))
                done += 1
                source.finish(done)
                bar.update()
                yield result
