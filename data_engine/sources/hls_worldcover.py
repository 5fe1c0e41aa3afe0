"""HLS chips with ESA WorldCover fractions: index.jsonl groups chips by place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data_engine.annotated import Annotated, ClassMap
from data_engine.layout import field_of, listed, one_of, read_json_lines
from data_engine.splits import split_of
from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WORLDCOVER = {
    "10": "tree cover",
    "20": "shrubland",
    "30": "grassland",
    "40": "cropland",
    "50": "built-up",
    "60": "bare or sparse vegetation",
    "70": "snow and ice",
    "80": "permanent water",
    "90": "herbaceous wetland",
    "95": "mangroves",
    "100": "moss and lichen",
}


def read(folder: Path) -> Iterator[Annotated]:
    """Yield every chip with its class map and fractions; the labels are classes that cover at least a twentieth.

    The class map is the chip's eighth band; code 0 is WorldCover's missing pixel.
    Raises DatasetError where the index or a chip is missing, or a line lacks a field.
    """
    index = one_of(folder, "index.jsonl")
    for position, row in enumerate(read_json_lines(index), 1):
        shares = field_of(row, "worldcover_fraction", index, position)
        if not isinstance(shares, dict):
            raise DatasetError(f"record {position} of {index} has no table of shares in 'worldcover_fraction'; fix it")
        fractions = {WORLDCOVER[code]: share for code, share in shares.items() if code in WORLDCOVER}
        chip = listed(folder, field_of(row, "chip", index, position), index, position)
        place = f"hls-{field_of(row, 'place', index, position)}"
        yield Annotated(
            image=chip,
            sensor="hls",
            place=place,
            split=split_of(place),
            labels=tuple(sorted(name for name, share in fractions.items() if share >= 0.05)),
            fractions=fractions,
            class_map=ClassMap(chip, WORLDCOVER, band=8, ignore=(0,)),
        )
