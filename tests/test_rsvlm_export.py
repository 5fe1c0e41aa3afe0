"""What is written can be read back by others, at the right place, and never over its own input."""

import json

import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from pyproj import CRS
from shapely.geometry import MultiPolygon, box

from rsvlm.errors import ExportError, GeoreferenceError, SceneError
from rsvlm.export import write_geojson, write_geopackage, write_mask_tif, write_png
from rsvlm.preview import draw, overlay, render
from rsvlm.raster import open_raster, read_scene
from rsvlm.scene import Grid, Mask, Region, Scene
from rsvlm.sensors import SENSORS

GRID = Grid(100, 200, Affine(10, 0, 500_000, 0, -10, 5_000_000), CRS.from_epsg(32633))
NOWHERE = Grid(100, 200)


def region(grid=GRID, label="lake", scene_id="a.tif"):
    return Region(label, 0.8, box(10, 20, 60, 50), scene_id, grid)


def scene(sensor, pixels, valid=None, grid=None):
    kind, (_, height, width) = SENSORS[sensor], pixels.shape
    valid = np.ones((height, width), bool) if valid is None else valid
    return Scene(pixels.astype(np.float32), valid, kind.bands[: len(pixels)], kind, grid or Grid(height, width))


def test_geojson_opens_in_geopandas_at_the_right_place(tmp_path):
    path = write_geojson([region(), region(label="wood")], tmp_path / "a.geojson")
    frame = geopandas.read_file(path)
    assert list(frame.label) == ["lake", "wood"]
    west, south, east, north = frame.to_crs(32633).total_bounds
    assert np.allclose((west, south, east, north), (500_100, 4_999_500, 500_600, 4_999_800), atol=0.01)


def test_a_finished_collection_is_written_as_it_is(tmp_path):
    collection = {"type": "FeatureCollection", "features": [region().to_feature()]}
    assert json.loads(write_geojson(collection, tmp_path / "a.geojson").read_text()) == json.loads(
        json.dumps(collection)
    )


def test_geopackage_round_trip_keeps_labels_areas_and_place(tmp_path):
    path = write_geopackage([region(), region(label="wood")], tmp_path / "a.gpkg")
    frame = geopandas.read_file(path, layer="regions")
    assert list(frame.number) == [1, 2]
    assert frame.area_m2[0] == pytest.approx(region().area_m2())
    assert frame.to_crs(32633).area[0] == pytest.approx(150_000, rel=1e-4)


@pytest.mark.parametrize(("write", "name"), [(write_geojson, "a.geojson"), (write_geopackage, "a.gpkg")])
def test_no_regions_give_an_empty_layer(tmp_path, write, name):
    assert len(geopandas.read_file(write([], tmp_path / name))) == 0


def test_geographic_export_without_a_place_is_refused_and_leaves_nothing(tmp_path):
    mask = Mask("lake", np.ones((100, 200), bool), NOWHERE)
    for write, what in (
        (write_geojson, [region(NOWHERE)]),
        (write_geopackage, [region(NOWHERE)]),
        (write_mask_tif, mask),
    ):
        with pytest.raises(GeoreferenceError, match="no coordinate system"):
            write(what, tmp_path / "a.out")
    assert list(tmp_path.iterdir()) == []


def test_a_mask_is_a_valid_cloud_optimized_geotiff(tmp_path):
    pixels = np.zeros((600, 700), bool)
    pixels[100:300, 50:400] = True
    grid = Grid(600, 700, GRID.transform, GRID.crs)
    path = write_mask_tif(Mask("lake", pixels, grid), tmp_path / "a.tif")
    with rasterio.open(path) as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.overviews(1)
        assert file.block_shapes[0] == (512, 512)
        assert np.array_equal(file.read(1), pixels)
        assert file.crs.to_epsg() == 32633
        assert file.transform == grid.transform
        assert file.descriptions == ("lake",)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif"]


def test_the_input_is_never_overwritten(tmp_path):
    source = tmp_path / "in.png"
    write_png(np.zeros((4, 4, 3), np.uint8), source)
    before = source.read_bytes()
    (tmp_path / "link.png").symlink_to(source)
    for target in (source, tmp_path / "link.png", tmp_path / "." / "in.png"):
        with pytest.raises(ExportError, match="input"):
            write_png(np.ones((4, 4, 3), np.uint8), target, inputs=[source])
        with pytest.raises(ExportError, match="input"):
            write_geojson([region(scene_id=str(source))], target)
        with pytest.raises(ExportError, match="input"):
            write_geopackage([region(scene_id=str(source))], target)
        with pytest.raises(ExportError, match="input"):
            write_mask_tif(Mask("m", np.ones(GRID.shape, bool), GRID), target, inputs=[str(source)])
    assert source.read_bytes() == before


