"""The page of an evaluation: whole without a network, equal to its report, escaped, the same every time."""

import base64
import html
import io
import json
import math
import re

import numpy as np
import pytest
from fakes import KeywordPlanner, MappedTiny
from PIL import Image

from eval.examples import examples_of, extremes
from eval.figures import chance_curve, confusion_counts, f1_curve, figures_of, recall_curve
from eval.finished import Finished
from eval.metrics.boxes import Shapes
from eval.models import Models
from eval.pictures import BOTH, LEGEND, SAID, SIDE, TRUE, coloured, compared, data_uri, outlined, palette
from eval.report import write_page
from eval.runner import evaluate, rescore
from eval.runs import REPORT, prepare
from eval.tasks.task import Settings
from rsvlm.assistant import Assistant
from rsvlm.errors import EvaluationError
from rsvlm.raster import read_scene

LINES = 5
CODES = {"10": "tree cover", "20": "<b>water</b>"}
OUTSIDE = re.compile(r"""(?:src|href|action)\s*+=\s*+["']?+(?!data:|\#)|url\((?!\#)|@import|<script|<link|<iframe""")


@pytest.fixture
def models():
    found, encoder, language = Models(), MappedTiny(), KeywordPlanner()
    vars(found).update(encoder=encoder, language=language, assistant=Assistant(encoder, language))
    return found


@pytest.fixture
def images(tmp_path):
    """Names of pictures of four coloured quarters, seen twice; of masks; of maps of codes 10, 20 and 0."""
    chance = np.random.default_rng(0)
    names = []
    for number in range(LINES):
        for date in ("before", "after"):
            shades = chance.integers(0, 255, (2, 2, 3), dtype=np.uint8).repeat(24, axis=0).repeat(24, axis=1)
            Image.fromarray(shades).save(tmp_path / f"{date}{number}.png")
        mask = np.zeros((48, 48), np.uint8)
        mask[: 8 * number, 10:30] = 255
        Image.fromarray(mask).save(tmp_path / f"mask{number}.png")
        codes = np.where(mask > 0, 20, 10).astype(np.uint8)
        codes[40:] = 0
        Image.fromarray(codes).save(tmp_path / f"codes{number}.png")
        names.append(f"before{number}.png")
    return names


def lines_of(task, images):
    """Manifest lines over the pictures."""
    numbered = list(enumerate(images))
    rgb = {"sensor": "rgb"}
    made = {
        "retrieval": [{"image": name, "captions": [f"picture {n}", f"image {n}"], **rgb} for n, name in numbered],
        "labels": [{"image": name, "labels": [("field", "<b>town</b>")[n % 2]], **rgb} for n, name in numbered],
        "scenes": [{"image": name, "label": ("field", "<b>town</b> $x$")[n % 2], **rgb} for n, name in numbered],
        "captions": [{"image": name, "captions": ["a green field", f"field {n}"], **rgb} for n, name in numbered],
        "vqa": [
            {"image": n_, "question": f"Is {n}?", "answer": "yes", "type": "presence", **rgb} for n, n_ in numbered
        ],
        "grounding": [{"image": name, "phrase": "field", "boxes": [[4, 4, 20, 30]], **rgb} for _, name in numbered],
        "masks": [{"image": name, "phrase": "field", "mask": f"mask{n}.png", **rgb} for n, name in numbered],
        "land-cover": [
            {"image": name, "labels": f"codes{n}.png", "codes": {**CODES, "0": "none"}, "ignore": [0], **rgb}
            for n, name in numbered
        ],
        "change": [
            {
                "before": [name],
                "after": [f"after{n}.png"],
                "sensors": ["rgb"],
                "mask": f"mask{n}.png",
                "phrase": "flood",
            }
            for n, name in numbered
        ],
    }
    return made[task]


TASKS = {"labels": "retrieval", "masks": "grounding"}
SETTINGS = {
    "labels": Settings(protocol="labels"),
    "captions": Settings(protocol="coco-without-meteor"),  # Java takes seconds to start
}


