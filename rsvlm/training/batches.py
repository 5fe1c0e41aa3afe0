"""What goes into a step: crops of every source, drawn and augmented under a seed, and the texts they are held to."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rsvlm.encoder.dense import COARSEST
from rsvlm.encoder.preprocessing import BandStatistics
from rsvlm.findings import UNCHANGED
from rsvlm.training.chips import BACKGROUND, UNKNOWN, Captioned, Changed, Mapped, Pixels

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from rsvlm.encoder.preprocessing import Preprocessing
    from rsvlm.sensors import Band
    from rsvlm.training.config import Source, TrainingConfig

Data = Captioned | Mapped | Changed
IMAGENET = {"red": (0.485, 0.229), "green": (0.456, 0.224), "blue": (0.406, 0.225)}
RADAR_DB = {"VV": (-12.0, 5.0), "VH": (-19.0, 5.5), "HH": (-11.0, 5.0), "HV": (-19.0, 5.5)}
NAME_PATTERNS = ("{}", "an aerial image of {}", "a picture of {}", "a satellite photo of {}", "there is {} here")
SMALLEST_CROP = 0.65  # of an image's side, where whole images are described
NEIGHBOURS = 1.3  # bands whose wavelengths differ by less than this factor are mixed


@dataclass(frozen=True)
class View:
    """Crops seen by one sensor: normalised pixels (n, C, S, S) and their bands."""

    pixels: Tensor
    bands: tuple[Band, ...]


@dataclass(frozen=True)
class Batch:
    """Crops of one source with texts.

    `right` tells which of the M texts are true: of each image (n, M) where `words` is None, else of each word (G, M);
    `words` (n, S, S) then holds the word of every pixel, -1 where none is known. Change has two views a sensor:
    before, after. `named` (n,) is the position of each image's scene name in `names`, -1 for none.
    """

    views: tuple[View, ...]
    texts: list[str]
    right: Tensor
    words: Tensor | None = None
    names: list[str] = field(default_factory=list)
    named: Tensor | None = None


def band_statistics(parts: Sequence[Pixels]) -> tuple[BandStatistics, ...]:
    """Mean and spread of each band: ImageNet's for RGB, typical C-band values for dB, measured for the rest.

    Of bands met in several sources the first source counts: name real imagery before simulated.
    """
    found = [BandStatistics("dB", mean, std, polarisation=p) for p, (mean, std) in RADAR_DB.items()]
    for name, (mean, std) in IMAGENET.items():
        wavelength = {"red": 640.0, "green": 550.0, "blue": 465.0}[name]
        found.append(BandStatistics("display", mean, std, wavelength_nm=wavelength))
    for part in parts:
        for position, band in enumerate(part.bands):
            if band.units not in ("reflectance", "display") or _known(band, len(part.bands), found):
                continue
            values = part.raw[:, position, ::4, ::4].astype(np.float64) * band.scale + band.offset
            values = values[(part.raw[:, position, ::4, ::4] != 0) & (values > -1) & (values < 2)]
            mean, std = round(float(values.mean()), 5), round(float(values.std()), 5)
            found.append(BandStatistics(band.units, mean, std, band.wavelength_nm, band.polarisation))
    return tuple(found)


def _known(band: Band, count: int, found: Sequence[BandStatistics]) -> bool:
    if band.units == "display" and band.common_name in IMAGENET and count == 3:
        return True
    return any(known.units == band.units and known.distance(band) < 0.01 for known in found)


def draw(
    sources: Sequence[tuple[Source, Data]],
    config: TrainingConfig,
    step: int,
    preprocessing: Preprocessing,
    synonyms: Mapping[str, Sequence[str]],
) -> Iterator[Batch]:
    """Draw a step's batches, one of each source whose turn it is; the same after a restart."""
    changes = sorted({word for _, data in sources if isinstance(data, Changed) for word in data.words if word})
    for number, (source, data) in enumerate(sources):
        chance = np.random.default_rng([config.seed, number, step, 1])
        if chance.random() >= source.share:
            continue
        maker = _Maker(source, config, step, preprocessing, synonyms, chance)
        total = len(data.maps) if isinstance(data, Mapped | Changed) else len(data.pixels)
        picked = pick(total, source.batch, step, np.random.SeedSequence([config.seed, number]))
        if isinstance(data, Captioned):
            yield maker.captioned(data, picked)
        elif isinstance(data, Mapped):
            yield maker.mapped(data, picked)
        else:
            yield maker.changed(data, picked, changes)


