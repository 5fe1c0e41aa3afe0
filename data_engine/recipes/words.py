"""The words recipes share: synonyms of classes and sensors, numbers, articles, plurals, places in a picture."""

from __future__ import annotations

import random
import tomllib
from importlib import resources
from typing import Any

TABLE: dict[str, Any] = tomllib.loads(
    resources.files("data_engine").joinpath("recipes/synonyms.toml").read_text(encoding="utf-8")
)
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")
IRREGULAR: dict[str, str] = TABLE["plurals"]


def names_for(label: str) -> tuple[str, ...]:
    """A class's own name and its synonyms; a class without an entry has its own name only."""
    own = " ".join(label.replace("_", " ").split()).lower()
    return tuple(dict.fromkeys((own, *TABLE["classes"].get(own, ()))))


def sensor_words(sensor: str) -> tuple[str, ...]:
    """What an image of a sensor is called."""
    return tuple(TABLE["sensors"].get(sensor, TABLE["sensors"]["other"]))


def plural(noun: str) -> str:
    """More than one of a thing: "storage tank" -> "storage tanks"."""
    *before, last = noun.split(" ")
    if last in IRREGULAR:
        last = IRREGULAR[last]
    elif last.endswith(("s", "x", "ch", "sh")):
        last += "es"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        last = f"{last[:-1]}ies"
    else:
        last += "s"
    return " ".join((*before, last))


def with_article(noun: str) -> str:
    """A thing with "a" or "an"."""
    return f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun}"


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


def templates(recipe: str) -> dict[str, tuple[str, ...]]:
    """The sentence patterns of a recipe by type, from recipes/<recipe>.toml."""
    text = resources.files("data_engine").joinpath(f"recipes/{recipe}.toml").read_text(encoding="utf-8")
    return {kind: tuple(patterns) for kind, patterns in tomllib.loads(text).items()}
