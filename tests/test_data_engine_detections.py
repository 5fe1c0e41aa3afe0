"""Detections, expressions and change masks are read as published, and what is missing or hostile is named."""

import json
import os
import pickle
from collections import Counter

import numpy as np
import pytest
import rasterio
from PIL import Image

from data_engine.annotated import Pair, Target
from data_engine.sources import (
    coco,
    dior_rsvg,
    dota,
    dsifn,
    hls_worldcover,
    nwpu_vhr10,
    ombria,
    rrsis_d,
    sen1floods11,
)
from data_engine.splits import split_of
from rsvlm.errors import DatasetError
from rsvlm.raster import read_labels, read_scene


def picture(path, value=0, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)
    return path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return path


def annotation(identity, image, category, box, **more):
    return {"id": identity, "image_id": image, "category_id": category, "bbox": box, "iscrowd": 0, **more}


def detections():
    return {
        "categories": [
            {"id": 1, "name": "storage_tank"},
            {"id": 2, "name": "Ground-Track-Field"},
            {"id": 3, "name": "ship"},
            {"id": 4, "name": "bridge"},
        ],
        "images": [
            {"id": 8, "file_name": "b.png", "width": 200, "height": 100},
            {"id": 7, "file_name": "a.png", "width": 8, "height": 8},
        ],
        "annotations": [
            annotation(11, 8, 3, [1, 2, 3, 4], segmentation=[[1, 2, 4, 2, 4, 6]]),
            annotation(12, 8, 1, [10.5, 20, 5, 6]),
            annotation(13, 8, 3, [0, 0, 2, 2], segmentation=[[0, 0, 1, 0, 0, 1], [0, 0, 2, 0, 2, 2, 0, 2]]),
            annotation(14, 8, 4, [0, 0, 9, 9], iscrowd=1, segmentation={"size": [8, 8], "counts": [64]}),
        ],
    }


@pytest.fixture
def folder(tmp_path):
    """A folder with one COCO file of two images."""
    write(tmp_path / "instances.json", detections())
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "images" / "b.png")
    return tmp_path


def changed(folder, key, position, **fields):
    data = detections()
    row = data[key][position]
    row.update(fields)
    for name in [name for name, value in fields.items() if value is None]:
        del row[name]
    write(folder / "instances.json", data)


# COCO


def test_coco_boxes_become_corners_grouped_by_category_in_words(folder):
    first, second = coco.read(folder)
    assert (first.image, second.image) == (folder / "images" / "a.png", folder / "images" / "b.png")
    ring = ((1.0, 2.0), (4.0, 2.0), (4.0, 6.0))
    square = ((0.0, 0.0), (2.0, 0.0), (2.0, 2.0), (0.0, 2.0))
    assert second.targets[:2] == (
        Target("ship", "class", ((1, 2, 4, 6), (0, 0, 2, 2)), (ring, square)),
        Target("storage tank", "class", ((10.5, 20, 15.5, 26),)),
    )
    assert second.labels == ("ship", "storage tank")
    assert second.split == split_of(second.place)
    assert second.sensor == "rgb"


def test_a_category_seen_only_as_a_crowd_is_neither_there_nor_absent(folder):
    _, second = coco.read(folder)
    assert second.targets[2:] == (Target("ground track field"),)


def test_a_box_without_area_is_passed_over_and_its_category_not_called_absent(folder):
    changed(folder, "annotations", 1, bbox=[1, 1, 0, 5])
    _, second = coco.read(folder)
    assert [target.phrase for target in second.targets] == ["ship", "ground track field"]


def test_an_image_without_objects_gets_two_absent_phrases_the_same_ones_every_time(folder):
    first = next(coco.read(folder))
    assert first.labels == ()
    assert len(first.targets) == 2
    assert all(not target.boxes and not target.polygons and target.kind == "class" for target in first.targets)
    assert next(coco.read(folder)) == first


