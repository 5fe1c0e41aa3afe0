"""The text side of training: frozen sentence features computed once and kept, other names of classes."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from rsvlm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rsvlm.encoder.model import SpectralEncoder

AT_ONCE = 256  # texts encoded together
COMMON_WORDS = 6000  # of the text tower's own vocabulary, most frequent first


class TextTable:
    """Frozen sentence features (V, D) of every text of a run, kept in a file named by texts and tower."""

    def __init__(self, encoder: SpectralEncoder, texts: Iterable[str], cache: Path) -> None:
        self.texts = sorted(set(texts))
        self.index = {text: position for position, text in enumerate(self.texts)}
        about = "\n".join([encoder.model.config.text_sha256, *self.texts])
        stored = cache / f"texts-{hashlib.sha256(about.encode()).hexdigest()[:16]}.safetensors"
        if not stored.is_file():
            stored.parent.mkdir(parents=True, exist_ok=True)
            save_file({"features": _features(encoder, self.texts)}, stored.with_suffix(".part"))
            stored.with_suffix(".part").replace(stored)
        self.features = load_file(stored)["features"].to(encoder.device)

    def __call__(self, texts: Iterable[str]) -> Tensor:
        """Features (M, D) of these texts."""
        return self.features[[self.index[text] for text in texts]]


def _features(encoder: SpectralEncoder, texts: list[str]) -> Tensor:
    head, encoder.model.clip.text.proj = encoder.model.clip.text.proj, torch.nn.Identity()
    rows = []
    for start in tqdm(range(0, len(texts), AT_ONCE), desc="encoding texts", unit="batch"):
        batch = texts[start : start + AT_ONCE]
        tokens = encoder.tokenizer(batch, padding=True, truncation=True, max_length=128, return_tensors="pt")
        with torch.inference_mode():
            rows.append(encoder.model.text_features(tokens["input_ids"].to(encoder.device)).cpu())
    encoder.model.clip.text.proj = head
    return torch.cat(rows).clone()


def common_words(encoder: SpectralEncoder) -> list[str]:
    """Whole words of the text tower's vocabulary, most frequent first: what a caption writer never used too."""
    pieces = sorted(encoder.tokenizer.get_vocab().items(), key=lambda item: item[1])
    return [piece for piece, _ in pieces if len(piece) > 2 and piece.isascii() and piece.isalpha()][:COMMON_WORDS]


def read_synonyms(path: str) -> dict[str, tuple[str, ...]]:
    """Other names of classes: the table [classes] of a TOML file, none without a file; raises ConfigError."""
    if not path:
        return {}
    try:
        classes = tomllib.loads(Path(path).read_text(encoding="utf-8"))["classes"]
        return {name: tuple(others) for name, others in classes.items()}
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} needs a table [classes] of class names and their synonyms: {error}") from error
