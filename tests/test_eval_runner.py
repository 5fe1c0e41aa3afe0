"""Running a task: resumed runs end like whole ones, broken images are left out by name, the report comes last."""

import json
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from fakes import KeywordPlanner, MappedTiny
from PIL import Image

from eval import runner
from eval.comparison import compare_runs
from eval.models import Models
from eval.predictions import FILE
from eval.runner import evaluate, rescore
from eval.runs import BLIND, REPORT, RUN, prepare
from eval.tasks.task import Settings
from rsvlm.assistant import Assistant
from rsvlm.errors import EvaluationError

WRITTEN_DOWN = (
    *("task", "protocol", "n", "metrics", "baselines", "encoder", "git", "versions", "seed"),
    *("device", "seconds", "data_sha256"),
)
ADDED = ("failed", "unit", "units", "settings", "hardware")
LINES = 7


def models_of(encoder):
    """Small real parts in place of the shipped models."""
    models = Models()
    language = KeywordPlanner()
    vars(models).update(encoder=encoder, language=language, assistant=Assistant(encoder, language))
    return models


@pytest.fixture
def models():
    return models_of(MappedTiny())


@pytest.fixture
def manifest(tmp_path, monkeypatch):
    """Seven pictures with two captions and a label each, run two at a time."""
    monkeypatch.setattr(runner, "BATCH", 2)
    chance = np.random.default_rng(0)
    lines = []
    for number in range(LINES):
        shades = chance.integers(0, 255, (2, 2, 3), dtype=np.uint8).repeat(16, axis=0).repeat(16, axis=1)
        Image.fromarray(shades).save(tmp_path / f"{number}.png")
        captions = [f"picture number {number}", f"image {number}"]
        lines.append({"image": f"{number}.png", "captions": captions, "sensor": "rgb"})
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def whole(manifest, models, tmp_path):
    """A retrieval run that nothing disturbed."""
    folder = tmp_path / "whole"
    evaluate(prepare("retrieval", manifest, Settings(), folder), models)
    return folder


def read(path):
    return json.loads(path.read_text())


def said(folder):
    """Predictions by line, without the time they took."""
    rows = [json.loads(line) for line in (folder / FILE).read_text().splitlines()]
    return {row["line"]: row.get("prediction", row.get("error")) for row in rows}


def figures(report):
    """All that is measured, as text."""
    return json.dumps({key: report[key] for key in ("n", "failed", "units", "metrics", "baselines")})


class Stopped(MappedTiny):
    """Is interrupted at its n-th batch of images."""

    def __init__(self, calls):
        super().__init__()
        self.left = calls

    def encode_scenes(self, scenes):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return super().encode_scenes(scenes)


class Refusing(MappedTiny):
    """Refuses pictures whose first pixel is this red."""

    def __init__(self, red):
        super().__init__()
        self.red = red

    def encode_scenes(self, scenes):
        from rsvlm.errors import SceneError

        if any(float(scene.pixels[0, 0, 0]) == self.red for scene in scenes):
            raise SceneError("this picture is too red")
        return super().encode_scenes(scenes)


def test_a_report_has_the_keys_that_are_written_down(whole, manifest, models):
    report = read(whole / REPORT)
    assert set(report) == {*WRITTEN_DOWN, *ADDED}
    assert report["encoder"] == {"name": models.encoder.name, "fingerprint": models.encoder.fingerprint}
    assert (report["task"], report["n"], report["unit"], report["units"]) == ("retrieval", LINES, "images", LINES)
    assert report["protocol"].startswith("all-captions: ")
    names = [*(f"{way}_R@{cut}" for way in ("t2i", "i2t") for cut in (1, 5, 10)), "mR"]
    assert list(report["metrics"]) == names
    for metric in report["metrics"].values():
        assert list(metric) == ["value", "low", "high"]
        assert metric["low"] <= metric["value"] <= metric["high"]
    assert {name: list(each) for name, each in report["baselines"].items()} == dict.fromkeys(
        ("blind", "constant", "random"), names
    )
    assert report["versions"]["numpy"] == np.__version__
    assert (report["seed"], report["device"], report["settings"]["protocol"]) == (0, "cpu", "all-captions")
    assert re.fullmatch("([0-9a-f]{40})?", report["git"])  # none outside a working tree
    assert len(report["data_sha256"]) == 64


