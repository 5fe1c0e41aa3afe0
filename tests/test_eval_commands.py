"""`rsvlm eval` on the command line: what it prints, what it writes, how it ends."""

import json
import re
import shutil

import numpy as np
import pytest
import typer
from fakes import KeywordPlanner, MappedTiny
from filelock import FileLock
from PIL import Image

from eval.archive import relevant_files
from eval.commands import register
from eval.models import Models
from eval.predictions import FILE
from eval.runs import REPORT, prepare
from eval.tasks.task import Settings
from rsvlm import cli
from rsvlm.assistant import Assistant

LINES = 4


def small_models(encoder=None, language=None, device="cpu"):
    """Small real parts in place of the shipped models; the encoder's folder is its seed."""
    models = Models(encoder, language, device)
    tiny, planner = MappedTiny(int(str(encoder or 0))), KeywordPlanner()
    vars(models).update(encoder=tiny, language=planner, assistant=Assistant(tiny, planner))
    return models


def no_models(*_):
    raise AssertionError("no model is needed here")


@pytest.fixture(scope="module")
def root():
    app = typer.Typer()
    register(app)
    return app


@pytest.fixture
def run(root, monkeypatch, capsys):
    """Run a command in this process; returns exit code, standard output, standard error."""
    monkeypatch.setattr("eval.models.Models", small_models)
    monkeypatch.setattr(cli, "full_app", lambda: root)  # which adds every command once more at each call

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main(["eval", *map(str, arguments)])
        return (ended.value.code, *capsys.readouterr())

    return call


@pytest.fixture
def pictures(tmp_path):
    """Four pictures, a mask with something in it and a map of two classes."""
    chance = np.random.default_rng(0)
    for number in range(LINES):
        shades = chance.integers(0, 255, (4, 4, 3), dtype=np.uint8).repeat(16, axis=0).repeat(16, axis=1)
        Image.fromarray(shades).save(tmp_path / f"{number}.png")
    half = np.zeros((64, 64), np.uint8)
    half[:, :32] = 1
    Image.fromarray(half).save(tmp_path / "half.png")
    return tmp_path


@pytest.fixture
def write(pictures):
    """Write the same row for every picture, with its number where # stands, as a manifest."""

    def write_manifest(row, name="data.jsonl"):
        lines = (json.dumps(row).replace("#", str(number)) for number in range(LINES))
        (pictures / name).write_text("\n".join(lines) + "\n")
        return pictures / name

    return write_manifest


ROWS = {
    "retrieval": {"image": "#.png", "captions": ["picture #"], "sensor": "rgb"},
    "scenes": {"image": "#.png", "label": "class #", "sensor": "rgb"},
    "captions": {"image": "#.png", "captions": ["a picture of #", "number #"], "sensor": "rgb"},
    "vqa": {"image": "#.png", "question": "Is there any water?", "answer": "no", "type": "presence", "sensor": "rgb"},
    "grounding": {"image": "#.png", "phrase": "ship", "boxes": [[0, 0, 8, 8]], "sensor": "rgb"},
    "land-cover": {"image": "#.png", "labels": "half.png", "codes": {"0": "wood", "1": "field"}, "sensor": "rgb"},
    "change": {"before": ["#.png"], "after": ["0.png"], "sensors": ["rgb"], "mask": "half.png"},
    "plan": {"question": "Is there any water?", "plan": {"task": "presence", "target": "water"}},
}
METRICS = {
    "retrieval": ["mR", "t2i_R@1", "i2t_R@10"],
    "scenes": ["top1", "top5", "macro"],
    "captions": ["BLEU-1", "BLEU-4", "ROUGE-L", "CIDEr"],
    "vqa": ["OA", "AA", "presence"],
    "grounding": ["F1@0.5", "Pr@0.5", "Pr@0.7", "mIoU", "cIoU", "false_alarm"],
    "land-cover": ["OA", "mIoU", "IoU wood", "IoU field"],
    "change": ["F1", "IoU", "precision", "recall"],
    "plan": ["exact", "task", "target"],
}
BASELINES = {
    "retrieval": ["blind", "constant", "random"],
    "captions": ["blind", "constant", "random"],
    "change": ["blind", "constant", "majority", "otsu", "random"],
    "plan": ["constant", "majority", "random"],
}

QUICK = {"captions": ("--protocol", "coco-without-meteor")}  # Java takes seconds to start


