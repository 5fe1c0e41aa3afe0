"""ChangeChat: instructions and answers about the two dates of LEVIR-CC's image pairs.

Written from the description of the 105k release, whose training file holds the 87k instructions the first paper
counts; the files themselves were not seen.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from data_engine.annotated import Annotated, Asked, Pair
from data_engine.layout import SPLITS, field_of, listed, one_of, read_json
from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KIND_OF_FILE = {"binary": "change", "count": "count", "loc": "grid", "open": "open", "dialog": "multi-turn"}
KIND_OF_QUESTION = {  # the fixed questions of the mixed training file, by their first words
    "please briefly describe the changes": "caption",
    "please judge whether": "change",
    "please determine how many": "count",
    "please indicate the locations": "grid",
}


def read(folder: Path) -> Iterator[Annotated]:
    """Yield every pair once, with all its questions and reference captions, ordered by the name of its first date.

    Read are `changechat*.json` beside `images/` or in `annotations/`, but not the alternative training file with
    added localisation (`*_train_loc.json`), which repeats the pairs. A test file has one kind of question, told by its
    name; in other files a conversation of several turns is "multi-turn", each turn a question of its own, a fixed
    question is known by its first words ("caption", "change", "count", "grid"), and the rest are "open".
    The split is LEVIR-CC's, the first folder in the image's path. Raises DatasetError for missing files or images and
    for records that are not as published.
    """
    images = one_of(folder, "images")
    asked: dict[tuple[Path, Path], list[Asked]] = defaultdict(list)
    captions: dict[tuple[Path, Path], list[str]] = defaultdict(list)
    for listing in _listings(folder):
        for position, row in enumerate(_rows(listing), 1):
            before, after = (listed(images, name, listing, position) for name in _names(row, listing, position))
            questions = [] if "captions" in row else _questions(row, listing, position)
            asked[before, after] += questions
            captions[before, after] += _captions(row, listing, position) if "captions" in row else ()
            captions[before, after] += [question.answer for question in questions if question.kind == "caption"]
    for before, after in sorted(asked):
        told = tuple(dict.fromkeys(captions[before, after]))
        yield Annotated(
            image=after,
            sensor="rgb",
            place=f"levir-{after.name}",
            split=SPLITS[after.relative_to(images).parts[0]],
            questions=tuple(asked[before, after]),
            pair=Pair(before=(before,), after=(after,), sensors=("rgb",), captions=told),
        )


def _listings(folder: Path) -> list[Path]:
    beside = folder / "annotations" if (folder / "annotations").is_dir() else folder
    named = [path for path in sorted(beside.glob("*.json")) if path.name.lower().startswith("changechat")]
    found = [path for path in named if not path.stem.endswith("_train_loc")]
    if not found:
        raise DatasetError(f"{beside} holds no changechat*.json; put the published annotations there")
    return found


def _rows(listing: Path) -> list[dict[str, Any]]:
    rows = read_json(listing)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DatasetError(f"{listing} is no list of records; is this the published file?")
    return rows


def _names(row: dict[str, Any], listing: Path, position: int) -> tuple[str, str]:
    """The two images of a record, before and after, each in the folder of a split."""
    if "image_A" in row:
        names = [row["image_A"], field_of(row, "image_B", listing, position)]
    else:
        names = field_of(row, "image", listing, position)
    right = isinstance(names, list) and len(names) == 2 and all(isinstance(name, str) for name in names)
    if not right or any(name.split("/")[0] not in SPLITS for name in names):
        raise DatasetError(
            f"record {position} of {listing} needs two images such as train/A/train_000001.png, got {names!r}"
        )
    return names[0], names[1]


def _captions(row: dict[str, Any], listing: Path, position: int) -> list[str]:
    """The reference captions of a record of the captioning test."""
    captions = row["captions"]
    if not isinstance(captions, list) or not captions or not all(isinstance(text, str) for text in captions):
        raise DatasetError(f"record {position} of {listing} needs a list of texts in 'captions', got {captions!r}")
    return [" ".join(text.split()) for text in captions]


def _questions(row: dict[str, Any], listing: Path, position: int) -> list[Asked]:
    """The turns of a conversation as questions with answers."""
    turns = field_of(row, "conversations", listing, position)
    if not isinstance(turns, list):
        raise DatasetError(f"record {position} of {listing} needs a list in 'conversations', got {turns!r}")
    speakers = [field_of(turn, "from", listing, position) for turn in turns]
    if not turns or speakers != ["human", "gpt"] * (len(turns) // 2):
        raise DatasetError(
            f"record {position} of {listing} needs turns of human and gpt in 'conversations', got {speakers}"
        )
    texts = [str(field_of(turn, "value", listing, position)).replace("<image>", "").strip() for turn in turns]
    kind = KIND_OF_FILE.get(listing.stem.rsplit("_", 1)[-1], "multi-turn" if len(turns) > 2 else "")
    pairs = zip(texts[::2], texts[1::2], strict=True)
    return [Asked(question, answer, kind or _kind(question)) for question, answer in pairs]


def _kind(question: str) -> str:
    told = (kind for words, kind in KIND_OF_QUESTION.items() if question.lower().startswith(words))
    return next(told, "open")
