"""Pure geometry of tiled processing: which window to read for which part of the result."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Box:
    """A rectangle ``[top, bottom) x [left, right)``."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Return (rows, columns) for indexing an ``[H, W, ...]`` array."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True)
class Tile:
    """`core` is the part of the image that a tile answers for, `window` what must be read for it.

    Both in input pixels; the cores of all tiles cover the image once.
    """

    core: Box
    window: Box

    def core_in_window(self, numerator: int, denominator: int) -> Box:
        """Return where the core lies in the window's result, scaled by ``numerator / denominator``."""
        return Box(
            (self.core.top - self.window.top) * numerator // denominator,
            (self.core.bottom - self.window.top) * numerator // denominator,
            (self.core.left - self.window.left) * numerator // denominator,
            (self.core.right - self.window.left) * numerator // denominator,
        )

    def core_scaled(self, numerator: int, denominator: int) -> Box:
        """Return the core in the whole result, scaled by ``numerator / denominator``."""
        box = self.core
        return Box(*(edge * numerator // denominator for edge in (box.top, box.bottom, box.left, box.right)))


def split(height: int, width: int, tile: int, halo: int, align: int = 1) -> Iterator[Tile]:
    """Yield tiles, row by row, of at most `tile` a side and windows that reach `halo` further.

    Windows stop at the image's border, so that a network pads there exactly as it would for the whole
    image. Where only a sliver would remain, the last tile of a row takes it along.

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
        # a rest within the halo would be read in full by its neighbour anyway
        end = length if length - end <= sliver else end
        yield start, end
        start = end