def test_what_is_added_about_a_run_stands_in_its_report(manifest, models, tmp_path):
    run = prepare("retrieval", manifest, Settings(), tmp_path / "out")
    report = evaluate(run, models, about={"split": "by place"})
    assert report["split"] == read(tmp_path / "out" / REPORT)["split"] == "by place"


def test_each_line_has_its_number_prediction_and_time(whole):
    for number, text in enumerate((whole / FILE).read_text().splitlines(), 1):
        row = json.loads(text)
        assert list(row) == ["line", "prediction", "seconds"]
        assert row["line"] == number
        assert row["seconds"] >= 0


def test_there_is_no_report_until_all_is_scored(manifest, models, tmp_path):
    run = prepare("retrieval", manifest, Settings(), tmp_path / "out")
    evaluate(run, models)
    (run.folder / FILE).write_text("".join((run.folder / FILE).read_text().splitlines(keepends=True)[:4]))
    with pytest.raises(KeyboardInterrupt):
        evaluate(run, models_of(Stopped(1)))
    assert (run.folder / RUN).is_file()
    assert not (run.folder / REPORT).is_file()


@pytest.mark.parametrize("calls", range(1, 9))
def test_a_run_interrupted_at_any_batch_ends_like_a_whole_one(calls, manifest, whole, models, tmp_path):
    run = prepare("retrieval", manifest, Settings(), tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        evaluate(run, models_of(Stopped(calls)))
    before = said(run.folder) if (run.folder / FILE).is_file() else {}
    assert len(before) < LINES
    report = evaluate(run, models)
    assert figures(report) == figures(read(whole / REPORT))
    assert said(run.folder) == said(whole)
    assert said(run.folder / BLIND) == said(whole / BLIND)
    assert before.items() <= said(run.folder).items()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.35, 0.5, 0.99])
def test_a_file_cut_at_any_byte_is_completed(share, manifest, whole, models, tmp_path):
    run = prepare("retrieval", manifest, Settings(), tmp_path / "out")
    evaluate(run, models)
    for path in (run.folder / FILE, run.folder / BLIND / FILE):
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
    assert figures(evaluate(run, models)) == figures(read(whole / REPORT))


def test_a_finished_run_is_scored_again_without_predicting_again(whole, manifest):
    before = (whole / FILE).read_bytes()
    report = evaluate(prepare("retrieval", manifest, Settings(), whole), models_of(Stopped(1)))
    assert (whole / FILE).read_bytes() == before
    assert report["n"] == LINES


KILLED = """
import os, signal, sys
from pathlib import Path
from eval import runner
from eval.models import Models
from eval.runs import prepare
from eval.tasks.task import Settings
from rsvlm.language.plan import Plan

class Planner:
    name = "planner"
    fingerprint = "0" * 64
    def plan(self, question, context):
        if question == sys.argv[3]:
            os.kill(os.getpid(), signal.SIGKILL)
        return Plan("describe" if "9" in question else "presence", question)

runner.BATCH = 2
models = Models()
vars(models)["language"] = Planner()
runner.evaluate(prepare("plan", Path(sys.argv[1]), Settings(), Path(sys.argv[2])), models)
"""


def test_a_process_killed_outright_is_resumed_by_another(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "BATCH", 2)
    manifest = tmp_path / "plans.jsonl"
    plan = {"task": "presence", "target": "water 2"}
    manifest.write_text("".join(json.dumps({"question": f"water {n}", "plan": plan}) + "\n" for n in range(10)))

    def start(folder, killer):
        command = [sys.executable, "-c", KILLED, str(manifest), str(tmp_path / folder), killer]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    killed = start("killed", "water 5")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len((tmp_path / "killed" / FILE).read_text().splitlines()) == 4
    assert not (tmp_path / "killed" / REPORT).exists()
    done = start("killed", "")
    assert done.returncode == 0, done.stderr
    report = read(tmp_path / "killed" / REPORT)
    monkeypatch.setattr(sys, "argv", ["", str(manifest), str(tmp_path / "undisturbed"), ""])
    exec(KILLED, {})
    assert figures(report) == figures(read(tmp_path / "undisturbed" / REPORT))
    assert report["metrics"]["exact"]["value"] == 10.0
    assert "encoder" not in report
    assert report["language"] == {"name": "planner", "fingerprint": "0" * 64}


