"""Boxes, polygons and masks as other models write them: one parser in and one writer out for each dialect."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from eval.metrics.boxes import Shapes
from rsvlm.errors import EvaluationError
from rsvlm.scene import Grid, Region

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Size = tuple[int, int]  # height, width
MAX_TEXT = 1_000_000  # characters read; the rest is dropped
MAX_SHAPES = 1000  # shapes read from one text; the rest is dropped
MAX_BODY = 16_384  # characters of one shape other than a mask
MAX_POINTS = 256
MAX_MASKS = 64
MAX_PIXELS = 2**28  # of all masks together
MAX_SIDE = 4096  # rows and columns of a run-length mask
FAR = 1e7  # pixels: what lies further out is no coordinate
CELLS = (16, 32)  # rows and columns of a GeoGround text mask
BINS = 1000  # of location tokens


@dataclass(frozen=True)
class Parsed:
    """What a text says is where, in pixels of the image, all of it inside the image.

    `phrases` and `scores` stand in the order boxes, polygons, masks; "" and 1.0 where the dialect has none.
    `dropped` counts what could not be read, `clipped` what was swapped or reached out of the image and was mended.
    """

    boxes: Array  # (N, 4) x0, y0, x1, y1
    polygons: tuple[Array, ...] = ()  # (M, 2) x, y each
    masks: tuple[Mask, ...] = ()  # (H, W) each
    phrases: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    dropped: int = 0
    clipped: int = 0

    @property
    def shapes(self) -> Shapes:
        """Boxes and polygons as the grounding metrics take them; masks are left out."""
        count = len(self.boxes) + len(self.polygons)
        scores = list(self.scores[:count]) or [1.0] * count
        if not self.polygons:
            return Shapes.from_boxes(self.boxes, scores)
        return Shapes.from_polygons([*map(_corners, self.boxes), *self.polygons], scores)


@dataclass(frozen=True, slots=True)
class _Found:
    """One thing read: two corners, an outline or a mask, or None where it could not be read."""

    kind: str  # "box", "polygon" or "mask"
    value: NDArray[Any] | None  # (2, 2), (M, 2) or (rows, columns)
    phrase: str = ""
    score: float = 1.0


BROKEN = _Found("box", None)


@dataclass(frozen=True, slots=True)
class _View:
    """The image, its size as the model saw it, and where it lies if that is known."""

    size: Size
    seen: Size
    grid: Grid | None = None

    def placed(self, points: Any, scale: tuple[float, float]) -> Array:
        """Points (M, 2) of a scale (across, down) in pixels."""
        pixels = np.array(self.size[::-1], np.float64) / np.array(scale)
        return np.asarray(np.asarray(points, np.float64).reshape(-1, 2) * pixels, np.float64)

    def steps(self, points: Any, scale: tuple[float, float]) -> Array:
        """Pixels (M, 2) in the units of a scale (across, down)."""
        pixels = np.array(self.size[::-1], np.float64) / np.array(scale)
        return np.asarray(np.asarray(points, np.float64).reshape(-1, 2) / pixels, np.float64)

    def whole(self, box: Array, scale: tuple[int, int], *, bins: bool = False) -> list[int]:
        """A box in whole steps of a scale, at least one step wide and high; with `bins` in bins 0 to scale - 1."""
        top = np.array(scale) - bins
        steps = self.steps(box, scale)
        low, high = np.clip(np.floor(steps) if bins else np.round(steps), 0, top).astype(int)
        low = np.minimum(low, top - 1)
        return [int(number) for number in (*low, *np.maximum(high, low + 1))]

    @property
    def pixels_seen(self) -> tuple[int, int]:
        """Columns and rows of the image as the model saw it."""
        return self.seen[1], self.seen[0]


@dataclass(frozen=True, slots=True)
class Dialect:
    """A way of writing where things are; `scale` says what its numbers mean, `sentence` how it looks."""

    name: str
    scale: str
    sentence: str
    read: Callable[[str, _View], Iterable[_Found]]
    show: Callable[[Parsed, _View], str]


def parse(text: str, dialect: str, size: Size, *, resized: Size | None = None) -> Parsed:
    """Everything a text places in an image of `size` (height, width), by the rules of a dialect.

    No text raises: what cannot be read is dropped, what reaches out of the image is clipped, both with a count.
    `resized` is the (height, width) at which the model saw the image, for dialects in absolute pixels. Time is linear
    in the text. Raises EvaluationError for an unknown dialect and a size without pixels.
    """
    view = _view(size, resized)
    found: dict[str, list[_Found]] = {"box": [], "polygon": [], "mask": []}
    dropped, clipped = int(len(text) > MAX_TEXT), 0
    masks = min(MAX_MASKS, max(1, MAX_PIXELS // (size[0] * size[1])))
    for number, each in enumerate(_named(dialect).read(text[:MAX_TEXT], view)):
        surplus = number >= MAX_SHAPES or (each.kind == "mask" and len(found["mask"]) >= masks)
        kept, mended = (None, False) if surplus else _fitted(each, view.size)
        if kept is None:
            dropped += 1
        else:
            clipped += mended
            found[kept.kind].append(kept)
    return replace(_gathered(found), dropped=dropped, clipped=clipped)


def write(parsed: Parsed, dialect: str, size: Size, *, resized: Size | None = None, grid: Grid | None = None) -> str:
    """The shapes as a dialect writes them, for an image of `size` (height, width).

    Where a dialect has no oriented boxes or masks their upright bounds are written. `grid` places GeoJSON on Earth;
    without one its geometries are null. Raises EvaluationError for an unknown dialect and a size without pixels.
    """
    return _named(dialect).show(parsed, replace(_view(size, resized), grid=grid))


def _named(name: str) -> Dialect:
    if name not in DIALECTS:
        raise EvaluationError(f"there is no dialect {name!r}; the dialects are {', '.join(DIALECTS)}")
    return DIALECTS[name]


def _view(size: Size, resized: Size | None) -> _View:
    for height, width in (size, resized or size):
        if height < 1 or width < 1:
            raise EvaluationError(f"an image has height and width of at least 1 pixel; got {height} x {width}")
    return _View(size, resized or size)


def _gathered(found: dict[str, list[_Found]]) -> Parsed:
    every = [*found["box"], *found["polygon"], *found["mask"]]
    boxes = [each.value for each in found["box"] if each.value is not None]
    polygons, masks = (
        tuple(each.value for each in found[kind] if each.value is not None) for kind in ("polygon", "mask")
    )
    phrases, scores = tuple(each.phrase for each in every), tuple(each.score for each in every)
    return Parsed(np.array(boxes, np.float64).reshape(-1, 4), polygons, masks, phrases, scores)


def _fitted(found: _Found, size: Size) -> tuple[_Found | None, bool]:
    """The thing inside the image, or None where nothing of it is left, and whether it had to be mended."""
    if found.value is None:
        return None, False
    if found.kind == "mask":
        return replace(found, value=_stretched(found.value, size)), False
    points = np.asarray(found.value, np.float64)
    if not np.isfinite(points).all() or np.abs(points).max() > FAR:
        return None, False
    if found.kind == "polygon":
        return _inside(found, points, size)
    corners = np.clip(np.sort(points, axis=0), 0, np.array(size[::-1]))
    kept = replace(found, value=corners.ravel())
    return (kept if (corners[1] > corners[0]).all() else None), bool((corners != points).any())


def _inside(found: _Found, points: Array, size: Size) -> tuple[_Found | None, bool]:
    if not 3 <= len(points) <= MAX_POINTS:
        return None, False
    shape, mended = shapely.Polygon(points), False
    if not shape.is_valid and len(points) == 4:  # corners in the wrong order
        hull = shape.convex_hull
        points, mended = np.array(hull.boundary.coords)[:-1] if hull.area > 0 else points, True
        shape = shapely.Polygon(points) if len(points) > 2 else shape
    if not shape.is_valid or shape.area <= 0:
        return None, mended
    image = shapely.box(0, 0, size[1], size[0])
    if image.covers(shape):
        return replace(found, value=points), mended
    parts = [part for part in shapely.get_parts(shape.intersection(image)) if isinstance(part, shapely.Polygon)]
    if not parts:
        return None, True
    largest = max(parts, key=lambda part: float(part.area))
    return replace(found, value=np.array(largest.exterior.coords)[:-1]), True


def _corners(box: Array) -> Array:
    x0, y0, x1, y1 = box
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def _numbers(body: str, *counts: int) -> list[float] | None:
    """The numbers of a body without anything between them but separators; None for another count or another word."""
    words = re.split(r"[\s,<>|]+", body.strip(" \t\r\n,<>|")) if len(body) <= MAX_BODY else []
    if len(words) not in counts or max(map(len, words)) > 32:
        return None
    try:
        values = [float(word) for word in words]
    except ValueError:
        return None
    return values if all(map(math.isfinite, values)) else None


def _turned(centre: Array, sides: Array, theta: float) -> Array:
    """Corners (4, 2) of a box of `sides` (width, height) turned by theta degrees from the x axis towards the y axis."""
    angle = math.radians(theta)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return np.asarray(np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * sides / 2 @ turn + centre, np.float64)


def _rectangle(points: Array) -> tuple[Array, Array, float]:
    """Centre, sides and theta in 0 to 90 degrees of the smallest rectangle around an outline."""
    envelope = shapely.oriented_envelope(shapely.Polygon(points))
    if not isinstance(envelope, shapely.Polygon) or envelope.area <= 0:
        low, high = points.min(axis=0), points.max(axis=0)
        return (low + high) / 2, high - low, 0.0
    corners = np.array(envelope.exterior.coords)[:4]
    edges = corners[1] - corners[0], corners[2] - corners[1]
    theta = math.degrees(math.atan2(edges[0][1], edges[0][0])) % 180
    if theta >= 90:
        edges, theta = edges[::-1], theta - 90
    return corners.mean(axis=0), np.array([np.hypot(*edge) for edge in edges]), theta


def _angled(body: str, view: _View, scale: int, *, phrase: str = "") -> _Found:
    """x1, y1, x2, y2 and perhaps theta."""
    values = _numbers(body, 5) if "|" in body else _numbers(body, 4, 5)
    if values is None:
        return BROKEN
    corners = view.placed(values[:4], (scale, scale))
    if len(values) == 4 or values[4] == 0:
        return _Found("box", corners, phrase)
    sides = np.abs(corners[1] - corners[0])
    return _Found("polygon", _turned(corners.mean(axis=0), sides, values[4]), phrase)


def _angled_text(points: Array, view: _View, scale: int) -> list[int]:
    """x1, y1, x2, y2 and theta of the smallest rectangle around an outline; it may start below 0 before it turns."""
    centre, sides, theta = _rectangle(points)
    corners = view.steps([centre - sides / 2, centre + sides / 2], (scale, scale))
    return [*(int(number) for number in np.round(corners).ravel()), round(theta)]


def _upright(parsed: Parsed) -> list[Array]:
    """Everything as upright boxes; empty masks are left out."""
    outlines = [np.concatenate([points.min(axis=0), points.max(axis=0)]) for points in parsed.polygons]
    return [*parsed.boxes, *outlines, *_mask_boxes(parsed.masks)]


def _mask_boxes(masks: Iterable[Mask]) -> list[Array]:
    places = [np.argwhere(mask)[:, ::-1] for mask in masks]
    return [np.concatenate([each.min(axis=0), each.max(axis=0) + 1.0]) for each in places if len(each)]


def _phrases(parsed: Parsed) -> list[str]:
    """A phrase for every shape, without the signs that dialects are made of."""
    count = len(parsed.boxes) + len(parsed.polygons) + len(parsed.masks)
    given = [*parsed.phrases, *[""] * count][:count]
    return [re.sub(r"[<>{}\[\]\s]+", " ", phrase).strip() for phrase in given]


def _read_geochat(text: str, view: _View) -> Iterator[_Found]:
    phrase = ""
    for match in re.finditer(r"<p>([^<>]*+)</p>|\{([^{}]*+)(\}|\Z)", text):
        if match[1] is not None:
            phrase = match[1].strip()
        else:
            yield _angled(match[2], view, 100, phrase=phrase) if match[3] else BROKEN


def _show_geochat(parsed: Parsed, view: _View) -> str:
    numbers = [[*view.whole(box, (100, 100)), 0] for box in parsed.boxes]
    numbers += [_angled_text(points, view, 100) for points in parsed.polygons]
    numbers += [[*view.whole(box, (100, 100)), 0] for box in _mask_boxes(parsed.masks)]
    text, last = "", ""
    for phrase, (x0, y0, x1, y1, theta) in zip(_phrases(parsed), numbers, strict=False):
        text += f" <p> {phrase} </p> " if phrase != last else "<delim>" if text else ""
        text += f"{{<{x0}><{y0}><{x1}><{y1}>|<{theta}>}}"
        last = phrase
    return text.strip()


def _bodies(text: str) -> Iterator[str | None]:
    """What stands in innermost square brackets; None for one that is never closed."""
    for match in re.finditer(r"\[([^\[\]]*+)(\]|\Z)", text):
        yield match[1] if match[2] else None


def _read_geoground(text: str, view: _View) -> Iterator[_Found]:
    phrase = ""
    for match in re.finditer(r"<ref>([^<>]*+)</ref>|<(box|obb|seg)>([^<>]*+)(</\2>|)", text):
        if match[1] is not None:
            phrase = match[1].strip()
        elif not match[4]:
            yield BROKEN
        elif match[2] == "seg":
            yield _Found("mask", _cells(match[3]), phrase)
        else:
            reader = _centred if match[2] == "obb" else _thousandth
            yield from [reader(body, view, phrase) for body in _bodies(match[3])] or [BROKEN]


def _thousandth(body: str | None, view: _View, phrase: str) -> _Found:
    values = _numbers(body or "", 4)
    return BROKEN if values is None else _Found("box", view.placed(values, (1000, 1000)), phrase)


def _centred(body: str | None, view: _View, phrase: str) -> _Found:
    values = _numbers(body or "", 5)
    if values is None or min(values[2:4]) <= 0:
        return BROKEN
    centre, sides = view.placed(values[:4], (100, 100))
    return _Found("polygon", _turned(centre, sides, values[4]), phrase)


def _cells(body: str) -> Mask | None:
    """A text mask of 16 x 16 or 32 x 32 cells, rows by semicolons."""
    rows = [row.split(",") for row in body.strip(" \n;").split(";")] if len(body) <= MAX_BODY else []
    if len(rows) not in CELLS or any(len(row) != len(rows) for row in rows):
        return None
    words = [[word.strip() for word in row] for row in rows]
    if any(word not in ("0", "1") for row in words for word in row):
        return None
    return np.asarray(np.array(words) == "1", np.bool_)


def _stretched(mask: Mask, size: Size) -> Mask:
    """The nearest pixels of a mask at another size."""
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(size, mask.shape, strict=True))
    return np.asarray(mask[rows[:, None], columns], np.bool_)


def _show_geoground(parsed: Parsed, view: _View) -> str:
    parts = [f"<box>[{view.whole(box, (1000, 1000))}]</box>" for box in parsed.boxes]
    for points in parsed.polygons:
        centre, sides, theta = _rectangle(points)
        if sides[1] > sides[0]:
            sides, theta = sides[::-1], theta - 90  # the long side lies at -90 to 90 degrees
        numbers = [int(number) for number in np.round(view.steps([centre, sides], (100, 100))).ravel()]
        parts.append(f"<obb>[{[*numbers[:2], *(max(side, 1) for side in numbers[2:]), round(theta)]}]</obb>")
    parts += [f"<seg>{_cells_text(mask)}</seg>" for mask in parsed.masks]
    named = zip(_phrases(parsed), parts, strict=True)
    return "".join(f"<ref>{phrase}</ref>{part}" if phrase else part for phrase, part in named)


def _cells_text(mask: Mask) -> str:
    """32 x 32 cells, each 1 where at least half of it is covered."""
    from PIL import Image

    cells = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize((32, 32), Image.Resampling.BOX)) >= 128
    return ";".join(",".join(str(int(cell)) for cell in row) for row in cells)


def _read_earthdial(text: str, view: _View) -> Iterator[_Found]:
    return (_angled(body or "", view, 100) for body in _bodies(text))


def _show_earthdial(parsed: Parsed, view: _View) -> str:
    numbers = [[*view.whole(box, (100, 100)), 0] for box in parsed.boxes]
    numbers += [_angled_text(points, view, 100) for points in parsed.polygons]
    return str(numbers + [[*view.whole(box, (100, 100)), 0] for box in _mask_boxes(parsed.masks)])


def _upright_reader(scale: int) -> Callable[[str, _View], Iterator[_Found]]:
    def read(text: str, view: _View) -> Iterator[_Found]:
        for body in _bodies(text):
            values = _numbers(body or "", 4)
            yield BROKEN if values is None else _Found("box", view.placed(values, (scale, scale)))

    return read


def _show_teochat(parsed: Parsed, view: _View) -> str:
    return ", ".join(str(view.whole(box, (100, 100))) for box in _upright(parsed))


def _show_bigearthnet(parsed: Parsed, view: _View) -> str:
    rows = [[step / 100 for step in view.whole(box, (100, 100))] for box in _upright(parsed)]
    return ", ".join(f"[{x0:.2f} {y0:.2f}, {x1:.2f} {y1:.2f}]" for x0, y0, x1, y1 in rows)


def _read_qwen(text: str, view: _View) -> Iterator[_Found]:
    for match in re.finditer(r"\{([^{}]*+)(\}|\Z)|<seg>([^<>]*+)(</seg>|)", text):
        if match[1] is not None:
            yield _object(match[0], view)
        else:
            yield _Found("mask", _runs(match[3]) if match[4] else None)


def _object(text: str, view: _View) -> _Found:
    plain = _json(text) if len(text) <= MAX_BODY else None
    if not isinstance(plain, dict):
        return BROKEN
    label = plain.get("label")
    for key, kind, count in (("bbox_2d", "box", 4), ("quadrant bbox", "polygon", 8)):
        if key in plain:
            points = _points(plain[key], count)
            value = None if points is None else view.placed(points, view.pixels_seen)
            return _Found(kind, value, label if isinstance(label, str) else "")
    return BROKEN


def _json(text: str) -> Any:
    """Plain values, None for what is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _points(value: Any, count: int | None = None) -> Array | None:
    """Numbers of a list as an array; None for anything else, for another count and for a list that is too long."""
    if not isinstance(value, list) or not value or len(value) > MAX_POINTS or (count or len(value)) != len(value):
        return None
    try:
        found = np.asarray(value, np.float64)
    except (ValueError, TypeError, OverflowError):
        return None
    return found if np.isfinite(found).all() and found.ndim == (1 if count else 2) else None