def pick(total: int, count: int, step: int, seed: np.random.SeedSequence) -> NDArray[np.int64]:
    """Positions (count,) for a step: consecutive pieces of one shuffle per epoch, repeated when there are too few."""
    epoch, place = divmod(step, max(1, total // count))
    order = np.random.default_rng([*seed.entropy, epoch]).permutation(total)  # type: ignore[misc]
    return np.resize(order[place * count : (place + 1) * count], count)


@dataclass(frozen=True)
class _Maker:
    """Makes the batch of one source for one step."""

    source: Source
    config: TrainingConfig
    step: int
    preprocessing: Preprocessing
    synonyms: Mapping[str, Sequence[str]]
    chance: np.random.Generator

    def captioned(self, data: Captioned, picked: NDArray[np.int64]) -> Batch:
        """Whole images, randomly cropped and resized, with captions; the source's scene names too."""
        size = self.source.size or self.config.size_at(self.step)
        side = data.pixels.raw.shape[-1]
        crop = round(side * self.chance.uniform(SMALLEST_CROP, 1.0))
        (raw,) = turned([data.pixels.raw], picked, crop, self.chance)
        view = self._view(raw, data.pixels.bands)
        pixels = functional.interpolate(view.pixels, (size, size), mode="bilinear", antialias=crop > size)
        if len(view.bands) <= 3 and self.chance.random() < self.config.coarsening:
            pixels = coarsened(pixels, self.chance)
        own = [self._some(data.captions[i]) for i in picked]
        texts = sorted({text for each in own for text in each})
        own = [[*each, *data.captions[i]] for each, i in zip(own, picked, strict=True)]
        right = torch.tensor([[text in each for text in texts] for each in map(set, own)])
        view = View(brightened(pixels, 0.2, self.chance), view.bands)
        kinds = sorted({name for name in data.names if name}) if self.config.names_weight else []
        named = torch.tensor([kinds.index(data.names[i]) if data.names[i] in kinds else -1 for i in picked])
        return Batch((view,), texts, right, names=[self._named(name) for name in kinds], named=named)

    def mapped(self, data: Mapped, picked: NDArray[np.int64]) -> Batch:
        """Crops at their own resolution with a word for each pixel."""
        crop = self._crop(data.maps.shape[-1])
        raw, maps = turned([data.pixels.raw, data.maps], picked, crop, self.chance)
        view = self._view(raw, data.pixels.bands)
        spread = 0.2 if view.bands[0].units == "display" else 0.05
        view = replace(view, pixels=brightened(view.pixels, spread, self.chance))
        groups = [[self._said(word)] for word in data.words] + [list(self.source.background)]
        return Batch((view,), *_groups(groups), words_of(maps, len(data.words)))

    def changed(self, data: Changed, picked: NDArray[np.int64], words: Sequence[str]) -> Batch:
        """Crops of both dates by each sensor with what became of each pixel, among all changes of the run."""
        layers = [part.raw for pair in zip(data.before, data.after, strict=True) for part in pair]
        crop = self._crop(data.maps.shape[-1])
        *raws, maps = turned([*layers, data.maps], picked, crop, self.chance)
        bands = [pair.bands for pair in data.before for _ in range(2)]
        views = [self._view(raw, band, vary=False) for raw, band in zip(raws, bands, strict=True)]
        views = [replace(view, pixels=brightened(view.pixels, 0.1, self.chance)) for view in views]
        said = {word: self._said(word) for word in words}
        groups = [[said[word]] if word else list(said.values()) for word in data.words] + [list(UNCHANGED)]
        texts, right = _groups(groups, list(said.values()))
        return Batch(tuple(views), texts, right, words_of(maps, len(data.words)))

    def _crop(self, side: int) -> int:
        return min(self.source.size or self.config.image_size, side // COARSEST * COARSEST)

    def _said(self, name: str) -> str:
        return str(self.chance.choice([name, *self.synonyms.get(name, ())]))

    def _some(self, captions: Sequence[str]) -> list[str]:
        count = self.config.captions_each
        return list(self.chance.choice(captions, count)) if count else list(captions)

    def _named(self, name: str) -> str:
        return str(self.chance.choice(NAME_PATTERNS)).format(self._said(name))

    def _view(self, raw: NDArray[np.generic], bands: tuple[Band, ...], *, vary: bool = True) -> View:
        """Stored values (n, C, S, S) as normalised pixels; bands mixed with their neighbours and dropped by chance."""
        stored = torch.from_numpy(np.ascontiguousarray(raw))
        scale = torch.tensor([band.scale for band in bands])[:, None, None]
        offset = torch.tensor([band.offset for band in bands])[:, None, None]
        pixels = stored.float() * scale + offset
        shown = [k for k, band in enumerate(bands) if band.common_name in self.config.bands]
        if len(bands) > 3 and shown:
            pixels, bands = pixels[:, shown], tuple(bands[k] for k in shown)
        if vary and len(bands) > 3 and self.chance.random() < self.config.band_mixing:
            pixels, bands = mix_bands(pixels, bands, self.chance)
        kept = drop_bands(len(bands), self.config.band_dropping, self.chance) if vary else list(range(len(bands)))
        bands = tuple(bands[k] for k in kept)
        return View(self.preprocessing.normalise(pixels[:, kept], (stored != 0).any(1), bands), bands)


def _groups(groups: Sequence[Sequence[str]], more: Sequence[str] = ()) -> tuple[list[str], Tensor]:
    """All texts, and which of them are right for each group (G, M)."""
    texts = sorted({text for group in groups for text in group} | set(more))
    return texts, torch.tensor([[text in group for text in texts] for group in groups])


def words_of(maps: NDArray[np.generic], background: int) -> Tensor:
    """Stored word maps as positions in the groups: BACKGROUND is the last one, UNKNOWN is -1."""
    found = torch.from_numpy(maps.astype(np.int64))
    found[found == BACKGROUND] = background
    found[found == UNKNOWN] = -1
    return found


def turned(
    layers: Sequence[NDArray[np.generic]], picked: NDArray[np.int64], crop: int, chance: np.random.Generator
) -> list[NDArray[np.generic]]:
    """Random crop, turn and mirror of the picked chips, each its own, the same in all layers (N, ..., S, S)."""
    side = layers[0].shape[-1]
    found: list[list[NDArray[np.generic]]] = [[] for _ in layers]
    for position in picked:
        top, left = chance.integers(0, side - crop + 1, size=2)
        turns, mirrored = int(chance.integers(4)), chance.random() < 0.5
        for out, layer in zip(found, layers, strict=True):
            part = np.rot90(layer[position][..., top : top + crop, left : left + crop], turns, (-2, -1))
            out.append(part[..., ::-1] if mirrored else part)
    return [np.stack(out) for out in found]


def drop_bands(count: int, share: float, chance: np.random.Generator) -> list[int]:
    """Which bands a batch keeps: all of up to three, and of more a random part in `share` of the batches."""
    if count <= 3 or chance.random() >= share:
        return list(range(count))
    return sorted(chance.permutation(count)[: chance.integers(2, count)].tolist())


def mix_bands(pixels: Tensor, bands: tuple[Band, ...], chance: np.random.Generator) -> tuple[Tensor, tuple[Band, ...]]:
    """Bands as another instrument might have them: each mixed with its neighbour in wavelength, so wider and shifted.

    The mixture's centre and width are the mean and spread of the two responses together.
    """
    order = sorted(range(len(bands)), key=lambda k: bands[k].wavelength_nm or math.inf)
    mixed, described = pixels.clone(), list(bands)
    for here, there in itertools.pairwise(order):
        one, other = bands[here], bands[there]
        if one.wavelength_nm is None or other.wavelength_nm is None or one.fwhm_nm is None or other.fwhm_nm is None:
            continue
        if other.wavelength_nm >= NEIGHBOURS * one.wavelength_nm or one.units != other.units:
            continue
        share = float(chance.uniform(0, 0.5))
        mixed[:, here] = (1 - share) * pixels[:, here] + share * pixels[:, there]
        centre = (1 - share) * one.wavelength_nm + share * other.wavelength_nm
        apart = other.wavelength_nm - one.wavelength_nm
        variance = (1 - share) * one.fwhm_nm**2 + share * other.fwhm_nm**2 + 5.545 * share * (1 - share) * apart**2
        described[here] = replace(one, wavelength_nm=centre, fwhm_nm=math.sqrt(variance))
    return mixed, tuple(described)


def brightened(pixels: Tensor, spread: float, chance: np.random.Generator) -> Tensor:
    """Another contrast and brightness for each chip, by up to `spread`."""
    count = len(pixels)
    contrast = torch.from_numpy(chance.uniform(1 - spread, 1 + spread, (count, 1, 1, 1))).to(pixels)
    brightness = torch.from_numpy(chance.uniform(-spread, spread, (count, 1, 1, 1))).to(pixels)
    return pixels * contrast + brightness


def coarsened(pixels: Tensor, chance: np.random.Generator) -> Tensor:
    """The same picture with fewer details: shrunk by up to 4 and enlarged again."""
    size = pixels.shape[-1]
    small = max(8, round(size / chance.uniform(1.5, 4.0)))
    shrunk = functional.interpolate(pixels, (small, small), mode="bilinear", antialias=True)
    return functional.interpolate(shrunk, (size, size), mode="bilinear")


def all_texts(sources: Sequence[tuple[Source, Data]], synonyms: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Every text that a batch of these sources may hold."""
    yield from UNCHANGED
    for source, data in sources:
        yield from source.background
        if isinstance(data, Captioned):
            yield from (caption for captions in data.captions for caption in captions)
            for name in set(data.names) - {""}:
                for said in (name, *synonyms.get(name, ())):
                    yield from (pattern.format(said) for pattern in NAME_PATTERNS)
        else:
            for word in set(data.words) - {""}:
                yield from (word, *synonyms.get(word, ()))
