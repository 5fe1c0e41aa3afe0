"""SARLANG-1M: radar pictures of many sensors with captions and questions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from data_engine.annotated import Annotated, Asked
from data_engine.layout import every, exchanges, field_of, listed, names_inside, one_of, read_records
from data_engine.splits import split_of
from data_engine.unpacking import work_folder, write_once
from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator

CAPTIONS, QUESTIONS = "caption", "VQA"
ENDINGS = (".png", ".jpg")  # prepared pictures, before the raw TIFF under the same stem
COLOURED = ("RGB", "RGBA", "P", "LA")


@dataclass(slots=True)
class _Told:
    """What the files of one split say of one picture."""

    listing: Path
    position: int
    captions: list[str] = field(default_factory=list)
    questions: list[Asked] = field(default_factory=list)


def read(folder: Path, *, unpacked: Path | None = None) -> Iterator[Annotated]:
    """Yield every picture once a split with all its captions and questions, by name.

    Read are the JSON files below Text/caption and Text/VQA, "test" in whose name makes the test part; the CSV files
    beside them say the same. Records are chats with `images` or `image`; the kind of a question is its `type` or
    `task`, else "vqa". Only the last part of a picture's path counts. The pictures come from sensors of different
    polarisation and frequency, which their names do not tell: sensor "sar-picture". Of grey pictures stored as colour,
    one layer is written once to `unpacked` (unpacked/). The names of folders and files are the README's, the chat
    form is that of published loaders; no copy was at hand.
    Raises DatasetError for missing folders and pictures, and for records without picture, questions or answers.
    """
    pictures, texts = one_of(folder, "SARimages"), one_of(folder, "Text")
    one_of(texts, CAPTIONS, QUESTIONS)
    work, told = work_folder(folder, unpacked), dict[tuple[str, str], _Told]()
    for kind in (CAPTIONS, QUESTIONS):
        for listing in every(texts / kind, "**/*.json*") if (texts / kind).is_dir() else ():
            part = "test" if "test" in listing.stem.lower() else "train"
            for position, row in enumerate(read_records(listing), 1):
                said = told.setdefault((part, _picture(row, listing, position)), _Told(listing, position))
                _tell(said, kind, row, exchanges(row, listing, position))
    for (part, name), said in sorted(told.items(), key=lambda entry: (entry[0][0] == "test", entry[0][1])):
        yield _annotated(_single(_found(pictures, name, said), work), part, said)


def _annotated(image: Path, part: str, said: _Told) -> Annotated:
    place = f"sarlang-{image.stem}"
    return Annotated(
        image=image,
        sensor="sar-picture",
        place=place,
        split=part if part == "test" else split_of(place),
        captions=tuple(dict.fromkeys(said.captions)),
        questions=tuple(dict.fromkeys(said.questions)),
    )


def _tell(said: _Told, kind: str, row: dict[str, Any], turns: list[tuple[str, str]]) -> None:
    asked = next((row[key] for key in ("type", "task") if isinstance(row.get(key), str)), "vqa")
    if kind == CAPTIONS:
        said.captions += [answer for _, answer in turns]
    else:
        said.questions += [Asked(question, answer, asked) for question, answer in turns]


def _picture(row: Any, listing: Path, position: int) -> str:
    """The file name alone: listings carry the folders of the machine they were made on."""
    key = "images" if isinstance(row, dict) and "images" in row else "image"
    value = field_of(row, key, listing, position)
    names = value if isinstance(value, list) else [value]
    name = PureWindowsPath(names[0]).name if len(names) == 1 and isinstance(names[0], str) else ""
    if not names_inside(name):
        raise DatasetError(f"record {position} of {listing} needs the name of one picture in {key!r}, got {value!r}")
    return name


def _found(pictures: Path, name: str, said: _Told) -> Path:
    stem = name.rpartition(".")[0] or name
    there = [path for path in (*(pictures / (stem + ending) for ending in ENDINGS), pictures / name) if path.is_file()]
    return listed(pictures, there[0].name if there else name, said.listing, said.position)


def _single(image: Path, work: Path) -> Path:
    """The picture, or of one stored in colour its grey copy."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(image) as picture:
            if picture.mode not in COLOURED:
                return image
            grey = picture.convert("RGB").convert("L")
    except (UnidentifiedImageError, OSError) as error:
        raise DatasetError(f"{image} is no whole picture ({error}); fetch it again") from error
    return write_once(work / f"{image.stem}.png", lambda path: grey.save(path, format="PNG"))
