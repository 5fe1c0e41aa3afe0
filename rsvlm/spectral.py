"""Spectral indices through spyndex, radar thresholds, clouds: what can be measured without any learned model."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import uniform_filter

from rsvlm.errors import BandError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rsvlm.scene import Scene

CLOUD = "cloud"  # a rule's quantity that is no index: the cloud tests below
CLOUD_BANDS = ("blue", "green", "red", "swir22")
BRIGHT = 0.18  # mean visible reflectance above which a pixel can be cloud
NDVI_CEILING = 0.8  # above this it is plants, however bright
SNOW_NDSI = 0.4  # above this it is snow; Fmask itself lets clouds reach 0.8 and sorts them out later
DAZZLING = 0.5  # above this, and bright in the short-wave infrared too, only cloud remains (sensors saturate there)


@dataclass(frozen=True, slots=True)
class Rule:
    """One way to see a concept: an index (or radar band) compared with a published threshold."""

    concept: str
    quantity: str  # a spyndex index, or a radar band
    units: tuple[str, ...]  # pixel units it holds for
    confidence: float
    source: str
    above: float | None = None
    below: float | None = None
    where_band: str | None = None  # and only where this band is above, or below, a value
    where_above: float = -np.inf
    where_below: float = np.inf
    looks: int = 1  # radar: side of the window whose power is averaged first, against speckle

    @property
    def how(self) -> str:
        """The rule in words, for `Fact.how`."""
        text = (
            f"{self.quantity} {'<' if self.above is None else '>'} {self.below if self.above is None else self.above:g}"
        )
        if self.where_band is not None and self.where_above > -np.inf:
            text += f" and {self.where_band} > {self.where_above:g}"
        if self.where_band is not None and self.where_below < np.inf:
            text += f" and {self.where_band} < {self.where_below:g}"
        if self.looks > 1:
            text += f" over {self.looks} x {self.looks} pixels"
        return f"{text} ({self.source})"


@dataclass(frozen=True, slots=True)
class Concept:
    """Something measurable: the words that mean it and the rules that find it."""

    name: str
    exact: frozenset[str]
    near: frozenset[str]
    rules: tuple[Rule, ...]


def _concept(name: str, table: dict[str, Any]) -> Concept:
    rules = tuple(Rule(concept=name, **{**rule, "units": tuple(rule["units"])}) for rule in table["rules"])
    return Concept(name, frozenset(table["exact"]), frozenset(table["near"]), rules)


_TABLE = tomllib.loads(resources.files("rsvlm").joinpath("concepts.toml").read_text("utf-8"))
SMALL_WORDS = frozenset(_TABLE.pop("small_words"))
CONCEPTS: dict[str, Concept] = {name: _concept(name, table) for name, table in _TABLE.items()}


def concept_of(phrase: str) -> str | None:
    """The measurable concept a phrase means ("the flooded area" -> "water"), or None.

    The phrase must hold nothing but the concept's words and small words: "water tower" is no water.
    """
    words = _words(phrase)
    for concept in CONCEPTS.values():
        if phrase == concept.name or (words and words <= concept.exact | concept.near):
            return concept.name
    return None


def is_exact(phrase: str, concept: str) -> bool:
    """Whether a rule for the concept measures just what the phrase says (a "river" is not all water)."""
    return phrase == concept or _words(phrase) <= CONCEPTS[concept].exact


def _words(phrase: str) -> set[str]:
    return set(re.findall(r"[a-z]+", phrase.lower())) - SMALL_WORDS


def rule_for(concept: str, scene: Scene) -> Rule | None:
    """The first rule for a concept that this scene's bands and units allow."""
    return next((rule for rule in CONCEPTS[concept].rules if _allows(rule, scene)), None)


def measurable(scene: Scene) -> list[Rule]:
    """Every concept this scene can be measured for, one rule each, in a fixed order."""
    rules = (rule_for(concept, scene) for concept in CONCEPTS)
    return [rule for rule in rules if rule is not None]


def apply(rule: Rule, scene: Scene) -> NDArray[np.bool_]:
    """Where the rule holds: bool (H, W), false where the scene is not valid or the quantity is undefined."""
    values = quantity(rule.quantity, scene)
    if rule.looks > 1:
        values = multilook(values, scene.valid, rule.looks)
    holds = values > rule.above if rule.above is not None else values < np.float32(rule.below or 0.0)
    if rule.where_band is not None:
        layer = _common(rule.where_band, scene)
        holds &= (layer > rule.where_above) & (layer < rule.where_below)
    found: NDArray[np.bool_] = holds & scene.valid
    return found


