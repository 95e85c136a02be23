"""Adaptive resampling in plain PyTorch: the definition that every faster kernel must match."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from car.ops.arguments import HALF_DTYPES, check_arguments, kernel_side

Gradients = tuple[Tensor, Tensor, Tensor, Tensor]
"""Of image, kernels, offsets_h and offsets_v."""


class Axis(NamedTuple):
    """One direction of the sampling grid."""

    whole: Tensor  # [n], floating: floor of the unpadded position of each output sample, before taps
    part: Tensor  # [n], floating: the fraction that the floor removed, in [0, 1)
    source: Tensor  # [size + 2 * (k // 2)], int64: padded index -> image index, by reflection


def sampling_axis(size: int, samples: int, side: int, like: Tensor) -> Axis:
    """Place `samples` outputs over `size` pixels padded for `side` taps, in the dtype and device of `like`.

    Position ``(x + 0.5) * size / samples - 0.5`` is split exactly, in integers. A float32 of the sum would
    lose four digits of the fraction at column 2000.
    """
    numerator = (2 * torch.arange(samples) + 1) * size - samples
    whole = torch.div(numerator, 2 * samples, rounding_mode="floor")
    part = (numerator - whole * (2 * samples)).double() / (2 * samples)
    # Reflection repeats with this period; it folds any padding into any size, a single pixel included.
    period = max(2 * (size - 1), 1)
    radius = side // 2
    padded = torch.arange(-radius, size + radius)
    # not torch.remainder: exporters do not support it for free sizes
    folded = padded - period * torch.div(padded, period, rounding_mode="floor")
    source = torch.minimum(folded, 2 * (size - 1) - folded)
    return Axis(*(t.to(like.device) for t in (whole.to(like.dtype), part.to(like.dtype), source)))


def adaptive_resample_reference(
    image: Tensor, kernels: Tensor, offsets_h: Tensor, offsets_v: Tensor, scale: int
) -> Tensor:
    """Compute `car.ops.adaptive_resample`, slowly, from common differentiable operators.

    Arguments, result and errors are those of `car.ops.adaptive_resample`. It runs on any device, and
    autograd through it (to any order) defines the derivatives. Under autograd it keeps about twenty
    tensors the size of the result for each of the k*k taps.
    """
    check_arguments(image, kernels, offsets_h, offsets_v, scale)
    if image.dtype in HALF_DTYPES:
        wide = resample(image.float(), kernels.float(), offsets_h.float(), offsets_v.float(), scale)
        return wide.to(image.dtype)
    return resample(image, kernels, offsets_h, offsets_v, scale)


def resample(image: Tensor, kernels: Tensor, offsets_h: Tensor, offsets_v: Tensor, scale: int) -> Tensor:
    """Sum the weighted bilinear samples of all taps. The caller has checked the arguments."""
    out = image.new_zeros(*image.shape[:2], *kernels.shape[2:])
    for tap, (a, b, corners) in enumerate(_taps(image, kernels, offsets_h, offsets_v, scale)):
        top_left, top_right, bottom_left, bottom_right = (
            _gather(image, corner, out.shape) for corner in corners
        )
        top = (1 - a) * top_left + a * top_right
        bottom = (1 - a) * bottom_left + a * bottom_right
        out = out + kernels[:, tap, None] * ((1 - b) * top + b * bottom)
    return out


def resample_at_once(
    image: Tensor, kernels: Tensor, offsets_h: Tensor, offsets_v: Tensor, scale: int
) -> Tensor:
    """Compute `resample` without a loop: a short graph, in 12 times the memory of the taps."""
    side = kernel_side(kernels)
    (B, C, H, W), (h, w) = image.shape, kernels.shape[2:]
    columns, rows = sampling_axis(W, w, side, image), sampling_axis(H, h, side, image)
    rows = Axis(rows.whole[:, None], rows.part[:, None], rows.source)
    taps = torch.arange(side, device=image.device)
    left, right, a = _neighbours(columns, taps.repeat(side)[:, None, None], scale * offsets_h)
    top, bottom, b = _neighbours(rows, taps.repeat_interleave(side)[:, None, None], scale * offsets_v)

    def at(y: Tensor, x: Tensor) -> Tensor:
        index = (y * W + x).reshape(B, 1, -1).expand(-1, C, -1)
        return image.flatten(2).gather(2, index).reshape(B, C, side * side, h, w)

    a, b = a[:, None], b[:, None]
    above = (1 - a) * at(top, left) + a * at(top, right)
    below = (1 - a) * at(bottom, left) + a * at(bottom, right)
    return (kernels[:, None] * ((1 - b) * above + b * below)).sum(2)


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
    """Return the gradients of `resample` for its four tensors, in memory that does not grow with the taps.

    The gradient of `image` is empty if `for_image` is false, those of `kernels` and both offsets if
    `for_taps` is false. They are written out because autograd does not record inside an operator registered
    with PyTorch.
    """
    grads = empty_gradients(image, kernels, for_image, for_taps)
    grad_image, grad_kernels, grad_h, grad_v = grads
    grad_image.zero_()
    for tap, (a, b, corners) in enumerate(_taps(image, kernels, offsets_h, offsets_v, scale)):
        kernel = kernels[:, tap, None]
        if for_image:
            weights = ((1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b)
            for corner, weight in zip(corners, weights, strict=True):
                index = corner.repeat(1, image.shape[1], 1)
                grad_image.flatten(2).scatter_add_(2, index, (grad * kernel * weight).flatten(2))
        if for_taps:
            # the gradient from each corner, summed over colours; all three gradients are combinations of
            # these
            top_left, top_right, bottom_left, bottom_right = (
                (grad * _gather(image, corner, grad.shape)).sum(1) for corner in corners
            )
            a, b, unit = a[:, 0], b[:, 0], scale * kernel[:, 0]
            top = (1 - a) * top_left + a * top_right
            bottom = (1 - a) * bottom_left + a * bottom_right
            across = (1 - b) * (top_right - top_left) + b * (bottom_right - bottom_left)
            grad_kernels[:, tap] = (1 - b) * top + b * bottom
            grad_h[:, tap] = unit * across
            grad_v[:, tap] = unit * (bottom - top)
    return grads


def empty_gradients(image: Tensor, kernels: Tensor, for_image: bool, for_taps: bool) -> Gradients:
    """Return empty tensors for the gradients of image, kernels and both offsets; size 0 if not requested."""
    taps = kernels.shape if for_taps else (0,)
    return (
        image.new_empty(image.shape if for_image else (0,)),
        kernels.new_empty(taps),
        kernels.new_empty(taps),
        kernels.new_empty(taps),
    )


def _taps(
    image: Tensor, kernels: Tensor, offsets_h: Tensor, offsets_v: Tensor, scale: int
) -> Iterator[tuple[Tensor, Tensor, list[Tensor]]]:
    """Yield for each tap both fractions ``[B, 1, h, w]`` and four corner indices ``[B, 1, h * w]``."""
    side = kernel_side(kernels)
    H, W = image.shape[2:]
    h, w = kernels.shape[2:]
    columns, rows = sampling_axis(W, w, side, image), sampling_axis(H, h, side, image)
    rows = Axis(rows.whole[:, None], rows.part[:, None], rows.source)  # broadcasts down instead of across
    for tap in range(side * side):
        i, j = divmod(tap, side)
        left, right, a = _neighbours(columns, j, scale * offsets_h[:, tap, None])
        top, bottom, b = _neighbours(rows, i, scale * offsets_v[:, tap, None])
        yield a, b, [(y * W + x).flatten(2) for y in (top, bottom) for x in (left, right)]


def _neighbours(axis: Axis, tap: int | Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the image indices of both neighbours of each position, and its fraction before clamping."""
    position = axis.part + shift
    floor = position.detach().floor()
    last = axis.source.numel() - 1
    # clamped as floats, because converting NaN or 1e30 to an integer is undefined
    first = torch.nan_to_num(axis.whole + tap + floor, nan=0.0).clamp(0, last).long()
    second = (first + 1).clamp(max=last)
    return axis.source[first], axis.source[second], position - floor


def _gather(image: Tensor, index: Tensor, shape: torch.Size) -> Tensor:
    """Read the plane indices ``[B, 1, h * w]`` from each channel, as `shape` ``[B, C, h, w]``."""
    # repeated, not expanded: adding into the image with an expanded index is hundreds of times slower
    return image.flatten(2).gather(2, index.repeat(1, image.shape[1], 1)).view(shape)
