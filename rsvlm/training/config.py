"""What a training run depends on, read from TOML and saved as JSON beside what it produced."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rsvlm.errors import ConfigError

KINDS = ("captions", "map", "boxes", "change")
PATHS = ("manifests", "start", "synonyms")  # keys whose values are paths relative to the config


@dataclass(frozen=True, slots=True)
class Source:
    """Manifests of one kind and how they are drawn from.

    `captions` takes retrieval manifests, and scenes manifests that add names to the same images; `map` land-cover
    manifests; `boxes` grounding manifests; `change` manifests of two dates, whose sensors are aligned where several
    saw a place. All lines of a source have the same sensors.
    """

    manifests: tuple[str, ...]
    kind: str = "captions"
    batch: int = 32  # images, or places of a change manifest
    share: float = 1.0  # of the steps that draw from this source
    size: int = 0  # side of its chips in pixels; 0 for the size of the run
    background: tuple[str, ...] = ()  # what stands outside all boxes, in words

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"the kind of a source is {', '.join(KINDS)}; got {self.kind!r}")
        if not self.manifests or self.batch < 1 or not 0 < self.share <= 1:
            raise ConfigError("a source needs manifests, a batch of 1 or more and a share above 0 and up to 1")
        if self.kind == "boxes" and not self.background:
            raise ConfigError("a source of boxes needs `background`: phrases for what stands outside all boxes")


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """Everything a run depends on; saved as JSON beside what it produced."""

    name: str
    sources: tuple[Source, ...]
    trunk: str = "tf_efficientnet_lite0"
    pretrained: str = ""  # "efficientnet-lite0" to start from the ImageNet tensors that pip brings
    start: str = ""  # folder of an encoder to go on from, with its statistics
    stem: str = "spectral"  # or "own": a kernel for each band of each sensor
    bands: tuple[str, ...] = ()  # common names of the only bands shown of multispectral sources; all where empty
    frozen_stages: int = 0  # first stages of the trunk that keep their start; RGB kernels then keep theirs too
    hold_statistics: bool = False  # batch norms keep the statistics of the start, equal for every sensor
    drop_path: float = 0.0
    dropout: float = 0.0  # share of an image's features left out before they are projected
    dense_width: int = 0
    image_size: int = 128
    first_size: int = 0  # smaller chips for the first part of the run; 0 for the full size throughout
    full_size_from: float = 0.75  # share of the steps after which chips have their full size
    steps: int = 1000
    accumulate: int = 1  # draws of all sources before each step of the optimiser
    checkpoint_gradients: bool = False  # compute activations twice instead of keeping them
    loss: str = "softmax"  # or "sigmoid"
    fixed_scale: float = 0.0  # a temperature that is not learned, as its inverse; 0 to learn it
    dense_weight: float = 1.0
    balance: float = 0.0  # of words on maps: 0 counts every place alike, 1 every word
    change_weight: float = 1.0
    pairs_weight: float = 0.5
    words_weight: float = 0.0  # keeps words never seen with an image where the sentence encoder has them
    learning_rate: float = 5e-4
    head_learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    average: float = 0.998  # decay of the running average of the weights
    band_dropping: float = 0.5  # share of multispectral batches that lose a random part of their bands
    band_mixing: float = 0.3  # share of multispectral batches whose bands are mixed with their neighbours
    coarsening: float = 0.0  # share of batches of photographs shown as if from further away
    captions_each: int = 0  # texts drawn for an image in a step; 0 for all of them
    names_weight: float = 0.3  # of telling the scene names apart, beside the captions
    synonyms: str = ""  # TOML file with a table [classes]: other names of classes
    checkpoint_every: int = 100
    snapshots: int = 0  # encoders saved on the way, for the learning curve
    seed: int = 0
    bfloat16: bool = True

    def __post_init__(self) -> None:
        if self.pretrained not in ("", "efficientnet-lite0"):
            raise ConfigError(f'pretrained is "" or "efficientnet-lite0"; got {self.pretrained!r}')
        if self.loss not in ("softmax", "sigmoid"):
            raise ConfigError(f'loss is "softmax" or "sigmoid"; got {self.loss!r}')
        if not self.sources or self.steps < 0 or self.accumulate < 1:
            raise ConfigError("a run needs at least one source, steps of 0 or more and accumulate of 1 or more")
        if not self.dense_width and any(source.kind != "captions" for source in self.sources):
            raise ConfigError("sources other than captions need a dense decoder: set dense_width, 48 for one")

    def size_at(self, step: int) -> int:
        """Side of the chips in pixels at a step."""
        return self.first_size if self.first_size and step < self.full_size_from * self.steps else self.image_size

    @classmethod
    def load(cls, path: Path) -> TrainingConfig:
        """Read a TOML file; paths in it are relative to it. Raises ConfigError naming unknown keys."""
        try:
            plain = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path} is not a training config: {error}") from error
        try:
            sources = tuple(_known(Source, source, path) for source in plain.pop("sources"))
            config: TrainingConfig = _known(cls, {"sources": sources, **plain}, path)
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path} lacks or misnames a key: {error}") from error
        return config


def _known(kind: Any, plain: dict[str, Any], path: Path) -> Any:
    unknown = sorted(set(plain) - {field.name for field in fields(kind)})
    if unknown:
        raise ConfigError(f"{path} has unknown keys {', '.join(unknown)}")
    return kind(**{key: _value(key, value, path.parent) for key, value in plain.items()})


def _value(key: str, value: Any, folder: Path) -> Any:
    if key in PATHS and value:
        return str(folder / value) if isinstance(value, str) else tuple(str(folder / name) for name in value)
    return tuple(value) if isinstance(value, list) else value
