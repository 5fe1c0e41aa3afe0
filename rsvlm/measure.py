"""From a plan and a scene to facts, each with its unit, its method and its confidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import softmax

from rsvlm import spectral
from rsvlm.answer import Fact
from rsvlm.findings import (
    LEARNED_CONFIDENCE,
    MIN_SHARE,
    TEMPERATURE,
    Finding,
    count_parts,
    enlarge_mask,
    find,
    regions_of,
    vocabulary,
)
from rsvlm.relations import SIDES, combine, narrow

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from rsvlm.interfaces import Encoder
    from rsvlm.language.plan import Plan
    from rsvlm.scene import Region, Scene

SURE_RULE = 0.6  # rules at least this sure decide whether water, snow or cloud is told
LEAST_SIDE = 32  # pixels; a smaller picture is not described in words
LEAST_SHARE = 0.2  # a description less likely than this is not told
AREA_UNITS = {"ha": 1e4, "km2": 1e6, "m2": 1.0}


@dataclass(frozen=True)
class Measured:
    """What measuring a plan gave; `reason` is set when it could not be answered."""

    facts: tuple[Fact, ...] = ()
    regions: tuple[Region, ...] = ()
    reason: str = ""


def measure(plan: Plan, scene: Scene, encoder: Encoder) -> Measured:
    """Answer a plan about one scene with facts and regions.

    Returns a Measured with a reason, and no facts, where the scene does not allow an answer.
    """
    if not scene.valid.any() and plan.task not in ("metadata", "abstain"):
        return Measured(reason="the scene holds no valid pixels")
    return MEASURES[plan.task](plan, scene, encoder)


def area_fact(finding: Finding, unit: str) -> Fact:
    """Ground area of a finding; raises GeoreferenceError without a CRS."""
    value = finding.mask.area_m2() / AREA_UNITS[unit]
    how = f"{finding.how}, {int(finding.mask.pixels.sum()):,} pixels on the WGS84 ellipsoid"
    return Fact(f"area of {finding.phrase}", round(value, 2), unit, how, finding.confidence)


def share_fact(finding: Finding) -> Fact:
    """Percent of the valid pixels."""
    return Fact(f"share of {finding.phrase}", round(100 * finding.share, 2), "percent", finding.how, finding.confidence)


def look_for(plan: Plan, scene: Scene, encoder: Encoder) -> Finding:
    """Find a plan's target, narrowed by its relation to the other phrase or to a side of the scene."""
    finding = find(plan.target, scene, encoder)
    if plan.relation not in (*SIDES, "next to") or (plan.relation == "next to" and not plan.other):
        return finding
    return narrow(finding, plan.relation, find(plan.other, scene, encoder) if plan.other else None)


def _area(plan: Plan, scene: Scene, encoder: Encoder) -> Measured:
    finding = look_for(plan, scene, encoder)
    regions = regions_of(finding, scene.source)
    if scene.grid.crs is None:
        if plan.unit in AREA_UNITS:
            return Measured(reason=f"the image has no coordinate system, so it cannot be measured in {plan.unit}")
        return Measured((share_fact(finding),), regions)
    facts = [share_fact(finding)]
    if plan.unit != "percent":
        facts.insert(0, area_fact(finding, plan.unit if plan.unit in AREA_UNITS else "ha"))
    return Measured(tuple(facts), regions)


def _presence(plan: Plan, scene: Scene, encoder: Encoder) -> Measured:
    if plan.relation in ("and", "or") and plan.other:
        return _presence_of_two(plan, scene, encoder)
    finding = look_for(plan, scene, encoder)
    facts = [Fact(plan.target, finding.present, "", finding.how, finding.confidence)]
    if finding.present:
        facts.append(share_fact(finding))
    return Measured(tuple(facts), regions_of(finding, scene.source) if finding.present else ())


