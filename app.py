"""The page: ask about an image, find scenes in an archive. Nothing it does leaves the machine."""

from __future__ import annotations

import html
import logging
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI
from numpy.typing import NDArray
from starlette.middleware.trustedhost import TrustedHostMiddleware

from retrieval import Archive
from retrieval.store import ChipTable
from rsvlm import page
from rsvlm.answer import Answer, Hit, nothing_like_that
from rsvlm.assistant import Assistant
from rsvlm.errors import ArchiveError, QueryError, RsvlmError
from rsvlm.export import write_geojson
from rsvlm.page import Desk, Pick
from rsvlm.scene import Scene
from rsvlm.sensors import SENSORS

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # gradio looks at it while it is imported
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
import gradio as gr
from gradio.utils import get_upload_folder

logger = logging.getLogger(__name__)

FILE_TYPES = [".tif", ".tiff", ".jp2", ".png", ".jpg", ".jpeg", ".webp"]
MAX_UPLOAD = "512mb"
MAX_MESSAGES = 60  # of one conversation
MAX_LISTED = 500  # images of the archive to pick from
MAX_HITS = 48
KEPT_S = 24 * 3600  # uploads older than this are deleted
ON_MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
NO_ARCHIVE = (
    "There is no archive to search yet: make one with `rsvlm index add ARCHIVE IMAGES`, "
    "then start this page with `rsvlm serve --archive ARCHIVE`."
)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
CSS = """
.gradio-container {width: 100%; max-width: 1280px !important; margin: 0 auto !important}
#found .caption-label, #evidence .caption-label
  {white-space: normal; left: 0; right: 0; max-width: 100%; border-radius: 0;
   opacity: 1; font-size: 12px; line-height: 1.3}
"""


def build_app(assistant: Assistant, archive: Archive | None = None) -> gr.Blocks:
    """The two screens over an assistant and, if there is one, the archive it searches."""
    desk = Desk(assistant, Path(get_upload_folder()))
    desk.uploads.mkdir(parents=True, exist_ok=True)
    blocks = LocalBlocks(title="rsvlm", analytics_enabled=False, delete_cache=(3600, KEPT_S))
    with blocks:
        picked = gr.State(None)
        gr.Markdown("# Ask about satellite images\nEvery number is measured on the pixels, and each answer shows how.")
        with gr.Tabs() as tabs:
            with gr.Tab("Ask", id="ask"):
                choices = ask_screen(desk, archive, picked)
            with gr.Tab("Find", id="find"):
                if archive is None:
                    gr.Markdown(NO_ARCHIVE)
                else:
                    find_screen(desk, archive, (picked, tabs, *choices))
    blocks.queue(max_size=32, api_open=False)
    return blocks


def ask_screen(desk: Desk, archive: Archive | None, picked: gr.State) -> tuple[gr.File, gr.Dropdown]:
    """Choose an image, see it, talk about it, see what the answers rest on; returns what an image is chosen with."""
    talk = gr.State([])
    with gr.Row():
        with gr.Column(scale=2, min_width=340):
            upload, listed, sensor, later, picture = image_column([] if archive is None else names_of(archive))
        with gr.Column(scale=3, min_width=420):
            chat, question, *results = answer_column()

    def show(pick: Pick | None, name: str) -> gr.Image:
        return preview(desk, pick, name or None)

    def ask(text: str, said: list[dict[str, str]], pick: Pick | None, after: str | None, name: str) -> Iterator[Any]:
        if archive is not None:
            with suppress(ArchiveError):  # an image can be asked about all the same
                archive.refresh()
        yield from answer_stream(desk, text, said, (pick, after, name or None))

    upload.upload(take_upload, upload, [picked, listed], **QUIET)
    upload.clear(lambda: None, None, picked, **QUIET)
    listed.input(take_listed, listed, [picked, upload], **QUIET)
    chat.clear(lambda: [], None, talk, **QUIET)
    emptied = gr.on([picked.change, sensor.change], cleared, None, [picture, talk, chat, *results], **QUIET)
    emptied.then(show, [picked, sensor], picture, api_visibility="private")
    inputs, outputs = [question, talk, picked, later, sensor], [talk, chat, question, picture, *results]
    question.submit(ask, inputs, outputs, show_progress="minimal", show_progress_on=chat, **ON_MODEL)
    return upload, listed


def image_column(names: list[tuple[str, str]]) -> tuple[gr.File, gr.Dropdown, gr.Dropdown, gr.File, gr.Image]:
    """Upload, images of the archive, sensor, later image and preview."""
    upload = gr.File(label="Image", file_types=FILE_TYPES, height=150, elem_id="image")
    listed = gr.Dropdown(names, value=None, label="Or an image of the archive", visible=bool(names))
    with gr.Accordion("Sensor, second date", open=False):
        sensors = [(SENSORS[name].title, name) for name in sorted(SENSORS)]
        sensor = gr.Dropdown([("told from the file", ""), *sensors], value="", label="Sensor")
        later = gr.File(label="Later image of the same place", file_types=FILE_TYPES, height=140, elem_id="later")
    picture = gr.Image(label="Preview", interactive=False, buttons=[], elem_id="preview", height=420)
    return upload, listed, sensor, later, picture


