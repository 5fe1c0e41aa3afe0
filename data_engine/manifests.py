"""Retrieval manifests out of annotated sources: one file a sensor and split, paths relative to the file."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from data_engine.recipes.captions import caption

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from data_engine.annotated import Annotated


def write_manifests(items: Iterable[Annotated], out: Path, *, captions: int = 8, seed: int = 0) -> dict[str, int]:
    """Write `<sensor>-<split>.jsonl` files; returns how many lines each got.

    Args:
        items: annotated images of any sensors and splits.
        out: folder, made when missing; files of the same name are replaced.
        captions: how many captions to make for an image that brings none.
        seed: of the captions.
    """
    out.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {}
    for item in items:
        row = {
            "image": os.path.relpath(item.image.resolve(), out.resolve()),
            "captions": caption(item, captions, seed),
            "labels": list(item.labels),
            "sensor": item.sensor,
        }
        lines.setdefault(f"{item.sensor}-{item.split}.jsonl", []).append(json.dumps(row))
    for name, rows in sorted(lines.items()):
        part = out / f"{name}.part"
        part.write_text("\n".join(rows) + "\n", encoding="utf-8")
        part.replace(out / name)
    return {name: len(rows) for name, rows in sorted(lines.items())}