def _presence_of_two(plan: Plan, scene: Scene, encoder: Encoder) -> Measured:
    pair = [find(phrase, scene, encoder) for phrase in (plan.target, plan.other)]
    confidence = min(finding.confidence for finding in pair)
    name = f"{plan.target} {plan.relation} {plan.other}"
    how = "; ".join(finding.how for finding in pair)
    verdict = Fact(name, combine(pair[0], pair[1], plan.relation), "", how, confidence)
    regions = tuple(region for finding in pair if finding.present for region in regions_of(finding, scene.source))
    return Measured((verdict, *(share_fact(finding) for finding in pair)), regions)


def _count(plan: Plan, scene: Scene, encoder: Encoder) -> Measured:
    finding = look_for(plan, scene, encoder)
    how = f"{finding.how}; connected parts, so things that touch count as one"
    facts = (Fact(f"count of {plan.target}", count_parts(finding), "count", how, 0.6 * finding.confidence),)
    return Measured(facts, regions_of(finding, scene.source))


def _comparison(plan: Plan, scene: Scene, encoder: Encoder) -> Measured:
    one, other = find(plan.target, scene, encoder), find(plan.other, scene, encoder)
    if not one.present and not other.present:
        return Measured(reason=f"neither {plan.target} nor {plan.other} was found")
    gap = one.share - other.share
    relation = "equal" if abs(gap) < MIN_SHARE else "more" if gap > 0 else "less"
    confidence = min(one.confidence, other.confidence)
    verdict = Fact(
        "comparison", f"{relation} {plan.target} than {plan.other}", "", f"{one.how}; {other.how}", confidence
    )
    if relation == "equal":
        verdict = Fact("comparison", f"as much {plan.target} as {plan.other}", "", verdict.how, confidence)
    return Measured((verdict, share_fact(one), share_fact(other)))


def _locate(plan: Plan, scene: Scene, encoder: Encoder) -> Measured:
    finding = look_for(plan, scene, encoder)
    if not finding.present:
        return Measured((Fact(plan.target, False, "", finding.how, finding.confidence),))
    regions = regions_of(finding, scene.source)
    where = Fact(f"position of {plan.target}", position_words(regions[0], scene), "", finding.how, finding.confidence)
    found = Fact(f"regions of {plan.target}", count_parts(finding), "count", finding.how, finding.confidence)
    return Measured((found, where, share_fact(finding)), regions)


def position_words(region: Region, scene: Scene) -> str:
    """Where a region's middle lies on a 3 x 3 grid of the picture: "top left", "centre"."""
    middle = region.polygon.centroid
    row = ("top", "middle", "bottom")[min(2, int(3 * middle.y / scene.shape[0]))]
    col = ("left", "centre", "right")[min(2, int(3 * middle.x / scene.shape[1]))]
    return "centre" if (row, col) == ("middle", "centre") else f"{row} {col}"


def _describe(plan: Plan, scene: Scene, encoder: Encoder) -> Measured:
    facts = []
    if min(scene.shape) >= LEAST_SIDE and (seen := composition(scene, encoder)).confidence >= LEAST_SHARE:
        facts.append(seen)
    for rule in spectral.measurable(scene):
        pixels = spectral.apply(rule, scene)
        share = 100 * float(pixels.sum() / scene.valid.sum())
        if share >= 1 and rule.confidence >= 0.5:
            facts.append(Fact(f"share of {rule.concept}", round(share, 1), "percent", rule.how, rule.confidence))
    return Measured((*facts, *context_facts(scene)))


