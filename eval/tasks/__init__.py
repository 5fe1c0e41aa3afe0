"""One module a task: how its lines are predicted, scored and compared with baselines."""

from __future__ import annotations

from typing import Any


def task_of(name: str) -> Any:
    """The class of a task by its name; imported when asked for, since some bring heavy libraries."""
    from eval.tasks.captions import Captions
    from eval.tasks.changes import Changes
    from eval.tasks.grounding import Grounding
    from eval.tasks.land_cover import LandCover
    from eval.tasks.plans import Plans
    from eval.tasks.retrieval import Retrieval
    from eval.tasks.scenes import Scenes
    from eval.tasks.vqa import Questions

    tasks = (Captions, Changes, Grounding, LandCover, Plans, Questions, Retrieval, Scenes)
    return {task.name: task for task in tasks}[name]
