"""The embedding job on many machines: Ray's workers read, encode and write fragments, one commit ends it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import socket
from collections import Counter
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pyarrow as pa

from retrieval.adding import AddReport
from retrieval.embed import Job, embed_rasters
from retrieval.intake import as_paths, hash_files, plan_intake
from retrieval.parts import (
    Content,
    Part,
    commit_parts,
    committed_files,
    fragment_files,
    fragments_whole,
    outdated_rows,
    write_rows,
)
from retrieval.store import rows_of, schema_for
from rsvlm.errors import ArchiveError, FingerprintError, QueryError, RsvlmError
from rsvlm.files import imagery_files
from rsvlm.sensors import find_sensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from retrieval.archive import AnyPath, Archive, ArchiveEncoder
    from retrieval.embed import EmbeddedChips
    from retrieval.intake import Intake
    from retrieval.store import ArchiveConfig, ChipTable
    from rsvlm.files import Failure
    from rsvlm.sensors import Sensor

STAGING = "staging"
ATTEMPT = ""  # what an attempt at a unit begins with in its log; no path is this
UNIT_BYTES = 2**29  # of imagery in one unit of work at most
UNIT_FILES = 256
UNITS_PER_WORKER = 4  # so that one slow unit at the end keeps no worker idle for long
BOLD_ATTEMPTS = 2  # at a unit whose worker died, before its files are done one by one to find the one that kills
CONNECT_SECONDS = 5.0
OBJECT_STORE_BYTES = 2**28  # descriptors and counts only: no pixel travels between processes


@dataclass(frozen=True, slots=True)
class Pool:
    """Where the work is done: a Ray address ("local" starts one here), how many workers, and their encoder."""

    load: Callable[[], ArchiveEncoder]
    address: str = "local"
    workers: int = 2
    gpus: float = 0.0  # of each worker

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise QueryError(f"at least 1 worker is needed; got {self.workers}")


@dataclass(frozen=True, slots=True)
class Task:
    """What every worker must know beside its unit of work."""

    uri: str  # of the table
    staging: Path
    config: ArchiveConfig
    sensor: Sensor | None = None
    batch: int = 64

    def record(self, unit: Sequence[Content]) -> Path:
        """Where a finished unit is noted."""
        return self.staging / f"{_digest([list(content) for content in unit])}.json"


def add_with_ray(
    archive: Archive,
    paths: AnyPath | Iterable[AnyPath],
    *,
    address: str = "local",
    workers: int = 2,
    encoder_folder: str | None = None,
    device: str = "cpu",
    sensor: str | Path | Sensor | None = None,
) -> AddReport:
    """What `Archive.add` does, by the workers of a Ray cluster; archive and images have one path on all machines.

    Args:
        archive: Held for writing until the end.
        paths: Files and folders.
        address: Of the cluster, as `ray.init` takes it; "local" starts one on this machine and stops it.
        workers: How many read and encode, each with an encoder of its own.
        encoder_folder: Of the encoder, as the workers see it; the embedded one by default.
        device: "cpu", or "cuda" for one GPU a worker.
        sensor: Where the images do not say.

    Returns:
        Counts, as from `Archive.add`.

    Raises:
        ArchiveError: The cluster does not answer, or a worker died again and again; finished units are kept and the
            same call goes on from there. FingerprintError for another encoder than the archive's.
    """
    pool = Pool(partial(_load_encoder, encoder_folder, device), address, workers, gpus=float(device != "cpu"))
    return add_on(pool, archive, paths, sensor=sensor)


def add_on(
    pool: Pool,
    archive: Archive,
    paths: AnyPath | Iterable[AnyPath],
    *,
    sensor: str | Path | Sensor | None = None,
    progress: bool = True,
) -> AddReport:
    """The same on a pool with an encoder of any kind."""
    wanted = None if sensor is None else find_sensor(sensor)
    files, missing = imagery_files(as_paths(paths))
    with archive._writing() as table:
        hashes, unreadable = hash_files(files, threads=2, progress=progress)
        plan = plan_intake(hashes, table.files(), wanted.name if wanted else None)
        task = task_for(archive, table, wanted)
        work = [(str(item.path), item.content_hash) for item in plan if item.action != "leave"]
        parts = staged_parts(task, table, work)
        rest = sorted(set(work) - {content for part in parts for content in part.contents})
        parts += run_units(in_units(rest, pool.workers), task, pool, progress=progress)
        finish(table, plan, parts)
        shutil.rmtree(archive.folder / STAGING, ignore_errors=True)
    return counts(plan, parts, [*missing, *unreadable])


def task_for(archive: Archive, table: ChipTable, sensor: Sensor | None) -> Task:
    """The task of an archive; parts staged for another encoder, chip size or sensor lie in another folder."""
    config = archive.config
    key = _digest([config.fingerprint, config.chip, config.stride, repr(sensor)])
    return Task(str(table.dataset.uri), archive.folder / STAGING / key[:16], config, sensor)


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
    """Read, encode and write one unit, once: a unit noted as finished is not done again."""
    kept = Part.load(task.record(unit))
    if kept is not None and fragments_whole(kept, task.uri):
        return kept
    log = task.record(unit).with_suffix(".attempts")
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
    written = () if rows is None else write_rows(rows, task.uri)
    part = Part(written, tuple(contents), tuple(failed), 0 if rows is None else rows.num_rows, skipped)
    part.save(task.record(unit))
    return part


def _embedded(unit: Sequence[Content], task: Task, encoder: ArchiveEncoder) -> Iterator[tuple[Content, EmbeddedChips]]:
    jobs = [Job(Path(path), task.sensor) for path, _ in unit]
    chip, stride = task.config.chip, task.config.stride
    embedded = embed_rasters(jobs, encoder, chip=chip, stride=stride, batch=task.batch)
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


def _note(log: Path, begun: str) -> None:
    """Add a line that outlives this process."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(begun) + "\n")
        file.flush()
        os.fsync(file.fileno())


