import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin

from data_engine.layout import exchanges, names_inside, read_csv, read_parquet, read_records, read_xml
from data_engine.sources import (
    chatearthnet,
    crisislandmark,
    dior,
    gaia,
    kuro_siwo,
    refgeo,
    rsteller,
    rswk,
    sarlang,
    sen12ms,
    skyscript,
    so2sat,
    star,
)
from data_engine.splits import split_of
from data_engine.unpacking import decibels, hdf5, tar_records, write_once
from rsvlm.errors import DatasetError
from rsvlm.raster import read_labels, read_scene

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def touch(path, content=b"picture"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_json(path, content):
    return touch(path, json.dumps(content).encode())


def write_lines(path, *rows):
    return touch(path, "\n".join(json.dumps(row) for row in rows).encode())


def write_picture(path, value, mode="RGB", size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)
    return path


def write_tif(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": pixels.dtype.name}
    with rasterio.open(path, "w", crs="EPSG:32633", transform=from_origin(5e5, 5e6, 10, 10), **profile) as target:
        target.write(pixels)
    return path


def write_tar(path, **files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def asked(image, *turns):
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": t} for n, t in enumerate(turns)], "images": [image]}


# What the readers share


@pytest.mark.parametrize(
    "name", ["..", "../a.jpg", "a/../../b", "/etc/passwd", "C:\\a.jpg", "a\\..\\..\\b", "", None, 3]
)
def test_names_that_could_lead_out_of_a_folder_are_told(name):
    assert not names_inside(name)


def test_ordinary_names_stay_inside():
    assert all(names_inside(name) for name in ("a.jpg", "images2/a..b.jpg", "./a", "..."))


def test_records_are_read_as_array_and_as_lines(tmp_path):
    rows = [{"a": 1}, {"a": 2}]
    assert read_records(write_json(tmp_path / "a.json", rows)) == rows
    assert read_records(write_lines(tmp_path / "b.json", *rows)) == rows
    assert read_records(touch(tmp_path / "c.json", b"")) == []


def test_a_table_without_a_column_is_refused_by_its_name(tmp_path):
    path = touch(tmp_path / "a.csv", b"filepath,caption\n1,2\n")
    with pytest.raises(DatasetError, match=r"a\.csv has no column title"):
        list(read_csv(path, ("filepath", "title")))
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(DatasetError, match=r"no column labels"):
        list(read_parquet(tmp_path / "a.parquet", ("key", "labels")))
    with pytest.raises(DatasetError, match="no Parquet file"):
        list(read_parquet(path, ("key",)))


def test_xml_that_declares_a_document_type_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="document type"):
        read_xml(touch(tmp_path / "a.xml", b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'))
    with pytest.raises(DatasetError, match="not XML"):
        read_xml(touch(tmp_path / "a.xml", b"<a>"))


def test_both_forms_of_chats_become_questions_and_answers(tmp_path):
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A  dam."}]
    assert exchanges({"conversations": turns}, tmp_path, 1) == [("What?", "A dam.")]
    assert exchanges(asked("a.png", "What?", "A dam.", "Where?", "Here."), tmp_path, 1) == [
        ("What?", "A dam."),
        ("Where?", "Here."),
    ]


@pytest.mark.parametrize("turns", [[], ["What?"], ["What?", "A dam.", "Where?"]])
def test_chats_without_an_answer_to_every_question_are_refused(tmp_path, turns):
    with pytest.raises(DatasetError, match=r"record 4 of .* needs questions and answers in turn"):
        exchanges(asked("a.png", *turns), tmp_path, 4)


def test_a_file_is_written_once_and_never_half(tmp_path):
    path = tmp_path / "deep" / "a.bin"
    with pytest.raises(ZeroDivisionError):
        write_once(path, lambda beside: (beside.write_bytes(b"half"), 1 / 0))
    assert list(path.parent.iterdir()) == []
    write_once(path, lambda beside: beside.write_bytes(b"whole"))
    write_once(path, lambda beside: beside.write_bytes(b"again"))
    assert path.read_bytes() == b"whole"
    assert list(path.parent.iterdir()) == [path]


def test_decibels_are_ten_times_the_logarithm_and_nothing_is_missing():
    power = np.array([1.0, 0.1, 100.0, 0.0, -1.0, np.nan, np.inf, 1e-9])
    expected = [0.0, -10.0, 20.0, np.nan, np.nan, np.nan, np.nan, -60.0]
    np.testing.assert_allclose(decibels(power), expected, atol=1e-5)


def test_shards_are_read_sample_by_sample(tmp_path):
    path = write_tar(tmp_path / "a.tar", **{"x/7.jpg": b"1", "x/7.cls.txt": b"2", "8.JPG": b"3"})
    assert list(tar_records(path)) == [("x/7", {"jpg": b"1", "cls.txt": b"2"}), ("8", {"jpg": b"3"})]
    assert list(tar_records(write_tar(tmp_path / "b.tar"))) == []


def test_shards_that_lead_out_of_their_folder_or_are_cut_off_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="leads out of its folder"):
        list(tar_records(write_tar(tmp_path / "a.tar", **{"../7.jpg": b"1"})))
    whole = write_tar(tmp_path / "b.tar", **{"7.jpg": bytes(5000)}).read_bytes()
    with pytest.raises(DatasetError, match="no whole tar archive"):
        list(tar_records(touch(tmp_path / "b.tar", whole[:2000])))


READERS = [
    (chatearthnet.read, "s2_images"),
    (crisislandmark.read, "metadata.parquet"),
    (dior.read, "ImageSets/Main"),
    (gaia.read, "train_data.json"),
    (kuro_siwo.read, r"\*\*/info.json"),
    (refgeo.read, "metainfo"),
    (rsteller.read, r"Patches\*.tar"),
    (rswk.read, "DATASET_FULL"),
    (sarlang.read, "SARimages"),
    (sen12ms.read, "ROIs1158_spring"),
    (skyscript.read, r"SkyScript_train_\*.csv"),
    (so2sat.read, "training.h5"),
    (star.read, "STAR_image_data_v1.json"),
]


@pytest.mark.parametrize(("read", "wanted"), READERS)
def test_an_empty_folder_is_refused_with_what_was_looked_for(tmp_path, read, wanted):
    with pytest.raises(DatasetError, match=wanted):
        list(read(tmp_path))


# SkyScript


def skyscript_folder(folder, rows, name="SkyScript_val_5K_filtered_by_CLIP_openai.csv", header="title_multi_objects"):
    lines = [f"filepath,title,{header}", *rows]
    touch(folder / "dataframe" / name, "\n".join(lines).encode())
    return folder


def test_skyscript_gives_both_captions_the_object_as_place_and_the_year(tmp_path):
    touch(tmp_path / "images2/a198_CH_19.jpg")
    touch(tmp_path / "images3/w7_US_21.jpg")
    rows = ['images2/a198_CH_19.jpg,"a lake, big",a lake by a road', "images9/b1_CH_19.jpg,gone,gone"]
    first, second = skyscript.read(skyscript_folder(tmp_path, [*rows, "images3/w7_US_21.jpg,a dam,a dam"]))
    assert (first.place, first.split, first.acquired) == ("skyscript-a198", "val", "2019")
    assert first.captions == ("a lake, big", "a lake by a road")
    assert second.captions == ("a dam",)


def test_skyscript_reads_one_listing_a_part_and_the_one_that_is_named(tmp_path):
    touch(tmp_path / "images2/a1_CH_19.jpg")
    for name in ("unfiltered_5M", "top30pct_filtered_by_CLIP_laion_RS", "top50pct_filtered_by_CLIP_openai"):
        skyscript_folder(tmp_path, [f"images2/a1_CH_19.jpg,{name},"], f"SkyScript_train_{name}.csv")
    (item,) = skyscript.read(tmp_path)
    assert (item.captions, item.split) == (("top30pct_filtered_by_CLIP_laion_RS",), "train")
    (item,) = skyscript.read(tmp_path, listings=("SkyScript_train_unfiltered_5M.csv",))
    assert item.captions == ("unfiltered_5M",)
    with pytest.raises(DatasetError, match=r"other\.csv is no listing"):
        list(skyscript.read(tmp_path, listings=("other.csv",)))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("../a1_CH_19.jpg,lake,", "no path inside"),
        ("images2/a1_CH_20.jpg,lake,", "not in"),
        ("images2/lake.jpg,lake,", "tells no object"),
        ("images2/a1_CH_19.jpg, ,", "needs text in 'title'"),
    ],
)
def test_broken_rows_of_skyscript_are_refused_by_number(tmp_path, row, message):
    touch(tmp_path / "images2/a1_CH_19.jpg")
    with pytest.raises(DatasetError, match=f"record 1 of .*{message}"):
        list(skyscript.read(skyscript_folder(tmp_path, [row])))


# RSTeller and GAIA: shards


def rsteller_sample(name="m_4107501_ne_18_060_20221108", *texts):
    notes = [{"task": 2, "text": text} for text in texts or ("A road.", "A bending road.", "A road.")]
    return json.dumps({"metadata": {"patch_id": 607, "image_name": name}, "annotations": notes}).encode()


def test_rsteller_patches_are_written_once_with_captions_date_and_quadrangle(tmp_path):
    write_tar(tmp_path / "Patches0000.tar", **{"607.jpg": b"jpeg", "607.txt": b"t", "607.json": rsteller_sample()})
    (item,) = rsteller.read(tmp_path, unpacked=tmp_path / "work")
    assert item.image == tmp_path / "work/Patches0000/607.jpg"
    assert item.image.read_bytes() == b"jpeg"
    assert item.captions == ("A road.", "A bending road.")
    assert (item.place, item.acquired) == ("rsteller-m_4107501_ne_18_060", "2022-11-08")
    assert item.split == split_of(item.place)
    item.image.write_bytes(b"kept")
    (again,) = rsteller.read(tmp_path, unpacked=tmp_path / "work")
    assert again == item
    assert item.image.read_bytes() == b"kept"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"607.json": rsteller_sample()}, "no 'jpg'"),
        ({"607.jpg": b"1"}, "no 'json'"),
        ({"607.jpg": b"1", "607.json": b"{"}, "holds no JSON"),
        ({"607.jpg": b"1", "607.json": rsteller_sample("somewhere")}, "no NAIP image"),
        ({"607.jpg": b"1", "607.json": rsteller_sample("m_1_20221108", " ")}, "needs text in 'text'"),
    ],
)
def test_broken_samples_of_rsteller_are_refused(tmp_path, files, message):
    write_tar(tmp_path / "Patches0000.tar", **files)
    with pytest.raises(DatasetError, match=rf"record 1 of .*Patches0000\.tar .*{message}"):
        list(rsteller.read(tmp_path))


