"""VRSBench: captions, referring expressions and questions on 512 x 512 cuts of DOTA and DIOR images."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from data_engine.annotated import Annotated, Asked, Box, Target
from data_engine.layout import field_of, listed, one_of, read_json, words
from rsvlm.errors import DatasetError
from rsvlm.raster import open_raster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

logger = logging.getLogger(__name__)
TRAIN = "VRSBench_train.json"
VQA, REFERRING, CAPTIONS = "VRSBench_EVAL_vqa.json", "VRSBench_EVAL_referring.json", "VRSBench_EVAL_Cap.json"
BOX = re.compile(r"\{\s*<(\d+(?:\.\d+)?)>\s*<(\d+(?:\.\d+)?)>\s*<(\d+(?:\.\d+)?)>\s*<(\d+(?:\.\d+)?)>\s*\}")
TASK = re.compile(r"\[(caption|refer|vqa)\]")
EXPRESSION = re.compile(r"<p>(.*?)</p>", re.DOTALL)
MARKUP = re.compile(r"<image>|</?p>|\[(?:caption|refer|vqa)\]")
HALF_STEP = 0.005  # coordinates are published in hundredths of the image


@dataclass(frozen=True, slots=True)
class _Told:
    """What the files say of one image; boxes are shares of its sides."""

    listing: Path
    position: int
    captions: list[str] = field(default_factory=list)
    questions: list[Asked] = field(default_factory=list)
    referred: list[tuple[str, tuple[Box, ...]]] = field(default_factory=list)


def read(folder: Path) -> Iterator[Annotated]:
    """Yield every image once with all that is said of it: the training part, then the evaluation part, by name.

    The evaluation part (`VRSBench_EVAL_*.json` on `Images_val`) is the split "test": figures are published on it. It
    has the published question types; the training conversations name none, so that their kind is "vqa". Images cut
    from one scene share a place. Training conversations without a known task or with an answer that is no box are
    passed over and counted in the log. A file that is not there is passed over.
    Raises DatasetError where none of the files is there, a record lacks a field, or an image is missing.
    """
    one_of(folder, TRAIN, VQA, REFERRING, CAPTIONS)
    if (folder / TRAIN).exists():
        yield from _annotated(one_of(folder, "Images_train/Images_train", "Images_train"), _train(folder), "train")
    told = _evaluation(folder)
    if told:
        yield from _annotated(one_of(folder, "Images_val/Images_val", "Images_val"), told, "test")


def box_of_shares(shares: Box, width: int, height: int) -> Box:
    """Pixels of a box given in rounded hundredths of the sides (0 to 1), its corners in either order.

    A side that rounding left without length gets the step it was rounded by, so that every box has an area.
    """
    (x0, x1), (y0, y1) = (sorted(pair) for pair in (shares[::2], shares[1::2]))
    if x0 == x1:
        x0, x1 = max(x0 - HALF_STEP, 0.0), min(x1 + HALF_STEP, 1.0)
    if y0 == y1:
        y0, y1 = max(y0 - HALF_STEP, 0.0), min(y1 + HALF_STEP, 1.0)
    return x0 * width, y0 * height, x1 * width, y1 * height


def _annotated(images: Path, told: dict[str, _Told], split: str) -> Iterator[Annotated]:
    for name in sorted(told):
        said = told[name]
        image = listed(images, name, said.listing, said.position)
        yield Annotated(
            image=image,
            sensor="rgb",
            place=f"vrsbench-{image.stem.rsplit('_', 1)[0]}",
            split=split,
            captions=tuple(said.captions),
            targets=_targets(image, said.referred),
            questions=tuple(said.questions),
        )


def _targets(image: Path, referred: list[tuple[str, tuple[Box, ...]]]) -> tuple[Target, ...]:
    """Referring expressions with boxes in pixels, for which the header of the image is read."""
    if not referred:
        return ()
    with open_raster(image, sensor="rgb") as raster:
        height, width = raster.grid.shape
    return tuple(
        Target(phrase, "referring", tuple(box_of_shares(shares, width, height) for shares in boxes))
        for phrase, boxes in referred
    )


def _evaluation(folder: Path) -> dict[str, _Told]:
    told: dict[str, _Told] = {}
    for name in (VQA, REFERRING, CAPTIONS):
        listing = folder / name
        for position, row in enumerate(_rows(listing) if listing.exists() else (), 1):
            said = told.setdefault(words(row, "image_id", listing, position), _Told(listing, position))
            answer = str(field_of(row, "ground_truth", listing, position)).strip()
            if name == CAPTIONS:
                said.captions.append(answer)
                continue
            question = words(row, "question", listing, position)
            if name == VQA:
                said.questions.append(Asked(question, answer, words(row, "type", listing, position)))
            else:
                said.referred.append((_phrase(question), _required_boxes(answer, listing, position)))
    return told


def _train(folder: Path) -> dict[str, _Told]:
    told: dict[str, _Told] = {}
    listing, passed = folder / TRAIN, 0
    for position, row in enumerate(_rows(listing), 1):
        said = told.setdefault(words(row, "image", listing, position), _Told(listing, position))
        turns = field_of(row, "conversations", listing, position)
        texts = [words(turn, "value", listing, position) for turn in turns]
        passed += sum(not _tell(said, prompt, answer) for prompt, answer in zip(texts[::2], texts[1::2], strict=False))
    if passed:
        logger.warning("%s: %d conversations name no known task or answer without a box; passed over", listing, passed)
    return told


def _tell(said: _Told, prompt: str, answer: str) -> bool:
    """Keep one turn of a training conversation; False where its task or its box cannot be told."""
    task, boxes = TASK.search(prompt), _boxes(answer)
    if task is None or (task[1] == "refer" and not boxes):
        return False
    if task[1] == "caption":
        said.captions.append(answer)
    elif task[1] == "refer":
        said.referred.append((_phrase(prompt), boxes))
    else:
        said.questions.append(Asked(_plain(prompt), answer, "vqa"))
    return True


def _phrase(text: str) -> str:
    expression = EXPRESSION.search(text)
    return _plain(expression[1] if expression else text)


def _plain(text: str) -> str:
    return MARKUP.sub("", text).strip()


def _boxes(text: str) -> tuple[Box, ...]:
    """Every `{<x0><y0><x1><y1>}` with coordinates from 0 to 100, as shares of the sides; () where there is none."""
    found = [tuple(float(number) / 100 for number in numbers) for numbers in BOX.findall(text)]
    return tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in found if max(x0, y0, x1, y1) <= 1)


def _required_boxes(text: str, listing: Path, position: int) -> tuple[Box, ...]:
    boxes = _boxes(text)
    if not boxes:
        raise DatasetError(
            f"record {position} of {listing} needs a box such as {{<25><40><33><60>}} in 'ground_truth', got {text!r}"
        )
    return boxes


def _rows(listing: Path) -> list[Any]:
    rows = read_json(listing)
    if not isinstance(rows, list):
        raise DatasetError(f"{listing} is no list of records; is this the published file?")
    return rows
