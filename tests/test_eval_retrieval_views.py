"""Two sensors of one place, fewer bands and other names: what each asks of the encoder, and how it is scored."""

import json
from importlib import resources

import numpy as np
import pytest
import typer
from fakes import KeywordPlanner, MappedTiny, write_raster

from eval.commands import register
from eval.metrics.pairs import pair_statistics
from eval.models import Models
from eval.predictions import FILE
from eval.runner import evaluate, rescore
from eval.runs import prepare
from eval.tasks.scenes import read_names
from eval.tasks.task import Settings
from rsvlm import cli
from rsvlm.assistant import Assistant
from rsvlm.errors import ConfigError, EvaluationError
from rsvlm.raster import read_scene

E1, E2, E3 = [1, 0, 0], [0, 1, 0], [0, 0, 1]
PLACES = ("T31", "T32", "T33", "T34")


class Watching(MappedTiny):
    """Keeps the bands and the texts it is shown."""

    def __init__(self):
        super().__init__()
        self.bands, self.texts = [], []

    def encode_scenes(self, scenes):
        self.bands += [scene.band_names for scene in scenes]
        return super().encode_scenes(scenes)

    def encode_texts(self, texts):
        self.texts += texts
        return super().encode_texts(texts)


def models_of(encoder):
    models, planner = Models(), KeywordPlanner()
    vars(models).update(encoder=encoder, language=planner, assistant=Assistant(encoder, planner))
    return models


def write_lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def views(tmp_path):
    """Two manifests of the same four places, the second in reverse order; their paths."""

    def line(name, seed, place, bands):
        write_raster(tmp_path / name, seed=seed, bands=bands)
        return {"image": name, "sensor": "sentinel-2-l2a", "place": place, "labels": ["water", f"kind {place}"]}

    first = [line(f"a{n}.tif", n, place, ("B02", "B03", "B04", "B08")) for n, place in enumerate(PLACES)]
    second = [line(f"b{n}.tif", n, place, ("B04", "B08")) for n, place in enumerate(PLACES)]
    return write_lines(tmp_path / "first.jsonl", *first), write_lines(tmp_path / "second.jsonl", *second[::-1])


def paired(first, second, folder, **settings):
    return prepare("retrieval", first, Settings("image-pairs", onto=str(second), **settings), folder)


def lines(path):
    return [json.loads(text) for text in path.read_text().splitlines()]


# one place, two images


def test_pairs_by_hand():
    first, second = np.array([E1, E2, E3], np.float32), np.array([E1, E3, E2], np.float32)
    found = pair_statistics(first, second).metrics()
    # the first query finds its own first; the others find it second, after the other's or a tie before it
    assert found["onto_R@1"] == found["back_R@1"] == pytest.approx(100 / 3)
    assert found["onto_R@5"] == found["back_R@10"] == 100
    assert found["mR"] == pytest.approx((2 * 100 / 3 + 4 * 100) / 6)


def test_one_pair_is_always_found():
    assert set(pair_statistics(np.array([E1], np.float32), np.array([E2], np.float32)).metrics().values()) == {100.0}


def slow_recall(queries, gallery, cut):
    """Percent of queries whose own position is among the first `cut`, by sorting."""
    right = 0
    for position, query in enumerate(queries):
        order = sorted(range(len(gallery)), key=lambda item: (-float(query @ gallery[item]), item))
        right += position in order[:cut]
    return 100 * right / len(queries)


@pytest.mark.parametrize("seed", range(5))
def test_recalls_are_those_of_sorting_ties_included(seed):
    chance = np.random.default_rng(seed)
    corners = np.eye(4, dtype=np.float32)  # few directions, so that many tie
    first, second = corners[chance.integers(4, size=17)], corners[chance.integers(4, size=17)]
    found = pair_statistics(first, second).metrics()
    for cut in (1, 5, 10):
        assert found[f"onto_R@{cut}"] == pytest.approx(slow_recall(first, second, cut))
        assert found[f"back_R@{cut}"] == pytest.approx(slow_recall(second, first, cut))


def test_lists_of_other_shapes_are_refused():
    with pytest.raises(EvaluationError, match="vectors of one length"):
        pair_statistics(np.eye(3, dtype=np.float32), np.eye(2, dtype=np.float32))


def test_partners_are_found_by_place_and_not_by_order(views, tmp_path):
    run = paired(*views, tmp_path / "out")
    for row in run.rows:
        own, other = run.task.pictures(row)
        assert own.place == other.place
        assert (own.files[0].name, other.files[0].name) == (f"a{row.number - 1}.tif", f"b{row.number - 1}.tif")


