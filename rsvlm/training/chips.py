"""Chips for training: a manifest's images decoded once into one memory-mapped array, captions beside it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from rsvlm.errors import ConfigError
from rsvlm.raster import open_raster
from rsvlm.sensors import find_sensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rsvlm.sensors import Band

KEYS = frozenset({"image", "captions", "labels", "sensor"})


@dataclass(frozen=True)
class Chips:
    """N chips of one sensor and size with their captions; `raw` holds stored values, invalid pixels are 0."""

    raw: NDArray[np.generic]  # (N, C, S, S), stored values
    captions: tuple[tuple[str, ...], ...]
    bands: tuple[Band, ...]

    def __len__(self) -> int:
        return len(self.captions)


def read_manifest(path: Path) -> list[dict[str, object]]:
    """Read a retrieval manifest; raises ConfigError with the line number of what is wrong."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path}:{number} is not JSON: {error}") from error
        unknown = sorted(set(row) - KEYS)
        if unknown or not row.get("captions"):
            raise ConfigError(f"{path}:{number} needs image and captions; unknown keys: {', '.join(unknown) or 'none'}")
        row["image"] = str(path.parent / row["image"])
        rows.append(row)
    if not rows:
        raise ConfigError(f"{path} is empty; it needs one JSON object a line")
    return rows


def load_chips(manifest: Path, cache: Path) -> Chips:
    """Decode a manifest's images, or map them from the cache when the manifest has not changed."""
    rows = read_manifest(manifest)
    sensors = {str(row.get("sensor", "rgb")) for row in rows}
    if len(sensors) != 1:
        raise ConfigError(f"{manifest} mixes sensors {', '.join(sorted(sensors))}; write one manifest a sensor")
    sensor = find_sensor(sensors.pop())
    captions = tuple(tuple(str(c) for c in row["captions"]) for row in rows)  # type: ignore[attr-defined]
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()[:16]
    stored = cache / f"{manifest.stem}-{digest}.npy"
    if not stored.is_file():
        _decode([Path(str(row["image"])) for row in rows], sensor.name, stored)
    raw = np.load(stored, mmap_mode="r")
    return Chips(raw, captions, sensor.bands)


def _decode(images: list[Path], sensor: str, stored: Path) -> None:
    stored.parent.mkdir(parents=True, exist_ok=True)
    part = stored.with_suffix(".part.npy")
    array: NDArray[np.generic] | None = None
    for position, image in enumerate(tqdm(images, desc=f"decoding {stored.stem}", unit="chip")):
        with open_raster(image, sensor=sensor) as raster:
            pixels, valid = raster.read_raw()
        if array is None:
            shape = (len(images), *pixels.shape)
            array = np.lib.format.open_memmap(part, mode="w+", dtype=pixels.dtype, shape=shape)
        if pixels.shape != array.shape[1:]:
            raise ConfigError(f"{image} is {pixels.shape}, the chips before it {array.shape[1:]}; cut them to one size")
        array[position] = np.where(valid, pixels, 0)
    assert array is not None
    array.flush()  # type: ignore[attr-defined]
    part.replace(stored)
