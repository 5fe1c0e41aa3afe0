"""A raster of class codes brought onto the grid of an image, and refused where it cannot be one."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyproj
import rasterio
from rasterio.errors import RasterioError
from rasterio.windows import Window as FileWindow

from data_engine.sources.folder_config import CONFIG
from rsvlm.door import Door
from rsvlm.errors import DatasetError, RsvlmError
from rsvlm.metadata import earth_crs
from rsvlm.scene import PIXEL_GRID

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from affine import Affine
    from numpy.typing import NDArray

    from data_engine.sources.folder_config import FolderConfig
    from rsvlm.scene import Grid

MANY = 64  # more unnamed values than any land-cover legend has: measurements, not codes
LISTED = 12
ROWS = 512  # of an image at a time
MAX_READ = 2**27  # pixels of the raster at a time
Extent = tuple[float, float, float, float]  # west, south, east, north in degrees


@dataclass(frozen=True)
class CodeRaster:
    """One raster file of class codes; `codes` names them, and every other pixel gets `fill`."""

    path: Path
    config: FolderConfig

    @property
    def codes(self) -> dict[str, str]:
        """The name of each code."""
        return self.config.codes

    @cached_property
    def fill(self) -> int:
        """A code that means nothing: below all that have a meaning."""
        return min([0, *map(int, self.codes), *map(int, self.config.ignore)]) - 1

    def require_overlap(self, grid: Grid, image: Path) -> None:
        """Raise DatasetError unless image and labels have coordinates, or neither has, and they share ground."""
        with self._opened() as (dataset, crs):
            if crs is None and grid.crs is None:
                if grid.shape != dataset.shape:
                    raise DatasetError(
                        f"{image} is {grid.height} x {grid.width} pixels and its labels {self.path} are "
                        f"{dataset.height} x {dataset.width}, both without coordinates; give labels of the same size"
                    )
                return
            if crs is None or grid.crs is None:
                without, having = (self.path, image) if crs is None else (image, self.path)
                raise DatasetError(
                    f"{without} has no coordinates but {having} has, so they cannot be laid over each other; "
                    "give it its coordinate system (gdal_translate -a_srs -a_ullr), or drop that of the other"
                )
            require_common_ground(grid, image, extent_of(crs, tuple(dataset.bounds)), self.path)

    def codes_on(self, grid: Grid, image: Path) -> NDArray[np.int32]:
        """Class codes (H, W) on the grid by nearest neighbour, `fill` where the raster says nothing.

        Raises DatasetError for values that are no codes, or that the config neither names nor ignores.
        """
        with self._opened() as (dataset, crs):
            if crs is None:
                window = FileWindow(int(grid.transform.c), int(grid.transform.f), grid.width, grid.height)
                values = self._read(dataset, window)
            else:
                values = self._placed(dataset, crs, grid)
        said = values[np.isfinite(values)]
        self._check(said, image)
        codes = np.where(np.isfinite(values), values, self.fill).astype(np.int32)
        codes[np.isin(codes, [int(code) for code in self.config.ignore])] = self.fill
        return codes

    def _placed(self, dataset: Any, crs: pyproj.CRS, grid: Grid) -> NDArray[np.float64]:
        """The value at the middle of each pixel; NaN outside the raster. A share of the rows at a time."""
        assert grid.crs is not None  # require_overlap saw to it
        moved = None if grid.crs == crs else pyproj.Transformer.from_crs(grid.crs, crs, always_xy=True)
        parts = []
        for start in range(0, grid.height, ROWS):
            rows, cols = np.mgrid[start : min(start + ROWS, grid.height), 0 : grid.width] + 0.5
            x, y = _applied(grid.transform, cols, rows)
            if moved is not None:
                x, y = moved.transform(x, y)
            parts.append(self._looked_up(dataset, *_applied(~dataset.transform, x, y)))
        return np.concatenate(parts)

    def _looked_up(self, dataset: Any, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values at columns x and rows y (h, w) of the raster, of which only the part around them is read."""
        inside = (x >= 0) & (x < dataset.width) & (y >= 0) & (y < dataset.height)  # false for infinity too
        values = np.full(x.shape, np.nan)
        if inside.any():
            cols, rows = x[inside].astype(np.intp), y[inside].astype(np.intp)
            left, top = int(cols.min()), int(rows.min())
            window = FileWindow(left, top, int(cols.max()) - left + 1, int(rows.max()) - top + 1)
            values[inside] = self._read(dataset, window)[rows - top, cols - left]
        return values

    def _read(self, dataset: Any, window: FileWindow) -> NDArray[np.float64]:
        """Values (h, w) of a window, NaN where they are missing."""
        if window.width * window.height > MAX_READ:
            raise DatasetError(
                f"{self.path} has {window.width} x {window.height} pixels under one image, more than can be read at "
                "once; write a chip of 256 or less, or give a coarser raster"
            )
        values = np.asarray(dataset.read(self.config.labels_band, window=window), np.float64)
        missing = self._missing(dataset)
        if missing is not None:
            values[values == missing] = np.nan
        return values

    def _missing(self, dataset: Any) -> float | None:
        """The value of a missing pixel, unless the config gives that very value a name."""
        value = dataset.nodatavals[self.config.labels_band - 1]
        if value is None or (np.isfinite(value) and f"{value:.0f}" in self.codes):
            return None
        return float(value)

    def _check(self, said: NDArray[np.float64], image: Path) -> None:
        values, counts = np.unique(said, return_counts=True)
        broken = values[(values != np.floor(values)) | (np.abs(values) >= 2**31)]
        if broken.size:
            raise DatasetError(
                f"{self.path} holds values such as {broken[0]:.6g} at {image.name}, which are no class codes but "
                "measurements or probabilities; give the raster of the most likely class"
            )
        known = {*self.codes, *self.config.ignore}
        unnamed = [(int(v), int(n)) for v, n in zip(values, counts, strict=True) if f"{v:.0f}" not in known]
        if len(unnamed) > MANY:
            raise DatasetError(
                f"{self.path} holds {len(unnamed)} values without a name at {image.name}, from {unnamed[0][0]} to "
                f"{unnamed[-1][0]}, which looks like probabilities or a picture; give a raster of class codes"
            )
        if unnamed:
            raise DatasetError(
                f"{self.path} holds codes without a name at {image.name}: "
                f"{counted(unnamed, 'pixels')}; name them in 'codes' or list them in 'ignore' of {CONFIG}"
            )

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, pyproj.CRS | None]]:
        """The open dataset and its CRS; a colour table, usual for land cover, is no hindrance."""
        door = Door()
        try:
            real, driver = door.admit(self.path)
            with rasterio.Env(**door.environment), rasterio.open(real, driver=driver) as dataset:
                height, width = dataset.block_shapes[0]
                block = height * width * 8
                size = {"width": dataset.width, "height": dataset.height, "count": dataset.count, "block_bytes": block}
                door.check_size(self.path.name, driver, **size)
                self._check_band(dataset)
                placed = dataset.crs is not None and dataset.transform != PIXEL_GRID
                yield dataset, earth_crs(dataset.crs.to_wkt()) if placed else None
        except DatasetError:
            raise
        except (RsvlmError, RasterioError) as error:
            raise DatasetError(f"the labels {self.path} cannot be read ({error}); give a sound GeoTIFF") from error

    def _check_band(self, dataset: Any) -> None:
        band = self.config.labels_band
        if band > dataset.count:
            raise DatasetError(f"{self.path} has {dataset.count} bands and no number {band}; mend 'labels_band'")
        if "complex" in dataset.dtypes[band - 1]:
            raise DatasetError(f"{self.path} holds complex numbers; give a raster of class codes")


