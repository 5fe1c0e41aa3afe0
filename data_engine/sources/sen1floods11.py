"""Sen1Floods11 1.1, hand-labelled: Sentinel-1 and Sentinel-2 chips with surface water, in the published splits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data_engine.annotated import Annotated, ClassMap
from data_engine.layout import listed, one_of
from rsvlm.errors import DatasetError
from rsvlm.raster import read_labels

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SPLITS = {"train": "train", "valid": "val", "test": "test", "bolivia": "test"}  # Bolivia is a country held out
SENSORS = {"S1Hand": "sentinel-1-grd", "S2Hand": "sentinel-2-l1c"}  # VV, VH in dB; 13 bands, reflectance x 1e4
CODES = {"0": "dry land", "1": "water"}  # water of any kind, not flood water alone
END = "_S1Hand.tif"


def read(folder: Path) -> Iterator[Annotated]:
    """Yield the Sentinel-1 and then the Sentinel-2 chip of every line of the lists, with the class map they share.

    Label -1 (no data) counts in no fraction; a chip without labelled pixels has no fractions. The place is the chip
    (`Ghana_313799`): chips of one flood stand in several of the published splits.
    Raises DatasetError where a list or a chip it names is missing, or a line is no pair of names.
    """
    root = folder / "v1.1" if (folder / "v1.1").is_dir() else folder
    chips = one_of(root, "data/flood_events/HandLabeled")
    lists = one_of(root, "splits/flood_handlabeled")
    for part, split in SPLITS.items():
        path = one_of(lists, f"flood_{part}_data.csv")
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        for position, line in enumerate(lines, 1):
            if line.strip():
                yield from _chip(chips, line.split(","), split, (path, position))


def _chip(chips: Path, row: list[str], split: str, where: tuple[Path, int]) -> Iterator[Annotated]:
    if len(row) != 2 or not row[0].endswith(END):
        raise DatasetError(f"{where[0]}:{where[1]} is {','.join(row)!r:.80}, not NAME{END},NAME_LabelHand.tif")
    name = row[0].removesuffix(END)
    label = listed(chips / "LabelHand", row[1].strip(), *where)
    images = {folder: listed(chips / folder, f"{name}_{folder}.tif", *where) for folder in SENSORS}
    fractions = _fractions(label)
    for folder, image in images.items():
        yield Annotated(
            image=image,
            sensor=SENSORS[folder],
            place=f"sen1floods11-{name}",
            split=split,
            labels=tuple(sorted(kind for kind, share in fractions.items() if share >= 0.05)),
            fractions=fractions,
            class_map=ClassMap(label, CODES, ignore=(-1,)),
        )


def _fractions(label: Path) -> dict[str, float]:
    codes = read_labels(label)
    counts = {kind: int((codes == int(code)).sum()) for code, kind in CODES.items()}
    total = sum(counts.values())
    return {kind: count / total for kind, count in counts.items()} if total else {}
