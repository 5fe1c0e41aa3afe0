"""Questions with lettered choices, and questions answered by a description."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from data_engine.recipes.evidence import LEAST, related, table
from data_engine.recipes.plans import About, ask, forms
from data_engine.recipes.proven import CLEAR, SAME, Answered, Case
from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable

LETTERS = "ABCD"


def choose(case: Case) -> Answered | None:
    """A question with lettered choices, exactly one of which is right."""
    kind = case.chance.choice(("choice_cover", "choice_present", "choice_scene"))
    right, wrong = CHOICES[kind](case)
    wrong = case.some(wrong, min(3, max(1, len(wrong))))
    options = [right, *wrong]
    case.chance.shuffle(options)
    names = [case.said(label) for label in options]
    if len({name.many for name in names}) < len(names):
        return None
    style = case.chance.choice(("{letter}) {name}", "{letter}. {name}", "({letter}) {name}", "{letter}: {name}"))
    told = [style.format(letter=letter, name=name.many) for letter, name in zip(LETTERS, names, strict=False)]
    text = case.chance.choice((", ", "; ", " ")).join(told)
    return case.worded(kind, About(), LETTERS[options.index(right)], {"options": text})


def _largest(case: Case) -> tuple[str, list[str]]:
    """The class of the largest share, and others that clearly cover less."""
    ranked = sorted(case.known.shares, key=lambda name: (-case.known.shares[name], name))
    if len(ranked) < 2 or case.known.shares[ranked[0]] < LEAST:
        raise DatasetError("there is no largest class; ask something else")
    largest = case.known.shares[ranked[0]]
    return ranked[0], [n for n in ranked[1:] if largest - case.known.shares[n] >= CLEAR and not related(n, ranked[0])]


def _there(case: Case) -> tuple[str, list[str]]:
    [right] = case.some(case.known.present)
    return right, list(case.known.absent)


def _scenes(case: Case) -> tuple[str, list[str]]:
    """The scene, and others that are not taken for it."""
    scenes, scene = table()["scenes"], case.item.scene
    if scene not in scenes["all"] or case.known.shares:
        raise DatasetError(f"{scene!r} is no scene class with known neighbours; ask something else")
    alike = {name for line in scenes["alike"] if scene in line for name in line}
    return scene, [name for name in scenes["all"] if name not in alike and name != scene]


def describe(case: Case) -> Answered | None:
    """A caption the image has, else a sentence of its largest classes."""
    if not case.item.captions:
        return case.worded("describe", About(), _sentence(case))
    form = forms()["describe"]  # captions of people do not tell the land cover
    fit = replace(form, patterns=tuple(pattern for pattern in form.patterns if "land cover" not in pattern))
    caption = " ".join(case.chance.choice(case.item.captions).split()).replace(" .", ".")
    return Answered(ask(fit, About(), case.chance, images=case.called), caption)


def _sentence(case: Case) -> str:
    shares = case.known.shares
    ranked = sorted((name for name in shares if shares[name] >= LEAST), key=lambda name: (-shares[name], name))[:3]
    if not ranked or any(shares[a] - shares[b] < SAME for a, b in pairwise(ranked)):
        raise DatasetError("no class is clearly larger than the next; ask something else")
    told = ranked[:1] if shares[ranked[0]] > 0.9 else ranked
    if len(told) == 1 and shares[ranked[0]] <= 0.9:
        raise DatasetError("one class that does not fill the image describes it badly; ask something else")
    names = dict(zip(("first", "second", "third"), (case.said(name, mass=True).many for name in told), strict=False))
    pattern = case.chance.choice(table()["described"][("one", "two", "three")[len(told) - 1]])
    return str(pattern).format(image=case.chance.choice(("image", "scene")), **names)


CHOICES: dict[str, Callable[[Case], tuple[str, list[str]]]] = {
    "choice_cover": _largest,
    "choice_present": _there,
    "choice_scene": _scenes,
}
