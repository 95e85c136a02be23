"""PNG where Pillow is not enough: 16 bit, colours without a profile, texts without pixels."""

import io
import os
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
import png

from car.pictures.colour import Calibration, coded_calibration
from car.pictures.depth import Pixels
from car.pictures.formats import png_chunk

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MOST_CHUNKS, _MOST_TEXT = 100_000, 2**20  # usual are chunks of 8 KB and more, and texts far below it


def is_deep(content: bytes) -> bool:
    """Return whether it is a PNG of 16 bits a sample."""
    return content[:8] == _SIGNATURE and len(content) > 28 and content[24] == 16


def decode_deep(content: bytes) -> Pixels:
    """Decode a PNG of 16 bits a sample, which Pillow would reduce to 8, as ``[H, W]`` or ``[H, W, C]``."""
    interlaced = content[28] == 1
    if not interlaced:
        return imagecodecs.png_decode(_without_metadata(content))
    # slower, but knows interlacing; read() and not asDirect(), which divides by what sBIT calls insignificant
    width, height, rows, about = png.Reader(bytes=content).read()
    array = np.vstack([np.asarray(row, np.uint16) for row in rows]).reshape(height, width, about["planes"])
    if "transparent" in about:
        alpha = np.where((array == about["transparent"]).all(axis=2), 0, 65535).astype(np.uint16)
        array = np.dstack([array, alpha])
    return array


def _without_metadata(content: bytes) -> bytes:
    """Return a PNG with nothing but its pixels: libpng tells stderr what it dislikes about the rest."""
    kept, at = [content[:8]], 8
    while at + 12 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        if content[at + 4 : at + 8] in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            kept.append(content[at:end])
        at = end
    return b"".join(kept)


def without_pixels(file: BinaryIO) -> io.BytesIO:
    """Return a PNG of header and texts alone: those behind the pixels, Pillow reads with the pixels only."""
    file.seek(0)
    kept, left = [file.read(8)], _MOST_TEXT
    for _ in range(_MOST_CHUNKS):
        length, kind = int.from_bytes(file.read(4), "big"), file.read(4)
        if kind in (b"", b"IEND"):
            break
        if kind in (b"IHDR", b"tEXt", b"zTXt", b"iTXt", b"eXIf") and length <= left:
            left -= length
            kept.append(png_chunk(kind, file.read(length)))
            length = 0
        file.seek(length + 4, os.SEEK_CUR)
    return io.BytesIO(b"".join([*kept, png_chunk(b"IDAT", b""), png_chunk(b"IEND", b"")]))


def calibration(content: bytes, info: dict[Any, Any]) -> tuple[Calibration | None, bool]:
    """Return what a PNG says of its colours without a profile, and whether that overrules a profile.

    Args:
        content: of the file; empty where it is not at hand.
        info: what Pillow found in it.

    Raises:
        ImageError: they are of high dynamic range, or unknown.
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
