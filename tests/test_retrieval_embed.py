"""The batched core gives the same vectors as one chip at a time, in order, and never hangs."""

import threading

import numpy as np
import pytest
import torch
from fakes import DIM, TinyEncoder, write_raster

from retrieval.embed import Job, Pace, embed_rasters, encode_raw, pace_of, physical
from retrieval.schema import ArchiveConfig, rows_of, schema_for
from rsvlm.errors import SceneError
from rsvlm.raster import open_raster, tiles


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rasters")
    shapes = [(32, 48), (16, 16), (40, 33), (9, 50), (32, 48), (16, 16), (16, 16)]
    return [write_raster(folder / f"{i}.tif", seed=i, shape=shape) for i, shape in enumerate(shapes)]


def slowly(path, encoder, chip, stride):
    """The obvious twin: read each window as a scene and encode it alone."""
    with open_raster(path) as raster:
        windows = list(tiles(raster.grid, chip, stride))
        return windows, np.concatenate([encoder.encode_scenes([raster.read(window)]) for window in windows])


def results(files, **options):
    return list(embed_rasters([Job(path) for path in files], TinyEncoder(), chip=16, stride=16, **options))


@pytest.mark.parametrize(("batch", "readers"), [(1, 1), (3, 2), (64, 2), (5, 4)])
def test_vectors_are_those_of_one_scene_at_a_time_whatever_the_batch_and_threads(files, batch, readers):
    for path, result in zip(files, results(files, batch=batch, readers=readers), strict=True):
        windows, vectors = slowly(path, TinyEncoder(), 16, 16)
        assert result.job.path == path
        assert list(result.windows) == windows
        np.testing.assert_allclose(result.vectors, vectors, atol=1e-5)
        assert result.failure is None
        assert result.source.content_hash


def test_several_encoders_share_the_batches_and_make_the_same_vectors(files):
    one, two = TinyEncoder(), TinyEncoder()
    jobs = [Job(path) for path in files]
    shared = list(embed_rasters(jobs, [one, two], chip=16, stride=16, batch=3))
    for result, alone in zip(shared, results(files), strict=True):
        np.testing.assert_allclose(result.vectors, alone.vectors, atol=1e-5)
    assert abs(len(one.batches) - len(two.batches)) <= 1
    two.dim = DIM + 1
    with pytest.raises(SceneError, match="several encoders"):
        list(embed_rasters(jobs, [one, two]))


def test_an_encoder_with_replicas_is_used_on_every_device_it_is_on(files, monkeypatch):
    one, two = TinyEncoder(), TinyEncoder()
    monkeypatch.setattr(one, "replicas", lambda: [one, two], raising=False)
    jobs = [Job(path) for path in files]
    for result, alone in zip(embed_rasters(jobs, one, chip=16, stride=16, batch=3), results(files), strict=True):
        np.testing.assert_allclose(result.vectors, alone.vectors, atol=1e-5)
    assert one.batches
    assert two.batches


def test_large_chips_make_small_batches_so_that_memory_stays_flat(files, monkeypatch):
    monkeypatch.setattr("retrieval.embed.BATCH_BYTES", 1)
    encoder = TinyEncoder()
    small = list(embed_rasters([Job(path) for path in files], encoder, chip=16, stride=16, batch=64))
    assert set(encoder.batches) == {1}
    for result, alone in zip(small, results(files), strict=True):
        np.testing.assert_allclose(result.vectors, alone.vectors, atol=1e-5)


def test_more_threads_read_for_a_gpu_than_for_a_cpu(monkeypatch):
    encoder = TinyEncoder()
    assert pace_of(encoder) == Pace(batch=64, readers=2)
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    encoder.device = torch.device("cuda")
    assert pace_of(encoder) == Pace(batch=256, readers=16)


def test_a_cpu_takes_large_batches_in_small_parts_and_makes_the_same_vectors():
    encoder = TinyEncoder()
    raw = np.random.default_rng(0).integers(1, 9000, (37, 1, 8, 8)).astype(np.uint16)
    valid = np.ones((37, 8, 8), bool)
    vectors, _ = encode_raw(encoder, raw, valid, open_bands())
    assert encoder.batches == [16, 16, 5]
    alone = [encode_raw(TinyEncoder(), raw[i : i + 1], valid[i : i + 1], open_bands())[0][0] for i in range(37)]
    np.testing.assert_allclose(vectors, alone, atol=1e-5)


