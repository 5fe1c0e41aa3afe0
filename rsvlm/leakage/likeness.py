"""Whether two pictures show the same ground: perceptual hashes in 8 orientations, then aligned detail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from rsvlm.preview import render

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from rsvlm.scene import Scene

    Thumbnail = NDArray[np.uint8]  # (SIDE, SIDE), grey

SIDE = 64
EDGE = 8  # thumbnail pixels by which one picture may be shifted against the other
ZOOMS = (0.0, 0.02, 0.04)  # shares cut off every side of one picture to fit a cropped other
FLAT = 1.0  # grey levels (0-255) of detail under which a picture looks like any other of its kind
MIN_VALID = 0.1  # of the pixels; less says more about the mask than about the ground
CELLS = 2**22  # hashes compared at a time: bounds memory
TURNS = tuple(
    ", ".join(part for part in (mirrored, f"rotated by {90 * quarter} degrees" if quarter else "") if part)
    for mirrored in ("", "mirrored")
    for quarter in range(4)
)  # of the held-out picture, in words, in the order of `turned`; rotations are anticlockwise


def thumbnail(scene: Scene) -> Thumbnail | None:
    """Grey levels (64, 64) of a scene, missing pixels at the mean of the others; None where there is nothing to see."""
    if scene.valid.mean() < MIN_VALID:
        return None
    grey = np.asarray(Image.fromarray(render(scene, size=max(scene.shape))).convert("L"))
    filled = np.where(scene.valid, grey, grey[scene.valid].mean()).astype(np.uint8)
    small = np.asarray(Image.fromarray(filled).resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    return small if _detail(small).std() >= FLAT else None


def turned(picture: Thumbnail) -> list[Thumbnail]:
    """The 8 views of a picture: as it is and mirrored left to right, each rotated by 0, 90, 180 and 270 degrees."""
    return [np.ascontiguousarray(np.rot90(view, k)) for view in (picture, picture[:, ::-1]) for k in range(4)]


def hashed(picture: Thumbnail) -> np.uint64:
    """The 64 bits of imagehash.phash."""
    import imagehash

    bits = imagehash.phash(Image.fromarray(picture)).hash
    return np.uint64(np.packbits(bits).view(np.uint64)[0])


def near_hashes(
    rows: NDArray[np.uint64], columns: NDArray[np.uint64], most: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Find hashes at most `most` bits apart: rows (R, 8 turns) against columns (C,), in blocks of whole rows.

    Yields (row, column, turn, distance), each (N,), sorted by row.
    """
    step = max(1, CELLS // max(1, 8 * len(columns)))
    for start in range(0, len(rows), step):
        distance = np.bitwise_count(rows[start : start + step, :, None] ^ columns)
        row, turn, column = np.nonzero(distance <= most)
        yield row + start, column, turn, distance[row, turn, column].astype(np.int64)


def agreement(one: Thumbnail, other: Thumbnail) -> float:
    """Highest correlation (-1 to 1) of the detail of two pictures over small shifts and crops of either."""
    best = -1.0
    for cut in ZOOMS:
        for cropped, whole in ((one, other), (other, one)) if cut else ((one, other),):
            best = max(best, _matched(_zoomed(cropped, cut * SIDE), whole))
    return best


def _matched(part: Thumbnail, whole: Thumbnail) -> float:
    from skimage.feature import match_template

    middle = _detail(part)[EDGE:-EDGE, EDGE:-EDGE]
    if middle.std() < FLAT / 2:  # all there is to see lies along the edge
        return -1.0
    fit: NDArray[np.float32] = match_template(_detail(whole), middle)  # type: ignore[no-untyped-call]
    return float(fit.max())


def _zoomed(picture: Thumbnail, cut: float) -> Thumbnail:
    box = (cut, cut, SIDE - cut, SIDE - cut)
    return np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box))


def _detail(picture: Thumbnail) -> NDArray[np.float32]:
    """What lies between 1 and 4 pixels: neither noise nor the shading and coast lines that many pictures share."""
    smooth = gaussian_filter(picture.astype(np.float32), 1)
    fine: NDArray[np.float32] = smooth - gaussian_filter(smooth, 4)
    return fine
