"""Grounding metrics over boxes, oriented polygons and masks, and the baselines that know no image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from eval.statistics import Statistics, Sums, ratio
from rsvlm.errors import EvaluationError

Array = NDArray[np.float64]
PROTOCOLS = {"iou>=t": ">=", "iou>t": ">"}  # protocol name -> threshold rule
RULES: dict[str, Callable[[float, float], bool]] = {">=": lambda iou, t: iou >= t, ">": lambda iou, t: iou > t}
DIGITS = 9  # IoUs are rounded to these decimals, so that a rotated half is a half


@dataclass(frozen=True)
class Shapes:
    """Truth or prediction of one line: N upright boxes or N polygons, with a score each; N = 0 says nothing is there.

    Use `from_boxes` or `from_polygons`. Raises EvaluationError for what is not finite, inverted or of the wrong shape.
    """

    boxes: Array  # (N, 4) x0, y0, x1, y1 in pixels; of polygons, their bounds
    scores: Array  # (N,)
    polygons: tuple[Array, ...] = ()  # N of (M, 2) x, y in pixels; none where the boxes say it all
    geometries: NDArray[Any] = field(init=False, repr=False, compare=False)  # (N,) valid shapely areas

    def __post_init__(self) -> None:
        if self.boxes.shape != (len(self.scores), 4) or len(self.polygons) not in (0, len(self.scores)):
            raise EvaluationError(
                f"shapes must be boxes (N, 4) with a score each; got {self.boxes.shape} and {len(self.scores)} scores"
            )
        if not np.isfinite(self.boxes).all() or not np.isfinite(self.scores).all():
            raise EvaluationError("a box or a score is not a number; look for broken predictions before scoring")
        if (self.boxes[:, 2:] < self.boxes[:, :2]).any():
            raise EvaluationError("a box ends before it starts; give x0, y0, x1, y1 with x0 <= x1 and y0 <= y1")
        if self.polygons:
            raw = np.array([shapely.Polygon(points) for points in self.polygons], object)
            areas = np.asarray(shapely.make_valid(raw, method="structure", keep_collapsed=False), object)
        else:
            areas = np.asarray(shapely.box(*self.boxes.T), object)
        object.__setattr__(self, "geometries", areas)

    @staticmethod
    def from_boxes(boxes: Any, scores: Any = None) -> Shapes:
        """Upright boxes (N, 4) of x0, y0, x1, y1 in pixels; without scores all count the same."""
        corners = np.asarray(boxes, np.float64)
        corners = corners.reshape(0, 4) if corners.size == 0 else corners
        return Shapes(corners, _scores(scores, len(corners)))

    @staticmethod
    def from_polygons(polygons: Sequence[Any], scores: Any = None) -> Shapes:
        """Polygons of (M, 2) x, y in pixels, M >= 3; without scores all count the same."""
        outlines = tuple(np.asarray(points, np.float64) for points in polygons)
        for points in outlines:
            if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
                raise EvaluationError(f"a polygon must be three or more points (M, 2) of x, y; got {points.shape}")
        bounds = [np.concatenate([points.min(axis=0), points.max(axis=0)]) for points in outlines]
        return Shapes(np.array(bounds).reshape(-1, 4), _scores(scores, len(outlines)), outlines)

    def __len__(self) -> int:
        return len(self.scores)

    def scaled(self, across: float, down: float) -> Shapes:
        """The same shapes in an image `across` times as wide and `down` times as high."""
        polygons = tuple(points * np.array([across, down]) for points in self.polygons)
        return Shapes(self.boxes * np.array([across, down, across, down]), self.scores, polygons)


def _scores(scores: Any, count: int) -> Array:
    return np.ones(count) if scores is None else np.asarray(scores, np.float64)


def iou_matrix(one: Shapes, other: Shapes) -> Array:
    """IoU of every pair, (N, M); 0 where both areas are 0. Polygons by their exact areas, boxes in closed form."""
    if one.polygons or other.polygons:
        shared = shapely.area(shapely.intersection(one.geometries[:, None], other.geometries[None]))
    else:
        low = np.maximum(one.boxes[:, None, :2], other.boxes[None, :, :2])
        high = np.minimum(one.boxes[:, None, 2:], other.boxes[None, :, 2:])
        shared = np.clip(high - low, 0, None).prod(axis=2)
    joint = shapely.area(one.geometries)[:, None] + shapely.area(other.geometries)[None] - shared
    found = np.divide(shared, joint, out=np.zeros_like(shared), where=joint > 0)
    return np.asarray(np.round(found, DIGITS), np.float64)


def matches(truth: Shapes, predicted: Shapes, *, threshold: float = 0.5, threshold_rule: str = ">=") -> int:
    """How many predictions find a true shape of their own.

    Greedy as in COCO: predictions by descending score, equal scores by their best IoU and then by position, each
    takes the unmatched truth it overlaps most. This is not the assignment with the most matches.
    """
    passes = _rule(threshold_rule)
    if not len(truth) or not len(predicted):
        return 0
    overlaps = iou_matrix(predicted, truth)
    found = 0
    for row in np.lexsort((-overlaps.max(axis=1), -predicted.scores)):
        best = int(overlaps[row].argmax())
        if passes(float(overlaps[row, best]), threshold):
            found += 1
            overlaps[:, best] = -1.0
    return found


def grounding_statistics(
    truth: Sequence[Shapes], predicted: Sequence[Shapes], *, threshold_rule: str = ">="
) -> Statistics:
    """Multi-target and referring metrics of lines "phrase to shapes".

    `F1@0.5`, `precision@0.5`, `recall@0.5` pool one-to-one matches (see `matches`) over all lines. `Pr@0.5` and
    `Pr@0.7` are over lines whose phrase is there: the best-scored prediction (the first of equals) against the one
    true shape, or where the truth has several, all predicted against all true area. `mIoU` (gIoU) averages per line
    the IoU of those two areas, 1 where both are without shapes; `cIoU` is summed intersection over summed union.
    `false_alarm` is the percent of absent-phrase lines with any prediction. Raises EvaluationError for lists of
    different length and for an unknown rule (">=" or ">").
    """
    rule = _rule(threshold_rule)
    _same_length(truth, predicted)
    rows = []
    for there, found in zip(truth, predicted, strict=True):
        line = _Line(*_areas(there, found), bool(len(there)), bool(len(found)))
        target = _referred(there, found) if len(there) == 1 else line.iou
        count = matches(there, found, threshold_rule=threshold_rule)
        rows.append([*line.row(target, rule), count, len(found), len(there)])
    return Statistics("images", np.array(rows, np.float64).reshape(len(rows), 11), _grounding_values)


def mask_statistics(
    truth: Sequence[NDArray[np.bool_]], predicted: Sequence[NDArray[np.bool_]], *, threshold_rule: str = ">="
) -> Statistics:
    """`Pr@0.5`, `Pr@0.7`, `mIoU`, `cIoU` and `false_alarm` by pixels of bool masks (H, W), one pair a line.

    A mask without a true pixel says that nothing is there. Raises EvaluationError for masks of different shape.
    """
    rule = _rule(threshold_rule)
    _same_length(truth, predicted)
    rows = []
    for number, (there, found) in enumerate(zip(truth, predicted, strict=True), 1):
        if there.shape != found.shape or there.dtype != np.bool_ or found.dtype != np.bool_:
            raise EvaluationError(
                f"line {number}: masks must be bool and of one shape; got {there.dtype} {there.shape} and "
                f"{found.dtype} {found.shape}"
            )
        areas = float((there & found).sum()), float((there | found).sum())
        line = _Line(*areas, bool(there.any()), bool(found.any()))
        rows.append(line.row(line.iou, rule))
    return Statistics("images", np.array(rows, np.float64).reshape(len(rows), 8), _area_values)


def whole_image(size: tuple[int, int]) -> Shapes:
    """The constant answer "everywhere" for an image of (height, width) pixels."""
    return Shapes.from_boxes([[0, 0, size[1], size[0]]])


def centre_box(size: tuple[int, int]) -> Shapes:
    """The constant answer "in the middle": a box of half the height and half the width."""
    height, width = size
    return Shapes.from_boxes([[width / 4, height / 4, 3 * width / 4, 3 * height / 4]])


def random_boxes(truths: Sequence[Shapes], sizes: Sequence[tuple[int, int]], seed: int) -> list[Shapes]:
    """For each line the true shapes of another line, drawn by the seed and scaled to this line's image.

    `sizes` are (height, width). A single line has no other and gets no shapes.
    """
    _same_length(truths, sizes)
    if len(truths) == 1:
        return [Shapes.from_boxes([])]
    chance = np.random.default_rng(seed)
    drawn = []
    for line, (height, width) in enumerate(sizes):
        other = (line + int(chance.integers(1, len(truths)))) % len(truths)
        drawn.append(truths[other].scaled(width / sizes[other][1], height / sizes[other][0]))
    return drawn


def _rule(name: str) -> Callable[[float, float], bool]:
    if name not in RULES:
        raise EvaluationError(f"there is no threshold rule {name!r}; use one of {', '.join(RULES)}")
    return RULES[name]


def _same_length(one: Sequence[Any], other: Sequence[Any]) -> None:
    if len(one) != len(other):
        raise EvaluationError(f"{len(one)} lines of truth came with {len(other)} others; give one each, in order")
    if not len(one):
        raise EvaluationError("there is nothing to score: give at least one line")


def _areas(there: Shapes, found: Shapes) -> tuple[float, float]:
    """Intersection and union of all true and all predicted area, in pixels."""
    one, other = shapely.union_all(there.geometries), shapely.union_all(found.geometries)
    shared = float(one.intersection(other).area)
    return shared, float(one.area + other.area) - shared


def _referred(there: Shapes, found: Shapes) -> float:
    """IoU of the one true shape with the best-scored prediction; 0 without one."""
    return float(iou_matrix(found, there)[int(found.scores.argmax()), 0]) if len(found) else 0.0


@dataclass(frozen=True, slots=True)
class _Line:
    """All true against all predicted area of one line."""

    shared: float
    joint: float
    there: bool
    found: bool

    @property
    def iou(self) -> float:
        """IoU of the areas, 1 where nothing is there and nothing was found."""
        if not self.there and not self.found:
            return 1.0
        return round(self.shared / self.joint, DIGITS) if self.joint > 0 else 0.0

    def row(self, target: float, rule: Callable[[float, float], bool]) -> list[float]:
        """1, IoU, intersection, union, present, hits of the `target` IoU at 0.5 and 0.7, false alarm."""
        hits = [float(self.there and rule(target, threshold)) for threshold in (0.5, 0.7)]
        alarm = float(self.found and not self.there)
        return [1.0, self.iou, self.shared, self.joint, float(self.there), *hits, alarm]


def _area_values(sums: Sums) -> dict[str, Array]:
    lines, iou, shared, joint, present, half, more, alarms = sums.T[:8]
    return {
        "Pr@0.5": ratio(half, present),
        "Pr@0.7": ratio(more, present),
        "mIoU": ratio(iou, lines),
        "cIoU": ratio(shared, joint),
        "false_alarm": ratio(alarms, lines - present),
    }


def _grounding_values(sums: Sums) -> dict[str, Array]:
    matched, predicted, true = sums.T[8:]
    pooled = {
        "F1@0.5": ratio(2 * matched, predicted + true),
        "precision@0.5": ratio(matched, predicted),
        "recall@0.5": ratio(matched, true),
    }
    return pooled | _area_values(sums)