def gaia_folder(folder, known="g1", **row):
    write_json(folder / "val_data.json", [{"id": "g1", "captions": ["A  fire.", "Smoke."], "tag": ["Wildfire"], **row}])
    write_tar(folder / "val/00000.tar", **{"000001.png": b"png", "000001.json": json.dumps({"id": known}).encode()})
    return folder


def test_gaia_joins_pictures_with_the_list_by_id(tmp_path):
    (item,) = gaia.read(gaia_folder(tmp_path))
    assert item.image == tmp_path / "unpacked/val/00000/000001.png"
    assert (item.captions, item.labels) == (("A fire.", "Smoke."), ("wildfire",))
    assert (item.place, item.split, item.sensor) == ("gaia-g1", "val", "rgb")


def test_gaia_refuses_unknown_ids_and_records_without_captions(tmp_path):
    with pytest.raises(DatasetError, match="has the id 'g2', which"):
        list(gaia.read(gaia_folder(tmp_path, "g2")))
    with pytest.raises(DatasetError, match=r"record 1 of .*no text in 'captions'"):
        list(gaia.read(gaia_folder(tmp_path, captions=[" "])))
    with pytest.raises(DatasetError, match="needs texts in 'captions', got 3"):
        list(gaia.read(gaia_folder(tmp_path, captions=[3])))


