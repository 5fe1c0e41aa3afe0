"""Reading: the door refuses attacks in one sentence; windows, masks, scaling and grids come out right."""

import hashlib
import http.server
import logging
import os
import socket
import struct
import threading
import zlib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.warp import transform as transform_points

from rsvlm.errors import BandError, GeoreferenceError, ImageryError, ImageryTooLargeError, SceneError
from rsvlm.errors import UnsafeImageryError as Unsafe
from rsvlm.raster import Door, _File, _spread, open_raster, read_labels, read_scene, tiles
from rsvlm.resample import resample
from rsvlm.scene import Grid, Window

UTM = Affine(10, 0, 500_000, 0, -10, 5_000_000)


def write(path, pixels, *, crs="EPSG:32633", transform=UTM, names=(), tags=None, driver="GTiff", **more):
    pixels = np.asarray(pixels)
    count, height, width = pixels.shape
    profile = {"height": height, "width": width, "count": count, "dtype": pixels.dtype, **more}
    with rasterio.open(path, "w", driver=driver, crs=crs, transform=transform, **profile) as out:
        out.write(pixels)
        for number, name in enumerate(names, start=1):
            out.set_band_description(number, name)
        out.update_tags(**(tags or {}))
    return path


def rgb(path, height=8, width=9, **more):
    return write(path, np.full((3, height, width), 100, np.uint8), photometric="RGB", **more)


def refused(path, error=ImageryError, **options):
    with pytest.raises(error) as caught, open_raster(path, **options) as raster:
        raster.read()
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 500
    assert isinstance(caught.value, ImageryError)
    return text


# The door


@pytest.mark.parametrize(
    "path",
    [
        "",
        "http://127.0.0.1:1/a.tif",
        "https://example.org/a.tif",
        "s3://bucket/a.tif",
        "/vsizip/a.zip/b.tif",
        "/vsicurl/http://127.0.0.1/a.tif",
        "//vsimem/a.tif",
        "vrt://a.tif?bands=1",
        "STACIT:a.json",
        "WMS:http://127.0.0.1",
        "GTIFF_DIR:1:a.tif",
        "zip://a.zip!b.tif",
        "<VRTDataset/>",
        "a.tif\n",
        "a\x00.tif",
        Path("http://127.0.0.1/a.tif"),
    ],
)
def test_anything_but_the_path_of_a_local_file_is_refused(path):
    refused(path, Unsafe)


@pytest.mark.parametrize("path", ["missing.tif", "x" * 5000 + ".tif", "\ud800.tif", "../../nowhere/a.tif"])
def test_a_path_to_nothing_is_refused(path):
    refused(path)


def test_folders_pipes_and_devices_are_refused_without_hanging(tmp_path):
    os.mkfifo(tmp_path / "pipe.tif")
    for path in (tmp_path, tmp_path / "pipe.tif", "/dev/zero", "/dev/stdin"):
        refused(path)


def test_a_link_out_of_the_allowed_roots_is_refused_and_one_inside_is_not(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    rgb(outside / "a.tif")
    rgb(inside / "b.tif")
    (inside / "out.tif").symlink_to(outside / "a.tif")
    (inside / "in.tif").symlink_to(inside / "b.tif")
    door = Door(roots=(inside,))
    refused(inside / "out.tif", Unsafe, door=door)
    refused(inside / ".." / "outside" / "a.tif", Unsafe, door=door)
    with open_raster(inside / "in.tif", door=door) as raster:
        assert raster.path == inside / "b.tif"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 64,
        b"<html><body>not found</body></html>",
        b'<VRTDataset rasterXSize="1" rasterYSize="1"><VRTRasterBand dataType="Byte" band="1"/></VRTDataset>',
        b"GIF89a\x01\x00\x01\x00\x80\x00\x00",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0",
        b"II*\x00\x08\x00\x00\x00",
        bytes(range(256)) * 4,
    ],
)
def test_files_that_are_no_images_are_refused(tmp_path, content):
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    refused(path)


def test_a_vrt_renamed_to_tif_does_not_read_other_files(tmp_path):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(b"s" * 64)
    (tmp_path / "a.tif").write_text(
        f'<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" band="1" '
        f'subClass="VRTRawRasterBand"><SourceFilename>{secret}</SourceFilename></VRTRasterBand></VRTDataset>'
    )
    assert "no image" in refused(tmp_path / "a.tif")


@pytest.fixture
def listener():
    """A local web server that remembers who called."""
    calls = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            calls.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", calls
    server.shutdown()
    server.server_close()