def staged_parts(task: Task, table: ChipTable, work: Sequence[Content]) -> list[Part]:
    """Parts that an interrupted run finished and that are wanted still; all other records are dropped."""
    open_work, committed = set(work), committed_files(table)
    taken = []
    for record in sorted(task.staging.glob("*.json")):
        part = Part.load(record)
        wanted = part is not None and bool(part.contents) and open_work.issuperset(part.contents)
        if part is None or not wanted or fragment_files(part) & committed or not fragments_whole(part, task.uri):
            record.unlink()
            continue
        open_work -= set(part.contents)
        taken.append(Part(part.fragments, part.contents, (), part.rows, part.skipped))  # what failed is tried again
    return taken


def finish(table: ChipTable, plan: Sequence[Intake], parts: Sequence[Part]) -> None:
    """Make all parts, and the end of what they replace, one commit; raises ArchiveError for a file done twice."""
    contents = [content for part in parts for content in part.contents]
    doubled = sorted(path for (path, _), count in Counter(contents).items() if count > 1)
    if doubled:
        raise ArchiveError(f"{doubled[0]} was embedded twice in one run; nothing was written; run the command again")
    stale = [(str(item.path), item.content_hash) for item in plan if item.action == "leave" and item.stale]
    outdated = outdated_rows(table.files(), contents, stale)
    commit_parts(table, [fragment for part in parts for fragment in part.fragments], outdated)


def counts(plan: Sequence[Intake], parts: Sequence[Part], failed: Sequence[Failure]) -> AddReport:
    """What the run did, in the words of `Archive.add`."""
    done = {content for part in parts for content in part.contents}
    actions = Counter(item.action for item in plan if (str(item.path), item.content_hash) in done)
    left = Counter(item.stale for item in plan if item.action == "leave")
    return AddReport(
        added=actions["add"],
        unchanged=left[False],
        replaced=actions["replace"] + left[True],
        failed=(*failed, *sorted(failure for part in parts for failure in part.failed)),
        chips=sum(part.rows for part in parts),
        skipped=sum(part.skipped for part in parts),
    )


