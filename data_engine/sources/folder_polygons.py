"""A layer of polygons with classes: read without trusting it, mended, and laid over images in pixels."""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyproj
import shapely
from rasterio.features import rasterize

from data_engine.sources.folder_config import CONFIG, POLYGON_SUFFIXES
from data_engine.sources.folder_rasters import counted, extent_of, require_common_ground
from rsvlm.errors import DatasetError
from rsvlm.metadata import earth_crs

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from shapely.geometry import Polygon
    from shapely.geometry.base import BaseGeometry

    from data_engine.sources.folder_config import FolderConfig
    from rsvlm.scene import Grid

logger = logging.getLogger(__name__)
USUAL_COLUMNS = ("class", "label", "category", "landcover", "land_cover", "landuse", "land_use", "fclass")
MAX_BYTES = 2**29
MAX_VERTICES = 5_000_000
MAX_CLASSES = 1000


@dataclass(frozen=True)
class PolygonLayer:
    """Polygons (N,) in one CRS and the class name (N,) of each; `codes` numbers the names from 1, 0 is nothing."""

    path: Path
    crs: pyproj.CRS
    geometries: NDArray[Any]  # (N,) of shapely polygons
    names: NDArray[Any]  # (N,) of str
    tree: shapely.STRtree
    codes: dict[str, str]
    fill: int = 0

    def require_overlap(self, grid: Grid, image: Path) -> None:
        """Raise DatasetError where the image has no coordinates, or lies outside the whole layer."""
        if grid.crs is None:
            raise DatasetError(
                f"{image} has no coordinates, so the polygons of {self.path} cannot be laid over it; "
                "give a georeferenced GeoTIFF"
            )
        west, south, east, north = (float(value) for value in shapely.total_bounds(self.geometries))
        require_common_ground(grid, image, extent_of(self.crs, (west, south, east, north)), self.path)

    def codes_on(self, grid: Grid, image: Path) -> NDArray[np.int32]:
        """Class codes (H, W) of the polygons, smaller ones on top of larger ones, 0 where there is none."""
        numbers = {name: int(code) for code, name in self.codes.items()}
        found = sorted(self.within(grid), key=lambda pair: -pair[1].area)
        if not found:
            return np.zeros(grid.shape, np.int32)
        shapes = [(polygon, numbers[name]) for name, polygon in found]
        burnt: NDArray[np.int32] = rasterize(shapes, out_shape=grid.shape, fill=0, dtype="int32")
        return burnt

    def within(self, grid: Grid, *, visible: float = 0.0) -> list[tuple[str, Polygon]]:
        """Name and polygon in pixels of all that lie on the grid, cut at its edge.

        Of each, more than the share `visible` of its area must lie on the grid.
        """
        frame, found = shapely.box(0, 0, grid.width, grid.height), []
        for position, polygon in self._near(grid):
            whole = shapely.area(polygon)
            seen = shapely.intersection(polygon, frame)
            if whole > 0 and shapely.area(seen) > visible * whole:
                found += [(str(self.names[position]), part) for part in polygonal_parts(seen)]
        return found

    def _near(self, grid: Grid) -> list[tuple[int, BaseGeometry]]:
        """Polygons in pixels, cut generously around the image before they are projected: far points may not be."""
        assert grid.crs is not None  # require_overlap saw to it
        to_grid = pyproj.Transformer.from_crs(self.crs, grid.crs, always_xy=True)
        to_pixel, near = ~grid.transform, []

        def in_pixels(points: NDArray[np.float64]) -> NDArray[np.float64]:
            x, y = to_grid.transform(points[:, 0], points[:, 1])
            t = to_pixel
            return np.stack([t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f], axis=1)

        for window in self._windows(grid):
            for position in np.sort(self.tree.query(window)):
                cut = shapely.clip_by_rect(self.geometries[position], *window.bounds)
                placed = shapely.transform(cut, in_pixels)
                if not shapely.is_empty(placed) and np.isfinite(shapely.bounds(placed)).all():
                    near.append((int(position), shapely.make_valid(placed)))
        return near

    def _windows(self, grid: Grid) -> list[BaseGeometry]:
        """Where the image lies in the CRS of the polygons, with a margin of its own size; two at the antimeridian."""
        corners = grid.transform @ np.array([[0, grid.width, grid.width, 0], [0, 0, grid.height, grid.height]])
        back = pyproj.Transformer.from_crs(grid.crs, self.crs, always_xy=True)
        x, y = np.asarray(corners[0]), np.asarray(corners[1])
        west, south, east, north = back.transform_bounds(x.min(), y.min(), x.max(), y.max())
        turn = 360.0 if self.crs.is_geographic and west > east else 0.0
        wide, high = east + turn - west, north - south
        west, east, south, north = west - wide, east + wide, south - high, north + high
        if turn:
            return [shapely.box(west, south, 180, north), shapely.box(-180, south, east, north)]
        return [shapely.box(west, south, east, north)]


