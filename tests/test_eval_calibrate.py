"""Fitting the thresholds for "not there": cuts against a slow twin, halves by place, the command end to end."""

import json
from fractions import Fraction

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from typer.testing import CliRunner

from eval.calibrate import Pair, calibrate, fit_amount, fit_cut, verdicts
from eval.commands import app
from eval.manifests import read_changed, read_grounded
from rsvlm.encoder.calibration import Calibration
from rsvlm.errors import ConfigError, EvaluationError
from rsvlm.findings import find, find_change
from rsvlm.raster import read_labels

AXES = {"red": 0, "green": 1, "blue": 2, "shrubland": 0, "moss": 1, "sedge": 2}


class Colours:
    """An encoder that knows three colours: a picture is its mean colour, a word its axis, all other words a fourth."""

    fingerprint, dim = "colours", 4

    def encode_texts(self, texts):
        return np.stack([np.eye(4, dtype=np.float32)[AXES.get(text, 3)] for text in texts])

    def encode_scenes(self, scenes):
        means = np.stack([np.append(scene.pixels[:3].mean(axis=(1, 2)), 0.0) for scene in scenes])
        return (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)

    def similarity_map(self, scene, texts):
        colours = np.append(scene.pixels[:3], np.zeros((1, *scene.shape), np.float32), axis=0)
        unit = colours / np.linalg.norm(colours, axis=0).clip(1e-6)
        return np.einsum("td,dhw->thw", self.encode_texts(texts), unit).astype(np.float32)

    def change_map(self, before, after, texts):
        """Redder by a fifth is as likely flooded as not, for this too careful encoder by three fifths."""
        redder = after.pixels[0] - before.pixels[0] - 0.6
        return np.stack([redder / 10 if "flood" in text else np.zeros_like(redder) for text in texts])


def slow_cut(statistic, present, max_risk):
    """Every cut tried one by one."""
    safe, best, most = -np.inf, None, -np.inf
    for cut in sorted(set(statistic)):
        denied = [there for value, there in zip(statistic, present, strict=True) if value <= cut]
        if sum(denied) / len(denied) <= max_risk:
            safe = cut
        there, absent = max(1, sum(present)), max(1, len(present) - sum(present))
        gained = Fraction(len(denied) - sum(denied), absent) - Fraction(sum(denied), there)
        if gained > most:
            best, most = cut, gained
    return min(safe, best)


def test_a_cut_is_that_of_the_slow_twin():
    random = np.random.default_rng(0)
    for _ in range(300):
        count = random.integers(1, 12)
        statistic = random.integers(-3, 4, count) / 4  # many ties
        present = random.integers(0, 2, count).astype(bool)
        risk = random.choice([0.0, 0.1, 0.25, 0.5, 1.0])
        wanted = slow_cut(statistic.tolist(), present.tolist(), risk)
        assert fit_cut(statistic, present, max_risk=risk) == wanted


def test_a_cut_by_hand():
    statistic, present = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], [False, False, True, False, False, True, True]
    assert fit_cut(statistic, present, max_risk=0.2) == 0.5  # one of five denials is wrong
    assert fit_cut(statistic, present, max_risk=0.19) == 0.2
    assert fit_cut([0.1, 0.2], [True, False], max_risk=0.4) == -np.inf  # the first denial is wrong already


def test_a_cut_denies_no_more_than_separates_best_even_where_more_risk_is_borne():
    assert fit_cut([0.1, 0.2, 0.8, 0.9], [False, False, True, True], max_risk=0.5) == 0.2


@pytest.mark.parametrize("risk", [-0.1, 1.1, float("nan")])
def test_a_risk_that_is_no_share_is_refused(risk):
    with pytest.raises(EvaluationError, match="max_risk"):
        fit_cut([0.1], [False], max_risk=risk)


def test_verdicts_by_hand():
    pairs = [Pair("a", 0.9, True), Pair("a", 0.2, False), Pair("b", 0.8, True), Pair("b", 0.5, True)]
    pairs += [Pair("c", 0.7, False), Pair("c", 0.1, True), Pair("c", 0.5, False), Pair("d", 0.3, False)]
    found = verdicts(pairs, 0.5)  # found 2 of 4 present, denied 3 of 4 absent
    assert found.unit == "places"
    assert len(found.rows) == 4
    wanted = {"accuracy": 62.5, "recall": 50.0, "false_alarm": 25.0, "f1": 100 * 4 / 7, "trust": 60.0}
    assert found.metrics() == pytest.approx(wanted)


