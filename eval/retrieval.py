"""Text-to-image and image-to-text retrieval over a manifest of captioned images."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from eval.metrics.ranking import bootstrap_retrieval, first_ranks, retrieval_metrics
from rsvlm.raster import read_scene
from rsvlm.training.chips import read_manifest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rsvlm.encoder.model import SpectralEncoder

PROTOCOL = "retrieval/all-captions: cosine, unique images, every caption a query, ties by position"
ROUNDS = 1000
BATCH = 64
PACKAGES = ("rsvlm", "torch", "transformers", "open_clip_torch", "numpy")


@dataclass(frozen=True)
class Captioned:
    """Images of a manifest and every caption with the position of its image."""

    images: tuple[Path, ...]
    sensors: tuple[str, ...]
    captions: tuple[str, ...]
    owners: NDArray[np.int64]


def load(manifest: Path, limit: int | None = None) -> Captioned:
    """Read the first `limit` images of a manifest; raises ConfigError with the line number of what is wrong."""
    rows: list[dict[str, Any]] = read_manifest(manifest)[:limit]
    captions = [(caption, position) for position, row in enumerate(rows) for caption in row["captions"]]
    return Captioned(
        images=tuple(Path(row["image"]) for row in rows),
        sensors=tuple(row.get("sensor", "rgb") for row in rows),
        captions=tuple(caption for caption, _ in captions),
        owners=np.array([owner for _, owner in captions], np.int64),
    )


def evaluate(encoder: SpectralEncoder, manifest: Path, *, limit: int | None, seed: int) -> dict[str, Any]:
    """Rank every caption against every image and the other way round; returns the report."""
    started = time.perf_counter()
    data = load(manifest, limit)
    images = np.concatenate(
        [
            encoder.encode_scenes([read_scene(data.images[i], sensor=data.sensors[i]) for i in batch])
            for batch in tqdm(np.array_split(np.arange(len(data.images)), -(-len(data.images) // BATCH)), desc="images")
        ]
    )
    texts = encoder.encode_texts(data.captions)
    metrics = score(images, texts, data.owners, seed)
    chance = np.random.default_rng(seed)
    blind = {side: _unit(chance.standard_normal(v.shape)) for side, v in (("images", images), ("texts", texts))}
    return {
        "task": "retrieval",
        "protocol": PROTOCOL,
        "n": len(data.images),
        "captions": len(data.captions),
        "metrics": metrics,
        "baselines": {"random": score(blind["images"], blind["texts"], data.owners, seed)},
        "encoder": {"name": encoder.name, "fingerprint": encoder.fingerprint},
        "git": git_hash(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "seed": seed,
        "device": str(encoder.device),
        "seconds": round(time.perf_counter() - started, 1),
        "data_sha256": hashlib.sha256(manifest.read_bytes()).hexdigest(),
    }


def score(
    images: NDArray[np.float32], texts: NDArray[np.float32], owners: NDArray[np.int64], seed: int
) -> dict[str, dict[str, float]]:
    """Metrics with their 95 % intervals from vectors of I images and Q captions."""
    text_ranks = first_ranks(texts, images, [[int(owner)] for owner in owners])
    image_ranks = first_ranks(images, texts, [np.flatnonzero(owners == i).tolist() for i in range(len(images))])
    values = retrieval_metrics(text_ranks, image_ranks)
    spread = bootstrap_retrieval(text_ranks, owners, image_ranks, seed=seed, rounds=ROUNDS)
    return {
        name: {"value": round(value, 2), "low": round(spread[name][0], 2), "high": round(spread[name][1], 2)}
        for name, value in values.items()
    }


def write_report(report: dict[str, Any], out: Path) -> None:
    """Write report.json, beside first and then in place."""
    out.mkdir(parents=True, exist_ok=True)
    part = out / "report.json.part"
    part.write_text(json.dumps(report, indent=1) + "\n")
    os.replace(part, out / "report.json")


def git_hash() -> str:
    """Commit of the working tree this runs from, or "" outside one."""
    here = Path(__file__).resolve().parent
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float32]:
    scaled = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(scaled, np.float32)
