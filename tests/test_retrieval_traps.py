"""Traps that ran at full speed with wrong results: patch convolutions, forked handles, cache units, lost digits."""

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from fakes import TinyEncoder, write_raster
from rasterio.env import get_gdal_config

from retrieval.block_cache import MOST_BYTES, BlockCache
from retrieval.cutting import CELL_BYTES, Sheet
from retrieval.embed import Job, embed_rasters, encode_raw
from retrieval.reading import Readers, layout_of, read_chips
from rsvlm.encoder.stem import SpectralStem
from rsvlm.raster import open_raster, tiles
from rsvlm.sensors import SENSORS

COUNTERS = Path("/proc/self/io")


def bytes_read():
    """Bytes this process asked of its files so far."""
    if not COUNTERS.is_file():
        pytest.skip("this system does not count the bytes a process reads")
    return int(COUNTERS.read_text().split()[1])


def write_noise(path, interleave):
    """2 MB that no compression shrinks, in 64 blocks of 64 x 64 pixels."""
    pixels = np.random.default_rng(0).integers(1, 2**16, (4, 512, 512)).astype(np.uint16)
    size = {"height": 512, "width": 512, "count": 4, "dtype": "uint16", "blockxsize": 64, "blockysize": 64}
    with rasterio.open(path, "w", driver="GTiff", tiled=True, compress="lzw", interleave=interleave, **size) as file:
        file.write(pixels)
        file.descriptions = ("B02", "B03", "B04", "B08")
    return path


@pytest.mark.parametrize("count", [3, 4, 10, 12, 13, 16])
@pytest.mark.parametrize("patch", [2, 16])
def test_the_stem_is_right_for_every_number_of_bands_under_bfloat16(count, patch):
    torch.manual_seed(0)
    bands = (SENSORS["sentinel-2-l1c"].bands + SENSORS["landsat-8-c2l2"].bands)[:count]
    stem = SpectralStem(24, patch, patch, padding=0).eval()
    pixels = torch.randn(4, count, 32, 32)
    with torch.inference_mode():
        by_hand = torch.nn.functional.unfold(pixels.double(), patch, stride=patch)
        exact = torch.einsum("ok,nkl->nol", stem.weight(bands).double().flatten(1), by_hand)
        with torch.autocast("cpu", torch.bfloat16):
            found = stem(pixels, bands).double().flatten(2)
    assert float(torch.nn.functional.cosine_similarity(found.flatten(1), exact.flatten(1)).min()) > 0.9999


def test_uncompressed_rasters_come_out_right_through_many_threads_and_no_process(tmp_path):
    files = [write_raster(tmp_path / f"{i}.tif", seed=i, shape=(64, 64)) for i in range(12)]
    before = multiprocessing.active_children()
    with Readers([Job(path) for path in files], chip=32, stride=32, threads=6) as readers:
        chips = [message for message in readers.messages() if hasattr(message, "cut")]
        assert multiprocessing.active_children() == before
    assert len(chips) == 12 * 4
    for chip in chips:
        with open_raster(files[chip.number]) as raster:
            np.testing.assert_array_equal(chip.cut.raw, raster.read_raw(chip.cut.window)[0])


def test_the_block_cache_is_given_in_bytes_shared_and_put_back(monkeypatch):
    monkeypatch.delenv("GDAL_CACHEMAX", raising=False)
    before = get_gdal_config("GDAL_CACHEMAX")
    with BlockCache(1) as first:
        assert get_gdal_config("GDAL_CACHEMAX") == 2 * CELL_BYTES == 2 * 8 * 1024 * 1024
        with BlockCache(3) as second, rasterio.Env(GDAL_PAM_ENABLED="NO"):
            assert get_gdal_config("GDAL_CACHEMAX") == 6 * CELL_BYTES
            second.fit(2 * CELL_BYTES)
            second.fit(CELL_BYTES)
            assert get_gdal_config("GDAL_CACHEMAX") == 10 * CELL_BYTES
        first.fit(10**12)
        assert get_gdal_config("GDAL_CACHEMAX") == MOST_BYTES
    assert get_gdal_config("GDAL_CACHEMAX") == before
    monkeypatch.setenv("GDAL_CACHEMAX", "64")
    with BlockCache(1):
        assert get_gdal_config("GDAL_CACHEMAX") == before


def test_readers_give_the_block_cache_back_whatever_happened(tmp_path, monkeypatch):
    monkeypatch.delenv("GDAL_CACHEMAX", raising=False)
    before, path = get_gdal_config("GDAL_CACHEMAX"), write_noise(tmp_path / "a.tif", "pixel")

    def stop_reading():
        with Readers([Job(path), Job(path)], chip=32, stride=32, threads=3) as readers:
            next(readers.messages())
            assert 4 * CELL_BYTES <= get_gdal_config("GDAL_CACHEMAX") < before
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stop_reading()
    assert get_gdal_config("GDAL_CACHEMAX") == before