@pytest.mark.parametrize(
    ("settings", "encoder", "named"),
    [
        (Settings(seed=1), MappedTiny(), "settings"),
        (Settings(protocol="first-caption"), MappedTiny(), "settings"),
        (Settings(), MappedTiny(1), "models"),
        (Settings(limit=2), MappedTiny(1), "settings and models"),
    ],
)
def test_another_run_in_the_same_folder_is_refused_naming_what_differs(settings, encoder, named, whole, manifest):
    before = (whole / REPORT).read_bytes()
    with pytest.raises(EvaluationError, match=f"holds a run with another {named}; give a new folder"):
        evaluate(prepare("retrieval", manifest, settings, whole), models_of(encoder))
    assert (whole / REPORT).read_bytes() == before


def test_another_manifest_or_task_in_the_same_folder_is_refused(whole, manifest, models):
    with pytest.raises(EvaluationError, match="another task"):
        evaluate(prepare("captions", manifest, Settings("coco-without-meteor"), whole), models)
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(EvaluationError, match="another data_sha256"):
        evaluate(prepare("retrieval", manifest, Settings(), whole), models)


def test_a_folder_with_something_else_is_left_alone(manifest, models, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(EvaluationError, match="holds something else"):
        evaluate(prepare("retrieval", manifest, Settings(), folder), models)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_an_interruption_before_anything_was_written_leaves_no_trap(manifest, models, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "run.part").write_text("{")
    assert evaluate(prepare("retrieval", manifest, Settings(), folder), models)["n"] == LINES


def test_a_broken_image_is_left_out_and_listed(manifest, models, tmp_path):
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:60])
    (tmp_path / "5.png").write_bytes(b"no image")
    report = evaluate(prepare("retrieval", manifest, Settings(), tmp_path / "out"), models)
    assert list(report["failed"]) == ["4", "6"]
    assert "3.png" in report["failed"]["4"]
    assert (report["n"], report["units"]) == (LINES - 2, LINES - 2)
    assert "blind" in report["baselines"]
    kept = [line for number, line in enumerate(manifest.read_text().splitlines()) if number not in (3, 5)]
    (tmp_path / "kept.jsonl").write_text("\n".join(kept))
    without = evaluate(prepare("retrieval", tmp_path / "kept.jsonl", Settings(), tmp_path / "kept"), models)
    assert report["metrics"] == without["metrics"]


def test_a_picture_the_model_refuses_costs_only_its_own_line(manifest, tmp_path):
    red = Image.open(tmp_path / "2.png").getpixel((0, 0))[0]
    encoder = Refusing(float(np.float32(red) * np.float32(0.00392156862745098)))
    report = evaluate(prepare("retrieval", manifest, Settings(), tmp_path / "out"), models_of(encoder))
    assert report["failed"] == {"3": "this picture is too red"}
    assert report["n"] == LINES - 1


def test_nothing_readable_is_an_error_and_no_report(manifest, models, tmp_path):
    for number in range(LINES):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(EvaluationError, match=f"none of {LINES} lines could be read"):
        evaluate(prepare("retrieval", manifest, Settings(), tmp_path / "out"), models)
    assert not (tmp_path / "out" / REPORT).exists()


def numbers(manifest, **settings):
    return [row.number for row in prepare("retrieval", manifest, Settings(**settings), manifest.parent).rows]


def test_a_limit_draws_the_same_lines_by_seed_in_order(manifest):
    drawn = [numbers(manifest, limit=3, seed=seed) for seed in range(20)]
    assert drawn == [numbers(manifest, limit=3, seed=seed) for seed in range(20)]
    assert all(each == sorted(set(each)) and len(each) == 3 for each in drawn)
    assert {number for each in drawn for number in each} == set(range(1, LINES + 1))
    assert numbers(manifest, limit=100) == list(range(1, LINES + 1))


def test_skipping_takes_the_first_lines_away_before_drawing(manifest):
    assert numbers(manifest, skip=5) == [6, 7]
    assert all(min(numbers(manifest, skip=4, limit=2, seed=seed)) > 4 for seed in range(10))
    with pytest.raises(EvaluationError, match="skipping 7 leaves none"):
        numbers(manifest, skip=7)


def test_an_unknown_protocol_is_refused_naming_those_there_are(manifest):
    with pytest.raises(EvaluationError, match="no protocol 'best'; it has all-captions, first-caption"):
        numbers(manifest, protocol="best")


def test_scoring_again_gives_the_same_figures(whole):
    before = read(whole / REPORT)
    again = json.loads(json.dumps(rescore(whole)))
    assert figures(again) == figures(before)
    assert {key: again[key] for key in before} == before
    assert read(whole / REPORT) == again


