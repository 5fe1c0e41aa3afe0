"""BigEarthNet, first version and refined: Sentinel-2 and Sentinel-1 patches with CORINE land-cover classes."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from data_engine.annotated import Annotated, ClassMap
from data_engine.layout import field_of, listed, one_of, read_json, read_parquet, split_in, words
from data_engine.splits import split_of
from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BANDS = {
    "sentinel-2-l2a": ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"),
    "sentinel-1-grd": ("VV", "VH"),
}
FOLDERS_V1 = {"sentinel-2-l2a": "BigEarthNet-v1.0", "sentinel-1-grd": "BigEarthNet-S1-v1.0"}
FOLDERS_V2 = {"sentinel-2-l2a": "BigEarthNet-S2", "sentinel-1-grd": "BigEarthNet-S1"}
NAMES_V2 = {"sentinel-2-l2a": "patch_id", "sentinel-1-grd": "s1_name"}
COLUMNS_V2 = ("patch_id", "labels", "split", "s1_name")
MAPS = "Reference_Maps"
OUTSIDE = (335, 999)  # codes of the maps without a class: glaciers and perpetual snow, unlabelled
PATCH = re.compile(
    r"(?P<scene>S[12][A-D]_[A-Z0-9_]+?_(?P<taken>\d{8}T\d{6})(?:_N\d{4}_R\d{3}_T(?P<tile>\d\d[A-Z]{3}))?)"
    r"(?:_(?P<s1_tile>\d\d[A-Z]{3}))?_(?P<column>\d+)_(?P<row>\d+)"
)
TILE_IN_PRODUCT = re.compile(r"_T(\d\d[A-Z]{3})_")


@cache
def nomenclature() -> dict[str, tuple[str, str]]:
    """The CORINE level-3 codes, each with its name of the 43 classes and its class of the 19 ("" where left out)."""
    text = resources.files("data_engine.sources").joinpath("bigearthnet_classes.toml").read_text(encoding="utf-8")
    return {str(entry["code"]): (entry["name"], entry.get("group", "")) for entry in tomllib.loads(text)["classes"]}


def groups_of(labels: tuple[str, ...]) -> tuple[str, ...]:
    """The classes of the 19 that classes of the 43 belong to, each once; 11 of the 43 belong to none."""
    group = dict(nomenclature().values())
    return tuple(dict.fromkeys(group[label] for label in labels if group[label]))


def read_v1(folder: Path, *, classes: int = 19) -> Iterator[Annotated]:
    """Yield the Sentinel-2, then the Sentinel-1 patches of the first version, whichever of the two are there.

    A patch of Sentinel-1 has the place of the Sentinel-2 patch it was made for. The split is cut by place: the
    published lists of this version put neighbours on both sides and do not come with it.

    Args:
        folder: holds BigEarthNet-v1.0, BigEarthNet-S1-v1.0 or both.
        classes: 19 or 43, the nomenclature of the labels; patches without a class of the 19 come without labels.

    Raises DatasetError for missing folders, bands and fields, names that are no patch's, and unknown classes.
    """
    if classes not in (19, 43):
        raise DatasetError(f"BigEarthNet has nomenclatures of 19 and 43 classes, not of {classes}; ask for one of them")
    for sensor, name in _present(folder, FOLDERS_V1).items():
        patches = sorted(path for path in (folder / name).iterdir() if path.is_dir())
        if not patches:
            raise DatasetError(f"{folder / name} holds no patches; give the folder the publishers' archive unpacks to")
        for patch in patches:
            yield _patch_v1(patch, sensor, classes)


def _patch_v1(patch: Path, sensor: str, classes: int) -> Annotated:
    listing, position = one_of(patch, f"{patch.name}_labels_metadata.json"), 1  # a file holds one record
    content = read_json(listing)
    labels = _labels(content, listing, position, tuple(name for name, _ in nomenclature().values()))
    own = _parsed(patch.name, listing, position)
    partner = own if sensor == "sentinel-2-l2a" else _partner(content, listing, position)
    tile = own["s1_tile"] or _tile(content, listing, position)
    place = _place(tile, partner)
    return Annotated(
        image=_files(patch.parent, patch.name, sensor, listing, position),
        bands=BANDS[sensor],
        sensor=sensor,
        place=place,
        split=split_of(place),
        labels=groups_of(labels) if classes == 19 else labels,
        acquired=_acquired(own),
    )


def read_v2(folder: Path) -> Iterator[Annotated]:
    """Yield each patch of refined BigEarthNet (v2) by Sentinel-2 and by Sentinel-1, whichever of the two are there.

    Labels are the published ones of the 19 classes, the split is the published one. With Reference_Maps there, each
    comes with the map of CORINE codes under the 19 names; `nomenclature` has the 43. The patches with snow, cloud
    or shadow, which the publishers list apart, are not read.

    Args:
        folder: holds metadata.parquet and BigEarthNet-S2, BigEarthNet-S1 or both, and Reference_Maps where wanted.

    Raises DatasetError for missing files, bands and columns, names that are no patch's, and unknown classes.
    """
    listing = one_of(folder, "metadata.parquet")
    present = _present(folder, FOLDERS_V2)
    known = tuple(dict.fromkeys(group for _, group in nomenclature().values() if group))
    for position, row in enumerate(read_parquet(listing, COLUMNS_V2), 1):
        patch = words(row, "patch_id", listing, position)
        optical = _parsed(patch, listing, position)
        if not optical["tile"]:
            raise DatasetError(f"record {position} of {listing} names no tile in {patch!r}; is it the one of v2?")
        shared = {
            "place": _place(optical["tile"], optical),
            "split": split_in(row, listing, position),
            "labels": _labels(row, listing, position, known),
            "class_map": _class_map(folder, optical["scene"], patch, listing, position),
        }
        for sensor, name in present.items():
            yield _view(folder / name, sensor, row, shared, listing, position)


def _view(root: Path, sensor: str, row: Any, shared: dict[str, Any], listing: Path, position: int) -> Annotated:
    name = words(row, NAMES_V2[sensor], listing, position)
    parsed = _parsed(name, listing, position)
    return Annotated(
        image=_files(root, f"{parsed['scene']}/{name}", sensor, listing, position),
        bands=BANDS[sensor],
        sensor=sensor,
        acquired=_acquired(parsed),
        **shared,
    )


def _present(folder: Path, names: dict[str, str]) -> dict[str, str]:
    one_of(folder, *names.values())
    return {sensor: name for sensor, name in names.items() if (folder / name).is_dir()}


def _parsed(name: str, listing: Path, position: int) -> dict[str, str]:
    match = PATCH.fullmatch(name)
    if match is None:
        raise DatasetError(f"record {position} of {listing} names {name!r}, which is no patch; is this BigEarthNet?")
    return match.groupdict(default="")


def _partner(content: Any, listing: Path, position: int) -> dict[str, str]:
    return _parsed(words(content, "corresponding_s2_patch", listing, position), listing, position)


def _tile(content: Any, listing: Path, position: int) -> str:
    source = words(content, "tile_source", listing, position)
    match = TILE_IN_PRODUCT.search(source)
    if match is None:
        raise DatasetError(f"record {position} of {listing} names no tile in 'tile_source', got {source!r}")
    return match[1]


def _place(tile: str, patch: dict[str, str]) -> str:
    """Tile and patch grid, the same for both sensors, both versions and all dates."""
    return f"bigearthnet-T{tile}-{int(patch['column'])}-{int(patch['row'])}"


def _acquired(patch: dict[str, str]) -> str:
    return re.sub(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)", r"\1-\2-\3T\4:\5:\6Z", patch["taken"])


def _files(root: Path, patch: str, sensor: str, listing: Path, position: int) -> tuple[Path, ...]:
    name = patch.rpartition("/")[2]
    return tuple(listed(root, f"{patch}/{name}_{band}.tif", listing, position) for band in BANDS[sensor])


def _labels(row: Any, listing: Path, position: int, known: tuple[str, ...]) -> tuple[str, ...]:
    labels = field_of(row, "labels", listing, position)
    unknown = [label for label in labels if label not in known] if isinstance(labels, list) else [labels]
    if unknown:
        raise DatasetError(
            f"record {position} of {listing} has {unknown[0]!r} in 'labels', none of the {len(known)} classes of "
            "BigEarthNet; is this the published file?"
        )
    return tuple(labels)


def _class_map(folder: Path, scene: str, patch: str, listing: Path, position: int) -> ClassMap | None:
    if not (folder / MAPS).is_dir():
        return None
    path = listed(folder / MAPS, f"{scene}/{patch}/{patch}_reference_map.tif", listing, position)
    codes = {code: group for code, (_, group) in nomenclature().items() if group}
    left_out = tuple(int(code) for code, (_, group) in nomenclature().items() if not group)
    return ClassMap(path, codes, ignore=(*left_out, *OUTSIDE))
