"""What a sentence claims: its numbers must be facts, its citations hits, and it carries no links or markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rsvlm.answer import Fact, Hit

NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
CITATION = re.compile(r"\s?\[(\d+)\]")
NUMBER_WORDS = dict(
    zip("two three four five six seven eight nine ten eleven twelve".split(), range(2, 13), strict=True)  # noqa: SIM905
)
IMAGE_OR_LINK = re.compile(r"!?\[([^\[\]]*)\]\s?\([^()]*(?:\([^()]*\)[^()]*)*\)")
ADDRESS = re.compile(r"(?:\b[a-z][a-z0-9+.-]*://|\bwww\.|\b(?:javascript|data|mailto|vbscript):)\S*", re.IGNORECASE)
TAG = re.compile(r"<!--.*?(?:-->|$)|</?[a-z!?][^<>]*(?:>|$)", re.IGNORECASE | re.DOTALL)


def strip_markup(text: str) -> str:
    """The text without HTML, Markdown images and links (their words stay) and addresses."""
    before = None
    while before != text:  # removing one tag can complete another
        before = text
        text = TAG.sub("", text)
        text = IMAGE_OR_LINK.sub(lambda match: match[1], text)
        text = ADDRESS.sub("", text).replace("![", "[")
    return text


def format_number(value: float) -> str:
    """Digits by size: 12,345 and 1,235; 43.1; 3.4; 0.012."""
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1 else f"{value:.2g}"


def format_value(fact: Fact) -> str:
    """A fact's value with its unit, as it stands in a sentence."""
    if isinstance(fact.value, bool):
        return "yes" if fact.value else "no"
    if isinstance(fact.value, str):
        return strip_markup(fact.value)
    unit = "" if fact.unit in ("", "count") else f" {fact.unit}"
    return format_number(fact.value) + unit


def check_wording(text: str, facts: Sequence[Fact], hits: Sequence[Hit]) -> str:
    """The text that may be shown: markup gone, citations of no hit gone, sentences with a number of no fact gone.

    Numbers spelled out from two to twelve count as numbers.
    """
    ranks = {hit.rank for hit in hits}
    text = CITATION.sub(lambda match: match[0] if int(match[1]) in ranks else "", strip_markup(text))
    known = set(_numbers(_stated(facts, hits)))
    sentences = re.split(r"(?<=[.!?])\s+(?=\S)", text.strip())
    return " ".join(sentence for sentence in sentences if set(_numbers([CITATION.sub("", sentence)])) <= known)


def _stated(facts: Sequence[Fact], hits: Sequence[Hit]) -> Iterable[str]:
    for fact in facts:
        value = "" if isinstance(fact.value, bool) else str(fact.value)
        yield from (format_value(fact), value, fact.name, fact.how, fact.unit)
    for hit in hits:
        yield from (hit.caption, hit.acquired or "", hit.sensor, hit.chip_id)


def _numbers(texts: Iterable[str]) -> Iterable[str]:
    for text in texts:
        yield from (number.replace(",", "") for number in NUMBER.findall(text))
        yield from (str(NUMBER_WORDS[word]) for word in re.findall(r"[a-z]+", text.lower()) if word in NUMBER_WORDS)
