"""The kinds of questions that what is known of an image answers, one function each."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from data_engine.recipes import plans
from data_engine.recipes.evidence import LEAST, Evidence, related, table
from data_engine.recipes.placing import at_place
from data_engine.recipes.plans import ABSTENTION, OFF_TOPIC, About, Form, Noun, Question, ask, noun, sayable
from data_engine.recipes.words import chance_of, is_many, names_for
from rsvlm.errors import DatasetError
from rsvlm.language.phrases import singular
from rsvlm.language.plan import Plan

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from data_engine.annotated import Annotated

CLEAR = 0.05  # of the image: shares closer than this are not compared
SAME = 0.003  # of the image: shares closer than this are equal
EMPTY = 0.35  # share of draws that ask a map of one class for it where it is not; little else can be asked there
RURAL = 0.15  # share of maps without built-up land that are asked about: nearly all maps are such
SIZES = (100.0, 500.0)  # m2: small below the first, large above the second, as RSVQA has it
SURE_SIZE = 0.1  # of a limit: outlines whose area is closer to it are neither side of it
SEASONS = ("winter", "spring", "summer", "autumn")  # of December, March, June and September on, in the north
TROPICS = 23.5  # degrees; nearer to the equator there are no four seasons


@dataclass(frozen=True, slots=True)
class Answered:
    """A question with its short answer."""

    question: Question
    answer: str


@dataclass(frozen=True, slots=True)
class Case:
    """One image to ask about. Every method that asks gives None where nothing is clear enough for this draw."""

    item: Annotated
    known: Evidence
    chance: random.Random = field(repr=False)
    verdicts: dict[tuple[str, str, str], bool] = field(default_factory=dict)  # of data_engine.recipes.placing

    def said(self, label: str, *, mass: bool = False) -> Noun:
        """A class in words no other class of the image shares; raises DatasetError where there are none.

        Land cover that is not there is never called by single things: no tree cover does not mean no tree.
        """
        scattered = label in self.known.absent and label not in self.known.boxes
        others = {singular(n) for c in self.known.classes if c != label for n in names_for(c)}
        nouns = [noun(name) for name in names_for(label) if not (scattered and is_many(name))]
        fit = [n for n in nouns if n.name not in others and _plain(n) and not (mass and n.counted)]
        if not fit:
            raise DatasetError(f"no name of {label!r} can be told from other classes; add one to synonyms.toml")
        return self.chance.choice(fit)

    def some(self, classes: Sequence[str], count: int = 1) -> list[str]:
        """Different classes; raises DatasetError where there are too few."""
        if len(classes) < count:
            raise DatasetError(f"{count} classes are needed, got {len(classes)}; ask something else")
        return self.chance.sample(sorted(classes), count)

    def worded(self, name: str, about: About, answer: str, slots: dict[str, str] | None = None) -> Answered:
        """An answered question of a form by name."""
        form = own_forms().get(name) or plans.forms()[name]
        return Answered(ask(form, about, self.chance, slots=slots, images=self.called), answer)

    @property
    def called(self) -> tuple[str, ...]:
        """What the image may be called: an aerial photo or a satellite image only where its sensor says so."""
        words, sensor = table()["words"], self.item.sensor
        if sensor in words["unknown_sensors"]:
            return tuple(words["any"])
        return (*words["any"], *words["aerial" if sensor in words["aerial_sensors"] else "satellite"])


@cache
def own_forms() -> dict[str, Form]:
    """The forms of recipes/questions.toml by name."""
    return {name: plans.form_of(plain) for name, plain in table()["forms"].items()}


@cache
def _plain(name: Noun) -> bool:
    """Whether a noun can be the phrase of a plan."""
    return sayable(f"Is there {name.article}?", Plan("presence", name.name))


def _presence(case: Case) -> Answered | None:
    """Yes as often as no, also over sources that map a single class."""
    known = case.known
    wanted = case.chance.random() < 0.5
    if len(known.shares) == 1:
        wanted = bool(known.present)
        if not wanted and case.chance.random() > EMPTY:
            return None
    [label] = case.some(known.present if wanted else known.absent)
    return case.worded("presence", About(case.said(label)), "yes" if wanted else "no")


def _scene(case: Case) -> Answered | None:
    """Whether what a scene is of is there: another's surely not where the captions do not name it either."""
    scenes, scene = table()["scenes"], case.item.scene
    told = {singular(word.strip(".,")) for caption in case.item.captions for word in caption.lower().split()}
    never = [name for name in scenes["never"][scene] if not told & _last_words(name)]
    wanted = case.chance.random() < 0.5
    [label] = case.some([scene] if wanted and never else never)
    return case.worded("presence", About(case.said(label)), "yes" if wanted else "no")


