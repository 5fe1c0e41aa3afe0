"""Reading the files datasets are published as: what is missing or broken is one sentence with the file and the line."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
LARGEST_XML = 1 << 20  # bytes; published annotations have a few thousand
SPEAKERS = {"user": True, "human": True, "assistant": False, "gpt": False}  # whether it is the one who asks


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


def read_records(path: Path) -> list[Any]:
    """The records of a JSON array or of JSON Lines, told apart by the first character; raises DatasetError."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = file.read(4096).lstrip()[:1]
    if first != "[":
        return read_json_lines(path)
    rows = read_json(path)
    return rows if isinstance(rows, list) else [rows]


def read_csv(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """The rows of a CSV file by column; raises DatasetError where it is none or lacks one of `columns`."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            lacking = [column for column in columns if column not in (reader.fieldnames or ())]
            if lacking:
                raise DatasetError(f"{path} has no column {', '.join(lacking)}; is this the published file?")
            yield from reader
    except (csv.Error, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is not CSV ({error}); fetch it again") from error


def read_parquet(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet table, a batch at a time; raises DatasetError where it is none or lacks a column."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            lacking = [column for column in columns if column not in file.schema_arrow.names]
            if lacking:
                raise DatasetError(f"{path} has no column {', '.join(lacking)}; is this the published file?")
            for batch in file.iter_batches(columns=list(columns)):
                yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise DatasetError(f"{path} is no Parquet file ({error}); fetch it again") from error


def read_xml(path: Path) -> ElementTree.Element:
    """An XML file without a document type, so that no entity can grow or reach out; raises DatasetError."""
    if path.stat().st_size > LARGEST_XML:
        raise DatasetError(f"{path} has more than {LARGEST_XML} bytes, which no published annotation has; check it")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if "<!DOCTYPE" in text:
            raise DatasetError(f"{path} declares a document type, which no published annotation does; fetch it again")
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is not XML ({error}); fetch it again") from error


def exchanges(row: Any, path: Path, position: int) -> list[tuple[str, str]]:
    """The questions of a chat record with their answers, image marks taken out.

    Turns are `messages` (role, content) or `conversations` (from, value). Raises DatasetError where they do not
    alternate between one who asks and one who answers.
    """
    key, who, what = ("messages", "role", "content") if _holds(row, "messages") else ("conversations", "from", "value")
    turns = field_of(row, key, path, position)
    said = [(field_of(turn, who, path, position), words(turn, what, path, position)) for turn in turns]
    said = [(name, text) for name, text in said if name != "system"]
    asked = [SPEAKERS.get(name) for name, _ in said if isinstance(name, str)]
    if not said or asked != [True, False] * (len(said) // 2):
        raise DatasetError(f"record {position} of {path} needs questions and answers in turn in {key!r}; fix it")
    plain = [" ".join(text.replace("<image>", " ").split()) for _, text in said]
    return list(zip(plain[::2], plain[1::2], strict=True))


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
    if not names_inside(name):
        raise DatasetError(f"record {position} of {listing} names {name!r}, which is no path inside {folder}; fix it")
    found: Path = folder / name
    if not found.is_file():
        raise DatasetError(f"record {position} of {listing} names {name}, which is not in {folder}; fetch it")
    return found


def names_inside(name: Any) -> bool:
    """Whether this is the name of a file that cannot lead out of the folder it is looked for in."""
    path = PureWindowsPath(name if isinstance(name, str) else "..")  # splits at both kinds of slash, knows drives
    return bool(path.parts) and not path.anchor and ".." not in path.parts


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


def _holds(row: Any, key: str) -> bool:
    return isinstance(row, dict) and key in row


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
