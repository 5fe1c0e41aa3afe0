"""Maps of texts over scenes of any size: cut into squares with overlap, cosines averaged where squares overlap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from rsvlm.encoder.dense import COARSEST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

SIDE = 256  # pixels of a square
OVERLAP = 64
MOST_CELLS = 2**22  # of a map: cells of larger scenes are averaged until there are no more


def cosine_map(pictures: Tensor, texts: Tensor, vectors_of: Callable[[Tensor], Tensor]) -> NDArray[np.float32]:
    """Cosines of texts with the places of pictures that lie over each other.

    Args:
        pictures: (P, C, H, W) normalised pixels of one place: one date or two.
        texts: (T, D) unit vectors.
        vectors_of: a square (P, C, S, S) to its places' vectors (D, s, s), S a multiple of 32 and of s.

    Returns:
        (T, h, w); a cell has the side S / s, or a multiple of it in scenes of more than 4 million cells.
    """
    height, width = pictures.shape[-2:]
    padded = _pad(pictures, -(-height // COARSEST) * COARSEST, -(-width // COARSEST) * COARSEST)
    sides = [min(SIDE, length) for length in padded.shape[-2:]]
    total = count = torch.zeros(0)
    cell = 0
    for row, col in _corners(padded.shape[-2], padded.shape[-1], sides):
        found = vectors_of(padded[..., row : row + sides[0], col : col + sides[1]])
        if not cell:
            cell = _cell(sides[0] // found.shape[1], height, width)
            shape = (len(texts), padded.shape[-2] // cell, padded.shape[-1] // cell)
            total, count = torch.zeros(shape), torch.zeros(shape[1:])
        cosine = torch.einsum("td,dhw->thw", texts, functional.normalize(found.float(), dim=0))
        cosine = functional.adaptive_avg_pool2d(cosine, (sides[0] // cell, sides[1] // cell)).cpu()
        place = (slice(row // cell, row // cell + cosine.shape[1]), slice(col // cell, col // cell + cosine.shape[2]))
        total[:, *place] += cosine
        count[place] += 1
    kept = (total / count)[:, : -(-height // cell), : -(-width // cell)]
    return kept.contiguous().numpy()


def _cell(finest: int, height: int, width: int) -> int:
    cell = finest
    while cell < COARSEST and (height // cell) * (width // cell) > MOST_CELLS:
        cell *= 2
    return cell


def _pad(pictures: Tensor, height: int, width: int) -> Tensor:
    """Repeat the last row and column: a dark frame would look like an edge of something."""
    short = (0, width - pictures.shape[-1], 0, height - pictures.shape[-2])
    return functional.pad(pictures, short, mode="replicate") if any(short) else pictures


def _corners(height: int, width: int, sides: list[int]) -> Iterator[tuple[int, int]]:
    for row in _starts(height, sides[0]):
        for col in _starts(width, sides[1]):
            yield row, col


def _starts(length: int, side: int) -> list[int]:
    """First pixels of squares that overlap by 64 or more and end exactly at the end; multiples of 32."""
    return sorted({*range(0, length - side, SIDE - OVERLAP), length - side})
