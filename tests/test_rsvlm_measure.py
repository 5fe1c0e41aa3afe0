"""Measuring: spectral rules, dense maps, facts with units."""

import json
from dataclasses import replace

import numpy as np
import pyproj
import pytest
import rasterio
from affine import Affine

from rsvlm import spectral
from rsvlm.errors import BandError
from rsvlm.findings import enlarge, find, regions_of, vocabulary
from rsvlm.language.plan import Plan
from rsvlm.measure import measure, position_words
from rsvlm.raster import read_scene
from rsvlm.scene import Grid, Scene
from rsvlm.sensors import SENSORS

UTM = pyproj.CRS(32633)


def lake_scene(shape=(60, 80), crs=UTM):
    """Sentinel-2 grassland with a lake of exactly 20 x 30 pixels."""
    sensor = SENSORS["sentinel-2-l2a"]
    grass = {"blue": 0.04, "green": 0.08, "red": 0.05, "nir": 0.4, "swir16": 0.22, "swir22": 0.12}
    water = {"blue": 0.06, "green": 0.05, "red": 0.03, "nir": 0.01, "swir16": 0.005, "swir22": 0.004}
    pixels = np.zeros((len(sensor.bands), *shape), np.float32)
    for layer, band in zip(pixels, sensor.bands, strict=True):
        layer[:] = grass.get(band.common_name, 0.2)
        layer[10:30, 20:50] = water.get(band.common_name, 0.02)
    grid = Grid(*shape, Affine(10, 0, 500_000, 0, -10, 5_900_000), crs)
    return Scene(pixels, np.ones(shape, bool), sensor.bands, sensor, grid, source="lake.tif")


