"""RSTeller: NAIP patches of the United States with captions written from OpenStreetMap, in WebDataset shards."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from data_engine.annotated import Annotated
from data_engine.layout import every, field_of, words
from data_engine.splits import split_of
from data_engine.unpacking import tar_records, work_folder, write_once
from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TILE = re.compile(r"(?P<tile>\w+?)_(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)(?:_\d+)?")  # NAIP quarter quadrangles


def read(folder: Path, *, unpacked: Path | None = None) -> Iterator[Annotated]:
    """Yield every patch with its captions, shard by shard; pictures are written once to `unpacked` (unpacked/).

    The patches are JPEG in red, green and blue (sensor "rgb"). The place is the NAIP quarter quadrangle, so that
    patches of one aerial image stay together; no split is published, places are cut. Written from the publishers'
    README (Patches0000.tar with 607.jpg, 607.txt and 607.json); no copy was at hand.
    Raises DatasetError for missing or damaged shards, and for samples without picture, captions or NAIP name.
    """
    shards = every(folder, "Patches*.tar") if any(folder.glob("Patches*.tar")) else every(folder, "**/Patches*.tar")
    work = work_folder(folder, unpacked)
    for shard in shards:
        for position, (key, parts) in enumerate(tar_records(shard), 1):
            yield _patch(work / shard.stem, shard, position, key, parts)


def _patch(work: Path, shard: Path, position: int, key: str, parts: dict[str, bytes]) -> Annotated:
    picture, described = (field_of(parts, ending, shard, position) for ending in ("jpg", "json"))
    row = _json(described, shard, position)
    name = words(field_of(row, "metadata", shard, position), "image_name", shard, position)
    match = TILE.fullmatch(name)
    if match is None:
        raise DatasetError(f"record {position} of {shard} has {name!r} in 'image_name', which is no NAIP image")
    notes = field_of(row, "annotations", shard, position)
    captions = tuple(dict.fromkeys(words(note, "text", shard, position) for note in notes))
    if not captions:
        raise DatasetError(f"record {position} of {shard} has no captions in 'annotations'; fetch the shard again")
    place = f"rsteller-{match['tile']}"
    return Annotated(
        image=write_once(work / f"{key}.jpg", lambda path: path.write_bytes(picture)),
        sensor="rgb",
        place=place,
        split=split_of(place),
        captions=captions,
        acquired=f"{match['year']}-{match['month']}-{match['day']}",
    )


def _json(content: bytes, shard: Path, position: int) -> Any:
    try:
        return json.loads(content)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"record {position} of {shard} holds no JSON ({error}); fetch the shard again") from error