def counted(pairs: list[tuple[Any, int]], unit: str) -> str:
    """Values with how often they occur, the most frequent first, cut short: "7 (120 pixels), 3 (5)"."""
    ranked = sorted(pairs, key=lambda pair: (-pair[1], str(pair[0])))
    shown = [f"{value} ({count:,})" for value, count in ranked[:LISTED]]
    shown[0] = f"{ranked[0][0]} ({ranked[0][1]:,} {unit})"
    return ", ".join(shown) + (f" and {len(ranked) - LISTED} more" if len(ranked) > LISTED else "")


def _applied(transform: Affine, x: Any, y: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    t = transform
    return t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f


def extent_of(crs: pyproj.CRS, bounds: Extent) -> Extent:
    """Bounds in a CRS as degrees; east is below west where they cross the antimeridian."""
    transformer = pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    west, south, east, north = transformer.transform_bounds(*bounds)
    return west, south, east, north


def require_common_ground(grid: Grid, image: Path, extent: Extent, labels: Path) -> None:
    """Raise DatasetError, with both extents, where an image and its labels lie apart."""
    west, south, east, north = grid.footprint.bounds
    crossing = extent[0] > extent[2] or not all(map(np.isfinite, extent))
    beside = not crossing and (east < extent[0] or west > extent[2])
    if beside or north < extent[1] or south > extent[3]:
        raise DatasetError(
            f"{labels} and {image} share no ground: the labels cover {_degrees(extent)}, the image "
            f"{_degrees((west, south, east, north))}; give labels of this place, or check the coordinate systems"
        )


def _degrees(extent: Extent) -> str:
    west, south, east, north = extent
    return f"longitude {west:.3f} to {east:.3f}, latitude {south:.3f} to {north:.3f}"
