"""One simulated place: Sentinel-2, Sentinel-1, HLS and aerial images of known ground, some at two dates."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyproj
import rasterio
from affine import Affine

from data_engine.landscape import Landscape, Layout, draw
from data_engine.objects import CATEGORIES, Stage, Thing, place_objects, replace_objects
from data_engine.recipes.words import counted
from data_engine.samples import SIMULATED, write_geotiff, write_scene
from data_engine.simulate import beyond_swath, change, clouded, simulate
from data_engine.sources.hls_worldcover import WORLDCOVER
from data_engine.spectra import SURFACES
from rsvlm.errors import ConfigError
from rsvlm.scene import Grid, Window
from rsvlm.sensors import SENSORS

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from rsvlm.scene import Scene

VERSION = 1  # of what a seed makes; a folder of another version is refused
RECORD = "place.json"  # written last into a place's folder, which then moves into place
MAPPED = ("10", "20", "30", "40", "50", "60", "70", "80", "90")  # WorldCover's classes that are simulated
CODES = {code: WORLDCOVER[code] for code in MAPPED} | {"201": "flood water", "202": "burnt area"}  # the last are ours
MAP_CODE = np.array([next((int(c) for c, n in CODES.items() if n == s.cover), 0) for s in SURFACES], dtype=np.uint8)
SETTINGS: dict[str, Layout] = {
    "farmland": Layout(forest=0.1, roads=2, towns=1, town_m=260),
    "forest": Layout(forest=0.75, conifers=0.6, roads=1, towns=0, wild=True, relief_m=80),
    "coast": Layout(forest=0.15, sea=0.45, roads=1, towns=1, town_m=300),
    "town": Layout(forest=0.08, roads=3, towns=3, town_m=650),
    "river": Layout(forest=0.15, river_m=110, marsh_m=50, roads=1, towns=1, town_m=280),
    "lakes": Layout(forest=0.5, conifers=0.7, lakes=0.2, marsh_m=40, roads=1, towns=0, wild=True),
    "grassland": Layout(forest=0.06, roads=1, towns=0, wild=True, relief_m=50),
    "shrubland": Layout(forest=0.08, shrubs=0.55, roads=1, towns=0, wild=True, relief_m=120),
}
AFTERMATH = {
    "flood": "flood",
    "burn": "burnt area",
    "clear-cut": "felled forest",
    "new buildings": "new buildings",
    "harvest": "harvested field",
    "snowfall": "snow",
}
MONTHS = {"spring": 4, "summer": 7, "autumn": 10, "winter": 1}
SITES: dict[str, tuple[Layout, dict[str, tuple[int, int]]]] = {  # what an aerial image holds, at least and at most
    "harbour": (Layout(sea=0.62, forest=0.05), {"ship": (1, 7), "storage tank": (0, 3)}),
    "airfield": (Layout(forest=0.04), {"aircraft": (1, 8), "building": (0, 3)}),
    "tank farm": (Layout(forest=0.05), {"storage tank": (1, 12), "building": (0, 4)}),
    "settlement": (Layout(forest=0.12), {"building": (2, 16)}),
    "nursery": (Layout(forest=0.06), {"greenhouse": (1, 6), "building": (0, 4)}),
}
WIDE = Grid(384, 384)  # pixels of 10 m: what HLS sees as 128 x 128 pixels of 30 m
INNER = Window(96, 96, 192, 192)  # the part that Sentinel-1 and Sentinel-2 see
AERIAL_PX = 256
ZONES, ROWS, COLUMNS = 60, 100, 4  # UTM zones, and places along and across each
MOST = ZONES * ROWS * COLUMNS


@dataclass(frozen=True, slots=True)
class Image:
    """One line of a place's record: a file or a pair of dates, with what is true of it. Names are file names."""

    file: str
    sensor: str
    acquired: str
    scene: str
    classes: str
    targets: list[dict[str, Any]]
    pair: dict[str, Any] | None = None


def corner_of(number: int) -> tuple[int, int, int]:
    """EPSG code of a UTM zone, easting and northing (metres) of a place's north-western corner; never two alike.

    Corners are at least 20 km apart, and no place is larger than 15 km.
    """
    zone, column, row = number % ZONES, number // (ZONES * ROWS), number // ZONES % ROWS
    return 32601 + zone * 7 % ZONES, 450_000 + 20_000 * column, 1_000_000 + 60_000 * (row * 37 % ROWS)


