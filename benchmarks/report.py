"""What a benchmark says: goals met or not, a small table a case, and everything as JSON."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.environment import environment, load
from benchmarks.measure import CONTROL, ROUNDS, Race, Sample, Spread

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.measure import Measure

QUICK_ROUNDS = 1
MEASURES: tuple[Measure, ...] = ("cpu", "wall")


@dataclass(frozen=True, slots=True)
class Goal:
    """One of the project's goals and what was found; `verdict` is what `verdict` says, or "not run"."""

    number: str
    claim: str
    wanted: str
    found: str
    verdict: str


@dataclass
class Report:
    """Everything one benchmark found."""

    name: str
    settings: dict[str, Any]
    races: list[Race] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=environment)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "benchmark": self.name,
            "quick": bool(self.settings.get("quick")),
            "settings": {name: _plain(value) for name, value in self.settings.items()},
            "environment": {**self.environment, "load_after": load()},
            "goals": [asdict(goal) for goal in self.goals],
            "cases": [case_of(race) for race in self.races],
            "notes": self.notes,
        }

    def finish(self, out: Path | None) -> None:
        """Print the tables, and write the JSON where a file or folder is given."""
        plain = self.to_json()
        for case in plain["cases"]:
            print(f"\n{text_table(case)}")
        for name, value in self.notes.items():
            if not isinstance(value, dict):
                print(f"{name}: {value}")
        for goal in plain["goals"]:
            print(goal_line(goal))
        if self.settings.get("quick"):
            print("This was a quick run: it shows that the benchmark works, its numbers are not to be cited.")
        if out is not None:
            path = out / f"{self.name}.json" if out.suffix != ".json" else out
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")


def verdict(met: bool, *, sure: bool = True) -> str:
    """Whether a goal is met, where the control allows to say so."""
    return ("met" if met else "not met") if sure else "inconclusive"


def at_least(number: str, claim: str, wanted: float, race: Race, theirs: str, measure: Measure, ours: str = "") -> Goal:
    """A goal of so many times less than another takes; not run where the other did not."""
    asked = f"{wanted:g}x"
    if theirs not in race.samples:
        return Goal(number, claim, asked, race.absent.get(theirs, "nothing"), "not run")
    found = race.ratio(theirs, measure, ours)
    return Goal(
        number, claim, asked, spread_text(found), verdict(found.median >= wanted, sure=race.conclusive(measure))
    )


def case_of(race: Race) -> dict[str, Any]:
    """One case in plain values: every sample, the ratios to the contender raced against, and the control."""
    return {
        "case": race.case,
        "unit": race.unit,
        "against": race.against,
        "control": {m: {**asdict(race.control(m)), "conclusive": race.conclusive(m)} for m in MEASURES},
        "contenders": {name: _contender(race, name) for name in race.samples if not name.endswith(CONTROL)},
        "absent": race.absent,
        "notes": race.notes,
    }


def _contender(race: Race, name: str) -> dict[str, Any]:
    samples = race.samples[name]
    return {
        "units": samples[0].outcome.units,
        **{f"{m}_ms": _milliseconds(race, name, m) for m in MEASURES},
        **{f"{m}_ratio": asdict(race.ratio(name, m)) for m in MEASURES},
        "grown_mb": round(max(sample.peak - sample.resting for sample in samples) / 1e6, 1),
        "wrong": race.wrong(name),
        "facts": _facts(samples),
        "samples": [{"cpu_s": sample.cpu, "wall_s": sample.wall, "peak_mb": sample.peak / 1e6} for sample in samples],
    }


def _milliseconds(race: Race, name: str, measure: Measure) -> dict[str, float]:
    return asdict(Spread.of([1000 * value for value in race.seconds(name, measure)]))


def _facts(samples: Sequence[Sample]) -> dict[str, Any]:
    """The median of what is a number, the first of what is not."""
    found: dict[str, Any] = {}
    for key, first in samples[0].outcome.facts.items():
        values = [sample.outcome.facts[key] for sample in samples]
        numbers = [float(value) for value in values if not isinstance(value, str)]
        found[key] = statistics.median(numbers) if numbers else first
    return found


def text_table(case: dict[str, Any]) -> str:
    """A case as lines of text: ratios are to the first row, over 1 where that takes less; +MB is memory grown by."""
    rows = [
        [
            "contender",
            f"CPU ms / {case['unit']}",
            f"wall ms / {case['unit']}",
            "CPU ratio",
            "wall ratio",
            "+MB",
            "facts",
        ]
    ]
    for name, one in case["contenders"].items():
        facts = ", ".join(f"{key} {_number(value)}" for key, value in one["facts"].items())
        wrong = f"WRONG: {one['wrong']} " if one["wrong"] else ""
        times = [f"{one[f'{m}_ms']['median']:.4g}" for m in MEASURES]
        ratios = [spread_text(Spread(**one[f"{m}_ratio"])) for m in MEASURES]
        rows.append([name, *times, *ratios, f"{one['grown_mb']:.0f}", wrong + facts])
    rows += [[name, reason] for name, reason in case["absent"].items()]
    widths = [max(len(row[i]) for row in rows if len(row) > max(i, 2)) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]
    return "\n".join([case["case"], *lines, control_line(case)])


def control_line(case: dict[str, Any]) -> str:
    """What the control says."""
    parts = []
    for measure in MEASURES:
        control = case["control"][measure]
        said = "conclusive" if control["conclusive"] else "INCONCLUSIVE"
        parts.append(f"{measure} {control['median']:.2f} ({control['low']:.2f} to {control['high']:.2f}), {said}")
    return f"control, {case['against']} over itself: {'; '.join(parts)}"


def goal_line(goal: dict[str, Any]) -> str:
    """A goal in a line."""
    asked = f"wanted {goal['wanted']}, found {goal['found']}"
    return f"goal {goal['number']}: {goal['claim']}: {asked}: {goal['verdict'].upper()}"


def spread_text(spread: Spread) -> str:
    """Median, least and most of ratios."""
    return f"{spread.median:.2f}x ({spread.low:.2f} to {spread.high:.2f})"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str | bool | list | type(None)) else str(value)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options all benchmarks share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="tiny sizes and one round: shows that it works")
    parser.add_argument("--rounds", type=int, help=f"default {ROUNDS}, {QUICK_ROUNDS} where quick")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="of every contender")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RSVLM_DATA", "../shared/data")))
    parser.add_argument("--work", type=Path, help="folder for what is made on the way and kept; else a temporary one")
    parser.add_argument("--out", type=Path, help="write the results as JSON: a folder, or a file .json")
    return parser


def settled(options: argparse.Namespace) -> dict[str, Any]:
    """The options with their defaults filled in, threads set for all that is started from here on."""
    if options.rounds is None:
        options.rounds = QUICK_ROUNDS if options.quick else ROUNDS
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(options.threads)
    os.environ["PYTHONWARNINGS"] = "ignore:lance is not fork-safe"  # the server forks before any lance is used
    os.environ["LANCE_LOG"] = "error"
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    kept = {name: value for name, value in vars(options).items() if name not in ("out", "work", "data")}
    return {**kept, "data": "the project's imagery" if options.data.is_dir() else "none"}


@contextmanager
def workplace(folder: Path | None) -> Iterator[Path]:
    """A folder to work in: the one given, or a temporary one that goes away."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="rsvlm-benchmark-") as made:
        yield Path(made)
