"""The two random patterns that landscapes are made of: fractal fields and patchworks of parcels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import fft
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from numpy.typing import NDArray


def fractal(
    rng: np.random.Generator, shape: tuple[int, int], *, scale: float, slope: float = 2.0
) -> NDArray[np.float32]:
    """Random field of mean 0 and deviation 1 whose amplitude falls as f^-slope below `scale` pixels."""
    padded = [fft.next_fast_len(int(n + min(n / 2, scale)), real=True) for n in shape]  # opposite edges must not match
    white = rng.standard_normal(padded, dtype=np.float32)
    fy, fx = np.fft.fftfreq(padded[0])[:, None], np.fft.rfftfreq(padded[1])
    amplitude = (1 + (np.hypot(fy, fx) * scale) ** 2) ** (-slope / 2)
    field = fft.irfft2(fft.rfft2(white) * amplitude.astype(np.float32), s=padded)[: shape[0], : shape[1]]
    return np.asarray((field - field.mean()) / field.std(), dtype=np.float32)


@dataclass(frozen=True)
class Patchwork:
    """A plane cut into blocks, each with its own direction and its own grid of parcels."""

    blocks: NDArray[np.intp]  # (H, W)
    parcels: NDArray[np.intp]  # (H, W), numbered from 0
    edge: NDArray[np.float64]  # (H, W), about twice the distance to the next block, pixels
    along: NDArray[np.float64]  # (H, W), pixel coordinates in the directions of the block
    across: NDArray[np.float64]


def patchwork(
    rng: np.random.Generator, shape: tuple[int, int], *, block: float, length: float, width: float, bend: float = 0.015
) -> Patchwork:
    """Voronoi blocks about `block` pixels wide, cut into uneven strips of about length x width pixels.

    `bend` is how far lines stray from straight, as a share of the block.
    """
    height, wide = shape
    count = max(3, int((height + 2 * block) * (wide + 2 * block) / block**2))
    sites = rng.uniform((-block, -block), (height + block, wide + block), (count, 2))
    axes = np.indices(shape, dtype=np.float64)
    points = np.stack([axis + bend * block * fractal(rng, shape, scale=block, slope=3.0) for axis in axes], axis=-1)
    distance, nearest = cKDTree(sites).query(points, k=2)
    blocks = nearest[..., 0]
    angle = (rng.uniform(0, np.pi) + rng.normal(0, 0.35, count))[blocks]
    offset = points - sites[blocks]
    along = offset[..., 0] * np.cos(angle) + offset[..., 1] * np.sin(angle)
    across = offset[..., 1] * np.cos(angle) - offset[..., 0] * np.sin(angle)
    numbers = [blocks]
    for axis, step in ((along, length), (across, width)):
        turns = axis / (step * rng.lognormal(0, 0.3, count))[blocks]
        uneven = turns + 0.45 * np.sin(1.7 * turns + rng.uniform(0, 6.3, count)[blocks])  # always rising
        numbers.append(np.floor(uneven).astype(np.intp) + 500)
    keys = (numbers[0] * 1000 + numbers[1]) * 1000 + numbers[2]
    parcels = np.unique(keys, return_inverse=True)[1].reshape(shape)
    return Patchwork(blocks, parcels, distance[..., 1] - distance[..., 0], along, across)
