"""Questions without an image, each with the plan it should become; its phrases are words of the question itself."""

from __future__ import annotations

import hashlib
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from data_engine.recipes.words import chance_of, is_many, is_mass, plural, with_article
from data_engine.sample import Origin, Sample
from rsvlm.errors import DatasetError
from rsvlm.language.phrases import PLACES, Reading, singular
from rsvlm.language.plan import Plan

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

VERSION = 1
VALIDATION = 0.1  # share of samples kept for validation, by their question
ABSTENTION = "This cannot be answered from imagery."  # about the image, but nothing that pixels show
OFF_TOPIC = "That is not a question about imagery."
TRIES = 500  # draws in a row that may repeat questions before a build gives up
CONTRACTIONS = {"What is ": "What's ", "Where is ": "Where's ", "Can you ": "Can u ", "please": "pls", "I am ": "I'm "}
ADJECTIVE, DESCRIBED = 0.3, 0.5  # shares of nouns with an adjective, and of searches for a thing beside another


@dataclass(frozen=True, slots=True)
class Noun:
    """A phrase questions are about: `name` as a plan holds it; `counted` things have a plural and an article."""

    name: str
    counted: bool = True

    @property
    def many(self) -> str:
        """As it stands after "any": "ships", "water"."""
        return plural(self.name) if self.counted else self.name

    @property
    def article(self) -> str:
        """As it stands after "is there": "a ship", "water"."""
        return with_article(self.name) if self.counted else self.name


@dataclass(frozen=True, slots=True)
class Form:
    """Patterns that become plans of one kind. `nouns` says what they are about: any, things, stuff, scene, topic, none.

    `other`: whether there is a second phrase; `target`: of a plan to read metadata.
    """

    task: str
    weight: int
    patterns: tuple[str, ...]
    relations: tuple[str, ...] = ("",)
    units: tuple[str, ...] = ("",)
    other: bool = False
    nouns: str = "any"
    target: str = ""


