"""Results as files: GeoJSON, GeoPackage, Cloud Optimized GeoTIFF, PNG; written beside, then put in place."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from PIL import Image
from rasterio.errors import RasterioError

from rsvlm.errors import ExportError, GeoreferenceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from rsvlm.scene import Mask, Region

Target = str | os.PathLike[str]


def write_geojson(
    regions: Sequence[Region] | Mapping[str, Any], path: Target, *, inputs: Sequence[Target] = ()
) -> Path:
    """Write regions, or a finished FeatureCollection, as GeoJSON (RFC 7946); returns the path.

    Raises GeoreferenceError for regions without a place, ExportError where it cannot be written.
    """
    if isinstance(regions, list | tuple):
        collection: Any = {"type": "FeatureCollection", "features": [region.to_feature() for region in regions]}
        inputs = [*inputs, *(region.scene_id for region in regions)]
    else:
        collection = regions
    try:
        text = json.dumps(collection, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ExportError(f"these features are not GeoJSON: {error}") from error
    with _beside(path, inputs) as part:
        part.write_text(text + "\n", encoding="utf-8")
    return Path(path)


def write_geopackage(regions: Sequence[Region], path: Target, *, inputs: Sequence[Target] = ()) -> Path:
    """Write regions as a GeoPackage layer `regions` in longitude and latitude; returns the path, raises as GeoJSON."""
    import geopandas

    rows = [
        {"number": number, "label": r.label, "score": r.score, "area_m2": r.area_m2(), "scene": r.scene_id}
        for number, r in enumerate(regions, start=1)
    ]
    columns = ["number", "label", "score", "area_m2", "scene"]
    frame = geopandas.GeoDataFrame(
        {name: [row[name] for row in rows] for name in columns},
        geometry=[region.to_lonlat() for region in regions],
        crs="EPSG:4326",
    )
    with _beside(path, [*inputs, *(region.scene_id for region in regions)]) as part:
        frame.to_file(part, driver="GPKG", layer="regions", engine="pyogrio")
    return Path(path)


def write_mask_tif(mask: Mask, path: Target, *, inputs: Sequence[Target] = ()) -> Path:
    """Write a mask as a Cloud Optimized GeoTIFF, 1 where true; returns the path.

    Raises GeoreferenceError for a mask without a place, ExportError where it cannot be written.
    """
    if mask.grid.crs is None:
        raise GeoreferenceError(
            f"the mask of {mask.label!r} has no coordinate system, so it cannot be a GeoTIFF; write it as a PNG"
        )
    profile = {
        "driver": "COG",
        "height": mask.grid.height,
        "width": mask.grid.width,
        "count": 1,
        "dtype": "uint8",
        "crs": mask.grid.crs.to_wkt(),
        "transform": mask.grid.transform,
        "compress": "deflate",
        "overview_resampling": "nearest",
    }
    with _beside(path, inputs) as part, rasterio.Env(GDAL_PAM_ENABLED="NO"), rasterio.open(part, "w", **profile) as out:
        out.write(mask.pixels.astype(np.uint8), 1)
        out.set_band_description(1, mask.label)
    return Path(path)


def write_png(image: NDArray[np.uint8], path: Target, *, inputs: Sequence[Target] = ()) -> Path:
    """Write a picture, uint8 (h, w) or (h, w, 3), as PNG; returns the path, raises ExportError."""
    if image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise ExportError(f"a picture must be uint8 (h, w) or (h, w, 3); got {image.dtype} {image.shape}")
    with _beside(path, inputs) as part:
        Image.fromarray(image).save(part, format="PNG")
    return Path(path)


@contextmanager
def _beside(path: Target, inputs: Sequence[Target]) -> Iterator[Path]:
    """A path in a fresh folder beside the target, put in its place when whole; the target is untouched on failure."""
    target = Path(path)
    _refuse_input(target, inputs)
    try:
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=target.parent) as folder:
            part = Path(folder) / f"part{target.suffix}"
            yield part
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ExportError(
            f"{target.name} cannot be written to {target.parent}: {reason}; choose another folder"
        ) from error
    except (RasterioError, RuntimeError) as error:
        raise ExportError(f"{target.name} could not be written: {error}") from error


def _refuse_input(target: Path, inputs: Sequence[Target]) -> None:
    try:
        clash = target.exists() and any(os.fspath(i) and Path(i).exists() and target.samefile(i) for i in inputs)
        if target.is_dir():
            raise ExportError(f"{target} is a folder; name a file in it")
    except (OSError, ValueError) as error:
        if isinstance(error, ExportError):
            raise
        raise ExportError(f"{target.name[:120]!r} cannot be a file name here: {error}") from error
    if clash:
        raise ExportError(f"{target} is the input of this result and would be overwritten; choose another output")