# ChatEarthNet


def chatearthnet_folder(folder):
    for name in ("s2_images", "s2_band_5_6_7_images", "s2_band_8_11_12_images"):
        start = {"s2_images": 10, "s2_band_5_6_7_images": 40, "s2_band_8_11_12_images": 70}[name]
        write_picture(folder / name / "7_8.png", (start, start + 10, start + 20))
    write_json(folder / "json_files/ChatEarthNet_caps_35_train.json", [{"image_id": "7_8.png", "caption": "Trees."}])
    write_json(
        folder / "json_files/ChatEarthNet_caps_4v_train.json", [{"image": "7_8.png", "caption": ["Trees.", "Wood."]}]
    )
    return folder


def test_chatearthnet_joins_the_captions_of_both_models(tmp_path):
    (item,) = chatearthnet.read(chatearthnet_folder(tmp_path))
    assert item.image == tmp_path / "s2_images/7_8.png"
    assert (item.captions, item.split, item.place) == (("Trees.", "Wood."), "train", "chatearthnet-7_8")
    assert [band.common_name for band in read_scene(item.image, sensor=item.sensor).bands] == ["red", "green", "blue"]


def test_nine_bands_of_chatearthnet_become_one_file_that_reads_by_name(tmp_path):
    (item,) = chatearthnet.read_nine_bands(chatearthnet_folder(tmp_path))
    scene = read_scene(item.image, sensor=item.sensor)
    names = ["red", "green", "blue", "rededge1", "rededge2", "rededge3", "nir", "swir1", "swir2"]
    assert [band.name for band in scene.bands] == names
    np.testing.assert_allclose(scene.pixels[:, 0, 0] * 255, range(10, 100, 10), atol=1e-3)


def test_chatearthnet_refuses_missing_chips_and_captions(tmp_path):
    folder = chatearthnet_folder(tmp_path)
    for row, message in (
        ({"image_id": "../a.png", "caption": "x"}, "no path inside"),
        ({"image_id": "a.png"}, "'caption'"),
    ):
        write_json(folder / "json_files/ChatEarthNet_caps_35_train.json", [row])
        with pytest.raises(DatasetError, match=f"record 1 of .*{message}"):
            list(chatearthnet.read(folder))


