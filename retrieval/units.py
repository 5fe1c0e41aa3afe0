"""Units of work that a worker reads, encodes and writes by itself, each noted when it is finished."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from retrieval.embed import Job, embed_rasters, pace_of
from retrieval.journal import Journal
from retrieval.parts import Content, Part, committed_files, fragment_files, fragments_whole, write_rows
from retrieval.schema import rows_of, schema_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from retrieval.asking import ArchiveEncoder
    from retrieval.embed import EmbeddedChips
    from retrieval.schema import ArchiveConfig
    from retrieval.store import ChipTable
    from rsvlm.files import Failure
    from rsvlm.sensors import Sensor

ATTEMPT = ""  # what an attempt at a unit begins with in its log; no path is this
UNIT_BYTES = 2**29  # of imagery in one unit of work at most
UNIT_FILES = 256
UNITS_PER_WORKER = 4  # so that one slow unit at the end keeps no worker idle for long
BOLD_ATTEMPTS = 2  # at a unit whose worker died, before its files are done one by one to find the one that kills


@dataclass(frozen=True, slots=True)
class Task:
    """What every worker must know beside its unit of work."""

    uri: str  # of the table
    staging: Path
    config: ArchiveConfig
    sensor: Sensor | None = None
    batch: int | None = None  # as suits the device of a worker
    readers: int | None = None
    storage_options: dict[str, str] | None = None

    def record(self, unit: Sequence[Content]) -> Path:
        """Where a finished unit is noted."""
        return self.staging / f"{digest([list(content) for content in unit])}.json"

    def attempts(self, unit: Sequence[Content]) -> Path:
        """Where is noted that a unit was begun."""
        return self.record(unit).with_suffix(".attempts")


def in_units(work: Sequence[Content], workers: int) -> list[tuple[Content, ...]]:
    """Work cut into units of about equal bytes, in order: small enough to redo, several for every worker."""
    sizes = [os.path.getsize(path) if os.path.exists(path) else 0 for path, _ in work]
    limit = min(UNIT_BYTES, sum(sizes) / (UNITS_PER_WORKER * workers))
    units: list[list[Content]] = []
    filled = 0
    for content, size in zip(work, sizes, strict=True):
        if not units or filled >= limit or len(units[-1]) == UNIT_FILES:
            units.append([])
            filled = 0
        units[-1].append(content)
        filled += size
    return [tuple(unit) for unit in units]


def embed_unit(unit: Sequence[Content], task: Task, encoder: ArchiveEncoder) -> Part:
    """Read, encode and write one unit, once: what was noted as finished is not done again, nor parts of large files."""
    kept = Part.load(task.record(unit))
    if kept is not None and _whole(kept, task):
        return kept
    log = task.attempts(unit)
    groups, failed = _attempt(unit, log)
    tables, contents, skipped = [], [], 0
    for group in groups:
        if len(group) == 1:
            _note(log, group[0][0])
        for content, result in _embedded(group, task, encoder):
            skipped += result.skipped
            problem = _problem(content, result)
            if problem is None:
                tables.append(rows_of(result, schema_for(task.config)))
                contents.append(content)
            else:
                failed.append((content[0], problem))
    rows = pa.concat_tables(tables) if tables else None
    written = () if rows is None else write_rows(rows, task.uri, task.storage_options)
    part = Part(written, tuple(contents), tuple(failed), 0 if rows is None else rows.num_rows, skipped)
    part.save(task.record(unit))
    return part


def staged_parts(task: Task, table: ChipTable, work: Sequence[Content]) -> list[Part]:
    """Parts that an interrupted run finished and that are wanted still; all other records are dropped."""
    open_work, committed = set(work), committed_files(table)
    taken = []
    for record in sorted(task.staging.glob("*.json")):
        part = Part.load(record)
        wanted = part is not None and bool(part.contents) and open_work.issuperset(part.contents)
        if part is None or not wanted or fragment_files(part) & committed or not _whole(part, task):
            record.unlink()
            continue
        open_work -= set(part.contents)
        taken.append(Part(part.fragments, part.contents, (), part.rows, part.skipped))  # what failed is tried again
    return taken


def _whole(part: Part, task: Task) -> bool:
    return fragments_whole(part, task.uri, task.storage_options)


def _embedded(unit: Sequence[Content], task: Task, encoder: ArchiveEncoder) -> Iterator[tuple[Content, EmbeddedChips]]:
    jobs = [Job(Path(path), task.sensor) for path, _ in unit]
    chip, stride = task.config.chip, task.config.stride
    journal = Journal(task.staging, fingerprint=task.config.fingerprint, dim=task.config.dim)
    pace = pace_of(encoder)
    embedded = embed_rasters(
        jobs,
        encoder,
        chip=chip,
        stride=stride,
        batch=pace.batch if task.batch is None else task.batch,
        readers=pace.readers if task.readers is None else task.readers,
        journal=journal,
    )
    with closing(embedded) as results:  # type: ignore[type-var]
        yield from zip(unit, results, strict=True)


def _attempt(unit: Sequence[Content], log: Path) -> tuple[list[Sequence[Content]], list[Failure]]:
    """How to do a unit this time: at once, or file by file without those at which a worker died before."""
    attempts: list[str] = []  # of each, the last file that was begun alone
    for line in log.read_bytes().splitlines() if log.exists() else ():
        with suppress(ValueError):  # half a line, of a worker that died over it
            begun = str(json.loads(line))
            attempts = [*attempts, ""] if begun == ATTEMPT else [*attempts[:-1], begun]
    _note(log, ATTEMPT)
    if len(attempts) < BOLD_ATTEMPTS:
        return [unit], []
    groups: list[Sequence[Content]] = [(content,) for content in unit if content[0] not in attempts]
    return groups, [(path, "the worker that read it died") for path, _ in unit if path in attempts]


def forget_attempts(task: Task, unit: Sequence[Content] | None = None) -> None:
    """What was noted of a unit, or of all, whose worker was stopped on purpose: nobody died over it."""
    for log in task.staging.glob("*.attempts") if unit is None else [task.attempts(unit)]:
        log.unlink(missing_ok=True)


def _note(log: Path, begun: str) -> None:
    """Add a line that outlives this process."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(begun) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _problem(content: Content, result: EmbeddedChips) -> str | None:
    if result.failure is not None:
        return result.failure
    if result.source is None or result.source.content_hash != content[1]:
        return "it changed while it was read; add it again"
    return None if result.windows else "none of its chips has valid pixels enough to index"


def digest(plain: Any) -> str:
    """Sha256 of a plain value, in hex."""
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()
