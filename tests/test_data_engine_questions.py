import io
import json
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from PIL import Image

from data_engine.annotated import Asked, Pair, Target
from data_engine.sources import bigearthnet, bigearthnet_txt, changechat, rsvqa, vrsbench, xlrs_bench
from rsvlm.errors import DatasetError

PATCH = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57"
OTHER = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_58"
SCENE = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP"


def picture(path, width=16, height=16):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path)


def band(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", driver="GTiff", width=2, height=2, count=1, dtype="uint16") as file:
        file.write(np.ones((1, 2, 2), np.uint16))


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def rsvqa_split(folder, prefix, split, *, image=0, first=0, **changes):
    """One active image with three questions, an inactive one of each, ids from `first`."""
    questions = [
        {"id": first, "img_id": image, "type": "presence", "question": "Is a road present?", "answers_ids": [first]},
        {"id": first + 1, "img_id": image, "type": "count", "question": "How many roads?", "answers_ids": [first + 1]},
        {"id": first + 2, "img_id": image, "type": "comp", "question": "Fewer?", "answers_ids": [first + 2, first + 3]},
    ]
    answers = [
        {"id": first, "question_id": first, "answer": "yes", "active": True},
        {"id": first + 1, "question_id": first + 1, "answer": "12m2", "active": True},
        {"id": first + 2, "active": False},
        {"id": first + 3, "question_id": first + 2, "answer": "no", "active": True},
    ]
    tables = {
        "questions": [{"id": 90, "active": False}, *({**row, "active": True} for row in questions)],
        "answers": answers,
        "images": [{"id": 99, "active": False}, {"id": image, "active": True, "questions_ids": [], **changes}],
    }
    for name, rows in tables.items():
        write_json(folder / f"{prefix}_split_{split}_{name}.json", {name: rows})


def rewrite(path, key, position, **changes):
    content = json.loads(path.read_text())
    content[key][position].update(changes)
    write_json(path, content)


ASKED = (Asked("Is a road present?", "yes", "presence"), Asked("How many roads?", "12m2", "count"))
FEWER = Asked("Fewer?", "no", "comp")


def test_rsvqa_images_carry_all_their_active_questions_with_published_types(tmp_path):
    rsvqa_split(tmp_path, "LR", "test", image=5, first=10)
    rsvqa_split(tmp_path, "LR", "train", image=7)
    for number in (5, 7):
        picture(tmp_path / f"Images_LR/{number}.tif")
    train, test = rsvqa.read_lr(tmp_path)
    assert (train.split, train.image, train.place) == ("train", tmp_path / "Images_LR/7.tif", "rsvqa-lr-7")
    assert (test.split, test.image, test.sensor) == ("test", tmp_path / "Images_LR/5.tif", "rgb")
    assert train.questions == test.questions == (*ASKED, FEWER)


def test_the_two_test_sets_of_rsvqa_hr_are_read_apart(tmp_path):
    rsvqa_split(tmp_path, "USGS", "test", image=1)
    rsvqa_split(tmp_path, "USGS", "test_phili", image=2)
    picture(tmp_path / "Data/1.tif")
    picture(tmp_path / "Data/2.png")
    assert [(one.place, one.split) for one in rsvqa.read_hr(tmp_path)] == [("rsvqa-hr-1", "test")]
    assert [(one.image.name, one.split) for one in rsvqa.read_hr_philadelphia(tmp_path)] == [("2.png", "test")]


def test_rsvqaxben_falls_back_on_the_patches_where_the_pictures_are_not_there(tmp_path):
    patch = "S2B_MSIL2A_20180515T094029_51_28"
    rsvqa_split(tmp_path, "RSVQAxBEN", "val", image=3, original_name=patch)
    for name in bigearthnet.BANDS["sentinel-2-l2a"]:
        band(tmp_path / f"BigEarthNet-v1.0/{patch}/{patch}_{name}.tif")
    (one,) = rsvqa.read_xben(tmp_path)
    assert (one.sensor, one.split, len(one.image), one.bands[8]) == ("sentinel-2-l2a", "val", 12, "B8A")
    assert one.image[8].name == f"{patch}_B8A.tif"
    picture(tmp_path / "Images/3.tif")
    (one,) = rsvqa.read_xben(tmp_path)
    assert (one.sensor, one.image, one.bands) == ("rgb", tmp_path / "Images/3.tif", ())


def test_rsvqa_questions_without_an_active_answer_and_images_without_questions_are_passed_over(tmp_path):
    rsvqa_split(tmp_path, "LR", "train", image=7)
    picture(tmp_path / "Images_LR/7.tif")
    rewrite(tmp_path / "LR_split_train_answers.json", "answers", 3, active=False)
    (one,) = rsvqa.read_lr(tmp_path)
    assert one.questions == ASKED
    rewrite(tmp_path / "LR_split_train_images.json", "images", 1, id=8)
    assert list(rsvqa.read_lr(tmp_path)) == []


def test_rsvqa_without_files_names_those_it_looked_for(tmp_path):
    with pytest.raises(DatasetError, match=r"LR_split_train_images\.json or LR_split_val_images\.json"):
        list(rsvqa.read_lr(tmp_path))
    rsvqa_split(tmp_path, "LR", "val")
    (tmp_path / "LR_split_val_answers.json").unlink()
    with pytest.raises(DatasetError, match=r"holds no LR_split_val_answers\.json"):
        list(rsvqa.read_lr(tmp_path))


@pytest.mark.parametrize(
    ("table", "position", "changes", "message"),
    [
        ("questions", 2, {"answers_ids": [77]}, r"record 3 of .*questions.json needs ids of answers .* got \[77\]"),
        ("questions", 1, {"answers_ids": [[1]]}, "record 2 of .*questions.json needs ids of answers"),
        ("questions", 1, {"question": None}, "record 2 of .*questions.json needs text in 'question'"),
        ("images", 1, {"id": "../../etc/passwd"}, "record 2 of .*images.json needs a whole number in 'id'"),
        ("images", 1, {"id": 0}, r"record 2 of .*images.json names Images_LR/0\.tif, which is not in"),
    ],
)
def test_a_broken_rsvqa_record_is_refused_by_file_number_and_field(tmp_path, table, position, changes, message):
    rsvqa_split(tmp_path, "LR", "train")
    rewrite(tmp_path / f"LR_split_train_{table}.json", table, position, **changes)
    with pytest.raises(DatasetError, match=message):
        list(rsvqa.read_lr(tmp_path))


def test_an_rsvqa_record_without_a_field_is_refused(tmp_path):
    rsvqa_split(tmp_path, "LR", "train")
    write_json(tmp_path / "LR_split_train_questions.json", {"questions": [{"id": 1}]})
    with pytest.raises(DatasetError, match=r"record 1 of .*questions\.json has no 'active'"):
        list(rsvqa.read_lr(tmp_path))


def talk(split, number, *turns, **more):
    names = [f"{split}/{date}/{split}_{number:06}.png" for date in "AB"]
    speakers = [{"from": "gpt" if i % 2 else "human", "value": text} for i, text in enumerate(turns)]
    return {"id": 0, "image": names, "changeflag": 1, "conversations": speakers, **more}


@pytest.fixture
def chats(tmp_path):
    caption = "<image> <image> Please briefly describe the changes in these two images."
    train = [
        talk("train", 2, caption, "A house is built."),
        talk("train", 2, "<image>\nPlease judge whether these two images have changed.", "Yes"),
        talk("train", 1, "Please determine how many roads and buildings have changed?", "1 building"),
        talk("train", 2, "Please indicate the locations where changes have occurred", "top left"),
        talk("train", 2, "Why was the forest cut?", "For houses."),
        talk("train", 2, caption, "A house is built."),
        talk("train", 2, "Please judge whether these have changed.", "yes", "What changed?", "A house."),
    ]
    write_json(tmp_path / "annotations/changechat_105k_train.json", train)
    write_json(tmp_path / "annotations/changechat_105k_train_loc.json", train)
    captions = {"image_A": "test/A/test_000009.png", "image_B": "test/B/test_000009.png"}
    write_json(tmp_path / "annotations/changechat_105k_test.json", [{**captions, "captions": [" a  road .", "a road"]}])
    write_json(tmp_path / "annotations/changechat_105k_test_count.json", [talk("test", 9, "How many?", "two")])
    for split, number in (("train", 1), ("train", 2), ("test", 9)):
        for date in "AB":
            picture(tmp_path / f"images/{split}/{date}/{split}_{number:06}.png")
    return tmp_path


def test_changechat_gathers_all_questions_of_a_pair_and_tells_their_kinds(chats):
    test, first, second = changechat.read(chats)
    images = chats / "images"
    captions = ("a road .", "a road")
    assert test.pair == Pair(
        (images / "test/A/test_000009.png",), (images / "test/B/test_000009.png",), ("rgb",), captions=captions
    )
    assert test.questions == (Asked("How many?", "two", "count"),)
    assert (test.split, first.split, first.image) == ("test", "train", images / "train/B/train_000001.png")
    assert [asked.kind for asked in first.questions] == ["count"]
    kinds = ["caption", "change", "grid", "open", "caption", "multi-turn", "multi-turn"]
    assert [asked.kind for asked in second.questions] == kinds
    assert second.questions[1] == Asked("Please judge whether these two images have changed.", "Yes", "change")
    assert second.questions[-1] == Asked("What changed?", "A house.", "multi-turn")
    assert (second.pair.captions, first.pair.captions) == (("A house is built.",), ())


def test_changechat_pairs_have_the_places_of_levir_cc(chats):
    assert [one.place for one in changechat.read(chats)] == [
        "levir-test_000009.png", "levir-train_000001.png", "levir-train_000002.png"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (talk("train", 3, "What?", "This."), "names train/A/train_000003.png, which is not in"),
        (talk("train", 1, "What?"), r"needs turns of human and gpt in 'conversations', got \['human'\]"),
        (talk("train", 1, "?", "!", conversations="hello"), "needs a list in 'conversations', got 'hello'"),
        (talk("train", 1, "?", "!", image="train_000001.png"), "needs two images such as .* got 'train_000001.png'"),
        (talk("train", 1, "?", "!", image=["train/../../a.png", "train/B/a.png"]), "names .*, which is no path inside"),
        (talk("train", 1, "?", "!", image=["etc/A/a.png", "etc/B/a.png"]), "needs two images such as"),
        ({"image_A": "test/A/a.png"}, "has no 'image_B'"),
        ({"id": 3}, "has no 'image'"),
        ({**talk("test", 9), "captions": "one"}, "needs a list of texts in 'captions', got 'one'"),
    ],
)
def test_a_broken_changechat_record_is_refused(chats, record, message):
    write_json(chats / "annotations/changechat_105k_val.json", [record])
    with pytest.raises(DatasetError, match=rf"record 1 of .*changechat_105k_val\.json {message}"):
        list(changechat.read(chats))