# Chats: RSWK and SARLANG


def test_rswk_joins_what_is_told_of_one_picture(tmp_path):
    root = tmp_path / "DATASET/DATASET_FULL"
    touch(tmp_path / "images/008374.png")
    write_lines(root / "vqa/vqa_wk/vqa_wk_full_test_1.jsonl", asked("008374.png", "<image>Name?", "Muradiye Complex"))
    write_json(root / "vqa/vqa_c/vqa_c_full_test_1.json", [asked("008374.png", "<image>Why?", "Because.")])
    write_lines(root / "image_captioning/image_captioning_full_test_1.jsonl", asked("008374.png", "Tell.", "A mosque."))
    write_lines(
        root / "image_classification/image_classification_full_test_1.jsonl", asked("008374.png", "?", "Church")
    )
    write_lines(root / "vqa/vqa_rsk/vqa_rsk_full_train_1.jsonl", asked("008374.png", "<image>NDVI?", "0.3"))
    train, test = rswk.read(tmp_path)
    assert [(a.question, a.answer, a.kind) for a in train.questions] == [("NDVI?", "0.3", "remote sensing knowledge")]
    assert (train.split, test.split, test.place) == ("train", "test", "rswk-008374")
    assert (test.captions, test.scene, test.labels) == (("A mosque.",), "church", ("church",))
    assert [(a.answer, a.kind) for a in test.questions] == [
        ("Because.", "combined knowledge"),
        ("Muradiye Complex", "world knowledge"),
    ]


def test_rswk_refuses_other_files_and_records_without_one_picture(tmp_path):
    touch(tmp_path / "images/a.png")
    root = tmp_path / "DATASET_FULL"
    path = write_lines(root / "vqa_wk_full_test_1.jsonl", {**asked("a.png", "?", "!"), "images": ["a.png", "b.png"]})
    with pytest.raises(DatasetError, match=r"record 1 of .* needs the name of one picture"):
        list(rswk.read(tmp_path))
    write_lines(path, asked("../a.png", "?", "!"))
    with pytest.raises(DatasetError, match="no path inside"):
        list(rswk.read(tmp_path))
    touch(root / "notes.json", b"[]")
    with pytest.raises(DatasetError, match=r"notes\.json is no file of RSWK"):
        list(rswk.read(tmp_path))


def test_sarlang_finds_pictures_by_their_last_name_and_keeps_one_layer(tmp_path):
    write_picture(tmp_path / "SARimages/Nice_3.png", 200, "L")
    write_picture(tmp_path / "SARimages/0009787.jpg", (90, 90, 90))
    write_json(tmp_path / "Text/caption/Caption_test.json", [asked("D:\\data\\Nice_3.tif", "<image>Tell.", "A port.")])
    rows = [
        asked("/home/x/0009787.jpg", "How many?", "3"),
        {**asked("Nice_3.png", "Where?", "left"), "type": "position"},
    ]
    write_json(tmp_path / "Text/VQA/train/SARVQA1_train.json", rows)
    tank, nice, tested = sarlang.read(tmp_path)
    assert tank.image == tmp_path / "unpacked/0009787.png"
    assert tank.split == split_of("sarlang-0009787")
    assert [(a.answer, a.kind) for a in (*tank.questions, *nice.questions)] == [("3", "vqa"), ("left", "position")]
    assert (tested.image, tested.split, tested.captions) == (tmp_path / "SARimages/Nice_3.png", "test", ("A port.",))
    for item, value in ((tank, 90), (tested, 200)):
        scene = read_scene(item.image, sensor=item.sensor)
        np.testing.assert_allclose(scene.pixels[0] * 255, value, atol=1)


def test_sarlang_refuses_missing_and_broken_pictures(tmp_path):
    touch(tmp_path / "SARimages/a.png", b"no picture")
    path = write_json(tmp_path / "Text/caption/a.json", [asked("a.png", "?", "!")])
    with pytest.raises(DatasetError, match=r"a\.png is no whole picture"):
        list(sarlang.read(tmp_path))
    write_json(path, [asked("b.png", "?", "!")])
    with pytest.raises(DatasetError, match=r"record 1 of .* names b\.png"):
        list(sarlang.read(tmp_path))
    write_json(path, [asked("..", "?", "!")])
    with pytest.raises(DatasetError, match="needs the name of one picture"):
        list(sarlang.read(tmp_path))


# Objects: DIOR, refGeo, STAR