def test_hostile_sidecars_are_not_read(tmp_path, listener):
    url, calls = listener
    path = write(tmp_path / "a.tif", np.full((3, 64, 64), 100, np.uint8), photometric="RGB", tiled=False)
    vrt = (
        '<VRTDataset rasterXSize="32" rasterYSize="32">'
        + "".join(
            f'<VRTRasterBand dataType="Byte" band="{n}"><SimpleSource><SourceFilename>/vsicurl/{url}/x.tif'
            f"</SourceFilename><SourceBand>{n}</SourceBand></SimpleSource></VRTRasterBand>"
            for n in (1, 2, 3)
        )
        + "</VRTDataset>"
    )
    Path(f"{path}.ovr").write_text(vrt)
    Path(f"{path}.msk").write_text(vrt)
    Path(f"{path}.aux.xml").write_text(
        "<PAMDataset><Metadata><MDI key='evil'>1</MDI></Metadata><Metadata domain='OVERVIEWS'>"
        f"<MDI key='OVERVIEW_FILE'>/vsicurl/{url}/y.tif</MDI></Metadata></PAMDataset>"
    )
    with open_raster(path) as raster:
        assert raster.read(shape=(8, 8)).valid.all()
        assert (raster.read_raw(shape=(16, 16))[0] == 100).all()
        assert "evil" not in raster._file.dataset.tags()
    assert calls == []


def test_trust_lets_a_vrt_in(tmp_path):
    rgb(tmp_path / "a.tif")
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{n}"><SimpleSource><SourceFilename relativeToVRT="1">a.tif'
        f"</SourceFilename><SourceBand>{n}</SourceBand></SimpleSource></VRTRasterBand>"
        for n in (1, 2, 3)
    )
    (tmp_path / "a.vrt").write_text(f'<VRTDataset rasterXSize="9" rasterYSize="8">{bands}</VRTDataset>')
    refused(tmp_path / "a.vrt")
    with open_raster(tmp_path / "a.vrt", door=Door(trust=True)) as raster:
        assert (raster.read_raw()[0] == 100).all()


@pytest.mark.parametrize("kept", [8, 100, 0.5])
def test_a_truncated_tif_is_refused(tmp_path, kept):
    noise = np.random.default_rng(0).integers(0, 255, (3, 100, 100), np.uint8)
    path = write(tmp_path / "a.tif", noise, photometric="RGB")
    data = path.read_bytes()
    path.write_bytes(data[: kept if isinstance(kept, int) else int(len(data) * kept)])
    refused(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_truncated_picture_is_refused_instead_of_read_as_grey(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (100, 100, 3), np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(path)


def test_a_sparse_bomb_is_refused_by_its_header(tmp_path):
    path = tmp_path / "bomb.tif"
    options = {"tiled": True, "blockxsize": 4096, "blockysize": 4096, "sparse_ok": True, "bigtiff": "YES"}
    with rasterio.open(path, "w", driver="GTiff", width=200_000, height=200_000, count=3, dtype="uint8", **options):
        pass
    assert path.stat().st_size < 1e6
    assert "200000 x 200000" in refused(path, ImageryTooLargeError)


def test_twenty_thousand_bands_are_refused_by_the_header(tmp_path):
    path = tmp_path / "bands.tif"
    with rasterio.open(path, "w", driver="GTiff", width=1, height=1, count=20_000, dtype="uint8", sparse_ok=True):
        pass
    assert "20,000 bands" in refused(path, ImageryTooLargeError)


def test_huge_blocks_and_huge_reads_are_refused(tmp_path):
    path = rgb(tmp_path / "a.tif", 64, 64)
    assert "blocks" in refused(path, ImageryTooLargeError, door=Door(max_block_bytes=1000))
    assert "by window" in refused(path, ImageryTooLargeError, door=Door(max_read_values=1000))
    assert "pixels" in refused(path, ImageryTooLargeError, door=Door(max_pixels=4095))
    with open_raster(path, door=Door(max_read_values=1000)) as raster:
        assert raster.read(Window(0, 0, 10, 10)).shape == (10, 10)


def test_a_png_text_bomb_is_refused(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    data = path.read_bytes()
    bomb = chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * 7_000_000)) * 40
    path.write_bytes(data[:33] + bomb + data[33:])
    assert "compressed text" in refused(path, ImageryTooLargeError)


def test_a_picture_of_400_megapixels_is_refused_by_its_header(tmp_path):
    path = tmp_path / "a.png"
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    ihdr = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    idat = zlib.compress(b"")
    chunk = struct.pack(">I", len(idat)) + b"IDAT" + idat + struct.pack(">I", zlib.crc32(b"IDAT" + idat))
    end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + ihdr + chunk + end)
    assert "20000 x 20000" in refused(path, ImageryTooLargeError)


def test_complex_samples_and_palettes_are_refused(tmp_path):
    path = write(tmp_path / "slc.tif", np.ones((1, 4, 4), np.complex64))
    assert "backscatter" in refused(path)
    Image.fromarray(np.zeros((4, 4), np.uint8)).convert("P").save(tmp_path / "palette.png")
    assert "expand" in refused(tmp_path / "palette.png")


def test_no_socket_is_opened_for_a_local_file(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("a socket was opened"))
    with open_raster(rgb(tmp_path / "a.tif")) as raster:
        raster.read()


# Pixels


