"""How fast a pack streams: samples a second through PackDataset, alone and by workers."""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path

from torch.utils.data import DataLoader

from data_engine.pack import PackDataset


def main() -> None:
    """Print samples a second for each number of workers, and write them as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--samples", type=int, default=25_000)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = {}
    for workers in given.workers:
        loader = DataLoader(PackDataset(given.pack), batch_size=None, num_workers=workers)
        started = time.perf_counter()
        count = sum(1 for _ in itertools.islice(loader, given.samples))
        found[workers] = count / (time.perf_counter() - started)
        print(f"{workers} workers: {found[workers]:,.0f} samples/s, n = {count:,}")
    if given.out is not None:
        given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
