"""The geometry of tiled processing: which window to read for each part of the result."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TINY = 5
"""A side of fewer LR pixels is extended before a network sees it."""

_CONTINUED = 24  # LR pixels to which it is extended


class Box(NamedTuple):
    """A rectangle ``[top, bottom) x [left, right)``."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Return (rows, columns) for indexing an ``[H, W, ...]`` array."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


class Tile(NamedTuple):
    """`core` is the part of the image that a tile computes; `window` is the part that it reads.

    Both are in input pixels. The cores of all tiles cover the image once.
    """

    core: Box
    window: Box

    def core_in_window(self, numerator: int, denominator: int) -> Box:
        """Return the core's place in the result of the window, scaled by ``numerator / denominator``."""
        return Box(
            (self.core.top - self.window.top) * numerator // denominator,
            (self.core.bottom - self.window.top) * numerator // denominator,
            (self.core.left - self.window.left) * numerator // denominator,
            (self.core.right - self.window.left) * numerator // denominator,
        )

    def core_scaled(self, numerator: int, denominator: int) -> Box:
        """Return the core's place in the whole result, scaled by ``numerator / denominator``."""
        box = self.core
        return Box(*(edge * numerator // denominator for edge in (box.top, box.bottom, box.left, box.right)))


@dataclass(frozen=True)
class Axis:
    """One axis of an image as a network sees it: extended beyond its ends.

    To reach the size that a model needs, the last pixel is repeated. A tiny image is extended on both sides
    by repeating its first and last cell. A cell has as many pixels as one LR pixel stands for, so that the LR
    picture and the original are extended alike.

    Attributes:
        length: pixels of the image.
        padded: pixels that the network sees.
        cell: pixels of the image for one LR pixel; 1 in an LR picture.
        before: pixels that precede the image.
    """

    length: int
    padded: int
    cell: int
    before: int = 0

    @classmethod
    def of(cls, length: int, padded: int, cell: int) -> "Axis":
        """Return the axis of an image of `length` pixels for a model that needs `padded` pixels.

        Networks pad with zeros. Around very few pixels, they would see little but zeros, and give wrong
        colours. From `TINY` LR pixels on, zeros do less harm than repetition, which costs photographs some
        dB.
        """
        small = -(-length // cell)
        if small >= TINY:
            return cls(length, padded, cell)
        return cls(length, _CONTINUED * cell, cell, (_CONTINUED - small) // 2 * cell)

    def places(self, start: int, stop: int) -> NDArray[np.intp]:
        """Return the indices of the image's pixels at places `start` to before `stop`."""
        places = np.arange(start, stop) - self.before
        if self.before:
            cells, within = np.divmod(places, self.cell)
            places = np.clip(cells, 0, (self.length - 1) // self.cell) * self.cell + within
        return np.minimum(places, self.length - 1)

    def kept(self, start: int, stop: int, numerator: int, denominator: int) -> slice:
        """Return the part of a result for places `start` to before `stop` that belongs to the image.

        The result is ``numerator / denominator`` times as long as its input.
        """
        end = self.before + -(-self.length // self.cell) * self.cell
        first, last = max(self.before, start), min(end, stop)
        edges = ((edge - start) * numerator // denominator for edge in (first, max(first, last)))
        return slice(*edges)


def split(height: int, width: int, tile: int, halo: int, align: int = 1) -> Iterator[Tile]:
    """Yield tiles, row by row. A core has at most `tile` pixels a side; its window reaches `halo` further.

    Windows stop at the image's border, so that a network pads there as it would for the whole image. If only
    a sliver would remain, the last tile of a row or column includes it.

    Args:
        height: of the image, a multiple of `align`.
        width: of the image, a multiple of `align`.
        tile: side of a core; rounded up to a multiple of `align`.
        halo: rounded up to a multiple of `align`.
        align: every edge is a multiple of this.

    Raises:
        ValueError: a size is not a positive multiple of `align`, or `tile` or `halo` is out of range.
    """
    if height < 1 or width < 1 or align < 1 or height % align or width % align:
        raise ValueError(f"size {height}x{width} is not a positive multiple of {align}")
    if tile < 1 or halo < 0:
        raise ValueError(f"tile must be positive and halo not negative, got {tile} and {halo}")
    tile, halo = -(-tile // align) * align, -(-halo // align) * align
    for top, bottom in _cuts(height, tile, halo):
        for left, right in _cuts(width, tile, halo):
            window = Box(
                max(0, top - halo), min(height, bottom + halo), max(0, left - halo), min(width, right + halo)
            )
            yield Tile(Box(top, bottom, left, right), window)


def _cuts(length: int, tile: int, sliver: int) -> Iterator[tuple[int, int]]:
    start = 0
    while start < length:
        end = start + tile
        # the neighbour reads a rest within the halo in full anyway
        end = length if length - end <= sliver else end
        yield start, end
        start = end
