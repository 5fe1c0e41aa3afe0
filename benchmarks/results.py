"""The tables of RESULTS.md, from the JSON files of the benchmarks: `python -m benchmarks.results DIR`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.measure import Spread
from benchmarks.report import control_line, spread_text

ORDER = ("reading", "stages", "encoding", "end_to_end", "adding", "memory", "searching", "filters", "million", "gpu")
TITLES = {
    "reading": "Reading chips out of rasters",
    "stages": "Where the time of reading goes",
    "encoding": "The forward pass on a processor",
    "end_to_end": "From files to vectors",
    "adding": "Adding to an archive",
    "memory": "Memory",
    "searching": "Searching",
    "filters": "Searching with filters",
    "million": "A whole archive searched with filters",
    "gpu": "On a GPU",
}
GAPS = Path(__file__).with_name("GAPS.md")  # why goals are missed, by hand from these results
PREFACE = """# What was measured

Every number is from one run of the named script on the machine it names. Contenders ran a process each, in shuffled
rounds; ratios are paired within a round, and shown as their median with the least and the most; over 1 means that the
first row of the table takes less. CPU time counts children. The control is the first contender against itself: where
its median is outside 0.9 to 1.1, the run is inconclusive, and says so.
"""


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


def goals_table(results: list[dict[str, Any]]) -> str:
    """Every goal of every result, sorted by its number."""
    rows = [
        [goal["number"], goal["claim"], goal["wanted"], goal["found"], goal["verdict"], result["benchmark"]]
        for result in results
        for goal in result["goals"]
        if goal["number"].isdigit()
    ]
    rows.sort(key=lambda row: int(row[0]))
    return table(["goal", "what", "wanted", "found", "verdict", "script"], rows)


def case_table(case: dict[str, Any]) -> str:
    """One case: a row a contender, then those that did not run, then the control and the notes."""
    unit, facts = case["unit"], fact_names(case)
    head = [
        "contender",
        f"CPU ms a {unit}",
        f"wall ms a {unit}",
        "CPU ratio",
        "wall ratio",
        "memory MB",
        *facts,
    ]
    rows = [contender_row(name, one, facts) for name, one in case["contenders"].items()]
    rows += [[name, reason, *[""] * (len(head) - 2)] for name, reason in case["absent"].items()]
    notes = "; ".join(f"{name.replace('_', ' ')}: {value}" for name, value in case["notes"].items())
    rounds = len(next(iter(case["contenders"].values()))["samples"])
    closing = f"{control_line(case)}. {rounds} rounds. {notes}".strip()
    return f"### {case['case']}\n\n{table(head, rows)}\n\n{closing[0].upper()}{closing[1:]}\n"


def fact_names(case: dict[str, Any]) -> list[str]:
    """Every fact that any contender reports, in the order they come."""
    return list(dict.fromkeys(key for one in case["contenders"].values() for key in one["facts"]))


def contender_row(name: str, one: dict[str, Any], facts: list[str]) -> list[str]:
    """Times as medians, ratios with their spread, facts as they are."""
    times = [f"{one[f'{measure}_ms']['median']:.3g}" for measure in ("cpu", "wall")]
    ratios = [spread_text(Spread(**one[f"{measure}_ratio"])) for measure in ("cpu", "wall")]
    shown = name + (f" (WRONG: {one['wrong']})" if one["wrong"] else "")
    return [shown, *times, *ratios, f"{one['grown_mb']:.0f}", *(fact(one["facts"].get(key, "")) for key in facts)]


def fact(value: Any) -> str:
    """Numbers with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def machine(result: dict[str, Any]) -> str:
    """Where and how it ran, in a paragraph."""
    where, settings = result["environment"], result["settings"]
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    loads = f"load {where['load_before'][0]} before, {where['load_after'][0]} after"
    asked = ", ".join(f"{name} {value}" for name, value in settings.items() if value not in (None, False, []))
    gpu = "" if where["gpu"] == "none" else f", {where['gpu']}"
    return (
        f"{where['at']}, commit {where['code']}. {where['cpu']}, {where['cores']} cores "
        f"({', '.join(where['instructions'])}), {where['memory_gb']} GB{gpu}; {where['system']}; "
        f"GDAL's cache {where['gdal_cache']}; {loads}. Settings: {asked}. Versions: {versions}."
    )


def notes_of(result: dict[str, Any]) -> str:
    """What else a benchmark told: plain values in a line, what building took in a table."""
    parts = [f"{name}: {value}." for name, value in result["notes"].items() if not isinstance(value, dict)]
    if building := result["notes"].get("building"):
        keys = list(dict.fromkeys(key for one in building.values() for key in one))
        rows = [[name, *(fact(one.get(key, "")) for key in keys)] for name, one in building.items()]
        parts.append("\n\nBuilding, once:\n\n" + table(["index", *keys], rows))
    return " ".join(parts)


def render(results: list[dict[str, Any]]) -> str:
    """The whole page."""
    parts = [PREFACE]
    if any(result["quick"] for result in results):
        parts.append("**Some of these were quick runs: their numbers are not to be cited.**\n")
    parts.append(f"## Goals\n\n{goals_table(results)}\n")
    if GAPS.is_file():
        parts.append(GAPS.read_text(encoding="utf-8"))
    for result in results:
        name = result["benchmark"]
        parts.append(f"## {TITLES.get(name, name)}\n\n`python -m benchmarks.{name}`. {machine(result)}\n")
        if said := notes_of(result):
            parts.append(f"{said}\n")
        parts += [case_table(case) for case in result["cases"]]
    return "\n".join(parts)


def read(folder: Path) -> list[dict[str, Any]]:
    """The results in a folder, in the order of the page; other JSON files are passed over."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    known = [result for result in found if isinstance(result, dict) and "benchmark" in result]
    place = {name: number for number, name in enumerate(ORDER)}
    return sorted(known, key=lambda result: place.get(result["benchmark"], len(ORDER)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the benchmarks wrote their JSON")
    parser.add_argument("--out", type=Path, help="write here instead of printing")
    options = parser.parse_args()
    page = render(read(options.folder))
    if options.out is None:
        print(page)
    else:
        options.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
