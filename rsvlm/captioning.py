"""Batch captioning: one JSON line a file, resumable at any time, failures listed and passed over."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from shapely.geometry import mapping
from tqdm import tqdm

from rsvlm.errors import ExportError, GeoreferenceError, RsvlmError
from rsvlm.export import write_geojson
from rsvlm.files import require_imagery

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rsvlm.assistant import Assistant

LINE = frozenset(["path", "caption", "abstained", "facts", "sensor", "acquired", "footprint", "model"])
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CaptionReport:
    """What a run did: counts, and the failures with their reasons."""

    captioned: int
    already: int
    failed: tuple[tuple[str, str], ...]


def caption_files(
    assistant: Assistant, paths: Iterable[Path], out: Path, *, geojson: Path | None = None, sensor: str | None = None
) -> CaptionReport:
    """Caption files into `out`; lines already there are kept, so a killed run goes on where it stopped.

    Args:
        assistant: who captions.
        paths: files, or folders to walk.
        out: JSON Lines file to append to; a half last line is dropped.
        geojson: also write every captioned footprint that has a place, at the end.
        sensor: sensor of all files, where they do not say.

    Raises:
        ExportError: `out` holds something else, or another run is writing it.
    """
    files = require_imagery(list(paths))
    _refuse_inputs(files, out, geojson)
    try:
        with FileLock(f"{out}.lock", timeout=0):
            report = _caption_into(assistant, files, out, sensor)
    except Timeout:
        raise ExportError(f"another run is writing {out}; wait for it or choose another file") from None
    Path(f"{out}.lock").unlink(missing_ok=True)
    if geojson is not None:
        write_footprints(out, geojson, inputs=files)
    return report


def _refuse_inputs(files: list[Path], *outputs: Path | None) -> None:
    """Refuse to write over an image that is to be captioned, or where no file can be."""
    inputs = {path.resolve() for path in files}
    for path in filter(None, outputs):
        if path.resolve() in inputs:
            raise ExportError(f"{path} is an input of this command; choose another file to write to")
        if path.is_dir() or not path.parent.is_dir():
            raise ExportError(f"{path} is no file in an existing folder; choose another file to write to")


def _caption_into(assistant: Assistant, files: list[Path], out: Path, sensor: str | None) -> CaptionReport:
    done = {str(line["path"]) for line in finished_lines(out)}
    _drop_half_line(out)
    todo = [path for path in files if str(path) not in done]
    failed: list[tuple[str, str]] = []
    with out.open("a", encoding="utf-8") as file:
        for path in tqdm(todo, desc="captioning", unit="scene"):
            try:
                line = _caption_line(assistant, path, sensor)
            except RsvlmError as error:
                failed.append((str(path), str(error)))
                continue
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
    return CaptionReport(len(todo) - len(failed), len(files) - len(todo), tuple(failed))


def finished_lines(out: Path) -> list[dict[str, Any]]:
    """The whole lines of an earlier run; raises ExportError for foreign content, which is left as it is."""
    if not out.exists():
        return []
    content = out.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    lines = list(_parse(whole, out))
    if content and not lines and not content.startswith(b'{"path"'):
        raise ExportError(f"{out} holds no caption lines; choose another --out file")
    return lines


def _drop_half_line(out: Path) -> None:
    content = out.read_bytes() if out.exists() else b""
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        logger.warning("%s ended in half a line: it is dropped and its file captioned again", out)
        os.truncate(out, whole)


def _parse(content: bytes, out: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(content.splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ExportError(f"{out}:{number} is no caption line ({error}); choose another --out file") from error
        if not isinstance(row, dict) or not row.keys() >= LINE:
            raise ExportError(f"{out}:{number} is no caption line; choose another --out file")
        yield row


def _caption_line(assistant: Assistant, path: Path, sensor: str | None) -> dict[str, Any]:
    scene = assistant.read(path, sensor=sensor)
    answer = assistant.caption(scene)
    try:
        footprint = mapping(scene.grid.footprint)
    except GeoreferenceError:
        footprint = None
    return {
        "path": str(path),
        "caption": answer.text,
        "abstained": answer.abstained,
        "facts": [fact.to_json() for fact in answer.facts],
        "sensor": scene.sensor.name,
        "acquired": scene.acquired.isoformat() if scene.acquired else None,
        "footprint": footprint,
        "model": answer.model,
    }


def write_footprints(captions: Path, geojson: Path, *, inputs: Sequence[Path] = ()) -> None:
    """Write the captioned footprints as a GeoJSON FeatureCollection; scenes without a place are left out."""
    features = [
        {
            "type": "Feature",
            "geometry": line["footprint"],
            "properties": {key: line[key] for key in ("path", "caption", "sensor", "acquired", "model")},
        }
        for line in finished_lines(captions)
        if line["footprint"] is not None
    ]
    write_geojson({"type": "FeatureCollection", "features": features}, geojson, inputs=inputs)
