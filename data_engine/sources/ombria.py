"""OMBRIA flood events: Sentinel-1 and Sentinel-2 chips before and after, with the flood mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data_engine.annotated import Annotated
from data_engine.splits import split_of
from rsvlm.raster import read_labels

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def read(folder: Path) -> Iterator[Annotated]:
    """Yield four chips per event: each sensor before and after; the fraction "flood" is 0 before."""
    for mask in sorted((folder / "mask").iterdir()):
        place = f"ombria-{mask.stem}"
        flooded = float((read_labels(mask) > 0).mean())
        for sensor in ("s1", "s2"):
            for date, share in (("before", 0.0), ("after", flooded)):
                yield Annotated(
                    image=folder / f"{sensor}_{date}" / f"{mask.stem}.webp",
                    sensor=f"ombria-{sensor}",
                    place=place,
                    split=split_of(place),
                    labels=("flood",) if share >= 0.05 else (),
                    fractions={"flood": share},
                )
