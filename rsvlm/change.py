"""Two dates of one place: brought to one grid, clouds left out, what was gained and lost measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from rasterio.crs import CRS
from rasterio.warp import Resampling, reproject
from scipy import ndimage
from scipy.stats import chi2
from skimage.filters import threshold_otsu

from rsvlm import spectral
from rsvlm.answer import Fact
from rsvlm.errors import GeoreferenceError, SceneError
from rsvlm.findings import MIN_SHARE, Finding, find, find_change, regions_of
from rsvlm.measure import AREA_UNITS, Measured
from rsvlm.scene import Mask

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rsvlm.interfaces import Encoder
    from rsvlm.language.plan import Plan
    from rsvlm.scene import Region, Scene

MAD_HOW = "multivariate alteration detection (Nielsen et al. 1998), Otsu's threshold"
LEAST_RULE = 0.45  # rules less sure than this do not speak of change unasked
CLOUD_MARGIN = 3  # pixels around a cloud that are left out too


@dataclass(frozen=True)
class Change:
    """What changed between two dates: the facts, the outlined regions, and the mask they were cut from.

    `score` (H, W) says how sure each pixel's verdict is, 0 to 1: changed from 0.5 on.
    """

    measured: Measured
    mask: Mask
    score: NDArray[np.float32]


def compare(plan: Plan, before: Scene, after: Scene, encoder: Encoder) -> Change:
    """Measure what changed.

    With a target that phrase is measured on both dates; without one, every concept the bands allow, and the pixels
    that changed against the scene's own overall shift. Likely clouds of either date are left out.

    Raises:
        SceneError: the scenes do not overlap, share no band, come in the wrong order, or only one has a place.
    """
    _check_order(before, after)
    before, after = share_bands(before, align(after, before) if after.grid != before.grid else after)
    seen, cloud_facts = _seen(before, after)
    if not seen.any():
        reason = "the two dates have no pixel that is valid and free of cloud in both"
        return Change(Measured(reason=reason), Mask("change", seen, before.grid), np.zeros(seen.shape, np.float32))
    before, after = replace(before, valid=seen), replace(after, valid=seen)
    if plan.target and plan.target not in ("change", "changes", "everything", "anything"):
        facts, found, regions = _target_change(plan, before, after, encoder)
    else:
        facts, found, regions = _any_change(before, after)
    interval = _interval_facts(before, after)
    return Change(Measured((*facts, *cloud_facts, *interval), regions), found.mask, found.score)


def _check_order(before: Scene, after: Scene) -> None:
    if before.acquired is not None and after.acquired is not None and before.acquired > after.acquired:
        dates = f"{before.acquired.date()} and {after.acquired.date()}"
        raise SceneError(f"the images are of {dates}, in this order; give the earlier one first")


def align(scene: Scene, onto: Scene) -> Scene:
    """Warp a scene onto another's grid (bilinear, validity nearest); raises SceneError without overlap."""
    if (scene.grid.crs is None) != (onto.grid.crs is None):
        raise SceneError("one image has coordinates and the other none, so they cannot be laid over each other")
    if scene.grid.crs is None or onto.grid.crs is None:
        if scene.shape != onto.shape:
            raise SceneError(
                f"two images without coordinates must have one size; got {scene.shape} and {onto.shape}: crop them"
            )
        return replace(scene, grid=onto.grid)
    source, target = _crs(scene), _crs(onto)
    place = {
        "src_transform": scene.grid.transform,
        "src_crs": source,
        "dst_transform": onto.grid.transform,
        "dst_crs": target,
    }
    filled = np.where(scene.valid, scene.pixels, np.nan).astype(np.float32)
    pixels = np.full((len(filled), *onto.shape), np.nan, np.float32)
    reproject(filled, pixels, resampling=Resampling.bilinear, src_nodata=np.nan, dst_nodata=np.nan, **place)
    valid = np.asarray(np.isfinite(pixels).all(axis=0))
    if not valid.any():
        raise SceneError(f"{scene.source} and {onto.source} show different places: they do not overlap")
    return replace(scene, pixels=np.where(valid, pixels, 0).astype(np.float32), valid=valid, grid=onto.grid)


