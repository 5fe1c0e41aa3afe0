"""What a measurement ran on: processor, instruction sets, threads, versions, load, and where the code stood."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    *("numpy", "torch", "torchvision", "timm", "open_clip_torch", "rasterio", "faiss-cpu", "faiss-gpu", "pylance"),
    *("pyarrow", "pillow", "torchgeo", "webdataset", "hnswlib", "usearch"),
)
INSTRUCTIONS = (
    *("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8", "sha_ni"),
    *("asimd", "bf16", "sve"),
)
PROCESSOR = Path("/proc/cpuinfo")


def environment() -> dict[str, Any]:
    """The block that goes into every result, in plain values."""
    model, flags = _processor()
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": _git(),
        "cpu": model,
        "cores": os.cpu_count(),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "gpu": _gpu(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "threads": {name: os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "GDAL_NUM_THREADS")},
        "gdal_cache": os.environ.get("GDAL_CACHEMAX", "as it comes"),
        "load_before": load(),
        "versions": {"python": platform.python_version(), "gdal": _gdal(), **_versions()},
    }


def load() -> list[float]:
    """How many tasks wanted the processor in the last 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _gdal() -> str:
    import rasterio

    return str(rasterio.__gdal_version__)


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"


def _processor() -> tuple[str, set[str]]:
    """Its name and its instruction sets; without the latter where the system does not tell."""
    if not PROCESSOR.is_file():
        return platform.processor() or platform.machine(), set()
    lines = dict(line.split(":", 1) for line in PROCESSOR.read_text().splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in lines.items()}
    family = f"family {fields.get('cpu family', '?')} model {fields.get('model', '?')}"
    flags = fields.get("flags") or fields.get("Features") or ""
    return f"{fields.get('model name', platform.machine())} ({family})", set(flags.split())


def _git() -> str:
    """The commit the code stands at, with a mark where files differ from it."""
    here = Path(__file__).parent
    try:
        called = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=10"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return called.stdout.strip()
