"""What a camera wrote into EXIF, and the part of it that results carry on."""

import contextlib
from typing import Any, Literal

from PIL import Image

from car.pictures.formats import DESCRIPTION
from car.pictures.header import no_pillow_limit
from car.pictures.metadata import LRInfo

KeptExif = Literal["none", "keep", "all"]
"""keep: date, camera, lens, exposure, artist and copyright. all: also the place and the rest."""

EXIF, GPS = 0x8769, 0x8825
_MAKE, _MODEL, _DATE, _ARTIST, _COPYRIGHT = 0x010F, 0x0110, 0x0132, 0x013B, 0x8298
_SOFTWARE, _HOST, _RATING, _PERCENT, _WINDOWS = 0x0131, 0x013C, 0x4746, 0x4749, range(0x9C9B, 0x9CA0)
_KEPT = {_MAKE, _MODEL, _DATE, _ARTIST, _COPYRIGHT}
_ALL = _KEPT | {DESCRIPTION, _SOFTWARE, _HOST, _RATING, _PERCENT, *_WINDOWS}
SIGNS = _KEPT | {EXIF, GPS}
"""Tags of which a file has at least one if a camera wrote into it."""
_DATES = {*range(0x9003, 0x9005), *range(0x9010, 0x9013), *range(0x9290, 0x9293)}
_EXPOSURE = {0x829A, 0x829D, 0x8822, 0x8827, *range(0x8830, 0x8833), *range(0x9201, 0x9206)}
_METERING = {*range(0x9207, 0x920B), 0xA402, 0xA403, 0xA405}
_LENS = {0xA432, 0xA433, 0xA434}
_VERSION = 0x9000
_CAMERA = _DATES | _EXPOSURE | _METERING | _LENS | {_VERSION}
# layout, colour space and size describe the pixels of the source; notes of makers break when they are moved
_NEVER = {0x9101, 0x927C, 0xA000, 0xA001, 0xA002, 0xA003, 0xA004, 0xA005, 0xA500}
_MOST_BYTES = 2**10  # of a value; small files have few bytes
_MOST_BLOCK = 60_000  # JPEG holds 65,533


def block(image: Image.Image) -> bytes:
    """Return the EXIF block of an open image without what describes its pixels; empty if there is none.

    A block that is damaged counts as none.
    """
    with contextlib.suppress(Exception):  # a damaged EXIF block raises almost anything
        # not PNG's own method: it decodes the pixels, because EXIF may follow them
        found = Image.Image.getexif(image)
        camera = {tag: value for tag, value in found.get_ifd(EXIF).items() if tag not in _NEVER}
        return _written({tag: found[tag] for tag in _ALL if tag in found}, camera, found.get_ifd(GPS))
    return b""


def of_tiff(file: Any) -> bytes:
    """Return what `block` does of a TIFF: a path or an open file."""
    with contextlib.suppress(Exception), no_pillow_limit(), Image.open(file, formats=["TIFF"]) as image:
        return block(image)
    return b""


def parts(content: bytes) -> dict[int, Any]:
    """Return the tags of a block; those of camera and place are dictionaries of their own."""
    found = Image.Exif()
    found.load(content)
    return {tag: found.get_ifd(tag) if tag in (EXIF, GPS) else value for tag, value in found.items()}


def kept(source: bytes, how: KeptExif) -> bytes:
    """Return the part of a block from `block` that a result carries on; empty for nothing."""
    if not source or how == "none":
        return b""
    if how == "all":
        return source
    found = parts(source)
    camera = {tag: value for tag, value in found.get(EXIF, {}).items() if tag in _CAMERA}
    return _written({tag: found[tag] for tag in _KEPT if tag in found}, camera, {})


def _written(main: dict[int, Any], camera: dict[int, Any], place: dict[int, Any]) -> bytes:
    made = Image.Exif()
    made.update({tag: value for tag, value in main.items() if _is_short(value)})
    if LRInfo.from_text(str(made.get(DESCRIPTION, ""))[:_MOST_BYTES]) is not None:
        del made[DESCRIPTION]  # of the small picture, not of the photograph
    camera = {tag: value for tag, value in camera.items() if _is_short(value)}
    for tag, values in ((EXIF, camera), (GPS, place)):
        if values.keys() - {_VERSION}:
            made[tag] = values
    content = made.tobytes() if len(made) else b""
    return content if len(content) <= _MOST_BLOCK else b""


def _is_short(value: Any) -> bool:
    return not isinstance(value, (str, bytes, tuple)) or len(value) <= _MOST_BYTES  # pyright: ignore
