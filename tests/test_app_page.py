"""The page without a browser: what it lets in, what it answers, what every response carries."""

import json
import logging
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fakes import KeywordPlanner, MappedTiny, write_raster
from starlette.testclient import TestClient

import app
from retrieval import Archive
from rsvlm.assistant import Assistant
from rsvlm.encoder.calibration import Calibration, Threshold
from rsvlm.errors import QueryError, UnsafeImageryError
from rsvlm.page import MAX_BODY, Desk, Pick, checked, laid_out, plain, refuse_foreign_files

ASK = "How much of it is water?"


@pytest.fixture(scope="module")
def stack(samples, tmp_path_factory):
    """An assistant with an archive of three rasters that lie outside the upload folder."""
    folder = tmp_path_factory.mktemp("archived")
    for seed in range(3):
        write_raster(folder / f"{seed}.tif", seed=seed)
    encoder = MappedTiny()
    archive = Archive.create(tmp_path_factory.mktemp("page") / "archive", encoder, chip=32, stride=32)
    archive.add(folder, progress=False)
    return Assistant(encoder, KeywordPlanner(), archive), archive


@pytest.fixture(scope="module")
def client(stack, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        with served(*stack) as client:
            yield client


def served(assistant, archive=None):
    blocks = app.build_app(assistant, archive)
    client = TestClient(app.web_app(blocks), base_url="http://127.0.0.1")
    client.handlers = {handler.name: number for number, handler in blocks.fns.items()}
    return client


def upload(client, path):
    """Upload as the browser does; the value of a file field."""
    with open(path, "rb") as file:
        response = client.post("/gradio_api/upload", files={"files": (Path(path).name, file)})
    assert response.status_code == 200
    return {"path": response.json()[0], "orig_name": Path(path).name, "meta": {"_type": "gradio.FileData"}}


def call(client, name, data, session="session"):
    """Run a handler as the browser does; every message of the server about it."""
    asked = {"data": data, "fn_index": client.handlers[name], "session_hash": session}
    joined = client.post("/gradio_api/queue/join", json=asked)
    assert joined.status_code == 200, joined.text
    lines = client.get("/gradio_api/queue/data", params={"session_hash": session}).text.splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: ")]


def error_of(messages):
    last = next(message for message in messages if message["msg"] == "process_completed")
    assert not last["success"], last
    return last["output"]["error"]


@pytest.mark.parametrize(("path", "status"), [("/", 200), ("/config", 200), ("/no/such/page", 404)])
def test_every_response_allows_only_what_comes_from_here(client, path, status):
    response = client.get(path)
    assert response.status_code == status
    policy = response.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"


def test_a_foreign_host_name_is_refused_on_loopback(client):
    response = client.get("/", headers={"host": "evil.example"})
    assert response.status_code == 400
    assert "content-security-policy" in response.headers


def test_no_handler_is_a_public_endpoint(client):
    assert client.get("/gradio_api/info").json() == {"named_endpoints": {}, "unnamed_endpoints": {}}


def test_every_handler_that_uses_the_model_waits_in_one_line_of_one(stack, client):
    handlers = {handler.name: handler for handler in app.build_app(*stack).fns.values()}
    for name in ("ask", "find_words", "find_like"):
        assert (handlers[name].concurrency_id, handlers[name].concurrency_limit) == ("model", 1)


def test_an_answer_streams_and_comes_with_picture_json_and_outlines(stack, client, samples):
    scene = samples / "coast_s2.tif"
    file = upload(client, scene)
    assert call(client, "take_upload", [file], "one")[-2]["success"]
    messages = call(client, "ask", [ASK, None, None, None, ""], "one")
    assert sum(message["msg"] == "process_generating" for message in messages) >= 3
    assert messages[-2]["success"]
    sent = json.dumps(messages)
    wanted = stack[0].ask(scene, ASK)
    assert f"{wanted.facts[0].value:,.0f} ha" in sent
    assert "outlines.geojson" in sent
    assert "image.webp" in sent


@pytest.mark.parametrize(("text", "got"), [("x" * 2001, "2,001"), ("", "0"), (" \n", "0")])
def test_a_text_out_of_bounds_is_refused_by_the_server(client, text, got):
    error = error_of(call(client, "ask", [text, None, None, None, ""]))
    assert f"1 to 2,000 characters is needed; got {got}" in error
    assert f"got {got}" in error_of(call(client, "find_words", [text, 5]))


def test_a_broken_upload_gives_the_named_error_with_the_id_that_is_logged(client, tmp_path, caplog):
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"II*\0" + b"x" * 100)
    call(client, "take_upload", [upload(client, broken)], "two")
    with caplog.at_level(logging.WARNING, "app"):
        error = error_of(call(client, "show", [None, ""], "two"))
    assert "broken.tif is damaged, cut short or not what its first bytes say" in error
    assert "Traceback" not in error
    identifier = error.rpartition("(error ")[2].strip(")")
    assert len(identifier) == 8
    assert identifier in caplog.text
    assert "ImageryError" in caplog.text


