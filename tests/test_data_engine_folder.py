import json
import logging
import os
import sqlite3

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.transform import from_origin

from data_engine.sources import folder_polygons
from data_engine.sources.folder import place_of, read, read_config
from data_engine.sources.folder_chips import windows
from data_engine.splits import split_of
from rsvlm.errors import DatasetError
from rsvlm.raster import open_raster, read_labels, read_scene
from rsvlm.scene import Grid

WEST, NORTH = 400_000.0, 5_800_000.0  # zone 33: 13.52 east, 52.34 north
CODES = 'codes = {1 = "water", 2 = "forest"}\n'
AREAS = 'polygons = "areas.gpkg"\n'


def write(path, pixels, *, west=WEST, north=NORTH, size=10.0, crs="EPSG:32633", **options):
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    path.parent.mkdir(parents=True, exist_ok=True)
    place = {} if crs is None else {"crs": crs, "transform": from_origin(west, north, size, size)}
    shape = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2], "dtype": pixels.dtype}
    with rasterio.open(path, "w", driver="GTiff", **shape, **place, **options) as out:
        out.write(pixels)
    return path


def image(folder, name="images/a.tif", shape=(4, 4), **options):
    pixels = np.random.default_rng(0).integers(1, 255, (3, *shape), np.uint8)
    return write(folder / name, pixels, **options)


def config(folder, text):
    (folder / "rsvlm-data.toml").write_text(text, encoding="utf-8")


def landcover(folder, codes, name="landcover.tif", **options):
    return write(folder / name, np.asarray(codes, options.pop("dtype", np.uint8)), **options)


def square(col, row, side, size=10.0):
    """A square of pixels of an image whose corner is at WEST, NORTH."""
    x, y = WEST + col * size, NORTH - row * size
    return shapely.box(x, y - side * size, x + side * size, y)


def polygons(folder, rows, name="areas.gpkg", column="class", crs="EPSG:32633", **options):
    frame = geopandas.GeoDataFrame(
        {column: [value for value, _ in rows]}, geometry=[shape for _, shape in rows], crs=crs
    )
    frame.to_file(folder / name, engine="pyogrio", **options)
    return folder / name


def refused(folder, *words):
    with pytest.raises(DatasetError) as caught:
        list(read(folder))
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.fixture
def mapped(tmp_path):
    """An image of 4 x 4 pixels with a land-cover raster: a row of water, 8 pixels of forest, 4 of no data."""
    image(tmp_path)
    landcover(tmp_path, [[1, 1, 1, 1], [2, 2, 2, 2], [2, 2, 2, 2], [0, 0, 0, 0]])
    config(tmp_path, CODES + "ignore = [0]\n")
    return tmp_path


# Rasters


def test_a_raster_on_the_grid_of_the_image_becomes_its_class_map(mapped):
    (item,) = read(mapped)
    assert item.image == mapped / "images/a.tif"
    assert item.sensor == "rgb"
    assert item.fractions == {"water": 0.25, "forest": 0.5}
    assert item.labels == ("forest", "water")
    assert item.class_map.codes == {"1": "water", "2": "forest"}
    assert item.class_map.ignore == (-1,)
    expected = [[1] * 4, [2] * 4, [2] * 4, [-1] * 4]
    assert read_labels(item.class_map.path, band=item.class_map.band).tolist() == expected
    assert item.split == split_of(item.place)


def test_a_coarser_raster_that_covers_more_is_laid_over_each_image(tmp_path):
    image(tmp_path)
    landcover(tmp_path, [[9, 9, 9], [9, 1, 2], [9, 2, 1]], size=20.0, west=WEST - 20, north=NORTH + 20)
    config(tmp_path, CODES)  # 9 lies outside the image, so that nobody need name it
    (item,) = read(tmp_path)
    assert read_labels(item.class_map.path).tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [2, 2, 1, 1], [2, 2, 1, 1]]


def test_a_raster_in_degrees_is_reprojected_as_a_slow_look_up_says(tmp_path):
    path = image(tmp_path, shape=(40, 40))
    codes = np.random.default_rng(1).integers(1, 3, (60, 60), np.uint8)
    transform = from_origin(13.530, 52.350, 0.0003, 0.0002)
    write(tmp_path / "landcover.tif", codes, crs="EPSG:4326")
    with rasterio.open(tmp_path / "landcover.tif", "r+") as out:
        out.transform = transform
    config(tmp_path, CODES + "least_labelled = 0")
    (item,) = read(tmp_path)
    with open_raster(path) as raster:
        grid = raster.grid
    expected = np.full((40, 40), -1)
    for row in range(40):
        for col in range(40):
            x, y = ~transform @ tuple(float(v) for v in grid.lonlat(col + 0.5, row + 0.5))
            if 0 <= x < 60 and 0 <= y < 60:
                expected[row, col] = codes[int(y), int(x)]
    found = read_labels(item.class_map.path)
    assert (expected == -1).any()
    assert (expected > 0).any()
    assert (found == expected).all()


