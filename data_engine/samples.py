"""The project's own sample scenes: small simulated GeoTIFFs stored as the real products are, and one real one."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import rasterio
from affine import Affine
from numpy.typing import NDArray

from data_engine.landscape import Landscape, Layout, draw
from data_engine.simulate import change, simulate
from rsvlm.scene import Grid, Scene
from rsvlm.sensors import SENSORS

NODATA = {"uint16": 0, "int16": -9999}
SIMULATED = "SIMULATED by rsvlm"
TRUTH = "truth.json"
REAL_SAMPLE = "spyndex_sentinel2.tif"
REAL_CAPTION = "A real Sentinel-2 chip of 300 x 300 pixels that the spyndex package ships, without place or date."


@dataclass(frozen=True, slots=True)
class Place:
    """A plausible spot on Earth and what its ground is like."""

    name: str
    setting: str  # how a caption names it
    epsg: int
    west_north: tuple[int, int]  # upper left corner in the UTM zone, metres
    size: int  # pixels
    pixel_m: float
    layout: Layout


@dataclass(frozen=True, slots=True)
class Pass:
    """One acquisition of a place, perhaps after a change."""

    place: str
    label: str
    sensor: str
    acquired: str
    after: str = ""
    clouds: float = 0.0


PLACES = {
    place.name: place
    for place in (
        Place(
            "river_farmland",
            "farmland along a river",
            32633,
            (512000, 5771200),
            384,
            10,
            Layout(season="summer", forest=0.16, conifers=0.2, river_m=80, roads=1, towns=2, town_m=330),
        ),
        Place(
            "winter_hills",
            "hills with farms and woods",
            32632,
            (661000, 5352000),
            320,
            10,
            Layout(season="winter", forest=0.35, conifers=0.75, roads=2, towns=1, town_m=350, relief_m=130),
        ),
        Place(
            "coast",
            "a coast with beaches",
            32632,
            (451000, 6224000),
            384,
            10,
            Layout(season="summer", forest=0.12, conifers=0.5, sea=0.42, roads=1, towns=1, town_m=420),
        ),
        Place(
            "northern_forest",
            "boreal forest with lakes",
            32633,
            (538000, 7085000),
            320,
            10,
            Layout(forest=0.84, conifers=0.8, lakes=0.07, roads=1, towns=0, wild=True, relief_m=110),
        ),
        Place(
            "dry_hills",
            "dry hills with scattered woods",
            32629,
            (561000, 4432000),
            320,
            10,
            Layout(season="autumn", forest=0.4, conifers=0.5, roads=1, towns=1, town_m=260, wild=True, relief_m=170),
        ),
        Place(
            "town",
            "a town and its fields",
            32631,
            (484000, 5628000),
            320,
            10,
            Layout(season="spring", forest=0.08, conifers=0.1, roads=3, towns=3, town_m=800),
        ),
        Place(
            "suburb",
            "a suburb seen from the air",
            32615,
            (447800, 4652300),
            448,
            1,
            Layout(season="summer", forest=0.1, conifers=0.1, roads=1, towns=1, town_m=190, field_m=140, relief_m=0.5),
        ),
        Place(
            "lake_district",
            "a land of lakes and forest",
            32635,
            (470000, 6905000),
            256,
            30,
            Layout(season="summer", forest=0.6, conifers=0.6, lakes=0.22, roads=2, towns=1, town_m=700, field_m=260),
        ),
    )
}
PASSES = (
    Pass("river_farmland", "before_flood_s2", "sentinel-2-l2a", "2019-06-18T10:10:31"),
    Pass("river_farmland", "after_flood_s2", "sentinel-2-l2a", "2019-07-03T10:10:29", after="flood"),
    Pass("river_farmland", "before_flood_s1", "sentinel-1-grd", "2019-06-17T05:26:10"),
    Pass("river_farmland", "after_flood_s1", "sentinel-1-grd", "2019-07-02T05:26:11", after="flood"),
    Pass("river_farmland", "cloudy_s2", "sentinel-2-l2a", "2019-07-13T10:10:30", clouds=0.35),
    Pass("winter_hills", "snow_s2", "sentinel-2-l2a", "2018-02-24T10:20:21", after="snowfall"),
    Pass("coast", "s2", "sentinel-2-l2a", "2020-06-01T10:36:29"),
    Pass("northern_forest", "before_clear_cut_s2", "sentinel-2-l2a", "2018-07-25T10:30:21"),
    Pass("northern_forest", "after_clear_cut_s2", "sentinel-2-l2a", "2020-07-29T10:30:25", after="clear-cut"),
    Pass("dry_hills", "burnt_s2", "sentinel-2-l2a", "2017-10-21T11:21:11", after="burn"),
    Pass("town", "s2", "sentinel-2-l2a", "2021-04-19T10:56:19"),
    Pass("suburb", "before_building_naip", "naip", "2017-07-12T16:40:00"),
    Pass("suburb", "after_building_naip", "naip", "2021-08-03T16:35:00", after="new buildings"),
    Pass("lake_district", "hls", "hls", "2020-08-09T09:50:31"),
)
AFTERMATH = {
    "flood": "after a flood",
    "burn": "after a fire",
    "clear-cut": "after clear-cutting",
    "new buildings": "after new buildings went up",
    "snowfall": "under snow",
}


def sample_landscape(name: str, *, seed: int = 0) -> Landscape:
    """The known ground of one of PLACES before anything changed."""
    place = PLACES[name]
    west, north = place.west_north
    corner = Affine(place.pixel_m, 0, west, 0, -place.pixel_m, north)
    grid = Grid(place.size, place.size, corner, pyproj.CRS.from_epsg(place.epsg))
    return draw(place.layout, grid, seed=1000 * seed + list(PLACES).index(name))


def write_samples(folder: str | Path, *, seed: int = 0) -> list[Path]:
    """Write all samples and, last, truth.json (captions, class fractions, changes); returns the GeoTIFFs in order."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TRUTH).unlink(missing_ok=True)
    paths, truths, grounds = [], {}, {name: sample_landscape(name, seed=seed) for name in PLACES}
    for number, each in enumerate(PASSES):
        path = folder / f"{each.place}_{each.label}.tif"
        ground, truth = _after(each, grounds[each.place], seed)
        acquired = datetime.fromisoformat(each.acquired)
        scene = simulate(ground, SENSORS[each.sensor], seed=1000 * seed + number, acquired=acquired, clouds=each.clouds)
        write_scene(path, scene, f"{SIMULATED}: {truth['caption']}")
        paths.append(path)
        truths[path.name] = truth
    paths.append(_write_real(folder))
    truths[REAL_SAMPLE] = {"caption": REAL_CAPTION, "simulated": False, "sensor": "sentinel-2-l2a"}
    _write_last(folder / TRUTH, {"seed": seed, "samples": truths})
    return paths


