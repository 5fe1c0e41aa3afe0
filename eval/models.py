"""The models an evaluation runs, loaded when first asked for, and what an image looks like to the blind ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from rsvlm.assistant import Assistant
    from rsvlm.encoder.model import SpectralEncoder
    from rsvlm.language.model import CausalLanguageModel
    from rsvlm.scene import Scene

BLANK = {"reflectance": 0.2, "display": 0.5, "dB": -12.0, "K": 290.0}  # mid values, without any texture


@dataclass
class Models:
    """An encoder and a language model by folder or name; None is the shipped default."""

    encoder_name: str | Path | None = None
    language_name: str | Path | None = None
    device: str = "cpu"

    @cached_property
    def encoder(self) -> SpectralEncoder:
        """The encoder."""
        from rsvlm.encoder.model import SpectralEncoder

        return SpectralEncoder.from_pretrained(self.encoder_name, device=self.device)

    @cached_property
    def language(self) -> CausalLanguageModel:
        """The language model."""
        from rsvlm.language.model import CausalLanguageModel

        return CausalLanguageModel.from_pretrained(self.language_name, device=self.device)

    @cached_property
    def assistant(self) -> Assistant:
        """Both together."""
        from rsvlm.assistant import Assistant

        return Assistant(self.encoder, self.language)

    def about(self, uses: frozenset[str]) -> dict[str, dict[str, Any]]:
        """Name and fingerprint of the parts a task uses."""
        found: dict[str, dict[str, Any]] = {}
        if "encoder" in uses:
            found["encoder"] = {"name": self.encoder.name, "fingerprint": self.encoder.fingerprint}
        if "language" in uses:
            found["language"] = {"name": self.language.name, "fingerprint": self.language.fingerprint}
        return found


def blank(scene: Scene) -> Scene:
    """The scene with every pixel of every band at one mid value: what a model without eyes is given."""
    levels = np.array([BLANK.get(band.units, 0.0) for band in scene.bands], np.float32)
    return replace(scene, pixels=np.broadcast_to(levels[:, None, None], scene.pixels.shape).copy())
