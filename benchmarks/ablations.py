"""What each choice in the encoder's design is worth: the same short training with one thing changed at a time.

    python -m benchmarks.ablations TRAINING.toml --manifests DIR --out DIR [--steps 100] [--only NAME ...]

A short budget tells which of two starts is better, not where they end. Runs and figures that are there already are
kept, so a stopped comparison goes on; the table is printed at the end and written to OUT/ablations.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsvlm.training.config import TrainingConfig
from rsvlm.training.contrastive import train

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZE, BATCH = 96, 64  # pixels and photographs of a short run


@dataclass(frozen=True)
class Variant:
    """One thing changed: settings, kinds of sources left out, and the bands shown when measured."""

    changes: dict[str, Any]
    without: str = ""  # "dense": all but captions; "simulated": simulated imagery
    bands: str = ""


VARIANTS = {
    "as designed": Variant({}),
    "trunk from nothing": Variant({"pretrained": "", "frozen_stages": 0, "hold_statistics": False}),
    "whole trunk trained": Variant({"frozen_stages": 0}),
    "stem: a kernel for each band": Variant({"stem": "own", "band_mixing": 0.0}),
    "stem: RGB only": Variant({"bands": ("red", "green", "blue")}, bands="red,green,blue"),
    "no dense loss": Variant({"dense_width": 0}, without="dense"),
    "no simulated imagery": Variant({}, without="simulated"),
    "temperature fixed at 0.07": Variant({"fixed_scale": 1 / 0.07}),
    "temperature fixed at 0.01": Variant({"fixed_scale": 100.0}),
    "sigmoid loss": Variant({"loss": "sigmoid"}),
}
FIGURES: dict[str, tuple[str, Sequence[str], str]] = {
    "RSICD mR": ("mR", ("retrieval", "--data", "retrieval-rgb-val.jsonl"), ""),
    "HLS OA": ("OA", ("land-cover", "--data", "land-cover-hls-val.jsonl"), "bands"),
    "flood F1": ("F1", ("change", "--data", "change-ombria-s1+ombria-s2-val.jsonl"), ""),
    "S2 nDCG@10": (
        "nDCG@10",
        ("retrieval", "--queries", "labels", "--data", "labels-sentinel-2-l2a-val.jsonl"),
        "bands",
    ),
    "S1 nDCG@10": ("nDCG@10", ("retrieval", "--queries", "labels", "--data", "labels-sentinel-1-grd-val.jsonl"), ""),
    "S1 to S2 R@5": (
        "onto_R@5",
        ("retrieval", "--data", "labels-sentinel-1-grd-val.jsonl", "--onto", "labels-sentinel-2-l2a-val.jsonl"),
        "",
    ),
}


def shortened(config: TrainingConfig, variant: Variant, steps: int) -> TrainingConfig:
    """The config of a variant's short run."""
    sources = [s for s in config.sources if variant.without != "dense" or s.kind == "captions"]
    if variant.without == "simulated":
        sources = [s for s in sources if not any("simulated" in manifest for manifest in s.manifests)]
    sources = [replace(s, batch=min(s.batch, BATCH)) for s in sources]
    short = {"steps": steps, "image_size": SIZE, "first_size": 0, "snapshots": 0, "checkpoint_every": 50}
    return replace(config, sources=tuple(sources), **short, **variant.changes)


def measured(encoder: Path, manifests: Path, variant: Variant, name: str) -> str:
    """One figure with its interval, by `rsvlm eval`, kept beside the encoder; "-" where it cannot be measured."""
    metric, arguments, bands = FIGURES[name]
    kept = encoder.parent / f"{name.replace(' ', '-')}.json"
    if not kept.is_file():
        given = [str(manifests / word) if word.endswith(".jsonl") else word for word in arguments]
        more = ["--bands", variant.bands] if bands and variant.bands else []
        command = [sys.executable, "-m", "rsvlm.cli", "eval", *given, *more, "--encoder", str(encoder), "--json"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        kept.write_text(found.stdout if found.returncode == 0 else json.dumps({"why": found.stderr[-500:]}))
    report = json.loads(kept.read_text())
    if "metrics" not in report:
        return "-"
    value = report["metrics"][metric]
    return f"{value['value']:.2f} [{value['low']:.1f}, {value['high']:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--manifests", type=Path, required=True, help="folder of the validation manifests")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--only", nargs="*", help="names of variants; all if not given")
    given = parser.parse_args()
    config = TrainingConfig.load(given.config)
    lines = [f"| {given.steps} steps, {SIZE} px | {' | '.join(FIGURES)} |", "|---" * (len(FIGURES) + 1) + "|"]
    for name, variant in VARIANTS.items():
        if given.only and name not in given.only:
            continue
        run = given.out / name.replace(" ", "-").replace(":", "")
        if not (run / "encoder" / "model.safetensors").is_file():
            run.mkdir(parents=True, exist_ok=True)
            (given.out / "cache").mkdir(exist_ok=True)
            if not (run / "cache").exists():
                (run / "cache").symlink_to((given.out / "cache").resolve())
            train(shortened(config, variant, given.steps), run)
        figures = [measured(run / "encoder", given.manifests, variant, figure) for figure in FIGURES]
        lines.append(f"| {name} | {' | '.join(figures)} |")
    (given.out / "ablations.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