def test_absent_phrases_differ_between_images_and_never_name_what_is_there():
    names = [f"class {n}" for n in range(10)]
    chosen = [coco.absent_targets(names, {"class 3"}, f"image {n}") for n in range(50)]
    assert len(set(chosen)) > 10
    assert "class 3" not in {target.phrase for targets in chosen for target in targets}
    assert coco.absent_targets(["one"], {"one"}, "x") == ()


def test_parts_of_the_coco_layout_give_the_split(tmp_path):
    data = detections() | {"annotations": []}
    for part in ("train2017", "val2017"):
        write(tmp_path / "annotations" / f"instances_{part}.json", data)
        picture(tmp_path / part / "a.png")
        picture(tmp_path / part / "b.png")
    assert [(item.image.parent.name, item.split) for item in coco.read(tmp_path)] == [
        *[("train2017", "train")] * 2,
        *[("val2017", "val")] * 2,
    ]


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/hostname", "..\\secret.png", "C:\\a.png", "x/../../secret.png"]
)
def test_a_file_name_that_climbs_out_is_refused(folder, name):
    picture(folder.parent / "secret.png")
    changed(folder, "images", 0, file_name=name)
    with pytest.raises(DatasetError, match="no path inside"):
        list(coco.read(folder))


def test_a_listed_image_that_is_not_there_is_named(folder):
    (folder / "images" / "b.png").unlink()
    with pytest.raises(DatasetError, match=r"instances\.json names b\.png, which is not in"):
        list(coco.read(folder))


@pytest.mark.parametrize(
    ("key", "field"),
    [
        *[("annotations", name) for name in ("id", "image_id", "category_id", "bbox")],
        *[("images", name) for name in ("id", "file_name", "width")],
        *[("categories", name) for name in ("id", "name")],
    ],
)
def test_a_record_without_a_field_names_file_record_and_field(folder, key, field):
    changed(folder, key, 1, **{field: None})
    with pytest.raises(DatasetError, match=rf"record 1 of .*instances\.json has no '{field}'"):
        list(coco.read(folder))


@pytest.mark.parametrize(
    "fields",
    [
        {"bbox": [1, 2, 3]},
        {"bbox": "1234"},
        {"bbox": [1, 2, 3, float("nan")]},
        {"bbox": [1, 2, 3, 10**400]},
        {"bbox": [1, 2, 3, True]},
        {"image_id": 99},
        {"category_id": 99},
        {"category_id": [1]},
        {"segmentation": [[1, 2, 3, 4]]},
        {"segmentation": [[1, 2, 3, 4, 5, 6, 7]]},
        {"segmentation": [7]},
    ],
)
def test_numbers_and_ids_that_are_none_are_refused_with_their_record(folder, fields):
    changed(folder, "annotations", 0, **fields)
    with pytest.raises(DatasetError, match="record 0 of"):
        list(coco.read(folder))


@pytest.mark.parametrize("text", ["[]", "{}", '{"images": 1, "categories": [], "annotations": []}', "{", '"x"'])
def test_what_is_no_coco_file_is_refused(folder, text):
    write(folder / "instances.json", text)
    with pytest.raises(DatasetError, match=r"instances\.json"):
        list(coco.read(folder))


@pytest.mark.parametrize(
    ("read", "wanted"),
    [
        (coco.read, "instances.json"),
        (nwpu_vhr10.read, "instances.json"),
        (dota.read, "train or val"),
        (dior_rsvg.read, "train.txt"),
        (rrsis_d.read, "rrsisd/refs"),
        (ombria.read, "mask"),
        (ombria.read_published, "OmbriaS1/train"),
        (sen1floods11.read, "data/flood_events/HandLabeled"),
        (dsifn.read, "B"),
        (hls_worldcover.read, "index.jsonl"),
    ],
)
def test_an_empty_folder_is_an_error_that_says_what_was_looked_for(tmp_path, read, wanted):
    with pytest.raises(DatasetError, match=f"holds no {wanted}"):
        list(read(tmp_path))


# NWPU VHR-10


