"""Running a task over a manifest: predict line by line, resumably, then score, compare with baselines and report."""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Hashable, Sequence
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from eval.models import Models, blank
from eval.predictions import FILE, Predicted, append, drop_half_line, read_predictions
from eval.runs import (
    BLIND,
    LOCK,
    REPORT,
    RUN,
    Run,
    blind_predictions,
    claim,
    git_hash,
    identity,
    over_images,
    read_json,
    reopen,
    scorable,
    scored,
    sha256_of,
    write_json,
)
from eval.statistics import Statistics, intervals
from rsvlm.errors import BandError, EvaluationError, ImageryError, SceneError, SensorError
from rsvlm.scene import Scene

if TYPE_CHECKING:
    from eval.tasks.task import Task

BATCH = 32
PACKAGES = (
    "rsvlm",
    "torch",
    "transformers",
    "open_clip_torch",
    "numpy",
    "pycocoevalcap",
    "ir-measures",
    "scikit-learn",
)
UNREADABLE = (ImageryError, BandError, SensorError, SceneError)
logger = logging.getLogger(__name__)


def evaluate(run: Run, models: Models, *, about: dict[str, Any] | None = None) -> dict[str, Any]:
    """Predict what is not predicted yet, then score; returns the report, which is written last.

    Args:
        run: what to run; its folder may hold an interrupted run of the same, which goes on.
        models: what to run it with.
        about: more for the report: how the split was made, the leakage check.

    Raises EvaluationError where the folder holds another run, or another process is writing it.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run.folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise EvaluationError(f"another run is writing {run.folder}; wait for it or give another --out") from None
    try:
        return _evaluate(run, models, about or {})
    finally:
        lock.release()
        (run.folder / LOCK).unlink(missing_ok=True)


def _evaluate(run: Run, models: Models, about: dict[str, Any]) -> dict[str, Any]:
    started = time.perf_counter()
    claim(run, models.about(run.task.uses))
    predict(run, models)
    report = _report(run, models.about(run.task.uses))
    report |= {
        "git": git_hash(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "device": models.device,
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "seconds": round(time.perf_counter() - started, 1),
        "data_sha256": sha256_of(run.manifest),
        **about,
    }
    write_json(run.folder / REPORT, report)
    return report


def rescore(folder: Path, *, manifest: Path | None = None, name: str = "", protocol: str = "") -> dict[str, Any]:
    """Score the predictions in a folder again, without any model; replaces what report.json says of metrics.

    A folder without run.json (predictions someone else made) needs `manifest` and `name`, and has one afterwards, so
    that it can be compared and shown like any other. Raises EvaluationError
    where the manifest has changed since.
    """
    run = reopen(folder, manifest=manifest, name=name, protocol=protocol)
    stored = read_json(folder / REPORT) if (folder / REPORT).is_file() else {}
    report = {**stored, **_report(run, {}), "data_sha256": sha256_of(run.manifest), "scored_with": git_hash()}
    if not (folder / RUN).is_file():
        write_json(folder / RUN, identity(run, {}))
    write_json(folder / REPORT, report)
    return report


def statistics_of(folder: Path) -> tuple[Run, Statistics]:
    """A finished run, narrowed to the lines that could be read, with its additive statistics."""
    run = reopen(folder)
    rows, predictions, _ = scorable(run)
    return replace(run, rows=tuple(rows)), over_images(run, rows, scored(run, rows, predictions, folder))


def predict(run: Run, models: Models) -> None:
    """Append a prediction, or why there is none, for every line that has none; then the blind ones."""
    path = run.folder / FILE
    drop_half_line(path)
    done = read_predictions(path, [row.number for row in run.rows]) if path.is_file() else {}
    todo = [row for row in run.rows if row.number not in done]
    blind = _Blind(run, models)
    with tqdm(total=len(run.rows), initial=len(done), desc=run.task.name, unit="line") as bar:
        for start in range(0, len(todo), BATCH):
            batch = todo[start : start + BATCH]
            append(path, _predicted(run, batch, models, blind))
            bar.update(len(batch))


def _predicted(run: Run, batch: Sequence[Any], models: Models, blind: _Blind) -> list[Predicted]:
    started = time.perf_counter()
    readable, scenes, failed = [], [], []
    for row in batch:
        try:
            scenes.append(tuple(picture.read() for picture in run.task.pictures(row)))
            readable.append(row)
        except UNREADABLE as error:
            failed.append(Predicted(row.number, {}, 0.0, str(error)))
    said = [*_said(run.task, readable, scenes, models, run.folder), *failed]
    seconds = (time.perf_counter() - started) / len(batch)
    for each in said:
        if each.error:
            logger.warning("line %d is left out: %s", each.number, each.error)
    blind.take(readable, scenes)
    return [replace(each, seconds=seconds) for each in said]


def _said(
    task: Task, rows: Sequence[Any], scenes: Sequence[tuple[Scene, ...]], models: Models, folder: Path
) -> list[Predicted]:
    """Predictions of a batch; where one of its scenes is refused, line by line, so that the others are not lost."""
    if not rows:
        return []
    try:
        found = task.predict(rows, scenes, models, folder)
    except UNREADABLE as error:
        if len(rows) == 1:
            return [Predicted(rows[0].number, {}, 0.0, str(error))]
        return [_said(task, [row], [seen], models, folder)[0] for row, seen in zip(rows, scenes, strict=True)]
    return [Predicted(row.number, prediction, 0.0) for row, prediction in zip(rows, found, strict=True)]


class _Blind:
    """The same model without the image: asked once for all lines that look the same to it."""

    def __init__(self, run: Run, models: Models) -> None:
        self.run, self.models = run, models
        self.folder = run.folder / BLIND
        self.said: dict[Hashable, Predicted] = {}
        drop_half_line(self.folder / FILE)
        numbers = [row.number for row in run.rows]
        self.done = set(read_predictions(self.folder / FILE, numbers)) if (self.folder / FILE).is_file() else set()

    def take(self, rows: Sequence[Any], scenes: Sequence[tuple[Scene, ...]]) -> None:
        """Append blind predictions for these lines, if the task has pictures at all."""
        todo = [(row, seen) for row, seen in zip(rows, scenes, strict=True) if row.number not in self.done and seen]
        if not todo:
            return
        self.folder.mkdir(exist_ok=True)
        new = {self._key(row, seen): (row, seen) for row, seen in todo if self._key(row, seen) not in self.said}
        empty = [tuple(blank(scene) for scene in seen) for _, seen in new.values()]
        found = _said(self.run.task, [row for row, _ in new.values()], empty, self.models, self.folder)
        self.said.update(zip(new, found, strict=True))
        append(self.folder / FILE, [replace(self.said[self._key(*each)], number=each[0].number) for each in todo])

    def _key(self, row: Any, scenes: tuple[Scene, ...]) -> Hashable:
        return self.run.task.asked(row), tuple((scene.sensor.name, scene.bands, scene.shape) for scene in scenes)


def _report(run: Run, models: dict[str, Any]) -> dict[str, Any]:
    rows, predictions, failed = scorable(run)
    seed = run.settings.seed
    statistics = over_images(run, rows, scored(run, rows, predictions, run.folder))
    baselines = run.task.baselines(rows, predictions, seed)
    blind = blind_predictions(run, rows)
    if blind:
        baselines["blind"] = scored(run, rows, blind, run.folder / BLIND)
    protocol = run.settings.protocol
    return {
        "task": run.task.name,
        "protocol": f"{protocol}: {run.task.protocols[protocol]}",
        "n": len(rows),
        "failed": {str(number): why for number, why in failed.items()},
        "unit": statistics.unit,
        "units": len(statistics.rows),
        "metrics": {name: interval.to_json() for name, interval in intervals(statistics, seed=seed).items()},
        "baselines": {name: _values(each) for name, each in sorted(baselines.items())},
        **models,
        "seed": seed,
        "settings": asdict(run.settings),
    }


def _values(statistics: Statistics) -> dict[str, dict[str, float | None]]:
    found = statistics.metrics()
    return {name: {"value": None if np.isnan(value) else round(value, 2)} for name, value in found.items()}