def test_windows_agree_with_the_whole(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 255, (3, 20, 30), np.uint8)
    with open_raster(write(tmp_path / "a.tif", pixels, photometric="RGB")) as raster:
        window = Window(3, 5, 10, 12)
        raw, valid = raster.read_raw(window)
        part, whole = raster.read(window), raster.read()
    assert raw.dtype == np.uint8
    assert np.array_equal(raw, pixels[:, 3:13, 5:17])
    assert valid.all()
    assert np.array_equal(part.pixels, whole.crop(window).pixels)
    assert part.grid == whole.crop(window).grid
    assert np.allclose(whole.pixels, pixels / 255)


@pytest.mark.parametrize("window", [Window(-1, 0, 2, 2), Window(0, 0, 9, 1), Window(7, 8, 1, 2)])
def test_a_window_outside_the_file_is_refused(tmp_path, window):
    with open_raster(rgb(tmp_path / "a.tif")) as raster, pytest.raises(SceneError, match="outside"):
        raster.read(window)


def test_a_zero_shape_is_refused(tmp_path):
    with open_raster(rgb(tmp_path / "a.tif")) as raster, pytest.raises(ImageryError):
        raster.read(shape=(0, 4))


def test_reads_average_down_and_interpolate_up(tmp_path):
    pixels = np.random.default_rng(2).integers(0, 255, (3, 20, 30), np.uint8)
    with open_raster(write(tmp_path / "a.tif", pixels, photometric="RGB")) as raster:
        down, valid = raster.read_raw(shape=(10, 15))
        up, _ = raster.read_raw(shape=(40, 60))
        scene = raster.read(shape=(10, 15))
    means = pixels.reshape(3, 10, 2, 15, 2).mean(axis=(2, 4))
    assert np.abs(down - means).max() <= 0.5
    assert valid.all()
    slow = np.stack([Image.fromarray(p.astype(np.float32)).resize((60, 40), Image.Resampling.BILINEAR) for p in pixels])
    assert np.abs(up - slow).max() <= 1
    assert scene.grid.transform.a == pytest.approx(20)


def test_fill_in_the_file_gives_invalid_pixels_that_hold_zero(tmp_path):
    pixels = np.full((4, 8, 8), 1000, np.uint16)
    pixels[0, 0, 0] = 7
    names = ("B02", "B03", "B04", "B08")
    with open_raster(write(tmp_path / "a.tif", pixels, names=names, nodata=7)) as raster:
        raw, valid = raster.read_raw()
        scene = raster.read()
    assert not valid[0, 0]
    assert valid.sum() == 63
    assert (raw[:, 0, 0] == 0).all()
    assert (scene.pixels[:, 0, 0] == 0).all()


def test_black_is_a_colour_in_a_picture_unless_all_its_bands_are_fill(tmp_path):
    pixels = np.full((3, 4, 4), 9, np.uint8)
    pixels[0, 0, 0] = 0
    pixels[:, 1, 1] = 0
    with open_raster(write(tmp_path / "a.tif", pixels, photometric="RGB", nodata=0)) as raster:
        _, valid = raster.read_raw()
    assert valid[0, 0]
    assert not valid[1, 1]


def test_the_fill_of_a_sensor_holds_where_the_file_names_none_and_is_not_averaged_in(tmp_path):
    pixels = np.full((7, 8, 8), 2000, np.int16)
    pixels[:, :, 0] = -9999
    names = ("coastal", "blue", "green", "red", "nir", "swir1", "swir2")
    path = write(tmp_path / "a.tif", pixels, names=names, transform=Affine(30, 0, 500_000, 0, -30, 5_000_000))
    with open_raster(path) as raster:
        assert raster.read_raw()[1].sum() == 56
        scene = raster.read(shape=(4, 4))
    assert scene.valid.all()
    assert np.allclose(scene.pixels, 0.2, atol=1e-6)


def test_negative_reflectance_is_kept(tmp_path):
    names = ("coastal", "blue", "green", "red", "nir", "swir1", "swir2")
    with open_raster(write(tmp_path / "a.tif", np.full((7, 4, 4), -300, np.int16), names=names, crs=None)) as raster:
        scene = raster.read()
    assert scene.valid.all()
    assert np.allclose(scene.pixels, -0.03)


def test_an_alpha_band_is_a_mask(tmp_path):
    pixels = np.full((4, 6, 6), 200, np.uint8)
    pixels[3, :3] = 0
    for path in (tmp_path / "a.png", tmp_path / "a.webp"):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(path, lossless=True)
        with open_raster(path) as raster:
            scene = raster.read()
        assert scene.sensor.name == "rgb"
        assert not scene.valid[:3].any()
        assert scene.valid[3:].all()


def test_an_internal_mask_is_read(tmp_path):
    path = tmp_path / "a.tif"
    profile = {"height": 4, "width": 4, "count": 3, "dtype": "uint8", "photometric": "RGB"}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", driver="GTiff", **profile) as out:
        out.write(np.full((3, 4, 4), 50, np.uint8))
        out.write_mask(np.array([[True, True, False, False]] * 4))
    with open_raster(path) as raster:
        assert raster.read().valid.tolist() == [[True, True, False, False]] * 4


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e308])
def test_values_that_are_no_numbers_are_invalid(tmp_path, value):
    pixels = np.full((2, 4, 4), -12.0)
    pixels[1, 2, 2] = value
    with open_raster(write(tmp_path / "a.tif", pixels, names=("VV", "VH"))) as raster:
        raw, valid = raster.read_raw()
        scene = raster.read()
    assert raw.dtype == np.float64
    assert valid.sum() == scene.valid.sum() == 15
    assert np.isfinite(scene.pixels).all()


