"""The spectral stem: each band's first convolution kernel is generated from the band's physics.

A kernel is a smooth function of wavelength (or of radar frequency, per polarisation), averaged over the band's
width. For a given set of bands the generated kernels are one ordinary convolution, computed once and kept.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rsvlm.errors import BandError
from rsvlm.sensors import POLARISATIONS, SENSORS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rsvlm.sensors import Band

SHORTEST_NM, LONGEST_NM = 400.0, 14_000.0
KNOTS = 48  # over ln(400..14000 nm): neighbours lie 7.9 % apart in wavelength, so red and green stay distinct
RADAR_GHZ = (1.27, 5.405, 9.65)  # L, C and X band
FWHM_TO_SIGMA = 1 / (2 * math.sqrt(2 * math.log(2)))
FEATURES = KNOTS + len(POLARISATIONS) * len(RADAR_GHZ)


def band_features(band: Band) -> Tensor:
    """Describe a band by its physics: (FEATURES,).

    Optical: Gaussian bumps over log wavelength, each averaged over the band's Gaussian response (the product of two
    Gaussians integrates to one of the summed variance). Radar: bumps over log frequency, in the polarisation's slots.
    """
    features = torch.zeros(FEATURES)
    if band.wavelength_nm is not None and band.fwhm_nm is not None:
        knots = torch.linspace(math.log(SHORTEST_NM), math.log(LONGEST_NM), KNOTS, dtype=torch.float64)
        sigma = float(knots[1] - knots[0])
        response = band.fwhm_nm * FWHM_TO_SIGMA / band.wavelength_nm
        variance = sigma**2 + response**2
        bumps = torch.exp(-((math.log(band.wavelength_nm) - knots) ** 2) / (2 * variance))
        features[:KNOTS] = (bumps * sigma / math.sqrt(variance)).float()
    else:
        assert band.polarisation is not None
        assert band.frequency_ghz is not None
        first = KNOTS + POLARISATIONS.index(band.polarisation) * len(RADAR_GHZ)
        distance = torch.tensor([math.log(band.frequency_ghz / centre) for centre in RADAR_GHZ])
        features[first : first + len(RADAR_GHZ)] = torch.exp(-(distance**2) / (2 * 0.5**2))
    return features


def own_features(band: Band) -> Tensor:
    """A slot for each band of each known sensor, with nothing in common: what the physics is compared against.

    Raises BandError for a band of no known sensor.
    """
    known = [other for sensor in SENSORS.values() for other in sensor.bands]
    if band not in known:
        raise BandError(f"a stem without physics knows the bands of known sensors only; {band.name!r} is none of them")
    return torch.eye(len(known))[known.index(band)]


class SpectralStem(nn.Module):
    """A convolution over any set of bands: (B, C, H, W) normalised pixels -> (B, out, H', W').

    The sum over bands is scaled by 3 / C, so that activations keep the size they have for three bands. Without
    `physics` every band of every sensor has a kernel of its own.
    """

    def __init__(self, out_channels: int, kernel_size: int, stride: int, padding: int, *, physics: bool = True) -> None:
        super().__init__()
        self.features = band_features if physics else own_features
        self.kernel_shape = (out_channels, kernel_size, kernel_size)
        self.stride, self.padding = stride, padding
        count = len(self.features(SENSORS["rgb"].bands[0]))
        self.generator = nn.Linear(count, math.prod(self.kernel_shape), bias=False)
        self._collapsed: dict[tuple[Band, ...], Tensor] = {}

    def kernels(self, bands: Sequence[Band]) -> Tensor:
        """Generate the kernel of each band: (C, out, k, k), before scaling."""
        features = torch.stack([self.features(band) for band in bands]).to(self.generator.weight)
        flat: Tensor = self.generator(features)
        return flat.view(len(bands), *self.kernel_shape)

    def weight(self, bands: tuple[Band, ...]) -> Tensor:
        """The ordinary convolution weight for these bands: (out, C, k, k); kept while not training."""
        if self.training:
            return self._collapse(bands)
        kept = self._collapsed.get(bands)
        if kept is None or kept.device != self.generator.weight.device:
            with torch.no_grad():
                kept = self._collapsed[bands] = self._collapse(bands)
        return kept

    def _collapse(self, bands: tuple[Band, ...]) -> Tensor:
        return self.kernels(bands).transpose(0, 1) * (3 / len(bands))

    def forward(self, pixels: Tensor, bands: tuple[Band, ...]) -> Tensor:
        """Convolve in float32: bfloat16 patch convolutions are wrong on some CPUs (AMX) for 4, 10, 12 or 16 bands."""
        with torch.autocast(pixels.device.type, enabled=False):
            return nn.functional.conv2d(pixels.float(), self.weight(bands), stride=self.stride, padding=self.padding)

    def train(self, mode: bool = True) -> SpectralStem:
        """Switch mode; kept convolutions are dropped because the generator may change."""
        self._collapsed.clear()
        super().train(mode)
        return self

    @torch.no_grad()
    def initialise_from_rgb(self, kernels: Tensor) -> None:
        """Reproduce pretrained RGB kernels (out, 3, k, k) at red, green and blue; elsewhere start from their mean.

        Least squares over all known bands, then the smallest correction that makes the three exact.
        """
        rgb = SENSORS["rgb"].bands
        wanted = kernels.transpose(0, 1).reshape(3, -1).double()
        others = [band for sensor in SENSORS.values() for band in sensor.bands if sensor.name != "rgb"]
        far = [band for band in others if not _is_visible(band)]
        features = torch.stack([self.features(band) for band in (*rgb, *far)]).double()
        targets = torch.cat([wanted, wanted.mean(0, keepdim=True).expand(len(far), -1)])
        damped = features.T @ features + 1e-3 * torch.eye(features.shape[1], dtype=torch.float64)
        solution = torch.linalg.solve(damped, features.T @ targets)
        self.generator.weight.copy_(solution.T)
        self.restore(rgb, kernels.transpose(0, 1))

    @torch.no_grad()
    def restore(self, bands: Sequence[Band], kernels: Tensor) -> None:
        """Give these bands exactly these kernels (C, out, k, k), by the smallest correction of the generator."""
        features = torch.stack([self.features(band) for band in bands]).to(self.generator.weight).double()
        missing = kernels.reshape(len(bands), -1).to(features) - features @ self.generator.weight.T.double()
        self.generator.weight += (torch.linalg.pinv(features) @ missing).T.to(self.generator.weight)
        self._collapsed.clear()


def _is_visible(band: Band) -> bool:
    return band.wavelength_nm is not None and band.wavelength_nm < 700
