"""Each task by hand: what is predicted, how it is scored, what its baselines say, and that the blind see nothing."""

import base64
import json
import math
import shutil

import numpy as np
import pytest
import rasterio
from affine import Affine
from fakes import BANDS, KeywordPlanner, MappedTiny
from PIL import Image

from eval.answering import confidence_of, short_answer
from eval.models import BLANK, Models, blank
from eval.predictions import FILE
from eval.runner import evaluate
from eval.runs import BLIND, prepare
from eval.statistics import intervals
from eval.tasks.task import Settings
from rsvlm.answer import Answer, Fact
from rsvlm.assistant import Assistant
from rsvlm.errors import EvaluationError
from rsvlm.language.plan import Plan
from rsvlm.raster import read_scene

WATER, LAND = (800, 900, 500, 100), (500, 900, 700, 3500)  # B02, B03, B04, B08
SIZE = (32, 48)  # height, width of the scenes written here
LEFT, RIGHT = slice(0, 24), slice(24, 48)


def write_scene(path, water=slice(0), size=SIZE):
    """Land in the summer, with water in some of its columns."""
    pixels = np.empty((4, *size), np.uint16)
    pixels[:] = np.array(LAND)[:, None, None]
    pixels[:, :, water] = np.array(WATER)[:, None, None]
    where = {"crs": "EPSG:32633", "transform": Affine(10, 0, 500_000, 0, -10, 5_500_000)}
    shape = {"height": size[0], "width": size[1], "count": 4}
    with rasterio.open(path, "w", driver="GTiff", dtype="uint16", nodata=0, **shape, **where) as file:
        file.write(pixels)
        file.descriptions = BANDS
    return path


def write_mask(path, columns=slice(0), values=None):
    mask = np.zeros(SIZE, np.uint8)
    mask[:, columns] = 255
    Image.fromarray(mask if values is None else np.array(values, np.uint8)).save(path)
    return path


class Fixed(KeywordPlanner):
    """Reads every question as one plan."""

    def __init__(self, plan):
        self.only = plan

    def plan(self, question, context):
        return self.only


class Watching(MappedTiny):
    """Keeps the scenes it is shown."""

    def __init__(self):
        super().__init__()
        self.shown = []

    def encode_scenes(self, scenes):
        self.shown += scenes
        return super().encode_scenes(scenes)


def models_of(language=None, encoder=None):
    models, encoder, language = Models(), encoder or MappedTiny(), language or KeywordPlanner()
    vars(models).update(encoder=encoder, language=language, assistant=Assistant(encoder, language))
    return models


@pytest.fixture
def ready(tmp_path):
    """A run over rows, in a folder of its own."""

    def make(task, *rows, name="data", **settings):
        manifest = tmp_path / f"{name}.jsonl"
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / name).mkdir(exist_ok=True)
        if task == "captions":
            settings = {"protocol": "coco-without-meteor", **settings}  # Java takes seconds to start
        return prepare(task, manifest, Settings(**settings), tmp_path / name)

    return make


@pytest.fixture
def image(tmp_path):
    """Write empty scenes by name; returns the name."""

    def make(name="a.tif", **scene):
        write_scene(tmp_path / name, **scene)
        return name

    return make


def score(run, *predictions):
    return run.task.statistics(run.rows, list(predictions), run.folder).metrics()


def baselines(run, *predictions, seed=0):
    found = run.task.baselines(run.rows, list(predictions), seed)
    return {name: statistics.metrics() for name, statistics in found.items()}


# retrieval


def captioned(image, *captions):
    return [{"image": image(f"{n}.tif"), "captions": texts} for n, texts in enumerate(captions)]


def vectors(picture, *texts):
    return {"image": picture, "texts": list(texts)}


E1, E2, E3 = [1, 0, 0], [0, 1, 0], [0, 0, 1]


def test_retrieval_by_hand(ready, image):
    """The second caption looks like the first picture, so it and its own picture find each other in second place."""
    run = ready("retrieval", *captioned(image, ["one"], ["two"], ["three"]))
    found = score(run, vectors(E1, E1), vectors(E2, E1), vectors(E3, E3))
    third = pytest.approx(200 / 3)
    assert (found["t2i_R@1"], found["i2t_R@1"], found["t2i_R@5"]) == (third, third, 100)
    assert found["mR"] == pytest.approx((2 * 200 / 3 + 400) / 6)


def test_all_captions_count_or_only_the_first(ready, image):
    rows = captioned(image, ["one", "odd"], ["two", "even"])
    said = vectors(E1, E1, E2), vectors(E2, E2, E1)
    found = {name: score(ready("retrieval", *rows, protocol=name), *said) for name in ("all-captions", "first-caption")}
    assert found["all-captions"]["t2i_R@1"] == 50
    assert found["first-caption"]["t2i_R@1"] == 100