@pytest.mark.parametrize(("value", "fill"), [(np.nan, None), (np.inf, None), (-99.0, -99.0), (np.nan, np.nan)])
def test_a_scene_without_one_valid_pixel_can_be_read(tmp_path, value, fill):
    path = write(tmp_path / "a.tif", np.full((2, 4, 4), value, np.float32), names=("VV", "VH"), nodata=fill)
    with open_raster(path) as raster:
        scene = raster.read()
        small = raster.read(shape=(2, 2))
        assert not raster.linear_backscatter
    assert not scene.valid.any()
    assert not small.valid.any()
    assert (scene.pixels == 0).all()


def test_linear_backscatter_becomes_decibels_and_decibels_stay(tmp_path):
    linear = np.random.default_rng(3).uniform(0.001, 0.5, (2, 16, 16)).astype(np.float32)
    linear[0, 0, 0], linear[1, 0, 1] = 0, -0.2
    decibels = 10 * np.log10(np.maximum(linear, 1e-5))
    with open_raster(write(tmp_path / "lin.tif", linear, names=("VV", "VH"))) as raster:
        assert raster.linear_backscatter
        scene = raster.read()
        corner = raster.read(Window(0, 0, 2, 2))
    with open_raster(write(tmp_path / "db.tif", decibels, names=("VV", "VH"))) as raster:
        assert not raster.linear_backscatter
        same = raster.read()
    assert not scene.valid[0, :2].any()
    assert np.allclose(scene.pixels[:, scene.valid], same.pixels[:, scene.valid], atol=1e-4)
    assert np.array_equal(corner.pixels, scene.crop(Window(0, 0, 2, 2)).pixels)


def test_units_in_the_file_go_before_a_guess_from_its_values(tmp_path):
    high = np.full((1, 4, 4), 1.5, np.float32)
    with open_raster(write(tmp_path / "a.tif", high, names=("Sigma0_VV_db",)), sensor="sentinel-1-grd-vv") as raster:
        assert not raster.linear_backscatter
        assert np.allclose(raster.read().pixels, 1.5)
    low = np.full((1, 4, 4), -1.5, np.float32)
    with open_raster(write(tmp_path / "b.tif", low, names=("VV",), tags={"UNITS": "linear power"})) as raster:
        assert raster.linear_backscatter
        assert not raster.read().valid.any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (13, 17)])