def test_overlap_changes_no_vector(files):
    found = list(embed_rasters([Job(path) for path in files], TinyEncoder(), chip=16, stride=5, batch=8, readers=3))
    for path, result in zip(files, found, strict=True):
        windows, vectors = slowly(path, TinyEncoder(), 16, 5)
        assert list(result.windows) == windows
        np.testing.assert_allclose(result.vectors, vectors, atol=1e-5)


def test_the_real_network_gives_the_same_vectors_in_any_batch(untrained_encoder, files):
    jobs = [Job(path, "sentinel-2-l2a") for path in files[:3]]
    one, many = (list(embed_rasters(jobs, untrained_encoder, chip=16, stride=16, batch=batch)) for batch in (1, 8))
    for alone, together in zip(one, many, strict=True):
        np.testing.assert_allclose(alone.vectors, together.vectors, atol=1e-5)


def test_the_order_of_the_jobs_changes_no_vector(files):
    forward = {r.job.path: r.vectors for r in results(files, batch=7)}
    backward = {r.job.path: r.vectors for r in results(files[::-1], batch=7)}
    for path in files:
        np.testing.assert_allclose(forward[path], backward[path], atol=1e-5)


def test_chips_of_many_small_files_share_batches(tmp_path):
    files = [write_raster(tmp_path / f"{i}.tif", seed=i, shape=(16, 16)) for i in range(20)]
    encoder = TinyEncoder()
    assert len(list(embed_rasters([Job(f) for f in files], encoder, chip=16, stride=16, batch=10))) == 20
    assert max(encoder.batches) == 10
    assert len(encoder.batches) <= 4  # two full ones, unless the readers were waited for


def test_one_chip_of_another_kind_holds_nothing_up(tmp_path):
    odd = write_raster(tmp_path / "odd.tif", bands=("B02", "B03"), shape=(16, 16))
    files = [odd, *(write_raster(tmp_path / f"{i}.tif", seed=i, shape=(16, 16)) for i in range(12))]
    jobs = [Job(odd, "sentinel-2-l2a"), *(Job(path) for path in files[1:])]
    found = list(embed_rasters(jobs, TinyEncoder(), chip=16, stride=16, batch=2, readers=2))
    assert [r.job.path for r in found] == files
    assert all(len(r.vectors) == 1 for r in found)


def test_a_broken_file_is_a_named_failure_among_good_ones(files, tmp_path):
    broken = tmp_path / "broken.tif"
    broken.write_bytes(files[0].read_bytes()[:1500])
    found = results([files[0], broken, tmp_path / "none.tif", files[1]])
    assert [bool(r.failure) for r in found] == [False, True, True, False]
    assert "broken.tif" in found[1].failure
    assert found[1].vectors.shape == (0, DIM)


def test_masked_ground_is_skipped_and_counted(tmp_path):
    import rasterio

    path = write_raster(tmp_path / "a.tif", shape=(16, 32))
    with rasterio.open(path, "r+") as file:
        pixels = file.read()
        pixels[:, :, :16] = 0
        pixels[:, :8, 16:] = 0
        file.write(pixels)
    (result,) = results([path])
    assert result.skipped == 1
    assert [w.col for w in result.windows] == [16]
    assert result.valid.tolist() == [0.5]


def cloudy_raster(path, **tags):
    """Two chips of dark ground, the second half under a white cloud, with the bands that tell."""
    import rasterio

    write_raster(path, shape=(16, 32), bands=("B02", "B03", "B04", "B08", "B12"), **tags)
    pixels = np.full((5, 16, 32), 500, np.uint16)
    pixels[:, :8, 16:] = 8000
    pixels[:, 8:12, 16:] = 0  # invalid
    with rasterio.open(path, "r+") as file:
        file.write(pixels)
    return path


def test_clouds_are_measured_chip_by_chip_where_the_bands_tell_else_as_the_producer_states(tmp_path):
    measured, stated = cloudy_raster(tmp_path / "a.tif"), cloudy_raster(tmp_path / "b.tif", CLOUD_COVER="40")
    untold = write_raster(tmp_path / "c.tif", shape=(16, 16))  # no short-wave infrared
    only_stated = write_raster(tmp_path / "d.tif", shape=(16, 32), CLOUD_COVER="40")
    schema = schema_for(ArchiveConfig("tiny", "0", DIM, 16, 16))
    clouds = [rows_of(found, schema)["cloud"].to_pylist() for found in results([measured, stated, untold, only_stated])]
    assert clouds == [[0, pytest.approx(8 / 12)], [0, pytest.approx(8 / 12)], [None], [0.4, 0.4]]


