"""The encoder: chips of any sensor and texts to unit vectors, dense maps, loading and saving."""

from __future__ import annotations

import hashlib
import json
import os
from copy import deepcopy
from dataclasses import asdict
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from rsvlm.encoder.calibration import Calibration
from rsvlm.encoder.clip import WEIGHTS, EncoderConfig, SpectralCLIP, sha256_of, text_tower_folder
from rsvlm.encoder.maps import cosine_map
from rsvlm.encoder.precision import precision_of, tower_for
from rsvlm.encoder.preprocessing import Preprocessing
from rsvlm.errors import BandError, ConfigError, ModelNotFoundError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import nn

    from rsvlm.scene import Scene
    from rsvlm.sensors import Band

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
SHIPPED = "encoder"
MAX_TOKENS = 128
BATCH = 64
CPU_BATCH = 16  # images at once whose activations a core's caches still hold
MAGNIFY = 2  # of what is encoded for maps without a dense decoder


class SpectralEncoder:
    """The Encoder of this project: chips of any sensor and texts to unit vectors of one space.

    Whole images are encoded in the given precision; maps and texts are always made in float32. "auto" is float16 on a
    GPU and bfloat16 on a CPU that multiplies it, if the vectors then keep a cosine of 0.999 to float32. Safe to use
    from one thread at a time.
    """

    def __init__(
        self,
        model: SpectralCLIP,
        preprocessing: Preprocessing,
        device: str | torch.device = "cpu",
        calibration: Calibration | None = None,
        *,
        precision: str = "auto",
    ) -> None:
        self.device = torch.device(device)
        self.precision = precision_of(precision)
        self.calibration = calibration or Calibration()
        self.model = model.eval().to(self.device)
        self.preprocessing = preprocessing
        self._text_vectors: dict[str, NDArray[np.float32]] = {}
        self._tower: tuple[nn.Module, list[int]] | None = None
        self._watched: list[Tensor] = []

    @property
    def name(self) -> str:
        """Name in the config."""
        return self.model.config.name

    @property
    def dim(self) -> int:
        """Length of every vector."""
        return self.model.config.dim

    @cached_property
    def fingerprint(self) -> str:
        """Sha256 over what vectors depend on: config, preprocessing, text tower, every trained tensor in float32."""
        digest = hashlib.sha256()
        about = {"config": self.model.config.identity(), "preprocessing": self.preprocessing.to_json()}
        digest.update(json.dumps(about, sort_keys=True).encode())
        for name, tensor in sorted(self.model.trained_state().items()):
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def tokenizer(self) -> Any:
        """The text tower's own tokenizer."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(text_tower_folder(self.model.config), local_files_only=True)

    @torch.inference_mode()
    def embed(self, pixels: Tensor, valid: Tensor, bands: tuple[Band, ...]) -> Tensor:
        """Embed chips that are already on this encoder's device.

        Args:
            pixels: (N, C, H, W) float32 in physical units.
            valid: (N, H, W) bool.
            bands: C bands; layers in other units than reflectance, dB or display (kelvin) are left out.

        Returns:
            (N, D) float32, unit length.
        """
        pixels, bands = _drop_thermal(pixels, bands)
        normalised = self.preprocessing.normalise(pixels, valid, bands)
        stems = self.model.stem(self.preprocessing.resize(normalised), bands)
        return functional.normalize(self.image_tower(stems).float(), dim=-1)

    @property
    def image_tower(self) -> nn.Module:
        """What whole images pass through after the stem; made anew when the weights were changed."""
        visual: nn.Module = self.model.clip.visual
        if visual.training:
            return visual
        if self._tower is None or self._tower[1] != _versions(self._watched):
            self._watched = [*visual.parameters(), *visual.buffers()]
            tower = tower_for(self.model, self.preprocessing.image_size, self.precision)
            self._tower = tower, _versions(self._watched)
        return self._tower[0]

    def replicas(self) -> list[SpectralEncoder]:
        """This encoder, and an equal one on every other GPU where it is on "cuda" without a number."""
        if str(self.device) != "cuda":
            return [self]
        others = [number for number in range(torch.cuda.device_count()) if number != torch.cuda.current_device()]
        return [self, *(self.on(f"cuda:{number}") for number in others)]

    def on(self, device: str) -> SpectralEncoder:
        """A copy of this encoder on another device."""
        model = deepcopy(self.model)
        return SpectralEncoder(model, self.preprocessing, device, self.calibration, precision=self.precision)

    def encode_scenes(self, scenes: Sequence[Scene]) -> NDArray[np.float32]:
        """Embed N scenes of any sensor and size, equal ones in batches: (N, D) float32, unit length."""
        vectors = np.zeros((len(scenes), self.dim), np.float32)
        alike: dict[tuple[Any, ...], list[int]] = {}
        for position, scene in enumerate(scenes):
            alike.setdefault((scene.bands, scene.shape), []).append(position)
        size = CPU_BATCH if self.device.type == "cpu" else BATCH
        for (bands, _), positions in alike.items():
            for start in range(0, len(positions), size):
                batch = positions[start : start + size]
                pixels = torch.from_numpy(np.stack([scenes[i].pixels for i in batch])).to(self.device)
                valid = torch.from_numpy(np.stack([scenes[i].valid for i in batch])).to(self.device)
                vectors[batch] = self.embed(pixels, valid, bands).cpu().numpy()
        return vectors

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed N texts: (N, D) float32, unit length; only the first 128 tokens of each count."""
        missing = sorted({text for text in texts if text not in self._text_vectors})
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            self._text_vectors.update(zip(batch, self._encode_batch(batch), strict=True))
        return np.stack([self._text_vectors[text] for text in texts]) if texts else np.zeros((0, self.dim), np.float32)

    @torch.inference_mode()
    def _encode_batch(self, texts: list[str]) -> NDArray[np.float32]:
        clean = [text.encode("utf-8", "replace").decode() for text in texts]
        tokens = self.tokenizer(clean, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        features = self.model.text_features(tokens["input_ids"].to(self.device))
        return functional.normalize(features, dim=-1).cpu().numpy()

    @torch.inference_mode()
    def similarity_map(self, scene: Scene, texts: Sequence[str]) -> NDArray[np.float32]:
        """Cosine of every place with every text: (T, h, w) float32.

        One cell is 2 pixels, more in scenes of over 16 million pixels; about 16 without a dense decoder.
        """
        pictures, bands = self._pictures(scene)
        return cosine_map(pictures, self._texts(texts), lambda square: self._vectors(square, bands))

    @torch.inference_mode()
    def change_map(self, before: Scene, after: Scene, texts: Sequence[str]) -> NDArray[np.float32] | None:
        """Cosine of what became of every place with every text ("flooded area", "no change"): (T, h, w) float32.

        None without a dense decoder. Raises BandError where the scenes differ in size or bands.
        """
        if self.model.dense is None:
            return None
        if before.shape != after.shape or before.bands != after.bands:
            raise BandError("a map of change needs two scenes of one size and the same bands; align them first")
        (earlier, bands), (later, _) = self._pictures(before), self._pictures(after)
        return cosine_map(torch.cat([earlier, later]), self._texts(texts), lambda pair: self._changes(pair, bands))

    def _texts(self, texts: Sequence[str]) -> Tensor:
        return torch.from_numpy(self.encode_texts(texts)).to(self.device)

    def _pictures(self, scene: Scene) -> tuple[Tensor, tuple[Band, ...]]:
        """Normalised pixels (1, C, H, W) and their bands."""
        pixels, bands = _drop_thermal(torch.from_numpy(scene.pixels)[None], scene.bands)
        return self.preprocessing.normalise(pixels, torch.from_numpy(scene.valid)[None], bands), bands

    def _vectors(self, square: Tensor, bands: tuple[Band, ...]) -> Tensor:
        square = square.to(self.device)
        if self.model.dense is None:
            enlarged = functional.interpolate(square, scale_factor=MAGNIFY, mode="bilinear", align_corners=False)
            return self.model.patch_features(enlarged, bands)[0]
        return self.model.dense.vectors(*self.model.decode(square, bands))[0]

    def _changes(self, pair: Tensor, bands: tuple[Band, ...]) -> Tensor:
        assert self.model.dense is not None
        before, after = self.model.decode(pair.to(self.device), bands)[0]
        changes: Tensor = self.model.dense.project_change(self.model.dense.change(before[None], after[None]))[0]
        return changes

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, preprocessor_config.json and, last, model.safetensors."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / CONFIG, asdict(self.model.config))
        _write_json(folder / PREPROCESSOR, self.preprocessing.to_json())
        if self.calibration.thresholds:
            self.calibration.save(folder)
        half = {name: _to_storage(t) for name, t in self.model.trained_state().items()}
        save_file(half, folder / f"{WEIGHTS}.part", metadata={"format": "pt"})
        os.replace(folder / f"{WEIGHTS}.part", folder / WEIGHTS)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path | None = None, *, device: str = "cpu", precision: str = "auto"
    ) -> SpectralEncoder:
        """Load from a folder, or the default that is shipped with the package.

        Args:
            folder: of a saved encoder.
            device: cpu, cuda or mps.
            precision: of whole images: "auto", "float32", or "bfloat16" whatever the device and the loss.

        Raises:
            ConfigError: there is no such device or precision.
            ModelNotFoundError: the folder or one of its files is missing.
            WeightsError: the weights are damaged, foreign, or not the shipped bytes.
            FingerprintError: calibration.json was fitted for other weights.
        """
        checked, precision = device_of(device), precision_of(precision)
        folder = Path(str(resources.files("rsvlm"))) / "weights" / SHIPPED if folder is None else Path(folder)
        for name in (CONFIG, PREPROCESSOR, WEIGHTS):
            if not (folder / name).is_file():
                raise ModelNotFoundError(f"{folder} holds no {name}; give the folder of a saved encoder")
        _check_sha256(folder)
        try:
            config = EncoderConfig.from_json(json.loads((folder / CONFIG).read_text()))
            preprocessing = Preprocessing.from_json(json.loads((folder / PREPROCESSOR).read_text()))
        except (json.JSONDecodeError, TypeError, KeyError) as error:
            raise WeightsError(f"the config files in {folder} are damaged: {error}") from error
        model = SpectralCLIP(config, preprocessing.image_size)
        _load_state(model, folder / WEIGHTS)
        encoder = cls(model, preprocessing, checked, precision=precision)
        encoder.calibration = Calibration.load(folder, encoder=encoder.fingerprint)
        return encoder


