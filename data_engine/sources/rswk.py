"""RSWK: landmarks with questions whose answers are partly outside the picture, of RS-RAG."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from data_engine.annotated import Annotated, Asked
from data_engine.layout import every, exchanges, field_of, listed, one_of, read_records
from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROOTS = ("DATASET/DATASET_FULL", "DATASET_FULL")
PICTURES = ("images", "DATASET/images", "DATASET_FULL/images")
KINDS = {
    "vqa_wk": "world knowledge",
    "vqa_rsk": "remote sensing knowledge",
    "vqa_c": "combined knowledge",
}
TASKS = ("image_captioning", "image_classification", *KINDS)


@dataclass(slots=True)
class _Told:
    """What the files of one split say of one picture."""

    listing: Path
    position: int
    captions: list[str] = field(default_factory=list)
    scenes: list[str] = field(default_factory=list)
    questions: list[Asked] = field(default_factory=list)


def read(folder: Path) -> Iterator[Annotated]:
    """Yield every picture once a split with its captions, its category as scene, and its questions, by name.

    The files are <task>_full_<split>_<count>.json(l), chat messages with the name of a picture, of which
    DATASET_FULL is read and its sample DATASET_MINI is not. The kind of a question says whose knowledge answers it.
    Questions and classification were seen in the publishers' repository; pictures are expected in images/.
    Raises DatasetError for missing files, unknown tasks, and records without one picture, questions and answers.
    """
    root, pictures = one_of(folder, *ROOTS), one_of(folder, *PICTURES)
    told: dict[tuple[str, str], _Told] = {}
    for listing in every(root, "**/*.json*"):
        task, _, rest = listing.stem.partition("_full_")
        split = rest.partition("_")[0]
        if task not in TASKS or split not in ("train", "test"):
            raise DatasetError(f"{listing} is no file of RSWK; it must be <task>_full_train_... with one of {TASKS}")
        for position, row in enumerate(read_records(listing), 1):
            key = (split, _picture(row, listing, position))
            _tell(told.setdefault(key, _Told(listing, position)), task, exchanges(row, listing, position))
    for (split, name), said in sorted(told.items(), key=lambda entry: (entry[0][0] == "test", entry[0][1])):
        yield _annotated(listed(pictures, name, said.listing, said.position), split, said)


def _annotated(image: Path, split: str, said: _Told) -> Annotated:
    scenes = tuple(dict.fromkeys(said.scenes))
    return Annotated(
        image=image,
        sensor="rgb",
        place=f"rswk-{image.stem}",
        split=split,
        captions=tuple(dict.fromkeys(said.captions)),
        labels=scenes,
        scene=scenes[0] if len(scenes) == 1 else "",
        questions=tuple(dict.fromkeys(said.questions)),
    )


def _picture(row: Any, listing: Path, position: int) -> str:
    names = field_of(row, "images", listing, position)
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise DatasetError(f"record {position} of {listing} needs the name of one picture in 'images', got {names!r}")
    return names[0]


def _tell(said: _Told, task: str, turns: list[tuple[str, str]]) -> None:
    for question, answer in turns:
        if task == "image_captioning":
            said.captions.append(answer)
        elif task == "image_classification":
            said.scenes.append(answer.rstrip(".").lower())
        else:
            said.questions.append(Asked(question, answer, KINDS[task]))
