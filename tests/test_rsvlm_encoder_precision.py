"""Whole images in half precision: near float32, on a CPU the same in any company, and given up where either fails."""

import logging
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from rsvlm.encoder import precision
from rsvlm.encoder.clip import EncoderConfig, SpectralCLIP
from rsvlm.encoder.model import SpectralEncoder
from rsvlm.encoder.precision import (
    CHECKED,
    EXACT_BLOCKS,
    LEAST_OF_MADE,
    MOST_COMPANY,
    SPLIT,
    Autocast,
    agreement,
    folded,
    in_bfloat16,
    likenesses,
    multiplies_bfloat16,
    tower_for,
)
from rsvlm.errors import ConfigError
from rsvlm.sensors import SENSORS

S2 = SENSORS["sentinel-2-l2a"].bands
LEAST_COSINE = 0.999  # promised of every vector
GPU_AND_EXACT = ("cuda", "auto"), ("cpu", "float32")


@pytest.fixture(scope="module")
def encoders(untrained_encoder):
    """The same weights in float32 and in bfloat16, whatever this CPU has."""
    parts = untrained_encoder.model, replace(untrained_encoder.preprocessing, image_size=64)
    return SpectralEncoder(*parts, precision="float32"), SpectralEncoder(*parts, precision="bfloat16")


@pytest.fixture(scope="module")
def trained():
    """The weights that ship, in float32."""
    return SpectralEncoder.from_pretrained(precision="float32")


def reflectances(count, size=64):
    """Pixels (N, 12, size, size) as they come before normalising, and their validity."""
    pictures = torch.cat([likenesses(len(S2), size), likenesses(len(S2), size).flip(-1)])[:count]
    return 0.2 + 0.1 * pictures, torch.ones(count, size, size, dtype=torch.bool)


def test_bfloat16_vectors_are_float32_unit_vectors_near_those_of_float32(encoders):
    pixels, valid = reflectances(16)
    exact, half = (encoder.embed(pixels, valid, S2) for encoder in encoders)
    assert half.dtype == torch.float32
    assert torch.allclose(half.norm(dim=1), torch.ones(16), atol=1e-5)
    assert float((exact * half).sum(1).min()) >= LEAST_COSINE
    assert not torch.equal(exact, half)


@pytest.mark.parametrize("batch", [1, 3, 7, 16])
def test_bfloat16_vectors_are_the_same_in_any_batch_and_order(encoders, batch):
    half = encoders[1]
    pixels, valid = reflectances(12)
    together = half.embed(pixels, valid, S2)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(batch))
    parts = [half.embed(pixels[rows], valid[rows], S2) for rows in order.split(batch)]
    assert float((torch.cat(parts) - together[order]).abs().max()) <= 1e-5


def test_bfloat16_vectors_are_the_same_with_two_threads(encoders):
    pixels, valid = reflectances(4)
    alone = encoders[1].embed(pixels, valid, S2)
    torch.set_num_threads(2)
    try:
        shared = encoders[1].embed(pixels, valid, S2)
    finally:
        torch.set_num_threads(1)
    assert float((alone - shared).abs().max()) <= 1e-5


def test_folding_the_norms_changes_nothing_but_rounding(untrained_encoder):
    model = deepcopy(untrained_encoder.model)
    for module in model.clip.visual.modules():  # norms as training leaves them
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.3, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 2)
    tower = folded(model.clip.visual)
    found = agreement(tower, model, 64)
    assert found.cosine > 1 - 1e-5
    assert found.holds
    left = [module for module in tower.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(left) == 1  # the one after the spectral stem, which is no convolution of the trunk


def test_the_stem_its_norm_the_first_blocks_and_the_projection_stay_in_float32(encoders):
    tower = encoders[1].image_tower
    parameters = dict(tower.named_parameters())
    exact = {name for name, tensor in parameters.items() if tensor.dtype == torch.float32}
    assert {name.split(".")[1] for name in exact} == {"bn1", "blocks", "proj"}
    assert {int(name.split(".")[2]) for name in exact if ".blocks." in name} == set(range(EXACT_BLOCKS))
    early = {name for name in parameters if ".blocks." in name and int(name.split(".")[2]) < EXACT_BLOCKS}
    wide = {name.split(".conv_pwl")[0] for name in early - exact}
    assert {name for name in early if ".conv_pwl." in name and any(one in name for one in wide)} == early - exact
    assert all(
        encoders[1].image_tower.get_parameter(name).shape[1] > SPLIT for name in early - exact if "weight" in name
    )
    assert encoders[1].model.stem.generator.weight.dtype == torch.float32
    assert all(tensor.is_floating_point() is False or tensor.dtype == torch.float32 for tensor in state(encoders[1]))


def state(encoder):
    return encoder.model.state_dict().values()


def test_maps_texts_and_the_fingerprint_do_not_depend_on_the_precision(encoders):
    from test_rsvlm_encoder import scene

    exact, half = encoders
    assert exact.fingerprint == half.fingerprint
    assert np.array_equal(exact.encode_texts(["a river"]), half.encode_texts(["a river"]))
    chip = scene(shape=(64, 64))
    assert np.array_equal(exact.similarity_map(chip, ["water"]), half.similarity_map(chip, ["water"]))


def test_float32_runs_the_modules_as_they_are(encoders):
    assert encoders[0].image_tower is encoders[0].model.clip.visual


@pytest.mark.parametrize("has", [True, False])
def test_auto_is_bfloat16_only_on_a_cpu_that_multiplies_it(untrained_encoder, monkeypatch, has):
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: has)
    found = agreement(in_bfloat16(folded(untrained_encoder.model.clip.visual)), untrained_encoder.model, 64)
    assert found.holds
    tower = tower_for(untrained_encoder.model, 64, "auto")
    assert (torch.bfloat16 in {tensor.dtype for tensor in tower.parameters()}) is has


