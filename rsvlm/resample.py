"""Bringing stored values to another number of pixels: averaging down, bilinear up, missing pixels left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray


def resample(
    raw: NDArray[Any], valid: NDArray[np.bool_], shape: tuple[int, int]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Values (C, H, W) and their validity at (h, w): each new pixel is the mean of the valid ones it touches.

    A new pixel is valid where any pixel under it is; invalid pixels hold 0. The type of `raw` is kept.
    """
    how = Image.Resampling.BOX if shape[0] < valid.shape[0] or shape[1] < valid.shape[1] else Image.Resampling.BILINEAR
    weight = _resize(valid.astype(np.float32), shape, how)
    kept = weight > 1e-6
    out = np.zeros((len(raw), *shape), raw.dtype)
    for layer, target in zip(raw, out, strict=True):
        mean = _resize(np.where(valid, layer, 0).astype(np.float32), shape, how)[kept] / weight[kept]
        target[kept] = mean if raw.dtype.kind == "f" else np.rint(mean)
    return out, kept


def _resize(layer: NDArray[np.float32], shape: tuple[int, int], how: Image.Resampling) -> NDArray[np.float32]:
    return np.asarray(Image.fromarray(layer).resize((shape[1], shape[0]), how))
