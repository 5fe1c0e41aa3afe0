"""Any folder of georeferenced images with a land-cover raster, polygons or captions: your own training data.

An `rsvlm-data.toml` in the folder says what is what; without one, the usual names are looked for:

    images = "images/*.tif"          # a pattern or a list of them; else images/* or the images beside the config
    sensor = "sentinel-2-l2a"        # else what the file says; bands = ["B04", ...] where it names no bands
    labels = "landcover.tif"         # one raster for all, or one an image: "labels/*.tif"; labels_band = 1
    codes = {10 = "tree cover"}      # or "worldcover"; ignore = [0]
    polygons = "landuse.gpkg"        # instead: layer = "...", column = "fclass"
    objects = false                  # true: each polygon is one thing to find; false: they are areas
    captions = "captions.csv"        # columns image and caption
    chip = 256                       # cut large scenes; 0 keeps images whole
    least_labelled = 0.1             # images of which a smaller share has a class are passed over
    terms = "CC-BY 4.0"              # the licence of the data
"""

from __future__ import annotations

import csv
import logging
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data_engine.annotated import Annotated, ClassMap, Target
from data_engine.sources.coco import absent_targets
from data_engine.sources.folder_chips import Chip, chips_of, open_image
from data_engine.sources.folder_config import CONFIG, FolderConfig, read_config
from data_engine.sources.folder_polygons import PolygonLayer, read_polygons
from data_engine.sources.folder_rasters import CodeRaster
from data_engine.splits import split_of
from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from data_engine.sources.folder_chips import Labels
    from rsvlm.raster import Raster
    from rsvlm.scene import Grid

__all__ = ["FolderConfig", "read", "read_config"]

logger = logging.getLogger(__name__)
CELL_DEGREES = 0.05  # about 5 km: chips of one cell share a split
VISIBLE = 0.25  # share of an object's area that must lie on a chip to count as there
MIN_OBJECT_PIXELS = 4.0  # area below which nothing can be made out
PRESENT = 0.05  # share of an image from which a class is a label of it


@dataclass(frozen=True, slots=True)
class _Found:
    """One image with the file of its own labels, if there is one, and what people wrote about it."""

    path: Path
    labels: Labels | None
    captions: tuple[str, ...]


def read(folder: Path, *, work: Path | None = None) -> Iterator[Annotated]:
    """Yield every image of a folder, or its chips, with class map and fractions, objects, and captions.

    Labels are brought onto the grid of the image: rasters by nearest neighbour, polygons by their coordinates.
    Fractions are shares of all pixels of an image, so where labels leave gaps they sum to less than 1. Of things to
    find, those smaller than 4 pixels or with less than a quarter on the chip are left out. The place is a cell of
    0.05 degrees, the file's name where it has no coordinates; it decides the split.

    Args:
        folder: the images, the labels and, where the usual names do not tell all, `rsvlm-data.toml`.
        work: where class maps and chips are written, `.rsvlm` in the folder if None; reused by the next run.

    Raises DatasetError, naming the file and what to do, for everything that is missing, does not fit or is damaged.
    """
    if not folder.is_dir():
        raise DatasetError(f"there is no folder {folder}; give the one that holds your images")
    config = read_config(folder)
    layer = read_polygons(folder / config.polygons, config) if config.polygons else None
    work = work or folder / ".rsvlm"
    seen: set[str] = set()
    passed, yielded = 0, 0
    for found in _images(folder, config, layer):
        with open_image(found.path, _sensor(folder, config), config.bands) as raster:
            if found.labels is not None:
                found.labels.require_overlap(raster.grid, found.path)
            if config.objects and layer is not None:
                layer.require_overlap(raster.grid, found.path)
            for chip in chips_of(raster, found.path, found.labels, config, work):
                item = _annotated(raster, chip, found, layer if config.objects else None, folder, config)
                if chip.codes is not None and sum(item.fractions.values()) < config.least_labelled:
                    passed += 1
                    continue
                seen.update(item.fractions, (target.phrase for target in item.targets))
                yielded += 1
                yield item
    _report(folder, config, seen, passed=passed, yielded=yielded)