def test_changechat_without_annotations_or_images_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="holds no images"):
        list(changechat.read(tmp_path))
    (tmp_path / "images").mkdir()
    with pytest.raises(DatasetError, match=r"holds no changechat\*\.json"):
        list(changechat.read(tmp_path))
    write_json(tmp_path / "changechat_105k_train.json", {"images": []})
    with pytest.raises(DatasetError, match="is no list of records"):
        list(changechat.read(tmp_path))


def vrs_record(image="P0003_0002.png", **fields):
    return {
        "image_id": image,
        "question": "What?",
        "ground_truth": "yes",
        "question_id": 1,
        "dataset": "DOTA",
        **fields,
    }


@pytest.fixture
def vrs(tmp_path):
    write_json(tmp_path / "VRSBench_EVAL_vqa.json", [vrs_record(type="object existence")])
    boxes = ["{<25><40><50><60>}", "{<92><0><96><0>}"]
    write_json(tmp_path / "VRSBench_EVAL_referring.json", [vrs_record(ground_truth=box) for box in boxes])
    caption = vrs_record("P0003_0001.png", ground_truth="A harbour.")
    write_json(tmp_path / "VRSBench_EVAL_Cap.json", [vrs_record(ground_truth="A pier. "), caption])
    picture(tmp_path / "Images_val/P0003_0002.png", width=200, height=100)
    picture(tmp_path / "Images_val/P0003_0001.png")
    return tmp_path


