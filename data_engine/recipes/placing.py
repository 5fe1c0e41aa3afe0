"""Whether one class of an image lies beside another, and in which cell of the 3 x 3 grid; no verdict where unclear."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from data_engine.recipes.words import cell_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from data_engine.annotated import Box
    from data_engine.recipes.evidence import Evidence

SIDES = ("top", "bottom", "left", "right")
APART = 0.03  # of the image's side: points closer than this have no clear order, nor a clear cell
NEAR, FAR = 0.05, 0.25  # of the shorter side: gaps up to the first are "next to", from the second on are not
GATHERED = 0.7  # of a class's pixels; a cell that holds them is where the class lies
TAIL = 10  # percent of a class's pixels that may lie on the other side


def verdicts(known: Evidence) -> dict[tuple[str, str, str], bool]:
    """Whether some of the first class lies above ("top"), below, left, right of or next to the second, where clear.

    Both are objects, the second a single one, or both are classes of the map. The sides follow rsvlm.relations: a part
    lies left of another class where its middle lies left of the middle of that class.
    """
    found: dict[tuple[str, str, str], bool | None] = {}
    objects = [name for name in known.present if known.boxes.get(name)]
    if known.grid is not None:
        size = (known.grid.width, known.grid.height)
        for one, other in permutations(objects, 2):
            ours, theirs = known.boxes[one], known.boxes[other]
            if len(theirs) == 1:
                found |= {(one, other, side): _boxes(ours, theirs[0], side, size) for side in SIDES}
                found[one, other, "next to"] = _boxes_near(ours, theirs[0], size)
    mapped = [name for name in known.present if name in known.pixels]
    extents = {name: _extents(known.pixels[name]) for name in mapped}
    for one, other in permutations(mapped, 2):
        found |= {(one, other, side): _beyond(extents[one], extents[other], side) for side in SIDES}
    for other in mapped:
        away = ndimage.distance_transform_edt(~known.pixels[other])
        for one in mapped:
            if one != other:
                far = float(away[known.pixels[one]].min()) >= FAR * min(away.shape)
                found[one, other, "next to"] = frozenset((one, other)) in known.neighbours or (False if far else None)
    return {key: verdict for key, verdict in found.items() if verdict is not None}


def at_place(known: Evidence, label: str) -> str:
    """Words for the cell a single object, or a class gathered in one place, lies in; "" where unclear."""
    if known.grid is None:
        return ""
    if label in known.boxes:
        if len(known.boxes[label]) != 1:
            return ""
        x0, y0, x1, y1 = known.boxes[label][0]
        x, y = (x0 + x1) / 2 / known.grid.width, (y0 + y1) / 2 / known.grid.height
        unclear = any(abs(value - line) < APART for value in (x, y) for line in (1 / 3, 2 / 3))
        return "" if unclear or not (0 <= x < 1 and 0 <= y < 1) else cell_words(x, y)
    if label not in known.pixels:
        return ""
    rows, columns = np.nonzero(known.pixels[label])
    height, width = known.pixels[label].shape
    counts = np.zeros((3, 3), np.int64)
    np.add.at(counts, (np.minimum(2, 3 * rows // height), np.minimum(2, 3 * columns // width)), 1)
    row, column = divmod(int(counts.argmax()), 3)
    return cell_words((column + 0.5) / 3, (row + 0.5) / 3) if counts.max() >= GATHERED * len(rows) else ""


def _boxes(ours: Sequence[Box], theirs: Box, side: str, size: tuple[int, int]) -> bool | None:
    """Yes where a whole box lies beyond the other; no where every middle lies clearly on the other side."""
    axis, sign = (0 if side in ("left", "right") else 1), (1 if side in ("left", "top") else -1)
    if sign > 0:
        beyond = any(box[axis + 2] <= theirs[axis] for box in ours)
    else:
        beyond = any(box[axis] >= theirs[axis + 2] for box in ours)
    middle = (theirs[axis] + theirs[axis + 2]) / 2
    behind = all(sign * ((box[axis] + box[axis + 2]) / 2 - middle) > APART * size[axis] for box in ours)
    return True if beyond else False if behind else None


def _boxes_near(ours: Sequence[Box], theirs: Box, size: tuple[int, int]) -> bool | None:
    gaps = [
        np.hypot(max(0.0, theirs[0] - box[2], box[0] - theirs[2]), max(0.0, theirs[1] - box[3], box[1] - theirs[3]))
        for box in ours
    ]
    return True if min(gaps) <= NEAR * min(size) else False if min(gaps) >= FAR * min(size) else None


def _extents(pixels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(2, 5): by axis the first, a low, the mean, a high and the last position of a class, as shares of the side."""
    rows = [
        np.array([where.min(), np.percentile(where, TAIL), where.mean(), np.percentile(where, 100 - TAIL), where.max()])
        / side
        for where, side in zip(np.nonzero(pixels), pixels.shape, strict=True)
    ]
    return np.array(rows)


def _beyond(ours: NDArray[np.float64], theirs: NDArray[np.float64], side: str) -> bool | None:
    """Yes where nearly all of one lies beyond nearly all of the other; no where all lies clearly behind its middle."""
    axis = 1 if side in ("left", "right") else 0
    first, low, _, high, last = ours[axis]
    _, their_low, middle, their_high, _ = theirs[axis]
    if side in ("left", "top"):
        return True if high < their_low else False if first > middle + APART else None
    return True if low > their_high else False if last < middle - APART else None