def _report(folder: Path, config: FolderConfig, seen: set[str], *, passed: int, yielded: int) -> None:
    if passed:
        logger.warning("%s: passed over %d images or chips with too few labels", folder, passed)
    if not yielded:
        raise DatasetError(
            f"nothing of {folder} is left: {passed} images or chips have a class for less than "
            f"{config.least_labelled:.0%} of their pixels, the others are mostly nodata; check where the labels lie, "
            f"or lower 'least_labelled' in {CONFIG}"
        )
    unseen = [f"{code} ({name})" for code, name in config.codes.items() if name not in seen]
    if unseen:
        logger.warning("%s: no image has the codes %s, which %s names", folder, ", ".join(unseen), CONFIG)


def _sensor(folder: Path, config: FolderConfig) -> str | Path:
    return folder / config.sensor if config.sensor.endswith(".toml") else config.sensor


def _annotated(
    raster: Raster, chip: Chip, found: _Found, layer: PolygonLayer | None, folder: Path, config: FolderConfig
) -> Annotated:
    place = place_of(chip.grid, found.path)
    class_map, fractions = None, {}
    if found.labels is not None and chip.class_map is not None:
        class_map = ClassMap(chip.class_map, dict(found.labels.codes), ignore=(found.labels.fill,))
        fractions = _fractions(chip, found.labels)
    targets = () if layer is None else _targets(layer, chip.grid, place)
    there = {target.phrase for target in targets if target.boxes}
    return Annotated(
        image=chip.image,
        sensor=str(_sensor(folder, config)) if config.sensor else raster.sensor.name,
        place=place,
        split=split_of(place),
        captions=found.captions,
        labels=tuple(sorted({name for name, share in fractions.items() if share >= PRESENT} | there)),
        fractions=fractions,
        bands=() if config.chip else config.bands,
        acquired=raster.acquired.isoformat().replace("+00:00", "Z") if raster.acquired else "",
        targets=targets,
        class_map=class_map,
    )


def place_of(grid: Grid, image: Path) -> str:
    """The cell of 0.05 degrees that the middle of a grid lies in; the file's name where it has no coordinates."""
    if grid.crs is None:
        return f"image-{image.stem}"
    lon, lat = (float(value) for value in grid.lonlat(grid.width / 2, grid.height / 2))
    west, south = (math.floor(value / CELL_DEGREES) * CELL_DEGREES for value in (lon, lat))
    return f"lonlat{west:+.2f}{south:+.2f}"


def _fractions(chip: Chip, labels: Labels) -> dict[str, float]:
    """Share of all pixels of each class that is there; codes of the same name are one class."""
    assert chip.codes is not None  # a chip with a class map has its codes
    values, counts = np.unique(chip.codes, return_counts=True)
    shares: dict[str, float] = {}
    for value, count in zip(values, counts, strict=True):
        if name := labels.codes.get(str(value)):
            shares[name] = shares.get(name, 0.0) + float(count) / chip.codes.size
    return shares


def _targets(layer: PolygonLayer, grid: Grid, place: str) -> tuple[Target, ...]:
    """One target a class with a box and an outline a thing, and a few classes that are not there."""
    things: dict[str, list[tuple[tuple[float, float, float, float], tuple[tuple[float, float], ...]]]] = {}
    for name, polygon in layer.within(grid, visible=VISIBLE):
        if polygon.area >= MIN_OBJECT_PIXELS:
            ring = tuple((round(x, 2), round(y, 2)) for x, y in polygon.exterior.coords[:-1])
            x0, y0, x1, y1 = (round(value, 2) for value in polygon.bounds)
            things.setdefault(name, []).append(((x0, y0, x1, y1), ring))
    present = tuple(
        Target(name, boxes=tuple(box for box, _ in found), polygons=tuple(ring for _, ring in found))
        for name, found in sorted(things.items())
    )
    return present + absent_targets(layer.codes.values(), set(things), place)