def test_nodata_counts_nowhere_unless_the_config_gives_it_a_name(tmp_path):
    image(tmp_path)
    landcover(tmp_path, [[1, 1, 0, 0]] * 4, nodata=0)
    config(tmp_path, 'codes = {1 = "water"}')
    assert next(read(tmp_path)).fractions == {"water": 0.5}
    config(tmp_path, 'codes = {1 = "water", 0 = "sea"}')
    assert next(read(tmp_path)).fractions == {"sea": 0.5, "water": 0.5}


def test_codes_of_one_name_are_one_class(mapped):
    config(mapped, 'codes = {1 = "open_land", 2 = "open land"}\nignore = [0]')
    assert next(read(mapped)).fractions == {"open land": 0.75}


def test_worldcover_needs_no_table_and_a_colour_table_is_no_hindrance(tmp_path):
    image(tmp_path)
    path = landcover(tmp_path, [[10, 10, 80, 80]] * 4, photometric="palette")
    with rasterio.open(path, "r+") as out:
        out.write_colormap(1, {10: (0, 100, 0, 255), 80: (0, 0, 200, 255)})
    config(tmp_path, 'codes = "worldcover"\nlabels_band = 1')
    assert next(read(tmp_path)).fractions == {"tree cover": 0.5, "permanent water": 0.5}


def test_labels_one_an_image_go_by_what_the_stars_stand_for(tmp_path):
    for name, code in (("x", 1), ("y", 2)):
        image(tmp_path, f"optical/{name}_s2.tif")
        landcover(tmp_path, [[code] * 4] * 4, f"maps/{name}_lc.tif")
    config(tmp_path, 'images = "optical/*_s2.tif"\nlabels = "maps/*_lc.tif"\n' + CODES)
    assert [item.fractions for item in read(tmp_path)] == [{"water": 1.0}, {"forest": 1.0}]


def test_pixels_without_coordinates_go_with_labels_of_the_same_size(tmp_path):
    image(tmp_path, crs=None)
    landcover(tmp_path, [[1, 1, 2, 2]] * 4, "labels/a.tif", crs=None)
    config(tmp_path, CODES)
    (item,) = read(tmp_path)
    assert item.fractions == {"water": 0.5, "forest": 0.5}
    assert item.place == "image-a"


def test_whole_floats_are_codes_and_missing_pixels_of_the_image_have_no_class(tmp_path):
    pixels = np.full((3, 4, 4), 9, np.uint8)
    pixels[:, 0] = 0
    write(tmp_path / "images/a.tif", pixels, nodata=0)
    landcover(tmp_path, [[1.0, 1.0, 2.0, np.nan]] * 4, dtype=np.float32)
    config(tmp_path, CODES)
    assert next(read(tmp_path)).fractions == {"water": 6 / 16, "forest": 3 / 16}


def test_codes_without_a_name_are_listed_with_counts(mapped):
    landcover(mapped, [[1, 1, 1, 1], [7, 7, 7, 7], [7, 3, 3, 0], [0, 0, 0, 0]])
    refused(mapped, "7 (5 pixels), 3 (2)", "a.tif", "'codes'")


def test_codes_that_never_occur_are_a_warning(mapped, caplog):
    config(mapped, 'codes = {1 = "water", 2 = "forest", 3 = "ice"}\nignore = [0]')
    with caplog.at_level(logging.WARNING):
        assert len(list(read(mapped))) == 1
    assert "3 (ice)" in caplog.text
    assert "water" not in caplog.text


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4), ("0.0666667", "probabilities")),
        (np.array([[1e12, 1, 1, 1]] * 4), ("1e+12", "no class codes")),
        (np.array([[1 + 2j] * 4] * 4, np.complex64), ("complex",)),
    ],
)
def test_measurements_are_no_codes(mapped, values, words):
    write(mapped / "landcover.tif", values)
    refused(mapped, "landcover.tif", *words)


def test_many_values_look_like_probabilities(tmp_path):
    image(tmp_path, shape=(16, 16))
    landcover(tmp_path, np.arange(256).reshape(16, 16))
    config(tmp_path, CODES)
    refused(tmp_path, "254 values without a name", "from 0 to 255", "probabilities")


def test_labels_elsewhere_are_refused_with_both_extents(mapped):
    landcover(mapped, [[1] * 4] * 4, west=WEST + 200_000)
    refused(mapped, "landcover.tif", "a.tif", "labels cover longitude 16.4", "the image longitude 13.5", "latitude 52.")