@dataclass(frozen=True, slots=True)
class About:
    """What one question is about; "" and None where its form has no such part."""

    target: Noun | None = None
    other: Noun | None = None
    relation: str = ""
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the plan it should become, and the pattern it was made from."""

    text: str
    plan: Plan
    pattern: str


@cache
def table() -> dict[str, Any]:
    """The words of recipes/plans.toml."""
    text = resources.files("data_engine").joinpath("recipes/plans.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


@cache
def forms() -> dict[str, Form]:
    """Every form by name."""
    return {name: form_of(plain) for name, plain in table()["forms"].items()}


def form_of(plain: dict[str, Any]) -> Form:
    """A form as TOML holds it."""
    lists = ("patterns", "relations", "units")
    given: dict[str, Any] = {key: tuple(value) if key in lists else value for key, value in plain.items()}
    return Form(**given)


@cache
def held_out() -> frozenset[str]:
    """Digests of normalised questions that are never made."""
    return frozenset(table()["held_out"])


@cache
def _things() -> frozenset[str]:
    return frozenset(table()["vocabulary"]["things"])


def noun(words: str) -> Noun:
    """A name as a noun, in the singular: "trees" and "tree" are counted, "forest" is not."""
    one = singular(words) if is_many(words) else words
    return Noun(one, one != words or words in _things() or not is_mass(words))


def normalised(question: str) -> str:
    """Lower-case words and numbers, one space between."""
    return " ".join(re.findall(r"[a-z0-9]+", question.lower()))


def digest(question: str) -> str:
    """What `held_out` keeps of a question."""
    return hashlib.sha256(normalised(question).encode()).hexdigest()[:12]


def sayable(question: str, plan: Plan) -> bool:
    """Whether the grammar of plans (rsvlm.language.grammar) allows the plan for the question."""
    reading = Reading(question)
    if plan.task == "abstain":
        return True
    if reading.cannot_be_measured and not (plan.task == "search" and reading.searches):
        return False
    if plan.task == "describe":
        return True
    if plan.task == "metadata":
        return plan.target in reading.metadata()
    phrases, relations = reading.phrases(plan.task), reading.relations(plan.task)
    first = phrases.index(plan.target) if plan.target in phrases else -1
    if (plan.target and first < 0) or (plan.other and plan.other not in phrases[first + 1 :]):
        return False
    if plan.unit not in (reading.units(plan.task) or ("",)):
        return False
    needed = plan.task in ("change", "comparison") or set(relations) & set(PLACES)
    return plan.relation in relations if plan.relation else not (needed and relations)


def ask(
    form: Form,
    about: About,
    chance: random.Random,
    *,
    compass: bool = False,
    slots: dict[str, str] | None = None,
    images: tuple[str, ...] = (),
) -> Question:
    """Word one question of a form.

    Args:
        form: its patterns, tried in a random order until one fits and its plan can be read back.
        about: what fills them.
        chance: decides pattern and words.
        compass: whether sides may be told as directions too, north up.
        slots: what else fills them.
        images: what the image may be called; any of the words of plans.toml where empty.

    Raises DatasetError where no pattern says it so that the plan can be read back.
    """
    plan = _plan(form, about)
    fitting = [pattern for pattern in form.patterns if _fits(pattern, about.target)]
    for pattern in chance.sample(fitting, len(fitting)):
        filled = pattern.format(**_slots(about, chance, images, compass=compass), **(slots or {}))
        text = filled if pattern[0].islower() else filled[0].upper() + filled[1:]
        if sayable(text, plan) and digest(text) not in held_out():
            return Question(text, plan, pattern)
    raise DatasetError(f"no pattern of {form.task} can ask about {plan.to_json()}; name the things otherwise")


def make(*, seed: int, count: int) -> Iterator[Sample]:
    """Yield questions of all forms with their plans, no two alike; `seed` decides everything.

    Raises DatasetError where so many different questions cannot be made.
    """
    seen: set[str] = set()
    names = sorted(forms())
    weights = [forms()[name].weight for name in names]
    draws, idle = 0, 0
    while len(seen) < count:
        draws, idle = draws + 1, idle + 1
        if idle > TRIES:
            raise DatasetError(f"only {len(seen):,} of {count:,} different questions can be made; ask for fewer")
        chance = chance_of(seed, "plans", draws)
        name = chance.choices(names, weights)[0]
        question = drawn(name, chance)
        if question is None or normalised(question.text) in seen:
            continue
        seen.add(normalised(question.text))
        idle = 0
        split = "val" if chance_of("plans-split", normalised(question.text)).random() < VALIDATION else "train"
        origin = Origin("plans", "", split, f"plans/{name}@{VERSION}", seed)
        yield Sample("plan", question.text, origin, type=question.plan.task, plan=question.plan)


def drawn(name: str, chance: random.Random) -> Question | None:
    """A question of a form about nouns of the vocabulary, now and then in casual words; None where they do not go."""
    form = forms()[name]
    target = _noun(form.nouns, chance)
    other = _noun(_kind_beside(form, target), chance) if form.other else None
    if target and other and set(target.name.split()) & set(other.name.split()):
        return None
    about = About(target, other, chance.choice(form.relations), chance.choice(form.units))
    try:
        question = ask(form, about, chance, compass=True)
    except DatasetError:
        return None
    return _casual(question, chance, around=0.35 if form.nouns == "none" else 0.07)


def _plan(form: Form, about: About) -> Plan:
    if form.task in ("abstain", "describe"):
        return Plan(form.task)
    target = form.target or (singular(about.target.name) if about.target else "")
    return Plan(form.task, target, about.relation, about.other.name if about.other else "", about.unit)


def _fits(pattern: str, target: Noun | None) -> bool:
    if target is None:
        return True
    return not (("{stuff}" in pattern and target.counted) or ("{object" in pattern and not target.counted))


def _slots(about: About, chance: random.Random, images: tuple[str, ...], *, compass: bool) -> dict[str, str]:
    """What fills the slots of a pattern, drawn anew for each."""
    words = table()["words"]
    image = chance.choice(images or words["image"])
    slots = {"image": image, "number": str(chance.randint(2, 99)), "number2": str(chance.randint(2, 99))}
    if about.target is not None:
        are = "are" if about.target.counted else "is"
        slots |= {"a": about.target.article, "are": are, "Are": are.title()}
        slots |= dict.fromkeys(("thing", "object", "scene", "topic"), about.target.name)
        slots |= dict.fromkeys(("things", "objects", "stuff"), about.target.many)
    if about.other is not None:
        slots |= {"other": about.other.name, "others": about.other.many, "a_other": about.other.article}
    for slot, plain, directed in (("place", "sides", "compass"), ("beside", "beside", "beside_compass")):
        if about.relation in table()[plain]:
            choices = table()[plain][about.relation] + (table()[directed].get(about.relation, []) if compass else [])
            slots[slot] = chance.choice(choices).format(image=image)
    if about.unit:
        slots["unit"] = chance.choice(table()["units"][about.unit])
    return slots | {"changed": chance.choice(words["gained" if about.relation == "new" else "lost"])}


def _noun(kind: str, chance: random.Random) -> Noun | None:
    if kind == "none":
        return None
    vocabulary = table()["vocabulary"]
    if kind == "topic":
        return Noun(chance.choice(vocabulary["topics"]), counted=False)
    if kind == "scene":
        return Noun(_scene(chance), counted=False)
    counted = kind == "things" or (kind == "any" and chance.random() < 0.6)
    words = chance.choice(vocabulary["things" if counted else "stuff"])
    if chance.random() < ADJECTIVE:
        quality = chance.choice(vocabulary["adjectives" if counted else "textures"])
        words = words if quality in words.split() else f"{quality} {words}"
    return Noun(words, counted)


def _scene(chance: random.Random) -> str:
    """What an archive is searched for: "vineyards", "frozen water near a small town"."""
    first = _noun("any", chance)
    second = _noun("things", chance)
    if first is None or second is None:
        raise AssertionError("things and stuff always give a noun")
    if chance.random() >= DESCRIBED:
        return first.many
    return f"{first.many} {chance.choice(table()['vocabulary']['joins'])} {second.article}"


def _kind_beside(form: Form, target: Noun | None) -> str:
    """What goes with a target: things lie beside things, things are not compared with stuff."""
    if "next to" in form.relations or "top" in form.relations:
        return "things"
    return "things" if target is not None and target.counted else "stuff"


def _casual(question: Question, chance: random.Random, *, around: float) -> Question:
    """The question as people type: contractions, letters swapped, lower case, no question mark.

    `around` is how often something stands before or after it; questions without a noun need it to differ.
    """
    words, text = table()["words"], question.text
    if chance.random() < 0.1:
        for formal, casual in CONTRACTIONS.items():
            text = text.replace(formal, casual)
    if chance.random() < around:
        before = chance.choice(words["before"])
        text = before + (text if before.rstrip()[-1] in ".!" or text.startswith("I ") else text[0].lower() + text[1:])
    if chance.random() < around / 2:
        text += chance.choice(words["after"])
    if chance.random() < 0.05:
        text = _mistyped(text, question.plan, chance)
    if chance.random() < 0.15:
        text = text.rstrip("?.")
    if chance.random() < 0.15:
        text = text.lower()
    if not sayable(text, question.plan) or digest(text) in held_out():
        return question
    return Question(text, question.plan, question.pattern)


def _mistyped(text: str, plan: Plan, chance: random.Random) -> str:
    """Two neighbouring letters of a long word swapped, never in what the plan names."""
    named = set(f"{plan.target} {plan.other}".split())
    long = [word for word in text.split() if len(word) > 4 and word.isalpha() and not {word, singular(word)} & named]
    if not long:
        return text
    word = chance.choice(long)
    at = chance.randint(1, len(word) - 3)
    return text.replace(word, word[:at] + word[at + 1] + word[at] + word[at + 2 :], 1)