def test_weights_that_lose_too_much_in_bfloat16_stay_in_float32_and_the_log_says_so(
    untrained_encoder, monkeypatch, caplog
):
    model = deepcopy(untrained_encoder.model)
    with torch.no_grad():  # what tells pictures apart lies 1/300 above a common value: beyond bfloat16's 8 bits
        model.clip.visual.trunk.blocks[EXACT_BLOCKS][0].bn1.bias += 300
        model.clip.visual.trunk.blocks[EXACT_BLOCKS][0].bn1.act = torch.nn.Identity()
        model.clip.visual.trunk.blocks[EXACT_BLOCKS][0].bn2.running_mean += running_mean_shift(model)
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: True)
    with caplog.at_level(logging.INFO, logger="rsvlm.encoder.precision"):
        tower = tower_for(model, 64, "auto")
    assert {tensor.dtype for tensor in tower.parameters()} == {torch.float32}
    assert "images are encoded in float32" in caplog.text
    assert str(LEAST_OF_MADE) in caplog.text


def running_mean_shift(model):
    kernel = model.clip.visual.trunk.blocks[EXACT_BLOCKS][0].conv_dw.weight
    return 300 * kernel.sum((1, 2, 3))


class Sociable(torch.nn.Module):
    """A tower whose vectors depend on the first of their batch."""

    def __init__(self, tower):
        super().__init__()
        self.tower = tower

    def forward(self, stems):
        features = self.tower(stems)
        return features + 1e-3 * features[:1]


def test_a_tower_whose_vectors_depend_on_their_batch_is_found(untrained_encoder):
    model = untrained_encoder.model
    found = agreement(Sociable(model.clip.visual), model, 64)
    assert found.near
    assert found.company > MOST_COMPANY
    assert not found.holds


def test_vectors_that_are_no_numbers_do_not_hold():
    assert not precision.Agreement(float("nan"), 0.0).holds
    assert not precision.Agreement(1.0, float("nan")).holds


def test_weights_changed_after_the_first_use_are_those_that_are_used(untrained_encoder):
    model = deepcopy(untrained_encoder.model)
    encoder = SpectralEncoder(model, untrained_encoder.preprocessing, precision="bfloat16")
    pixels, valid = reflectances(2)
    before = encoder.embed(pixels, valid, S2)
    assert encoder.image_tower is encoder.image_tower
    changed = {name: tensor.flip(0) for name, tensor in encoder.model.clip.visual.head.state_dict().items()}
    encoder.model.clip.visual.head.load_state_dict(changed)
    assert torch.allclose(encoder.embed(pixels, valid, S2), before.flip(1), atol=1e-6)


def test_weights_read_in_inference_mode_can_be_used(untrained_encoder):
    with torch.inference_mode():
        model = deepcopy(untrained_encoder.model)
    encoder = SpectralEncoder(model, untrained_encoder.preprocessing, precision="bfloat16")
    vectors = encoder.embed(*reflectances(2), S2)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(2), atol=1e-5)


def test_a_vision_transformer_runs_as_it_is_in_every_precision(untrained_encoder):
    model = SpectralCLIP(EncoderConfig("vit", "vit_tiny_patch16_224"), 64).eval()
    assert all(tower_for(model, 64, name) is model.clip.visual for name in precision.PRECISIONS)


def test_the_pictures_checked_are_always_the_same_and_of_every_kind():
    pictures = likenesses(12, 64)
    assert torch.equal(pictures, likenesses(12, 64))
    assert pictures.shape == (8, 12, 64, 64)
    levels = pictures.mean((1, 2, 3))
    assert float(levels.min()) < -1 < 1.5 < float(levels.max())
    assert set(CHECKED) <= set(SENSORS)


