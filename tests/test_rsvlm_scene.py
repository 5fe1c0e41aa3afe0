"""Scenes keep pixels, mask, bands and place together; areas and outlines on the ground come out right."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from affine import Affine
from pyproj import CRS
from shapely.geometry import Polygon, box, shape

from rsvlm.answer import Answer, Fact, Hit
from rsvlm.errors import BandError, GeoreferenceError, SceneError
from rsvlm.language.plan import Plan
from rsvlm.scene import GEOD, Grid, Mask, Region, Scene, Window
from rsvlm.sensors import SENSORS

UTM = Grid(100, 200, Affine(10, 0, 500_000, 0, -10, 5_000_000), CRS.from_epsg(32633))
DEGREES = CRS.from_epsg(4326)
S2 = SENSORS["sentinel-2-l2a"]


def scene(height=6, width=8):
    pixels = np.arange(3 * height * width, dtype=np.float32).reshape(3, height, width)
    grid = Grid(height, width, UTM.transform, UTM.crs)
    return Scene(pixels, np.ones((height, width), bool), S2.bands[1:4], S2, grid, datetime(2020, 1, 1, tzinfo=UTC), "a")


def remade(**changes):
    return replace(scene(), **changes)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"pixels": np.zeros((3, 6, 8))}, SceneError),
        ({"pixels": np.zeros((6, 8), np.float32)}, SceneError),
        ({"bands": S2.bands[:2]}, SceneError),
        ({"valid": np.ones((6, 8), np.uint8)}, SceneError),
        ({"valid": np.ones((8, 6), bool)}, SceneError),
        ({"grid": UTM}, SceneError),
        ({"bands": (S2.bands[0],) * 3}, BandError),
    ],
)
def test_parts_that_disagree_are_refused(changes, error):
    with pytest.raises(error):
        remade(**changes)


def test_bands_go_by_name_or_common_name():
    base = scene()
    assert base.band_names == ("B02", "B03", "B04")
    assert np.array_equal(base.band("red"), base.pixels[2])
    assert base.has("B02", "green")
    assert not base.has("nir")
    picked = base.select(("B04", "blue"))
    assert picked.band_names == ("B04", "B02")
    assert np.array_equal(picked.pixels, base.pixels[[2, 0]])
    with pytest.raises(BandError, match="B02, B03, B04"):
        base.band("B08")


def test_a_crop_keeps_its_place():
    base, window = scene(), Window(2, 3, 4, 5)
    part = base.crop(window)
    assert np.array_equal(part.pixels, base.pixels[:, 2:6, 3:8])
    assert part.grid.lonlat(0, 0) == base.grid.lonlat(3, 2)
    assert part.acquired == base.acquired
    for outside in (Window(3, 0, 4, 1), Window(-1, 0, 2, 2), Window(0, 8, 1, 1)):
        with pytest.raises(SceneError):
            base.crop(outside)
    with pytest.raises(SceneError):
        Window(0, 0, 0, 1)


def test_a_resized_grid_covers_the_same_ground():
    small = UTM.resized(10, 40)
    assert small.lonlat(40, 10) == UTM.lonlat(200, 100)
    assert small.pixel_size_m == pytest.approx(np.sqrt(50 * 100), rel=2e-3)


def test_impossible_grids_are_refused():
    with pytest.raises(SceneError):
        Grid(0, 5)
    with pytest.raises(GeoreferenceError):
        Grid(5, 5, Affine(0, 0, 1, 0, 0, 1))
    with pytest.raises(GeoreferenceError, match="outside"):
        Grid(5, 5, Affine(10, 0, 1e30, 0, -10, 1e30), UTM.crs).lonlat(0, 0)


def test_without_a_crs_there_is_no_place_or_area():
    grid = Grid(4, 4)
    region = Region("a", 1, box(0, 0, 2, 2), "", grid)
    assert grid.pixel_size_m is None
    for ask in (lambda: grid.footprint, lambda: Mask("a", np.ones((4, 4), bool), grid).area_m2(), region.area_m2):
        with pytest.raises(GeoreferenceError):
            ask()
    assert set(region.to_json()) == {"label", "score", "box_pixels", "polygon_pixels"}


@pytest.mark.parametrize(
    "grid",
    [
        UTM,
        Grid(60, 90, Affine(0.01, 0, 10, 0, -0.01, 60), DEGREES),
        Grid(60, 90, Affine(0.01, 0, 179.5, 0, -0.01, -10), DEGREES),
        Grid(60, 90, UTM.transform @ Affine.rotation(25), UTM.crs),
        Grid(60, 90, Affine(10, 0, 500_000, 0, 10, 5_000_000), UTM.crs),
        Grid(60, 90, Affine(500, 0, 0, 0, -500, 8_000_000), CRS.from_epsg(3857)),
    ],
)
def test_the_area_of_all_pixels_is_that_of_the_outline(grid):
    corners = [grid.lonlat(x, y) for x, y in box(0, 0, grid.width, grid.height).segmentize(5).exterior.coords]
    slow = abs(GEOD.polygon_area_perimeter([c[0] for c in corners], [c[1] for c in corners])[0])
    everything = np.ones(grid.shape, bool)
    assert grid.area_m2(everything) == pytest.approx(slow, rel=2e-3)
    assert Region("a", 1, box(0, 0, grid.width, grid.height), "", grid).area_m2() == pytest.approx(slow, rel=2e-3)
    half = everything.copy()
    half[::2] = False
    assert Mask("a", half, grid).area_m2() == pytest.approx(slow / 2, rel=2e-2)


@pytest.mark.parametrize("hole", [[(20, 20), (40, 20), (40, 40), (20, 40)], [(20, 20), (20, 40), (40, 40), (40, 20)]])
def test_a_hole_counts_off_whichever_way_it_turns(hole):
    polygon = Polygon(box(10, 10, 60, 60).exterior.coords, [hole])
    assert Region("a", 1, polygon, "", UTM).area_m2() == pytest.approx(210_000, rel=2e-3)


@pytest.mark.parametrize(
    ("grid", "area"),
    [
        (Grid(10, 20, Affine(0.1, 0, 179, 0, -0.1, 1), DEGREES), 2.0),
        (Grid(180, 360, Affine(1, 0, -180, 0, -1, 90), DEGREES), 64_800),
        (Grid(180, 360, Affine(1, 0, 0, 0, -1, 90), DEGREES), 64_800),
        (Grid(20, 40, Affine(0.1, 0, -181, 0, -0.1, 1), DEGREES), 8.0),
    ],
)
def test_outlines_are_cut_at_the_antimeridian(grid, area):
    footprint = grid.footprint
    assert footprint.is_valid
    assert footprint.area == pytest.approx(area)
    assert (footprint.bounds[0], footprint.bounds[2]) == (-180, 180)


@pytest.mark.parametrize(("epsg", "pole"), [(3413, 90), (3031, -90)])
def test_a_scene_on_a_pole_has_an_outline_that_holds_it(epsg, pole):
    footprint = Grid(100, 100, Affine(1000, 0, -50_000, 0, -1000, 50_000), CRS.from_epsg(epsg)).footprint
    assert footprint.is_valid
    assert pole in (footprint.bounds[1], footprint.bounds[3])
    for lon in range(-179, 180, 20):
        assert footprint.covers(box(lon, pole * 0.998, lon + 1, pole * 0.999))


def test_a_region_with_a_hole_across_the_antimeridian_keeps_its_hole():
    grid = Grid(10, 20, Affine(0.1, 0, 179, 0, -0.1, 1), DEGREES)
    ring = Polygon(box(2, 2, 18, 8).exterior.coords, [box(8, 4, 12, 6).exterior.coords])
    placed = Region("a", 1, ring, "", grid).to_lonlat()
    assert placed.is_valid
    assert placed.area == pytest.approx(ring.area / 100)


def test_a_region_is_json_and_geojson():
    region = Region("lake", 0.81234, box(10, 20, 60, 50), "a.tif", UTM)
    feature = json.loads(json.dumps(region.to_feature()))
    assert shape(feature["geometry"]).exterior.is_ccw
    assert feature["properties"]["score"] == 0.8123
    assert region.to_json()["area_m2"] == pytest.approx(150_000, rel=2e-3)
    assert region.box == (10, 20, 60, 50)
    assert region.oriented_box.area == pytest.approx(1500)


def test_a_mask_must_fit_its_grid():
    for bad in (np.ones((3, 3), bool), np.ones(UTM.shape, np.uint8)):
        with pytest.raises(SceneError):
            Mask("a", bad, UTM)


def answer(grid):
    region = Region("lake", 0.8, box(10, 20, 60, 50), "a.tif", grid)
    hit = Hit(1, "c", 0.51239, None, None, "rgb", "a lake", "a.tif", Window(0, 1, 2, 3), {"cloud": 0.1})
    fact = Fact("area", 15.0, "ha", "NDWI above 0", 0.91234, (region,))
    return Answer("15 ha.", "how much?", Plan("area", "water"), (fact,), (region,), (hit,), "none", False, "a.tif")


def test_an_answer_is_json_with_everything_it_rests_on():
    plain = json.loads(json.dumps(answer(UTM).to_json()))
    assert plain["plan"] == {"task": "area", "target": "water"}
    assert plain["facts"][0]["confidence"] == 0.912
    assert plain["hits"][0]["window"] == [0, 1, 2, 3]
    assert plain["hits"][0]["cloud"] == 0.1
    assert answer(UTM).hits[0].to_feature()["geometry"] is None


def test_an_answer_without_a_place_is_no_geojson():
    assert len(answer(UTM).to_geojson()["features"]) == 1
    with pytest.raises(GeoreferenceError, match="JSON answer"):
        answer(Grid(100, 200)).to_geojson()