def device_of(name: str) -> torch.device:
    """The device of that name; raises ConfigError where this machine has none."""
    if name.split(":")[0] not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"a device is cpu, cuda or mps; got {name!r}")
    if (name.startswith("cuda") and not torch.cuda.is_available()) or (name == "mps" and not torch.mps.is_available()):
        raise ConfigError(f"no {name} device was found on this machine; use --device cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"this machine has {torch.cuda.device_count()} GPUs, counted from 0; got {name}")
    return device


def _versions(tensors: list[Tensor]) -> list[int]:
    """How often each was changed in place; those made in inference mode keep no count."""
    return [0 if tensor.is_inference() else tensor._version for tensor in tensors]


def _drop_thermal(pixels: Tensor, bands: tuple[Band, ...]) -> tuple[Tensor, tuple[Band, ...]]:
    keep = [position for position, band in enumerate(bands) if band.units != "K"]
    return (pixels, bands) if len(keep) == len(bands) else (pixels[:, keep], tuple(bands[p] for p in keep))


def _to_storage(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def _write_json(path: Path, plain: dict[str, Any]) -> None:
    path.write_text(json.dumps(plain, indent=1, sort_keys=True) + "\n")


def _check_sha256(folder: Path) -> None:
    """Compare with sha256.txt where the folder has one (the shipped weights do)."""
    listed = folder / "sha256.txt"
    for line in listed.read_text().splitlines() if listed.is_file() else []:
        wanted, name = line.split()
        if sha256_of(folder / name) != wanted:
            raise WeightsError(f"{folder / name} is not the file that was published: reinstall the package")


def _load_state(model: SpectralCLIP, path: Path) -> None:
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is damaged or no safetensors file: {error}; fetch it again") from error
    wanted = model.trained_state()
    wrong = sorted(n for n in wanted.keys() & state.keys() if wanted[n].shape != state[n].shape)
    wrong += sorted(wanted.keys() ^ state.keys())
    if wrong:
        raise WeightsError(f"{path} does not fit its config: {len(wrong)} tensors differ, first {wrong[0]}")
    model.load_state_dict(state, strict=False)
    model.eval()