def strict(text):
    """JSON without NaN."""

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("task", ROWS)
def test_every_task_prints_its_report_and_nothing_else(task, run, write, tmp_path):
    out = tmp_path / "out"
    code, printed, _ = run(task, *QUICK.get(task, ()), "--data", write(ROWS[task]), "--out", out, "--json")
    assert code == 0
    report = strict(printed)
    assert report == strict((out / REPORT).read_text())
    assert (report["task"], report["n"]) == (task, LINES)
    assert set(METRICS[task]) <= set(report["metrics"])
    assert list(report["baselines"]) == BASELINES.get(task, ["blind", "constant", "majority", "random"])
    assert all(set(each) == set(report["metrics"]) for each in report["baselines"].values())
    assert len((out / FILE).read_text().splitlines()) == LINES


@pytest.mark.parametrize("task", ROWS)
def test_every_task_is_scored_again_without_any_model(task, run, write, tmp_path, monkeypatch):
    out = tmp_path / "out"
    before = strict(run(task, *QUICK.get(task, ()), "--data", write(ROWS[task]), "--out", out, "--json")[1])
    monkeypatch.setattr("eval.models.Models", no_models)
    code, printed, _ = run("score", out, "--json")
    assert code == 0
    assert {key: strict(printed)[key] for key in before} == before


@pytest.mark.parametrize("task", ROWS)
def test_a_table_names_protocol_numbers_intervals_and_baselines(task, run, write):
    code, printed, _ = run(task, *QUICK.get(task, ()), "--data", write(ROWS[task]))
    assert code == 0
    lines = printed.splitlines()
    assert f"n = {LINES} lines" in lines[1]
    assert "95 % intervals" in lines[1]
    assert "random" in lines[2]
    for name in METRICS[task]:
        assert any(line.startswith(f"{name} ") for line in lines[3:])


def test_a_broken_image_is_named_and_the_exit_code_is_1(run, write, tmp_path):
    (tmp_path / "2.png").write_bytes(b"no image")
    for _ in ("first", "resumed"):
        code, printed, told = run("scenes", "--data", write(ROWS["scenes"]), "--out", tmp_path / "out", "--json")
        assert code == 1
        assert list(strict(printed)["failed"]) == ["3"]
        assert strict(printed)["n"] == LINES - 1
        assert "line 3 is left out: " in told
        assert "2.png" in told
    assert run("score", tmp_path / "out")[0] == 1


def test_a_limit_draws_the_same_lines_by_seed(run, write):
    data = write(ROWS["scenes"])
    found = [strict(run("scenes", "--data", data, "--limit", 2, "--seed", 3, "--json")[1]) for _ in range(2)]
    assert found[0]["n"] == 2
    assert found[0]["settings"] | {"limit": 2, "seed": 3} == found[0]["settings"]
    assert [each["metrics"] for each in found] == [found[0]["metrics"]] * 2


def test_without_a_folder_nothing_is_left_behind(run, write, pictures):
    data = write(ROWS["grounding"])
    before = sorted(pictures.rglob("*"))
    assert run("grounding", "--data", data)[0] == 0
    assert sorted(pictures.rglob("*")) == before