def test_vrsbench_boxes_come_in_pixels_and_none_is_without_area(vrs):
    first, second = vrsbench.read(vrs)
    assert (first.captions, first.questions, first.targets) == (("A harbour.",), (), ())
    assert second.captions == ("A pier.",)
    assert second.questions == (Asked("What?", "yes", "object existence"),)
    assert [target.kind for target in second.targets] == ["referring", "referring"]
    assert [target.boxes[0] for target in second.targets] == [
        pytest.approx((50, 40, 100, 60)),
        pytest.approx((184, 0, 192, 0.5)),  # the height of 0 hundredths was rounded by up to half a hundredth
    ]
    assert first.place == second.place == "vrsbench-P0003"
    assert (first.split, second.split) == ("test", "test")


def test_corners_in_either_order_give_one_box():
    assert vrsbench.box_of_shares((0.5, 0.6, 0.25, 0.4), 200, 100) == pytest.approx((50, 40, 100, 60))
    assert vrsbench.box_of_shares((1.0, 0.5, 1.0, 0.5), 100, 100) == pytest.approx((99.5, 49.5, 100, 50.5))


def test_vrsbench_training_conversations_are_told_apart_by_their_task(tmp_path, caplog):
    turns = {
        "<image>\n[caption] Describe the image.": "A road.",
        "<image>\n[refer] Where is <p>the small car</p>?": "{<0><10><50><20>}",
        "<image>\n[vqa] Is there a car?": "Yes",
        "<image>\n[refer] the car": "nowhere",
        "<image>\nIs there a bus?": "No",
    }
    rows = [
        {"id": "v1", "image": "9_1.png", "conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}
        for q, a in turns.items()
    ]
    write_json(tmp_path / "VRSBench_train.json", rows)
    picture(tmp_path / "Images_train/9_1.png", width=10, height=20)
    with caplog.at_level(logging.WARNING):
        (one,) = vrsbench.read(tmp_path)
    assert (one.split, one.captions, one.questions) == (
        "train",
        ("A road.",),
        (Asked("Is there a car?", "Yes", "vqa"),),
    )
    assert one.targets == (Target("the small car", "referring", ((0.0, 2.0, 5.0, 4.0),)),)
    assert "2 conversations name no known task or answer without a box" in caplog.text


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (vrs_record(ground_truth="left"), "needs a box such as {<25><40><33><60>} in 'ground_truth', got 'left'"),
        (vrs_record(ground_truth="{<1><2><3><400>}"), "needs a box"),
        (
            vrs_record("../secret.png", ground_truth="{<1><2><3><4>}"),
            r"names '\.\./secret\.png', which is no path inside",
        ),
        (vrs_record("gone.png", ground_truth="{<1><2><3><4>}"), "names gone.png, which is not in"),
        ({"image_id": "P0003_0002.png"}, "has no 'ground_truth'"),
    ],
)
def test_a_broken_vrsbench_record_is_refused(vrs, record, message):
    write_json(vrs / "VRSBench_EVAL_referring.json", [record])
    with pytest.raises(DatasetError, match=rf"record 1 of .*VRSBench_EVAL_referring\.json {message}"):
        list(vrsbench.read(vrs))


