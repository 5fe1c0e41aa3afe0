"""Dense maps: their grid, their edges, and change by map."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rsvlm.change import compare
from rsvlm.encoder.clip import EncoderConfig, SpectralCLIP
from rsvlm.encoder.dense import DenseDecoder
from rsvlm.encoder.maps import SIDE, cosine_map
from rsvlm.encoder.model import SpectralEncoder
from rsvlm.errors import BandError, ConfigError
from rsvlm.findings import find_change
from rsvlm.language.plan import Plan
from rsvlm.scene import Grid, Scene
from rsvlm.sensors import SENSORS


@pytest.fixture(scope="module")
def dense_encoder(untrained_encoder):
    """The real encoder with an untrained dense decoder."""
    torch.manual_seed(1)
    model = SpectralCLIP(EncoderConfig("untrained-dense", dense_width=8), 128)
    return SpectralEncoder(model, untrained_encoder.preprocessing)


def scene(shape=(64, 64), sensor="rgb", seed=0):
    bands = SENSORS[sensor].bands
    pixels = np.random.default_rng(seed).random((len(bands), *shape)).astype(np.float32)
    return Scene(pixels, np.ones(shape, bool), bands, SENSORS[sensor], Grid(*shape))


@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (45, 64), (300, 200)])
def test_a_cell_of_a_dense_map_is_two_pixels(dense_encoder, shape):
    maps = dense_encoder.similarity_map(scene(shape), ["water", "forest"])
    assert maps.shape == (2, -(-shape[0] // 2), -(-shape[1] // 2))
    assert np.isfinite(maps).all()
    assert np.abs(maps).max() <= 1 + 1e-5


def test_squares_meet_without_a_seam():
    """A map of each place's own value is that value everywhere, however many squares lie over it."""
    ramp = torch.linspace(0, 1, 500 * 700).reshape(1, 1, 500, 700)

    def own(square):
        value = torch.nn.functional.avg_pool2d(square, 2)[0]
        return torch.cat([torch.cos(value), torch.sin(value)])

    (found,) = cosine_map(ramp, torch.tensor([[1.0, 0.0]]), own)
    wanted = torch.cos(torch.nn.functional.avg_pool2d(ramp, 2)[0, 0]).numpy()
    assert found.shape == (250, 350)
    assert np.allclose(found, wanted, atol=1e-6)


def test_cells_of_a_very_large_scene_are_averaged(monkeypatch):
    monkeypatch.setattr("rsvlm.encoder.maps.MOST_CELLS", 100 * 100)
    picture = torch.rand(1, 1, 320, 320)

    def own(square):
        value = torch.nn.functional.avg_pool2d(square, 2)[0]
        return torch.cat([value, torch.sqrt(1 - value**2)])

    (found,) = cosine_map(picture, torch.tensor([[1.0, 0.0]]), own)
    assert found.shape == (80, 80)
    assert np.allclose(found, torch.nn.functional.avg_pool2d(picture, 4)[0, 0], atol=1e-5)


def test_a_far_corner_does_not_depend_on_what_changed_here(dense_encoder):
    flat = scene((3 * SIDE, 3 * SIDE))
    pixels = flat.pixels.copy()
    pixels[:, :40, :40] = 0
    one, other = (dense_encoder.similarity_map(s, ["water"])[0] for s in (flat, replace(flat, pixels=pixels)))
    assert np.abs(one - other)[:20, :20].max() > 1e-3
    assert np.allclose(one[SIDE:, SIDE:], other[SIDE:, SIDE:], atol=1e-5)


def test_coarse_vectors_average_to_the_whole_image(dense_encoder):
    model, bands = dense_encoder.model, SENSORS["rgb"].bands
    pixels = torch.randn(2, 3, 96, 64)
    with torch.inference_mode():
        decoded, coarse = model.decode(pixels, bands)
        whole = model.image_features(pixels, bands)
    assert decoded.shape == (2, 8, 48, 32)
    assert coarse.shape == (2, dense_encoder.dim, 3, 2)
    assert torch.allclose(coarse.mean((2, 3)), whole, atol=1e-4)