def _last_words(label: str) -> set[str]:
    return {word for name in names_for(label) for word in singular(name).split()}


def _presence_two(case: Case) -> Answered | None:
    """Two classes with "and" or "or", where the image has both answers to give."""
    known, wanted = case.known, case.chance.random() < 0.5
    enough = {"and": len(known.present) > 1 and known.absent, "or": len(known.absent) > 1 and known.present}
    relation = case.some([relation for relation, able in enough.items() if able])[0]
    if wanted == (relation == "and"):  # both there, or neither
        pair = case.some(known.present if wanted else known.absent, 2)
    else:
        pair = case.some(known.present) + case.some(known.absent)
        case.chance.shuffle(pair)
    if related(*pair):
        return None
    one, other = (case.said(label) for label in pair)
    return case.worded(f"presence_{relation}", About(one, other, relation), "yes" if wanted else "no")


def _count(case: Case) -> Answered | None:
    zero = case.chance.random() < 0.15
    [label] = case.some([c for c, marked in case.known.boxes.items() if (not marked) == zero and _settled(c, case)])
    things = case.said(label)
    return case.worded("count", About(things), str(len(case.known.boxes[label]))) if things.counted else None


def _settled(label: str, case: Case) -> bool:
    return label in case.known.present or label in case.known.absent


def _attribute(case: Case) -> Answered | None:
    """RSVQA's small, medium and large by ground area of the outlines, where none is close to a limit."""
    grid = case.known.grid
    [label] = case.some(sorted(case.known.rings))
    if grid is None or grid.pixel_size_m is None:
        return None
    areas = [_ring_area(ring) * grid.pixel_size_m**2 for ring in case.known.rings[label]]
    if any(abs(area - limit) < SURE_SIZE * limit for area in areas for limit in SIZES):
        return None
    size = case.chance.choice(("small", "medium", "large"))
    number = sum(_size_of(area) == size for area in areas)
    things = case.said(label)
    about = About(Noun(f"{size} {things.name}"))
    if case.chance.random() < 0.5:
        return case.worded("count", about, str(number))
    return case.worded("presence", about, "yes" if number else "no")


def _size_of(area: float) -> str:
    return "small" if area < SIZES[0] else "medium" if area <= SIZES[1] else "large"


def _ring_area(ring: Sequence[tuple[float, float]]) -> float:
    """Square pixels by the shoelace formula."""
    xs, ys = np.array(ring).T
    return float(abs(np.dot(xs, np.roll(ys, -1)) - np.dot(ys, np.roll(xs, -1))) / 2)


def _area(case: Case) -> Answered | None:
    """Percent of the image, and hectares where it is known how large a pixel is."""
    known, chance = case.known, case.chance
    [label] = case.some([c for c, share in known.shares.items() if share >= LEAST or (c in known.absent)])
    share = known.shares[label]
    if not share and chance.random() < 0.8:
        return None
    stuff = case.said(label, mass=True)
    pixels = known.pixels.get(label)
    if pixels is not None and known.grid is not None and known.georeferenced and chance.random() < 0.5:
        hectares = known.grid.resized(*pixels.shape).area_m2(pixels) / 1e4
        return case.worded("area_unit", About(stuff, unit="ha"), f"{round(hectares, 2)} ha")
    if share and not known.georeferenced and chance.random() < 0.3:
        return case.worded("area", About(stuff), f"{round(100 * share, 1)}%")
    return case.worded("area_percent", About(stuff, unit="percent"), f"{round(100 * share, 1)}%")


def _comparison(case: Case) -> Answered | None:
    """By number of objects, or by share of the image."""
    known, chance = case.known, case.chance
    by_number = len(known.boxes) > 1 and (len(known.shares) < 2 or chance.random() < 0.5)
    sure = [*known.present, *known.absent]
    one, other = case.some([c for c in (known.boxes if by_number else known.shares) if c in sure], 2)
    if by_number:
        ahead = float(len(known.boxes[one]) - len(known.boxes[other]))
        amounts = float(len(known.boxes[one]) + len(known.boxes[other]))
    else:
        ahead, amounts = known.shares[one] - known.shares[other], known.shares[one] + known.shares[other]
    if not amounts or related(one, other) or (not by_number and SAME < abs(ahead) < CLEAR):
        return None
    holds = "equal" if abs(ahead) <= (0 if by_number else SAME) else "more" if ahead > 0 else "less"
    about = About(case.said(one, mass=not by_number), case.said(other, mass=not by_number))
    return _compared(case, about, holds, by_number=by_number)