def test_coordinates_on_one_side_only_are_refused(mapped):
    landcover(mapped, [[1] * 4] * 4, crs=None)
    refused(mapped, "landcover.tif has no coordinates but", "a.tif has")
    landcover(mapped, [[1] * 4] * 4)
    image(mapped, crs=None)
    refused(mapped, "a.tif has no coordinates but", "landcover.tif has")


def test_sizes_that_differ_without_coordinates_are_refused(mapped):
    image(mapped, crs=None, shape=(4, 5))
    landcover(mapped, [[1] * 4] * 4, crs=None)
    refused(mapped, "4 x 5", "4 x 4", "same size")


def test_labels_missing_for_an_image_are_named(tmp_path):
    image(tmp_path)
    image(tmp_path, "images/b.tif")
    landcover(tmp_path, [[1] * 4] * 4, "labels/a.tif")
    config(tmp_path, CODES)
    refused(tmp_path, "images/b.tif has no labels", "labels/b.tif")


@pytest.mark.parametrize("content", [b"", b"<html>", b"II*\x00broken", b"<VRTDataset/>"])
def test_labels_that_are_no_raster_are_refused(mapped, content):
    (mapped / "landcover.tif").write_bytes(content)
    refused(mapped, "landcover.tif", "cannot be read")


def test_a_band_the_labels_do_not_have_is_refused(mapped):
    config(mapped, CODES + "ignore = [0]\nlabels_band = 2")
    refused(mapped, "1 bands and no number 2", "'labels_band'")


# The config and the folder


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("chips = 256", ("unknown key 'chips'", "did you mean 'chip'?")),
        ("zzz = 1", ("unknown key 'zzz'", "images, sensor")),
        ("chip = 256.0", ("'chip'", "256.0", "whole number")),
        ("chip = true", ("'chip'", "True")),
        ("chip = 7", ("'chip'", "32 to 4096")),
        ("objects = 1", ("'objects'", "true")),
        ("codes = {10 = 4}", ("'codes'", "tree cover")),
        ("codes = {}", ("'codes'",)),
        ('codes = "corine"', ("'codes'", "worldcover")),
        ('codes = {1 = ""}', ("code 1 is called ''", "in words")),
        ('codes = {1 = "17"}', ("code 1 is called '17'", "in words")),
        ('codes = {a = "x"}', ("'a' for a code", "whole numbers")),
        ('codes = {1 = "x"}\nignore = [1]', ("names the code 1 and ignores it",)),
        ("ignore = 0", ("'ignore'", "[0, 255]")),
        ("ignore = [0.5]", ("'ignore'",)),
        ("images = []", ("'images'",)),
        ("images = 3", ("'images'",)),
        ("labels_band = 0", ("'labels_band'", "from 1")),
        ("least_labelled = 2", ("'least_labelled'", "0 to 1")),
        ("terms = 5", ("'terms'", "licence")),
        ('labels = "/etc/passwd"', ("/etc/passwd", "leads out of the folder")),
        ('labels = "../x.tif"', ("../x.tif", "leads out of the folder")),
        ('labels = "/vsicurl/http://x/a.tif"', ("no plain file name",)),
        ('polygons = "https://x/a.geojson"', ("no plain file name",)),
        ('polygons = "GPKG:a.gpkg"', ("no plain file name",)),
        ('images = "**/*.tif"', ("single stars",)),
        ('labels = "landcover.tif"\npolygons = "a.gpkg"', ("'labels'", "'polygons'", "objects = true")),
        ('captions = "c.csv"\nchip = 64', ("captions", "'chip'")),
        ('labels = "labels/*/*.tif"\nimages = "images/*.tif"', ("2 stars", "1 in")),
        ('captions = "other.csv"', ("there is no file", "'captions'")),
        ('labels = "other.tif"', ("there is no file", "other.tif")),
        ("images = [", ("is not TOML", "end of document")),
    ],
)
def test_a_config_that_is_wrong_is_told_so(mapped, text, words):
    config(mapped, text)
    refused(mapped, *words)


def test_a_config_in_another_encoding_is_refused_and_a_byte_order_mark_is_not(mapped):
    (mapped / "rsvlm-data.toml").write_bytes(b"\xef\xbb\xbf" + (CODES + "ignore = [0]").encode())
    assert len(list(read(mapped))) == 1
    (mapped / "rsvlm-data.toml").write_bytes('terms = "Grün"'.encode("latin-1"))
    refused(mapped, "is not TOML")


def test_the_terms_of_a_folder_can_be_asked_for(mapped):
    config(mapped, 'terms = "CC-BY 4.0"')
    assert read_config(mapped).terms == "CC-BY 4.0"


