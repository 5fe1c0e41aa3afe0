"""How the image tower runs: norms folded into convolutions on a CPU, half precision where that loses nothing."""

from __future__ import annotations

import logging
import math
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from rsvlm.errors import ConfigError
from rsvlm.sensors import SENSORS

if TYPE_CHECKING:
    from rsvlm.encoder.clip import SpectralCLIP

logger = logging.getLogger(__name__)

PRECISIONS = ("auto", "float32", "bfloat16")
PROCESSOR = Path("/proc/cpuinfo")
INSTRUCTIONS = ("avx512_bf16", "amx_bf16")
LEAST_OF_MADE = 0.9999  # cosine to float32 of the pictures checked; the worst of 1,024 real chips lost up to 8 times as
# much, so that each keeps the 0.999 that is promised
MOST_COMPANY = 1e-5  # what the rest of its batch may change of any component
EXACT_BLOCKS = 4  # first blocks kept in float32: there a flat picture is rounded alike everywhere, which no mean undoes
SPLIT = 192  # channels: a float32 product over more is summed by the size of the batch, and rounding magnifies that
CHECKED = ("sentinel-2-l2a", "rgb", "sentinel-1-grd")
LEVELS, SPREADS, SHARED, FALL = (-1.5, -0.5, 0.5, 2.0), (0.05, 0.3), 0.8, 1.5


def precision_of(name: str) -> str:
    """The name of a precision; raises ConfigError for another one."""
    if name not in PRECISIONS:
        raise ConfigError(f"a precision is {', '.join(PRECISIONS)}; got {name!r}")
    return name


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 products; False where that cannot be known."""
    capabilities: Any = getattr(torch.cpu, "get_capabilities", None)  # newer torch only
    if capabilities is not None:
        return any(capabilities().get(name, False) for name in INSTRUCTIONS)
    return PROCESSOR.is_file() and not set(INSTRUCTIONS).isdisjoint(PROCESSOR.read_text().split())


class _Cast(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, features: Tensor) -> Tensor:
        return features.to(self.dtype, memory_format=torch.channels_last)


def folded(visual: nn.Module) -> nn.Module:
    """A copy of an EfficientNet tower with each norm made part of the convolution before it: equal but for rounding.

    It is a third faster in float32, because no feature is read and written once more for its norm.
    """
    from timm.layers.norm_act import BatchNormAct2d

    copied: Any = deepcopy(visual)
    for module in list(copied.modules()):
        for (first, conv), (second, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, BatchNormAct2d):
                setattr(module, first, fuse_conv_bn_eval(conv, norm))
                setattr(module, second, nn.Sequential(norm.drop, norm.act))
    copied.trunk.conv_stem = _Cast(torch.float32)  # the spectral stem stands before it
    return copied.eval().to(memory_format=torch.channels_last)  # type: ignore[no-any-return]


def in_bfloat16(tower: nn.Module) -> nn.Module:
    """A copy of a folded tower in bfloat16, but for its first blocks, the mean over all places and the projection.

    In the first blocks only products over many channels are in bfloat16; what they add to stays in float32.
    """
    copied: Any = deepcopy(tower)
    trunk = copied.trunk
    for module in (*trunk.blocks[EXACT_BLOCKS:], trunk.conv_head):
        module.to(torch.bfloat16)
    for block in (block for stage in trunk.blocks[:EXACT_BLOCKS] for block in stage):
        narrow = getattr(block, "conv_pwl", None)
        if narrow is not None and narrow.in_channels > SPLIT:
            block.conv_pwl = nn.Sequential(_Cast(torch.bfloat16), narrow.to(torch.bfloat16), _Cast(torch.float32))
    trunk.blocks[EXACT_BLOCKS - 1] = nn.Sequential(trunk.blocks[EXACT_BLOCKS - 1], _Cast(torch.bfloat16))
    trunk.bn2 = nn.Sequential(trunk.bn2, _Cast(torch.float32))
    return copied  # type: ignore[no-any-return]


def likenesses(bands: int, size: int) -> Tensor:
    """Normalised pictures (8, bands, size, size) as a satellite sees them, dark to bright, flat to rich; always equal.

    Noise that falls with frequency, most of it shared by the bands. Flat ones lose most in bfloat16: in real scenes,
    that is water.
    """
    random = torch.Generator().manual_seed(0)
    squared = torch.fft.fftfreq(size)[:, None].square() + torch.fft.rfftfreq(size)[None].square()
    fall = squared.clamp_min(1 / size**2) ** (-FALL / 2)

    def noise(count: int) -> Tensor:
        white = torch.randn(count, size, size, generator=random)
        smooth: Tensor = torch.fft.irfft2(torch.fft.rfft2(white) * fall, s=(size, size))
        flat = smooth.flatten(1)
        unit: Tensor = (flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True)
        return unit.view_as(smooth)

    made = []
    for level in LEVELS:
        for spread in SPREADS:
            texture = SHARED * noise(1) + math.sqrt(1 - SHARED**2) * noise(bands)
            made.append(level + 0.4 * torch.randn(bands, 1, 1, generator=random) + spread * texture)
    return torch.stack(made)


class Autocast(nn.Module):
    """A tower as it is, its products in half precision."""

    def __init__(self, tower: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.tower, self.dtype = tower, dtype

    def forward(self, stems: Tensor) -> Tensor:
        """Features (N, D) of stems (N, C, h, w)."""
        with torch.autocast(stems.device.type, self.dtype):
            features: Tensor = self.tower(stems)
        return features


@dataclass(frozen=True, slots=True)
class Agreement:
    """How near a tower's vectors are to another's, and how little of them depends on the batch."""

    cosine: float  # the least
    company: float  # the greatest change of a component

    @property
    def near(self) -> bool:
        """Whether the cosine is what is wanted; not so for one that is no number."""
        return self.cosine >= LEAST_OF_MADE

    @property
    def holds(self) -> bool:
        """Whether both are within what is promised; not so for numbers that are none."""
        return self.near and self.company <= MOST_COMPANY


@torch.inference_mode()
def agreement(tower: nn.Module, model: SpectralCLIP, size: int) -> Agreement:
    """Compare a tower with the model's own on pictures of three sensors, where the model is."""
    cosines, company = [], []
    device = next(model.parameters()).device
    for name in CHECKED:
        bands = SENSORS[name].bands
        stems = model.stem(likenesses(len(bands), size).to(device), bands)
        found, wanted = _unit(tower(stems)), _unit(model.clip.visual(stems))
        cosines.append((found * wanted).sum(1))
        company.append((_unit(tower(stems[-1:])) - found[-1:]).abs())
    return Agreement(float(torch.cat(cosines).min()), float(torch.cat(company).max()))


