"""How long ranking many queries against many items takes, and how much memory."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from eval.metrics.ranking import best, random_ranks, ranks_of, recall_statistics


def main() -> None:
    """Rank, print a table, and write the figures with --out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    figures = measure(options.queries, options.items, options.dim, options.seed)
    for name, value in figures.items():
        sys.stdout.write(f"{name:<22} {value}\n")
    if options.out is not None:
        options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def measure(queries: int, items: int, dim: int, seed: int) -> dict[str, Any]:
    """Seconds of each step and the peak of the process's memory in GB."""
    chance = np.random.default_rng(seed)
    texts, images = _unit(chance, queries, dim), _unit(chance, items, dim)
    relevant = list(chance.integers(items, size=(queries, 1)))
    seconds, start = {}, time.perf_counter()
    found = recall_statistics(ranks_of(texts, images, relevant)).metrics()
    seconds["ranks_seconds"], start = time.perf_counter() - start, time.perf_counter()
    best(texts, images, 10)
    seconds["best_10_seconds"], start = time.perf_counter() - start, time.perf_counter()
    drawn = recall_statistics(random_ranks([1] * queries, items, seed=seed)).metrics()
    seconds["random_seconds"] = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "queries": queries,
        "items": items,
        "dim": dim,
        **{name: round(value, 1) for name, value in seconds.items()},
        "peak_gb": round(peak / 1e9, 3),
        "R@10": round(found["R@10"], 3),
        "R@10_random": round(drawn["R@10"], 3),
    }


def _unit(chance: np.random.Generator, count: int, dim: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    vectors = chance.standard_normal((count, dim), dtype=np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


if __name__ == "__main__":
    main()
