"""BigEarthNet.txt: questions, captions and referring boxes for the patches of BigEarthNet v2, in one parquet table.

Written from the dataset card of BIFOLD-BigEarthNetv2-0/BigEarthNet.txt; the table was not seen.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from data_engine.annotated import Annotated, Asked, Box, Target
from data_engine.layout import listed, one_of, words
from data_engine.sources.bigearthnet import BANDS as S2_S1_BANDS
from data_engine.sources.bigearthnet import PATCH
from data_engine.sources.vrsbench import box_of_shares
from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TABLE = "BigEarthNet.txt.parquet"
CODED = ("patch_id", "split", "type", "category")
TEXTS = ("input", "output")
SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test", "bench": "test"}
QUESTIONS, CAPTION, BOUNDING_BOX = ("binary", "mcq"), "captioning", "bounding box"
BANDS = S2_S1_BANDS["sentinel-2-l2a"]
SIDE = 120  # pixels of 10 m, in every patch
SHARE = r"(\d*\.?\d+)"
BOX = re.compile(rf"\[\s*{SHARE}\s+{SHARE}\s*,\s*{SHARE}\s+{SHARE}\s*\]")


def read(folder: Path, *, splits: tuple[str, ...] = ("train", "validation", "val", "test")) -> Iterator[Annotated]:
    """Yield every Sentinel-2 patch of these published splits once, with all its texts, in the order of the table.

    The kind of a question is its type and category ("binary presence", "mcq season"), the phrase of a box is the whole
    instruction. The splits are BigEarthNet v2's; `read_bench` reads the benchmark people checked, as "test", and needs
    only its patches. The Sentinel-1 patches (`s1_name`) are not read. The texts are held in memory, several GB.
    Raises DatasetError for a missing table, column, value or band file, and for unknown splits, types and boxes.
    """
    table = one_of(folder, TABLE, f"BigEarthNet.txt/{TABLE}")
    patches = one_of(folder, "BigEarthNet-S2")
    for rows in _by_patch(table, splits):
        yield _annotated(patches, [(row, position) for position, row in rows], table)


read_bench = partial(read, splits=("bench",))


def _annotated(patches: Path, rows: list[tuple[dict[str, Any], int]], table: Path) -> Annotated:
    """One patch with what its rows say."""
    captions, questions, targets = [], [], []
    for row, position in rows:
        told, answer = (_text(row, key, table, position) for key in TEXTS)
        kind = words(row, "type", table, position)
        if kind == CAPTION:
            captions.append(answer)
        elif kind == BOUNDING_BOX:
            targets.append(Target(told, "referring", _boxes(answer, table, position)))
        elif kind in QUESTIONS:
            questions.append(Asked(told, answer, f"{kind} {words(row, 'category', table, position)}"))
        else:
            known = ", ".join((*QUESTIONS, CAPTION, BOUNDING_BOX))
            raise DatasetError(f"record {position} of {table} has the type {kind!r}; it must be one of {known}")
    first, position = rows[0]
    patch = words(first, "patch_id", table, position)
    parsed = PATCH.fullmatch(patch)
    if parsed is None or not parsed["tile"]:
        raise DatasetError(f"record {position} of {table} names {patch!r}, which is no patch of BigEarthNet v2")
    files = (listed(patches, f"{parsed['scene']}/{patch}/{patch}_{band}.tif", table, position) for band in BANDS)
    return Annotated(
        image=tuple(files),
        sensor="sentinel-2-l2a",
        place=f"bigearthnet-T{parsed['tile']}-{int(parsed['column'])}-{int(parsed['row'])}",  # as BigEarthNet's readers
        split=SPLITS[first["split"]],
        bands=BANDS,
        captions=tuple(captions),
        questions=tuple(questions),
        targets=tuple(targets),
    )


def _text(row: dict[str, Any], key: str, table: Path, position: int) -> str:
    """A field that must hold text, its lines kept: the options of a question stand on them."""
    words(row, key, table, position)
    return str(row[key]).strip()


def _boxes(text: str, table: Path, position: int) -> tuple[Box, ...]:
    """Every `[x0 y0, x1 y1]`, shares of the sides with two decimals, in pixels of 10 m."""
    found = [tuple(map(float, numbers)) for numbers in BOX.findall(text)]
    if not found or max(map(max, found)) > 1:
        raise DatasetError(
            f"record {position} of {table} needs boxes such as [0.1 0.2, 0.3 0.4] in 'output', got {text!r}"
        )
    return tuple(box_of_shares((x0, y0, x1, y1), SIDE, SIDE) for x0, y0, x1, y1 in found)


def _by_patch(path: Path, splits: tuple[str, ...]) -> Iterator[list[tuple[int, dict[str, Any]]]]:
    """The rows of each patch with their numbers from 1, patches in the order of their first row."""
    table = _table(path)
    kept = np.flatnonzero(_kept(table["split"], path, splits))
    codes = _codes(table["patch_id"])[kept]
    order = np.argsort(_ranks(codes), kind="stable")
    edges = np.flatnonzero(np.diff(codes[order])) + 1
    for group in np.split(kept[order], edges) if len(kept) else ():
        yield list(zip((group + 1).tolist(), table.take(group).to_pylist(), strict=True))


def _table(path: Path) -> Any:
    """The columns that are read, each in one piece: names as codes, texts with long offsets (together above 2 GB)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        missing = [name for name in (*CODED, *TEXTS) if name not in pq.read_schema(path).names]
        if missing:
            raise DatasetError(f"{path} has no column {missing[0]!r}; is this the published file?")
        table = pq.read_table(path, columns=[*CODED, *TEXTS])
        coded = {name: table[name].dictionary_encode() for name in CODED}
        texts = {name: table[name].cast(pa.large_string()) for name in TEXTS}
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path} is no parquet table of texts ({error}); fetch it again") from error
    return pa.table(coded | texts).unify_dictionaries().combine_chunks()


def _codes(column: Any) -> Any:
    """The numbers behind a column of names (N,), -1 where it holds none."""
    return column.combine_chunks().indices.fill_null(-1).to_numpy()


def _ranks(codes: Any) -> Any:
    """Codes renumbered by first appearance."""
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    return first[inverse]


def _kept(column: Any, path: Path, splits: tuple[str, ...]) -> Any:
    """Which rows are of these splits (N,); raises DatasetError for a name that is none of SPLITS."""
    names = column.combine_chunks().dictionary.to_pylist()
    unknown = [name for name in names if name not in SPLITS]
    if unknown or column.null_count:
        raise DatasetError(f"{path} has {(unknown or [None])[0]!r} in 'split'; it must be one of {', '.join(SPLITS)}")
    return np.isin(_codes(column), [code for code, name in enumerate(names) if name in splits])