def test_vectors_may_be_lists_or_packed_and_of_any_length_above_0(ready, image):
    run = ready("retrieval", *captioned(image, ["one"], ["two"]))
    chance = np.random.default_rng(0)
    plain = chance.standard_normal((4, 8)).astype("<f4")
    packed = [base64.b64encode((3 * vector).tobytes()).decode() for vector in plain]
    listed = [(0.1 * vector).tolist() for vector in plain]
    found = [score(run, vectors(*each[:2]), vectors(*each[2:])) for each in (packed, listed)]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({}, "line 1 needs 1 text vectors"),
        (vectors(E1), "line 1 needs 1 text vectors"),
        (vectors(E1, E1, E1), "line 1 needs 1 text vectors"),
        (vectors(None, E1), "one row of finite numbers"),
        (vectors([0, 0, 0], E1), "not all 0"),
        (vectors(E1, [1, float("nan"), 0]), "one row of finite numbers"),
        (vectors(E1, "no base 64"), "base64 of float32"),
        (vectors(E1, base64.b64encode(b"123").decode()), "base64 of float32"),
        (vectors(E1, [[1, 2], [3]]), "base64 of float32"),
        (vectors(E1, [1, 0]), "one length; got 2, 3"),
        (vectors([1, 0], E1), "need the 3 numbers"),
    ],
)
def test_vectors_that_cannot_be_ranked_are_refused(said, message, ready, image):
    with pytest.raises(EvaluationError, match=message):
        score(ready("retrieval", *captioned(image, ["one"], ["two"])), said, vectors(E2, E2))


def labelled(image, *labels):
    return [{"image": image(f"{n}.tif"), "labels": each} for n, each in enumerate(labels)]


def test_label_queries_by_hand(ready, image):
    """Both labels rank water, both, forest: right for water; forest has what shares it second and what is it third."""
    run = ready("retrieval", *labelled(image, ["water"], ["forest", "water"], ["forest"]), protocol="labels")
    found = score(run, vectors([1, 0], [1, 0]), vectors([0.8, 0.6], [1, 0], [1, 0]), vectors([0, 1], [1, 0]))
    assert found["mAP@10"] == pytest.approx(100 * (1 + (1 / 2 + 2 / 3) / 2) / 2)
    gained = (0.5 / math.log2(3) + 1 / math.log2(4)) / (1 + 0.5 / math.log2(3))
    assert found["nDCG@10"] == pytest.approx(100 * (1 + gained) / 2)
    assert found["R@1"] == 50


def test_a_label_is_a_query_once_however_many_images_have_it(ready, image):
    run = ready("retrieval", *labelled(image, ["water"], ["water"], ["forest"]), protocol="labels")
    statistics = run.task.statistics(run.rows, [vectors(E1, E1), vectors(E1, E1), vectors(E2, E2)], run.folder)
    assert (statistics.unit, len(statistics.rows)) == ("queries", 2)


def test_label_sets_are_queries_for_what_shares_a_label_even_one_with_a_comma(ready, image):
    dunes = "Beaches, dunes, sands"
    run = ready("retrieval", *labelled(image, ["sea", dunes], [dunes], ["wood"]), protocol="label-sets")
    assert [run.task.texts(row) for row in run.rows] == [(f"{dunes}, sea",), (dunes,), ("wood",)]
    found = score(run, vectors(E1, E1), vectors([0.8, 0.6, 0], [0.8, 0.6, 0]), vectors(E3, E3))
    assert (found["mAP@10"], found["nDCG@10"]) == (pytest.approx(100), pytest.approx(100))
    assert found["P@10"] == pytest.approx(100 * (2 + 2 + 1) / 30)


def test_pictures_that_all_look_alike_are_ranked_by_their_place(ready, image):
    found = baselines(ready("retrieval", *captioned(image, ["one"], ["two"])), vectors(E1, E1), vectors(E2, E2))
    assert found["constant"]["t2i_R@1"] == 50
    found = baselines(
        ready("retrieval", *labelled(image, *([f"label {n}"] for n in range(40))), protocol="labels"),
        *(vectors(vector, vector) for vector in np.random.default_rng(0).standard_normal((40, 64)).tolist()),
    )
    assert found["constant"]["mAP@1000"] == pytest.approx(100 * sum(1 / n for n in range(1, 41)) / 40)


def test_chance_finds_one_in_ten(ready, image):
    rows = captioned(image, *([f"caption {n}"] for n in range(10)))
    run = ready("retrieval", *rows)
    said = [vectors(E1, E1)] * 10
    hits = [baselines(run, *said, seed=seed)["random"]["t2i_R@1"] for seed in range(60)]
    assert np.mean(hits) == pytest.approx(10, abs=3)
    assert baselines(run, *said, seed=3)["random"] == baselines(run, *said, seed=3)["random"]


# scenes


def classed(image, *labels):
    return [{"image": image(f"{n}.tif"), "label": label} for n, label in enumerate(labels)]


def test_scenes_by_hand(ready, image):
    run = ready("scenes", *classed(image, "b", "b", "b", "a"))
    found = score(run, *({"labels": each} for each in (["b", "a"], ["b"], ["a", "b"], ["b"])))
    assert found == {"top1": 50, "top5": 75, "macro": pytest.approx((200 / 3 + 0) / 2)}


def test_scene_baselines_by_hand(ready, image):
    run = ready("scenes", *classed(image, "b", "b", "b", "a"))
    found = baselines(run, *([{"labels": ["b"]}] * 4))
    assert found["majority"] == {"top1": 75, "top5": 100, "macro": 50}
    assert found["constant"] == {"top1": 25, "top5": 100, "macro": 50}
    draws = [baselines(run, seed=seed)["random"]["top1"] for seed in range(100)]
    assert np.mean(draws) == pytest.approx(50, abs=8)


def test_the_classes_are_those_of_the_whole_manifest_whatever_part_is_run(ready, image):
    run = ready("scenes", *classed(image, *"dcbafe"), limit=2, seed=1)
    assert len(run.rows) == 2
    assert run.task.classes == ("a", "b", "c", "d", "e", "f")
    (said,) = run.task.predict(run.rows[:1], [(read_scene(run.rows[0].picture.files[0]),)], models_of(), run.folder)
    assert len(said["labels"]) == 5
    score(run, {"labels": ["f"]}, {"labels": ["e"]})


