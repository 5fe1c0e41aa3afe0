"""Chips of one raster, cut from whole blocks that are read once each, whatever the order and overlap of the chips."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rsvlm.errors import SceneError
from rsvlm.scene import Window

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

CELL_BYTES = 8 * 2**20  # of stored values; several small blocks are read at once
ROW_BYTES = 256 * 2**20  # a row of blocks above this is held by columns instead, where those are shorter


@dataclass(frozen=True, slots=True)
class Blocks:
    """How often a file's blocks were read, and how many of them the chips lie on."""

    decoded: int = 0
    touched: int = 0

    @property
    def ratio(self) -> float:
        """Reads of a block the chips need: 1 where each was read once; 0 where nothing was needed."""
        return self.decoded / self.touched if self.touched else 0.0


@dataclass(frozen=True, slots=True)
class Layout:
    """How a raster is stored: pixels (H, W), its blocks (H, W), and the bytes of one pixel in all its bands."""

    shape: tuple[int, int]
    block: tuple[int, int]
    pixel_bytes: int

    @property
    def blocks(self) -> tuple[int, int]:
        """Rows and columns of blocks."""
        return -(-self.shape[0] // self.block[0]), -(-self.shape[1] // self.block[1])

    @property
    def by_columns(self) -> bool:
        """Whether blocks are read down the columns: where a row holds one block, or too much and a column less."""
        row, column = (self.pixel_bytes * np.multiply(self.shape[::-1], self.block)).tolist()
        return self.blocks[1] == 1 or (row > ROW_BYTES and column < row)

    def under(self, window: Window) -> tuple[slice, slice]:
        """Rows and columns of the blocks a window lies on."""
        (height, width), stop_row, stop_col = self.block, window.row + window.height, window.col + window.width
        return slice(window.row // height, -(-stop_row // height)), slice(window.col // width, -(-stop_col // width))

    def pixels(self, rows: slice, cols: slice) -> Window:
        """The window some blocks cover."""
        row, col = rows.start * self.block[0], cols.start * self.block[1]
        bottom, right = min(rows.stop * self.block[0], self.shape[0]), min(cols.stop * self.block[1], self.shape[1])
        return Window(row, col, bottom - row, right - col)


def cells_of(layout: Layout, touched: NDArray[np.bool_]) -> list[Window]:
    """Windows of whole blocks that cover the touched ones (rows, columns) once each, in the order to read them."""
    down = layout.by_columns
    most = max(1, CELL_BYTES // max(1, layout.pixel_bytes * layout.block[0] * layout.block[1]))
    cells = []
    for line, flags in enumerate(touched.T if down else touched):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8))).tolist()
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            for first in range(start, stop, most):
                along, across = slice(first, min(first + most, stop)), slice(line, line + 1)
                cells.append(layout.pixels(*((along, across) if down else (across, along))))
    return cells


@dataclass(frozen=True, slots=True)
class Part:
    """Whole blocks as read: stored values (C, h, w), validity (h, w), and a thinned map of clouds where one is told."""

    window: Window
    raw: NDArray[Any]
    valid: NDArray[np.bool_]
    clouds: CloudMap | None = None


@dataclass(frozen=True, slots=True)
class CloudMap:
    """Every `step`-th row and column of the raster inside a part: which pixels were looked at, which are cloud."""

    step: int
    seen: NDArray[np.bool_]
    cloudy: NDArray[np.bool_]

    def count(self, part: Window, inside: Window) -> tuple[int, int]:
        """Pixels looked at and pixels of cloud in the window `inside` of the raster, as far as this part holds it."""
        rows = _thinned(part.row, part.height, inside.row, inside.height, self.step)
        cols = _thinned(part.col, part.width, inside.col, inside.width, self.step)
        return int(self.seen[rows, cols].sum()), int(self.cloudy[rows, cols].sum())


