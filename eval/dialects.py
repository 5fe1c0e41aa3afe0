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

from eval.marks import (
    BROKEN,
    FAR,
    MAX_POINTS,
    Array,
    Found,
    Mask,
    Parsed,
    Size,
    View,
    corners_of,
    fitted,
    gathered,
    mask_boxes,
    phrases_of,
    rectangle,
    stretched,
    turned,
    upright,
)
from rsvlm.errors import EvaluationError
from rsvlm.scene import Grid, Region

__all__ = ["DIALECTS", "Dialect", "Parsed", "parse", "write"]
MAX_TEXT = 1_000_000  # characters read; the rest is dropped
MAX_SHAPES = 1000  # shapes read from one text; the rest is dropped
MAX_BODY = 16_384  # characters of one shape other than a mask
MAX_MASKS = 64
MAX_PIXELS = 2**28  # of all masks together
MAX_SIDE = 4096  # rows and columns of a run-length mask
CELLS = (16, 32)  # rows and columns of a GeoGround text mask
BINS = 1000  # of location tokens


@dataclass(frozen=True, slots=True)
class Dialect:
    """A way of writing where things are; `scale` says what its numbers mean, `sentence` how it looks."""

    name: str
    scale: str
    sentence: str
    read: Callable[[str, View], Iterable[Found]]
    show: Callable[[Parsed, View], str]


