"""The sample sheet: random samples of a pack with their pictures, on one page that needs no network."""

from __future__ import annotations

import base64
import io
import json
import os
import random
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np
import shapely
from PIL import Image

from data_engine.pack import read_manifest, read_shard
from data_engine.sample import KINDS, Sample, Shown
from rsvlm.errors import RsvlmError
from rsvlm.preview import draw, overlay, render
from rsvlm.raster import read_labels, read_scene
from rsvlm.scene import Region

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from rsvlm.scene import Scene

PAGE = "samples.html"
SIDE = 384  # pixels of a picture
MOST_SHARDS = 40  # shards that samples are drawn from: a large pack is not read as a whole


@dataclass(frozen=True)
class Card:
    """One sample as the page shows it."""

    text: str
    answer: str
    pictures: list[str]  # data URIs
    lines: list[str]
    origin: str


def write_sheet(folder: Path, *, per_kind: int = 24, seed: int = 0) -> Path:
    """Write samples.html into a pack: per kind some samples drawn by the seed, and the counts.

    Raises DatasetError where the folder is no finished pack.
    """
    from jinja2 import Environment

    manifest = read_manifest(folder)
    groups = {
        kind: [_card(sample, folder) for sample in drawn] for kind, drawn in _drawn(folder, manifest, per_kind, seed)
    }
    template = resources.files("data_engine").joinpath("pages/sheet.html.j2").read_text("utf-8")
    page = Environment(autoescape=True).from_string(template)
    text = page.render(
        name=manifest["name"],
        samples=manifest["samples"],
        counts=manifest["counts"],
        kinds=KINDS,
        groups=groups,
        seed=seed,
    )
    beside = folder / f"{PAGE}.part"
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, folder / PAGE)
    return folder / PAGE


def _drawn(folder: Path, manifest: dict, per_kind: int, seed: int) -> list[tuple[str, list[Sample]]]:  # type: ignore[type-arg]
    chance = random.Random(seed)
    found = []
    for kind in KINDS:
        shards = [shard for shard in manifest["shards"] if kind in shard["counts"]]
        some = chance.sample(shards, min(len(shards), MOST_SHARDS))
        pool = [sample for shard in some for sample in read_shard(folder / shard["file"]) if sample.kind == kind]
        if pool:
            found.append((kind, chance.sample(pool, min(len(pool), per_kind))))
    return found


def _card(sample: Sample, folder: Path) -> Card:
    lines = [f"plan: {json.dumps(sample.plan.to_json())}"] if sample.plan else []
    lines += [f"fact: {fact['name']} = {fact['value']} {fact['unit']}".strip() for fact in sample.facts]
    lines += [f"[{hit['rank']}] {hit.get('caption', '')} {hit.get('acquired') or ''}".strip() for hit in sample.hits]
    try:
        pictures = [_uri(picture) for picture in _pictures(sample, folder)]
    except (RsvlmError, OSError) as error:
        pictures, lines = [], [*lines, f"no picture: {error}"]
    origin = f"{sample.origin.recipe} | {sample.type or sample.kind} | {sample.origin.place} | {sample.origin.split}"
    return Card(sample.text or "(no question)", sample.answer, pictures, lines, origin)


def _pictures(sample: Sample, folder: Path) -> list[NDArray[np.uint8]]:
    scenes = [_scene(image, folder) for image in sample.images]
    pictures = [render(scene, size=SIDE) for scene in scenes]
    shapes = [shapely.box(*box) for box in sample.boxes] or [shapely.Polygon(ring) for ring in sample.polygons]
    if shapes:
        regions = [Region(sample.text, 1.0, shape, "", scenes[-1].grid) for shape in shapes if shape.area > 0]
        pictures[-1] = draw(pictures[-1], regions)
    if sample.mask:
        changed = read_labels(os.path.normpath(folder / sample.mask)) > 0
        pictures.append(overlay(pictures[-1], np.asarray(changed)))
    return pictures


def _scene(image: Shown, folder: Path) -> Scene:
    files = [os.path.normpath(folder / file) for file in image.files]
    if len(files) == 1:
        return read_scene(files[0], sensor=image.sensor, bands=image.bands or None)
    return read_scene(files, sensor=image.sensor, bands=image.bands)


def _uri(picture: NDArray[np.uint8]) -> str:
    held = io.BytesIO()
    Image.fromarray(picture).save(held, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(held.getvalue()).decode()