def test_questions_about_one_image_are_one_unit_of_the_intervals(run, pictures):
    line = {"image": "0.png", "sensor": "rgb", "question": "Is there any water?", "answer": "no", "type": "presence"}
    lines = [line, line | {"answer": "yes"}, line | {"image": "1.png"}]
    (pictures / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    report = strict(run("vqa", "--data", pictures / "data.jsonl", "--json")[1])
    assert (report["n"], report["units"], report["unit"]) == (3, 2, "images")


def test_what_the_split_was_and_what_leaked_stands_in_the_report(run, write, pictures):
    data = write(ROWS["scenes"])
    shutil.copy(pictures / "1.png", pictures / "copy.png")
    train = pictures / "train.jsonl"
    train.write_text(json.dumps({"image": "copy.png", "captions": ["seen"], "sensor": "rgb"}))
    told = strict(run("scenes", "--data", data, "--json")[1])
    assert told["split"] == "not stated"
    assert told["leakage"].startswith("not checked")
    told = strict(run("scenes", "--data", data, "--train", train, "--split", "by place", "--json")[1])
    assert told["split"] == "by place"
    assert [pair["reason"] for pair in told["leakage"]["pairs"]] == ["same file", "same picture"]


def test_leakage_names_a_copied_file_and_exits_with_1(run, write, pictures):
    shutil.copy(pictures / "1.png", pictures / "copy.png")
    train = pictures / "train.jsonl"
    train.write_text(json.dumps({"before": ["copy.png"], "after": ["half.png"], "sensors": ["ombria-s1"]}))
    code, printed, told = run("leakage", train, write(ROWS["vqa"]))
    assert code == 1
    first = printed.splitlines()[0].split("\t")
    assert first[:3] == ["same file", str(pictures / "1.png"), str(pictures / "copy.png")]
    assert "pairs; checked" in told
    code, printed, _ = run("leakage", train, write(ROWS["vqa"]), "--json")
    assert code == 1
    assert strict(printed)["pairs"][0]["held_out"] == str(pictures / "1.png")


def test_leakage_of_lists_that_share_nothing_exits_with_0(run, pictures):
    for name, image in (("train", "0.png"), ("held", "1.png")):
        (pictures / f"{name}.jsonl").write_text(json.dumps({"image": image, "label": "x", "sensor": "rgb"}))
    code, printed, _ = run("leakage", pictures / "train.jsonl", pictures / "held.jsonl")
    assert (code, printed) == (0, "")


def test_leakage_by_embedding_uses_an_encoder_only_when_asked(run, pictures, monkeypatch):
    for name, image in (("train", "0.png"), ("held", "1.png")):
        (pictures / f"{name}.jsonl").write_text(json.dumps({"image": image, "label": "x", "sensor": "rgb"}))
    lists = (pictures / "train.jsonl", pictures / "held.jsonl")
    asked = strict(run("leakage", *lists, "--embeddings", "--json")[1])
    assert asked["checked"]["similar embedding: held-out"] == 1
    assert strict(run("leakage", *lists, "--json")[1])["checked"]["similar embedding: held-out"] == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"image": "lost.png"}, r":1 names 'lost.png', which is no file"),
        ({"image": "0.png", "colour": 1}, r":1 .*unknown keys: colour"),
        ({"image": "0.png", "sensor": 3}, r":1 needs 'sensor' as a text"),
        ({"before": "0.png", "after": ["1.png"]}, r":1 needs 'before' as a list of texts"),
        ({"before": ["0.png"], "after": ["1.png"], "sensors": ["rgb", "rgb"]}, r":1 has 1 files before and 2 sensors"),
        ({"image": 3}, r":1 names '3', which is no file"),
    ],
)
def test_leakage_over_a_wrong_list_names_the_line(line, message, run, write, pictures):
    (pictures / "train.jsonl").write_text(json.dumps(line))
    code, _, told = run("leakage", pictures / "train.jsonl", write(ROWS["scenes"]))
    assert code == 2
    assert re.search(r"train\.jsonl" + message, told)


def test_diff_of_a_run_with_itself_is_nothing(run, write, tmp_path):
    """Grounding without an absent phrase: its false alarms are not defined, and null in JSON."""
    out = tmp_path / "out"
    run("grounding", "--data", write(ROWS["grounding"]), "--out", out)
    code, printed, _ = run("diff", out, out, "--json")
    assert code == 0
    for name, row in strict(printed)["metrics"].items():
        assert row["first"] == row["second"]
        assert row["value"] in (0, None)
        assert (row["value"] is None) == (name == "false_alarm" or row["first"] is None)
    code, printed, _ = run("diff", out, out)
    assert code == 0
    assert "false_alarm" in printed
    assert " *\n" not in printed


def test_diff_marks_a_sure_difference(run, write, tmp_path):
    data = write(ROWS["vqa"])
    for name, answer in (("wrong", "yes"), ("right", "no")):
        (tmp_path / name).mkdir()
        rows = [{"line": n, "prediction": {"answer": answer}} for n in range(1, LINES + 1)]
        (tmp_path / name / FILE).write_text("\n".join(map(json.dumps, rows)))
        assert run("score", tmp_path / name, "--data", data, "--task", "vqa")[0] == 0
    code, printed, _ = run("diff", tmp_path / "wrong", tmp_path / "right")
    assert code == 0
    (line,) = [line for line in printed.splitlines() if line.startswith("OA ")]
    assert line.split() == ["OA", "0.00", "->", "100.00", "100.00", "[100.00,", "100.00]", "*"]