def test_vrsbench_without_any_of_its_files_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"holds no VRSBench_train\.json or VRSBench_EVAL_vqa\.json"):
        list(vrsbench.read(tmp_path))


def png():
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3)).save(buffer, "PNG")
    return buffer.getvalue()


def xlrs_rows(**changes):
    row = {
        "path": "DOTA/P1.png",
        "index": 0,
        "question": "How many ships?",
        "multi-choice options": ["(A) 1", "(B) 2"],
        "answer": "B",
        "category": "Counting/Overall counting",
        "l2-category": "default",
        "image": [{"bytes": png(), "path": None}],
        **changes,
    }
    return [row, {**row, "question": "Which uses?", "answer": "AB", "category": "Land use/Overall"}]


def write_table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
        return
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize("name", ["data/train-0.parquet", "train/data-00000-of-00001.arrow"])
def test_xlrs_pictures_are_unpacked_once_and_asked_about_with_the_options(tmp_path, name):
    write_table(tmp_path / name, xlrs_rows())
    write_json(tmp_path / "train/state.json", {"_split": "train"})
    assert (xlrs_bench.unpack(tmp_path), xlrs_bench.unpack(tmp_path)) == (1, 0)
    (one,) = xlrs_bench.read(tmp_path)
    assert one.image == tmp_path / "images/DOTA/P1.png"
    assert one.image.read_bytes() == png()
    assert (one.split, one.place, one.sensor) == ("test", "xlrs-DOTA/P1.png", "rgb")
    assert one.questions == (
        Asked("How many ships?\n(A) 1\n(B) 2", "B", "Counting/Overall counting"),
        Asked("Which uses?\n(A) 1\n(B) 2", "AB", "Land use/Overall"),
    )


