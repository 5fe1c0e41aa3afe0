"""The library of typical surfaces, resampled to the bands of any sensor."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from rsvlm.errors import BandError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rsvlm.sensors import Band

FINE_NM = np.arange(400.0, 2401.0, 2.0)
FWHM_TO_SIGMA = 1 / (2 * np.sqrt(2 * np.log(2)))
POLARISATION_ORDER = ("VV", "VH")


@dataclass(frozen=True, slots=True)
class Surface:
    """One kind of ground; spectra.toml says what each value means."""

    name: str
    cover: str
    reflectance: tuple[float, ...]  # at WAVELENGTHS_NM
    backscatter_db: tuple[float, float]  # VV, VH
    mixes_with: tuple[str, float, float]  # surface, mean share, spread between parcels
    tint: float
    texture: float
    incidence_power: float = 2.0


TABLE: dict[str, Any] = tomllib.loads(
    resources.files("data_engine").joinpath("spectra.toml").read_text(encoding="utf-8")
)
WAVELENGTHS_NM: tuple[float, ...] = tuple(TABLE["wavelengths_nm"])
ROWS: dict[str, dict[str, Any]] = {
    name: {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    for name, row in TABLE["surfaces"].items()
}
SURFACES: tuple[Surface, ...] = tuple(Surface(name=name, **row) for name, row in ROWS.items())
CODE: dict[str, int] = {surface.name: code for code, surface in enumerate(SURFACES)}
COVERS: tuple[str, ...] = tuple(dict.fromkeys(surface.cover for surface in SURFACES))


def codes_of_cover(cover: str) -> list[int]:
    """Codes of the surfaces that count as one land cover."""
    return [code for code, surface in enumerate(SURFACES) if surface.cover == cover]


def reflectances(bands: Sequence[Band]) -> NDArray[np.float32]:
    """Reflectance of every surface in every optical band, (surfaces, bands), through a Gaussian band response."""
    spectra = np.stack([np.interp(FINE_NM, WAVELENGTHS_NM, surface.reflectance) for surface in SURFACES])
    responses = np.empty((len(bands), len(FINE_NM)))
    for row, band in zip(responses, bands, strict=True):
        if band.wavelength_nm is None or band.fwhm_nm is None or not 400 <= band.wavelength_nm <= 2400:
            raise BandError(f"surface spectra are known from 400 to 2400 nm; band {band.name!r} lies outside")
        row[:] = np.exp(-0.5 * ((FINE_NM - band.wavelength_nm) / (band.fwhm_nm * FWHM_TO_SIGMA)) ** 2)
    responses /= responses.sum(axis=1, keepdims=True)
    return (spectra @ responses.T).astype(np.float32)


def backscatters(bands: Sequence[Band]) -> NDArray[np.float32]:
    """Mean C-band backscatter of every surface in every radar band, (surfaces, bands), in dB."""
    odd = [band.name for band in bands if band.polarisation not in POLARISATION_ORDER]
    if odd:
        raise BandError(f"backscatter is known for VV and VH; got {', '.join(odd)}")
    columns = [POLARISATION_ORDER.index(str(band.polarisation)) for band in bands]
    return np.array([[surface.backscatter_db[c] for c in columns] for surface in SURFACES], dtype=np.float32)
