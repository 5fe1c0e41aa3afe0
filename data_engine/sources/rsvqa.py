"""RSVQA (Lobry et al.): three JSON files a split, linked by ids, beside one folder of images."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data_engine.annotated import Annotated, Asked
from data_engine.layout import field_of, listed, one_of, read_json, words
from data_engine.sources.bigearthnet import BANDS
from data_engine.sources.captioned import records
from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TABLES = ("images", "questions", "answers")
TRAIN_VAL_TEST = {"train": "train", "val": "val", "test": "test"}


@dataclass(frozen=True, slots=True)
class Layout:
    """How one release names its files: `splits` maps the publishers' names to ours, `images` are tried in turn."""

    name: str
    prefix: str
    images: tuple[str, ...]
    splits: dict[str, str]
    patches: str = ""  # a folder of BigEarthNet patches that may stand in for the images


LR = Layout("rsvqa-lr", "LR", ("Images_LR/{id}.tif",), TRAIN_VAL_TEST)
HR = Layout("rsvqa-hr", "USGS", ("Data/{id}.tif", "Data/{id}.png"), TRAIN_VAL_TEST)
HR_PHILADELPHIA = Layout("rsvqa-hr", "USGS", HR.images, {"test_phili": "test"})
XBEN = Layout("rsvqaxben", "RSVQAxBEN", ("Images/{id}.tif",), TRAIN_VAL_TEST, patches="BigEarthNet-v1.0")


def read_lr(folder: Path) -> Iterator[Annotated]:
    """RSVQA low resolution: Sentinel-2 pictures of 256 x 256 pixels at 10 m, 8 bits; errors as `read_layout`."""
    return read_layout(folder, LR)


def read_hr(folder: Path) -> Iterator[Annotated]:
    """RSVQA high resolution with its first test set, of the cities trained on; errors as `read_layout`.

    Counts and areas ("12m2") stay as published; protocols put them into classes.
    """
    return read_layout(folder, HR)


def read_hr_philadelphia(folder: Path) -> Iterator[Annotated]:
    """The second test set of RSVQA high resolution, of a city nobody trained on; errors as `read_layout`."""
    return read_layout(folder, HR_PHILADELPHIA)


def read_xben(folder: Path) -> Iterator[Annotated]:
    """RSVQAxBEN on the 8-bit pictures published with it (`Images/`), else on the BigEarthNet v1 patches they show.

    That `original_name` is the name of the patch follows from the data specification and was not seen. One split at a
    time is held in memory, which is several GB for the training split. Raises DatasetError as `read_layout`.
    """
    return read_layout(folder, XBEN)


def read_layout(folder: Path, layout: Layout) -> Iterator[Annotated]:
    """Yield every active image with its active questions, split by split, in the order of the image files.

    A question's kind is the published type. Records that are not active, questions without an active answer and
    images without questions are passed over. A split none of whose files is there is passed over too.
    Raises DatasetError where no split is there, a file of one is missing, a record lacks a field or names an answer
    that is not there, or an image is missing.
    """
    one_of(folder, *(f"{layout.prefix}_split_{published}_{TABLES[0]}.json" for published in layout.splits))
    for published, split in layout.splits.items():
        names = {table: f"{layout.prefix}_split_{published}_{table}.json" for table in TABLES}
        if any((folder / name).exists() for name in names.values()):
            paths = {table: one_of(folder, name) for table, name in names.items()}
            yield from _read_split(folder, layout, paths, split)


def _read_split(folder: Path, layout: Layout, paths: dict[str, Path], split: str) -> Iterator[Annotated]:
    asked = _asked(paths["questions"], _answers(paths["answers"]))
    for position, row in _active(paths["images"], "images"):
        number = _number(row, "id", paths["images"], position)
        if number not in asked:
            continue
        image, bands = _image(folder, layout, row, paths["images"], position)
        yield Annotated(
            image=image,
            sensor="sentinel-2-l2a" if bands else "rgb",
            place=f"{layout.name}-{number}",
            split=split,
            bands=bands,
            questions=tuple(asked[number]),
        )


def _image(
    folder: Path, layout: Layout, row: Any, listing: Path, position: int
) -> tuple[Path | tuple[Path, ...], tuple[str, ...]]:
    """The picture of an image record, or the band files of its patch with their bands."""
    names = [pattern.format(id=row["id"]) for pattern in layout.images]
    if layout.patches and (folder / layout.patches).is_dir() and not (folder / names[0]).parent.is_dir():
        patch = words(row, "original_name", listing, position).removesuffix(".tif")
        bands = BANDS["sentinel-2-l2a"]
        files = (listed(folder / layout.patches, f"{patch}/{patch}_{band}.tif", listing, position) for band in bands)
        return tuple(files), bands
    name = next((name for name in names if (folder / name).is_file()), names[0])
    return listed(folder, name, listing, position), ()


def _asked(listing: Path, answers: dict[int, str | None]) -> dict[int, list[Asked]]:
    """The active questions of every image id, in the order of the file; the first active answer answers each."""
    asked: dict[int, list[Asked]] = defaultdict(list)
    for position, row in _active(listing, "questions"):
        numbers = field_of(row, "answers_ids", listing, position)
        if not isinstance(numbers, list) or not all(isinstance(n, int) and n in answers for n in numbers):
            raise DatasetError(
                f"record {position} of {listing} needs ids of answers in 'answers_ids', got {numbers!r}; "
                "take the three files of a split from one release"
            )
        answer = next((text for number in numbers if (text := answers[number]) is not None), None)
        if answer is not None:
            question = words(row, "question", listing, position)
            kind = words(row, "type", listing, position)
            asked[_number(row, "img_id", listing, position)].append(Asked(question, answer, kind))
    return asked


def _answers(listing: Path) -> dict[int, str | None]:
    """The text of every answer by id, None where it is not active."""
    answers: dict[int, str | None] = {}
    for position, row in enumerate(records(read_json(listing), "answers", listing), 1):
        active = field_of(row, "active", listing, position)
        answers[_number(row, "id", listing, position)] = words(row, "answer", listing, position) if active else None
    return answers


def _active(listing: Path, key: str) -> Iterator[tuple[int, Any]]:
    for position, row in enumerate(records(read_json(listing), key, listing), 1):
        if field_of(row, "active", listing, position):
            yield position, row


def _number(row: Any, key: str, listing: Path, position: int) -> int:
    value = field_of(row, key, listing, position)
    if not isinstance(value, int):
        raise DatasetError(f"record {position} of {listing} needs a whole number in {key!r}, got {value!r}")
    return value
