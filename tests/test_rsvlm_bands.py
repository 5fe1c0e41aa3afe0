"""Bands are told by what the caller says, names in the file, its STAC item, or a preset; never by count alone."""

import json
import logging

import numpy as np
import pytest
import rasterio
from affine import Affine

from rsvlm.bands import Header, name_at_end, resolve
from rsvlm.errors import BandError, SensorError
from rsvlm.raster import open_raster
from rsvlm.sensors import SENSORS, find_sensor

S2 = tuple(band.name for band in SENSORS["sentinel-2-l1c"].bands)


def header(count, *, dtype="uint16", size=10.0, names=(), colors=None, words="", name="a.tif"):
    names = tuple(names) or ("",) * count
    colors = tuple(colors or ("gray",) + ("undefined",) * (count - 1))
    return Header(name, count, tuple(range(count)), dtype, size, names, colors, words)


def names_of(resolved):
    return tuple(band.name for band in resolved.bands)


def test_the_caller_goes_before_everything():
    told = resolve(header(3, names=("B04", "B03", "B02")), sensor=find_sensor("rgb-16"), names=("blue", "green", "red"))
    assert told.sensor.name == "rgb-16"
    assert names_of(told) == ("blue", "green", "red")


def test_names_from_the_caller_must_fit_the_count():
    with pytest.raises(BandError, match="holds 3 bands of data but 2 were named"):
        resolve(header(3), names=("B02", "B03"))
    with pytest.raises(BandError, match="no band 'B99'"):
        resolve(header(1), sensor=find_sensor("hls"), names=("B99",))
    with pytest.raises(BandError, match="B99"):
        resolve(header(2), names=("B02", "B99"))
    with pytest.raises(BandError, match="more than one"):
        resolve(header(2), sensor=find_sensor("hls"), names=("red", "red"))


def test_a_sensor_that_does_not_fit_the_count_is_refused_with_both_counts():
    with pytest.raises(BandError, match=r"sentinel-1-grd has 2 bands \(VV, VH\) but a.tif holds 1"):
        resolve(header(1, dtype="float32"), sensor=find_sensor("sentinel-1-grd"))


def test_an_unknown_sensor_is_refused_by_name(tmp_path):
    path = tmp_path / "a.tif"
    with rasterio.open(path, "w", driver="GTiff", width=2, height=2, count=1, dtype="uint8"):
        pass
    with pytest.raises(SensorError, match="sputnik"):
        open_raster(path, sensor="sputnik")


def test_the_order_in_the_file_does_not_matter_where_names_are_there():
    shuffled = tuple(np.random.default_rng(0).permutation(S2))
    for sensor in (None, find_sensor("sentinel-2-l1c")):
        told = resolve(header(13, names=shuffled), sensor=sensor)
        assert names_of(told) == shuffled
        assert told.layers == tuple(range(13))


@pytest.mark.parametrize(
    ("names", "dtype", "size", "sensor"),
    [
        (S2, "uint16", 10, "sentinel-2-l1c"),
        (tuple(n for n in S2 if n != "B10"), "uint16", 10, "sentinel-2-l2a"),
        (("B04", "B03", "B02"), "uint16", 10, "sentinel-2-l2a"),
        (("blue", "green", "red", "nir"), "uint16", 10, "sentinel-2-l2a"),
        (("blue", "green", "red", "nir"), "uint16", 3, "planetscope-4"),
        (("VV", "VH"), "float32", 10, "sentinel-1-grd"),
        (("Sigma0_VH_db", "Sigma0_VV_db"), "float32", 10, "sentinel-1-grd"),
        (("VH",), "float32", 10, "sentinel-1-grd-vh"),
        (("Red", "Green", "Blue"), "uint8", 0.5, "rgb"),
        (("Red", "Green", "Blue", "NIR"), "uint8", 0.6, "naip"),
        (("band 3 reflectance", "band 4 reflectance"), "int16", 30, "landsat-7-ledaps"),
        (("B2, central wavelength 490 nm", "B8A, central wavelength 865 nm"), "uint16", 20, "sentinel-2-l2a"),
        (("coastal", "blue", "green", "red", "nir", "swir1", "swir2", "worldcover"), "int16", None, "hls"),
    ],
)
def test_names_in_the_file_tell_the_sensor(names, dtype, size, sensor):
    assert resolve(header(len(names), dtype=dtype, size=size, names=names)).sensor.name == sensor


