"""Retrieval over an archive that holds a manifest's images: what its index finds, and what exact search would."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from eval.searching import archive_statistics, index_loss
from eval.statistics import intervals
from eval.tasks.retrieval import BY_LABEL
from retrieval import Archive

if TYPE_CHECKING:
    from pathlib import Path

    from eval.models import Models
    from eval.runs import Run


def archive_report(folder: Path, run: Run, models: Models) -> dict[str, Any]:
    """Recalls through the index and exactly, the index's loss and its latency.

    Queries are the different texts of the run's protocol; a file is right for every text of its own line, by labels
    for every text that names one of its labels. Raises EvaluationError where the archive does not hold the images.
    """
    with Archive.open(folder, models.encoder) as archive:
        relevant = relevant_files(run)
        texts = sorted(relevant)
        queries = models.encoder.encode_texts(texts)
        found = archive_statistics(archive, queries, [relevant[text] for text in texts])
        seed = run.settings.seed
        metrics = [{name: each.to_json() for name, each in intervals(s, seed=seed).items()} for s in found]
        loss = index_loss(archive, np.asarray(queries), seed=seed)
    return {"queries": len(texts), "through_index": metrics[0], "exact": metrics[1], "index": loss}


def relevant_files(run: Run) -> dict[str, set[str]]:
    """The files that are right for each query text."""
    protocol = run.settings.protocol
    file_of = {row.number: str(row.picture.files[0].resolve()) for row in run.rows}
    with_label: dict[str, set[str]] = {}
    for row in run.rows if protocol in BY_LABEL else ():
        for label in row.labels:
            with_label.setdefault(label, set()).add(file_of[row.number])
    relevant: dict[str, set[str]] = {}
    for row in run.rows:
        texts = run.task.texts(row)  # type: ignore[attr-defined]
        for text in texts[:1] if protocol == "first-caption" else texts:
            labels = [text] if protocol == "labels" else row.labels if protocol in BY_LABEL else ()
            relevant.setdefault(text, set()).update({file_of[row.number]}, *(with_label[label] for label in labels))
    return relevant