def answer_column() -> tuple[gr.Chatbot, gr.Textbox, gr.Gallery, gr.Code, gr.DownloadButton]:
    """Conversation, question, evidence, the whole answer as JSON, its outlines."""
    words: dict[str, Any] = {"render_markdown": False, "allow_tags": False, "sanitize_html": True}
    chat = gr.Chatbot(label="Conversation", height=430, buttons=[], elem_id="chat", **words)
    question = gr.Textbox(
        placeholder="How much of it is water?", label="Question", max_length=page.MAX_TEXT, submit_btn="Ask"
    )
    evidence = gr.Gallery(label="Evidence", columns=3, height=260, visible=False, buttons=[], elem_id="evidence")
    with gr.Accordion("How this answer was made", open=False):
        as_json: dict[str, Any] = {"language": "json", "max_lines": 24, "buttons": ["copy"], "elem_id": "details"}
        details = gr.Code(show_label=False, interactive=False, **as_json)
    download = gr.DownloadButton("Download outlines (GeoJSON)", size="sm", visible=False)
    return chat, question, evidence, details, download


def find_screen(desk: Desk, archive: Archive, choice: tuple[Any, ...]) -> None:
    """Search in words or by an example image; a chosen hit's file goes to the other screen."""
    hits, chosen = gr.State([]), gr.State(None)
    listed = {path for _, path in names_of(archive)}
    with gr.Row():
        with gr.Column(scale=2, min_width=340):
            words = gr.Textbox(
                label="In words", placeholder="farmland beside a river", max_length=page.MAX_TEXT, submit_btn="Search"
            )
            example = gr.File(label="Or by an example image", file_types=FILE_TYPES, height=150)
            count = gr.Slider(1, MAX_HITS, value=12, step=1, label="How many")
        with gr.Column(scale=3, min_width=420):
            gallery = gr.Gallery(
                show_label=False, columns=3, height=640, allow_preview=False, buttons=[], elem_id="found"
            )
            button = gr.Button("Ask about this one", interactive=False, variant="primary")

    def find(query: str | Scene, k: float) -> tuple[Any, ...]:
        archive.refresh()  # what was added or removed since is seen at once
        found = archive.search(query, max(1, min(int(k), MAX_HITS)))
        if reason := nothing_like_that(found):
            gr.Info(f"{reason[0].upper()}{reason[1:]}.")
        return found, thumbnails(desk, found), None, gr.Button(interactive=False)

    def find_words(text: str, k: float) -> tuple[Any, ...]:
        with named_errors():
            return find(page.checked(text), k)

    def find_like(path: str, k: float) -> tuple[Any, ...]:
        with named_errors():
            return find(desk.read(Pick(path), None), k)

    def choose(found: list[Hit], event: gr.SelectData) -> tuple[Any, ...]:
        return found[event.index], gr.Button(interactive=True)

    def take(hit: Hit | None) -> tuple[Any, ...]:
        with named_errors():
            if hit is None:
                raise QueryError("nothing is chosen yet; click a picture first")
            return Pick(hit.path, True), gr.Tabs(selected="ask"), None, hit.path if hit.path in listed else None

    outputs = [hits, gallery, chosen, button]
    words.submit(find_words, [words, count], outputs, show_progress_on=gallery, **ON_MODEL)
    example.upload(find_like, [example, count], outputs, show_progress_on=gallery, **ON_MODEL)
    gallery.select(choose, hits, [chosen, button], **QUIET)
    button.click(take, chosen, list(choice), **QUIET)


def names_of(archive: Archive) -> list[tuple[str, str]]:
    """Names and paths of the archive's images to pick from."""
    paths = [Path(stored.path) for stored in ChipTable.open(archive.folder).files()[:MAX_LISTED]]
    return [(f"{path.parent.name}/{path.name}", str(path)) for path in paths]


def take_upload(path: str) -> tuple[Pick, None]:
    """An uploaded image is the one in question, and none of the archive."""
    return Pick(path), None


def take_listed(path: str | None) -> tuple[Pick | None, None]:
    """An image of the archive is the one in question, and no upload."""
    return (Pick(path, from_archive=True) if path else None), None


def cleared() -> tuple[Any, ...]:
    """An empty conversation, before the picture of a newly picked image."""
    hidden = gr.Gallery(None, visible=False), None, gr.DownloadButton(visible=False)
    return gr.Image(None, label="Preview"), [], [], *hidden


