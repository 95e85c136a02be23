"""Conversion of samples of any type and range to 8 or 16 bits."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from car.errors import ImageError

Pixels = NDArray[Any]

CUT_OFF = "values below 0 or above 1 were cut off"
"""A note."""

_OVERSHOOT = 0.1  # beyond the range from 0 to 1: filters leave this much; more shows another range
_BLOCK = 2**20  # samples that are converted at once


def to_unsigned(array: Pixels, notes: list[str], bits: int = 0) -> Pixels:
    """Convert samples of any type to uint8 or uint16 of the whole range.

    Integers of up to 31 bits that do not fill their type are stretched to 8 or 16 bits; 12 of 16 bits would
    otherwise look almost black. Integers of 32 or 64 bits may use 8, 16 or all bits; the largest value shows
    which. Floats are read as 0 to 1 or, if all are whole numbers, as levels of 8 or 16 bits.

    Args:
        array: of any shape and byte order.
        notes: list to which notes for the user are added.
        bits: bits of a sample as stored; 0 for all bits of its type.

    Raises:
        ImageError: the values fit none of these ranges.
    """
    kind, held = array.dtype.kind, array.dtype.itemsize * 8
    if kind == "f":
        return _from_floats(array, notes)
    if kind == "b":
        return array.astype(np.uint8) * np.uint8(255)
    if kind not in "iu":
        raise ImageError(f"{array.dtype} samples are not supported")
    if kind == "u" and held <= 16 and bits in (0, held):
        return np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if low < 0:
        raise _misfit(array, low, high)
    white = 2 ** (bits or held) - 1
    if held > 16 and white >= 2**31 - 1:
        if high <= 65535:
            return array.astype(np.uint8 if high <= 255 else np.uint16)
        if kind == "i":
            white //= 2
        if high <= white >> 8:
            raise _misfit(array, low, high)
        return (array >> (white.bit_length() - 16)).astype(np.uint16)
    if kind == "i":
        white //= 2
    target = np.uint8 if white <= 255 else np.uint16
    stretch = np.iinfo(target).max / white

    def stretched(piece: Pixels) -> Pixels:
        return np.round(piece * stretch)

    return _converted(array, target, stretched)


def _converted(array: Pixels, target: Any, convert: Callable[[Pixels], Pixels]) -> Pixels:
    """Convert samples to another type, some rows at a time: intermediate values take much memory."""
    result = np.empty(array.shape, target)
    for piece in _pieces(array):
        result[piece] = convert(array[piece])
    return result


def _pieces(array: Pixels) -> Iterator[slice]:
    rows = max(1, _BLOCK * len(array) // max(1, array.size))
    return (slice(top, top + rows) for top in range(0, len(array), rows))


def _from_floats(array: Pixels, notes: list[str]) -> Pixels:
    kind = np.float64 if array.dtype.itemsize > 4 else np.float32

    def finite(piece: Pixels) -> Pixels:
        return np.nan_to_num(piece.astype(kind), nan=0, posinf=0, neginf=0)

    if not all(np.isfinite(array[piece]).all() for piece in _pieces(array)):
        if not any(np.isfinite(array[piece]).any() for piece in _pieces(array)):
            raise ImageError("none of its values is a finite number")
        notes.append("values that are not finite numbers were taken for black")
    ends = [(values.min(), values.max()) for values in map(finite, (array[p] for p in _pieces(array)))]
    low, high = float(min(end[0] for end in ends)), float(max(end[1] for end in ends))
    if low >= 0 and 1 < high <= 65535 and all(_whole(finite(array[piece])) for piece in _pieces(array)):
        return _converted(array, np.uint8 if high <= 255 else np.uint16, finite)
    if low < -_OVERSHOOT or high > 1 + _OVERSHOOT:
        raise _misfit(array, low, high)
    if low < 0 or high > 1:
        notes.append(CUT_OFF)
    return _converted(array, np.uint16, lambda piece: np.round(np.clip(finite(piece), 0, 1) * 65535))


def _whole(values: Pixels) -> bool:
    return bool((values == np.round(values)).all())


def _misfit(array: Pixels, low: float, high: float) -> ImageError:
    if array.dtype.kind == "f":
        return ImageError(
            f"its {array.dtype} values lie between {low:.6g} and {high:.6g}: "
            "they must lie between 0 and 1, or be whole numbers up to 65535"
        )
    return ImageError(f"{array.dtype} values from {low} to {high} do not fit 16 bit")


def eight_bit(array: Pixels) -> Pixels:
    """Round uint16 to uint8; uint8 stays."""
    return array if array.dtype == np.uint8 else ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