def test_a_class_is_the_mean_of_its_templates_and_the_nearest_wins(ready, image):
    run = ready("scenes", *classed(image, "sea", "wood"), templates=("{}", "a {} here"))
    encoder = MappedTiny()
    scenes = [(read_scene(row.picture.files[0]),) for row in run.rows]
    for (scene,), said in zip(scenes, run.task.predict(run.rows, scenes, models_of(), run.folder), strict=True):
        scores = {}
        for name in ("sea", "wood"):
            vector = encoder.encode_texts([name, f"a {name} here"]).mean(axis=0)
            scores[name] = float(encoder.encode_scenes([scene])[0] @ vector / np.linalg.norm(vector))
        assert said["labels"] == sorted(scores, key=lambda name: -scores[name])
        assert said["scores"] == pytest.approx(sorted(scores.values(), reverse=True), abs=1e-5)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"labels": ["c"]}, "'c' is no label"),
        ({"labels": ["a", "a"]}, "each once"),
        ({"labels": "a"}, "needs labels"),
        ({}, "needs labels"),
        ({"labels": [["a"]]}, "is no label"),
    ],
)
def test_labels_that_are_no_classes_are_refused(said, message, ready, image):
    with pytest.raises(EvaluationError, match=message):
        score(ready("scenes", *classed(image, "a", "b")), said, {"labels": ["a"]})


def test_no_label_at_all_is_a_wrong_one(ready, image):
    assert score(ready("scenes", *classed(image, "a", "a")), {"labels": []}, {"labels": ["a"]})["top1"] == 50


# captions


def test_captions_by_hand(ready, image):
    """Words 4 of 5 right; the brevity penalty of 5 words for a reference of 6 is exp(1 - 6 / 5)."""
    run = ready("captions", *captioned(image, ["many green trees in a forest"]))
    found = score(run, {"caption": "many red trees in a"})
    assert found["BLEU-1"] == pytest.approx(100 * 4 / 5 * math.exp(1 - 6 / 5))
    assert score(run, {"caption": "Many green trees, in a forest."})["ROUGE-L"] == pytest.approx(100)


def test_caption_baselines_are_the_commonest_reference_and_that_of_another_image(ready, image):
    run = ready("captions", *captioned(image, ["a pond", "b"], ["a pond"], ["c d e f"]))
    found = baselines(run)
    assert found["constant"] == score(run, *([{"caption": "a pond"}] * 3))
    assert set(found) == {"constant", "random"}
    alone = ready("captions", *captioned(image, ["a pond"]), name="alone")
    assert set(baselines(alone)) == {"constant"}


def test_a_line_without_references_is_refused(ready, image):
    with pytest.raises(EvaluationError, match="line 2 of the manifest has no captions"):
        ready("captions", *captioned(image, ["a pond"]), {"image": image("b.tif"), "labels": ["water"]})


# vqa


def asked(picture, answer, question="Is there any water?", kind="presence"):
    return {"image": picture, "question": question, "answer": answer, "type": kind}


def test_vqa_and_its_baselines_by_hand(ready, image):
    picture = image()
    rows = [
        *(asked(picture, answer) for answer in ("yes", "yes", "yes", "no")),
        asked(picture, "3", "How many ships?", "count"),
        asked(picture, "3", "How many ponds?", "count"),
    ]
    run = ready("vqa", *rows)
    found = score(run, *({"answer": answer} for answer in ("Yes.", "no", "yes", "", "three", "4")))
    assert found["OA"] == 50
    assert (found["presence"], found["count"]) == (50, 50)
    assert found["answered"] == pytest.approx(500 / 6)
    plain = baselines(run)
    assert plain["majority"]["OA"] == pytest.approx(500 / 6)
    assert (plain["majority"]["presence"], plain["majority"]["count"]) == (75, 100)
    assert (plain["constant"]["presence"], plain["constant"]["count"]) == (75, 0)
    assert (plain["random"]["count"], plain["random"]["answered"]) == (100, 100)


def test_a_model_that_looks_differs_from_the_same_model_blind(ready, image):
    wet = [asked(image(f"wet{n}.tif", water=LEFT), "yes") for n in range(3)]
    report = evaluate(ready("vqa", *wet, asked(image("dry.tif"), "no")), models_of())
    assert report["metrics"]["OA"]["value"] == 100
    assert report["baselines"]["blind"]["OA"]["value"] == 25  # it says "no" to all


def test_a_question_about_two_dates_is_compared_and_one_without_overlap_abstains(ready, image, tmp_path):
    pair = [image("before.tif"), image("after.tif", water=LEFT)]
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "plain.png")
    run = ready("vqa", asked(pair, "yes", "new water"), asked([pair[0], "plain.png"], "yes", "new water"))
    evaluate(run, models_of(Fixed(Plan("change", "water", "new"))))
    said = [json.loads(line)["prediction"] for line in (run.folder / FILE).read_text().splitlines()]
    assert (said[0]["answer"], said[0]["abstained"], said[0]["confidence"]) == ("yes", False, 0.9)
    assert (said[1]["answer"], said[1]["abstained"], said[1]["confidence"]) == ("", True, 0.0)
    assert "laid over each other" in said[1]["text"]


# grounding


def sought(picture, **truth):
    return {"image": picture, "phrase": "water", **truth}