def dior_object(name, box, oriented=False):
    keys = dior.CORNERS if oriented else dior.SIDES
    sides = "".join(f"<{key}>{value}</{key}>" for key, value in zip(keys, box, strict=True))
    tag = "robndbox" if oriented else "bndbox"
    return f"<object><name>{name}</name><{tag}>{sides}</{tag}></object>"


def dior_folder(folder, *objects, name="00001", kind="Horizontal", part="trainval", split="train"):
    notes = folder / f"Annotations/{kind} Bounding Boxes/{name}.xml"
    touch(notes, f"<annotation>{''.join(objects)}</annotation>".encode())
    touch(folder / f"JPEGImages-{part}/{name}.jpg")
    touch(folder / f"ImageSets/Main/{split}.txt", f"{name}\n".encode())
    return folder


def test_dior_gives_one_target_a_class_and_some_that_are_absent(tmp_path):
    dior_folder(tmp_path, dior_object("ship", (1, 2, 3, 4)), name="11726", part="test", split="test")
    dam = dior_object("dam", (0, 0, 5, 5))
    court = [dior_object("tenniscourt", box) for box in ((10, 20, 30, 40), (50, 20, 70, 40))]
    train, test = dior.read(dior_folder(tmp_path, dam, *court))
    assert (train.split, test.split, test.image.parent.name) == ("train", "test", "JPEGImages-test")
    assert train.labels == ("dam", "tennis court")
    assert train.place == "dior-rsvg-00001"
    assert train.targets[1].boxes == ((10, 20, 30, 40), (50, 20, 70, 40))
    assert [(t.phrase, t.boxes) for t in train.targets[2:]] == [("ship", ())]


def test_oriented_dior_has_corners_and_the_box_around_them(tmp_path):
    corners = (10, 20, 30, 10, 40, 30, 20, 40)
    (item,) = dior.read_oriented(
        dior_folder(tmp_path, dior_object("Expressway-toll-station", corners, True), kind="Oriented")
    )
    (target,) = item.targets
    assert target.phrase == "expressway toll station"
    assert target.polygons == (((10, 20), (30, 10), (40, 30), (20, 40)),)
    assert target.boxes == ((10, 10, 40, 40),)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("<object><name>ship</name></object>", "no name or no box"),
        (dior_object("ship", (1, 2, 3, "far")), "4 finite numbers"),
        (dior_object("ship", (1, 2, 3, "nan")), "4 finite numbers"),
    ],
)
def test_broken_objects_of_dior_are_refused_by_number(tmp_path, broken, message):
    with pytest.raises(DatasetError, match=rf"record 2 of .*00001\.xml .*{message}"):
        list(dior.read(dior_folder(tmp_path, dior_object("ship", (1, 2, 3, 4)), broken)))


def test_lists_of_dior_that_climb_out_are_refused(tmp_path):
    dior_folder(tmp_path, dior_object("ship", (1, 2, 3, 4)))
    touch(tmp_path / "ImageSets/Main/train.txt", b"../00001")
    with pytest.raises(DatasetError, match="no path inside"):
        list(dior.read(tmp_path))


def test_refgeo_groups_boxes_by_expression_and_keeps_oriented_ones(tmp_path):
    touch(tmp_path / "images/avvg/a.jpg")
    touch(tmp_path / "images/dior_rsvg/00001.jpg")
    slanted = [[10, 20], [30, 10], [40, 30], [20, 40]]
    rows = [
        {"image_id": "a.jpg", "question": "the red cars", "bbox": [1, 2, 3, 4], "poly": [1, 2, 3, 2, 3, 4, 1, 4]},
        {"image_id": "a.jpg", "question": "a van", "poly": slanted},
        {"image_id": "a.jpg", "question": "the red cars", "bbox": [10, 10, 40, 40], "poly": slanted},
    ]
    write_lines(tmp_path / "metainfo/avvg_train.jsonl", *rows)
    upright = {"image_id": "00001.jpg", "question": "the dam", "bbox": [5, 6, 7, 8], "poly": [5, 6, 7, 6, 7, 8, 5, 8]}
    write_lines(tmp_path / "metainfo/dior_rsvg_val.jsonl", upright)
    cars, dam = refgeo.read(tmp_path)
    red, van = cars.targets
    assert (red.phrase, red.kind, red.boxes) == ("the red cars", "referring", ((1, 2, 3, 4), (10, 10, 40, 40)))
    assert red.polygons[1] == ((10, 20), (30, 10), (40, 30), (20, 40))
    assert van.boxes == ((10, 10, 40, 40),)
    assert (dam.place, dam.split, dam.targets[0].polygons) == ("dior-rsvg-00001", "val", ())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image_id": "a.jpg", "question": "x"}, "no 'bbox'"),
        ({"image_id": "a.jpg", "bbox": [1, 2, 3, 4]}, "no 'question'"),
        ({"image_id": "a.jpg", "question": "x", "bbox": [3, 2, 1, 4]}, "no area"),
        ({"image_id": "a.jpg", "question": "x", "poly": [1, 2, 3]}, "8 finite numbers"),
        ({"image_id": "../a.jpg", "question": "x", "bbox": [1, 2, 3, 4]}, "no path inside"),
    ],
)
def test_broken_records_of_refgeo_are_refused_by_number(tmp_path, row, message):
    touch(tmp_path / "images/rsvg/a.jpg")
    write_lines(tmp_path / "metainfo/rsvg_test.jsonl", row)
    with pytest.raises(DatasetError, match=f"record 1 of .*{message}"):
        list(refgeo.read(tmp_path))


