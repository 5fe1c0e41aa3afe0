"""Reading the files datasets are published as: what is missing or broken is one sentence with the file and the line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from pathlib import Path


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
