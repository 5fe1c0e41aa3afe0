"""What a class raster says: how much of each class there is, where it lies and what it borders on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from data_engine.recipes.words import cell_words
from rsvlm.errors import DatasetError
from rsvlm.raster import read_labels

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from data_engine.annotated import ClassMap

FILLS = 1 / 3  # of a cell of the 3 x 3 grid; a class that covers more of it lies there
GATHERED = 1 / 2  # of a class; a cell that holds more of it is where the class lies
BORDER = 1 / 2  # of the shorter side of the raster; classes with a longer common border are neighbours
LEAST_PART = 9  # pixels; a smaller connected part is not counted
TOUCHING = np.ones((3, 3), bool)  # parts that meet at a corner are one


@dataclass(frozen=True, slots=True)
class Composition:
    """What classes a raster holds. Everything is of the pixels that count, largest class first.

    `cells` are words of the 3 x 3 grid in reading order, none for a class scattered thinly. A pair of `neighbours`
    names the larger class first; the pair with the longest border comes first. `counted` is the share of all pixels
    that count. A raster in which no pixel counts has no fractions and "" as its dominant class.
    """

    fractions: dict[str, float]
    cells: dict[str, tuple[str, ...]]
    neighbours: tuple[tuple[str, str], ...]
    dominant: str
    parts: dict[str, int]
    counted: float = 1.0


def composition(
    codes: NDArray[Any], names: dict[int, str], ignore: Iterable[int] = (), *, least_part: int = LEAST_PART
) -> Composition:
    """Describe a raster of class codes; several codes may share a name and are one class then.

    Args:
        codes: (H, W), whole numbers.
        names: of the codes.
        ignore: codes that count nowhere.
        least_part: pixels from which on a connected part (of eight neighbours) is counted.

    Raises DatasetError for codes that are neither named nor ignored, and for another shape.
    """
    if codes.ndim != 2 or not codes.size:
        raise DatasetError(f"a class raster must be (H, W) with at least one pixel, got {codes.shape}; give one band")
    classes, layers = _layers(codes, names, frozenset(ignore))
    counts = np.array([np.count_nonzero(layers == k) for k in range(len(classes))], np.int64)
    order = [k for k in sorted(range(len(classes)), key=lambda k: (-counts[k], classes[k])) if counts[k]]
    total = int(counts.sum())
    return Composition(
        fractions={classes[k]: int(counts[k]) / total for k in order},
        cells={classes[k]: tuple(_cells(layers, k, int(counts[k]))) for k in order},
        neighbours=_neighbours(layers, classes, order),
        dominant=classes[order[0]] if order else "",
        parts={classes[k]: _parts(layers == k, least_part) for k in order},
        counted=total / codes.size,
    )


def read_composition(class_map: ClassMap) -> Composition:
    """Describe the class raster of an annotated image; raises as `composition` and `rsvlm.raster.read_labels`."""
    names = {int(code): name for code, name in class_map.codes.items()}
    return composition(read_labels(class_map.path, band=class_map.band), names, class_map.ignore)


def _layers(codes: NDArray[Any], names: dict[int, str], ignore: frozenset[int]) -> tuple[list[str], NDArray[np.int64]]:
    """The classes, and for every pixel the position of its class among them, -1 where it does not count."""
    present, where = np.unique(codes, return_inverse=True)
    unknown = [str(code) for code in present if code not in names and code not in ignore]
    if unknown:
        raise DatasetError(
            f"the class raster holds {', '.join(unknown[:5])}, which is no code among {', '.join(map(str, names))}; "
            "name it or ignore it"
        )
    classes = sorted({names[int(code)] for code in present if code not in ignore})
    positions = [-1 if code in ignore else classes.index(names[int(code)]) for code in present]
    return classes, np.array(positions, np.int64)[where].reshape(codes.shape)


def _cells(layers: NDArray[np.int64], of: int, count: int) -> Iterator[str]:
    height, width = layers.shape
    for row in range(3):
        for column in range(3):
            cell = layers[row * height // 3 : (row + 1) * height // 3, column * width // 3 : (column + 1) * width // 3]
            there, known = np.count_nonzero(cell == of), np.count_nonzero(cell >= 0)
            if known and (there > FILLS * known or there > GATHERED * count):
                yield cell_words((column + 0.5) / 3, (row + 0.5) / 3)


def _neighbours(layers: NDArray[np.int64], classes: list[str], order: list[int]) -> tuple[tuple[str, str], ...]:
    """Pairs of classes whose pixels touch along a long border, longest first."""
    steps = ((layers[:, :-1], layers[:, 1:]), (layers[:-1], layers[1:]))
    met = np.zeros((len(classes), len(classes)), np.int64)
    for one, other in steps:
        apart = (one != other) & (one >= 0) & (other >= 0)
        np.add.at(met, (one[apart], other[apart]), 1)
    met += met.T
    pairs = [(order[i], other) for i in range(len(order)) for other in order[i + 1 :]]
    long = [pair for pair in pairs if met[pair] > BORDER * min(layers.shape)]
    return tuple((classes[one], classes[other]) for one, other in sorted(long, key=lambda pair: -met[pair]))


def _parts(there: NDArray[np.bool_], least: int) -> int:
    labelled, _ = ndimage.label(there, TOUCHING)
    return int(np.count_nonzero(np.bincount(labelled.ravel())[1:] >= least))
