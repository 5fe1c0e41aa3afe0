import json

import numpy as np
import pytest

from data_engine.sources.bigearthnet_mini import read
from data_engine.sources.text import read_sentences
from rsvlm.errors import DatasetError
from rsvlm.raster import read_scene

PATCH = "S2A_MSIL2A_20180413T95032_90_7"
SIDES = {"01": 20, "09": 20, **dict.fromkeys(("05", "06", "07", "8A", "11", "12"), 60)}  # the others, 120
BANDS = ("01", "02", "03", "04", "05", "06", "07", "08", "8A", "09", "11", "12")


def arrays():
    rng = np.random.default_rng(0)
    optical = {f"S2_{b}": rng.integers(1, 9000, (SIDES.get(b, 120),) * 2, np.uint16) for b in BANDS}
    radar = {f"S1_{p}": rng.normal(-12, 4, (120, 120)).astype(np.float32) for p in ("VV", "VH")}
    return optical | radar


def dataset(folder, content=None, *, labels=("Arable land", "Inland waters"), patch=PATCH):
    (folder / "patches").mkdir()
    np.savez(folder / "patches" / f"{patch}.npz", **(arrays() if content is None else content))
    (folder / "labels.json").write_text(json.dumps({patch: {"labels": ["x"], "new_labels": list(labels)}}))
    return folder


def refused(folder, *words):
    with pytest.raises(DatasetError) as caught:
        list(read(folder, work=folder / "work"))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_patch_is_one_image_a_sensor_of_one_place_and_never_for_training(tmp_path):
    optical, radar = read(dataset(tmp_path), work=tmp_path / "work")
    assert (optical.sensor, radar.sensor) == ("sentinel-2-l2a", "sentinel-1-grd")
    assert optical.place == radar.place == f"bigearthnet-mini-{PATCH}"
    assert optical.split == radar.split == "val"
    assert optical.labels == radar.labels == ("Arable land", "Inland waters")
    assert optical.acquired == "2018-04-13T09:50:32Z"
    assert radar.acquired == ""  # the file tells the date of the Sentinel-2 image only


def test_the_scene_holds_the_arrays_in_physical_units(tmp_path):
    optical, radar = read(dataset(tmp_path), work=tmp_path / "work")
    scene = read_scene(optical.image, sensor=optical.sensor, bands=optical.bands)
    assert scene.shape == (120, 120)
    assert scene.band_names == optical.bands == tuple(f"B{band}" for band in BANDS)
    np.testing.assert_allclose(scene.band("B04"), arrays()["S2_04"] / 1e4, rtol=1e-6)
    coarse = read_scene(optical.image[8:9], sensor=optical.sensor, bands=["B8A"])
    np.testing.assert_allclose(coarse.pixels[0], arrays()["S2_8A"] / 1e4, rtol=1e-6)
    backscatter = read_scene(radar.image, sensor=radar.sensor, bands=radar.bands)
    assert (backscatter.band("VH") == arrays()["S1_VH"]).all()


def test_files_are_written_once_and_missing_ones_again(tmp_path):
    (first, radar) = read(dataset(tmp_path), work=tmp_path / "work")
    content = radar.image[0].read_bytes()
    stamps = [path.stat().st_mtime_ns for path in first.image]
    list(read(tmp_path, work=tmp_path / "work"))
    assert [path.stat().st_mtime_ns for path in first.image] == stamps
    radar.image[0].unlink()
    list(read(tmp_path, work=tmp_path / "work"))
    assert radar.image[0].read_bytes() == content


def test_arrays_that_are_missing_or_of_another_kind_are_refused(tmp_path):
    whole = arrays()
    dataset(tmp_path, {key: value for key, value in whole.items() if key != "S2_8A"})
    refused(tmp_path, PATCH, "'S2_8A'", "fetch it again")
    for key, value, words in (
        ("S2_02", whole["S2_02"].astype(np.float32), ("uint16", "got float32 (120, 120)")),
        ("S1_VV", whole["S1_VV"][:, :60], ("float32", "got float32 (120, 60)")),
        ("S2_03", np.array([{"a": 1}], dtype=object), ("'S2_03'", "fetch it again")),
    ):
        np.savez(tmp_path / "patches" / f"{PATCH}.npz", **(whole | {key: value}))
        refused(tmp_path, PATCH, f"'{key}'", *words)
    (tmp_path / "patches" / f"{PATCH}.npz").write_bytes(b"PK\x03\x04 cut short")
    refused(tmp_path, PATCH, "fetch it again")


def test_labels_that_are_missing_or_unknown_are_refused(tmp_path):
    dataset(tmp_path, labels=("Arable land", "Moon"))
    refused(tmp_path, "'Moon'", "19 classes")
    (tmp_path / "labels.json").write_text("{}")
    refused(tmp_path, f"no '{PATCH}'")
    (tmp_path / "labels.json").unlink()
    refused(tmp_path, "labels.json")


def test_a_file_that_is_no_patch_is_refused(tmp_path):
    refused(dataset(tmp_path, patch="holiday"), "holiday.npz is not called as a patch")


def test_the_thirty_real_patches_are_read(data_dir, tmp_path):
    items = list(read(data_dir / "bigearthnet_mini", work=tmp_path))
    assert len(items) == 60
    assert len({item.place for item in items}) == 30
    assert all(item.labels for item in items)
    water, forest = [], []
    for item in items[::2]:
        nir = read_scene(item.image[7:8], sensor=item.sensor, bands=["B08"]).pixels.mean()
        if set(item.labels) == {"Marine waters"}:
            water.append(nir)
        elif "Coniferous forest" in item.labels and "Inland waters" not in item.labels:
            forest.append(nir)
    assert max(water) < 0.05 < np.mean(forest)


# Sentences without images


def test_sentences_say_whether_they_tell_of_a_change(tmp_path):
    lines = ['{"caption": "a road  appears", "changed": true}', '{"caption": "no change", "changed": false}']
    (tmp_path / "levir_cc_train_sentences.jsonl").write_text("\n".join(lines))
    (tmp_path / "ucm_sydney_train_sentences.txt").write_text("A beach .\n\nTwo  planes .\n")
    expected = [("a road appears", True), ("no change", False), ("A beach .", None), ("Two planes .", None)]
    assert list(read_sentences(tmp_path)) == expected
    (tmp_path / "levir_cc_train_sentences.jsonl").unlink()
    assert list(read_sentences(tmp_path)) == expected[2:]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"caption": "x", "changed": 1}', ("record 1", "true or false", "1")),
        (b'{"caption": "x"}', ("record 1", "'changed'")),
        (b'{"caption": "", "changed": true}', ("record 1", "'caption'")),
        (b'{"caption": ', ("sentences.jsonl:1",)),
        (b"\xff", ("UTF-8",)),
    ],
)
def test_sentences_that_are_wrong_are_told_by_line(tmp_path, line, words):
    (tmp_path / "levir_cc_train_sentences.jsonl").write_bytes(line)
    with pytest.raises(DatasetError) as caught:
        list(read_sentences(tmp_path))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_folder_without_sentences_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="levir_cc_train_sentences"):
        list(read_sentences(tmp_path))


def test_the_real_sentences_are_read(data_dir):
    told = [changed for _, changed in read_sentences(data_dir / "text")]
    assert told.count(None) > 1000
    assert told.count(True) > told.count(False) > 0
