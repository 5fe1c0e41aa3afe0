"""Metrics of maps: land-cover classes, changed pixels and cells of a grid, pooled over images."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from eval.statistics import Statistics, Sums, ratio
from rsvlm.errors import EvaluationError

Cell = tuple[int, int]  # row and column of a grid, from 0 at the top left
GRID = 3  # cells a side of a change-localisation answer


def confusion(
    truth: NDArray[np.integer],
    predicted: NDArray[np.integer],
    classes: Sequence[int],
    ignore: Collection[int] = (),
) -> NDArray[np.int64]:
    """Pixels of every true class (rows) given every predicted class (columns): (K, K) counts, in order of `classes`.

    Pixels (H, W) whose true code is in `ignore` are left out. Raises EvaluationError for maps of different shape,
    for codes that are neither a class nor ignored, and for classes named twice.
    """
    if truth.shape != predicted.shape:
        raise EvaluationError(f"a map of {predicted.shape} was predicted for one of {truth.shape}; give one code each")
    codes = np.asarray(classes, np.int64)
    if not len(codes) or len(np.unique(codes)) != len(codes):
        raise EvaluationError(f"classes must be one or more different codes; got {list(classes)}")
    kept = ~np.isin(truth, list(ignore))
    rows = _positions(truth[kept], codes, "the truth")
    columns = _positions(predicted[kept], codes, "the prediction")
    counts = np.bincount(rows * len(codes) + columns, minlength=len(codes) ** 2)
    return np.asarray(counts.reshape(len(codes), len(codes)), np.int64)


def _positions(found: NDArray[np.integer], codes: NDArray[np.int64], where: str) -> NDArray[np.int64]:
    """Index of every code among `codes`."""
    order = np.argsort(codes)
    slots = np.searchsorted(codes, found, sorter=order).clip(max=len(codes) - 1)
    positions = order[slots]
    strange = found[codes[positions] != found]
    if len(strange):
        raise EvaluationError(
            f"{where} has code {strange[0]}, which is no class; add it to the codes or to those ignored"
        )
    return np.asarray(positions, np.int64)


def map_statistics(
    confusions: NDArray[np.integer], names: Sequence[str], *, background: str | None = None
) -> Statistics:
    """Metrics of class maps from confusions (N, K, K), truth in rows, one an image.

    `OA` is the percent of right pixels. `IoU <name>` is NaN for a class neither in truth nor in prediction; `mIoU`
    averages the others, so a class only predicted counts 0. `macro` is the mean recall of classes in the truth.
    With `background` named there is also `mIoU_without_background`, the same mean without that class.
    """
    classes = len(names)
    if confusions.ndim != 3 or confusions.shape[1:] != (classes, classes):
        raise EvaluationError(f"{classes} classes need confusions (N, {classes}, {classes}); got {confusions.shape}")
    if background is not None and background not in names:
        raise EvaluationError(f"the background {background!r} is no class; the classes are {', '.join(names)}")

    def values(sums: Sums) -> dict[str, NDArray[np.float64]]:
        counts = sums.reshape(-1, classes, classes)
        right = np.diagonal(counts, axis1=1, axis2=2)  # (R, K)
        true, predicted = counts.sum(axis=2), counts.sum(axis=1)
        ious = ratio(right, true + predicted - right)
        found = {"OA": ratio(right.sum(axis=1), true.sum(axis=1)), "mIoU": _mean(ious)}
        if background is not None:
            kept = [position for position, name in enumerate(names) if name != background]
            found["mIoU_without_background"] = _mean(ious[:, kept])
        found["macro"] = _mean(ratio(right, true))
        return found | {f"IoU {name}": ious[:, position] for position, name in enumerate(names)}

    return Statistics("images", confusions.reshape(-1, classes**2).astype(np.float64), values)


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of a row's known values, NaN where none is known."""
    known = np.isfinite(values)
    summed, count = np.where(known, values, 0).sum(axis=1), known.sum(axis=1)
    return np.asarray(np.where(count > 0, summed / np.maximum(count, 1), np.nan), np.float64)


def change_statistics(
    truth: Sequence[NDArray[np.bool_]],
    predicted: Sequence[NDArray[np.bool_]],
    valid: Sequence[NDArray[np.bool_]] | None = None,
) -> Statistics:
    """`F1`, `IoU`, `precision`, `recall` of the change class pooled over valid pixels of masks (H, W), and `OA`.

    `IoU` is the class mIoU without background; `mIoU` averages it with the IoU of unchanged pixels. A metric that
    has nothing to divide by, as where nothing changed and nothing was predicted, is NaN. Raises EvaluationError for
    masks that are not bool or not of one shape.
    """
    masks = [np.ones_like(mask) for mask in truth] if valid is None else valid
    if not len(truth) == len(predicted) == len(masks):
        raise EvaluationError(
            f"{len(truth)} true, {len(predicted)} predicted and {len(masks)} valid masks; give one of each a line"
        )
    rows = [_changes(number, *each) for number, each in enumerate(zip(truth, predicted, masks, strict=True), 1)]
    return Statistics("images", np.array(rows, np.float64).reshape(len(rows), 4), _change_values)


def _changes(
    number: int, there: NDArray[np.bool_], found: NDArray[np.bool_], valid: NDArray[np.bool_]
) -> tuple[int, int, int, int]:
    """Pixels right, false, missed and rightly left of one line."""
    if not there.shape == found.shape == valid.shape or {there.dtype, found.dtype, valid.dtype} != {np.dtype(bool)}:
        raise EvaluationError(
            f"line {number}: masks must be bool and of one shape; got {there.dtype} {there.shape}, "
            f"{found.dtype} {found.shape} and {valid.dtype} {valid.shape}"
        )
    cases = (there & found, ~there & found, there & ~found, ~there & ~found)
    right, false, missed, left = (int((case & valid).sum()) for case in cases)
    return right, false, missed, left


def _change_values(sums: Sums) -> dict[str, NDArray[np.float64]]:
    right, false, missed, left = sums.T
    changed, unchanged = ratio(right, right + false + missed), ratio(left, left + false + missed)
    return {
        **_pooled(right, false, missed),
        "IoU": changed,
        "mIoU": _mean(np.stack([changed, unchanged], axis=1)),
        "OA": ratio(right + left, sums.sum(axis=1)),
    }


def _pooled(
    right: NDArray[np.float64], false: NDArray[np.float64], missed: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    return {
        "F1": ratio(2 * right, 2 * right + false + missed),
        "precision": ratio(right, right + false),
        "recall": ratio(right, right + missed),
    }


def grid_statistics(truth: Sequence[Collection[Cell]], predicted: Sequence[Collection[Cell]]) -> Statistics:
    """Micro `F1`, `precision` and `recall` of answers "which cells of a 3 x 3 grid", cells as (row, column) from 0.

    A predicted cell outside the grid is a wrong one; a true one raises EvaluationError.
    """
    if len(truth) != len(predicted):
        raise EvaluationError(f"{len(truth)} lines of truth came with {len(predicted)} predicted; give one each")
    rows = []
    for number, (there, found) in enumerate(zip(map(set, truth), map(set, predicted), strict=True), 1):
        outside = [cell for cell in there if not (0 <= cell[0] < GRID and 0 <= cell[1] < GRID)]
        if outside:
            raise EvaluationError(
                f"line {number}: cell {min(outside)} lies outside the {GRID} x {GRID} grid; rows and columns are 0 to 2"
            )
        rows.append([len(there & found), len(found - there), len(there - found)])
    return Statistics("images", np.array(rows, np.float64).reshape(len(rows), 3), lambda sums: _pooled(*sums.T))