def multilook(decibels: NDArray[np.float32], valid: NDArray[np.bool_], side: int) -> NDArray[np.float32]:
    """Average backscatter in power over a square window of valid pixels, back to dB: (H, W) -> (H, W)."""
    power = uniform_filter(np.where(valid, 10 ** (decibels / 10), 0), side, mode="constant")
    weight = uniform_filter(valid.astype(np.float32), side, mode="constant")
    return np.asarray(10 * np.log10(np.maximum(power / np.maximum(weight, 1e-6), 1e-6)), np.float32)


def quantity(name: str, scene: Scene) -> NDArray[np.float32]:
    """A spectral index by its spyndex name, or a band: float32 (H, W), NaN where it is undefined.

    Raises BandError naming the bands that are missing.
    """
    import spyndex

    if name == CLOUD and (hidden := clouds(scene)) is not None:
        return hidden.astype(np.float32)
    if name not in spyndex.indices:
        return scene.band(name)
    wanted = spyndex.indices[name].bands
    layers = {}
    for letter in wanted:
        layer = _layer(letter, scene)
        if layer is None:
            common = spyndex.bands[letter].common_name
            raise BandError(f"{name} needs the band {common}; the scene has {', '.join(scene.band_names)}")
        layers[letter] = layer.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.asarray(spyndex.computeIndex(name, params=layers), dtype=np.float32)
    values[~np.isfinite(values)] = np.nan
    return values


def clouds(scene: Scene) -> NDArray[np.bool_] | None:
    """Likely clouds, bool (H, W), or None where the bands do not allow it.

    The basic, whiteness and haze tests of Fmask (Zhu and Woodcock 2012, equations 1 to 3), with its temperature test
    where a thermal band is there, and for bright pixels only: under a low sun the haze test alone calls whole
    landscapes cloud. It over-detects on bright roofs and sand and misses thin cirrus.
    """
    if not scene.has(*CLOUD_BANDS) or scene.sensor.units != "reflectance":
        return None
    blue, green, red, swir = (scene.band(name) for name in CLOUD_BANDS)
    visible = np.stack([blue, green, red])
    mean = np.maximum(visible.mean(0), 1e-3)
    whiteness = np.abs(visible - mean).sum(0) / mean
    likely = (swir > 0.03) & (mean > BRIGHT) & (whiteness < 0.7) & (blue - 0.5 * red - 0.08 > 0)
    if scene.has("nir") or scene.has("nir08"):
        likely &= _difference(_common("nir", scene), red) < NDVI_CEILING
    if scene.has("swir16"):
        likely &= _difference(green, scene.band("swir16")) < SNOW_NDSI
    if scene.has("swir16", "nir"):
        likely &= scene.band("nir") > 0.75 * scene.band("swir16")
    if scene.has("lwir11"):
        likely &= scene.band("lwir11") < 300.15
    likely |= (mean > DAZZLING) & (swir > 0.3)
    found: NDArray[np.bool_] = likely & scene.valid
    return found


def _difference(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """Their normalized difference, NaN where they sum to 0.

    Not by spyndex, which reads its catalogue anew for every index: that doubled what the clouds of a chip cost.
    """
    total = one + other
    found: NDArray[np.float32] = np.full_like(total, np.nan)
    np.divide(one - other, total, out=found, where=total != 0)
    return found


def _layer(letter: str, scene: Scene) -> NDArray[np.float32] | None:
    """The band spyndex calls by this letter; the narrow near infrared stands in for the broad one."""
    import spyndex

    common = spyndex.bands[letter].common_name
    return _common(common, scene) if scene.has(common) or (common == "nir" and scene.has("nir08")) else None


def _common(name: str, scene: Scene) -> NDArray[np.float32]:
    return scene.band("nir08" if name == "nir" and not scene.has("nir") else name)


def _has_index(name: str, scene: Scene) -> bool:
    import spyndex

    return all(_layer(letter, scene) is not None for letter in spyndex.indices[name].bands)


def _allows(rule: Rule, scene: Scene) -> bool:
    if scene.sensor.units not in rule.units:
        return False
    if scene.sensor.kind == "sar":
        return rule.quantity in scene.band_names
    if rule.quantity == CLOUD:
        return scene.has(*CLOUD_BANDS)
    there = rule.where_band is None or scene.has(rule.where_band) or (rule.where_band == "nir" and scene.has("nir08"))
    return there and _has_index(rule.quantity, scene)
