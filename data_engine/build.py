"""Building a pack: sources read, leaks looked for, recipes run, shards written; killed anywhere, it goes on."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import lru_cache, partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from data_engine.build_config import BuildConfig, SourceConfig
from data_engine.catalogue import CATALOGUE
from data_engine.pack import MANIFEST, Shard, sha256_of, write_manifest, write_shard
from data_engine.recipes import captions, change, plans, questions, referring, wording
from data_engine.recipes.rewriting import ChatRewriter, Rewriting
from data_engine.sample import Sample
from data_engine.simulated import write_places
from rsvlm.errors import DatasetError
from rsvlm.leakage.pairs import LeakReport, Listed, find_leaks
from rsvlm.raster import read_scene
from rsvlm.sensors import SENSORS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from data_engine.annotated import Annotated
    from rsvlm.scene import Scene

__all__ = ["BuildConfig", "SourceConfig", "build"]

logger = logging.getLogger(__name__)
Rewrite = Callable[[list[Sample]], list[Sample]]
PER_IMAGE: dict[str, Callable[..., Iterator[Sample]]] = {
    "captions": captions.make,
    "questions": questions.make,
    "referring": referring.make,
    "change": change.make,
}
WITHOUT_IMAGE: dict[str, Callable[..., Iterator[Sample]]] = {"plans": plans.make, "wording": wording.make}
UNIT = 250  # images a shard is made from: what an interruption can cost
AT_ONCE = 5000  # samples a shard of a recipe without images holds
BUILD, LEAKS, SIMULATED = "build.json", "leakage.json", "simulated"


def build(config: BuildConfig, root: Path, out: Path) -> dict[str, Any]:
    """Build a pack, or go on where an interrupted build stopped; returns its manifest.

    Args:
        config: what to build.
        root: the folder that the sources' folders are relative to.
        out: the pack; paths of images in it are relative to it.

    Raises DatasetError where a source is not as published, `out` holds something else, or images of the training part
    turn up in another part.
    """
    started = time.perf_counter()
    _claim(config, root, out)
    parts = _read(config, root, out)
    leaks = _without_leaks(parts, out)
    shards: list[Shard] = []
    rewriting = _rewriting(config)
    times: Counter[str] = Counter()  # a dataset may be a source more than once, from different folders
    for name, source, items in parts:
        times[name] += 1
        file = name if times[name] == 1 else f"{name}-{times[name]}"
        for start in tqdm(range(0, len(items), UNIT), desc=file, unit="unit"):
            unit = partial(_samples, items[start : start + UNIT], source, name, config.seed, rewriting)
            shards += _once(out, f"{file}-{start // UNIT:05d}", unit)
    for name, count in sorted(config.counts.items()):
        for number, start in enumerate(tqdm(range(0, count, AT_ONCE), desc=name, unit="shard")):
            part = partial(_made, name, count, config.seed, start, rewriting)
            shards += _once(out, f"{name}-{number:05d}", part)
    about = {
        "name": config.name,
        "config": asdict(config),
        "terms": {name: CATALOGUE[name].terms for name, _, _ in parts},
        "versions": {"rsvlm": metadata.version("rsvlm"), "recipes": _recipe_versions(out, shards)},
        "leakage": {"pairs": len(leaks.pairs), "listed": leaks.listed, "checked": leaks.checked, "report": LEAKS},
        "seconds": round(time.perf_counter() - started, 1),
    }
    return write_manifest(out, shards, about)


def _claim(config: BuildConfig, root: Path, out: Path) -> None:
    recipes = {module.__name__: module.VERSION for module in (captions, change, plans, questions, referring, wording)}
    root_from_here = os.path.relpath(root.resolve(), out.resolve())
    plain = json.loads(json.dumps({"config": asdict(config), "root": root_from_here, "recipes": recipes}))
    if (out / BUILD).is_file():
        if json.loads((out / BUILD).read_text("utf-8")) != plain:
            raise DatasetError(f"{out} holds a build of another config or of other recipes; give a new folder")
        (out / MANIFEST).unlink(missing_ok=True)
        return
    if out.exists() and any(out.iterdir()):
        raise DatasetError(f"{out} holds something else; give a new folder")
    out.mkdir(parents=True, exist_ok=True)
    (out / BUILD).write_text(json.dumps(plain, indent=1) + "\n", "utf-8")


def _read(config: BuildConfig, root: Path, out: Path) -> list[tuple[str, SourceConfig, list[Annotated]]]:
    """Every source with its images, those to leave out left out."""
    parts = []
    for source in config.sources:
        folder = root / source.folder
        if not folder.is_dir():
            raise DatasetError(f"{folder} is no folder; give the one that holds {source.folder} as --root")
        items = list(tqdm(CATALOGUE[source.dataset].read(folder), desc=f"reading {source.dataset}", unit="image"))
        kept = [item for item in items if not str(_first(item)).endswith(source.without or ("\0",))]
        parts.append((source.dataset, source, kept[: source.limit or None]))
    if config.simulated:
        write_places(out / SIMULATED, config.simulated, seed=config.seed)
        items = list(CATALOGUE[SIMULATED].read(out / SIMULATED))
        parts.append((SIMULATED, SourceConfig(SIMULATED, SIMULATED), items))
    return parts


def _without_leaks(parts: Sequence[tuple[str, SourceConfig, list[Annotated]]], out: Path) -> LeakReport:
    """The leakage report between training images and all others, kept beside the pack; raises where it names pairs."""
    items = [item for _, _, each in parts for item in each]
    key = hashlib.sha256("\n".join(sorted(f"{i.split} {_first(i)}" for i in items)).encode()).hexdigest()
    path = out / LEAKS
    if path.is_file() and (stored := json.loads(path.read_text("utf-8")))["key"] == key:
        report = LeakReport.from_json(stored["report"])
    else:
        train, rest = ([_listed(i) for i in items if (i.split == "train") == side] for side in (True, False))
        report = find_leaks(train, rest)
        path.write_text(json.dumps({"key": key, "report": report.to_json()}, indent=1) + "\n", "utf-8")
    if report.pairs:
        told = [f"{leak.train} and {leak.held_out} ({leak.reason}, {leak.detail})" for leak in report.pairs[:3]]
        raise DatasetError(
            f"{len(report.pairs)} pairs of images are on both sides of the split: {'; '.join(told)}; {path} names "
            "them all: put one of each pair into the source's `without`"
        )
    return report


def _first(item: Annotated) -> Path:
    return item.image if isinstance(item.image, Path) else item.image[0]


def _listed(item: Annotated) -> Listed:
    several = not isinstance(item.image, Path)
    return Listed(_first(item), None if several else item.sensor, item.place)


def _rewriting(config: BuildConfig) -> Rewrite:
    """What follows the recipes: nothing, or a chat model that says some sentences in other words."""
    if not config.rewriter or not config.rewrite_share:
        return lambda samples: samples
    rewriting = Rewriting(ChatRewriter.from_pretrained(config.rewriter), config.rewrite_share, config.seed)

    def rewrite(samples: list[Sample]) -> list[Sample]:
        found = list(rewriting.extend(samples))
        logger.info("sentences in other words: %s", dict(rewriting.counts))
        return found

    return rewrite


def _once(out: Path, name: str, make: Callable[[], list[Sample]]) -> list[Shard]:
    """The shards of a unit of work: read from its record where it was done before, else made, the record last."""
    record = out / "done" / f"{name}.json"
    if record.is_file():
        shards = [Shard(**plain) for plain in json.loads(record.read_text("utf-8"))]
        if all((out / s.file).is_file() and sha256_of(out / s.file) == s.sha256 for s in shards):
            return shards
    shards = write_shard(out, name, [_relative(sample, out) for sample in make()])
    record.parent.mkdir(exist_ok=True)
    beside = record.with_suffix(".part")
    beside.write_text(json.dumps([asdict(shard) for shard in shards]), "utf-8")
    os.replace(beside, record)
    return shards


def _samples(
    items: Sequence[Annotated], source: SourceConfig, name: str, seed: int, rewriting: Rewrite
) -> list[Sample]:
    found = []
    for item in items:
        for recipe, make in PER_IMAGE.items():
            count = getattr(source, recipe)
            if count:
                read = {"scene": _spectral(item)} if recipe == "captions" else {}
                found += list(make(item, source=name, seed=seed, count=count, **read))
    return rewriting(found)


def _spectral(item: Annotated) -> Scene | None:
    """The image read, where its bands are reflectances that captions can tell indices of."""
    sensor = SENSORS.get(item.sensor)
    if item.pair is not None or sensor is None or sensor.units != "reflectance" or not isinstance(item.image, Path):
        return None
    return read_scene(item.image, sensor=sensor, bands=item.bands or None)


def _made(name: str, count: int, seed: int, start: int, rewriting: Rewrite) -> list[Sample]:
    return rewriting(list(_every(name, count, seed)[start : start + AT_ONCE]))


@lru_cache(1)
def _every(name: str, count: int, seed: int) -> tuple[Sample, ...]:
    """All samples of a recipe without images: made once for its shards, not at all where they are there."""
    return tuple(WITHOUT_IMAGE[name](seed=seed, count=count))


def _relative(sample: Sample, out: Path) -> Sample:
    """The sample with its files named relative to the pack."""
    images = tuple(replace(i, files=tuple(_from(out, f) for f in i.files)) for i in sample.images)
    return replace(sample, images=images, mask=_from(out, sample.mask) if sample.mask else "")


def _from(out: Path, file: str) -> str:
    return os.path.relpath(Path(file).resolve(), out.resolve())


def _recipe_versions(out: Path, shards: Sequence[Shard]) -> dict[str, int]:
    """Samples by recipe and version."""
    from data_engine.pack import read_shard

    counts: Counter[str] = Counter()
    for shard in shards:
        counts.update(sample.origin.recipe for sample in read_shard(out / shard.file))
    return dict(sorted(counts.items()))