def evaluated(name, tmp_path, images, models):
    """The folder of a run over the pictures."""
    manifest = tmp_path / "data.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines_of(name, images)))
    run = prepare(TASKS.get(name, name), manifest, SETTINGS.get(name, Settings()), tmp_path / "run")
    evaluate(run, models, about={"split": "by place", "leakage": "not checked: a test"})
    return run.folder


def predicted_elsewhere(task, tmp_path, lines, predictions, **options):
    """The folder of predictions that somebody else made, scored."""
    manifest, folder = tmp_path / "data.jsonl", tmp_path / "run"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder.mkdir()
    rows = [{"line": number, "prediction": each} for number, each in enumerate(predictions, 1)]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rescore(folder, manifest=manifest, name=task, **options)
    return folder


def page_of(folder):
    return write_page(folder).read_text(encoding="utf-8")


def cells(page):
    """Texts of every row of every table."""
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    return [[html.unescape(cell) for cell in re.findall(r"<t[dh]>(.*?)</t[dh]>", row, re.DOTALL)] for row in rows]


def pictures(page):
    return re.findall(r'<img src="data:image/png;base64,([^"]+)"', page)


def two(value):
    return "-" if value is None else f"{value:.2f}"


PICTURES = {  # example pictures of five lines; a caption whose image is not ranked first has two
    "labels": 2 * 3,
    "scenes": LINES,
    "captions": LINES,
    "vqa": LINES,
    "grounding": LINES,
    "masks": LINES,
    "land-cover": 3 * LINES,
    "change": 3 * LINES,
}


@pytest.mark.parametrize("name", ["retrieval", *PICTURES])
def test_a_page_is_whole_and_says_what_the_report_says(name, tmp_path, images, models):
    folder = evaluated(name, tmp_path, images, models)
    page, report = page_of(folder), json.loads((folder / REPORT).read_text())
    assert not OUTSIDE.search(page)
    assert "default-src 'none'" in page
    assert "<b>" not in page
    table = {row[0]: row[1:] for row in cells(page)}
    for metric, found in report["metrics"].items():
        baselines = [two(values[metric]["value"]) for values in report["baselines"].values()]
        interval = "-" if found["low"] is None else f"{two(found['low'])} to {two(found['high'])}"
        if metric in {"presence"}:  # shown by type as well, with the number of questions
            assert table[metric] == [two(found["value"]), interval, str(LINES), *baselines]
        else:
            assert table[metric] == [two(found["value"]), interval, *baselines]
    for told in (report["data_sha256"], report["git"], "by place", "not checked: a test", report["hardware"]):
        assert html.escape(told) in page
    if name != "retrieval":
        assert len(pictures(page)) == PICTURES[name]
    sizes = [Image.open(io.BytesIO(base64.b64decode(each))).size for each in pictures(page)]
    assert sizes
    assert all(SIDE / 2 < max(size) <= SIDE for size in sizes)
    assert page == page_of(folder)


@pytest.mark.parametrize(
    "reference", ["<img src='http://a.b/c.png'>", '<a href="x.html">', "url(http://a.b)", "<script>", "@import 'a'"]
)
def test_what_the_page_must_not_have_is_recognised(reference):
    assert OUTSIDE.search(reference)
    assert not OUTSIDE.search('<use href="#m1"/> <img src="data:image/png;base64,AA"> clip-path="url(#p1)"')


def test_a_page_needs_a_report(tmp_path):
    with pytest.raises(EvaluationError, match=r"holds no report\.json; run the evaluation .* or score it"):
        write_page(tmp_path)


def test_a_picture_that_broke_since_is_replaced_by_what_is_wrong_with_it(tmp_path, images, models):
    folder = evaluated("scenes", tmp_path, images, models)
    (tmp_path / images[2]).write_bytes(b"no picture")
    page = page_of(folder)
    assert len(pictures(page)) == LINES - 1
    (missing,) = re.findall(r'<div class="missing">(.*?)</div>', page)
    assert images[2] in missing


def test_labels_are_text_in_charts_and_in_examples(tmp_path, images, models):
    page = page_of(evaluated("scenes", tmp_path, images, models))
    assert page.count("&lt;b&gt;town&lt;/b&gt; $x$") > 3


