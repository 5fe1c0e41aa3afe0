"""One add while it runs: rows that wait for their commit, and what became of every file."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from retrieval.filters import text_sql
from retrieval.schema import rows_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from retrieval.embed import EmbeddedChips
    from retrieval.intake import Intake
    from retrieval.journal import Journal
    from retrieval.store import ChipTable, Stored
    from rsvlm.files import Failure

COMMIT_CHIPS, COMMIT_SECONDS = 1024, 5.0  # so many chips wait for a commit at most, or so long,
COMMIT_PAUSE = 1.0  # unless the last commit was less than this ago: a fast encoder does not wait for the disk


@dataclass(frozen=True)
class AddReport:
    """What an add did. Counts are files, but `chips`, the rows written, and `skipped`, chips with no valid ground."""

    added: int = 0
    unchanged: int = 0
    replaced: int = 0
    failed: tuple[Failure, ...] = ()
    chips: int = 0
    skipped: int = 0


class Adding:
    """The running state of one add: rows that wait for their commit, and the counts."""

    def __init__(self, table: ChipTable, journal: Journal, stored: Iterable[Stored]) -> None:
        self.failed: list[Failure] = []  # before anything was embedded
        self._broken: list[Failure] = []
        self._table, self._journal = table, journal
        self._known = {known for file in stored for known in (file.path, file.content_hash)}
        self._waiting: list[tuple[Intake, pa.Table]] = []
        self._rows = self._added = self._replaced = self._unchanged = self._chips = self._skipped = 0
        self._last = time.monotonic()

    def pass_over(self, plan: Sequence[Intake]) -> None:
        """Settle the files that need not be read: count them, and drop old rows of those whose content is elsewhere.

        What the journal still has of them, as after a kill right behind the commit, goes too.
        """
        left = [item for item in plan if item.action == "leave"]
        wanted = {item.content_hash for item in plan if item.action != "leave"}  # of a copy of one that is left
        self._journal.forget({item.content_hash for item in left} - wanted)
        for item in left:
            if item.stale:
                place = text_sql(str(item.path))
                self._table.remove(f"path = {place} AND content_hash != {text_sql(item.content_hash)}")
                self._replaced += 1
            else:
                self._unchanged += 1

    def take(self, item: Intake, result: EmbeddedChips) -> None:
        """File one embedded raster, and commit when enough has come together."""
        self._skipped += result.skipped
        failure = result.failure
        if failure is None and result.source and result.source.content_hash != item.content_hash:
            failure = "it changed while it was read; add it again"
        elif failure is None and not result.windows:
            failure = "none of its chips has valid pixels enough to index"
        if failure is not None:
            self._broken.append((str(item.path), failure))
            return
        self._waiting.append((item, rows_of(result, self._table.schema)))
        self._rows += len(result.windows)
        self._added += item.action == "add"
        self._replaced += item.action == "replace"
        waited = time.monotonic() - self._last
        if (self._rows >= COMMIT_CHIPS and waited >= COMMIT_PAUSE) or waited > COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Make what waits part of the archive, at once."""
        if self._waiting:
            fresh = self._known.isdisjoint(
                told for item, _ in self._waiting for told in (str(item.path), item.content_hash)
            )
            self._table.replace(pa.concat_tables([rows for _, rows in self._waiting]), fresh=fresh)
        self._journal.forget(item.content_hash for item, _ in self._waiting)
        self._chips += self._rows
        self._waiting, self._rows, self._last = [], 0, time.monotonic()

    def report(self) -> AddReport:
        """The counts so far."""
        return AddReport(
            added=self._added,
            unchanged=self._unchanged,
            replaced=self._replaced,
            failed=(*self.failed, *sorted(self._broken)),
            chips=self._chips,
            skipped=self._skipped,
        )
