"""What a training run depends on, read from TOML and saved as JSON beside what it produced."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from rsvlm.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


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

    def __post_init__(self) -> None:
        if self.pretrained not in ("", "efficientnet-lite0"):
            raise ConfigError(f'pretrained is "" or "efficientnet-lite0"; got {self.pretrained!r}')
        if not self.sources or self.steps < 0 or any(source.per_step < 1 for source in self.sources):
            raise ConfigError("a run needs at least one source with per_step of 1 or more, and steps of 0 or more")

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
