"""Adaptive resampling in Triton, for GPUs; imported only where it runs.

``TRITON_INTERPRET=1``, set before the import, runs the programs on CPU tensors, slowly.
"""

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from car.ops import triton_source
from car.ops.arguments import kernel_side
from car.ops.reference import Gradients, empty_gradients, sampling_axis

_programs: Any = triton_source
_BLOCK = 128  # output pixels of one program
_CHANNELS = 4  # of the image, together; a power of two


def resample(image: Tensor, kernels: Tensor, offsets_h: Tensor, offsets_v: Tensor, scale: int) -> Tensor:
    """Compute `car.ops.reference.resample`, in memory for the result only."""
    tensors = [t.contiguous() for t in (image, kernels, offsets_h, offsets_v)]
    out = tensors[0].new_empty(*image.shape[:2], *kernels.shape[2:])
    launch = _Launch(image, kernels, scale)
    _programs.forward[launch.grid(launch.channel_blocks)](
        *tensors, *launch.tables, out, *launch.numbers, **launch.constants
    )
    return out


def resample_backward(
    grad: Tensor,
    image: Tensor,
    kernels: Tensor,
    offsets_h: Tensor,
    offsets_v: Tensor,
    scale: int,
    for_image: bool,
    for_taps: bool,
) -> Gradients:
    """Compute `car.ops.reference.resample_backward`; sums into the image in no fixed order."""
    tensors = [t.contiguous() for t in (grad, image, kernels, offsets_h, offsets_v)]
    grads = empty_gradients(image, kernels, for_image, for_taps)
    launch = _Launch(image, kernels, scale)
    if for_taps:
        _programs.backward_taps[launch.grid(launch.side)](
            *tensors, *launch.tables, *grads[1:], *launch.numbers, **launch.constants
        )
    if for_image:
        sums = torch.zeros(image.shape, dtype=launch.real, device=image.device)
        _programs.backward_image[launch.grid(launch.channel_blocks)](
            tensors[0], *tensors[2:], *launch.tables, sums, *launch.numbers, **launch.constants
        )
        return sums.to(image.dtype), *grads[1:]
    return grads


class _Launch:
    """The arguments that all kernels share."""

    def __init__(self, image: Tensor, kernels: Tensor, scale: int) -> None:
        (self.batch, channels, H, W), (h, w) = image.shape, kernels.shape[2:]
        self.side = kernel_side(kernels)
        self.pixels = h * w
        self.channel_blocks = -(-channels // _CHANNELS)
        self.real = torch.float64 if image.dtype == torch.float64 else torch.float32
        like = torch.empty(0, dtype=self.real, device=image.device)
        across = sampling_axis(W, w, self.side, like)
        down = sampling_axis(H, h, self.side, like)
        self.tables = (across.whole, across.part, down.whole, down.part)
        self.numbers = (channels, H, W, h, w, scale)
        self.constants = {
            "K": self.side,
            "CB": _CHANNELS,
            "BLOCK": _BLOCK,
            "ONCE": self.side // 2 < min(H, W),
            "REAL": tl.float64 if image.dtype == torch.float64 else tl.float32,
        }

    def grid(self, columns: int) -> tuple[int, int, int]:
        """Return the number of programs in each direction."""
        return -(-self.pixels // _BLOCK), columns, self.batch
