"""What is named in an image (things, labels, dates, floods), as fields that caption patterns are filled with."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from data_engine.recipes import words
from data_engine.recipes.ground_fields import LEAST, MOST_NAMED, Fields, Seen, amount, ground, together
from data_engine.recipes.words import Noun

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from data_engine.annotated import Target

EXACT = 10  # objects; more of them are "many"
NOTHING = 0.001  # of an image; less flood water than this is none
MONTHS: tuple[str, ...] = ("January", "February", "March", "April", "May", "June")
MONTHS += ("July", "August", "September", "October", "November", "December")
SEASONS = ("spring", "summer", "autumn", "winter")
PARTS = ("early", "mid", "late")
DATE = re.compile(r"(\d{4})-?(0[1-9]|1[0-2])(?:\D|\d\d|$)")
TILE = re.compile(r"(?<![A-Z0-9])T?(?:0?[1-9]|[1-5]\d|60)([C-HJ-NP-X])[A-HJ-NP-Z]{2}(?![A-Z])")
TILE_ROWS = "CDEFGHJKLMNPQRSTUVWX"  # of 8 degrees each, from 80 degrees south (MGRS)
ZONES = (  # up to which distance from the equator, in degrees
    (23.4, "the tropics", "the tropics"),
    (35.0, "the northern subtropics", "the southern subtropics"),
    (66.6, "the northern mid-latitudes", "the southern mid-latitudes"),
    (90.0, "the Arctic", "the Antarctic"),
)


def season_place(seen: Seen, chance: Random) -> Fields:
    """When the image was taken and in which zone of the Earth; seasons only outside the tropics."""
    found, latitude = DATE.match(seen.item.acquired), latitude_of(seen)
    if found is None:
        return {}
    month = int(found[2])
    fields: Fields = {"month": MONTHS[month - 1], "year": found[1]}
    if latitude is not None:
        zone = next(zone for zone in ZONES if abs(latitude) <= zone[0])
        fields["zone"] = zone[1] if latitude >= 0 else zone[2]
        if 23.4 < abs(latitude) <= 66.6:
            name, part = season(month, latitude)
            fields |= {"season": name, "part": part}
    shown = list(seen.told) or [label for label in seen.item.labels if label != "flood"]
    if shown and "flood" not in seen.item.fractions:
        fields["what"] = together(shown[:3], chance)
    return fields


def season(month: int, latitude: float) -> tuple[str, str]:
    """The meteorological season of a month (1 to 12) and which part of it: (7, 50.0) -> ("summer", "mid")."""
    shifted = (month - 3 + (0 if latitude >= 0 else 6)) % 12
    return SEASONS[shifted // 3], PARTS[shifted % 3]


def latitude_of(seen: Seen) -> float | None:
    """Degrees north of the scene's centre, or of the MGRS tile its place names; None where neither is known."""
    if seen.scene is not None and seen.scene.grid.crs is not None:
        return float(seen.scene.grid.footprint.centroid.y)
    tile = TILE.search(seen.item.place)
    return None if tile is None else -76.0 + 8.0 * TILE_ROWS.index(tile[1])


def objects(seen: Seen, chance: Random) -> Fields:
    """Which things there are and how many, and which of those looked for are not there."""
    classes = [target for target in seen.item.targets if target.kind == "class" and target.mask is None]
    there = [(target, number_of(target)) for target in classes if number_of(target)]
    if not there:
        return {}
    chance.shuffle(there)
    phrases = [_counted(target.phrase, number, chance) for target, number in there]
    fields: Fields = {"first": phrases[0], "second": phrases[1]} if len(phrases) > 1 else {}
    if len(phrases) <= MOST_NAMED:
        fields["things"] = Noun(words.joined([phrase.text for phrase in phrases]), len(phrases) > 1 or phrases[0].many)
    if len(there) == 1 and there[0][1] == 1:
        fields["lone"] = phrases[0]
    absent = [target.phrase for target in classes if not number_of(target)]
    if absent:
        name = chance.choice(words.names_for(chance.choice(absent)))
        fields |= {"absent": name, "absents": words.plural(name)}
    return fields


def number_of(target: Target) -> int:
    """How many things a class target marks."""
    return max(len(target.boxes), len(target.polygons))


def _counted(label: str, number: int, chance: Random) -> Noun:
    names = words.names_for(label)
    name = chance.choice([each for each in names if " or " not in each] or names)
    if number == 1:
        return Noun(chance.choice((words.with_article(name), f"one {name}", f"a single {name}")), False)
    if number > EXACT:
        return Noun(f"{chance.choice(('many', 'a lot of', 'lots of', 'numerous'))} {words.plural(name)}", True)
    exact = f"{number} {words.plural(name)}" if chance.random() < 0.3 else words.counted(number, name)
    return Noun(exact, True)


def _spoken(seen: Seen) -> Sequence[str]:
    """The labels, where they say more than the scene name, the marked things or the flood."""
    item = seen.item
    alone = item.scene and set(item.labels) <= {item.scene}
    return () if alone or item.targets or "flood" in item.fractions else item.labels


def tags(seen: Seen, chance: Random) -> Fields:
    """One label in focus and some others; of labels like "landuse=forest" that of the tag."""
    labels = sorted(_spoken(seen))
    if not labels:
        return {}
    focus, *others = chance.sample(labels, min(len(labels), chance.randint(2, 4)))
    fields: Fields = {"focus": ground(focus, chance)}
    if "=" in focus:
        fields["mapped"] = fields["focus"]
    kept = [name for name in others if not {*words.names_for(name)} & {*words.names_for(focus)}]
    return fields | ({"others": together(kept, chance)} if kept else {})


def labels(seen: Seen, chance: Random) -> Fields:
    """All labels as one list."""
    known = list(_spoken(seen))
    if not known:
        return {}
    chance.shuffle(known)
    fields: Fields = {"all": together(known[: 2 * MOST_NAMED], chance)}
    if len(known) <= 2 * MOST_NAMED:
        number = words.counted(len(known), "class").split(" ")
        fields |= {"number": number[0], "classes": number[1]}
    return fields


def scene(seen: Seen, chance: Random) -> Fields:
    """What the whole image is."""
    name = seen.item.scene
    return {"scene": words.noun(chance.choice(words.names_for(name)))} if name else {}


def flood(seen: Seen, chance: Random) -> Fields:
    """How much is flooded, from nothing over a little to most of it."""
    share = seen.item.fractions.get("flood")
    if share is None:
        return {}
    water = chance.choice(("flooding", "flood water"))
    if share < LEAST:
        if share >= NOTHING:
            return {"trace": water, "floor": round(100 * LEAST)}
        return {"dry": water, "unflooded": chance.choice(("not flooded", "not inundated", "not under flood water"))}
    return {
        "event": "flood",
        "flooded": chance.choice(("flooded", "inundated")),
        "flooded_area": words.noun(chance.choice(("flooded area", "inundated area"))),
        "flood_word": words.noun(chance.choice(("flood", "flooding", "flood water"))),
        "flood_amount": amount(share),
        "percent": round(100 * share),
    }
