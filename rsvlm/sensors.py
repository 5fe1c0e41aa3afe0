"""Sensors and their bands: wavelengths, polarisation, scaling. Data only; the table is sensors.toml."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from rsvlm.errors import BandError, SensorError

POLARISATIONS = ("VV", "VH", "HH", "HV")
UNITS = ("reflectance", "dB", "display", "K")
SENSOR_KEYS = frozenset(
    ["title", "kind", "units", "scale", "offset", "nodata", "dtypes", "pixel_size_m", "inferable", "bands"]
)


@dataclass(frozen=True, slots=True)
class Band:
    """One layer of a sensor. Optical bands have wavelength and width, SAR bands polarisation and frequency.

    physical value = scale * stored value + offset, in `units`.
    """

    name: str
    common_name: str
    gsd_m: float
    wavelength_nm: float | None = None
    fwhm_nm: float | None = None
    polarisation: str | None = None
    frequency_ghz: float | None = None
    scale: float = 1.0
    offset: float = 0.0
    units: str = "reflectance"
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        optical = self.wavelength_nm is not None and self.fwhm_nm is not None
        radar = self.polarisation in POLARISATIONS and self.frequency_ghz is not None
        if optical == radar:
            raise BandError(
                f"band {self.name!r} needs either wavelength_nm and fwhm_nm, or polarisation "
                f"({', '.join(POLARISATIONS)}) and frequency_ghz"
            )
        if self.units not in UNITS:
            raise BandError(f"band {self.name!r} has units {self.units!r}; known are {', '.join(UNITS)}")
        numbers = [self.scale, self.offset, self.gsd_m]
        sizes = [self.gsd_m, self.wavelength_nm or 1.0, self.fwhm_nm or 1.0, self.frequency_ghz or 1.0]
        if self.scale == 0 or min(sizes) <= 0 or not all(map(math.isfinite, [*numbers, *sizes])):
            raise BandError(f"band {self.name!r} needs finite numbers, a scale other than 0 and sizes above 0")

    def answers_to(self, text: str) -> bool:
        """Whether a band description means this band: its name, common name or an alias, in any case."""
        wanted = text.strip().lower()
        names = {self.name, self.common_name, *self.aliases}
        if self.name.startswith("B0"):
            names.add("B" + self.name[2:])
        return wanted in {name.lower() for name in names}


@dataclass(frozen=True, slots=True)
class Sensor:
    """An instrument and product level: its bands in file order and the units its pixels come in after scaling."""

    name: str
    title: str
    kind: Literal["optical", "sar"]
    bands: tuple[Band, ...]
    units: str
    dtypes: tuple[str, ...] = field(default=("uint16",))
    pixel_size_m: tuple[float, float] = (0.0, 1e5)
    inferable: bool = True
    nodata: float | None = None  # stored value of a missing pixel where the file names none

    def __post_init__(self) -> None:
        if self.kind not in ("optical", "sar"):
            raise SensorError(f"sensor {self.name!r} is of kind {self.kind!r}; it must be optical or sar")
        names = [band.name for band in self.bands]
        if not names or len(set(names)) != len(names):
            raise SensorError(f"sensor {self.name!r} needs bands with names that differ; got {names}")

    def band(self, name: str) -> Band:
        """Look a band up by name, common name or alias; raises BandError."""
        for band in self.bands:
            if band.name == name:
                return band
        for band in self.bands:
            if band.answers_to(name):
                return band
        raise BandError(f"{self.name} has no band {name!r}; it has {', '.join(b.name for b in self.bands)}")


def _sensor(name: str, table: dict[str, Any]) -> Sensor:
    unknown = sorted(set(table) - SENSOR_KEYS)
    if unknown:
        raise SensorError(f"sensor {name!r} has unknown keys {', '.join(unknown)}; known are {sorted(SENSOR_KEYS)}")
    missing = sorted({"kind", "units", "bands"} - set(table))
    if missing:
        raise SensorError(f"sensor {name!r} lacks {', '.join(missing)}; see rsvlm/sensors.toml for examples")
    shared = {key: table[key] for key in ("scale", "offset", "units") if key in table}
    bands = []
    for row in table["bands"]:
        odd = sorted(set(row) - {f.name for f in fields(Band)})
        if odd or "name" not in row:
            raise SensorError(f"a band of sensor {name!r} has unknown keys {odd} or no name; see rsvlm/sensors.toml")
        common = {"common_name": row["name"], "gsd_m": 1.0}
        bands.append(Band(**{**common, **shared, **row, "aliases": tuple(row.get("aliases", ()))}))
    low, high = table.get("pixel_size_m", (0.0, 1e5))
    return Sensor(
        name=name,
        title=table.get("title", name),
        kind=table["kind"],
        bands=tuple(bands),
        units=table["units"],
        dtypes=tuple(table.get("dtypes", ())),
        pixel_size_m=(float(low), float(high)),
        inferable=table.get("inferable", True),
        nodata=None if "nodata" not in table else float(table["nodata"]),
    )


def _sensors(text: str, where: str) -> dict[str, Sensor]:
    try:
        tables = tomllib.loads(text)
        return {name: _sensor(name, table) for name, table in tables.items()}
    except tomllib.TOMLDecodeError as error:
        raise SensorError(f"{where} is not TOML: {error}") from error
    except (TypeError, AttributeError, ValueError) as error:
        if isinstance(error, SensorError | BandError):
            raise
        raise SensorError(
            f"{where} does not describe a sensor: {error}; see rsvlm/sensors.toml for examples"
        ) from error


SENSORS: dict[str, Sensor] = _sensors(
    resources.files("rsvlm").joinpath("sensors.toml").read_text(encoding="utf-8"), "sensors.toml"
)


def find_sensor(name: str | Path | Sensor) -> Sensor:
    """A sensor by its name, or the one described in a TOML file; raises SensorError."""
    if isinstance(name, Sensor):
        return name
    if str(name) in SENSORS:
        return SENSORS[str(name)]
    if str(name).endswith(".toml"):
        path = Path(name)
        try:
            if not path.is_file():
                raise SensorError(f"there is no sensor file {path}; write one as in rsvlm/sensors.toml")
            found = _sensors(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise SensorError(f"the sensor file {str(path)[:120]!r} cannot be read as text; check its name") from error
        if len(found) != 1:
            raise SensorError(f"{path} describes {len(found)} sensors; it must hold exactly one")
        return next(iter(found.values()))
    raise SensorError(f"unknown sensor {str(name)!r}; known are {', '.join(sorted(SENSORS))}, or give a .toml file")
