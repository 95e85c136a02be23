"""How a small picture was turned after it was made."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from car.pictures.picture import Picture, upright
from car.scaling import fits

_PIECE, _SMALL_PIECE = 128, 32  # sides, in LR pixels, of the pieces that show how a picture was turned
_PLACES = 16  # most positions along each axis at which such a piece is looked for
# If the sides are swapped: the error of the second-best orientation must be above that of the best by this
# factor, and by this many squared 8-bit levels more. Otherwise the pixels do not tell which it was.
_CLEARLY = 1.1, 0.02
# If the sides are not swapped, the picture most likely was not turned, so more evidence is needed. The gain
# of an orientation is the logarithm of the error of the picture as it is, minus that of the error in this
# orientation. Its mean over blocks of `_CELL` pixels a side must exceed a limit, and a multiple of its own
# uncertainty. The first piece chose the orientation, so the other pieces must also agree without it.
_PIECES, _CELL = 3, 8
_SURELY, _STEADY = 0.08, 2.0
_SURELY_OTHERS, _STEADY_OTHERS = 0.06, 1.5
# In the first piece, the gain of the best orientation must exceed the next best by this much. It proves
# nothing that a network restores a single orientation badly.
_AHEAD = 0.04
_EDGE = 24  # levels: stronger edges count no more, or one would outweigh much texture
BACK = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
"""EXIF orientations, each with the one that undoes it."""
_SAID = {2: "mirrored", 3: "turned upside down", 4: "mirrored from top to bottom"}


def found_turn(
    picture: Picture, again: Callable[[NDArray[Any]], NDArray[Any]], *, by_pixels: bool
) -> tuple[int, str]:
    """Return the EXIF orientation that leads from the picture as made to the picture as it is, and a note.

    The note is often empty. A tag may give the orientation. Without a tag, it is the one in which restoring
    and shrinking changes the picture least.

    Args:
        picture: the small picture.
        again: function that restores small pixels ``[h, w, 3]`` and shrinks the result.
        by_pixels: whether to look at the pixels if the sides are not swapped. Pixels tell nothing if a lossy
            codec changed them, or if another model made them.
    """
    if picture.info is None:
        return 1, ""
    if picture.turned != 1:
        return picture.turned, ""
    here, scale = (picture.width, picture.height), picture.info.scale
    as_said, other_way = fits(picture.info.size, here, scale), fits(swapped(picture.info.size), here, scale)
    ways = (2, 3, 4, *((5, 6, 7, 8) if other_way else ()))
    # a smaller picture has only one piece to judge by, and looking would take longer than restoring
    large = picture.width * picture.height >= (len(ways) + 1) * _SMALL_PIECE**2
    if not (by_pixels and large if as_said else other_way):
        return 1, ""
    side = _SMALL_PIECE if as_said else _PIECE
    pieces = [
        Picture(np.ascontiguousarray(pixels), None, False, None, None, ())
        for pixels in busiest_pieces(picture.pixels, side, _PIECES if as_said else 1)
    ]

    def change(piece: Picture, turned: int) -> NDArray[Any]:
        """Return the squared change of each pixel, at its present place in the piece."""
        made = piece.turn(BACK[turned]).pixels
        difference = (again(made).astype(np.float64) - made) * (255 / np.iinfo(made.dtype).max)
        return upright(np.square(difference), turned)

    if as_said:
        return _surely_turned(pieces, ways, change)
    changes = {turned: float(change(pieces[0], turned).mean()) for turned in (5, 6, 7, 8)}
    best = min(changes, key=changes.__getitem__)
    least, next_least = sorted(changes.values())[:2]
    if next_least > _CLEARLY[0] * least + _CLEARLY[1]:
        return best, ""
    best = min((6, 8), key=changes.__getitem__)  # hardly any program mirrors a picture when it turns it
    way = "clockwise" if best == 6 else "anticlockwise"
    return best, f"its pixels do not show which way it was turned: a quarter turn {way} was assumed"


def _surely_turned(
    pieces: list[Picture], ways: tuple[int, ...], change: Callable[[Picture, int], NDArray[Any]]
) -> tuple[int, str]:
    """Return the one of `ways` that is better than upright beyond doubt, and a note; else 1 and no note.

    The first piece chooses a candidate. Only if the candidate is better than upright there, the other pieces
    are looked at.
    """

    def worse(piece: Picture, ways: tuple[int, ...]) -> dict[int, NDArray[Any]]:
        here = np.log(_cells(change(piece, 1)) + _CLEARLY[1])
        return {turned: here - np.log(_cells(change(piece, turned)) + _CLEARLY[1]) for turned in ways}

    first = worse(pieces[0], ways)
    (most, best), (next_most, _), *_ = sorted(((float(first[way].mean()), way) for way in ways), reverse=True)
    if most <= max(next_most, 0) + _AHEAD:
        return 1, ""
    others = [worse(piece, (best,))[best] for piece in pieces[1:]]
    sure = others and _is_surely(np.concatenate(others), _SURELY_OTHERS, _STEADY_OTHERS)
    if not (sure and _is_surely(np.concatenate([first[best], *others]), _SURELY, _STEADY)):
        return 1, ""
    return best, f"the picture was {_SAID.get(best, 'turned')} after it was made, as its pixels show"


def _is_surely(gains: NDArray[Any], least: float, steady: float) -> bool:
    return bool(gains.mean() > max(least, steady * gains.std() / np.sqrt(gains.size)))


def _cells(change: NDArray[Any]) -> NDArray[Any]:
    """Return the means of ``[h, w, 3]`` over blocks of `_CELL` pixels a side; over all if it is smaller."""
    tops, lefts = (np.arange(0, max(n - _CELL + 1, 1), _CELL) for n in change.shape[:2])
    return np.array([change[t : t + _CELL, x : x + _CELL].mean() for t in tops for x in lefts])


def busiest_pieces(pixels: NDArray[Any], side: int, count: int) -> list[NDArray[Any]]:
    """Return up to `count` pieces of ``[H, W, 3]`` that have the most texture and do not overlap."""
    tops, lefts = (
        np.linspace(0, max(n - side, 0), min(_PLACES, 2 * -(-n // side)), dtype=int) for n in pixels.shape[:2]
    )
    places = [(int(top), int(left)) for top in np.unique(tops) for left in np.unique(lefts)]
    found: list[tuple[int, int]] = []
    for top, left in sorted(
        places, key=lambda at: -_texture(pixels[at[0] : at[0] + side, at[1] : at[1] + side])
    ):
        if len(found) < count and all(abs(top - t) >= side or abs(left - x) >= side for t, x in found):
            found.append((top, left))
    return [pixels[top : top + side, left : left + side] for top, left in found]


def _texture(pixels: NDArray[Any]) -> float:
    """Return the mean difference of neighbouring pixels. If it is small, all orientations look alike."""
    levels = pixels.astype(np.float32) * np.float32(255 / np.iinfo(pixels.dtype).max)
    steps = (np.abs(np.diff(levels, axis=axis)).mean(axis=2) for axis in (0, 1))
    return sum(float(np.minimum(step, _EDGE).mean()) for step in steps if step.size)


def swapped(size: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width)."""
    return size[1], size[0]
