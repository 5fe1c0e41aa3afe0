"""Two dates of one place."""

import json
from dataclasses import replace

import numpy as np
import pyproj
import pytest
from affine import Affine

from data_engine.samples import sample_landscape
from data_engine.simulate import change as simulated_change
from rsvlm.change import align, changed_pixels, compare, share_bands, transitions
from rsvlm.errors import SceneError
from rsvlm.language.plan import Plan
from rsvlm.raster import read_scene
from rsvlm.scene import Grid


def facts_of(change):
    return {fact.name: fact for fact in change.measured.facts}


@pytest.fixture(scope="module")
def flood(samples):
    return [read_scene(samples / f"river_farmland_{when}_flood_s2.tif") for when in ("before", "after")]


def test_the_area_of_a_simulated_flood_is_measured(flood, samples):
    truth = json.loads((samples / "truth.json").read_text())["samples"]["river_farmland_after_flood_s2.tif"]["change"]
    change = compare(Plan("change", "water", "new"), *flood, None)
    gained = facts_of(change)["area of water gained"]
    assert gained.unit == "ha"
    assert gained.value == pytest.approx(truth["hectares"], rel=0.1)


def test_the_mask_of_change_lies_where_the_flood_is(flood):
    _, truth = simulated_change(sample_landscape("river_farmland"), "flood", seed=0)
    mask = compare(Plan("change", "water", "new"), *flood, None).mask.pixels
    assert (mask & truth).sum() / (mask | truth).sum() > 0.8


def test_without_a_target_gained_water_is_named_and_dates_are_given(flood):
    facts = facts_of(compare(Plan("change"), *flood, None))
    assert facts["area of water gained"].value > 100
    assert "area of water lost" not in facts
    assert facts["dates"].value.count("-") == 4


def test_a_scene_compared_with_itself_has_not_changed(flood):
    change = compare(Plan("change", "water"), flood[0], flood[0], None)
    assert facts_of(change)["change of water"].value is False
    assert not change.mask.pixels.any()


def test_a_change_of_light_over_the_whole_scene_is_no_change(flood):
    brighter = replace(flood[0], pixels=flood[0].pixels * 1.4 + 0.02)
    changed, _ = changed_pixels(flood[0], brighter)
    assert changed.mean() < 0.001


def test_alteration_detection_finds_a_patch(flood):
    chance = np.random.default_rng(0)
    noisy = flood[0].pixels + chance.normal(0, 0.004, flood[0].pixels.shape).astype(np.float32)
    noisy[:, 100:130, 100:140] = noisy[::-1, 100:130, 100:140]
    changed, sureness = changed_pixels(flood[0], replace(flood[0], pixels=noisy))
    patch = np.zeros(changed.shape, bool)
    patch[100:130, 100:140] = True
    assert changed[patch].mean() > 0.8
    assert changed[~patch].mean() < 0.02
    assert sureness[patch].mean() > sureness[~patch].mean()


def test_clouds_of_either_date_are_left_out(samples, flood):
    cloudy = read_scene(samples / "river_farmland_cloudy_s2.tif")
    facts = facts_of(compare(Plan("change", "vegetation"), flood[0], cloudy, None))
    assert facts["share of cloud after"].value > 15
    assert "left out" in facts["share of cloud after"].how


