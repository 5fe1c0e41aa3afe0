"""The STAC item beside an image, read defensively: band names, scaling, date, cloud cover, processing baseline."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)
MAX_ITEM_BYTES = 2**23
MAX_ITEMS = 64  # more JSON files than this in one folder are not items of single images


@dataclass(frozen=True)
class Item:
    """The parts of a STAC item (or of nothing) that concern one image; every reader checks types."""

    properties: dict[str, Any] = field(default_factory=dict)
    asset: dict[str, Any] = field(default_factory=dict)
    words: str = ""

    def text(self, key: str) -> str:
        """A property as text; "" where it is missing."""
        value = self.asset.get(key, self.properties.get(key))
        return str(value) if isinstance(value, str | int | float) else ""

    def number(self, key: str) -> float | None:
        """A property as a number; None where it is missing or no number."""
        value = self.asset.get(key, self.properties.get(key))
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    def _rows(self, key: str) -> list[dict[str, Any]]:
        rows = self.asset.get(key)
        return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names in layer order, from `eo:bands`, `bands` (STAC 1.1), `sar:polarizations` or `raster:bands`."""
        for key in ("eo:bands", "bands", "raster:bands"):
            names = tuple(str(row.get("name") or row.get("eo:common_name") or "") for row in self._rows(key))
            if any(names):
                return names
        polarisations = self.asset.get("sar:polarizations", self.properties.get("sar:polarizations"))
        return tuple(str(p) for p in polarisations) if isinstance(polarisations, list) else ()

    def layer_numbers(self, key: str) -> tuple[float | None, ...]:
        """`scale`, `offset` or `nodata` of each layer, from `raster:bands` or `bands`."""
        rows = self._rows("raster:bands") or self._rows("bands")
        values = [row.get(key, row.get(f"raster:{key}")) for row in rows]
        return tuple(float(v) if isinstance(v, int | float) and not isinstance(v, bool) else None for v in values)


def item_beside(path: Path) -> Item:
    """The STAC item of an image: `name.json`, or the only JSON item in its folder that mentions it; else empty."""
    found = _load(path.with_suffix(".json"), path.name)
    if found is not None:
        return found
    try:
        changed = path.parent.stat().st_mtime_ns
    except OSError:
        return Item()
    mentions = [item for item in (_load(p, path.name) for p in _json_files(path.parent, changed)) if item is not None]
    if len(mentions) > 1:
        logger.warning("%s is mentioned by %d STAC items, so none is used", path.name, len(mentions))
    return mentions[0] if len(mentions) == 1 else Item()


@lru_cache(maxsize=64)
def _json_files(folder: Path, _changed: int) -> tuple[Path, ...]:
    """Listed once per state of the folder: a folder of chips is asked for every chip."""
    found = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(".json"))
    return tuple(folder / name for name in found) if len(found) <= MAX_ITEMS else ()


def _load(path: Path, image: str) -> Item | None:
    """One item, if `path` is a small regular file (no link) holding a STAC item with this image among its assets."""
    try:
        if path.is_symlink() or not path.is_file():
            return None
        status = path.stat()
        return _parse(path, status.st_mtime_ns, status.st_size).get(image)
    except (OSError, ValueError):
        return None


@lru_cache(maxsize=256)
def _parse(path: Path, _changed: int, size: int) -> dict[str, Item]:
    if size > MAX_ITEM_BYTES:
        logger.info("%s is too large for a STAC item and was left out", path.name)
        return {}
    try:
        plain = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        logger.warning("%s is not JSON and was left out", path.name)
        return {}
    if not isinstance(plain, dict) or not isinstance(plain.get("assets"), dict):
        return {}
    properties = plain.get("properties") if isinstance(plain.get("properties"), dict) else {}
    words = " ".join(str(plain.get(key, "")) for key in ("id", "collection"))
    words += " " + str((properties or {}).get("platform", ""))
    assets = [a for a in plain["assets"].values() if isinstance(a, dict) and isinstance(a.get("href"), str)]
    return {PurePosixPath(a["href"]).name: Item(dict(properties or {}), dict(a), words) for a in assets}
