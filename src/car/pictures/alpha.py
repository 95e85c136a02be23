"""Transparency: straight alpha, and colours of invisible pixels."""

import numpy as np
from PIL import Image

from car.pictures.depth import Pixels


def straight(colours: Pixels, alpha: Pixels) -> Pixels:
    """Return colours ``[H, W, C]`` that were stored multiplied by `alpha` ``[H, W]``, of the same dtype."""
    largest = np.iinfo(colours.dtype).max
    opacity = np.maximum(alpha, 1)[:, :, None] / largest
    return np.minimum(np.round(colours / opacity), largest).astype(colours.dtype)


def without_hidden(pixels: Pixels, alpha: Pixels | None, *, weighted: bool) -> Pixels:
    """Return RGB ``[H, W, 3]``, with the colours of invisible pixels replaced by visible ones around them.

    Colours under alpha 0 are often black or white, and every filter would mix them into the edges.

    Args:
        pixels: uint8 or uint16.
        alpha: ``[H, W]`` of the same dtype, or None.
        weighted: mix pixels with their surroundings if these are more visible. A mean of the result is
            then close to a mean weighted by alpha.
    """
    if alpha is None or alpha.min() == np.iinfo(alpha.dtype).max or not alpha.any():
        return pixels
    seen = alpha.astype(np.float32) / np.iinfo(alpha.dtype).max
    around, seen_around = _around(pixels.astype(np.float32) * seen[:, :, None], seen)
    part = np.minimum(seen / np.maximum(seen_around, 1e-6), 1) if weighted else (alpha > 0).astype(np.float32)
    mixed = pixels * part[:, :, None] + around * (1 - part[:, :, None])
    return np.round(mixed).clip(0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)


_NEAR = 2  # halvings of the size: what is around a pixel are some four of them across


def _around(colours: Pixels, seen: Pixels) -> tuple[Pixels, Pixels]:
    """Return the mean colour around each pixel, weighted by alpha, and the sum of the weights.

    Works in levels, each of half the size. If all is invisible at one level, the next level is used.
    """
    planes = [colours[:, :, 0], colours[:, :, 1], colours[:, :, 2], seen]
    levels: list[list[Pixels]] = []
    while len(levels) <= _NEAR or (max(planes[0].shape) > 1 and not (planes[3] > 0).all()):
        levels.append(planes)
        size = tuple(-(-n // 2) for n in reversed(planes[0].shape))
        planes = [_resized(plane, size, Image.Resampling.BOX) for plane in planes]
    levels.append(planes)
    mean: Pixels | None = None
    for *level, weight in reversed(levels[_NEAR:]):
        own = np.stack(level, axis=2) / np.maximum(weight, 1e-9)[:, :, None]
        mean = own if mean is None else np.where(weight[:, :, None] > 0, own, _enlarged(mean, weight.shape))
    assert mean is not None
    return _enlarged(mean, seen.shape), _enlarged(levels[_NEAR][3][:, :, None], seen.shape)[:, :, 0]


def _enlarged(planes: Pixels, shape: tuple[int, ...]) -> Pixels:
    size = shape[1], shape[0]
    every = (planes[:, :, n] for n in range(planes.shape[2]))
    return np.stack([_resized(plane, size, Image.Resampling.BILINEAR) for plane in every], axis=2)


def _resized(plane: Pixels, size: tuple[int, ...], how: Image.Resampling) -> Pixels:
    return np.asarray(
        Image.fromarray(np.ascontiguousarray(plane, np.float32)).resize((size[0], size[1]), how)
    )
