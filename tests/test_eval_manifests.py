"""Manifests: each task's line is read as written down, and every fault is named by its line."""

import json
from pathlib import Path

import numpy as np
import pytest
from fakes import write_raster
from PIL import Image

from eval.manifests import READERS, Picture
from rsvlm.errors import ConfigError
from rsvlm.language.plan import Plan

BOX = [0, 0, 8, 8]


@pytest.fixture
def write(tmp_path):
    """Write rows, or lines as they are, into a manifest beside four pictures and a mask."""
    for name in ("a.png", "b.png", "c.png", "m.png"):
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / name)

    def write_manifest(*rows):
        path = tmp_path / "data.jsonl"
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return path

    return write_manifest


GOOD = {
    "retrieval": {"image": "a.png", "captions": ["a pond"], "labels": ["water"], "sensor": "rgb"},
    "scenes": {"image": "a.png", "label": "storage tanks", "sensor": "rgb"},
    "captions": {"image": "a.png", "captions": ["a pond", "water"]},
    "vqa": {"image": ["a.png", "b.png"], "question": "What changed?", "answer": "nothing", "type": "change"},
    "grounding": {"image": "a.png", "phrase": "airplane", "boxes": [[0, 1, 8, 9]], "kind": "class"},
    "land-cover": {
        "image": "a.png",
        "sensor": "hls",
        "labels": "m.png",
        "labels_band": 8,
        "codes": {"10": "tree cover", "0": "none"},
        "ignore": [0],
    },
    "change": {"before": ["a.png"], "after": ["b.png"], "sensors": ["ombria-s1"], "mask": "m.png", "phrase": "flood"},
    "plan": {"question": "How many ships are there?", "plan": {"task": "count", "target": "ship"}},
}


def plain(value, folder):
    """A row as plain values, so that a whole line can be compared at once."""
    if isinstance(value, Path):
        return value.relative_to(folder).as_posix()
    if isinstance(value, Picture):
        return [plain(file, folder) for file in value.files], value.sensor, value.bands, value.place
    return [plain(each, folder) for each in value] if isinstance(value, tuple) else value


EXPECTED = {
    "retrieval": {"picture": (["a.png"], "rgb", (), ""), "captions": ["a pond"], "labels": ["water"]},
    "scenes": {"picture": (["a.png"], "rgb", (), ""), "label": "storage tanks"},
    "captions": {"picture": (["a.png"], None, (), ""), "captions": ["a pond", "water"], "labels": []},
    "vqa": {
        "pictures": [(["a.png"], None, (), ""), (["b.png"], None, (), "")],
        "question": "What changed?",
        "answer": "nothing",
        "kind": "change",
    },
    "grounding": {"phrase": "airplane", "kind": "class", "boxes": [[0, 1, 8, 9]], "polygons": [], "mask": None},
    "land-cover": {"labels": "m.png", "band": 8, "codes": {10: "tree cover", 0: "none"}, "ignore": [0]},
    "change": {
        "before": [(["a.png"], "ombria-s1", (), "")],
        "after": [(["b.png"], "ombria-s1", (), "")],
        "mask": "m.png",
        "phrase": "flood",
        "captions": [],
    },
    "plan": {"question": "How many ships are there?", "plan": Plan("count", "ship")},
}


@pytest.mark.parametrize("task", READERS)
def test_a_line_of_every_task_is_read_as_it_is_written_down(task, write, tmp_path):
    (row,) = READERS[task](write(GOOD[task]))
    assert row.number == 1
    assert {key: plain(getattr(row, key), tmp_path) for key in EXPECTED[task]} == EXPECTED[task]


@pytest.mark.parametrize("task", READERS)
def test_an_unknown_key_is_refused_by_name_and_line(task, write):
    with pytest.raises(ConfigError, match=r"data\.jsonl:2 .*unknown keys: colour, flavour"):
        READERS[task](write(GOOD[task], GOOD[task] | {"flavour": 1, "colour": 2}))


@pytest.mark.parametrize("task", READERS)
def test_every_line_may_name_its_place(task, write):
    assert len(READERS[task](write(GOOD[task] | {"place": "T31"}))) == 1