def _after(each: Pass, before: Landscape, seed: int) -> tuple[Landscape, dict[str, Any]]:
    """The ground at this pass and what is true of it."""
    ground, changed = before, None
    if each.after:
        ground, mask = change(before, each.after, seed=seed)
        hectares = float(mask.sum()) * before.pixel_m**2 / 1e4
        changed = {"kind": each.after, "fraction": round(float(mask.mean()), 4), "hectares": round(hectares, 2)}
    truth = {
        "caption": caption(ground, each),
        "simulated": True,
        "sensor": each.sensor,
        "acquired": each.acquired,
        "place": each.place,
        "cloud_fraction": each.clouds,
        "cover": {name: round(share, 4) for name, share in ground.cover_fractions().items()},
        "surfaces": {name: round(share, 4) for name, share in ground.surface_fractions().items()},
        "change": changed,
    }
    return ground, truth


def caption(ground: Landscape, each: Pass) -> str:
    """One plain sentence from the class fractions of the ground."""
    parts = [f"{name} ({100 * share:.0f} percent)" for name, share in ground.cover_fractions().items() if share >= 0.01]
    listed = ", ".join(parts[:-1]) + f" and {parts[-1]}" if len(parts) > 1 else parts[0]
    month = datetime.fromisoformat(each.acquired).strftime("%B %Y")
    what = " ".join(word for word in (PLACES[each.place].setting, AFTERMATH.get(each.after, "")) if word)
    veil = ", partly under cloud" if each.clouds else ""
    return f"{what[0].upper()}{what[1:]} in {month}{veil}: {listed}."


def write_scene(path: Path, scene: Scene, description: str) -> None:
    """Store a scene in its sensor's own integers or floats, with band names, place, date and a description."""
    dtype = scene.sensor.dtypes[0]
    stored = np.empty(scene.pixels.shape, dtype=dtype)
    for layer, pixels, band in zip(stored, scene.pixels, scene.bands, strict=True):
        raw = (pixels - band.offset) / band.scale
        if np.issubdtype(stored.dtype, np.integer):
            limits = np.iinfo(stored.dtype)
            layer[:] = np.clip(np.rint(raw), limits.min, limits.max)
        else:
            layer[:] = raw
    stored[:, ~scene.valid] = NODATA.get(dtype, 0)
    tags = {"TIFFTAG_IMAGEDESCRIPTION": description, "TIFFTAG_SOFTWARE": "rsvlm"}
    if scene.acquired is not None:
        tags["ACQUISITION_DATETIME"] = scene.acquired.isoformat()
        tags["TIFFTAG_DATETIME"] = scene.acquired.strftime("%Y:%m:%d %H:%M:%S")
    write_geotiff(path, stored, scene.grid, names=scene.band_names, tags=tags)


def write_geotiff(
    path: Path, stored: NDArray[Any], grid: Grid, *, names: tuple[str, ...], tags: dict[str, str]
) -> None:
    """A tiled, compressed GeoTIFF of (C, H, W) values with band names and tags."""
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "count": len(stored),
        "height": grid.height,
        "width": grid.width,
        "dtype": stored.dtype.name,
        "nodata": NODATA.get(stored.dtype.name),
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "photometric": "minisblack",  # else GDAL takes the fourth of four 8-bit bands for opacity
        "compress": "deflate",
        "zlevel": 1,
    }
    if grid.crs is not None:
        profile |= {"crs": rasterio.CRS.from_user_input(grid.crs), "transform": grid.transform}
    with rasterio.open(path, "w", **profile) as out:
        out.write(stored)
        out.descriptions = names
        out.update_tags(**tags)


def _write_real(folder: Path) -> Path:
    """The Sentinel-2 chip of the spyndex package: 4 bands, reflectance x 10,000, no coordinates."""
    text = (resources.files("spyndex") / "data" / "S2_10m.json").read_text(encoding="utf-8")
    stored = np.array(json.loads(text), dtype=np.uint16)
    path = folder / REAL_SAMPLE
    tags = {"TIFFTAG_IMAGEDESCRIPTION": REAL_CAPTION}
    write_geotiff(path, stored, Grid(*stored.shape[1:]), names=("B02", "B03", "B04", "B08"), tags=tags)
    return path


def _write_last(path: Path, content: dict[str, Any]) -> None:
    """Write beside and move into place, so that the file is there whole or not at all."""
    draft = path.with_suffix(".partial")
    draft.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(draft, path)