def test_predictions_made_elsewhere_are_scored_with_manifest_and_task(run, write, tmp_path, monkeypatch):
    monkeypatch.setattr("eval.models.Models", no_models)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    answers = ["No.", "yes", "none", "no"]
    rows = [{"line": n, "prediction": {"answer": answer}} for n, answer in enumerate(answers, 1)]
    (folder / FILE).write_text("\n".join(map(json.dumps, rows)))
    data = write(ROWS["vqa"])
    code, printed, _ = run("score", folder, "--data", data, "--task", "vqa", "--json")
    assert code == 0
    report = strict(printed)
    assert report["metrics"]["OA"]["value"] == 50.0
    assert report["baselines"]["majority"]["OA"]["value"] == 100.0
    assert "blind" not in report["baselines"]
    again = strict(run("score", folder, "--json")[1])  # now known to be a run of that manifest
    assert again["metrics"] == report["metrics"]
    loose = strict(run("score", folder, "--protocol", "gt-substring", "--json")[1])
    assert loose["metrics"]["OA"]["value"] == 75.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --data and --task, one of retrieval, scenes"),
        (["--task", "vqa"], "give --data and --task"),
        (["--task", "poetry"], "give --data and --task"),
    ],
)
def test_predictions_made_elsewhere_need_manifest_and_task(options, message, run, tmp_path):
    code, _, told = run("score", tmp_path, *options)
    assert code == 2
    assert message in told


def test_boxes_made_elsewhere_are_scored_at_and_above_a_threshold(run, pictures, tmp_path):
    """Half of the box is an IoU of exactly 0.5: right at >= t, wrong at > t."""
    data = pictures / "data.jsonl"
    data.write_text(json.dumps({"image": "0.png", "phrase": "ship", "boxes": [[0, 0, 8, 8]], "sensor": "rgb"}))
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    said = {"line": 1, "prediction": {"boxes": [[0, 0, 8, 4]], "size": [64, 64]}}
    (folder / FILE).write_text(json.dumps(said))
    found = {
        protocol: strict(
            run("score", folder, "--data", data, "--task", "grounding", "--protocol", protocol, "--json")[1]
        )["metrics"]["Pr@0.5"]["value"]
        for protocol in ("iou>=t", "iou>t")
    }
    assert found == {"iou>=t": 100.0, "iou>t": 0.0}


def test_retrieval_over_an_archive_adds_what_its_index_loses(run, write, pictures, tmp_path):
    from retrieval import Archive

    data = write(ROWS["retrieval"])
    archive = Archive.create(tmp_path / "archive", MappedTiny(), chip=64, stride=64)
    archive.add([pictures / f"{number}.png" for number in range(LINES)], sensor="rgb", progress=False)
    code, printed, _ = run("retrieval", "--data", data, "--archive", tmp_path / "archive", "--json")
    assert code == 0
    report = strict(printed)
    assert report["archive"]["queries"] == LINES
    own = report["metrics"]
    for way in ("through_index", "exact"):
        found = report["archive"][way]
        assert {cut: found[f"R@{cut}"]["value"] for cut in (1, 5)} == {
            cut: own[f"t2i_R@{cut}"]["value"] for cut in (1, 5)
        }


