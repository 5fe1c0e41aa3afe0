"""The short answer of a benchmark out of a whole answer: "yes", "3", "12.5 ha", "top left"."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rsvlm.answer import Answer, Fact

YES_OR_NO = re.compile(r"(has|have|had|did|do|does|is|are|was|were|any)\b", re.IGNORECASE)
CHANGES = ("change of ", "area of ", "share of ")  # names of the facts that say how much changed
LEAST_PERCENT = 0.2  # of the scene: less is no change
LEVELS = {"equal": "as much", "more": "more", "less": "less"}


def short_answer(answer: Answer) -> str:
    """The first fact in the words benchmarks use; "" where the assistant abstained."""
    if answer.abstained or not answer.facts:
        return ""
    fact = answer.facts[0]
    if answer.plan.task == "describe":
        return str(fact.value)
    if answer.plan.task == "comparison":
        return _comparison(answer)
    if answer.plan.task == "change" and YES_OR_NO.match(answer.question):
        return "yes" if any(_happened(fact) for fact in answer.facts) else "no"
    if answer.plan.task == "locate" and len(answer.facts) > 1:
        return str(answer.facts[1].value)
    return _value(fact)


def _happened(fact: Fact) -> bool:
    """Whether a fact of a comparison of two dates says that something changed."""
    if not fact.name.startswith(CHANGES) or "cloud" in fact.name or isinstance(fact.value, str):
        return False
    return bool(fact.value) if fact.unit != "percent" else float(fact.value) >= LEAST_PERCENT


def confidence_of(answer: Answer) -> float:
    """How sure the answer is of its first fact, 0 where it abstained."""
    return 0.0 if answer.abstained or not answer.facts else float(answer.facts[0].confidence)


def _comparison(answer: Answer) -> str:
    """Yes or no where the question names the relation ("are there more ..."), else the relation that holds."""
    said = str(answer.facts[0].value)
    holds = next((relation for relation, words in LEVELS.items() if said.startswith(words)), "")
    if answer.plan.relation in LEVELS:
        return "yes" if holds == answer.plan.relation else "no"
    return holds


def _value(fact: Fact) -> str:
    if isinstance(fact.value, bool):
        return "yes" if fact.value else "no"
    unit = "" if fact.unit in ("", "count") else "%" if fact.unit == "percent" else f" {fact.unit}"
    return f"{fact.value}{unit}"
