"""What a report page draws for each task: the numbers of its curves, and the curves."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.charts import COLOURS, Line, bar_chart, heat_chart, line_chart, scatter_chart
from eval.metrics.abstention import aurc_intervals, risk_coverage
from eval.metrics.boxes import PROTOCOLS, Shapes, matches
from eval.metrics.ranking import PROTOCOLS as BY_CAPTION
from eval.pictures import palette
from eval.statistics import Statistics, intervals, ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from eval.finished import Finished

LONGEST = 100  # K up to which recall is drawn
SHOWN = 40  # classes up to which a confusion matrix is drawn
THRESHOLDS = 20
NO_ANSWER = "no answer"


@dataclass(frozen=True, slots=True)
class Figure:
    """One chart with its title and what to know when reading it; `svg` is markup made by eval.charts."""

    title: str
    svg: str
    note: str


def figures_of(finished: Finished) -> list[Figure]:
    """The charts of a task, none where it has nothing to draw."""
    return FIGURES[finished.run.task.name](finished)


def recall_curve(ranks: NDArray[np.int64], longest: int) -> NDArray[np.float64]:
    """(longest,) percent of 0-based ranks (Q,) that are among the first K, for K = 1..longest."""
    found = np.bincount(np.minimum(ranks, longest), minlength=longest + 1)[:longest]
    return np.asarray(100 * np.cumsum(found) / len(ranks), np.float64)


def chance_curve(counts: Sequence[int], gallery: int, longest: int) -> NDArray[np.float64]:
    """(longest,) percent of queries expected to find one of their `counts` items in a random order of the gallery."""
    missed = np.zeros(longest)
    for count, queries in Counter(counts).items():
        for k in range(1, longest + 1):
            missed[k - 1] += queries * math.comb(gallery - count, k) / math.comb(gallery, k)
    return 100 * (1 - missed / len(counts))


def confusion_counts(truth: Sequence[str], predicted: Sequence[str]) -> tuple[NDArray[np.int64], list[str], list[str]]:
    """Lines by true and predicted label: counts (R, C), the R most frequent true labels, these and `NO_ANSWER`.

    At most 40 rows, in order of the alphabet; a prediction that is no row is counted in a last column "other", an
    empty one in "no answer", and columns without a line are left out of the last two.
    """
    frequent = Counter(truth)
    rows = sorted(sorted(frequent, key=lambda label: (-frequent[label], label))[:SHOWN])
    columns = [*rows, "other", NO_ANSWER]
    counts = np.zeros((len(rows), len(columns)), np.int64)
    for true, said in zip(truth, predicted, strict=True):
        if true in rows:
            column = said if said in rows else ("other" if said else NO_ANSWER)
            counts[rows.index(true), columns.index(column)] += 1
    kept = [i for i in range(len(columns)) if i < len(rows) or counts[:, i].any()]
    return counts[:, kept], rows, [columns[i] for i in kept]


def f1_curve(
    pairs: Sequence[tuple[Shapes, Shapes]], *, threshold_rule: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Score thresholds (T,), rising, and the F1 at IoU 0.5, in percent (T,), of the predictions that reach each."""
    scores = np.unique(np.concatenate([found.scores for _, found in pairs]))
    if len(scores) > THRESHOLDS:
        scores = np.unique(np.quantile(scores, np.linspace(0, 1, THRESHOLDS), method="lower"))
    true = sum(len(there) for there, _ in pairs)
    values = []
    for least in scores:
        kept = [_reaching(found, float(least)) for _, found in pairs]
        hits = sum(matches(t, k, threshold_rule=threshold_rule) for (t, _), k in zip(pairs, kept, strict=True))
        values.append(200 * hits / (true + sum(len(each) for each in kept)))
    return scores, np.array(values, np.float64)


def _reaching(found: Shapes, least: float) -> Shapes:
    kept = np.flatnonzero(found.scores >= least)
    polygons = tuple(found.polygons[i] for i in kept) if found.polygons else ()
    return Shapes(found.boxes[kept], found.scores[kept], polygons)


def _retrieval(finished: Finished) -> list[Figure]:
    if finished.run.settings.protocol not in BY_CAPTION:
        return []
    t2i, i2t = finished.ranks
    captions, images = sum(len(each) for each in t2i), len(finished.rows)
    ways = (
        ("text to image", np.concatenate(t2i), [1] * captions, images),
        ("image to text", np.array([each.min() for each in i2t]), [len(each) for each in i2t], captions),
    )
    lines = []
    for colour, (name, ranks, counts, gallery) in enumerate(ways):
        longest = min(LONGEST, gallery)
        across = np.arange(1, longest + 1, dtype=np.float64)
        lines.append(Line(name, across, recall_curve(ranks, longest), colour=colour))
        chance = chance_curve(counts, gallery, longest)
        lines.append(Line(f"{name}, by chance", across, chance, guide=True, colour=colour))
    note = f"{captions} captions and {images} images; a query counts when one of its own is among the first K."
    return [Figure("Recall", line_chart(lines, x="K", y="R@K, percent"), note)]


def _scenes(finished: Finished) -> list[Figure]:
    truth = [row.label for row in finished.rows]
    said = [(prediction["labels"] or [""])[0] for prediction in finished.predictions]
    counts, rows, columns = confusion_counts(truth, said)
    found = {name: each for name, each in _recalls(truth, said, finished.run.settings.seed).items() if name in rows}
    note = f"{len(rows)} of {len(set(truth))} classes, the most frequent. " if len(rows) < len(set(truth)) else ""
    return [
        _confusion(counts, rows, columns, f"{note}Percent of a class's images; a row sums to 100."),
        _bars("Recall by class", found, "top 1, percent", f"{note}{INTERVALS}"),
    ]


