"""predictions.jsonl: written line by line, cut where an interruption left half a line, read back strictly."""

import json

import pytest

from eval.predictions import FILE, Predicted, append, drop_half_line, numbers_of, read_predictions, text_of
from eval.runs import prepare, scorable
from eval.tasks.task import Settings
from rsvlm.errors import EvaluationError

ROW = {"line": 1, "prediction": {"answer": "yes"}, "seconds": 0.5}


@pytest.fixture
def write(tmp_path):
    def write_predictions(*rows):
        path = tmp_path / FILE
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return path

    return write_predictions


def test_what_was_appended_is_read_back(tmp_path):
    lines = [
        Predicted(2, {"answer": "yes\u2028\u00e9", "scores": [0.1, 1e-9]}, 0.25),
        Predicted(1, {}, 0.0, "a.tif is damaged"),
    ]
    append(tmp_path / FILE, lines[:1])
    append(tmp_path / FILE, lines[1:])
    assert read_predictions(tmp_path / FILE, [1, 2, 3]) == {2: lines[0], 1: lines[1]}


@pytest.mark.parametrize("cut", [1, 20, 40])
def test_half_a_line_is_dropped_and_whole_lines_stay(cut, write):
    path = write(ROW, ROW | {"line": 2})
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(whole[0] + whole[1][:cut])
    drop_half_line(path)
    assert path.read_bytes() == whole[0]
    drop_half_line(path)
    assert path.read_bytes() == whole[0]


def test_a_file_of_half_a_line_becomes_empty_and_a_missing_one_stays_missing(tmp_path):
    (tmp_path / FILE).write_text('{"line": 1, "pre')
    drop_half_line(tmp_path / FILE)
    assert (tmp_path / FILE).read_bytes() == b""
    drop_half_line(tmp_path / "lost.jsonl")
    assert not (tmp_path / "lost.jsonl").exists()


@pytest.mark.parametrize("number", [3, 0, -1, "1", 1.0, True, None, [1], {}])
def test_a_line_the_manifest_does_not_have_is_named(number, write):
    with pytest.raises(EvaluationError, match=rf"{FILE}:2 is for line .*, which is not among"):
        read_predictions(write(ROW, ROW | {"line": number}), [1, 2])


def test_a_prediction_without_a_line_is_named(write):
    with pytest.raises(EvaluationError, match=f"{FILE}:1 is for line None"):
        read_predictions(write({"prediction": {}}), [1, 2])


def test_a_line_that_stands_twice_is_named_with_its_place_in_the_file(write):
    with pytest.raises(EvaluationError, match=f"{FILE}:4 is for line 1 again"):
        read_predictions(write(ROW, ROW | {"line": 2}, "", ROW), [1, 2])


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_a_score_that_is_not_a_number_is_refused_with_its_line(number, write):
    line = json.dumps(ROW | {"line": 2, "prediction": {"scores": [0.5, float(number)]}})
    with pytest.raises(EvaluationError, match=rf"{FILE}:2 .*{number} is not a score"):
        read_predictions(write(ROW, line), [1, 2])


def test_a_number_too_large_to_be_one_is_refused_where_it_is_used(write):
    said = read_predictions(write('{"line": 1, "prediction": {"scores": [1e999]}}'), [1])[1].prediction
    with pytest.raises(EvaluationError, match="'scores' as a list of finite numbers"):
        numbers_of(said, "scores")


@pytest.mark.parametrize("scores", [[float("nan")], [float("inf")], ["1"], 1, None, {"a": 1}])
def test_numbers_of_a_prediction_are_a_list_of_finite_numbers(scores):
    with pytest.raises(EvaluationError, match="list of finite numbers"):
        numbers_of({"scores": scores}, "scores")


def test_numbers_and_texts_are_taken_from_a_prediction():
    assert numbers_of({"scores": [1, 0.5, 10**400 // 10**399]}, "scores") == [1.0, 0.5, 10.0]
    assert numbers_of({}, "scores") == []
    assert text_of({"answer": ""}, "answer") == ""
    with pytest.raises(EvaluationError, match="needs 'answer' as a text; got 3"):
        text_of({"answer": 3}, "answer")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is not a prediction"),
        ("[1]", "is not a JSON object"),
        ("[" * 100_000, "is not a prediction"),
        ('{"line": 2}', "needs a prediction in braces; got None"),
        ('{"line": 2, "prediction": "yes"}', "needs a prediction in braces"),
        ('{"line": 2, "prediction": {}, "seconds": "soon"}', "needs seconds as a number"),
    ],
)
def test_what_is_no_prediction_is_named_with_its_line(line, message, write):
    with pytest.raises(EvaluationError, match=f"{FILE}:2 {message}"):
        read_predictions(write(ROW, line), [1, 2])


def test_a_folder_without_predictions_and_a_file_that_is_no_text_are_refused(tmp_path):
    with pytest.raises(EvaluationError, match=f"holds no {FILE}"):
        read_predictions(tmp_path / FILE, [1])
    (tmp_path / FILE).write_bytes(b"\xff\xfe")
    with pytest.raises(EvaluationError, match="not text in UTF-8"):
        read_predictions(tmp_path / FILE, [1])


def test_predictions_made_elsewhere_may_have_blank_lines_and_a_byte_order_mark(write):
    path = write("", json.dumps({"line": 1, "prediction": {"answer": "\u2028"}}, ensure_ascii=False), "")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_predictions(path, [1]) == {1: Predicted(1, {"answer": "\u2028"}, 0.0)}


@pytest.fixture
def run(tmp_path):
    manifest = tmp_path / "plans.jsonl"
    manifest.write_text('{"question": "What is it?", "plan": {"task": "describe"}}\n' * 4)
    (tmp_path / "out").mkdir()
    return prepare("plan", manifest, Settings(), tmp_path / "out")


def test_missing_lines_are_counted_and_the_first_is_named(run):
    append(run.folder / FILE, [Predicted(1, {}, 0.0), Predicted(3, {}, 0.0)])
    with pytest.raises(EvaluationError, match="lacks 2 lines of the manifest, first 2"):
        scorable(run)


def test_failed_lines_are_left_out_with_their_reasons(run):
    said = [Predicted(4, {"a": 4}, 0.0), Predicted(2, {}, 0.0, "no"), Predicted(1, {"a": 1}, 0.0)]
    append(run.folder / FILE, [*said, Predicted(3, {}, 0.0, "never")])
    rows, predictions, failed = scorable(run)
    assert [row.number for row in rows] == [1, 4]
    assert predictions == [{"a": 1}, {"a": 4}]
    assert failed == {2: "no", 3: "never"}


def test_a_run_of_which_nothing_could_be_read_is_an_error(run):
    append(run.folder / FILE, [Predicted(number, {}, 0.0, f"broken {number}") for number in (4, 3, 2, 1)])
    with pytest.raises(EvaluationError, match="none of 4 lines could be read; the first: broken 1"):
        scorable(run)