@pytest.mark.parametrize(
    ("protocol", "right"),
    [
        ("all-captions", {"first": {0}, "second 0": {0}, "second 1": {1}, "third": {1, 2}}),
        ("first-caption", {"first": {0}, "second 1": {1}, "third": {2}}),
        ("labels", {"field": {0, 1}, "wood": {1, 2}}),
        ("label-sets", {"field": {0, 1}, "field, wood": {0, 1, 2}, "wood": {1, 2}}),
    ],
)
def test_over_an_archive_the_protocol_says_which_files_are_right(protocol, right, pictures):
    captions = (["first", "second 0"], ["second 1", "third"], ["third"])
    labels = (["field"], ["wood", "field"], ["wood"])
    lines = [
        {"image": f"{number}.png", "captions": texts, "labels": names}
        for number, (texts, names) in enumerate(zip(captions, labels, strict=True))
    ]
    (pictures / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    run = prepare("retrieval", pictures / "data.jsonl", Settings(protocol), pictures)
    found = relevant_files(run)
    assert found == {text: {str((pictures / f"{n}.png").resolve()) for n in own} for text, own in right.items()}


def test_templates_are_read_from_a_file(run, write, tmp_path):
    data = write(ROWS["scenes"])
    (tmp_path / "templates.txt").write_text("a photo of {}\n\n{} from above\n")
    report = strict(run("scenes", "--data", data, "--templates", tmp_path / "templates.txt", "--json")[1])
    assert report["settings"]["templates"] == ["a photo of {}", "{} from above"]
    (tmp_path / "templates.txt").write_text("{x} of {} {\n")  # only {} is a place
    assert run("scenes", "--data", data, "--templates", tmp_path / "templates.txt")[0] == 0
    (tmp_path / "templates.txt").write_text("no place for it\n")
    code, _, told = run("scenes", "--data", data, "--templates", tmp_path / "templates.txt")
    assert code == 2
    assert "a template holds {} once" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["retrieval"], "--data"),
        (["retrieval", "--data", "lost.jsonl"], "cannot be read as a manifest"),
        (
            ["retrieval", "--data", "DATA", "--queries", "colours"],
            "all-captions, first-caption, labels, label-sets",
        ),
        (["retrieval", "--data", "DATA", "--queries", "labels"], "has no labels to query with"),
        (["retrieval", "--data", "DATA", "--protocol", "best"], "no protocol 'best'"),
        (["retrieval", "--data", "DATA", "--limit", "0"], "--limit"),
        (["retrieval", "--data", "DATA", "--seed", "-1"], "--seed"),
        (["diff", "lost", "lost", "--seed", "-1"], "--seed"),
        (
            ["retrieval", "--data", "DATA", "--queries", "labels", "--protocol", "first-caption"],
            "two ways of scoring; give one of them",
        ),
        (["retrieval", "--data", "DATA", "--skip", "9"], "skipping 9 leaves none"),
        (["retrieval", "--data", "DATA", "--train", "lost.jsonl"], "cannot be read as a manifest"),
        (["scenes", "--data", "DATA"], "unknown keys: captions"),
        (["scenes", "--data", "DATA", "--templates", "lost.txt"], "which is no text file"),
        (["poetry", "--data", "DATA"], "poetry"),
        (["score", "lost"], "give --data and --task"),
        (["diff", "lost", "lost"], "give --data and --task"),
        (["leakage", "lost", "lost"], "cannot be read as a manifest"),
    ],
)
def test_what_a_person_does_wrong_is_one_sentence_and_exit_2(arguments, message, run, write):
    data = write(ROWS["retrieval"])
    code, printed, told = run(*(data if argument == "DATA" else argument for argument in arguments))
    assert code == 2
    assert message in " ".join(told.split())
    assert not printed
    assert "Traceback" not in told


def test_a_folder_that_another_run_is_writing_is_left_to_it(run, write, tmp_path):
    data, out = write(ROWS["scenes"]), tmp_path / "out"
    out.mkdir()
    with FileLock(out / "run.lock"):
        code, _, told = run("scenes", "--data", data, "--out", out)
    assert (code, [path.name for path in out.iterdir()]) == (2, ["run.lock"])
    assert f"another run is writing {out}" in told
    assert run("scenes", "--data", data, "--out", out)[0] == 0
    assert not (out / "run.lock").exists()


@pytest.mark.parametrize(
    ("task", "wrong", "message"),
    [
        ("scenes", {"labels": ["moon"]}, "the prediction 'moon' is no label of the manifest"),
        ("scenes", {"labels": ["class 0"], "scores": "high"}, "'scores' as a list of finite numbers"),
        ("scenes", {"labels": ["class 0"], "scores": [0.5, 0.4]}, "one for each label"),
        ("land-cover", {"map": "a\0b"}, "which is no file in"),
        ("captions", {"caption": 5}, "a prediction needs 'caption' as a text"),
        ("vqa", {}, "a prediction needs 'answer' as a text"),
        ("retrieval", {"image": [1.0], "texts": []}, "text vectors"),
    ],
)
def test_a_prediction_that_cannot_be_scored_is_named_with_its_line(task, wrong, message, run, write, tmp_path):
    data, out = write(ROWS[task]), tmp_path / "out"
    assert run(task, "--data", data, "--out", out, *QUICK.get(task, ()))[0] == 0
    lines = [json.loads(line) for line in (out / FILE).read_text().splitlines()]
    lines[2]["prediction"] = wrong
    (out / FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, printed, told = run("score", out)
    assert (code, printed) == (2, "")
    assert f"line {lines[2]['line']} of the manifest: " in told
    assert message in told


def test_another_run_in_the_same_folder_is_exit_2(run, write, tmp_path):
    data, out = write(ROWS["scenes"]), tmp_path / "out"
    assert run("scenes", "--data", data, "--out", out)[0] == 0
    code, _, told = run("scenes", "--data", data, "--out", out, "--encoder", "1")
    assert code == 2
    assert "holds a run with another models; give a new folder as --out" in told
