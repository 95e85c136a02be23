"""Models for other programs. The choices are here; `car.export.onnx` writes the files, with PyTorch."""

from typing import Literal

Half = Literal["up", "down"]
Storage = Literal["float32", "float16"]

DEFAULT_OPSET = 20
OPSETS = range(18, 24)
"""Versions of the operators that the exporter of PyTorch writes."""
