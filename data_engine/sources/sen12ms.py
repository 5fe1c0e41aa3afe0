"""SEN12MS: Sentinel-1, Sentinel-2 and MODIS land cover of the same ground, in four seasons."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from data_engine.annotated import Annotated, ClassMap
from data_engine.layout import one_of
from data_engine.splits import split_of
from rsvlm.errors import DatasetError
from rsvlm.raster import read_labels

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SEASONS = ("ROIs1158_spring", "ROIs1868_summer", "ROIs1970_fall", "ROIs2017_winter")
SENSORS = {"s1": "sentinel-1-grd", "s2": "sentinel-2-l1c"}  # VV, VH in dB; 13 bands, reflectance x 1e4
NAME = re.compile(r"(ROIs\d{4}_[a-z]+)_lc_(\d+)_p(\d+)\.tif")
IGBP = {
    "1": "evergreen needleleaf forest",
    "2": "evergreen broadleaf forest",
    "3": "deciduous needleleaf forest",
    "4": "deciduous broadleaf forest",
    "5": "mixed forest",
    "6": "closed shrubland",
    "7": "open shrubland",
    "8": "woody savanna",
    "9": "savanna",
    "10": "grassland",
    "11": "permanent wetland",
    "12": "cropland",
    "13": "urban and built-up land",
    "14": "cropland and natural vegetation mosaic",
    "15": "permanent snow and ice",
    "16": "barren land",
    "17": "water",
}
NO_CLASS = (0, 255)


def read(folder: Path) -> Iterator[Annotated]:
    """Yield the Sentinel-1 and then the Sentinel-2 patch of every land-cover patch, by season, scene and number.

    The class map is band 1 of the land cover, IGBP's 17 classes at MODIS's 500 m resampled to 10 m; bands 2 to 4
    (LCCS) are not read. The place is the scene: patches overlap by half. With the published test_list.txt there (in
    the folder or in splits/) its patches are "test"; of the rest places are cut into train and val.
    Folders are <season>/<kind>_<scene>/, or <season>_<kind>/<kind>_<scene>/ as some archives unpack; no copy was at
    hand. Raises DatasetError for missing folders, patches and sensors, and names that are no patch's.
    """
    tested = _tested(folder)
    found = sorted((path for season in SEASONS for path in _land_cover(folder, season)), key=_order)
    if not found:
        raise DatasetError(f"{folder} holds no {SEASONS[0]}/lc_*/*.tif, nor of another season; unpack the land cover")
    for path in found:
        yield from _patch(folder, path, tested)


def _land_cover(folder: Path, season: str) -> list[Path]:
    return [path for root in (season, f"{season}_lc") for path in folder.glob(f"{root}/lc_*/*.tif")]


def _order(path: Path) -> tuple[str, int, int]:
    match = NAME.fullmatch(path.name)
    if match is None:
        raise DatasetError(f"{path} is no patch of SEN12MS, such as ROIs1158_spring_lc_1_p30.tif; take it away")
    return match[1], int(match[2]), int(match[3])


def _patch(folder: Path, path: Path, tested: frozenset[str]) -> Iterator[Annotated]:
    season, scene, patch = _order(path)
    images = {kind: _image(folder, season, kind, scene, patch) for kind in SENSORS}
    place = f"sen12ms-{season}-{scene}"
    held_out = f"{season}_s2_{scene}_p{patch}" in tested
    fractions = _fractions(path)
    for kind, image in images.items():
        yield Annotated(
            image=image,
            sensor=SENSORS[kind],
            place=place,
            split="test" if held_out else split_of(place),
            labels=tuple(sorted(name for name, share in fractions.items() if share >= 0.05)),
            fractions=fractions,
            class_map=ClassMap(path, IGBP, ignore=NO_CLASS),
        )


def _image(folder: Path, season: str, kind: str, scene: int, patch: int) -> Path:
    name = f"{kind}_{scene}/{season}_{kind}_{scene}_p{patch}.tif"
    return one_of(folder, f"{season}/{name}", f"{season}_{kind}/{name}")


def _tested(folder: Path) -> frozenset[str]:
    """The patches of the published test part by the name of their Sentinel-2 file; none where there is no list."""
    for path in (folder / "splits/test_list.txt", folder / "test_list.txt"):
        if path.is_file():
            names = path.read_text(encoding="utf-8-sig", errors="replace").split()
            return frozenset(
                name.replace("_s1_", "_s2_").replace("_lc_", "_s2_").removesuffix(".tif") for name in names
            )
    return frozenset()


def _fractions(path: Path) -> dict[str, float]:
    codes = read_labels(path)
    counts = {name: int((codes == int(code)).sum()) for code, name in IGBP.items()}
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items() if count} if total else {}