def share_bands(before: Scene, after: Scene) -> tuple[Scene, Scene]:
    """Both scenes with the bands they share by common name; raises SceneError when there are none."""
    units = {band.units for band in before.bands} & {band.units for band in after.bands}
    common = [b.common_name for b in before.bands if after.has(b.common_name) and b.units in units]
    names = list(dict.fromkeys(common))
    if not names:
        raise SceneError(
            f"{before.sensor.name} and {after.sensor.name} share no band in the same units; "
            "compare two scenes of one kind of sensor"
        )
    return before.select(names), after.select(names)


def transitions(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
    """Pixels gained, lost and kept by a mask between two dates."""
    return {"gained": after & ~before, "lost": before & ~after, "kept": before & after}


def changed_pixels(before: Scene, after: Scene) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Where the ground changed, and how sure: bool (H, W) and 0 to 1 (H, W).

    Multivariate alteration detection: canonical variates of the two dates are invariant to any affine change of all
    pixels (light, gain, season as a whole), so what differs is local. Nielsen, Conradsen and Simpson 1998,
    doi:10.1016/S0034-4257(97)00162-4. The summed squares follow chi-square for unchanged pixels; the cut is Otsu's,
    but never below the 99 % quantile. Raises SceneError when there are too few pixels.
    """
    seen = before.valid & after.valid
    one, two = (scene.pixels[:, seen].astype(np.float64) for scene in (before, after))
    if one.shape[1] < 50 * len(one):
        raise SceneError(f"{one.shape[1]} shared pixels are too few to tell change from difference in light")
    distance = np.zeros(seen.shape)
    distance[seen] = np.sqrt(_mad(one, two))
    distance = ndimage.median_filter(distance, 3)
    otsu = np.exp(threshold_otsu(np.log(distance[seen] + 1e-3)))  # type: ignore[no-untyped-call]
    limit = max(float(otsu), float(np.sqrt(chi2.ppf(0.99, len(one)))))
    changed = seen & (distance > limit)
    sureness = np.where(seen, 1 - 0.5 ** (distance / limit), 0).astype(np.float32)
    return changed, sureness


def _mad(one: NDArray[np.float64], two: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of squared standardised MAD variates of (C, N) pixels: (N,)."""
    bands = len(one)
    both = np.concatenate([one, two])
    centred = both - both.mean(axis=1, keepdims=True)
    covariance = np.cov(both)
    covariance += (1e-9 * np.trace(covariance) / len(covariance) + 1e-12) * np.eye(len(covariance))
    first, second = (np.linalg.cholesky(c) for c in (covariance[:bands, :bands], covariance[bands:, bands:]))
    whitened = np.linalg.solve(first, covariance[:bands, bands:]) @ np.linalg.inv(second).T
    left, correlations, right = np.linalg.svd(whitened)
    variates = left.T @ np.linalg.solve(first, centred[:bands]) - right @ np.linalg.solve(second, centred[bands:])
    variance = np.maximum(2 * (1 - correlations), 1e-9)
    total: NDArray[np.float64] = (variates**2 / variance[:, None]).sum(axis=0)
    return total


def _target_change(
    plan: Plan, before: Scene, after: Scene, encoder: Encoder
) -> tuple[list[Fact], Finding, tuple[Region, ...]]:
    wanted = {"new": ("gained",), "more": ("gained",), "lost": ("lost",), "less": ("lost",)}
    parts = [
        _become(plan.target, kind, before, after, encoder) for kind in wanted.get(plan.relation, ("gained", "lost"))
    ]
    facts: list[Fact] = []
    regions: list[Region] = []
    for part in parts:
        facts += _amount_facts(part, plan.unit)
        regions += regions_of(part, before.source if part.phrase.endswith("lost") else after.source)
    verdict = any(part.share >= MIN_SHARE for part in parts)
    facts.insert(0, Fact(f"change of {plan.target}", bool(verdict), "", parts[0].how, parts[0].confidence))
    pixels = np.logical_or.reduce([part.mask.pixels for part in parts])
    score = np.maximum.reduce([part.score for part in parts])
    whole = Mask(f"{plan.target} changed", pixels, before.grid)
    return facts, replace(parts[0], mask=whole, score=score), tuple(regions)


def _become(phrase: str, kind: str, before: Scene, after: Scene, encoder: Encoder) -> Finding:
    """Where a phrase came to hold ("gained") or ceased to ("lost"): by a rule on both dates, or by the encoder."""
    dates = (before, after) if kind == "gained" else (after, before)
    concept = spectral.concept_of(phrase)
    ruled = concept is not None and spectral.rule_for(concept, before) is not None
    mapped = None if ruled else find_change(phrase, *dates, encoder)
    if mapped is not None:
        return _part(f"{phrase} {kind}", mapped.mask.pixels, mapped, after.valid)
    without, within = (find(phrase, scene, encoder) for scene in dates)
    pixels = within.mask.pixels & ~without.mask.pixels
    found = _part(f"{phrase} {kind}", pixels, within, after.valid)
    score = np.minimum(within.score, 1 - without.score) if not ruled else pixels.astype(np.float32)
    return replace(found, confidence=min(without.confidence, within.confidence), score=score)


def _any_change(before: Scene, after: Scene) -> tuple[list[Fact], Finding, tuple[Region, ...]]:
    pixels, sureness = changed_pixels(before, after)
    share = float(pixels.sum() / before.valid.sum())
    whole = Finding("changed", Mask("changed", pixels, before.grid), share, MAD_HOW, 0.6, sureness)
    facts: list[Fact] = []
    regions = list(regions_of(whole, after.source))
    for rule in spectral.measurable(before):
        unsure = rule.confidence < LEAST_RULE or rule.quantity == spectral.CLOUD
        if unsure or spectral.rule_for(rule.concept, after) is None:
            continue
        parts = transitions(spectral.apply(rule, before), spectral.apply(rule, after))
        for kind in ("gained", "lost"):
            share = float(parts[kind].sum() / before.valid.sum())
            if share >= MIN_SHARE:
                mask = Mask(f"{rule.concept} {kind}", parts[kind], before.grid)
                score = parts[kind].astype(np.float32)
                finding = Finding(mask.label, mask, share, rule.how, rule.confidence, score)
                facts += _amount_facts(finding, "")
                regions += regions_of(finding, after.source)
    beyond = Fact(
        "share of ground changed beyond the overall shift", round(100 * whole.share, 2), "percent", MAD_HOW, 0.5
    )
    return [*facts, beyond], whole, tuple(regions)


def _part(label: str, pixels: NDArray[np.bool_], like: Finding, seen: NDArray[np.bool_]) -> Finding:
    share = float(pixels.sum() / seen.sum())
    return replace(like, phrase=label, mask=Mask(label, pixels, like.mask.grid), share=share)


def _amount_facts(finding: Finding, unit: str) -> list[Fact]:
    """How much: ground area where there is a CRS, else percent of the scene."""
    try:
        unit = unit if unit in AREA_UNITS else "ha"
        value = finding.mask.area_m2() / AREA_UNITS[unit]
        return [Fact(f"area of {finding.phrase}", round(value, 2), unit, finding.how, finding.confidence)]
    except GeoreferenceError:
        value = round(100 * finding.share, 2)
        return [Fact(f"share of {finding.phrase}", value, "percent", finding.how, finding.confidence)]


def _seen(before: Scene, after: Scene) -> tuple[NDArray[np.bool_], list[Fact]]:
    """Pixels valid and cloud-free on both dates, and a fact for each date that clouds cover by 1 % or more."""
    seen = before.valid & after.valid
    facts = []
    for name, scene in (("before", before), ("after", after)):
        hidden = spectral.clouds(scene)
        if hidden is None:
            continue
        share = 100 * float(hidden.sum() / max(1, scene.valid.sum()))
        if share >= 1:
            how = "Fmask's basic tests (Zhu and Woodcock 2012), left out of the comparison"
            facts.append(Fact(f"share of cloud {name}", round(share, 1), "percent", how, 0.6))
        seen = seen & ~ndimage.binary_dilation(hidden, iterations=CLOUD_MARGIN)
    return seen, facts


def _interval_facts(before: Scene, after: Scene) -> list[Fact]:
    dates = [scene.acquired.date().isoformat() for scene in (before, after) if scene.acquired is not None]
    return [Fact("dates", " and ".join(dates), "", "file", 1.0)] if len(dates) == 2 else []


def _crs(scene: Scene) -> CRS:
    assert scene.grid.crs is not None
    return CRS.from_wkt(scene.grid.crs.to_wkt())