@pytest.mark.parametrize("task", [task for task in READERS if task != "plan"])
def test_a_missing_file_is_an_error_with_its_line(task, write):
    key = "before" if task == "change" else "image"
    lost = ["lost.png"] if task == "change" else "lost.png"
    with pytest.raises(ConfigError, match=r"data\.jsonl:2 names 'lost\.png', which is no file"):
        READERS[task](write(GOOD[task] | {key: ["c.png"] if task == "change" else "c.png"}, GOOD[task] | {key: lost}))


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("retrieval", {"captions": [], "labels": []}, "captions or labels"),
        ("retrieval", {"captions": "one"}, "list of texts"),
        ("retrieval", {"captions": [" "]}, "list of texts"),
        ("retrieval", {"image": []}, "the list is empty"),
        ("retrieval", {"image": 7}, "names '7', which is no file"),
        ("retrieval", {"image": "x" * 5000}, "which is no file"),
        ("retrieval", {"image": "a\0.png"}, "which is no file"),
        ("retrieval", {"image": ["a.png", "b.png"]}, "2 files and 0 bands"),
        ("retrieval", {"image": ["a.png", "b.png"], "bands": ["B02"]}, "2 files and 1 bands"),
        ("scenes", {"label": ""}, "'label' as a text"),
        ("vqa", {"image": ["a.png", "b.png", "c.png"]}, "3 images"),
        ("vqa", {"answer": 3}, "'answer' as a text"),
        ("grounding", {"mask": "m.png"}, "one of boxes, polygons and mask"),
        ("grounding", {"kind": "other"}, "class or referring"),
        ("grounding", {"boxes": [[4, 0, 4, 8]]}, "x0 < x1"),
        ("grounding", {"boxes": [[9, 0, 4, 8]]}, "x0 < x1"),
        ("grounding", {"boxes": [[0, 0, 4]]}, "4 finite numbers"),
        ("grounding", {"boxes": [["0", 0, 4, 4]]}, "4 finite numbers"),
        ("grounding", {"boxes": [[0, 0, float("nan"), 4]]}, "4 finite numbers"),
        ("grounding", {"boxes": [[0, 0, 10**400, 4]]}, "4 finite numbers"),
        ("grounding", {"boxes": BOX}, "4 finite numbers"),
        ("grounding", {"boxes": [[False, 0, 4, True]]}, "4 finite numbers"),
        ("grounding", {"boxes": {"x": 1}}, "'boxes' as a list"),
        ("land-cover", {"codes": {"ten": "tree cover"}}, "needs codes as"),
        ("land-cover", {"codes": ["tree cover"]}, "needs codes as"),
        ("land-cover", {"codes": {}}, "a name of its own"),
        ("land-cover", {"codes": {"10": "trees", "20": "trees"}}, "a name of its own"),
        ("land-cover", {"codes": {"1": "trees", "01": "grass"}}, "a name of its own"),
        ("land-cover", {"labels_band": "8"}, "labels_band as a whole number"),
        ("land-cover", {"labels_band": True}, "labels_band as a whole number"),
        ("land-cover", {"labels_band": 0}, "labels_band as a whole number"),
        ("land-cover", {"ignore": 0}, "ignore as a list"),
        ("change", {"after": []}, "1, 0 and 1"),
        ("change", {"sensors": ["ombria-s1", "ombria-s2"]}, "1, 1 and 2"),
        ("change", {"sensors": [3]}, "'sensors' as a list of texts"),
        ("change", {"before": "a.png"}, "'before' as a list"),
        ("plan", {"plan": {"task": "fly"}}, "unknown task 'fly'"),
        ("plan", {"plan": {"task": "count"}}, "needs a target"),
        ("plan", {"plan": ["task"]}, "needs a plan"),
        ("plan", {"plan": None}, "needs a plan"),
        ("plan", {"question": " "}, "'question' as a text"),
    ],
)
def test_what_a_line_cannot_mean_is_refused_with_its_line(task, changes, message, write):
    with pytest.raises(ConfigError, match=message) as caught:
        READERS[task](write("", GOOD[task] | changes))
    assert "data.jsonl:2 " in str(caught.value)


def test_a_change_without_mask_and_captions_is_refused(write):
    bare = {"before": ["a.png"], "after": ["b.png"]}
    with pytest.raises(ConfigError, match=r":1 needs a mask or captions"):
        READERS["change"](write(bare))


def test_one_sensor_of_a_change_is_that_of_both_dates(write):
    (row,) = READERS["change"](write({"before": ["a.png"], "after": ["b.png"], "sensor": "rgb", "captions": ["none"]}))
    assert [picture.sensor for picture in (*row.before, *row.after)] == ["rgb", "rgb"]


@pytest.mark.parametrize("task", ["retrieval", "captions"])
def test_an_image_that_stands_twice_is_named_with_both_lines(task, write):
    with pytest.raises(ConfigError, match=r":3 has the image of line 1 again"):
        READERS[task](write(GOOD[task], GOOD[task] | {"image": "b.png"}, GOOD[task]))


