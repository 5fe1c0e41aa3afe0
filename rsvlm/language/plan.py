"""A plan is a question read as one of a few measurable tasks; this is its type and its grammar."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from rsvlm.errors import PlanError

TASKS = {
    "describe": "say what the scene shows",
    "presence": "say whether the target is there",
    "count": "count the target's instances",
    "area": "measure how much ground the target covers",
    "comparison": "say whether there is more, less or as much of the target as of the other",
    "locate": "find where the target is and outline it",
    "change": "say what changed between two dates",
    "search": "find scenes of the target in the archive",
    "metadata": "read date, sensor, place or pixel size from the file",
    "abstain": "the question cannot be answered from imagery",
}
RELATIONS = ("", "more", "less", "equal", "top", "bottom", "left", "right", "next to", "new", "lost", "and", "or")
UNITS = ("", "percent", "ha", "km2", "m2", "count")
NEEDS_TARGET = frozenset({"presence", "count", "area", "comparison", "locate", "search", "metadata"})
METADATA = ("date", "sensor", "place", "resolution", "bands", "size")  # targets of a metadata plan
MAX_PHRASE = 120


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. `target` and `other` are phrases of the question; "" where the task has none."""

    task: str
    target: str = ""
    relation: str = ""
    other: str = ""
    unit: str = ""

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise PlanError(f"unknown task {self.task!r}; a plan is one of {', '.join(TASKS)}")
        if self.relation not in RELATIONS:
            raise PlanError(f"unknown relation {self.relation!r}; known are {', '.join(filter(None, RELATIONS))}")
        if self.unit not in UNITS:
            raise PlanError(f"unknown unit {self.unit!r}; known are {', '.join(filter(None, UNITS))}")
        if self.task in NEEDS_TARGET and not self.target:
            raise PlanError(f"a plan to {TASKS[self.task]} needs a target phrase")
        if self.task == "comparison" and not self.other:
            raise PlanError("a comparison needs a second phrase to compare with")
        for phrase in (self.target, self.other):
            if len(phrase) > MAX_PHRASE or re.search(r"[\n\r\x00]", phrase):
                raise PlanError(f"a phrase must be one line of at most {MAX_PHRASE} characters")

    def to_json(self) -> dict[str, str]:
        """Plain values, empty fields left out."""
        return {key: value for key, value in asdict(self).items() if value or key == "task"}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Plan:
        """Read back `to_json`; raises PlanError on unknown keys or values."""
        unknown = sorted(set(plain) - set(cls.__slots__))
        if unknown or "task" not in plain or not all(isinstance(value, str) for value in plain.values()):
            raise PlanError(f"a plan has text fields {', '.join(cls.__slots__)}; got {plain!r}")
        return cls(**plain)
