"""The page of an evaluation: one HTML file with its tables, charts and example pictures, readable without a network."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from eval.examples import examples_of
from eval.figures import figures_of
from eval.finished import Finished
from rsvlm.leakage.pairs import LeakReport

if TYPE_CHECKING:
    from pathlib import Path

PAGE, TEMPLATE = "report.html", "report.html.j2"
NAMED = 50  # leaking pairs and failed lines that the page names
UNKNOWN = "not recorded"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of texts under a head of texts; the first column names the row."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""


def write_page(folder: Path) -> Path:
    """Render `report.html` in the folder of a finished evaluation from what lies there; no model is run.

    The same folder gives the same page, byte for byte. Raises EvaluationError where the folder holds no report, or
    its manifest or predictions have changed so that they cannot be scored.
    """
    from jinja2 import Environment, StrictUndefined

    finished = Finished.open(folder)
    source = resources.files("eval").joinpath("pages", TEMPLATE).read_text("utf-8")
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(source)
    page, part = folder / PAGE, folder / f"{PAGE}.part"
    part.write_text(template.render(**_contents(finished)), encoding="utf-8")
    os.replace(part, page)
    return page


def _contents(finished: Finished) -> dict[str, Any]:
    report = finished.report
    return {
        "task": report["task"],
        "protocol": report["protocol"],
        "counted": f"n = {report['n']} lines, {report['units']} {report['unit']}",
        "provenance": _provenance(report),
        "tables": [_metrics(report), *_types(finished), *_archive(report)],
        "figures": figures_of(finished),
        "examples": examples_of(finished),
        "leakage": _leakage(report),
        "failed": sorted(report["failed"].items(), key=lambda item: int(item[0])),
        "named": NAMED,
    }


def _provenance(report: dict[str, Any]) -> list[tuple[str, str]]:
    settings = {key: value for key, value in report["settings"].items() if value not in ("", None, [], 0)}
    shown_elsewhere = {"protocol", "seed"}
    versions = ", ".join(f"{name} {version}" for name, version in report.get("versions", {}).items())
    seconds = report.get("seconds")
    facts = [
        ("encoder", _model(report.get("encoder"))),
        ("language model", _model(report.get("language"))),
        ("split", report.get("split")),
        ("settings", ", ".join(f"{k} {_words(v)}" for k, v in settings.items() if k not in shown_elsewhere)),
        ("seed", str(report["settings"]["seed"])),
        ("data sha256", report.get("data_sha256")),
        ("git", report.get("git")),
        ("scored again with git", report.get("scored_with", "")),
        ("versions", versions),
        ("hardware", ", ".join(str(report[key]) for key in ("device", "hardware") if report.get(key))),
        ("seconds", "" if seconds is None else f"{seconds:.1f}"),
    ]
    needless = {"language model", "encoder", "settings", "scored again with git"}
    return [(name, str(value or UNKNOWN)) for name, value in facts if value or name not in needless]


def _words(value: Any) -> str:
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)


def _model(model: dict[str, str] | None) -> str:
    if not model:
        return ""
    mark = model.get("fingerprint", "")
    return f"{model.get('name', '')}, fingerprint {mark}" if mark else model.get("name", "")


def _metrics(report: dict[str, Any]) -> Table:
    baselines = report["baselines"]
    rows = [
        [name, number(metric["value"]), _interval(metric), *_others(report, name)]
        for name, metric in report["metrics"].items()
    ]
    note = f"95 % bootstrap intervals over {report['unit']}. Columns after the interval are baselines"
    note += "; blind is the same model without the image." if "blind" in baselines else "."
    return Table("Metrics", ["metric", "value", "95 % interval", *baselines], rows, note)


def _types(finished: Finished) -> list[Table]:
    """Questions by type."""
    if finished.run.task.name != "vqa":
        return []
    report = finished.report
    rows = []
    for kind, count in sorted(Counter(row.kind for row in finished.rows).items()):
        metric = report["metrics"][kind]
        rows.append([kind, number(metric["value"]), _interval(metric), str(count), *_others(report, kind)])
    head = ["type", "right, %", "95 % interval", "questions", *report["baselines"]]
    return [Table("By type of question", head, rows)]


def _others(report: dict[str, Any], metric: str) -> list[str]:
    return [number(values.get(metric, {}).get("value")) for values in report["baselines"].values()]


def _archive(report: dict[str, Any]) -> list[Table]:
    """What the index of an archive finds, what exact search finds, and what one costs against the other."""
    archive = report.get("archive")
    if not archive:
        return []
    through, exact, loss = archive["through_index"], archive["exact"], archive["index"]
    found = [
        [name, number(metric["value"]), _interval(metric), number(exact[name]["value"]), _interval(exact[name])]
        for name, metric in through.items()
    ]
    head = ["metric", "through the index", "95 % interval", "exact", "95 % interval"]
    note = f"{archive['queries']} queries, {loss.get('chips', '-')} chips, index {loss.get('index', '-')}."
    kept = [[name, number(value["value"]), _interval(value)] for name, value in loss.items() if name.startswith("rec")]
    spent = [
        [f"{way}, {name}", number(value)] for way, each in loss["latency_ms"].items() for name, value in each.items()
    ]
    return [
        Table("Over the archive", head, found, note),
        Table("What the index finds of the exact answer", ["", "percent", "95 % interval"], kept),
        Table("Time of one search", ["", "milliseconds"], spent),
    ]


def _leakage(report: dict[str, Any]) -> dict[str, Any]:
    """A sentence, notes and named pairs."""
    found = report.get("leakage") or "not checked"
    if isinstance(found, str):
        return {"summary": found, "notes": (), "pairs": (), "count": 0}
    leaks = LeakReport.from_json(found)
    counts = ", ".join(f"{reason}: {count}" for reason, count in leaks.counts.items())
    listed = f"{leaks.listed.get('train', 0)} training and {leaks.listed.get('held-out', 0)} evaluation images"
    summary = f"{len(leaks.pairs)} pairs between {listed} ({counts}); {len(leaks.unreadable)} images could not be read."
    return {"summary": summary, "notes": leaks.notes, "pairs": leaks.pairs[:NAMED], "count": len(leaks.pairs)}


def _interval(metric: dict[str, float | None]) -> str:
    return "-" if metric["low"] is None else f"{number(metric['low'])} to {number(metric['high'])}"


def number(value: float | None) -> str:
    """Two decimals, "-" where not defined."""
    return "-" if value is None else f"{value:.2f}"