def _images(folder: Path, config: FolderConfig, layer: PolygonLayer | None) -> Iterator[_Found]:
    """Every image with its labels and captions; all names are checked before the first is opened."""
    one_raster = CodeRaster(folder / config.labels, config) if config.labels and "*" not in config.labels else None
    if one_raster is not None and not one_raster.path.is_file():
        raise DatasetError(f"there is no file {one_raster.path} for the labels; mend 'labels' in {CONFIG}")
    paths = _image_paths(folder, config)
    captions = _captions(folder, config, list(paths))
    found = []
    for path, stars in paths.items():
        labels: Labels | None = one_raster or (layer if not config.objects else None)
        if "*" in config.labels:
            labels = CodeRaster(_own_labels(folder, config, path, stars), config)
        if labels is not None or layer is not None or path in captions:
            found.append(_Found(path, labels, tuple(captions.get(path, ()))))
    yield from found


def _image_paths(folder: Path, config: FolderConfig) -> dict[Path, tuple[str, ...]]:
    """The images in sorted order, each with what the stars of its pattern stood for."""
    paths: dict[Path, tuple[str, ...]] = {}
    for pattern in config.images:
        for path in folder.glob(pattern):
            inside = path.relative_to(folder).as_posix()
            hidden = any(part.startswith(".") for part in inside.split("/"))
            own = config.labels and _stars(config.labels, inside) is not None
            if path.is_file() and not hidden and not own:
                paths.setdefault(path, _stars(pattern, inside) or ())
    if not paths:
        raise DatasetError(f"{folder} has no images {' or '.join(config.images)}; name them by 'images' in {CONFIG}")
    by_stem: dict[str, Path] = {}
    for path in sorted(paths):
        if (other := by_stem.setdefault(path.stem, path)) != path:
            raise DatasetError(
                f"{other} and {path} have one name, {path.stem!r}, so their labels cannot be told apart; rename one"
            )
    return {path: paths[path] for path in sorted(paths)}


def _stars(pattern: str, text: str) -> tuple[str, ...] | None:
    match = re.fullmatch("([^/]*)".join(map(re.escape, pattern.split("*"))), text)
    return match.groups() if match else None


def _own_labels(folder: Path, config: FolderConfig, image: Path, stars: tuple[str, ...]) -> Path:
    if config.labels.count("*") != len(stars):
        raise DatasetError(
            f"{folder / CONFIG} has {config.labels.count('*')} stars in 'labels' ({config.labels}) but {len(stars)} in "
            "the pattern of the images; the stars of the one fill those of the other"
        )
    filled = "".join(part + star for part, star in zip(config.labels.split("*"), (*stars, ""), strict=True))
    if not (folder / filled).is_file():
        raise DatasetError(f"the image {image} has no labels {folder / filled}; add them, or take the image away")
    return folder / filled


def _captions(folder: Path, config: FolderConfig, images: list[Path]) -> dict[Path, list[str]]:
    """What the CSV says of each image; raises DatasetError for other columns, unknown images and empty captions."""
    if not config.captions:
        return {}
    path = folder / config.captions
    if not path.is_file():
        raise DatasetError(f"there is no file {path} for the captions; mend 'captions' in {CONFIG}")
    captions: dict[Path, list[str]] = {}
    names = {name: image for image in images for name in (image.name, image.stem, image.relative_to(folder).as_posix())}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            if not {"image", "caption"} <= set(rows.fieldnames or ()):
                raise DatasetError(f"{path} has the columns {rows.fieldnames}; it needs image and caption")
            for row in rows:
                text = " ".join((row["caption"] or "").split())
                if row["image"] not in names or not text:
                    what = "no image of the folder" if text else "an empty caption"
                    raise DatasetError(f"{path}:{rows.line_num} has {what} ({row['image']!r:.80}); mend that line")
                captions.setdefault(names[row["image"]], []).append(text)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read as a CSV in UTF-8 ({error}); save it again") from error
    if not captions:
        raise DatasetError(f"{path} holds no captions; add some, or take it out of {CONFIG}")
    return captions
