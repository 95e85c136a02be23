"""Models for other programs. What can be asked for is here; `car.export.onnx` does it, with PyTorch."""

from typing import Literal

Half = Literal["up", "down"]
Storage = Literal["float32", "float16"]

DEFAULT_OPSET = 20
OPSETS = range(18, 24)
"""Versions of the operators that the exporter of PyTorch writes."""
