"""Questions and sentences about two dates of one place, out of the mask of what changed and what people wrote."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from data_engine.recipes import words
from data_engine.sample import Origin, Sample, shown
from rsvlm.language.plan import Plan
from rsvlm.raster import open_raster, read_labels

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from random import Random

    from numpy.typing import NDArray

    from data_engine.annotated import Annotated, Pair

VERSION = 1
LEAST = 0.002  # of the scene; less change than this is neither "yes" nor "no"
LEAST_OF_CELL = 0.01  # of a cell's pixels, for the cell to have changed
LEAST_PART = 20  # pixels of a connected part that is counted
ALL_BUT = 99.0  # percent above which a share is "more than" this
NONE = {"change": "no", "grid": "none", "count": "0", "percent": "0 percent"}  # answers where none is
TYPES = {"percent": "area", "hectares": "area"}  # of a sample, where it is not the name of the questions
ROWS = ("along the top", "across the middle", "along the bottom")
COLUMNS = ("on the left side", "down the middle", "on the right side")


@dataclass(frozen=True, slots=True)
class Event:
    """How a kind of change is spoken of; `target` is the word of `did` and `been` that a plan looks for."""

    did: str
    been: str
    target: str
    happening: str
    part: str
    old: str = ""
    new: str = ""
    relation: str = ""  # of the target, in a plan


ANY = Event("changed", "changed", "", "change", "changed area")
EVENTS = {
    "flood": Event("was flooded", "been flooded", "flooded", "flooding", "flooded area", "land", "water"),
    "burn": Event("was burnt", "been burnt", "burnt", "fire damage", "burnt area", "vegetation", "burnt ground"),
    "clear-cut": Event(
        "was cleared of forest",
        "been cleared of forest",
        "forest",
        "forest clearing",
        "clear-cut",
        "forest",
        "bare ground",
        "lost",
    ),
    "new buildings": Event(
        "was built up",
        "been built up",
        "built up",
        "building work",
        "newly built area",
        "open land",
        "built-up land",
        "new",
    ),
    "harvest": Event(
        "was harvested",
        "been harvested",
        "harvested",
        "harvesting",
        "harvested area",
        "ripe crops",
        "stubble or bare soil",
    ),
    "snowfall": Event(
        "was covered by snow",
        "been covered by snow",
        "snow",
        "snowfall",
        "snow-covered area",
        "snow-free ground",
        "snow",
        "new",
    ),
}


@dataclass(frozen=True, slots=True)
class Measured:
    """What a mask says: share of the scene, hectares where the place on Earth is known, cells, parts, position."""

    share: float
    hectares: float | None
    cells: tuple[str, ...]
    parts: int
    where: str


def make(item: Annotated, *, source: str, seed: int, count: int = 8, unchanged: float = 1.0) -> Iterator[Sample]:
    """Yield a pair's own captions, then `count` questions or sentences measured on its mask.

    Every "yes" goes with a "no" about one date shown twice, and with another question about that, for a share
    `unchanged` of the pairs: 1 balances a source of changed pairs, 0 one that has as many unchanged ones. An empty
    mask gives a "no". Pairs without a mask give their captions only, and images without a pair nothing.
    Areas are hectares only where the later image has a CRS. Raises ImageryError, BandError or SensorError for a mask
    or an image that cannot be opened.
    """
    pair = item.pair
    if pair is None:
        return
    chance = words.chance_of(seed, "change", item.place, pair.after[0].name)
    maker = _Maker(item, pair, EVENTS.get(pair.phrase, ANY), chance, source, seed)
    yield from maker.own()
    if pair.mask is None or count < 1:
        return
    changed = read_labels(pair.mask) > 0
    if not changed.any():
        yield from maker.nothing()
    elif changed.mean() >= LEAST:
        yield from maker.something(measure(changed, _pixel_areas(pair, changed.shape)), count, unchanged)


def measure(changed: NDArray[np.bool_], row_areas_m2: NDArray[np.float64] | None = None) -> Measured:
    """Measure a mask (H, W) with the ground area of a pixel in each row (H,), m2."""
    labels, _ = ndimage.label(changed, structure=np.ones((3, 3)))
    sizes = np.bincount(labels.ravel())[1:]
    height, width = changed.shape
    rows, columns = (np.minimum(2, (np.arange(side) + 0.5) * 3 // side).astype(int) for side in (height, width))
    cell = rows[:, None] * 3 + columns[None, :]
    inside = np.bincount(cell[changed], minlength=9)
    shares = inside / np.maximum(np.bincount(cell.ravel(), minlength=9), 1)
    hectares = None if row_areas_m2 is None else float(changed.sum(axis=1) @ row_areas_m2) / 1e4
    return Measured(
        share=float(changed.mean()),
        hectares=hectares,
        cells=tuple(_cell(n) for n in range(9) if shares[n] >= LEAST_OF_CELL),
        parts=int((sizes >= LEAST_PART).sum()),
        where=_where(inside.reshape(3, 3), float(changed.mean())),
    )


def percent(share: float) -> str:
    """A share in words: "0.4 percent", "12 percent", "more than 99 percent"."""
    value = 100 * share
    if ALL_BUT < value < 100:
        return f"more than {ALL_BUT:.0f} percent"
    return f"{value:.1f} percent" if value < 1 else f"{value:.0f} percent"


def hectares(area: float) -> str:
    """An area in words: "0.42 ha", "3.4 ha", "120 ha"."""
    return f"{area:.2f} ha" if area < 1 else f"{area:.1f} ha" if area < 10 else f"{area:,.0f} ha"


def number(parts: int) -> str:
    """A count; many parts only to the nearest five: "7", "about 15"."""
    return str(parts) if parts < len(words.NUMBERS) else f"about {5 * round(parts / 5)}"


def _cell(position: int) -> str:
    return words.cell_words((position % 3 + 0.5) / 3, (position // 3 + 0.5) / 3)


def _where(inside: NDArray[np.int64], share: float) -> str:
    """Where most of the change lies, from changed pixels by cell (3, 3)."""
    part = inside / inside.sum()
    if share >= 0.9:
        return "nearly everywhere"
    if part.max() >= 0.5:
        cell = _cell(int(part.argmax()))
        place = "in the centre" if cell == "centre" else f"at the {cell}"
        return place if part.max() == 1 else f"mostly {place}"
    sides = [(part.sum(axis=1), ROWS), (part.sum(axis=0), COLUMNS)]
    shares, names = max(sides, key=lambda side: float(side[0].max()))
    return f"mostly {names[int(shares.argmax())]}" if shares.max() >= 0.6 else "in many places"


def _pixel_areas(pair: Pair, shape: tuple[int, ...]) -> NDArray[np.float64] | None:
    """Square metres of a mask pixel by row, from the later image's grid; None where that is nowhere on Earth."""
    with open_raster(pair.after[0], sensor=pair.sensors[0]) as raster:
        grid = raster.grid
    return None if grid.crs is None else grid.resized(shape[0], shape[1]).row_areas_m2


