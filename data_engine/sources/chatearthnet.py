"""ChatEarthNet: Sentinel-2 chips around the world, described by ChatGPT from ESA WorldCover."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from data_engine.annotated import Annotated
from data_engine.layout import field_of, listed, one_of, read_records, words
from data_engine.unpacking import work_folder, write_once, write_raster
from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PARTS = ("train", "val", "test")
LISTINGS = ("ChatEarthNet_caps_35_{part}.json", "ChatEarthNet_caps_4v_{part}.json")  # ChatGPT-3.5, GPT-4V
RGB = ("s2_images", "s2_rgb_images/s2_images", "s2_rgb_images")
RED_EDGE = ("s2_band_5_6_7_images", "s2_band_5_6_7_images/s2_images")
INFRARED = ("s2_band_8_11_12_images", "s2_band_8_11_12_images/s2_images")
# B04, B03, B02, B05, B06, B07, B08, B11 and B12, as the three archives follow each other
BANDS = ("red", "green", "blue", "rededge1", "rededge2", "rededge3", "nir", "swir1", "swir2")


def read(folder: Path) -> Iterator[Annotated]:
    """Yield every chip in red, green and blue with all that is told of it, in the order of the listings.

    A chip of both listings (ChatGPT-3.5, GPT-4V) comes once a split with the captions of both; the chip is the place.
    The names of files and fields are those that published loaders use; no copy was at hand.
    Raises DatasetError for a missing listing, folder or chip, and for records without image or caption.
    """
    images = _root(folder, RGB)
    for name, part, captions, listing, position in _told(folder):
        yield _annotated(listed(images, name, listing, position), name, part, captions, "rgb")


def read_nine_bands(folder: Path, *, unpacked: Path | None = None) -> Iterator[Annotated]:
    """The same with nine bands, of which three pictures are written once as one GeoTIFF to `unpacked` (unpacked/).

    Bands are stretched to 8 bits as published (sensor "chatearthnet-s2"). Raises DatasetError as `read`, and where
    the three pictures of a chip differ in size.
    """
    roots = [_root(folder, names) for names in (RGB, RED_EDGE, INFRARED)]
    work = work_folder(folder, unpacked)
    for name, part, captions, listing, position in _told(folder):
        files = [listed(root, name, listing, position) for root in roots]
        target = (work / name).with_suffix(".tif")
        image = write_once(target, lambda path, files=files: _stack(path, files))  # type: ignore[misc]
        yield _annotated(image, name, part, captions, "chatearthnet-s2")


def _annotated(image: Path, name: str, part: str, captions: tuple[str, ...], sensor: str) -> Annotated:
    return Annotated(image, sensor, f"chatearthnet-{name.rpartition('.')[0]}", part, captions=captions)


def _told(folder: Path) -> Iterator[tuple[str, str, tuple[str, ...], Path, int]]:
    """Image name, split and captions of every chip, with the first record that names it."""
    root = folder / "json_files" if (folder / "json_files").is_dir() else folder
    one_of(root, *(name.format(part=part) for name in LISTINGS for part in PARTS))
    for part in PARTS:
        told: dict[str, tuple[list[str], Path, int]] = {}
        for listing in (root / name.format(part=part) for name in LISTINGS):
            for position, row in enumerate(read_records(listing) if listing.is_file() else (), 1):
                key = "image" if isinstance(row, dict) and "image" in row else "image_id"
                captions, _, _ = told.setdefault(words(row, key, listing, position), ([], listing, position))
                captions += _captions(row, listing, position)
        for name, (captions, listing, position) in told.items():
            yield name, part, tuple(dict.fromkeys(captions)), listing, position


def _captions(row: Any, listing: Path, position: int) -> list[str]:
    """One caption or a list of them."""
    value = field_of(row, "caption", listing, position)
    values = value if isinstance(value, list) else [value]
    return [words({"caption": text}, "caption", listing, position) for text in values]


def _root(folder: Path, names: tuple[str, ...]) -> Path:
    """The folder of pictures; archives that hold a folder of their own unpack to one more level."""
    root = one_of(folder, *names)
    inner = root / "s2_images"
    return inner if inner.is_dir() else root


def _stack(path: Path, files: list[Path]) -> None:
    from PIL import Image

    layers = []
    for file in files:
        with Image.open(file) as picture:
            layers.append(np.asarray(picture.convert("RGB")).transpose(2, 0, 1))
    if len({layer.shape for layer in layers}) > 1:
        raise DatasetError(f"{files[0]} and its other bands differ in size; fetch the archives again")
    write_raster(path, np.concatenate(layers), BANDS)
