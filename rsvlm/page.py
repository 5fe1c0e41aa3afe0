"""What the page lets in and shows, apart from its widgets: picks, pictures, one-line texts, limits."""

from __future__ import annotations

import json
import logging
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rsvlm.assistant import Assistant
from rsvlm.change import align
from rsvlm.errors import QueryError, RsvlmError, UnsafeImageryError
from rsvlm.preview import draw, render
from rsvlm.raster import Door, Raster, open_raster
from rsvlm.sensors import SENSORS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from rsvlm.answer import Answer, Hit
    from rsvlm.scene import Scene

logger = logging.getLogger(__name__)

MAX_TEXT = 2_000  # characters
PREVIEW, THUMBNAIL = 768, 224  # pixels
UNWANTED = re.compile(
    r"!?\[([^\]]*)\]\([^)]*\)|</?[A-Za-z!][^<>]*>|\b\w+://\S+|\bwww\.\S+"
)  # links, images, HTML, addresses
MAX_BODY = 2**20  # bytes of a request that is no upload
POLICY = (  # gradio's page needs inline scripts and styles, its previews data: and blob: images
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
POINT = re.compile(r"\[\s+(-?[\d.e-]+),\s+(-?[\d.e-]+)\s+\]")


@dataclass(frozen=True)
class Pick:
    """The image in question: uploaded by the visitor, or one that the archive itself names."""

    path: str
    from_archive: bool = False


@dataclass(frozen=True)
class Desk:
    """Opens picks for an assistant: uploads from the upload folder only, of the archive's images only the one named."""

    assistant: Assistant
    uploads: Path

    def door(self, pick: Pick) -> Door:
        """What is let in for a pick."""
        return Door(roots=(Path(pick.path) if pick.from_archive else self.uploads,))

    def read(self, pick: Pick, sensor: str | None) -> Scene:
        """The scene as the assistant measures it."""
        parts = self.assistant.encoder, self.assistant.language
        return Assistant(*parts, door=self.door(pick)).read(pick.path, sensor=sensor)

    @contextmanager
    def open(self, pick: Pick, sensor: str | None) -> Iterator[Raster]:
        """The raster behind a pick."""
        with open_raster(pick.path, sensor=sensor, door=self.door(pick)) as raster:
            yield raster

    def preview(self, pick: Pick, sensor: str | None) -> tuple[NDArray[np.uint8], str]:
        """Picture and title of an image."""
        with self.open(pick, sensor) as raster:
            return render(raster.read(shape=fitted(raster.grid.shape, PREVIEW)), size=PREVIEW), title(raster)

    def thumbnail(self, hit: Hit) -> NDArray[np.uint8]:
        """The chip of a hit; grey where its file cannot be read any more."""
        try:
            with self.open(Pick(hit.path, True), hit.sensor if hit.sensor in SENSORS else None) as raster:
                shape = fitted((hit.window.height, hit.window.width), THUMBNAIL)
                return render(raster.read(hit.window, shape=shape), size=THUMBNAIL)
        except RsvlmError as error:
            logger.warning("no picture of %s: %s", hit.chip_id, error)
            return np.full((THUMBNAIL, THUMBNAIL, 3), 128, np.uint8)

    def answers(
        self, question: str, pick: Pick | None, later: str | None, sensor: str | None
    ) -> tuple[Scene | None, Iterator[Answer]]:
        """The scene to draw outlines on, and the growing answers; of two dates the later one, on the earlier's grid.

        Raises QueryError for a later image without an earlier one, and what the door raises.
        """
        scene = None if pick is None else self.read(pick, sensor)
        if later is None:
            return scene, self.assistant.stream_ask(scene, question)
        if scene is None:
            raise QueryError("a later image was given without an earlier one; choose the earlier image too")
        after = self.read(Pick(later), sensor)
        shown = after if after.grid == scene.grid else align(after, scene)
        return shown, self.assistant.stream_compare(scene, after, question)


def outlined(scene: Scene, answer: Answer) -> NDArray[np.uint8]:
    """The picture of a scene with the regions of an answer on it."""
    return draw(render(scene, size=PREVIEW), answer.regions)


def checked(text: str | None) -> str:
    """A question or search text within its limits, for the browser's own limit is no limit; raises QueryError."""
    text = str(text or "").strip()
    if not text or len(text) > MAX_TEXT:
        raise QueryError(f"a text of 1 to {MAX_TEXT:,} characters is needed; got {len(text):,}")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise QueryError("the text holds half a character (a lone surrogate); type it again")
    return text


def refuse_foreign_files(value: Any, uploads: Path) -> None:
    """Raise UnsafeImageryError where a request's data, at any depth, name a file outside the upload folder."""
    if isinstance(value, dict):
        if isinstance(value.get("path"), str) and not _is_inside(value["path"], uploads):
            raise UnsafeImageryError("a file is named that was not uploaded; this page opens and fetches no others")
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            refuse_foreign_files(part, uploads)


def _is_inside(path: str, folder: Path) -> bool:
    try:
        return Path(path).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):
        return False


def plain(text: str) -> str:
    """An answer without links, images, HTML and addresses; the words of links stay."""
    return UNWANTED.sub(lambda match: match[1] or "", text).strip()


def intention(answer: Answer) -> str:
    """What is being done about a question, until there are words."""
    return " ".join(filter(None, (f"{answer.plan.task.capitalize()}:", answer.plan.target, answer.plan.other, "...")))


def laid_out(answer: Answer) -> str:
    """The whole answer as JSON to read, a point of an outline on one line."""
    return POINT.sub(r"[\1, \2]", json.dumps(answer.to_json(), indent=2, ensure_ascii=False))


def title(image: Raster | Scene) -> str:
    """An image in one line."""
    (height, width), size = image.grid.shape, image.grid.pixel_size_m
    when = None if image.acquired is None else image.acquired.date().isoformat()
    ground = None if size is None else f"{size:.3g} m"
    return ", ".join(filter(None, (image.sensor.name, f"{height} x {width} pixels", ground, when)))


def caption(hit: Hit) -> str:
    """A hit in one line: number, score, whether it is unlike what was asked for, date, caption or file."""
    score = f"{hit.score:.2f}" + (" (unlike)" if hit.unlike else "")
    when = (hit.acquired or "no date")[:10]
    return f"[{hit.rank}] {score} | {when} | {plain(hit.caption) or Path(hit.path).name}"


def fitted(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """Height and width shrunk, where needed, so that the longer side is `size`."""
    scale = min(1.0, size / max(shape))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


class SafeHeaders:
    """ASGI middleware: the policy headers on every response, a limit on every body that is no upload."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Pass a request on unless its body is too large, and its response back with the headers."""

        async def send_safely(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            await send(message)

        too_large = scope["type"] == "http" and scope["method"] == "POST" and not scope["path"].endswith("/upload")
        if too_large:
            length = dict(scope["headers"]).get(b"content-length", b"")
            too_large = not length.isdigit() or int(length) > MAX_BODY
        if too_large:
            reason = f"a request must state its length, at most {MAX_BODY:,} bytes".encode()
            kind = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(reason)).encode())]
            await send_safely({"type": "http.response.start", "status": 413, "headers": kind})
            await send_safely({"type": "http.response.body", "body": reason})
        else:
            await self.app(scope, receive, send_safely)
