"""The public operator: argument checks, registration with PyTorch, derivatives."""

import functools
import importlib.util
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from car.ops import cpu, reference
from car.ops.arguments import HALF_DTYPES, check_arguments
from car.ops.reference import Gradients


def adaptive_resample(
    image: Tensor, kernels: Tensor, offsets_h: Tensor, offsets_v: Tensor, scale: int
) -> Tensor:
    """Resample an image, with a separate kernel and separate offsets of its taps for each output pixel.

    This is the adaptive resampling of Sun & Chen, "Learned Image Downscaling for Upscaling using Content
    Adaptive Resampler", IEEE TIP 29, 2020 (arXiv 1907.12904). Output pixel (y, x) is the sum over taps (i, j)
    of ``kernels[:, i * k + j, y, x]`` times the bilinear sample of the image, reflect-padded by ``k // 2``
    (repeatedly where the image is smaller than that), at ::

        px = (x + 0.5) * W / w + j + scale * offsets_h[:, i * k + j, y, x] - 0.5
        py = (y + 0.5) * H / h + i + scale * offsets_v[:, i * k + j, y, x] - 0.5

    The fraction is ``px - floor(px)``; the left neighbour is ``floor(px)`` clamped to the padded image, the
    right neighbour is the pixel after the *clamped* left one, clamped again; downwards likewise.
    `adaptive_resample_reference` is the definition, in plain PyTorch.

    The operator is differentiable once with respect to all four tensors; a second derivative raises
    RuntimeError. It works under ``torch.compile``. On the CPU, a compiled kernel runs on
    ``torch.get_num_threads()`` threads and gives the same bits for any number of them. It is compiled at the
    first call, which takes some seconds, and cached on disk if the cache folder is writable. On NVIDIA and
    AMD GPUs, Triton kernels run if Triton is installed (it comes with PyTorch on Linux). Other devices run
    plain PyTorch operators. Except on the CPU, the gradient for the image is summed in no fixed order, so its
    last bits vary from call to call.

    Args:
        image: ``[B, C, H, W]``, any range; float32, float64, float16 or bfloat16. The 16-bit types are
            computed in float32 and rounded back. Autocast converts nothing here. Any device.
        kernels: ``[B, k*k, h, w]``, k at least 1, of the dtype and device of `image`. They are not
            normalised: to keep brightness, they must sum to one over their channels.
        offsets_h: like `kernels`: displacement to the right, in units of `scale` pixels, any finite value.
        offsets_v: like `kernels`: displacement downwards. A tap with NaN or infinite offsets gives NaN.
        scale: pixels that an offset of 1 stands for, at least 1. It need not be ``W / w``.

    Returns:
        ``[B, C, h, w]``, contiguous, of the dtype and device of `image`.

    Raises:
        TypeError: an argument is not a tensor or has an unsupported or different dtype, or `scale` is not an
            int.
        ValueError: shapes or devices do not match, a tensor is empty, or `scale` is below 1.
    """
    check_arguments(image, kernels, offsets_h, offsets_v, scale)
    return _forward(image, kernels, offsets_h, offsets_v, scale)


def _in_float32(function: Callable[..., Any]) -> Callable[..., Any]:
    """Extend `function`, which takes float32 and float64, to 16-bit dtypes."""

    @functools.wraps(function)
    def wide(*arguments: Any) -> Any:
        dtype = arguments[0].dtype
        if dtype not in HALF_DTYPES:
            return function(*arguments)
        result = function(*(a.float() if isinstance(a, Tensor) else a for a in arguments))
        return result.to(dtype) if isinstance(result, Tensor) else tuple(r.to(dtype) for r in result)

    return wide


@functools.cache
def _gpu() -> ModuleType | None:
    """Return the Triton kernels, or warn and return None if Triton is not installed."""
    if importlib.util.find_spec("triton") is None:
        warnings.warn(
            "Triton is not installed: on this GPU, adaptive resampling uses plain PyTorch operators, which "
            "takes more time and memory",
            stacklevel=2,
        )
        return None
    from car.ops import triton_kernels

    return triton_kernels


@torch.library.custom_op("car::adaptive_resample", mutates_args=())
def _forward(image: Tensor, kernels: Tensor, offsets_h: Tensor, offsets_v: Tensor, scale: int) -> Tensor:
    return _in_float32(reference.resample)(image, kernels, offsets_h, offsets_v, scale)


# Gradients that are not needed are empty, because an operator cannot return None instead of a tensor.
@torch.library.custom_op("car::adaptive_resample_backward", mutates_args=())
def _backward(
    grad: Tensor,
    image: Tensor,
    kernels: Tensor,
    offsets_h: Tensor,
    offsets_v: Tensor,
    scale: int,
    for_image: bool,
    for_taps: bool,
) -> Gradients:
    return _in_float32(reference.resample_backward)(
        grad, image, kernels, offsets_h, offsets_v, scale, for_image, for_taps
    )


_forward.register_kernel("cpu")(_in_float32(cpu.resample))
_backward.register_kernel("cpu")(_in_float32(cpu.resample_backward))


@_forward.register_kernel("cuda")
def _(*arguments: Any) -> Tensor:
    kernels = _gpu()
    return kernels.resample(*arguments) if kernels else _in_float32(reference.resample)(*arguments)


@_backward.register_kernel("cuda")
def _(*arguments: Any) -> Gradients:
    kernels = _gpu()
    backward = kernels.resample_backward if kernels else _in_float32(reference.resample_backward)
    return backward(*arguments)


@_forward.register_fake
def _(image: Tensor, kernels: Tensor, *_: Any) -> Tensor:
    return image.new_empty(*image.shape[:2], *kernels.shape[2:])


@_backward.register_fake
def _(_: Tensor, image: Tensor, kernels: Tensor, *rest: Any) -> Gradients:
    return reference.empty_gradients(image, kernels, *rest[-2:])


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needed: tuple[bool, ...] = ctx.needs_input_grad[:4]
    grads = _backward(grad, *ctx.saved_tensors, ctx.scale, needed[0], any(needed[1:]))
    return (*(g if wanted else None for g, wanted in zip(grads, needed, strict=True)), None)


_forward.register_autograd(_differentiate, setup_context=_save_inputs)
