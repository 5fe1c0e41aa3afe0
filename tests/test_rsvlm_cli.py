"""The command line: exit codes, outputs, errors in one sentence."""

import json
import os
import subprocess
import sys

import geopandas
import pytest
import rasterio
from fakes import KeywordPlanner, MappedTiny

import retrieval
import rsvlm
from rsvlm import cli
from rsvlm.assistant import Assistant


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command in this process with small real parts in place of the shipped models."""
    assistant = Assistant(MappedTiny(), KeywordPlanner())

    def load(encoder, language, device, archive=None):
        if archive is not None:
            from retrieval import Archive

            assistant.retriever = Archive.open(archive, assistant.encoder)
        return assistant

    monkeypatch.setattr(cli, "load_assistant", load)
    monkeypatch.setattr("retrieval.commands._encoder", lambda folder, device: assistant.encoder)

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return call


def test_ask_prints_the_sentence_on_standard_output_and_the_model_on_standard_error(run, samples):
    code, out, err = run("ask", samples / "coast_s2.tif", "How much of it is water?")
    assert code == 0
    assert " ha" in out
    assert "keyword planner" in err


def test_ask_json_prints_the_whole_answer_and_nothing_else(run, samples):
    code, out, _ = run("ask", samples / "coast_s2.tif", "Is there any snow?", "--json")
    assert code == 0
    assert json.loads(out)["facts"][0]["value"] is False


def test_ground_writes_geojson_that_geopandas_opens_at_the_right_place(run, samples, tmp_path):
    out = tmp_path / "boxes.geojson"
    assert run("ground", samples / "coast_s2.tif", "water", "--out", out)[0] == 0
    frame = geopandas.read_file(out)
    with rasterio.open(samples / "coast_s2.tif") as file:
        bounds = rasterio.warp.transform_bounds(file.crs, "EPSG:4326", *file.bounds)
    assert frame.crs.to_epsg() == 4326
    west, south, east, north = frame.total_bounds
    assert bounds[0] - 1e-4 <= west <= east <= bounds[2] + 1e-4
    assert bounds[1] - 1e-4 <= south <= north <= bounds[3] + 1e-4
    assert frame.to_crs(32600 + 33).area.sum() > 0


def test_compare_writes_outlines_and_a_georeferenced_mask(run, samples, tmp_path):
    pair = [samples / f"river_farmland_{when}_flood_s2.tif" for when in ("before", "after")]
    code, out, _ = run("compare", *pair, "--out", tmp_path / "c.gpkg", "--mask", tmp_path / "m.tif")
    assert code == 0
    assert "gained" in out
    assert len(geopandas.read_file(tmp_path / "c.gpkg")) > 0
    with rasterio.open(tmp_path / "m.tif") as mask, rasterio.open(pair[0]) as before:
        assert mask.transform == before.transform
        assert mask.read(1).any()


def test_a_result_never_goes_over_an_input(run, samples):
    pair = [samples / f"river_farmland_{when}_flood_s2.tif" for when in ("before", "after")]
    before = pair[0].read_bytes()
    code, _, err = run("compare", *pair, "--mask", pair[0])
    assert code == 2
    assert "input" in err
    assert pair[0].read_bytes() == before


def test_captions_resume_and_failures_are_listed(run, samples, tmp_path):
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"II*\0 not a tiff")
    files = [samples / "coast_s2.tif", broken, samples / "town_s2.tif"]
    out = tmp_path / "captions.jsonl"
    code, _, err = run("caption", *files, "--out", out, "--geojson", tmp_path / "places.geojson")
    assert code == 1
    assert "2 captioned, 0 were there, 1 failed" in err
    assert f"failed: {broken}" in err
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["path"] for line in lines] == [str(files[0]), str(files[2])]
    assert len(geopandas.read_file(tmp_path / "places.geojson")) == 2
    out.write_bytes(out.read_bytes()[:-20])  # killed in the middle of a line
    code, _, err = run("caption", files[0], files[2], "--out", out)
    assert code == 0
    assert "1 captioned, 1 were there, 0 failed" in err
    assert len(out.read_text().splitlines()) == 2


def test_a_foreign_output_file_is_left_alone(run, samples, tmp_path):
    out = tmp_path / "captions.jsonl"
    out.write_text("my notes\n")
    code, _, err = run("caption", samples / "coast_s2.tif", "--out", out)
    assert code == 2
    assert "no caption line" in err
    assert out.read_text() == "my notes\n"


def test_index_add_search_info_verify_and_remove(run, samples, tmp_path):
    archive = tmp_path / "archive"
    code, _, err = run("index", "add", archive, samples / "coast_s2.tif", samples / "town_s2.tif", "--chip", "128")
    assert code == 0
    assert "2 added" in err
    code, out, _ = run("search", archive, "water", "-k", "3", "--json")
    hits = json.loads(out)
    assert code == 0
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    code, out, _ = run("search", archive, "--image", samples / "town_s2.tif", "--where", "cloud < 0.5 or cloud >= 0")
    assert code == 0
    code, out, _ = run("search", archive, "water", "--geojson")
    assert json.loads(out)["type"] == "FeatureCollection"
    assert json.loads(run("index", "info", archive, "--json")[1])["chip"] == 128
    assert run("index", "verify", archive)[0] == 0
    assert "unchanged" in run("index", "add", archive, samples / "coast_s2.tif")[2]
    assert run("index", "remove", archive, samples / "coast_s2.tif")[0] == 0
    assert run("index", "repair", archive)[0] == 0


def test_adding_nothing_makes_no_archive(run, tmp_path):
    code, _, err = run("index", "add", tmp_path / "archive", tmp_path / "nowhere")
    assert code == 2
    assert "there is no file or folder" in err
    assert not (tmp_path / "archive").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ask", "nowhere.tif", "How much of it is water?"], "nowhere.tif"),
        (["ask", "http://example.org/a.tif", "Is there any snow?"], "example.org"),
        (["search", "nowhere", "water"], "nowhere"),
        (["search", "nowhere"], "text or --image"),
        (["search", "nowhere", "x", "--bbox", "1,2,3"], "four numbers"),
        (["data", "manifests", "x=y", "--out", "z"], "NAME=FOLDER"),
        (["frobnicate"], "frobnicate"),
        (["ask"], "Missing argument"),
    ],
)
def test_what_a_person_does_wrong_is_one_sentence_and_exit_2(run, arguments, message):
    code, out, err = run(*arguments)
    assert code == 2
    assert message in err
    assert not out
    assert "Traceback" not in err


def test_data_list_names_datasets_with_terms(run):
    code, out, _ = run("data", "list")
    assert code == 0
    assert "rsicd" in out
    assert "research use" in out


def test_manifests_are_written_by_place_and_sensor(run, data_dir, tmp_path):
    code, out, _ = run("data", "manifests", f"hls_worldcover={data_dir / 'hls_worldcover'}", "--out", tmp_path)
    assert code == 0
    assert "retrieval-hls-train.jsonl" in out
    images = {
        split: {
            json.loads(line)["image"] for line in (tmp_path / f"retrieval-hls-{split}.jsonl").read_text().splitlines()
        }
        for split in ("train", "val")
    }
    assert not images["train"] & images["val"]


def test_help_names_every_command():
    done = subprocess.run(
        [sys.executable, "-m", "rsvlm.cli", "--help"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "100"},
    )
    for command in (
        "ask",
        "caption",
        "compare",
        "ground",
        "search",
        "index",
        "data",
        "demo",
        "doctor",
        "serve",
        "train",
        "eval",
    ):
        assert f" {command} " in done.stdout


def test_help_and_the_public_names_wait_for_no_heavy_library():
    """Help is asked for often; torch, Lance and rasterio take seconds, and a minute where the disk is cold."""
    told = (
        "import sys, retrieval, rsvlm.cli; rsvlm.cli.full_app(); print({'torch', 'lance', 'rasterio'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    for package in (retrieval, rsvlm):
        assert all(getattr(package, name).__name__ == name for name in package.__all__)
        with pytest.raises(AttributeError, match=f"'{package.__name__}' has no attribute 'x'; it has "):
            package.x  # noqa: B018 - the attribute is what is asked for


def test_captions_never_go_over_an_image(run, samples, tmp_path):
    image = tmp_path / "own.tif"
    image.write_bytes((samples / "coast_s2.tif").read_bytes())
    before = image.read_bytes()
    for arguments in (["--out", image], ["--out", tmp_path / "c.jsonl", "--geojson", image]):
        code, _, err = run("caption", image, *arguments)
        assert code == 2
        assert "is an input" in err
    other = tmp_path / "other.bin"
    other.write_bytes(b"\x89PNG half a line")
    assert run("caption", image, "--out", other)[0] == 2
    assert other.read_bytes() == b"\x89PNG half a line"
    assert image.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "retrieval", "--data", "nosuch.jsonl"], "nosuch.jsonl"),
        (["eval", "retrieval", "--data", "x", "--limit", "0"], "--limit"),
        (["serve", "--port", "99999999"], "--port"),
        (["data", "manifests", "rsicd=.", "--out", "x"], "captions.jsonl"),
    ],
)
def test_bad_paths_and_numbers_end_in_one_sentence(run, arguments, message):
    code, _, err = run(*arguments)
    assert code == 2
    assert message in err


def test_outlines_are_written_in_known_formats_only(run, samples, tmp_path):
    code, _, err = run("ground", samples / "coast_s2.tif", "water", "--out", tmp_path / "g.shp")
    assert code == 2
    assert ".geojson or .gpkg" in err
    assert not (tmp_path / "g.shp").exists()


def test_a_device_that_is_not_there_is_named():
    from rsvlm.encoder.model import device_of
    from rsvlm.errors import ConfigError

    with pytest.raises(ConfigError, match="cpu, cuda or mps; got 'tpu'"):
        device_of("tpu")
    assert device_of("cpu").type == "cpu"


def test_a_package_that_is_missing_is_named_with_the_extra_that_brings_it(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)  # as if it were not installed
    monkeypatch.setattr("eval.runner.rescore", needs_pycocotools)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["eval", "score", str(tmp_path)])
    assert stopped.value.code == 2
    assert "this needs pycocotools, which is not installed; run `pip install 'rsvlm[eval]'`" in capsys.readouterr().err


def needs_pycocotools(*given, **named):
    import pycocotools.mask  # noqa: F401
