"""An optional pass over made sentences by a chat model: kept only where every number, name and citation survives."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from data_engine.recipes.words import NUMBERS, TABLE, chance_of
from data_engine.sample import Sample
from rsvlm.errors import WeightsError
from rsvlm.language.claims import strip_markup

if TYPE_CHECKING:
    from typing import Self

VERSION = 1
PROMPT = (
    "Rewrite the sentence in other words. Keep every number, unit, name and [number] exactly. Answer with the "
    "sentence only.\nSentence: {}"
)
NUMBER = re.compile(r"\[?\d[\d,.]*\d\]?|\[?\d\]?")
WORD = re.compile(r"[a-z][a-z-]+")
MOST_GROWTH = 1.8  # a rewriting longer than this has added something
CLASS_WORDS = frozenset(
    word.removesuffix("s")
    for name, synonyms in TABLE["classes"].items()
    for text in (name, *synonyms)
    for word in WORD.findall(text.lower())
) - frozenset("and with of no not area land the some other cover covered".split())  # noqa: SIM905


class Rewriter(Protocol):
    """Anything that says sentences in other words."""

    def rewrite(self, texts: Sequence[str]) -> list[str]:
        """One rewriting for each text, in order."""
        ...


class ChatRewriter:
    """A chat model of transformers as rewriter, decoding greedily so that the same model gives the same text."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer

    @classmethod
    def from_pretrained(cls, name_or_dir: str | Path | None = None, *, device: str = "cpu") -> Self:
        """Load a folder or a name, by default the small base model; raises ModelNotFoundError or WeightsError."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from rsvlm.language.base import resolve

        folder = resolve(name_or_dir)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            model: Any = AutoModelForCausalLM.from_pretrained(
                folder, trust_remote_code=False, use_safetensors=True, local_files_only=True
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise WeightsError(f"{folder} does not load as a chat model: {error}") from error
        return cls(model.to(device).eval(), tokenizer)

    def rewrite(self, texts: Sequence[str]) -> list[str]:
        """One rewriting for each text, in order."""
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> str:
        import torch

        chat = [{"role": "user", "content": PROMPT.format(text)}]
        prompt = self._tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        tokens = self._tokenizer(prompt, return_tensors="pt", add_special_tokens=False).to(self._model.device)
        length = tokens["input_ids"].shape[1]
        with torch.inference_mode():
            found = self._model.generate(**tokens, max_new_tokens=2 * length, do_sample=False)
        said: str = self._tokenizer.decode(found[0, length:], skip_special_tokens=True)
        return said.strip().splitlines()[0].strip().strip('"') if said.strip() else ""


@dataclass
class Rewriting:
    """Says a share of made sentences in other words; `counts` tells what became of them, "kept" or why not."""

    rewriter: Rewriter
    share: float
    seed: int
    counts: Counter[str] = field(default_factory=Counter)

    def extend(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """Yield every sample, and after some of those with made sentences the same in other words.

        Captions of people are left as they are; so are questions, whose words a plan refers to.
        """
        for sample in samples:
            yield sample
            chance = chance_of(self.seed, "rewriting", sample.origin.place, sample.text, sample.answer)
            if _rewritable(sample) and chance.random() < self.share:
                yield from self._kept(sample)

    def _kept(self, sample: Sample) -> Iterator[Sample]:
        before = sample.answer or sample.text
        after = self.rewriter.rewrite([before])[0]
        why = fault(before, after)
        self.counts[why or "kept"] += 1
        if not why:
            origin = replace(sample.origin, recipe=f"{sample.origin.recipe}+rewriting@{VERSION}")
            yield replace(
                sample,
                origin=origin,
                text=sample.text if sample.answer else after,
                answer=after if sample.answer else "",
            )


def _rewritable(sample: Sample) -> bool:
    made = sample.kind == "caption" and not sample.origin.recipe.startswith("captions/own")
    return made or (sample.kind == "wording" and bool(sample.answer))


def fault(before: str, after: str) -> str:
    """Why a rewriting cannot be kept, "" where it can."""
    if not after.strip() or after == before:
        return "empty or the same"
    if strip_markup(after) != after:
        return "markup"
    if len(after) > MOST_GROWTH * len(before) + 20:
        return "longer"
    if _numbers(before) != _numbers(after):
        return "numbers"
    if _names(before) != _names(after):
        return "names"
    return "" if _denies(before) == _denies(after) else "negation"


def _numbers(text: str) -> Counter[str]:
    spelled = [word for word in WORD.findall(text.lower()) if word in NUMBERS[2:]]
    return Counter([number.rstrip(".,") for number in NUMBER.findall(text)] + spelled)


def _names(text: str) -> set[str]:
    """Words of classes and objects, without plural endings."""
    return {stem for word in WORD.findall(text.lower()) if (stem := word.removesuffix("s")) in CLASS_WORDS}


def _denies(text: str) -> bool:
    return bool(re.search(r"\b(no|not|none|never|without|cannot|nothing)\b|n't\b", text.lower()))
