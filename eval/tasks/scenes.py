"""Zero-shot classification of whole images: the class whose name is nearest to the image."""

from __future__ import annotations

import tomllib
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from eval.predictions import Prediction, numbers_of
from eval.statistics import Statistics, Sums, ratio
from rsvlm.errors import ConfigError, EvaluationError

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray

    from eval.manifests import Labelled, Picture
    from eval.models import Models
    from eval.tasks.task import Settings
    from rsvlm.scene import Scene

TEMPLATES = ("{}", "an aerial image of {}", "a satellite photo of {}", "this scene shows {}")
KEPT = 5


@dataclass(frozen=True)
class Scenes:
    """The classes are the labels found in the whole manifest, whatever part of it is run."""

    classes: tuple[str, ...]
    settings: Settings
    name: ClassVar[str] = "scenes"
    protocols: ClassVar[dict[str, str]] = {
        "zero-shot": "cosine of the image with the mean of the templates' vectors for each label of the manifest, or "
        "for the name given for it; ties by the alphabet"
    }
    uses: ClassVar[frozenset[str]] = frozenset({"encoder"})

    @classmethod
    def of(cls, rows: Sequence[Labelled], settings: Settings) -> Scenes:
        """The task over a whole manifest; raises EvaluationError for templates without {} and names that do not fit."""
        for template in settings.templates:
            if template.count("{}") != 1:
                raise EvaluationError(f"a template holds {{}} once, where the label goes; got {template!r}")
        classes = tuple(sorted({row.label for row in rows}))
        _check_names(dict(settings.names), classes)
        return cls(classes, settings)

    def pictures(self, row: Labelled) -> tuple[Picture, ...]:
        """The one image."""
        return (row.picture,)

    def asked(self, row: Labelled) -> Hashable:
        """Nothing: every line has the same classes."""
        return ""

    def predict(
        self, rows: Sequence[Labelled], scenes: Sequence[tuple[Scene, ...]], models: Models, folder: Path
    ) -> list[Prediction]:
        """The five nearest labels with their cosines."""
        images = models.encoder.encode_scenes([scene for (scene,) in scenes])
        scores = images @ self._class_vectors(models).T
        return [self._ranked(row) for row in scores]

    def statistics(self, rows: Sequence[Labelled], predictions: Sequence[Prediction], folder: Path) -> Statistics:
        """Top 1, top 5 and the mean recall of classes."""
        return self._statistics(rows, [self._labels(prediction) for prediction in predictions])

    def baselines(
        self, rows: Sequence[Labelled], predictions: Sequence[Prediction], seed: int
    ) -> dict[str, Statistics]:
        """Classes by how often they occur, one class for all, and a draw."""
        chance = np.random.default_rng(seed)
        frequent = [name for name, _ in Counter(row.label for row in rows).most_common()]
        draws = [[self.classes[i] for i in chance.permutation(len(self.classes))] for _ in rows]
        return {
            "majority": self._statistics(rows, [frequent] * len(rows)),
            "constant": self._statistics(rows, [list(self.classes)] * len(rows)),
            "random": self._statistics(rows, draws),
        }

    def _class_vectors(self, models: Models) -> NDArray[np.float32]:
        templates = self.settings.templates or TEMPLATES
        names = dict(self.settings.names)
        asked = [names.get(label, label) for label in self.classes]
        texts = [template.replace("{}", name) for name in asked for template in templates]
        vectors = models.encoder.encode_texts(texts).reshape(len(self.classes), len(templates), -1).mean(axis=1)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)

    def _ranked(self, scores: NDArray[np.float32]) -> Prediction:
        order = np.argsort(-scores, kind="stable")[:KEPT]
        return {"labels": [self.classes[i] for i in order], "scores": [round(float(scores[i]), 6) for i in order]}

    def _labels(self, prediction: Prediction) -> list[str]:
        labels = prediction.get("labels")
        if not isinstance(labels, list) or len(set(map(str, labels))) != len(labels):
            raise EvaluationError(f"a prediction needs labels, best first, each once; got {str(prediction)[:80]}")
        unknown = [label for label in labels if label not in self.classes]
        if unknown:
            raise EvaluationError(f"the prediction {unknown[0]!r} is no label of the manifest")
        if "scores" in prediction and len(numbers_of(prediction, "scores")) != len(labels):
            raise EvaluationError(f"a prediction with scores has one for each label; got {str(prediction)[:80]}")
        return labels

    def _statistics(self, rows: Sequence[Labelled], ranked: Sequence[Sequence[str]]) -> Statistics:
        counts = np.zeros((len(rows), 3 + 2 * len(self.classes)))
        for position, (row, labels) in enumerate(zip(rows, ranked, strict=True)):
            right = bool(labels) and labels[0] == row.label
            at = 3 + 2 * self.classes.index(row.label)
            counts[position, :3] = 1, right, row.label in labels[:KEPT]
            counts[position, at : at + 2] = 1, right
        return Statistics("images", counts, _values)


def read_names(given: str) -> tuple[tuple[str, str], ...]:
    """Labels with what is asked instead, by label, from a TOML file of `label = "name"`.

    A value without a suffix names one of the files that come with this package. Raises ConfigError for a file that is
    missing or no such table.
    """
    folder = resources.files("eval").joinpath("names")
    shipped = sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))
    own = bool(Path(given).suffix)
    if not own and given not in shipped:
        raise ConfigError(f"there are no names {given!r}; give a file ending in .toml or one of {', '.join(shipped)}")
    try:
        text = (Path(given) if own else folder.joinpath(f"{given}.toml")).read_text(encoding="utf-8")
        names = tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{given} cannot be read as TOML of names: {error}") from error
    wrong = [label for label, name in names.items() if not isinstance(name, str) or not name.strip()]
    if wrong or not names:
        raise ConfigError(f'{given} needs lines as label = "name"; wrong: {", ".join(wrong) or "it is empty"}')
    return tuple(sorted(names.items()))


def _check_names(names: dict[str, str], classes: Sequence[str]) -> None:
    """Names for all the classes and no others, or none at all."""
    if not names:
        return
    missing = [label for label in classes if label not in names]
    unknown = [label for label in names if label not in classes]
    if missing or unknown:
        raise EvaluationError(
            "names are given for the labels of the manifest, each once; "
            f"missing: {', '.join(missing) or 'none'}, unknown labels: {', '.join(unknown) or 'none'}"
        )
    repeated = [name for name, count in Counter(names.values()).items() if count > 1]
    if repeated:
        raise EvaluationError(f"every label needs a name of its own; {repeated[0]!r} is given more than once")


def _values(sums: Sums) -> dict[str, NDArray[np.float64]]:
    per_class = ratio(sums[:, 4::2], sums[:, 3::2])
    with np.errstate(invalid="ignore"):
        macro = np.nanmean(per_class, axis=1)
    return {"top1": ratio(sums[:, 1], sums[:, 0]), "top5": ratio(sums[:, 2], sums[:, 0]), "macro": macro}