def _compared(case: Case, about: About, holds: str, *, by_number: bool) -> Answered | None:
    chance, target, other = case.chance, about.target, about.other
    if target is None or other is None or (by_number and not (target.counted and other.counted)):
        return None
    if not by_number and chance.random() < 0.35:
        if chance.random() < 0.5 or holds == "equal":
            return case.worded("comparison", about, holds)
        larger = (target if holds == "more" else other).many
        return case.worded("comparison_which", About(target, other, "more"), larger)
    wanted = chance.random() < 0.5
    wrong = [relation for relation in ("more", "less", "equal") if relation != holds]
    relation = holds if wanted else chance.choices(wrong, [1 if r == "equal" else 3 for r in wrong])[0]
    form = f"comparison_{relation}{'_count' if by_number else ''}"
    return case.worded(form, About(target, other, relation), "yes" if wanted else "no")


def _relation(case: Case) -> Answered | None:
    """Above, below, left, right of or next to: asked only where it clearly holds or clearly does not."""
    wanted = case.chance.random() < 0.5
    fit = sorted(key for key, holds in case.verdicts.items() if holds == wanted and not related(key[0], key[1]))
    if not fit:
        return None
    one, other, relation = case.chance.choice(fit)
    about = About(case.said(one), case.said(other, mass=other in case.known.pixels), relation)
    return case.worded("presence_beside", about, "yes" if wanted else "no")


def _position(case: Case) -> Answered | None:
    [label] = case.some(case.known.present)
    where = at_place(case.known, label)
    if not where:
        return None
    return case.worded("position", About(case.said(label, mass=label in case.known.pixels)), where)


def _rural_urban(case: Case) -> Answered | None:
    which = _settlement(case)
    if not which:
        return None
    one, other = case.chance.sample(("rural", "urban"), 2)
    if case.chance.random() < 0.5:
        return case.worded("rural_urban", About(Noun(one), Noun(other)), which)
    return case.worded("rural_urban_area", About(Noun(one), Noun(f"{other} area")), which)


def _settlement(case: Case) -> str:
    """Rural or urban where that is clear, by the built-up share, the scene or the labels; "" elsewhere."""
    scenes, built = table()["scenes"], table()["built"]["classes"]
    shares = [share for name, share in case.known.shares.items() if name.lower() in built]
    if shares:
        rural = sum(shares) <= LEAST and chance_of("rural", case.item.place).random() < RURAL
        return "urban" if sum(shares) >= 0.5 else "rural" if rural else ""
    for which in ("rural", "urban"):
        if case.item.scene in scenes[which]:
            return which
    absent = any(name.lower() in built for name in case.known.absent)
    return "rural" if absent and not case.known.boxes else ""


def _date(case: Case) -> Answered | None:
    day = datetime.fromisoformat(case.item.acquired)
    if case.chance.random() < 0.3:
        return case.worded("year", About(), str(day.year))
    return case.worded("date", About(), day.date().isoformat())


def _season(case: Case) -> Answered | None:
    """The meteorological season; none between the tropics."""
    grid = case.known.grid
    if grid is None:
        return None
    latitude = float(grid.lonlat(grid.width / 2, grid.height / 2)[1])
    month = datetime.fromisoformat(case.item.acquired).month
    if abs(latitude) < TROPICS:
        return None
    return case.worded("metadata_season", About(), SEASONS[(month % 12 // 3 + (2 if latitude < 0 else 0)) % 4])


def _sensor(case: Case) -> Answered | None:
    return case.worded("metadata_sensor", About(), str(table()["sensors"][case.item.sensor]))


def _resolution(case: Case) -> Answered | None:
    size = case.known.grid.pixel_size_m if case.known.grid else None
    return None if size is None else case.worded("metadata_resolution", About(), f"{float(f'{size:.3g}'):g} m")


def _unanswerable(case: Case) -> Answered | None:
    """About something of this image that no image tells."""
    labels = [*case.known.present] or [scene for scene in (case.item.scene,) if scene in table()["scenes"]["things"]]
    named = [case.said(label) for label in case.some(labels)]
    return case.worded("unanswerable", About(named[0]), ABSTENTION)


def _off_topic(case: Case) -> Answered | None:
    topic = Noun(case.chance.choice(plans.table()["vocabulary"]["topics"]), counted=False)
    return case.worded("off_topic", About(topic), OFF_TOPIC)


PROVEN: dict[str, Callable[[Case], Answered | None]] = {
    "presence": _presence,
    "presence_two": _presence_two,
    "scene": _scene,
    "count": _count,
    "attribute": _attribute,
    "area": _area,
    "comparison": _comparison,
    "relation": _relation,
    "position": _position,
    "rural_urban": _rural_urban,
    "date": _date,
    "season": _season,
    "sensor": _sensor,
    "resolution": _resolution,
    "unanswerable": _unanswerable,
    "off_topic": _off_topic,
}