def test_layers_without_a_known_name_are_left_out_and_logged(caplog):
    caplog.set_level(logging.INFO)
    told = resolve(header(4, names=("B04", "", "QA60", "B08")))
    assert names_of(told) == ("B04", "B08")
    assert told.layers == (0, 3)
    assert "2 (no name), 3 (QA60)" in caplog.text


def test_names_that_several_sensors_share_are_refused_unless_the_product_is_named():
    names = ("SR_B2", "SR_B3", "SR_B4")
    with pytest.raises(BandError, match=r"several sensors .*landsat-8"):
        resolve(header(3, names=names, size=30))
    told = resolve(header(3, names=names, size=30, words="LC08_L2SP_193023_20200101_02_T1.tif"))
    assert told.sensor.name == "landsat-8-c2l2"
    assert names_of(told) == ("blue", "green", "red")


def test_two_layers_of_one_name_are_refused():
    with pytest.raises(BandError, match="more than one layer named B04"):
        resolve(header(3, names=("B04", "B04", "B08")))


def test_reflectance_names_on_eight_bit_data_are_not_believed():
    with pytest.raises(BandError, match="--sensor"):
        resolve(header(3, dtype="uint8", names=("B12", "B8A", "B04"), colors=("blue", "green", "red")))


@pytest.mark.parametrize(
    ("count", "dtype", "size", "colors", "sensor"),
    [
        (13, "uint16", 10, None, "sentinel-2-l1c"),
        (12, "uint16", 20, None, "sentinel-2-l2a"),
        (2, "float32", 10, None, "sentinel-1-grd"),
        (4, "uint8", 1, None, "naip"),
        (4, "uint8", 1, ("red", "green", "blue", "undefined"), "naip"),
        (4, "uint16", 3, None, "planetscope-4"),
        (8, "uint16", 3, None, "planetscope-8"),
        (7, "int16", 30, None, "hls"),
        (3, "uint8", None, None, "rgb"),
    ],
)
def test_a_preset_is_taken_where_count_type_size_and_colours_fit(count, dtype, size, colors, sensor):
    assert resolve(header(count, dtype=dtype, size=size, colors=colors)).sensor.name == sensor


@pytest.mark.parametrize(
    ("count", "dtype", "size", "colors"),
    [
        (1, "float32", 20, None),
        (1, "uint8", None, None),
        (13, "float32", 10, None),
        (13, "uint16", None, None),
        (13, "uint16", 500, None),
        (4, "uint8", 100, None),
        (4, "uint8", 1, ("blue", "green", "red", "undefined")),
        (3, "uint16", 10, ("red", "green", "blue")),
        (5, "uint8", 1, None),
    ],
)
def test_count_alone_is_never_enough(count, dtype, size, colors):
    with pytest.raises(BandError, match="say what it is with --sensor"):
        resolve(header(count, dtype=dtype, size=size, colors=colors))


def test_the_refusal_names_sensors_to_give():
    with pytest.raises(BandError, match="sentinel-1-grd-vh, sentinel-1-grd-vv"):
        resolve(header(1, dtype="float32", size=20, name="s1_vv_db_20150309.tif"))


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("T33UUU_20170216T102101_B02_10m", "B02"),
        ("x_B8A", "B8A"),
        ("x_B8A_20m", "B8A"),
        ("s1_vv_db", ""),
        ("B02", ""),
        ("x_B02_mask", ""),
        ("x_TCI_10m", ""),
    ],
)
def test_product_names_of_files_say_their_band(stem, name):
    assert name_at_end(stem) == name


def test_a_fourth_band_that_gdal_takes_for_alpha_is_infrared_when_the_sensor_says_so():
    seen = Header("a.tif", 4, (0, 1, 2), "uint8", 1.0, ("", "", ""), ("red", "green", "blue"), "")
    assert resolve(seen).sensor.name == "rgb"
    told = resolve(seen, sensor=find_sensor("naip"))
    assert told.layers == (0, 1, 2, 3)


# STAC


@pytest.fixture
def plain(tmp_path):
    """A 3-band uint16 file that says nothing about itself."""
    path = tmp_path / "image.tif"
    transform = Affine(10, 0, 500_000, 0, -10, 5_000_000)
    profile = {"width": 4, "height": 4, "count": 3, "dtype": "uint16", "crs": "EPSG:32633", "transform": transform}
    with rasterio.open(path, "w", driver="GTiff", **profile) as out:
        out.write(np.full((3, 4, 4), 2000, np.uint16))
    return path


