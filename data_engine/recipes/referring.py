"""Referring expressions that mean exactly the objects they are given with: by class, size, place, relation, order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import rasterio.features
from scipy import ndimage

from data_engine.recipes import words
from data_engine.recipes.unambiguous import CLEARLY, ORDINALS, Thing, View, bounds, expressions, is_plural
from data_engine.sample import Origin, Sample, shown
from data_engine.sources.coco import ring_area
from rsvlm.raster import open_raster, read_labels

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from random import Random

    from numpy.typing import NDArray

    from data_engine.annotated import Annotated, ClassMap, Ring
    from data_engine.recipes.unambiguous import Expression
    from data_engine.sample import Shown

VERSION = 1
KINDS = ("class", "attribute", "position", "relation", "ordinal", "implicit", "absent")
WHOLE = 0.95  # of a class's pixels in one part, of an outline's pixels in its class: taken for all of it
LEAST_GROUND = 0.005  # of the image; smaller parts of a class map are not spoken of
ADJECTIVES = ("built-up", "residential", "urban", "industrial", "commercial")  # names of land that are no nouns
WHERE = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "further up than", "higher up in the image than"),
    "below": ("below", "further down than", "lower down in the image than"),
    "nearest": ("closest to", "nearest to"),
}
MOST = {"largest": ("largest", "biggest"), "smallest": ("smallest",)}
PLACES = {
    "top left": ("at the top left", "in the top left corner", "in the upper left part"),
    "top centre": ("at the top centre", "in the middle of the upper part"),
    "top right": ("at the top right", "in the top right corner", "in the upper right part"),
    "middle left": ("at the middle left", "in the middle of the left side"),
    "centre": ("in the centre", "in the middle", "in the center"),
    "middle right": ("at the middle right", "in the middle of the right side"),
    "bottom left": ("at the bottom left", "in the bottom left corner", "in the lower left part"),
    "bottom centre": ("at the bottom centre", "in the middle of the lower part"),
    "bottom right": ("at the bottom right", "in the bottom right corner", "in the lower right part"),
}


def make(item: Annotated, *, source: str, seed: int, count: int = 8) -> Iterator[Sample]:
    """Yield an image's own expressions, then at most `count` made ones, of as many kinds as it allows.

    Boxes are pixels; polygons come beside them where the source outlines every object of the category. Class maps
    give the connected parts of a class where one is all of it or clearly the largest. Same seed, same samples.
    Raises ImageryError, BandError or SensorError where the image or its class map cannot be opened.
    """
    yield from _own(item, source, seed)
    if count < 1 or not (item.class_map or any(target.kind == "class" for target in item.targets)):
        return
    view = view_of(item)
    file = item.image[0] if isinstance(item.image, tuple) else item.image
    chance = words.chance_of(seed, "referring", item.place, file.name)
    said: set[str] = set()
    for expression in _in_turn(expressions(view, _table()["uses"]), count, chance):
        text = wording(expression, view, chance)
        if text not in said and len(said) < count:
            said.add(text)
            origin = Origin(source, item.place, item.split, f"referring/{expression.kind}@{VERSION}", seed)
            yield _sample(view, expression, text, shown(item.image, item.sensor, item.bands), origin)


def view_of(item: Annotated) -> View:
    """The things of an annotation; the image's header is read for its size, its class map in full."""
    things: list[Thing] = []
    absent: set[str] = set()
    masks: dict[str, Path] = {}
    for target in item.targets:
        category = words.names_for(target.phrase)[0]
        if target.kind != "class":
            continue
        if target.mask:
            masks[category] = target.mask
        elif not (target.boxes or target.polygons):
            absent.add(category)
        boxes = target.boxes or tuple(bounds(ring) for ring in target.polygons)
        rings = target.polygons or ((),) * len(boxes)
        things += [Thing(category, box, ring) for box, ring in zip(boxes, rings, strict=True)]
    ground = _Ground.of(item.class_map, {thing.category for thing in things} | {*masks} | absent)
    gone = (absent | {*ground.absent}) - {thing.category for thing in things} - {*masks}
    return View(
        size=ground.size or _size(item),
        things=(*things, *ground.parts),
        absent=tuple(sorted(gone)),
        ground=ground.categories,
        whole=ground.whole,
        masks=tuple(sorted(masks.items())),
    )


def wording(expression: Expression, view: View, chance: Random) -> str:
    """One of the ways to say it. A class is called by a name that no other class of the image has."""
    name = _name(expression.category, view, chance)
    ground = expression.category in view.ground
    one = expression.kind == "class" and len(expression.meant) == 1 and not is_plural(name) and chance.random() < 0.7
    form = expression.form or ("class_one" if one else expression.kind)
    if ground and form in ("class", "class_one", "attribute"):
        form = "ground" if expression.kind == "class" else "ground_largest"
    who, what = expression.detail.split(" | ")[:2] if form == "implicit" else ("", "")
    number = ORDINALS.index(expression.detail) + 1 if form == "ordinal" else 0
    pattern = chance.choice(_table()[form])
    return pattern.format(
        noun=name,
        nouns=name if is_plural(name) else words.plural(name),
        most=chance.choice(MOST.get(expression.detail, ("",))),
        place=chance.choice(PLACES.get(expression.detail, ("",))),
        where=chance.choice(WHERE.get(expression.detail, ("",))),
        other=_name(expression.other, view, chance) if form == "relation" else "",
        ordinal=expression.detail,
        number=number,
        side=expression.other,
        who=who,
        what=what,
    )


