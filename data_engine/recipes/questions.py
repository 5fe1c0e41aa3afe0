"""Questions about images with short answers that their annotations prove, and the plan each should become."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data_engine.recipes.choices import choose, describe
from data_engine.recipes.evidence import LEAST, evidence_of, table
from data_engine.recipes.placing import verdicts
from data_engine.recipes.proven import PROVEN, Answered, Case
from data_engine.recipes.words import chance_of
from data_engine.sample import Origin, Sample, shown
from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from data_engine.annotated import Annotated

VERSION = 1
DRAWS = 6  # for every question wanted; what is not clear enough to ask is not asked
MAKERS: dict[str, Callable[[Case], Answered | None]] = {**PROVEN, "choice": choose, "describe": describe}
TOLD = {"presence_two": "presence", "scene": "presence"}  # the type of a sample, where it is not the kind of question
WEIGHTS = {
    "presence": 5.0,
    "presence_two": 2.0,
    "scene": 5.0,
    "count": 5.0,
    "attribute": 2.0,
    "area": 4.0,
    "comparison": 4.0,
    "relation": 3.0,
    "position": 2.0,
    "rural_urban": 1.0,
    "choice": 2.0,
    "describe": 1.5,
    "date": 0.6,
    "season": 0.5,
    "sensor": 0.5,
    "resolution": 0.5,
}
ABSTAINED = {"unanswerable": 0.04, "off_topic": 0.025}  # shares of the weight of all other kinds


def make(item: Annotated, *, source: str, seed: int, count: int = 8) -> Iterator[Sample]:
    """Yield up to `count` questions about an image, no two alike, with answers its annotations prove.

    Answers are as `eval` scores them: "yes", "3", "12.5%", "4.2 ha", "more", "top left", "rural", "B"; a question
    that imagery cannot answer has the plan to abstain and the answer plans.ABSTENTION or OFF_TOPIC. An image nothing
    is known of gets none. Raises DatasetError and the errors of rsvlm.raster where files of the annotation cannot be
    read.
    """
    known = evidence_of(item, source)
    if not (known.present or known.absent or item.captions or item.scene):
        return
    image = shown(item.image, item.sensor, item.bands)
    chance = chance_of(seed, "questions", item.place, *(str(file).rsplit("/", 2)[-2:] for file in image.files))
    case = Case(item, known, chance, verdicts(known))
    able = {kind: weight for kind, weight in WEIGHTS.items() if _may(kind, case)}
    able |= {kind: share * sum(able.values()) for kind, share in ABSTAINED.items()}
    seen: set[str] = set()
    for _ in range(DRAWS * count):
        if len(seen) >= count:
            return
        kind = chance.choices(list(able), list(able.values()))[0]
        answered = _tried(kind, case)
        if answered is None or (text := answered.question.text) in seen:
            continue
        seen.add(text)
        origin = Origin(source, item.place, item.split, f"questions/{kind}@{VERSION}", seed)
        told = TOLD.get(kind, kind)
        yield Sample("question", text, origin, (image,), answered.answer, told, answered.question.plan)


def _may(kind: str, case: Case) -> bool:
    """Whether an image has what a kind of question is about at all."""
    item, known = case.item, case.known
    needs = {
        "presence": bool(known.present and known.absent) or len(known.shares) == 1,
        "presence_two": len(known.present) + len(known.absent) > 2,
        "scene": not known.shares and item.scene in {*table()["scenes"]["never"]} & {*table()["scenes"]["things"]},
        "count": bool(known.boxes),
        "attribute": bool(known.rings) and known.georeferenced,
        "area": bool(known.shares),
        "comparison": len(known.shares) > 1 or len(known.boxes) > 1,
        "relation": len({*case.verdicts.values()}) == 2,
        "position": bool(known.boxes or known.pixels),
        "rural_urban": bool(known.shares or item.scene or item.labels),
        "choice": bool(known.shares or item.scene or known.absent),
        "describe": bool(item.captions or any(share >= LEAST for share in known.shares.values())),
        "date": bool(item.acquired),
        "season": bool(item.acquired) and known.georeferenced,
        "sensor": item.sensor in table()["sensors"],
        "resolution": known.georeferenced,
    }
    return needs[kind]


def _tried(kind: str, case: Case) -> Answered | None:
    """One draw; None where it asks for what the image does not have or cannot be said."""
    try:
        return MAKERS[kind](case)
    except DatasetError:
        return None
