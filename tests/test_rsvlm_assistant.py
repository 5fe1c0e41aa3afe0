"""The assistant: every step visible, abstaining where nothing sure was measured."""

import json
from itertools import pairwise

import numpy as np
import pytest
from fakes import KeywordPlanner, MappedTiny, write_raster
from shapely.geometry import shape

from retrieval import Archive
from rsvlm.answer import Hit, nothing_like_that
from rsvlm.assistant import MAX_PIXELS, Assistant
from rsvlm.errors import GeoreferenceError, ImageryError, QueryError
from rsvlm.raster import read_scene
from rsvlm.scene import Window


@pytest.fixture
def assistant():
    return Assistant(MappedTiny(), KeywordPlanner())


def test_an_answer_shows_plan_facts_regions_and_model(assistant, samples):
    answer = assistant.ask(samples / "coast_s2.tif", "How much of it is water?")
    assert answer.plan.task == "area"
    assert answer.facts[0].name == "area of water"
    assert answer.regions
    assert answer.model == "keyword planner"
    assert not answer.abstained
    assert f"{answer.facts[0].value:,.0f}"[:3] in answer.text


def test_streaming_grows_to_the_same_answer(assistant, samples):
    stages = list(assistant.stream_ask(samples / "coast_s2.tif", "How much of it is water?"))
    assert stages[0].plan.task == "area"
    assert not stages[0].facts
    texts = [stage.text for stage in stages]
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    assert stages[-1] == assistant.ask(samples / "coast_s2.tif", "How much of it is water?")


def test_an_answer_round_trips_through_json_and_geojson(assistant, samples):
    answer = assistant.ground(samples / "coast_s2.tif", "water")
    plain = json.loads(json.dumps(answer.to_json()))
    assert plain["plan"] == {"task": "locate", "target": "water"}
    assert {"polygon_pixels", "polygon_lonlat", "area_m2", "score"} <= set(plain["regions"][0])
    collection = json.loads(json.dumps(answer.to_geojson()))
    west, south, east, north = read_scene(samples / "coast_s2.tif").grid.footprint.bounds
    for feature in collection["features"]:
        x0, y0, x1, y1 = shape(feature["geometry"]).bounds
        assert west - 1e-4 <= x0 <= x1 <= east + 1e-4
        assert south - 1e-4 <= y0 <= y1 <= north + 1e-4


def test_an_off_topic_question_is_declined_with_a_reason(assistant, samples):
    answer = assistant.ask(samples / "coast_s2.tif", "Write me a poem")
    assert answer.abstained
    assert not answer.regions
    assert "cannot" in answer.text


def test_without_image_or_archive_there_is_nothing_to_answer_from(assistant):
    answer = assistant.ask(None, "find farmland")
    assert answer.abstained
    assert "archive" in answer.text


def test_a_search_answers_with_numbered_hits(assistant, tmp_path):
    for seed in range(3):
        write_raster(tmp_path / f"{seed}.tif", seed=seed)
    archive = Archive.create(tmp_path / "archive", assistant.encoder, chip=32, stride=32)
    archive.add(sorted(tmp_path.glob("*.tif")), progress=False)
    assistant.retriever = archive
    answer = assistant.ask(None, "find farmland")
    assert [hit.rank for hit in answer.hits] == list(range(1, len(answer.hits) + 1))
    assert answer.hits
    assert "[1]" in answer.text


class Shelf:
    """A retriever that has these scores to show, judged by one threshold."""

    def __init__(self, *scores, threshold, first=1):
        window = Window(0, 0, 8, 8)
        self.hits = [
            Hit(rank, f"c{rank}", score, None, None, "rgb", "a lake", "a.tif", window, {}, threshold)
            for rank, score in enumerate(scores, start=first)
        ]

    def search(self, query, k=10, *, where=None):
        return self.hits[:k]


