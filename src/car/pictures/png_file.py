"""PNG where Pillow is not enough: 16 bit, colours without a profile."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from car.pictures.colour import Calibration, coded_calibration
from car.pictures.depth import Pixels
from car.pictures.formats import PNG_SIGNATURE, png_chunk

_GREY, _RGB, _GREY_ALPHA, _RGBA = 0, 2, 4, 6  # types of colour
_BLOCK = 64  # rows that are encoded at once


def decode_deep(content: bytes, high: Image.Image) -> Pixels:
    """Decode a PNG of 16 bits a sample as ``[H, W]`` or ``[H, W, C]``.

    Args:
        content: content of the file.
        high: the picture as Pillow decodes it; if it has colours, only their upper 8 bits.
    """
    kind = content[25]
    if kind == _GREY:
        array = np.asarray(high)[:, :, None]
    elif kind == _GREY_ALPHA:
        # its bytes are laid out and filtered like those of 8-bit RGBA
        header = content[16:24] + bytes([8, _RGBA]) + content[26:29]
        with Image.open(io.BytesIO(content[:8] + png_chunk(b"IHDR", header) + content[33:])) as image:
            array = np.asarray(image).view(">u2").astype(np.uint16)
    else:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            # Pillow takes the first byte of each sample; with 16L, it believes this to be the lower byte
            image.tile = [tile._replace(args=f"{image.mode};16L") for tile in image.tile]
            array = np.asarray(high).astype(np.uint16) << 8 | np.asarray(image)
    transparent = high.info.get("transparency")
    if transparent is not None:
        alpha = np.where((array == transparent).all(axis=2), 0, 65535).astype(np.uint16)
        array = np.dstack([array, alpha])
    return array[:, :, 0] if array.shape[2] == 1 else array


def encode_deep(array: Pixels, chunks: bytes) -> bytes:
    """Encode ``[H, W]`` or ``[H, W, C]``, uint16, as a PNG with these chunks before its pixels."""
    height, width, channels = (*array.shape, 1)[:3]
    kind = {1: _GREY, 2: _GREY_ALPHA, 3: _RGB, 4: _RGBA}[channels]
    coder = zlib.compressobj(6)
    above = np.zeros((1, width * channels * 2), np.uint8)
    data: list[bytes] = []
    for top in range(0, height, _BLOCK):
        rows = array[top : top + _BLOCK].astype(">u2").reshape(-1, width * channels).view(np.uint8)
        data.append(coder.compress(_filtered(rows, above, 2 * channels)))
        above = rows[-1:]
    data.append(coder.flush())
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    ends = png_chunk(b"IDAT", b"".join(data)), png_chunk(b"IEND", b"")
    return b"".join([PNG_SIGNATURE, png_chunk(b"IHDR", header), chunks, *ends])


def _filtered(rows: Pixels, above: Pixels, step: int) -> bytes:
    """Return rows of bytes as differences from their neighbours, each by the filter with the least sum.

    Args:
        rows: ``[n, bytes]``.
        above: the row before them.
        step: bytes of a pixel.
    """
    up = np.concatenate([above, rows[:-1]])
    left, corner = (np.pad(values, ((0, 0), (step, 0)))[:, :-step] for values in (rows, up))
    # W3C PNG, 9.4: which of the three is nearest to left + up - corner
    a, b, c = (values.astype(np.int16) for values in (left, up, corner))
    to_left, to_up, to_corner = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    nearest = np.where(
        (to_left <= to_up) & (to_left <= to_corner), left, np.where(to_up <= to_corner, up, corner)
    )
    ways = {0: rows, 1: rows - left, 2: rows - up, 4: rows - nearest}
    sums = [
        np.abs(values.view(np.int8).astype(np.int16)).sum(axis=1, dtype=np.int64) for values in ways.values()
    ]
    best = np.argmin(sums, axis=0)
    chosen = np.stack(list(ways.values()))[best, np.arange(len(rows))]
    kinds = np.array(list(ways), np.uint8)[best]
    return np.concatenate([kinds[:, None], chosen], axis=1).tobytes()


def calibration(content: bytes, info: dict[Any, Any]) -> tuple[Calibration | None, bool]:
    """Return the colour space that a PNG names, and whether it takes precedence over a profile.

    Args:
        content: content of the file; empty if it is not available.
        info: data that Pillow found in it.

    Raises:
        ImageError: the colour space is one of high dynamic range, or unknown.
    """
    at = content.find(b"cICP", 0, max(content.find(b"IDAT"), 0))
    if at > 0:
        return coded_calibration(content[at + 4], content[at + 5]), True
    level, points = info.get("gamma"), info.get("chromaticity")
    if "srgb" in info or (level is None and points is None):
        return None, False
    gamma = 1 / level if isinstance(level, float) and 0.05 < level < 20 else None
    if points is None or len(points) != 8 or not all(0 < value < 1 for value in points):
        return Calibration(f"gamma {gamma:.3g}", gamma=gamma) if gamma else None, False
    white, primaries = (points[0], points[1]), tuple(points[2:])
    return Calibration("RGB of other primaries", primaries, white, gamma), False