def test_every_block_can_be_sampled_and_each_once(shape):
    places = list(_spread(*shape))
    assert sorted(places) == [(row, col) for row in range(shape[0]) for col in range(shape[1])]
    rows, cols = zip(*places[:9], strict=True)
    for length, starts in zip(shape, (rows, cols), strict=True):  # the first nine look into every third
        assert len({3 * start // length for start in starts}) == min(length, 3)


def test_units_are_told_from_a_few_blocks_and_from_all_where_little_is_valid(tmp_path, monkeypatch):
    linear = np.random.default_rng(5).uniform(0.001, 0.5, (2, 1024, 1024)).astype(np.float32)
    tiled = {"tiled": True, "blockxsize": 64, "blockysize": 64, "nodata": np.nan, "names": ("VV", "VH")}
    empty = np.full_like(linear, np.nan)
    empty[:, 70:90, 900:920] = linear[:, :20, :20]
    read, blocks = _File.read, []
    monkeypatch.setattr(_File, "read", lambda self, *rest: blocks.append(rest[0]) or read(self, *rest))
    with open_raster(write(tmp_path / "a.tif", linear, **tiled)) as raster:
        assert raster.linear_backscatter
        assert len(set(blocks)) == len(blocks) == 9  # of 256
    blocks.clear()
    with open_raster(write(tmp_path / "b.tif", empty, **tiled)) as raster:
        assert raster.linear_backscatter
        assert len(set(blocks)) == len(blocks) == 256
    blocks.clear()
    with open_raster(write(tmp_path / "c.tif", linear[:1], **{**tiled, "names": ("B04",)})) as raster:
        assert (raster.bands[0].scale, raster.bands[0].offset) == (1.0, 0.0)
        assert len(blocks) == 9


def test_a_second_handle_reads_the_same_without_asking_again(tmp_path, monkeypatch):
    linear = np.random.default_rng(6).uniform(0.001, 0.5, (2, 64, 64)).astype(np.float32)
    path = write(tmp_path / "a.tif", linear, names=("VV", "VH"))
    with open_raster(path) as raster:
        first = raster.read()
        monkeypatch.setattr("rsvlm.raster.item_beside", None)  # nothing is told anew
        with raster.again() as second:
            assert second._file.dataset is not raster._file.dataset
            read, whole = _File.read, []
            monkeypatch.setattr(_File, "read", lambda self, *rest: whole.append(rest[0]) or read(self, *rest))
            assert np.array_equal(second.read().pixels, first.pixels)
            assert whole == [Window(0, 0, 64, 64)]  # nothing was sampled
        assert np.array_equal(raster.read().pixels, first.pixels)
        write(path, linear[:1], names=("VV",))
        with pytest.raises(ImageryError, match="replaced by another file"):
            raster.again()


def test_layers_that_are_no_band_are_read_by_their_name(tmp_path):
    pixels = np.random.default_rng(7).integers(1, 9000, (3, 20, 30)).astype(np.uint16)
    path = write(tmp_path / "a.tif", pixels, names=("B04", "B08", "SCL"))
    with open_raster(path, sensor="sentinel-2-l2a") as raster:
        assert raster.layer_names == ("B04", "B08", "SCL")
        assert len(raster.bands) == 2
        assert np.array_equal(raster.read_layer("SCL"), pixels[2])
        assert np.array_equal(raster.read_layer("B08", Window(3, 4, 5, 6)), pixels[1, 3:8, 4:10])
        with pytest.raises(BandError, match="no layer 'B99'; it has B04, B08, SCL"):
            raster.read_layer("B99")
        with pytest.raises(SceneError, match="outside"):
            raster.read_layer("SCL", Window(0, 0, 21, 1))


def test_scale_and_offset_of_the_file_go_before_the_preset(tmp_path):
    path = write(tmp_path / "S2B_MSIL2A_20230101T100000_N0509_R1.tif", np.full((1, 4, 4), 2000, np.uint16))
    with rasterio.open(path, "r+") as out:
        out.scales, out.offsets = (0.0002,), (0.05,)
        out.set_band_description(1, "B04")
    with open_raster(path) as raster:
        assert (raster.bands[0].scale, raster.bands[0].offset) == (0.0002, 0.05)
        assert np.allclose(raster.read().pixels, 0.45)


@pytest.mark.parametrize(
    ("name", "tags", "offset"),
    [
        ("S2B_MSIL2A_20230101T100000_N0509_R122_T33UUU_20230101T120000.tif", {}, -0.1),
        ("S2B_MSIL2A_20180101T100000_N0206_R122_T33UUU_20180101T120000.tif", {}, 0.0),
        ("a.tif", {"PROCESSING_BASELINE": "04.00"}, -0.1),
        ("a.tif", {"PROCESSING_BASELINE": "03.01"}, 0.0),
        ("S2B_MSIL2A_20180101T100000_N0206_R122_T33UUU_20180101T120000.SAFE/a.tif", {}, 0.0),
        ("S2B_MSIL2A_20220201T100000_N0400_R122_T33UUU_20220201T120000.SAFE/GRANULE/a.tif", {}, -0.1),
        ("S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57/a.tif", {}, 0.0),  # made again outside ESA's chain
        ("a.tif", {}, 0.0),
    ],
)
def test_sentinel_2_is_shifted_from_baseline_4_on(tmp_path, name, tags, offset):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, np.full((2, 4, 4), 2000, np.uint16), names=("B04", "B08"), tags=tags)
    with open_raster(path) as raster:
        assert raster.bands[0].offset == pytest.approx(offset)
        assert np.allclose(raster.read().pixels, 0.2 + offset)


def test_reflectance_already_stored_as_floats_is_not_scaled_again(tmp_path):
    names = ("B02", "B03", "B04", "B08")
    with open_raster(write(tmp_path / "a.tif", np.full((4, 4, 4), 0.3, np.float32), names=names)) as raster:
        assert np.allclose(raster.read().pixels, 0.3)
    with open_raster(write(tmp_path / "b.tif", np.full((4, 4, 4), 3000, np.float32), names=names)) as raster:
        assert np.allclose(raster.read().pixels, 0.3)


def test_a_sixteen_bit_png_keeps_its_sixteen_bits(tmp_path):
    pixels = np.random.default_rng(4).integers(0, 65535, (3, 5, 5), np.uint16)
    path = write(tmp_path / "a.png", pixels, driver="PNG", crs=None, transform=Affine.identity())
    with open_raster(path, sensor="rgb-16") as raster:
        assert np.array_equal(raster.read_raw()[0], pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_on_its_side_is_turned_as_its_exif_says(tmp_path, orientation):
    from PIL import ImageOps

    levels = np.zeros((16, 32, 3), np.uint8)
    levels[:8, :8], levels[8:, 24:] = (250, 0, 0), (0, 250, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    Image.fromarray(levels).save(path, quality=95, subsampling=0, exif=exif)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(path)), np.int16).transpose(2, 0, 1)
    with open_raster(path) as raster:
        raw = raster.read_raw()[0].astype(np.int16)
    assert raw.shape == wanted.shape
    assert np.abs(raw - wanted).max() <= 4


def test_jpeg_2000_and_cmyk_jpeg_are_read(tmp_path):
    pixels = np.random.default_rng(5).integers(0, 4000, (4, 64, 64), np.uint16)
    lossless = {"QUALITY": 100, "REVERSIBLE": "YES"}
    path = write(tmp_path / "a.jp2", pixels, driver="JP2OpenJPEG", **lossless)
    with open_raster(path, sensor="sentinel-2-l2a", bands=("B02", "B03", "B04", "B08")) as raster:
        assert np.array_equal(raster.read_raw()[0] * (pixels > 0).all(0), pixels * (pixels > 0).all(0))
        assert raster.grid.crs.to_epsg() == 32633
    Image.fromarray(np.full((8, 8, 3), 120, np.uint8)).convert("CMYK").save(tmp_path / "a.jpg")
    with open_raster(tmp_path / "a.jpg") as raster:
        assert np.abs(raster.read_raw()[0].astype(int) - 120).max() < 10


@pytest.mark.parametrize("shape", [(1, 1), (1, 256)])
def test_the_smallest_rasters_can_be_read(tmp_path, shape):
    with open_raster(rgb(tmp_path / "a.tif", *shape)) as raster:
        assert raster.read().shape == shape
        assert next(tiles(raster.grid, 64, 64)).height == 1
        assert raster.read(shape=(4, 4)).valid.all()


def test_signed_bytes_can_be_read_when_the_sensor_is_named(tmp_path):
    with open_raster(write(tmp_path / "a.tif", np.full((3, 4, 4), -5, np.int8)), sensor="rgb") as raster:
        assert (raster.read_raw()[0] == -5).all()


# Grids


def test_south_up_and_rotated_grids_are_kept_as_they_are(tmp_path):
    pixels = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    for transform in (Affine(10, 0, 5e5, 0, 10, 5e6), UTM @ Affine.rotation(30)):
        path = write(tmp_path / "a.tif", pixels, transform=transform, photometric="RGB")
        with open_raster(path) as raster:
            scene = raster.read()
            assert scene.grid.transform.almost_equals(transform)
            assert np.array_equal(raster.read_raw()[0], pixels)
            xs, ys = transform @ (5, 4)
            (lon,), (lat,) = transform_points("EPSG:32633", "EPSG:4326", [xs], [ys])
            assert np.allclose(scene.grid.lonlat(5, 4), (lon, lat))


def test_no_crs_gives_pixels_and_a_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING), open_raster(rgb(tmp_path / "a.tif", crs=None)) as raster:
        assert raster.grid.crs is None
        with pytest.raises(GeoreferenceError, match="no coordinate system"):
            _ = raster.grid.footprint
    assert "works in pixels" in caplog.text


