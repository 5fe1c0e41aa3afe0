"""What is true of the ground in an image, as fields that caption patterns are filled with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from data_engine.composition import read_composition
from data_engine.recipes import words
from data_engine.recipes.words import Noun
from rsvlm.spectral import apply, quantity, rule_for

if TYPE_CHECKING:
    from random import Random

    from data_engine.annotated import Annotated
    from data_engine.composition import Composition
    from rsvlm.scene import Scene

LEAST = 0.03  # of the image; a class that covers less is not told
NEARLY_ALL = 0.95  # from here on a class is "everywhere"
LITTLE, SOME = 0.1, 0.35  # up to which shares a class is "a little" or "some"
COUNTED = 0.9  # of a class raster; where fewer pixels count, places in it say too little of the image
CONJUNCTION = {"and", "or", "with"}
MOST_NAMED = 5  # classes in one list
GREENNESS = (  # mean NDVI from which the words hold
    (0.6, ("lush green vegetation", "dense green vegetation", "vigorous plant growth")),
    (0.4, ("green vegetation", "healthy vegetation", "plenty of green")),
    (0.2, ("sparse or dry vegetation", "little green vegetation", "thin plant cover")),
    (-1.0, ("hardly any green vegetation", "almost no green", "next to no green plants")),
)
WETNESS = (  # share of open water from which the words hold; between the last two nothing is said
    (0.5, ("mostly open water", "open water over most of it")),
    (0.05, ("some open water", "a part of open water")),
    (0.005, ()),
    (0.0, ("no open water to speak of", "next to no open water")),
)
ABOUT = (
    (1 / 10, "a tenth"),
    (1 / 4, "a quarter"),
    (1 / 3, "a third"),
    (1 / 2, "half"),
    (2 / 3, "two thirds"),
    (3 / 4, "three quarters"),
)
BOUNDS = (
    (0.9, "nearly all"),
    (0.75, "more than three quarters"),
    (0.5, "more than half"),
    (0.25, "more than a quarter"),
    (0.1, "more than a tenth"),
    (-1.0, "less than a tenth"),
)

Fields = dict[str, Noun | str | int]


class Seen:
    """An image with what is read of it, once, when it is asked for."""

    def __init__(self, item: Annotated, scene: Scene | None) -> None:
        self.item, self.scene = item, scene
        self._read: Composition | None = None

    @property
    def composition(self) -> Composition | None:
        """What the class raster says; None without one, or where few of its pixels count."""
        if self._read is None and self.item.class_map is not None:
            self._read = read_composition(self.item.class_map)
        known = self._read
        return known if known is not None and known.counted >= COUNTED else None

    @property
    def told(self) -> dict[str, float]:
        """Shares of the classes that cover enough to be told, largest first."""
        shares = self.item.fractions
        if not shares and self.composition is not None:
            shares = self.composition.fractions
        ranked = sorted(shares.items(), key=lambda pair: (-pair[1], pair[0]))
        return {name: share for name, share in ranked if share >= LEAST and name != "flood"}


def ground(name: str, chance: Random) -> Noun:
    """A word for a class that covers ground, one without an article where there is one."""
    return _chosen(words.names_for(name), chance)


def _chosen(names: Sequence[str], chance: Random) -> Noun:
    bare = [each for each in names if words.is_many(each) or words.is_mass(each)]
    return words.noun(chance.choice(bare)) if bare else words.noun(words.with_article(chance.choice(names)))


def together(names: Sequence[str], chance: Random) -> Noun:
    """Classes as one phrase: each a word, in a list one that is no list itself where there is one."""
    plain = {name: [word for word in words.names_for(name) if not CONJUNCTION & {*word.split()}] for name in names}
    chosen = [_chosen((len(names) > 1 and plain[name]) or words.names_for(name), chance) for name in names]
    nouns = list({each.text: each for each in chosen}.values())
    return Noun(words.joined([f"{each:a}" for each in nouns]), len(nouns) > 1 or nouns[0].many)


def fractions(seen: Seen, chance: Random) -> Fields:
    """How much of each class there is."""
    told = seen.told
    if not told or "flood" in seen.item.fractions:
        return {}
    names = {name: ground(name, chance) for name in told}
    ranked = list(told)
    top = told[ranked[0]]
    fields: Fields = {"percent": round(100 * top)}
    if top > NEARLY_ALL:
        return fields | {"whole": names[ranked[0]]}
    if len(ranked) > 1 and told[ranked[1]] < top:
        fields["less"] = names[ranked[1]]
    fields |= dict(zip(("first", "second", "third"), (names[name] for name in ranked), strict=False))
    fields |= {"amount": amount(top), "most" if top > 0.5 else "largest": names[ranked[0]]}
    for name in ranked[1:]:
        size = "little" if told[name] < LITTLE else "some" if told[name] < SOME else ""
        fields |= {size: names[name]} if size and size not in fields else {}
    if len(ranked) > 1:
        shares = [f"{round(100 * told[name])}% {names[name]}" for name in ranked[:MOST_NAMED]]
        second = told[ranked[1]]
        fields |= {"percent_second": round(100 * second), "amount_second": amount(second)}
        fields |= {"breakdown": words.joined(shares)}
    return fields


def amount(share: float) -> str:
    """A share (0 to 1) in words that are true of it: "about a third", "less than a tenth"."""
    for exact, name in ABOUT:
        if abs(share - exact) <= min(0.03, exact / 5):
            return f"about {name}"
    return next(text for least, text in BOUNDS if share > least)


def positions(seen: Seen, chance: Random) -> Fields:
    """Where one or two classes lie."""
    known = seen.composition
    if known is None:
        return {}
    places = {name: where for name in seen.told if (where := placed(known.cells.get(name, ()), chance))}
    if not places:
        return {}
    name, *others = chance.sample(sorted(places), len(places))
    fields: Fields = {"one": ground(name, chance), "where": places[name]}
    other = next((each for each in others if places[each] != places[name]), None)
    return fields | ({"other": ground(other, chance), "where_other": places[other]} if other else {})


def placed(cells: Sequence[str], chance: Random) -> str:
    """Cells of the 3 x 3 grid as a phrase of place; "" for none, and for shapes no short phrase fits."""
    for shape, phrases in SHAPES.items():
        if shape == frozenset(cells):
            return chance.choice(phrases)
    if not 1 <= len(cells) <= 3:
        return ""
    styles = (("top", "bottom"), ("upper", "lower"))
    top, bottom = chance.choice(styles)
    named = [cell.replace("top", top).replace("bottom", bottom) for cell in cells]
    return f"in the {words.joined(named)}"


def _grid(rows: Sequence[int], columns: Sequence[int]) -> frozenset[str]:
    return frozenset(words.cell_words((column + 0.5) / 3, (row + 0.5) / 3) for row in rows for column in columns)


ALL = (0, 1, 2)
SHAPES: dict[frozenset[str], tuple[str, ...]] = {
    _grid((0,), ALL): ("at the top", "along the top", "along the upper edge", "across the top"),
    _grid((1,), ALL): ("across the middle", "in a band across the middle", "from left to right through the middle"),
    _grid((2,), ALL): ("at the bottom", "along the bottom", "along the lower edge", "across the bottom"),
    _grid(ALL, (0,)): ("on the left", "along the left side", "down the left side"),
    _grid(ALL, (1,)): ("down the middle", "in a band from top to bottom through the middle"),
    _grid(ALL, (2,)): ("on the right", "along the right side", "down the right side"),
    _grid((0, 1), ALL): ("in the upper two thirds", "at the top and across the middle"),
    _grid((1, 2), ALL): ("in the lower two thirds", "at the bottom and across the middle"),
    _grid(ALL, (0, 1)): ("in the left two thirds", "on the left and down the middle"),
    _grid(ALL, (1, 2)): ("in the right two thirds", "on the right and down the middle"),
    _grid((1,), (1,)): ("in the centre", "in the middle", "at the centre"),
    _grid((0,), (0,)): ("in the top left", "in the top left corner", "in the upper left", "at the upper left"),
    _grid((0,), (2,)): ("in the top right", "in the top right corner", "in the upper right", "at the upper right"),
    _grid((2,), (0,)): ("in the bottom left", "in the bottom left corner", "in the lower left", "at the lower left"),
    _grid((2,), (2,)): (
        "in the bottom right",
        "in the bottom right corner",
        "in the lower right",
        "at the lower right",
    ),
    _grid((0,), (1,)): ("in the top centre", "in the middle of the upper edge"),
    _grid((2,), (1,)): ("in the bottom centre", "in the middle of the lower edge"),
    _grid((1,), (0,)): ("in the middle left", "in the middle of the left edge"),
    _grid((1,), (2,)): ("in the middle right", "in the middle of the right edge"),
}


def adjacency(seen: Seen, chance: Random) -> Fields:
    """Which classes border on which."""
    known, told = seen.composition, seen.told
    pairs = [pair for pair in known.neighbours if {*pair} <= told.keys()] if known else []
    if not pairs:
        return {}
    one, other = chance.choice(pairs)
    if chance.random() < 0.5:
        one, other = other, one
    fields: Fields = {"one": ground(one, chance), "other": ground(other, chance)}
    beside = [b if a == one else a for a, b in pairs if one in (a, b)]
    if len(beside) > 1:
        fields["others"] = together(sorted(chance.sample(beside, 2)), chance)
    apart = [pair for pair in pairs if not {*pair} & {one, other}]
    if apart:
        third, fourth = chance.choice(apart)
        fields |= {"third": ground(third, chance), "fourth": ground(fourth, chance)}
    return fields


def indices(seen: Seen, chance: Random) -> Fields:
    """How green and how wet the bands say it is; nothing without a scene in reflectances."""
    scene = seen.scene
    if scene is None or scene.sensor.units != "reflectance" or not scene.valid.any():
        return {}
    if not (scene.has("red") and scene.has("green") and (scene.has("nir") or scene.has("nir08"))):
        return {}
    layers = [quantity(name, scene)[scene.valid] for name in ("NDVI", "NDWI")]
    if not all(np.isfinite(layer).any() for layer in layers):
        return {}
    ndvi, ndwi = (float(np.nanmean(np.clip(layer, -1, 1))) for layer in layers)  # dark pixels lead far outside
    fields: Fields = {"ndvi": f"{ndvi:.2f}", "ndwi": f"{ndwi:.2f}"}
    fields["green"] = words.noun(chance.choice(next(said for least, said in GREENNESS if ndvi >= least)))
    rule = rule_for("water", scene)
    if rule is not None:
        share = float(apply(rule, scene)[scene.valid].mean())
        said = next(said for least, said in WETNESS if share >= least)
        fields |= {"wet": chance.choice(said)} if said else {}
    told = seen.told
    main = next(iter(told), "")
    return fields | ({"first": ground(main, chance)} if main and told[main] > 0.5 else {})