def test_a_decoder_that_adds_nothing_leaves_the_whole_image_projection():
    decoder = DenseDecoder([4, 6], 8, 5)
    torch.nn.init.zeros_(decoder.project.weight)
    torch.nn.init.zeros_(decoder.project.bias)
    coarse = torch.randn(1, 5, 2, 2)
    found = decoder.vectors(torch.randn(1, 8, 32, 32), coarse)
    assert torch.allclose(found[..., 0, 0], coarse[..., 0, 0])
    assert torch.allclose(found[..., -1, -1], coarse[..., -1, -1])


def test_every_sensor_has_dense_maps(dense_encoder):
    for sensor in ("sentinel-1-grd", "sentinel-2-l2a", "landsat-8-c2l2", "naip"):
        seen = scene(sensor=sensor)
        assert dense_encoder.similarity_map(seen, ["water"]).shape == (1, 32, 32)


def test_a_trunk_of_one_level_has_no_dense_decoder():
    with pytest.raises(ConfigError, match="dense_width = 0"):
        SpectralCLIP(EncoderConfig("vit", trunk="vit_tiny_patch16_224", dense_width=8), 64)


def test_a_map_of_change_needs_two_scenes_alike(dense_encoder):
    with pytest.raises(BandError, match="one size"):
        dense_encoder.change_map(scene(), scene((64, 32)), ["flood"])
    with pytest.raises(BandError, match="same bands"):
        dense_encoder.change_map(scene(), scene(sensor="naip"), ["flood"])


def test_an_encoder_without_a_decoder_maps_no_change(untrained_encoder):
    assert untrained_encoder.change_map(scene(), scene(), ["flood"]) is None
    assert find_change("flooded area", scene(), scene(), untrained_encoder) is None


class Scripted:
    """Maps the changes it is given, in the order before, after; sees nothing on single dates."""

    fingerprint, dim = "scripted", 2

    def __init__(self, maps):
        self.maps, self.asked = maps, []

    def encode_texts(self, texts):
        return np.eye(len(texts), max(2, len(texts)), dtype=np.float32)

    def similarity_map(self, scene, texts):
        return np.zeros((len(texts), *scene.shape), np.float32)

    def change_map(self, before, after, texts):
        self.asked.append((before.source, texts))
        none = np.zeros(before.shape, np.float32)
        layers = dict.fromkeys(texts, none) | {"no change": np.full(before.shape, 0.1, np.float32)}
        if before.source == "a":
            layers |= {text: layer for text, layer in self.maps.items() if text in texts}
        return np.stack([layers[text] for text in texts])


def test_a_phrase_of_change_is_looked_for_between_the_dates():
    wet = np.zeros((64, 64), np.float32)
    wet[:16] = 0.4
    encoder = Scripted({"flood": wet})
    before, after = (replace(scene(), source=name) for name in "ab")
    found = compare(Plan("change", "flood", "new"), before, after, encoder)
    assert found.mask.pixels[:15].all()
    assert not found.mask.pixels[17:].any()
    assert np.array_equal(found.score >= 0.5, found.mask.pixels)
    assert "no change" in encoder.asked[0][1]
    assert "flooded area" not in encoder.asked[0][1]  # means the same, so it is no rival
    facts = {fact.name: fact.value for fact in found.measured.facts}
    assert facts["change of flood"] is True
    assert facts["share of flood gained"] == pytest.approx(25, abs=1.6)


def test_what_was_lost_is_looked_for_backwards():
    wet = np.full((64, 64), 0.4, np.float32)
    encoder = Scripted({"flood": wet})
    before, after = (replace(scene(), source=name) for name in "ba")
    found = compare(Plan("change", "flood", "lost"), before, after, encoder)
    assert found.mask.pixels.all()
    assert not compare(Plan("change", "flood", "new"), before, after, encoder).mask.pixels.any()


def test_a_phrase_that_is_no_change_is_looked_for_on_both_dates():
    encoder = Scripted({})
    assert find_change("a tennis court", scene(), scene(), encoder) is None
    compare(Plan("change", "a tennis court", "new"), scene(), scene(), encoder)
    assert not encoder.asked