def read_polygons(path: Path, config: FolderConfig) -> PolygonLayer:
    """Read the polygons of a GeoPackage or GeoJSON with their class names.

    Invalid ones are mended, rows without a geometry or a class are passed over; both are counted in a warning.
    Raises DatasetError for other, damaged and too large files, a layer or column that is not there, classes that
    are numbers without `codes`, no coordinate system, and where nothing is left.
    """
    frame = _frame(path, config)
    crs = None if frame.crs is None else earth_crs(frame.crs.to_wkt())
    if crs is None:
        raise DatasetError(f"{path} has no coordinate system of the Earth; save it again with one, such as EPSG:4326")
    names = _names(frame, path, config)
    geometries = frame.geometry.to_numpy()
    keep = ~(shapely.is_missing(geometries) | shapely.is_empty(geometries)) & (names != "")
    if not keep.all():
        logger.warning("%s: passed over %d of %d rows without geometry or class", path, (~keep).sum(), len(keep))
    positions, parts = _polygons(geometries[keep], path)
    _check_degrees(crs, parts, path)
    kept = names[keep][positions]
    distinct = sorted(set(kept))
    if len(distinct) > MAX_CLASSES:
        raise DatasetError(f"{path} has {len(distinct)} classes, such as {distinct[0]!r}; name the right 'column'")
    codes = {str(number): name for number, name in enumerate(distinct, 1)}
    return PolygonLayer(path, crs, parts, kept, shapely.STRtree(parts), codes)


def polygonal_parts(geometry: BaseGeometry) -> list[Polygon]:
    """The polygons a geometry consists of; its lines and points are left out."""
    parts = shapely.get_parts(shapely.get_parts(geometry))  # a collection may hold multi-polygons
    return [part for part in parts if part.geom_type == "Polygon" and part.area > 0]


