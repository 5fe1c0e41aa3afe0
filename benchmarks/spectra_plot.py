"""Reflectance per class and band: simulated ground beside the real HLS chips, as one picture with a panel a class."""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS

from data_engine.landscape import Layout, draw
from data_engine.simulate import simulate
from data_engine.spectra import codes_of_cover
from rsvlm.scene import Grid
from rsvlm.sensors import SENSORS

HLS = SENSORS["hls"]
WORLDCOVER = {
    10: "tree cover",
    20: "shrubland",
    30: "grassland",
    40: "cropland",
    50: "built-up",
    60: "bare or sparse vegetation",
    80: "permanent water",
    90: "herbaceous wetland",
}
GROUNDS = (
    Layout(river_m=150, marsh_m=90, forest=0.2, towns=2, town_m=700, season="summer"),
    Layout(forest=0.4, wild=True, shrubs=0.5, relief_m=170, towns=1),
    Layout(sea=0.4, forest=0.15, season="spring", towns=2, town_m=700),
    Layout(lakes=0.2, marsh_m=90, forest=0.5, conifers=0.6, season="autumn"),
)


def real_reflectances(folder: Path) -> dict[str, NDArray[np.float64]]:
    """Every fourth pixel of the chips by class, (7, N)."""
    found: dict[str, list[NDArray[np.float64]]] = {cover: [] for cover in WORLDCOVER.values()}
    for line in (folder / "index.jsonl").read_text(encoding="utf-8").splitlines():
        with rasterio.open(folder / json.loads(line)["chip"]) as chip:
            values = chip.read()[:, ::4, ::4]
        usable = ((values[:7] > -200) & (values[:7] < 10000)).all(axis=0) & (values[:7] != 0).any(axis=0)
        for code, cover in WORLDCOVER.items():
            found[cover].append(values[:7, usable & (values[7] == code)] / 1e4)
    return {cover: np.concatenate(chips, axis=1) for cover, chips in found.items()}


def simulated_reflectances() -> dict[str, NDArray[np.float64]]:
    """All pixels of four simulated grounds by class, (7, N)."""
    found: dict[str, list[NDArray[np.float64]]] = {cover: [] for cover in WORLDCOVER.values()}
    for seed, layout in enumerate(GROUNDS):
        grid = Grid(224, 224, Affine(30, 0, 500000, 0, -30, 5600000), CRS.from_epsg(32633))
        ground = draw(layout, grid, seed=seed)
        pixels = simulate(ground, HLS, seed=seed).pixels
        for cover, parts in found.items():
            parts.append(pixels[:, np.isin(ground.surfaces, codes_of_cover(cover))].astype(np.float64))
    return {cover: np.concatenate(parts, axis=1) for cover, parts in found.items()}


def plot(real: dict[str, NDArray[np.float64]], simulated: dict[str, NDArray[np.float64]], out: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 4, figsize=(15, 7), sharex=True, layout="constrained")
    for axis, cover in zip(axes.flat, WORLDCOVER.values(), strict=True):
        for shift, colour, label, values in (
            (-0.12, "#444444", "real HLS", real[cover]),
            (0.12, "#c2410c", "simulated", simulated[cover]),
        ):
            low, middle, high = np.percentile(values, (10, 50, 90), axis=1)
            spot = np.arange(len(middle)) + shift
            axis.errorbar(spot, middle, (middle - low, high - middle), color=colour, marker="o", capsize=3, label=label)
        axis.set_title(
            f"{cover}\n{real[cover].shape[1]} real, {simulated[cover].shape[1]} simulated pixels", fontsize=9
        )
        axis.set_xticks(range(len(HLS.bands)), [band.name for band in HLS.bands], rotation=40)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0, 0].legend()
    figure.supylabel("surface reflectance: median, 10th to 90th percentile")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=90)
    plt.close(figure)


def main() -> None:
    data = Path(os.environ.get("RSVLM_DATA", "../shared/data"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=data / "hls_worldcover", help="folder with index.jsonl")
    parser.add_argument("--out", type=Path, default=Path("spectra.png"))
    given = parser.parse_args()
    plot(real_reflectances(given.data), simulated_reflectances(), given.out)


if __name__ == "__main__":
    main()
