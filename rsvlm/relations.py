"""Narrowing a finding by its relation to another: above, left of, next to; and "and" and "or" between two."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rsvlm.findings import Finding

SIDES = ("top", "bottom", "left", "right")
NEAR_SHARE = 0.1  # "next to" means within this share of the scene's shorter side


def narrow(finding: Finding, relation: str, other: Finding | None) -> Finding:
    """Keep the connected parts of a finding that stand in a relation to another, or to the scene's middle.

    Args:
        finding: what was looked for.
        relation: "top", "bottom", "left", "right" or "next to".
        other: what it relates to; None for a side of the scene itself.
    """
    labels, count = ndimage.label(finding.mask.pixels, np.ones((3, 3)))
    if relation == "next to" and other is not None:
        reach = max(1, round(NEAR_SHARE * min(labels.shape)))
        kept = np.unique(labels[ndimage.binary_dilation(other.mask.pixels, iterations=reach)])
        words = f"within {reach} pixels of {other.phrase}"
    else:
        kept = _on_side(labels, count, relation, _middle(other, labels.shape))
        words = f"{relation} of {other.phrase if other else 'the middle'}"
    pixels = np.isin(labels, kept[kept > 0]) if len(kept) else np.zeros(labels.shape, bool)
    return _with_pixels(finding, pixels, words)


def combine(one: Finding, other: Finding, relation: str) -> bool:
    """Whether both, or at least one, of two findings are there."""
    return (one.present and other.present) if relation == "and" else (one.present or other.present)


def _middle(other: Finding | None, shape: tuple[int, ...]) -> tuple[float, float]:
    if other is None or not other.mask.pixels.any():
        return shape[0] / 2, shape[1] / 2
    row, col = ndimage.center_of_mass(other.mask.pixels)
    return float(row), float(col)


def _on_side(labels: NDArray[np.int32], count: int, side: str, middle: tuple[float, float]) -> NDArray[np.int64]:
    """Labels of the parts whose middle lies on a side of a point."""
    numbers = np.arange(1, count + 1)
    centres = np.array(ndimage.center_of_mass(labels > 0, labels, numbers)).reshape(-1, 2)
    axis = 0 if side in ("top", "bottom") else 1
    ahead = centres[:, axis] - middle[axis]
    return numbers[ahead < 0 if side in ("top", "left") else ahead > 0]


def _with_pixels(finding: Finding, pixels: NDArray[np.bool_], words: str) -> Finding:
    before = max(1, int(finding.mask.pixels.sum()))
    share = finding.share * float(pixels.sum()) / before
    mask = replace(finding.mask, pixels=pixels)
    return replace(finding, mask=mask, share=share, how=f"{finding.how}; only parts {words}")
