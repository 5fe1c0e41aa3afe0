"""GAIA: pictures that space agencies published, with captions and tags; JSON lists and WebDataset shards."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from data_engine.annotated import Annotated
from data_engine.layout import every, field_of, one_of, read_records
from data_engine.unpacking import tar_records, work_folder, write_once
from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PARTS = ("train", "val", "test")
ENDINGS = ("png", "jpg", "jpeg", "webp")


def read(folder: Path, *, unpacked: Path | None = None) -> Iterator[Annotated]:
    """Yield every picture that was fetched, in the order of the shards, with its captions and its tags as labels.

    GAIA is published as lists of addresses, `<part>_data.json`; its README has img2dataset fetch them as shards to
    `<part>/`, with id and captions beside each picture. Pictures are written once to `unpacked` (unpacked/). They are
    renderings of many sensors (sensor "rgb"). The published split is stratified by place and time, not cut by it: a
    place is a picture here. Written from the publishers' README; no copy was at hand.
    Raises DatasetError for missing files, shards without a picture or id, and ids that the list does not have.
    """
    one_of(folder, *(f"{part}_data.json" for part in PARTS))
    work = work_folder(folder, unpacked)
    for part in PARTS:
        listing = folder / f"{part}_data.json"
        if listing.is_file():
            yield from _part(one_of(folder, part), listing, work / part, part)


def _part(shards: Path, listing: Path, work: Path, part: str) -> Iterator[Annotated]:
    rows = {}
    for position, row in enumerate(read_records(listing), 1):
        rows[str(field_of(row, "id", listing, position))] = (position, row)
    for shard in every(shards, "*.tar"):
        for position, (key, parts) in enumerate(tar_records(shard), 1):
            known = str(field_of(_json(parts, shard, position), "id", shard, position))
            if known not in rows:
                raise DatasetError(f"record {position} of {shard} has the id {known!r}, which {listing} lacks")
            image = _picture(work / shard.stem, shard, position, key, parts)
            yield _annotated(image, known, rows[known], listing, part)


def _annotated(image: Path, known: str, entry: tuple[int, Any], listing: Path, part: str) -> Annotated:
    position, row = entry
    captions = _texts(row, "captions", listing, position)
    if not captions:
        raise DatasetError(f"record {position} of {listing} has no text in 'captions'; fetch the file again")
    tags = _texts(row, "tag", listing, position) if row.get("tag") else ()
    labels = tuple(dict.fromkeys(tag.lower() for tag in tags))
    return Annotated(image=image, sensor="rgb", place=f"gaia-{known}", split=part, captions=captions, labels=labels)


def _texts(row: Any, key: str, listing: Path, position: int) -> tuple[str, ...]:
    """A text or a list of texts; blank ones are left out."""
    value = field_of(row, key, listing, position)
    values = value if isinstance(value, list) else [value]
    wrong = [text for text in values if not isinstance(text, str)]
    if wrong:
        raise DatasetError(f"record {position} of {listing} needs texts in {key!r}, got {wrong[0]!r:.80}")
    return tuple(dict.fromkeys(" ".join(text.split()) for text in values if text.strip()))


def _json(parts: dict[str, bytes], shard: Path, position: int) -> Any:
    try:
        return json.loads(field_of(parts, "json", shard, position))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"record {position} of {shard} holds no JSON ({error}); fetch the shard again") from error


def _picture(work: Path, shard: Path, position: int, key: str, parts: dict[str, bytes]) -> Path:
    ending = next((ending for ending in ENDINGS if ending in parts), "")
    if not ending:
        raise DatasetError(f"record {position} of {shard} ({key}) holds no picture ({', '.join(ENDINGS)})")
    return write_once(work / f"{key}.{ending}", lambda path: path.write_bytes(parts[ending]))
