"""Writing under a grammar: a causal language model continues a prompt, and every token must fit."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

import llguidance
import llguidance.hf
import numpy as np
import torch
from numpy.typing import NDArray

from rsvlm.errors import PlanError

MAX_TOKENS = 512


class Prompt:
    """Text a model has read: its cache, and what it expects next. Reading on makes a new prompt; this one stays."""

    def __init__(self, decoder: GrammarDecoder, cache: Any, expected: NDArray[np.float32]) -> None:
        self._decoder = decoder
        self.cache = cache
        self.expected = expected  # (V,), log probabilities of the next token

    def read(self, text: str) -> Prompt:
        """The prompt with more text after it."""
        return self._decoder.advance(copy.deepcopy(self.cache), self._decoder.tokens(text))


class GrammarDecoder:
    """A model with its tokenizer, fed and read token by token."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._grammar_tokens = llguidance.hf.from_tokenizer(tokenizer)

    def fingerprint(self) -> str:
        """Sha256 over the model's tensors and their names."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self._model.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def tokens(self, text: str) -> list[int]:
        """Token ids; special tokens in the text are only text."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        return ids

    def prompt(self, text: str) -> Prompt:
        """Read a text from the start."""
        return self.advance(None, self.tokens(text))

    def advance(self, cache: Any, tokens: list[int]) -> Prompt:
        """Feed tokens; the cache given is used up."""
        ids = torch.tensor([tokens], device=self._model.device)
        with torch.inference_mode():
            output = self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        expected = torch.log_softmax(output.logits[0, -1].float(), -1).cpu().numpy()
        return Prompt(self, output.past_key_values, expected)

    def likelihoods(self, prompt: Prompt, choices: list[str]) -> dict[str, float]:
        """Log probability that the next tokens spell each choice."""
        return {choice: self._likelihood(prompt, self.tokens(choice), choices) for choice in choices}

    def _likelihood(self, prompt: Prompt, tokens: list[int], choices: list[str]) -> float:
        """Only as many tokens are read as it takes to tell the choice from the others."""
        rivals = [rival for rival in map(self.tokens, choices) if rival != tokens]
        needed = 1 + max((_shared(tokens, rival) for rival in rivals), default=0)
        total, cache = float(prompt.expected[tokens[0]]), prompt.cache
        for i in range(1, min(needed, len(tokens))):
            step = self.advance(copy.deepcopy(cache) if i == 1 else cache, tokens[i - 1 : i])
            total, cache = total + float(step.expected[tokens[i]]), step.cache
        return total

    def write(self, prompt: Prompt, grammar: str) -> str:
        """The likeliest continuation, chosen token by token among those the Lark grammar allows."""
        matcher = llguidance.LLMatcher(self._grammar_tokens, llguidance.grammar_from("lark", grammar))
        written: list[int] = []
        step, cache = prompt, copy.deepcopy(prompt.cache)
        while not matcher.is_stopped() and len(written) < MAX_TOKENS:
            tokens = matcher.compute_ff_tokens() or [self._choice(matcher, step)]
            if not matcher.consume_tokens(tokens):
                break
            written += tokens
            if not matcher.is_stopped():
                step = self.advance(cache, tokens)
                cache = step.cache
        if matcher.is_error() or not matcher.is_accepting():
            raise PlanError(f"the plan could not be written within its grammar: {matcher.get_error() or 'too long'}")
        return str(self._grammar_tokens.decode_str(written))

    def _choice(self, matcher: Any, step: Prompt) -> int:
        allowed = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
        count = min(len(allowed), len(step.expected))
        return int(np.argmax(np.where(allowed[:count], step.expected[:count], -np.inf)))


def _shared(one: list[int], other: list[int]) -> int:
    """Length of the common beginning."""
    for i, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return i
    return min(len(one), len(other))
