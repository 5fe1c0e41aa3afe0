"""The sensor table is whole, bands answer to their names, and a sensor of one's own is one small file."""

import pytest

from rsvlm.errors import BandError, SensorError
from rsvlm.sensors import SENSORS, UNITS, Band, find_sensor

MINE = """
[mine]
kind = "optical"
units = "reflectance"
scale = 0.001
nodata = -1
bands = [
  { name = "a", wavelength_nm = 500, fwhm_nm = 10 },
  { name = "b", wavelength_nm = 600, fwhm_nm = 10, scale = 2 },
]
"""


def described(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return find_sensor(path)


def test_every_sensor_of_the_issue_is_there():
    wanted = {
        *("sentinel-2-l1c", "sentinel-2-l2a", "sentinel-1-grd", "hls", "naip", "planetscope-4", "planetscope-8", "rgb"),
        *(f"landsat-{n}-c2l2" for n in (5, 7, 8, 9)),
        *("ombria-s1", "ombria-s2"),
    }
    assert wanted <= set(SENSORS)
    assert [len(SENSORS[name].bands) for name in ("sentinel-2-l1c", "sentinel-2-l2a")] == [13, 12]


@pytest.mark.parametrize("sensor", SENSORS.values(), ids=lambda sensor: sensor.name)
def test_every_band_has_its_physics(sensor):
    assert sensor.units in UNITS
    assert sensor.dtypes
    for band in sensor.bands:
        if sensor.kind == "optical":
            assert 300 < band.wavelength_nm < 13_000
            assert 5 < band.fwhm_nm < 2500
        else:
            assert band.frequency_ghz == 5.405
        assert sensor.band(band.name) is band


def test_collection_2_landsat_scales_as_usgs_says():
    band = SENSORS["landsat-8-c2l2"].band("red")
    assert (band.scale, band.offset) == (2.75e-05, -0.2)
    thermal = SENSORS["landsat-8-c2l2"].band("lwir11")
    assert (thermal.scale, thermal.offset, thermal.units) == (0.00341802, 149.0, "K")


@pytest.mark.parametrize("text", ["B04", "b04", " red ", "B4"])
def test_a_band_answers_to_its_names(text):
    assert SENSORS["sentinel-2-l2a"].band(text).name == "B04"


def test_a_band_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(BandError, match="VV, VH"):
        SENSORS["sentinel-1-grd"].band("HH")


def test_a_sensor_of_ones_own_is_read_from_its_file(tmp_path):
    sensor = described(tmp_path, MINE)
    assert sensor.name == "mine"
    assert [band.scale for band in sensor.bands] == [0.001, 2]
    assert sensor.nodata == -1
    assert find_sensor(sensor) is sensor


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        MINE + MINE.replace("[mine]", "[other]"),
        MINE.replace("kind", "sort"),
        MINE.replace('"optical"', '"thermal"'),
        MINE.replace("wavelength_nm", "wavelength"),
        MINE.replace("500", '"500"'),
        MINE.replace("500", "-500"),
        MINE.replace("0.001", '"x"'),
        MINE.replace("0.001", "nan"),
        MINE.replace("0.001", "0"),
        MINE.replace('"b"', '"a"'),
        MINE.replace('"reflectance"', '"furlongs"'),
        MINE.replace("nodata = -1", 'nodata = "none"'),
        MINE.replace("nodata = -1", "pixel_size_m = 3"),
        '[mine]\nkind = "optical"\nunits = "reflectance"\nbands = 3',
        '[mine]\nkind = "optical"\nunits = "reflectance"\nbands = []',
        "mine = 3",
    ],
)
def test_a_bad_sensor_file_is_refused(tmp_path, text):
    with pytest.raises((SensorError, BandError)):
        described(tmp_path, text)


def test_missing_and_unreadable_sensor_files_are_refused(tmp_path):
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    for name in (tmp_path / "none.toml", tmp_path, tmp_path / "bytes.toml", "x" * 5000 + ".toml", "nothing", ""):
        with pytest.raises(SensorError):
            find_sensor(name)


def test_a_band_is_optical_or_radar_and_never_both():
    with pytest.raises(BandError, match="either"):
        Band("a", "a", 10)
    with pytest.raises(BandError, match="either"):
        Band("a", "a", 10, wavelength_nm=500, fwhm_nm=10, polarisation="VV", frequency_ghz=5.4)
