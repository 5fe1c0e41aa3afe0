"""Manifests out of annotated sources: one file a task, sensor and split, paths relative to the file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_engine.recipes.captions import caption

if TYPE_CHECKING:
    from data_engine.annotated import Annotated, Pair, Target

Row = dict[str, Any]


def write_manifests(items: Iterable[Annotated], out: Path, *, captions: int = 8, seed: int = 0) -> dict[str, int]:
    """Write `<task>-<sensor>-<split>.jsonl` files for every task the annotations allow; returns their line counts.

    Args:
        items: annotated images of any sensors and splits.
        out: folder, made when missing; files of the same name are replaced.
        captions: how many captions to make for an image that brings none but has class fractions.
        seed: of the captions.
    """
    out.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {}
    for item in items:
        for task, sensor, row in _rows(item, out.resolve(), captions, seed):
            lines.setdefault(f"{task}-{sensor}-{item.split}.jsonl", []).append(json.dumps(row))
    for name, rows in sorted(lines.items()):
        part = out / f"{name}.part"
        part.write_text("\n".join(rows) + "\n", encoding="utf-8")
        part.replace(out / name)
    return {name: len(rows) for name, rows in sorted(lines.items())}


def _rows(item: Annotated, out: Path, captions: int, seed: int) -> Iterator[tuple[str, str, Row]]:
    """Task, sensor and line for everything that is known of one image."""
    image = _image(item, out)
    texts = caption(item, captions, seed)
    if item.pair is None and (texts or item.labels):
        task = "retrieval" if texts else "labels"  # what has labels only can be found by labels only
        yield task, item.sensor, {**image, **_filled(captions=texts, labels=list(item.labels))}
    if item.scene:
        yield "scenes", item.sensor, {**image, "label": item.scene}
    asked = image if item.pair is None else _dates(item, item.pair, out)
    for each in item.questions:
        yield "vqa", item.sensor, {**asked, "question": each.question, "answer": each.answer, "type": each.kind}
    for target in item.targets:
        form, where = _where(target, out)
        yield f"grounding-{target.kind}{form}", item.sensor, {**image, "phrase": target.phrase, **where}
    if item.class_map is not None:
        known = item.class_map
        labels = {"labels": _relative(known.path, out), "labels_band": known.band, "codes": known.codes}
        yield "land-cover", item.sensor, {**image, **labels, "ignore": list(known.ignore)}
    if item.pair is not None:
        yield from _changes(item, item.pair, out)


def _changes(item: Annotated, pair: Pair, out: Path) -> Iterator[tuple[str, str, Row]]:
    """The pair as all its sensors saw it and, of several, as each did."""
    if pair.mask is None and not pair.captions:
        return
    views = [range(len(pair.sensors))] if len(pair.sensors) > 1 else []
    said = _filled(phrase=pair.phrase, captions=list(pair.captions), place=item.place)
    mask = {} if pair.mask is None else {"mask": _relative(pair.mask, out)}
    for view in (*views, *(range(i, i + 1) for i in range(len(pair.sensors)))):
        sensors = [pair.sensors[i] for i in view]
        dates = {name: [_relative(files[i], out) for i in view] for name, files in _of(pair).items()}
        yield "change", "+".join(sensors), {**dates, "sensors": sensors, **mask, **said}


def _of(pair: Pair) -> dict[str, tuple[Path, ...]]:
    return {"before": pair.before, "after": pair.after}


def _image(item: Annotated, out: Path) -> Row:
    place = _filled(place=item.place)
    if isinstance(item.image, Path):
        return {"image": _relative(item.image, out), "sensor": item.sensor, **place}
    files = [_relative(file, out) for file in item.image]
    return {"image": files, "bands": list(item.bands), "sensor": item.sensor, **place}


def _dates(item: Annotated, pair: Pair, out: Path) -> Row:
    dates = [_relative(files[0], out) for files in _of(pair).values()]
    return {"image": dates, "sensor": pair.sensors[0], **_filled(place=item.place)}


def _where(target: Target, out: Path) -> tuple[str, Row]:
    """The form of a target, as the end of the task's name, and its part of the line."""
    kind = {"kind": target.kind}
    if target.mask is not None:
        return "-masks", {**kind, "mask": _relative(target.mask, out)}
    if target.polygons and not target.boxes:
        return "", {**kind, "polygons": [[list(point) for point in ring] for ring in target.polygons]}
    return "", {**kind, "boxes": [[round(v, 2) for v in box] for box in target.boxes]}


def _filled(**values: Any) -> Row:
    return {key: value for key, value in values.items() if value}


def _relative(path: Path, out: Path) -> str:
    return os.path.relpath(path.resolve(), out)
