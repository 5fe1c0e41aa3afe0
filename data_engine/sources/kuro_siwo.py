"""Kuro Siwo: Sentinel-1 before and during floods, with permanent and flood water marked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio

from data_engine.annotated import Annotated, ClassMap, Pair
from data_engine.layout import every, field_of, read_json
from data_engine.splits import split_of
from data_engine.unpacking import decibels, work_folder, write_once, write_raster
from rsvlm.errors import DatasetError
from rsvlm.raster import read_labels

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SENSOR = "sentinel-1-grd"
BANDS = ("VV", "VH")
CODES = {"0": "dry land", "1": "permanent water", "2": "flood water"}
NO_DATA, FLOOD = 3, 2
VALIDATION = {"514", "559", "279", "520", "437", "1111003", "1111008"}  # activations of the publishers' configuration
TEST = {"321", "561", "445", "562", "411", "1111002", "277", "1111007", "205", "1111013"}
TRAIN = {"130", "470", "555", "118", "174", "324", "421", "554", "427", "518", "502", "498", "497", "496", "492", "147"}
TRAIN |= {"267", "273", "275", "417", "567", "1111011", "1111004", "1111009", "1111010", "1111006", "1111005"}


def read(folder: Path, *, unpacked: Path | None = None) -> Iterator[Annotated]:
    """Yield every labelled grid cell as a pair: the last Sentinel-1 image before the flood and the one during it.

    Published backscatter is linear; VV and VH are written once in dB as one GeoTIFF a date to `unpacked` (unpacked/),
    with the mask of flood water. Permanent water is a class of the map and no change. Cells without MK0_MLU, published
    for pretraining, are passed over. Splits are the publishers' activations; others are cut. The place is the event
    and area: cells of one touch. Names of files and fields of info.json were seen in others' loaders; no copy was at
    hand. Raises DatasetError for missing cells, bands and fields, and more than one file of a band.
    """
    work = work_folder(folder, unpacked)
    labelled = [path.parent for path in every(folder, "**/info.json") if any(path.parent.glob("MK0_MLU*.tif"))]
    if not labelled:
        raise DatasetError(f"{folder} holds no cell with MK0_MLU*.tif beside info.json; unpack the labelled events")
    for cell in labelled:
        yield _cell(cell, work / cell.relative_to(folder))


def _cell(cell: Path, work: Path) -> Annotated:
    listing = cell / "info.json"
    info = read_json(listing)
    event, area = str(field_of(info, "actid", listing, 1)), str(field_of(info, "aoiid", listing, 1))
    labels = _one(cell, "MK0_MLU")
    before, after = (_image(cell, date, work / f"{name}.tif") for date, name in (("SL1", "before"), ("MS1", "after")))
    mask = write_once(work / "flood.tif", lambda path: _write_flood(labels, path))
    fractions = _fractions(labels)
    place = f"kuro-siwo-{event}-{area}"
    return Annotated(
        image=after,
        sensor=SENSOR,
        place=place,
        split=_split(event, place),
        labels=tuple(sorted(kind for kind, share in fractions.items() if share >= 0.05)),
        fractions=fractions,
        acquired=_acquired(info),
        class_map=ClassMap(labels, CODES, ignore=(NO_DATA,)),
        pair=Pair((before,), (after,), (SENSOR,), mask=mask, phrase="flood"),
    )


def _split(event: str, place: str) -> str:
    known = {"val": VALIDATION, "test": TEST, "train": TRAIN}
    return next((split for split, events in known.items() if event in events), "") or split_of(place)


def _acquired(info: Any) -> str:
    """The day of the image during the flood, where info.json tells it."""
    date = info.get("sources", {}).get("MS1", {}).get("source_date", "") if isinstance(info, dict) else ""
    return date[:10] if isinstance(date, str) else ""


def _one(cell: Path, start: str) -> Path:
    found = every(cell, f"{start}*.tif")
    if len(found) > 1:
        raise DatasetError(f"{cell} holds {len(found)} files {start}*.tif where one belongs; unpack it again")
    return found[0]


def _image(cell: Path, date: str, path: Path) -> Path:
    files = [_one(cell, f"{date}_I{band}") for band in BANDS]
    return write_once(path, lambda beside: _write_decibels(files, beside))


def _write_decibels(files: list[Path], path: Path) -> None:
    with rasterio.open(files[0]) as source:
        crs, transform = source.crs, source.transform
    layers = [read_labels(file) for file in files]
    if layers[0].shape != layers[1].shape:
        raise DatasetError(f"{files[0]} and {files[1].name} differ in size; unpack the cell again")
    write_raster(path, decibels(np.stack(layers)), BANDS, crs=crs, transform=transform)


def _write_flood(labels: Path, path: Path) -> None:
    with rasterio.open(labels) as source:
        crs, transform = source.crs, source.transform
    flood = (read_labels(labels) == FLOOD).astype(np.uint8)[None] * 255
    write_raster(path, flood, ("flood",), crs=crs, transform=transform)


def _fractions(labels: Path) -> dict[str, float]:
    codes = read_labels(labels)
    counts = {kind: int((codes == int(code)).sum()) for code, kind in CODES.items()}
    total = sum(counts.values())
    return {kind: count / total for kind, count in counts.items()} if total else {}
