"""Chips for training: images of a manifest decoded once into memory-mapped arrays, what is known of them beside."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from rsvlm.errors import ConfigError
from rsvlm.manifests import read_lines
from rsvlm.raster import open_raster, read_labels
from rsvlm.sensors import find_sensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from rsvlm.manifests import Line
    from rsvlm.sensors import Band

UNKNOWN = 255  # in word maps: what stands here is not known
BACKGROUND = 254  # nothing that is named stands here
SQUARE = 256  # pixels; larger images with boxes are cut into squares of this side


@dataclass(frozen=True)
class Pixels:
    """N images of one sensor and size; `raw` holds stored values, invalid pixels are 0."""

    raw: NDArray[np.generic]  # (N, C, S, S)
    bands: tuple[Band, ...]

    def __len__(self) -> int:
        return len(self.raw)


@dataclass(frozen=True)
class Captioned:
    """Images with what people or recipes say of them."""

    pixels: Pixels
    captions: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]  # of the scene, "" where it has none


@dataclass(frozen=True)
class Mapped:
    """Images with a word for each pixel: positions in `words`, UNKNOWN or BACKGROUND."""

    pixels: Pixels
    maps: NDArray[np.uint8]  # (N, S, S)
    words: tuple[str, ...]


@dataclass(frozen=True)
class Changed:
    """Places seen at two dates by one or more sensors; `maps` hold positions in `words` or BACKGROUND."""

    before: tuple[Pixels, ...]
    after: tuple[Pixels, ...]
    maps: NDArray[np.uint8]
    words: tuple[str, ...]  # "" for change of a kind that nobody named


def load_captioned(manifests: Sequence[str], cache: Path) -> Captioned:
    """Read retrieval manifests, and scenes manifests that name the same images; raises ConfigError."""
    captions: dict[Path, tuple[str, ...]] = {}
    names: dict[Path, str] = {}
    sensors: set[str] = set()
    for manifest in map(Path, manifests):
        for line in read_lines(
            manifest, required=frozenset({"image"}), optional=frozenset({"captions", "labels", "label"})
        ):
            image = line.file("image")
            if "label" in line.values:
                names[image.resolve()] = line.text("label")
                continue
            sensors.add(line.text("sensor", "rgb"))
            captions[image] = line.texts("captions")
            if not captions[image]:
                raise line.fault("needs at least one caption to learn from")
    sensor = _one_sensor(sensors, manifests)
    pixels = _decoded(list(captions), sensor, cache)
    return Captioned(pixels, tuple(captions.values()), tuple(names.get(image.resolve(), "") for image in captions))


def load_mapped(manifests: Sequence[str], cache: Path) -> Mapped:
    """Read land-cover manifests; raises ConfigError."""
    needed, more = frozenset({"image", "labels", "codes"}), frozenset({"labels_band", "ignore"})
    lines = [line for manifest in manifests for line in read_lines(Path(manifest), required=needed, optional=more)]
    sensor = _one_sensor({line.text("sensor", "rgb") for line in lines}, manifests)
    words = tuple(sorted({name for line in lines for name in line.values["codes"].values()}))
    pixels = _decoded([line.file("image") for line in lines], sensor, cache)
    return Mapped(pixels, np.stack([_words_of(line, words) for line in lines]), words)


def load_boxes(manifests: Sequence[str], cache: Path) -> Mapped:
    """Read grounding manifests of exhaustively marked images, cut into squares; raises ConfigError."""
    needed, more = frozenset({"image", "phrase", "boxes"}), frozenset({"kind"})
    found: dict[Path, list[tuple[str, list[list[float]]]]] = {}
    sensors: set[str] = set()
    for manifest in map(Path, manifests):
        for line in read_lines(manifest, required=needed, optional=more):
            sensors.add(line.text("sensor", "rgb"))
            found.setdefault(line.file("image"), []).append((line.text("phrase"), line.values["boxes"]))
    sensor = _one_sensor(sensors, manifests)
    words = tuple(sorted({phrase for marked in found.values() for phrase, _ in marked}))

    def squares() -> Iterable[tuple[NDArray[np.generic], NDArray[np.uint8]]]:
        for image, marked in tqdm(found.items(), desc="decoding boxes", unit="image"):
            raw, valid = _read(image, sensor)
            layer = _boxed(marked, words, raw.shape[1:])
            layer[~valid] = UNKNOWN
            yield from _cut(raw, layer)

    key = hashlib.sha256(repr((sorted(map(str, found)), sorted(map(repr, found.values())))).encode()).hexdigest()[:16]
    files = [cache / f"boxes-{key}-{part}.npy" for part in ("maps", "pixels")]
    if not files[1].is_file():
        pairs = list(squares())
        _write(files[0], np.stack([layer for _, layer in pairs]))
        _write(files[1], np.stack([raw for raw, _ in pairs]))
    maps, raw = (np.load(file, mmap_mode="r") for file in files)
    return Mapped(Pixels(raw, find_sensor(sensor).bands), maps, words)


def load_changed(manifests: Sequence[str], cache: Path) -> Changed:
    """Read change manifests with masks; raises ConfigError."""
    needed, more = frozenset({"before", "after", "sensors", "mask"}), frozenset({"phrase", "captions"})
    lines = [line for manifest in manifests for line in read_lines(Path(manifest), required=needed, optional=more)]
    sensors = {line.texts("sensors") for line in lines}
    if len(sensors) != 1:
        raise ConfigError(f"{', '.join(manifests)} mix sensors; write one change manifest for each set of sensors")
    dates = [
        tuple(
            _decoded([line.path_of(line.values[date][number]) for line in lines], sensor, cache)
            for number, sensor in enumerate(next(iter(sensors)))
        )
        for date in ("before", "after")
    ]
    words = tuple(sorted({line.text("phrase", "") for line in lines}))
    masks = [
        np.where(read_labels(line.file("mask")) > 0, words.index(line.text("phrase", "")), BACKGROUND) for line in lines
    ]
    return Changed(dates[0], dates[1], np.stack(masks).astype(np.uint8), words)


def _one_sensor(sensors: set[str], manifests: Sequence[str]) -> str:
    if len(sensors) != 1:
        raise ConfigError(f"{', '.join(manifests)} mix sensors {', '.join(sorted(sensors))}; write one source a sensor")
    return next(iter(sensors))


def _words_of(line: Line, words: tuple[str, ...]) -> NDArray[np.uint8]:
    """Positions in `words` for every pixel of a class raster."""
    layer = read_labels(line.file("labels"), band=int(line.values.get("labels_band", 1))).astype(np.int64)
    found = np.full(layer.shape, UNKNOWN, np.uint8)
    for code, name in line.values["codes"].items():
        if int(code) not in line.values.get("ignore", []):
            found[layer == int(code)] = words.index(name)
    return found


def _boxed(
    marked: list[tuple[str, list[list[float]]]], words: tuple[str, ...], shape: tuple[int, ...]
) -> NDArray[np.uint8]:
    """Words inside boxes, small boxes over large ones, BACKGROUND outside."""
    layer = np.full(shape, BACKGROUND, np.uint8)
    boxes = [(box, phrase) for phrase, several in marked for box in several]
    for (x0, y0, x1, y1), phrase in sorted(boxes, key=lambda b: -(b[0][2] - b[0][0]) * (b[0][3] - b[0][1])):
        layer[round(y0) : round(y1) + 1, round(x0) : round(x1) + 1] = words.index(phrase)
    return layer


def _cut(raw: NDArray[np.generic], layer: NDArray[np.uint8]) -> Iterable[tuple[NDArray[np.generic], NDArray[np.uint8]]]:
    """Squares of SQUARE pixels; what hangs over the edge is 0 and UNKNOWN."""
    height, width = layer.shape
    tall, wide = (-(-n // SQUARE) * SQUARE for n in (height, width))
    raw = np.pad(raw, ((0, 0), (0, tall - height), (0, wide - width)))
    layer = np.pad(layer, ((0, tall - height), (0, wide - width)), constant_values=UNKNOWN)
    for row in range(0, tall, SQUARE):
        for col in range(0, wide, SQUARE):
            part = np.s_[row : row + SQUARE, col : col + SQUARE]
            if (layer[part] != UNKNOWN).mean() >= 0.25:
                yield raw[(slice(None), *part)], layer[part]


def _read(image: Path, sensor: str) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    with open_raster(image, sensor=sensor) as raster:
        pixels, valid = raster.read_raw()
    return np.where(valid, pixels, 0), valid


def _decoded(images: list[Path], sensor: str, cache: Path) -> Pixels:
    """Decode images of one size, or map them from the cache where the same files were decoded before."""
    about = [f"{image}\t{image.stat().st_size}\t{image.stat().st_mtime_ns}" for image in images]
    digest = hashlib.sha256("\n".join([sensor, *about]).encode()).hexdigest()[:16]
    stored = cache / f"{sensor}-{digest}.npy"
    if not stored.is_file():
        _decode(images, lambda image: _read(image, sensor)[0], stored)
    return Pixels(np.load(stored, mmap_mode="r"), find_sensor(sensor).bands)


def _decode(images: list[Path], read: Callable[[Path], NDArray[np.generic]], stored: Path) -> None:
    stored.parent.mkdir(parents=True, exist_ok=True)
    part = stored.with_suffix(".part.npy")
    array: NDArray[np.generic] | None = None
    for position, image in enumerate(tqdm(images, desc=f"decoding {stored.stem}", unit="chip")):
        pixels = read(image)
        if array is None:
            shape = (len(images), *pixels.shape)
            array = np.lib.format.open_memmap(part, mode="w+", dtype=pixels.dtype, shape=shape)
        if pixels.shape != array.shape[1:]:
            raise ConfigError(f"{image} is {pixels.shape}, the chips before it {array.shape[1:]}; cut them to one size")
        array[position] = pixels
    assert array is not None
    array.flush()  # type: ignore[attr-defined]
    part.replace(stored)


def _write(stored: Path, array: NDArray[np.generic]) -> None:
    stored.parent.mkdir(parents=True, exist_ok=True)
    part = stored.with_suffix(".part.npy")
    np.save(part, array)
    part.replace(stored)
