"""Change between two dates as a mask, as a sentence, or both; several sensors may have seen the place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from skimage.filters import threshold_otsu

from eval.maps import read_map, write_map
from eval.metrics.captions import caption_statistics
from eval.metrics.maps import change_statistics
from eval.predictions import Prediction, text_of
from eval.tasks.captions import baseline_captions
from rsvlm.change import Change, compare
from rsvlm.errors import EvaluationError, SceneError
from rsvlm.language.plan import Plan
from rsvlm.raster import read_labels

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from eval.manifests import Changed, Picture
    from eval.models import Models
    from eval.statistics import Statistics
    from eval.tasks.task import Settings
    from rsvlm.scene import Scene

OTSU = "otsu"


@dataclass(frozen=True)
class Changes:
    """`mask` scores the changed pixels, `captions` the sentences."""

    settings: Settings
    name: ClassVar[str] = "change"
    protocols: ClassVar[dict[str, str]] = {
        "mask": "pixels of all pairs pooled, change against no change; several sensors: changed where the "
        "mean of their scores is 0.5 or more",
        "captions": "what the first sensor shows, by the COCO protocol of the task captions",
    }
    uses: ClassVar[frozenset[str]] = frozenset({"encoder", "language"})

    @classmethod
    def of(cls, rows: Sequence[Changed], settings: Settings) -> Changes:
        """The task over a whole manifest; raises EvaluationError where lines lack what the protocol scores."""
        for row in rows:
            if (row.mask is None) if settings.protocol == "mask" else not row.captions:
                raise EvaluationError(
                    f"line {row.number} of the manifest has no {settings.protocol}; choose the other --protocol"
                )
        return cls(settings)

    def pictures(self, row: Changed) -> tuple[Picture, ...]:
        """All before, then all after."""
        return (*row.before, *row.after)

    def asked(self, row: Changed) -> Hashable:
        """The phrase."""
        return row.phrase

    def predict(
        self, rows: Sequence[Changed], scenes: Sequence[tuple[Scene, ...]], models: Models, folder: Path
    ) -> list[Prediction]:
        """The changed pixels as PNG, and beside them Otsu's threshold on the difference of the two dates."""
        return [self._compare(row, seen, models, folder) for row, seen in zip(rows, scenes, strict=True)]

    def statistics(self, rows: Sequence[Changed], predictions: Sequence[Prediction], folder: Path) -> Statistics:
        """Change metrics, or caption metrics."""
        if self.settings.protocol == "captions":
            texts = [text_of(prediction, "caption") for prediction in predictions]
            return caption_statistics(texts, [row.captions for row in rows])
        truths = [_truth(row) for row in rows]
        names = [text_of(prediction, "map") for prediction in predictions]
        masks = [read_map(folder, name, truth.shape, 256) > 0 for name, truth in zip(names, truths, strict=True)]
        return change_statistics(truths, masks)

    def baselines(self, rows: Sequence[Changed], predictions: Sequence[Prediction], seed: int) -> dict[str, Statistics]:
        """Nothing changed, all changed, a draw; and Otsu's threshold on the difference image."""
        if self.settings.protocol == "captions":
            references = [row.captions for row in rows]
            said = baseline_captions(references, seed)
            return {name: caption_statistics(texts, references) for name, texts in said.items()}
        truths = [_truth(row) for row in rows]
        chance = np.random.default_rng(seed)
        found = {
            "majority": [np.zeros_like(truth) for truth in truths],
            "constant": [np.ones_like(truth) for truth in truths],
            "random": [chance.random(truth.shape) < 0.5 for truth in truths],
            OTSU: [_otsu(row) for row in rows],
        }
        return {name: change_statistics(truths, masks) for name, masks in found.items()}

    def _compare(self, row: Changed, scenes: tuple[Scene, ...], models: Models, folder: Path) -> Prediction:
        half = len(scenes) // 2
        if self.settings.protocol == "captions":
            return {"caption": models.assistant.compare(scenes[0], scenes[half]).text}
        sizes = sorted({scene.shape for scene in scenes[:half]})
        if len(sizes) > 1:
            raise SceneError(f"sensors of one place need images of one size to agree on a pixel; got {sizes}")
        plan = Plan("change", row.phrase, "new" if row.phrase else "")
        changes = [compare(plan, scenes[i], scenes[half + i], models.encoder) for i in range(half)]
        changed = changes[0].mask.pixels if half == 1 else np.mean([change.score for change in changes], axis=0) >= 0.5
        layer = np.where(changed, 255, 0).astype(np.uint8)
        return {"map": write_map(layer, folder, row.number), "how": [_how(change) for change in changes]}


def _how(change: Change) -> str:
    return change.measured.reason or change.measured.facts[0].how


def _truth(row: Changed) -> NDArray[np.bool_]:
    assert row.mask is not None
    return np.asarray(read_labels(row.mask) > 0)


def _otsu(row: Changed) -> NDArray[np.bool_]:
    """Mean absolute difference of all bands of all sensors, each band divided by its spread, cut by Otsu's rule."""
    layers = []
    for before, after in zip(row.before, row.after, strict=True):
        difference = np.abs(after.read().pixels - before.read().pixels)
        layers += [layer / (layer.std() or 1.0) for layer in difference]
    mean = np.mean(layers, axis=0)
    if mean.max() <= mean.min():
        return np.zeros(mean.shape, bool)
    return np.asarray(mean > threshold_otsu(mean))  # type: ignore[no-untyped-call]
