"""Pieces of an image with the class map of each, written once into a work folder and reused afterwards."""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import rasterio
from rasterio.errors import RasterioError

from rsvlm.errors import BandError, DatasetError, RsvlmError, SensorError
from rsvlm.raster import open_raster, read_labels
from rsvlm.scene import Window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from data_engine.sources.folder_config import FolderConfig
    from rsvlm.raster import Raster
    from rsvlm.scene import Grid

MAX_WHOLE_PIXELS = 4096 * 4096


class Labels(Protocol):
    """What can say which class each pixel of a grid has."""

    @property
    def path(self) -> Path:
        """The file of the labels."""

    @property
    def codes(self) -> dict[str, str]:
        """The name of each code."""

    @property
    def fill(self) -> int:
        """The code that means nothing."""

    def require_overlap(self, grid: Grid, image: Path) -> None:
        """Raise DatasetError where image and labels share no ground."""

    def codes_on(self, grid: Grid, image: Path) -> NDArray[np.int32]:
        """Class codes (H, W) on the grid."""


@dataclass(frozen=True, slots=True)
class Chip:
    """One image of the data to be: a file, the part of the user's image it shows, and its class map, if any."""

    image: Path
    grid: Grid
    class_map: Path | None
    codes: NDArray[np.int32] | None  # (H, W)


def open_image(path: Path, sensor: str | Path, bands: tuple[str, ...]) -> Raster:
    """Open an image of the folder; raises DatasetError where it is none or its bands cannot be told."""
    try:
        return open_raster(path, sensor=sensor or None, bands=bands or None)
    except RsvlmError as error:
        hint = "set sensor (and bands) in rsvlm-data.toml" if isinstance(error, BandError | SensorError) else "mend it"
        raise DatasetError(f"{path} cannot be taken in ({error}); {hint}, or take the image away") from error


def chips_of(raster: Raster, path: Path, labels: Labels | None, config: FolderConfig, work: Path) -> Iterator[Chip]:
    """Yield the image at `path`, or its pieces of `config.chip` pixels that do not overlap, with their class maps.

    A last piece narrower than half a chip is left out, and so is one of which less than half is valid. User files
    are only read; a piece or map that is already in the work folder is not made again.
    """
    home = work / f"{path.stem[:80]}-{_digest(path, labels, config)}"
    for window in windows(raster.grid, config.chip, path):
        stem = path.stem[:80] + (f"_r{window.row:05d}_c{window.col:05d}" if config.chip else "")
        image = home / f"{stem}.tif" if config.chip else path
        class_map = home / f"{stem}_classes.tif" if labels else None
        grid = raster.grid.window(window)
        if not all(file is None or file.exists() for file in (image, class_map)):
            made = _make(raster, window, labels, image if config.chip else None, class_map)
            if not made:
                continue
        yield Chip(image, grid, class_map, None if class_map is None else read_labels(class_map))


def windows(grid: Grid, chip: int, path: Path) -> Iterator[Window]:
    """The whole image where `chip` is 0, else windows side by side, the last of a row or column cut at the edge."""
    if not chip:
        if grid.height * grid.width > MAX_WHOLE_PIXELS:
            raise DatasetError(
                f"{path} is {grid.height} x {grid.width} pixels, too large for one image; write chip = 256 in "
                "rsvlm-data.toml"
            )
        yield Window(0, 0, grid.height, grid.width)
        return
    for row in range(0, grid.height, chip):
        for col in range(0, grid.width, chip):
            height, width = min(chip, grid.height - row), min(chip, grid.width - col)
            if (row == 0 or 2 * height >= chip) and (col == 0 or 2 * width >= chip):
                yield Window(row, col, height, width)


def _make(raster: Raster, window: Window, labels: Labels | None, image: Path | None, class_map: Path | None) -> bool:
    """Write what is missing of a piece; False where most of its pixels are missing ones."""
    grid = raster.grid.window(window)
    try:
        raw, valid = raster.read_raw(window)
    except RsvlmError as error:
        raise DatasetError(f"{raster.path} cannot be read ({error}); fetch it again") from error
    if 2 * valid.sum() < valid.size:
        return False
    if labels is not None and class_map is not None:
        codes = labels.codes_on(grid, raster.path)
        codes[~valid] = labels.fill
        write_raster(class_map, codes[None], grid, nodata=labels.fill)
    if image is not None:
        fill = raster.fill if raster.fill is not None else (np.nan if raw.dtype.kind == "f" else None)
        if fill is not None:
            raw[:, ~valid] = fill
        write_raster(image, raw, grid, nodata=fill, raster=raster, mask=valid if fill is None else None)
    return True


def write_raster(
    path: Path,
    pixels: NDArray[Any],
    grid: Grid,
    *,
    nodata: float | None = None,
    raster: Raster | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> None:
    """Write pixels (C, H, W) as a GeoTIFF that says what `raster` knows of its bands: names, scaling, units, date."""
    count, height, width = pixels.shape
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "count": count,
        "height": height,
        "width": width,
        "dtype": pixels.dtype,
        "nodata": nodata,
        "compress": "deflate",
        "photometric": "MINISBLACK",  # else GDAL takes the fourth 8-bit layer for alpha
    }
    if grid.crs is not None:
        profile |= {"crs": grid.crs.to_wkt(), "transform": grid.transform}
    if count > 1:
        profile["alpha"] = "NO"
    options = {"GDAL_PAM_ENABLED": "NO", "GDAL_TIFF_INTERNAL_MASK": "YES"}
    with written(path) as part, rasterio.Env(**options), rasterio.open(part, "w", **profile) as out:
        out.write(pixels)
        if mask is not None and not mask.all():
            out.write_mask(mask)
        if raster is not None:
            _describe(out, raster)


def _describe(out: Any, raster: Raster) -> None:
    out.descriptions = [band.name for band in raster.bands]
    if any((band.scale, band.offset) != (1.0, 0.0) for band in raster.bands):
        out.scales = [band.scale for band in raster.bands]
        out.offsets = [band.offset for band in raster.bands]
    if raster.sensor.units == "dB":
        out.units = ["linear" if raster.linear_backscatter else "dB"] * len(raster.bands)
    if raster.acquired is not None:
        out.update_tags(ACQUISITION_DATETIME=raster.acquired.isoformat())


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A path beside the target that takes its place when whole; raises DatasetError where nothing can be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=path.parent) as folder:
            part = Path(folder) / path.name
            yield part
            os.replace(part, path)
    except (OSError, RasterioError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DatasetError(
            f"{path} cannot be written ({reason}); name a folder that can be with work=, and see that there is room"
        ) from error


def _digest(image: Path, labels: Labels | None, config: FolderConfig) -> str:
    """Changes with the config, the image and its labels, so that what was made of older ones is never reused."""
    parts = [repr(astuple(config))]
    for path in (image, labels.path if labels else image):
        stat = path.stat()
        parts.append(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
