"""The networks, one file for each family. A model pairs a downscaler and an upscaler (`Rescaler`)."""

from car.models import compact as compact
from car.models import published as published
from car.models.registry import create, model_names, register
from car.models.rescaler import (
    BicubicDownscaler,
    Geometry,
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
    "model_names",
    "quantize",
    "register",
]
