"""The short answer of a benchmark out of a whole answer: "yes", "3", "12.5 ha", "top left"."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rsvlm.answer import Answer, Fact

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
    if answer.plan.task == "locate" and len(answer.facts) > 1:
        return str(answer.facts[1].value)
    return _value(fact)


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
