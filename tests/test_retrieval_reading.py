"""Every block is read once in any order, overlap and layout; what is cut is what a window read alone would give."""

import os
import subprocess
import sys
import threading
import time
from functools import partialmethod

import numpy as np
import pytest
import rasterio
from fakes import TinyEncoder, write_raster

from retrieval.cutting import Blocks, Layout, Sheet, cells_of
from retrieval.embed import _Assembly, embed_rasters
from retrieval.intake import content_hash
from retrieval.quality import cloud_test
from retrieval.reading import Chip, Ended, Job, Opened, Readers, layout_of, read_chips
from rsvlm.errors import SceneError
from rsvlm.raster import Raster, open_raster, tiles
from rsvlm.scene import Window
from rsvlm.spectral import clouds

BANDS = ("B02", "B03", "B04", "B08", "B11", "B12")
LAYOUTS = {
    "tiled by band": {"tiled": True, "blockxsize": 64, "blockysize": 32, "interleave": "band", "compress": "deflate"},
    "tiled by pixel": {"tiled": True, "blockxsize": 32, "blockysize": 64, "interleave": "pixel", "compress": "lzw"},
    "striped by band": {"blockysize": 7, "interleave": "band"},
    "striped by pixel": {"blockysize": 1, "interleave": "pixel", "compress": "deflate"},
}


def write_noise(path, shape=(150, 230), *, bands=BANDS, dtype="uint16", seed=0, high=9000, **layout):
    """Noise, which no compression shrinks, with 3 % missing pixels."""
    random = np.random.default_rng(seed)
    pixels = random.integers(1, high, (len(bands), *shape)).astype(dtype)
    pixels[:, random.random(shape) < 0.03] = 0
    size = {"height": shape[0], "width": shape[1], "count": len(bands), "dtype": dtype, "nodata": 0}
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
    with rasterio.open(path, "w", driver="GTiff", **size, **place, **layout) as file:
        file.write(pixels)
        file.descriptions = bands
    return path


def some_windows(random, shape, count=40):
    """Windows of one size anywhere, in no order, some of them twice."""
    size = tuple(int(random.integers(1, n + 1)) for n in shape)
    starts = [[int(random.integers(0, n - s + 1)) for n, s in zip(shape, size, strict=True)] for _ in range(count)]
    return [Window(row, col, *size) for row, col in starts + starts[:3]]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("seed", range(4))
def test_any_order_and_overlap_reads_each_touched_block_once_and_gives_the_same_pixels(tmp_path, layout, seed):
    path = write_noise(tmp_path / "a.tif", **LAYOUTS[layout])
    with open_raster(path) as raster:
        windows = some_windows(np.random.default_rng(seed), raster.grid.shape)
        sheet = Sheet(windows, layout_of(raster))
        cuts = {cut.place: cut for cut in read_chips(raster, sheet)}
        assert sorted(cuts) == list(range(len(windows)))
        for place, window in enumerate(windows):
            raw, valid = raster.read_raw(window)
            np.testing.assert_array_equal(cuts[place].raw, raw)
            np.testing.assert_array_equal(cuts[place].valid, valid)
            assert cuts[place].share == pytest.approx(valid.mean())
    assert sheet.blocks.ratio == 1.0
    assert sheet.blocks.touched > 1


def test_blocks_no_chip_lies_on_are_not_read(tmp_path):
    path = write_noise(tmp_path / "a.tif", tiled=True, blockxsize=32, blockysize=32)
    with open_raster(path) as raster:
        sheet = Sheet([Window(0, 0, 20, 20), Window(100, 200, 20, 30)], layout_of(raster))
        assert len(list(read_chips(raster, sheet))) == 2
    assert sheet.blocks == Blocks(decoded=1 + 2, touched=1 + 2)  # rows 96-127; columns 192-223 and 224-229