class UnitWorker:
    """One of Ray's actors: an encoder kept for all of its units."""

    def __init__(self, task: Task, load: Callable[[], ArchiveEncoder]) -> None:
        self._task = task
        self._encoder: ArchiveEncoder | None = None
        self._refusal = ""
        try:
            encoder = load()
        except RsvlmError as error:
            self._refusal = str(error)
        else:
            if encoder.fingerprint == task.config.fingerprint:
                self._encoder = encoder
            else:
                self._refusal = f"the archive was made with encoder {task.config.encoder}, workers have {encoder.name}"

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[str]]:
        """Parts, as JSON, of the units in these rows."""
        if self._encoder is None:
            return {"part": ["" for _ in rows["unit"]], "refusal": [self._refusal for _ in rows["unit"]]}
        units = [tuple((path, digest) for path, digest in json.loads(unit)) for unit in rows["unit"]]
        parts = [embed_unit(unit, self._task, self._encoder).to_json() for unit in units]
        return {"part": parts, "refusal": ["" for _ in parts]}


def run_units(units: Sequence[Sequence[Content]], task: Task, pool: Pool, *, progress: bool = False) -> list[Part]:
    """Have a pool of actors do every unit, one row each, and bring back what they wrote."""
    if not units:
        return []
    with _cluster(pool, progress=progress) as data:
        import ray

        rows = data.from_items([{"unit": json.dumps(unit)} for unit in units], override_num_blocks=len(units))
        work = rows.map_batches(
            UnitWorker,
            fn_constructor_args=(task, pool.load),
            compute=data.ActorPoolStrategy(size=min(pool.workers, len(units))),
            batch_size=1,
            num_cpus=1,
            num_gpus=pool.gpus or None,
        )
        try:
            done = work.take_all()
        except ray.exceptions.RayError as error:
            raise ArchiveError(
                f"the workers could not end their work ({str(error).strip().splitlines()[-1][:200]}); finished units "
                "are kept, so run the command again, and without --ray to have the file named that stops them"
            ) from error
    refusals = sorted({row["refusal"] for row in done} - {""})
    if refusals:
        raise FingerprintError(f"{refusals[0]}; give the workers the archive's encoder with --encoder")
    return [Part.from_json(row["part"]) for row in done]


@contextmanager
def _cluster(pool: Pool, *, progress: bool) -> Iterator[Any]:
    """`ray.data` on the cluster; one that was started here is stopped again."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anyone
    import ray
    import ray.data

    _require_answer(pool.address)
    own = not ray.is_initialized()
    here: dict[str, Any] = {
        "num_cpus": pool.workers,
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
    }
    if own:
        try:
            ray.init(
                address=pool.address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **(here if pool.address == "local" else {}),
            )
        except (ConnectionError, OSError, ValueError, RuntimeError) as error:
            raise _silent(pool.address, error) from error
    ray.data.DataContext.get_current().enable_progress_bars = progress
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    try:
        yield ray.data
    finally:
        if own:
            ray.shutdown()


def _require_answer(address: str) -> None:
    """Raise ArchiveError where nothing listens at a host and port: Ray itself would try for minutes, then abort."""
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        place = (parts.hostname or "", parts.port)
        if place[1] is not None:
            socket.create_connection((place[0], place[1]), CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise _silent(address, error) from error


def _silent(address: str, error: Exception) -> ArchiveError:
    return ArchiveError(f"no Ray cluster answers at {address!r} ({str(error)[:120]}); start one, or give 'local'")


def _problem(content: Content, result: EmbeddedChips) -> str | None:
    if result.failure is not None:
        return result.failure
    if result.source is None or result.source.content_hash != content[1]:
        return "it changed while it was read; add it again"
    return None if result.windows else "none of its chips has valid pixels enough to index"


def _load_encoder(folder: str | None, device: str) -> ArchiveEncoder:
    from rsvlm.encoder.model import SpectralEncoder

    return SpectralEncoder.from_pretrained(folder, device=device)


def _digest(plain: Any) -> str:
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()