@dataclass(frozen=True, slots=True)
class _Ground:
    """What a class map says: its categories, their parts worth speaking of, those in one part, those not there."""

    size: tuple[int, int] | None = None  # width, height: those of the image
    categories: tuple[str, ...] = ()
    parts: tuple[Thing, ...] = ()
    whole: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()

    @classmethod
    def of(cls, class_map: ClassMap | None, marked: set[str]) -> _Ground:
        """Read a class map; categories that are `marked` as objects too are left out."""
        if class_map is None:
            return cls()
        codes = read_labels(class_map.path, band=class_map.band)
        numbers: dict[str, list[int]] = {}
        for code, name in class_map.codes.items():
            if int(code) not in class_map.ignore:
                numbers.setdefault(words.names_for(name)[0], []).append(int(code))
        named = {name: np.isin(codes, numbers[name]) for name in sorted({*numbers} - marked)}
        parts = {name: _largest_part(pixels) for name, pixels in named.items()}
        found = [Thing(name, bounds(ring), ring, ground=True) for name, (ring, _) in parts.items() if ring]
        return cls(
            size=(codes.shape[1], codes.shape[0]),
            categories=tuple(named),
            parts=tuple(found),
            whole=tuple(name for name, (ring, share) in parts.items() if ring and share >= WHOLE),
            absent=tuple(name for name, pixels in named.items() if not pixels.any()),
        )


def _largest_part(pixels: NDArray[np.bool_]) -> tuple[Ring, float]:
    """Outline along pixel edges of the clearly largest connected part, and its share of the class's pixels.

    () where no part is clearly the largest, it is small, or it has holes that the outline would fill.
    """
    labels, _ = ndimage.label(pixels)
    sizes = np.bincount(labels.ravel())[1:]
    if not len(sizes):
        return (), 0.0
    largest = int(np.argmax(sizes))
    size, second = int(sizes[largest]), int(np.delete(sizes, largest).max(initial=0))
    if size < max(CLEARLY * second, LEAST_GROUND * pixels.size):
        return (), 0.0
    part = (labels == largest + 1).astype(np.uint8)
    (shape, _), *_ = rasterio.features.shapes(part, mask=part > 0)
    ring: Ring = tuple((float(x), float(y)) for x, y in shape["coordinates"][0][:-1])
    return (ring if size >= WHOLE * ring_area(ring) else ()), size / int(sizes.sum())


def _size(item: Annotated) -> tuple[int, int]:
    """Width and height of an image, of its finest band."""
    opened: dict[Path, tuple[str, ...] | None]
    if isinstance(item.image, tuple):
        bands: tuple[str | None, ...] = item.bands or (None,) * len(item.image)
        opened = {file: (band,) if band else None for file, band in zip(item.image, bands, strict=True)}
    else:
        opened = {item.image: item.bands or None}
    sizes = []
    for file, names in opened.items():
        with open_raster(file, sensor=item.sensor, bands=names) as raster:
            sizes.append((raster.grid.width, raster.grid.height))
    return max(sizes)


@cache
def _table() -> dict[str, tuple[str, ...]]:
    return words.templates("referring")


def _name(category: str, view: View, chance: Random) -> str:
    """A name of the category that no other category of the image answers to; several only where it means several."""
    others = {name for other in view.known() - {category} for name in words.names_for(other)}
    own, *synonyms = words.names_for(category)
    clear = [name for name in synonyms if name not in others and not name.startswith(("a ", "an "))]
    if category not in view.ground:
        clear = [name for name in clear if is_plural(name) == is_plural(own)]
    elif own in ADJECTIVES and clear:
        return chance.choice(clear)
    return chance.choice([own, *clear])


def _in_turn(found: Iterable[Expression], count: int, chance: Random) -> Iterator[Expression]:
    """Expressions in random order, one of each kind before the next of any; few that mean nothing."""
    kinds: dict[str, list[Expression]] = {kind: [] for kind in KINDS}
    for expression in found:
        kinds[expression.kind].append(expression)
    for group in kinds.values():
        chance.shuffle(group)
    there = sum(len(group) for kind, group in kinds.items() if kind != "absent")
    kinds["absent"] = kinds["absent"][: max(1, min(there, count) // 3)]
    order = list(KINDS)
    chance.shuffle(order)
    for rank in range(max(map(len, kinds.values()))):
        yield from (kinds[kind][rank] for kind in order if rank < len(kinds[kind]))


def _sample(view: View, expression: Expression, text: str, image: Shown, origin: Origin) -> Sample:
    meant = [view.things[i] for i in expression.meant]
    everything = expression.kind != "absent" and list(expression.meant) == view.of(expression.category)
    masks = dict(view.masks)
    return Sample(
        kind="referring",
        text=text,
        origin=origin,
        images=(image,),
        type=expression.kind,
        boxes=tuple(thing.box for thing in meant),
        polygons=tuple(thing.ring for thing in meant) if all(thing.ring for thing in meant) else (),
        mask=str(masks[expression.category]) if everything and expression.category in masks else "",
    )


def _own(item: Annotated, source: str, seed: int) -> Iterator[Sample]:
    for target in item.targets:
        if target.kind == "referring":
            yield Sample(
                kind="referring",
                text=target.phrase,
                origin=Origin(source, item.place, item.split, f"referring/own@{VERSION}", seed),
                images=(shown(item.image, item.sensor, item.bands),),
                type="own",
                boxes=target.boxes,
                polygons=target.polygons,
                mask=str(target.mask or ""),
            )
