"""Thresholds for "not there": fitted on one half of the places of manifests, measured on the other half."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.manifests import read_changed, read_grounded, read_labelled, read_mapped
from eval.metrics.abstention import fit_threshold
from eval.runs import git_hash, sha256_of
from eval.statistics import Interval, Statistics, Sums, by_group, intervals, ratio
from rsvlm import spectral
from rsvlm.encoder.calibration import STATISTICS, Calibration, Threshold
from rsvlm.errors import EvaluationError, RsvlmError
from rsvlm.findings import GROUND, change_odds, enlarge, leads, likeness, peak, share_meaning, vocabulary
from rsvlm.raster import read_labels

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from eval.manifests import Changed, Grounded, Labelled, Mapped
    from rsvlm.interfaces import Encoder
    from rsvlm.scene import Scene

PROTOCOL = (
    "pairs of a phrase and a picture; half of the places fit, the other half is measured; a cut is the lower of the "
    "one with the most recall less false alarms and the highest under which at most max_risk of the denials are "
    "wrong, present and absent pairs drawn alike in number; accuracy is the mean of recall and the share of absent "
    "pairs denied, trust the share of denials that are right, both as if a phrase were there every second time; on a "
    "dense map a phrase is found above the higher of its cut and 0, so a cut below 0 only makes denials surer; for "
    "change the pairs are pixels, and the cut is the one above which there are as many pixels as changed ones"
)
SHOWN = 0.01  # of the labelled pixels: a class with less, but some, is neither there nor absent
LEAST = 5  # pairs of each sort in each half
PIXELS = 500  # of each pair of dates and sensor that are drawn for "change"
Truths = dict[str, bool]  # phrase to whether it is there


@dataclass(frozen=True, slots=True)
class Pair:
    """What one phrase in one picture measures, and whether it is there."""

    place: str
    statistic: float
    present: bool


@dataclass(frozen=True, slots=True)
class Fitted:
    """A kind of phrase: its threshold, None where no denial would be safe, and what the other half says of it."""

    kind: str
    threshold: Threshold | None
    fitted: int  # pairs
    checked: int  # pairs
    places: int  # that were checked
    metrics: dict[str, Interval]  # percent, of the checked pairs
    seen: dict[str, float]  # percent, of the fitted pairs: what to choose max_risk by
    baselines: dict[str, dict[str, Interval]]
    failed: dict[int, str]  # line of a picture that could not be used, and why

    def to_json(self) -> dict[str, Any]:
        """Plain values; `value` is null where no denial would be safe."""
        return {
            "value": self.threshold.value if self.threshold else None,
            "statistic": STATISTICS[self.kind],
            "fitted": self.fitted,
            "n": self.checked,
            "places": self.places,
            "metrics": _plain(self.metrics),
            "metrics_fitted": {name: None if np.isnan(value) else round(value, 2) for name, value in self.seen.items()},
            "baselines": {name: _plain(values) for name, values in self.baselines.items()},
            "failed": {str(number): why for number, why in self.failed.items()},
        }


def calibrate(
    manifests: dict[str, Path], encoder: Encoder, *, max_risk: float = 0.1, limit: int | None = None, seed: int = 0
) -> tuple[Calibration, dict[str, Any]]:
    """Fit a threshold for every kind that has a manifest.

    Args:
        manifests: of validation lines by kind: "scene" (scenes), "ground" (land-cover), "object" (grounding),
            "change" (change with masks and phrases).
        encoder: whose likenesses are measured.
        max_risk: share of wrong denials to bear on the fitted half, 0 to 1.
        limit: pictures drawn from each manifest by the seed; None for all.
        seed: of the limit, the halves, the absent phrases and the bootstrap.

    Returns:
        The calibration and a report as plain values.

    Raises:
        ConfigError: a manifest is not as it should be.
        EvaluationError: no manifest, or one with too few pairs in a half.
    """
    if not manifests:
        raise EvaluationError("there is nothing to fit on: give at least one manifest")
    kinds = [
        _fitted(kind, path, encoder, max_risk=max_risk, limit=limit, seed=seed) for kind, path in manifests.items()
    ]
    found = Calibration(tuple(kind.threshold for kind in kinds if kind.threshold is not None), encoder.fingerprint)
    report = {
        "task": "calibrate",
        "protocol": PROTOCOL,
        "settings": {"max_risk": max_risk, "limit": limit, "seed": seed},
        "encoder": {"fingerprint": encoder.fingerprint},
        "data_sha256": {kind: sha256_of(path) for kind, path in manifests.items()},
        "git": git_hash(),
        "kinds": {kind.kind: kind.to_json() for kind in kinds},
    }
    return found, report


def fit_cut(statistic: ArrayLike, present: ArrayLike, *, max_risk: float) -> float:
    """The statistic up to which a phrase is denied; minus infinity where no denial would be safe.

    The lower of two: the cut with the most recall less false alarms, and the highest one under which at most
    `max_risk` of the denials are wrong. Raises EvaluationError as `fit_threshold`.
    """
    values, there = np.asarray(statistic, np.float64), np.asarray(present, bool)
    safe = -fit_threshold(-values, ~there, max_risk=max_risk)
    cuts, position = np.unique(values, return_inverse=True)
    missed, denied = (np.cumsum(np.bincount(position[there == sort], minlength=len(cuts))) for sort in (True, False))
    return min(safe, float(cuts[np.argmax(denied * max(1, there.sum()) - missed * max(1, (~there).sum()))]))


def fit_amount(statistic: ArrayLike, present: ArrayLike) -> float:
    """The statistic above which there are as many pixels as are changed: what is measured in hectares is unbiased."""
    return float(np.quantile(np.asarray(statistic, np.float64), 1 - np.asarray(present, bool).mean()))


def verdicts(pairs: Sequence[Pair], cut: float) -> Statistics:
    """Found, missed, false alarms and right denials under a cut, one row a place."""
    there = np.array([pair.present for pair in pairs])
    said = np.array([pair.statistic > cut for pair in pairs])
    rows = np.stack([there & said, there & ~said, ~there & said, ~there & ~said], axis=1).astype(np.float64)
    return by_group(Statistics("pairs", rows, _values), [pair.place for pair in pairs], "places")


def _values(sums: Sums) -> dict[str, NDArray[np.float64]]:
    found, missed, alarms, denied = sums.T
    recall, false_alarm = ratio(found, found + missed), ratio(alarms, alarms + denied)
    refused = 100 - false_alarm
    return {
        "accuracy": (recall + refused) / 2,
        "recall": recall,
        "false_alarm": false_alarm,
        "f1": ratio(2 * found, 2 * found + missed + alarms),
        "trust": ratio(refused, refused + 100 - recall),
    }


def _fitted(kind: str, manifest: Path, encoder: Encoder, *, max_risk: float, limit: int | None, seed: int) -> Fitted:
    pairs, failed = _pairs(kind, manifest, encoder, limit, seed)
    fit, check = _halves(pairs, seed)
    for half in (fit, check):
        _require_both(half, manifest, failed)
    drawn = fit if kind == "change" else _alike(fit, seed)
    statistic, present = [pair.statistic for pair in drawn], [pair.present for pair in drawn]
    cut = fit_amount(statistic, present) if kind == "change" else fit_cut(statistic, present, max_risk=max_risk)
    cuts = {"always present": -np.inf} | ({} if kind == "scene" else {"uncalibrated": 0.0})
    checked = verdicts(check, cut)
    others = [intervals(verdicts(check, each), seed=seed) for each in cuts.values()]
    threshold = None if np.isinf(cut) else _threshold(kind, cut, len(drawn), checked, manifest.name)
    places = len({pair.place for pair in check})
    baselines = dict(zip(cuts, others, strict=True))
    seen = verdicts(drawn, cut).metrics()
    return Fitted(
        kind, threshold, len(drawn), len(check), places, intervals(checked, seed=seed), seen, baselines, failed
    )


def _require_both(half: Sequence[Pair], manifest: Path, failed: dict[int, str]) -> None:
    present = sum(pair.present for pair in half)
    if min(present, len(half) - present) < LEAST:
        left_out = f"; {len(failed)} pictures were left out, the first as {min(failed.items())[1]}" if failed else ""
        raise EvaluationError(
            f"{manifest} gives a half with {present} present and {len(half) - present} absent phrases; "
            f"it takes {LEAST} of each: raise the limit or give more lines{left_out}"
        )


def _threshold(kind: str, cut: float, count: int, checked: Statistics, name: str) -> Threshold:
    found, missed, alarms, denied = (float(total) for total in checked.rows.sum(axis=0))
    refused = denied / (denied + alarms)
    lost = (missed + 1) / (found + missed + 1)  # one more than was seen: a handful of denials proves little
    share = {metric: value / 100 for metric, value in checked.metrics().items()}
    youden = share["recall"] - share["false_alarm"]
    return Threshold(kind, cut, STATISTICS[kind], count, share["f1"], youden, refused / (refused + lost), name)


def _pairs(
    kind: str, manifest: Path, encoder: Encoder, limit: int | None, seed: int
) -> tuple[list[Pair], dict[int, str]]:
    """Every pair of `limit` pictures, and by line why a picture was left out."""
    if kind == "change":
        return _changed_pairs(read_changed(manifest), encoder, limit, seed)
    read, truths_of = SOURCES[kind]
    rows = read(manifest)
    by_picture: dict[Any, list[Any]] = {}
    for row in rows:
        by_picture.setdefault(row.picture.files, []).append(row)
    chance = np.random.default_rng(seed)
    drawn = [list(by_picture.values())[i] for i in chance.permutation(len(by_picture))[:limit]]
    pairs: list[Pair] = []
    failed: dict[int, str] = {}
    for group in drawn:
        first = group[0]
        try:
            scene, truths = first.picture.read(), truths_of(group, rows, chance)
            statistics = _statistics(kind, list(truths), scene, encoder)
        except RsvlmError as error:
            failed[first.number] = str(error)
            continue
        place = first.picture.place or str(first.picture.files[0])
        pairs += [Pair(place, value, truths[phrase]) for phrase, value in statistics.items()]
    return pairs, failed


def _changed_pairs(
    rows: Sequence[Changed], encoder: Encoder, limit: int | None, seed: int
) -> tuple[list[Pair], dict[int, str]]:
    """Pixels drawn from every sensor's pair of dates, with the odds of the line's phrase."""
    chance = np.random.default_rng(seed)
    pairs: list[Pair] = []
    failed: dict[int, str] = {}
    for row in [rows[i] for i in chance.permutation(len(rows))[:limit]]:
        place = row.before[0].place or str(row.before[0].files[0])
        try:
            for before, after in zip(row.before, row.after, strict=True):
                odds, there = _changed_pixels(row, before.read(), after.read(), encoder)
                drawn = chance.permutation(len(odds))[:PIXELS]
                pairs += [Pair(place, float(odds[i]), bool(there[i])) for i in drawn]
        except RsvlmError as error:
            failed[row.number] = str(error)
    return pairs, failed


def _changed_pixels(
    row: Changed, before: Scene, after: Scene, encoder: Encoder
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Odds and truth of the pixels that are valid at both dates."""
    if row.mask is None or not row.phrase:
        raise EvaluationError("the line has no mask or no phrase, so nothing says what changed where")
    odds = change_odds(row.phrase, before, after, encoder)
    if odds is None:
        raise EvaluationError(f"the encoder does not map {row.phrase!r} as a change")
    seen = before.valid & after.valid
    return enlarge(odds, after.shape)[seen], (read_labels(row.mask) > 0)[seen]