INTERVALS = "Lines are 95 % bootstrap intervals over images."


def _recalls(truth: list[str], said: list[str], seed: int) -> dict[str, Any]:
    names = sorted(set(truth))
    of_class = np.array(truth)[:, None] == np.array(names)
    right = of_class & (np.array(truth) == np.array(said))[:, None]
    rows = np.hstack([of_class, right]).astype(np.float64)
    shares = Statistics("images", rows, lambda sums: _shares(sums, names))
    return {name: each.to_json() for name, each in intervals(shares, seed=seed).items()}


def _shares(sums: NDArray[np.float64], names: list[str]) -> dict[str, NDArray[np.float64]]:
    share = ratio(sums[:, len(names) :], sums[:, : len(names)])
    return {name: share[:, at] for at, name in enumerate(names)}


def _land_cover(finished: Finished) -> list[Figure]:
    names = list(finished.run.task.names)  # type: ignore[attr-defined]
    tables = finished.statistics.rows.reshape(-1, len(names), len(names))
    counts = tables.sum(axis=0)
    shown = [i for i in range(len(names)) if counts[i].any() or counts[:, i].any()][:SHOWN]
    labels = [names[i] for i in shown]
    ious = {name: finished.report["metrics"][f"IoU {name}"] for name in labels}
    return [
        _confusion(counts[np.ix_(shown, shown)], labels, labels, "Percent of a class's pixels; a row sums to 100."),
        _bars("IoU by class", ious, "IoU, percent", INTERVALS),
        _cover_shares(tables, names),
    ]


def _cover_shares(tables: NDArray[np.float64], names: list[str]) -> Figure:
    true, said = tables.sum(axis=2), tables.sum(axis=1)  # (N, K)
    area = np.maximum(true.sum(axis=1, keepdims=True), 1)
    colours = np.broadcast_to(palette(names) / 255, (*true.shape, 3))
    met = (true + said) > 0
    note = "One point for each class in each image, in the colours of the maps below."
    chart = scatter_chart((100 * true / area)[met], (100 * said / area)[met], colours[met], x=TRUE_SHARE, y=SAID_SHARE)
    return Figure("Share of an image", chart, note)


TRUE_SHARE, SAID_SHARE = "true share, percent", "predicted share, percent"


def _change(finished: Finished) -> list[Figure]:
    if finished.run.settings.protocol != "mask":
        return []
    right, false, missed, left = finished.statistics.rows.T
    pixels = right + false + missed + left
    across, up = 100 * (right + missed) / pixels, 100 * (right + false) / pixels
    note = "One point for each pair of dates: how much of it changed, and how much was predicted to have."
    return [Figure("Changed share", scatter_chart(across, up, COLOURS[0], x=TRUE_SHARE, y=SAID_SHARE), note)]


def _vqa(finished: Finished) -> list[Figure]:
    return _risk(finished, finished.each("OA") == 100, "A question is wrong where its answer does not match.")


def _grounding(finished: Finished) -> list[Figure]:
    why = "A line is wrong where the IoU of all it predicts with all that is there is below 0.5."
    found = _risk(finished, finished.each("mIoU") >= 50, why)
    if finished.run.task.masks:  # type: ignore[attr-defined]
        return found
    across, values = f1_curve(finished.shapes, threshold_rule=PROTOCOLS[finished.run.settings.protocol])
    if len(across) < 2:
        return found
    note = "Predicted shapes below the threshold are left out; to be chosen on validation data only."
    chart = line_chart([Line("F1 at IoU 0.5", across, values)], x="score threshold", y="F1@0.5, percent")
    return [Figure("F1 by score", chart, note), *found]


def _risk(finished: Finished, right: NDArray[np.bool_], why: str) -> list[Figure]:
    sure = [prediction.get("confidence") for prediction in finished.predictions]
    if not all(isinstance(each, int | float) for each in sure):
        return []
    curve = risk_coverage(sure, right)  # type: ignore[arg-type]
    area = aurc_intervals(sure, right, seed=finished.run.settings.seed)["AURC"]  # type: ignore[arg-type]
    error = 100 * float(1 - right.mean())
    lines = [
        Line("by confidence", 100 * curve.coverage, 100 * curve.risk),
        Line("in any order", np.array([0.0, 100.0]), np.array([error, error]), guide=True),
    ]
    note = f"AURC {area.value:.2f} ({area.low:.2f} to {area.high:.2f}), against {error:.2f} in any order. {why}"
    return [Figure("Risk and coverage", line_chart(lines, x="answered, percent", y="wrong among them, percent"), note)]


def _confusion(counts: NDArray[Any], rows: list[str], columns: list[str], note: str) -> Figure:
    shares = ratio(counts.astype(np.float64), counts.sum(axis=1, keepdims=True))
    return Figure("Confusion", heat_chart(shares, rows, columns, x="predicted", y="true"), note)


def _bars(title: str, found: dict[str, dict[str, float | None]], x: str, note: str) -> Figure:
    table = np.array([[found[name][key] for key in ("value", "low", "high")] for name in found], np.float64)
    return Figure(title, bar_chart(list(found), table[:, 0], table[:, 1:], x=x), note)


def _nothing(finished: Finished) -> list[Figure]:
    return []


FIGURES: dict[str, Callable[[Finished], list[Figure]]] = {
    "retrieval": _retrieval,
    "scenes": _scenes,
    "captions": _nothing,
    "vqa": _vqa,
    "grounding": _grounding,
    "land-cover": _land_cover,
    "change": _change,
    "plan": _nothing,
}