def boxes(*rows, scores=None):
    return {"boxes": list(rows), "scores": scores or [1.0] * len(rows), "size": list(SIZE)}


def test_boxes_by_hand(ready, image):
    """Lines: found at IoU 0.5; one of two found; nothing there and a false alarm; nothing there and nothing said."""
    picture = image()
    two = [[0, 0, 8, 8], [20, 0, 28, 8]]
    run = ready(
        "grounding", *(sought(picture, boxes=truth) for truth in ([[0, 0, 8, 8]], two, [], [])), protocol="iou>=t"
    )
    found = score(run, boxes([0, 0, 8, 4]), boxes(two[1]), boxes([0, 0, 4, 4]), boxes())
    assert found["F1@0.5"] == pytest.approx(100 * 2 * 2 / (3 + 3))
    assert (found["Pr@0.5"], found["Pr@0.7"], found["false_alarm"]) == (100, 0, 50)
    assert found["mIoU"] == pytest.approx(100 * (0.5 + 0.5 + 0 + 1) / 4)
    assert found["cIoU"] == pytest.approx(100 * (32 + 64) / (64 + 128 + 16))


def test_box_baselines_by_hand(ready, image):
    """Of a scene of 32 x 48 the box covers half; the middle box, a quarter of the scene, lies half inside it."""
    run = ready("grounding", sought(image(), boxes=[[0, 0, 24, 32]]), sought("a.tif", boxes=[]))
    found = baselines(run, boxes(), boxes())
    assert (found["majority"]["mIoU"], found["majority"]["false_alarm"]) == (25, 100)
    assert found["constant"]["mIoU"] == pytest.approx(100 * (192 / (768 + 384 - 192)) / 2)
    assert found["random"]["mIoU"] == 0  # each line gets the boxes of the other


def test_polygons_are_compared_by_their_true_outline(ready, image):
    """A triangle over half of a box: IoU 0.5 with the box, 1 with itself."""
    triangle = [[0, 0], [8, 0], [0, 8]]
    run = ready("grounding", sought(image(), polygons=[triangle]), sought("a.tif", polygons=[]))
    whole = score(run, {"polygons": [triangle], "size": [32, 48]}, boxes())
    upright = score(run, boxes([0, 0, 8, 8]), boxes())
    assert (whole["mIoU"], whole["Pr@0.7"]) == (100, 100)
    assert (upright["mIoU"], upright["Pr@0.5"], upright["Pr@0.7"]) == (75, 100, 0)


def test_polygons_on_an_absent_phrase_are_a_false_alarm(ready, image):
    run = ready("grounding", sought(image(), polygons=[]))
    assert score(run, {"polygons": [[[0, 0], [8, 0], [0, 8]]]})["false_alarm"] == 100


@pytest.mark.parametrize(
    ("answer", "dialect", "iou"),
    [
        ("Here: <box>[[0,0,500,1000]]</box>", "geoground", 100),
        ('[{"bbox_2d": [0, 0, 24, 32], "label": "water"}]', "qwen", 100),
        ("[0, 0, 100, 100]", "teochat", 50),
        ("I see none.", "teochat", 0),
    ],
)
def test_what_other_models_write_is_read_in_their_dialect(answer, dialect, iou, ready, image):
    run = ready("grounding", sought(image(), boxes=[[0, 0, 24, 32]]))
    assert score(run, {"answer": answer, "dialect": dialect, "size": list(SIZE)})["mIoU"] == pytest.approx(iou)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"boxes": [[0, 0, 8]]}, "line 1 is no list of boxes"),
        ({"boxes": [[8, 0, 0, 8]]}, "line 1 is no list of boxes"),
        ({"boxes": "none"}, "line 1 is no list of boxes"),
        ({"boxes": [[0, 0, 8, 8]], "scores": [1, 2]}, "line 1 is no list of boxes"),
        ({"boxes": [[0, 0, 8, 8]], "scores": ["high"]}, "list of finite numbers"),
        ({"answer": "[0, 0, 1, 1]", "dialect": "teochat"}, "needs the image's size"),
        ({"answer": "[0, 0, 1, 1]", "dialect": "teochat", "size": [1, 2, 3]}, "needs the image's size"),
        ({"answer": "[0, 0, 1, 1]", "dialect": "klingon", "size": [1, 2]}, "klingon"),
    ],
)
def test_boxes_that_cannot_be_read_are_refused(said, message, ready, image):
    with pytest.raises(EvaluationError, match=message):
        score(ready("grounding", sought(image(), boxes=[])), said)


def test_masks_by_hand(ready, image, tmp_path):
    """Half the scene is there and a quarter of it is found; nothing is there and nothing is found."""
    write_mask(tmp_path / "half.png", LEFT)
    write_mask(tmp_path / "none.png")
    run = ready("grounding", sought(image(), mask="half.png"), sought("a.tif", mask="none.png"))
    write_mask(run.folder / "quarter.png", slice(0, 12))
    write_mask(run.folder / "none.png")
    found = score(run, {"map": "quarter.png"}, {"map": "none.png"})
    assert (found["Pr@0.5"], found["mIoU"], found["cIoU"], found["false_alarm"]) == (100, 75, 50, 0)
    plain = baselines(run)
    assert (plain["majority"]["mIoU"], plain["majority"]["false_alarm"]) == (25, 100)
    assert plain["constant"]["cIoU"] == pytest.approx(100 * 192 / (768 + 192 + 384))
    assert plain["random"]["cIoU"] == pytest.approx(100 * 384 / (768 + 384 + 768), abs=3)