class Scripted:
    """An encoder whose maps are written by the test: isolates measuring from what a model believes."""

    fingerprint, dim = "scripted", 2

    def __init__(self, maps=None):
        self.maps = maps or {}

    def encode_texts(self, texts):
        return np.eye(len(texts), max(2, len(texts)), dtype=np.float32)

    def encode_scenes(self, scenes):
        return np.zeros((len(scenes), len(vocabulary(scenes[0]))), np.float32)

    def similarity_map(self, scene, texts):
        cells = (-(-scene.shape[0] // 10), -(-scene.shape[1] // 10))
        return np.stack([self.maps.get(text, np.zeros(cells, np.float32)) for text in texts])

    def change_map(self, before, after, texts):
        return None


def by_name(measured):
    return {fact.name: fact for fact in measured.facts}


def test_water_is_measured_in_hectares_and_percent():
    facts = by_name(measure(Plan("area", "water"), lake_scene(), Scripted()))
    assert facts["area of water"].value == pytest.approx(6.0, rel=2e-3)  # 600 pixels of 10 m
    assert facts["area of water"].unit == "ha"
    assert facts["share of water"].value == 12.5
    assert "NDWI > 0" in facts["area of water"].how


@pytest.mark.parametrize(("unit", "value"), [("km2", 0.06), ("m2", 60_000), ("ha", 6.0)])
def test_the_unit_that_was_asked_for_is_answered(unit, value):
    fact = by_name(measure(Plan("area", "water", unit=unit), lake_scene(), Scripted()))["area of water"]
    assert fact.unit == unit
    assert fact.value == pytest.approx(value, rel=1e-2)


def test_hectares_on_the_real_scene_agree_with_ndwi_by_hand(data_dir):
    path = data_dir / "scenes" / "s2_l1c_t33uuu_20170216.tif"
    with rasterio.open(path) as file:
        by_name_in_file = dict(zip(file.descriptions, file.read().astype(float), strict=True))
        pixel = abs(file.transform.a * file.transform.e)
    green, nir = by_name_in_file["B03"], by_name_in_file["B08"]
    hectares = ((green - nir) / (green + nir) > 0).sum() * pixel / 1e4
    fact = by_name(measure(Plan("area", "water", unit="ha"), read_scene(path), Scripted()))["area of water"]
    assert fact.value == pytest.approx(hectares, rel=2e-3)


def test_without_coordinates_a_share_is_measured_and_hectares_are_not():
    scene = lake_scene(crs=None)
    facts = by_name(measure(Plan("area", "water"), scene, Scripted()))
    assert list(facts) == ["share of water"]
    refused = measure(Plan("area", "water", unit="ha"), scene, Scripted())
    assert not refused.facts
    assert "no coordinate system" in refused.reason


def test_only_valid_pixels_count():
    scene = lake_scene()
    valid = scene.valid.copy()
    valid[:, 50:] = False
    facts = by_name(measure(Plan("area", "water"), replace(scene, valid=valid), Scripted()))
    assert facts["share of water"].value == 20.0
    nothing = measure(Plan("area", "water"), replace(scene, valid=np.zeros_like(valid)), Scripted())
    assert nothing.reason == "the scene holds no valid pixels"


def test_a_region_lies_where_the_lake_is():
    measured = measure(Plan("locate", "water"), lake_scene(), Scripted())
    (region,) = measured.regions
    assert region.box == (20, 10, 50, 30)
    assert region.area_m2() == pytest.approx(60_000, rel=2e-3)
    west, south, east, north = region.to_lonlat().bounds
    lon, lat = lake_scene().grid.lonlat([20, 50], [30, 10])
    assert (west, east) == pytest.approx((min(lon), max(lon)), abs=1e-4)
    assert (south, north) == pytest.approx((min(lat), max(lat)), abs=1e-4)
    assert by_name(measured)["position of water"].value == "centre"


@pytest.mark.parametrize(
    ("phrase", "concept", "exact"),
    [
        ("water", "water", True),
        ("the flooded area", "water", False),
        ("Rivers", "water", False),
        ("snow cover", "snow", True),
        ("water tower", None, False),
        ("forest", None, False),
        ("", None, False),
    ],
)
def test_phrases_mean_concepts_only_when_nothing_else_is_in_them(phrase, concept, exact):
    assert spectral.concept_of(phrase) == concept
    assert concept is None or spectral.is_exact(phrase, concept) == exact


def test_a_river_is_said_to_be_measured_as_all_water():
    fact = by_name(measure(Plan("presence", "a river"), lake_scene(), Scripted()))["a river"]
    assert fact.value is True
    assert "finds all water" in fact.how
    assert fact.confidence < 0.9


def test_an_index_agrees_with_its_formula_and_is_undefined_on_black():
    scene = lake_scene()
    nir, red = scene.band("nir"), scene.band("red")
    assert np.allclose(spectral.quantity("NDVI", scene), (nir - red) / (nir + red), atol=1e-6)
    black = replace(scene, pixels=np.zeros_like(scene.pixels))
    assert np.isnan(spectral.quantity("NDVI", black)).all()
    assert not spectral.apply(spectral.rule_for("vegetation", black), black).any()


def test_an_index_without_its_bands_names_the_missing_one():
    scene = lake_scene().select(["B02", "B03", "B04"])
    with pytest.raises(BandError, match="NDVI needs the band nir"):
        spectral.quantity("NDVI", scene)
    assert spectral.rule_for("water", scene) is None


def test_the_narrow_near_infrared_stands_in_for_the_broad_one():
    scene = lake_scene().select(["B03", "B8A"])
    green, nir = scene.band("B03"), scene.band("B8A")
    assert np.allclose(spectral.quantity("NDWI", scene), (green - nir) / (green + nir), atol=1e-6)


def test_multilook_averages_power_not_decibels():
    decibels = np.array([[-10.0, -20.0], [-10.0, -20.0]], np.float32)
    mean = spectral.multilook(decibels, np.ones((2, 2), bool), 3)
    assert np.allclose(mean, 10 * np.log10((0.1 + 0.01) / 2), atol=1e-3)


def test_simulated_truth_is_measured(samples):
    truth = json.loads((samples / "truth.json").read_text())["samples"]
    for name in ("coast_s2.tif", "lake_district_hls.tif", "river_farmland_before_flood_s2.tif", "town_s2.tif"):
        scene = read_scene(samples / name)
        facts = by_name(measure(Plan("area", "water", unit="percent"), scene, Scripted()))
        expected = 100 * truth[name]["cover"].get("permanent water", 0.0)
        assert facts["share of water"].value == pytest.approx(expected, abs=1.5), name
    snow = by_name(measure(Plan("presence", "snow"), read_scene(samples / "winter_hills_snow_s2.tif"), Scripted()))
    assert snow["snow"].value is True
    none = by_name(measure(Plan("presence", "snow"), read_scene(samples / "coast_s2.tif"), Scripted()))
    assert none["snow"].value is False


def test_snow_is_not_called_water(samples):
    scene = read_scene(samples / "winter_hills_snow_s2.tif")
    assert by_name(measure(Plan("area", "water"), scene, Scripted()))["share of water"].value < 1


def test_a_flood_shows_in_simulated_radar(samples):
    shares = [
        by_name(
            measure(Plan("area", "water"), read_scene(samples / f"river_farmland_{when}_flood_s1.tif"), Scripted())
        )["share of water"].value
        for when in ("before", "after")
    ]
    assert shares[1] > shares[0] + 8


def test_clouds_are_found_on_the_cloudy_sample_and_not_on_the_clear_one(samples):
    cloudy = spectral.clouds(read_scene(samples / "river_farmland_cloudy_s2.tif")).mean()
    clear = spectral.clouds(read_scene(samples / "river_farmland_before_flood_s2.tif")).mean()
    assert clear < 0.01
    assert 0.15 < cloudy < 0.45


def maps_with_ship():
    cells = np.full((6, 8), -0.3, np.float32)
    cells[1:3, 2:4] = 0.3
    return {"a ship": cells}


def test_a_phrase_without_a_rule_is_found_on_the_dense_map():
    finding = find("a ship", lake_scene(), Scripted(maps_with_ship()))
    rows, cols = np.nonzero(finding.mask.pixels)
    assert 8 <= rows.min() <= 12
    assert 28 <= rows.max() <= 31
    assert 18 <= cols.min() <= 22
    assert finding.confidence < 0.7
    (region,) = regions_of(finding, "lake.tif")
    assert 0 < region.score <= 1
    assert (
        by_name(measure(Plan("count", "a ship"), lake_scene(), Scripted(maps_with_ship())))["count of a ship"].value
        == 1
    )


def test_nothing_like_that_here_is_an_answer():
    measured = measure(
        Plan("locate", "an airport"), lake_scene(), Scripted({"forest": np.full((6, 8), 0.2, np.float32)})
    )
    (fact,) = measured.facts
    assert fact.value is False
    assert not measured.regions


def test_a_comparison_names_the_larger_share():
    plan = Plan("comparison", "vegetation", "more", "water")
    facts = by_name(measure(plan, lake_scene(), Scripted()))
    assert facts["comparison"].value == "more vegetation than water"
    assert facts["share of vegetation"].value > facts["share of water"].value


@pytest.mark.parametrize("target", ["sensor", "place", "resolution", "bands", "size"])
def test_metadata_is_read_from_the_file(target):
    (fact,) = measure(Plan("metadata", target), lake_scene(), Scripted()).facts
    assert fact.name == target
    assert fact.how == "file"


def test_what_the_file_does_not_state_is_not_answered():
    measured = measure(Plan("metadata", "date"), lake_scene(), Scripted())
    assert measured.reason == "the file does not state its date"


def two_lakes():
    """The lake scene with a second, smaller lake at the bottom right."""
    scene = lake_scene()
    pixels = scene.pixels.copy()
    pixels[:, 45:55, 65:75] = pixels[:, 15:16, 25:26]
    return replace(scene, pixels=pixels)


@pytest.mark.parametrize(("side", "pixels"), [("top", 600), ("bottom", 100), ("left", 600), ("right", 100)])
def test_a_side_of_the_scene_narrows_what_is_measured(side, pixels):
    measured = measure(Plan("area", "water", side, unit="ha"), two_lakes(), Scripted())
    assert measured.facts[0].value == pytest.approx(pixels / 100, rel=5e-3)
    assert f"only parts {side} of the middle" in measured.facts[0].how
    assert len(measured.regions) == 1


def test_next_to_keeps_only_parts_near_the_other():
    ship = {"a ship": np.full((6, 8), -0.3, np.float32)}
    ship["a ship"][4:6, 6:8] = 0.3
    near = measure(Plan("count", "water", "next to", "a ship"), two_lakes(), Scripted(ship))
    assert by_name(near)["count of water"].value == 1
    assert near.regions[0].box == (65, 45, 75, 55)
    assert by_name(measure(Plan("count", "water"), two_lakes(), Scripted(ship)))["count of water"].value == 2


@pytest.mark.parametrize(("relation", "expected"), [("and", False), ("or", True)])
def test_two_things_are_joined_by_and_and_or(relation, expected):
    measured = measure(Plan("presence", "water", relation, "snow"), lake_scene(), Scripted())
    assert measured.facts[0].value is expected
    assert measured.facts[0].name == f"water {relation} snow"


@pytest.mark.parametrize("task", ["change", "search", "abstain"])
def test_tasks_that_need_more_than_one_scene_are_declined(task):
    assert measure(Plan(task, "water"), lake_scene(), Scripted()).reason


def test_enlarging_keeps_the_middle_of_cells():
    field = np.arange(12, dtype=np.float32).reshape(3, 4)
    large = enlarge(field, (30, 40))
    assert large.shape == (30, 40)
    assert np.allclose(large[5::10, 5::10], field, atol=0.6)
    assert enlarge(np.ones((1, 1), np.float32), (1, 7)).tolist() == [[1.0] * 7]


def test_positions_are_named_on_a_three_by_three_grid():
    scene = lake_scene()
    (region,) = measure(Plan("locate", "water"), scene, Scripted()).regions
    assert position_words(region, scene) == "centre"
    right = lake_scene((60, 300))
    assert position_words(measure(Plan("locate", "water"), right, Scripted()).regions[0], right) == "middle left"


def test_clouds_that_were_asked_for_agree_with_clouds_that_are_told(samples):
    scene = read_scene(samples / "river_farmland_cloudy_s2.tif")
    asked = by_name(measure(Plan("area", "clouds", unit="percent"), scene, Scripted()))["share of clouds"]
    told = by_name(measure(Plan("describe"), scene, Scripted()))["share of cloud"]
    assert asked.value == pytest.approx(told.value, abs=0.1)
    assert asked.value > 15


def test_a_sensor_without_a_rules_band_is_measured_without_that_rule():
    scene = lake_scene().select(["B03", "B11"])
    assert [rule.concept for rule in spectral.measurable(scene)] == []


def test_what_coarse_pixels_cannot_show_is_too_unsure_to_state():
    finding = find("a giraffe", lake_scene(), Scripted())
    assert finding.confidence < 0.2
    assert find("forest", lake_scene(), Scripted({"forest": np.full((6, 8), 0.3, np.float32)})).confidence > 0.5


def test_a_miss_is_never_surer_than_the_cap():
    maps = {"water": np.full((6, 8), 0.5, np.float32)}
    assert 0.2 < find("forest", lake_scene(), Scripted(maps)).confidence <= 0.3


def test_two_things_that_are_not_there_are_not_compared():
    maps = {"bare soil": np.full((6, 8), 0.5, np.float32)}
    measured = measure(Plan("comparison", "forest", "more", "wetland"), lake_scene(), Scripted(maps))
    assert measured.reason == "neither forest nor wetland was found"


def test_specks_are_not_counted():
    pixels = two_lakes().pixels.copy()
    pixels[:, 0, 0] = pixels[:, 15, 25]
    speckled = replace(two_lakes(), pixels=pixels)
    assert by_name(measure(Plan("count", "water"), speckled, Scripted()))["count of water"].value == 2


def test_a_description_follows_what_was_measured(samples):
    desert = {"desert": np.full((32, 32), 0.5, np.float32)}

    class Believer(Scripted):
        def similarity_map(self, scene, texts):
            return np.stack([desert.get(text, np.zeros((32, 32), np.float32)) for text in texts])

    snowy = by_name(measure(Plan("describe"), read_scene(samples / "winter_hills_snow_s2.tif"), Believer()))
    assert snowy["caption"].value.startswith("mostly snow and ice")
    dry = by_name(measure(Plan("describe"), read_scene(samples / "dry_hills_burnt_s2.tif"), Believer()))
    assert dry["caption"].value == "desert"