def _runs(body: str) -> Mask | None:
    """A row-wise run-length mask, value*count by commas and rows by semicolons."""
    rows = body.strip(" \n;").split(";", MAX_SIDE)
    lines = []
    for row in rows if len(rows) <= MAX_SIDE else []:
        runs = [re.fullmatch(r"\s*([01])\s*\*\s*(\d{1,4})\s*", run) for run in row.split(",", MAX_SIDE)]
        if None in runs:
            return None
        pairs = [(run[1] == "1", int(run[2])) for run in runs if run]
        if sum(count for _, count in pairs) > MAX_SIDE:
            return None
        lines.append(np.repeat([on for on, _ in pairs], [count for _, count in pairs]))
    if not lines or len({len(line) for line in lines}) != 1 or not len(lines[0]):
        return None
    return np.array(lines, np.bool_)


def _show_qwen(parsed: Parsed, view: _View) -> str:
    items: list[dict[str, Any]] = [{"bbox_2d": view.whole(box, view.pixels_seen)} for box in parsed.boxes]
    for points in parsed.polygons:
        centre, sides, theta = _rectangle(points)
        quad = points if len(points) == 4 else _turned(centre, sides, theta)
        items.append({"quadrant bbox": [round(float(n)) for n in view.steps(quad, view.pixels_seen).ravel()]})
    labelled = [item | {"label": phrase} for item, phrase in zip(items, _phrases(parsed), strict=False)]
    masks = [f"<seg>{_runs_text(_stretched(mask, view.seen))}</seg>" for mask in parsed.masks]
    return "\n".join([json.dumps(labelled, ensure_ascii=False), *masks])


