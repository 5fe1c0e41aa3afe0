"""The datasets this project can read: their terms, where they come from, and the function that reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from data_engine.sources import hls_worldcover, ombria, rsicd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from data_engine.annotated import Annotated


@dataclass(frozen=True, slots=True)
class Dataset:
    """One dataset layout and how to read it."""

    title: str
    terms: str
    where: str
    read: Callable[[Path], Iterator[Annotated]]


CATALOGUE: dict[str, Dataset] = {
    "hls_worldcover": Dataset(
        "HLS chips with ESA WorldCover classes",
        "chips stated MIT, WorldCover CC-BY 4.0",
        "esa-worldcover.org and the NASA HLS archive",
        hls_worldcover.read,
    ),
    "ombria": Dataset(
        "OMBRIA flood events, Sentinel-1 and Sentinel-2 before and after",
        "Copernicus imagery, EMS masks",
        "github.com/geodrak/OMBRIA",
        ombria.read,
    ),
    "rsicd": Dataset(
        "RSICD captions on AID images",
        "research use; imagery of Google-Earth type",
        "github.com/201528014227051/RSICD_optimal",
        rsicd.read,
    ),
}