def test_ground_control_points_alone_give_pixels_and_a_warning(tmp_path, caplog):
    points = [GroundControlPoint(r, c, 13 + c / 100, 52 - r / 100) for r in (0, 8) for c in (0, 9)]
    path = tmp_path / "a.tif"
    profile = {"height": 8, "width": 9, "count": 3, "dtype": "uint8", "photometric": "RGB"}
    with rasterio.open(path, "w", driver="GTiff", gcps=points, crs="EPSG:4326", **profile) as out:
        out.write(np.ones((3, 8, 9), np.uint8))
    with caplog.at_level(logging.WARNING), open_raster(path) as raster:
        assert raster.grid.crs is None
    assert "ground control points" in caplog.text


MOON = 'GEOGCS["Moon",DATUM["Moon",SPHEROID["Moon",1737400,0]],PRIMEM["0",0],UNIT["degree",0.0174532925199433]]'
LOCAL = 'LOCAL_CS["site grid",UNIT["metre",1]]'


@pytest.mark.parametrize("crs", [MOON, LOCAL])
def test_a_system_that_is_not_of_the_earth_is_ignored_with_a_warning(tmp_path, caplog, crs):
    path = rgb(tmp_path / "a.tif", crs=crs, transform=Affine(0.1, 0, 5, 0, -0.1, 5))
    with caplog.at_level(logging.WARNING), open_raster(path) as raster:
        assert raster.grid.crs is None
    assert "Earth" in caplog.text


def test_geographic_grids_and_the_antimeridian_have_footprints(tmp_path):
    path = rgb(tmp_path / "a.tif", 10, 20, crs="EPSG:4326", transform=Affine(0.1, 0, 179, 0, -0.1, 1))
    with open_raster(path) as raster:
        footprint = raster.grid.footprint
    assert footprint.geom_type == "MultiPolygon"
    west, _, east, _ = footprint.bounds
    assert (west, east) == (-180, 180)
    assert footprint.area == pytest.approx(2.0)


# Metadata


