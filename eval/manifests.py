"""What a line of each task's manifest means, as types; whatever is wrong is named with its line number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rsvlm.errors import PlanError
from rsvlm.language.plan import Plan
from rsvlm.manifests import Line, read_lines
from rsvlm.raster import read_scene

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from rsvlm.scene import Scene

Box = tuple[float, float, float, float]
Ring = tuple[tuple[float, float], ...]
FAR = 1e9  # pixels: what lies further out is no coordinate


@dataclass(frozen=True, slots=True)
class Picture:
    """One image of a manifest: a raster, or one file a band; `place` is for the leakage check."""

    files: tuple[Path, ...]
    sensor: str | None
    bands: tuple[str, ...] = ()
    place: str = ""

    def read(self) -> Scene:
        """The scene; raises as `read_scene`."""
        source = self.files[0] if len(self.files) == 1 else list(self.files)
        return read_scene(source, sensor=self.sensor, bands=self.bands or None)


@dataclass(frozen=True, slots=True)
class Captioned:
    """An image with captions, labels or both: `retrieval` and `captions`."""

    number: int
    picture: Picture
    captions: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Labelled:
    """An image with one label: `scenes`."""

    number: int
    picture: Picture
    label: str


@dataclass(frozen=True, slots=True)
class Questioned:
    """A question about one image or two dates, with its answer and type: `vqa`."""

    number: int
    pictures: tuple[Picture, ...]
    question: str
    answer: str
    kind: str


@dataclass(frozen=True, slots=True)
class Grounded:
    """A phrase and where it is, in one of three forms; all empty where it is not there: `grounding`."""

    number: int
    picture: Picture
    phrase: str
    kind: str
    boxes: tuple[Box, ...]
    polygons: tuple[Ring, ...]
    mask: Path | None


@dataclass(frozen=True, slots=True)
class Mapped:
    """An image with a raster of class codes: `land-cover`."""

    number: int
    picture: Picture
    labels: Path
    band: int
    codes: dict[int, str]
    ignore: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Changed:
    """Two dates of one place, by one or several sensors, with a mask, captions or both: `change`."""

    number: int
    before: tuple[Picture, ...]
    after: tuple[Picture, ...]
    mask: Path | None
    phrase: str
    captions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Planned:
    """A question and the plan it should be read as: `plan`."""

    number: int
    question: str
    plan: Plan


def read_captioned(manifest: Path) -> list[Captioned]:
    """Lines of a retrieval or captions manifest; every image once."""
    keys = frozenset({"captions", "labels"})
    rows = []
    seen: dict[tuple[Path, ...], int] = {}
    for line in read_lines(manifest, required=frozenset({"image"}), optional=keys):
        row = Captioned(line.number, _picture(line, "image"), line.texts("captions"), line.texts("labels"))
        if not row.captions and not row.labels:
            raise line.fault("needs captions or labels; it has neither")
        if row.picture.files in seen:
            raise line.fault(f"has the image of line {seen[row.picture.files]} again; put all captions on one line")
        seen[row.picture.files] = line.number
        rows.append(row)
    return rows


def read_labelled(manifest: Path) -> list[Labelled]:
    """Lines of a scenes manifest."""
    lines = read_lines(manifest, required=frozenset({"image", "label"}))
    return [Labelled(line.number, _picture(line, "image"), line.text("label")) for line in lines]


def read_questioned(manifest: Path) -> list[Questioned]:
    """Lines of a vqa manifest; two images are an earlier and a later date, unless `bands` makes them one."""
    lines = read_lines(manifest, required=frozenset({"image", "question", "answer", "type"}))
    return [
        Questioned(line.number, _dates(line), line.text("question"), line.text("answer"), line.text("type"))
        for line in lines
    ]


def read_grounded(manifest: Path) -> list[Grounded]:
    """Lines of a grounding manifest: boxes, polygons or a mask each."""
    forms = ("boxes", "polygons", "mask")
    rows = []
    for line in read_lines(manifest, required=frozenset({"image", "phrase"}), optional=frozenset({*forms, "kind"})):
        if sum(form in line.values for form in forms) != 1:
            raise line.fault("needs one of boxes, polygons and mask; an empty list of boxes where nothing is there")
        kind = line.text("kind", "class")
        if kind not in ("class", "referring"):
            raise line.fault(f"needs kind as class or referring; got {kind!r}")
        boxes = tuple(_box(line, box) for box in _list(line, "boxes"))
        polygons = tuple(_ring(line, ring) for ring in _list(line, "polygons"))
        mask = line.file("mask") if "mask" in line.values else None
        picture = _picture(line, "image")
        rows.append(Grounded(line.number, picture, line.text("phrase"), kind, boxes, polygons, mask))
    return rows


def read_mapped(manifest: Path) -> list[Mapped]:
    """Lines of a land-cover manifest; one list of classes for all."""
    required = frozenset({"image", "labels", "codes"})
    rows: list[Mapped] = []
    for line in read_lines(manifest, required=required, optional=frozenset({"labels_band", "ignore"})):
        codes, ignore, band = _codes(line), line.values.get("ignore", []), line.values.get("labels_band", 1)
        whole = type(band) is int and band >= 1
        if not whole or not isinstance(ignore, list) or not all(type(code) is int for code in ignore):
            raise line.fault("needs labels_band as a whole number from 1 and ignore as a list of codes")
        if rows and codes != rows[0].codes:
            raise line.fault(f"has other codes than line {rows[0].number}; one manifest has one list of classes")
        rows.append(Mapped(line.number, _picture(line, "image"), line.file("labels"), band, codes, tuple(ignore)))
    return rows


def read_changed(manifest: Path) -> list[Changed]:
    """Lines of a change manifest."""
    optional = frozenset({"sensors", "mask", "phrase", "captions"})
    rows = []
    for line in read_lines(manifest, required=frozenset({"before", "after"}), optional=optional):
        before, after, names = _list(line, "before"), _list(line, "after"), line.texts("sensors")
        if "sensors" not in line.values:
            names = (line.text("sensor", ""),) * len(before)
        if not before or not len(before) == len(after) == len(names):
            raise line.fault(
                f"needs as many before, after and sensors; got {len(before)}, {len(after)} and {len(names)}"
            )
        mask = line.file("mask") if "mask" in line.values else None
        captions = line.texts("captions")
        if mask is None and not captions:
            raise line.fault("needs a mask or captions; it has neither")
        dates = _seen_by(line, before, names), _seen_by(line, after, names)
        rows.append(Changed(line.number, *dates, mask, line.text("phrase", ""), captions))
    return rows


def read_planned(manifest: Path) -> list[Planned]:
    """Lines of a plan manifest."""
    rows = []
    for line in read_lines(manifest, required=frozenset({"question", "plan"})):
        try:
            plan = Plan.from_json(line.values["plan"])
        except (PlanError, TypeError, AttributeError) as error:
            raise line.fault(f"needs a plan: {error}") from error
        rows.append(Planned(line.number, line.text("question"), plan))
    return rows


READERS: dict[str, Callable[[Path], list[Any]]] = {
    "retrieval": read_captioned,
    "scenes": read_labelled,
    "captions": read_captioned,
    "vqa": read_questioned,
    "grounding": read_grounded,
    "land-cover": read_mapped,
    "change": read_changed,
    "plan": read_planned,
}


def _picture(line: Line, key: str) -> Picture:
    value = line.values[key]
    files = tuple(line.path_of(name) for name in (value if isinstance(value, list) else [value]))
    if not files:
        raise line.fault(f"needs {key!r} as a file or a list of files; the list is empty")
    bands = line.texts("bands")
    if len(files) != 1 and len(bands) != len(files):
        raise line.fault(f"has {len(files)} files and {len(bands)} bands; name one band a file")
    sensor = line.text("sensor") if "sensor" in line.values else None
    return Picture(files, sensor, bands, line.text("place", ""))


def _dates(line: Line) -> tuple[Picture, ...]:
    value = line.values["image"]
    if not isinstance(value, list) or "bands" in line.values:
        return (_picture(line, "image"),)
    if len(value) not in (1, 2):
        raise line.fault(f"has {len(value)} images; a question is about one or two, or give bands")
    sensor = line.text("sensor") if "sensor" in line.values else None
    return tuple(Picture((line.path_of(name),), sensor, (), line.text("place", "")) for name in value)


def _seen_by(line: Line, files: list[Any], sensors: Sequence[str]) -> tuple[Picture, ...]:
    place = line.text("place", "")
    pairs = zip(files, sensors, strict=True)
    return tuple(Picture((line.path_of(file),), sensor or None, (), place) for file, sensor in pairs)


def _list(line: Line, key: str) -> list[Any]:
    value = line.values.get(key, [])
    if not isinstance(value, list):
        raise line.fault(f"needs {key!r} as a list; got {value!r}")
    return value


def _numbers(line: Line, values: Any, count: int) -> tuple[float, ...]:
    right = isinstance(values, list) and len(values) == count
    if not right or not all(type(v) in (int, float) and abs(v) < FAR for v in values):
        raise line.fault(f"needs {count} finite numbers of pixels; got {values!r}")
    return tuple(float(v) for v in values)


def _box(line: Line, values: Any) -> Box:
    x0, y0, x1, y1 = _numbers(line, values, 4)
    if not (x0 < x1 and y0 < y1):
        raise line.fault(f"has the box {values!r}; a box is [x0, y0, x1, y1] in pixels with x0 < x1 and y0 < y1")
    return x0, y0, x1, y1


def _ring(line: Line, points: Any) -> Ring:
    """Points as [[x, y], ...] or flat as COCO and DOTA write them."""
    if isinstance(points, list) and points and isinstance(points[0], int | float):
        points = [points[i : i + 2] for i in range(0, len(points), 2)]
    if not isinstance(points, list) or len(points) < 3:
        raise line.fault(f"needs polygons of three or more points; got {points!r}")
    pairs = [_numbers(line, point, 2) for point in points]
    return tuple((x, y) for x, y in pairs)


def _codes(line: Line) -> dict[int, str]:
    codes = line.values["codes"]
    try:
        named = {int(code): name for code, name in codes.items()}
    except (AttributeError, ValueError) as error:
        raise line.fault(f'needs codes as {{"10": "tree cover"}}; got {codes!r}') from error
    names = list(named.values())
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(codes):
        raise line.fault("needs codes with a name of its own for every code")
    return named
