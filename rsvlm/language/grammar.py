"""The Lark grammar of every plan one question allows: phrases can only be the question's own words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from rsvlm.language.phrases import PLACES, Phrase, Reading
from rsvlm.language.plan import METADATA, TASKS

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
    """The tasks whose phrases the question can fill."""
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
        return _field("target", _either(map(_inner, METADATA)))
    phrases, relations, units = reading.phrases(task), reading.relations(task), reading.units(task)
    unit = _field("unit", _either(map(_inner, units))) if units else ""
    if task == "change":
        target = [f"({_field('target', _either(_inner(phrase.text) for phrase in phrases))})?"] if phrases else []
        relation = [_field("relation", _either(map(_inner, relations)))] if relations else []
        return " ".join([*target, *relation, unit])
    others = _Others(task, phrases, rules)
    abouts = [about for phrase in phrases if (about := _about(task, phrase, relations, others))]
    return f"{_either(abouts)} {unit}" if abouts else None


def _about(task: str, phrase: Phrase, relations: Sequence[str], others: _Others) -> str:
    """A target with, as far as its task allows, a relation and another phrase; "" when it needs one it cannot have."""
    target = _field("target", _inner(phrase.text))
    other = others.field(phrase)
    tails = [f"{_field('relation', _inner(relation))} {other}" for relation in relations if other]
    if task == "comparison":
        return f"{target} {_either(tails) if tails else other}" if other else ""
    tails += [_field("relation", _inner(relation)) for relation in relations if relation in ALONE]
    if not tails:
        return target
    return f"{target} {_either(tails)}" + ("" if set(relations) & set(PLACES) else "?")


class _Others:
    """Rules for phrases that do not overlap a given one: chains over word positions, linear in the question."""

    def __init__(self, task: str, phrases: Sequence[Phrase], rules: dict[str, str]) -> None:
        self._task = task
        self._firsts = sorted({phrase.first for phrase in phrases}, reverse=True)
        self._lasts = sorted({phrase.last for phrase in phrases})
        self._chain("after", self._firsts, [(phrase.first, phrase.text) for phrase in phrases], rules)
        self._chain("before", self._lasts, [(phrase.last, phrase.text) for phrase in phrases], rules)

    def _chain(self, side: str, order: list[int], texts: list[tuple[int, str]], rules: dict[str, str]) -> None:
        for before, position in zip([None, *order], order, strict=False):
            choices = [_inner(text) for at, text in texts if at == position]
            choices += [] if before is None else [self._name(side, before)]
            rules[self._name(side, position)] = _either(choices)

    def _name(self, side: str, position: int) -> str:
        return f"{self._task}_{side}_{position}"

    def field(self, phrase: Phrase) -> str:
        """The `other` field of a plan about the phrase; "" when nothing is left to compare with."""
        after = [first for first in self._firsts if first > phrase.last][-1:]
        before = [last for last in self._lasts if last < phrase.first][-1:]
        names = [self._name("after", at) for at in after] + [self._name("before", at) for at in before]
        return _field("other", _either(names)) if names else ""
