"""The shipped weights tell a search in words that found nothing like it from one that did, on real pictures."""

import json
from dataclasses import replace

import pytest
from fakes import KeywordPlanner
from typer.testing import CliRunner

from retrieval import Archive, Query
from rsvlm.assistant import Assistant
from rsvlm.cli import full_app
from rsvlm.encoder.calibration import Calibration, calibration_of
from rsvlm.encoder.model import SpectralEncoder
from rsvlm.raster import read_scene

THERE, ABSENT = "an airport with airplanes", "the stock market fell"


@pytest.fixture(scope="module")
def encoder():
    encoder = SpectralEncoder.from_pretrained()
    if calibration_of(encoder).of("scene") is None:
        pytest.skip("the shipped weights have no threshold for scenes; `rsvlm eval calibrate` writes it")
    return encoder


@pytest.fixture(scope="module")
def archive(encoder, data_dir, tmp_path_factory):
    """Four airports of the validation part, in pictures without a place."""
    folder = data_dir / "rsicd_aid"
    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    images = [folder / row["image"] for row in rows if row["split"] == "val" and row["scene"] == "Airport"]
    made = Archive.create(tmp_path_factory.mktemp("unlike") / "archive", encoder, chip=150, stride=150)
    assert made.add(images[:4], sensor="rgb", progress=False).added == 4
    return made


def test_hits_are_marked_and_still_given(archive):
    found, missed = archive.search(THERE, 4), archive.search(ABSENT, 4)
    assert len(found) == len(missed) == 4
    assert not found[0].unlike
    assert all(hit.unlike for hit in missed)
    assert found[0].threshold == missed[0].threshold == archive.encoder.calibration.of("scene").value
    assert archive.search_many([THERE, ABSENT], 4) == [found, missed]


def test_what_is_not_in_words_alone_is_not_judged(archive):
    scene = read_scene(archive.search(THERE, 1)[0].path, sensor="rgb")
    for query in (scene, archive.vector(archive.search(THERE, 1)[0].chip_id), Query(text=ABSENT, image=scene)):
        assert {hit.threshold for hit in archive.search(query, 4)} == {None}


def test_an_encoder_without_calibration_denies_nothing(archive, encoder):
    plain = SpectralEncoder(encoder.model, encoder.preprocessing)
    assert plain.calibration == Calibration()
    opened = Archive.open(archive.folder, plain)
    found = opened.search(ABSENT, 4)
    assert [hit.score for hit in found] == [hit.score for hit in archive.search(ABSENT, 4)]
    assert not any(hit.unlike for hit in found)
    assert found == [replace(hit, threshold=None) for hit in archive.search(ABSENT, 4)]


def test_an_answer_from_the_archive_abstains_where_nothing_is_like_the_question(archive, encoder):
    assistant = Assistant(encoder, KeywordPlanner(), archive)
    refused, answered = assistant.ask(None, f"find {ABSENT}"), assistant.ask(None, f"find {THERE}")
    assert refused.abstained
    assert "none of the best matches is like that" in refused.text
    assert len(refused.hits) == 4
    assert not answered.abstained


def test_the_command_says_so_and_marks_the_hits(archive):
    def run(*arguments):
        return CliRunner().invoke(full_app(), ["search", str(archive.folder), *arguments])

    refused, found = run(ABSENT), run(THERE)
    assert refused.exit_code == found.exit_code == 0
    assert "none of the best matches is like that" in refused.stderr
    assert refused.stdout.count("; unlike)") == 4
    assert found.stderr == ""
    assert "; unlike)" not in found.stdout.splitlines()[0]
    assert all(hit["unlike"] for hit in json.loads(run(ABSENT, "--json").stdout))
    features = json.loads(run(ABSENT, "--geojson").stdout)["features"]
    assert all(feature["properties"]["unlike"] for feature in features)
