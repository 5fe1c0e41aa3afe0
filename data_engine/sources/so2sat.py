"""So2Sat LCZ42: Sentinel-1 and Sentinel-2 patches of cities with their local climate zone, in HDF5."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from data_engine.annotated import Annotated
from data_engine.layout import one_of
from data_engine.unpacking import decibels, hdf5, work_folder, write_once, write_raster
from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

PARTS = {"training.h5": "train", "validation.h5": "val", "testing.h5": "test"}
ZONES = (
    "compact high-rise",
    "compact mid-rise",
    "compact low-rise",
    "open high-rise",
    "open mid-rise",
    "open low-rise",
    "lightweight low-rise",
    "large low-rise",
    "sparsely built",
    "heavy industry",
    "dense trees",
    "scattered trees",
    "bush and scrub",
    "low plants",
    "bare rock or paved",
    "bare soil or sand",
    "water",
)
BANDS = {
    "sentinel-1-grd": ("VV", "VH"),
    "sentinel-2-l1c": ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"),
}
LEE_VV, LEE_VH = 5, 4  # of the 8 layers of sen1: intensities after a refined Lee filter, linear
CHANNELS = {"sen1": 8, "sen2": 10, "label": len(ZONES)}
TO_STORED = 10_000  # sen2 is reflectance, 0 to about 2.8


def read(folder: Path, *, unpacked: Path | None = None) -> Iterator[Annotated]:
    """Yield the Sentinel-1 and then the Sentinel-2 patch of every sample, in the order of the arrays.

    Each patch (32 x 32 pixels of 10 m) is written once as GeoTIFF to `unpacked` (unpacked/): VV and VH in dB from the
    filtered intensities, ten bands as reflectance x 10,000. The scene is the local climate zone. Splits are the
    published files; the arrays tell no place, so that the patch is the place. Written from the publishers' description
    of the arrays; no copy was at hand.
    Raises DatasetError where the files or the module h5py are missing, and for arrays of another shape.
    """
    one_of(folder, *PARTS)
    module, work = hdf5("So2Sat LCZ42"), work_folder(folder, unpacked)
    for name, split in PARTS.items():
        if (folder / name).is_file():
            yield from _part(module, folder / name, work, split)


def _part(module: Any, path: Path, work: Path, split: str) -> Iterator[Annotated]:
    try:
        file = module.File(path, "r")
    except OSError as error:
        raise DatasetError(f"{path} is no whole HDF5 file ({error}); fetch it again") from error
    with file:
        arrays = {name: _array(file, name, path) for name in CHANNELS}
        if len({array.shape[0] for array in arrays.values()}) > 1:
            raise DatasetError(f"{path} has arrays of different lengths; fetch it again")
        for index in range(arrays["label"].shape[0]):
            scene = _zone(arrays["label"][index], path, index)
            start = work / split / f"{index // 1000:04d}" / f"{index:06d}"
            radar, optical = (partial(arrays[name].__getitem__, index) for name in ("sen1", "sen2"))
            images = {
                "sentinel-1-grd": write_once(start.with_suffix(".s1.tif"), partial(_write_radar, radar)),
                "sentinel-2-l1c": write_once(start.with_suffix(".s2.tif"), partial(_write_optical, optical)),
            }
            for sensor, image in images.items():
                place = f"so2sat-{split}-{index}"
                yield Annotated(image, sensor, place, split, labels=(scene,), scene=scene)


def _array(file: Any, name: str, path: Path) -> Any:
    if name not in file:
        raise DatasetError(f"{path} has no array {name!r}; is this the published file?")
    array = file[name]
    fits = array.shape[-1] == CHANNELS[name] and len(array.shape) == (2 if name == "label" else 4)
    if not fits:
        raise DatasetError(f"{path} has {name!r} of shape {array.shape}, whose last side must be {CHANNELS[name]}")
    return array


def _zone(label: NDArray[Any], path: Path, index: int) -> str:
    """The name of the one zone that is marked."""
    marked = np.flatnonzero(np.asarray(label))
    if len(marked) != 1:
        raise DatasetError(f"record {index} of {path} marks {len(marked)} zones in 'label' where one belongs")
    return ZONES[int(marked[0])]


def _write_radar(layers: Any, path: Path) -> None:
    sample = np.asarray(layers())
    write_raster(path, decibels(sample[..., [LEE_VV, LEE_VH]].transpose(2, 0, 1)), BANDS["sentinel-1-grd"])


def _write_optical(layers: Any, path: Path) -> None:
    stored = np.clip(np.rint(np.asarray(layers()) * TO_STORED), 0, 65_535).astype(np.uint16)
    write_raster(path, stored.transpose(2, 0, 1), BANDS["sentinel-2-l1c"])