def test_text_in_an_error_cannot_become_html():
    with pytest.raises(app.gr.Error) as raised, app.named_errors():
        raise QueryError("no <img src=x> here")
    assert "&lt;img" in raised.value.message


def test_a_file_named_by_an_address_is_not_fetched(client):
    asked = []

    class Remember(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

    with ThreadingHTTPServer(("127.0.0.1", 0), Remember) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        path = f"http://127.0.0.1:{server.server_port}/scene.tif"
        remote = {"path": path, "meta": {"_type": "gradio.FileData"}}
        assert "was not uploaded" in error_of(call(client, "take_upload", [remote], "three"))
        assert "was not uploaded" in error_of(call(client, "ask", [remote, None, None, None, ""], "three"))
        server.shutdown()
    assert asked == []


@pytest.mark.parametrize("path", ["http://a/b", " https://a", "s3://a", "/etc/passwd", "a.tif", "{uploads}/../a", "\0"])
def test_foreign_files_are_found_at_any_depth(path, tmp_path):
    uploads = tmp_path / "uploads"
    with pytest.raises(UnsafeImageryError):
        refuse_foreign_files([1, {"deep": [{"path": path.format(uploads=uploads)}]}], uploads)
    refuse_foreign_files([{"path": f"{uploads}/a.tif", "url": "http://127.0.0.1/a.tif"}, path, None], uploads)


def test_a_file_that_was_not_uploaded_is_neither_opened_nor_given_out(client, samples):
    foreign = {"path": str(samples / "coast_s2.tif"), "meta": {"_type": "gradio.FileData"}}
    assert "was not uploaded" in error_of(call(client, "take_upload", [foreign], "four"))
    for path in (samples / "coast_s2.tif", "/etc/passwd", app.__file__):
        assert client.get(f"/gradio_api/file={path}").status_code in (403, 404)


def test_gradio_checks_paths_too(client, samples, monkeypatch):
    monkeypatch.setattr(app.page, "refuse_foreign_files", lambda *_: None)
    foreign = {"path": str(samples / "coast_s2.tif"), "meta": {"_type": "gradio.FileData"}}
    assert error_of(call(client, "take_upload", [foreign], "four")) is None


def test_an_upload_or_a_body_over_the_limit_is_refused(stack, monkeypatch, tmp_path):
    monkeypatch.setattr(app, "MAX_UPLOAD", "1kb")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    with served(stack[0]) as client:
        assert client.post("/gradio_api/upload", files={"files": ("a.tif", b"x" * 5000)}).status_code == 413
        big = client.post("/gradio_api/queue/join", json={"data": ["x" * MAX_BODY]})
        assert big.status_code == 413
        assert "content-security-policy" in big.headers
        unstated = client.post("/gradio_api/queue/join", content=iter([b"{}"]))
        assert unstated.status_code == 413


def test_a_later_image_without_an_earlier_one_is_refused(client, samples):
    later = upload(client, samples / "river_farmland_after_flood_s2.tif")
    error = error_of(call(client, "ask", ["What changed?", None, None, later, ""], "five"))
    assert "choose the earlier image too" in error


def test_two_dates_are_compared(stack, client, samples):
    before, after = (samples / f"river_farmland_{when}_flood_s2.tif" for when in ("before", "after"))
    call(client, "take_upload", [upload(client, before)], "six")
    messages = call(client, "ask", ["What changed?", None, None, upload(client, after), ""], "six")
    assert messages[-2]["success"]
    assert stack[0].compare(before, after, "What changed?").text.split(".")[0] in json.dumps(messages)


def test_finding_shows_pictures_and_a_found_file_can_be_asked_about(stack, client):
    found = call(client, "find_words", ["water", 2], "seven")[-2]["output"]["data"]
    assert len(found[1]) == 2
    hits = stack[1].search("water", 2)
    assert all(Path(hit.path).name in picture["caption"] for hit, picture in zip(hits, found[1], strict=True))
    assert "nothing is chosen yet" in error_of(call(client, "take", [None], "seven"))


def test_what_another_process_removes_is_not_found_any_more(tmp_path):
    encoder = MappedTiny()
    files = [write_raster(tmp_path / f"{seed}.tif", seed=seed) for seed in range(2)]
    archive = Archive.create(tmp_path / "archive", encoder, chip=32, stride=32)
    archive.add(files, progress=False)
    with served(Assistant(encoder, KeywordPlanner(), archive), archive) as client:
        assert len(call(client, "find_words", ["water", 12])[-2]["output"]["data"][1]) > 1
        assert Archive.open(archive.folder).remove(files[0]) > 0
        shown = call(client, "find_words", ["water", 12])[-2]["output"]["data"][1]
        assert shown
        assert all(files[1].name in picture["caption"] for picture in shown)


def test_finding_says_where_nothing_is_like_what_was_asked_for(tmp_path):
    encoder = MappedTiny()
    encoder.calibration = Calibration((Threshold("scene", 1.0, "cosine", 9, 0.9, 0.8, 0.9, "by hand"),))
    file = write_raster(tmp_path / "colours.tif", bands=("red", "green", "blue"), crs=None)
    archive = Archive.create(tmp_path / "archive", encoder, chip=32, stride=32)
    archive.add(file, sensor="rgb", progress=False)
    with served(Assistant(encoder, KeywordPlanner(), archive), archive) as client:
        messages = call(client, "find_words", ["an airport", 1])
        (picture,) = messages[-2]["output"]["data"][1]
        assert "(unlike)" in picture["caption"]
        assert "None of the best matches is like that" in json.dumps(messages)
        encoder.calibration = Calibration()
        messages = call(client, "find_words", ["an airport", 1])
        assert "unlike" not in json.dumps(messages)
        assert "None of the best" not in json.dumps(messages)


def test_a_chip_whose_file_is_gone_is_shown_grey(stack, tmp_path):
    encoder = stack[0].encoder
    file = write_raster(tmp_path / "gone.tif")
    archive = Archive.create(tmp_path / "archive", encoder, chip=32, stride=32)
    archive.add(file, progress=False)
    desk = Desk(stack[0], tmp_path)
    hit = archive.search("water", 1)[0]
    assert desk.thumbnail(hit).std() > 0
    file.unlink()
    assert (desk.thumbnail(hit) == 128).all()


def test_uploads_come_from_the_upload_folder_only(stack, samples, tmp_path):
    desk, path = Desk(stack[0], tmp_path), str(samples / "coast_s2.tif")
    with pytest.raises(UnsafeImageryError):
        desk.read(Pick(path), None)
    assert desk.read(Pick(path, from_archive=True), None).shape == (384, 384)
    (tmp_path / "link.tif").symlink_to(path)
    with pytest.raises(UnsafeImageryError):
        desk.read(Pick(str(tmp_path / "link.tif")), None)


def test_without_an_archive_the_page_says_how_to_make_one(stack, client):
    assert "rsvlm index add" in served(stack[0]).get("/config").text
    assert "rsvlm index add" not in client.get("/config").text


def test_the_json_that_is_shown_is_the_whole_answer(stack, samples):
    answer = stack[0].ask(samples / "coast_s2.tif", ASK)
    assert json.loads(laid_out(answer)) == answer.to_json()
    assert re.search(r"\[-?[\d.]+, -?[\d.]+\]", laid_out(answer))


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ("Water covers 3 ha [1].", "Water covers 3 ha [1]."),
        ("See [here](http://evil.example) ![x](https://evil.example/a.png)", "See here x"),
        ("<img src=x onerror=alert(1)>2 > 1<script>x</script>", "2 > 1x"),
        ("nir < 0.2 and NDVI > 0.4 in <b>fields</b>", "nir < 0.2 and NDVI > 0.4 in fields"),
        ("at https://evil.example/?q=1 or www.evil.example now", "at  or  now"),
    ],
)
def test_answers_lose_links_images_and_html(answer, shown):
    assert plain(answer) == shown


def test_half_a_character_is_refused_and_odd_ones_are_not():
    assert checked(" שלום 🛰 ") == "שלום 🛰"
    with pytest.raises(QueryError, match="half a character"):
        checked("water \ud800")
