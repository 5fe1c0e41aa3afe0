"""The demo: the main job once through, on seeded samples and a real Sentinel-2 chip, with a page that shows it."""

from __future__ import annotations

import json
import logging
import shutil
import time
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any

from data_engine.samples import write_samples
from retrieval import Archive
from rsvlm.assistant import Assistant
from rsvlm.change import Change
from rsvlm.errors import ExportError, GeoreferenceError
from rsvlm.export import write_geojson, write_mask_tif, write_png
from rsvlm.preview import draw, overlay, render
from rsvlm.raster import read_scene

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from rsvlm.answer import Answer, Hit
    from rsvlm.scene import Region, Scene

logger = logging.getLogger(__name__)
DONE = "demo.json"
SEARCHES = ("farmland beside a river", "a town with houses and roads", "water and forest")
FLOOD = ("river_farmland_before_flood_s2.tif", "river_farmland_after_flood_s2.tif")


@dataclass
class Card:
    """One section of the page: what was asked, what was answered, on which picture, with which files."""

    title: str
    text: str
    pictures: list[str]
    facts: list[str]
    files: list[str]
    lines: list[str] = field(default_factory=list)


def run_demo(out: Path) -> Path:
    """Run everything into `out` and return the page; a second run into the same folder replaces its files.

    Raises ExportError where the folder holds something else.
    """
    if out.exists() and any(out.iterdir()) and not (out / "samples").is_dir():
        raise ExportError(f"{out} holds something else; give a new folder for the demo")
    out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    samples = {path.name: path for path in write_samples(out / "samples")}
    assistant = Assistant.from_pretrained()
    archive = _archive(out / "archive", assistant)
    archive.add(out / "samples")
    assistant.retriever = archive
    show = _Demo(assistant, archive, out)
    for text in SEARCHES:
        show.search(text)
    show.caption(samples["spyndex_sentinel2.tif"])
    show.ask(samples[FLOOD[1]], "How much of it is water?")
    show.ask(samples["winter_hills_snow_s2.tif"], "Is there any snow?")
    show.ground(samples["coast_s2.tif"], "water")
    show.compare(samples[FLOOD[0]], samples[FLOOD[1]])
    return show.finish(time.perf_counter() - started)


def _archive(folder: Path, assistant: Assistant) -> Archive:
    """The demo's own archive, made anew where other weights made the one that is there."""
    encoder: Any = assistant.encoder
    if folder.exists():
        if Archive.open(folder).config.fingerprint == encoder.fingerprint:
            return Archive.open(folder, encoder)
        shutil.rmtree(folder)
    return Archive.create(folder, encoder, chip=128, stride=128)


class _Demo:
    """Runs one step at a time and keeps a card for each."""

    def __init__(self, assistant: Assistant, archive: Archive, out: Path) -> None:
        self.assistant, self.archive, self.out = assistant, archive, out
        self.cards: list[Card] = []

    def search(self, text: str) -> None:
        hits = self.archive.search(text, 4)
        name = f"search_{len(self.cards) + 1}"
        _write_json(self.out / f"{name}.json", [hit.to_json() for hit in hits])
        pictures = [self._thumbnail(hit, name) for hit in hits]
        lines = [f"[{hit.rank}] {hit.score:.3f} {hit.sensor}, {(hit.acquired or 'no date')[:10]}" for hit in hits]
        self.cards.append(Card(f"Search: {text}", "", pictures, [], [f"{name}.json"], lines))

    def caption(self, path: Path) -> None:
        scene = self.assistant.read(path)
        self._answered("caption", f"Caption of {path.name}", self.assistant.caption(scene), scene)

    def ask(self, path: Path, question: str) -> None:
        scene = self.assistant.read(path)
        self._answered(f"ask_{len(self.cards) + 1}", question, self.assistant.ask(scene, question), scene)

    def ground(self, path: Path, phrase: str) -> None:
        scene = self.assistant.read(path)
        self._answered("ground", f"Where is: {phrase}?", self.assistant.ground(scene, phrase), scene)

    def compare(self, before: Path, after: Path) -> None:
        first, second = self.assistant.read(before), self.assistant.read(after)
        answer, change = self.assistant.measure_change(first, second)
        answer = self.assistant.word_change(answer, change)
        write_png(render(first), self.out / "compare_before.png")
        write_mask_tif(change.mask, self.out / "compare_mask.tif")
        card = self._answered("compare", f"What changed between {before.name} and {after.name}?", answer, second)
        write_png(_changed(second, change), self.out / "compare_mask.png")
        card.pictures = ["compare_before.png", "compare.png", "compare_mask.png"]
        card.files.append("compare_mask.tif")

    def finish(self, seconds: float) -> Path:
        """Write the page and, last, the summary that marks the folder as whole."""
        from jinja2 import Environment

        template = resources.files("data_engine").joinpath("pages", "demo.html.j2").read_text("utf-8")
        page = self.out / "index.html"
        model, encoder = self.assistant.language.name, self.assistant.encoder.fingerprint
        about = {"model": model, "encoder": encoder, "chips": len(self.archive), "seconds": round(seconds, 1)}
        page.write_text(Environment(autoescape=True).from_string(template).render(cards=self.cards, **about), "utf-8")
        _write_json(self.out / DONE, {**about, "cards": [card.title for card in self.cards]})
        logger.warning("answered by %s, the small default, in %.0f s", model, seconds)
        return page

    def _answered(self, name: str, title: str, answer: Answer, scene: Scene) -> Card:
        _write_json(self.out / f"{name}.json", answer.to_json())
        files = [f"{name}.json"]
        if answer.regions:
            try:
                write_geojson(answer.to_geojson(), self.out / f"{name}.geojson")
                files.append(f"{name}.geojson")
            except GeoreferenceError:
                logger.info("%s has no place on Earth, so there is no GeoJSON of it", scene.source)
        write_png(_picture(scene, answer.regions), self.out / f"{name}.png")
        facts = [f"{f'{fact.name}: {fact.value} {fact.unit}'.strip()} ({fact.how})" for fact in answer.facts]
        card = Card(title, answer.text, [f"{name}.png"], facts, files)
        self.cards.append(card)
        return card

    def _thumbnail(self, hit: Hit, name: str) -> str:
        file = f"{name}_{hit.rank}.png"
        write_png(render(read_scene(hit.path, window=hit.window), size=192), self.out / file)
        return file


def _picture(scene: Scene, regions: tuple[Region, ...]) -> NDArray[np.uint8]:
    return draw(render(scene), regions)


def _changed(scene: Scene, change: Change) -> NDArray[np.uint8]:
    return overlay(render(scene), change.mask.pixels)


def _write_json(path: Path, plain: object) -> None:
    path.write_text(json.dumps(plain, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