def test_one_manifest_has_one_list_of_classes(write):
    other = GOOD["land-cover"] | {"codes": {"10": "trees", "0": "none"}}
    with pytest.raises(ConfigError, match=r":2 has other codes than line 1"):
        READERS["land-cover"](write(GOOD["land-cover"], other))


def test_nothing_there_is_an_empty_list_of_boxes_polygons_or_both_forms_apart(write):
    rows = READERS["grounding"](
        write(
            {"image": "a.png", "phrase": "ship", "boxes": []},
            {"image": "a.png", "phrase": "ship", "polygons": []},
            {"image": "a.png", "phrase": "ship", "polygons": [[0, 0, 4, 0, 4, 4], [[1, 1], [2, 1], [2, 2], [1, 2]]]},
        )
    )
    assert [(row.boxes, len(row.polygons), row.mask) for row in rows] == [((), 0, None), ((), 0, None), ((), 2, None)]
    assert rows[2].polygons[0] == ((0, 0), (4, 0), (4, 4))


@pytest.mark.parametrize("ring", [[], [[0, 0], [1, 1]], [0, 0, 4, 0, 4], "ring", [[0, 0], [1], [2, 2]]])
def test_a_polygon_of_fewer_than_three_points_is_refused(ring, write):
    with pytest.raises(ConfigError, match=r"data\.jsonl:1"):
        READERS["grounding"](write({"image": "a.png", "phrase": "ship", "polygons": [ring]}))


def test_two_files_are_two_dates_of_a_question_unless_bands_make_them_one(write, tmp_path):
    for name in ("one.tif", "two.tif"):
        write_raster(tmp_path / name, bands=("B02",))
    question = {"question": "Is there water?", "answer": "yes", "type": "presence", "image": ["one.tif", "two.tif"]}
    dates, one = READERS["vqa"](write(question, question | {"bands": ["B02", "B03"], "sensor": "sentinel-2-l2a"}))
    assert [len(row.pictures) for row in (dates, one)] == [2, 1]
    assert one.pictures[0].read().band_names == ("B02", "B03")


def test_a_list_of_single_band_files_is_one_image_with_those_bands(write, tmp_path):
    for seed, name in enumerate(("blue.tif", "nir.tif")):
        write_raster(tmp_path / name, seed=seed, bands=("",))
    row = {"image": ["blue.tif", "nir.tif"], "bands": ["B02", "B08"], "sensor": "sentinel-2-l2a", "label": "field"}
    (read,) = READERS["scenes"](write(row))
    scene = read.picture.read()
    assert (scene.sensor.name, scene.band_names, scene.shape) == ("sentinel-2-l2a", ("B02", "B08"), (32, 48))


def test_a_byte_order_mark_blank_lines_and_windows_line_ends_do_no_harm(write):
    path = write("", "  ", GOOD["plan"], "")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert [row.number for row in READERS["plan"](path)] == [3]


def test_unicode_line_ends_inside_a_text_end_no_line(write):
    path = write()
    path.write_text(json.dumps(GOOD["captions"] | {"captions": ["one\u2028two\x85three"]}, ensure_ascii=False))
    (row,) = READERS["captions"](path)
    assert row.captions == ("one\u2028two\x85three",)


@pytest.mark.parametrize(
    "line", ["{", "no", "[" * 100_000, '{"question": ' + "9" * 5000 + "}", '{"question": "x"} {"question": "y"}']
)
def test_what_is_not_json_is_named_with_its_line(line, write):
    with pytest.raises(ConfigError, match=r"data\.jsonl:2 is not JSON"):
        READERS["plan"](write(GOOD["plan"], line))


@pytest.mark.parametrize("line", ["[]", "3", "null", '"text"'])
def test_what_is_no_object_is_named_with_its_line(line, write):
    with pytest.raises(ConfigError, match=r"data\.jsonl:2 is not a JSON object"):
        READERS["plan"](write(GOOD["plan"], line))


@pytest.mark.parametrize("lines", [[], ["", "  "]])
def test_an_empty_manifest_is_refused(lines, write):
    with pytest.raises(ConfigError, match=r"data\.jsonl is empty"):
        READERS["plan"](write(*lines))


def test_a_manifest_that_is_no_text_or_not_there_is_refused(tmp_path):
    (tmp_path / "data.jsonl").write_bytes(b"\xff\xfe\x00")
    for name in ("data.jsonl", "lost.jsonl", ""):
        with pytest.raises(ConfigError, match="cannot be read as a manifest"):
            READERS["plan"](tmp_path / name)
