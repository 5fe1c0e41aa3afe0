"""What a task is to the runner, and the settings every task shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from rsvlm.errors import EvaluationError

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from pathlib import Path

    from eval.manifests import Picture
    from eval.models import Models
    from eval.predictions import Prediction
    from eval.statistics import Statistics
    from rsvlm.scene import Scene


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run is asked for beside its manifest; saved with the run."""

    protocol: str = ""
    background: str = ""
    templates: tuple[str, ...] = ()
    names: tuple[tuple[str, str], ...] = ()  # labels, each with what is asked instead
    onto: str = ""  # second manifest, whose images are searched for those of the first
    onto_sha256: str = ""  # so that an interrupted run does not go on with another one
    bands: tuple[str, ...] = ()  # names of the bands a model gets to see; all where empty
    train: tuple[str, ...] = ()  # manifests that baselines may learn from
    limit: int | None = None
    skip: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, lowest in (("limit", 1), ("skip", 0), ("seed", 0)):
            value = getattr(self, name)
            if (name, value) != ("limit", None) and (type(value) is not int or value < lowest):
                raise EvaluationError(f"{name} is a whole number from {lowest}; got {value!r}")

    def shown(self, scene: Scene) -> Scene:
        """What a model gets to see of a scene; raises BandError where it lacks one of `bands`."""
        return scene.select(self.bands) if self.bands else scene


class Task(Protocol):
    """One task over one manifest. `rows` are the lines to run; each has a `number`, its line in the manifest."""

    name: ClassVar[str]
    protocols: ClassVar[dict[str, str]]
    uses: ClassVar[frozenset[str]]  # of "encoder" and "language"

    def pictures(self, row: Any) -> tuple[Picture, ...]:
        """The images of a line."""
        ...

    def asked(self, row: Any) -> Hashable:
        """All that a model without the image gets to see of a line: equal ones get equal blind answers."""
        ...

    def predict(
        self, rows: Sequence[Any], scenes: Sequence[tuple[Scene, ...]], models: Models, folder: Path
    ) -> list[Prediction]:
        """Predict a batch; larger things (maps) are written into `folder` and named in the prediction."""
        ...

    def statistics(self, rows: Sequence[Any], predictions: Sequence[Prediction], folder: Path) -> Statistics:
        """What the metrics are computed from; raises EvaluationError for predictions that cannot be scored."""
        ...

    def baselines(self, rows: Sequence[Any], predictions: Sequence[Prediction], seed: int) -> dict[str, Statistics]:
        """The same metrics for predictions that needed no model."""
        ...


def chosen_protocol(wanted: str, protocols: dict[str, str], task: str) -> str:
    """The protocol by that name, the first one for ""; raises EvaluationError naming those there are."""
    if wanted and wanted not in protocols:
        raise EvaluationError(f"{task} has no protocol {wanted!r}; it has {', '.join(protocols)}")
    return wanted or next(iter(protocols))
