"""Images that datasets keep inside archives and arrays, each written once as a file of its own."""

from __future__ import annotations

import importlib
import os
import tarfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from data_engine.layout import names_inside
from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

UNPACKED = "unpacked"
FAINTEST = 1e-6  # linear backscatter that is taken for -60 dB, below the noise of any sensor


def work_folder(folder: Path, unpacked: Path | None) -> Path:
    """The folder that images are written to: the one that was asked for, else unpacked/ in the dataset's own."""
    return folder / UNPACKED if unpacked is None else unpacked


def write_once(path: Path, write: Callable[[Path], Any]) -> Path:
    """Let `write` fill a file beside `path` that is then renamed; a file that is there already is whole and kept."""
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def tar_records(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The samples of a WebDataset shard in their order: the key and, by ending ("jpg", "json"), what is stored.

    Files of one sample follow each other and share their name up to the first dot.
    Raises DatasetError for a file that is no tar and for names that lead out of the folder.
    """
    key, parts = "", dict[str, bytes]()
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                held = archive.extractfile(member) if member.isreg() else None
                if held is None:
                    continue
                new, ending = _sample_of(member.name, path)
                if new != key and parts:
                    yield key, parts
                    parts = {}
                key, parts[ending] = new, held.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DatasetError(f"{path} is no whole tar archive ({error}); fetch it again") from error
    if parts:
        yield key, parts


def _sample_of(name: str, archive: Path) -> tuple[str, str]:
    if not names_inside(name):
        raise DatasetError(f"{archive} holds {name!r}, which leads out of its folder; do not use this copy")
    whole = PurePosixPath(name)
    stem, _, ending = whole.name.partition(".")
    return str(whole.with_name(stem)), ending.lower()


def write_raster(
    path: Path, pixels: NDArray[Any], bands: Sequence[str], *, crs: Any = None, transform: Any = None
) -> None:
    """Write pixels (C, H, W) as a GeoTIFF whose layers carry the names of the bands; NaN is missing in floats."""
    import rasterio

    count, height, width = pixels.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": pixels.dtype.name}
    profile |= {"compress": "deflate", "nodata": np.nan if pixels.dtype.kind == "f" else None}
    profile |= {key: value for key, value in (("crs", crs), ("transform", transform)) if value is not None}
    with rasterio.open(path, "w", **profile) as target:
        target.write(pixels)
        target.descriptions = tuple(bands)


def decibels(linear: NDArray[Any]) -> NDArray[np.float32]:
    """Backscatter (any shape) from linear power to dB, 10 log10; 0, negative values and NaN are missing: NaN."""
    power = np.asarray(linear, dtype=np.float32)
    there = np.isfinite(power) & (power > 0)
    scaled = 10 * np.log10(np.maximum(np.where(there, power, 1), FAINTEST))
    return np.where(there, scaled, np.nan).astype(np.float32)


def hdf5(dataset: str, *plugins: str) -> Any:
    """The module h5py, with plugins for compressed arrays; raises DatasetError saying what to install."""
    wanted = ("h5py", *plugins)
    try:
        modules = [importlib.import_module(name) for name in wanted]
    except ImportError as error:
        raise DatasetError(f"{dataset} is published as HDF5: install {' and '.join(wanted)} to read it") from error
    return modules[0]