def preview(desk: Desk, pick: Pick | None, sensor: str | None) -> gr.Image:
    """The picture of a newly picked image, with what it is as label."""
    if pick is None:
        return gr.Image(None, label="Preview")
    with named_errors():
        picture, title = desk.preview(pick, sensor)
        return gr.Image(picture, label=title)


def answer_stream(
    desk: Desk, text: str, talk: list[dict[str, str]], about: tuple[Pick | None, str | None, str | None]
) -> Iterator[tuple[Any, ...]]:
    """Stream the answer into the conversation; picture, evidence and details follow when they are known."""
    with named_errors():
        question, kept = page.checked(text), gr.skip()
        talk = [*talk[-MAX_MESSAGES:], message("user", question)]
        yield kept, talk, "", *[kept] * 4
        scene, answers = desk.answers(question, *about)
        known = False
        for answer in answers:
            said = [*talk, message("assistant", page.plain(answer.text) or page.intention(answer))]
            picture, evidence = kept, kept
            if not known and (answer.facts or answer.hits):
                known, evidence = True, gr.Gallery(thumbnails(desk, answer.hits), visible=bool(answer.hits))
                picture = kept if scene is None else gr.Image(page.outlined(scene, answer), label=page.title(scene))
            yield kept, said, kept, picture, evidence, kept, kept
        yield said, said, kept, kept, kept, page.laid_out(answer), outlines(desk, answer)


def message(role: str, text: str) -> dict[str, str]:
    """One message of a conversation; escaped, for the browser takes it for HTML even where Markdown is off."""
    return {"role": role, "content": html.escape(text, quote=False)}


def thumbnails(desk: Desk, hits: Sequence[Hit]) -> list[tuple[NDArray[np.uint8], str]]:
    """Pictures of hits with what is known of them."""
    return [(desk.thumbnail(hit), page.caption(hit)) for hit in hits]


def outlines(desk: Desk, answer: Answer) -> gr.DownloadButton:
    """The outlines as a GeoJSON file, where there are any and they have a place on Earth."""
    if not answer.regions or any(region.grid.crs is None for region in answer.regions):
        return gr.DownloadButton(visible=False)
    path = Path(tempfile.mkdtemp(dir=desk.uploads)) / "outlines.geojson"
    return gr.DownloadButton(value=str(write_geojson(answer.to_geojson(), path)), visible=True)


@contextmanager
def named_errors() -> Iterator[None]:
    """What a person did wrong becomes a plain message with an id that the log carries too."""
    try:
        yield
    except RsvlmError as error:
        reference = secrets.token_hex(4)
        logger.warning("error %s: %s: %s", reference, type(error).__name__, error)
        message = f"{html.escape(str(error), quote=False)} (error {reference})"
        raise gr.Error(message, duration=None, print_exception=False) from error


class LocalBlocks(gr.Blocks):
    """Blocks that take uploads only: gradio would fetch addresses and, in a mounted app, copy any file of the disk."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **options: Any) -> Any:
        """Refuse files that were not uploaded, then do as gradio does."""
        with named_errors():
            page.refuse_foreign_files(inputs, Path(self.GRADIO_CACHE))
        return await super().preprocess_data(block_fn, inputs, *args, **options)


def web_app(blocks: gr.Blocks, *, host: str = "127.0.0.1", port: int = 7860) -> FastAPI:
    """The page as a web application with its headers and limits; on loopback it answers to local names only."""
    theme = gr.themes.Default(primary_hue="blue", font=("system-ui", "sans-serif"), font_mono=("monospace",))
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, "[::1]"] if host in LOOPBACK else ["*"])
    app.add_middleware(page.SafeHeaders)
    blocks.has_launched = True  # gradio checks the paths of files only then, and mounting does not set it
    return gr.mount_gradio_app(  # type: ignore[no-any-return]
        app, blocks, "/", server_name=host, server_port=port, footer_links=[], run_history=False, show_error=False,
        max_file_size=MAX_UPLOAD, ssr_mode=False, enable_monitoring=False, pwa=False, mcp_server=False,
        theme=theme, css=CSS,
    )  # fmt: skip


def serve(
    *,
    archive: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    encoder: str | None = None,
    language: str | None = None,
) -> None:
    """Load the assistant and serve the page until interrupted; uploads are deleted afterwards."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn hands it on when done; the default kills at once
    assistant = Assistant.from_pretrained(encoder=encoder, language=language)
    opened = None if archive is None else Archive.open(archive, assistant.encoder)  # type: ignore[arg-type]
    assistant.retriever = opened
    with tempfile.TemporaryDirectory(prefix="rsvlm-page-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        app = web_app(build_app(assistant, opened), host=host, port=port)
        uvicorn.run(app, host=host, port=port, access_log=False)


def main() -> None:
    """Serve the page with the options of `rsvlm serve`."""
    from rsvlm.cli import main as run

    run(["serve", *sys.argv[1:]])


if __name__ == "__main__":
    main()
