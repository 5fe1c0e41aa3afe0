"""A scene is pixels plus what the pixels mean: bands, units, validity, place and date."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyproj
import shapely
from affine import Affine
from shapely.affinity import translate
from shapely.geometry import MultiPolygon, Polygon, box, mapping

from rsvlm.errors import BandError, GeoreferenceError, SceneError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from numpy.typing import NDArray
    from shapely.geometry import LinearRing
    from shapely.geometry.base import BaseGeometry

    from rsvlm.sensors import Band, Sensor

GEOD = pyproj.Geod(ellps="WGS84")
PIXEL_GRID = Affine.identity()


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of pixels: first row and column, height and width."""

    row: int
    col: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise SceneError(f"a window must be at least 1 x 1 pixels; got {self.height} x {self.width}")


@lru_cache(maxsize=64)
def _transformer(crs: pyproj.CRS) -> pyproj.Transformer:
    """To longitude and latitude; making one takes as long as reading a chip, and threads may share it."""
    return pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)


@dataclass(frozen=True)
class Grid:
    """Where a raster's pixels lie: size, affine transform (pixel corner to CRS units) and CRS, if any."""

    height: int
    width: int
    transform: Affine = PIXEL_GRID
    crs: pyproj.CRS | None = None

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise SceneError(f"a grid must be at least 1 x 1 pixels; got {self.height} x {self.width}")
        if self.transform.is_degenerate:
            raise GeoreferenceError(f"the transform {tuple(self.transform)[:6]} maps every pixel to one line or point")

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.height, self.width

    @cached_property
    def _to_lonlat(self) -> pyproj.Transformer:
        if self.crs is None:
            raise GeoreferenceError(
                "this image has no coordinate system, so it has no place or area on Earth; "
                "use a georeferenced GeoTIFF, or ask for pixels or percent"
            )
        return _transformer(self.crs)

    def lonlat(self, cols: Any, rows: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Longitude and latitude (degrees, WGS84) of pixel coordinates, 0 being the outer edge of the first pixel.

        Raises GeoreferenceError without a CRS or where the projection is undefined.
        """
        cols, rows = np.asarray(cols, dtype=np.float64), np.asarray(rows, dtype=np.float64)
        t = self.transform
        xs, ys = t.a * cols + t.b * rows + t.c, t.d * cols + t.e * rows + t.f
        lon, lat = self._to_lonlat.transform(xs, ys)
        if not (np.all(np.isfinite(lon)) and np.all(np.isfinite(lat))):
            raise GeoreferenceError(f"the coordinates lie outside where {self.crs.name if self.crs else ''} is defined")
        return np.where(np.abs(lon) > 180, (lon + 180) % 360 - 180, lon), lat

    def place(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Pixel points (N, 2: column, row) as longitude and latitude (N, 2)."""
        return np.stack(self.lonlat(points[:, 0], points[:, 1]), axis=1)

    def geometry_lonlat(self, geometry: BaseGeometry) -> BaseGeometry:
        """A pixel geometry in longitude and latitude, cut at the antimeridian as RFC 7946 asks."""
        placed = shapely.transform(geometry, self.place)
        west, _, east, _ = placed.bounds
        if not east - west > 180:  # nor for an empty geometry
            return placed
        fine = shapely.segmentize(geometry, max(self.width, self.height) / 16)  # steps that tell east from west
        return split_at_antimeridian(shapely.transform(fine, self.place))

    @cached_property
    def footprint(self) -> BaseGeometry:
        """Outline in longitude and latitude; edges carry extra points so that they bend with the projection."""
        outline = box(0, 0, self.width, self.height).segmentize(max(self.width, self.height) / 8)
        return self.geometry_lonlat(shapely.orient_polygons(outline))

    @cached_property
    def row_areas_m2(self) -> NDArray[np.float64]:
        """Ground area of one pixel in each row: (H,), m2 on the WGS84 ellipsoid, taken at the middle column."""
        sampled = np.unique(np.linspace(0, self.height - 1, min(self.height, 33)).round())
        cols, rows = self.width / 2 + np.array([0, 1, 1, 0]), sampled[:, None] + np.array([0, 0, 1, 1])
        corners = self.lonlat(np.broadcast_to(cols, rows.shape), rows)
        areas = [abs(GEOD.polygon_area_perimeter(lon, lat)[0]) for lon, lat in zip(*corners, strict=True)]
        return np.interp(np.arange(self.height), sampled, areas)

    def area_m2(self, pixels: NDArray[np.bool_]) -> float:
        """Ground area of the true pixels of a (H, W) mask, in m2."""
        return float(pixels.sum(axis=1) @ self.row_areas_m2)

    @property
    def pixel_size_m(self) -> float | None:
        """Side of a square with the area of a middle pixel, in metres; None without a CRS."""
        return None if self.crs is None else float(np.sqrt(self.row_areas_m2[self.height // 2]))

    def window(self, window: Window) -> Grid:
        """The grid of a part of this one."""
        moved = self.transform @ Affine.translation(window.col, window.row)
        return Grid(window.height, window.width, moved, self.crs)

    def resized(self, height: int, width: int) -> Grid:
        """The same ground in height x width pixels."""
        scaled = self.transform @ Affine.scale(self.width / width, self.height / height)
        return Grid(height, width, scaled, self.crs)


def split_at_antimeridian(geometry: BaseGeometry) -> BaseGeometry:
    """Cut longitude-latitude polygons that cross 180 degrees or hold a pole into parts within -180 to 180.

    Neighbouring points must lie less than 180 degrees of longitude apart.
    """
    parts: list[Polygon] = []
    for polygon in shapely.get_parts(geometry):
        outer = _unwrapped(polygon.exterior)
        if abs(outer[-1, 0] - outer[0, 0]) > 180:  # once around a pole: the outline runs along it and back
            pole = np.copysign(90, outer[:, 1].mean())
            outer = np.concatenate([outer, [[outer[-1, 0], pole], [outer[0, 0], pole]]])
        whole = shapely.make_valid(Polygon(outer))
        for ring in polygon.interiors:
            hole = _unwrapped(ring)
            turns = np.round((outer[:, 0].mean() - hole[:, 0].mean()) / 360)
            whole = whole.difference(Polygon(hole + np.array([360 * turns, 0])))
        for west in (-540, -180, 180):
            cut = shapely.intersection(whole, box(west, -90, west + 360, 90))
            moved = translate(cut, xoff=-180 - west)
            parts += [part for part in shapely.get_parts(moved) if isinstance(part, Polygon)]
    return shapely.union_all(parts)


def _unwrapped(ring: LinearRing) -> NDArray[np.float64]:
    """Points of a ring (N, 2) with longitudes that run on past 180 degrees instead of jumping."""
    points = np.array(ring.coords)
    points[:, 0] = np.unwrap(points[:, 0], period=360)
    return points


@dataclass(frozen=True)
class Scene:
    """Pixels in physical units (reflectance 0-1, dB, or display 0-1) with their bands, validity, place and date.

    `pixels` is float32 (C, H, W), `valid` bool (H, W); invalid pixels hold 0. Raises SceneError when they disagree.
    """

    pixels: NDArray[np.float32]  # (C, H, W), in sensor.units
    valid: NDArray[np.bool_]  # (H, W)
    bands: tuple[Band, ...]
    sensor: Sensor
    grid: Grid
    acquired: datetime | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.dtype != np.float32:
            raise SceneError(f"pixels must be float32 (C, H, W); got {self.pixels.dtype} {self.pixels.shape}")
        if len(self.bands) != self.pixels.shape[0]:
            raise SceneError(
                f"{self.pixels.shape[0]} layers of pixels came with {len(self.bands)} bands; give one each"
            )
        if self.valid.shape != self.pixels.shape[1:] or self.valid.dtype != np.bool_:
            raise SceneError(f"valid must be bool {self.pixels.shape[1:]}; got {self.valid.dtype} {self.valid.shape}")
        if self.grid.shape != self.pixels.shape[1:]:
            raise SceneError(f"the grid is {self.grid.shape} but the pixels are {self.pixels.shape[1:]}")
        names = [band.name for band in self.bands]
        if len(set(names)) != len(names):
            raise BandError(f"band names must differ; got {', '.join(names)}")

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.grid.shape

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names in the order of the pixels."""
        return tuple(band.name for band in self.bands)

    def index_of(self, name: str) -> int:
        """Position of a band given by its name ("B08") or common name ("nir"); the first that fits."""
        for attribute in ("name", "common_name"):
            for position, band in enumerate(self.bands):
                if getattr(band, attribute) == name:
                    return position
        raise BandError(f"{self.sensor.name} scene has no band {name!r}; it has {', '.join(self.band_names)}")

    def has(self, *names: str) -> bool:
        """Whether every band is there, by name or common name."""
        have = {*self.band_names, *(band.common_name for band in self.bands)}
        return have.issuperset(names)

    def band(self, name: str) -> NDArray[np.float32]:
        """Pixels of one band, (H, W)."""
        layer: NDArray[np.float32] = self.pixels[self.index_of(name)]
        return layer

    def select(self, names: Sequence[str]) -> Scene:
        """The scene with these bands only, in this order."""
        positions = [self.index_of(name) for name in names]
        return replace(self, pixels=self.pixels[positions], bands=tuple(self.bands[p] for p in positions))

    def crop(self, window: Window) -> Scene:
        """A part of the scene; raises SceneError where the window reaches outside."""
        rows, cols = slice(window.row, window.row + window.height), slice(window.col, window.col + window.width)
        if window.row < 0 or window.col < 0 or rows.stop > self.shape[0] or cols.stop > self.shape[1]:
            raise SceneError(f"{window} reaches outside the scene of {self.shape[0]} x {self.shape[1]} pixels")
        part = self.pixels[:, rows, cols]
        return replace(self, pixels=part, valid=self.valid[rows, cols], grid=self.grid.window(window))


@dataclass(frozen=True)
class Mask:
    """A named set of pixels of one scene."""

    label: str
    pixels: NDArray[np.bool_]  # (H, W)
    grid: Grid

    def __post_init__(self) -> None:
        if self.pixels.shape != self.grid.shape or self.pixels.dtype != np.bool_:
            raise SceneError(f"a mask must be bool {self.grid.shape}; got {self.pixels.dtype} {self.pixels.shape}")

    def area_m2(self) -> float:
        """Ground area in m2."""
        return self.grid.area_m2(self.pixels)


@dataclass(frozen=True)
class Region:
    """A thing found in a scene; polygon, boxes, mask, place and area are views of it.

    `polygon` is in pixels (x = column, y = row, 0 at the outer edge of the first pixel); `score` is 0 to 1.
    """

    label: str
    score: float
    polygon: Polygon | MultiPolygon
    scene_id: str
    grid: Grid

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Upright bounding box (x0, y0, x1, y1) in pixels."""
        x0, y0, x1, y1 = self.polygon.bounds
        return x0, y0, x1, y1

    @property
    def oriented_box(self) -> BaseGeometry:
        """Smallest rotated rectangle around it, in pixels."""
        return shapely.minimum_rotated_rectangle(self.polygon)

    def to_lonlat(self) -> BaseGeometry:
        """Outline in longitude and latitude; raises GeoreferenceError without a CRS."""
        return shapely.orient_polygons(self.grid.geometry_lonlat(self.polygon))

    def area_m2(self) -> float:
        """Ground area in m2 on the ellipsoid; raises GeoreferenceError without a CRS."""
        area = 0.0
        oriented = shapely.orient_polygons(self.polygon)  # holes count off only when they turn the other way
        for part in shapely.get_parts(shapely.transform(oriented, self.grid.place)):
            area += abs(GEOD.geometry_area_perimeter(part)[0])
        return area

    def to_feature(self) -> dict[str, Any]:
        """GeoJSON feature (RFC 7946) with the pixel outline among its properties."""
        properties = {
            "label": self.label,
            "score": round(self.score, 4),
            "area_m2": round(self.area_m2(), 1),
            "box_pixels": [round(v, 1) for v in self.box],
            "polygon_pixels": mapping(self.polygon)["coordinates"],
            "scene": self.scene_id,
        }
        return {"type": "Feature", "geometry": mapping(self.to_lonlat()), "properties": properties}

    def to_json(self) -> dict[str, Any]:
        """Plain values: always the pixels, and longitude, latitude and m2 where there is a CRS."""
        plain: dict[str, Any] = {
            "label": self.label,
            "score": round(self.score, 4),
            "box_pixels": [round(v, 1) for v in self.box],
            "polygon_pixels": mapping(self.polygon)["coordinates"],
        }
        if self.grid.crs is not None:
            plain["area_m2"] = round(self.area_m2(), 1)
            plain["polygon_lonlat"] = mapping(self.to_lonlat())["coordinates"]
        return json.loads(json.dumps(plain))  # type: ignore[no-any-return]  # tuples become lists
