"""Splits by place, never by chip: a place's hash decides, so that a split survives new data and any order."""

from __future__ import annotations

import hashlib


def split_of(place: str, *, validation: float = 0.2) -> str:
    """Assign a place to "train" or "val"; the same place always gets the same answer."""
    share = int.from_bytes(hashlib.sha256(place.encode()).digest()[:8], "big") / 2**64
    return "val" if share < validation else "train"
