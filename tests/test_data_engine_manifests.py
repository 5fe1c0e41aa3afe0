"""Manifests made from annotations are those that evaluation and training read."""

import json

import numpy as np
import pytest
from PIL import Image

from data_engine.annotated import Annotated, Asked, ClassMap, Pair, Target
from data_engine.catalogue import CATALOGUE
from data_engine.manifests import write_manifests
from eval.manifests import READERS
from rsvlm.training.chips import load_captioned


@pytest.fixture
def files(tmp_path):
    (tmp_path / "images").mkdir()
    found = {}
    for name in ("a", "b", "before", "after", "other_before", "other_after", "mask", "B02", "B03"):
        found[name] = tmp_path / "images" / f"{name}.png"
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(found[name])
    return found


def read(out, task, name):
    return READERS[task](out / f"{name}.jsonl")


def test_one_image_goes_into_every_task_its_annotations_allow(files, tmp_path):
    item = Annotated(
        files["a"],
        "rgb",
        "here",
        "val",
        captions=("a pond",),
        labels=("pond",),
        scene="pond",
        questions=(Asked("Is there a pond?", "yes", "presence"),),
        targets=(
            Target("pond", boxes=((0, 0, 4, 4),)),
            Target("ship"),
            Target("the left pond", "referring", polygons=(((0, 0), (4, 0), (4, 4)),)),
            Target("reed", mask=files["mask"]),
        ),
        class_map=ClassMap(files["b"], {"1": "water", "2": "land"}, band=1, ignore=(0,)),
    )
    counts = write_manifests([item], tmp_path / "out")
    assert counts == {
        "grounding-class-masks-rgb-val.jsonl": 1,
        "grounding-class-rgb-val.jsonl": 2,
        "grounding-referring-rgb-val.jsonl": 1,
        "land-cover-rgb-val.jsonl": 1,
        "retrieval-rgb-val.jsonl": 1,
        "scenes-rgb-val.jsonl": 1,
        "vqa-rgb-val.jsonl": 1,
    }
    out = tmp_path / "out"
    (row,) = read(out, "retrieval", "retrieval-rgb-val")
    assert (row.captions, row.labels, row.picture.place) == (("a pond",), ("pond",), "here")
    assert read(out, "scenes", "scenes-rgb-val")[0].label == "pond"
    assert read(out, "vqa", "vqa-rgb-val")[0].kind == "presence"
    pond, ship = read(out, "grounding", "grounding-class-rgb-val")
    assert (pond.boxes, ship.boxes) == (((0, 0, 4, 4),), ())
    assert len(read(out, "grounding", "grounding-referring-rgb-val")[0].polygons[0]) == 3
    assert read(out, "grounding", "grounding-class-masks-rgb-val")[0].mask.samefile(files["mask"])
    assert read(out, "land-cover", "land-cover-rgb-val")[0].ignore == (0,)
    learned = load_captioned(
        [str(out / "retrieval-rgb-val.jsonl"), str(out / "scenes-rgb-val.jsonl")], tmp_path / "cache"
    )
    assert (learned.captions, learned.names) == ((("a pond",),), ("pond",))


def test_a_pair_of_several_sensors_is_seen_by_all_and_by_each(files, tmp_path):
    pair = Pair(
        (files["before"], files["other_before"]),
        (files["after"], files["other_after"]),
        ("ombria-s1", "ombria-s2"),
        files["mask"],
        "flood",
        ("a river flooded the fields",),
    )
    item = Annotated(
        files["after"], "ombria-s1", "p", "train", pair=pair, questions=(Asked("What changed?", "x", "o"),)
    )
    counts = write_manifests([item], tmp_path / "out")
    assert set(counts) == {
        "change-ombria-s1+ombria-s2-train.jsonl",
        "change-ombria-s1-train.jsonl",
        "change-ombria-s2-train.jsonl",
        "vqa-ombria-s1-train.jsonl",
    }
    (both,) = read(tmp_path / "out", "change", "change-ombria-s1+ombria-s2-train")
    assert [p.sensor for p in both.before] == ["ombria-s1", "ombria-s2"]
    assert (both.phrase, both.captions) == ("flood", ("a river flooded the fields",))
    (second,) = read(tmp_path / "out", "change", "change-ombria-s2-train")
    assert second.after[0].files[0].samefile(files["other_after"])
    assert len(read(tmp_path / "out", "vqa", "vqa-ombria-s1-train")[0].pictures) == 2


def test_files_of_single_bands_and_images_with_labels_only_keep_to_their_forms(files, tmp_path):
    bands = Annotated(
        (files["B02"], files["B03"]), "sentinel-2-l2a", "p", "val", labels=("water",), bands=("B02", "B03")
    )
    empty = Annotated(files["a"], "rgb", "q", "val")
    assert write_manifests([bands, empty], tmp_path / "out") == {"labels-sentinel-2-l2a-val.jsonl": 1}
    (row,) = read(tmp_path / "out", "retrieval", "labels-sentinel-2-l2a-val")
    assert (len(row.picture.files), row.picture.bands, row.captions) == (2, ("B02", "B03"), ())


@pytest.mark.parametrize(
    ("name", "folder"), [("ombria", "ombria"), ("nwpu_vhr10", "nwpu_vhr10"), ("dsifn", "dsifn_change")]
)
def test_manifests_of_real_data_are_read_without_a_fault(name, folder, data_dir, tmp_path):
    counts = write_manifests(CATALOGUE[name].read(data_dir / folder), tmp_path)
    for file, count in counts.items():
        task = next(task for task in (*READERS, "labels") if file.startswith(task))
        assert len(READERS.get(task, READERS["retrieval"])(tmp_path / file)) == count
    assert all(json.loads(line)["place"] for file in counts for line in (tmp_path / file).read_text().splitlines()[:3])