def _thinned(start: int, length: int, wanted: int, size: int, step: int) -> slice:
    """Positions in a thinned axis of the multiples of `step` that lie in both stretches."""
    origin = -(-start // step)
    low, high = max(start, wanted), min(start + length, wanted + size)
    return slice(-(-low // step) - origin, -(-high // step) - origin)


@dataclass(frozen=True, slots=True)
class Cut:
    """One chip: its place among the windows, stored values (C, h, w), validity (h, w), shares valid and cloud.

    Of a chip inside one part the arrays are views, which keep all of the part in memory.
    """

    place: int
    window: Window
    raw: NDArray[Any]
    valid: NDArray[np.bool_]
    share: float
    cloud: float | None

    def alone(self) -> Cut:
        """The same, keeping no more in memory than itself."""
        base = self.raw.base
        if base is None or base.nbytes <= self.raw.nbytes:
            return self
        return replace(self, raw=self.raw.copy(), valid=self.valid.copy())


class Sheet:
    """Hands out the cells of one raster, and cuts each chip when the last block under it is there.

    Safe to share between threads. Each part is let go with the last chip that needs it, so what is held is about one
    row of cells, however many chips there are, and the parts that chips still look into.
    """

    def __init__(self, windows: Sequence[Window], layout: Layout) -> None:
        self._windows, self._layout, self._lock = windows, layout, threading.Lock()
        touched = np.zeros(layout.blocks, np.bool_)
        for window in windows:
            _check_inside(window, layout.shape)
            touched[layout.under(window)] = True
        self._touched, self._reads = touched, np.zeros(layout.blocks, np.int64)
        self._cells = cells_of(layout, touched)
        self._above = _chips_above(windows, layout, self._cells)
        self._below: list[list[int]] = [[] for _ in windows]
        for cell, places in enumerate(self._above):
            for place in places:
                self._below[place].append(cell)
        self._missing = [len(cells) for cells in self._below]
        self._uncut = [len(places) for places in self._above]
        self._parts: dict[int, Part] = {}
        self._next = self._done = 0

    def __len__(self) -> int:
        return len(self._windows)

    @property
    def blocks(self) -> Blocks:
        """What was read so far, counted block by block."""
        with self._lock:
            return Blocks(int(self._reads.sum()), int(self._touched.sum()))

    @property
    def cells_left(self) -> int:
        """Cells nobody has taken yet."""
        return len(self._cells) - self._next

    def take(self) -> tuple[int, Window] | None:
        """The next cell to read, with its number; None when all are taken."""
        with self._lock:
            if self._next >= len(self._cells):
                return None
            self._next += 1
            return self._next - 1, self._cells[self._next - 1]

    def stop(self) -> None:
        """Hand out no more."""
        with self._lock:
            self._next = len(self._cells)

    def put(self, cell: int, part: Part) -> Iterator[Cut]:
        """Take in a cell that was read, and cut the chips that are complete with it."""
        with self._lock:
            self._reads[self._layout.under(part.window)] += 1
            self._parts[cell] = part
            for place in self._above[cell]:
                self._missing[place] -= 1
            ready = [place for place in self._above[cell] if not self._missing[place]]
        covered = sum(self._windows[place].height * self._windows[place].width for place in self._above[cell])
        sparse = 2 * covered < part.window.height * part.window.width
        for place in ready:
            cut = _cut(place, self._windows[place], [self._parts[cell] for cell in self._below[place]])
            yield cut.alone() if sparse else cut  # few chips would keep much that nobody wants
            self._let_go(self._below[place])

    def finished(self, chips: int) -> bool:
        """Count chips that went out; true for the one call that brings the last of them."""
        with self._lock:
            before, self._done = self._done, self._done + chips
            return before < len(self._windows) == self._done

    def _let_go(self, cells: Sequence[int]) -> None:
        with self._lock:
            for cell in cells:
                self._uncut[cell] -= 1
                if not self._uncut[cell]:
                    del self._parts[cell]


def _check_inside(window: Window, shape: tuple[int, int]) -> None:
    bottom, right = window.row + window.height, window.col + window.width
    if window.row < 0 or window.col < 0 or bottom > shape[0] or right > shape[1]:
        raise SceneError(f"{window} reaches outside a raster of {shape[0]} x {shape[1]} pixels; give windows inside it")


def _chips_above(windows: Sequence[Window], layout: Layout, cells: Sequence[Window]) -> list[list[int]]:
    """The chips that lie on each cell, in their order."""
    owner = np.full(layout.blocks, -1)
    for number, cell in enumerate(cells):
        owner[layout.under(cell)] = number
    above: list[list[int]] = [[] for _ in cells]
    for place, window in enumerate(windows):
        for number in dict.fromkeys(owner[layout.under(window)].ravel().tolist()):
            above[number].append(place)
    return above


def _cut(place: int, window: Window, parts: Sequence[Part]) -> Cut:
    if len(parts) == 1:
        return _looked_into(place, window, parts[0])
    raw = np.empty((len(parts[0].raw), window.height, window.width), parts[0].raw.dtype)
    valid = np.empty((window.height, window.width), np.bool_)
    seen = cloudy = 0
    for part in parts:
        (rows, from_rows), (cols, from_cols) = _both(window, part.window)
        raw[:, rows, cols] = part.raw[:, from_rows, from_cols]
        valid[rows, cols] = part.valid[from_rows, from_cols]
        if part.clouds is not None:
            counted = part.clouds.count(part.window, window)
            seen, cloudy = seen + counted[0], cloudy + counted[1]
    return Cut(place, window, raw, valid, np.count_nonzero(valid) / valid.size, cloudy / seen if seen else None)


def _looked_into(place: int, window: Window, part: Part) -> Cut:
    """A chip that lies in one part, without a copy."""
    (_, rows), (_, cols) = _both(window, part.window)
    valid = part.valid[rows, cols]
    seen, cloudy = (0, 0) if part.clouds is None else part.clouds.count(part.window, window)
    share = np.count_nonzero(valid) / valid.size
    return Cut(place, window, part.raw[:, rows, cols], valid, share, cloudy / seen if seen else None)


def _both(window: Window, part: Window) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where a window and a part meet: (rows in the window, rows in the part), (columns, columns)."""
    spans = []
    for start, size, origin, length in (
        (window.row, window.height, part.row, part.height),
        (window.col, window.width, part.col, part.width),
    ):
        low, high = max(start, origin), min(start + size, origin + length)
        spans.append((slice(low - start, high - start), slice(low - origin, high - origin)))
    return spans[0], spans[1]