def _statistics(kind: str, phrases: Sequence[str], scene: Scene, encoder: Encoder) -> dict[str, float]:
    """The kind's statistic by phrase; dense maps are asked only about what they will be asked about in use."""
    if kind == "scene":
        return {phrase: likeness(phrase, scene, encoder) for phrase in phrases}
    if (vocabulary(scene) is GROUND) != (kind == "ground"):
        raise EvaluationError(f"{scene.source} has pixels too {'fine' if kind == 'ground' else 'coarse'} for {kind}")
    asked = [phrase for phrase in phrases if not _has_rule(phrase, scene)]
    fields = leads(asked, scene, encoder) if asked and scene.valid.any() else ()
    return {phrase: peak(field, scene.valid) for phrase, field in zip(asked, fields, strict=False)}


def _has_rule(phrase: str, scene: Scene) -> bool:
    concept = spectral.concept_of(phrase)
    return concept is not None and spectral.rule_for(concept, scene) is not None


def _of_scene(group: Sequence[Labelled], rows: Sequence[Labelled], chance: np.random.Generator) -> Truths:
    """The labels of a picture, and for each another of the manifest that means something else."""
    own = sorted({row.label for row in group})
    others = sorted({row.label for row in rows} - set(own))
    absent = [label for label in others if not any(share_meaning(label, mine) for mine in own)]
    drawn = [absent[i] for i in chance.permutation(len(absent))[: len(own)]]
    return dict.fromkeys(own, True) | dict.fromkeys(drawn, False)


