"""Scenes as pictures for people: natural or false colour, outlines with numbers, masks and heat laid over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely
from PIL import Image, ImageDraw, ImageFont

from rsvlm.errors import SceneError
from rsvlm.resample import resample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rsvlm.scene import Region, Scene

OUTLINE = (255, 210, 0)
NATURAL = ("red", "green", "blue")
NUMBERED = 20  # outlines that carry their number; more would hide the picture
STRETCH = (2.0, 98.0)  # percentiles over valid pixels


def render(scene: Scene, *, size: int = 512) -> NDArray[np.uint8]:
    """A picture (h, w, 3) whose longer side is at most `size`: natural colour, SAR as VV, VH, VV-VH, one band grey.

    Display sensors are shown as they are, others stretched from the 2nd to the 98th percentile; missing is black.
    """
    if size < 1:
        raise SceneError(f"a preview needs a size of at least 1 pixel; got {size}")
    layers, valid = _layers(scene), scene.valid
    longest = max(scene.shape)
    if longest > size:
        height, width = (max(1, round(side * size / longest)) for side in scene.shape)
        layers, valid = resample(layers, valid, (height, width))
    if scene.sensor.units != "display":
        layers = np.stack([_stretched(layer, valid) for layer in layers])
    levels = np.where(valid, np.clip(layers, 0, 1) * 255, 0)
    picture: NDArray[np.uint8] = np.rint(levels).astype(np.uint8).transpose(1, 2, 0)
    return np.ascontiguousarray(picture)


def _layers(scene: Scene) -> NDArray[np.float32]:
    """Three layers (3, H, W) to show as red, green and blue."""
    if scene.has("VV", "VH"):
        vv, vh = scene.band("VV"), scene.band("VH")
        return np.stack([vv, vh, vv - vh])
    if scene.has(*NATURAL):
        return np.stack([scene.band(name) for name in NATURAL])
    if len(scene.bands) >= 3:
        return scene.pixels[:3]
    return np.repeat(scene.pixels[:1], 3, axis=0)


def _stretched(layer: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    if not valid.any():
        return np.zeros_like(layer)
    low, high = np.percentile(layer[valid], STRETCH)
    if high <= low:
        return np.full_like(layer, 0.5)
    stretched: NDArray[np.float32] = ((layer - low) / (high - low)).astype(np.float32)
    return stretched


def draw(
    image: NDArray[np.uint8], regions: Sequence[Region], *, colour: tuple[int, int, int] = OUTLINE
) -> NDArray[np.uint8]:
    """The picture with each region outlined, the first 20 numbered from 1; it may show the scene at any size."""
    canvas = Image.fromarray(_three(image)).convert("RGB")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=max(11, max(canvas.size) // 32))
    for number, region in enumerate(regions, start=1):
        scale = np.array([canvas.width / region.grid.width, canvas.height / region.grid.height])
        shown = shapely.transform(region.polygon, lambda points, s=scale: points * s)
        for part in shapely.get_parts(shown):
            for ring in (part.exterior, *part.interiors):
                pen.line([(x, y) for x, y in ring.coords], fill=colour, width=max(2, max(canvas.size) // 256))
        if number > NUMBERED:
            continue
        x, y = shown.representative_point().coords[0] if not shown.is_empty else (0.0, 0.0)
        pen.text((x, y), str(number), fill=colour, font=font, anchor="mm", stroke_width=2, stroke_fill=(0, 0, 0))
    return np.asarray(canvas)


def overlay(
    image: NDArray[np.uint8],
    layer: NDArray[np.bool_] | NDArray[np.float32],
    *,
    colour: tuple[int, int, int] = (255, 64, 0),
    opacity: float = 0.5,
) -> NDArray[np.uint8]:
    """The picture with a mask (bool) or heat (float, lowest clear, highest `opacity`) of any size laid over it."""
    if layer.ndim != 2 or layer.size == 0:
        raise SceneError(f"an overlay must be one layer (h, w); got shape {layer.shape}")
    base = _three(image)
    if layer.dtype == np.bool_:
        strength, how = layer.astype(np.float32), Image.Resampling.NEAREST
    else:
        heat = layer.astype(np.float32)
        known = heat[np.isfinite(heat)]
        finite = np.where(np.isfinite(heat), heat, known.min() if known.size else 0.0)
        spread = float(finite.max() - finite.min())
        strength, how = (finite - finite.min()) / (spread or 1.0), Image.Resampling.BILINEAR
    height, width = base.shape[:2]
    resized = np.asarray(Image.fromarray(np.ascontiguousarray(strength)).resize((width, height), how))
    alpha = np.clip(resized, 0, 1)[:, :, None] * opacity
    mixed: NDArray[np.uint8] = np.rint(base * (1 - alpha) + np.array(colour, np.float32) * alpha).astype(np.uint8)
    return mixed


def _three(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise SceneError(f"a picture must be uint8 (h, w, 3); got {image.dtype} {image.shape}")
    return image
