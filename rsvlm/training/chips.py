"""Chips for training: a manifest's images decoded once into one memory-mapped array, captions beside it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from rsvlm.errors import ConfigError
from rsvlm.manifests import read_lines
from rsvlm.raster import open_raster
from rsvlm.sensors import find_sensor

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from rsvlm.sensors import Band


@dataclass(frozen=True)
class Chips:
    """N chips of one sensor and size with their captions; `raw` holds stored values, invalid pixels are 0."""

    raw: NDArray[np.generic]  # (N, C, S, S), stored values
    captions: tuple[tuple[str, ...], ...]
    bands: tuple[Band, ...]

    def __len__(self) -> int:
        return len(self.captions)


def read_captioned(path: Path) -> list[tuple[Path, str, tuple[str, ...]]]:
    """Image, sensor and captions of every line of a retrieval manifest; raises ConfigError with the line number."""
    lines = read_lines(path, required=frozenset({"image", "captions"}), optional=frozenset({"labels"}))
    rows = [(line.file("image"), line.text("sensor", "rgb"), line.texts("captions")) for line in lines]
    bare = next((line for line, (_, _, captions) in zip(lines, rows, strict=True) if not captions), None)
    if bare is not None:
        raise bare.fault("needs at least one caption to learn from")
    return rows


def load_chips(manifest: Path, cache: Path) -> Chips:
    """Decode a manifest's images, or map them from the cache when the manifest has not changed."""
    rows = read_captioned(manifest)
    sensors = {sensor for _, sensor, _ in rows}
    if len(sensors) != 1:
        raise ConfigError(f"{manifest} mixes sensors {', '.join(sorted(sensors))}; write one manifest a sensor")
    sensor = find_sensor(sensors.pop())
    captions = tuple(texts for _, _, texts in rows)
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()[:16]
    stored = cache / f"{manifest.stem}-{digest}.npy"
    if not stored.is_file():
        _decode([image for image, _, _ in rows], sensor.name, stored)
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