def _of_ground(group: Sequence[Mapped], rows: Sequence[Mapped], chance: np.random.Generator) -> Truths:
    """Classes that cover 1 % or more of the labelled pixels, and those that cover none."""
    row = group[0]
    labels = read_labels(row.labels, band=row.band)
    known = ~np.isin(labels, row.ignore)
    shares = {name: float((labels[known] == code).mean()) if known.any() else 0.0 for code, name in row.codes.items()}
    kept = {name for code, name in row.codes.items() if code not in row.ignore}
    return {name: share >= SHOWN for name, share in shares.items() if name in kept and not 0 < share < SHOWN}


def _of_object(group: Sequence[Grounded], rows: Sequence[Grounded], chance: np.random.Generator) -> Truths:
    """The phrases for classes asked of a picture; those that refer to one thing among several are left out."""
    return {row.phrase: _is_there(row) for row in group if row.kind == "class"}


def _is_there(row: Grounded) -> bool:
    return bool(row.boxes or row.polygons or (row.mask is not None and read_labels(row.mask).any()))


SOURCES: dict[str, tuple[Callable[[Path], list[Any]], Callable[..., Truths]]] = {
    "scene": (read_labelled, _of_scene),
    "ground": (read_mapped, _of_ground),
    "object": (read_grounded, _of_object),
}


def _halves(pairs: Sequence[Pair], seed: int) -> tuple[list[Pair], list[Pair]]:
    places = sorted({pair.place for pair in pairs})
    drawn = np.random.default_rng(seed).permutation(len(places))
    fit = {places[i] for i in drawn[: len(places) // 2]}
    return [pair for pair in pairs if pair.place in fit], [pair for pair in pairs if pair.place not in fit]


def _alike(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """As many present as absent pairs, the more numerous drawn."""
    sorts = [[pair for pair in pairs if pair.present is there] for there in (True, False)]
    count = min(map(len, sorts))
    chance = np.random.default_rng(seed)
    return [sort[i] for sort in sorts for i in sorted(chance.permutation(len(sort))[:count])]


def _plain(values: dict[str, Interval]) -> dict[str, dict[str, float | None]]:
    return {name: value.to_json() for name, value in values.items()}
