"""XLRS-Bench: multiple-choice questions on ultra-large scenes, in tables that carry the pictures inside.

Written from descriptions of the tables of initiacms/XLRS-Bench-lite; they were not seen. Its captions and visual
grounding, published apart, are not read.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, Any

from data_engine.annotated import Annotated, Asked
from data_engine.layout import field_of, listed, read_json, read_json_lines, words
from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

logger = logging.getLogger(__name__)
SUFFIXES = (".parquet", ".arrow", ".jsonl", ".json")
NO_TABLES = ("dataset_info.json", "dataset_dict.json", "state.json")  # `datasets` writes them beside its shards
AT_ONCE = 16  # rows; a picture inside one takes about 12 MB
COLUMNS = ("path", "question", "multi-choice options", "answer", "category")
NAMES_IN_JSON = {  # the separate JSON files name the same fields otherwise
    "path": "Image",
    "question": "Text",
    "multi-choice options": "Answer choices",
    "answer": "Ground truth",
}


def read(folder: Path) -> Iterator[Annotated]:
    """Yield every scene once with its questions, ordered by name; everything is the split "test".

    Questions come from parquet files, else from the Arrow shards of `datasets`, else from JSON Lines or JSON, anywhere
    in the folder; pictures lie under `images/` by the name in the column `path`, where `unpack` puts those inside the
    tables. A question ends with its options, one a line; its answer is the published letters, its kind the category.
    Raises DatasetError for missing tables, fields and pictures.
    """
    if not (folder / "images").is_dir():
        raise DatasetError(f"{folder} holds no images; write those inside the tables with xlrs_bench.unpack(folder)")
    asked: dict[Path, list[Asked]] = defaultdict(list)
    for table in _tables(folder):
        for position, row in enumerate(_rows(table, COLUMNS), 1):
            image = listed(folder / "images", words(row, "path", table, position), table, position)
            asked[image].append(_question(row, table, position))
    for image in sorted(asked):
        yield Annotated(
            image=image,
            sensor="rgb",
            place=f"xlrs-{image.relative_to(folder / 'images').as_posix()}",
            split="test",
            questions=tuple(asked[image]),
        )


def unpack(folder: Path) -> int:
    """Write the pictures inside the tables under `images/`, those there already left alone; returns how many.

    Of a record with several pictures the first is written, which is counted in the log.
    Raises DatasetError for tables without pictures and for names that lead out of the folder.
    """
    written = several = 0
    for table in _tables(folder):
        for position, row in enumerate(_rows(table, ("path", "image")), 1):
            name = words(row, "path", table, position)
            pictures = field_of(row, "image", table, position)
            pictures = pictures if isinstance(pictures, list) else [pictures]
            several += len(pictures) > 1
            path = PureWindowsPath(name)
            if path.anchor or ".." in path.parts:
                raise DatasetError(f"record {position} of {table} names {name!r}, which leads out of {folder}")
            content = field_of(pictures, 0, table, position)  # type: ignore[arg-type]
            written += _write(folder / "images" / name, field_of(content, "bytes", table, position), table, position)
    if several:
        logger.warning("%s: %d records have more than one picture; only the first is kept", folder, several)
    return written


def _write(path: Path, content: Any, table: Path, position: int) -> bool:
    """Write a picture that is not there yet, under another name until it is whole."""
    if path.exists():
        return False
    if not isinstance(content, bytes):
        raise DatasetError(f"record {position} of {table} has no picture inside; put the pictures into {path.parent}")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_bytes(content)
    unfinished.replace(path)
    return True


def _question(row: dict[str, Any], table: Path, position: int) -> Asked:
    options = field_of(row, "multi-choice options", table, position)
    if not isinstance(options, list) or not options:
        raise DatasetError(f"record {position} of {table} needs a list of options to choose from, got {options!r}")
    question, answer, kind = (words(row, key, table, position) for key in ("question", "answer", "category"))
    return Asked("\n".join([question, *(str(option).strip() for option in options)]), answer, kind)


def _tables(folder: Path) -> list[Path]:
    """The tables of the first format there is any of, in the order of their names."""
    for suffix in SUFFIXES:
        found = [path for path in sorted(folder.rglob(f"*{suffix}")) if path.name not in NO_TABLES]
        if found:
            return found
    raise DatasetError(f"{folder} holds no tables ({', '.join(SUFFIXES)}); give the folder they were fetched to")


def _rows(table: Path, columns: tuple[str, ...]) -> Iterator[Any]:
    if table.suffix in (".parquet", ".arrow"):
        yield from _columns(table, columns)
        return
    rows = read_json(table) if table.suffix == ".json" else read_json_lines(table)
    if not isinstance(rows, list):
        raise DatasetError(f"{table} is no list of records; is this the published file?")
    yield from (_renamed(row) if isinstance(row, dict) and "Text" in row else row for row in rows)


def _renamed(row: dict[str, Any]) -> dict[str, Any]:
    known = {ours: row[theirs] for ours, theirs in NAMES_IN_JSON.items() if theirs in row}
    return known | ({"category": f"{row['Task']}/{row['Subtask']}"} if {"Task", "Subtask"} <= row.keys() else {})


def _columns(table: Path, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Rows of some columns of a parquet file or of a shard in Arrow's stream format, a few at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if table.suffix == ".parquet":
            file = pq.ParquetFile(table)
            there = [name for name in columns if name in file.schema_arrow.names]
            batches = file.iter_batches(batch_size=AT_ONCE, columns=there)
        else:
            batches = pa.ipc.open_stream(pa.memory_map(str(table)))
        for batch in batches:
            kept = batch.select([name for name in columns if name in batch.schema.names])
            for start in range(0, kept.num_rows, AT_ONCE):
                yield from kept.slice(start, AT_ONCE).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{table} is damaged or no table ({error}); fetch it again") from error