def test_a_run_over_pairs_is_reported_scored_again_and_resumed(views, tmp_path):
    run = paired(*views, tmp_path / "out", seed=3)
    report = evaluate(run, models_of(MappedTiny()))
    assert (report["task"], report["n"], report["units"], report["unit"]) == ("retrieval", 4, 4, "images")
    assert list(report["baselines"]) == ["blind", "constant", "random"]
    assert (
        report["baselines"]["constant"]["onto_R@1"]["value"] == report["baselines"]["blind"]["back_R@1"]["value"] == 25
    )
    assert report["metrics"]["onto_R@5"] == {"value": 100.0, "low": 100.0, "high": 100.0}
    again = rescore(run.folder)
    assert (again["metrics"], again["baselines"]) == (report["metrics"], report["baselines"])
    predictions = (run.folder / FILE).read_text()
    (run.folder / FILE).write_text("".join(predictions.splitlines(keepends=True)[:2]) + '{"line": 3, "pre')
    assert evaluate(paired(*views, run.folder, seed=3), models_of(MappedTiny()))["metrics"] == report["metrics"]
    assert [line["line"] for line in lines(run.folder / FILE)] == [1, 2, 3, 4]


def test_the_same_images_in_both_manifests_find_themselves(views, tmp_path):
    report = evaluate(paired(views[0], views[0], tmp_path / "out"), models_of(MappedTiny()))
    assert {metric["value"] for metric in report["metrics"].values()} == {100.0}


def test_a_limit_leaves_the_partners_of_the_lines_drawn(views, tmp_path):
    report = evaluate(paired(*views, tmp_path / "out", limit=1), models_of(MappedTiny()))
    assert (report["n"], report["metrics"]["onto_R@1"]["value"]) == (1, 100.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], "has no image of 'T31', which line 1 of the other shows"),
        (lambda rows: [*rows, rows[0] | {"image": "a0.tif", "place": "T99"}], "the manifest has no image of 'T99'"),
        (lambda rows: [rows[0] | {"image": "a0.tif"}, *rows], "shows 'T34' as line 1 does"),
        (lambda rows: [{k: v for k, v in rows[0].items() if k != "place"}, *rows[1:]], "line 1 of .* names no place"),
    ],
)
def test_places_without_one_partner_are_refused(change, message, views, tmp_path):
    first, second = views
    write_lines(second, *change(lines(second)))
    with pytest.raises(EvaluationError, match=message):
        paired(first, second, tmp_path / "out")


def test_pairs_are_the_one_protocol_of_two_manifests(views, tmp_path):
    for settings in (Settings("image-pairs"), Settings("labels", onto=str(views[1]))):
        with pytest.raises(EvaluationError, match="a second manifest"):
            prepare("retrieval", views[0], settings, tmp_path / "out")


def test_vectors_of_two_lengths_are_refused(views, tmp_path):
    run = paired(*views, tmp_path / "out")
    said = [{"image": E1, "onto": E2}, {"image": E1, "onto": [1, 0]}]
    with pytest.raises(EvaluationError, match="one length; got 2, 3"):
        run.task.statistics(run.rows[:2], said, run.folder)
    with pytest.raises(EvaluationError, match="one row of finite numbers"):
        run.task.statistics(run.rows[:1], [{"image": E1}], run.folder)


# fewer bands


def test_only_the_bands_asked_for_are_shown_to_the_encoder(views, tmp_path):
    encoder = Watching()
    run = prepare("retrieval", views[0], Settings("labels", bands=("red", "green", "blue")), tmp_path / "out")
    evaluate(run, models_of(encoder))
    assert set(encoder.bands) == {("B04", "B03", "B02")}


def test_without_bands_a_scene_is_shown_as_it_is_and_a_missing_band_is_told_by_line(views, tmp_path):
    scene = read_scene(write_raster(tmp_path / "c.tif"), sensor="sentinel-2-l2a")
    assert Settings().shown(scene) is scene
    run = prepare("retrieval", views[0], Settings("labels", bands=("swir16",)), tmp_path / "out")
    with pytest.raises(EvaluationError, match=r"none of 4 lines could be read; the first: .*'swir16'"):
        evaluate(run, models_of(MappedTiny()))


# other names


def labelled(tmp_path, *labels):
    for n in range(len(labels)):
        write_raster(tmp_path / f"{n}.tif", seed=n)
    rows = ({"image": f"{n}.tif", "label": x, "sensor": "sentinel-2-l2a"} for n, x in enumerate(labels))
    return write_lines(tmp_path / "scenes.jsonl", *rows)


