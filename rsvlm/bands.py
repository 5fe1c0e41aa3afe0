"""Which layer of a file is which band: what the caller says, names in the file or its STAC item, or a preset."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rsvlm.errors import BandError
from rsvlm.sensors import SENSORS, Band, Sensor

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)

# Product identifiers in a path, tag or STAC item that tell sensors with equal band names apart.
PRODUCTS = (
    (re.compile(r"MSIL1C|sentinel-2-l1c", re.I), "sentinel-2-l1c"),
    (re.compile(r"MSIL2A|sentinel-2-(c1-)?l2a", re.I), "sentinel-2-l2a"),
    (re.compile(r"LT05_L2|landsat-5\b", re.I), "landsat-5-c2l2"),
    (re.compile(r"LE07_L2|landsat-7\b", re.I), "landsat-7-c2l2"),
    (re.compile(r"LC08_L2|landsat-8\b", re.I), "landsat-8-c2l2"),
    (re.compile(r"LC09_L2|landsat-9\b", re.I), "landsat-9-c2l2"),
    (re.compile(r"(?<![A-Z])HLS[._]|\bhls2?-[ls]30\b", re.I), "hls"),
    (re.compile(r"PSScene\w*_4b_|_AnalyticMS_SR(?!_8b)", re.I), "planetscope-4"),
    (re.compile(r"AnalyticMS_SR_8b", re.I), "planetscope-8"),
)
SENTINEL_2 = ("sentinel-2-l1c", "sentinel-2-l2a")
NAME_INSIDE = re.compile(r"(?<![A-Za-z0-9])(B(?:0?\d|1\d|8A)|VV|VH|HH|HV)(?![A-Za-z0-9])", re.I)
NAME_AT_END = re.compile(r"_(B(?:0\d|\d|1[0-2]|8A))(?:_\d+m)?$")
PRIMARY = ("red", "green", "blue")


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says about its layers; positions count from 0."""

    name: str
    count: int
    layers: tuple[int, ...]  # positions of the layers that hold data: all but alpha
    dtype: str
    pixel_size_m: float | None
    descriptions: tuple[str, ...]  # one per data layer, "" where there is none
    colors: tuple[str, ...]  # GDAL colour interpretation, one per data layer
    words: str = ""  # path, tags and item, to look for a product's name in


@dataclass(frozen=True, slots=True)
class Resolved:
    """The layers to read, the band each of them is, and the sensor they belong to."""

    sensor: Sensor
    layers: tuple[int, ...]
    bands: tuple[Band, ...]


def resolve(
    header: Header,
    *,
    sensor: Sensor | None = None,
    names: Sequence[str] | None = None,
    item_names: Sequence[str] = (),
) -> Resolved:
    """Tell the bands of a file; raises BandError where they cannot be told, saying what to give."""
    if names is not None:
        return _as_named(header, sensor, names)
    if sensor is not None:
        return _as_sensor(header, sensor, item_names)
    for described in (header.descriptions, item_names, _name_in_file_name(header)):
        if len(described) == len(header.layers):
            found = _most_fitting(header, described)
            if found is not None:
                return _matched(header, found, described)
    return _as_preset(header)


def sensor_of(header: Header, names: Sequence[str]) -> Sensor:
    """The one sensor that has all these bands; raises BandError."""
    found = _most_fitting(header, names)
    missing = [name for name in names if found is None or _find(found, name) is None]
    if found is None or missing:
        raise BandError(f"{header.name}: no known sensor has {', '.join(missing)}; give the sensor too (--sensor)")
    return found


def name_at_end(stem: str) -> str:
    """The band a product-style file name ends in ("..._B02_10m" is B02); "" where it does not."""
    match = NAME_AT_END.search(stem)
    return match[1] if match else ""


def _as_named(header: Header, sensor: Sensor | None, names: Sequence[str]) -> Resolved:
    layers = _layers_for(header, len(names))
    if len(names) != len(layers):
        raise BandError(
            f"{header.name} holds {len(layers)} bands of data but {len(names)} were named ({', '.join(names)}); "
            "name one for each, in file order"
        )
    sensor = sensor or sensor_of(header, names)
    bands = tuple(sensor.band(name) for name in names)
    _refuse_duplicates(header, bands)
    return Resolved(sensor, layers, bands)


def _as_sensor(header: Header, sensor: Sensor, item_names: Sequence[str]) -> Resolved:
    for described in (header.descriptions, item_names):
        known = [text for text in described if _find(sensor, text) is not None]
        shown_only = tuple(described) == header.colors and len(known) < len(described)  # false colours have no names
        if len(described) == len(header.layers) and known and not shown_only:
            return _matched(header, sensor, described)
    layers = _layers_for(header, len(sensor.bands))
    if len(layers) != len(sensor.bands):
        raise BandError(
            f"{sensor.name} has {len(sensor.bands)} bands ({', '.join(b.name for b in sensor.bands)}) "
            f"but {header.name} holds {len(layers)} without known names; name them (bands=, in Python) or "
            "give another sensor (--sensor)"
        )
    return Resolved(sensor, layers, sensor.bands)


