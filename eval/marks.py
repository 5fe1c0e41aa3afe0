"""What a text marks in an image: boxes, polygons and masks in pixels, mended until they lie inside it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from eval.metrics.boxes import Shapes
from rsvlm.scene import Grid

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Size = tuple[int, int]  # height, width
MAX_POINTS = 256  # of one outline
FAR = 1e7  # pixels: what lies further out is no coordinate


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
        return Shapes.from_polygons([*map(corners_of, self.boxes), *self.polygons], scores)


@dataclass(frozen=True, slots=True)
class Found:
    """One thing read: two corners, an outline or a mask, or None where it could not be read."""

    kind: str  # "box", "polygon" or "mask"
    value: NDArray[Any] | None  # (2, 2), (M, 2) or (rows, columns)
    phrase: str = ""
    score: float = 1.0


BROKEN = Found("box", None)


@dataclass(frozen=True, slots=True)
class View:
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


def gathered(found: dict[str, list[Found]]) -> Parsed:
    """Things by kind as one value, boxes first, then polygons, then masks."""
    every = [*found["box"], *found["polygon"], *found["mask"]]
    boxes = [each.value for each in found["box"] if each.value is not None]
    polygons, masks = (
        tuple(each.value for each in found[kind] if each.value is not None) for kind in ("polygon", "mask")
    )
    phrases, scores = tuple(each.phrase for each in every), tuple(each.score for each in every)
    return Parsed(np.array(boxes, np.float64).reshape(-1, 4), polygons, masks, phrases, scores)


def fitted(found: Found, size: Size) -> tuple[Found | None, bool]:
    """The thing inside the image, or None where nothing of it is left, and whether it had to be mended."""
    if found.value is None:
        return None, False
    if found.kind == "mask":
        return replace(found, value=stretched(found.value, size)), False
    points = np.asarray(found.value, np.float64)
    if not np.isfinite(points).all() or np.abs(points).max() > FAR:
        return None, False
    if found.kind == "polygon":
        return _inside(found, points, size)
    corners = np.clip(np.sort(points, axis=0), 0, np.array(size[::-1]))
    kept = replace(found, value=corners.ravel())
    return (kept if (corners[1] > corners[0]).all() else None), bool((corners != points).any())


def _inside(found: Found, points: Array, size: Size) -> tuple[Found | None, bool]:
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


def stretched(mask: Mask, size: Size) -> Mask:
    """The nearest pixels of a mask at another size."""
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(size, mask.shape, strict=True))
    return np.asarray(mask[rows[:, None], columns], np.bool_)


def corners_of(box: Array) -> Array:
    """Outline (4, 2) of a box x0, y0, x1, y1."""
    x0, y0, x1, y1 = box
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def turned(centre: Array, sides: Array, theta: float) -> Array:
    """Corners (4, 2) of a box of `sides` (width, height) turned by theta degrees from the x axis towards the y axis."""
    angle = math.radians(theta)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return np.asarray(np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * sides / 2 @ turn + centre, np.float64)


def rectangle(points: Array) -> tuple[Array, Array, float]:
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


def upright(parsed: Parsed) -> list[Array]:
    """Everything as upright boxes; empty masks are left out."""
    outlines = [np.concatenate([points.min(axis=0), points.max(axis=0)]) for points in parsed.polygons]
    return [*parsed.boxes, *outlines, *mask_boxes(parsed.masks)]


def mask_boxes(masks: Iterable[Mask]) -> list[Array]:
    """Upright bounds x0, y0, x1, y1 of masks; empty ones are left out."""
    places = [np.argwhere(mask)[:, ::-1] for mask in masks]
    return [np.concatenate([each.min(axis=0), each.max(axis=0) + 1.0]) for each in places if len(each)]


def phrases_of(parsed: Parsed) -> list[str]:
    """A phrase for every shape, without the signs that dialects are made of."""
    count = len(parsed.boxes) + len(parsed.polygons) + len(parsed.masks)
    given = [*parsed.phrases, *[""] * count][:count]
    return [re.sub(r"[<>{}\[\]\s]+", " ", phrase).strip() for phrase in given]