def item(path, *, asset=None, href="./image.tif", **properties):
    asset = {"href": href, "eo:bands": [{"name": n} for n in ("B04", "B03", "B08")], **(asset or {})}
    path.write_text(json.dumps({"type": "Feature", "id": "x", "properties": properties, "assets": {"data": asset}}))


@pytest.mark.parametrize("name", ["image.json", "item.json"])
def test_a_stac_item_beside_the_file_names_bands_date_and_clouds(plain, name):
    with pytest.raises(BandError):
        open_raster(plain)
    item(plain.parent / name, **{"datetime": "2021-05-06T07:08:09Z", "eo:cloud_cover": 12})
    (plain.parent / "other.json").write_text("[1, 2]")
    with open_raster(plain) as raster:
        assert raster.read().band_names == ("B04", "B03", "B08")
        assert raster.acquired.isoformat() == "2021-05-06T07:08:09+00:00"
        assert raster.cloud_cover == 12
        assert raster.bands[0].offset == 0


def test_a_stac_item_states_baseline_scale_and_fill(plain):
    item(plain.with_suffix(".json"), **{"s2:processing_baseline": "05.09"})
    with open_raster(plain) as raster:
        assert raster.bands[0].offset == pytest.approx(-0.1)
    rows = [{"scale": 0.0002, "offset": -0.2, "nodata": 2000}] * 3
    item(plain.with_suffix(".json"), asset={"raster:bands": rows}, **{"s2:processing_baseline": "05.09"})
    with open_raster(plain) as raster:
        assert (raster.bands[2].scale, raster.bands[2].offset) == (0.0002, -0.2)
        assert not raster.read().valid.any()


def test_a_stac_1_1_item_and_a_radar_item_are_understood(tmp_path):
    path = tmp_path / "image.tif"
    with rasterio.open(path, "w", driver="GTiff", width=2, height=2, count=2, dtype="float32") as out:
        out.write(np.full((2, 2, 2), 0.1, np.float32))
    item(tmp_path / "image.json", asset={"eo:bands": None, "sar:polarizations": ["VH", "VV"]})
    with open_raster(path) as raster:
        assert raster.read().band_names == ("VH", "VV")
    item(tmp_path / "image.json", asset={"eo:bands": None, "bands": [{"name": "B04"}, {"name": "B08"}]})
    with open_raster(path) as raster:
        assert raster.read().band_names == ("B04", "B08")


def test_a_stac_item_places_a_file_that_has_no_place(tmp_path):
    from PIL import Image

    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "image.png")
    place = {"proj:epsg": 32633, "proj:transform": [10, 0, 500_000, 0, -10, 5_000_000]}
    item(tmp_path / "image.json", href="image.png", **place)
    with open_raster(tmp_path / "image.png") as raster:
        assert raster.grid.crs.to_epsg() == 32633
        assert raster.grid.transform.c == 500_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        "null",
        '{"assets": []}',
        '{"assets": {"a": {"href": 3}, "b": null}}',
        '{"assets": {"a": {"href": "image.tif", "eo:bands": "B04"}}, "properties": []}',
        '{"assets": {"a": {"href": "image.tif", "eo:bands": [1, null, {}], "raster:bands": [{"scale": "x"}]}}}',
        '{"assets": {"a": {"href": "other.tif", "eo:bands": [{"name":"B04"},{"name":"B03"},{"name":"B08"}]}}}',
    ],
)
def test_a_bad_or_foreign_item_is_left_out(plain, text):
    plain.with_suffix(".json").write_text(text)
    with pytest.raises(BandError, match="--sensor"):
        open_raster(plain)


def test_two_items_that_mention_a_file_are_both_left_out(plain):
    for name in ("one.json", "two.json"):
        item(plain.parent / name)
    with pytest.raises(BandError):
        open_raster(plain)


def test_an_item_behind_a_link_is_left_out(plain, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "item.json"
    item(elsewhere)
    plain.with_suffix(".json").symlink_to(elsewhere)
    with pytest.raises(BandError):
        open_raster(plain)


def test_the_colours_a_picture_is_shown_in_do_not_name_the_bands_of_a_false_colour_sensor(tmp_path):
    from PIL import Image

    Image.fromarray(np.dstack([np.full((8, 8), value, np.uint8) for value in (10, 20, 30)])).save(tmp_path / "f.png")
    with open_raster(tmp_path / "f.png", sensor="ombria-s2") as raster:
        pixels, _ = raster.read_raw()
    assert [band.name for band in raster.bands] == ["swir", "nir", "red"]
    assert pixels[:, 0, 0].tolist() == [10, 20, 30]
