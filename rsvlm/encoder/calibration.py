"""Thresholds up to which a likeness means "not there", one for each kind of phrase, kept beside the weights."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rsvlm.errors import FingerprintError, WeightsError

CALIBRATION = "calibration.json"
STATISTICS = {
    "scene": "cosine of the whole picture and the phrase",
    "ground": "cosine lead over rival ground covers that 0.2 % of the picture reach",
    "object": "cosine lead over rival descriptions that 0.2 % of the picture reach",
    "change": "log odds of a phrase among all changes and none, at a pixel",
}


@dataclass(frozen=True, slots=True)
class Threshold:
    """Where one kind of phrase begins to be there: at statistics above `value`.

    `f1`, `youden` (recall less false alarms) and `trust` were measured on places that had no part in the fit; `trust`
    is the share of "not there" verdicts that were right, had the phrase been there every second time and been missed
    once more than it was.
    """

    kind: str
    value: float
    statistic: str
    n: int  # pairs of a phrase and a picture, or a pixel, it was fitted on
    f1: float  # 0 to 1
    youden: float  # -1 to 1
    trust: float  # 0 to 1
    fitted_on: str

    def __post_init__(self) -> None:
        if self.kind not in STATISTICS:
            raise WeightsError(f"a threshold is for {', '.join(STATISTICS)}; got {self.kind!r}: calibrate again")
        numbers = (self.value, self.f1, self.youden, self.trust)
        if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
            raise WeightsError(f"the threshold for {self.kind} holds numbers that are none: calibrate again")

    def denies(self, statistic: float) -> bool:
        """Whether a statistic of this kind means "not there"."""
        return statistic <= self.value


@dataclass(frozen=True, slots=True)
class Calibration:
    """The thresholds of one encoder, at most one a kind; without any, nothing is denied.

    `encoder` is the fingerprint of the weights they were fitted for.
    """

    thresholds: tuple[Threshold, ...] = ()
    encoder: str = ""

    def __post_init__(self) -> None:
        kinds = [threshold.kind for threshold in self.thresholds]
        if len(set(kinds)) < len(kinds):
            raise WeightsError(f"a calibration has one threshold a kind; got {', '.join(kinds)}: calibrate again")

    def of(self, kind: str) -> Threshold | None:
        """The threshold of a kind; None where none was fitted."""
        return next((threshold for threshold in self.thresholds if threshold.kind == kind), None)

    def save(self, folder: str | Path) -> Path:
        """Write calibration.json into a folder, beside first and then in place; returns its path."""
        path = Path(folder) / CALIBRATION
        plain = {"encoder": self.encoder, "thresholds": [asdict(threshold) for threshold in self.thresholds]}
        part = path.with_suffix(".part")
        part.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
        os.replace(part, path)
        return path

    @classmethod
    def load(cls, folder: str | Path, *, encoder: str = "") -> Calibration:
        """Read calibration.json from a folder of weights; empty where there is none.

        Args:
            folder: where the weights are.
            encoder: fingerprint of the weights; given, thresholds of other weights are refused.

        Raises:
            WeightsError: the file is damaged.
            FingerprintError: it was fitted for other weights.
        """
        path = Path(folder) / CALIBRATION
        if not path.is_file():
            return cls()
        try:
            found = cls._from_json(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise WeightsError(f"{path} is damaged: {error}; write it anew by rsvlm eval calibrate") from error
        if encoder and found.encoder != encoder:
            raise FingerprintError(f"{path} was fitted for other weights; write it anew by rsvlm eval calibrate")
        return found

    @classmethod
    def _from_json(cls, plain: dict[str, Any]) -> Calibration:
        return cls(tuple(Threshold(**each) for each in plain["thresholds"]), plain["encoder"])


def calibration_of(encoder: object) -> Calibration:
    """An encoder's own thresholds; none for an encoder that has no calibration."""
    found = getattr(encoder, "calibration", None)
    return found if isinstance(found, Calibration) else Calibration()
