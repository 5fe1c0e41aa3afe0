"""CrisisLandMark: Sentinel-1 and Sentinel-2 patches of land cover and disasters, labelled in one way."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from data_engine.annotated import Annotated
from data_engine.layout import one_of, read_parquet, words
from data_engine.sources.bigearthnet import BANDS
from data_engine.splits import split_of
from data_engine.unpacking import decibels, hdf5, work_folder, write_once, write_raster
from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

SENSORS = {2: "sentinel-1-grd", 12: "sentinel-2-l2a"}  # by the number of layers
SPLITS = ("train", "test", "corpus")  # of which the last two are one: what is searched


def read(folder: Path, *, unpacked: Path | None = None) -> Iterator[Annotated]:
    """Yield every patch of metadata.parquet in its order, written once as GeoTIFF to `unpacked` (unpacked/).

    Labels are the harmonised ones stored with the patch (Dynamic World's classes, "Flooded Area", "Burned Area",
    "Earthquake Damage"), else those of the table, in lower case. The published test part is "test"; of the rest
    places are cut. The place is the patch's position. Radar without a negative value is taken for linear power and
    written in dB; the order of the twelve bands is taken for BigEarthNet's. Written from the dataset card and the
    publishers' loader, which tell neither; no copy was at hand.
    Raises DatasetError where files or the modules h5py and hdf5plugin are missing, and for patches that the table
    names and the arrays lack, of another shape, or without labels.
    """
    table, arrays = one_of(folder, "metadata.parquet"), one_of(folder, "crisislandmark.h5")
    module, work = hdf5("CrisisLandMark", "hdf5plugin"), work_folder(folder, unpacked)
    try:
        file = module.File(arrays, "r")
    except OSError as error:
        raise DatasetError(f"{arrays} is no whole HDF5 file ({error}); fetch it again") from error
    with file:
        for position, row in enumerate(read_parquet(table, ("key", "split", "labels")), 1):
            key = words(row, "key", table, position)
            if key not in file:
                raise DatasetError(
                    f"record {position} of {table} names {key!r}, which {arrays} lacks; fetch all shards"
                )
            yield _patch(file[key], key, row, work, (table, position))


def _patch(group: Any, key: str, row: dict[str, Any], work: Path, where: tuple[Path, int]) -> Annotated:
    shape: tuple[int, ...] = group["image"].shape if "image" in group else ()
    if len(shape) != 3 or shape[0] not in SENSORS:
        raise DatasetError(f"record {where[1]} of {where[0]} has an image of shape {shape}, not (2 or 12, H, W)")
    sensor = SENSORS[shape[0]]
    coordinates = np.asarray(group["coords"]) if "coords" in group else np.empty((0,))
    crs = _text(group.attrs.get("crs", ""))
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", key)
    place = _place(coordinates, crs, name)
    split = words(row, "split", *where)
    if split not in SPLITS:
        raise DatasetError(f"record {where[1]} of {where[0]} has {split!r} in 'split'; it must be one of {SPLITS}")
    return Annotated(
        image=write_once(work / f"{name}.tif", partial(_write, group, sensor, crs, coordinates)),
        bands=BANDS[sensor],
        sensor=sensor,
        place=place,
        split=split_of(place) if split == "train" else "test",
        labels=_labels(group, row, where),
        acquired=_text(group.attrs.get("timestamp", "")),
    )


def _labels(group: Any, row: dict[str, Any], where: tuple[Path, int]) -> tuple[str, ...]:
    stored = group.attrs.get("labels", None)
    values = [_text(value) for value in (row["labels"] or () if stored is None else np.atleast_1d(stored))]
    labels = tuple(dict.fromkeys(value.strip().lower() for value in values if value.strip()))
    if not labels:
        raise DatasetError(f"record {where[1]} of {where[0]} has no labels; fetch the file again")
    return labels


def _text(value: Any) -> str:
    """An attribute as text: HDF5 hands out text, bytes, numbers and arrays of one."""
    single = value.flat[0] if isinstance(value, np.ndarray) and value.size else value
    if isinstance(single, bytes):
        return single.decode("utf-8", errors="replace")
    return f"{single:g}" if isinstance(single, float | np.floating) else str(single)


def _place(coordinates: NDArray[Any], crs: str, name: str) -> str:
    """The corner of the patch in its own projection, so that both sensors and all dates have one place."""
    if coordinates.ndim != 3 or not coordinates.size:
        return f"crisislandmark-{name}"
    x, y = (float(axis[0, 0]) for axis in coordinates[:2])
    return f"crisislandmark-{crs}-{x:.4f}-{y:.4f}"


def _write(group: Any, sensor: str, crs: str, coordinates: NDArray[Any], path: Path) -> None:
    pixels = np.asarray(group["image"], dtype=np.float32)
    finite = pixels[np.isfinite(pixels)]
    if sensor == "sentinel-1-grd" and finite.size and finite.min() >= 0:
        pixels = decibels(pixels)
    write_raster(path, pixels, BANDS[sensor], **_georeference(crs, coordinates))


def _georeference(crs: str, coordinates: NDArray[Any]) -> dict[str, Any]:
    """Projection and pixel grid from the coordinates of pixel centres; nothing where they make no grid."""
    from affine import Affine
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    code = crs.upper().removeprefix("EPSG:")
    if not code.isdigit() or coordinates.ndim != 3 or min(coordinates.shape[1:]) < 2:
        return {}
    (x, right), (y, below) = ((float(axis[0, 0]), axis) for axis in coordinates[:2])
    across, down = float(right[0, 1]) - x, float(below[1, 0]) - y
    try:
        known = CRS.from_epsg(int(code))
    except CRSError:
        return {}
    return (
        {"crs": known, "transform": Affine(across, 0, x - across / 2, 0, down, y - down / 2)} if across and down else {}
    )
