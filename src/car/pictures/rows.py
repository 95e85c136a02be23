"""Rows of a picture from the top: kept while they are needed, and resampled to another size."""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from car.errors import ImageError
from car.pictures.depth import Pixels

Rows = Callable[[int, int], Pixels]
"""Gives the rows from the first to before the second of a picture; they never grow smaller."""

_GROUP = 32  # rows or columns that are computed at once, as products of matrices
_LOBES = 6
_NEARBY = 16  # places beyond a group that least squares take into account; farther ones do not matter
_DAMPING = 0.01


class RowBuffer:
    """Gives rows of a picture that is read once from the top; requests must move downwards."""

    def __init__(self, blocks: Iterator[Pixels]) -> None:
        self._blocks = blocks
        self._kept: list[Pixels] = []
        self._top = 0  # of what is kept

    def __call__(self, top: int, bottom: int) -> Pixels:
        """Return rows ``[bottom - top, width, 3]``; neither number may be smaller than in the call before."""
        while self._kept and self._top + len(self._kept[0]) <= top:
            self._top += len(self._kept.pop(0))
        have = self._top + sum(map(len, self._kept))
        while have < bottom:
            block = next(self._blocks, None)
            if block is None:
                raise ImageError("the picture ends before its last row")
            if have + len(block) <= top:
                self._top += len(block)
            else:
                self._kept.append(block)
            have += len(block)
        if len(self._kept) == 1:
            return self._kept[0][top - self._top : bottom - self._top]
        return np.concatenate(self._kept)[top - self._top : bottom - self._top]


def resampled(
    rows: Rows, size: tuple[int, int], target: tuple[int, int], *, back: bool = False
) -> Iterator[NDArray[np.float32]]:
    """Yield a picture at another size, in blocks of rows ``[n, width, 3]`` from the top.

    The filter is a sinc under a Lanczos window of six lobes, widened when the picture becomes smaller. Beyond
    its edges, the picture is mirrored. Only some rows are in memory at once; they are the same ones whoever
    asks, and so are the results.

    Args:
        rows: of RGB, uint8 or uint16.
        size: (height, width) of the picture.
        target: (height, width) of the result.
        back: the picture is one of size `target` that this function enlarged, and that was changed since.
            The result is then the picture that, enlarged, comes nearest to it.

    Returns:
        values around [0, 1]; the filter overshoots.

    >>> grey = np.full((8, 8, 3), 51, np.uint8)
    >>> block, = resampled(lambda top, bottom: grey[top:bottom], (8, 8), (3, 20))
    >>> block.shape, round(float(block.mean()), 4)
    ((3, 20, 3), 0.2)
    """
    (height, width), columns = size, target[1]
    across = _bands(width, columns, back=back)
    begin = end = 0  # of the rows that are kept, which have their final width
    kept = np.empty((3, 0, columns), np.float32)
    for first, last, weights in _bands(height, target[0], back=back):
        kept, begin = kept[:, first - begin :], first
        while end < last:
            block = rows(end, min(end + _GROUP, height))
            planes = np.empty((3, *block.shape[:2]), np.float32)
            np.divide(block.transpose(2, 0, 1), np.iinfo(block.dtype).max, out=planes, dtype=np.float32)
            wide = [planes[:, :, left:right] @ matrix.T for left, right, matrix in across]
            kept = np.concatenate([kept, np.concatenate(wide, axis=2)], axis=1)
            end += len(block)
        yield (weights @ kept[:, : last - first]).transpose(1, 2, 0)


_Band = tuple[int, int, NDArray[np.float32]]
"""The part of an axis that a group of new places needs, first place to before the last, and weights.

The values of the group are the product of the weights ``[places, part]`` and the part.
"""


@lru_cache(maxsize=8)
def _bands(length: int, target: int, *, back: bool) -> list[_Band]:
    """Return the groups of an axis of `length` that becomes one of `target`."""
    band = _inverse_band if back and target < length else _band
    return [band(length, target, start, min(start + _GROUP, target)) for start in range(0, target, _GROUP)]


def _band(length: int, target: int, start: int, stop: int) -> _Band:
    step = length / target
    spread = max(1.0, step)
    reach = math.ceil(_LOBES * spread)
    centres = (np.arange(start, stop) + 0.5) * step - 0.5
    places = np.floor(centres)[:, None] + np.arange(1 - reach, reach + 1)
    away = (places - centres[:, None]) / spread
    weights = np.where(np.abs(away) < _LOBES, np.sinc(away) * np.sinc(away / _LOBES), 0)
    weights /= weights.sum(axis=1, keepdims=True)
    mirrored = np.mod(places, 2 * length).astype(int)
    mirrored = np.minimum(mirrored, 2 * length - 1 - mirrored)
    first, last = int(mirrored.min()), int(mirrored.max()) + 1
    matrix = np.zeros((stop - start, last - first))
    np.add.at(matrix, (np.arange(stop - start)[:, None], mirrored - first), weights)
    return first, last, matrix.astype(np.float32)


def _inverse_band(length: int, target: int, start: int, stop: int) -> _Band:
    """Return the band of an axis of `target` places that was enlarged to `length`: least squares, nearby."""
    near, until = max(0, start - _NEARBY), min(target, stop + _NEARBY)
    first, last = near * length // target, -(-until * length // target)
    begin, end, enlarged = _band(target, length, first, last)
    known = np.zeros((last - first, until - near))
    columns = slice(max(begin, near), min(end, until))
    inside = slice(columns.start - begin, columns.stop - begin)
    known[:, columns.start - near : columns.stop - near] = enlarged[:, inside]
    square = known.T @ known + _DAMPING * np.eye(until - near)
    weights = np.linalg.solve(square, known.T)[start - near : stop - near]
    weights /= weights.sum(axis=1, keepdims=True)
    return first, last, weights.astype(np.float32)