class Place:
    """Makes one place: its random choices, its images and its record."""

    def __init__(self, folder: Path, number: int, seed: int) -> None:
        self.folder, self.number = folder, number
        self.rng = np.random.default_rng((seed, number, 9))
        self.seed = int(self.rng.integers(2**31))
        self.made_of = seed
        self.setting = list(SETTINGS)[number % len(SETTINGS)]
        self.season = str(self.rng.choice(list(MONTHS)))
        self.layout = _varied(replace(SETTINGS[self.setting], season=self.season), self.rng)
        self.epsg, self.west, self.north = corner_of(number)
        day = datetime(int(self.rng.integers(2017, 2024)), MONTHS[self.season], int(self.rng.integers(1, 28)), 10, 30)
        self.noon_shift = timedelta(hours=(6 * (self.epsg - 32600) - 183) / 15)
        self.day = (day - self.noon_shift).replace(second=int(self.rng.integers(60)), microsecond=0)
        self.images: list[Image] = []

    def write(self) -> None:
        """Write all images and, last, the record."""
        self._satellites()
        if self.number % 5 < 2:  # every setting gets some, since there are eight of those
            self._aerial()
        record = {"version": VERSION, "seed": self.made_of, "place": f"simulated-{self.number}"}
        record["images"] = [asdict(image) for image in self.images]
        (self.folder / RECORD).write_text(json.dumps(record) + "\n", encoding="utf-8")

    def grid(self, shape: tuple[int, int], pixel_m: float, *, south_m: float = 0.0) -> Grid:
        """Pixels of a size from the place's corner, or from south of it."""
        corner = Affine(pixel_m, 0, self.west, 0, -pixel_m, self.north - south_m)
        return Grid(*shape, corner, pyproj.CRS.from_epsg(self.epsg))

    def _satellites(self) -> None:
        """Sentinel-2 and Sentinel-1 of the inner ground, HLS of all of it, and perhaps a later date."""
        ground = draw(self.layout, self.grid(WIDE.shape, 10.0), seed=self.seed)
        stage = self._with_large_objects(ground)
        before, wedge = stage.landscape(), 0.0
        if not stage.things and self.rng.random() < 0.15:
            wedge = float(self.rng.uniform(0.05, 0.3))
        clouds = float(self.rng.uniform(0.05, 0.3)) if not stage.things and self.rng.random() < 0.2 else 0.0
        self._optical(before, stage.things, "s2", self.day, clouds=clouds, wedge=wedge)
        self._radar(before, stage.things, "s1", self.day, wedge=wedge)
        self._hls(before)
        if self.rng.random() < 0.6:
            self._later(stage, before)

    def _with_large_objects(self, ground: Landscape) -> Stage:
        """Ships and other large objects on some of the places."""
        counts: dict[str, int] = {}
        if ground.is_any("clear water", "turbid water").mean() > 0.15 and self.rng.random() < 0.7:
            counts["ship"] = int(self.rng.integers(1, 8))
        if self.setting in ("farmland", "coast", "town") and self.rng.random() < 0.4:
            counts[str(self.rng.choice(["storage tank", "greenhouse"]))] = int(self.rng.integers(1, 6))
        return _where_there_is_room(Stage(ground), counts, seed=self.seed, rim_m=10.0 * (INNER.row + 2))

    def _optical(
        self,
        ground: Landscape,
        things: tuple[Thing, ...],
        name: str,
        day: datetime,
        *,
        clouds: float = 0.0,
        wedge: float = 0.0,
    ) -> None:
        seed = int(self.rng.integers(2**31))
        scene = simulate(ground, SENSORS["sentinel-2-l2a"], seed=seed, acquired=day, clouds=clouds).crop(INNER)
        scene = beyond_swath(scene, wedge, seed=seed) if wedge else scene
        hidden = _inner(clouded(ground, clouds, seed=seed)) | ~scene.valid
        self._add(name, scene, np.where(hidden, 0, _inner(MAP_CODE[ground.surfaces])), things, INNER)

    def _radar(
        self, ground: Landscape, things: tuple[Thing, ...], name: str, day: datetime, *, wedge: float = 0.0
    ) -> None:
        seed = int(self.rng.integers(2**31))
        near = 31 + 14 * (self.number * 0.618034 % 1)  # the same orbit sees a place under the same angle again
        angles = near, near + 16 * 3.84 / 250  # a swath of 250 km spans about 16 degrees
        acquired = day + timedelta(hours=-4.5, minutes=seed % 60)
        scene = simulate(ground, SENSORS["sentinel-1-grd"], seed=seed, acquired=acquired, incidence_deg=angles)
        scene = scene.crop(INNER)
        scene = beyond_swath(scene, wedge, seed=seed) if wedge else scene
        self._add(name, scene, np.where(scene.valid, _inner(MAP_CODE[ground.surfaces]), 0), things, INNER)

    def _hls(self, ground: Landscape) -> None:
        """Simulated at 10 m and averaged to 30 m, so that pixels are mixed as real ones are."""
        seed = int(self.rng.integers(2**31))
        fine = simulate(ground, SENSORS["hls"], seed=seed, acquired=self.day - timedelta(hours=0.5))
        height, width = (side // 3 for side in fine.shape)
        pixels = fine.pixels.reshape(-1, height, 3, width, 3).mean(axis=(2, 4))
        valid, grid = np.ones((height, width), dtype=bool), fine.grid.resized(height, width)
        classes = _commonest(MAP_CODE[ground.surfaces], 3)
        self._add("hls", replace(fine, pixels=pixels, valid=valid, grid=grid), classes, None, None)

    def _later(self, stage: Stage, before: Landscape) -> None:
        """A second date after the first kind of change, in a random order, that alters enough of the inner ground."""
        rare = 3 * ["flood", "harvest"]  # few places can show these, so they are tried more
        kinds = [*rare, "clear-cut", "new buildings", "objects"]
        kinds.append("snowfall" if self.season == "winter" else "burn")
        for kind in self.rng.permutation(kinds):
            things, phrase = stage.things, AFTERMATH.get(str(kind), "")
            captions: tuple[str, ...] = ()
            if kind == "objects":
                later, captions = self._come_and_gone(stage)
                things, after = later.things, later.landscape()
            elif kind == "flood" and not before.is_any("clear water", "turbid water").any():
                continue
            else:
                after, _ = change(stage.ground, str(kind), seed=self.seed)
                after = Stage(after, things).landscape()
            changed = _inner(after.surfaces != before.surfaces)
            if changed.mean() > (0.001 if kind == "objects" else 0.01):
                self._write_later(after, things, changed, phrase, captions)
                return

    def _write_later(
        self,
        after: Landscape,
        things: tuple[Thing, ...],
        changed: NDArray[np.bool_],
        phrase: str,
        captions: tuple[str, ...],
    ) -> None:
        day = self.day + timedelta(days=int(self.rng.integers(1, 4)) * 6)
        self._optical(after, things, "s2_later", day)
        self._radar(after, things, "s1_later", day)
        optical = self.images[-2]
        _write_codes(self.folder / "changed.tif", changed.astype(np.uint8), self.grid(WIDE.shape, 10.0).window(INNER))
        pair = {
            "before": ["s2.tif", "s1.tif"],
            "after": ["s2_later.tif", "s1_later.tif"],
            "sensors": ["sentinel-2-l2a", "sentinel-1-grd"],
            "mask": "changed.tif",
            "phrase": phrase,
            "captions": list(captions),
        }
        self.images[-2] = replace(optical, pair=pair)

    def _come_and_gone(self, stage: Stage, *, rim_m: float = 10.0 * (INNER.row + 2)) -> tuple[Stage, tuple[str, ...]]:
        """A later date with objects lost and new, and a sentence that counts them."""
        kinds = sorted({thing.category for thing in stage.things})
        if not kinds:
            return stage, ()
        lost = int(self.rng.integers(0, len(stage.things) + 1))
        bare = replace_objects(stage, lost=lost, new={}, seed=self.seed)
        wanted = {str(self.rng.choice(kinds)): int(self.rng.integers(0 if lost else 1, 4))}
        try:
            later = replace_objects(stage, lost=lost, new=wanted, seed=self.seed, rim_m=rim_m)
        except ConfigError:  # a full scene: objects only leave it
            later = bare
        gone = _counts(tuple(set(stage.things) - set(later.things)))
        new = _counts(tuple(set(later.things) - set(stage.things)))
        parts = [f"{_listed(new)} appeared"] if new else []
        parts += [f"{_listed(gone)} disappeared"] if gone else []
        return later, (f"{' and '.join(parts)}.".capitalize(),) if parts else ()

    def _aerial(self) -> None:
        """An aerial image 8 km south of the satellites', with objects, and perhaps a later one."""
        pixel_m = float(self.rng.choice([0.5, 0.6, 1.0]))
        site = str(self.rng.choice(list(SITES)))
        layout, limits = SITES[site]
        layout = replace(layout, season=self.season, towns=0, field_m=260 * pixel_m, relief_m=0.5)
        grid = self.grid((AERIAL_PX, AERIAL_PX), pixel_m, south_m=8000)
        ground = draw(layout, grid, seed=self.seed + 1)
        counts = {kind: int(self.rng.integers(low, high + 1)) for kind, (low, high) in limits.items()}
        stage = _where_there_is_room(Stage(ground), counts, seed=self.seed, rim_m=2 * pixel_m)
        sensor = str(self.rng.choice(["naip", "rgb"]))
        self._fly(stage, "aerial", sensor, site, self.day)
        if stage.things and self.rng.random() < 0.5:
            later, captions = self._come_and_gone(stage, rim_m=2 * pixel_m)
            self._fly(later, "aerial_later", sensor, site, self.day + timedelta(days=364))
            changed = stage.landscape().surfaces != later.landscape().surfaces
            _write_codes(self.folder / "aerial_changed.tif", changed.astype(np.uint8), grid)
            pair = {
                "before": ["aerial.tif"],
                "after": ["aerial_later.tif"],
                "sensors": [sensor],
                "mask": "aerial_changed.tif",
                "phrase": "",
                "captions": list(captions),
            }
            self.images[-1] = replace(self.images[-1], pair=pair)

    def _fly(self, stage: Stage, name: str, sensor: str, site: str, day: datetime) -> None:
        ground = stage.landscape()
        scene = simulate(ground, SENSORS[sensor], seed=int(self.rng.integers(2**31)), acquired=day)
        whole = Window(0, 0, *ground.grid.shape)
        self._add(name, scene, MAP_CODE[ground.surfaces], stage.things, whole, site=site)

    def _add(
        self,
        name: str,
        scene: Scene,
        classes: NDArray[np.uint8],
        things: tuple[Thing, ...] | None,
        window: Window | None,
        *,
        site: str = "",
    ) -> None:
        """Write an image with its class map, and note what is true of it; no targets where `things` is None."""
        word = site or self.setting
        path = self.folder / f"{name}.tif"
        write_scene(path, scene, f"{SIMULATED}: {word} in {self.season}")
        if not scene.valid.all() and scene.sensor.units == "dB":
            with rasterio.open(path, "r+") as file:
                file.nodata = 0
        _write_codes(self.folder / f"{name}_classes.tif", classes, scene.grid)
        kinds = [kind for kind in CATEGORIES if site or kind != "building"]  # houses of towns are no objects
        targets = _targets(things, kinds, window) if things is not None and window is not None else []
        acquired = scene.acquired.isoformat() if scene.acquired else ""
        self.images.append(Image(path.name, scene.sensor.name, acquired, word, f"{name}_classes.tif", targets))


def _targets(things: tuple[Thing, ...], kinds: list[str], window: Window) -> list[dict[str, Any]]:
    """One class target for each category, there or not, and one for each object its colour or size sets apart."""
    found: list[dict[str, Any]] = []
    for kind in kinds:
        alike = [thing for thing in things if thing.category == kind]
        found.append({"phrase": kind, "kind": "class", "polygons": [_in_window(each, window) for each in alike]})
        for words in sorted({each.colour for each in alike} | {each.size for each in alike}):
            fitting = [each for each in alike if words in (each.colour, each.size)]
            if len(fitting) == 1 < len(alike):
                ring = _in_window(fitting[0], window)
                found.append({"phrase": f"the {words} {kind}", "kind": "referring", "polygons": [ring]})
    return found


def _in_window(thing: Thing, window: Window) -> list[tuple[float, float]]:
    return [(round(x - window.col, 3), round(y - window.row, 3)) for x, y in thing.polygon]


def _where_there_is_room(stage: Stage, counts: dict[str, int], *, seed: int, rim_m: float) -> Stage:
    """As many of the objects as there is room for: a category that does not fit gets fewer, down to none."""
    while any(counts.values()):
        try:
            return place_objects(stage.ground, counts, seed=seed, rim_m=rim_m)
        except ConfigError:
            counts = {kind: count // 2 for kind, count in counts.items()}
    return stage


def _varied(layout: Layout, rng: np.random.Generator) -> Layout:
    """A layout with its shares and sizes moved by up to a third."""
    names = ("forest", "lakes", "sea", "river_m", "town_m", "field_m", "relief_m", "shrubs", "marsh_m")
    moved: dict[str, Any] = {name: float(getattr(layout, name) * rng.uniform(0.67, 1.33)) for name in names}
    return replace(layout, **moved)


def _inner(values: NDArray[Any]) -> NDArray[Any]:
    return values[INNER.row : INNER.row + INNER.height, INNER.col : INNER.col + INNER.width]


def _commonest(codes: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """The commonest code of each block of factor x factor pixels, the smaller one on a tie."""
    height, width = (side // factor for side in codes.shape)
    blocks = codes.reshape(height, factor, width, factor)
    kinds = np.unique(codes)
    counts = np.stack([(blocks == kind).sum(axis=(1, 3)) for kind in kinds])
    return np.asarray(kinds[counts.argmax(axis=0)], dtype=np.uint8)


def _write_codes(path: Path, codes: NDArray[Any], grid: Grid) -> None:
    tags = {"TIFFTAG_IMAGEDESCRIPTION": f"{SIMULATED}: truth"}
    write_geotiff(path, codes.astype(np.uint8)[None], grid, names=("truth",), tags=tags)


def _counts(things: tuple[Thing, ...]) -> dict[str, int]:
    return {kind: n for kind in CATEGORIES if (n := sum(thing.category == kind for thing in things))}


def _listed(counts: dict[str, int]) -> str:
    return " and ".join(counted(count, kind) for kind, count in counts.items())
