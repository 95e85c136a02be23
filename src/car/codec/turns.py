"""How a small picture was turned after it was made."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from car.errors import UsageError
from car.pictures.picture import Picture

_PIECE = 128  # LR pixels a side by which it is found out how a picture was turned
_PLACES = 16  # along each axis, at most, where such a piece is looked for
# by what factor, and by how many squared 8-bit levels more, the error of the next way of turning must be
# above that of the best for the pixels to tell which it was
_CLEARLY = 1.1, 0.02
BACK = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
"""EXIF orientations: what undoes each."""


def found_turn(
    picture: Picture, scale: int, again: Callable[[NDArray[Any]], NDArray[Any]]
) -> tuple[int, bool]:
    """Return the EXIF orientation from how a picture was made to how it is now, and whether it is clear.

    Args:
        picture: the small picture.
        scale: of the model that restores it.
        again: restores small pixels ``[h, w, 3]`` and shrinks the result.
    """
    if picture.info is None or picture.info.scale != scale:
        return 1, True
    if picture.turned != 1:
        return picture.turned, True
    full = (picture.width * scale, picture.height * scale)
    if fits(picture.info.size, full, scale) or not fits(swapped(picture.info.size), full, scale):
        return 1, True
    # one of the four that swap the sides: the one in which shrinking gives back what was restored
    piece = Picture(np.ascontiguousarray(_busiest_piece(picture.pixels)), None, False, None, None, ())

    def change(turned: int) -> float:
        made = piece.turn(BACK[turned]).pixels
        difference = again(made).astype(np.float64) - made
        return float(np.square(difference * (255 / np.iinfo(made.dtype).max)).mean())

    changes = {turned: change(turned) for turned in (5, 6, 7, 8)}
    least, next_least = sorted(changes.values())[:2]
    clear = next_least > _CLEARLY[0] * least + _CLEARLY[1]
    # hardly a program mirrors a picture as it turns it
    return min(changes if clear else (6, 8), key=changes.__getitem__), clear


def _busiest_piece(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return the piece of ``[H, W, 3]`` with the most variance: of a flat one, every turn is alike."""
    tops, lefts = (
        np.linspace(0, max(n - _PIECE, 0), min(_PLACES, -(-n // _PIECE)), dtype=int) for n in pixels.shape[:2]
    )
    pieces = (pixels[top : top + _PIECE, left : left + _PIECE] for top in tops for left in lefts)
    return max(pieces, key=lambda piece: float(piece.var(axis=(0, 1)).sum()))


def swapped(size: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width)."""
    return size[1], size[0]


def fits(size: tuple[int, int], full: tuple[int, int], scale: int) -> bool:
    """Return whether a small picture that restores to `full` may have been made of one of `size`.

    Raises:
        UsageError: `size` is not (width, height).
    """
    if not isinstance(size, tuple) or [type(n) for n in size] != [int, int]:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(f"size must be (width, height) in pixels, got {size!r}")
    return all(0 <= whole - wanted < scale and wanted > 0 for wanted, whole in zip(size, full, strict=True))
