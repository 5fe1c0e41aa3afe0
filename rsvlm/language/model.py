"""A causal language model as planner: it reads a question as a Plan, by decoding under the plan grammar."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rsvlm.answer import Fact, Hit
from rsvlm.errors import WeightsError
from rsvlm.language.adapter import load_adapter
from rsvlm.language.base import model_name, resolve
from rsvlm.language.decoding import GrammarDecoder, Prompt
from rsvlm.language.examples import ExampleBank, read_examples
from rsvlm.language.grammar import plan_grammar, possible_tasks
from rsvlm.language.phrases import Reading
from rsvlm.language.plan import Plan
from rsvlm.language.prompts import HEAD, NEUTRAL, asked, shown, task_opening
from rsvlm.language.wording import PlainWording

SHOTS = 4
VOTE_WEIGHT = 2.0


class CausalLanguageModel:
    """Plans by constrained decoding; words by plain sentences from facts until a tuned adapter exists."""

    def __init__(self, model: Any, tokenizer: Any, bank: ExampleBank, *, base_name: str) -> None:
        self._decoder = GrammarDecoder(model.eval(), tokenizer)
        self._bank = bank
        self._wording = PlainWording()
        self._head = self._decoder.prompt(HEAD)  # read once, copied for every question
        self._base_name = base_name

    @classmethod
    def from_pretrained(
        cls, name_or_dir: str | Path | None = None, *, adapter: str | Path | None = None, device: str = "cpu"
    ) -> Self:
        """Load a model in transformers format, by default the small base model; float32 on a CPU, else bfloat16.

        Raises ModelNotFoundError where there is none, WeightsError for damaged weights or a foreign adapter.
        """
        folder = resolve(name_or_dir)
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            model: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, trust_remote_code=False, use_safetensors=True, local_files_only=True
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise WeightsError(f"{folder} does not load as a causal language model: {error}") from error
        model, name = model.to(device), model_name(folder)
        if adapter is not None:
            model = load_adapter(model, Path(adapter), base_name=name)
            name = f"{name} + {Path(adapter).name}"
        return cls(model, tokenizer, ExampleBank(read_examples()), base_name=name)

    @property
    def name(self) -> str:
        """Who plans and who words."""
        return f"{self._base_name} (plans; plain sentences from facts)"

    @cached_property
    def fingerprint(self) -> str:
        """Sha256 over every tensor by name, an adapter's included: equal fingerprints give equal plans."""
        return self._decoder.fingerprint()

    def plan(self, question: str, context: str = "") -> Plan:
        """Read a question as a Plan whose phrases are the question's own words.

        An untuned model does not heed `context`. Raises QueryError for an empty question or one too long.
        """
        reading = Reading(question)
        if bare := reading.bare():
            return Plan("presence", bare)
        similarities = self._bank.similarities(reading)
        examples = self._bank.nearest(similarities, SHOTS)
        shots = self._head.read("".join(shown(example.question, example.plan) for example in examples))
        prompt = shots.read(asked(reading.question))
        task = self._task(prompt, shots, reading, self._bank.task_vote(similarities))
        text = self._decoder.write(prompt, plan_grammar(reading, (task,)))
        return Plan.from_json(json.loads(text))

    def _task(self, prompt: Prompt, shots: Prompt, reading: Reading, vote: dict[str, float]) -> str:
        """The likeliest task: the model's choice, less its bias on a question without content, and the examples' vote.

        Calibration after Zhao et al. 2021, "Calibrate Before Use".
        """
        tasks = list(possible_tasks(reading))
        if len(tasks) == 1:
            return tasks[0]
        opening = task_opening("")
        said = self._decoder.likelihoods(prompt.read(opening), tasks)
        bias = self._decoder.likelihoods(shots.read(asked(NEUTRAL) + opening), tasks)
        return max(tasks, key=lambda task: said[task] - bias[task] + VOTE_WEIGHT * vote[task])

    def word(self, facts: Sequence[Fact], hits: Sequence[Hit], question: str) -> Iterator[str]:
        """Yield plain sentences made of the facts and hits."""
        return self._wording.word(facts, hits, question)