def test_cells_are_whole_blocks_in_reading_order():
    layout = Layout(shape=(100, 150), block=(64, 64), pixel_bytes=2)
    touched = np.array([[True, True, False], [False, True, True]])
    assert cells_of(layout, touched) == [Window(0, 0, 64, 128), Window(64, 64, 36, 86)]
    wide = Layout(shape=(1024, 200_000), block=(512, 512), pixel_bytes=24)  # 2.5 GB a row of blocks, 25 MB a column
    assert wide.by_columns
    assert cells_of(wide, np.ones((2, 391), bool))[:3] == [
        Window(0, 0, 512, 512), Window(512, 0, 512, 512), Window(0, 512, 512, 512)
    ]  # fmt: skip
    assert not Layout(shape=(200_000, 1024), block=(512, 512), pixel_bytes=24).by_columns
    assert Blocks().ratio == 0.0


def test_a_window_outside_the_raster_is_refused():
    layout = Layout(shape=(100, 150), block=(64, 64), pixel_bytes=2)
    for window in (Window(0, 0, 101, 1), Window(0, 149, 1, 2), Window(-1, 0, 5, 5)):
        with pytest.raises(SceneError, match="outside"):
            Sheet([window], layout)


def test_parts_are_let_go_as_soon_as_no_chip_needs_them(tmp_path):
    path = write_noise(tmp_path / "a.tif", (512, 64), tiled=True, blockxsize=64, blockysize=64)
    with open_raster(path) as raster:
        sheet = Sheet(list(tiles(raster.grid, 64, 48)), layout_of(raster))
        held = [len(sheet._parts) for _ in read_chips(raster, sheet)]
    assert max(held) <= 2
    assert not sheet._parts


def test_a_chip_inside_one_part_is_no_copy_until_it_must_stand_alone(tmp_path):
    path = write_noise(tmp_path / "a.tif", (64, 100), tiled=True, blockxsize=64, blockysize=64)
    with open_raster(path) as raster:
        windows = list(tiles(raster.grid, 32, 32))
        cuts = list(read_chips(raster, Sheet(windows, layout_of(raster))))
        few = list(read_chips(raster, Sheet(windows[:3], layout_of(raster))))
    assert [cut.raw.base is None for cut in few] == [True] * 3
    for cut in cuts:
        assert cut.raw.base is cuts[0].raw.base is not None
        own = cut.alone()
        assert own.raw.base is None
        assert own.valid.base is None
        np.testing.assert_array_equal(own.raw, cut.raw)
        np.testing.assert_array_equal(own.valid, cut.valid)
        assert own.alone() is own


def test_chips_that_wait_for_their_batch_keep_no_parts_of_files_that_are_done(tmp_path):
    jobs = [Job(write_noise(tmp_path / f"{i}.tif", (64, 64), seed=i)) for i in range(3)]
    assembly = _Assembly(jobs, [TinyEncoder()], 64, None)
    with Readers(jobs, chip=32, stride=32) as readers:
        for message in readers.messages():
            if message is not None:
                assembly.accept(message)
    (waiting,) = assembly._groups.values()
    assert len(waiting) == 3 * 4
    assert all(chip.cut.alone() is chip.cut for chip in waiting)


def heard(jobs, **options):
    """All messages by kind, and the chips' pixels."""
    with Readers(jobs, **{"chip": 32, "stride": 24, **options}) as readers:
        found = [message for message in readers.messages() if message is not None]
    return [[m for m in found if isinstance(m, kind)] for kind in (Opened, Chip, Ended)]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_share_one_raster_and_still_read_each_block_once(tmp_path, threads):
    path = write_noise(tmp_path / "a.tif", (400, 300), **LAYOUTS["tiled by band"])
    opened, chips, ended = heard([Job(path)], threads=threads)
    with open_raster(path) as raster:
        windows = list(tiles(raster.grid, 32, 24))
        assert sorted(chip.cut.place for chip in chips) == list(range(len(windows)))
        for chip in chips:
            assert chip.cut.window == windows[chip.cut.place]
            np.testing.assert_array_equal(chip.cut.raw, raster.read_raw(chip.cut.window)[0])
    assert len(opened) == 1
    assert [(e.chips, e.failure, e.blocks.ratio) for e in ended] == [(len(windows), None, 1.0)]