def test_a_cpu_is_asked_and_another_precision_is_refused(untrained_encoder):
    assert multiplies_bfloat16() in (True, False)
    with pytest.raises(ConfigError, match="auto, float32, bfloat16; got 'half'"):
        SpectralEncoder.from_pretrained(precision="half")


def test_an_older_torch_is_told_by_the_list_of_the_processor(monkeypatch, tmp_path):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    for text, wanted in [("flags : avx2 avx512_bf16 fma", True), ("flags : avx2 avx512f", False), (None, False)]:
        listed = tmp_path / "cpuinfo"
        listed.unlink(missing_ok=True)
        if text is not None:
            listed.write_text(text)
        monkeypatch.setattr(precision, "PROCESSOR", listed)
        assert multiplies_bfloat16() is wanted


def test_float16_as_on_a_gpu_keeps_the_vectors_where_bfloat16_throughout_does_not(trained):
    visual = trained.model.clip.visual
    assert agreement(Autocast(visual, torch.float16), trained.model, 64).near
    assert not agreement(Autocast(visual, torch.bfloat16), trained.model, 64).near


@pytest.mark.parametrize("holds", [True, False])
def test_a_gpu_gets_float16_only_where_it_keeps_the_vectors(trained, monkeypatch, holds):
    monkeypatch.setattr(precision, "LEAST_OF_MADE", 0.9 if holds else 1.1)
    tower = precision._on_gpu(trained.model, 64, "auto")
    assert isinstance(tower, Autocast) is holds
    assert holds or tower is trained.model.clip.visual
    assert precision._on_gpu(trained.model, 64, "bfloat16").dtype == torch.bfloat16


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_keeps_the_vectors():
    on_gpu, exact = (SpectralEncoder.from_pretrained(device=name, precision=how) for name, how in GPU_AND_EXACT)
    pixels, valid = reflectances(16, 144)
    found = on_gpu.embed(pixels.cuda(), valid.cuda(), S2).cpu()
    assert isinstance(on_gpu.image_tower, Autocast)
    assert float((found * exact.embed(pixels, valid, S2)).sum(1).min()) >= LEAST_COSINE


def test_a_copy_elsewhere_is_equal_and_a_cpu_has_none_beside_it(trained):
    assert trained.replicas() == [trained]
    copy = trained.on("cpu")
    assert copy.fingerprint == trained.fingerprint
    assert copy.precision == trained.precision
    assert torch.equal(copy.embed(*reflectances(2), S2), trained.embed(*reflectances(2), S2))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")
def test_every_gpu_has_a_copy():
    encoder = SpectralEncoder.from_pretrained(device="cuda")
    assert len({one.model.stem.generator.weight.device for one in encoder.replicas()}) == torch.cuda.device_count()
    assert SpectralEncoder.from_pretrained(device="cuda:0").replicas()[1:] == []


@pytest.fixture(scope="module")
def real_chips(data_dir):
    """A few chips of every kind of real imagery at hand."""
    from rsvlm.raster import read_scene
    from rsvlm.scene import Window

    scene = read_scene(data_dir / "scenes" / "s2_l1c_t33uuu_20170216.tif")
    rows, cols = (range(0, side - 127, 128) for side in scene.shape)
    chips = {"sentinel-2": [scene.crop(Window(row, col, 128, 128)) for row in rows for col in cols]}
    for folder, pattern, count in (
        ("hls_worldcover", "*.tif", 40),
        ("rsicd_aid", "*.webp", 40),
        ("ombria", "*.webp", 40),
    ):
        files = sorted((data_dir / folder).rglob(pattern))
        sensor = "rgb" if pattern == "*.webp" else None
        chips[folder] = [read_scene(path, sensor=sensor) for path in files[:: max(1, len(files) // count)]]
    return chips


def test_real_chips_keep_their_vectors_with_the_shipped_weights(trained, real_chips):
    half = SpectralEncoder(trained.model, trained.preprocessing, precision="bfloat16")
    for chips in real_chips.values():
        cosines = (half.encode_scenes(chips) * trained.encode_scenes(chips)).sum(axis=1)
        assert cosines.min() >= LEAST_COSINE


def test_the_pictures_checked_tell_a_tower_that_loses_too_much_of_real_chips(trained, real_chips, monkeypatch):
    monkeypatch.setattr(precision, "EXACT_BLOCKS", 1)  # as it once shipped
    careless = in_bfloat16(folded(trained.model.clip.visual))
    exact = trained.encode_scenes(real_chips["sentinel-2"])
    monkeypatch.setattr(SpectralEncoder, "image_tower", careless)
    cosines = (trained.encode_scenes(real_chips["sentinel-2"]) * exact).sum(axis=1)
    assert cosines.min() < LEAST_COSINE
    assert not agreement(careless, trained.model, trained.preprocessing.image_size).near
