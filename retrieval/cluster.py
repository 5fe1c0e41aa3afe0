"""Ray's actors as workers: what they are given, what they bring back, and the cluster they run on."""

from __future__ import annotations

import json
import logging
import os
import socket
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from retrieval.parts import Content, Part
from retrieval.units import Task, embed_unit
from rsvlm.errors import ArchiveError, FingerprintError, QueryError, RsvlmError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from retrieval.asking import ArchiveEncoder

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

    def run(self, units: Sequence[Sequence[Content]], task: Task, *, progress: bool = False) -> list[Part]:
        """Have actors do every unit, one row each, and bring back what they wrote."""
        if not units:
            return []
        with _cluster(self, progress=progress) as data:
            import ray

            rows = data.from_items([{"unit": json.dumps(unit)} for unit in units], override_num_blocks=len(units))
            work = rows.map_batches(
                UnitWorker,
                fn_constructor_args=(task, self.load),
                compute=data.ActorPoolStrategy(size=min(self.workers, len(units))),
                batch_size=1,
                num_cpus=1,
                num_gpus=self.gpus or None,
            )
            try:
                done = work.take_all()
            except ray.exceptions.RayError as error:
                raise ArchiveError(
                    f"the workers could not end their work ({str(error).strip().splitlines()[-1][:200]}); finished "
                    "units are kept, so run the command again, and without --ray to have the file named that stops them"
                ) from error
        return collected({"part": [row["part"]], "refusal": [row["refusal"]]} for row in done)


class UnitWorker:
    """One of Ray's actors, or what a process of a launch works with: an encoder kept for all of its units."""

    def __init__(self, task: Task, load: Callable[[], ArchiveEncoder]) -> None:
        self._task = task
        self._encoder: ArchiveEncoder | None = None
        self.refusal = ""  # why it does not begin
        try:
            encoder = load()
        except RsvlmError as error:
            self.refusal = str(error)
        else:
            if encoder.fingerprint == task.config.fingerprint:
                self._encoder = encoder
            else:
                self.refusal = f"the archive was made with encoder {task.config.encoder}, workers have {encoder.name}"

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[str]]:
        """Parts, as JSON, of the units in these rows."""
        if self._encoder is None:
            return {"part": ["" for _ in rows["unit"]], "refusal": [self.refusal for _ in rows["unit"]]}
        units = [tuple((path, digest) for path, digest in json.loads(unit)) for unit in rows["unit"]]
        parts = [embed_unit(unit, self._task, self._encoder).to_json() for unit in units]
        return {"part": parts, "refusal": ["" for _ in parts]}


def collected(rows: Iterable[dict[str, Any]]) -> list[Part]:
    """The parts that workers brought back; raises FingerprintError where one of them would not begin."""
    parts, refusals = [], set()
    for row in rows:
        parts += [Part.from_json(part) for part in row["part"] if part]
        refusals |= {refusal for refusal in row["refusal"] if refusal}
    if refusals:
        raise FingerprintError(f"{min(refusals)}; give the workers the archive's encoder with --encoder")
    return parts


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