def star_folder(folder, relations=None, known=4):
    things = [(1, "ship", 0), (2, ["ship"], 20), (3, "dock", 40), (4, "ship", 60)]
    objects = [{"object_id": n, "names": name, "x": x, "y": 0, "w": 10, "h": 5} for n, name, x in things]
    if relations is None:
        relations = [(2, "docked-at", 3), (1, "docked-at", 3), (4, "away from", 3), (1, "docked-at", 3)]
    pairs = [{"subject": {"object_id": s}, "predicate": p, "object": {"object_id": o}} for s, p, o in relations]
    write_json(folder / star.IMAGES, [{"image_id": known, "width": 80, "height": 8}])
    write_json(folder / star.OBJECTS, [{"image_id": 4, "objects": objects}])
    write_json(folder / star.RELATIONS, [{"image_id": 4, "relationships": pairs}])
    touch(folder / "STAR_img/val/0004.png")
    return folder


def test_relations_of_star_become_expressions_with_all_their_subjects(tmp_path):
    (item,) = star.read(star_folder(tmp_path))
    assert (item.split, item.place, item.labels) == ("val", "star-0004", ("dock", "ship"))
    told = {target.phrase: (target.kind, target.boxes) for target in item.targets}
    assert told == {
        "dock": ("class", ((40, 0, 50, 5),)),
        "ship": ("class", ((0, 0, 10, 5), (20, 0, 30, 5), (60, 0, 70, 5))),
        "ship away from dock": ("referring", ((60, 0, 70, 5),)),
        "ship docked at dock": ("referring", ((0, 0, 10, 5), (20, 0, 30, 5))),
    }


def test_star_refuses_unknown_objects_and_lists_that_do_not_go_together(tmp_path):
    with pytest.raises(DatasetError, match=r"record 1 of .* relates object 9"):
        list(star.read(star_folder(tmp_path, [(9, "over", 3)])))
    with pytest.raises(DatasetError, match="no text in 'predicate'"):
        list(star.read(star_folder(tmp_path, [(1, " ", 3)])))
    with pytest.raises(DatasetError, match="lacks image_id 5"):
        list(star.read(star_folder(tmp_path, known=5)))


# Rasters: SEN12MS, Kuro Siwo


def sen12ms_folder(folder, codes, patch=30, season="ROIs1158_spring"):
    layers = np.zeros((4, 4, 4), np.uint16)
    layers[0] = codes
    for kind, pixels in (
        ("lc", layers),
        ("s1", np.full((2, 4, 4), -12, np.float32)),
        ("s2", np.full((13, 4, 4), 1200, np.uint16)),
    ):
        write_tif(folder / f"{season}/{kind}_1/{season}_{kind}_1_p{patch}.tif", pixels)
    return folder


def test_sen12ms_has_both_sensors_with_igbp_shares(tmp_path):
    codes = np.full((4, 4), 17)
    codes[0] = 12
    codes[1, :2] = 255
    radar, optical = sen12ms.read(sen12ms_folder(tmp_path, codes))
    assert radar.fractions == {"cropland": 4 / 14, "water": 10 / 14}
    assert radar.labels == optical.labels == ("cropland", "water")
    assert radar.place == "sen12ms-ROIs1158_spring-1"
    assert radar.split == split_of(radar.place)
    assert (read_labels(radar.class_map.path) == codes).all()
    assert read_scene(radar.image, sensor=radar.sensor).pixels[0, 0, 0] == -12
    np.testing.assert_allclose(read_scene(optical.image, sensor=optical.sensor).pixels, 0.12, rtol=1e-5)


def test_sen12ms_keeps_the_published_test_part_and_the_order_of_numbers(tmp_path):
    for patch in (9, 30, 100):
        sen12ms_folder(tmp_path, 17, patch)
    touch(tmp_path / "splits/test_list.txt", b"ROIs1158_spring_s2_1_p30.tif\n")
    items = list(sen12ms.read(tmp_path))
    assert [item.image.stem.rpartition("_p")[2] for item in items] == ["9", "9", "30", "30", "100", "100"]
    assert [item.split == "test" for item in items] == [False, False, True, True, False, False]


