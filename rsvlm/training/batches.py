"""What goes into a step: chips of every source, drawn and augmented under a seed, and their captions' features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from rsvlm.encoder.preprocessing import BandStatistics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from rsvlm.encoder.model import SpectralEncoder
    from rsvlm.encoder.preprocessing import Preprocessing
    from rsvlm.sensors import Band
    from rsvlm.training.chips import Chips
    from rsvlm.training.config import TrainingConfig

IMAGENET = {"red": (0.485, 0.229), "green": (0.456, 0.224), "blue": (0.406, 0.225)}
RADAR_DB = {"VV": (-12.0, 5.0), "VH": (-19.0, 5.5), "HH": (-11.0, 5.0), "HV": (-19.0, 5.5)}
CAPTIONS_AT_ONCE = 256


def band_statistics(chips: list[Chips]) -> tuple[BandStatistics, ...]:
    """Mean and spread of each band: ImageNet's for RGB, typical C-band values for dB, measured for the rest."""
    found = [BandStatistics("dB", mean, std, polarisation=p) for p, (mean, std) in RADAR_DB.items()]
    for name, (mean, std) in IMAGENET.items():
        wavelength = {"red": 640.0, "green": 550.0, "blue": 465.0}[name]
        found.append(BandStatistics("display", mean, std, wavelength_nm=wavelength))
    for part in chips:
        for position, band in enumerate(part.bands):
            if band.units == "display" and band.common_name in IMAGENET and len(part.bands) == 3:
                continue
            values = part.raw[:, position, ::4, ::4].astype(np.float64) * band.scale + band.offset
            values = values[(part.raw[:, position, ::4, ::4] != 0) & (values > -1) & (values < 2)]
            mean, std = round(float(values.mean()), 5), round(float(values.std()), 5)
            found.append(BandStatistics(band.units, mean, std, band.wavelength_nm, band.polarisation))
    return tuple(found)


class TextFeatures:
    """Frozen sentence features of every caption, computed once: the text side costs nothing per step."""

    def __init__(self, encoder: SpectralEncoder, parts: list[Chips]) -> None:
        captions = sorted({caption for chips in parts for row in chips.captions for caption in row})
        self.index = {caption: position for position, caption in enumerate(captions)}
        head, encoder.model.clip.text.proj = encoder.model.clip.text.proj, torch.nn.Identity()
        rows = []
        for start in tqdm(range(0, len(captions), CAPTIONS_AT_ONCE), desc="encoding captions", unit="batch"):
            tokens = encoder.tokenizer(
                captions[start : start + CAPTIONS_AT_ONCE], padding=True, truncation=True, return_tensors="pt"
            )
            with torch.inference_mode():
                rows.append(encoder.model.text_features(tokens["input_ids"].to(encoder.device)))
        encoder.model.clip.text.proj = head
        self.table = torch.cat(rows).clone()

    def __call__(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Features (N, D) and identities (N,): equal captions have equal identities."""
        positions = torch.tensor([self.index[caption] for caption in captions], device=self.table.device)
        return self.table[positions], positions


@dataclass(frozen=True)
class Batch:
    """Chips of one source that share their bands, with one caption each."""

    pixels: Tensor  # (n, C, S, S), normalised
    bands: tuple[Band, ...]
    captions: list[str]


def draw(
    sources: list[tuple[Chips, int]],
    config: TrainingConfig,
    step: int,
    preprocessing: Preprocessing,
    device: torch.device,
) -> Iterator[Batch]:
    """Draw a step's chips of every source: an epoch is a seeded shuffle, the same after a restart."""
    for number, (chips, count) in enumerate(sources):
        chance = np.random.default_rng([config.seed, number, step, 1])
        picked = pick(len(chips), count, step, np.random.SeedSequence([config.seed, number]))
        captions = [chips.captions[i][chance.integers(len(chips.captions[i]))] for i in picked]
        pixels = physical(chips, picked, preprocessing, device)
        pixels = augment(pixels, config.size_at(step), chance)
        kept = drop_bands(len(chips.bands), config.band_dropping, chance)
        yield Batch(pixels[:, kept], tuple(chips.bands[k] for k in kept), captions)


def pick(total: int, count: int, step: int, seed: np.random.SeedSequence) -> NDArray[np.int64]:
    """Positions (count,) for a step: consecutive pieces of one shuffle per epoch, repeated when there are too few."""
    epoch, place = divmod(step, max(1, total // count))
    order = np.random.default_rng([*seed.entropy, epoch]).permutation(total)  # type: ignore[misc]
    return np.resize(order[place * count : (place + 1) * count], count)


def physical(chips: Chips, picked: NDArray[np.int64], preprocessing: Preprocessing, device: torch.device) -> Tensor:
    """Stored values of the picked chips, scaled on the device and normalised: (n, C, S, S)."""
    raw = torch.from_numpy(np.stack([chips.raw[i] for i in picked])).to(device)
    scale = torch.tensor([band.scale for band in chips.bands], device=device)[:, None, None]
    offset = torch.tensor([band.offset for band in chips.bands], device=device)[:, None, None]
    return preprocessing.normalise(raw.float() * scale + offset, (raw != 0).any(1), chips.bands)


def drop_bands(count: int, share: float, chance: np.random.Generator) -> list[int]:
    """Which bands a batch keeps: all of up to three, and of more a random part in `share` of the batches."""
    if count <= 3 or chance.random() >= share:
        return list(range(count))
    return sorted(chance.permutation(count)[: chance.integers(2, count)].tolist())


def augment(pixels: Tensor, size: int, chance: np.random.Generator) -> Tensor:
    """Random crop, turn and mirror of (N, C, S, S), each chip its own; light brightness and contrast change."""
    count, _, side, _ = pixels.shape
    crop = round(side * chance.uniform(0.65, 1.0))
    out = []
    for chip in pixels:
        top, left = chance.integers(0, side - crop + 1, size=2)
        part = torch.rot90(chip[:, top : top + crop, left : left + crop], int(chance.integers(4)), (1, 2))
        out.append(part.flip(2) if chance.random() < 0.5 else part)
    stacked = functional.interpolate(torch.stack(out), (size, size), mode="bilinear", antialias=crop > size)
    contrast = torch.from_numpy(chance.uniform(0.8, 1.2, (count, 1, 1, 1))).to(stacked)
    brightness = torch.from_numpy(chance.uniform(-0.2, 0.2, (count, 1, 1, 1))).to(stacked)
    return stacked * contrast + brightness