def test_an_older_result_is_replaced_whole_and_kept_when_writing_fails(tmp_path):
    path = write_geojson([region()], tmp_path / "a.geojson")
    write_geojson([region(), region()], path)
    kept = path.read_bytes()
    with pytest.raises(ExportError, match="GeoJSON"):
        write_geojson({"type": "FeatureCollection", "features": [float("nan")]}, path)
    assert path.read_bytes() == kept
    assert len(geopandas.read_file(path)) == 2


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    image = np.zeros((4, 4, 3), np.uint8)
    for target in (tmp_path, tmp_path / "missing" / "a.png", "/proc/a.png", tmp_path / ("x" * 5000)):
        with pytest.raises(ExportError):
            write_png(image, target)
    with pytest.raises(ExportError, match="uint8"):
        write_png(image.astype(np.float32), tmp_path / "a.png")


def test_png_round_trip(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (5, 6, 3), np.uint8)
    assert np.array_equal(np.asarray(Image.open(write_png(image, tmp_path / "a.png"))), image)


# Previews


def test_display_sensors_are_shown_as_they_are():
    levels = np.random.default_rng(1).integers(0, 255, (3, 20, 30))
    assert np.array_equal(render(scene("rgb", levels / 255)), levels.astype(np.uint8).transpose(1, 2, 0))


def test_reflectance_is_stretched_over_valid_pixels_and_missing_is_black():
    pixels = np.random.default_rng(2).uniform(0.05, 0.1, (13, 40, 40))
    valid = np.ones((40, 40), bool)
    valid[:10] = False
    pixels[:, ~valid] = 0
    image = render(scene("sentinel-2-l1c", pixels, valid))
    assert (image[:10] == 0).all()
    assert image[10:].min() == 0
    assert image[10:].max() == 255
    red = pixels[3][valid]
    inside = (red > np.percentile(red, 2)) & (red < np.percentile(red, 98))
    order = np.argsort(red[inside])
    assert (np.diff(image[valid][inside][order, 0].astype(int)) >= 0).all()


def test_radar_is_shown_as_vv_vh_and_their_difference():
    rng = np.random.default_rng(3)
    vv, vh = rng.normal(-10, 3, (30, 30)), rng.normal(-17, 3, (30, 30))
    image = render(scene("sentinel-1-grd", np.stack([vv, vh])))
    for channel, layer in enumerate((vv, vh, vv - vh)):
        assert np.corrcoef(image[:, :, channel].ravel(), layer.ravel())[0, 1] > 0.98


def test_one_band_is_grey_and_small_sizes_hold():
    image = render(scene("sentinel-1-grd-vv", np.random.default_rng(4).normal(-10, 3, (1, 90, 30))), size=32)
    assert image.shape == (32, 11, 3)
    assert np.array_equal(image[:, :, 0], image[:, :, 2])
    with pytest.raises(SceneError):
        render(scene("rgb", np.zeros((3, 4, 4))), size=0)


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_flat_and_empty_scenes_have_a_preview(value):
    pixels = np.full((13, 4, 4), value)
    assert render(scene("sentinel-2-l1c", pixels, np.zeros((4, 4), bool))).max() == 0
    assert len(np.unique(render(scene("sentinel-2-l1c", pixels)))) == 1


def test_outlines_and_numbers_are_drawn_where_the_region_is_at_any_size():
    image = np.zeros((50, 100, 3), np.uint8)
    hole = box(10, 20, 60, 50).difference(box(30, 30, 40, 40))
    parts = Region("b", 0.5, MultiPolygon([hole, box(100, 60, 150, 90)]), "a", GRID)
    drawn = draw(image, [region(), parts], colour=(255, 0, 0))
    assert drawn[10:25, 4:7, 0].any()
    assert drawn[30:45, 49:52, 0].any()
    assert not drawn[:, 90:].any()
    assert not image.any()


def test_masks_and_heat_are_laid_over_where_they_are():
    image = np.full((40, 40, 3), 100, np.uint8)
    mask = np.zeros((20, 20), bool)
    mask[:10] = True
    covered = overlay(image, mask, colour=(200, 0, 0), opacity=0.5)
    assert (covered[:20] == (150, 50, 50)).all()
    assert (covered[20:] == 100).all()
    heat = np.linspace(0.1, 0.3, 100, dtype=np.float32).reshape(10, 10)
    heat[0, 0] = np.nan
    warm = overlay(image, heat)
    assert warm[-1, -1, 0] > warm[0, 0, 0] == 100
    with pytest.raises(SceneError):
        overlay(image, np.zeros((3, 3, 3), bool))
    with pytest.raises(SceneError):
        overlay(image[:, :, 0], mask)


def test_a_written_mask_opens_again_through_the_door(tmp_path):
    path = write_mask_tif(
        Mask("lake", np.eye(64, dtype=bool), Grid(64, 64, GRID.transform, GRID.crs)), tmp_path / "m.tif"
    )
    with open_raster(path, sensor="ombria-s1") as raster:
        assert np.array_equal(raster.read_raw()[0][0], np.eye(64, dtype=np.uint8))


def test_a_real_scene_has_a_colourful_preview(data_dir):
    shown = render(read_scene(data_dir / "scenes" / "s2_l1c_t33uuu_20170216.tif", shape=(192, 384)), size=256)
    assert shown.shape == (128, 256, 3)
    assert shown.std() > 30
