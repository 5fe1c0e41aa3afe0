"""Where five phrases hold in a Sentinel-2 scene, a Sentinel-1 scene and an aerial picture, as one picture."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from rsvlm.encoder.model import SpectralEncoder
from rsvlm.findings import find
from rsvlm.preview import render
from rsvlm.raster import read_scene
from rsvlm.scene import Window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rsvlm.findings import Finding
    from rsvlm.interfaces import Encoder
    from rsvlm.scene import Scene


@dataclass(frozen=True, slots=True)
class Row:
    """A scene of the project's imagery and the five phrases looked for in it."""

    title: str
    file: str  # under the folder of imagery
    window: Window  # three wide to two high
    phrases: tuple[str, str, str, str, str]
    sensor: str | None = None


# No phrase is one that a spectral rule measures ("water"): every map is the encoder's.
ROWS = (
    Row(
        "Sentinel-2, 10 m",
        "scenes/s2_l1c_t33uuu_20170216.tif",
        Window(150, 0, 460, 690),
        ("forest", "farmland", "dark water", "villages", "meadows"),
    ),
    Row(
        "Sentinel-1 VV, 20 m",
        "scenes/s1_vv_db_20150309.tif",
        Window(20, 0, 178, 267),
        ("ponds and channels", "farmland", "wetland", "forest", "buildings"),
        sensor="sentinel-1-grd-vv",
    ),
    Row(
        "Aerial RGB",
        "nwpu_vhr10/images/236.webp",
        Window(0, 0, 426, 639),
        ("a running track", "a baseball field", "dense houses", "trees", "a school"),
        sensor="rgb",
    ),
)
WIDTH, HEIGHT = 1600, 740  # pixels
COLUMNS = 6
SIDE = 540  # pixels of a picture's longer side before it is set
COLOURS = "inferno"
STRONGEST = 0.8  # how far the colour of probability 1 hides the picture under it
DIM = 0.75  # brightness of the grey picture under the colours
LINE = "#35e0ff"
QUALITY = 76  # of WebP
SAID = (
    "Colour: probability that the phrase fits better than every rival description.  "
    "Line: what the assistant calls found, in percent of the picture."
)
CREDIT = (
    "Sentinel-2: Brandenburg, 16 February 2017; Sentinel-1: Camargue, 9 March 2015; "
    "contains modified Copernicus Sentinel data. Aerial: NWPU VHR-10, for research use."
)


def heated(grey: NDArray[np.float32], score: NDArray[np.float32]) -> NDArray[np.float32]:
    """A grey picture (H, W) of 0 to 1 under the colours of scores (H, W): clear at 0, strongest at 1; (H, W, 3)."""
    from matplotlib import colormaps

    strength = np.clip(score, 0, 1)[..., None]
    colour = colormaps[COLOURS](0.25 + 0.7 * strength[..., 0])[..., :3]
    mixed: NDArray[np.float32] = (
        DIM * grey[..., None] * (1 - STRONGEST * strength) + colour * STRONGEST * strength
    ).astype(np.float32)
    return mixed


def draw(rows: Sequence[Row], data: Path, encoder: Encoder) -> Image.Image:
    """The picture: a row a scene, first its quick look, then a map a phrase; below, what the colours mean."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"font.family": "sans-serif", "font.size": 13, "text.parse_math": False}):
        figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100)
        canvas: Any = FigureCanvasAgg(figure)
        grid = figure.add_gridspec(
            len(rows), COLUMNS, left=0.004, right=0.996, top=0.955, bottom=0.118, wspace=0.03, hspace=0.2
        )
        for number, row in enumerate(rows):
            scene = read_scene(data / row.file, sensor=row.sensor, window=row.window)
            _photo(figure.add_subplot(grid[number, 0]), row.title, scene)
            for column, phrase in enumerate(row.phrases, start=1):
                _map(figure.add_subplot(grid[number, column]), scene, find(phrase, scene, encoder))
        _legend(figure)
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _photo(axes: Any, title: str, scene: Scene) -> None:
    axes.imshow(render(scene, size=SIDE), aspect="auto")
    axes.set_title(title, fontsize=14, fontweight="bold", pad=5)
    axes.set_axis_off()


def _map(axes: Any, scene: Scene, finding: Finding) -> None:
    grey = _grey(scene)
    score = np.asarray(Image.fromarray(finding.score).resize(grey.shape[::-1], Image.Resampling.BILINEAR))
    there = np.asarray(Image.fromarray(finding.mask.pixels).resize(grey.shape[::-1], Image.Resampling.NEAREST))
    axes.imshow(heated(grey, score), aspect="auto")
    if there.any() and not there.all():
        axes.contour(there, levels=[0.5], colors=LINE, linewidths=1.1)
    axes.set_title(f"{finding.phrase}  {100 * finding.share:.0f} %", fontsize=14, pad=5)
    axes.set_axis_off()


def _grey(scene: Scene) -> NDArray[np.float32]:
    """The quick look without colours, (h, w), its darkest and brightest hundredth at 0 and 1."""
    levels = render(scene, size=SIDE).mean(axis=2)
    low, high = np.percentile(levels, (1, 99))
    grey: NDArray[np.float32] = np.clip((levels - low) / max(high - low, 1.0), 0, 1).astype(np.float32)
    return grey


def _legend(figure: Any) -> None:
    bar = figure.add_axes((0.008, 0.045, 0.156, 0.024))
    steps = np.broadcast_to(np.linspace(0, 1, 256, dtype=np.float32), (2, 256))
    bar.imshow(heated(np.full((2, 256), 0.5, np.float32), steps), aspect="auto", extent=(0, 1, 0, 1))
    bar.set_xticks((0, 0.5, 1), ("0", "0.5", "1"))
    bar.set_yticks(())
    figure.text(0.18, 0.046, SAID, fontsize=13)
    figure.text(0.18, 0.014, CREDIT, fontsize=11, color="#555555")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RSVLM_DATA", "../shared/data")))
    parser.add_argument("--out", type=Path, default=Path("similarity.webp"))
    parser.add_argument("--encoder", type=Path, help="folder of a saved encoder; the shipped one where not given")
    given = parser.parse_args()
    picture = draw(ROWS, given.data, SpectralEncoder.from_pretrained(given.encoder))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(given.out, quality=QUALITY, method=6)
    print(f"{given.out}: {picture.width} x {picture.height} pixels, {given.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