@pytest.mark.parametrize("name", ["lost.png", "../half.png", "small.png", "broken.png"])
def test_a_map_that_is_missing_elsewhere_or_of_another_size_is_refused(name, ready, image, tmp_path):
    write_mask(tmp_path / "half.png", LEFT)
    run = ready("grounding", sought(image(), mask="half.png"))
    write_mask(run.folder / "small.png", values=[[1]])
    (run.folder / "broken.png").write_bytes(b"no image")
    with pytest.raises(EvaluationError, match="the map"):
        score(run, {"map": name})


def test_masks_and_boxes_are_not_mixed(ready, image, tmp_path):
    write_mask(tmp_path / "half.png")
    with pytest.raises(EvaluationError, match="mixes masks with boxes"):
        ready("grounding", sought(image(), mask="half.png"), sought("a.tif", boxes=[]))


@pytest.mark.parametrize("form", ["boxes", "polygons", "mask"])
def test_water_is_outlined_in_the_form_of_the_truth_and_not_by_the_blind(form, ready, image, tmp_path):
    corners = [[0, 0], [24, 0], [24, 32], [0, 32]]
    write_mask(tmp_path / "half.png", LEFT)
    write_mask(tmp_path / "none.png")
    there = {"boxes": [[0, 0, 24, 32]], "polygons": [corners], "mask": "half.png"}[form]
    absent = "none.png" if form == "mask" else []
    rows = [sought(image("wet.tif", water=LEFT), **{form: there}), sought(image("dry.tif"), **{form: absent})]
    report = evaluate(ready("grounding", *rows), models_of())
    assert (report["metrics"]["mIoU"]["value"], report["metrics"]["false_alarm"]["value"]) == (100, 0)
    assert report["baselines"]["blind"]["mIoU"]["value"] == 50


def test_a_phrase_too_long_to_look_for_counts_as_nothing_found(ready, image):
    long = sought(image(), boxes=[[0, 0, 8, 8]]) | {"phrase": "the ship that lies " * 20}
    report = evaluate(ready("grounding", long), models_of())
    assert (report["n"], report["failed"], report["metrics"]["Pr@0.5"]["value"]) == (1, {}, 0)


# land cover


def mapped(image, labels="labels.png", **more):
    return {"image": image(), "labels": labels, "codes": {"0": "none", "20": "crops", "10": "trees"}, **more}


def test_land_cover_by_hand(ready, image, tmp_path):
    """Three pixels count: crops is right once and once taken for trees, trees is right."""
    write_mask(tmp_path / "labels.png", values=[[20, 20, 10, 0]])
    run = ready("land-cover", mapped(image, ignore=[0]), background="trees")
    assert run.task.names == ("trees", "crops")
    write_mask(run.folder / "said.png", values=[[1, 0, 0, 1]])
    found = score(run, {"map": "said.png"})
    assert found["OA"] == pytest.approx(200 / 3)
    assert (found["IoU trees"], found["IoU crops"], found["mIoU"]) == (50, 50, 50)
    assert found["mIoU_without_background"] == 50
    plain = baselines(run)
    assert plain["majority"]["OA"] == pytest.approx(200 / 3)
    assert plain["constant"]["OA"] == pytest.approx(100 / 3)
    assert plain["majority"]["mIoU"] == pytest.approx((200 / 3 + 0) / 2)


def test_a_band_of_a_raster_holds_the_codes_and_chance_is_even(ready, image, tmp_path):
    with rasterio.open(tmp_path / "l.tif", "w", driver="GTiff", dtype="uint8", count=2, height=32, width=48) as file:
        file.write(np.zeros(SIZE, np.uint8), 1)
        file.write(np.full(SIZE, 10, np.uint8), 2)
    run = ready("land-cover", mapped(image, "l.tif", labels_band=2, ignore=[0]))
    assert baselines(run)["majority"]["OA"] == 100
    assert baselines(run)["random"]["OA"] == pytest.approx(50, abs=5)


@pytest.mark.parametrize(("values", "message"), [([[0, 1, 2, 0]], "values below 2"), ([[0, 1]], r"it needs \(1, 4\)")])
def test_a_map_of_other_classes_or_size_is_refused(values, message, ready, image, tmp_path):
    write_mask(tmp_path / "labels.png", values=[[20, 20, 10, 0]])
    run = ready("land-cover", mapped(image, ignore=[0]))
    write_mask(run.folder / "said.png", values=values)
    with pytest.raises(EvaluationError, match=message):
        score(run, {"map": "said.png"})


def test_a_code_that_is_neither_a_class_nor_ignored_is_named(ready, image, tmp_path):
    write_mask(tmp_path / "labels.png", values=[[20, 30]])
    run = ready("land-cover", mapped(image, ignore=[0]))
    write_mask(run.folder / "said.png", values=[[0, 0]])
    with pytest.raises(EvaluationError, match="code 30"):
        score(run, {"map": "said.png"})


@pytest.mark.parametrize(
    ("settings", "more", "message"),
    [
        ({"background": "sea"}, {}, "'sea' is none of none, trees, crops"),
        ({}, {"ignore": [0, 10]}, "2 to 255 classes; the manifest names 1"),
    ],
)
def test_classes_that_cannot_be_mapped_are_refused(settings, more, message, ready, image, tmp_path):
    write_mask(tmp_path / "labels.png", values=[[20]])
    with pytest.raises(EvaluationError, match=message):
        ready("land-cover", mapped(image, **more), **settings)