def test_failed_lines_leaks_and_the_archive_have_their_tables(tmp_path, images, models):
    folder = evaluated("retrieval", tmp_path, images, models)
    report = json.loads((folder / REPORT).read_text())
    metric = {"value": 41.5, "low": 40.0, "high": 43.25}
    pairs = [{"train": f"t{i}", "held_out": f"<i>{i}", "reason": "same file", "detail": "equal"} for i in range(60)]
    report["failed"] = {"12": "it is <damaged>", "2": "it is gone"}
    report["leakage"] = {"pairs": pairs, "listed": {"train": 9, "held-out": 7}}
    report["leakage"] |= {"checked": {}, "unreadable": {}, "unnamed": {}}
    latency = {"index": {"median": 1.25, "p95": 2.0}, "exact": {"median": 3.0, "p95": 4.0}}
    loss = {"index": "IVF", "n": 9, "chips": 77, "recall@10": {**metric, "value": 98.76}, "latency_ms": latency}
    report["archive"] = {"queries": 9, "through_index": {"R@1": metric}, "exact": {"R@1": {**metric, "value": 42.0}}}
    report["archive"]["index"] = loss
    (folder / REPORT).write_text(json.dumps(report))
    page = page_of(folder)
    rows = cells(page)
    assert rows.index(["2", "it is gone"]) < rows.index(["12", "it is <damaged>"])
    assert sum(row[0] == "same file" for row in rows if row) == 50
    assert "50 of 60 pairs" in page
    assert "60 pairs between 9 training and 7 evaluation images" in page
    assert ["R@1", "41.50", "40.00 to 43.25", "42.00", "40.00 to 43.25"] in rows
    assert ["recall@10", "98.76", "40.00 to 43.25"] in rows
    assert ["index, median", "1.25"] in rows
    assert "<i>" not in page


def test_predictions_made_elsewhere_have_a_page_with_what_is_known(tmp_path, images):
    lines = lines_of("scenes", images)
    folder = predicted_elsewhere("scenes", tmp_path, lines, [{"labels": ["field"]}] * LINES)
    page = page_of(folder)
    assert page.count("not recorded") == 5  # split, git, versions, hardware, seconds
    assert ["top1", "60.00"] in [row[:2] for row in cells(page)]


def test_the_recall_curve_by_hand():
    assert recall_curve(np.array([0, 0, 2, 7]), 4).tolist() == [50, 50, 75, 75]
    assert recall_curve(np.array([0]), 1).tolist() == [100]
    assert recall_curve(np.array([9]), 3).tolist() == [0, 0, 0]


def test_the_recall_curve_agrees_with_counting():
    chance = np.random.default_rng(0)
    for _ in range(20):
        ranks = chance.integers(0, 30, chance.integers(1, 40))
        slow = [100 * sum(rank < k for rank in ranks) / len(ranks) for k in range(1, 21)]
        assert recall_curve(ranks, 20) == pytest.approx(slow)


def test_the_chance_line_by_hand():
    assert chance_curve([1, 1], 4, 4) == pytest.approx([25, 50, 75, 100])
    assert chance_curve([2], 4, 4) == pytest.approx([50, 100 * (1 - 1 / math.comb(4, 2)), 100, 100])
    assert chance_curve([1, 4], 4, 1) == pytest.approx([(25 + 100) / 2])


def test_the_recall_chart_starts_at_the_reported_recall(tmp_path, images, models):
    finished = Finished.open(evaluated("retrieval", tmp_path, images, models))
    t2i, i2t = finished.ranks
    metrics = finished.report["metrics"]
    assert recall_curve(np.concatenate(t2i), LINES)[0] == metrics["t2i_R@1"]["value"]
    assert recall_curve(np.array([each.min() for each in i2t]), LINES)[[0, 4]].tolist() == [
        metrics["i2t_R@1"]["value"],
        metrics["i2t_R@5"]["value"],
    ]
    (figure,) = figures_of(finished)
    assert "10 captions and 5 images" in figure.note
    assert "text to image, by chance" in figure.svg


