"""The leakage check between manifests of any task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rsvlm.leakage.pairs import LeakReport, Listed, find_leaks
from rsvlm.manifests import read_lines

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from rsvlm.interfaces import Encoder
    from rsvlm.manifests import Line

ANYTHING = frozenset(
    {
        "image",
        "captions",
        "labels",
        "label",
        "question",
        "answer",
        "type",
        "phrase",
        "kind",
        "boxes",
        "polygons",
        "mask",
    }
    | {"labels_band", "codes", "ignore", "before", "after", "sensors", "plan"}
)


def leaks_between(train: Iterable[Path], held_out: Path, encoder: Encoder | None = None) -> LeakReport:
    """Leaks from training manifests into an evaluation manifest; the tasks of the two may differ.

    Raises ConfigError, with the line, for a manifest that cannot be read.
    """
    return find_leaks([one for manifest in train for one in images_of(manifest)], images_of(held_out), encoder=encoder)


def images_of(manifest: Path) -> list[Listed]:
    """Every image a manifest names, with its sensor and place."""
    lines = read_lines(manifest, required=frozenset(), optional=ANYTHING)
    return [each for line in lines for each in _images(line)]


def _images(line: Line) -> list[Listed]:
    place, sensor = line.text("place", ""), line.text("sensor", "") or None
    image = line.values.get("image", [])
    files = image if isinstance(image, list) else [image]
    if len(files) > 1 and "bands" in line.values:  # one image: its first band stands for it
        return [Listed(line.path_of(files[0]), None, place)]
    found = [Listed(line.path_of(file), sensor, place) for file in files]
    sensors = line.texts("sensors")
    for key in ("before", "after"):
        names = line.texts(key)
        if sensors and len(sensors) != len(names):
            raise line.fault(f"has {len(names)} files {key} and {len(sensors)} sensors; name one sensor a file")
        found += [
            Listed(line.path_of(f), s, place) for f, s in zip(names, sensors or [sensor] * len(names), strict=True)
        ]
    return found