def test_xlrs_json_with_the_other_names_gives_the_same_questions(tmp_path):
    row = {
        "Image": "FAIR1M/295.tif",
        "Text": "Which?",
        "Answer choices": ["(A) a", "(B) b"],
        "Ground truth": "B",
        "Task": "Complex reasoning",
        "Subtask": "Route planning",
    }
    write_json(tmp_path / "en/route.json", [row])
    picture(tmp_path / "images/FAIR1M/295.tif")
    (one,) = xlrs_bench.read(tmp_path)
    assert one.questions == (Asked("Which?\n(A) a\n(B) b", "B", "Complex reasoning/Route planning"),)
    (tmp_path / "test.jsonl").write_text(json.dumps({**xlrs_rows(image=None)[0], "path": "FAIR1M/295.tif"}))
    (one,) = xlrs_bench.read(tmp_path)
    assert [asked.answer for asked in one.questions] == ["B"]
    assert one.questions[0].kind == "Counting/Overall counting"


def test_a_second_picture_of_an_xlrs_record_is_counted_not_hidden(tmp_path, caplog):
    write_table(tmp_path / "a.parquet", xlrs_rows(image=[{"bytes": png()}, {"bytes": b"later"}]))
    with caplog.at_level(logging.WARNING):
        assert xlrs_bench.unpack(tmp_path) == 1
    assert "2 records have more than one picture" in caplog.text