@pytest.mark.parametrize(
    ("name", "tags", "day"),
    [
        ("s2_20170216.tif", {}, (2017, 2, 16)),
        ("landsat7_1999-322.tif", {}, (1999, 11, 18)),
        ("HLS.S30.T33UUU.2020047T101029.tif", {}, (2020, 2, 16)),
        ("a_2017-02-16_b.tif", {}, (2017, 2, 16)),
        ("a.tif", {"TIFFTAG_DATETIME": "2019:05:04 10:11:12"}, (2019, 5, 4)),
        ("a_20170216.tif", {"ACQUISITIONDATETIME": "2018-01-02T03:04:05Z"}, (2018, 1, 2)),
        ("a_20170216.tif", {"TIFFTAG_DATETIME": "2021:05:04 10:11:12"}, (2017, 2, 16)),
        ("a_20179916.tif", {}, None),
        ("chip_2048_256.tif", {}, None),
        ("tile_1920_128.tif", {}, None),
        ("tile_2016_128.tif", {}, None),
        ("scene_19200508.tif", {}, None),
        ("scene_20991231.tif", {}, None),
        ("scene_2019366.tif", {}, None),
        ("naip_m_4709963.tif", {"TIFFTAG_DATETIME": "yesterday"}, None),
    ],
)
def test_the_date_comes_from_tags_or_the_name(tmp_path, name, tags, day):
    with open_raster(rgb(tmp_path / name, tags=tags)) as raster:
        found = raster.acquired
    assert (found and (found.year, found.month, found.day)) == day
    assert found is None or found.tzinfo is UTC


def test_the_content_hash_is_that_of_the_bytes(tmp_path):
    path = rgb(tmp_path / "a.tif")
    with open_raster(path) as raster:
        assert raster.content_hash == hashlib.sha256(path.read_bytes()).hexdigest()


def test_cloud_cover_is_read_from_tags(tmp_path):
    with open_raster(rgb(tmp_path / "a.tif", tags={"CLOUD_COVER": "12.5"})) as raster:
        assert raster.cloud_cover == 12.5
    with open_raster(rgb(tmp_path / "b.tif", tags={"CLOUD_COVER": "many"})) as raster:
        assert raster.cloud_cover is None


# Several files, tiles


