"""Dense features: what stands at each place of an image, and what became of it, as vectors of the text space."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from rsvlm.encoder.stem import SpectralStem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rsvlm.sensors import Band

CELL = 2  # pixels to a side of one dense feature
COARSEST = 32  # the sides of what is decoded are multiples of this


class PixelNorm(nn.LayerNorm):
    """Layer norm over the channels of each place of (N, C, H, W): no place depends on another."""

    def forward(self, features: Tensor) -> Tensor:
        """Same shape."""
        return super().forward(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Mix(nn.Module):
    """One residual 3 x 3 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = PixelNorm(width)
        self.convolution = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Same shape."""
        mixed: Tensor = features + functional.gelu(self.convolution(self.norm(features)))
        return mixed


class DenseDecoder(nn.Module):
    """A feature pyramid (Lin et al. 2017, arXiv:1612.03144) over the trunk's levels and over the bands themselves.

    The second spectral stem sees the bands as they are: a trunk that starts from photographs keeps little of what
    tells water from shadow. A place's vector is the whole-image projection of the trunk's coarsest level, enlarged,
    corrected by what the pyramid adds, so that words learned from whole images keep their meaning on maps.
    """

    def __init__(self, channels: Sequence[int], width: int, dim: int, *, physics: bool = True) -> None:
        super().__init__()
        self.pixels = SpectralStem(width, kernel_size=3, stride=2, padding=1, physics=physics)
        self.deepen = nn.Conv2d(width, width, 1)
        self.laterals = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.mixes = nn.ModuleList(Mix(width) for _ in channels)
        self.norm = PixelNorm(width)
        self.project = nn.Conv2d(width, dim, 1)
        self.compare = nn.Sequential(
            nn.Conv2d(3 * width, width, 1), nn.GELU(), Mix(width), Mix(width), PixelNorm(width)
        )
        self.project_change = nn.Conv2d(width, dim, 1)

    def forward(self, normalised: Tensor, bands: tuple[Band, ...], levels: Sequence[Tensor]) -> Tensor:
        """(N, C, H, W) pixels and the trunk's levels, finest first -> (N, width, H / 2, W / 2)."""
        features: Tensor | None = None
        for level, lateral, mix in reversed(list(zip(levels, self.laterals, self.mixes, strict=True))):
            here = lateral(level)
            if level is levels[0]:
                here = here + self.deepen(functional.gelu(self.pixels(normalised, bands)))
            features = mix(here if features is None else here + _enlarge(features, here))
        assert features is not None
        decoded: Tensor = self.norm(features)
        return decoded

    def vectors(self, decoded: Tensor, coarse: Tensor) -> Tensor:
        """Decoded features (N, width, h, w) and whole-image projections (N, D, h', w') -> (N, D, h, w)."""
        corrections: Tensor = self.project(decoded)
        return corrections + _enlarge(coarse.to(corrections), corrections)

    def change(self, before: Tensor, after: Tensor) -> Tensor:
        """Decoded features of two dates, (N, width, h, w) each -> (N, width, h, w)."""
        compared: Tensor = self.compare(torch.cat([before, after, after - before], dim=1))
        return compared


def _enlarge(features: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(features, like.shape[-2:], mode="bilinear", align_corners=False)