def expression(**fields):
    whole = {"expression": "1 ship at the top", "image": "b.png", "ann_ids": [11], "category": "ship"}
    return whole | {"boxes_pct_earthdial": [[0, 0, 50, 10]]} | fields


def test_an_expression_takes_the_boxes_of_its_annotations_and_percent_only_where_it_names_none(folder):
    rows = [expression(), expression(expression="2 things", ann_ids=[13, 12]), expression(ann_ids=[])]
    write(folder / "referring.json", rows)
    first, second = nwpu_vhr10.read(folder)
    assert len(first.targets) == 2  # absent phrases only
    exact, two, percent = second.targets[3:]
    assert exact == Target("1 ship at the top", "referring", ((1, 2, 4, 6),), (((1, 2), (4, 2), (4, 6)),))
    assert two == Target("2 things", "referring", ((0, 0, 2, 2), (10.5, 20, 15.5, 26)))
    assert percent == Target("1 ship at the top", "referring", ((0, 0, 100, 10),))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"image": "z.png"}, "is about 'z.png'"),
        ({"image": "a.png"}, "names annotation 11, which a.png lacks"),
        ({"ann_ids": [99]}, "names annotation 99"),
        ({"ann_ids": [[1]]}, "names annotation"),
        ({"ann_ids": 11}, "no list"),
        ({"ann_ids": [], "boxes_pct_earthdial": [[1, 2, 3]]}, "4 finite numbers"),
    ],
)
def test_an_expression_about_what_is_not_listed_is_refused(folder, fields, match):
    write(folder / "referring.json", [expression(**fields)])
    with pytest.raises(DatasetError, match=match):
        list(nwpu_vhr10.read(folder))


def test_real_nwpu_boxes_lie_inside_their_images_and_all_expressions_arrive(data_dir):
    items = list(nwpu_vhr10.read(data_dir / "nwpu_vhr10"))
    targets = [target for item in items for target in item.targets]
    kinds = Counter(target.kind if target.boxes else "absent" for target in targets)
    assert len(items) == 520
    assert kinds == {"class": 713, "referring": 841, "absent": 1040}
    assert sum(len(target.boxes) for target in targets if target.kind == "class") == 2989
    assert {item.split for item in items} == {"train", "val"}
    for item in items[::20]:
        width, height = Image.open(item.image).size
        for x0, y0, x1, y1 in [box for target in item.targets for box in target.boxes]:
            assert 0 <= x0 < x1 <= width
            assert 0 <= y0 < y1 <= height
        absent = {target.phrase for target in item.targets if not target.boxes}
        assert len(absent) == 2
        assert not absent & set(item.labels)


# DOTA


LABELS = "imagesource:GoogleEarth\ngsd:0.146\n\n1 1 5 1 5 3 1 3 small-vehicle 0\n2.0 2.0 4 6 3 7 1 3 plane 1\n"


def make_dota(root, labels="labelTxt"):
    for part, name, text in (("train", "P0002", LABELS), ("train", "P0001", "gsd:null\n"), ("val", "P0003", LABELS)):
        write(root / part / labels.format(part=part) / f"{name}.txt", text)
        picture(root / part / "images" / f"{name}.png")
    return root


def test_dota_lines_become_oriented_polygons_by_class_difficult_ones_too(tmp_path):
    empty, full, val = dota.read(make_dota(tmp_path))
    assert [item.place for item in (empty, full, val)] == ["dota-P0001", "dota-P0002", "dota-P0003"]
    assert [item.split for item in (empty, full, val)] == ["train", "train", "val"]
    assert full.targets == (
        Target("plane", polygons=(((2, 2), (4, 6), (3, 7), (1, 3)),)),
        Target("small vehicle", polygons=(((1, 1), (5, 1), (5, 3), (1, 3)),)),
    )
    assert full.labels == ("plane", "small vehicle")
    assert empty.labels == ()
    assert empty.targets == (Target("plane"), Target("small vehicle"))


