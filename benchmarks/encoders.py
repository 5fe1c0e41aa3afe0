"""Encoders to measure with, and the ways to run one: all at once, in bfloat16, with channels last."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rsvlm.sensors import SENSORS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from rsvlm.encoder.model import SpectralEncoder
    from rsvlm.sensors import Band

SHIPPED = "shipped"
PRELOAD = ("rasterio", "torch", "torchvision", "timm", "open_clip", "transformers", "rsvlm.encoder.model")
COSINE = 0.999


def encoder_for(
    trunk: str = SHIPPED,
    *,
    threads: int = 1,
    device: str = "cpu",
    size: int | None = None,
    precision: str = "auto",
) -> SpectralEncoder:
    """The encoder that comes with the project, or one of the same build with a timm trunk and untrained weights.

    Images are brought to `size` pixels a side, which is the shipped encoder's own where not given. One batch has
    passed through, so that nobody pays for the first.
    """
    import torch

    from rsvlm.encoder.clip import EncoderConfig, SpectralCLIP
    from rsvlm.encoder.model import SpectralEncoder

    torch.set_num_threads(threads)
    encoder = SpectralEncoder.from_pretrained(device=device, precision=precision)
    if trunk == SHIPPED:
        return warmed(encoder)
    torch.manual_seed(0)
    preprocessing = replace(encoder.preprocessing, image_size=size or encoder.preprocessing.image_size)
    model = SpectralCLIP(EncoderConfig(trunk, trunk=trunk), preprocessing.image_size)
    return warmed(SpectralEncoder(model, preprocessing, device, precision=precision))


def warmed(encoder: SpectralEncoder) -> SpectralEncoder:
    """The encoder, after a batch of nothing."""
    import torch

    size, bands = encoder.preprocessing.image_size, SENSORS["sentinel-2-l2a"].bands
    pixels = torch.zeros((16, len(bands), size, size), device=encoder.device)
    encoder.embed(pixels, torch.ones((16, size, size), dtype=torch.bool, device=encoder.device), bands)
    return encoder


def whole(
    encoder: SpectralEncoder,
    pixels: Tensor,
    valid: Tensor,
    bands: tuple[Band, ...],
    *,
    bfloat16: bool = False,
    channels_last: bool = False,
) -> Tensor:
    """Unit vectors (N, D) of physical pixels (N, C, H, W) in one forward pass, as `embed` but for how it is run."""
    import torch
    from torch.nn import functional

    prepared = encoder.preprocessing.resize(encoder.preprocessing.normalise(pixels, valid, bands))
    if channels_last:
        prepared = prepared.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast(encoder.device.type, torch.bfloat16, enabled=bfloat16):
        features = encoder.model.image_features(prepared, bands)
    return functional.normalize(features.float(), dim=-1)


def cosines(found: NDArray[Any], expected: NDArray[Any]) -> dict[str, float]:
    """The least and the middle cosine of unit vectors (N, D), as facts."""
    values = np.einsum("nd,nd->n", found.astype(np.float64), expected.astype(np.float64))
    return {"least cosine": float(values.min()), "median cosine": float(np.median(values))}


def too_far(facts: dict[str, float], least: float = COSINE) -> str:
    """What is wrong with vectors whose cosine is too small; empty where it is not."""
    found = facts["least cosine"]
    return "" if found >= least else f"the least cosine is {found:.5f}, under {least}"