def test_the_example_of_a_caption_shows_the_image_ranked_first(tmp_path, images):
    lines = lines_of("retrieval", images)[:2]
    one, other = [1.0, 0.0], [0.6, 0.8]
    said = [{"image": one, "texts": [one, one]}, {"image": other, "texts": [one, other]}]
    found = examples_of(Finished.open(predicted_elsewhere("retrieval", tmp_path, lines, said)))
    assert [each.title for each in (*found.best, *found.worst)] == ["line 1", "line 2"]
    assert [each.caption for each in found.best[0].pictures] == ["the caption's image, ranked first"]
    assert [each.caption for each in found.worst[0].pictures] == ["the caption's image", "ranked first: line 1"]
    assert found.worst[0].facts == (("caption", "picture 1"), ("rank", "2 of 2"))


def test_confusion_counts_by_hand():
    truth, said = ["a", "a", "b", "b", "b"], ["a", "b", "b", "", "c"]
    counts, rows, columns = confusion_counts(truth, said)
    assert (rows, columns) == (["a", "b"], ["a", "b", "other", "no answer"])
    assert counts.tolist() == [[1, 1, 0, 0], [0, 1, 1, 1]]


def test_forty_of_many_classes_are_drawn_the_most_frequent():
    truth = [f"{n:02d}" for n in range(50)] + ["49", "48"]
    counts, rows, columns = confusion_counts(truth, truth)
    assert rows == [f"{n:02d}" for n in range(38)] + ["48", "49"]
    assert counts.shape == (40, 40)
    assert counts.diagonal().tolist() == [1] * 38 + [2, 2]
    assert columns == rows


def test_the_confusion_of_scenes_is_of_rows(tmp_path, images):
    lines = lines_of("scenes", images)  # field in lines 1, 3 and 5
    said = [{"labels": [label]} for label in ("field", "field", "<b>town</b> $x$", "field", "field")]
    confusion, recall = figures_of(Finished.open(predicted_elsewhere("scenes", tmp_path, lines, said)))
    assert re.findall(r">(\d+)</text>", confusion.svg) == ["0", "100", "33", "67"]  # town is never found
    assert recall.title == "Recall by class"


def test_f1_by_score_by_hand():
    near, far = [0, 0, 10, 10], [50, 50, 60, 60]
    pairs = [
        (Shapes.from_boxes([near]), Shapes.from_boxes([near, far], [0.9, 0.2])),
        (Shapes.from_boxes([near, far]), Shapes.from_boxes([far], [0.5])),
        (Shapes.from_boxes([]), Shapes.from_boxes([])),
    ]
    thresholds, values = f1_curve(pairs, threshold_rule=">=")
    assert thresholds.tolist() == [0.2, 0.5, 0.9]
    assert values == pytest.approx([200 * 2 / 6, 200 * 2 / 5, 200 * 1 / 4])


def test_without_scores_there_is_no_f1_curve(tmp_path, images):
    said = [{"boxes": [[4, 4, 20, 30]], "size": [48, 48]}] * LINES
    folder = predicted_elsewhere("grounding", tmp_path, lines_of("grounding", images), said)
    assert figures_of(Finished.open(folder)) == []


def test_risk_and_coverage_of_answers_by_hand(tmp_path, images):
    told = [("yes", 0.9), ("no", 0.8), ("yes", 0.7), ("no", 0.6), ("no", 0.5)]
    said = [{"answer": answer, "confidence": sure} for answer, sure in told]
    finished = Finished.open(predicted_elsewhere("vqa", tmp_path, lines_of("vqa", images), said))
    (figure,) = figures_of(finished)
    area = 100 * (0 + 1 / 2 + 1 / 3 + 2 / 4 + 3 / 5) / 5
    assert f"AURC {area:.2f} (4.00 to 100.00), against 60.00 in any order" in figure.note
    found = examples_of(finished)
    assert [each.title for each in found.best] == ["line 1", "line 3", "line 5"]
    assert [each.title for each in found.worst] == ["line 2", "line 4"]  # the surest mistake first


def test_oriented_truth_is_outlined_and_scored_by_its_corners(tmp_path, images):
    ring = [[4, 4], [30, 10], [24, 40], [2, 30]]
    lines = [{"image": name, "phrase": "ship", "polygons": [ring], "sensor": "rgb"} for name in images]
    said = [{"polygons": [ring], "boxes": [[2, 4, 30, 40]], "scores": [0.5], "size": [48, 48]}] * LINES
    found = examples_of(Finished.open(predicted_elsewhere("grounding", tmp_path, lines, said)))
    assert dict(found.best[0].facts) == {"phrase": "ship", "IoU": "100.0", "shapes": "1 true, 1 predicted"}


