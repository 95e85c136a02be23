"""Adaptive resampling on the CPU: loops that numba compiles, split among Python threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from car.ops.arguments import kernel_side
from car.ops.reference import Gradients, empty_gradients, sampling_axis

if TYPE_CHECKING:
    from car.ops.numba_kernels import Floats, Grid

# below this number of samples in a call, starting threads costs more than it gains
_SAMPLES_WORTH_THREADS = 1 << 16


def resample(image: Tensor, kernels: Tensor, offsets_h: Tensor, offsets_v: Tensor, scale: int) -> Tensor:
    """Compute `car.ops.reference.resample`, in memory for the result and a few rows of each thread.

    Tensors that are not contiguous (channels-last, slices) are copied once.
    """
    from car.ops import numba_kernels  # importing numba is slow

    out = image.new_empty(*image.shape[:2], *kernels.shape[2:])
    (result,), (pixels,) = _arrays(out), _arrays(image.flatten(2))
    taps, grid = numba_kernels.Taps(*_arrays(kernels, offsets_h, offsets_v)), _grid(image, kernels, scale)

    def rows(start: int, stop: int) -> None:
        numba_kernels.forward(pixels, taps, grid, result, start, stop)

    _share_out(rows, image.shape[0] * kernels.shape[2], kernels.numel())
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
    """Compute `car.ops.reference.resample_backward`, with the same bits for any number of threads."""
    from car.ops import numba_kernels

    grads = empty_gradients(image, kernels, for_image, for_taps)
    earned, pixels, to_image = _arrays(grad, image.flatten(2), grads[0].flatten(2) if for_image else grads[0])
    taps, grid = numba_kernels.Taps(*_arrays(kernels, offsets_h, offsets_v)), _grid(image, kernels, scale)
    to_taps = numba_kernels.Taps(*_arrays(*grads[1:]))

    def rows(start: int, stop: int) -> None:
        numba_kernels.backward_taps(earned, pixels, taps, grid, to_taps, start, stop)

    def planes(start: int, stop: int) -> None:
        numba_kernels.backward_image(earned, taps, grid, to_image, start, stop)

    if for_taps:
        _share_out(rows, image.shape[0] * kernels.shape[2], kernels.numel())
    if for_image:
        _share_out(planes, image.shape[0] * image.shape[1], kernels.numel() * image.shape[1])
    return grads


def _arrays(*tensors: Tensor) -> "tuple[Floats, ...]":
    """Return the tensors as arrays: views of contiguous ones, copies of the others."""
    return tuple(t.detach().contiguous().numpy() for t in tensors)


def _grid(image: Tensor, kernels: Tensor, scale: int) -> "Grid":
    """Return tables of the geometry that all rows share."""
    from car.ops.numba_kernels import Grid

    (H, W), (h, w), side = image.shape[2:], kernels.shape[2:], kernel_side(kernels)
    x, y = sampling_axis(W, w, side, image), sampling_axis(H, h, side, image)
    columns, rows = (torch.cat([t, t[-1:]]) for t in (x.source, y.source * W))
    real = x.part.numpy().dtype.type
    return Grid(
        real(scale),
        side,
        *(t.numpy() for t in (x.whole, x.part, y.whole, y.part)),
        *(t.numpy().view("uint64") for t in (columns, rows)),
    )


def _share_out(work: Callable[[int, int], None], tasks: int, samples: int) -> None:
    """Run ``work(start, stop)`` over all tasks, on as many threads as PyTorch would use.

    Threads live for one call, because a pool that is kept would not survive a fork. numba's own parallel
    loops are not used, because they abort when two threads enter them at once.
    """
    threads = min(torch.get_num_threads(), tasks)
    if threads == 1 or samples < _SAMPLES_WORTH_THREADS:
        work(0, tasks)
        return
    pieces = min(
        tasks, 4 * threads
    )  # more pieces than threads, so that a slow core does not delay the others
    bounds = [tasks * piece // pieces for piece in range(pieces + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, bounds[:-1], bounds[1:]))  # list() raises the exceptions of the threads