@pytest.mark.parametrize("labels", ["labelTxt-v1.5", "labelTxt-v1.5/DOTA-v1.5_{part}", "labelTxt-v2.0"])
def test_the_newest_dota_labels_are_read(tmp_path, labels):
    make_dota(tmp_path, labels)
    write(tmp_path / "train" / "labelTxt" / "P0009.txt", LABELS)
    assert [item.place for item in dota.read(tmp_path)] == ["dota-P0001", "dota-P0002", "dota-P0003"]


@pytest.mark.parametrize(
    "line", ["1 2 3 4 5 6 7 plane 0", "1 2 3 4 5 6 7 nan plane 0", "1 2 3 4 5 6 7 8 a b c", "plane"]
)
def test_a_line_that_is_no_dota_label_is_named_by_file_and_line(tmp_path, line):
    make_dota(tmp_path)
    write(tmp_path / "train" / "labelTxt" / "P0002.txt", f"gsd:1\n{line}\n")
    with pytest.raises(DatasetError, match=r"P0002\.txt:2 "):
        list(dota.read(tmp_path))


def test_a_dota_label_without_its_image_is_an_error(tmp_path):
    make_dota(tmp_path)
    (tmp_path / "val" / "images" / "P0003.png").unlink()
    with pytest.raises(DatasetError, match=r"holds no P0003\.png or P0003\.jpg"):
        list(dota.read(tmp_path))


# DIOR-RSVG


def described(*phrases):
    boxes = "<bndbox><xmin>{0}</xmin><ymin>2</ymin><xmax>5</xmax><ymax>7</ymax></bndbox>"
    objects = "".join(
        f"<object><name>ship</name><pose>Unspecified</pose>{boxes.format(n)}<description>{phrase}</description></object>"
        for n, phrase in enumerate(phrases)
    )
    return f'<?xml version="1.0" encoding="utf-8"?><annotation><filename>%s.jpg</filename>{objects}</annotation>'


@pytest.fixture
def dior(tmp_path):
    """Objects 0 and 1 in the first image, 2 in the second."""
    write(tmp_path / "Annotations" / "00002.xml", described("The grey ship") % "00002")
    write(tmp_path / "Annotations" / "00001.xml", described("The left ship", "The right ship") % "00001")
    for name in ("00001", "00002"):
        picture(tmp_path / "JPEGImages" / f"{name}.jpg")
    for split, numbers in (("train", "0\n2\n"), ("val", "1\n"), ("test", "")):
        write(tmp_path / f"{split}.txt", numbers)
    return tmp_path


def test_dior_numbers_run_over_all_objects_in_order_of_file_name(dior):
    found = [(item.place, item.split, item.targets) for item in dior_rsvg.read(dior)]
    assert found == [
        ("dior-rsvg-00001", "train", (Target("The left ship", "referring", ((0, 2, 5, 7),)),)),
        ("dior-rsvg-00001", "val", (Target("The right ship", "referring", ((1, 2, 5, 7),)),)),
        ("dior-rsvg-00002", "train", (Target("The grey ship", "referring", ((0, 2, 5, 7),)),)),
    ]


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("train.txt", "0\n2\n3\n", "lists object 3 but its XML files hold 3"),
        ("train.txt", "0\n1\n", r"val\.txt:1 lists object 1, which is in train already"),
        ("train.txt", "0\n-1\n", r"train\.txt:2 is '-1'"),
        ("train.txt", "9" * 5000, r"train\.txt:1 is"),
        ("Annotations/00001.xml", "<annotation>", "is not XML"),
        ("Annotations/00001.xml", described("The left ship"), r"names %s\.jpg, which is not in"),
        ("Annotations/00001.xml", described("") % "00001", "record 0 of .* has no 'description'"),
        ("Annotations/00001.xml", "x" * (1 << 20) + "x", "more than 1048576 bytes"),
        ("Annotations/00001.xml", described("a").replace("<xmin>0", "<xmin>wide"), "finite numbers"),
        ("Annotations/00001.xml", described("a") % "../JPEGImages/00001", "no path inside"),
    ],
)
def test_damaged_dior_files_are_named(dior, name, text, match):
    write(dior / name, text)
    with pytest.raises(DatasetError, match=match):
        list(dior_rsvg.read(dior))


