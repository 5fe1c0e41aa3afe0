"""Captions out of land-cover fractions and flood shares, several wordings each."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data_engine.annotated import Annotated

LEAST = 0.03  # of the image; a class that covers less is not told
SYNONYMS = {
    "tree cover": ("forest", "trees", "woodland", "tree cover"),
    "shrubland": ("shrubs", "scrubland", "shrubland", "bushes"),
    "grassland": ("grassland", "meadows", "grass", "pasture"),
    "cropland": ("farmland", "crop fields", "agricultural fields", "cropland"),
    "built-up": ("buildings", "a town", "built-up area", "houses and roads", "urban area"),
    "bare or sparse vegetation": ("bare ground", "desert", "bare land", "sparse vegetation"),
    "snow and ice": ("snow", "snow and ice", "a glacier"),
    "permanent water": ("water", "a lake", "open water", "a river or lake"),
    "herbaceous wetland": ("wetland", "marsh", "swamp"),
    "mangroves": ("mangroves", "mangrove forest"),
    "moss and lichen": ("moss and lichen", "tundra"),
}
SENSOR_WORDS = {
    "": ("image", "satellite image"),
    "hls": ("satellite image", "multispectral satellite image", "Landsat image", "Sentinel-2 image"),
    "ombria-s1": ("radar image", "Sentinel-1 radar image", "SAR image", "satellite radar picture"),
    "ombria-s2": ("satellite image", "Sentinel-2 image", "false colour satellite image", "optical image"),
}
WHOLE = ("{sensor} of {first}", "the scene is covered by {first}", "{first} everywhere", "a landscape of {first}")
MIXED = (
    "{sensor} of {first} with some {second}",
    "mostly {first} and some {second}",
    "{first} next to {second}",
    "a landscape of {first} and {second}",
    "there is {second} among {first}",
)
THREE = ("{sensor} of {first}, {second} and {third}", "mostly {first}, with {second} and a little {third}")
FLOODED = (
    "{sensor} of a flooded area",
    "flooded fields in a {sensor}",
    "flood water covers {amount} of the land",
    "a river has flooded {amount} of the land",
    "{sensor} after a flood",
)
DRY = ("{sensor} of land without flooding", "fields and villages that are not flooded", "{sensor} before a flood")


def caption(item: Annotated, count: int, seed: int) -> list[str]:
    """Word an annotated image in `count` ways; its own captions go first.

    Args:
        item: an image with captions, or with fractions of land cover or flood; one with neither has nothing to word.
        count: how many captions to make where the image brings none.
        seed: with the image's place and file name it decides every choice.
    """
    if item.captions:
        return list(item.captions)
    if not any(share >= LEAST for share in item.fractions.values()) and "flood" not in item.fractions:
        return []
    first = item.image if isinstance(item.image, Path) else item.image[0]
    chance = random.Random(f"{seed}-{item.place}-{first.parent.name}-{first.name}")
    make = _flood if "flood" in item.fractions else _land_cover
    return [make(item, chance) for _ in range(count)]


def _land_cover(item: Annotated, chance: random.Random) -> str:
    ranked = sorted(((share, name) for name, share in item.fractions.items() if share >= LEAST), reverse=True)
    words = [chance.choice(SYNONYMS.get(name, (name,))) for _, name in ranked[:3]]
    patterns = (
        WHOLE
        if len(words) == 1 or ranked[0][0] > 0.95
        else THREE
        if len(words) == 3 and chance.random() < 0.5
        else MIXED
    )
    first, second, third = (*words, "", "")[:3]
    return chance.choice(patterns).format(
        sensor=chance.choice(SENSOR_WORDS.get(item.sensor, SENSOR_WORDS[""])), first=first, second=second, third=third
    )


def _flood(item: Annotated, chance: random.Random) -> str:
    share = item.fractions["flood"]
    amount = "most" if share > 0.5 else "much" if share > 0.2 else "a part"
    pattern = chance.choice(FLOODED if share >= LEAST else DRY)
    return pattern.format(sensor=chance.choice(SENSOR_WORDS.get(item.sensor, SENSOR_WORDS[""])), amount=amount)
