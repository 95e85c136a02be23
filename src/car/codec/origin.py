"""Whether `car` made a small picture that has no metadata, and how ordinary thumbnails are enlarged."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from car.codec.engine import Engine, Tile
from car.codec.options import Backend
from car.codec.turns import busiest_pieces
from car.pictures.resize import bicubic_resize

WEIGHTS = Path(__file__).with_name("origin.safetensors")
"""The weights of `evidence`, for each scale; ``tools/fit_origin.py`` writes them."""
PIECE = 64
"""Side of the pieces that are looked at, in LR pixels."""
_PIECES = 8
LEAST = 24
"""Least side of a picture that is looked at, in LR pixels: smaller ones have too little to tell by."""
_NETWORK = 0.5  # share of the network in what enlarges a thumbnail; the rest is bicubic
_YCC = np.array([[0.299, -0.169, 0.5], [0.587, -0.331, -0.419], [0.114, 0.5, -0.081]], np.float32)


def looks_made(pixels: NDArray[Any], scale: int) -> bool:
    """Return whether `car_plus` of a scale most likely made a small picture.

    Args:
        pixels: ``[h, w, 3]``, uint8 or uint16, of the small picture.
        scale: scale of the model. For a scale that has no weights here, the answer is no.
    """
    weights = fitted_weights().get(scale)
    if weights is None or min(pixels.shape[:2]) < LEAST or not np.ptp(pixels, axis=(0, 1)).any():
        return False  # a flat picture shows nothing
    return evidence(pixels, weights) > 0


def evidence(pixels: NDArray[Any], weights: Mapping[str, NDArray[np.float32]]) -> float:
    """Return how much the fine detail of a small picture looks like that of a model; 0 is undecided.

    A small network judges the difference of each pixel from the mean around it. It looks at the pieces with
    the most texture. The value is the logarithm of the odds.

    Args:
        pixels: ``[h, w, 3]``, uint8 or uint16, of the small picture.
        weights: of the network; see `fitted_weights`.
    """
    pieces = [features(piece, weights) for piece in busiest_pieces(pixels, PIECE, _PIECES)]
    means = np.log(np.mean(pieces, axis=0) + np.float32(0.01))
    hidden = np.maximum(means @ weights["hidden.weight"].T + weights["hidden.bias"], 0)
    return float((hidden @ weights["out.weight"].T + weights["out.bias"])[0])


def features(pixels: NDArray[Any], weights: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return what the convolutions find in a piece ``[h, w, 3]``, averaged over the piece."""
    detail = fine_detail(pixels)
    for layer, step in (("first", 2), ("second", 1), ("third", 2)):
        kernel, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
        windows = sliding_window_view(detail, kernel.shape[2:], (0, 1))[::step, ::step]
        detail = np.maximum(np.tensordot(windows, kernel, ((2, 3, 4), (1, 2, 3))) + bias, 0)
    return detail.mean((0, 1))


def fine_detail(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Return the differences of luma and chroma from the means of 5 x 5 pixels, ``[h - 4, w - 4, 3]``.

    They are compressed, so that strong edges count little more than weak ones.
    """
    levels = np.rint(pixels * (255 / np.iinfo(pixels.dtype).max)).astype(np.float32) @ _YCC
    height, width = (n - 4 for n in levels.shape[:2])
    rows = np.sum([levels[i : i + height] for i in range(5)], axis=0)
    means = np.sum([rows[:, i : i + width] for i in range(5)], axis=0) / np.float32(25)
    detail = levels[2:-2, 2:-2] - means
    return detail / (8 + np.abs(detail) / 4)


@cache
def fitted_weights() -> dict[int, dict[str, NDArray[np.float32]]]:
    """Return the weights in the package, by scale: arrays by the names of parameters."""
    from safetensors.numpy import load_file

    found: dict[int, dict[str, NDArray[np.float32]]] = {}
    for key, values in load_file(WEIGHTS).items():
        scale, _, name = key.partition(".")
        found.setdefault(int(scale), {})[name] = values.astype(np.float32)
    return found


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
