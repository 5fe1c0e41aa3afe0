"""The page in a real Chromium: upload, ask, see, find, and nothing leaves the machine."""

import re
import shutil
import socket
import threading
import time
from contextlib import contextmanager

import pytest
import uvicorn
from fakes import KeywordPlanner, MappedTiny

import app
from retrieval import Archive
from rsvlm.assistant import Assistant
from rsvlm.errors import ModelNotFoundError

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
ARCHIVED = ("coast_s2.tif", "winter_hills_snow_s2.tif", "suburb_before_building_naip.tif")
HOSTILE = '<img src="http://evil.example/a.png" onerror="document.title=1">'

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; apt-get install chromium"),
]
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
playwright.expect.set_options(timeout=20_000)


@pytest.fixture(scope="module", params=["default models", "tiny models"])
def assistant(request):
    if request.param == "tiny models":
        return Assistant(MappedTiny(), KeywordPlanner())
    from rsvlm.encoder.model import SpectralEncoder
    from rsvlm.language.base import resolve
    from rsvlm.language.model import CausalLanguageModel

    try:
        language = resolve(download=False)
        return Assistant(SpectralEncoder.from_pretrained(), CausalLanguageModel.from_pretrained(language))
    except ModelNotFoundError as error:
        pytest.skip(f"the default models are not on this machine: {error}")


@pytest.fixture(scope="module")
def address(assistant, samples, tmp_path_factory):
    """Where the page is served, over an archive of three of the sample scenes."""
    folder = tmp_path_factory.mktemp("browser")
    archive = Archive.create(folder / "archive", assistant.encoder, chip=256, stride=256)
    archive.add([samples / name for name in ARCHIVED], progress=False)
    assistant.retriever = archive
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "uploads"))
        with serving(app.web_app(app.build_app(assistant, archive))) as address:
            yield address


@contextmanager
def serving(application):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(application, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + 20
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        server.force_exit = server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    """The open page; whatever it asks for must come from this machine."""
    page, asked, refused = browser.new_page(viewport={"width": 1360, "height": 1000}), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: refused.append(message.text) if "Content Security" in message.text else None)
    page.set_default_timeout(20_000)
    page.goto(address)
    page.get_by_label("Question").wait_for()
    yield page
    elsewhere = [url for url in asked if not url.startswith(("data:", "blob:", address))]
    page.close()
    assert len(asked) > 10
    assert elsewhere == []
    assert refused == []


def ask(page, question):
    page.get_by_label("Question").fill(question)
    page.get_by_role("button", name="Ask", exact=True).click()


def test_upload_ask_find_and_ask_about_what_was_found(page, assistant, samples):
    scene = samples / "coast_s2.tif"
    page.set_input_files("#image input[type=file]", scene)
    picture = page.locator("#preview img")
    picture.wait_for()
    playwright.expect(page.locator("#preview")).to_contain_text("sentinel-2-l2a, 384 x 384 pixels, 10 m, 2020-06-01")
    before = picture.get_attribute("src")

    ask(page, "How much of it is water?")
    hectares = assistant.ask(scene, "How much of it is water?").facts[0].value
    playwright.expect(page.locator("#chat")).to_contain_text(f"Water covers {hectares:,.0f} ha")
    page.get_by_text("Download outlines (GeoJSON)").wait_for()
    with page.expect_download() as download:
        page.get_by_text("Download outlines (GeoJSON)").click()
    assert '"FeatureCollection"' in download.value.path().read_text()
    assert picture.get_attribute("src") != before  # now with outlines
    assert picture.evaluate("image => image.naturalWidth") == 384
    page.get_by_text("How this answer was made").click()
    playwright.expect(page.locator("#details")).to_contain_text('"facts"')

    page.get_by_role("tab", name="Find").click()
    page.get_by_label("In words").fill("snow on hills")
    page.get_by_role("button", name="Search").click()
    found = page.locator("#found .thumbnail-item")
    found.first.wait_for()
    wanted = re.search(r"\S+\.tif", found.nth(1).inner_text())[0]
    found.nth(1).click()
    page.get_by_role("button", name="Ask about this one").click()
    playwright.expect(page.get_by_label("Or an image of the archive")).to_have_value(re.compile(re.escape(wanted)))
    picture.wait_for()
    playwright.expect(page.locator("#chat")).not_to_contain_text("Water covers")


def test_a_broken_image_and_hostile_text_show_as_plain_words(page, tmp_path):
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"II*\0" + b"x" * 100)
    page.set_input_files("#image input[type=file]", broken)
    page.get_by_text(re.compile(r"broken\.tif is damaged, cut short .* \(error [0-9a-f]{8}\)")).wait_for()
    page.locator("#image").get_by_label("Remove").or_(page.locator("#image").get_by_label("Clear")).first.click()
    ask(page, f"find water {HOSTILE}")
    chat = page.locator("#chat")
    playwright.expect(chat).to_contain_text(HOSTILE)  # as text, not as an element
    page.locator("#evidence img").first.wait_for()
    assert chat.locator("img[onerror]").count() == 0
    assert page.title() == "rsvlm"
