"""What readers share: who reads which raster next, and the way of their chips to one listener."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, Protocol, TypeVar


class Joinable(Protocol):
    """Work in progress that another thread may help with."""

    @property
    def joinable(self) -> bool:
        """Whether there is enough left to do."""
        ...


Open = TypeVar("Open", bound=Joinable)
Item = TypeVar("Item")


class Desk(Generic[Open]):
    """Hands rasters to the readers in order, several readers to one, and none far ahead of the oldest unfinished."""

    def __init__(self, jobs: int, ahead: int) -> None:
        self._jobs, self._ahead = jobs, ahead
        self._changed = threading.Condition()
        self._open: list[Open] = []
        self._next = self._finished = self._opening = self.waiting = 0
        self._stopped = False

    def take(self) -> int | Open | None:
        """A raster to help with, else the number of the next job; None when there is nothing more to do."""
        with self._changed:
            self.waiting += 1
            self._changed.wait_for(lambda: self._stopped or self._joinable or self._may_start or self._dry)
            self.waiting -= 1
            if self._stopped:
                return None
            if self._joinable:
                return self._joinable[0]
            if not self._may_start:
                return None
            self._next += 1
            self._opening += 1
            return self._next - 1

    @property
    def _joinable(self) -> list[Open]:
        return [reading for reading in self._open if reading.joinable]

    @property
    def _may_start(self) -> bool:
        return self._next < min(self._jobs, self._finished + self._ahead)

    @property
    def _dry(self) -> bool:
        return self._next >= self._jobs and not self._opening

    def opened(self, reading: Open | None) -> None:
        """A raster that was handed out is open, and others may help, or it could not be opened."""
        with self._changed:
            self._opening -= 1
            if reading is not None:
                self._open.append(reading)
            self._changed.notify_all()

    def closed(self, reading: Open) -> None:
        """A raster has nothing left to take."""
        with self._changed:
            if reading in self._open:
                self._open.remove(reading)

    def finish(self, count: int) -> None:
        """The first `count` jobs are done."""
        with self._changed:
            self._finished = count
            self._changed.notify_all()

    def stop(self) -> None:
        """Let every reader go home."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


class Channel(Generic[Item]):
    """Items on their way to one listener; holds the senders back while more bytes wait than allowed."""

    def __init__(self, limit: int) -> None:
        self._limit, self._held = limit, 0
        self._items: deque[Item | None] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, message: Item | None, size: int = 0) -> bool:
        """Send; waits for room. False where the listener has gone."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._held or self._held + size <= self._limit)
            if self._closed:
                return False
            self._items.append(message)
            self._held += size
            self._changed.notify_all()
            return True

    def drain(self, timeout: float) -> list[Item | None]:
        """All that waits; nothing where nothing came in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._items, timeout)
            items, self._held = list(self._items), 0
            self._items.clear()
            self._changed.notify_all()
            return items

    def close(self) -> None:
        """Nobody listens any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
