"""GDAL's cache of decoded blocks, no larger than readers of whole blocks need: fresh memory costs more than it saves.

Who reads every block once finds nothing in a cache again but what was decoded with it: other layers, a mask. A large
one only takes new pages from the system for every block, which is slower than decoding into the same few.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, ClassVar

from rasterio.env import get_gdal_config, set_gdal_config

from retrieval.cutting import CELL_BYTES

if TYPE_CHECKING:
    from types import TracebackType

OPTION = "GDAL_CACHEMAX"  # rasterio takes bytes, where the environment variable means MB
MOST_BYTES = 256 * 2**20  # for larger blocks than usual


class BlockCache:
    """A share in GDAL's block cache for some reading threads; a context manager that gives it back.

    GDAL has one cache for the whole process. While anybody holds a share it is as large as the shares together, then
    as it was before. Where the environment sets its size, that holds.
    """

    _lock: ClassVar = threading.Lock()
    _shares: ClassVar[dict[BlockCache, int]] = {}
    _usual: ClassVar[int] = 0  # bytes, while nobody has a share

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def __enter__(self) -> BlockCache:
        self._set(self._wanted(CELL_BYTES))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._set(None)

    def fit(self, cell_bytes: int) -> None:
        """Make room for a cell of so many bytes for every thread, and one to spare."""
        if self._wanted(cell_bytes) > self._shares.get(self, 0):
            self._set(self._wanted(cell_bytes))

    def _wanted(self, cell_bytes: int) -> int:
        usual, wanted = ((self._threads + 1) * size for size in (CELL_BYTES, cell_bytes))
        return max(usual, min(wanted, MOST_BYTES))

    def _set(self, share: int | None) -> None:
        """Take a share that only grows, or none, and set the size of the cache to what all have."""
        if OPTION in os.environ:
            return
        with self._lock:
            if not self._shares:
                type(self)._usual = get_gdal_config(OPTION)
            if share is None:
                self._shares.pop(self, None)
            else:
                self._shares[self] = max(share, self._shares.get(self, 0))
            set_gdal_config(OPTION, sum(self._shares.values()) or self._usual)
