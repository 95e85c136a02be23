"""JPEG, AVIF, WebP, JPEG 2000 and JPEG XL where Pillow is not enough."""

import io
import math
import re
from typing import Any

import numpy as np
from PIL import Image

from car.errors import ImageError
from car.pictures.colour import Calibration, coded_calibration
from car.pictures.depth import Pixels
from car.pictures.formats import JXL_CODESTREAM
from car.pictures.header import no_pillow_limit

DAMAGED = "the file is damaged: a part of the picture may be wrong"
"""A note."""
COMPLETED = "the file lacks its end; its pixels are all there"
"""A note."""
_MOST_HEADER = 2**16  # bytes of a file in which headers are looked for
_MOST_WEBP_CHUNKS = 1000  # before the pixels; three are usual, but a hostile file could have millions
_END = b"\xff\xd9"
_FILLER = bytes(range(1, 200))  # no marker of JPEG is in it
_FILLERS = b"", _FILLER, bytes(range(200, 1, -3))
_MARKER = re.compile(rb"\xff+[\x01-\xfe]")
_ARITHMETIC = (0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_RESTARTS, _SCAN, _NO_LENGTH = range(0xD0, 0xD8), 0xDA, (0x01, *range(0xD0, 0xDA))
_PART = 4  # of the width and height is decoded to see changes, which is faster
_LAST = 16  # bytes at the end of pixels: a decoder that does not need them stopped too soon


def is_lossy_webp(content: bytes) -> bool:
    """Return whether a file is a WebP whose pixels are in a chunk "VP8 ", and not "VP8L" or an animation."""
    at = 12 if content[:4] == b"RIFF" and content[8:12] == b"WEBP" else len(content)
    for _ in range(_MOST_WEBP_CHUNKS):
        if at + 8 > len(content):
            break
        kind, length = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little")
        if kind in (b"VP8 ", b"VP8L"):
            return kind == b"VP8 "
        at += 8 + length + length % 2
    return False


# --- JPEG ------------------------------------------------------------------------------------------------


def completed_jpeg(content: bytes) -> bytes | None:
    """Return a JPEG with its missing end marker added, if all its pixels are in the file; else None."""
    if not content.startswith(b"\xff\xd8"):
        return None
    data = content.rstrip(b"\xff")
    decoded = (_decoded_jpeg(data + filler + _END) for filler in _FILLERS)
    first = next(decoded)
    return data + _END if all(np.array_equal(first, other) for other in decoded) else None


def lacks_end(content: bytes) -> bool:
    """Return whether a JPEG has no end marker behind its pixels."""
    return content.rfind(_END) < content.rfind(b"\xff\xda")


def is_damaged_jpeg(content: bytes, most: int | None = None) -> bool:
    """Return whether the coded pixels of a readable JPEG are damaged so that its decoder lost its place.

    libjpeg does not say so. But where it lost its place, it needs more bytes than there are before the next
    marker, or fewer. So the picture changes if bytes are added there, or stays if the last ones are replaced.
    Damage after which the decoder finds its place again is not noticed. A JPEG of more than `most` pixels is
    not judged.
    """
    pieces = _coded_pieces(content)
    if not pieces:
        return False
    try:
        if most is not None and math.prod(_jpeg(content).size) > most:
            return False
        seen = _decoded_jpeg(content, _PART)
        longer, done = list[bytes](), 0
        for _, end in pieces:
            longer += [content[done:end], _FILLER]
            done = end
        if not np.array_equal(seen, _decoded_jpeg(b"".join([*longer, content[done:]]), _PART)):
            return True
        begin, end = pieces[0]
        last = content[end - _LAST : end]
        if len(pieces) > 1 or end - begin < 4 * _LAST or len(set(last)) == 1:  # some writers add zeros
            return False
        other = content[: end - _LAST] + _FILLER + content[end:]
        # a block of much detail may be so long that only its finest part is in the last bytes
        return np.array_equal(seen, _decoded_jpeg(other, _PART)) and np.array_equal(
            _decoded_jpeg(content), _decoded_jpeg(other)
        )
    except (OSError, SyntaxError):  # the picture itself could be read
        return False


def _decoded_jpeg(content: bytes, part: int = 1) -> Pixels:
    """Return the pixels of a JPEG, with its width and height divided by `part`: 1, 2, 4 or 8."""
    with _jpeg(content) as image:
        image.draft(None, (max(1, image.width // part), max(1, image.height // part)))
        return np.asarray(image)


def _jpeg(content: bytes) -> Any:
    with no_pillow_limit():
        return Image.open(io.BytesIO(content), formats=["JPEG"])


def _coded_pieces(content: bytes) -> list[tuple[int, int]]:
    """Return begin and end of each piece of coded pixels of a JPEG; none if its codes are arithmetic."""
    at, pieces = 2, list[tuple[int, int]]()
    while (found := _MARKER.match(content, at)) is not None:
        kind, at = content[found.end() - 1], found.end()
        if kind == _END[1]:
            break
        if kind in _ARITHMETIC:  # these codes may lack their last zeros
            return []
        if kind not in _NO_LENGTH:
            at += int.from_bytes(content[at : at + 2], "big")
        while kind == _SCAN or kind in _RESTARTS:
            found = _MARKER.search(content, at)
            if found is None:
                return pieces
            pieces.append((at, found.start()))
            kind, at = content[found.end() - 1], found.end()
            if kind not in _RESTARTS:
                at = found.start()
                break
    return pieces


def has_gain_map(content: bytes, info: dict[Any, Any]) -> bool:
    """Return whether a file has a gain map, which would make the picture one of high dynamic range."""
    xmp = info.get("xmp") or b""
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    return (
        b"hdrgm:" in xmp
        or b"HDRGainMap" in xmp
        or (content[4:8] == b"ftyp" and b"tmap" in content[:_MOST_HEADER])
    )


# --- AVIF ------------------------------------------------------------------------------------------------


def avif_calibration(content: bytes) -> Calibration | None:
    """Return the colour space that an AVIF names by numbers, without a profile.

    Raises:
        ImageError: the colour space is one of high dynamic range, or unknown.
    """
    at = content.find(b"colrnclx", 0, _MOST_HEADER)
    if at < 0:
        return None
    primaries, transfer = (int.from_bytes(content[at + n : at + n + 2], "big") for n in (8, 10))
    return coded_calibration(primaries, transfer)


# --- JPEG 2000 -------------------------------------------------------------------------------------------


def jpeg2000_profile(content: bytes) -> bytes | None:
    """Return the ICC profile of a JP2 file, because Pillow does not."""
    at = content.find(b"colr\x02", 0, _MOST_HEADER)
    length = int.from_bytes(content[at - 4 : at], "big")
    return content[at + 7 : at - 4 + length] if at >= 4 and length > 11 else None


# --- JPEG XL ---------------------------------------------------------------------------------------------


def jxl_size(content: bytes) -> tuple[int, int]:
    """Return the (width, height) in the header of a JPEG XL (ISO 18181-1, D.2).

    Raises:
        ImageError: the header has no size.
    """
    at = 2
    if not content.startswith(JXL_CODESTREAM):
        box = content.find(b"jxlc", 0, _MOST_HEADER)
        parts = content.find(b"jxlp", 0, _MOST_HEADER)
        at = box + 6 if box > 0 else parts + 10
        if box < 0 and parts < 0:
            raise ImageError("a JPEG XL without a picture")
    bits = int.from_bytes(content[at : at + 16], "little")
    if len(content) < at + 4:
        raise ImageError("a JPEG XL that ends in its header")

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    small = take(1)

    def side() -> int:
        return (take(5) + 1) * 8 if small else take((9, 13, 18, 30)[take(2)]) + 1

    height = side()
    ratio = take(3)
    shares = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
    width = height * shares[ratio - 1][0] // shares[ratio - 1][1] if ratio else side()
    return width, height
