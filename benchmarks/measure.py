"""Contenders raced fairly: a process each, shuffled rounds, CPU time first, paired ratios, a control against itself."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import resource
import signal
import statistics
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerContext

ROUNDS = 5
BAND = 0.10  # how far a contender may seem to differ from itself before a run says nothing
LIMIT_SECONDS = 3600.0
CONTROL = ", again"
STATUS = Path("/proc/self/status")
FORGET_PEAK = Path("/proc/self/clear_refs")

Measure = Literal["cpu", "wall"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a contender did: units of work, facts about it, and what is wrong with its output, if anything."""

    units: int
    facts: Mapping[str, float | str] = field(default_factory=dict)
    wrong: str = ""


Steps = Generator[None, None, Outcome]  # before the first yield: set-up; before the second: timed; then: checking


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to do the work: a generator function (see Steps), its options, and the packages it needs."""

    name: str
    steps: Callable[..., Steps]
    options: Mapping[str, Any] = field(default_factory=dict)
    packages: tuple[str, ...] = ()

    @property
    def missing(self) -> str:
        """The packages that are not installed, in a sentence; empty where nothing is missing."""
        absent = [package for package in self.packages if find_spec(package) is None]
        return f"not run: {', '.join(absent)} is not installed (pip install rsvlm[bench])" if absent else ""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one contender took in one round."""

    cpu: float  # seconds, with those of its children
    wall: float  # seconds
    resting: int  # bytes of memory before the timed part
    peak: int  # bytes of memory at most within it
    outcome: Outcome

    def each(self, measure: Measure) -> float:
        """Seconds of one unit of work."""
        seconds: float = getattr(self, measure)
        return max(seconds, 1e-9) / max(self.outcome.units, 1)


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle, the least and the most of some values."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


def paired_ratios(theirs: Sequence[float], ours: Sequence[float]) -> list[float]:
    """Theirs over ours, round by round: what slows a round slows both."""
    return [a / b for a, b in zip(theirs, ours, strict=True)]


def conclusive(control: Sequence[float]) -> bool:
    """Whether a contender, measured twice a round, looks equal to itself: the median ratio is within BAND of 1."""
    return abs(statistics.median(control) - 1) <= BAND


@dataclass
class Race:
    """The samples of one case, by contender, in the order of the rounds."""

    case: str
    unit: str
    against: str
    samples: dict[str, list[Sample]]
    absent: dict[str, str] = field(default_factory=dict)  # contenders that did not run, and why
    notes: dict[str, Any] = field(default_factory=dict)

    def seconds(self, name: str, measure: Measure) -> list[float]:
        """Seconds of a unit in each round."""
        return [sample.each(measure) for sample in self.samples[name]]

    def ratio(self, theirs: str, measure: Measure, ours: str = "") -> Spread:
        """How many times what `ours` takes `theirs` takes; `ours` is the contender raced against where not given."""
        return Spread.of(paired_ratios(self.seconds(theirs, measure), self.seconds(ours or self.against, measure)))

    def control(self, measure: Measure) -> Spread:
        """The contender raced against, over itself."""
        return self.ratio(self.against + CONTROL, measure)

    def conclusive(self, measure: Measure) -> bool:
        """Whether the control allows a conclusion."""
        name = self.against + CONTROL
        return conclusive(paired_ratios(self.seconds(name, measure), self.seconds(self.against, measure)))

    def best(self, names: Sequence[str], measure: Measure) -> str:
        """The one of these contenders that takes least; empty where none ran."""
        ran = [name for name in names if name in self.samples]
        return min(ran, key=lambda name: statistics.median(self.seconds(name, measure)), default="")

    def fact(self, name: str, key: str) -> float:
        """The median over the rounds of a number a contender reported."""
        return statistics.median(float(sample.outcome.facts[key]) for sample in self.samples[name])

    def wrong(self, name: str) -> str:
        """What was wrong with a contender's output in any round."""
        return next((sample.outcome.wrong for sample in self.samples[name] if sample.outcome.wrong), "")