def test_scoring_again_by_another_protocol_gives_what_a_run_by_it_gives(whole, manifest, models, tmp_path):
    other = evaluate(prepare("retrieval", manifest, Settings(protocol="first-caption"), tmp_path / "first"), models)
    again = rescore(whole, protocol="first-caption")
    assert figures(again) == figures(other)
    assert again["protocol"].startswith("first-caption: ")
    assert figures(again) != figures(rescore(whole))


def test_a_changed_manifest_is_refused_and_a_moved_one_is_found_by_name(whole, manifest, tmp_path):
    with pytest.raises(EvaluationError, match=r"holds a run of retrieval, not of captions"):
        rescore(whole, name="captions")
    text = manifest.read_text()
    manifest.write_text(text.replace("number 0", "number 9"))
    with pytest.raises(EvaluationError, match="is not the manifest that"):
        rescore(whole)
    manifest.unlink()
    with pytest.raises(EvaluationError, match="give that one as --data"):
        rescore(whole)
    moved = tmp_path / "moved.jsonl"
    moved.write_text(text)
    assert rescore(whole, manifest=moved)["n"] == LINES


@pytest.mark.parametrize(("name", "value"), [("limit", "9"), ("limit", 0), ("skip", -1), ("seed", -1), ("seed", None)])
def test_settings_that_are_no_numbers_are_refused(name, value, whole):
    stored = read(whole / RUN)
    (whole / RUN).write_text(json.dumps(stored | {"settings": stored["settings"] | {name: value}}))
    with pytest.raises(EvaluationError, match=f"{name} is a whole number from"):
        rescore(whole)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"task": "retrieval", "settings": {"colour": 1}}'])
def test_a_damaged_run_is_an_error(content, whole):
    (whole / RUN).write_text(content)
    with pytest.raises(EvaluationError, match="run the evaluation again"):
        rescore(whole)


def test_a_run_does_not_differ_from_itself(whole):
    found = compare_runs(whole, whole).to_json()
    assert (found["task"], found["protocol"], found["n"], found["unit"]) == (
        "retrieval",
        "all-captions",
        LINES,
        "images",
    )
    metrics = read(whole / REPORT)["metrics"]
    for name, row in found["metrics"].items():
        assert row == {"first": metrics[name]["value"], "second": row["first"], "value": 0, "low": 0, "high": 0}


def test_runs_of_two_models_are_compared_second_minus_first(whole, manifest, tmp_path):
    other = tmp_path / "other"
    evaluate(prepare("retrieval", manifest, Settings(), other), models_of(MappedTiny(3)))
    there, back = (compare_runs(*pair).to_json()["metrics"] for pair in ((whole, other), (other, whole)))
    for name, row in there.items():
        assert row["value"] == pytest.approx(row["second"] - row["first"], abs=0.011)
        assert (back[name]["value"], back[name]["low"]) == (-row["value"], -row["high"])
    assert any(row["value"] for row in there.values())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (Settings(protocol="first-caption"), "protocol"),
        (Settings(limit=5), "lines chosen and read"),
        (Settings(protocol="first-caption", skip=2), "protocol and lines chosen and read"),
    ],
)
def test_runs_that_were_asked_otherwise_are_not_compared(settings, named, whole, manifest, models, tmp_path):
    evaluate(prepare("retrieval", manifest, settings, tmp_path / "other"), models)
    with pytest.raises(EvaluationError, match=f"differ in {named}, so"):
        compare_runs(whole, tmp_path / "other")


def test_runs_in_which_different_lines_failed_are_not_paired(manifest, models, tmp_path):
    for broken in (1, 4):
        path = tmp_path / f"{broken}.png"
        image = path.read_bytes()
        path.write_bytes(b"no image")
        evaluate(prepare("retrieval", manifest, Settings(), tmp_path / f"without{broken}"), models)
        path.write_bytes(image)
    with pytest.raises(EvaluationError, match="differ in lines chosen and read"):
        compare_runs(tmp_path / "without1", tmp_path / "without4")


def test_an_unfinished_run_is_not_compared(whole, manifest, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        evaluate(prepare("retrieval", manifest, Settings(), tmp_path / "half"), models_of(Stopped(3)))
    with pytest.raises(EvaluationError, match="lacks 5 lines of the manifest, first 3"):
        compare_runs(whole, tmp_path / "half")
