"""Transparency: straight alpha, and colours where nothing is seen."""

import numpy as np
from PIL import Image

from car.pictures.depth import Pixels


def straight(colours: Pixels, alpha: Pixels) -> Pixels:
    """Return colours ``[H, W, C]`` that were stored multiplied by `alpha` ``[H, W]``, of the same dtype."""
    largest = np.iinfo(colours.dtype).max
    opacity = np.maximum(alpha, 1)[:, :, None] / largest
    return np.minimum(np.round(colours / opacity), largest).astype(colours.dtype)


def without_hidden(pixels: Pixels, alpha: Pixels | None, *, weighted: bool) -> Pixels:
    """Return RGB ``[H, W, 3]`` with colours that cannot be seen replaced by those of what can, nearby.

    What lies hidden under alpha 0 is often black or white, and any filter would mix it into the edges.

    Args:
        pixels: uint8 or uint16.
        alpha: ``[H, W]`` of the same dtype, or None.
        weighted: half-transparent colours too are mixed with those around them, the more the less they are
            seen: what is averaged then is what resampling by weights of alpha would average.
    """
    if alpha is None or alpha.min() == np.iinfo(alpha.dtype).max or not alpha.any():
        return pixels
    seen = alpha.astype(np.float32) / np.iinfo(alpha.dtype).max
    around = _around(pixels.astype(np.float32) * seen[:, :, None], seen)
    part = seen[:, :, None] if weighted else (alpha > 0)[:, :, None].astype(np.float32)
    mixed = np.round(pixels * part + around * (1 - part)).clip(0, np.iinfo(pixels.dtype).max)
    return mixed.astype(pixels.dtype)


def _around(colours: Pixels, seen: Pixels) -> Pixels:
    """Return for each pixel the mean of the nearest colours that are seen, weighted by how much they are.

    Level by level, each of half the size: where nothing is seen, the next one answers.
    """
    planes = [colours[:, :, 0], colours[:, :, 1], colours[:, :, 2], seen]
    levels = [planes]
    while max(planes[0].shape) > 1 and not (planes[3] > 0).all():
        size = tuple(-(-n // 2) for n in reversed(planes[0].shape))
        planes = [_resized(plane, size, Image.Resampling.BOX) for plane in planes]
        levels.append(planes)
    mean: Pixels | None = None
    for *level, weight in reversed(levels):
        own = np.stack(level, axis=2) / np.maximum(weight, 1e-6)[:, :, None]
        if mean is None:
            mean = own
            continue
        size = weight.shape[1], weight.shape[0]
        coarse = [_resized(mean[:, :, n], size, Image.Resampling.BILINEAR) for n in range(3)]
        part = np.minimum(weight, 1)[:, :, None]
        mean = own * part + np.stack(coarse, axis=2) * (1 - part)
    assert mean is not None
    return mean


def _resized(plane: Pixels, size: tuple[int, ...], how: Image.Resampling) -> Pixels:
    return np.asarray(
        Image.fromarray(np.ascontiguousarray(plane, np.float32)).resize((size[0], size[1]), how)
    )