def test_broken_xlrs_tables_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="holds no images; write those inside the tables"):
        list(xlrs_bench.read(tmp_path))
    (tmp_path / "images").mkdir()
    with pytest.raises(DatasetError, match="holds no tables"):
        list(xlrs_bench.read(tmp_path))
    with pytest.raises(DatasetError, match="holds no tables"):
        xlrs_bench.unpack(tmp_path)
    table = tmp_path / "a.parquet"
    for rows, message in [
        (xlrs_rows(path="../../P1.png"), "which is no path inside"),
        (xlrs_rows(), "names DOTA/P1.png, which is not in"),
        ([{"path": "a.png"}], "which is not in"),
    ]:
        write_table(table, rows)
        with pytest.raises(DatasetError, match=rf"record 1 of .*a\.parquet .*{message}"):
            list(xlrs_bench.read(tmp_path))
    write_table(table, xlrs_rows(path="../P1.png"))
    with pytest.raises(DatasetError, match="leads out of"):
        xlrs_bench.unpack(tmp_path)
    assert not (tmp_path / "P1.png").exists()
    for rows, message in [([{"path": "a.png"}], "has no 'image'"), (xlrs_rows(image=[]), "has no 0"),
                          (xlrs_rows(image=[{"bytes": None, "path": "b"}]), "has no picture inside")]:  # fmt: skip
        write_table(table, rows)
        with pytest.raises(DatasetError, match=message):
            xlrs_bench.unpack(tmp_path)
    table.write_bytes(b"no table at all")
    with pytest.raises(DatasetError, match=r"a\.parquet is damaged or no table"):
        list(xlrs_bench.read(tmp_path))


def test_an_xlrs_question_without_options_is_refused(tmp_path):
    write_json(tmp_path / "a.json", [{"path": "a.png", "question": "?", "answer": "A", "category": "c"}])
    picture(tmp_path / "images/a.png")
    with pytest.raises(DatasetError, match=r"record 1 of .*a\.json has no 'multi-choice options'"):
        list(xlrs_bench.read(tmp_path))
    write_json(tmp_path / "a.json", [{"path": "a.png", "multi-choice options": "A or B"}])
    with pytest.raises(DatasetError, match="needs a list of options to choose from, got 'A or B'"):
        list(xlrs_bench.read(tmp_path))


def ben_row(patch, kind, category, told, answer, split="train"):
    row = {"s1_name": "S1", "patch_id": patch, "type": kind, "category": category, "input": told, "output": answer}
    return {**row, "split": split, "country": "Austria"}


ROWS = [
    ben_row(OTHER, "binary", "presence", "Is there water?", "no", "validation"),
    ben_row(PATCH, "binary", "presence", "Is there forest?", "yes"),
    ben_row(PATCH, "mcq", "season", "Which season?\nA) Spring\nB) Summer", "B"),
    ben_row(OTHER, "captioning", "caption", "Describe it.", "A lake.", "validation"),
    ben_row(PATCH, "bounding box", "point", "Generate a bounding box of the forest.", "[0.10 0.20, 0.50 1.0]"),
    ben_row(OTHER, "bounding box", "point", "Box the line.", "[0.5 0.25, 0.5 0.75]", "bench"),
]


@pytest.fixture
def ben(tmp_path):
    write_table(tmp_path / "BigEarthNet.txt.parquet", [{"ID": i, **row} for i, row in enumerate(ROWS)])
    for patch in (PATCH, OTHER):
        for name in bigearthnet.BANDS["sentinel-2-l2a"]:
            band(tmp_path / f"BigEarthNet-S2/{SCENE}/{patch}/{patch}_{name}.tif")
    return tmp_path


def test_bigearthnet_txt_gathers_the_scattered_rows_of_a_patch(ben):
    first, second = bigearthnet_txt.read(ben)
    assert (first.split, first.captions, first.targets) == ("val", ("A lake.",), ())
    assert first.questions == (Asked("Is there water?", "no", "binary presence"),)
    assert second.split == "train"
    assert second.questions == (
        Asked("Is there forest?", "yes", "binary presence"),
        Asked("Which season?\nA) Spring\nB) Summer", "B", "mcq season"),
    )
    (target,) = second.targets
    assert (target.phrase, target.kind) == ("Generate a bounding box of the forest.", "referring")
    assert target.boxes == (pytest.approx((12, 24, 60, 120)),)
    folder = ben / f"BigEarthNet-S2/{SCENE}/{PATCH}"
    assert second.image[0] == folder / f"{PATCH}_B01.tif"
    assert second.bands == bigearthnet.BANDS["sentinel-2-l2a"]


