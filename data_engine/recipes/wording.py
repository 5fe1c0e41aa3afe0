"""Facts-to-sentence pairs for the wording step: what was measured goes in, a sentence that uses only it comes out."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from data_engine.recipes.words import chance_of, plural, templates
from data_engine.sample import Origin, Sample
from rsvlm.answer import Fact, Hit
from rsvlm.language.claims import check_wording, format_value
from rsvlm.scene import Window

logger = logging.getLogger(__name__)
VERSION = 1
VALIDATION = 0.1  # share of samples kept for validation, by their number
PATTERNS = templates("wording")
THINGS = PATTERNS["things"]
COUNTED = ("ship", "airplane", "storage tank", "building", "tennis court", "bridge", "vehicle", "greenhouse", "harbour")
SENSORS = ("Sentinel-2 MSI", "Sentinel-1 C-band SAR", "Landsat 8 OLI", "NAIP aerial camera", "Landsat-7 ETM+")
WHERE = ("top left", "top centre", "top right", "middle left", "middle right", "bottom left", "bottom right")


@dataclass(frozen=True, slots=True)
class Measured:
    """Facts and hits with what the slots of a pattern stand for, and the question they answer."""

    question: str
    facts: tuple[Fact, ...]
    slots: dict[str, str]
    hits: tuple[Hit, ...] = ()


def make(*, seed: int, count: int) -> Iterator[Sample]:
    """Yield `count` samples of kind "wording", the situations in turn; each sentence passes `check_wording` as it is.

    A sentence that the checker would change is dropped and drawn again, and the number of those is logged.
    """
    kinds, rejected, number = sorted(SITUATIONS), 0, 0
    made = 0
    while made < count:
        kind = kinds[number % len(kinds)]
        chance = chance_of(seed, "wording", kind, number)
        number += 1
        measured = SITUATIONS[kind](chance)
        sentence = _sentence(kind, measured, chance)
        if check_wording(sentence, measured.facts, measured.hits) != sentence:
            rejected += 1
            continue
        made += 1
        yield _sample(kind, measured, sentence, number, seed)
    if rejected:
        logger.info("%d sentences for %d samples said more than their facts and were drawn again", rejected, count)


def _sample(kind: str, measured: Measured, sentence: str, number: int, seed: int) -> Sample:
    split = "val" if chance_of("wording-split", number).random() < VALIDATION else "train"
    return Sample(
        kind="wording",
        text=measured.question,
        origin=Origin("wording", f"wording-{number}", split, f"wording/{kind}@{VERSION}", seed),
        answer=sentence,
        type=kind,
        facts=tuple(fact.to_json() for fact in measured.facts),
        hits=tuple(_plain(hit) for hit in measured.hits),
    )


def _plain(hit: Hit) -> dict[str, Any]:
    keep = ("rank", "chip_id", "score", "sensor", "acquired", "caption")
    return {key: value for key, value in hit.to_json().items() if key in keep}


def _sentence(kind: str, measured: Measured, chance: random.Random) -> str:
    slots = {**measured.slots, **{name.capitalize(): _upper(value) for name, value in measured.slots.items()}}
    fitting = [p for p in PATTERNS[kind] if all(f"{{{name}}}" not in p for name, v in slots.items() if not v)]
    sentence = chance.choice(fitting).format(**slots)
    unsure = any(fact.confidence < 0.5 for fact in measured.facts) and kind != "abstain"
    sentence = _upper(sentence)
    return f"{sentence} {chance.choice(PATTERNS['unsure'])}" if unsure else sentence


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _how(chance: random.Random, thing: str) -> tuple[str, float]:
    """A method that can find a thing, and how sure it is: indices are for what they show, the encoder for all."""
    rules = [line[0] for line in PATTERNS["rules"] if thing in line[1:]]
    return chance.choice((*rules, *PATTERNS["encoder"])), round(chance.uniform(0.2, 0.95), 2)


def _measured(chance: random.Random, things: Sequence[str] = THINGS) -> tuple[str, tuple[str, float]]:
    """A thing, and how it was measured."""
    thing = chance.choice(things)
    return thing, _how(chance, thing)


def _asked(kind: str, chance: random.Random, **words: str) -> str:
    """A question of a kind; many are asked about the same facts."""
    return _upper(str(chance.choice(PATTERNS[f"ask_{kind}"])).format(**words))


def _percent(chance: random.Random, low: float = 0.3) -> float:
    return round(min(100.0, low + 60 * chance.random() ** 2), 2)


def _area(chance: random.Random) -> Measured:
    thing, (how, sure) = _measured(chance)
    unit, size = chance.choice((("ha", 4000.0), ("km2", 90.0), ("m2", 250_000.0)))
    value = Fact(f"area of {thing}", round(size * chance.random() ** 2 + 0.05, 2), unit, how, sure)
    share = Fact(f"share of {thing}", _percent(chance), "percent", how, sure)
    question = _asked("area", chance, thing=thing, unit=unit)
    return Measured(question, (value, share), _slots(thing, how, value=value, share=share))


def _share(chance: random.Random) -> Measured:
    thing, (how, sure) = _measured(chance)
    share = Fact(f"share of {thing}", _percent(chance), "percent", how, sure)
    question = _asked("share", chance, thing=thing)
    return Measured(question, (share,), _slots(thing, how, share=share))


def _count(chance: random.Random) -> Measured:
    thing, (how, sure) = _measured(chance, COUNTED)
    value = Fact(f"count of {thing}", chance.randint(2, 180 if chance.random() < 0.3 else 12), "count", how, sure)
    question = _asked("count", chance, things=plural(thing))
    return Measured(question, (value,), _slots(thing, how, value=value))


def _present(chance: random.Random) -> Measured:
    thing, (how, sure) = _measured(chance)
    share = Fact(f"share of {thing}", _percent(chance), "percent", how, sure)
    question = _asked("present", chance, thing=thing)
    return Measured(question, (Fact(thing, True, "", how, sure), share), _slots(thing, how, share=share))


def _absent(chance: random.Random) -> Measured:
    thing, (how, sure) = _measured(chance, (*THINGS, *COUNTED))
    question = _asked("things" if thing in COUNTED else "present", chance, thing=thing, things=plural(thing))
    return Measured(question, (Fact(thing, False, "", how, sure),), _slots(thing, how))


def _comparison(chance: random.Random) -> Measured:
    thing, other = chance.sample(THINGS, 2)
    how, sure = _how(chance, f"{thing} and {other}")
    one, two = (Fact(f"share of {each}", _percent(chance), "percent", how, sure) for each in (thing, other))
    relation = "more" if float(one.value) > float(two.value) else "less"
    verdict = Fact("comparison", f"{relation} {thing} than {other}", "", how, sure)
    slots = {"verdict": str(verdict.value), "one": format_value(one), "two": format_value(two), "other": other}
    question = _asked("comparison", chance, thing=thing, other=other)
    return Measured(question, (verdict, one, two), {**_slots(thing, how), **slots})


def _locate(chance: random.Random) -> Measured:
    thing, (how, sure) = _measured(chance)
    value = Fact(f"regions of {thing}", chance.randint(2, 60), "count", how, sure)
    where = Fact(f"position of {thing}", chance.choice(WHERE), "", how, sure)
    share = Fact(f"share of {thing}", _percent(chance), "percent", how, sure)
    slots = {**_slots(thing, how, value=value, share=share), "where": str(where.value)}
    return Measured(_asked("locate", chance, thing=thing), (value, where, share), slots)


def _describe(chance: random.Random) -> Measured:
    thing, other = chance.sample(THINGS, 2)
    how, sure = _how(chance, f"{thing} and {other}")
    words = (f"{thing} and {other}", f"{thing} next to {other}", f"mostly {thing} with some {other}", thing)
    caption = Fact("caption", chance.choice(words), "", how, sure)
    share = Fact(f"share of {thing}", _percent(chance, 5), "percent", how, sure)
    sensor = Fact("sensor", chance.choice(SENSORS), "", "file", 1.0)
    slots = {**_slots(thing, how, share=share), "caption": str(caption.value), "sensor": f"the {sensor.value}"}
    return Measured(_asked("describe", chance), (caption, share, sensor), slots)


def _changed(verb: str) -> Callable[[random.Random], Measured]:
    def changed(chance: random.Random) -> Measured:
        thing, (how, sure) = _measured(chance)
        value = Fact(f"area of {thing} {verb}", round(900 * chance.random() ** 2 + 0.1, 2), "ha", how, sure)
        share = Fact(f"share of {thing} {verb}", _percent(chance), "percent", how, sure)
        slots = _slots(thing, how, value=value, share=share)
        question = f"How much {thing} was {verb}?" if chance.random() < 0.25 else _asked("change", chance, thing=thing)
        return Measured(question, (Fact(f"change of {thing}", True, "", how, sure), value, share), slots)

    return changed


def _unchanged(chance: random.Random) -> Measured:
    thing, (how, sure) = _measured(chance)
    question = _asked("unchanged", chance, thing=thing)
    return Measured(question, (Fact(f"change of {thing}", False, "", how, sure),), _slots(thing, how))


def _context(chance: random.Random) -> Measured:
    date = f"{chance.randint(1999, 2026)}-{chance.randint(1, 12):02d}-{chance.randint(1, 28):02d}"
    place = f"{chance.uniform(1, 70):.2f} {chance.choice('NS')}, {chance.uniform(1, 170):.2f} {chance.choice('EW')}"
    facts = (
        Fact("sensor", chance.choice(SENSORS), "", "file", 1.0),
        Fact("date", date, "", "file", 1.0),
        Fact("place", place, "", "file", 1.0),
        Fact("resolution", chance.choice((0.3, 0.6, 1, 10, 20, 30)), "m", "file", 1.0),
    )
    slots = {fact.name: format_value(fact) for fact in facts}
    return Measured(_asked("context", chance), facts, slots)


def _evidence(chance: random.Random) -> Measured:
    things = chance.sample(THINGS, 3)
    hits = tuple(_hit(rank, chance, things) for rank in (1, 2, 3))
    slots = {f"hit{hit.rank}": hit.caption for hit in hits}
    slots |= {f"date{hit.rank}": str(hit.acquired) for hit in hits} | {f"sensor{hit.rank}": hit.sensor for hit in hits}
    return Measured(_asked("evidence", chance, thing=things[0]), (), slots, hits)


def _hit(rank: int, chance: random.Random, things: list[str]) -> Hit:
    other = things[1 + rank % 2]
    caption = chance.choice((things[0], f"{things[0]} and {other}", f"{other} with {things[0]}"))
    date = f"{chance.randint(2015, 2026)}-{chance.randint(1, 12):02d}-{chance.randint(1, 28):02d}"
    chip = f"chip-{chance.randrange(16**8):08x}"
    window = Window(0, 0, 256, 256)
    return Hit(rank, chip, 0.5 - rank / 10, None, date, chance.choice(SENSORS), caption, "scene.tif", window, {})


def _abstain(chance: random.Random) -> Measured:
    line = chance.choice(PATTERNS["reasons"])
    reason, question = line[0], chance.choice(line[1:])
    return Measured(question, (Fact("abstain", reason, "", "", 1.0),), {"reason": reason})


def _slots(thing: str, how: str, **facts: Fact) -> dict[str, str]:
    return {"thing": thing, "things": plural(thing), "how": how, **{name: format_value(f) for name, f in facts.items()}}


SITUATIONS: dict[str, Callable[[random.Random], Measured]] = {
    "absent": _absent,
    "abstain": _abstain,
    "area": _area,
    "comparison": _comparison,
    "context": _context,
    "count": _count,
    "describe": _describe,
    "evidence": _evidence,
    "gained": _changed("gained"),
    "locate": _locate,
    "lost": _changed("lost"),
    "present": _present,
    "share": _share,
    "unchanged": _unchanged,
}