def test_scaling_and_decibels_on_the_device_agree_with_the_scene(tmp_path):
    import rasterio

    power = np.random.default_rng(0).lognormal(-3, 1, (2, 16, 16)).astype(np.float32)
    power[0, 3, 4], power[1, 5, 6] = 0, -1
    path = tmp_path / "s1.tif"
    size = {"height": 16, "width": 16, "count": 2, "dtype": "float32"}
    with rasterio.open(
        path, "w", driver="GTiff", crs="EPSG:32633", transform=(10, 0, 5e5, 0, -10, 5e6), **size
    ) as file:
        file.write(power)
        file.descriptions = ("VV", "VH")
    for source, sensor in [(path, "sentinel-1-grd"), (write_raster(tmp_path / "s2.tif"), "sentinel-2-l2a")]:
        with open_raster(source, sensor=sensor) as raster:
            raw, valid = raster.read_raw()
            scene = raster.read()
            tensors = torch.from_numpy(raw)[None], torch.from_numpy(valid)[None]
            pixels, mask = physical(*tensors, raster.bands, linear=raster.linear_backscatter)
        assert raster.sensor.kind == "optical" or (raster.linear_backscatter and not scene.valid[3, 4])
        np.testing.assert_array_equal(mask[0].numpy(), scene.valid)
        np.testing.assert_allclose(pixels[0].numpy(), scene.pixels, rtol=1e-6, atol=1e-6)


def test_integers_are_scaled_before_any_digit_is_lost():
    bands = open_bands()
    raw = np.full((1, 1, 4, 4), 10_001, np.uint16)
    pixels, _ = physical(torch.from_numpy(raw), torch.ones(1, 4, 4, dtype=torch.bool), bands, linear=False)
    assert pixels.dtype == torch.float32
    assert abs(float(pixels[0, 0, 0, 0]) - 1.0001) < 1e-6


def open_bands():
    from rsvlm.sensors import SENSORS

    return (SENSORS["sentinel-2-l2a"].band("B02"),)


def test_chips_without_valid_pixels_never_reach_the_encoder():
    encoder = TinyEncoder()
    raw = np.ones((2, 1, 4, 4), np.uint16)
    valid = np.array([np.zeros((4, 4), bool), np.ones((4, 4), bool)])
    vectors, fractions = encode_raw(encoder, raw, valid, open_bands())
    assert encoder.batches == [1]
    assert fractions.tolist() == [0, 1]
    assert not vectors[0].any()
    assert vectors[1].any()


class Bug(Exception):
    pass


class BrokenJobs(list):
    def __getitem__(self, number):
        raise Bug("reader")


def test_a_fault_in_a_reader_is_raised_and_does_not_hang(files):
    with pytest.raises(Bug, match="reader"):
        list(embed_rasters(BrokenJobs(Job(f) for f in files), TinyEncoder(), chip=16, stride=16))
    assert no_readers_left()


def test_a_fault_in_the_encoder_stops_the_readers(files):
    class Broken(TinyEncoder):
        def embed(self, pixels, valid, bands):
            raise Bug("encoder")

    with pytest.raises(Bug, match="encoder"):
        list(embed_rasters([Job(f) for f in files], Broken(), chip=16, stride=16, batch=2))
    assert no_readers_left()


def test_vectors_that_are_not_finite_fail_their_file_by_name(files):
    class Blind(TinyEncoder):
        def embed(self, pixels, valid, bands):
            return super().embed(pixels, valid, bands) * float("nan")

    (result,) = embed_rasters([Job(files[0])], Blind(), chip=16, stride=16)
    assert "not finite" in result.failure
    assert result.windows == ()


def test_closing_early_stops_the_readers(files):
    running = embed_rasters([Job(f) for f in files * 20], TinyEncoder(), chip=16, stride=16, batch=2)
    next(running)
    assert not no_readers_left()
    running.close()
    assert no_readers_left()


def no_readers_left():
    return not [thread for thread in threading.enumerate() if thread.name.startswith("reader")]


def test_no_job_gives_no_result_and_bad_sizes_are_refused(files):
    assert results([]) == []
    with pytest.raises(SceneError, match="start at 1"):
        results(files, batch=0)
