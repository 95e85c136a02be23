"""Transparency: straight alpha, and colours of invisible pixels."""

import numpy as np
from PIL import Image

from car.pictures.depth import Pixels


def straight(colours: Pixels, alpha: Pixels) -> Pixels:
    """Divide colours ``[H, W, C]`` by the `alpha` ``[H, W]`` that they were multiplied by; keep the dtype."""
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
    seen = np.divide(alpha, np.iinfo(alpha.dtype).max, dtype=np.float32)
    *means, weight = (Image.fromarray(plane) for plane in _around(pixels, seen))
    result = np.empty_like(pixels)
    for top in range(0, len(alpha), _ROWS):  # intermediate values take several times the picture's memory
        rows = slice(top, min(top + _ROWS, len(alpha)))
        near = seen[rows]
        part = np.minimum(near / np.maximum(_rows_of(weight, rows, seen.shape), 1e-6), 1)
        part = part if weighted else (near > 0).astype(np.float32)
        for channel, mean in enumerate(means):
            around = _rows_of(mean, rows, seen.shape)
            mixed = pixels[rows, :, channel] * part + around * (1 - part)
            result[rows, :, channel] = np.rint(mixed).clip(0, np.iinfo(pixels.dtype).max)
    return result


_ROWS = 512
_NEAR = 2  # halvings of the size: about four pixels across count as around a pixel


def _around(pixels: Pixels, seen: Pixels) -> list[Pixels]:
    """Return the mean red, green and blue around each pixel, weighted by alpha, and the mean of the weights.

    The results have a quarter of the picture's width and height. The function works in levels, each half the
    size of the one before. Where everything is invisible at one level, it uses the next.
    """
    planes: list[Pixels] = []
    for channel in range(4):
        plane = seen if channel == 3 else np.multiply(pixels[:, :, channel], seen, dtype=np.float32)
        for _ in range(_NEAR):
            plane = _halved(plane)
        planes.append(plane)
    levels = [planes]
    while max(planes[0].shape) > 1 and not (planes[3] > 0).all():
        planes = [_halved(plane) for plane in planes]
        levels.append(planes)
    means: list[Pixels] = []
    for *colours, weight in reversed(levels):
        own = [colour / np.maximum(weight, np.float32(1e-9)) for colour in colours]
        shown = weight > 0
        means = [
            np.where(shown, one, _rows_of(Image.fromarray(mean), slice(0, len(shown)), shown.shape))
            for one, mean in zip(own, means or own, strict=True)
        ]
    return [*means, levels[0][3]]


def _halved(plane: Pixels) -> Pixels:
    size = -(-plane.shape[1] // 2), -(-plane.shape[0] // 2)
    return np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize(size, Image.Resampling.BOX))


def _rows_of(plane: Image.Image, rows: slice, shape: tuple[int, ...]) -> Pixels:
    """Return these rows of a plane that is enlarged to `shape`."""
    top, bottom = (min(row * plane.height / shape[0], plane.height) for row in (rows.start, rows.stop))
    size, box = (shape[1], rows.stop - rows.start), (0, top, plane.width, bottom)
    return np.asarray(plane.resize(size, Image.Resampling.BILINEAR, box))
