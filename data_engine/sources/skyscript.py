"""SkyScript: pictures of many sources captioned from the OpenStreetMap tags of one object, and of all around it."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from data_engine.annotated import Annotated
from data_engine.layout import listed, names_inside, one_of, read_csv, words
from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

logger = logging.getLogger(__name__)
PARTS = ("train", "val", "test")
LISTINGS = "SkyScript_{part}_*.csv"
PREFERRED = ("top30pct_filtered_by_CLIP_laion_RS", "top50pct_filtered_by_CLIP_laion_RS", "filtered_by_CLIP_laion_RS")
NAME = re.compile(r"(?P<object>[A-Za-z]?\d+)_(?P<imagery>[A-Za-z0-9]+)_(?P<year>\d\d)\.\w+")


def read(folder: Path, *, listings: tuple[str, ...] = ()) -> Iterator[Annotated]:
    """Yield the pictures of one listing a part: its `title`, and `title_multi_objects` where it has that column.

    The place is the OpenStreetMap object in a picture's name, the date its year. The publishers' listings of one part
    overlap: without `listings` (names of CSV files) one is taken for each, CLIP-laion-RS's top 30 % before its top
    50 % before others by name. Rows are passed over, and counted in the log, where the whole folder of a picture
    (images2 to images7, archives of their own) is missing. The pickled metadata are not read: unpickling runs code.
    Written from the publishers' README, which gives names, columns and folders.
    Raises DatasetError for missing listings, columns and pictures, and for names that tell no object.
    """
    chosen = {name: _part_of(name) for name in listings} if listings else _chosen(folder)
    for name, part in chosen.items():
        yield from _listing(folder, one_of(folder, f"dataframe/{name}", name), part)


def _chosen(folder: Path) -> dict[str, str]:
    root = folder / "dataframe" if (folder / "dataframe").is_dir() else folder
    found = {part: sorted(path.name for path in root.glob(LISTINGS.format(part=part))) for part in PARTS}
    if not any(found.values()):
        raise DatasetError(f"{root} holds no {LISTINGS.format(part='train')}, nor one of val or test; fetch one")
    return {min(names, key=_preference): part for part, names in found.items() if names}


def _preference(name: str) -> tuple[int, str]:
    plain = name.removesuffix(".csv")
    return next((place for place, end in enumerate(PREFERRED) if plain.endswith(end)), len(PREFERRED)), name


def _part_of(name: str) -> str:
    part = next((part for part in PARTS if name.startswith(f"SkyScript_{part}_")), "")
    if not part:
        raise DatasetError(f"{name} is no listing of SkyScript; name one such as SkyScript_val_....csv")
    return part


def _listing(folder: Path, path: Path, part: str) -> Iterator[Annotated]:
    passed = 0
    for position, row in enumerate(read_csv(path, ("filepath", "title")), 1):
        name = words(row, "filepath", path, position)
        parent = name.rpartition("/")[0]
        if names_inside(name) and parent and not (folder / parent).is_dir():
            passed += 1
            continue
        match = NAME.fullmatch(name.rpartition("/")[2])
        if match is None:
            raise DatasetError(f"record {position} of {path} names {name!r}, which tells no object, source and year")
        told = [words(row, "title", path, position), " ".join((row.get("title_multi_objects") or "").split())]
        yield Annotated(
            image=listed(folder, name, path, position),
            sensor="rgb",
            place=f"skyscript-{match['object']}",
            split=part,
            captions=tuple(dict.fromkeys(text for text in told if text)),
            acquired=f"20{match['year']}",
        )
    if passed:
        logger.warning("%s: %d pictures are in folders that are not here; passed over", path, passed)
