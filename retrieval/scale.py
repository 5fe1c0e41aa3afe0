"""The embedding job on many machines: workers read, encode and write fragments, one commit ends it."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from retrieval.adding import AddReport
from retrieval.cluster import Pool
from retrieval.intake import as_paths, hash_files, plan_intake
from retrieval.parts import Part, commit_parts, outdated_rows
from retrieval.stamps import Stamps
from retrieval.units import Task, digest, forget_attempts, in_units, staged_parts
from rsvlm.errors import ArchiveError
from rsvlm.files import imagery_files
from rsvlm.sensors import find_sensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from retrieval.archive import AnyPath, Archive
    from retrieval.asking import ArchiveEncoder
    from retrieval.intake import Intake
    from retrieval.parts import Content
    from retrieval.store import ChipTable
    from rsvlm.files import Failure
    from rsvlm.sensors import Sensor

STAGING = "staging"


class Workers(Protocol):
    """Whoever does units of work: a cluster, or the processes of a launch."""

    @property
    def workers(self) -> int:
        """How many they are."""

    def run(self, units: Sequence[Sequence[Content]], task: Task, *, progress: bool = False) -> list[Part]:
        """Do every unit, and bring back what was written."""


def add_with_ray(
    archive: Archive,
    paths: AnyPath | Iterable[AnyPath],
    *,
    address: str = "local",
    workers: int = 2,
    encoder_folder: str | None = None,
    device: str = "cpu",
    sensor: str | Path | Sensor | None = None,
    batch: int | None = None,
    readers: int | None = None,
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
        batch: Chips each worker encodes at once; by default as suits the device.
        readers: Threads that read for each worker.

    Returns:
        Counts, as from `Archive.add`.

    Raises:
        ArchiveError: The cluster does not answer, or a worker died again and again; finished units are kept and the
            same call goes on from there. FingerprintError for another encoder than the archive's.
    """
    if encoder_folder is not None and os.path.exists(encoder_folder):
        encoder_folder = os.path.abspath(encoder_folder)  # workers may run in another folder
    pool = Pool(partial(_load_encoder, encoder_folder, device), address, workers, gpus=float(device != "cpu"))
    return add_on(pool, archive, paths, sensor=sensor, batch=batch, readers=readers)


def add_on(
    pool: Workers,
    archive: Archive,
    paths: AnyPath | Iterable[AnyPath],
    *,
    sensor: str | Path | Sensor | None = None,
    progress: bool = True,
    batch: int | None = None,
    readers: int | None = None,
) -> AddReport:
    """The same on a pool with an encoder of any kind."""
    wanted = None if sensor is None else find_sensor(sensor)
    files, missing = imagery_files(as_paths(paths))
    with archive._writing() as table:
        with Stamps(archive.folder) as stamps:
            hashes, unreadable = hash_files(files, threads=2, progress=progress, stamps=stamps)
        stored = table.files(hashes, hashes.values()) if hashes else []
        plan = plan_intake(hashes, stored, wanted.name if wanted else None)
        task = replace(task_for(archive, table, wanted), batch=batch, readers=readers)
        work = [(str(item.path), item.content_hash) for item in plan if item.action != "leave"]
        parts = staged_parts(task, table, work)
        rest = sorted(set(work) - {content for part in parts for content in part.contents})
        try:
            parts += pool.run(in_units(rest, pool.workers), task, progress=progress)
        except KeyboardInterrupt:
            forget_attempts(task)
            raise
        finish(table, plan, parts)
        shutil.rmtree(archive.folder / STAGING, ignore_errors=True)
    return counts(plan, parts, [*missing, *unreadable])


def task_for(archive: Archive, table: ChipTable, sensor: Sensor | None) -> Task:
    """The task of an archive; parts staged for another encoder, chip size or sensor lie in another folder."""
    config = archive.config
    key = digest([config.fingerprint, config.chip, config.stride, repr(sensor)])
    address, staging = table.address, archive.folder / STAGING / key[:16]
    return Task(address.uri, staging, config, sensor, storage_options=address.storage_options)


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


def _load_encoder(folder: str | None, device: str) -> ArchiveEncoder:
    from rsvlm.encoder.model import SpectralEncoder

    return SpectralEncoder.from_pretrained(folder, device=device)
