"""RSICD captions on AID images: captions.jsonl beside images/, with the split the publishers made."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from data_engine.annotated import Annotated

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def read(folder: Path) -> Iterator[Annotated]:
    """Yield every image with its five captions and its scene name as words ("StorageTanks" -> "storage tanks")."""
    for line in (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        label = re.sub(r"(?<!^)(?=[A-Z])", " ", row["scene"]).lower()
        yield Annotated(
            image=folder / row["image"],
            sensor="rgb",
            place=row["image"],  # RSICD gives no coordinates: the image is the place
            split=row["split"],
            captions=tuple(row["captions"]),
            labels=(label,),
            scene=label,
        )
