"""Place, date, cloud cover and processing baseline of an image, from its header, its STAC item or its name."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pyproj
from affine import Affine
from pyproj.exceptions import CRSError

from rsvlm.scene import PIXEL_GRID, Grid

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rsvlm.stac import Item

logger = logging.getLogger(__name__)
DATE_TAGS = (
    "ACQUISITIONDATETIME",
    "ACQUISITION_DATETIME",
    "ACQUISITION_DATE",
    "DATE_ACQUIRED",
    "DATATAKE_1_DATATAKE_SENSING_START",
    "PRODUCT_START_TIME",
    "SENSING_TIME",
)
WRITTEN_TAG = "TIFFTAG_DATETIME"  # when software wrote the file, which is the acquisition only at best
FIRST_YEAR = 1972  # Landsat 1; an earlier year in a name is some other number
CLOUD_TAGS = ("CLOUD_COVER", "CLOUD_COVERAGE_ASSESSMENT", "CLOUDY_PIXEL_PERCENTAGE")
BASELINE_TAGS = ("PROCESSING_BASELINE", "s2:processing_baseline")
DAY = re.compile(r"(?<!\d)((?:19|20)\d\d)([-_]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])(?:T(\d{6}))?(?!\d)")
DAY_OF_YEAR = re.compile(r"(?<!\d)((?:19|20)\d\d)-?([0-3]\d\d)(?!\d)")
PRODUCT = re.compile(r"S2[A-D]_MSIL[12][AC]_\d{8}T\d{6}_N(\d\d)(\d\d)")
EARTH_RADIUS_M = (6.3e6, 6.4e6)


def grid_of(dataset: Any, item: Item, name: str) -> Grid:
    """The grid of an open rasterio dataset; no CRS, a CRS that is not of the Earth, or only GCPs give crs None."""
    transform, crs = dataset.transform, None
    if dataset.crs is not None:
        crs = earth_crs(dataset.crs.to_wkt())
        if crs is None:
            logger.warning("%s: its coordinate system is none of the Earth's and is ignored", name)
    elif (code := item.text("proj:code") or item.text("proj:epsg")) and _item_transform(item) is not None:
        crs, transform = earth_crs(code if ":" in code else f"EPSG:{code}"), _item_transform(item)
    if crs is not None and transform == PIXEL_GRID:
        logger.warning("%s: it names a coordinate system but not where its pixels lie; it works in pixels", name)
        crs = None
    elif crs is None:
        log = logger.info if dataset.driver in ("PNG", "JPEG", "WEBP") else logger.warning
        points = "only ground control points" if dataset.gcps[0] else "no usable coordinate system"
        log("%s: it has %s, so it works in pixels", name, points)
    return Grid(dataset.height, dataset.width, transform, crs)


@lru_cache(maxsize=256)
def earth_crs(text: str) -> pyproj.CRS | None:
    """A projected or geographic system of the Earth; None for anything else."""
    try:
        crs = pyproj.CRS.from_user_input(text)
        low, high = EARTH_RADIUS_M
        known = crs.ellipsoid is not None and low < crs.ellipsoid.semi_major_metre < high
        if not known or not (crs.is_projected or crs.is_geographic):
            return None
        pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    except (CRSError, pyproj.exceptions.ProjError):
        return None
    return crs


def _item_transform(item: Item) -> Affine | None:
    values = item.asset.get("proj:transform", item.properties.get("proj:transform"))
    if not isinstance(values, list) or not all(isinstance(v, int | float) for v in values) or len(values) < 6:
        return None
    return Affine(*values[:6])


def acquired_of(tags: Mapping[str, str], item: Item, name: str) -> datetime | None:
    """When the image was taken (UTC): its tags, its STAC item, a date in its name, else when it was written."""
    stated = [tags[key] for key in DATE_TAGS if key in tags]
    for text in (*stated, item.text("datetime"), item.text("start_datetime")):
        if (found := _moment(text)) is not None:
            return found
    return _moment_in_name(name) or _moment(tags.get(WRITTEN_TAG, ""))


def _moment(text: str) -> datetime | None:
    """ISO 8601, or the colons of TIFF."""
    text = re.sub(r"^(\d{4}):(\d\d):(\d\d)", r"\1-\2-\3", text.strip())
    try:
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _moment_in_name(name: str) -> datetime | None:
    """The first date in a name that a satellite can have seen; other numbers, such as of rows and columns, are none."""
    dated = [("".join(m.group(1, 3, 4)) + (m[5] or "000000"), "%Y%m%d%H%M%S") for m in DAY.finditer(name)]
    for digits, layout in [*dated, *(("".join(m.groups()), "%Y%j") for m in DAY_OF_YEAR.finditer(name))]:
        try:
            found = datetime.strptime(digits, layout).replace(tzinfo=UTC)
        except ValueError:
            continue
        if found.year == int(digits[:4]) >= FIRST_YEAR and found <= datetime.now(UTC):
            return found
    return None


def cloud_cover_of(tags: Mapping[str, str], item: Item) -> float | None:
    """Cloud cover in percent as the producer states it; None where it does not."""
    stated = item.number("eo:cloud_cover")
    for text in (tags[key] for key in CLOUD_TAGS if key in tags):
        if stated is None and re.fullmatch(r"\s*\d+(\.\d*)?\s*", text):
            stated = float(text)
    return stated if stated is not None and 0 <= stated <= 100 else None


def sentinel_2_offset(tags: Mapping[str, str], item: Item, path: Path) -> float:
    """Reflectance offset of a Sentinel-2 product: -0.1 from processing baseline 04.00 on (ESA, January 2022)."""
    if item.properties.get("earthsearch:boa_offset_applied") is True:
        return 0.0
    stated = [tags[key] for key in BASELINE_TAGS if key in tags]
    stated += [item.text("s2:processing_baseline"), item.text("processing:version")]
    stated += [f"{m[1]}.{m[2]}" for part in reversed(path.parts) if (m := PRODUCT.search(part))]
    for text in stated:
        match = re.fullmatch(r"\s*N?(\d\d?)\.?(\d\d)\s*", text)
        if match and int(match[1]) < 99:  # 99.99 marks products made outside ESA's chain, of any baseline
            return -0.1 if int(match[1]) >= 4 else 0.0
    return 0.0
