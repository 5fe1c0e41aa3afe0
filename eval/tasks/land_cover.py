"""A class for every pixel, by the encoder's dense maps of the class names."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from eval.forest import PixelForest
from eval.manifests import read_mapped
from eval.maps import read_map, write_map
from eval.metrics.maps import confusion, map_statistics
from eval.predictions import Prediction, text_of
from rsvlm.errors import EvaluationError
from rsvlm.findings import cover_map
from rsvlm.raster import read_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from numpy.typing import NDArray

    from eval.manifests import Mapped, Picture
    from eval.models import Models
    from eval.statistics import Statistics
    from eval.tasks.task import Settings
    from rsvlm.scene import Scene

MAX_CLASSES = 255


@dataclass(frozen=True)
class LandCover:
    """The classes are the codes of the manifest that are not ignored; predicted maps hold their positions."""

    codes: tuple[int, ...]
    names: tuple[str, ...]
    settings: Settings
    name: ClassVar[str] = "land-cover"
    protocols: ClassVar[dict[str, str]] = {
        "pixels": "pixels of all images pooled, codes to ignore left out; mIoU over the classes that occur in truth or "
        "prediction, and without the background class where one is named"
    }
    uses: ClassVar[frozenset[str]] = frozenset({"encoder"})

    @classmethod
    def of(cls, rows: Sequence[Mapped], settings: Settings) -> LandCover:
        """The task over a whole manifest."""
        first = rows[0]
        codes = tuple(sorted(code for code in first.codes if code not in first.ignore))
        names = tuple(first.codes[code] for code in codes)
        if not 1 < len(codes) <= MAX_CLASSES:
            raise EvaluationError(f"land cover needs 2 to {MAX_CLASSES} classes; the manifest names {len(codes)}")
        if settings.background and settings.background not in names:
            raise EvaluationError(f"the background {settings.background!r} is none of {', '.join(names)}")
        return cls(codes, names, settings)

    def pictures(self, row: Mapped) -> tuple[Picture, ...]:
        """The one image."""
        return (row.picture,)

    def asked(self, row: Mapped) -> Hashable:
        """The classes are the same for all."""
        return ""

    def predict(
        self, rows: Sequence[Mapped], scenes: Sequence[tuple[Scene, ...]], models: Models, folder: Path
    ) -> list[Prediction]:
        """A map of class positions each, as PNG beside the predictions."""
        shown = [self.settings.shown(scene) for (scene,) in scenes]
        maps = [cover_map(scene, self.names, models.encoder).astype(np.uint8) for scene in shown]
        return [{"map": write_map(layer, folder, row.number)} for row, layer in zip(rows, maps, strict=True)]

    def statistics(self, rows: Sequence[Mapped], predictions: Sequence[Prediction], folder: Path) -> Statistics:
        """Overall accuracy and IoU by class."""
        names = [text_of(prediction, "map") for prediction in predictions]
        count = len(self.codes)
        return self._statistics(rows, lambda position, truth: read_map(folder, names[position], truth.shape, count))

    def baselines(self, rows: Sequence[Mapped], predictions: Sequence[Prediction], seed: int) -> dict[str, Statistics]:
        """The class that covers most, the first, a draw; where there are training lines, a forest over pixels."""
        chance = np.random.default_rng(seed)
        count = len(self.codes)
        totals: Counter[int] = Counter()
        for row in rows:
            codes, counts = np.unique(self._truth(row), return_counts=True)
            totals.update({int(c): int(n) for c, n in zip(codes, counts, strict=True) if int(c) in self.codes})
        majority = self.codes.index(totals.most_common(1)[0][0]) if totals else 0
        found = {
            "majority": self._statistics(rows, lambda position, truth: np.full(truth.shape, majority)),
            "constant": self._statistics(rows, lambda position, truth: np.zeros(truth.shape, np.int64)),
            "random": self._statistics(rows, lambda position, truth: chance.integers(count, size=truth.shape)),
        }
        if self.settings.train:
            maps = self._forest_maps(rows)
            found["forest"] = self._statistics(rows, lambda position, truth: maps[position])
        return found

    def _forest_maps(self, rows: Sequence[Mapped]) -> list[NDArray[np.int64]]:
        bands, seed = self.settings.bands, self.settings.seed
        lines = [line for manifest in self.settings.train for line in read_mapped(Path(manifest))]
        forest = PixelForest.fit(lines, self.codes, bands, seed=seed)
        return [forest.map_of(row.picture.read(), bands) for row in rows]

    def _truth(self, row: Mapped) -> NDArray[np.int64]:
        return read_labels(row.labels, band=row.band).astype(np.int64)

    def _statistics(
        self, rows: Sequence[Mapped], predicted: Callable[[int, NDArray[np.int64]], NDArray[np.integer]]
    ) -> Statistics:
        tables = []
        codes = np.array(self.codes)
        for position, row in enumerate(rows):
            truth = self._truth(row)
            tables.append(confusion(truth, codes[predicted(position, truth)], self.codes, row.ignore))
        return map_statistics(np.stack(tables), self.names, background=self.settings.background or None)
