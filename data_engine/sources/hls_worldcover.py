"""HLS chips with ESA WorldCover fractions: index.jsonl groups chips by place."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from data_engine.annotated import Annotated
from data_engine.splits import split_of

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
    """Yield every chip with its class fractions; the labels are classes that cover at least a twentieth."""
    for line in (folder / "index.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        fractions = {
            WORLDCOVER[code]: share for code, share in row["worldcover_fraction"].items() if code in WORLDCOVER
        }
        place = f"hls-{row['place']}"
        yield Annotated(
            image=folder / row["chip"],
            sensor="hls",
            place=place,
            split=split_of(place),
            labels=tuple(sorted(name for name, share in fractions.items() if share >= 0.05)),
            fractions=fractions,
        )
