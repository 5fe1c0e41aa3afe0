"""What happens to pixels before the stem: resizing, masking, normalising with statistics kept beside the weights."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from rsvlm.errors import BandError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rsvlm.sensors import Band


@lru_cache(maxsize=256)
def constants(pairs: tuple[tuple[float, float], ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Two numbers a band as float32 (C, 1, 1) each, kept on the device: bringing them anew would wait for a GPU."""
    with torch.inference_mode(False):
        first, second = torch.tensor(pairs, dtype=torch.float32).to(device).T[:, :, None, None]
    return first, second


@dataclass(frozen=True, slots=True)
class BandStatistics:
    """Mean and standard deviation of one band's physical values over the training part."""

    units: str
    mean: float
    std: float
    wavelength_nm: float | None = None
    polarisation: str | None = None

    def distance(self, band: Band) -> float:
        """How far a band is from the one measured: difference in log wavelength, or 0 and 1 for polarisation."""
        if band.wavelength_nm is not None and self.wavelength_nm is not None:
            return abs(math.log(band.wavelength_nm / self.wavelength_nm))
        if band.polarisation is not None and self.polarisation is not None:
            return float(band.polarisation != self.polarisation)
        return math.inf


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Statistics of every band seen in training, and the size the trunk was trained at."""

    image_size: int
    statistics: tuple[BandStatistics, ...]

    def of(self, band: Band) -> BandStatistics:
        """Statistics of the nearest band measured in the same units; raises BandError where none was."""
        same = [s for s in self.statistics if s.units == band.units and s.distance(band) < math.inf]
        if not same:
            raise BandError(
                f"this encoder has no statistics for {band.units} of band {band.name!r}; "
                f"it knows {', '.join(sorted({s.units for s in self.statistics}))}"
            )
        return min(same, key=lambda s: s.distance(band))

    def normalise(self, pixels: Tensor, valid: Tensor, bands: Sequence[Band]) -> Tensor:
        """(N, C, H, W) physical values and (N, H, W) validity -> zero mean, unit spread, invalid pixels 0.

        Values further than 10 deviations are clipped, so that one broken pixel cannot drown a scene.
        """
        found = [self.of(band) for band in bands]
        mean, std = constants(tuple((s.mean, s.std) for s in found), pixels.device)
        scaled = ((pixels - mean) / std).clamp(-10, 10)
        return scaled * valid[:, None]

    def resize(self, pixels: Tensor, size: int | None = None) -> Tensor:
        """(N, C, H, W) -> (N, C, size, size), averaging when shrinking; size defaults to the trained one."""
        size = size or self.image_size
        if pixels.shape[-2:] == (size, size):
            return pixels
        return functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True, align_corners=False)

    def to_json(self) -> dict[str, Any]:
        """Plain values for preprocessor_config.json."""
        return {"image_size": self.image_size, "statistics": [asdict(s) for s in self.statistics]}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Preprocessing:
        """Read back `to_json`."""
        return cls(plain["image_size"], tuple(BandStatistics(**s) for s in plain["statistics"]))
