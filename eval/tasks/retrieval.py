"""Text-to-image and image-to-text retrieval; a line's prediction is its vectors, so any protocol can re-score it."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from eval.metrics.graded import graded_statistics
from eval.metrics.ranking import PROTOCOLS, caption_ranks, caption_statistics, score_blocks
from eval.predictions import Prediction
from rsvlm.errors import EvaluationError

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from eval.manifests import Captioned, Picture
    from eval.models import Models
    from eval.statistics import Statistics
    from eval.tasks.pairs import Pairs
    from eval.tasks.task import Settings
    from rsvlm.scene import Scene

BY_LABEL = {
    "labels": "cosine, every label a query for the images that have it, gain the Jaccard of the label sets, ties by "
    "line",
    "label-sets": "cosine, every set of labels that occurs, in words, a query for the images that share a label, gain "
    "the Jaccard of the label sets, ties by line",
}
BY_PLACE = {
    "image-pairs": "cosine, every image a query for the image of the same place in the second manifest (onto) and that "
    "one for it (back), mR the mean of the six, ties by line"
}


@dataclass(frozen=True)
class Retrieval:
    """The protocol says what the queries are: captions, single labels or sets of labels."""

    settings: Settings
    name: ClassVar[str] = "retrieval"
    protocols: ClassVar[dict[str, str]] = {**PROTOCOLS, **BY_LABEL, **BY_PLACE}
    uses: ClassVar[frozenset[str]] = frozenset({"encoder"})

    @classmethod
    def of(cls, rows: Sequence[Captioned], settings: Settings) -> Retrieval | Pairs:
        """The task over a whole manifest; raises EvaluationError where lines lack what the queries are made of."""
        from eval.tasks.pairs import Pairs  # which takes its vectors from here

        if settings.onto or settings.protocol in BY_PLACE:
            return Pairs.of(rows, settings)
        task = cls(settings)
        bare = next((row for row in rows if not task.texts(row)), None)
        if bare is not None:
            missing = "labels" if settings.protocol in BY_LABEL else "captions"
            raise EvaluationError(f"line {bare.number} of the manifest has no {missing} to query with")
        return task

    def pictures(self, row: Captioned) -> tuple[Picture, ...]:
        """The one image."""
        return (row.picture,)

    def asked(self, row: Captioned) -> Hashable:
        """The texts."""
        return self.texts(row)

    def texts(self, row: Captioned) -> tuple[str, ...]:
        """The query texts a line brings."""
        if self.settings.protocol not in BY_LABEL:
            return row.captions
        if self.settings.protocol == "labels":
            return row.labels
        return (", ".join(sorted(set(row.labels))),) if row.labels else ()

    def predict(
        self, rows: Sequence[Captioned], scenes: Sequence[tuple[Scene, ...]], models: Models, folder: Path
    ) -> list[Prediction]:
        """The vectors of the image and of its texts, float32, as base64."""
        images = models.encoder.encode_scenes([self.settings.shown(scene) for (scene,) in scenes])
        return [
            {"image": packed(image), "texts": [packed(v) for v in models.encoder.encode_texts(self.texts(row))]}
            for row, image in zip(rows, images, strict=True)
        ]

    def statistics(self, rows: Sequence[Captioned], predictions: Sequence[Prediction], folder: Path) -> Statistics:
        """Recalls over captions, or graded metrics over labels."""
        texts = self._text_vectors(rows, predictions)
        images = [unpacked_vector(prediction.get("image")) for prediction in predictions]
        if {len(image) for image in images} != {texts[0].shape[1]}:
            raise EvaluationError(f"vectors of images need the {texts[0].shape[1]} numbers that vectors of texts have")
        return self._statistics(rows, np.stack(images), texts)

    def baselines(
        self, rows: Sequence[Captioned], predictions: Sequence[Prediction], seed: int
    ) -> dict[str, Statistics]:
        """Images in a drawn order, and all images alike (ties by place in the manifest)."""
        texts = self._text_vectors(rows, predictions)
        shape = (len(rows), texts[0].shape[1])
        chance = np.random.default_rng(seed)
        drawn = [chance.standard_normal(each).astype(np.float32) for each in (shape, *(t.shape for t in texts))]
        return {
            "random": self._statistics(rows, unit_vectors(drawn[0]), [unit_vectors(each) for each in drawn[1:]]),
            "constant": self._statistics(rows, unit_vectors(np.ones(shape, np.float32)), texts),
        }

    def _text_vectors(self, rows: Sequence[Captioned], predictions: Sequence[Prediction]) -> list[NDArray[np.float32]]:
        """(T, D) for each line."""
        found = []
        for row, prediction in zip(rows, predictions, strict=True):
            texts = prediction.get("texts")
            if not isinstance(texts, list) or len(texts) != len(self.texts(row)):
                raise EvaluationError(f"the prediction for line {row.number} needs {len(self.texts(row))} text vectors")
            found.append([unpacked_vector(text) for text in texts])
        sizes = {len(vector) for vectors in found for vector in vectors}
        if len(sizes) > 1:
            raise EvaluationError(f"vectors of one run have one length; got {', '.join(map(str, sorted(sizes)))}")
        return [np.stack(vectors) for vectors in found]

    def _statistics(
        self, rows: Sequence[Captioned], images: NDArray[np.float32], texts: list[NDArray[np.float32]]
    ) -> Statistics:
        if self.settings.protocol not in BY_LABEL:
            owners = np.repeat(np.arange(len(rows)), [len(each) for each in texts])
            protocol = self.settings.protocol
            return caption_statistics(*caption_ranks(images, np.concatenate(texts), owners, protocol=protocol))
        vectors: dict[str, NDArray[np.float32]] = {}
        labels: dict[str, frozenset[str]] = {}
        for row, each in zip(rows, texts, strict=True):
            for text, vector in zip(self.texts(row), each, strict=True):
                vectors[text] = vector
                labels[text] = frozenset([text] if self.settings.protocol == "labels" else row.labels)
        names = sorted(vectors)
        wanted = [labels[name] for name in names]
        blocks = score_blocks(np.stack([vectors[name] for name in names]), images)
        scores = (block.astype(np.float64) for block in blocks)
        owned = [frozenset(row.labels) for row in rows]
        return graded_statistics(scores, wanted, owned, [f"{row.number:09d}" for row in rows])


def packed(vector: NDArray[np.float32]) -> str:
    """A vector (D,) as base64 of float32."""
    return base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode()


def unpacked_vector(packed: Any) -> NDArray[np.float32]:
    """A vector as base64 of float32 or as a list of numbers, brought to unit length."""
    try:
        if isinstance(packed, str):
            vector = np.frombuffer(base64.b64decode(packed, validate=True), "<f4")
        else:
            vector = np.asarray(packed, np.float32)
    except (ValueError, TypeError) as error:
        raise EvaluationError(f"a vector is base64 of float32 numbers or a list of numbers: {error}") from error
    if vector.ndim != 1 or not np.isfinite(vector).all() or not vector.any():
        raise EvaluationError("a vector needs one row of finite numbers that are not all 0")
    unit: NDArray[np.float32] = unit_vectors(vector[None])[0]
    return unit


def unit_vectors(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows (N, D) brought to unit length."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)
