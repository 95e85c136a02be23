"""The compiled loops of the CPU kernel. They are imported, and thus compiled, only at the first call.

Each function works on a range of tasks; no two tasks write to the same memory. Row buffers hold the geometry
of one tap along one row, so that computing positions vectorises although the scattered reads cannot. Nothing
is checked here: callers check shapes, and `_locate` keeps every index inside the tables for any offsets.

The arithmetic is plain IEEE (no fastmath, no fused multiply-add), because a position next to a whole number
must be floored exactly as the reference floors it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.uint64]
Padded = NDArray[np.uint32]  # unsigned, because numba checks signed indices for negative values
ONE = np.uint32(1)  # a plain 1 is signed and would make the sum signed
Function = TypeVar("Function", bound=Callable[..., Any])


class Grid(NamedTuple):
    """Where outputs sit over the image; all floats in the dtype of the image."""

    scale: Any  # unit of the offsets, in pixels
    side: int  # k
    whole_x: Floats  # [w], as in `reference.Axis`
    part_x: Floats
    whole_y: Floats  # [h]
    part_y: Floats
    columns: Indices  # [W + 2 * (k // 2) + 1]: padded -> image column; the last one twice, for its neighbour
    rows: Indices  # the same down, each times W: the index of the row's first pixel


class Taps(NamedTuple):
    """What belongs to each tap: kernels and offsets, or their gradients; ``[B, k * k, h, w]`` each."""

    kernels: Floats
    offsets_h: Floats
    offsets_v: Floats


class Row(NamedTuple):
    """Where one tap reads along a row of outputs: first neighbours in the padded image, and fractions."""

    left: Padded
    top: Padded
    a: Floats
    b: Floats


def _compiled(function: Function) -> Function:
    try:
        compiled = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder to cache in is writable: compile in each process
        compiled = numba.njit(nogil=True)(function)
    return cast("Function", compiled)


@_compiled
def _padded_index(position: Any, last: Any) -> Any:
    """Clamp a floating whole number to a table, and NaN to 0. Converting such values first is undefined."""
    position = position if position > 0 else type(last)(0)
    return np.int32(position if position < last else last)


@_compiled
def _row(like: Floats, w: int) -> Row:
    return Row(
        np.empty(w, np.uint32), np.empty(w, np.uint32), np.empty(w, like.dtype), np.empty(w, like.dtype)
    )


@_compiled
def _locate(grid: Grid, taps: Taps, n: int, tap: int, y: int, row: Row) -> None:
    """Fill `row` for one tap along row `y` of the outputs."""
    left, top, a, b = row
    offsets_h, offsets_v = taps.offsets_h[n, tap, y], taps.offsets_v[n, tap, y]
    real = a.dtype.type
    i, j = real(tap // grid.side), real(tap % grid.side)
    last_x, last_y = real(grid.columns.size - 2), real(grid.rows.size - 2)
    for x in range(a.size):
        position = grid.part_x[x] + grid.scale * offsets_h[x]
        floor = np.floor(position)
        a[x] = position - floor
        left[x] = _padded_index(grid.whole_x[x] + j + floor, last_x)
    whole, part = grid.whole_y[y] + i, grid.part_y[y]
    for x in range(b.size):
        position = part + grid.scale * offsets_v[x]
        floor = np.floor(position)
        b[x] = position - floor
        top[x] = _padded_index(whole + floor, last_y)


@_compiled
def forward(image: Floats, taps: Taps, grid: Grid, out: Floats, start: int, stop: int) -> None:
    """Fill the rows `start` to `stop` of `out`, counted through the batch. Images are ``[B, C, H * W]``."""
    C = image.shape[1]
    _, count, h, w = taps.kernels.shape
    left, top, a, b = row = _row(image, w)
    for task in range(start, stop):
        n, y = task // h, task % h
        pixels, sums = image[n], out[n, :, y]
        sums[:] = 0
        for tap in range(count):
            _locate(grid, taps, n, tap, y, row)
            weights = taps.kernels[n, tap, y]
            for x in range(w):
                x0, x1 = grid.columns[left[x]], grid.columns[left[x] + ONE]
                y0, y1 = grid.rows[top[x]], grid.rows[top[x] + ONE]
                right, bottom = weights[x] * a[x], weights[x] * b[x]
                bottom_right = a[x] * bottom
                bottom_left, top_right = bottom - bottom_right, right - bottom_right
                top_left = weights[x] - bottom_left - right
                for c in range(C):
                    sums[c, x] += (
                        top_left * pixels[c, y0 + x0]
                        + top_right * pixels[c, y0 + x1]
                        + bottom_left * pixels[c, y1 + x0]
                        + bottom_right * pixels[c, y1 + x1]
                    )


@_compiled
def backward_taps(
    grad: Floats, image: Floats, taps: Taps, grid: Grid, grads: Taps, start: int, stop: int
) -> None:
    """Fill the rows `start` to `stop` of the gradients for kernels and offsets."""
    C = image.shape[1]
    _, count, h, w = taps.kernels.shape
    real = image.dtype.type
    left, top, a, b = row = _row(image, w)
    for task in range(start, stop):
        n, y = task // h, task % h
        pixels, earned = image[n], grad[n, :, y]
        for tap in range(count):
            _locate(grid, taps, n, tap, y, row)
            for x in range(w):
                x0, x1 = grid.columns[left[x]], grid.columns[left[x] + ONE]
                y0, y1 = grid.rows[top[x]], grid.rows[top[x] + ONE]
                top_left, top_right, bottom_left, bottom_right = real(0), real(0), real(0), real(0)
                for c in range(C):
                    top_left += earned[c, x] * pixels[c, y0 + x0]
                    top_right += earned[c, x] * pixels[c, y0 + x1]
                    bottom_left += earned[c, x] * pixels[c, y1 + x0]
                    bottom_right += earned[c, x] * pixels[c, y1 + x1]
                above, below = top_right - top_left, bottom_right - bottom_left
                upper, lower = top_left + a[x] * above, bottom_left + a[x] * below
                unit = grid.scale * taps.kernels[n, tap, y, x]
                grads.kernels[n, tap, y, x] = upper + b[x] * (lower - upper)
                grads.offsets_h[n, tap, y, x] = unit * (above + b[x] * (below - above))
                grads.offsets_v[n, tap, y, x] = unit * (lower - upper)


@_compiled
def backward_image(grad: Floats, taps: Taps, grid: Grid, grad_image: Floats, start: int, stop: int) -> None:
    """Fill the planes `start` to `stop` of the gradient for the image, counted through batch and channels.

    Rows of outputs scatter over each other's pixels, so a plane is the smallest unit that one thread can own.
    Because one thread owns it, the order of the sums, and every bit of the result, do not depend on the
    threads.
    """
    C = grad_image.shape[1]
    _, count, h, w = taps.kernels.shape
    left, top, a, b = row = _row(grad, w)
    for task in range(start, stop):
        n, c = task // C, task % C
        pixels = grad_image[n, c]
        pixels[:] = 0
        for y in range(h):
            for tap in range(count):
                _locate(grid, taps, n, tap, y, row)
                for x in range(w):
                    x0, x1 = grid.columns[left[x]], grid.columns[left[x] + ONE]
                    y0, y1 = grid.rows[top[x]], grid.rows[top[x] + ONE]
                    share = grad[n, c, y, x] * taps.kernels[n, tap, y, x]
                    right, bottom = share * a[x], share * b[x]
                    bottom_right = a[x] * bottom
                    pixels[y0 + x0] += share - right - bottom + bottom_right
                    pixels[y0 + x1] += right - bottom_right
                    pixels[y1 + x0] += bottom - bottom_right
                    pixels[y1 + x1] += bottom_right
