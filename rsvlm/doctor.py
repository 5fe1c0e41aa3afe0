"""What `rsvlm doctor` looks at: versions, weights, the language model, FAISS, the device."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from rsvlm.errors import RsvlmError

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGES = ("rsvlm", "torch", "torchvision", "transformers", "open_clip_torch", "rasterio", "pylance", "gradio")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at, whether it is as it should be, and what was found."""

    name: str
    good: bool
    found: str


def checks() -> list[Check]:
    """Look at everything; a failed check says what to do, and does not stop the others."""
    found = [Check("python", True, platform.python_version())]
    found += [_package(name) for name in PACKAGES]
    found += [_faiss_alone(), _device()]
    found.append(_try("encoder weights", _encoder))
    found.append(_try("language model", _language))
    return found


def _package(name: str) -> Check:
    try:
        return Check(name, True, metadata.version(name))
    except metadata.PackageNotFoundError:
        extra = "app" if name == "gradio" else "cpu"
        return Check(name, False, f"not installed: pip install rsvlm[{extra}]")


def _faiss_alone() -> Check:
    have = [name for name in ("faiss-cpu", "faiss-gpu") if _package(name).good]
    if len(have) == 1:
        return Check("faiss", True, f"{have[0]} {metadata.version(have[0])}")
    advice = "uninstall both, then one: they share a folder" if have else "pip install rsvlm[cpu] or rsvlm[gpu]"
    return Check("faiss", False, f"{len(have)} of faiss-cpu and faiss-gpu installed; {advice}")


def _device() -> Check:
    import torch

    if torch.cuda.is_available():
        return Check("device", True, f"cuda, {torch.cuda.get_device_name(0)}")
    return Check("device", True, f"cpu, {os.cpu_count()} cores, no GPU found")


def _encoder() -> str:
    from rsvlm.encoder.model import SpectralEncoder

    encoder = SpectralEncoder.from_pretrained()
    return f"{encoder.name}, {encoder.dim} dimensions, fingerprint {encoder.fingerprint[:12]}"


def _language() -> str:
    from rsvlm.language.base import resolve

    return str(resolve(download=False))


def _try(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except RsvlmError as error:
        return Check(name, False, str(error))
