"""Builds: everything in, a whole pack out; killed, changed or leaky ones end in one sentence or go on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_engine.build import BuildConfig, build
from data_engine.pack import MANIFEST, read_manifest, read_shard, verify
from data_engine.sheet import write_sheet
from rsvlm.errors import ConfigError, DatasetError

CONFIG = """
name = "small"
seed = 1
counts = { plans = 60, wording = 40 }

[[sources]]
dataset = "coco"
folder = "objects"
captions = 3
questions = 4
referring = 4

[[sources]]
dataset = "dsifn"
folder = "pairs"
change = 6
"""


@pytest.fixture
def root(tmp_path):
    """Twelve pictures with boxes and six pairs of dates, all different."""
    chance = np.random.default_rng(0)
    (tmp_path / "objects/images").mkdir(parents=True)
    images, annotations = [], []
    for number in range(12):
        name = f"{number:03d}.png"
        Image.fromarray(picture(chance)).save(tmp_path / "objects/images" / name)
        images.append({"id": number, "file_name": name, "width": 96, "height": 96})
        for corner in range(1 + number % 3):
            box = [8 + 30 * corner, 10 + 20 * corner, 12, 9 + 6 * corner]
            annotations.append(
                {"id": len(annotations), "image_id": number, "category_id": 1 + corner % 2, "bbox": box, "iscrowd": 0}
            )
    categories = [{"id": 1, "name": "ship"}, {"id": 2, "name": "storage_tank"}, {"id": 3, "name": "bridge"}]
    listing = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "objects/instances.json").write_text(json.dumps(listing))
    for part in ("A", "B", "label"):
        (tmp_path / "pairs" / part).mkdir(parents=True)
    for number in range(6):
        for part in ("A", "B"):
            Image.fromarray(picture(chance)).save(tmp_path / f"pairs/{part}/{number}_0.png")
        mask = np.zeros((96, 96), np.uint8)
        mask[10:40, 10 : 20 + 10 * number] = 255 * (number > 0)
        Image.fromarray(mask).save(tmp_path / f"pairs/label/{number}_0.png")
    (tmp_path / "small.toml").write_text(CONFIG)
    return tmp_path


def picture(chance):
    coarse = chance.integers(0, 255, (12, 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC))


def texts_of(pack):
    return [sample.to_json() for s in read_manifest(pack)["shards"] for sample in read_shard(pack / s["file"])]


def test_a_build_holds_every_kind_with_its_provenance_and_says_what_it_counted(root):
    manifest = build(BuildConfig.load(root / "small.toml"), root, root / "pack")
    samples = [sample for s in manifest["shards"] for sample in read_shard(root / "pack" / s["file"])]
    assert manifest["samples"] == len(samples)
    kinds = Counter(sample.kind for sample in samples)
    assert set(kinds) == {"caption", "question", "referring", "change", "plan", "wording"}
    assert (kinds["plan"], kinds["wording"]) == (60, 40)
    assert manifest["leakage"]["pairs"] == 0
    assert set(manifest["terms"]) == {"coco", "dsifn"}
    assert sum(manifest["versions"]["recipes"].values()) == len(samples)
    assert verify(root / "pack") == []
    for sample in samples:
        assert "@" in sample.origin.recipe
        assert all((root / "pack" / file).is_file() for image in sample.images for file in image.files)
        assert not sample.mask or (root / "pack" / sample.mask).is_file()


def test_no_place_is_on_both_sides_of_the_split(root):
    manifest = build(BuildConfig.load(root / "small.toml"), root, root / "pack")
    sides = {}
    for shard in manifest["shards"]:
        for sample in read_shard(root / "pack" / shard["file"]):
            if sample.images:
                sides.setdefault(sample.origin.place, set()).add(shard["split"])
    assert all(len(splits) == 1 for splits in sides.values())
    assert {"train", "val"} <= set().union(*sides.values())


def test_the_same_config_gives_the_same_samples(root):
    for name in ("one", "two"):
        build(BuildConfig.load(root / "small.toml"), root, root / name)
    assert texts_of(root / "one") == texts_of(root / "two")


def test_a_finished_unit_is_not_made_again_and_a_damaged_one_is(root):
    config = BuildConfig.load(root / "small.toml")
    build(config, root, root / "pack")
    before = {path: path.stat().st_mtime_ns for path in sorted((root / "pack").rglob("*.parquet"))}
    damaged = next(iter(before))
    content = damaged.read_bytes()
    damaged.write_bytes(content[:100])
    os.utime(damaged, ns=(before[damaged], before[damaged]))
    (root / "pack" / MANIFEST).unlink()
    build(config, root, root / "pack")
    after = {path: path.stat().st_mtime_ns for path in sorted((root / "pack").rglob("*.parquet"))}
    unit = damaged.stem
    assert damaged.read_bytes() == content
    assert {path for path in before if before[path] != after[path]} == {p for p in before if p.stem == unit}


def test_a_killed_build_goes_on_to_the_same_pack(root):
    command = [sys.executable, "-c", "from rsvlm.cli import main; main()", "data", "build", str(root / "small.toml")]
    command += ["--root", str(root), "--out", str(root / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list((root / "killed").rglob("done/*.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    config = BuildConfig.load(root / "small.toml")
    build(config, root, root / "killed")
    build(config, root, root / "whole")
    assert texts_of(root / "killed") == texts_of(root / "whole")


def test_a_leak_fails_the_build_and_names_both_images(root):
    listing = json.loads((root / "objects/instances.json").read_text())
    for source, copy in ((f"{n:03d}.png", f"9{n:02d}.png") for n in range(12)):
        shutil.copy(root / "objects/images" / source, root / "objects/images" / copy)
        listing["images"].append({"id": 900 + int(copy[1:3]), "file_name": copy, "width": 96, "height": 96})
    (root / "objects/instances.json").write_text(json.dumps(listing))
    with pytest.raises(DatasetError, match=r"pairs of images are on both sides.*\.png and .*\.png \(same"):
        build(BuildConfig.load(root / "small.toml"), root, root / "pack")
    assert not (root / "pack" / MANIFEST).exists()
    assert json.loads((root / "pack/leakage.json").read_text())["report"]["pairs"]


def test_images_to_leave_out_are_left_out(root):
    text = CONFIG.replace("referring = 4", 'referring = 4\nwithout = ["/003.png"]')
    (root / "small.toml").write_text(text)
    build(BuildConfig.load(root / "small.toml"), root, root / "pack")
    assert not any("003.png" in json.dumps(sample) for sample in texts_of(root / "pack"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = 'x'", "asks for nothing"),
        (CONFIG + "colour = 1", "no keys colour"),
        ("colour = 1\n" + CONFIG, "unknown keys colour"),
        (CONFIG.replace('"coco"', '"kokos"'), "no dataset 'kokos'"),
        (CONFIG.replace("plans = 60", "poems = 60"), "counts poems"),
        ("[", "no build config"),
    ],
)
def test_a_wrong_config_is_named(tmp_path, text, message):
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        BuildConfig.load(tmp_path / "c.toml")


def test_the_shipped_config_is_found_by_its_name():
    assert BuildConfig.load(Path("default")).name == "default"


def test_another_config_or_a_foreign_folder_is_refused(root):
    build(BuildConfig.load(root / "small.toml"), root, root / "pack")
    (root / "other.toml").write_text(CONFIG.replace("seed = 1", "seed = 2"))
    with pytest.raises(DatasetError, match="another config"):
        build(BuildConfig.load(root / "other.toml"), root, root / "pack")
    with pytest.raises(DatasetError, match="holds something else"):
        build(BuildConfig.load(root / "small.toml"), root, root / "objects")
    with pytest.raises(DatasetError, match="is no folder"):
        build(BuildConfig.load(root / "small.toml"), root / "pairs", root / "new")


def test_the_sheet_shows_samples_of_every_kind_and_needs_no_network(root):
    build(BuildConfig.load(root / "small.toml"), root, root / "pack")
    page = write_sheet(root / "pack", per_kind=4).read_text()
    assert all(f"<h2>{kind}: " in page for kind in ("caption", "question", "referring", "change", "plan", "wording"))
    assert page.count("data:image/webp;base64,") >= 4 * 3
    assert "http" not in page.replace("http-equiv", "")
    assert page == write_sheet(root / "pack", per_kind=4).read_text()


def test_two_folders_of_one_dataset_are_both_in_the_pack(root):
    shutil.copytree(root / "objects", root / "more")
    chance = np.random.default_rng(7)
    for path in sorted((root / "more/images").iterdir()):
        Image.fromarray(picture(chance)).save(path)
    (root / "two.toml").write_text(CONFIG + '[[sources]]\ndataset = "coco"\nfolder = "more"\n')
    build(BuildConfig.load(root / "two.toml"), root, root / "pack")
    seen = {s.images[0].files[0] for p in (root / "pack").rglob("*.parquet") for s in read_shard(p) if s.images}
    assert {"objects", "more"} <= {Path(file).parent.parent.name for file in seen}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("simulated = 'many'", "a number|whole number"),
        ("simulated = -3", "0 or more"),
        ("counts = 5", "a table"),
        ("counts = { plans = 'a' }", "whole number"),
        ("sources = ['a']", "a source is a table"),
        ("sources = []", "asks for nothing"),
        ("rewrite_share = 2\nsimulated = 1", "from 0 to 1"),
        ("[[sources]]\ndataset = 'dsifn'\nfolder = 'pairs'\nwithout = 3", "a list"),
        ("[[sources]]\ndataset = 'dsifn'\nfolder = 'pairs'\nchange = 1.5", "whole number"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named_in_one_sentence(tmp_path, text, message):
    (tmp_path / "c.toml").write_text(f"name = 'c'\n{text}\n")
    with pytest.raises(ConfigError, match=message):
        BuildConfig.load(tmp_path / "c.toml")
