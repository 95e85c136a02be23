"""The public operator: argument checks, registration with PyTorch, derivatives."""

from typing import Any

import torch

from car.ops import cpu, reference
from car.ops.arguments import HALF_DTYPES, check_arguments


def adaptive_resample(
    image: torch.Tensor,
    kernels: torch.Tensor,
    offsets_h: torch.Tensor,
    offsets_v: torch.Tensor,
    scale: int,
) -> torch.Tensor:
    """Resample an image with a kernel, and a displacement of each of its taps, for each output pixel.

    The adaptive resampling of Sun & Chen, "Learned Image Downscaling for Upscaling using Content Adaptive
    Resampler", IEEE TIP 29, 2020 (arXiv 1907.12904). Output pixel (y, x) is the sum over taps (i, j) of
    ``kernels[:, i * k + j, y, x]`` times the bilinear sample of the image, reflect-padded by ``k // 2``
    (repeatedly where the image is smaller than that), at ::

        px = (x + 0.5) * W / w + j + scale * offsets_h[:, i * k + j, y, x] - 0.5
        py = (y + 0.5) * H / h + i + scale * offsets_v[:, i * k + j, y, x] - 0.5

    The fraction is ``px - floor(px)``; the left neighbour is ``floor(px)`` clamped to the padded image, the
    right neighbour is the pixel after the *clamped* left one, clamped again; downwards likewise.
    `adaptive_resample_reference` says the same in plain PyTorch and is the definition.

    Differentiable once with respect to all four tensors; a second derivative raises RuntimeError. Works
    under ``torch.compile``. On the CPU a compiled kernel runs on ``torch.get_num_threads()`` threads, gives
    the same bits for any number of them, and is compiled at its first call (some seconds; cached on disk
    where the cache folder is writable). Other devices run plain PyTorch operators; there the gradient for
    the image is a scattered sum, which CUDA does not repeat to the last bit.

    Args:
        image: ``[B, C, H, W]``, any range; float32 or float64, or float16 or bfloat16, which are computed in
            float32 and rounded back; autocast converts nothing here. Any device.
        kernels: ``[B, k*k, h, w]``, k at least 1, of the dtype and device of `image`. Used as they are: to
            keep brightness they must sum to one over their channels.
        offsets_h: like `kernels`: displacement to the right, in units of `scale` pixels, any finite value.
        offsets_v: like `kernels`: displacement downwards. A tap with NaN or infinite offsets gives NaN.
        scale: pixels that an offset of 1 stands for, at least 1. It need not be ``W / w``.

    Returns:
        ``[B, C, h, w]``, contiguous, of the dtype and device of `image`.

    Raises:
        TypeError: an argument is no tensor, of an unsupported or different dtype, or `scale` is no int.
        ValueError: shapes or devices do not go together, a tensor is empty, or `scale` is below 1.

    """
    check_arguments(image, kernels, offsets_h, offsets_v, scale)
    if image.dtype in HALF_DTYPES:
        wide = _forward(image.float(), kernels.float(), offsets_h.float(), offsets_v.float(), scale)
        return wide.to(image.dtype)
    return _forward(image, kernels, offsets_h, offsets_v, scale)


@torch.library.custom_op("car::adaptive_resample", mutates_args=())
def _forward(
    image: torch.Tensor,
    kernels: torch.Tensor,
    offsets_h: torch.Tensor,
    offsets_v: torch.Tensor,
    scale: int,
) -> torch.Tensor:
    return reference.resample(image, kernels, offsets_h, offsets_v, scale)


# Gradients that nobody asked for come back empty: an operator cannot return None in place of a tensor.
@torch.library.custom_op("car::adaptive_resample_backward", mutates_args=())
def _backward(
    grad: torch.Tensor,
    image: torch.Tensor,
    kernels: torch.Tensor,
    offsets_h: torch.Tensor,
    offsets_v: torch.Tensor,
    scale: int,
    for_image: bool,
    for_taps: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    return reference.resample_backward(grad, image, kernels, offsets_h, offsets_v, scale, for_image, for_taps)


_forward.register_kernel("cpu")(cpu.resample)
_backward.register_kernel("cpu")(cpu.resample_backward)


@_forward.register_fake
def _(
    image: torch.Tensor,
    kernels: torch.Tensor,
    offsets_h: torch.Tensor,
    offsets_v: torch.Tensor,
    scale: int,
) -> torch.Tensor:
    return image.new_empty(*image.shape[:2], *kernels.shape[2:])


@_backward.register_fake
def _(
    grad: torch.Tensor,
    image: torch.Tensor,
    kernels: torch.Tensor,
    offsets_h: torch.Tensor,
    offsets_v: torch.Tensor,
    scale: int,
    for_image: bool,
    for_taps: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    return reference.empty_gradients(image, kernels, for_image, for_taps)


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    needed: tuple[bool, ...] = ctx.needs_input_grad[:4]
    grads = _backward(grad, *ctx.saved_tensors, ctx.scale, needed[0], any(needed[1:]))
    return (*(g if wanted else None for g, wanted in zip(grads, needed, strict=True)), None)


_forward.register_autograd(_differentiate, setup_context=_save_inputs)
