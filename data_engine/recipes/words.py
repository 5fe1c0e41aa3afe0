"""The words recipes share: synonyms of classes and sensors, numbers, articles, plurals, places in a picture."""

from __future__ import annotations

import random
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any

TABLE: dict[str, Any] = tomllib.loads(
    resources.files("data_engine").joinpath("recipes/synonyms.toml").read_text(encoding="utf-8")
)
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")
IRREGULAR: dict[str, str] = TABLE["plurals"]
GRAMMAR: dict[str, list[str]] = TABLE["grammar"]
LINKS = (" of ", " with ", " without ", " for ", " in ", " on ", " by ", " from ", " among ", " under ", " after ")
SINGULAR = {"be": "is", "have": "has", "can": "can", "touch": "touches"}


@dataclass(frozen=True, slots=True)
class Noun:
    """A noun phrase that knows its number; in a pattern "{first:a}" gives an article, "{first:cover}" a verb."""

    text: str
    many: bool

    def __format__(self, spec: str) -> str:
        """The text, with its article for "a", followed by a verb in its number; for "is" only "is" or "are"."""
        if spec == "is":
            return "are" if self.many else "is"
        if spec in ("", "a"):
            return with_article(self.text) if spec and not self.many else self.text
        verb, *rest = spec.split(" ")
        verb = ("are" if verb == "be" else verb) if self.many else SINGULAR.get(verb, f"{verb}s")
        return " ".join((self.text, verb, *rest))


def noun(text: str) -> Noun:
    """A phrase with its number: "trees" are many, "forest" is one."""
    return Noun(text, is_many(text))


def names_for(label: str) -> tuple[str, ...]:
    """A class's own name and its synonyms; a class without an entry has its own name only.

    An OpenStreetMap tag ("landuse=forest") and a name that is no noun ("built-up") are said by their synonyms only; a
    tag without synonyms by its value, or by its key where the value is "yes".
    """
    key = "=".join(part.strip() for part in label.lower().split("="))
    own = " ".join(key.replace("_", " ").split())
    synonyms = TABLE["classes"].get(key, TABLE["classes"].get(own, ()))
    if synonyms and ("=" in key or own in GRAMMAR["unsaid"]):
        return tuple(synonyms)
    if "=" in own:
        name, _, value = own.partition("=")
        return (name if value in ("", "yes") else value,)
    return tuple(dict.fromkeys((own, *synonyms)))


def sensor_words(sensor: str) -> tuple[str, ...]:
    """What an image of a sensor is called."""
    return tuple(TABLE["sensors"].get(sensor, TABLE["sensors"]["other"]))


def _split(phrase: str) -> tuple[str, str, str]:
    """A phrase as what stands before its last word, the last word, and what hangs on it ("field", " of crops")."""
    start = min((at for link in LINKS if (at := phrase.find(link)) > 0), default=len(phrase))
    before, gap, last = phrase[:start].rpartition(" ")
    return before + gap, last, phrase[start:]


def is_mass(phrase: str) -> bool:
    """Whether it cannot be counted: "water", "snow cover"."""
    before, last, _ = _split(phrase)
    return last in GRAMMAR["mass"] and not (before + last).endswith(tuple(GRAMMAR["counted"]))


def is_many(phrase: str) -> bool:
    """Whether it is plural: "crop fields", "snow and ice"; of "field of crops" the field decides."""
    head, last, _ = _split(phrase)
    if last in GRAMMAR["single"]:
        return False
    plural_end = (last.endswith("s") and not last.endswith("ss")) or last in GRAMMAR["many"]
    return plural_end or (" and " in f" {head}" and last in GRAMMAR["mass"])


def plural(noun: str) -> str:
    """More than one of a thing: "storage tank" -> "storage tanks"; what is plural or not counted stays as it is."""
    before, last, after = _split(noun)
    if is_mass(noun) or (is_many(noun) and last not in IRREGULAR):
        return noun
    if last in IRREGULAR:
        last = IRREGULAR[last]
    elif last.endswith(("s", "x", "z", "ch", "sh")):
        last += "es"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        last = f"{last[:-1]}ies"
    else:
        last += "s"
    return before + last + after


def with_article(noun: str) -> str:
    """A thing with "a" or "an"; what is plural or not counted stands alone: "an island", "water", "trees"."""
    if is_mass(noun) or is_many(noun) or noun.startswith(("a ", "an ", "the ")):
        return noun
    low = noun.lower()
    vowel = low[:1] in tuple("aeiou") and not low.startswith(tuple(GRAMMAR["takes_a"]))
    return f"{'an' if vowel or low.startswith(tuple(GRAMMAR['takes_an'])) else 'a'} {noun}"


def counted(count: int, noun: str) -> str:
    """A number of things in words up to twelve: "three ships", "one ship", "25 ships"."""
    number = NUMBERS[count] if 0 <= count < len(NUMBERS) else str(count)
    return f"{number} {noun if count == 1 else plural(noun)}"


def cell_words(x: float, y: float) -> str:
    """Where a point (0 to 1 from the top left) lies on a 3 x 3 grid: "top left", "centre"."""
    row, column = ROWS[min(2, int(3 * y))], COLUMNS[min(2, int(3 * x))]
    return "centre" if (row, column) == ("middle", "centre") else f"{row} {column}"


def chance_of(*key: object) -> random.Random:
    """A random source that depends on nothing but its key (seed, place, file, recipe)."""
    return random.Random("-".join(str(part) for part in key))


def joined(phrases: list[str], last: str = "and") -> str:
    """Phrases as a list in words: "ships, a bridge and water"."""
    *before, end = phrases
    return f"{', '.join(before)} {last} {end}" if before else end


def templates(recipe: str) -> dict[str, tuple[str, ...]]:
    """The sentence patterns of a recipe by type, from recipes/<recipe>.toml."""
    text = resources.files("data_engine").joinpath(f"recipes/{recipe}.toml").read_text(encoding="utf-8")
    return {kind: tuple(patterns) for kind, patterns in tomllib.loads(text).items()}
