"""Masks beside the predictions: written as PNG, read back with their size checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rsvlm.errors import EvaluationError, ImageryError
from rsvlm.export import write_png
from rsvlm.raster import read_labels

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MAPS = "maps"


def write_map(layer: NDArray[np.uint8], folder: Path, number: int) -> str:
    """Write a map (H, W) for a line of the manifest; returns its name, relative to the folder."""
    (folder / MAPS).mkdir(exist_ok=True)
    name = f"{MAPS}/{number:06d}.png"
    write_png(layer, folder / name)
    return name


def read_map(folder: Path, name: str, shape: tuple[int, ...], limit: int) -> NDArray[np.int64]:
    """A map of that shape with values below `limit`; raises EvaluationError where it is missing, elsewhere or wrong."""
    try:
        path = (folder / name).resolve()
        there = path.is_relative_to(folder.resolve()) and path.is_file()
    except (ValueError, OSError):  # a name that no file system allows
        there = False
    if not there:
        raise EvaluationError(f"a prediction names the map {name!r}, which is no file in {folder}")
    try:
        layer = read_labels(path).astype(np.int64)
    except ImageryError as error:
        raise EvaluationError(f"the map {name!r} cannot be read: {error}") from error
    if layer.shape != shape or layer.max(initial=0) >= limit:
        raise EvaluationError(
            f"the map {name!r} is {layer.shape} with values up to {layer.max(initial=0)}; "
            f"it needs {shape} and values below {limit}"
        )
    return layer