def test_sen12ms_refuses_missing_sensors_and_foreign_names(tmp_path):
    folder = sen12ms_folder(tmp_path, 17)
    (folder / "ROIs1158_spring/s2_1/ROIs1158_spring_s2_1_p30.tif").unlink()
    with pytest.raises(DatasetError, match="ROIs1158_spring_s2_1_p30"):
        list(sen12ms.read(folder))
    touch(folder / "ROIs1158_spring/lc_1/other.tif")
    with pytest.raises(DatasetError, match=r"other\.tif is no patch"):
        list(sen12ms.read(folder))


def kuro_folder(folder, event=1111002, **without):
    cell = folder / f"{event}/01/09dd5f42"
    labels = np.array([[0, 0, 1, 3], [2, 2, 2, 0]], np.uint8)
    values = {"MS1": 0.01, "SL1": 0.1, "SL2": 1.0}
    for date, value in values.items():
        for band, factor in (("IVV", 1), ("IVH", 0.1)):
            pixels = np.full((1, 2, 4), value * factor, np.float32)
            pixels[0, 0, 3] = 0
            write_tif(cell / f"{date}_{band}_{event}_01_20200915.tif", pixels)
    if not without.get("labels"):
        write_tif(cell / f"MK0_MLU_{event}_01_20200915.tif", labels[None])
    info = {"actid": event, "aoiid": 1, "sources": {"MS1": {"source_date": "2020-09-15"}}}
    write_json(cell / "info.json", info)
    return folder


def test_kuro_siwo_is_a_pair_in_decibels_with_flood_water_as_change(tmp_path):
    (item,) = kuro_siwo.read(kuro_folder(tmp_path), unpacked=tmp_path / "work")
    assert (item.split, item.place, item.acquired) == ("test", "kuro-siwo-1111002-1", "2020-09-15")
    assert item.fractions == {"dry land": 3 / 7, "permanent water": 1 / 7, "flood water": 3 / 7}
    assert (item.pair.phrase, item.pair.sensors) == ("flood", ("sentinel-1-grd",))
    assert (read_labels(item.pair.mask) == [[0, 0, 0, 0], [255, 255, 255, 0]]).all()
    for image, vertical in ((item.pair.before[0], -10), (item.image, -20)):
        scene = read_scene(image, sensor=item.sensor)
        assert [band.name for band in scene.bands] == ["VV", "VH"]
        np.testing.assert_allclose(scene.pixels[:, 1, 0], [vertical, vertical - 10], atol=1e-4)
        assert not scene.valid[0, 3]
    assert list(kuro_siwo.read(tmp_path, unpacked=tmp_path / "work")) == [item]


def test_kuro_siwo_passes_over_cells_without_labels_but_needs_one_with(tmp_path):
    kuro_folder(tmp_path, 130)
    kuro_folder(tmp_path, 514, labels="none")
    assert [item.place for item in kuro_siwo.read(tmp_path)] == ["kuro-siwo-130-1"]
    with pytest.raises(DatasetError, match="no cell with MK0_MLU"):
        list(kuro_siwo.read(tmp_path / "514"))


def test_kuro_siwo_refuses_missing_bands_and_fields(tmp_path):
    folder = kuro_folder(tmp_path)
    cell = folder / "1111002/01/09dd5f42"
    (cell / "SL1_IVH_1111002_01_20200915.tif").unlink()
    with pytest.raises(DatasetError, match="SL1_IVH"):
        list(kuro_siwo.read(folder))
    write_json(cell / "info.json", {"actid": 1})
    with pytest.raises(DatasetError, match=r"info\.json has no 'aoiid'"):
        list(kuro_siwo.read(folder))


# Arrays: So2Sat and CrisisLandMark


def test_arrays_without_their_module_say_what_to_install(tmp_path):
    with pytest.raises(DatasetError, match="install h5py and no_such_module_at_all to read it"):
        hdf5("A dataset", "no_such_module_at_all")


def so2sat_file(path, h5py, count=2, zones=(16, 0)):
    rng = np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        radar = rng.uniform(0.001, 1, (count, 32, 32, 8))
        radar[0, ..., 4], radar[0, ..., 5] = 0.01, 0.1
        file["sen1"] = radar
        file["sen2"] = np.tile(np.arange(10) / 10 + 0.05, (count, 32, 32, 1))
        file["label"] = np.eye(17)[list(zones)]
    return path