def composition(scene: Scene, encoder: Encoder) -> Fact:
    """What the scene shows, in words: the descriptions most likely over the whole scene and its parts together."""
    words = vocabulary(scene)
    maps = encoder.similarity_map(scene, words)
    seen = enlarge_mask(scene.valid, maps.shape[1:])
    parts = softmax(maps[:, seen] / TEMPERATURE, axis=0).mean(axis=1)
    whole = softmax((encoder.encode_texts(words) @ encoder.encode_scenes([scene])[0]) / TEMPERATURE)
    believed = (parts + whole) / 2
    weight = _as_measured(words, believed, scene)
    ranked = [int(i) for i in np.argsort(-weight, kind="stable")[:3]]
    told = [words[i] for i in ranked if i == ranked[0] or weight[i] >= LEAST_SHARE]
    text = told[0] if len(told) == 1 else f"mostly {told[0]}, with {' and '.join(told[1:])}"
    how = f"encoder: likeliest of {len(words)} descriptions over the scene and its parts"
    if not np.array_equal(weight, believed):
        how += ", with water, snow and cloud as far as rules measure them"
    return Fact("caption", text, "", how, min(LEARNED_CONFIDENCE, float(weight[ranked[0]])))


def _as_measured(words: Sequence[str], weight: NDArray[np.float32], scene: Scene) -> NDArray[np.float32]:
    """Weights in which words that a sure rule measures have their measured share, and the others share the rest."""
    measured = {}
    for position, word in enumerate(words):
        concept = spectral.concept_of(word)
        rule = spectral.rule_for(concept, scene) if concept else None
        if rule is not None and rule.confidence >= SURE_RULE:
            measured[position] = float(spectral.apply(rule, scene).sum() / scene.valid.sum())
    others = [position for position in range(len(words)) if position not in measured]
    settled = weight.copy()
    settled[others] *= max(0.0, 1 - sum(measured.values())) / max(float(weight[others].sum()), 1e-6)
    settled[list(measured)] = list(measured.values())
    return settled


def context_facts(scene: Scene) -> tuple[Fact, ...]:
    """Sensor, date, place and pixel size, as far as the file states them."""
    facts = [Fact("sensor", scene.sensor.title, "", "file", 1.0)]
    if scene.acquired is not None:
        facts.append(Fact("date", scene.acquired.date().isoformat(), "", "file", 1.0))
    if scene.grid.crs is not None:
        lon, lat = scene.grid.lonlat(scene.shape[1] / 2, scene.shape[0] / 2)
        facts.append(Fact("place", f"{lonlat_words(float(lon), float(lat))}", "", "file", 1.0))
        facts.append(Fact("resolution", round(scene.grid.pixel_size_m or 0.0, 2), "m", "file", 1.0))
    return tuple(facts)


def lonlat_words(lon: float, lat: float) -> str:
    """A place in words: "53.18 N, 12.11 E"."""
    return f"{abs(lat):.2f} {'N' if lat >= 0 else 'S'}, {abs(lon):.2f} {'E' if lon >= 0 else 'W'}"


def _metadata(plan: Plan, scene: Scene, encoder: Encoder) -> Measured:
    facts = {fact.name: fact for fact in context_facts(scene)}
    facts["bands"] = Fact("bands", ", ".join(scene.band_names), "", "file", 1.0)
    facts["size"] = Fact("size", f"{scene.shape[1]} x {scene.shape[0]} pixels", "", "file", 1.0)
    fact = facts.get(plan.target)
    if fact is None:
        return Measured(reason=f"the file does not state its {plan.target}")
    return Measured((fact,))


def _not_one_scene(plan: Plan, scene: Scene, encoder: Encoder) -> Measured:
    reasons = {
        "change": "one scene cannot show change; compare it with an image of another date",
        "search": "searching needs an archive; give one",
        "abstain": "this cannot be answered from imagery",
    }
    return Measured(reason=reasons[plan.task])


MEASURES: dict[str, Callable[[Plan, Scene, Encoder], Measured]] = {
    "describe": _describe,
    "presence": _presence,
    "count": _count,
    "area": _area,
    "comparison": _comparison,
    "locate": _locate,
    "metadata": _metadata,
    "change": _not_one_scene,
    "search": _not_one_scene,
    "abstain": _not_one_scene,
}
