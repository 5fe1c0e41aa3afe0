"""A random forest over single pixels: the baseline that a map by words has to beat where labels are at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from rsvlm.errors import EvaluationError
from rsvlm.raster import read_labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from eval.manifests import Mapped
    from rsvlm.scene import Scene

TREES = 300
PIXELS = 60_000  # drawn from all training images together
NO_DATA = -1.0  # what the forest is shown where a pixel is missing


class PixelForest:
    """scikit-learn's random forest on the band values of one pixel at a time; seeded, so it is the same every time."""

    def __init__(self, forest: Any) -> None:
        self._forest = forest

    @classmethod
    def fit(cls, rows: Sequence[Mapped], codes: Sequence[int], bands: Sequence[str], *, seed: int) -> PixelForest:
        """Learn from an equal number of labelled pixels of every image.

        Args:
            rows: training lines of a land-cover manifest.
            codes: the classes; pixels of others are left out.
            bands: names of the bands to use, all where empty.
            seed: of the draw and of the trees.

        Raises EvaluationError where no image has a labelled pixel.
        """
        from sklearn.ensemble import RandomForestClassifier

        chance = np.random.default_rng(seed)
        each = max(1, PIXELS // len(rows))
        drawn = [_labelled(row, codes, bands, each, chance) for row in tqdm(rows, desc="forest", unit="image")]
        values, labels = (np.concatenate([part[i] for part in drawn]) for i in (0, 1))
        if not len(labels):
            raise EvaluationError("the training manifest has no pixel of the classes to be told apart")
        return cls(RandomForestClassifier(TREES, random_state=seed, n_jobs=-1).fit(values, labels))

    def map_of(self, scene: Scene, bands: Sequence[str]) -> NDArray[np.int64]:
        """Position (H, W) of the class of every pixel."""
        found = self._forest.predict(_pixels(scene, bands))
        return np.asarray(found, np.int64).reshape(scene.shape)


def _labelled(
    row: Mapped, codes: Sequence[int], bands: Sequence[str], count: int, chance: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Values (N, C) and class positions (N,) of at most `count` pixels of one image."""
    scene = row.picture.read()
    truth = read_labels(row.labels, band=row.band).ravel()
    known = np.flatnonzero(np.isin(truth, codes) & scene.valid.ravel())
    chosen = chance.choice(known, min(count, len(known)), replace=False)
    positions = {code: position for position, code in enumerate(codes)}
    return _pixels(scene, bands)[chosen], np.array([positions[int(code)] for code in truth[chosen]], np.int64)


def _pixels(scene: Scene, bands: Sequence[str]) -> NDArray[np.float32]:
    """(H x W, C) values, missing pixels as NO_DATA."""
    shown = scene.select(bands) if bands else scene
    return np.where(scene.valid, shown.pixels, NO_DATA).reshape(len(shown.pixels), -1).T.astype(np.float32)