def _runs_text(mask: Mask) -> str:
    rows = []
    for row in mask:
        starts = np.concatenate([[0], np.flatnonzero(np.diff(row)) + 1])
        counts = np.diff([*starts, len(row)])
        rows.append(",".join(f"{int(row[s])}*{count}" for s, count in zip(starts, counts, strict=True)))
    return ";".join(rows)


TOKENS = r"<(box|quad|poly)>((?:<(?:loc_)?\d{1,9}>)*+)(</\1>|)|((?:<loc_\d{1,9}>)++)"


def _read_falcon(text: str, view: _View) -> Iterator[_Found]:
    phrase, end = "", 0
    for match in re.finditer(TOKENS, text):
        if match[1] and not match[3]:
            yield BROKEN
            continue
        between = re.sub(r"<[^<>]*+>", " ", text[end : match.start()]).strip(" \t\r\n,.;:")
        phrase, end = between or phrase, match.end()
        numbers = _bins(match[4] or match[2])
        step = {"quad": 8, "poly": len(numbers) + len(numbers) % 2}.get(match[1], 4)
        whole = len(numbers) - len(numbers) % max(step, 1)
        points = view.placed(numbers[:whole], (BINS, BINS)).reshape(-1, max(step, 1) // 2, 2) if whole else []
        kind = "polygon" if match[1] in ("quad", "poly") else "box"
        yield from (_Found(kind, part, phrase) for part in points)
        if whole < max(len(numbers), 1):
            yield BROKEN


def _bins(body: str) -> list[float]:
    """Middles of the bins that location tokens name."""
    return [int(number) + 0.5 for number in re.findall(r"\d+", body)]


def _show_falcon(parsed: Parsed, view: _View) -> str:
    boxes = [("box", view.whole(box, (BINS, BINS), bins=True)) for box in parsed.boxes]
    for points in parsed.polygons:
        steps = np.clip(np.floor(view.steps(points, (BINS, BINS))), 0, BINS - 1).astype(int)
        boxes.append(("quad" if len(points) == 4 else "poly", steps.ravel().tolist()))
    boxes += [("box", view.whole(box, (BINS, BINS), bins=True)) for box in _mask_boxes(parsed.masks)]
    named = zip(_phrases(parsed), boxes, strict=False)
    return "".join(f"{phrase}<{tag}>{''.join(f'<{n}>' for n in numbers)}</{tag}>" for phrase, (tag, numbers) in named)


def _read_geojson(text: str, view: _View) -> Iterator[_Found]:
    document = _json(text)
    features = document.get("features") if isinstance(document, dict) else None
    if not isinstance(features, list):
        yield from [BROKEN] if text.strip() else []
        return
    for feature in features:
        properties = feature.get("properties") if isinstance(feature, dict) else None
        yield from _feature(properties) if isinstance(properties, dict) else [BROKEN]


def _feature(properties: dict[str, Any]) -> list[_Found]:
    label, score = properties.get("label"), properties.get("score")
    found = []
    for ring in _rings(properties.get("polygon_pixels")):
        points = _points(ring)
        if points is None or points.shape[1] < 2 or len(points) < 4:
            return [BROKEN]
        known = isinstance(score, int | float) and abs(score) < FAR  # neither NaN nor endless
        name, weight = label if isinstance(label, str) else "", float(score) if known and score is not None else 1.0
        found.append(_Found(*_squared(points[:-1, :2]), name, weight))
    return found or [BROKEN]


def _squared(points: Array) -> tuple[str, Array]:
    """A box where an outline is an upright rectangle, else the outline."""
    low, high = points.min(axis=0), points.max(axis=0)
    upright = len(points) == 4 and ((points == low) | (points == high)).all() and len(np.unique(points, axis=0)) == 4
    return ("box", np.stack([low, high])) if upright else ("polygon", points)


def _rings(value: Any) -> list[Any]:
    """Outer rings of the coordinates of a polygon or of several."""
    depth, first = 0, value
    while isinstance(first, list) and first and depth < 5:
        first, depth = first[0], depth + 1
    if depth == 3:
        return [value[0]]
    return [part[0] if isinstance(part, list) and part else None for part in value] if depth == 4 else []


def _show_geojson(parsed: Parsed, view: _View) -> str:
    outlines = [*map(_corners, parsed.boxes), *parsed.polygons, *map(_corners, _mask_boxes(parsed.masks))]
    scores = [*parsed.scores, *[1.0] * len(outlines)]
    features = []
    for points, phrase, score in zip(outlines, _phrases(parsed), scores, strict=False):
        region = Region(phrase, score, shapely.Polygon(points), "", view.grid or Grid(*view.size))
        features.append(region.to_feature() if region.grid.crs else _unplaced(region))
    return json.dumps({"type": "FeatureCollection", "features": features}, ensure_ascii=False)


def _unplaced(region: Region) -> dict[str, Any]:
    """A feature without a place on Earth, whose geometry RFC 7946 wants null."""
    return {"type": "Feature", "geometry": None, "properties": region.to_json()}


DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            "geochat",
            "integers 0-100 of width and height, theta in degrees",
            "Answer as <p> phrase </p> {<x1><y1><x2><y2>|<theta>} with <delim> between boxes; theta turns the box "
            "about its centre from right towards down, after scaling to pixels.",
            _read_geochat,
            _show_geochat,
        ),
        Dialect(
            "geoground",
            "box 0-1000, obb 0-100 with theta in degrees, seg 32 x 32 cells",
            "Answer as <box>[[x1,y1,x2,y2]]</box>, <obb>[[xc,yc,w,h,theta]]</obb> with w the long side and theta -90 "
            "to 90 from right towards down, or <seg>0,0,1;...</seg>, after <ref>phrase</ref>.",
            _read_geoground,
            _show_geoground,
        ),
        Dialect(
            "earthdial",
            "0-100 of width and height, theta in degrees",
            "Answer as [[x1, y1, x2, y2, theta]]; theta turns the box about its centre from right towards down.",
            _read_earthdial,
            _show_earthdial,
        ),
        Dialect(
            "teochat",
            "0-100 of width and height",
            "Answer as [x1, y1, x2, y2].",
            _upright_reader(100),
            _show_teochat,
        ),
        Dialect(
            "qwen",
            "absolute pixels of the image as resized for the model",
            'Answer as JSON [{"bbox_2d": [x1, y1, x2, y2], "label": phrase}], {"quadrant bbox": [x1, y1, ... y4]} for '
            "oriented boxes, <seg>value*count,...;...</seg> for masks, one row between semicolons.",
            _read_qwen,
            _show_qwen,
        ),
        Dialect(
            "falcon",
            "location tokens of 1000 bins, 0-999",
            "Answer as phrase<box><x1><y1><x2><y2></box>, <quad> with four corners or <poly> with more; Florence-2's "
            "phrase<loc_x1><loc_y1><loc_x2><loc_y2> is read too.",
            _read_falcon,
            _show_falcon,
        ),
        Dialect(
            "bigearthnet.txt",
            "0-1 of width and height, two decimals",
            "Answer as [x1 y1, x2 y2].",
            _upright_reader(1),
            _show_bigearthnet,
        ),
        Dialect(
            "geojson",
            "longitude and latitude in degrees, polygon_pixels in pixels",
            "A FeatureCollection (RFC 7946) whose properties carry label, score and polygon_pixels.",
            _read_geojson,
            _show_geojson,
        ),
    )
}
