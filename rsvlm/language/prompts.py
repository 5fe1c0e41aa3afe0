"""The text a base language model reads before it writes a plan: the tasks, a few examples, the question."""

from __future__ import annotations

import json

from rsvlm.language.plan import TASKS, Plan

HEAD = "Tasks: " + "; ".join(f"{task}: {meaning}" for task, meaning in TASKS.items()) + ".\n\n"
NEUTRAL = "N/A"  # a question without content, on which the bias of the prompt itself is measured


def compact(plan: Plan) -> str:
    """The plan as the model writes it."""
    return json.dumps(plan.to_json(), separators=(",", ":"), ensure_ascii=False)


def shown(question: str, plan: Plan) -> str:
    """One worked example."""
    return f"{asked(question)}{compact(plan)}\n\n"


def asked(question: str) -> str:
    """A question whose plan is to follow."""
    return f"Question: {question}\nPlan: "


def task_opening(task: str) -> str:
    """How every plan with this task begins, the task's name left open at its end."""
    return '{"task":"' + task