def test_a_predicted_map_holds_the_nearest_class_of_each_pixel(ready, image, tmp_path):
    write_mask(tmp_path / "labels.png", values=np.full(SIZE, 10))
    run = ready("land-cover", mapped(image, ignore=[0]))
    scene = read_scene(tmp_path / "a.tif")
    (said,) = run.task.predict(run.rows, [(scene,)], models_of(), run.folder)
    nearest = MappedTiny().similarity_map(scene, ("trees", "crops"))[:, 0, 0].argmax()
    assert (np.array(Image.open(run.folder / said["map"])) == nearest).all()
    assert score(run, said)["OA"] == (100 if nearest == 0 else 0)


# change


def changed(before, after, **more):
    return {"before": before, "after": after, "phrase": "water", **more}


def test_change_and_its_baselines_by_hand(ready, image, tmp_path):
    """Half the scene changed, a quarter of it was found and nothing else."""
    write_mask(tmp_path / "truth.png", LEFT)
    run = ready("change", changed([image("b.tif")], [image("a.tif", water=LEFT)], mask="truth.png"))
    write_mask(run.folder / "said.png", slice(0, 12))
    found = score(run, {"map": "said.png"})
    assert (found["precision"], found["recall"], found["IoU"]) == (100, 50, 50)
    assert found["F1"] == pytest.approx(200 / 3)
    plain = baselines(run)
    assert plain["majority"]["F1"] == 0
    assert plain["constant"]["F1"] == pytest.approx(200 / 3)
    assert plain["random"]["recall"] == pytest.approx(50, abs=5)
    assert plain["otsu"]["F1"] == 100


@pytest.mark.parametrize(
    ("flooded", "columns"),
    [
        ([LEFT, RIGHT], slice(0, 48)),
        ([LEFT, LEFT], LEFT),
        ([LEFT, slice(0), slice(0)], slice(0)),
        ([LEFT, slice(0), slice(0, 36)], LEFT),
    ],
)
def test_a_pixel_changed_where_at_least_half_of_the_sensors_say_so(flooded, columns, ready, image, tmp_path):
    write_mask(tmp_path / "truth.png", columns)
    before = [image(f"b{n}.tif") for n in range(len(flooded))]
    after = [image(f"a{n}.tif", water=water) for n, water in enumerate(flooded)]
    run = ready("change", changed(before, after, mask="truth.png"))
    scenes = tuple(picture.read() for picture in run.task.pictures(run.rows[0]))
    (said,) = run.task.predict(run.rows, [scenes], models_of(), run.folder)
    wanted = np.zeros(SIZE, bool)
    wanted[:, columns] = True
    assert np.array_equal(np.array(Image.open(run.folder / said["map"])) > 0, wanted)
    assert len(said["how"]) == len(flooded)


def test_nothing_changed_between_equal_dates_is_not_defined_as_a_score(ready, image, tmp_path):
    write_mask(tmp_path / "none.png")
    report = evaluate(ready("change", changed([image("b.tif")], [image("a.tif")], mask="none.png")), models_of())
    assert report["metrics"]["F1"] == {"value": None, "low": None, "high": None}
    assert report["metrics"]["OA"]["value"] == 100
    assert report["baselines"]["otsu"]["F1"]["value"] is None


def test_sensors_of_different_size_cost_only_their_own_line(ready, image, tmp_path):
    write_mask(tmp_path / "truth.png", LEFT)
    good = changed([image("b.tif")], [image("a.tif", water=LEFT)], mask="truth.png")
    before, after = ([name, image(f"small-{name}", size=(16, 16))] for name in ("b.tif", "a.tif"))
    report = evaluate(ready("change", good, changed(before, after, mask="truth.png")), models_of())
    assert list(report["failed"]) == ["2"]
    assert "one size to agree" in report["failed"]["2"]
    assert report["metrics"]["F1"]["value"] == 100
    assert report["baselines"]["blind"]["F1"]["value"] == 0


def test_change_in_words_is_scored_as_captions(ready, image):
    rows = [
        changed([image("b.tif")], [image(f"a{n}.tif", water=LEFT)], captions=["a lake was flooded"]) for n in range(2)
    ]
    run = ready("change", *rows, protocol="captions")
    report = evaluate(run, models_of())
    assert {"BLEU-1", "ROUGE-L", "CIDEr"} <= set(report["metrics"])
    said = json.loads((run.folder / FILE).read_text().splitlines()[0])["prediction"]["caption"]
    assert "gained" in said
    assert report["baselines"]["constant"]["BLEU-4"]["value"] == 100
    with pytest.raises(EvaluationError, match="line 1 of the manifest has no mask; choose the other --protocol"):
        ready("change", *rows)


# plan


def planned(question, **plan):
    return {"question": question, "plan": plan}


def test_plans_by_hand(ready):
    run = ready(
        "plan",
        planned("How much of it is water?", task="area", target="Water"),
        planned("Is there any snow?", task="presence", target="ice"),
        planned("Where is Rome?", task="metadata", target="place"),
        planned("Tell me about it.", task="describe"),
        planned("Describe this.", task="describe"),
    )
    report = evaluate(run, models_of())
    values = {name: metric["value"] for name, metric in report["metrics"].items()}
    assert values == {"exact": 40, "task": 80, "target": 60}
    assert report["metrics"]["exact"]["low"] <= 40 <= report["metrics"]["exact"]["high"]
    assert report["baselines"]["majority"] == {
        "exact": {"value": 40.0},
        "task": {"value": 40.0},
        "target": {"value": 40.0},
    }
    assert report["baselines"]["constant"] == report["baselines"]["majority"]
    assert set(report["baselines"]) == {"majority", "constant", "random"}
    assert not (run.folder / BLIND).exists()