def test_a_folder_without_images_or_labels_says_what_belongs_there(tmp_path):
    refused(tmp_path / "nowhere", "there is no folder")
    refused(tmp_path, "has no labels", "landcover.tif", ".gpkg", "captions.csv")
    landcover(tmp_path, [[1]])
    refused(tmp_path, "has no images", "*.tif")


def test_two_possible_labels_are_not_chosen_between(mapped):
    polygons(mapped, [("x", square(0, 0, 1))])
    config(mapped, "")
    refused(mapped, "areas.gpkg, landcover.tif", "nothing says which")


def test_images_of_one_name_are_refused(mapped):
    image(mapped, "images/a.tiff")
    refused(mapped, "a.tif and", "a.tiff have one name, 'a'")


def test_an_image_whose_bands_cannot_be_told_is_refused(mapped):
    write(mapped / "images/a.tif", np.ones((5, 4, 4), np.uint16))
    refused(mapped, "images/a.tif", "5 uint16 layer(s)", "set sensor")
    config(mapped, 'sensor = "sentinel-9"')
    refused(mapped, "unknown sensor 'sentinel-9'")
    config(mapped, "")
    (mapped / "images/a.tif").write_bytes(b"<html>")
    refused(mapped, "images/a.tif", "no image this project reads")


def test_the_bands_of_a_file_without_names_are_named_in_the_config(mapped):
    write(mapped / "images/a.tif", np.full((2, 4, 4), 1000, np.uint16))
    config(mapped, CODES + 'ignore = [0]\nsensor = "sentinel-2-l2a"\nbands = ["B08", "B04"]')
    (item,) = read(mapped)
    assert read_scene(item.image, sensor=item.sensor, bands=item.bands).band_names == ("B08", "B04")


def test_a_large_scene_without_chips_is_refused(mapped):
    write(mapped / "images/a.tif", np.ones((1, 4097, 4097), np.uint8))
    config(mapped, 'sensor = "ombria-s1"\n' + CODES)
    refused(mapped, "4097 x 4097", "chip = 256")


def test_images_with_too_few_labels_are_passed_over_and_none_left_is_an_error(mapped):
    config(mapped, CODES + "ignore = [0]\nleast_labelled = 0.8")
    refused(mapped, "nothing of", "1 images or chips", "80%", "'least_labelled'")


def test_captions_go_with_images_by_name(tmp_path):
    image(tmp_path, "a.tif")
    image(tmp_path, "b.tif")
    (tmp_path / "captions.csv").write_text("image,caption\na.tif,A  lake.\na,A pond.\n", encoding="utf-8-sig")
    (item,) = read(tmp_path)
    assert item.captions == ("A lake.", "A pond.")
    assert item.class_map is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"file,text\n", ("['file', 'text']", "image and caption")),
        (b"", ("None", "image and caption")),
        (b"image,caption\nz.tif,A lake\n", ("captions.csv:2", "no image", "z.tif")),
        (b"image,caption\na.tif, \n", ("captions.csv:2", "an empty caption")),
        (b"image,caption\na.tif\n", ("captions.csv:2", "an empty caption")),
        (b"image,caption\na.tif,\xff\n", ("UTF-8",)),
        (b"image,caption\n", ("no captions",)),
    ],
)
def test_captions_that_are_wrong_are_told_so(tmp_path, text, words):
    image(tmp_path, "a.tif")
    (tmp_path / "captions.csv").write_bytes(text)
    refused(tmp_path, *words)


# Polygons


def test_areas_become_a_class_map_with_the_smaller_on_top(tmp_path):
    image(tmp_path)
    polygons(tmp_path, [("lake", square(1, 1, 2)), ("wood", square(0, 0, 4)), ("far", square(90, 90, 1))])
    (item,) = read(tmp_path)
    assert item.class_map.codes == {"1": "far", "2": "lake", "3": "wood"}
    lake = [[3, 3, 3, 3], [3, 2, 2, 3], [3, 2, 2, 3], [3, 3, 3, 3]]
    assert read_labels(item.class_map.path).tolist() == lake
    assert item.fractions == {"lake": 0.25, "wood": 0.75}
    assert item.targets == ()