def _layers_for(header: Header, wanted: int) -> tuple[int, ...]:
    """GDAL takes the fourth 8-bit layer for alpha unless told otherwise; a caller's count goes before that."""
    if wanted == 1 and header.name.lower().endswith(".webp"):  # WebP stores a grey picture as three equal layers
        return header.layers[:1]
    return tuple(range(header.count)) if wanted == header.count else header.layers


def _name_in_file_name(header: Header) -> tuple[str, ...]:
    name = name_at_end(header.name.rpartition(".")[0])
    return (name,) if name and len(header.layers) == 1 else ()


def _find(sensor: Sensor, text: str) -> Band | None:
    """The band a description means: the whole of it, else a band name inside it ("B2, central wavelength 490 nm")."""
    for candidate in (text, *NAME_INSIDE.findall(text.replace("_", " "))):
        exact = [band for band in sensor.bands if band.name.lower() == candidate.strip().lower()]
        loose = [band for band in sensor.bands if candidate.strip() and band.answers_to(candidate)]
        if exact or loose:
            return (exact or loose)[0]
    return None


def _matched(header: Header, sensor: Sensor, described: Sequence[str]) -> Resolved:
    found = [(layer, text, _find(sensor, text)) for layer, text in zip(header.layers, described, strict=True)]
    bands = tuple(band for _, _, band in found if band is not None)
    left_out = [f"{layer + 1} ({text or 'no name'})" for layer, text, band in found if band is None]
    if left_out:
        logger.info("%s: left out layers %s, which %s does not have", header.name, ", ".join(left_out), sensor.name)
    _refuse_duplicates(header, bands)
    return Resolved(sensor, tuple(layer for layer, _, band in found if band is not None), bands)


def _refuse_duplicates(header: Header, bands: Sequence[Band]) -> None:
    names = [band.name for band in bands]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BandError(
            f"{header.name} has more than one layer named {', '.join(twice)}; name each layer (bands=, in Python)"
        )


def _could_be(sensor: Sensor, header: Header) -> bool:
    """Whether type and pixel size allow a sensor that the names suggest; reflectance may be stored as floats."""
    low, high = sensor.pixel_size_m
    stored = header.dtype in sensor.dtypes
    as_float = header.dtype in ("float32", "float64") and sensor.units != "display"
    widened = header.dtype in ("int32", "uint32") and "uint16" in sensor.dtypes
    sized = header.pixel_size_m is None or low <= header.pixel_size_m <= high
    return sized and (stored or as_float or widened)


def _most_fitting(header: Header, described: Sequence[str]) -> Sensor | None:
    """The sensor most of whose band names occur; None where none does, BandError where several fit equally."""
    texts = [text for text in described if text]
    ranked: dict[str, tuple[int, int, int, int]] = {}
    products = {name for pattern, name in PRODUCTS if pattern.search(header.words)}
    for sensor in SENSORS.values():
        found = {band.name.lower() for text in texts if (band := _find(sensor, text)) is not None}
        if found and _could_be(sensor, header):
            exact = len(found & {text.strip().lower() for text in texts})
            missing = len(sensor.bands) - len(found) if exact == len(found) else 0
            ranked[sensor.name] = (sensor.name in products, len(found), exact, -missing)
    if not ranked:
        return None
    best = sorted(name for name, rank in ranked.items() if rank == max(ranked.values()))
    if tuple(best) == SENTINEL_2:  # cirrus alone tells the levels apart, and it is not here
        best = best[1:]
    if len(best) > 1:
        raise BandError(
            f"{header.name}: bands {', '.join(texts)} belong to several sensors ({', '.join(best)}); "
            "say which one it is (--sensor)"
        )
    return SENSORS[best[0]]


def _as_preset(header: Header) -> Resolved:
    alike = [s for s in SENSORS.values() if len(s.bands) == len(header.layers) and header.dtype in s.dtypes]
    fitting = [sensor for sensor in alike if sensor.inferable and _fits(sensor, header)]
    if len(fitting) == 1:
        logger.info("%s: taken for %s by band count, type, pixel size and colours", header.name, fitting[0].name)
        return Resolved(fitting[0], header.layers, fitting[0].bands)
    examples = ", ".join(sorted(sensor.name for sensor in fitting or alike)) or "one of your own as a .toml file"
    size = "of unknown size" if header.pixel_size_m is None else f"of {header.pixel_size_m:.3g} m"
    raise BandError(
        f"{header.name} has {len(header.layers)} {header.dtype} layer(s) with pixels {size} and no band names, which "
        f"{'fits several sensors' if fitting else 'tells no sensor'}; say what it is with --sensor, such as {examples}"
    )


def _fits(sensor: Sensor, header: Header) -> bool:
    """Pixel size and colours agree; a file of unknown pixel size can only be a sensor of any pixel size."""
    low, high = sensor.pixel_size_m
    sized = low == 0 if header.pixel_size_m is None else low <= header.pixel_size_m <= high
    pairs = zip(header.colors, sensor.bands, strict=True)
    return sized and all(color not in PRIMARY or color == band.common_name for color, band in pairs)