def _unit(features: Tensor) -> Tensor:
    return functional.normalize(features.float(), dim=-1)


def tower_for(model: SpectralCLIP, size: int, precision: str) -> nn.Module:
    """What turns stems (N, C, h, w) into features (N, D) where the model is.

    On a CPU, EfficientNets with folded norms in bfloat16; on a GPU any trunk in float16, which a GPU multiplies as
    fast and which loses an eighth; elsewhere the model's own.

    Args:
        model: in evaluation mode.
        size: pixels to a side of the pictures.
        precision: "auto" is half precision where the processor multiplies it and the vectors are those of float32;
            "bfloat16" asks neither.
    """
    device = next(model.parameters()).device.type
    if precision != "float32" and device == "cuda":
        return _on_gpu(model, size, precision)
    if precision != "float32" and device == "cpu":
        return _on_cpu(model, size, precision)
    return model.clip.visual  # type: ignore[no-any-return]


def _on_gpu(model: SpectralCLIP, size: int, precision: str) -> nn.Module:
    visual: Any = model.clip.visual
    if precision == "bfloat16":
        return Autocast(visual, torch.bfloat16)
    half = Autocast(visual, torch.float16)
    found = agreement(half, model, size)  # kernels are chosen by the batch: only nearness is asked
    return (
        half
        if found.near
        else _refused(visual, f"the least cosine is {found.cosine:.5f} where {LEAST_OF_MADE} is wanted")
    )


def _on_cpu(model: SpectralCLIP, size: int, precision: str) -> nn.Module:
    from timm.models import EfficientNet

    visual: Any = model.clip.visual
    if not isinstance(visual.trunk, EfficientNet):
        return visual  # type: ignore[no-any-return]
    exact = folded(visual)
    if precision == "auto" and not multiplies_bfloat16():
        return exact
    half = in_bfloat16(exact)
    if precision == "bfloat16":
        return half
    found = agreement(half, model, size)
    if found.holds:
        return half
    return _refused(
        exact,
        f"the least cosine is {found.cosine:.5f} where {LEAST_OF_MADE} is wanted, "
        f"and the batch changes a component by {found.company:.0e} where {MOST_COMPANY:.0e} is allowed",
    )


def _refused(exact: nn.Module, reason: str) -> nn.Module:
    logger.info("images are encoded in float32: in half precision %s", reason)
    return exact
