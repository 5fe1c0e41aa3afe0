"""The Lark grammar of every plan one question allows: phrases can only be the question's own words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from rsvlm.language.phrases import PLACES, Reading
from rsvlm.language.plan import TASKS

ALONE = frozenset({"top", "bottom", "left", "right", "new", "lost"})  # relations that need no second phrase


def plan_grammar(reading: Reading, tasks: Sequence[str] = tuple(TASKS)) -> str:
    """Lark text for the compact JSON of a plan with one of the tasks, fields in Plan's order, empty ones left out.

    A task that needs a phrase the question does not have is left out.
    """
    rules: dict[str, str] = {}
    for task in tasks:
        fields = _fields(task, reading, rules)
        if fields is not None:
            head = _literal('{"task":"' + task + '"')
            rules["t_" + task] = f"{head} {fields} {_literal('}')}"
    starts = " | ".join("t_" + task for task in tasks if "t_" + task in rules)
    return "".join(f"{name}: {rule}\n" for name, rule in {"start": starts, **rules}.items())


def possible_tasks(reading: Reading) -> tuple[str, ...]:
    """The tasks whose phrases the question can fill; only a search may be about what cannot be measured."""
    if reading.cannot_be_measured:
        return ("search", "abstain") if reading.searches else ("abstain",)
    return tuple(task for task in TASKS if _fields(task, reading, {}) is not None)


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _either(choices: Iterable[str]) -> str:
    return "(" + " | ".join(choices) + ")"


def _inner(text: str) -> str:
    return _literal(json.dumps(text, ensure_ascii=False)[1:-1])


def _field(name: str, value: str) -> str:
    opening, closing = f',"{name}":"', '"'
    return f"{_literal(opening)} {value} {_literal(closing)}"


def _fields(task: str, reading: Reading, rules: dict[str, str]) -> str | None:
    """What may follow the task's name, None when the task is impossible; adds the rules it refers to."""
    if task in ("describe", "abstain"):
        return ""
    if task == "metadata":
        named = reading.metadata()
        return _field("target", _either(map(_inner, named))) if named else None
    phrases, relations, units = reading.phrases(task), reading.relations(task), reading.units(task)
    unit = _field("unit", _either(map(_inner, units))) if units else ""
    if task == "change":
        target = f"({_field('target', _either(map(_inner, phrases)))})?" if phrases else ""
        relation = _field("relation", _either(map(_inner, relations))) if relations else ""
        return f"{target} {relation} {unit}"
    abouts = [_about(task, phrase, relations, later) for phrase, later in _with_later(task, phrases, rules)]
    abouts = [about for about in abouts if about]
    return f"{_either(abouts)} {unit}" if abouts else None


def _with_later(task: str, phrases: Sequence[str], rules: dict[str, str]) -> list[tuple[str, str]]:
    """Each phrase with the name of a rule for any phrase after it, "" for the last; linear in the question."""
    paired, later = [], ""
    for i, phrase in reversed(list(enumerate(phrases))):
        paired.append((phrase, later))
        rules[f"{task}_from_{i}"] = _inner(phrase) + (f" | {later}" if later else "")
        later = f"{task}_from_{i}"
    return paired[::-1]


def _about(task: str, phrase: str, relations: Sequence[str], later: str) -> str:
    """A target with, as far as its task allows, a relation and another phrase; "" when it needs one it cannot have."""
    target, other = _field("target", _inner(phrase)), _field("other", later) if later else ""
    tails = [f"{_field('relation', _inner(relation))} {other}" for relation in relations if other]
    if task == "comparison":
        return f"{target} {_either(tails) if tails else other}" if other else ""
    tails += [_field("relation", _inner(relation)) for relation in relations if relation in ALONE]
    if not tails:
        return target
    return f"{target} {_either(tails)}" + ("" if set(relations) & set(PLACES) else "?")