def test_xml_with_entities_is_refused_before_they_grow(dior):
    lines = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    bomb = f'<!DOCTYPE a [<!ENTITY e0 "ha">{lines}]><annotation><filename>&e11;</filename></annotation>'
    write(dior / "Annotations" / "00001.xml", bomb)
    with pytest.raises(DatasetError, match="declares a document type"):
        list(dior_rsvg.read(dior))


# RRSIS-D


def run_lengths(mask):
    from pycocotools.mask import encode

    rle = encode(np.asfortranarray(mask.astype(np.uint8)))
    return [{"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode()}]


def reference(**fields):
    sentences = [{"tokens": ["the", "ship"], "raw": "The ship", "sent_id": 3, "sent": "the ship"}]
    whole = {"image_id": 3, "split": "train", "sentences": sentences, "file_name": "00003.jpg", "category_id": 13}
    return whole | {"ann_id": 3, "sent_ids": [3], "ref_id": 3} | fields


def make_rrsis(root, rows, segmentation=None, **fields):
    mask = np.zeros((6, 8))
    mask[1:4, 2:7] = 1
    mask[5, 0] = 1  # a smaller part
    row = {"id": 3, "image_id": 3, "categories_id": 13, "bbox": [2, 1, 7, 4], "area": 15} | fields
    row["segmentation"] = run_lengths(mask) if segmentation is None else segmentation
    write(root / "rrsisd" / "instances.json", {"images": [], "categories": [], "annotations": [row]})
    (root / "rrsisd" / "refs(unc).p").write_bytes(rows if isinstance(rows, bytes) else pickle.dumps(rows))
    picture(root / "images" / "rrsisd" / "JPEGImages" / "00003.jpg")
    return root


def test_rrsis_boxes_are_corners_and_polygons_the_largest_part_of_the_mask(tmp_path):
    test = reference(split="test", sentences=[{"sent": "it"}, {"sent": "the grey one"}])
    items = list(rrsis_d.read(make_rrsis(tmp_path, [test, reference()])))
    assert [(item.split, [target.phrase for target in item.targets]) for item in items] == [
        ("test", ["it", "the grey one"]),
        ("train", ["the ship"]),
    ]
    (target,) = items[1].targets
    assert target.kind == "referring"
    assert target.boxes == ((2, 1, 7, 4),)
    assert set(target.polygons[0]) == {(2, 1), (7, 1), (7, 4), (2, 4)}
    assert len(target.polygons[0]) == 4
    assert items[1].image == tmp_path / "images" / "rrsisd" / "JPEGImages" / "00003.jpg"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_of_every_protocol_are_read(tmp_path, protocol):
    (item,) = rrsis_d.read(make_rrsis(tmp_path, pickle.dumps([reference()], protocol=protocol)))
    assert item.targets[0].phrase == "the ship"


class Runs:
    """Unpickled, it would make a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_pickle_is_refused_and_nothing_of_it_runs(tmp_path, protocol):
    proof = tmp_path / "it ran"
    attack = pickle.dumps([reference(), Runs(proof)], protocol=protocol)
    make_rrsis(tmp_path, attack)
    with pytest.raises(DatasetError, match="no pickle of plain records"):
        list(rrsis_d.read(tmp_path))
    assert not proof.exists()
    pickle.loads(attack)  # the attack is a real one
    assert proof.exists()


@pytest.mark.parametrize("damage", [b"", b"not a pickle", pickle.dumps([1])[:-2], b"\x80\x04.", pickle.dumps({"a": 1})])
def test_what_is_no_pickled_list_is_refused(tmp_path, damage):
    with pytest.raises(DatasetError, match="refs"):
        list(rrsis_d.read(make_rrsis(tmp_path, damage)))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"split": "testA"}, "splits are train, val, test"),
        ({"ann_id": 4}, "annotation 4"),
        ({"ann_id": []}, "no id"),
        ({"file_name": "../../../secret.jpg"}, "no path inside"),
        ({"file_name": "00009.jpg"}, "which is not in"),
        ({"sentences": "the ship"}, "no list of records"),
        ({"sentences": [{"raw": "x"}]}, "has no 'sent'"),
    ],
)
def test_rrsis_records_that_do_not_fit_are_refused(tmp_path, fields, match):
    with pytest.raises(DatasetError, match=match):
        list(rrsis_d.read(make_rrsis(tmp_path, [reference(**fields)])))


def test_rrsis_boxes_of_the_usual_coco_form_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="wanted x0, y0, x1, y1"):
        list(rrsis_d.read(make_rrsis(tmp_path, [reference()], bbox=[20, 10, 5, 3])))


@pytest.mark.parametrize("counts", ["", "zzzz", "P" * 3000, "\u00e9", [3, 4]])
def test_run_lengths_that_do_not_fill_the_mask_are_refused(tmp_path, counts):
    with pytest.raises(DatasetError, match="record 3 of"):
        list(rrsis_d.read(make_rrsis(tmp_path, [reference()], [{"size": [6, 8], "counts": counts}])))


def test_a_mask_larger_than_the_cap_is_refused_before_memory_is_taken(tmp_path):
    with pytest.raises(DatasetError, match="up to 67108864 pixels"):
        list(rrsis_d.read(make_rrsis(tmp_path, [reference()], [{"size": [10**7, 10**7], "counts": "0"}])))


# OMBRIA


def test_an_ombria_event_is_four_chips_and_one_pair_that_says_nothing_about_its_image(tmp_path):
    paths = {
        (sensor, date): picture(tmp_path / f"{sensor}_{date}" / "0002.webp")
        for sensor in ("s1", "s2")
        for date in ("before", "after")
    }
    mask = Image.new("L", (8, 8))
    mask.paste(255, (0, 0, 4, 4))
    (tmp_path / "mask").mkdir()
    mask.save(tmp_path / "mask" / "0002.png")
    *chips, pair = ombria.read(tmp_path)
    assert [(chip.image, chip.sensor, chip.fractions, chip.labels) for chip in chips] == [
        (paths["s1", "before"], "ombria-s1", {"flood": 0.0}, ()),
        (paths["s1", "after"], "ombria-s1", {"flood": 0.25}, ("flood",)),
        (paths["s2", "before"], "ombria-s2", {"flood": 0.0}, ()),
        (paths["s2", "after"], "ombria-s2", {"flood": 0.25}, ("flood",)),
    ]
    assert all(chip.pair is None for chip in chips)
    assert pair.pair == Pair(
        before=(paths["s1", "before"], paths["s2", "before"]),
        after=(paths["s1", "after"], paths["s2", "after"]),
        sensors=("ombria-s1", "ombria-s2"),
        mask=tmp_path / "mask" / "0002.png",
        phrase="flood",
    )
    assert (pair.image, pair.sensor, pair.split) == (paths["s2", "after"], "ombria-s2", chips[0].split)
    assert (pair.captions, pair.labels, pair.fractions) == ((), (), {})


def make_ombria(root, part, number, sensors=("S1", "S2")):
    for sensor in sensors:
        folder = root / f"Ombria{sensor}" / part
        picture(folder / "MASK" / f"{sensor}_mask_{number}.png", 255)
        for date in ("before", "after"):
            picture(folder / date.upper() / f"{sensor}_{date}_{number}.png")


def test_published_ombria_keeps_its_test_part_and_cuts_train_by_place(tmp_path):
    make_ombria(tmp_path, "train", "0002")
    make_ombria(tmp_path, "train", "0001", sensors=("S2",))
    make_ombria(tmp_path, "test", "0013")
    items = list(ombria.read_published(tmp_path))
    pairs = [item.pair for item in items if item.pair]
    assert len(items) == 3 + 5 + 5
    assert [pair.sensors for pair in pairs] == [("ombria-s2",), ("ombria-s1", "ombria-s2"), ("ombria-s1", "ombria-s2")]
    assert pairs[1].before[0] == tmp_path / "OmbriaS1" / "train" / "BEFORE" / "S1_before_0002.png"
    assert {item.place: item.split for item in items} == {
        "ombria-0001": split_of("ombria-0001"),
        "ombria-0002": split_of("ombria-0002"),
        "ombria-0013": "test",
    }


def test_an_ombria_chip_that_is_missing_is_named(tmp_path):
    make_ombria(tmp_path, "train", "0002")
    make_ombria(tmp_path, "test", "0013")
    (tmp_path / "OmbriaS2" / "train" / "AFTER" / "S2_after_0002.png").unlink()
    with pytest.raises(DatasetError, match=r"AFTER/S2_after_0002\.png"):
        list(ombria.read_published(tmp_path))


def test_real_ombria_has_300_pairs_with_masks_as_large_as_their_chips(data_dir):
    items = list(ombria.read(data_dir / "ombria"))
    pairs = [item.pair for item in items if item.pair]
    assert len(items) == 1500
    assert len(pairs) == 300
    assert all(path.is_file() for pair in pairs for path in (*pair.before, *pair.after, pair.mask))
    pair = pairs[0]
    scenes = [read_scene(path, sensor=name) for path, name in zip(pair.after, pair.sensors, strict=True)]
    assert {scene.pixels.shape[1:] for scene in scenes} == {read_labels(pair.mask).shape}


# Sen1Floods11


def raster(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    grid = rasterio.Affine(9e-5, 0, -1.0, 0, -9e-5, 6.0)
    shape = {"count": count, "height": height, "width": width, "dtype": pixels.dtype.name}
    with rasterio.open(path, "w", driver="GTiff", crs="EPSG:4326", transform=grid, **shape) as file:
        file.write(pixels)


@pytest.fixture
def floods(tmp_path):
    """One chip a list, as published."""
    chips = tmp_path / "v1.1" / "data" / "flood_events" / "HandLabeled"
    names = {"train": "Ghana_1", "valid": "Spain_2", "test": "USA_3", "bolivia": "Bolivia_4"}
    label = np.array([[[-1, -1, 0, 1], [0, 0, 0, 0]]], np.int16).repeat(4, axis=1)
    for part, name in names.items():
        radar = np.stack([np.full((8, 4), -8, np.float32), np.full((8, 4), -14, np.float32)])
        raster(chips / "S1Hand" / f"{name}_S1Hand.tif", radar)
        optical = (np.arange(13, dtype=np.int16) * 100 + 100)[:, None, None].repeat(8, 1).repeat(4, 2)
        raster(chips / "S2Hand" / f"{name}_S2Hand.tif", optical)
        raster(chips / "LabelHand" / f"{name}_LabelHand.tif", np.full_like(label, -1) if part == "test" else label)
        lists = tmp_path / "v1.1" / "splits" / "flood_handlabeled"
        write(lists / f"flood_{part}_data.csv", f"{name}_S1Hand.tif,{name}_LabelHand.tif\n")
    return tmp_path


def test_sen1floods11_gives_each_sensor_a_class_map_and_holds_bolivia_out(floods):
    items = list(sen1floods11.read(floods))
    assert [(item.place, item.sensor, item.split) for item in items[::2]] == [
        ("sen1floods11-Ghana_1", "sentinel-1-grd", "train"),
        ("sen1floods11-Spain_2", "sentinel-1-grd", "val"),
        ("sen1floods11-USA_3", "sentinel-1-grd", "test"),
        ("sen1floods11-Bolivia_4", "sentinel-1-grd", "test"),
    ]
    radar, optical = items[:2]
    assert optical.sensor == "sentinel-2-l1c"
    assert optical.place == radar.place
    assert radar.class_map == optical.class_map
    assert radar.class_map.path.name == "Ghana_1_LabelHand.tif"
    assert radar.class_map.ignore == (-1,)
    assert radar.fractions == pytest.approx({"dry land": 5 / 6, "water": 1 / 6})
    assert radar.labels == ("dry land", "water")
    assert items[4].fractions == {}
    assert items[4].labels == ()


def test_sen1floods11_chips_open_as_the_sensors_the_reader_names(floods):
    radar, optical = list(sen1floods11.read(floods / "v1.1"))[:2]
    scene = read_scene(radar.image, sensor=radar.sensor)
    assert float(scene.select(("VH",)).pixels.mean()) == pytest.approx(-14)
    scene = read_scene(optical.image, sensor=optical.sensor)
    assert float(scene.select(("B8A",)).pixels.mean()) == pytest.approx(0.09)  # the ninth of 13 bands: 900 x 1e-4


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("Ghana_1_S1Hand.tif", r"flood_train_data\.csv:1 is"),
        ("Ghana_1_S2Hand.tif,Ghana_1_LabelHand.tif", r"flood_train_data\.csv:1 is"),
        ("Mali_5_S1Hand.tif,Ghana_1_LabelHand.tif", r"names Mali_5_S1Hand\.tif, which is not in"),
        ("../S1Hand/Ghana_1_S1Hand.tif,Ghana_1_LabelHand.tif", "no path inside"),
    ],
)
def test_a_list_that_names_no_chip_is_refused(floods, line, match):
    write(floods / "v1.1" / "splits" / "flood_handlabeled" / "flood_train_data.csv", line)
    with pytest.raises(DatasetError, match=match):
        list(sen1floods11.read(floods))


# DSIFN and HLS


def test_a_dsifn_pair_needs_both_dates_and_its_label(tmp_path):
    for folder in ("A", "B", "label"):
        picture(tmp_path / folder / "0_2.png")
    (item,) = dsifn.read(tmp_path)
    paths = [tmp_path / folder / "0_2.png" for folder in ("A", "B", "label")]
    assert item.pair == Pair((paths[0],), (paths[1],), ("rgb",), mask=paths[2])
    assert (item.image, item.place) == (paths[1], "dsifn-0")
    paths[2].unlink()
    with pytest.raises(DatasetError, match=r"label holds no 0_2\.png"):
        list(dsifn.read(tmp_path))


def test_real_dsifn_masks_hold_change_and_its_absence(data_dir):
    items = list(dsifn.read(data_dir / "dsifn_change"))
    assert len(items) == 10
    masks = np.stack([read_labels(item.pair.mask) for item in items])
    assert set(np.unique(masks > 0)) == {False, True}


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ({"chip": "a.tif", "place": 1}, "record 1 of .* has no 'worldcover_fraction'"),
        ({"chip": "a.tif", "place": 1, "worldcover_fraction": []}, "no table"),
        ({"chip": "../a.tif", "place": 1, "worldcover_fraction": {}}, "no path inside"),
        ({"chip": "a.tif", "place": 1, "worldcover_fraction": {}}, "which is not in"),
    ],
)
def test_an_index_line_that_names_no_chip_is_refused(tmp_path, line, match):
    write(tmp_path / "index.jsonl", line)
    with pytest.raises(DatasetError, match=match):
        list(hls_worldcover.read(tmp_path))


def test_real_class_maps_agree_with_the_published_fractions(data_dir):
    items = list(hls_worldcover.read(data_dir / "hls_worldcover"))
    assert len(items) == 163
    for item in items[::10]:
        codes = read_labels(item.class_map.path, band=item.class_map.band)
        assert {str(code) for code in np.unique(codes)} <= set(item.class_map.codes)
        shares = {name: float((codes == int(code)).mean()) for code, name in item.class_map.codes.items()}
        assert {name: share for name, share in shares.items() if share} == pytest.approx(item.fractions, abs=1e-4)
