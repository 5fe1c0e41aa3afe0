"""Pictures of a report page: imagery, outlines, maps and masks as small PNG inside the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely
from PIL import Image, ImageDraw

from eval.runner import UNREADABLE
from rsvlm.preview import overlay, render

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from eval.manifests import Picture
    from eval.metrics.boxes import Shapes
    from rsvlm.scene import Scene

SIDE = 320  # pixels of the longer side
TRUE, SAID, BOTH = (255, 210, 0), (0, 200, 255), (255, 255, 255)  # told apart by colour-blind readers too
LEFT_OUT = (0, 0, 0)  # pixels of a map that are not scored
LEGEND = {  # ESA WorldCover's colours, by a word of the class; each is given once
    "tree": (0, 100, 0),
    "shrub": (255, 187, 34),
    "grass": (255, 255, 76),
    "crop": (240, 150, 255),
    "built": (250, 0, 0),
    "bare": (180, 180, 180),
    "snow": (240, 240, 240),
    "water": (0, 100, 200),
    "wetland": (0, 150, 160),
    "mangrove": (0, 207, 117),
    "moss": (250, 230, 160),
}


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture with its caption: `source` is a data URI, or "" where it could not be read and `error` says why."""

    caption: str
    source: str
    error: str = ""


def shown(caption: str, make: Callable[[], NDArray[np.uint8]]) -> Shown:
    """The picture (h, w, 3) that `make` gives, or the sentence of the error it raised for imagery it cannot read."""
    try:
        return Shown(caption, data_uri(make()))
    except UNREADABLE as error:
        return Shown(caption, "", str(error))


def photo(picture: Picture) -> NDArray[np.uint8]:
    """The image (h, w, 3), at most `SIDE` a side; raises as `read_scene`."""
    return render(picture.read(), size=SIDE)


def outlined(scene: Scene, truth: Shapes, said: Shapes) -> NDArray[np.uint8]:
    """The scene with true and predicted shapes outlined, each in its colour."""
    canvas = Image.fromarray(_enlarged(render(scene, size=SIDE)))
    pen = ImageDraw.Draw(canvas)
    scale = np.array([canvas.width / scene.shape[1], canvas.height / scene.shape[0]])
    for shapes, colour in ((truth, TRUE), (said, SAID)):
        for part in shapely.get_parts(shapes.geometries):
            if isinstance(part, shapely.Polygon) and not part.is_empty:
                pen.line([tuple(point) for point in np.array(part.exterior.coords) * scale], fill=colour, width=2)
    return np.asarray(canvas)


def compared(scene: Scene, truth: NDArray[np.bool_], said: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The scene, dimmed, with masks (H, W) laid over: true alone, predicted alone and both, each in its colour."""
    image = _enlarged(render(scene, size=SIDE)) // 2
    for mask, colour in ((truth & ~said, TRUE), (said & ~truth, SAID), (truth & said, BOTH)):
        image = overlay(image, mask, colour=colour, opacity=0.7)
    return image


def coloured(layer: NDArray[np.int64], colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A map of positions (H, W) in the colours (K, 3) of its classes; negative positions are left out."""
    image = np.where(layer[..., None] < 0, np.array(LEFT_OUT, np.uint8), colours[layer.clip(min=0)])
    height, width = layer.shape
    shrunk = min(1.0, SIDE / max(height, width))
    size = max(1, round(width * shrunk)), max(1, round(height * shrunk))
    return np.asarray(Image.fromarray(image.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))


def palette(names: Sequence[str]) -> NDArray[np.uint8]:
    """(K, 3) colours of classes: those of WorldCover's legend by the words of a name, others at even steps."""
    from matplotlib import colormaps

    steps = np.rint(255 * colormaps["turbo"](np.linspace(0, 1, len(names)))[:, :3]).astype(int).tolist()
    free = dict(LEGEND)
    found = []
    for name, step in zip(names, steps, strict=True):
        word = next((word for word in free if word in name.lower()), "")
        found.append(free.pop(word) if word else tuple(step))
    return np.array(found, np.uint8).reshape(-1, 3)


def data_uri(image: NDArray[np.uint8]) -> str:
    """A picture (h, w, 3) as the address of a PNG that it holds itself; small ones are enlarged by whole steps."""
    out = io.BytesIO()
    Image.fromarray(_enlarged(image)).save(out, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def _enlarged(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    times = max(1, SIDE // max(image.shape[:2]))
    return image.repeat(times, axis=0).repeat(times, axis=1)