def test_the_commonest_plan_of_the_commonest_task_is_the_majority(ready):
    run = ready(
        "plan",
        *(planned("?", task="count", target=target) for target in ("ship", "ship", "car")),
        planned("!", task="describe"),
    )
    assert baselines(run)["majority"] == {"exact": 50, "task": 75, "target": 50}


@pytest.mark.parametrize("said", [{}, {"plan": None}, {"plan": ["task"]}, {"plan": {"task": "fly"}}, {"plan": {}}])
def test_what_is_no_plan_is_refused(said, ready):
    with pytest.raises(EvaluationError, match="needs a plan"):
        score(ready("plan", planned("?", task="describe")), said)


# blind


def picture_rows(before, after):
    """One line of every task with images about two files."""
    return {
        "retrieval": {"image": after, "captions": ["a lake"]},
        "scenes": {"image": after, "label": "lake"},
        "captions": {"image": after, "captions": ["a lake"]},
        "vqa": asked([before, after], "yes", "new water"),
        "grounding": sought(after, mask="truth.png"),
        "land-cover": mapped(lambda: after, "labels.png", ignore=[0]),
        "change": changed([before], [after], mask="truth.png"),
    }


@pytest.mark.parametrize("task", picture_rows("", ""))
def test_the_blind_say_the_same_whatever_the_images_show(task, ready, image, tmp_path):
    write_mask(tmp_path / "truth.png", LEFT)
    write_mask(tmp_path / "labels.png", values=np.full(SIZE, 10))
    for name, water in (("dry.tif", slice(0)), ("wet.tif", LEFT), ("sea.tif", slice(0, 48))):
        image(name, water=water)
    said, seen = [], []
    for number, files in enumerate([("dry.tif", "wet.tif"), ("wet.tif", "sea.tif"), ("wet.tif", "dry.tif")]):
        run = ready(task, picture_rows(*files)[task], name=f"run{number}")
        evaluate(run, models_of())
        for found, folder in ((seen, run.folder), (said, run.folder / BLIND)):
            prediction = json.loads((folder / FILE).read_text())["prediction"]
            if "map" in prediction:
                prediction["map"] = (folder / prediction["map"]).read_bytes().hex()
            found.append(json.dumps(prediction))
    assert len(set(said)) == 1
    if task not in ("scenes", "land-cover"):  # where one class of few may win for all
        assert len(set(seen)) > 1


def test_the_blind_are_shown_mid_values_and_asked_once_for_what_looks_the_same(ready, image):
    rows = classed(image, *"abc")
    encoder = Watching()
    evaluate(ready("scenes", *rows), models_of(encoder=encoder))
    real, empty = encoder.shown[:3], encoder.shown[3:]
    assert len(empty) == 1
    assert all(float(scene.pixels.std()) > 0 for scene in real)
    assert np.unique(empty[0].pixels).tolist() == [np.float32(BLANK["reflectance"])]


def test_a_blank_scene_keeps_what_is_no_pixel(image, tmp_path):
    scene = read_scene(tmp_path / image(water=LEFT))
    empty = blank(scene)
    assert (empty.bands, empty.grid, empty.sensor, empty.shape) == (scene.bands, scene.grid, scene.sensor, scene.shape)
    assert np.array_equal(empty.valid, scene.valid)


# short answers


@pytest.mark.parametrize(
    ("plan", "wet", "dry"),
    [
        (Plan("presence", "water"), "yes", "no"),
        (Plan("presence", "water", "and", "snow"), "no", "no"),
        (Plan("count", "water"), "1", "0"),
        (Plan("area", "water", unit="percent"), "50.0%", "0.0%"),
        (Plan("locate", "water"), "middle left", "no"),
        (Plan("metadata", "resolution"), "10.0 m", "10.0 m"),
        (Plan("metadata", "size"), "48 x 32 pixels", "48 x 32 pixels"),
        (Plan("metadata", "date"), "", ""),
        (Plan("change", "water"), "", ""),
        (Plan("search", "water"), "", ""),
        (Plan("abstain"), "", ""),
    ],
)
def test_the_short_answer_of_every_plan(plan, wet, dry, image, tmp_path):
    for expected, water in ((wet, LEFT), (dry, slice(0))):
        answer = Assistant(MappedTiny(), Fixed(plan)).ask(tmp_path / image(water=water), "?")
        assert short_answer(answer) == expected
        assert (confidence_of(answer) == 0) == (expected == "")


def test_the_short_answer_to_how_large_is_a_number_with_its_unit(image, tmp_path):
    """32 x 24 pixels of 10 m are 7.68 ha on the grid; on the ellipsoid a little else."""
    answer = Assistant(MappedTiny(), Fixed(Plan("area", "water", unit="ha"))).ask(tmp_path / image(water=LEFT), "?")
    value, unit = short_answer(answer).split()
    assert float(value) == pytest.approx(7.68, rel=0.01)
    assert unit == "ha"


