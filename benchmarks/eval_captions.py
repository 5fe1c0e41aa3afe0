"""How long scoring many captions takes, from raw sentences to metrics with intervals, and the memory it needs."""

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

from eval.metrics.captions import caption_statistics
from eval.statistics import ROUNDS, intervals

THINGS = ["planes", "trees", "buildings", "ships", "cars", "storage tanks", "tennis courts", "ponds", "roads", "farms"]
PLACES = ["an airport", "a harbour", "a forest", "a residential area", "the desert", "a river", "a park", "the coast"]
HOW_MANY = ["a", "two", "many", "some", "several white", "a few green", "lots of", "rows of dense"]
WHERE = ["near", "in", "beside", "on both sides of", "next to", "surrounded by"]


def sentence(chance: np.random.Generator) -> str:
    """A caption of the field's length, 6 to 20 words."""
    parts = [f"{_one(chance, HOW_MANY)} {_one(chance, THINGS)}" for _ in range(chance.integers(1, 4))]
    return f"{', '.join(parts).capitalize()} are {_one(chance, WHERE)} {_one(chance, PLACES)} ."


def measure(images: int, references: int, rounds: int, seed: int) -> dict[str, float]:
    """Seconds of each step and peak resident memory in MB."""
    chance = np.random.default_rng(seed)
    told = [sentence(chance) for _ in range(images)]
    truth = [[sentence(chance) for _ in range(references)] for _ in range(images)]
    start = time.perf_counter()
    statistics = caption_statistics(told, truth)
    scored = time.perf_counter()
    intervals(statistics, seed=seed, rounds=rounds)
    done = time.perf_counter()
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes there, in KiB elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return {"scoring_s": scored - start, "intervals_s": done - scored, "total_s": done - start, "peak_rss_mb": peak}


def _one(chance: np.random.Generator, words: list[str]) -> str:
    return words[chance.integers(len(words))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--references", type=int, default=5, help="captions an image")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="resamplings of the intervals")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    found = measure(options.images, options.references, options.rounds, options.seed)
    print(f"{options.images:,} captions x {options.references} references, {options.rounds} resamplings")
    for name, value in found.items():
        print(f"{name:12} {value:8.1f}")
    if options.out:
        settings = {name: value for name, value in vars(options).items() if name != "out"}
        options.out.write_text(json.dumps({**settings, **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
