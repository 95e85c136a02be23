"""Checks of the arguments that the fast operator and its reference share."""

import torch
from torch import Tensor

HALF_DTYPES = (torch.float16, torch.bfloat16)
SUPPORTED_DTYPES = (torch.float32, torch.float64, *HALF_DTYPES)
MAX_SIDE = 1 << 23  # whole pixels, padding included, must be exact in float32


def check_arguments(image: Tensor, kernels: Tensor, offsets_h: Tensor, offsets_v: Tensor, scale: int) -> None:
    """Raise TypeError or ValueError, naming the argument, unless the resampling is well defined."""
    tensors = {"image": image, "kernels": kernels, "offsets_h": offsets_h, "offsets_v": offsets_v}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
        if tensor.dtype not in SUPPORTED_DTYPES:
            raise TypeError(f"{name} must be float32, float64, float16 or bfloat16, got {tensor.dtype}")
        if tensor.dtype != image.dtype:
            raise TypeError(f"{name} must have the dtype of image, {image.dtype}, got {tensor.dtype}")
        if tensor.device != image.device:
            raise ValueError(f"{name} must be on the device of image, {image.device}, got {tensor.device}")
        if tensor.ndim != 4:
            raise ValueError(f"{name} must have 4 dimensions, got shape {tuple(tensor.shape)}")
        if 0 in tensor.shape:
            raise ValueError(f"{name} must not be empty, got shape {tuple(tensor.shape)}")
    if max(image.shape[2:]) > MAX_SIDE:
        raise ValueError(f"image must not exceed {MAX_SIDE} pixels a side, got shape {tuple(image.shape)}")
    if isinstance(scale, bool) or not isinstance(scale, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"scale must be an int, got {type(scale).__name__}")
    if scale < 1:
        raise ValueError(f"scale must be at least 1, got {scale}")
    if kernels.shape[0] != image.shape[0]:
        raise ValueError(
            f"kernels must have the batch size of image, got shapes {tuple(kernels.shape)} "
            f"and {tuple(image.shape)}"
        )
    if kernel_side(kernels) ** 2 != kernels.shape[1]:
        raise ValueError(f"kernels must have a square number of channels, got shape {tuple(kernels.shape)}")
    for name, offsets in (("offsets_h", offsets_h), ("offsets_v", offsets_v)):
        if offsets.shape != kernels.shape:
            raise ValueError(
                f"{name} must have the shape of kernels, {tuple(kernels.shape)}, got {tuple(offsets.shape)}"
            )


def kernel_side(kernels: Tensor) -> int:
    """Return k for kernels of k*k channels."""
    return round(kernels.shape[1] ** 0.5)  # torch.compile traces this, and not math.isqrt