def test_names_are_asked_and_labels_reported(tmp_path):
    data, names = labelled(tmp_path, "airport", "bare land"), tmp_path / "names.toml"
    names.write_text('"bare land" = "exposed soil"\nairport = "hangar"\n')
    assert read_names(str(names)) == (("airport", "hangar"), ("bare land", "exposed soil"))
    encoder = Watching()
    settings = Settings(templates=("photo of {}",), names=read_names(str(names)))
    run = prepare("scenes", data, settings, tmp_path / "out")
    report = evaluate(run, models_of(encoder))
    assert set(encoder.texts) == {"photo of hangar", "photo of exposed soil"}
    assert all(set(line["prediction"]["labels"]) == {"airport", "bare land"} for line in lines(run.folder / FILE))
    assert rescore(run.folder)["metrics"] == report["metrics"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"airport": "hangar"}, "missing: pond, unknown labels: none"),
        ({"airport": "hangar", "pond": "lake", "port": "pier"}, "missing: none, unknown labels: port"),
        ({"airport": "lake", "pond": "lake"}, "'lake' is given more than once"),
    ],
)
def test_names_that_do_not_fit_the_labels_are_refused(names, message, tmp_path):
    with pytest.raises(EvaluationError, match=message):
        prepare("scenes", labelled(tmp_path, "airport", "pond"), Settings(names=tuple(names.items())), tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('airport "hangar"', "cannot be read as TOML of names"),
        ("", "it is empty"),
        ("airport = 3", "wrong: airport"),
        ('airport = " "', "wrong: airport"),
        ('[airport]\nname = "hangar"', "wrong: airport"),
        (b"\xff\xfe", "cannot be read as TOML of names"),
        (None, "cannot be read as TOML of names"),
    ],
)
def test_a_file_that_is_no_table_of_names_is_refused(text, message, tmp_path):
    path = tmp_path / "names.toml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=message):
        read_names(str(path))


@pytest.mark.parametrize("given", ["poetry", "../names/aid-paraphrased", "aid-paraphrased/"])
def test_shipped_names_are_known_by_name_only(given):
    with pytest.raises(ConfigError, match=r"give a file ending in \.toml or one of .*aid-paraphrased"):
        read_names(given)


def test_every_shipped_paraphrase_has_other_words_than_its_label():
    names = dict(read_names("aid-paraphrased"))
    assert len(names) == len(set(names.values())) == 30
    assert resources.files("eval").joinpath("names", "aid-paraphrased.toml").is_file()
    for label, name in names.items():
        stems = [word.rstrip("s") for word in label.split()]
        assert not [stem for stem in stems if stem in name.lower()], f"{name!r} says {label!r}"


def test_the_shipped_names_are_for_the_scenes_of_aid(data_dir):
    captions = lines(data_dir / "rsicd_aid" / "captions.jsonl")
    joined = {label.replace(" ", "") for label in dict(read_names("aid-paraphrased"))}
    assert {line["scene"].lower() for line in captions} == joined


# on the command line


@pytest.fixture
def run(monkeypatch, capsys):
    """Run an eval command in this process; returns exit code, standard output, standard error."""
    root = typer.Typer()
    register(root)
    monkeypatch.setattr("eval.models.Models", lambda *_: models_of(MappedTiny()))
    monkeypatch.setattr(cli, "full_app", lambda: root)

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main(["eval", *map(str, arguments)])
        return (ended.value.code, *capsys.readouterr())

    return call


def test_a_run_does_not_go_on_with_another_second_manifest(run, views, tmp_path):
    first, second = views
    call = ("retrieval", "--data", first, "--onto", second, "--out", tmp_path / "out", "--json")
    code, printed, _ = run(*call)
    report = json.loads(printed)
    assert (code, report["settings"]["protocol"]) == (0, "image-pairs")
    assert report["metrics"] == json.loads(run(*call)[1])["metrics"]
    write_lines(second, *reversed(lines(second)))
    code, _, told = run(*call)
    assert code == 2
    assert "holds a run with another settings" in " ".join(told.split())


def test_leaks_into_both_manifests_are_looked_for(run, views):
    first, second = views
    report = json.loads(run("retrieval", "--data", first, "--onto", second, "--train", second, "--json")[1])
    assert len(report["leakage_onto"]["pairs"]) >= 4


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--queries", "labels"), "labels and image-pairs, two ways of scoring; give one of them"),
        (("--protocol", "first-caption"), "first-caption and image-pairs, two ways of scoring"),
        (("--archive", "lost"), "an archive is searched by text over all bands"),
        (("--onto", "lost.jsonl"), "does not exist"),
    ],
)
def test_what_does_not_go_with_a_second_manifest_is_one_sentence(more, message, run, views):
    code, printed, told = run("retrieval", "--data", views[0], "--onto", views[1], *more)
    assert (code, printed) == (2, "")
    assert message in " ".join(told.replace("│", " ").split())


def test_bands_and_names_are_kept_in_the_report(run, views, tmp_path):
    given = ("--queries", "labels", "--bands", "red, green,blue", "--json")
    report = json.loads(run("retrieval", "--data", views[0], *given)[1])
    assert report["settings"]["bands"] == ["red", "green", "blue"]
    assert set(report["baselines"]) == {"blind", "constant", "random"}
    assert all("nDCG@10" in each for each in (report["metrics"], *report["baselines"].values()))
    names = tmp_path / "names.toml"
    names.write_text('airport = "hangar"\npond = "lake"\n')
    report = json.loads(run("scenes", "--data", labelled(tmp_path, "airport", "pond"), "--names", names, "--json")[1])
    assert report["settings"]["names"] == [["airport", "hangar"], ["pond", "lake"]]
