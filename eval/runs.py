"""An evaluation's folder: what was run (run.json), what was said (predictions.jsonl), what came of it (report.json)."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.manifests import READERS
from eval.predictions import FILE, Prediction, read_predictions
from eval.statistics import by_group
from eval.tasks import task_of
from eval.tasks.task import Settings, Task, chosen_protocol
from rsvlm.errors import EvaluationError, RsvlmError

if TYPE_CHECKING:
    from eval.statistics import Statistics

RUN, REPORT, BLIND = "run.json", "report.json", "blind"
PART = "run.part"  # what an interruption may leave of run.json
LOCK = "run.lock"  # held by the process that writes the folder


@dataclass(frozen=True)
class Run:
    """One task over the chosen lines of one manifest, with the folder it writes into."""

    task: Task
    rows: tuple[Any, ...]
    manifest: Path
    settings: Settings
    folder: Path


def prepare(name: str, manifest: Path, settings: Settings, folder: Path) -> Run:
    """Read a manifest and choose its lines; raises ConfigError with the line, EvaluationError for wrong settings."""
    every = READERS[name](manifest)
    maker = task_of(name)
    settings = replace(settings, protocol=chosen_protocol(settings.protocol, maker.protocols, name))
    return Run(maker.of(every, settings), tuple(_chosen(every, settings)), manifest, settings, folder)


def claim(run: Run, models: dict[str, Any]) -> None:
    """Write run.json, or find the same one there and go on with it; raises EvaluationError for anything else."""
    run.folder.mkdir(parents=True, exist_ok=True)
    plain = identity(run, models)
    if (run.folder / RUN).is_file():
        before = read_json(run.folder / RUN)
        differing = [key for key in plain if before.get(key) != plain[key]]
        if differing:
            raise EvaluationError(
                f"{run.folder} holds a run with another {' and '.join(differing)}; give a new folder as --out"
            )
    elif any(path.name not in (PART, LOCK) for path in run.folder.iterdir()):
        raise EvaluationError(f"{run.folder} holds something else; give a new folder as --out")
    (run.folder / REPORT).unlink(missing_ok=True)  # true again when the run has ended
    write_json(run.folder / RUN, plain)


def identity(run: Run, models: dict[str, Any]) -> dict[str, Any]:
    """What run.json holds: all that makes one run another."""
    found = {
        "task": run.task.name,
        "manifest": os.path.relpath(run.manifest.resolve(), run.folder.resolve()),
        "data_sha256": sha256_of(run.manifest),
        "settings": asdict(run.settings),
        "models": models,
    }
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def reopen(folder: Path, *, manifest: Path | None = None, name: str = "", protocol: str = "") -> Run:
    """A run from its folder, or, for predictions made elsewhere, from `manifest` and `name`.

    Raises EvaluationError where the manifest is not the one that was run.
    """
    if (folder / RUN).is_file():
        stored, settings = _stored(folder)
        if name and name != stored["task"]:
            raise EvaluationError(f"{folder} holds a run of {stored['task']}, not of {name}")
        path = manifest or Path(os.path.normpath(folder / stored["manifest"]))
        if not path.is_file() or sha256_of(path) != stored["data_sha256"]:
            raise EvaluationError(f"{path} is not the manifest that {folder} was run on; give that one as --data")
        return prepare(stored["task"], path, replace(settings, protocol=protocol or settings.protocol), folder)
    if manifest is None or name not in READERS:
        raise EvaluationError(
            f"{folder} holds no {RUN}; to score predictions made elsewhere give --data and --task, one of "
            f"{', '.join(READERS)}"
        )
    return prepare(name, manifest, Settings(protocol=protocol), folder)


def _stored(folder: Path) -> tuple[dict[str, Any], Settings]:
    """run.json and the settings in it."""
    stored = read_json(folder / RUN)
    try:
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored["settings"].items()}
        settings = Settings(**plain)
        known = stored["task"] in READERS and {"manifest", "data_sha256"} <= set(stored)
    except (KeyError, TypeError, AttributeError) as error:
        raise EvaluationError(f"{folder / RUN} is not of this version: {error}; run the evaluation again") from error
    if not known:
        raise EvaluationError(f"{folder / RUN} is damaged: it names no task and manifest; run the evaluation again")
    return stored, settings


def scorable(run: Run) -> tuple[list[Any], list[Prediction], dict[int, str]]:
    """Lines with a prediction, those predictions, and by line why the others have none.

    Raises EvaluationError where the run did not come to its end, or no line could be read.
    """
    found = read_predictions(run.folder / FILE, [row.number for row in run.rows])
    missing = [row.number for row in run.rows if row.number not in found]
    if missing:
        raise EvaluationError(
            f"{run.folder / FILE} lacks {len(missing)} lines of the manifest, first {missing[0]}; run it to the end"
        )
    failed = {number: said.error for number, said in sorted(found.items()) if said.error}
    rows = [row for row in run.rows if row.number not in failed]
    if not rows:
        raise EvaluationError(f"none of {len(failed)} lines could be read; the first: {next(iter(failed.values()))}")
    return rows, [found[row.number].prediction for row in rows], failed


def scored(run: Run, rows: Sequence[Any], predictions: Sequence[Prediction], folder: Path) -> Statistics:
    """The task's statistics; raises EvaluationError that names the line which cannot be scored."""
    try:
        return run.task.statistics(rows, predictions, folder)
    except RsvlmError as error:
        for row, prediction in zip(rows, predictions, strict=True):
            try:
                run.task.statistics([row], [prediction], folder)
            except RsvlmError as own:
                raise EvaluationError(f"line {row.number} of the manifest: {own}") from error
        raise


def over_images(run: Run, rows: Sequence[Any], statistics: Statistics) -> Statistics:
    """One row an image (or pair of dates), as lines about one image do not vary by themselves; queries stay apart."""
    pictures = [run.task.pictures(row) for row in rows]
    if statistics.unit == "queries" or not all(pictures):
        return statistics
    return by_group(statistics, [tuple(picture.files for picture in each) for each in pictures], "images")


def blind_predictions(run: Run, rows: Sequence[Any]) -> list[Prediction]:
    """What the same model said without the image, an empty list where it was not asked about every line."""
    path = run.folder / BLIND / FILE
    found = read_predictions(path, [row.number for row in run.rows]) if path.is_file() else {}
    said = [found[row.number].prediction for row in rows if row.number in found and not found[row.number].error]
    return said if len(said) == len(rows) else []


def _chosen(rows: Sequence[Any], settings: Settings) -> list[Any]:
    """Lines after `skip`, and of these `limit` drawn by the seed, in order."""
    kept = list(rows[settings.skip :])
    if not kept:
        raise EvaluationError(f"the manifest has {len(rows)} lines; skipping {settings.skip} leaves none")
    if settings.limit is None or settings.limit >= len(kept):
        return kept
    drawn = np.random.default_rng(settings.seed).choice(len(kept), settings.limit, replace=False)
    return [kept[i] for i in sorted(drawn.tolist())]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises EvaluationError where it is damaged or missing."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise EvaluationError(f"{path.parent} holds no {path.name}; give the folder of a finished run") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path} is damaged: {error}; run the evaluation again") from error
    if not isinstance(stored, dict):
        raise EvaluationError(f"{path} is damaged: it holds no object; run the evaluation again")
    return stored


def write_json(path: Path, plain: dict[str, Any]) -> None:
    """Write beside first and then in place."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)


def sha256_of(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_hash() -> str:
    """Commit of the working tree this runs from, or "" outside one."""
    here = Path(__file__).resolve().parent
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    return done.stdout.strip()