def test_the_short_answer_to_what_changed_is_yes_or_no(image, tmp_path):
    assistant = Assistant(MappedTiny(), Fixed(Plan("change", "water", "new")))
    before, after = tmp_path / image("b.tif"), tmp_path / image("a.tif", water=LEFT)
    assert short_answer(assistant.compare(before, after, "?")) == "yes"
    assert short_answer(assistant.compare(before, before, "?")) == "no"


def test_the_short_description_is_the_caption_without_how_it_was_made(image, tmp_path):
    answer = Assistant(MappedTiny(), Fixed(Plan("describe"))).ask(tmp_path / image(water=LEFT), "?")
    assert short_answer(answer) == answer.facts[0].value
    assert "water" in short_answer(answer)


def compared(value, relation, confidence=0.6):
    plan = Plan("comparison", "ships", relation, "cars")
    facts = (Fact("comparison", value, "", "counted", confidence),)
    return Answer("", "?", plan, facts, (), (), "model", False)


@pytest.mark.parametrize(
    ("value", "relation", "expected"),
    [
        ("more ships than cars", "more", "yes"),
        ("more ships than cars", "less", "no"),
        ("more ships than cars", "equal", "no"),
        ("as much ships as cars", "equal", "yes"),
        ("less ships than cars", "less", "yes"),
        ("less ships than cars", "", "less"),
        ("as much ships as cars", "", "equal"),
    ],
)
def test_the_short_comparison_is_yes_or_no_where_the_question_names_the_relation(value, relation, expected):
    assert short_answer(compared(value, relation)) == expected
    assert confidence_of(compared(value, relation)) == 0.6


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="METEOR's scorer is a Java program and there is no Java here")
def test_meteor_is_reported_without_an_interval_where_java_is_present(ready, image):
    run = ready("captions", *captioned(image, ["a pond", "b pond"], ["a field"]), protocol="coco")
    found = run.task.statistics(run.rows, [{"caption": "a pond"}, {"caption": "a house"}], run.folder)
    interval = intervals(found)["METEOR"]
    assert 0 < interval.value < 100
    assert interval.to_json()["low"] is None
    assert all(0 < each["METEOR"] <= 100 for each in baselines(run).values())


def patchwork(path, *, seed, swapped=False):
    """Twelve by twelve pixels: class 1 is dark in the first band and bright in the second, class 2 otherwise."""
    chance = np.random.default_rng(seed)
    truth = np.where(chance.random((12, 12)) < 0.5, 1, 2).astype(np.uint16)
    bright = (truth == 1) != swapped
    pixels = np.stack([np.where(bright, 500, 3000), np.where(bright, 3000, 500), truth]).astype(np.uint16)
    with rasterio.open(path, "w", driver="GTiff", dtype="uint16", height=12, width=12, count=3) as file:
        file.write(pixels)
        file.descriptions = ("B02", "B04", "labels")
    return path


def mapped_lines(tmp_path, name, *seeds, **how):
    files = [patchwork(tmp_path / f"{name}{seed}.tif", seed=seed, **how) for seed in seeds]
    both = {"sensor": "sentinel-2-l2a", "bands": ["B02", "B04", "B08"], "labels_band": 3, "codes": {"1": "a", "2": "b"}}
    rows = [{"image": file.name, "labels": file.name, **both} for file in files]
    path = tmp_path / f"{name}.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.mark.parametrize(("bands", "right"), [((), 100.0), (("blue",), 100.0)])
def test_a_forest_learns_from_training_lines_and_stands_beside_the_others(tmp_path, bands, right):
    train, data = mapped_lines(tmp_path, "t", 1, 2), mapped_lines(tmp_path, "d", 3)
    run = prepare("land-cover", data, Settings(bands=bands, train=(str(train),)), tmp_path / "out")
    found = run.task.baselines(run.rows, [], 0)
    assert found["forest"].metrics()["OA"] == right
    assert found["majority"].metrics()["OA"] < 80
    wrong = prepare("land-cover", mapped_lines(tmp_path, "s", 4, swapped=True), run.settings, tmp_path / "out2")
    if bands:
        assert wrong.task.baselines(wrong.rows, [], 0)["forest"].metrics()["OA"] == 0.0


def test_a_model_sees_only_the_bands_it_is_given(tmp_path):
    seen = []

    class Watching(MappedTiny):
        def similarity_map(self, scene, texts):
            seen.append(scene.band_names)
            return super().similarity_map(scene, texts)

    models = Models()
    models.__dict__["encoder"] = Watching()
    data = mapped_lines(tmp_path, "d", 3)
    run = prepare("land-cover", data, Settings(bands=("red",)), tmp_path / "out")
    (tmp_path / "out").mkdir()
    run.task.predict(run.rows, [(run.rows[0].picture.read(),)], models, tmp_path / "out")
    assert seen == [("B04",)]


@pytest.mark.parametrize(
    ("question", "facts", "short"),
    [
        ("Has anything changed?", [Fact("share of water gained", 1.56, "percent", "", 0.6)], "yes"),
        ("Has anything changed?", [Fact("share of ground changed", 0.1, "percent", "", 0.6)], "no"),
        ("Did the water change?", [Fact("change of water", False, "", "", 0.6)], "no"),
        ("Is there a change?", [Fact("share of cloud after", 40.0, "percent", "", 0.6)], "no"),
        ("What changed?", [Fact("area of water gained", 12.0, "ha", "", 0.6)], "12.0 ha"),
    ],
)
def test_a_question_whether_something_changed_is_answered_yes_or_no(question, facts, short):
    answer = Answer("", question, Plan("change"), tuple(facts), (), (), "m", False)
    assert short_answer(answer) == short