@pytest.mark.parametrize(
    ("shelf", "abstained"),
    [
        (Shelf(0.2, 0.1, threshold=0.2), True),  # at the threshold is not above it
        (Shelf(0.21, 0.1, threshold=0.2), False),
        (Shelf(-0.5, threshold=None), False),  # of an encoder without calibration
        (Shelf(-0.5, threshold=0.0, first=2), False),  # the best is on another page
    ],
)
def test_a_search_with_nothing_like_it_abstains_and_shows_what_is_nearest(assistant, shelf, abstained):
    assistant.retriever = shelf
    answer = assistant.ask(None, "find farmland")
    assert answer.abstained is abstained
    assert answer.hits == tuple(shelf.hits)
    assert ("none of the best matches is like that" in answer.text) is abstained
    assert f"[{shelf.hits[0].rank}] a lake" in answer.text
    plain = json.loads(json.dumps(answer.to_json()))["hits"][-1]
    assert plain["unlike"] is shelf.hits[-1].unlike
    assert plain["threshold"] == shelf.hits[-1].threshold


def test_what_nothing_can_tell_of_is_not_denied():
    judged, unknown = Shelf(0.1, threshold=0.2).hits, Shelf(0.05, threshold=None, first=2).hits
    assert nothing_like_that(judged) == (
        "none of the best matches is like that as a whole (best score 0.10, threshold 0.20); "
        "small objects in them are not ruled out"
    )
    assert nothing_like_that([*judged, *unknown]) == ""
    assert nothing_like_that([]) == ""


class Flat(MappedTiny):
    """Sees no difference between anything."""

    def similarity_map(self, scene, texts):
        return np.zeros((len(texts), 4, 4), np.float32)

    def encode_scenes(self, scenes):
        return np.zeros((len(scenes), self.dim), np.float32)


def test_a_description_no_likelier_than_others_is_not_told(samples):
    answer = Assistant(Flat(), KeywordPlanner()).caption(samples / "town_s2.tif")
    assert all(fact.name != "caption" for fact in answer.facts)
    assert "vegetation" in answer.text.lower()


def test_unsure_facts_are_not_stated(samples):
    answer = Assistant(Flat(), KeywordPlanner()).ask(samples / "town_s2.tif", "how much is stadium?")
    assert answer.abstained
    assert [fact.name for fact in answer.facts] == ["abstain"]
    assert "too unsure" in answer.text


def test_comparing_says_what_was_gained(assistant, samples):
    pair = [samples / f"river_farmland_{when}_flood_s2.tif" for when in ("before", "after")]
    answer = assistant.compare(*pair)
    assert answer.plan.task == "change"
    assert any(fact.name == "area of water gained" for fact in answer.facts)
    assert assistant.compare(*pair, "write a poem").abstained


def test_geographic_export_without_coordinates_is_refused(assistant, tmp_path):
    path = write_raster(tmp_path / "plain.tif", crs=None, shape=(64, 64))
    answer = assistant.ask(path, "Is there any vegetation?")
    assert answer.facts
    if answer.regions:
        with pytest.raises(GeoreferenceError, match="no coordinate system"):
            answer.to_geojson()


def test_a_scene_larger_than_the_cap_is_averaged_down(assistant, tmp_path, monkeypatch):
    path = write_raster(tmp_path / "large.tif", shape=(128, 256))
    monkeypatch.setattr("rsvlm.assistant.MAX_PIXELS", 128 * 256 // 4)
    small = assistant.read(path)
    assert small.shape == (64, 128)
    assert small.grid.pixel_size_m == pytest.approx(20, rel=1e-2)
    assert MAX_PIXELS > 10_000_000


@pytest.mark.parametrize("phrase", ["", "   ", "x" * 121])
def test_a_phrase_of_no_or_too_many_characters_is_refused(assistant, samples, phrase):
    with pytest.raises(QueryError, match="1 to 120 characters"):
        assistant.ground(samples / "coast_s2.tif", phrase)


def test_a_file_that_is_no_image_is_refused(assistant, tmp_path):
    (tmp_path / "a.tif").write_text("<html>")
    with pytest.raises(ImageryError):
        assistant.ask(tmp_path / "a.tif", "How much of it is water?")