def test_a_cut_below_all_is_the_baseline_that_always_says_yes():
    found = verdicts([Pair("a", 0.9, True), Pair("b", 0.2, False)], -np.inf).metrics()
    assert (found["accuracy"], found["recall"], found["false_alarm"]) == (50, 100, 100)
    assert np.isnan(found["trust"])


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def paint(path, colour, square=None):
    """A picture of 40 x 40 pixels in greyish `colour`, with a clear square of another."""
    pixels = np.full((40, 40, 3), 90, np.uint8)
    pixels[..., AXES[colour]] = 160
    if square:
        pixels[5:15, 5:15] = 20
        pixels[5:15, 5:15, AXES[square]] = 230
    Image.fromarray(pixels).save(path)
    return path.name


@pytest.fixture
def scenes(tmp_path):
    lines = []
    for number in range(30):
        colour = ("red", "green", "blue")[number % 3]
        lines.append({"image": paint(tmp_path / f"s{number}.png", colour), "label": colour, "sensor": "rgb"})
    return write_lines(tmp_path / "scenes.jsonl", lines)


@pytest.fixture
def grounding(tmp_path):
    lines = []
    for number in range(20):
        square = ("red", "green")[number % 2]
        name = paint(tmp_path / f"g{number}.png", "blue", square)
        for phrase in ("red", "green"):
            boxes = [[5, 5, 15, 15]] if phrase == square else []
            lines.append({"image": name, "sensor": "rgb", "phrase": phrase, "boxes": boxes, "place": f"p{number}"})
    return write_lines(tmp_path / "grounding.jsonl", lines)


@pytest.fixture
def land_cover(tmp_path):
    codes, lines = {"1": "shrubland", "2": "moss", "3": "sedge"}, []
    for number in range(20):
        labels = np.full((24, 24), 1 + number % 3, np.uint8)
        labels[:, 12:] = 1 + (number + 1) % 3
        pixels = np.stack([np.where(labels == code, 4000, 300) for code in (1, 2, 3)]).astype(np.uint16)
        where = {"crs": "EPSG:32633", "transform": Affine(10, 0, 5e5, 0, -10, 5e6), "width": 24, "height": 24}
        with rasterio.open(tmp_path / f"c{number}.tif", "w", driver="GTiff", count=3, dtype="uint16", **where) as file:
            file.write(pixels)
            file.descriptions = ("B02", "B03", "B04")
        Image.fromarray(labels).save(tmp_path / f"c{number}.png")
        line = {"image": f"c{number}.tif", "sensor": "sentinel-2-l2a", "labels": f"c{number}.png", "codes": codes}
        lines.append(line | {"place": f"c{number // 2}"})
    return write_lines(tmp_path / "land-cover.jsonl", lines)


def test_what_separates_is_separated_on_places_that_were_not_fitted(scenes, grounding, land_cover):
    found, report = calibrate({"scene": scenes, "ground": land_cover, "object": grounding}, Colours())
    assert [threshold.kind for threshold in found.thresholds] == ["scene", "ground", "object"]
    assert found.encoder == "colours"
    for kind, row in report["kinds"].items():
        assert row["metrics"]["accuracy"]["value"] == 100, kind
        assert row["baselines"]["always present"]["accuracy"]["value"] == 50
        assert row["n"] >= 10
        assert not row["failed"]
        assert row["metrics_fitted"]["accuracy"] == 100
    assert found.of("object").fitted_on == "grounding.jsonl"
    present = report["kinds"]["object"]["n"] // 2
    assert found.of("object").trust == pytest.approx(1 / (1 + 1 / (present + 1)))  # one miss more than was seen


def test_what_was_fitted_denies_in_a_finding(grounding):
    encoder = Colours()
    encoder.calibration, _ = calibrate({"object": grounding}, encoder)
    for row in read_grounded(grounding)[:4]:
        assert find(row.phrase, row.picture.read(), encoder).present is bool(row.boxes)


@pytest.fixture
def change(tmp_path):
    """Twenty pairs of pictures: what is flooded, between a tenth and a half of each, turned redder by 0.3 to 0.9."""
    chance, lines = np.random.default_rng(0), []
    for number in range(20):
        before = np.full((40, 40, 3), 10, np.uint8)
        flooded = np.zeros((40, 40), bool)
        flooded[:, : chance.integers(4, 20)] = True
        after = before.copy()
        after[..., 0] = 10 + 255 * np.where(flooded, chance.uniform(0.3, 0.9, (40, 40)), 0)
        Image.fromarray(before).save(tmp_path / f"b{number}.png")
        Image.fromarray(after).save(tmp_path / f"a{number}.png")
        Image.fromarray(flooded.astype(np.uint8)).save(tmp_path / f"f{number}.png")
        files = {"before": [f"b{number}.png"], "after": [f"a{number}.png"], "mask": f"f{number}.png"}
        lines.append(files | {"sensors": ["rgb"], "phrase": "flooded area", "place": f"p{number}"})
    return write_lines(tmp_path / "change.jsonl", lines)


