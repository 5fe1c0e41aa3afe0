"""STAR: scene graphs of large satellite pictures, of which relations become referring expressions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from data_engine.annotated import Annotated, Target
from data_engine.layout import field_of, listed, number, one_of, read_records
from data_engine.sources.coco import Marked, absent_targets, present_targets, target_of, words
from data_engine.splits import split_of
from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IMAGES, OBJECTS, RELATIONS = "STAR_image_data_v1.json", "STAR_objects_v1.json", "STAR_relationships_v1.json"
PARTS = ("train", "val", "test")


def read(folder: Path) -> Iterator[Annotated]:
    """Yield every picture with its objects as class targets and its relations as referring targets.

    "ship docked at dock" has the boxes of all ships of which this is said. Labels are complete: at most two classes
    that a picture lacks become targets without boxes. Pictures are STAR_img/0004.png for image_id 4; where the parts
    keep the folders they are published in (STAR_img/train, val, test), these are the splits, else places are cut.
    Boxes are upright: the oriented ones are published as HDF5 and, for detection, in DOTA's form.
    The names of files and fields are those that published converters use; no copy was at hand.
    Raises DatasetError for missing files and pictures, lists that do not go together, and relations of unknown objects.
    """
    root = one_of(folder, "STAR_SGG", ".")
    paths = {name: one_of(root, name) for name in (IMAGES, OBJECTS, RELATIONS)}
    rows = {
        name: {_image_id(row, path, n): (n, row) for n, row in enumerate(read_records(path), 1)}
        for name, path in paths.items()
    }
    for name in (OBJECTS, RELATIONS):
        lacking = sorted(set(rows[IMAGES]) - set(rows[name]))
        if lacking:
            raise DatasetError(
                f"{paths[name]} lacks image_id {lacking[0]}, which {paths[IMAGES]} has; fetch both again"
            )
    things = {known: _things(*rows[OBJECTS][known], paths[OBJECTS]) for known in rows[IMAGES]}
    classes = sorted({thing.category for marked in things.values() for thing in marked.values()})
    for known, (position, _) in sorted(rows[IMAGES].items()):
        image, split = _picture(root, known, paths[IMAGES], position)
        place = f"star-{image.stem}"
        present = present_targets(things[known].values())
        labels = tuple(target.phrase for target in present)
        related = _related(things[known], *rows[RELATIONS][known], paths[RELATIONS])
        targets = present + absent_targets(classes, set(labels), place) + related
        yield Annotated(image, "rgb", place, split or split_of(place), labels=labels, targets=targets)


def _image_id(row: Any, path: Path, position: int) -> int:
    return _whole(row, "image_id", path, position)


def _whole(row: Any, key: str, path: Path, position: int) -> int:
    value = field_of(row, key, path, position)
    if not isinstance(value, int):
        raise DatasetError(
            f"record {position} of {path} has {value!r:.80} as {key!r}, which is no whole number; fix it"
        )
    return value


def _picture(root: Path, known: int, listing: Path, position: int) -> tuple[Path, str]:
    images, name = one_of(root, "STAR_img"), f"{known:04d}.png"
    for part in PARTS:
        for folder in (images / part, images / part.upper()):
            if (folder / name).is_file():
                return folder / name, part
    return listed(images, name, listing, position), ""


def _things(position: int, row: Any, path: Path) -> dict[int, Marked]:
    """The objects of one picture by their id; `names` is a text or a list with one."""
    marked = {}
    for entry in field_of(row, "objects", path, position):
        name = field_of(entry, "names", path, position)
        name = name[0] if isinstance(name, list) and name else name
        x, y, width, height = (number(entry, side, path, position) for side in "xywh")
        if not isinstance(name, str) or not name.strip() or width <= 0 or height <= 0:
            raise DatasetError(f"record {position} of {path} has an object without name or area: {entry!r:.80}; fix it")
        marked[_whole(entry, "object_id", path, position)] = Marked(words(name), (x, y, x + width, y + height))
    return marked


def _related(things: dict[int, Marked], position: int, row: Any, path: Path) -> tuple[Target, ...]:
    """One referring target for each "subject relation object", with all its subjects, in order of their ids."""
    groups: dict[str, dict[int, Marked]] = {}
    for entry in field_of(row, "relationships", path, position):
        subject, other = (_end(things, entry, end, path, position) for end in ("subject", "object"))
        predicate = field_of(entry, "predicate", path, position)
        if not isinstance(predicate, str) or not predicate.strip():
            raise DatasetError(f"record {position} of {path} has no text in 'predicate'; fetch the file again")
        phrase = f"{things[subject].category} {words(predicate)} {things[other].category}"
        groups.setdefault(phrase, {})[subject] = things[subject]
    return tuple(
        target_of(phrase, "referring", [thing for _, thing in sorted(group.items())])
        for phrase, group in sorted(groups.items())
    )


def _end(things: dict[int, Marked], entry: Any, end: str, path: Path, position: int) -> int:
    known = _whole(field_of(entry, end, path, position), "object_id", path, position)
    if known not in things:
        raise DatasetError(
            f"record {position} of {path} relates object {known}, which the picture does not have; fix it"
        )
    return known