def _frame(path: Path, config: FolderConfig) -> Any:
    import pyogrio
    from pyogrio.errors import DataLayerError, DataSourceError, FieldError

    _admit(path)
    try:
        layer = _layer(path, config)
        info = pyogrio.read_info(path, layer=layer)
        if info["features"] == 0:
            raise DatasetError(f"{path} has no features in layer {layer!r}; choose another layer or file")
        column = _column([str(name) for name in info["fields"]], path, config)
        frame = pyogrio.read_dataframe(path, layer=layer, columns=[column], force_2d=True)
    except (DataSourceError, DataLayerError, FieldError, shapely.errors.GEOSException, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is damaged or not what its name says ({error}); save it again") from error
    if "geometry" not in frame.columns:
        raise DatasetError(f"{path} is a table without geometries in layer {layer!r}; choose a layer of polygons")
    return frame.rename(columns={column: "value"})


def _admit(path: Path) -> None:
    """Let in nothing but a regular GeoPackage or GeoJSON of bounded size that names no other files."""
    if path.suffix.lower() not in POLYGON_SUFFIXES or "!" in str(path):
        raise DatasetError(f"{path} is no {' or '.join(POLYGON_SUFFIXES)} file; save the polygons as one of these")
    if not path.is_file():
        raise DatasetError(f"there is no file {path} for the polygons; mend 'polygons' in {CONFIG}")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    if size > MAX_BYTES:
        raise DatasetError(f"{path} has {size:,} bytes, more than the {MAX_BYTES:,} allowed; cut it to your images")
    if path.suffix.lower() == ".gpkg":
        if not head.startswith(b"SQLite format 3\x00"):
            raise DatasetError(f"{path} is no GeoPackage; save the polygons again")
        _admit_database(path)
    elif not head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        raise DatasetError(f"{path} is no GeoJSON; save the polygons again")


def _admit_database(path: Path) -> None:
    """Refuse views and virtual tables other than spatial indexes: through them a file may read other files."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            rows = database.execute(
                "select name, type from sqlite_master where type = 'view' or "
                "(sql like 'create virtual%' and lower(sql) not like '%using rtree%')"
            ).fetchall()
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is a damaged GeoPackage ({error}); save it again") from error
    if rows:
        raise DatasetError(f"{path} holds the {rows[0][1]} {rows[0][0]!r}; save its layers as plain tables")


def _layer(path: Path, config: FolderConfig) -> str:
    import pyogrio

    layers = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
    if config.layer in layers:
        return config.layer
    if config.layer or len(layers) != 1:
        what = f"no layer {config.layer!r}" if config.layer else f"{len(layers)} layers of geometries"
        raise DatasetError(f"{path} has {what}; name one of {', '.join(layers) or 'another file'} in 'layer'")
    return layers[0]


def _column(columns: list[str], path: Path, config: FolderConfig) -> str:
    if config.column in columns:
        return config.column
    usual = [name for name in columns if name.lower() in USUAL_COLUMNS]
    if not config.column and len(usual) == 1:
        return usual[0]
    if not config.column and len(columns) == 1:
        return columns[0]
    what = f"no column {config.column!r}" if config.column else "no one column that is plainly the class"
    raise DatasetError(f"{path} has {what}; name one of {', '.join(columns) or '(it has none)'} in 'column'")


def _names(frame: Any, path: Path, config: FolderConfig) -> NDArray[Any]:
    """Class names (N,), "" for rows without one or to be ignored; translated by `codes` where it is given."""
    raw = ["" if value is None or value != value else _plain(value) for value in frame["value"]]
    names = np.array([" ".join(value.replace("_", " ").split()) for value in raw], dtype=object)
    ignored = np.isin(raw, list(config.ignore))
    names[ignored] = ""
    if config.codes and not config.labels:
        unnamed = Counter(v for v, skip in zip(raw, ignored, strict=True) if v and not skip and v not in config.codes)
        if unnamed:
            raise DatasetError(
                f"{path} holds classes that 'codes' does not name: {counted(list(unnamed.items()), 'polygons')}; "
                f"name them, or list them in 'ignore' of {CONFIG}"
            )
        names = np.array([config.codes[v] if n else "" for v, n in zip(raw, names, strict=True)], dtype=object)
    numbers = sorted({name for name in names if name and not any(letter.isalpha() for letter in name)})
    if numbers:
        raise DatasetError(
            f"{path} has classes that are no words, such as {numbers[0]!r}; name them with codes = "
            f'{{"{numbers[0]}" = "..."}} in {CONFIG}, or choose another column'
        )
    if not any(names):
        raise DatasetError(f"{path} has no class in any row of its column; choose another column")
    return names


def _plain(value: Any) -> str:
    whole = isinstance(value, float | np.floating) and np.isfinite(value) and value == int(value)
    return str(int(value)) if whole else str(value).strip()


def _polygons(geometries: NDArray[Any], path: Path) -> tuple[NDArray[np.intp], NDArray[Any]]:
    """Valid polygons with the row each comes from."""
    vertices = int(shapely.get_num_coordinates(geometries).sum())
    if vertices > MAX_VERTICES:
        raise DatasetError(
            f"{path} has {vertices:,} vertices, more than the {MAX_VERTICES:,} allowed; simplify it, or cut it to "
            "your images"
        )
    finite = np.isfinite(shapely.bounds(geometries)).all(axis=1)
    broken = finite & ~shapely.is_valid(geometries)
    mended = geometries.copy()
    mended[broken] = shapely.make_valid(geometries[broken])
    rows = [(row, part) for row in np.flatnonzero(finite) for part in polygonal_parts(mended[row])]
    empty = len(geometries) - len({row for row, _ in rows})
    if not rows:
        kinds = sorted({geometry.geom_type for geometry in geometries})
        raise DatasetError(f"{path} has no polygons ({', '.join(kinds) or 'no geometries'}); give a layer of polygons")
    if broken.any() or empty:
        logger.warning("%s: mended %d invalid polygons, passed over %d that have no area", path, broken.sum(), empty)
    parts = np.empty(len(rows), dtype=object)
    parts[:] = [part for _, part in rows]
    return np.array([row for row, _ in rows]), parts


def _check_degrees(crs: pyproj.CRS, parts: NDArray[Any], path: Path) -> None:
    west, south, east, north = shapely.total_bounds(parts)
    if crs.is_geographic and (west < -360 or east > 360 or south < -90.001 or north > 90.001):
        raise DatasetError(
            f"{path} has coordinates from {west:.0f}, {south:.0f} to {east:.0f}, {north:.0f}, which are no degrees of "
            "longitude and latitude; say its real coordinate system, or save it in EPSG:4326"
        )
