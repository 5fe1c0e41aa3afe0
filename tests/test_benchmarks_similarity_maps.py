"""Held here: the picture of similarity maps shows what it says it shows."""

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from rsvlm import spectral
from rsvlm.findings import find
from rsvlm.raster import read_scene
from rsvlm.scene import Window

maps = pytest.importorskip(
    "benchmarks.similarity_maps", reason="benchmarks are only in the tree, and found by python -m pytest"
)


@pytest.fixture
def ground(tmp_path):
    """A radar scene of 30 x 45 pixels, dark on the left."""
    pixels = np.full((1, 30, 45), -8, np.float32)
    pixels[:, :, :20] = -22
    grid = {"crs": "EPSG:32631", "transform": from_origin(620000, 4830000, 20, 20)}
    with rasterio.open(
        tmp_path / "ground.tif", "w", driver="GTiff", width=45, height=30, count=1, dtype="float32", **grid
    ) as file:
        file.write(pixels + np.random.default_rng(0).normal(0, 0.1, pixels.shape).astype(np.float32))
    return tmp_path


def row(*phrases):
    return maps.Row("radar", "ground.tif", Window(0, 0, 30, 45), phrases, sensor="sentinel-1-grd-vv")


def panel(picture, column):
    """The pixels of one of the six panels of a picture of one row, without its edges."""
    left = round((0.004 + column * 0.992 / 6) * picture.width) + 15
    return np.asarray(picture)[80:600, left : left + 220].astype(int)


def test_a_score_of_nothing_leaves_the_picture_grey_and_a_higher_one_covers_more_of_it():
    grey = np.tile(np.array([0, 1], np.float32), (5, 1))
    score = np.repeat(np.array([[0], [0.25], [0.5], [0.75], [1]], np.float32), 2, axis=1)
    mixed = maps.heated(grey, score)
    assert mixed[0].tolist() == [[0, 0, 0], [maps.DIM] * 3]
    told_apart = np.ptp(mixed, axis=1)[:, 0]
    np.testing.assert_allclose(told_apart, maps.DIM * (1 - maps.STRONGEST * score[:, 0]), atol=1e-6)
    assert mixed.min() >= 0
    assert mixed.max() <= 1


def test_scores_beyond_0_and_1_take_the_colours_of_0_and_1():
    grey = np.full((1, 2), 0.5, np.float32)
    np.testing.assert_array_equal(
        maps.heated(grey, np.array([[-3, 7]], np.float32)), maps.heated(grey, np.array([[0, 1]], np.float32))
    )


def test_a_panel_is_coloured_where_its_finding_holds_and_grey_elsewhere(ground, untrained_encoder):
    picture = maps.draw([row("water", "snow", "forest", "farmland", "wetland")], ground, untrained_encoder)
    found = find("water", read_scene(ground / "ground.tif", sensor="sentinel-1-grd-vv"), untrained_encoder)
    assert found.mask.pixels[:, 3:17].all()
    assert not found.mask.pixels[:, 23:].any()
    colourful = np.ptp(panel(picture, 1), axis=2)
    assert colourful[:, :60].min() > 60
    assert colourful[:, 160:].max() < 3
    assert np.ptp(panel(picture, 0), axis=2).max() == 0


def test_equal_scenes_give_equal_pictures_no_wider_than_a_page(ground, untrained_encoder):
    wanted = row("water", "river", "lake", "sea", "pond")
    first, second = (maps.draw([wanted], ground, untrained_encoder) for _ in range(2))
    assert first.tobytes() == second.tobytes()
    assert first.size == (maps.WIDTH, maps.HEIGHT)
    assert first.width <= 1600


@pytest.mark.parametrize("shown", maps.ROWS, ids=[shown.title for shown in maps.ROWS])
def test_every_map_of_the_picture_is_the_encoders_and_no_panel_is_stretched(data_dir, shown):
    scene = read_scene(data_dir / shown.file, sensor=shown.sensor, window=shown.window)
    concepts = [spectral.concept_of(phrase) for phrase in shown.phrases]
    assert [concept for concept in concepts if concept and spectral.rule_for(concept, scene)] == []
    assert len(set(shown.phrases)) == 5
    assert 2 * scene.shape[1] == 3 * scene.shape[0]
