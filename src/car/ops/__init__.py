"""Resampling operators.

`adaptive_resample` is the operator of the paper. `adaptive_resample_reference` defines it in plain PyTorch.
"""

from car.ops.bicubic import bicubic_downscale, bicubic_resize
from car.ops.reference import adaptive_resample_reference
from car.ops.resample import adaptive_resample

__all__ = ["adaptive_resample", "adaptive_resample_reference", "bicubic_downscale", "bicubic_resize"]
