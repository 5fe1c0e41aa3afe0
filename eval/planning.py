"""How often a language model reads a question as the plan it should be."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from rsvlm.errors import ConfigError, PlanError
from rsvlm.language.plan import Plan

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from rsvlm.interfaces import LanguageModel

PROTOCOL = "plan/exact: every field equal; task and target by themselves"
ROUNDS = 1000


def read_plans(path: Path) -> list[tuple[str, Plan]]:
    """Questions and their plans, one JSON object a line; raises ConfigError with the line number."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        try:
            row = json.loads(line)
            rows.append((str(row["question"]), Plan.from_json(row["plan"])))
        except (json.JSONDecodeError, KeyError, TypeError, PlanError) as error:
            raise ConfigError(f"{path}:{number} needs a question and a plan: {error}") from error
    return rows


def evaluate(model: LanguageModel, rows: list[tuple[str, Plan]], *, seed: int) -> dict[str, Any]:
    """Accuracies in percent with 95 % bootstrap intervals, and the majority task as baseline."""
    given = [model.plan(question, "") for question, _ in tqdm(rows, desc="questions")]
    wanted = [plan for _, plan in rows]
    right = {
        "exact": np.array([g == w for g, w in zip(given, wanted, strict=True)]),
        "task": np.array([g.task == w.task for g, w in zip(given, wanted, strict=True)]),
        "target": np.array([g.target.lower() == w.target.lower() for g, w in zip(given, wanted, strict=True)]),
    }
    _, most = Counter(plan.task for plan in wanted).most_common(1)[0]
    return {
        "task": "plan",
        "protocol": PROTOCOL,
        "n": len(rows),
        "metrics": {name: _with_interval(values, seed) for name, values in right.items()},
        "baselines": {"majority": {"task": {"value": round(100 * most / len(rows), 2)}}},
        "language": {"name": model.name},
        "seed": seed,
    }


def _with_interval(right: NDArray[np.bool_], seed: int) -> dict[str, float]:
    drawn = np.random.default_rng(seed).choice(right, (ROUNDS, len(right))).mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"value": round(100 * right.mean(), 2), "low": round(100 * low, 2), "high": round(100 * high, 2)}