@cache
def _table() -> dict[str, tuple[str, ...]]:
    return words.templates("change")


@dataclass(frozen=True, slots=True)
class _Dates:
    """What a sample shows: the files of each date by sensor, and the mask of what changed between them."""

    before: tuple[Path, ...]
    after: tuple[Path, ...]
    mask: str = ""


@dataclass(frozen=True, slots=True)
class _Maker:
    """Makes the samples of one pair."""

    item: Annotated
    pair: Pair
    event: Event
    chance: Random
    source: str
    seed: int

    def own(self) -> Iterator[Sample]:
        """Captions as published, and one of them as the answer to an open question."""
        captions = tuple(dict.fromkeys(self.pair.captions))
        for caption in captions:
            yield self._sample("caption", ("", None), caption, self._dates(), "own")
        if captions:
            yield self._sample("open", self._asked("open"), self.chance.choice(captions), self._dates(), "own-open")

    def something(self, measured: Measured, count: int, unchanged: float) -> Iterator[Sample]:
        """Questions and sentences in turn by type; one that was said already is left out."""
        kinds = ["change", "caption", "percent", "open"]
        kinds += ["grid"] * bool(measured.cells) + ["count"] * bool(measured.parts)
        kinds += ["transition"] * bool(self.event.old) + ["hectares"] * (measured.hectares is not None)
        self.chance.shuffle(kinds)
        said: set[tuple[str, str]] = set()
        dates = (self.pair.before, self.pair.after)
        for turn in range(count):
            kind = kinds[turn % len(kinds)]
            sample = self._sample(kind, self._asked(kind), self._answer(kind, measured), self._dates(), kind)
            if (sample.text, sample.answer) not in said:
                said.add((sample.text, sample.answer))
                yield sample
                if kind == "change" and self.chance.random() < unchanged:
                    date = self.pair.before if self.event.target else self.chance.choice(dates)  # a flood stays one
                    yield from self.nothing(_Dates(date, date))

    def nothing(self, dates: _Dates | None = None) -> Iterator[Sample]:
        """A "no", and one other question about two dates between which nothing changed; by default the pair's own."""
        for kind in ("change", self.chance.choice(("caption", "open", "grid", "count", "percent"))):
            answer = NONE.get(kind) or self.chance.choice(_table()["unchanged"])
            yield self._sample(kind, self._asked(kind), answer, dates or self._dates(), f"{kind}-none")

    def _dates(self) -> _Dates:
        return _Dates(self.pair.before, self.pair.after, str(self.pair.mask or ""))

    def _answer(self, kind: str, measured: Measured) -> str:
        short = {
            "change": "yes",
            "grid": ", ".join(measured.cells),
            "count": number(measured.parts),
            "percent": percent(measured.share),
            "hectares": hectares(measured.hectares or 0.0),
        }
        if kind in short:
            return short[kind]
        amount = f"{percent(measured.share)} of the scene"
        if measured.hectares is not None:
            area = hectares(measured.hectares)
            amount = self.chance.choice((amount, area, f"{area} ({amount})"))
        pattern = "transition" if kind == "transition" else "caption"
        return self._worded(pattern, amount=amount, where=measured.where)

    def _asked(self, kind: str) -> tuple[str, Plan | None]:
        """A question with its plan, whose target is a phrase of the question; captions have neither."""
        if kind == "caption":
            return "", None
        event = self.event
        question = self._worded("becoming" if kind == "transition" else kind)
        phrases = (event.part, event.happening, event.target) if event.target else ()
        target = next((phrase for phrase in phrases if phrase in question.lower()), "")
        relation = event.relation if target and target == event.target else ""
        unit = {"percent": "percent", "hectares": "ha", "count": "count"}.get(kind, "")
        return question, Plan("change", target, relation, unit=unit)

    def _worded(self, pattern: str, **measured: str) -> str:
        event = self.event
        chosen = self.chance.choice(_table()[pattern])
        text = chosen.format(
            did=event.did,
            did_many=event.did.replace("was ", "were ", 1),
            been=event.been,
            happening=event.happening,
            parts=words.plural(event.part),
            old=event.old,
            new=event.new,
            **measured,
        )
        return text[:1].upper() + text[1:] if chosen[0] == "{" else text

    def _sample(self, kind: str, asked: tuple[str, Plan | None], answer: str, dates: _Dates, group: str) -> Sample:
        seen = [zip(files, self.pair.sensors, strict=True) for files in (dates.before, dates.after)]
        return Sample(
            kind="change",
            text=asked[0],
            origin=Origin(self.source, self.item.place, self.item.split, f"change/{group}@{VERSION}", self.seed),
            images=tuple(shown(file, sensor) for date in seen for file, sensor in date),
            answer=answer,
            type=TYPES.get(kind, kind),
            plan=asked[1],
            mask=dates.mask,
        )