def parse(text: str, dialect: str, size: Size, *, resized: Size | None = None) -> Parsed:
    """Everything a text places in an image of `size` (height, width), by the rules of a dialect.

    No text raises: what cannot be read is dropped, what reaches out of the image is clipped, both with a count.
    `resized` is the (height, width) at which the model saw the image, for dialects in absolute pixels. Time is linear
    in the text. Raises EvaluationError for an unknown dialect and a size without pixels.
    """
    view = _view(size, resized)
    found: dict[str, list[Found]] = {"box": [], "polygon": [], "mask": []}
    dropped, clipped = int(len(text) > MAX_TEXT), 0
    masks = min(MAX_MASKS, max(1, MAX_PIXELS // (size[0] * size[1])))
    for number, each in enumerate(_named(dialect).read(text[:MAX_TEXT], view)):
        surplus = number >= MAX_SHAPES or (each.kind == "mask" and len(found["mask"]) >= masks)
        kept, mended = (None, False) if surplus else fitted(each, view.size)
        if kept is None:
            dropped += 1
        else:
            clipped += mended
            found[kept.kind].append(kept)
    return replace(gathered(found), dropped=dropped, clipped=clipped)


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


def _view(size: Size, resized: Size | None) -> View:
    for height, width in (size, resized or size):
        if height < 1 or width < 1:
            raise EvaluationError(f"an image has height and width of at least 1 pixel; got {height} x {width}")
    return View(size, resized or size)


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


def _angled(body: str, view: View, scale: int, *, phrase: str = "") -> Found:
    """x1, y1, x2, y2 and perhaps theta."""
    values = _numbers(body, 5) if "|" in body else _numbers(body, 4, 5)
    if values is None:
        return BROKEN
    corners = view.placed(values[:4], (scale, scale))
    if len(values) == 4 or values[4] == 0:
        return Found("box", corners, phrase)
    sides = np.abs(corners[1] - corners[0])
    return Found("polygon", turned(corners.mean(axis=0), sides, values[4]), phrase)


def _angled_text(points: Array, view: View, scale: int) -> list[int]:
    """x1, y1, x2, y2 and theta of the smallest rectangle around an outline; it may start below 0 before it turns."""
    centre, sides, theta = rectangle(points)
    corners = view.steps([centre - sides / 2, centre + sides / 2], (scale, scale))
    return [*(int(number) for number in np.round(corners).ravel()), round(theta)]


def _read_geochat(text: str, view: View) -> Iterator[Found]:
    phrase = ""
    for match in re.finditer(r"<p>([^<>]*+)</p>|\{([^{}]*+)(\}|\Z)", text):
        if match[1] is not None:
            phrase = match[1].strip()
        else:
            yield _angled(match[2], view, 100, phrase=phrase) if match[3] else BROKEN


def _show_geochat(parsed: Parsed, view: View) -> str:
    numbers = [[*view.whole(box, (100, 100)), 0] for box in parsed.boxes]
    numbers += [_angled_text(points, view, 100) for points in parsed.polygons]
    numbers += [[*view.whole(box, (100, 100)), 0] for box in mask_boxes(parsed.masks)]
    text, last = "", ""
    for phrase, (x0, y0, x1, y1, theta) in zip(phrases_of(parsed), numbers, strict=False):
        text += f" <p> {phrase} </p> " if phrase != last else "<delim>" if text else ""
        text += f"{{<{x0}><{y0}><{x1}><{y1}>|<{theta}>}}"
        last = phrase
    return text.strip()


def _bodies(text: str) -> Iterator[str | None]:
    """What stands in innermost square brackets; None for one that is never closed."""
    for match in re.finditer(r"\[([^\[\]]*+)(\]|\Z)", text):
        yield match[1] if match[2] else None


def _read_geoground(text: str, view: View) -> Iterator[Found]:
    phrase = ""
    for match in re.finditer(r"<ref>([^<>]*+)</ref>|<(box|obb|seg)>([^<>]*+)(</\2>|)", text):
        if match[1] is not None:
            phrase = match[1].strip()
        elif not match[4]:
            yield BROKEN
        elif match[2] == "seg":
            yield Found("mask", _cells(match[3]), phrase)
        else:
            reader = _centred if match[2] == "obb" else _thousandth
            yield from [reader(body, view, phrase) for body in _bodies(match[3])] or [BROKEN]


def _thousandth(body: str | None, view: View, phrase: str) -> Found:
    values = _numbers(body or "", 4)
    return BROKEN if values is None else Found("box", view.placed(values, (1000, 1000)), phrase)


def _centred(body: str | None, view: View, phrase: str) -> Found:
    values = _numbers(body or "", 5)
    if values is None or min(values[2:4]) <= 0:
        return BROKEN
    centre, sides = view.placed(values[:4], (100, 100))
    return Found("polygon", turned(centre, sides, values[4]), phrase)


def _cells(body: str) -> Mask | None:
    """A text mask of 16 x 16 or 32 x 32 cells, rows by semicolons."""
    rows = [row.split(",") for row in body.strip(" \n;").split(";")] if len(body) <= MAX_BODY else []
    if len(rows) not in CELLS or any(len(row) != len(rows) for row in rows):
        return None
    words = [[word.strip() for word in row] for row in rows]
    if any(word not in ("0", "1") for row in words for word in row):
        return None
    return np.asarray(np.array(words) == "1", np.bool_)


def _show_geoground(parsed: Parsed, view: View) -> str:
    parts = [f"<box>[{view.whole(box, (1000, 1000))}]</box>" for box in parsed.boxes]
    for points in parsed.polygons:
        centre, sides, theta = rectangle(points)
        if sides[1] > sides[0]:
            sides, theta = sides[::-1], theta - 90  # the long side lies at -90 to 90 degrees
        numbers = [int(number) for number in np.round(view.steps([centre, sides], (100, 100))).ravel()]
        parts.append(f"<obb>[{[*numbers[:2], *(max(side, 1) for side in numbers[2:]), round(theta)]}]</obb>")
    parts += [f"<seg>{_cells_text(mask)}</seg>" for mask in parsed.masks]
    named = zip(phrases_of(parsed), parts, strict=True)
    return "".join(f"<ref>{phrase}</ref>{part}" if phrase else part for phrase, part in named)


def _cells_text(mask: Mask) -> str:
    """32 x 32 cells, each 1 where at least half of it is covered."""
    from PIL import Image

    cells = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize((32, 32), Image.Resampling.BOX)) >= 128
    return ";".join(",".join(str(int(cell)) for cell in row) for row in cells)


def _read_earthdial(text: str, view: View) -> Iterator[Found]:
    return (_angled(body or "", view, 100) for body in _bodies(text))


def _show_earthdial(parsed: Parsed, view: View) -> str:
    numbers = [[*view.whole(box, (100, 100)), 0] for box in parsed.boxes]
    numbers += [_angled_text(points, view, 100) for points in parsed.polygons]
    return str(numbers + [[*view.whole(box, (100, 100)), 0] for box in mask_boxes(parsed.masks)])


def _upright_reader(scale: int) -> Callable[[str, View], Iterator[Found]]:
    def read(text: str, view: View) -> Iterator[Found]:
        for body in _bodies(text):
            values = _numbers(body or "", 4)
            yield BROKEN if values is None else Found("box", view.placed(values, (scale, scale)))

    return read


def _show_teochat(parsed: Parsed, view: View) -> str:
    return ", ".join(str(view.whole(box, (100, 100))) for box in upright(parsed))


def _show_bigearthnet(parsed: Parsed, view: View) -> str:
    rows = [[step / 100 for step in view.whole(box, (100, 100))] for box in upright(parsed)]
    return ", ".join(f"[{x0:.2f} {y0:.2f}, {x1:.2f} {y1:.2f}]" for x0, y0, x1, y1 in rows)


def _read_qwen(text: str, view: View) -> Iterator[Found]:
    for match in re.finditer(r"\{([^{}]*+)(\}|\Z)|<seg>([^<>]*+)(</seg>|)", text):
        if match[1] is not None:
            yield _object(match[0], view)
        else:
            yield Found("mask", _runs(match[3]) if match[4] else None)


def _object(text: str, view: View) -> Found:
    plain = _json(text) if len(text) <= MAX_BODY else None
    if not isinstance(plain, dict):
        return BROKEN
    label = plain.get("label")
    for key, kind, count in (("bbox_2d", "box", 4), ("quadrant bbox", "polygon", 8)):
        if key in plain:
            points = _points(plain[key], count)
            value = None if points is None else view.placed(points, view.pixels_seen)
            return Found(kind, value, label if isinstance(label, str) else "")
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


def _show_qwen(parsed: Parsed, view: View) -> str:
    items: list[dict[str, Any]] = [{"bbox_2d": view.whole(box, view.pixels_seen)} for box in parsed.boxes]
    for points in parsed.polygons:
        centre, sides, theta = rectangle(points)
        quad = points if len(points) == 4 else turned(centre, sides, theta)
        items.append({"quadrant bbox": [round(float(n)) for n in view.steps(quad, view.pixels_seen).ravel()]})
    labelled = [item | {"label": phrase} for item, phrase in zip(items, phrases_of(parsed), strict=False)]
    masks = [f"<seg>{_runs_text(stretched(mask, view.seen))}</seg>" for mask in parsed.masks]
    return "\n".join([json.dumps(labelled, ensure_ascii=False), *masks])


def _runs_text(mask: Mask) -> str:
    rows = []
    for row in mask:
        starts = np.concatenate([[0], np.flatnonzero(np.diff(row)) + 1])
        counts = np.diff([*starts, len(row)])
        rows.append(",".join(f"{int(row[s])}*{count}" for s, count in zip(starts, counts, strict=True)))
    return ";".join(rows)


TOKENS = r"<(box|quad|poly)>((?:<(?:loc_)?\d{1,9}>)*+)(</\1>|)|((?:<loc_\d{1,9}>)++)"


def _read_falcon(text: str, view: View) -> Iterator[Found]:
    phrase, end = "", 0
    for match in re.finditer(TOKENS, text):
        if match[1] and not match[3]:
            yield BROKEN
            continue
        between = re.sub(r"<[^<>]*+>", " ", text[end : match.start()]).strip(" \t\r\n,.;:")
        phrase, end = between or phrase, match.end()
        numbers = _bins(match[4] or match[2])
        step = {"quad": 8, "poly": max(2, len(numbers) + len(numbers) % 2)}.get(match[1], 4)
        whole = len(numbers) - len(numbers) % step
        kind = "polygon" if match[1] in ("quad", "poly") else "box"
        points = view.placed(numbers[:whole], (BINS, BINS))
        yield from (Found(kind, part, phrase) for part in points.reshape(-1, step // 2, 2))
        if whole < max(len(numbers), 1):
            yield BROKEN


def _bins(body: str) -> list[float]:
    """Middles of the bins that location tokens name."""
    return [int(number) + 0.5 for number in re.findall(r"\d+", body)]


def _show_falcon(parsed: Parsed, view: View) -> str:
    boxes = [("box", view.whole(box, (BINS, BINS), bins=True)) for box in parsed.boxes]
    for points in parsed.polygons:
        steps = np.clip(np.floor(view.steps(points, (BINS, BINS))), 0, BINS - 1).astype(int)
        boxes.append(("quad" if len(points) == 4 else "poly", steps.ravel().tolist()))
    boxes += [("box", view.whole(box, (BINS, BINS), bins=True)) for box in mask_boxes(parsed.masks)]
    named = zip(phrases_of(parsed), boxes, strict=False)
    return "".join(f"{phrase}<{tag}>{''.join(f'<{n}>' for n in numbers)}</{tag}>" for phrase, (tag, numbers) in named)


def _read_geojson(text: str, view: View) -> Iterator[Found]:
    document = _json(text)
    features = document.get("features") if isinstance(document, dict) else None
    if not isinstance(features, list):
        yield from [BROKEN] if text.strip() else []
        return
    for feature in features:
        properties = feature.get("properties") if isinstance(feature, dict) else None
        yield from _feature(properties) if isinstance(properties, dict) else [BROKEN]


def _feature(properties: dict[str, Any]) -> list[Found]:
    label, score = properties.get("label"), properties.get("score")
    found = []
    for ring in _rings(properties.get("polygon_pixels")):
        points = _points(ring)
        if points is None or points.shape[1] < 2 or len(points) < 4:
            return [BROKEN]
        known = isinstance(score, int | float) and abs(score) < FAR  # neither NaN nor endless
        name, weight = label if isinstance(label, str) else "", float(score) if known and score is not None else 1.0
        found.append(Found(*_squared(points[:-1, :2]), name, weight))
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


def _show_geojson(parsed: Parsed, view: View) -> str:
    outlines = [*map(corners_of, parsed.boxes), *parsed.polygons, *map(corners_of, mask_boxes(parsed.masks))]
    scores = [*parsed.scores, *[1.0] * len(outlines)]
    features = []
    for points, phrase, score in zip(outlines, phrases_of(parsed), scores, strict=False):
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
