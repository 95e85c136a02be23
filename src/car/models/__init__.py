"""The networks, one file for each family. A model pairs a downscaler and an upscaler (`Rescaler`)."""

from car.families import Geometry
from car.models.registry import create
from car.models.rescaler import (
    BicubicDownscaler,
    KernelDownscaler,
    ResamplingDownscaler,
    Rescaler,
    quantize,
)

__all__ = [
    "BicubicDownscaler",
    "Geometry",
    "KernelDownscaler",
    "ResamplingDownscaler",
    "Rescaler",
    "create",
    "quantize",
]
