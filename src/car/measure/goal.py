"""What a small file must keep to, as data; the command line makes its options from it."""

import math
from dataclasses import dataclass
from typing import Literal

from car.codec.options import setting
from car.errors import UsageError

Measure = Literal["ssimulacra2", "psnr_rgb"]
"""What says which of two restored pictures is better: an attribute of `car.measure.trips.Score`."""


@dataclass(frozen=True)
class Goal:
    """What a small file must keep to: one of three.

    Attributes:
        max_bytes: the file has at most so many bytes, and restores as well as possible.
        min_psnr: it restores with this PSNR over RGB at least, dB, and is as small as possible.
        min_ssimulacra2: it restores with this SSIMULACRA2 at least, and is as small as possible.

    Raises:
        UsageError: several are given, or one is impossible.
    """

    max_bytes: int | None = setting(
        None,
        "Make the best small file of at most this size, such as 60kB.",
        size=None,
    )
    min_psnr: float | None = setting(
        None, "Make the smallest file that restores with this PSNR over RGB, in dB."
    )
    min_ssimulacra2: float | None = setting(
        None, "Make the smallest file that restores with this SSIMULACRA2, such as 70."
    )

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.max_bytes, self.min_psnr, self.min_ssimulacra2)) > 1:
            raise UsageError("give one of max_bytes, min_psnr and min_ssimulacra2")
        if self.max_bytes is not None and self.max_bytes < 1:
            raise UsageError(f"max_bytes must be at least 1, got {self.max_bytes}")
        if self.min_psnr is not None and not 0 < self.min_psnr < math.inf:
            raise UsageError(f"min_psnr must be above 0 dB, got {self.min_psnr:g}")
        if self.min_ssimulacra2 is not None and not self.min_ssimulacra2 <= 100:
            raise UsageError(f"min_ssimulacra2 must be at most 100, got {self.min_ssimulacra2:g}")

    @property
    def given(self) -> bool:
        """Whether there is a goal at all."""
        return self != Goal()

    def least(self, measure: Measure) -> float | None:
        """Return the least value of `measure` that is asked for."""
        return self.min_psnr if measure == "psnr_rgb" else self.min_ssimulacra2