def test_blocks_of_many_layers_are_decoded_once_where_the_cache_is_small(tmp_path, monkeypatch):
    monkeypatch.delenv("GDAL_CACHEMAX", raising=False)
    monkeypatch.setattr("retrieval.block_cache.CELL_BYTES", 2**16)
    pixels = np.random.default_rng(0).integers(1, 2**16, (4, 512, 512)).astype(np.uint16)
    path, size = tmp_path / "a.jp2", {"height": 512, "width": 512, "count": 4, "dtype": "uint16"}
    lossless = {"QUALITY": 100, "REVERSIBLE": "YES", "BLOCKXSIZE": 256, "BLOCKYSIZE": 256}
    with rasterio.open(path, "w", driver="JP2OpenJPEG", **size, **lossless) as file:
        file.write(pixels)

    def fetched():
        before = bytes_read()
        (result,) = embed_rasters([Job(path, "naip")], TinyEncoder(), chip=64, stride=64, readers=2)
        assert result.failure is None
        return (bytes_read() - before) / path.stat().st_size

    assert fetched() < 2.3  # once for its hash, once for its pixels
    monkeypatch.setattr(BlockCache, "fit", lambda cache, cell_bytes: None)
    assert fetched() > 3


def test_layers_read_beside_the_bands_come_out_of_the_cache_however_many_read(tmp_path, monkeypatch):
    monkeypatch.delenv("GDAL_CACHEMAX", raising=False)
    for module in ("block_cache", "cutting", "reading"):
        monkeypatch.setattr(f"retrieval.{module}.CELL_BYTES", 2**16)
    random, names = np.random.default_rng(0), ("B02", "B03", "B04", "B11", "SCL", *"abcdefghijklmnopqrstuvwxyz")
    pixels = random.integers(1, 2**16, (len(names), 512, 512)).astype(np.uint16)
    pixels[4] = random.integers(1, 11, (512, 512))
    size = {"height": 512, "width": 512, "count": len(names), "dtype": "uint16", "blockxsize": 64, "blockysize": 64}
    path = tmp_path / "a.tif"
    with rasterio.open(path, "w", driver="GTiff", tiled=True, compress="lzw", interleave="pixel", **size) as file:
        file.write(pixels)
        file.descriptions = names

    def fetched():
        before = bytes_read()
        with Readers([Job(path, "sentinel-2-l2a")], chip=64, stride=64, threads=8) as readers:
            chips = [message.cut.cloud for message in readers.messages() if hasattr(message, "cut")]
        assert len(chips) == 64
        assert None not in chips
        return (bytes_read() - before) / path.stat().st_size

    assert fetched() < 2.3  # once for its hash, once for its pixels
    monkeypatch.setattr(BlockCache, "fit", lambda cache, cell_bytes: None)
    assert fetched() > 2.4


@pytest.mark.parametrize("interleave", ["band", "pixel"])
def test_a_file_is_fetched_once_however_its_chips_overlap(tmp_path, interleave):
    path = write_noise(tmp_path / "a.tif", interleave)
    size = path.stat().st_size

    def fetched(options, windows, together):
        with rasterio.Env(**options), open_raster(path) as raster:
            before = bytes_read()
            if together:
                assert len(list(read_chips(raster, Sheet(windows, layout_of(raster))))) == len(windows)
            else:
                for window in windows:
                    raster.read_raw(window)
            return (bytes_read() - before) / size

    with open_raster(path) as raster:
        windows = list(tiles(raster.grid, 96, 48))
    np.random.default_rng(0).shuffle(windows)
    with BlockCache(1):
        assert fetched({}, windows, together=True) < 1.1  # the pixels, and the directory of blocks
    assert fetched({"GDAL_CACHEMAX": 512}, windows, together=False) > 2  # what the trap costs, seen by this counter


def test_embedding_a_raster_fetches_it_once_beside_its_hash(tmp_path):
    path = write_noise(tmp_path / "a.tif", "pixel")
    before = bytes_read()
    (result,) = embed_rasters([Job(path, "sentinel-2-l2a")], TinyEncoder(), chip=96, stride=48, readers=3)
    assert result.failure is None
    assert bytes_read() - before < 2.3 * os.path.getsize(path)  # once for its hash, once for its pixels


def test_integers_reach_the_encoder_with_all_their_digits_even_under_bfloat16():
    class Listening(TinyEncoder):
        def embed(self, pixels, valid, bands):
            self.pixels = pixels.clone()
            return super().embed(pixels, valid, bands)

    encoder, bands = Listening(), (SENSORS["sentinel-2-l2a"].band("B02"),)
    raw = np.arange(10_000, 10_064, dtype=np.uint16).reshape(1, 1, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        encode_raw(encoder, raw, np.ones((1, 8, 8), bool), bands)
    assert encoder.pixels.dtype == torch.float32
    expected = np.arange(10_000, 10_064).reshape(1, 1, 8, 8) * 1e-4
    np.testing.assert_allclose(encoder.pixels.numpy(), expected, rtol=0, atol=2e-7)
    in_short = torch.from_numpy(raw.astype(np.int32)).to(torch.bfloat16)
    assert in_short.unique().numel() < 3  # what would be left of 64 values
    assert np.unique(encoder.pixels.numpy()).size == 64
