"""The shipped weights and the real language model, end to end on real imagery."""

import json
import re
import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from fakes import TinyEncoder

from retrieval import Archive
from rsvlm.assistant import Assistant
from rsvlm.encoder.clip import sha256_of
from rsvlm.encoder.model import SpectralEncoder
from rsvlm.errors import ModelNotFoundError
from rsvlm.raster import read_scene

WEIGHTS = Path(str(resources.files("rsvlm"))) / "weights"


@pytest.fixture(scope="module")
def encoder():
    return SpectralEncoder.from_pretrained()


@pytest.fixture(scope="module")
def assistant():
    from rsvlm.language.base import resolve

    try:
        resolve(download=False)
    except ModelNotFoundError:
        pytest.skip("the base language model is not on this machine; `make weights` fetches it")
    return Assistant.from_pretrained()


def test_the_shipped_weights_are_the_published_ones_and_small_enough():
    listed = dict(reversed(line.split()) for line in (WEIGHTS / "encoder" / "sha256.txt").read_text().splitlines())
    assert set(listed) == {"model.safetensors", "config.json", "preprocessor_config.json"}
    for name, digest in listed.items():
        assert sha256_of(WEIGHTS / "encoder" / name) == digest
    sizes = [file.stat().st_size for file in WEIGHTS.rglob("*") if file.is_file()]
    assert max(sizes) < 50_000_000
    assert sum(sizes) < 120_000_000


def test_the_card_names_the_weights_it_describes(encoder):
    assert encoder.fingerprint[:16] in (WEIGHTS / "encoder" / "CARD.md").read_text()


def test_captions_find_their_pictures_far_better_than_chance(encoder, data_dir):
    folder = data_dir / "rsicd_aid"
    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["split"] == "val"][::10]
    images = encoder.encode_scenes([read_scene(folder / row["image"], sensor="rgb") for row in rows])
    texts = encoder.encode_texts([row["captions"][0] for row in rows])
    order = (texts @ images.T).argsort(axis=1)[:, ::-1]
    found = np.mean([position in order[position, :10] for position in range(len(rows))])
    assert len(rows) > 100
    assert found > 0.5  # chance is 0.1


def test_flooded_radar_chips_are_told_from_dry_ones(encoder, data_dir):
    from data_engine.sources import ombria

    chips = [item for item in ombria.read(data_dir / "ombria") if item.sensor == "ombria-s1" and item.split == "val"]
    images = encoder.encode_scenes([read_scene(item.image, sensor=item.sensor) for item in chips])
    flooded, dry = encoder.encode_texts(["radar image of a flooded area", "fields and villages that are not flooded"])
    leaning = images @ (flooded - dry)
    wet = np.array(["flood" in item.labels for item in chips])
    ahead = (leaning[wet][:, None] > leaning[~wet][None]).mean()
    assert ahead > 0.85  # area under the curve; chance is 0.5


def test_the_real_scene_is_asked_in_words_and_answered_in_hectares(assistant, data_dir):
    answer = assistant.ask(data_dir / "scenes" / "s2_l1c_t33uuu_20170216.tif", "How much of it is water?")
    assert answer.plan.to_json() == {"task": "area", "target": "water"}
    assert re.search(r"1,1\d\d ha", answer.text)
    assert "SmolLM2" in answer.model
    assert answer.to_geojson()["features"]


def test_the_real_chip_of_spyndex_is_captioned_without_a_place(assistant, samples):
    answer = assistant.caption(samples / "spyndex_sentinel2.tif")
    assert answer.text.startswith("The scene shows")
    assert all(fact.name != "place" for fact in answer.facts)


def test_the_demo_leaves_answers_pictures_and_a_page(assistant, tmp_path):
    from data_engine.demo import run_demo

    page = run_demo(tmp_path / "demo")
    made = {file.name for file in page.parent.iterdir()}
    assert {"index.html", "demo.json", "caption.json", "ground.geojson", "compare_mask.tif"} <= made
    text = page.read_text()
    assert "SmolLM2-135M-Instruct" in text
    for name in re.findall(r'(?:src|href)="([^"]+)"', text):
        assert (page.parent / name).is_file()
    about = json.loads((page.parent / "demo.json").read_text())
    assert about["chips"] > 100
    shutil.rmtree(tmp_path / "demo" / "archive")
    Archive.create(tmp_path / "demo" / "archive", TinyEncoder(), chip=128, stride=128)  # of other weights
    again = run_demo(tmp_path / "demo")  # a second run goes over its own files
    assert again == page
    assert json.loads((page.parent / "demo.json").read_text())["chips"] == about["chips"]