def test_things_become_boxes_and_outlines_in_pixels_cut_at_the_edge(tmp_path):
    image(tmp_path, shape=(40, 40))
    rows = [
        ("ship", square(10, 20, 4)),
        ("ship", square(38, 0, 4)),  # half of it is outside
        ("ship", square(37, 38, 8)),  # a tenth is inside: 3 x 2 of 64 pixels
        ("buoy", square(5, 5, 1)),  # one pixel
    ]
    polygons(tmp_path, rows)
    config(tmp_path, AREAS + "objects = true")
    (item,) = read(tmp_path)
    ship, buoy = sorted(item.targets, key=lambda target: target.phrase, reverse=True)
    assert ship.boxes == ((10.0, 20.0, 14.0, 24.0), (38.0, 0.0, 40.0, 4.0))
    assert set(ship.polygons[0]) == {(10.0, 20.0), (14.0, 20.0), (14.0, 24.0), (10.0, 24.0)}
    assert (buoy.phrase, buoy.boxes) == ("buoy", ())
    assert item.labels == ("ship",)
    assert item.class_map is None


def test_geojson_in_degrees_lands_on_the_same_pixels(tmp_path):
    image(tmp_path, shape=(40, 40))
    polygons(tmp_path, [("ship", square(10, 20, 4))])
    config(tmp_path, AREAS + "objects = true")
    (metres,) = read(tmp_path)
    frame = geopandas.read_file(tmp_path / "areas.gpkg").to_crs("EPSG:4326")
    frame.to_file(tmp_path / "areas.geojson", driver="GeoJSON")
    config(tmp_path, 'polygons = "areas.geojson"\nobjects = true')
    (degrees,) = read(tmp_path)
    assert degrees.targets[0].boxes[0] == pytest.approx(metres.targets[0].boxes[0], abs=0.01)


def test_a_polygon_larger_than_its_projection_can_hold_still_covers_the_image(tmp_path):
    image(tmp_path)
    polygons(tmp_path, [("land", shapely.box(-179, -89, 179, 89))], "areas.geojson", crs="EPSG:4326")
    assert next(read(tmp_path)).fractions == {"land": 1.0}


def test_an_image_across_the_antimeridian_sees_polygons_of_both_sides(tmp_path):
    image(tmp_path, shape=(40, 40), crs="EPSG:3832", west=3_339_385.0, north=200.0)  # its middle is near 180 degrees
    rows = [("east", shapely.box(179, -1, 180, 1)), ("west", shapely.box(-180, -1, -179, 1))]
    polygons(tmp_path, rows, "areas.geojson", crs="EPSG:4326")
    (item,) = read(tmp_path)
    assert set(item.fractions) == {"east", "west"}
    assert sum(item.fractions.values()) == pytest.approx(1, abs=0.03)


def test_images_turned_and_south_up_have_their_polygons_in_their_own_pixels(tmp_path):
    path = image(tmp_path, shape=(20, 20))
    turned = Affine.translation(WEST, NORTH) @ Affine.rotation(30) @ Affine.scale(10, 10)
    with rasterio.open(path, "r+") as out:
        out.transform = turned
    corners = [turned @ corner for corner in ((2, 3), (8, 3), (8, 9), (2, 9))]
    polygons(tmp_path, [("ship", shapely.Polygon(corners))])
    config(tmp_path, AREAS + "objects = true")
    (item,) = read(tmp_path)
    assert item.targets[0].boxes[0] == pytest.approx((2, 3, 8, 9), abs=0.01)


def test_numbers_are_named_by_codes_and_ignored_ones_left_out(tmp_path):
    image(tmp_path)
    polygons(tmp_path, [(7, square(0, 0, 2)), (8, square(2, 2, 2)), (9, square(0, 2, 1))], column="code")
    config(tmp_path, AREAS)
    refused(tmp_path, "no words, such as '7'", 'codes = {"7"')
    config(tmp_path, AREAS + 'codes = {7 = "lake"}')
    refused(tmp_path, "'codes' does not name", "8 (1 polygons), 9 (1)")
    config(tmp_path, AREAS + 'codes = {7 = "lake", 8 = "wood"}\nignore = [9]')
    assert next(read(tmp_path)).fractions == {"lake": 0.25, "wood": 0.25}


def test_bowties_are_mended_and_rows_without_geometry_or_class_counted(tmp_path, caplog):
    image(tmp_path)
    x, y = WEST, NORTH
    bowtie = shapely.Polygon([(x, y), (x + 40, y - 40), (x + 40, y), (x, y - 40)])
    rows = [
        ("wood", bowtie),
        ("wood", None),
        ("wood", shapely.Polygon()),
        (None, square(0, 0, 4)),
        ("", square(0, 0, 4)),
    ]
    polygons(tmp_path, rows)
    with caplog.at_level(logging.WARNING):
        (item,) = read(tmp_path)
    assert "mended 1 invalid" in caplog.text
    assert "passed over 4 of 5 rows" in caplog.text
    assert 0 < item.fractions["wood"] <= 0.75  # two triangles that meet in the middle: half, at pixel centres


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], ("no features",)),
        ([("x", None)], ("no polygons", "no geometries")),
        ([("x", shapely.Point(WEST, NORTH))], ("no polygons", "Point")),
        ([(None, square(0, 0, 1))], ("no class in any row",)),
        ([("--", square(0, 0, 1))], ("no words, such as '--'",)),
        ([("x", shapely.box(0, 0, 9, 9))], ("share no ground", "the image longitude 13.5")),
    ],
)
def test_polygons_that_cannot_be_used_are_refused(tmp_path, rows, words):
    image(tmp_path)
    polygons(tmp_path, rows)
    refused(tmp_path, "areas.gpkg", *words)


