"""From a phrase to boxes, oriented boxes or a mask; phrases for what is not there count false alarms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import shapely

from eval.dialects import parse
from eval.maps import read_map, write_map
from eval.metrics.boxes import (
    PROTOCOLS,
    Shapes,
    centre_box,
    grounding_statistics,
    mask_statistics,
    random_boxes,
    whole_image,
)
from eval.predictions import Prediction, numbers_of, text_of
from rsvlm.errors import EvaluationError, QueryError
from rsvlm.raster import read_labels

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from eval.manifests import Grounded, Picture
    from eval.models import Models
    from eval.statistics import Statistics
    from eval.tasks.task import Settings
    from rsvlm.answer import Answer
    from rsvlm.scene import Region, Scene


@dataclass(frozen=True)
class Grounding:
    """Lines of one manifest all have masks, or all boxes and polygons."""

    settings: Settings
    masks: bool
    name: ClassVar[str] = "grounding"
    protocols: ClassVar[dict[str, str]] = {
        name: f"a box or mask is right at IoU {rule} t; F1 by one-to-one matching in order of score, Pr and mIoU a line"
        for name, rule in PROTOCOLS.items()
    }
    uses: ClassVar[frozenset[str]] = frozenset({"encoder", "language"})

    @classmethod
    def of(cls, rows: Sequence[Grounded], settings: Settings) -> Grounding:
        """The task over a whole manifest; raises EvaluationError where masks and boxes are mixed."""
        kinds = {row.mask is not None for row in rows}
        if len(kinds) > 1:
            raise EvaluationError("the manifest mixes masks with boxes; write one manifest for each")
        return cls(settings, kinds.pop())

    def pictures(self, row: Grounded) -> tuple[Picture, ...]:
        """The one image."""
        return (row.picture,)

    def asked(self, row: Grounded) -> Hashable:
        """The phrase."""
        return row.phrase

    def predict(
        self, rows: Sequence[Grounded], scenes: Sequence[tuple[Scene, ...]], models: Models, folder: Path
    ) -> list[Prediction]:
        """Boxes and oriented boxes with scores, and the mask of them all where the truth is a mask."""
        found = []
        for row, (scene,) in zip(rows, scenes, strict=True):
            prediction, regions = _grounded(scene, row.phrase, models)
            if self.masks:
                prediction["map"] = write_map(_painted(regions, scene), folder, row.number)
            found.append(prediction)
        return found

    def statistics(self, rows: Sequence[Grounded], predictions: Sequence[Prediction], folder: Path) -> Statistics:
        """Metrics of boxes, oriented boxes or masks."""
        if not self.masks:
            shapes = [predicted_shapes(row, given) for row, given in zip(rows, predictions, strict=True)]
            return self._score(rows, shapes)
        truths = [_mask(row) for row in rows]
        names = [text_of(prediction, "map") for prediction in predictions]
        masks = [read_map(folder, name, truth.shape, 256) > 0 for name, truth in zip(names, truths, strict=True)]
        return self._score_masks(truths, masks)

    def baselines(
        self, rows: Sequence[Grounded], predictions: Sequence[Prediction], seed: int
    ) -> dict[str, Statistics]:
        """The whole image, a box in its middle, and the boxes of another line."""
        if self.masks:
            truths = [_mask(row) for row in rows]
            drawn = np.random.default_rng(seed)
            return {
                "majority": self._score_masks(truths, [np.ones_like(truth) for truth in truths]),
                "constant": self._score_masks(truths, [_middle(truth.shape) for truth in truths]),
                "random": self._score_masks(truths, [drawn.random(truth.shape) < 0.5 for truth in truths]),
            }
        sizes = [_size(prediction) for prediction in predictions]
        truths_of = [true_shapes(row) for row in rows]
        return {
            "majority": self._score(rows, [whole_image(size) for size in sizes]),
            "constant": self._score(rows, [centre_box(size) for size in sizes]),
            "random": self._score(rows, random_boxes(truths_of, sizes, seed)),
        }

    def _score(self, rows: Sequence[Grounded], shapes: Sequence[Shapes]) -> Statistics:
        rule = PROTOCOLS[self.settings.protocol]
        return grounding_statistics([true_shapes(row) for row in rows], shapes, threshold_rule=rule)

    def _score_masks(self, truths: Sequence[NDArray[np.bool_]], masks: Sequence[NDArray[np.bool_]]) -> Statistics:
        return mask_statistics(truths, masks, threshold_rule=PROTOCOLS[self.settings.protocol])


def _grounded(scene: Scene, phrase: str, models: Models) -> tuple[Prediction, tuple[Region, ...]]:
    """What the assistant outlines; a phrase that it refuses, such as a very long one, counts as nothing found."""
    try:
        answer = models.assistant.ground(scene, phrase)
    except QueryError as error:
        refused = {"boxes": [], "polygons": [], "scores": [], "size": list(scene.shape), "text": str(error)}
        return {**refused, "abstained": True, "confidence": 0.0}, ()
    return _shapes_of(answer, scene), answer.regions


def _shapes_of(answer: Answer, scene: Scene) -> Prediction:
    regions = answer.regions
    return {
        "boxes": [[round(float(v), 2) for v in region.box] for region in regions],
        "polygons": [_corners(region.oriented_box) for region in regions],
        "scores": [round(region.score, 4) for region in regions],
        "size": list(scene.shape),
        "text": answer.text,
        "abstained": answer.abstained,
        "confidence": round(float(answer.facts[0].confidence), 4) if answer.facts and not answer.abstained else 0.0,
    }


def _corners(geometry: Any) -> list[list[float]]:
    return [[round(x, 2), round(y, 2)] for x, y in shapely.get_coordinates(geometry)[:-1].tolist()]


def _painted(regions: Sequence[Region], scene: Scene) -> NDArray[np.uint8]:
    from rasterio.features import rasterize

    shapes = [region.polygon for region in regions]
    layer = rasterize(shapes, scene.shape) if shapes else np.zeros(scene.shape)
    return np.asarray(layer, np.uint8) * np.uint8(255)


def true_shapes(row: Grounded) -> Shapes:
    """Where the phrase of a line is."""
    return Shapes.from_polygons(row.polygons) if row.polygons else Shapes.from_boxes(row.boxes)


def _mask(row: Grounded) -> NDArray[np.bool_]:
    assert row.mask is not None
    return np.asarray(read_labels(row.mask) > 0)


def _middle(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    layer = np.zeros(shape, bool)
    layer[shape[0] // 4 : shape[0] - shape[0] // 4, shape[1] // 4 : shape[1] - shape[1] // 4] = True
    return layer


def _size(prediction: Prediction) -> tuple[int, int]:
    size = numbers_of(prediction, "size")
    if len(size) != 2 or min(size) < 1:
        raise EvaluationError("a prediction of boxes needs the image's size as [height, width] in pixels")
    return int(size[0]), int(size[1])


def predicted_shapes(row: Grounded, prediction: Prediction) -> Shapes:
    """Shapes in the form of the truth; a `dialect` says in which syntax a model's `answer` writes them."""
    if "dialect" in prediction:
        return parse(text_of(prediction, "answer"), text_of(prediction, "dialect"), _size(prediction)).shapes
    boxes, polygons = prediction.get("boxes", []), prediction.get("polygons", [])
    try:
        scores = numbers_of(prediction, "scores") or None
        if polygons and (row.polygons or not boxes):
            return Shapes.from_polygons(polygons, scores)
        return Shapes.from_boxes(boxes, scores)
    except (ValueError, TypeError) as error:
        raise EvaluationError(f"the prediction for line {row.number} is no list of boxes: {error}") from error
