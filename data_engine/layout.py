"""Reading the files datasets are published as: what is missing or broken is one sentence with the file and the line."""

from __future__ import annotations

import json
import sys
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, Any

from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from pathlib import Path

SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}


def one_of(folder: Path, *names: str) -> Path:
    """The first of these files or folders that is there; raises DatasetError naming all that were looked for."""
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise DatasetError(f"{folder} holds no {' or '.join(names)}; give the folder the publishers' archive unpacks to")


def read_json(path: Path) -> Any:
    """A JSON file; raises DatasetError where it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is not JSON ({error}); fetch it again") from error


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """A JSON Lines file, blank lines passed over; raises DatasetError with the line number."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise DatasetError(f"{path}:{number} is not JSON ({error}); fetch it again") from error
    return rows


def field_of(row: Any, key: str, path: Path, position: int) -> Any:
    """One field of a record; raises DatasetError naming the file, the record and the field it lacks."""
    try:
        return row[key]
    except (KeyError, TypeError, IndexError) as error:
        raise DatasetError(f"record {position} of {path} has no {key!r}; is this the published file?") from error


def words(row: Any, key: str, listing: Path, position: int) -> str:
    """A field that must hold text, runs of white space made one; raises DatasetError where it holds none."""
    value = field_of(row, key, listing, position)
    if not isinstance(value, str) or not value.strip():
        raise DatasetError(f"record {position} of {listing} needs text in {key!r}, got {value!r}; fetch the file again")
    return " ".join(value.split())


def split_in(row: Any, listing: Path, position: int) -> str:
    """The published split of a record, "validation" as "val"; raises DatasetError for any other name."""
    split = words(row, "split", listing, position)
    if split not in SPLITS:
        raise DatasetError(
            f"record {position} of {listing} has {split!r} in 'split'; it must be one of {', '.join(SPLITS)}"
        )
    return SPLITS[split]


def listed(folder: Path, name: Any, listing: Path, position: int) -> Path:
    """The file a record names; raises DatasetError where the name leads out of the folder or nothing is there."""
    path = PureWindowsPath(name if isinstance(name, str) else "..")  # splits at both kinds of slash, knows drives
    if path.anchor or ".." in path.parts:
        raise DatasetError(f"record {position} of {listing} names {name!r}, which is no path inside {folder}; fix it")
    found: Path = folder / name
    if not found.is_file():
        raise DatasetError(f"record {position} of {listing} names {name}, which is not in {folder}; fetch it")
    return found


def every(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder that match, sorted; raises DatasetError where there are none."""
    found = sorted(folder.glob(pattern))
    if not found:
        raise DatasetError(f"{folder} holds no {pattern}; give the folder the publishers' archive unpacks to")
    return found


def number(row: Any, key: str, path: Path, position: int) -> float:
    """One finite number of a record; raises DatasetError where it is none."""
    return numbers([field_of(row, key, path, position)], 1, path, position)[0]


def numbers(values: Any, count: int, path: Path, position: int) -> tuple[float, ...]:
    """A list of `count` finite numbers; raises DatasetError where it is none."""
    if isinstance(values, list) and len(values) == count and all(_is_number(value) for value in values):
        return tuple(float(value) for value in values)
    raise DatasetError(f"record {position} of {path} has {values!r:.80} where {count} finite numbers belong; fix it")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
