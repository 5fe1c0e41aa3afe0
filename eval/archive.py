"""Retrieval over an archive that holds a manifest's images: what its index finds, and what exact search would."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from eval.searching import archive_statistics, index_loss
from eval.statistics import intervals
from retrieval import Archive

if TYPE_CHECKING:
    from pathlib import Path

    from eval.models import Models
    from eval.runs import Run


def archive_report(folder: Path, run: Run, models: Models) -> dict[str, Any]:
    """Recalls through the index and exactly, the index's loss and its latency.

    Queries are the texts of the run's lines; a file is right for a text of its own line, or of its labels. Raises
    EvaluationError where the archive does not hold the images.
    """
    with Archive.open(folder, models.encoder) as archive:
        relevant: dict[str, set[str]] = {}
        for row in run.rows:
            texts = row.labels if run.settings.protocol == "labels" else run.task.texts(row)  # type: ignore[attr-defined]
            for text in texts:
                relevant.setdefault(text, set()).add(str(row.picture.files[0].resolve()))
        texts = sorted(relevant)
        queries = models.encoder.encode_texts(texts)
        found = archive_statistics(archive, queries, [relevant[text] for text in texts])
        seed = run.settings.seed
        metrics = [{name: each.to_json() for name, each in intervals(s, seed=seed).items()} for s in found]
        loss = index_loss(archive, np.asarray(queries), seed=seed)
    return {"queries": len(texts), "through_index": metrics[0], "exact": metrics[1], "index": loss}