def test_a_file_damaged_in_the_middle_ends_once_with_its_reason(tmp_path):
    layout = {**LAYOUTS["tiled by band"], "interleave": "pixel"}
    whole = write_noise(tmp_path / "b.tif", (300, 300), **layout)
    cut_off = tmp_path / "a.tif"
    data = bytearray(whole.read_bytes())
    data[len(data) // 2 : -2000] = bytes(len(data) - 2000 - len(data) // 2)
    cut_off.write_bytes(data)
    _, chips, ended = heard([Job(cut_off), Job(whole), Job(tmp_path / "none.tif")], threads=3)
    failures = {end.number: end.failure for end in ended}
    assert len(ended) == 3
    assert "a.tif is damaged" in failures[0]
    assert failures[1] is None
    assert failures[2].startswith("none.tif cannot be read: No such file")
    assert sum(chip.number == 1 for chip in chips) == 13 * 13


def test_a_file_that_changes_while_it_is_read_is_named_so(tmp_path):
    path = write_noise(tmp_path / "a.tif", (300, 300), **LAYOUTS["tiled by band"])
    with Readers([Job(path)], chip=32, stride=32, waiting=20_000) as readers:
        messages = readers.messages()
        assert isinstance(next(messages), Opened)
        os.utime(path, ns=(1, 1))
        (end,) = (message for message in messages if isinstance(message, Ended))
    assert end.failure == "it changed while it was read; add it again"


def test_a_slow_listener_holds_the_readers_back(tmp_path):
    path = write_noise(tmp_path / "a.tif", (512, 512), **LAYOUTS["tiled by band"])
    with Readers([Job(path)], chip=32, stride=32, waiting=100_000) as readers:
        messages = readers.messages()
        next(messages)
        seen = []
        for _ in range(5):
            time.sleep(0.05)
            seen.append(readers._desk._open[0].sheet.blocks.decoded)
        assert seen[-1] == seen[-2]
        assert seen[-1] < 512 * 512 / (64 * 32) / 2
        assert sum(isinstance(message, Chip) for message in messages) == 256


PEAKS = """
import sys, time, tracemalloc
from pathlib import Path
from retrieval.reading import Chip, Job, Readers

def peak(paths):
    tracemalloc.start()
    with Readers([Job(path) for path in paths], chip=64, stride=48, waiting=400_000) as readers:
        for message in readers.messages():
            time.sleep(0.001 if isinstance(message, Chip) else 0)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most

files = [Path(name) for name in sys.argv[1:]]
peak(files)  # what is imported and kept once
print(max(peak(files * 2) for _ in range(4)), peak(files * 8))  # alike in how often threads may meet
"""


def test_memory_is_flat_in_the_number_of_chips_with_a_slow_listener(tmp_path):
    layout = {"tiled": True, "blockxsize": 128, "blockysize": 128}
    files = [write_noise(tmp_path / f"{i}.tif", (256, 256), seed=i, **layout) for i in range(4)]
    # A process of its own: here the threads that other tests left running would be counted too.
    run = [sys.executable, "-c", PEAKS, *map(str, files)]
    few, many = map(int, subprocess.run(run, capture_output=True, text=True, check=True).stdout.split())
    assert many < 1.3 * few
    assert many < 24 * 256 * 256 * len(BANDS) * 2 / 2  # less than half of all pixels


def test_handles_stay_in_the_thread_that_opened_them_and_all_are_closed(tmp_path, monkeypatch):
    import retrieval.reading

    path = write_noise(tmp_path / "a.tif", (400, 300), **LAYOUTS["tiled by band"])
    opened, used = {}, []
    real_open, real_again, real_read = retrieval.reading.open_raster, Raster.again, retrieval.reading.read_part

    def opening(*args, real=real_open, **options):
        raster = real(*args, **options)
        opened[id(raster)] = (raster, threading.get_ident())
        return raster

    def reading(raster, *args):
        used.append(opened[id(raster)][1] == threading.get_ident() != threading.main_thread().ident)
        return real_read(raster, *args)

    monkeypatch.setattr(retrieval.reading, "open_raster", opening)
    monkeypatch.setattr(Raster, "again", partialmethod(opening, real=real_again))
    monkeypatch.setattr(retrieval.reading, "read_part", reading)
    heard([Job(path)], threads=3)
    assert used
    assert all(used)
    assert len({thread for _, thread in opened.values()}) == len(opened)  # one handle a thread
    assert all(raster._file.dataset.closed for raster, _ in opened.values())


def test_cloud_shares_are_those_of_the_whole_scene_whatever_the_chips(tmp_path):
    path = write_noise(tmp_path / "a.tif", **LAYOUTS["tiled by band"])
    with open_raster(path) as raster:
        scene = raster.read()
        hidden = clouds(scene)
        sheet = Sheet(list(tiles(raster.grid, 50, 30)), layout_of(raster))
        cuts = list(read_chips(raster, sheet, cloud_test(raster, (50, 50))))
    assert hidden.any()
    for cut in cuts:
        rows = slice(cut.window.row, cut.window.row + 50)
        cols = slice(cut.window.col, cut.window.col + 50)
        assert cut.cloud == pytest.approx(hidden[rows, cols].sum() / scene.valid[rows, cols].sum())


@pytest.mark.parametrize("step", [1, 3])
def test_every_third_pixel_is_counted_the_same_across_parts(tmp_path, step):
    path = write_noise(tmp_path / "a.tif", **LAYOUTS["tiled by band"])
    size = (step * 64 + 7, step * 64 + 30) if step == 1 else (150, 230)
    with open_raster(path) as raster:
        test = cloud_test(raster, (64 * step, 64 * step))
        assert test.step == step
        sheet = Sheet([Window(0, 0, *size)], layout_of(raster))
        (cut,) = read_chips(raster, sheet, test)
        scene = raster.read(Window(0, 0, *size))
    expected = clouds(scene)[::step, ::step].sum() / scene.valid[::step, ::step].sum()
    assert cut.cloud == pytest.approx(expected)


@pytest.mark.parametrize("interleave", ["band", "pixel"])
def test_the_producers_classes_tell_clouds_before_anything_else(tmp_path, interleave):
    path = write_noise(tmp_path / "a.tif", (32, 64), bands=("B02", "B03", "B04", "B08", "SCL"), interleave=interleave)
    with rasterio.open(path, "r+") as file:
        pixels = np.full((5, 32, 64), 500, np.uint16)
        pixels[4] = 4  # vegetation
        pixels[4, :8, :32] = 9  # a quarter of the first chip: cloud, high probability
        pixels[4, 8:16, :32] = 0  # a quarter without a class
        pixels[4, :16, 32:48], pixels[4, 16:, 32:48] = 8, 10
        pixels[:4, :, 48:] = 0
        file.write(pixels)
        file.update_tags(CLOUD_COVER="3")
    (result,) = embed_rasters([Job(path, "sentinel-2-l2a")], TinyEncoder(), chip=32, stride=32)
    assert result.cloud == (pytest.approx(1 / 3), 1.0)
    assert result.source.cloud_cover is None
    assert [band.name for band in result.source.bands] == ["B02", "B03", "B04", "B08"]


def test_results_count_the_blocks_read(tmp_path):
    striped = write_raster(tmp_path / "b.tif", shape=(64, 64))
    tiled = write_noise(tmp_path / "a.tif", **LAYOUTS["tiled by pixel"])
    found = list(embed_rasters([Job(tiled), Job(striped)], TinyEncoder(), chip=48, stride=40, readers=3))
    assert found[0].blocks == Blocks(3 * 8, 3 * 8)  # 150 x 230 pixels in blocks of 64 x 32
    assert found[1].blocks.ratio == 1.0


def test_a_hash_is_kept_while_the_file_stays_and_made_anew_when_it_changes(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    first = content_hash(path)
    path.write_bytes(b"two")  # same size, perhaps the same tick of the clock
    assert content_hash(path) != first
    path.write_bytes(b"one")
    assert content_hash(path) == first


def test_a_real_scene_is_cut_with_each_block_read_once(data_dir):
    path = data_dir / "scenes" / "s2_l1c_t33uuu_20170216.tif"
    with open_raster(path) as raster:
        sheet = Sheet(list(tiles(raster.grid, 256, 192)), layout_of(raster))
        cuts = list(read_chips(raster, sheet, cloud_test(raster, (256, 256))))
        last = cuts[-1]
        np.testing.assert_array_equal(last.raw, raster.read_raw(last.window)[0])
    assert sheet.blocks.ratio == 1.0
    assert len(cuts) == len(sheet)