def test_changes_told_in_words_show_both_dates(tmp_path, images):
    lines = [
        {"before": [n], "after": [f"after{i}.png"], "sensors": ["rgb"], "captions": ["a <b>new</b> road"]}
        for i, n in enumerate(images)
    ]
    said = [{"caption": "a new road"}] * LINES
    page = page_of(predicted_elsewhere("change", tmp_path, lines, said, protocol="captions"))
    assert len(pictures(page)) == 2 * LINES
    assert "<b>" not in page


def test_plans_are_shown_as_wanted_and_as_given(tmp_path):
    wanted = {"task": "count", "target": "ship"}
    lines = [{"question": "How many ships?", "plan": wanted}, {"question": "Any <ships>?", "plan": wanted}]
    said = [{"plan": wanted}, {"plan": {"task": "presence", "target": "ship"}}]
    folder = predicted_elsewhere("plan", tmp_path, lines, said)
    found = examples_of(Finished.open(folder))
    assert (found.best[0].title, found.worst[0].title) == ("line 1", "line 2")
    assert "Any &lt;ships&gt;?" in page_of(folder)


def test_extremes_do_not_overlap_and_ties_go_by_line():
    nan = float("nan")
    assert extremes(np.array([1.0])) == ([0], [])
    assert extremes(np.array([nan, nan])) == ([], [])
    assert extremes(np.array([5.0, nan, 7.0, 7.0, 1.0])) == ([2, 3], [4, 0])
    best, worst = extremes(np.zeros(20))
    assert (best, worst) == ([0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11])


def test_classes_have_colours_of_their_own():
    assert palette(["permanent water", "tree cover", "wetland"]).tolist() == [
        list(LEGEND["water"]),
        list(LEGEND["tree"]),
        list(LEGEND["wetland"]),
    ]
    many = palette([f"water {n}" for n in range(40)])
    assert len({tuple(colour) for colour in many.tolist()}) == 40


def test_a_map_is_painted_by_position_and_shrunk_without_mixing():
    layer = np.full((2 * SIDE, SIDE), 1)
    layer[:SIDE] = -1
    image = coloured(layer, np.array([[9, 9, 9], [1, 2, 3]], np.uint8))
    assert image.shape == (SIDE, SIDE // 2, 3)
    assert np.unique(image.reshape(-1, 3), axis=0).tolist() == [[0, 0, 0], [1, 2, 3]]


def test_masks_and_outlines_have_their_colours(tmp_path, images):
    scene = read_scene(tmp_path / images[0], sensor="rgb")
    truth, said = np.zeros((48, 48), bool), np.zeros((48, 48), bool)
    truth[:24], said[12:36] = True, True
    image = compared(scene, truth, said).astype(int)
    dark = compared(scene, truth & False, said & False).astype(int)
    side = len(image)
    for row, colour in ((side // 8, TRUE), (side * 3 // 8, BOTH), (side * 5 // 8, SAID)):
        expected = 0.3 * dark[row, 5] + 0.7 * np.array(colour)
        assert np.abs(image[row, 5] - expected).max() <= 1
    assert (image[side - 3] == dark[side - 3]).all()
    drawn = outlined(scene, Shapes.from_boxes([[8, 8, 40, 40]]), Shapes.from_boxes([[0, 0, 4, 4]]))
    across = 8 * side // 48
    assert tuple(drawn[side // 2, across]) == TRUE
    assert tuple(drawn[0, 5]) == SAID


def test_a_small_picture_is_enlarged_by_whole_steps():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    stored = base64.b64decode(data_uri(image).removeprefix("data:image/png;base64,"))
    shown = np.asarray(Image.open(io.BytesIO(stored)))
    assert shown.shape == (SIDE, SIDE, 3)
    assert (shown == image.repeat(SIDE // 2, axis=0).repeat(SIDE // 2, axis=1)).all()
