"""Thirty BigEarthNet patches as arrays, Sentinel-1 and Sentinel-2, with the classes of both nomenclatures."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyproj
from affine import Affine

from data_engine.annotated import Annotated
from data_engine.layout import every, field_of, one_of, read_json
from data_engine.sources.bigearthnet import BANDS, nomenclature
from data_engine.sources.folder_chips import write_raster
from rsvlm.errors import DatasetError
from rsvlm.scene import Grid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

SIDE_M = 1200.0
SIDES = (120, 60, 20)  # pixels of 10, 20 and 60 m
TYPES = {"sentinel-2-l2a": "uint16", "sentinel-1-grd": "float32"}
PATCH = re.compile(r"S2[A-D]_MSIL2A_(\d{4})(\d\d)(\d\d)T(\d{5,6})_\d+_\d+")  # some times lack their first 0
MADE_UP_CRS = pyproj.CRS.from_epsg(32633)


def read(folder: Path, *, work: Path | None = None) -> Iterator[Annotated]:
    """Yield each patch by Sentinel-2 (12 bands) and by Sentinel-1 (VV, VH in dB), with its labels of the 19 classes.

    Each array is written once as a single-band GeoTIFF; files that are there already are kept. Their coordinates
    are made up: the arrays carry none, and band files of different pixel size only go together with one extent.
    All patches lie at the same made-up spot, so nothing may be concluded from where they are. Their tile is not
    known either, so they cannot be told from patches of the whole dataset by place: all are "val", which keeps them
    out of training on purpose.

    Args:
        folder: holds labels.json and patches/*.npz.
        work: where the GeoTIFFs are written, `rsvlm/bigearthnet_mini` among the user's caches if None.

    Raises DatasetError for missing files, arrays, labels and classes, arrays of another shape or type, and where
    nothing can be written.
    """
    listing = one_of(folder, "labels.json")
    labels = read_json(listing)
    work = work or _cache()
    for position, patch in enumerate(every(one_of(folder, "patches"), "*.npz"), 1):
        match = PATCH.fullmatch(patch.stem)
        if match is None:
            raise DatasetError(f"{patch} is not called as a patch of BigEarthNet is; is this the published file?")
        known = _labels(field_of(labels, patch.stem, listing, position), listing, position)
        for sensor, files in _written(patch, work).items():
            yield Annotated(
                image=files,
                sensor=sensor,
                place=f"bigearthnet-mini-{patch.stem}",
                split="val",
                labels=known,
                bands=BANDS[sensor],
                acquired=_moment(match) if sensor == "sentinel-2-l2a" else "",
            )


def _moment(match: re.Match[str]) -> str:
    clock = match[4].zfill(6)
    return f"{match[1]}-{match[2]}-{match[3]}T{clock[:2]}:{clock[2:4]}:{clock[4:]}Z"


def _cache() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("rsvlm") / "bigearthnet_mini"


def _labels(record: Any, listing: Path, position: int) -> tuple[str, ...]:
    labels = field_of(record, "new_labels", listing, position)
    groups = {group for _, group in nomenclature().values() if group}
    unknown = [label for label in labels if label not in groups] if isinstance(labels, list) else [labels]
    if unknown:
        raise DatasetError(
            f"record {position} of {listing} has {unknown[0]!r} in 'new_labels', none of the 19 classes of "
            "BigEarthNet; is this the published file?"
        )
    return tuple(labels)


def _written(patch: Path, work: Path) -> dict[str, tuple[Path, ...]]:
    """The GeoTIFFs of a patch by sensor, in the order of its bands; what is missing of them is written."""
    files = {s: tuple(work / patch.stem / f"{patch.stem}_{band}.tif" for band in BANDS[s]) for s in BANDS}
    if all(path.exists() for paths in files.values() for path in paths):
        return files
    for sensor, paths in files.items():
        for band, path in zip(BANDS[sensor], paths, strict=True):
            pixels = _array(patch, f"S1_{band}" if sensor == "sentinel-1-grd" else f"S2_{band[1:]}", TYPES[sensor])
            side = len(pixels)
            transform = Affine.translation(500_000, 5_000_000) @ Affine.scale(SIDE_M / side, -SIDE_M / side)
            write_raster(path, pixels[None], Grid(side, side, transform, MADE_UP_CRS))
    return files


def _array(patch: Path, key: str, kind: str) -> NDArray[Any]:
    try:
        with np.load(patch, allow_pickle=False) as arrays:
            pixels = np.asarray(arrays[key])
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{patch} has no readable array {key!r} ({error}); fetch it again") from error
    if pixels.dtype != kind or pixels.ndim != 2 or pixels.shape[0] != pixels.shape[1] or len(pixels) not in SIDES:
        raise DatasetError(
            f"{patch} needs in {key!r} a {kind} square of {', '.join(map(str, SIDES))} pixels; got {pixels.dtype} "
            f"{pixels.shape}"
        )
    return pixels