def test_as_much_change_is_found_as_there_is_once_calibrated(change):
    encoder = Colours()
    encoder.calibration, report = calibrate({"change": change}, encoder)
    row = report["kinds"]["change"]
    assert row["metrics"]["recall"]["value"] > 95
    assert row["metrics"]["false_alarm"]["value"] < 2
    assert row["baselines"]["uncalibrated"]["recall"]["value"] < 60
    assert row["fitted"] + row["n"] == 20 * 500
    first = read_changed(change)[0]
    found = find_change("flooded area", first.before[0].read(), first.after[0].read(), encoder)
    assert found.mask.pixels.mean() == pytest.approx((read_labels(first.mask) > 0).mean(), abs=0.02)


def test_the_amount_above_a_cut_is_the_amount_that_is_there():
    assert fit_amount([5.0, 1.0, 2.0, 3.0, 4.0], [True, False, True, False, False]) == pytest.approx(3.4)
    assert fit_amount([1.0, 2.0], [False, False]) == 2.0


def test_a_change_without_a_phrase_is_listed(change):
    first, *others = change.read_text().splitlines()
    nameless = {key: value for key, value in json.loads(first).items() if key != "phrase"}
    change.write_text("\n".join([*others, json.dumps(nameless)]))
    _, report = calibrate({"change": change}, Colours())
    assert "no phrase" in report["kinds"]["change"]["failed"]["20"]


def test_both_halves_share_no_place(land_cover):
    _, report = calibrate({"ground": land_cover}, Colours())
    row = report["kinds"]["ground"]
    assert row["places"] == 5  # of 10 places with two pictures each
    assert row["n"] == 30  # their ten pictures with three classes each


def test_the_same_seed_gives_the_same_report(scenes):
    first, second = (calibrate({"scene": scenes}, Colours(), limit=24, seed=3) for _ in range(2))
    assert first == second


def test_likeness_that_says_nothing_gives_no_threshold(grounding):
    class Blind(Colours):
        def similarity_map(self, scene, texts):
            return np.zeros((len(texts), *scene.shape), np.float32)

    found, report = calibrate({"object": grounding}, Blind())
    assert found.thresholds == ()
    assert report["kinds"]["object"]["value"] is None
    assert report["kinds"]["object"]["metrics"]["recall"]["value"] == 100


def test_too_few_pairs_are_refused(scenes):
    with pytest.raises(EvaluationError, match="raise the limit"):
        calibrate({"scene": scenes}, Colours(), limit=4)


def test_nothing_to_fit_on_is_refused():
    with pytest.raises(EvaluationError, match="at least one manifest"):
        calibrate({}, Colours())


def test_a_manifest_of_another_task_is_refused(scenes):
    with pytest.raises(ConfigError, match=r"scenes\.jsonl:1"):
        calibrate({"object": scenes}, Colours())


def test_a_picture_that_cannot_be_read_is_listed_and_the_rest_fitted(scenes, tmp_path):
    (tmp_path / "s0.png").write_bytes(b"no picture")
    found, report = calibrate({"scene": scenes}, Colours())
    assert list(report["kinds"]["scene"]["failed"]) == ["1"]
    assert found.of("scene") is not None


def test_objects_are_not_fitted_on_pixels_too_coarse_to_show_them(land_cover, tmp_path):
    lines = [{"image": f"c{n}.tif", "sensor": "sentinel-2-l2a", "phrase": "red", "boxes": []} for n in range(3)]
    with pytest.raises(EvaluationError, match="too coarse for object"):
        calibrate({"object": write_lines(tmp_path / "coarse.jsonl", lines)}, Colours())


def test_the_command_writes_the_calibration_beside_the_weights_and_again(untrained_encoder, scenes, tmp_path):
    folder = tmp_path / "encoder"
    untrained_encoder.save_pretrained(folder)
    for _ in range(2):
        done = CliRunner().invoke(
            app, ["calibrate", "--encoder", str(folder), "--scenes", str(scenes), "--max-risk", "0.5", "--json"]
        )
        assert done.exit_code == 0, done.output
        report = json.loads(done.stdout)
        assert Calibration.load(folder).encoder == report["encoder"]["fingerprint"]
    table = CliRunner().invoke(
        app, ["calibrate", "--encoder", str(folder), "--scenes", str(scenes), "--out", str(tmp_path / "other")]
    )
    assert "always present" in table.stdout
    assert (tmp_path / "other" / "calibration.json").is_file()
