"""What an annotation proves about its image: shares, places, complete counts, what is there and what is surely not."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from data_engine.composition import composition
from data_engine.recipes.words import names_for
from data_engine.sources.bigearthnet import nomenclature
from rsvlm.language.phrases import singular
from rsvlm.raster import open_raster, read_labels

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from data_engine.annotated import Annotated, Box, Ring
    from rsvlm.scene import Grid

LEAST = 0.02  # of the image; a class that covers less, but something, is neither there nor absent
MAPPED = 0.9  # of the pixels a class map must name before shares are told


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of one image. All classes are named as the source names them.

    `shares` are of every class the source would name, 0 where it is not there; `pixels` where a class of the map is
    (H, W). `boxes` and `rings` are of object classes marked completely, empty where there is none; they count in
    pixels of `grid`, the image's own. `present` and `absent` are sure; a class in neither is not asked about.
    """

    shares: dict[str, float] = field(default_factory=dict)
    pixels: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    neighbours: frozenset[frozenset[str]] = frozenset()
    boxes: dict[str, tuple[Box, ...]] = field(default_factory=dict)
    rings: dict[str, tuple[Ring, ...]] = field(default_factory=dict)
    grid: Grid | None = None
    present: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Every class that is or may be there."""
        return tuple(sorted({*self.present, *(c for c, s in self.shares.items() if s), *_marked(self.boxes)}))

    @property
    def georeferenced(self) -> bool:
        """Whether it is known where on Earth the image lies."""
        return self.grid is not None and self.grid.crs is not None


@cache
def table() -> dict[str, Any]:
    """The words of recipes/questions.toml."""
    text = resources.files("data_engine").joinpath("recipes/questions.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def evidence_of(item: Annotated, source: str) -> Evidence:
    """Gather what an annotation proves; reads its class map and, where places or dates matter, the image's header.

    Raises as `rsvlm.raster.open_raster`, `read_labels` and `data_engine.composition.composition`.
    """
    shares, pixels, neighbours = _land_cover(item)
    boxes, rings = _objects(item)
    space = _space(source)
    labels = {label for label in item.labels if label in space}
    present = {name for name, share in shares.items() if share >= LEAST} | {*_marked(boxes)} | labels
    maybe = present | {name for name, share in shares.items() if share} | {t.phrase for t in item.targets if t.mask}
    missing = {name for name, share in shares.items() if not share} | {name for name in boxes if not boxes[name]}
    missing |= {name for name in space if labels and name not in labels}
    return Evidence(
        shares=shares,
        pixels=pixels,
        neighbours=neighbours,
        boxes=boxes,
        rings=rings,
        grid=_grid(item) if pixels or boxes or item.acquired else None,
        present=tuple(sorted(present)),
        absent=tuple(sorted(name for name in missing - maybe if not any(related(name, other) for other in maybe))),
    )


def related(one: str, other: str) -> bool:
    """Whether people may say the one class for the other: they share a name, or are listed as related."""
    names = [{singular(name) for name in names_for(each)} for each in (one, other)]
    if names[0] & names[1]:
        return True
    return any({one.lower(), other.lower()} <= set(line) for line in table()["related"]["lines"])


def _marked(boxes: dict[str, tuple[Box, ...]]) -> list[str]:
    return [name for name, marked in boxes.items() if marked]


def _land_cover(
    item: Annotated,
) -> tuple[dict[str, float], dict[str, NDArray[np.bool_]], frozenset[frozenset[str]]]:
    """Shares of every class the source maps, and where they are, as far as there is a class map."""
    if item.class_map is None:
        return dict(item.fractions), {}, frozenset()
    names = {int(code): name for code, name in item.class_map.codes.items()}
    codes = read_labels(item.class_map.path, band=item.class_map.band)
    found = composition(codes, names, item.class_map.ignore)
    if found.counted < MAPPED:
        return {}, {}, frozenset()
    named = sorted({name for code, name in names.items() if code not in item.class_map.ignore})
    pixels = {name: np.isin(codes, [c for c, n in names.items() if n == name]) for name in found.fractions}
    shares = {name: found.fractions.get(name, 0.0) for name in named}
    return shares, pixels, frozenset(frozenset(pair) for pair in found.neighbours)


def _objects(item: Annotated) -> tuple[dict[str, tuple[Box, ...]], dict[str, tuple[Ring, ...]]]:
    """Boxes and outlines of object classes, nothing where they may be incomplete.

    A source that names classes which are not there, or whose labels are just the marked classes, marks completely.
    """
    marked = [target for target in item.targets if target.kind == "class" and target.mask is None]
    there = {target.phrase for target in marked if target.boxes or target.polygons}
    if len(there) == len(marked) and there != set(item.labels):
        return {}, {}
    boxes = {target.phrase: target.boxes or tuple(_around(ring) for ring in target.polygons) for target in marked}
    return boxes, {target.phrase: target.polygons for target in marked if target.polygons}


def _around(ring: Ring) -> Box:
    xs, ys = [x for x, _ in ring], [y for _, y in ring]
    return min(xs), min(ys), max(xs), max(ys)


def _space(source: str) -> frozenset[str]:
    """All classes a source's labels are drawn from, none where labels do not name all that is there."""
    if table()["spaces"].get(source) != "bigearthnet":
        return frozenset()
    return frozenset(group for _, group in nomenclature().values() if group)


def _grid(item: Annotated) -> Grid:
    """The grid of the image, of its finest band."""
    files: tuple[Path, ...] = item.image if isinstance(item.image, tuple) else (item.image,)
    several = isinstance(item.image, tuple) and len(item.bands) == len(files)
    grids = []
    for position, file in enumerate(files):
        bands = (item.bands[position],) if several else item.bands or None
        with open_raster(file, sensor=item.sensor, bands=bands) as raster:
            grids.append(raster.grid)
    return max(grids, key=lambda grid: grid.height * grid.width)
