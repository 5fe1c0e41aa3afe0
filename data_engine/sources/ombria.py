"""OMBRIA flood events: Sentinel-1 and Sentinel-2 chips before and after, with the flood mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data_engine.annotated import Annotated, Pair
from data_engine.layout import every, one_of
from data_engine.splits import split_of
from rsvlm.raster import read_labels

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SENSORS = ("s1", "s2")


def read(folder: Path) -> Iterator[Annotated]:
    """Yield, of folders mask/ and <sensor>_<date>/, four chips an event and then the event as one pair.

    The pair has no captions, labels or fractions: what is written about single images passes it over.
    Raises DatasetError where a folder or a chip of an event is missing.
    """
    for mask in every(one_of(folder, "mask"), "*.png"):
        chips = {
            sensor: tuple(one_of(folder, f"{sensor}_{date}/{mask.stem}.webp") for date in ("before", "after"))
            for sensor in SENSORS
        }
        place = f"ombria-{mask.stem}"
        yield from _event(place, split_of(place), chips, mask)


def read_published(folder: Path) -> Iterator[Annotated]:
    """Yield the same of OmbriaS1/ and OmbriaS2/ as published; events that one of them lacks have its sensor missing.

    The published test part is "test"; of the train part, places become "train" or "val".
    Raises DatasetError where a folder, or a chip to a mask, is missing.
    """
    for part in ("train", "test"):
        roots = {sensor: one_of(folder, f"Ombria{sensor.upper()}/{part}") for sensor in SENSORS}
        masks = {sensor: _masks(root, sensor) for sensor, root in roots.items()}
        for number in sorted({*masks["s1"], *masks["s2"]}):
            seen = [sensor for sensor in SENSORS if number in masks[sensor]]
            chips = {sensor: _dates(roots[sensor], sensor, number) for sensor in seen}
            place = f"ombria-{number}"
            split = "test" if part == "test" else split_of(place)
            yield from _event(place, split, chips, masks[seen[0]][number])  # both sensors have the same mask


def _masks(root: Path, sensor: str) -> dict[str, Path]:
    start = f"{sensor.upper()}_mask_"
    return {path.stem.removeprefix(start): path for path in every(one_of(root, "MASK"), f"{start}*.png")}


def _dates(root: Path, sensor: str, number: str) -> tuple[Path, ...]:
    return tuple(one_of(root, f"{date.upper()}/{sensor.upper()}_{date}_{number}.png") for date in ("before", "after"))


def _event(place: str, split: str, chips: dict[str, tuple[Path, ...]], mask: Path) -> Iterator[Annotated]:
    """Each sensor's chip before and after, then the pair; the fraction "flood" is 0 before."""
    flooded = float((read_labels(mask) > 0).mean())
    for sensor, dates in chips.items():
        for image, share in zip(dates, (0.0, flooded), strict=True):
            yield Annotated(
                image=image,
                sensor=f"ombria-{sensor}",
                place=place,
                split=split,
                labels=("flood",) if share >= 0.05 else (),
                fractions={"flood": share},
            )
    before, after = zip(*chips.values(), strict=True)
    sensors = tuple(f"ombria-{sensor}" for sensor in chips)
    pair = Pair(before, after, sensors, mask=mask, phrase="flood")
    yield Annotated(image=after[-1], sensor=sensors[-1], place=place, split=split, pair=pair)
