"""Plain sentences from facts and hits: every number in them is a fact's, every [n] a hit's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from rsvlm.answer import Fact, Hit
from rsvlm.language.claims import check_wording, format_value, strip_markup

__all__ = ["PlainWording", "check_wording"]

UNSURE = 0.5  # measured facts below this confidence are called uncertain
OWN_FACTS = {
    "caption": "The scene shows {}.",
    "comparison": "There is {}.",
    "abstain": "I cannot answer this: {}.",
    "date": "It was taken on {}.",
    "dates": "The two dates are {}.",
    "sensor": "The sensor is {}.",
    "place": "It lies at {}.",
    "resolution": "One pixel is {} wide.",
    "bands": "The bands are {}.",
    "size": "The image is {} in size.",
    "change": "Change: {}.",
}
CONTEXT = ("sensor", "date", "dates", "place", "resolution", "bands", "size")


class PlainWording:
    """Sentences by rule, the same for the same facts."""

    name = "plain sentences from facts"

    def word(self, facts: Sequence[Fact], hits: Sequence[Hit], question: str) -> Iterator[str]:
        """Yield the answer word by word; the question is not repeated in it."""
        sentences = [*_answers(facts), *_method(facts), *_evidence(hits)]
        text = " ".join(sentences) or "Nothing was measured and nothing was found."
        yield from re.findall(r"\S+\s*", text)


def _answers(facts: Sequence[Fact]) -> Iterator[str]:
    """The facts in their order, those that belong together in one sentence."""
    shares = {_subject(fact): fact for fact in facts if fact.name.startswith("share of ")}
    told: set[str] = set()
    cover = [fact for fact in facts if fact.name.startswith("land cover: ")]
    for fact in facts:
        kind, subject = fact.name.partition(" of ")[0], _subject(fact)
        if fact in cover:
            yield from [_land_cover(cover)] if fact is cover[0] else []
        elif fact.name in OWN_FACTS:
            yield _capitalised(OWN_FACTS[fact.name].format(_closed(format_value(fact))))
        elif kind in ("area", "share") and subject:
            if subject not in told:
                yield _covers(subject, fact, shares.get(subject))
                told.add(subject)
        else:
            yield SENTENCES.get(kind, _other)(fact)


def _subject(fact: Fact) -> str:
    return strip_markup(fact.name.partition(" of ")[2])


def _capitalised(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _closed(text: str) -> str:
    return text.strip().rstrip(".")


def _land_cover(facts: Sequence[Fact]) -> str:
    parts = [f"{strip_markup(fact.name.partition(': ')[2])} {format_value(fact)}" for fact in facts]
    return f"Land cover: {', '.join(parts)}."


def _covers(subject: str, fact: Fact, share: Fact | None) -> str:
    """One sentence for how much ground, and what part of the scene, something covers, gained or lost."""
    thing, _, verb = subject.rpartition(" ")
    amounts = format_value(fact)
    if share is None or share is fact:
        amounts += " of the scene" if fact.unit == "percent" else ""
    else:
        amounts += f", {format_value(share)} of the scene"
    if thing and verb in ("gained", "lost"):
        return _capitalised(f"{thing} was {verb} on {amounts}.")
    if thing and verb in ("before", "after"):
        image = "first" if verb == "before" else "second"
        return _capitalised(f"{thing} covers {format_value(fact)} of the {image} image.")
    if subject == "changed ground":
        return f"The ground changed on {amounts}."
    return _capitalised(f"{subject} {'cover' if _is_plural(subject) else 'covers'} {amounts}.")


def _is_plural(subject: str) -> bool:
    return subject.endswith("s") and not subject.endswith(("ss", "us", "is"))


def plural(phrase: str) -> str:
    """The phrase with its last word in the plural, by English endings."""
    if _is_plural(phrase) or phrase.endswith("craft"):
        return phrase
    if re.search(r"[^aeiou]y$", phrase):
        return phrase[:-1] + "ies"
    return phrase + ("es" if phrase.endswith(("s", "x", "z", "ch", "sh")) else "s")


def _count(fact: Fact) -> str:
    one = fact.value == 1
    thing = _subject(fact) if one else plural(_subject(fact))
    return f"There {'is' if one else 'are'} {format_value(fact)} {thing}."


def _regions(fact: Fact) -> str:
    return _capitalised(
        f"{_subject(fact)} was found in {format_value(fact)} {'place' if fact.value == 1 else 'places'}."
    )


def _position(fact: Fact) -> str:
    where = format_value(fact)
    return f"The clearest lies {'in' if where == 'centre' else 'at'} the {where}."


def _change(fact: Fact) -> str:
    if isinstance(fact.value, bool):
        subject = _subject(fact)
        return f"Yes, the extent of {subject} changed." if fact.value else f"No change of {subject} was found."
    return _other(fact)


def _other(fact: Fact) -> str:
    name = strip_markup(fact.name)
    if isinstance(fact.value, bool):
        return f"Yes, {name} was found." if fact.value else f"No, {name} was not found."
    return _capitalised(f"{name}: {_closed(format_value(fact))}.")


SENTENCES: dict[str, Callable[[Fact], str]] = {
    "count": _count,
    "regions": _regions,
    "position": _position,
    "change": _change,
}


def _method(facts: Sequence[Fact]) -> Iterator[str]:
    """How the measured facts came about, and whether that is uncertain."""
    measured = [fact for fact in facts if fact.name not in (*CONTEXT, "abstain") and fact.how]
    ways = list(dict.fromkeys(_closed(strip_markup(fact.how)) for fact in measured))
    shortest = [way for way in ways if not any(way != other and way.startswith(other) for other in ways)]
    if shortest:
        yield f"Measured by {'; '.join(shortest)}."
    if measured and min(fact.confidence for fact in measured) < UNSURE:
        yield "This is uncertain."


def _evidence(hits: Sequence[Hit]) -> Iterator[str]:
    """The hits by their numbers; brackets in their captions become round, so that they cite nothing."""
    if hits:
        yield f"Best matches: {'; '.join(map(_cited, hits))}."


def _cited(hit: Hit) -> str:
    caption = strip_markup(hit.caption).replace("[", "(").replace("]", ")")
    caption = _closed(" ".join(caption.split())) or "scene without caption"
    origin = ", ".join(part for part in (hit.sensor, (hit.acquired or "")[:10]) if part)
    return f"[{hit.rank}] {caption}" + (f" ({origin})" if origin else "")
