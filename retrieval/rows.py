"""Row addresses of the table as runs of neighbours: a few numbers for millions of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

FRAGMENT_BITS = 32  # Lance's row address: the fragment above, the row inside it below


@dataclass(frozen=True)
class RowRuns:
    """Row addresses in an order of their own, as half-open runs [start, stop)."""

    starts: NDArray[np.int64]  # (R,)
    stops: NDArray[np.int64]  # (R,)

    @classmethod
    def of(cls, addresses: NDArray[np.int64]) -> RowRuns:
        """The runs of addresses (N,), in their order."""
        if not len(addresses):
            return cls.join([])
        breaks = np.flatnonzero(np.diff(addresses) != 1)
        starts = addresses[np.concatenate([[0], breaks + 1])]
        return cls(starts, addresses[np.concatenate([breaks, [len(addresses) - 1]])] + 1)

    @classmethod
    def join(cls, parts: Iterable[RowRuns]) -> RowRuns:
        """One after the other."""
        many = list(parts)
        empty = np.zeros(0, np.int64)
        return cls(
            np.concatenate([empty, *(part.starts for part in many)]),
            np.concatenate([empty, *(part.stops for part in many)]),
        )

    @classmethod
    def from_json(cls, pairs: Any) -> RowRuns:
        """Read what `to_json` wrote; raises ValueError for anything else."""
        table = np.asarray(pairs, np.int64).reshape(-1, 2)
        if (table[:, 0] >= table[:, 1]).any() or (table < 0).any():
            raise ValueError("a run of rows that ends before it starts")
        return cls(table[:, 0], table[:, 1])

    def to_json(self) -> list[list[int]]:
        """Pairs of start and stop."""
        return [[int(start), int(stop)] for start, stop in zip(self.starts, self.stops, strict=True)]

    def __len__(self) -> int:
        return int((self.stops - self.starts).sum())

    def addresses(self) -> NDArray[np.int64]:
        """Every address (N,), in order."""
        parts = [np.arange(start, stop) for start, stop in zip(self.starts, self.stops, strict=True)]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The addresses at these positions; all must be inside."""
        ends = np.cumsum(self.stops - self.starts)
        run = np.searchsorted(ends, positions, side="right")
        return np.asarray(self.stops[run] - (ends[run] - positions), np.int64)

    def positions(self, addresses: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where these addresses stand, -1 for those that are not here."""
        if not len(self.starts):
            return np.full(len(addresses), -1, np.int64)
        before = np.cumsum(self.stops - self.starts) - (self.stops - self.starts)
        order = np.argsort(self.starts)
        run = order[np.maximum(np.searchsorted(self.starts[order], addresses, side="right") - 1, 0)]
        inside = (addresses >= self.starts[run]) & (addresses < self.stops[run])
        return np.where(inside, before[run] + addresses - self.starts[run], -1)

    def in_fragments(self, fragments: set[int]) -> RowRuns:
        """The runs that lie in these fragments of the table."""
        chosen = np.isin(self.starts >> FRAGMENT_BITS, sorted(fragments))
        return RowRuns(self.starts[chosen], self.stops[chosen])
