"""Captions out of land cover, objects, labels, dates and floods: true sentences in many wordings."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from data_engine.recipes import ground_fields as ground
from data_engine.recipes import named_fields as named
from data_engine.recipes import words
from data_engine.sample import Origin, Sample, shown
from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from random import Random

    from data_engine.annotated import Annotated
    from rsvlm.scene import Scene

VERSION = 1
GROUPS: dict[str, Callable[[ground.Seen, Random], ground.Fields]] = {
    "fractions": ground.fractions,
    "positions": ground.positions,
    "adjacency": ground.adjacency,
    "indices": ground.indices,
    "season_place": named.season_place,
    "objects": named.objects,
    "tags": named.tags,
    "labels": named.labels,
    "scene": named.scene,
    "flood": named.flood,
}


def make(
    item: Annotated,
    *,
    source: str,
    seed: int,
    count: int = 5,
    groups: Sequence[str] = (),
    scene: Scene | None = None,
) -> Iterator[Sample]:
    """Yield the captions people wrote, as they are, and `count` made ones, none twice; a pair of dates has none.

    Args:
        item: the annotated image.
        source: its name in the catalogue.
        seed: with the image's place and file it decides every choice.
        count: how many captions to make; fewer where there is less to say. The groups that apply take turns.
        groups: which of GROUPS and "own" to make; all where empty.
        scene: the image read; with it come captions about spectral indices and about its latitude.

    Raises DatasetError for a group that does not exist and for a class raster that cannot be described.
    """
    unknown = sorted({*groups} - {*GROUPS, "own"})
    if unknown:
        raise DatasetError(f"there are no captions {', '.join(unknown)}; known are own, {', '.join(GROUPS)}")
    if item.pair is not None:
        return
    image = shown(item.image, item.sensor, item.bands)
    own = tuple(dict.fromkeys(text for text in item.captions if text.strip())) if not groups or "own" in groups else ()
    wanted = [group for group in GROUPS if not groups or group in groups]
    for group, text in (*(("own", text) for text in own), *_made(item, wanted, seed, count, scene)):
        origin = Origin(source, item.place, item.split, f"captions/{group}@{VERSION}", seed)
        yield Sample("caption", text, origin, images=(image,))


def caption(item: Annotated, count: int, seed: int) -> list[str]:
    """Word an image in `count` ways out of its fractions of land cover or flood; its own captions go first.

    Args:
        item: an image with captions, or with fractions of land cover or flood; one with neither has nothing to word.
        count: how many captions to make where the image brings none; fewer where there is less to say.
        seed: with the image's place and file name it decides every choice.
    """
    if item.captions:
        return list(item.captions)
    if not item.fractions:
        return []
    return [text for _, text in _made(item, ("fractions", "flood"), seed, count, None)]


def _made(
    item: Annotated, groups: Sequence[str], seed: int, count: int, scene: Scene | None
) -> Iterator[tuple[str, str]]:
    """Groups and texts, the groups that have something to say taking turns in an order of chance."""
    first = item.image if isinstance(item.image, Path) else item.image[0]
    chance = words.chance_of(seed, "captions", item.place, first.parent.name, first.name)
    seen = ground.Seen(item, scene)
    able = [group for group in groups if GROUPS[group](seen, chance)]
    chance.shuffle(able)
    told: set[str] = set()
    for turn in range(3 * count if able else 0):
        if len(told) == count:
            return
        group = able[turn % len(able)]
        text = _worded(group, GROUPS[group](seen, chance), item.sensor, chance)
        if text not in told:
            told.add(text)
            yield group, text


def _worded(group: str, fields: ground.Fields, sensor: str, chance: Random) -> str:
    fields = {"image": words.noun(chance.choice(words.sensor_words(sensor))), **fields}
    fitting = [pattern for pattern, needed in _patterns(group) if needed <= fields.keys()]
    text = chance.choice(fitting).format(**fields)
    return text[:1].upper() + text[1:] if text.endswith(".") else text


@cache
def _patterns(group: str) -> tuple[tuple[str, frozenset[str]], ...]:
    """The patterns of a group, each with the fields it needs."""
    parse = string.Formatter().parse
    return tuple(
        (pattern, frozenset(name for _, name, _, _ in parse(pattern) if name))
        for pattern in words.templates("captions")[group]
    )
