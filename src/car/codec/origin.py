"""Whether `car` made a small picture that has no metadata, and how ordinary thumbnails are enlarged."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from car.codec.engine import Engine, Tile
from car.codec.options import Backend
from car.codec.turns import busiest_pieces
from car.pictures.resize import bicubic_resize

_PIECE, _PIECES = 96, 3  # LR pixels a side; number
_LEAST = 24  # LR pixels a side: in smaller pictures there is nothing to tell by
LIMITS = {2: 0.988, 3: 0.97, 4: 0.953}
"""Likeness above which `car_plus` is taken for the maker, by scale.

``tools/fit_origin.py`` counts how many of its own pictures and how many thumbnails are above it;
docs/research/thumbnails.md has the counts.
"""
_NETWORK = 0.5  # share of the network in what enlarges a thumbnail; the rest is bicubic
_YCC = np.array([[0.299, -0.169, 0.5], [0.587, -0.331, -0.419], [0.114, 0.5, -0.081]], np.float32)


Change = Callable[[NDArray[Any]], NDArray[Any]]
"""Restores or shrinks pixels ``[h, w, 3]``, uint8 or uint16."""


def looks_made(pixels: NDArray[Any], scale: int, restore: Change, shrink: Change) -> bool:
    """Return whether a model most likely made a small picture.

    Args:
        pixels: ``[h, w, 3]``, uint8 or uint16, of the small picture.
        scale: scale of the model.
        restore: the model's.
        shrink: the model's, without a corrector and without effort.
    """
    limit = LIMITS.get(scale)
    if limit is None or min(pixels.shape[:2]) < _LEAST:
        return False
    return likeness(pixels, restore, shrink) > limit


def likeness(pixels: NDArray[Any], restore: Change, shrink: Change) -> float:
    """Return how much a small picture looks like those of a model: a correlation, at most 1.

    A model adds something to what bicubic shrinking gives. The picture is restored and shrunk again, once by
    the model and once bicubically. Both differences from the bicubic result are alike if the model made the
    picture: that of the picture itself, and that of the picture shrunk again. See `looks_made`.
    """
    products = np.zeros(3)
    for piece in busiest_pieces(pixels, _PIECE, _PIECES):
        large = restore(piece)
        bicubic = bicubic_resize(_levels(large), (piece.shape[0], piece.shape[1]))
        again = shrink(large)
        ours, theirs = ((_levels(small) - np.rint(bicubic)) @ _YCC for small in (piece, again))
        products += [float((a * b).sum()) for a, b in ((ours, theirs), (ours, ours), (theirs, theirs))]
    both, ours, theirs = products
    size = float(np.sqrt(ours * theirs))
    return float(both) / size if size else 0.0


def _levels(pixels: NDArray[Any]) -> Tile:
    return pixels.astype(np.float32) * np.float32(255 / np.iinfo(pixels.dtype).max)


@dataclass(frozen=True)
class ThumbnailEngine:
    """Enlarges ordinary thumbnails: halfway between bicubic and a network made for lossy files.

    Attributes:
        network: the engine of the network.
        scale: its scale.
    """

    network: Engine
    scale: int

    @property
    def name(self) -> Backend:
        """See `Engine`."""
        return self.network.name

    @property
    def device(self) -> str:
        """See `Engine`."""
        return self.network.device

    def downscale(self, hr: Tile) -> Tile:
        """See `Engine`."""
        return self.network.downscale(hr)

    def upscale(self, lr: Tile) -> Tile:
        """See `Engine`."""
        bicubic = bicubic_resize(lr, (lr.shape[0] * self.scale, lr.shape[1] * self.scale))
        return bicubic + np.float32(_NETWORK) * (self.network.upscale(lr) - bicubic)