def test_so2sat_patches_are_written_by_band_with_their_zone(tmp_path):
    h5py = pytest.importorskip("h5py")
    so2sat_file(tmp_path / "validation.h5", h5py)
    items = list(so2sat.read(tmp_path))
    assert [(item.scene, item.sensor, item.split) for item in items] == [
        ("water", "sentinel-1-grd", "val"),
        ("water", "sentinel-2-l1c", "val"),
        ("compact high-rise", "sentinel-1-grd", "val"),
        ("compact high-rise", "sentinel-2-l1c", "val"),
    ]
    radar, optical = (read_scene(item.image, sensor=item.sensor) for item in items[:2])
    assert [band.name for band in radar.bands] == ["VV", "VH"]
    np.testing.assert_allclose(radar.pixels[:, 3, 3], [-10, -20], atol=1e-4)
    assert [band.name for band in optical.bands] == list(so2sat.BANDS["sentinel-2-l1c"])
    np.testing.assert_allclose(optical.pixels[:, 3, 3], np.arange(10) / 10 + 0.05, atol=1e-6)
    assert list(so2sat.read(tmp_path)) == items


def test_so2sat_refuses_damaged_files_and_labels_of_no_or_several_zones(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = so2sat_file(tmp_path / "training.h5", h5py)
    with h5py.File(path, "a") as file:
        file["label"][1] = 0
    with pytest.raises(DatasetError, match=r"record 1 of .* marks 0 zones"):
        list(so2sat.read(tmp_path))
    with h5py.File(path, "a") as file:
        del file["sen2"]
    with pytest.raises(DatasetError, match="no array 'sen2'"):
        list(so2sat.read(tmp_path))
    touch(path, b"no array")
    with pytest.raises(DatasetError, match="no whole HDF5 file"):
        list(so2sat.read(tmp_path))


def crisis_folder(folder, h5py, key="mmflood/1", layers=2, fill=0.1, table_key=None, **attributes):
    folder.mkdir(exist_ok=True)
    x, y = np.meshgrid(500_005.0 + 10 * np.arange(6), 5_000_000.0 - 5 - 10 * np.arange(5))
    with h5py.File(folder / "crisislandmark.h5", "w") as file:
        group = file.create_group(key)
        group["image"] = np.full((layers, 5, 6), fill, np.float32)
        group["coords"] = np.stack([x, y]).astype(np.float32)
        group.attrs.update({"crs": np.float32(32633), "timestamp": "2020-01-02", **attributes})
    row = {"key": [table_key or key], "split": ["train"], "labels": [["Flooded Area", "Water"]]}
    pq.write_table(pa.table(row), folder / "metadata.parquet")
    return folder


@pytest.fixture
def arrays(tmp_path, monkeypatch):
    """h5py with a stand-in for hdf5plugin, which only registers filters that these small arrays do not use."""
    h5py = pytest.importorskip("h5py")
    touch(tmp_path / "modules/hdf5plugin.py", b"")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    return h5py


def test_crisislandmark_patches_are_written_with_place_labels_and_decibels(tmp_path, arrays):
    (item,) = crisislandmark.read(crisis_folder(tmp_path / "data", arrays))
    assert item.labels == ("flooded area", "water")
    assert (item.place, item.acquired) == ("crisislandmark-32633-500005.0000-4999995.0000", "2020-01-02")
    assert item.split == split_of(item.place)
    scene = read_scene(item.image, sensor=item.sensor)
    np.testing.assert_allclose(scene.pixels, -10, atol=1e-4)
    assert (scene.grid.crs.to_epsg(), tuple(scene.grid.transform)[:6]) == (32633, (10, 0, 500_000, 0, -10, 5_000_000))


def test_crisislandmark_keeps_decibels_and_the_labels_stored_with_a_patch(tmp_path, arrays):
    (item,) = crisislandmark.read(crisis_folder(tmp_path / "data", arrays, fill=-12.5, labels=["Burned Area"]))
    assert item.labels == ("burned area",)
    np.testing.assert_allclose(read_scene(item.image, sensor=item.sensor).pixels, -12.5)


def test_crisislandmark_reads_twelve_bands(tmp_path, arrays):
    (item,) = crisislandmark.read(crisis_folder(tmp_path / "data", arrays, layers=12, fill=1500))
    scene = read_scene(item.image, sensor=item.sensor)
    assert [band.name for band in scene.bands] == list(item.bands)
    np.testing.assert_allclose(scene.pixels, 0.15, rtol=1e-5)


def test_crisislandmark_refuses_patches_that_are_missing_or_of_another_shape(tmp_path, arrays):
    with pytest.raises(DatasetError, match=r"record 1 of .* names 'b', which"):
        list(crisislandmark.read(crisis_folder(tmp_path / "data", arrays, table_key="b")))
    with pytest.raises(DatasetError, match=r"record 1 of .* image of shape"):
        list(crisislandmark.read(crisis_folder(tmp_path / "data", arrays, layers=3)))