def test_the_checked_benchmark_of_bigearthnet_txt_is_a_test_set_of_its_own(ben):
    (one,) = bigearthnet_txt.read_bench(ben)
    assert (one.split, one.questions) == ("test", ())
    assert one.targets[0].boxes == (pytest.approx((59.4, 30, 60.6, 90)),)  # no width left by rounding to hundredths


def test_bigearthnet_txt_gives_a_patch_the_place_bigearthnet_gives_it(ben):
    rows = [{"patch_id": PATCH, "labels": ["Pastures"], "split": "train", "s1_name": "S1"}]
    write_table(ben / "metadata.parquet", rows)
    (same,) = bigearthnet.read_v2(ben)
    assert same.place in {one.place for one in bigearthnet_txt.read(ben)}


def test_rows_of_many_patches_are_grouped_as_a_dictionary_would(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        ben_row(f"{SCENE}_{rng.integers(3)}_{rng.integers(3)}", "binary", "presence", f"Question {i}?", "yes", split)
        for i, split in enumerate(rng.choice(["train", "test", "bench"], 200))
    ]
    path = tmp_path / "many.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
    for splits in (("train",), ("train", "test"), ("bench",), ("val",)):
        slow: dict[str, list[int]] = {}
        for number, row in enumerate(rows, 1):
            if row["split"] in splits:
                slow.setdefault(row["patch_id"], []).append(number)
        fast = list(bigearthnet_txt._by_patch(path, splits))
        assert [[number for number, _ in group] for group in fast] == list(slow.values())
        assert all(row["input"] == rows[number - 1]["input"] for group in fast for number, row in group)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "essay"}, "record 2 of .* has the type 'essay'; it must be one of binary, mcq, captioning"),
        ({"output": None}, "record 2 of .* needs text in 'output', got None"),
        ({"type": "bounding box"}, "record 2 of .* needs boxes such as .* in 'output', got 'yes'"),
        ({"type": "bounding box", "output": "[10 20, 30 40]"}, "record 2 of .* needs boxes such as"),
        ({"patch_id": "../../secret"}, "record 2 of .* names '../../secret', which is no patch"),
        ({"patch_id": f"{SCENE}_1_1"}, "record 2 of .*_1_1_B01.tif, which is not in"),
        ({"patch_id": None}, "record 2 of .* needs text in 'patch_id', got None"),
        ({"split": "holdout"}, "has 'holdout' in 'split'; it must be one of train, val"),
        ({"split": None}, "has None in 'split'"),
    ],
)
def test_a_broken_row_of_bigearthnet_txt_is_refused(ben, changes, message):
    write_table(ben / "BigEarthNet.txt.parquet", [ROWS[0], {**ROWS[1], **changes}])
    with pytest.raises(DatasetError, match=message):
        list(bigearthnet_txt.read(ben))


def test_a_missing_table_column_or_folder_of_bigearthnet_txt_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"holds no BigEarthNet\.txt\.parquet"):
        list(bigearthnet_txt.read(tmp_path))
    table = tmp_path / "BigEarthNet.txt.parquet"
    table.write_bytes(b"no table at all")
    with pytest.raises(DatasetError, match="holds no BigEarthNet-S2"):
        list(bigearthnet_txt.read(tmp_path))
    (tmp_path / "BigEarthNet-S2").mkdir()
    with pytest.raises(DatasetError, match="is no parquet table of texts"):
        list(bigearthnet_txt.read(tmp_path))
    write_table(table, [{"patch_id": PATCH, "type": "binary", "category": "c", "input": "i", "output": "o"}])
    with pytest.raises(DatasetError, match="has no column 'split'"):
        list(bigearthnet_txt.read(tmp_path))
