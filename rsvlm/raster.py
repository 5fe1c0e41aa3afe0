"""The only module that opens imagery: a path becomes a Raster, a Raster becomes a Scene."""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.enums import MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as FileWindow

from rsvlm.bands import Header, Resolved, name_at_end, resolve, sensor_of
from rsvlm.door import Door, in_short
from rsvlm.errors import BandError, ImageryError, ImageryTooLargeError, SceneError
from rsvlm.header import check_header, header_of, upright
from rsvlm.metadata import acquired_of, cloud_cover_of, grid_of, sentinel_2_offset
from rsvlm.resample import resample
from rsvlm.scene import Grid, Scene, Window
from rsvlm.sensors import Band, Sensor, find_sensor
from rsvlm.stac import Item, item_beside
from rsvlm.stack import stacked

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from types import TracebackType

    from numpy.typing import NDArray

__all__ = ["Door", "Raster", "open_raster", "read_labels", "read_scene", "tiles"]

logger = logging.getLogger(__name__)
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)  # grid_of logs it, by file name
SAMPLE = 256  # side of a decimated block that unit decisions are taken from
SAMPLE_BLOCKS, SAMPLE_VALUES = 9, 2**14  # so many blocks at least, and more until so many pixels are valid


@dataclass(frozen=True, eq=False)
class Raster:
    """An open image file whose bands are known. A context manager; one thread only, open one per thread.

    `bands` carry the scale and offset that hold for this file; `fill` is the stored value of a missing pixel.
    """

    path: Path
    sensor: Sensor
    bands: tuple[Band, ...]
    grid: Grid
    acquired: datetime | None
    cloud_cover: float | None  # percent, as the producer states it
    fill: float | None
    _layers: tuple[int, ...]  # positions in the file, from 0
    _file: _File

    def __enter__(self) -> Raster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back; reading afterwards is an error."""
        self._file.stack.close()

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored values."""
        return np.result_type(*(self._file.dataset.dtypes[layer] for layer in self._layers))

    @property
    def block_shape(self) -> tuple[int, int]:
        """(H, W) of the blocks the file is stored in; windows that follow them are read fastest."""
        height, width = self._file.dataset.block_shapes[self._layers[0]]
        return height, width

    @property
    def layer_names(self) -> tuple[str, ...]:
        """What the file calls its layers, in their order; also those that are no band of the sensor."""
        return self._file.header.descriptions

    def again(self) -> Raster:
        """A second handle on the same file, for another thread: the bands are not told and nothing is sampled anew.

        Raises ImageryError where the file is gone or is another one now.
        """
        source, header = self._file, self._file.header
        with ExitStack() as stack, _gdal(source.name, source.door):
            dataset, _ = _opened(source.source, source.name, source.door, stack)
            if (dataset.height, dataset.width, dataset.count) != (*self.grid.shape, header.count):
                raise ImageryError(f"{source.name} was replaced by another file since it was opened; open it again")
            second = replace(self, _file=replace(source, dataset=dataset, stack=stack.pop_all()))
        told = ("content_hash", "linear_backscatter")
        second.__dict__.update({name: value for name, value in self.__dict__.items() if name in told})
        return second

    @cached_property
    def content_hash(self) -> str:
        """Sha256 of the file's bytes; raises ImageryError for a source that is no local file."""
        try:
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ImageryError(f"{self._file.name} has no bytes to hash here: {error.strerror}") from error

    @cached_property
    def linear_backscatter(self) -> bool:
        """Whether the file stores linear SAR backscatter that `read` turns into dB; decided once per file."""
        if self.sensor.kind != "sar" or self.sensor.units != "dB":
            return False
        stated = self._file.stated_units(self._layers)
        if re.search(r"(?<![a-z])(db|decibels?)(?![a-z])", stated):
            return False
        if re.search(r"(?<![a-z])(linear|power|intensity)(?![a-z])", stated):
            return True
        values = self._sample()
        return bool(values.size) and float(np.median(values)) >= 0

    def read_raw(
        self, window: Window | None = None, *, shape: tuple[int, int] | None = None
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Stored values (C, h, w), unscaled, and which pixels are valid (h, w); invalid pixels hold 0.

        `shape` resamples: averaging down, bilinear up. Fill values, masks, alpha, NaN and infinity are invalid.
        Raises SceneError for a window outside the file, ImageryTooLargeError, ImageryError on damage.
        """
        window = self._window(window)
        native = (window.height, window.width)
        shape = shape or native
        own_fill = self._file.dataset.nodatavals[self._layers[0]] is not None
        if shape != native and self.fill and not own_fill:  # GDAL would average the fill into its neighbours
            return resample(*self._read(window, native, Resampling.nearest), shape)
        return self._read(window, shape, _resampling(native, shape))

    def read_layer(self, name: str, window: Window | None = None) -> NDArray[Any]:
        """Stored values (h, w) of a layer by its name in the file, be it a band of the sensor or not.

        Raises BandError for a name that is not there, else as `read_raw`.
        """
        if not name or name not in self.layer_names:
            named = ", ".join(filter(None, self.layer_names)) or "none with a name"
            raise BandError(f"{self._file.name} has no layer {name!r}; it has {named}")
        window = self._window(window)
        layer = self._file.header.layers[self.layer_names.index(name)]
        values, _ = self._file.read(window, (window.height, window.width), Resampling.nearest, (layer,))
        found: NDArray[Any] = values[0]
        return found

    def read(self, window: Window | None = None, *, shape: tuple[int, int] | None = None) -> Scene:
        """The scene in physical units (reflectance, dB, display 0-1), float32; options and errors as `read_raw`."""
        window = self._window(window)
        raw, valid = self.read_raw(window, shape=shape)
        scale = np.array([[[band.scale]] for band in self.bands], np.float32)
        offset = np.array([[[band.offset]] for band in self.bands], np.float32)
        with np.errstate(all="ignore"):
            pixels = raw.astype(np.float32) * scale + offset
            if self.linear_backscatter:
                pixels = 10 * np.log10(pixels)
        valid = valid & np.isfinite(pixels).all(axis=0)
        pixels[:, ~valid] = 0
        grid = self.grid.window(window).resized(*valid.shape)
        return Scene(pixels, valid, self.bands, self.sensor, grid, self.acquired, str(self.path))

    def _window(self, window: Window | None) -> Window:
        height, width = self.grid.shape
        window = window or Window(0, 0, height, width)
        inside = window.row + window.height <= height and window.col + window.width <= width
        if window.row < 0 or window.col < 0 or not inside:
            raise SceneError(f"{window} reaches outside {self._file.name} of {height} x {width} pixels")
        return window

    def _sample(self) -> NDArray[Any]:
        """Valid values (C, n) of a few blocks spread over the file; of all where there are few, or little is valid."""
        height, width = self.block_shape
        found, seen = [np.zeros((len(self.bands), 0), self.dtype)], 0
        for count, (row, col) in enumerate(_spread(-(-self.grid.height // height), -(-self.grid.width // width))):
            if count >= SAMPLE_BLOCKS and seen >= SAMPLE_VALUES:
                break
            row, col = row * height, col * width
            block = Window(row, col, min(height, self.grid.height - row), min(width, self.grid.width - col))
            shape = min(block.height, SAMPLE), min(block.width, SAMPLE)
            raw, valid = self._read(block, shape, Resampling.nearest)
            found.append(raw[:, valid])
            seen += found[-1].shape[1]
        return np.concatenate(found, axis=1)

    def _read(self, window: Window, shape: tuple[int, int], how: Resampling) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        raw, valid = self._file.read(window, shape, how, self._layers)
        valid &= ~_missing(raw, self.fill, all_bands=self.sensor.units == "display")
        if raw.dtype.kind == "f":
            with np.errstate(invalid="ignore"):
                valid &= (np.abs(raw) <= np.finfo(np.float32).max).all(axis=0)
        if not valid.all():
            raw[:, ~valid] = 0
        return raw, valid


@dataclass(frozen=True, eq=False)
class _File:
    """An open dataset with what its header and its STAC item say."""

    dataset: Any  # rasterio.DatasetReader
    name: str
    source: str | os.PathLike[str]  # as it was asked for
    path: Path
    door: Door
    item: Item
    grid: Grid
    header: Header
    stack: ExitStack

    def read(
        self, window: Window, shape: tuple[int, int], how: Resampling, layers: tuple[int, ...]
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Stored values (C, h, w) of some layers and the file's own mask (h, w)."""
        values = len(layers) * max(shape[0] * shape[1], 1)
        if values > self.door.max_read_values or min(shape) < 1:
            raise ImageryTooLargeError(
                f"reading {shape[0]} x {shape[1]} pixels of {len(layers)} bands from {self.name} at once is "
                f"not allowed (at most {self.door.max_read_values:,} values); read it by window"
            )
        place = FileWindow(window.col, window.row, window.width, window.height)
        with _gdal(self.name, self.door):
            numbers = [layer + 1 for layer in layers]
            raw = self.dataset.read(numbers, window=place, out_shape=(len(layers), *shape), resampling=how)
            flags = self.dataset.mask_flag_enums[layers[0]]
            alpha_is_data = MaskFlags.alpha in flags and len(layers) == self.dataset.count
            if MaskFlags.per_dataset not in flags or alpha_is_data:
                return raw, np.ones(shape, np.bool_)
            mask = self.dataset.read_masks(numbers[0], window=place, out_shape=shape, resampling=how)
        return raw, mask > 0

    def stated_units(self, layers: tuple[int, ...]) -> str:
        """What the file says about units, in lower case: band units, descriptions, tags."""
        dataset = self.dataset
        texts = [str(dataset.units[layer] or "") + " " + str(dataset.descriptions[layer] or "") for layer in layers]
        for tags in (dataset.tags(), *(dataset.tags(layer + 1) for layer in layers)):
            texts += [value for key, value in tags.items() if "unit" in key.lower() or "scaling" in key.lower()]
        return " ".join(texts).lower().replace("_", " ")


def open_raster(
    path: str | os.PathLike[str],
    *,
    sensor: str | Path | Sensor | None = None,
    bands: Sequence[str] | None = None,
    door: Door = Door(),  # noqa: B008  # frozen
) -> Raster:
    """Open an image and tell its bands: by `sensor` and `bands`, names in the file, its STAC item, or a preset.

    Raises ImageryError (or its leaves) for what the door refuses, BandError where bands cannot be told, SensorError.
    """
    wanted = None if sensor is None else find_sensor(sensor)
    file = _open(path, door)
    with ExitStack() as guard:  # closes the file unless all goes well
        guard.callback(file.stack.close)
        raster = _raster(file, resolve(file.header, sensor=wanted, names=bands, item_names=file.item.band_names))
        guard.pop_all()
    return raster


def read_scene(
    path_or_paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    sensor: str | Path | Sensor | None = None,
    bands: Sequence[str] | None = None,
    window: Window | None = None,
    shape: tuple[int, int] | None = None,
    door: Door = Door(),  # noqa: B008  # frozen
) -> Scene:
    """Read one file, or single-band files of one place brought to the finest grid among them.

    Files of a list need one CRS and extent; their bands are `bands`, or the ends of their names (`_B02_10m.jp2`).
    `window` counts in pixels of the finest grid. Raises as `open_raster` and `Raster.read_raw`.
    """
    if isinstance(path_or_paths, str) or not isinstance(path_or_paths, list | tuple):
        with open_raster(path_or_paths, sensor=sensor, bands=bands, door=door) as raster:  # type: ignore[arg-type]
            return raster.read(window, shape=shape)
    wanted = None if sensor is None else find_sensor(sensor)
    with ExitStack() as stack:
        files = []
        for path in path_or_paths:
            files.append(_open(path, door))
            stack.enter_context(files[-1].stack)
        return stacked(_rasters(files, wanted, bands), window, shape)


def read_labels(
    path: str | os.PathLike[str],
    *,
    band: int = 1,
    door: Door = Door(),  # noqa: B008  # frozen
) -> NDArray[Any]:
    """A raster of class codes or a mask, as stored: (H, W). It has no sensor, so none is asked for.

    Raises ImageryError (or its leaves) for what the door refuses, BandError for a band number it does not have.
    """
    file = _open(path, door)
    with file.stack:
        if not 1 <= band <= file.dataset.count:
            raise BandError(f"{file.name} has {file.dataset.count} layers; there is no number {band}")
        shape = file.grid.shape
        values, _ = file.read(Window(0, 0, *shape), shape, Resampling.nearest, (band - 1,))
    labels: NDArray[Any] = values[0]
    return labels


def tiles(grid: Grid, size: int, stride: int) -> Iterator[Window]:
    """Windows of size x size pixels that cover a grid, row by row; the last of a row or column is shifted inward.

    A side shorter than `size` gives windows of that side. Raises SceneError unless 1 <= stride <= size.
    """
    if not 1 <= stride <= size:
        raise SceneError(f"tiles need 1 <= stride <= size so that they leave no gap; got size {size}, stride {stride}")
    for row in _starts(grid.height, size, stride):
        for col in _starts(grid.width, size, stride):
            yield Window(row, col, min(size, grid.height), min(size, grid.width))


def _starts(length: int, size: int, stride: int) -> list[int]:
    last = max(length - size, 0)
    return [*range(0, last, stride), last]


def _spread(rows: int, cols: int) -> Iterator[tuple[int, int]]:
    """Every block once: first some that lie apart, by the additive recurrence R2 of Roberts (2018), then in order."""
    apart = (
        (int((0.5 + 0.7548776662 * i) % 1 * rows), int((0.5 + 0.5698402910 * i) % 1 * cols)) for i in range(rows * cols)
    )
    few = dict.fromkeys(islice(apart, 8 * SAMPLE_BLOCKS))
    yield from few
    yield from (place for place in product(range(rows), range(cols)) if place not in few)


def _resampling(native: tuple[int, int], shape: tuple[int, int]) -> Resampling:
    if shape == native:
        return Resampling.nearest
    return Resampling.average if shape[0] < native[0] or shape[1] < native[1] else Resampling.bilinear


def _missing(raw: NDArray[Any], fill: float | None, *, all_bands: bool) -> NDArray[np.bool_] | np.bool_:
    """Where the fill value stands in any band; in 8-bit pictures 0 is a colour too, so there in all bands."""
    if fill is None:
        return np.False_
    if np.isnan(fill):
        hits = np.isnan(raw)
    elif raw.dtype.kind in "iu" and not (float(fill).is_integer() and _holds(raw.dtype, fill)):
        return np.False_
    else:
        hits = raw == raw.dtype.type(fill)
    missing: NDArray[np.bool_] = hits.all(axis=0) if all_bands else hits.any(axis=0)
    return missing


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    limits = np.iinfo(dtype)
    return limits.min <= value <= limits.max


@contextmanager
def _gdal(name: str, door: Door) -> Iterator[None]:
    """GDAL with the door's options; its errors become ImageryError."""
    try:
        with rasterio.Env(**door.environment):
            yield
    except (RasterioError, CPLE_BaseError, UnicodeDecodeError) as error:
        reason = in_short(str(error.__cause__ or error)).strip(".")
        raise ImageryError(f"{name} is damaged, cut short or not what its first bytes say ({reason})") from error


def _open(path: str | os.PathLike[str], door: Door) -> _File:
    name = in_short(Path(path).name)
    with ExitStack() as stack, _gdal(name, door):
        dataset, real = _opened(path, name, door, stack)
        item = item_beside(real)
        grid = grid_of(dataset, item, name)
        header = header_of(dataset, real, item, grid)
        return _File(dataset, name, path, real, door, item, grid, header, stack.pop_all())


def _opened(path: str | os.PathLike[str], name: str, door: Door, stack: ExitStack) -> tuple[Any, Path]:
    """The dataset at a path and where that really is: let in by the door, upright, closed with the stack."""
    real, driver = (Path(path), None) if door.trust else door.admit(path)
    dataset = stack.enter_context(rasterio.open(str(path) if door.trust else real, driver=driver))
    check_header(dataset, name, door)
    return upright(dataset, stack), real


def _raster(file: _File, resolved: Resolved) -> Raster:
    """The raster with the scale, offset and fill value that hold for this file."""
    first, tags = resolved.layers[0], file.dataset.tags()
    stored, from_item = file.dataset.nodatavals[first], file.item.layer_numbers("nodata")
    fills = (stored, from_item[0] if from_item else None, resolved.sensor.nodata)
    raster = Raster(
        path=file.path,
        sensor=resolved.sensor,
        bands=resolved.bands,
        grid=file.grid,
        acquired=acquired_of(tags, file.item, file.path.name),
        cloud_cover=cloud_cover_of(tags, file.item),
        fill=next((fill for fill in fills if fill is not None), None),
        _layers=resolved.layers,
        _file=file,
    )
    return replace(raster, bands=_effective(raster, file))


def _effective(raster: Raster, file: _File) -> tuple[Band, ...]:
    """Bands with scale and offset from the file, else its STAC item, else the preset and what is known of it."""
    bands, layers, dataset = raster.bands, raster._layers, file.dataset
    pairs = [(dataset.scales[layer], dataset.offsets[layer]) for layer in layers]
    if any(pair != (1.0, 0.0) for pair in pairs):
        return _rescaled(bands, pairs)
    scales, offsets = file.item.layer_numbers("scale"), file.item.layer_numbers("offset")
    if len(scales) == len(file.header.layers) and all(scales[file.header.layers.index(k)] for k in layers):
        at = [file.header.layers.index(layer) for layer in layers]
        return _rescaled(bands, [(scales[k] or 1.0, offsets[k] or 0.0) for k in at])
    if raster.dtype.kind == "f" and raster.sensor.kind == "optical" and _is_physical(raster):
        logger.info("%s: its floats are taken for %s already", file.name, raster.sensor.units)
        return _rescaled(bands, [(1.0, 0.0)] * len(bands))
    if raster.sensor.name.startswith("sentinel-2-"):
        shift = sentinel_2_offset(dataset.tags(), file.item, file.path)
        return _rescaled(bands, [(band.scale, band.offset + shift) for band in bands])
    return bands


def _rescaled(bands: Sequence[Band], pairs: Sequence[tuple[float, float]]) -> tuple[Band, ...]:
    return tuple(replace(band, scale=s, offset=o) for band, (s, o) in zip(bands, pairs, strict=True))


def _is_physical(raster: Raster) -> bool:
    """Whether float reflectance is stored as such and not as ten-thousandths: nearly all of it lies below 2."""
    values = np.abs(raster._sample())
    return bool(values.size) and float(np.percentile(values, 98)) < 2


def _rasters(files: Sequence[_File], sensor: Sensor | None, bands: Sequence[str] | None) -> list[Raster]:
    """One raster for each single-band file; the sensor is told from all names together."""
    if not files:
        raise SceneError("a list of band files is empty; give at least one")
    if bands is not None and len(bands) != len(files):
        raise BandError(f"{len(files)} files were given with {len(bands)} band names; name one for each")
    names = list(bands) if bands is not None else [_single_name(file) for file in files]
    if len(set(names)) < len(names):
        raise BandError(f"the files must each hold another band; got {', '.join(names)}")
    crowded = [file.name for file in files if len(file.header.layers) != 1]
    if crowded:
        raise SceneError(f"a list of files must hold one band each; {', '.join(crowded)} holds more, open it alone")
    sensor = sensor or sensor_of(replace(files[0].header, pixel_size_m=None), names)
    return [_raster(file, resolve(file.header, sensor=sensor, names=[n])) for file, n in zip(files, names, strict=True)]


def _single_name(file: _File) -> str:
    described = file.header.descriptions[0] if len(file.header.descriptions) == 1 else ""
    name = name_at_end(file.path.stem) or described or "".join(file.item.band_names[:1])
    if not name:
        raise BandError(f"the name of {file.name} does not say which band it holds; name the bands (bands=, in Python)")
    return name