def band_files(folder, names_and_sizes, side=240):
    rng, paths = np.random.default_rng(6), []
    for name, size in names_and_sizes:
        pixels = rng.integers(1, 4000, (1, side // size, side // size), np.uint16)
        transform = UTM @ Affine.scale(size / 10)
        paths.append(write(folder / f"T33UUU_20200101T101010_{name}_{size}m.tif", pixels, transform=transform))
    return paths


def test_band_files_are_brought_to_the_finest_grid(tmp_path):
    paths = band_files(tmp_path, [("B11", 20), ("B02", 10), ("B01", 60), ("B8A", 20)])
    scene = read_scene(paths)
    assert scene.band_names == ("B11", "B02", "B01", "B8A")
    assert scene.shape == (24, 24)
    assert scene.sensor.name == "sentinel-2-l2a"
    assert scene.acquired == datetime(2020, 1, 1, 10, 10, 10, tzinfo=UTC)
    coarse = rasterio.open(paths[0]).read(1).astype(np.float32)
    slow = np.asarray(Image.fromarray(coarse).resize((24, 24), Image.Resampling.BILINEAR)) * 1e-4
    assert np.abs(scene.band("B11") - slow).max() < 1e-4


def test_a_window_over_band_files_agrees_with_the_whole(tmp_path):
    paths = band_files(tmp_path, [("B02", 10), ("B11", 20), ("B01", 60)], side=480)
    window = Window(7, 11, 13, 17)
    part, whole = read_scene(paths, window=window), read_scene(paths)
    assert part.grid == whole.crop(window).grid
    assert np.allclose(part.pixels, whole.crop(window).pixels, atol=1.1e-4)
    assert read_scene(paths, window=window, shape=(5, 5)).shape == (5, 5)
    assert read_scene(paths, shape=(12, 12)).shape == (12, 12)


def test_band_files_of_other_ground_or_crs_are_refused(tmp_path):
    first, second = band_files(tmp_path, [("B02", 10), ("B03", 10)])
    write(second, np.ones((1, 24, 24), np.uint16), transform=UTM @ Affine.translation(3, 0))
    with pytest.raises(SceneError, match="other ground"):
        read_scene([first, second])
    write(second, np.ones((1, 24, 24), np.uint16), crs="EPSG:32632")
    with pytest.raises(SceneError, match="coordinate system"):
        read_scene([first, second])


def test_lists_that_do_not_say_their_bands_are_refused(tmp_path):
    paths = band_files(tmp_path, [("B02", 10), ("B03", 10)])
    plain = write(tmp_path / "plain.tif", np.ones((1, 24, 24), np.uint16))
    for bad in ([paths[0], paths[0]], [paths[0], plain]):
        with pytest.raises(BandError):
            read_scene(bad)
    with pytest.raises(SceneError):
        read_scene([])
    with pytest.raises(SceneError):
        read_scene([paths[0], rgb(tmp_path / "x_B03.tif", 24, 24)])
    scene = read_scene([paths[0], plain], bands=("B02", "B08"), sensor="sentinel-2-l1c")
    assert scene.band_names == ("B02", "B08")


@pytest.mark.parametrize(("height", "width", "size", "stride"), [(100, 70, 32, 32), (33, 64, 32, 20), (10, 90, 32, 32)])
def test_tiles_cover_every_pixel_row_by_row(height, width, size, stride):
    seen, windows = np.zeros((height, width), int), list(tiles(Grid(height, width), size, stride))
    for w in windows:
        assert (w.height, w.width) == (min(size, height), min(size, width))
        seen[w.row : w.row + w.height, w.col : w.col + w.width] += 1
    assert (seen >= 1).all()
    assert windows == sorted(windows, key=lambda w: (w.row, w.col))
    assert len(set(windows)) == len(windows)


@pytest.mark.parametrize(("size", "stride"), [(0, 1), (8, 0), (8, 9), (-1, -1)])
def test_tiles_that_would_leave_gaps_are_refused(size, stride):
    with pytest.raises(SceneError, match="stride"):
        list(tiles(Grid(10, 10), size, stride))


# Real files


def test_real_scenes_are_read_with_place_and_date(data_dir):
    scene = read_scene(data_dir / "scenes" / "s2_l1c_t33uuu_20170216.tif", shape=(96, 192))
    assert scene.sensor.name == "sentinel-2-l1c"
    assert scene.band_names[-1] == "B8A"
    assert 0.0 < scene.band("B08").mean() < 0.6
    assert scene.acquired == datetime(2017, 2, 16, tzinfo=UTC)
    lon, lat = scene.grid.lonlat(0, 0)
    assert (round(float(lon), 1), round(float(lat), 1)) == (12.5, 52.5)


def test_the_real_landsat_pair_leaves_out_its_unnamed_band(data_dir, caplog):
    caplog.set_level(logging.INFO)
    for name, year in (("landsat7_1999-322.tif", 1999), ("landsat7_2002-106.tif", 2002)):
        scene = read_scene(data_dir / "scenes" / name)
        assert scene.sensor.name == "landsat-7-ledaps"
        assert scene.band_names == ("blue", "green", "red", "nir", "swir16", "swir22", "lwir")
        assert 270 < scene.band("lwir").mean() < 320
        assert scene.acquired.year == year
    assert "left out" in caplog.text


def test_the_real_sar_scene_must_be_named_and_is_in_decibels(data_dir):
    path = data_dir / "scenes" / "s1_vv_db_20150309.tif"
    with pytest.raises(BandError, match=r"--sensor, such as .*sentinel-1-grd-vv"):
        open_raster(path)
    with open_raster(path, sensor="sentinel-1-grd-vv") as raster:
        assert not raster.linear_backscatter
        assert -30 < raster.read().pixels.min() < -5


def test_real_pictures_and_chips_are_read(data_dir):
    for pattern, sensor in (
        ("scenes/naip*.tif", "naip"),
        ("scenes/sen12ms*_s2_*.tif", "sentinel-2-l1c"),
        ("scenes/sen12ms*_lc_*.tif", "rgb"),
        ("hls_worldcover/chips/*.tif", "hls"),
        ("ombria/s2_before/*.webp", "rgb"),
        ("dsifn_change/A/*.png", "rgb"),
    ):
        path = sorted(data_dir.glob(pattern))[0]
        with open_raster(path) as raster:
            assert raster.sensor.name == sensor
            assert raster.read().valid.all()
    with open_raster(sorted(data_dir.glob("ombria/s1_before/*.webp"))[0], sensor="ombria-s1") as raster:
        assert raster.read().band_names == ("backscatter",)


def test_masked_averages_agree_with_a_slow_twin():
    rng = np.random.default_rng(7)
    raw, valid = rng.normal(size=(2, 12, 8)).astype(np.float32), rng.random((12, 8)) > 0.4
    valid[:3, :2] = False
    got, kept = resample(raw, valid, (4, 4))
    for row in range(4):
        for col in range(4):
            inside = valid[3 * row : 3 * row + 3, 2 * col : 2 * col + 2]
            values = raw[:, 3 * row : 3 * row + 3, 2 * col : 2 * col + 2][:, inside]
            assert kept[row, col] == inside.any()
            wanted = values.mean(axis=1) if inside.any() else 0
            assert np.allclose(got[:, row, col], wanted, atol=1e-5)


def test_labels_are_read_as_stored_without_a_sensor(tmp_path, data_dir):
    codes = np.arange(12, dtype=np.uint8).reshape(3, 4)
    with rasterio.open(tmp_path / "codes.tif", "w", driver="GTiff", height=3, width=4, count=2, dtype="uint8") as file:
        file.write(np.stack([codes, codes + 100]))
    assert np.array_equal(read_labels(tmp_path / "codes.tif"), codes)
    assert np.array_equal(read_labels(tmp_path / "codes.tif", band=2), codes + 100)
    with pytest.raises(BandError, match="no number 3"):
        read_labels(tmp_path / "codes.tif", band=3)
    mask = read_labels(next((data_dir / "ombria" / "mask").iterdir()))
    assert mask.shape == (256, 256)
    assert set(np.unique(mask)) <= {0, 1, 255}
