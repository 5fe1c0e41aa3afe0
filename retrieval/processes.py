"""The embedding job in the processes that `accelerate launch` or `torchrun` started, each with a device of its own."""

from __future__ import annotations

import atexit
import json
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from tqdm import tqdm

from retrieval.cluster import UnitWorker, collected
from retrieval.scale import add_on
from retrieval.units import forget_attempts
from rsvlm.errors import ArchiveError, RsvlmError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path
    from types import FrameType

    from retrieval.adding import AddReport
    from retrieval.archive import AnyPath, Archive
    from retrieval.asking import ArchiveEncoder
    from retrieval.parts import Content, Part
    from retrieval.units import Task
    from rsvlm.sensors import Sensor

    Order = tuple[Sequence[Sequence[Content]], Task]

PATIENCE = timedelta(days=30)  # of processes that wait for the slowest; torch's own half hour would end long runs


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of one launch as a pool: the first shares out the units, all do theirs."""

    load: Callable[[], ArchiveEncoder]
    state: PartialState

    @property
    def workers(self) -> int:
        """How many there are."""
        return int(self.state.num_processes)

    def run(self, units: Sequence[Sequence[Content]], task: Task, *, progress: bool = False) -> list[Part]:
        """In the first process: have all of them do the units, and bring back what they wrote."""
        if not units:
            return []
        rows = self._done(self._told((units, task)), progress=progress)
        faults = [row["fault"] for row in rows if "fault" in row]
        if faults:
            raise ArchiveError(f"{faults[0]}; finished units are kept, so run the command again")
        return collected(rows)

    def follow(self) -> None:
        """In every other process: do what the first has to share out, until it has no more."""
        while (order := self._told(None)) is not None:
            self._done(order, progress=False)

    def dismiss(self) -> None:
        """In the first process: there is no more."""
        self._told(None)

    def _told(self, order: Order | None) -> Any:
        """What the first process says, in all of them."""
        said = [order]
        broadcast_object_list(said, from_process=0)
        return said[0]

    def _done(self, order: Order, *, progress: bool) -> list[dict[str, Any]]:
        units, task = order
        worker, rows = UnitWorker(task, self.load), list[dict[str, Any]]()
        refusals: list[str] = gather_object([worker.refusal])
        if any(refusals):  # before anybody works for hours
            return [{"part": [], "refusal": refusals}]
        for unit in tqdm(units[self.state.process_index :: self.workers], "embed", unit="unit", disable=not progress):
            try:
                rows.append(worker({"unit": [json.dumps(unit)]}))
            except RsvlmError as error:  # all must hear of it, and none may wait for this one
                rows.append({"fault": str(error)})
                break
            except (KeyboardInterrupt, SystemExit):
                forget_attempts(task, unit)
                raise
        gathered: list[dict[str, Any]] = gather_object(rows)
        return gathered


def add_with_accelerate(
    opened: Callable[[], Archive],
    paths: AnyPath | Iterable[AnyPath],
    *,
    load: Callable[[], ArchiveEncoder],
    sensor: str | Path | Sensor | None = None,
    progress: bool = True,
    batch: int | None = None,
    readers: int | None = None,
) -> AddReport | None:
    """What `Archive.add` does, by all processes of a launch; the archive has one path on all machines.

    Args:
        opened: Opens or makes the archive; called in the first process alone, which holds it for writing.
        paths: Files and folders.
        load: Makes the encoder of a process, on a device of its own.
        sensor: Where the images do not say.
        progress: Whether the first process shows how far it is.
        batch: Chips each process encodes at once; by default as suits its device.
        readers: Threads that read in each process.

    Returns:
        Counts, as from `Archive.add`, in the first process; None in the others.

    Raises:
        ArchiveError: As `Archive.add`. A process that dies ends the launch; finished units are kept, and the same
            launch goes on from there. FingerprintError for another encoder than the archive's.
    """
    state = PartialState(cpu=True, timeout=PATIENCE)  # only words travel, and gloo carries them
    atexit.register(state.destroy_process_group)  # one left to the interpreter's end aborts the process
    pool = Processes(load, state)
    with _stopping_in_order():
        if not pool.state.is_main_process:
            pool.follow()
            return None
        try:
            report = add_on(pool, opened(), paths, sensor=sensor, progress=progress, batch=batch, readers=readers)
        except RsvlmError:
            pool.dismiss()
            raise
        pool.dismiss()
        return report


@contextmanager
def _stopping_in_order() -> Iterator[None]:
    """Where a launcher ends all processes because one died, those that are well leave what they do in order."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