def test_another_grid_is_warped_onto_the_first(flood):
    before = flood[0]
    half = before.grid.resized(before.shape[0] // 2, before.shape[1] // 2)
    coarse = replace(before, pixels=before.pixels[:, ::2, ::2], valid=before.valid[::2, ::2], grid=half)
    warped = align(coarse, before)
    assert warped.grid == before.grid
    inner = (slice(None), slice(20, -20), slice(20, -20))
    assert np.abs(warped.pixels[inner] - before.pixels[inner]).mean() < 0.02


def test_another_coordinate_system_is_warped_to_the_right_place(flood):
    before = flood[0]
    lon, lat = before.grid.lonlat([0, before.shape[1]], [before.shape[0], 0])
    size = 2 * before.shape[0]
    degrees = Affine((lon[1] - lon[0]) / size, 0, lon[0], 0, (lat[0] - lat[1]) / size, lat[1])
    far = align(
        before,
        replace(
            before,
            grid=Grid(size, size, degrees, pyproj.CRS(4326)),
            pixels=np.zeros((len(before.bands), size, size), np.float32),
            valid=np.ones((size, size), bool),
        ),
    )
    back = align(far, before)
    shared = back.valid & before.valid
    assert shared.mean() > 0.85
    assert np.corrcoef(back.band("nir")[shared], before.band("nir")[shared])[0, 1] > 0.95


def test_places_that_do_not_overlap_are_refused(flood):
    away = replace(
        flood[1], grid=replace(flood[1].grid, transform=Affine.translation(1e6, 0) @ flood[1].grid.transform)
    )
    with pytest.raises(SceneError, match="do not overlap"):
        compare(Plan("change"), flood[0], away, None)


def test_images_without_coordinates_must_have_one_size(flood):
    plain = [replace(scene, grid=Grid(*scene.shape)) for scene in flood]
    assert facts_of(compare(Plan("change", "water"), *plain, None))["share of water gained"].unit == "percent"
    small = replace(
        plain[1], pixels=plain[1].pixels[:, :50], valid=plain[1].valid[:50], grid=Grid(50, plain[1].shape[1])
    )
    with pytest.raises(SceneError, match="must have one size"):
        compare(Plan("change"), plain[0], small, None)


def test_radar_and_optical_share_no_band(samples, flood):
    radar = read_scene(samples / "river_farmland_after_flood_s1.tif")
    with pytest.raises(SceneError, match="share no band"):
        share_bands(flood[0], radar)


def test_shared_bands_come_by_common_name(flood):
    before, after = share_bands(flood[0].select(["B04", "B03", "B08"]), flood[1].select(["B08", "B04"]))
    assert before.band_names == after.band_names == ("B04", "B08")


def test_transitions_are_disjoint_and_complete():
    chance = np.random.default_rng(0)
    one, two = chance.random((2, 9, 9)) > 0.5
    parts = transitions(one, two)
    assert (sum(part.astype(int) for part in parts.values()) == (one | two)).all()


def test_the_real_landsat_pair_lost_vegetation_and_its_clouds_are_set_aside(data_dir):
    pair = [read_scene(data_dir / "scenes" / f"landsat7_{name}.tif") for name in ("1999-322", "2002-106")]
    facts = facts_of(compare(Plan("change"), *pair, None))
    assert facts["area of vegetation lost"].value > 1000
    assert 3 < facts["share of cloud after"].value < 12
    assert facts["dates"].value == "1999-11-18 and 2002-04-16"


def test_the_real_naip_pair_of_unequal_size_gained_water(data_dir):
    names = ("naip_m_4709963_se_14_1_20090818", "naip_m_4709963_se_14_1_20200831")
    pair = [read_scene(data_dir / "scenes" / f"{name}.tif") for name in names]
    assert pair[0].shape != pair[1].shape
    change = compare(Plan("change", "water"), *pair, None)
    facts = facts_of(change)
    assert facts["area of water gained"].value > 3 * facts["area of water lost"].value
    assert change.mask.grid == pair[0].grid


def test_dates_in_the_wrong_order_are_refused(flood):
    with pytest.raises(SceneError, match="give the earlier one first"):
        compare(Plan("change"), flood[1], flood[0], None)


def test_one_image_without_coordinates_is_not_laid_over_one_with(flood):
    plain = replace(flood[1], grid=Grid(*flood[1].shape))
    with pytest.raises(SceneError, match="the other none"):
        compare(Plan("change"), flood[0], plain, None)


def test_constant_bands_have_not_changed(flood):
    flat = replace(flood[0], pixels=np.full_like(flood[0].pixels, 0.2))
    assert not compare(Plan("change"), flat, flat, None).mask.pixels.any()


def test_percent_is_of_the_pixels_seen(flood):
    plain = [replace(scene, grid=Grid(*scene.shape)) for scene in flood]
    valid = flood[0].valid.copy()
    valid[:, : valid.shape[1] // 2] = False
    half = replace(plain[0], valid=valid)
    value = facts_of(compare(Plan("change", "water", "new"), half, plain[1], None))["share of water gained"].value
    gained = compare(Plan("change", "water", "new"), half, plain[1], None).mask.pixels.sum()
    assert value == pytest.approx(100 * gained / valid.sum(), rel=0.02)