def test_a_column_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    image(tmp_path)
    frame = geopandas.GeoDataFrame({"kind": ["x"], "name": ["y"]}, geometry=[square(0, 0, 4)], crs="EPSG:32633")
    frame.to_file(tmp_path / "areas.gpkg")
    refused(tmp_path, "no one column that is plainly the class", "kind, name", "'column'")
    config(tmp_path, AREAS + 'column = "fclass"')
    refused(tmp_path, "no column 'fclass'", "kind, name")
    config(tmp_path, AREAS + 'column = "kind"')
    assert next(read(tmp_path)).labels == ("x",)


def test_one_of_several_layers_must_be_named(tmp_path):
    image(tmp_path)
    polygons(tmp_path, [("x", square(0, 0, 4))], layer="one")
    polygons(tmp_path, [("y", square(0, 0, 4))], layer="two")
    refused(tmp_path, "2 layers", "one, two", "'layer'")
    config(tmp_path, AREAS + 'layer = "three"')
    refused(tmp_path, "no layer 'three'", "one, two")
    config(tmp_path, AREAS + 'layer = "two"')
    assert next(read(tmp_path)).labels == ("y",)


def test_metres_in_a_geojson_are_no_degrees(tmp_path):
    image(tmp_path)
    shape = shapely.geometry.mapping(square(0, 0, 4))
    feature = {"type": "Feature", "properties": {"class": "x"}, "geometry": shape}
    (tmp_path / "areas.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    refused(tmp_path, "areas.geojson", "from 400000, 5799960", "no degrees", "EPSG:4326")


def test_polygons_without_a_coordinate_system_and_images_without_one_are_refused(tmp_path):
    image(tmp_path, crs=None)
    polygons(tmp_path, [("x", square(0, 0, 4))])
    refused(tmp_path, "a.tif has no coordinates", "areas.gpkg")
    polygons(tmp_path, [("x", square(0, 0, 4))], crs=None)
    refused(tmp_path, "areas.gpkg has no coordinate system")


@pytest.mark.parametrize("name", ["areas.gpkg", "areas.geojson"])
@pytest.mark.parametrize("content", [b"", b"<OGRVRTDataSource/>", b"SQLite format 3\x00" + b"\x01" * 500, b'{"a": '])
def test_damaged_polygon_files_are_refused(tmp_path, name, content):
    image(tmp_path)
    (tmp_path / name).write_bytes(content)
    refused(tmp_path, name, "save")


def test_half_a_geopackage_is_refused(tmp_path):
    image(tmp_path)
    path = polygons(tmp_path, [("x", square(0, 0, 4))] * 500)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(tmp_path, "areas.gpkg", "save")


def test_a_geopackage_that_reads_other_files_is_refused(tmp_path):
    image(tmp_path)
    path = polygons(tmp_path, [("x", square(0, 0, 4))])
    with sqlite3.connect(path) as database:
        database.execute("create view trap as select * from areas")
    database.close()
    refused(tmp_path, "the view 'trap'", "plain tables")
    with sqlite3.connect(path) as database:
        database.execute("drop view trap")
        database.execute("pragma writable_schema = on")
        trap = "create virtual table trap using VirtualOGR('/etc/passwd')"
        database.execute("insert into sqlite_master values ('table', 'trap', 'trap', 0, ?)", (trap,))
    database.close()
    refused(tmp_path, "the table 'trap'", "plain tables")


def test_other_kinds_of_polygon_files_are_refused(tmp_path):
    image(tmp_path)
    config(tmp_path, 'polygons = "areas.shp"')
    refused(tmp_path, "areas.shp is no .gpkg or .geojson")
    config(tmp_path, 'polygons = "areas.zip!b.gpkg"')
    refused(tmp_path, "areas.zip!b.gpkg is no .gpkg or .geojson")
    config(tmp_path, AREAS)
    refused(tmp_path, "there is no file", "'polygons'")
    (tmp_path / "areas.gpkg").mkdir()
    refused(tmp_path, "there is no file")


def test_json_files_are_polygons_only_where_the_config_says_so(tmp_path):
    image(tmp_path)
    polygons(tmp_path, [("x", square(0, 0, 4))])
    (tmp_path / "item.json").write_text('{"type": "Feature"}')
    assert next(read(tmp_path)).labels == ("x",)
    config(tmp_path, 'polygons = "item.json"')
    refused(tmp_path, "item.json")


def test_too_many_vertices_and_bytes_are_refused(tmp_path, monkeypatch):
    image(tmp_path)
    path = polygons(tmp_path, [("x", square(0, 0, 4))] * 3)
    monkeypatch.setattr(folder_polygons, "MAX_VERTICES", 14)
    refused(tmp_path, "15 vertices, more than the 14 allowed", "simplify")
    monkeypatch.setattr(folder_polygons, "MAX_BYTES", 1000)
    refused(tmp_path, f"{path.stat().st_size:,} bytes, more than the 1,000 allowed")


# Chips, the work folder, places


def test_windows_lie_side_by_side_and_narrow_rests_are_left_out(tmp_path):
    found = [(w.row, w.col, w.height, w.width) for w in windows(Grid(100, 70), 32, tmp_path)]
    assert found == [(r, c, 32, 32) for r in (0, 32, 64) for c in (0, 32)]
    assert [(w.col, w.width) for w in windows(Grid(32, 52), 32, tmp_path)] == [(0, 32), (32, 20)]
    assert [(w.height, w.width) for w in windows(Grid(3, 5), 32, tmp_path)] == [(3, 5)]


def test_chips_hold_the_pixels_bands_date_and_labels_of_their_part(tmp_path):
    path = tmp_path / "images/S2_20210704.tif"
    pixels = np.random.default_rng(0).integers(1, 9000, (4, 64, 64), np.uint16)
    pixels[:, :5, :5] = 0
    write(path, pixels, nodata=0)
    with rasterio.open(path, "r+") as out:
        out.descriptions = ("B02", "B03", "B04", "B08")
        out.update_tags(PROCESSING_BASELINE="04.00")
    codes = np.repeat(np.repeat([[1, 2], [2, 1]], 32, 0), 32, 1)
    landcover(tmp_path, codes)
    config(tmp_path, CODES + "chip = 32")
    items = list(read(tmp_path))
    assert [set(item.fractions) for item in items] == [{"water"}, {"forest"}, {"forest"}, {"water"}]
    whole = read_scene(path)
    assert whole.bands[0].offset == pytest.approx(-0.1)  # of baseline 04.00, which the chips keep
    for item, (row, col) in zip(items, ((0, 0), (0, 32), (32, 0), (32, 32)), strict=True):
        chip = read_scene(item.image, sensor=item.sensor, bands=item.bands or None)
        assert chip.band_names == ("B02", "B03", "B04", "B08")
        assert (chip.pixels == whole.pixels[:, row : row + 32, col : col + 32]).all()
        assert (chip.valid == whole.valid[row : row + 32, col : col + 32]).all()
        assert (chip.acquired, item.acquired) == (whole.acquired, "2021-07-04T00:00:00Z")
    assert items[0].fractions["water"] == (32 * 32 - 25) / 1024  # the missing corner has no class


def test_four_layers_of_bytes_and_linear_backscatter_survive_cutting(tmp_path):
    rng = np.random.default_rng(0)
    write(tmp_path / "images/naip.tif", rng.integers(1, 255, (4, 64, 64), np.uint8), photometric="minisblack")
    landcover(tmp_path, [[1] * 64] * 64)
    config(tmp_path, CODES + 'chip = 32\nsensor = "naip"')
    assert [len(read_scene(item.image, sensor="naip").bands) for item in read(tmp_path)] == [4] * 4
    (tmp_path / "images/naip.tif").unlink()
    linear = rng.gamma(4, 0.02, (2, 64, 64)).astype(np.float32)
    linear[:, 40:, 40:] = np.nan
    path = write(tmp_path / "images/s1.tif", linear)
    config(tmp_path, CODES + 'chip = 32\nsensor = "sentinel-1-grd"')
    whole, items = read_scene(path, sensor="sentinel-1-grd"), list(read(tmp_path))
    assert len(items) == 3  # of the last chip, more than half is missing
    assert (read_scene(items[1].image, sensor="sentinel-1-grd").pixels == whole.pixels[:, :32, 32:]).all()


def test_chips_with_an_internal_mask_keep_it(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (3, 64, 64), np.uint8)
    path = write(tmp_path / "images/a.tif", pixels)
    mask = np.ones((64, 64), np.bool_)
    mask[3:20, 5:9] = False
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"), rasterio.open(path, "r+") as out:
        out.write_mask(mask)
    landcover(tmp_path, [[1] * 64] * 64)
    config(tmp_path, CODES + "chip = 32")
    first = next(read(tmp_path))
    assert (read_scene(first.image).valid == mask[:32, :32]).all()


def test_a_second_run_reuses_the_work_and_a_change_makes_it_anew(mapped):
    before = {path: path.read_bytes() for path in mapped.rglob("*") if path.is_file()}
    (first,) = read(mapped)
    written = first.class_map.path.stat().st_mtime_ns
    (second,) = read(mapped)
    assert second == first
    assert second.class_map.path.stat().st_mtime_ns == written
    assert {path: path.read_bytes() for path in before} == before  # nothing of the user's was touched
    landcover(mapped, [[2] * 4] * 4)
    (third,) = read(mapped)
    assert third.fractions == {"forest": 1.0}
    assert third.class_map.path != first.class_map.path


def test_an_interrupted_run_goes_on_with_what_is_missing(tmp_path):
    image(tmp_path, shape=(64, 64))
    landcover(tmp_path, [[1] * 64] * 64)
    config(tmp_path, CODES + "chip = 32")
    items = read(tmp_path, work=tmp_path / "work")
    first = next(items)
    items.close()
    kept = first.image.stat().st_mtime_ns
    assert len(list((tmp_path / "work").rglob("*_classes.tif"))) == 1
    assert len(list(read(tmp_path, work=tmp_path / "work"))) == 4
    assert first.image.stat().st_mtime_ns == kept
    assert not list((tmp_path / "work").rglob(".writing-*"))
    assert not (tmp_path / ".rsvlm").exists()


def test_a_folder_that_cannot_be_written_says_where_to_write_instead(mapped, tmp_path):
    if os.geteuid() == 0:  # root may write anywhere, so a file stands where the folder should be
        (mapped / ".rsvlm").write_text("")
    else:
        mapped.chmod(0o500)
    try:
        refused(mapped, ".rsvlm", "cannot be written", "work=")
    finally:
        mapped.chmod(0o700)


def test_places_are_cells_so_that_neighbours_share_a_split():
    def at(lon, lat):
        import pyproj

        return Grid(2, 2, Affine.translation(lon, lat) @ Affine.scale(1e-6, -1e-6), pyproj.CRS.from_epsg(4326))

    assert place_of(at(13.51, 52.34), None) == place_of(at(13.54, 52.31), None) == "lonlat+13.50+52.30"
    assert place_of(at(-0.01, -0.01), None) == "lonlat-0.05-0.05"


# Real data


def test_the_scene_of_t33uuu_with_openstreetmap_polygons(data_dir, tmp_path):
    for name in ("s2_l1c_t33uuu_20170216.tif", "s2_l1c_t33uuu_osm_landuse.gpkg"):
        (tmp_path / name).symlink_to((data_dir / "scenes" / name).resolve())
    shared = 'images = "s2*.tif"\nchip = 384\n'
    config(tmp_path, shared)
    items = list(read(tmp_path))
    assert len(items) == 8
    assert {item.sensor for item in items} == {"sentinel-2-l1c"}
    assert all(item.acquired.startswith("2017-02-16") for item in items)
    water, land = [], []  # near infrared of what OpenStreetMap calls water, and of all else it names
    for item in items:
        codes, scene = read_labels(item.class_map.path), read_scene(item.image)
        is_water = codes == int(next(code for code, name in item.class_map.codes.items() if name == "water"))
        water.append(scene.band("nir")[is_water])
        land.append(scene.band("nir")[(codes > 0) & ~is_water])
    assert np.median(np.concatenate(water)) < 0.5 * np.median(np.concatenate(land))
    config(tmp_path, shared.replace("384", "768") + "objects = true")
    boxes = [box for item in read(tmp_path) for target in item.targets for box in target.boxes]
    assert len(boxes) > 300
    assert all(0 <= x0 < x1 <= 768 and 0 <= y0 < y1 <= 768 for x0, y0, x1, y1 in boxes)


def test_the_sen12ms_chip_with_its_land_cover(data_dir, tmp_path):
    for name in ("sen12ms_ROIs1970_fall_lc_4_p30.tif", "sen12ms_ROIs1970_fall_s2_4_p30.tif"):
        (tmp_path / name).symlink_to((data_dir / "scenes" / name).resolve())
    config(
        tmp_path,
        'images = "*_s2_*.tif"\nlabels = "*_lc_*.tif"\nsensor = "sentinel-2-l1c"\ncodes = {16 = "barren land"}\n',
    )
    (item,) = read(tmp_path)
    assert item.image == tmp_path / "sen12ms_ROIs1970_fall_s2_4_p30.tif"
    assert item.fractions == {"barren land": 1.0}  # all of IGBP class 16: a corner of the Sahara
    assert item.place == "lonlat-14.70+20.05"