def race(
    case: str,
    contenders: Sequence[Contender],
    *,
    unit: str,
    rounds: int = ROUNDS,
    seed: int = 0,
    preload: Sequence[str] = (),
    notes: Mapping[str, Any] | None = None,
) -> Race:
    """Run every contender once a round, in a shuffled order, each in a process of its own.

    The first is what the others are compared with, and runs twice a round: that is the control. Processes are forked
    one at a time from a server that did nothing but import `preload`. A contender that is missing or fails is left out
    and named; raises RuntimeError where the first fails or any of its outputs is wrong, ValueError for doubled names.
    """
    names = [one.name for one in contenders]
    if len(set(names)) < len(names):
        raise ValueError(f"contenders need names of their own; got {', '.join(names)}")
    first = contenders[0]
    control = Contender(first.name + CONTROL, first.steps, first.options, first.packages)
    absent = {one.name: one.missing for one in contenders if one.missing}
    field_ = [one for one in (*contenders, control) if not one.missing]
    found = Race(case, unit, first.name, {one.name: [] for one in field_}, absent, dict(notes or {}))
    shuffled, context = random.Random(seed), _server(preload)
    for number in range(rounds):
        order = [one for one in field_ if one.name not in found.absent]
        shuffled.shuffle(order)
        for one in order:
            print(f"  {case}: round {number + 1} of {rounds}, {one.name}", file=sys.stderr, flush=True)
            sample = _run(context, one)
            if isinstance(sample, str):
                found.absent[one.name] = sample
            else:
                found.samples[one.name].append(sample)
        _settle(found)
    return found


def _settle(found: Race) -> None:
    """Drop those that failed; whoever is compared with must not."""
    for name, reason in found.absent.items():
        if name.removesuffix(CONTROL) == found.against:
            raise RuntimeError(f"{found.case}: {name} did not finish ({reason}), so there is nothing to compare with")
        found.samples.pop(name, None)
    if wrong := found.wrong(found.against):
        raise RuntimeError(f"{found.case}: the output of {found.against} is wrong: {wrong}")


def _server(preload: Sequence[str]) -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    return context


def _run(context: ForkServerContext, contender: Contender) -> Sample | str:
    """A sample, or why there is none."""
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(contender, sender))
    process.start()
    sender.close()
    try:
        if receiver.poll(LIMIT_SECONDS):
            sample: Sample = receiver.recv()
            return sample
        os.kill(process.pid or 0, signal.SIGKILL)
        return f"failed: it was stopped after {LIMIT_SECONDS:.0f} s"
    except EOFError:
        process.join()
        return f"failed: its process ended with code {process.exitcode}, see its last words above"
    finally:
        process.join()
        receiver.close()


def _child(contender: Contender, sender: Connection) -> None:
    # A server's workers are not children of this process, and what they take would be lost.
    multiprocessing.set_start_method("fork" if sys.platform == "linux" else "spawn", force=True)
    sender.send(timed(contender))
    sender.close()


def timed(contender: Contender) -> Sample:
    """Run a contender in this process; its set-up and its checks cost nothing."""
    steps = contender.steps(**contender.options)
    next(steps)
    gc.collect()
    resting = _forget_peak()
    before, start = spent(), time.perf_counter()
    next(steps)
    wall, cpu = time.perf_counter() - start, spent() - before
    peak = _memory("VmHWM")
    try:
        next(steps)
    except StopIteration as ended:
        outcome: Outcome = ended.value
        return Sample(cpu, wall, resting, peak, outcome)
    raise RuntimeError(f"{contender.name} yields more than twice; a contender sets up, works and checks")


def spent() -> float:
    """CPU seconds of this process and of its children that ended, in user and system mode."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _forget_peak() -> int:
    """Start the peak of memory anew where the system can, and say what is held now."""
    if FORGET_PEAK.exists():
        FORGET_PEAK.write_text("5")
    return _memory("VmRSS")


def _memory(name: str) -> int:
    """Bytes of a line of Linux's account of this process; elsewhere its peak since it began."""
    if STATUS.is_file():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name + ":"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def timed_apart(contender: Contender) -> Sample | str:
    """Run one contender once, in a process of its own; why there is no sample where it fails."""
    return _run(_server(()), contender)
