"""Loading a LoRA adapter, and refusing one that was made for another base model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rsvlm.errors import ModelNotFoundError, WeightsError

WEIGHTS = "adapter_model.safetensors"


def load_adapter(model: Any, folder: Path, *, base_name: str) -> Any:
    """Put a peft adapter on a model; raises WeightsError when its base has another name or its tensors do not fit."""
    from peft import PeftModel

    if not (folder / "adapter_config.json").is_file() or not (folder / WEIGHTS).is_file():
        raise ModelNotFoundError(f"{folder} is no adapter; it must hold adapter_config.json and {WEIGHTS}")
    _check_name(folder, base_name)
    _check_shapes(model, folder)
    try:
        return PeftModel.from_pretrained(model, str(folder), is_trainable=False)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise WeightsError(f"the adapter {folder} does not load on {base_name}: {error}") from error


def _check_name(folder: Path, base_name: str) -> None:
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        made_for = str(config["base_model_name_or_path"])
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{folder}/adapter_config.json names no base model: {error}") from error
    if Path(made_for).name != base_name:
        raise WeightsError(f"the adapter {folder} was made for {made_for}, not for {base_name}; use that base model")


def _check_shapes(model: Any, folder: Path) -> None:
    """Every low-rank pair must fit the matrix it changes: A is (rank, in), B is (out, rank)."""
    from safetensors import SafetensorError, safe_open

    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    try:
        with safe_open(folder / WEIGHTS, framework="numpy") as tensors:
            found = {key: tuple(tensors.get_slice(key).get_shape()) for key in sorted(tensors.keys())}
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{folder / WEIGHTS} is damaged: {error}; restore it from its source") from error
    pairs = {key: shape for key, shape in found.items() if ".lora_A." in key or ".lora_B." in key}
    if not pairs:
        raise WeightsError(f"{folder / WEIGHTS} holds no LoRA matrices; only LoRA adapters are loaded")
    for key, shape in pairs.items():
        side = "lora_A" if ".lora_A." in key else "lora_B"
        name = key.removeprefix("base_model.model.").split(f".{side}.")[0] + ".weight"
        wanted = shapes.get(name)
        fits = wanted is not None and (shape[1] == wanted[1] if side == "lora_A" else shape[0] == wanted[0])
        if not fits:
            raise WeightsError(f"the adapter's {key} has shape {shape}, which does not fit the base's {name}: {wanted}")
