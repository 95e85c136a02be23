"""Picture files as Pillow opens them, before their pixels are decoded."""

import contextlib
import io
import logging
import threading
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from car.errors import ImageError
from car.pictures.formats import DESCRIPTION, HEADER, PNG_SIGNATURE, TIFF_SIGNATURES, is_heic, is_jxl
from car.pictures.metadata import LRInfo

# Pillow opens many more, some through other programs; these are the ones that are tested
_PILLOW_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "DIB", "GIF", "JPEG2000")
_PLUGIN_FORMATS = ("HEIF", "JXL")
_SHORT_TEXT = 2**12
_JPEG2000 = b"\xff\x4f\xff\x51"  # start of the codestream, and of its sizes
_limit_lock = threading.Lock()
# Without a handler, what they log about damaged files would reach stderr. Other handlers still get it.
# Their warnings are left to the program: filters belong to the whole process and are not safe among threads.
for _name in ("tifffile", "PIL"):
    logging.getLogger(_name).addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Header:
    """Size, depth and metadata of a file, known before its pixels are decoded.

    Attributes:
        size: (width, height), upright.
        bits: 8 or 16, of a sample as it will be read.
        pixel_bytes: bytes of a decoded pixel; at least those of RGB.
        info: the metadata of a small picture.
        damage: what is wrong with the metadata, if `info` is None for this reason.
    """

    size: tuple[int, int]
    bits: int
    pixel_bytes: int
    info: LRInfo | None = None
    damage: str | None = None

    @property
    def made_here(self) -> bool:
        """Whether `car downscale` made the file, even if its metadata is damaged."""
        return self.info is not None or self.damage is not None


def upright_size(size: tuple[int, int], orientation: Any) -> tuple[int, int]:
    """Return (width, height) as a viewer shows a picture with this EXIF orientation."""
    return (size[1], size[0]) if orientation in (5, 6, 7, 8) else size


def needs_jxl_decoder(content: bytes) -> bool:
    """Return whether a file is JPEG XL, and Pillow has no plugin for it."""
    return is_jxl(content) and "JXL" not in Image.OPEN


def sample_bits(content: bytes) -> int:
    """Return the bits of a sample of a PNG, AVIF or JPEG 2000; JPEG XL is read as 16, and others have 8."""
    if content.startswith(PNG_SIGNATURE):
        return 16 if content[24:25] == b"\x10" else 8
    if is_jxl(content):
        return 16
    if content[4:8] == b"ftyp":
        at = content.find(b"av1C", 0, HEADER)
        flags = content[at + 6] if 0 < at < len(content) - 6 else 0
        return 12 if flags & 0x20 else 10 if flags & 0x40 else 8
    if content.startswith((_JPEG2000, b"\x00\x00\x00\x0cjP  ")):
        at = content.find(_JPEG2000, 0, HEADER)
        return (content[at + 42] & 0x7F) + 1 if 0 <= at < len(content) - 42 else 8
    return 8


def open_by_pillow(file: Any, name: str) -> Image.Image:
    """Open a picture in one of the formats that Pillow is used for, whatever the number of its pixels.

    Raises:
        ImageError: the file is not such a picture.
    """
    start = file.read(64)
    if is_heic(start) and "HEIF" not in Image.OPEN:
        try:
            import pillow_heif  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImageError(
                f"{name}: it is HEIC, which needs pillow-heif: pip install pillow-heif"
            ) from error
        pillow_heif.register_heif_opener()  # pyright: ignore[reportUnknownMemberType]
    formats = [*_PILLOW_FORMATS, *(kind for kind in _PLUGIN_FORMATS if kind in Image.OPEN)]
    with no_pillow_limit(), _by_libtiff(start):
        file.seek(0)
        try:
            try:
                return Image.open(file, formats=formats)
            except ValueError as error:
                if not has_refused_texts(error):
                    raise
                file.seek(0)
                return Image.open(io.BytesIO(without_texts(file.read())), formats=formats)
        except Image.UnidentifiedImageError as error:
            from car.pictures.faults import no_picture

            file.seek(0)
            raise ImageError(f"{name}: {no_picture(file.read(HEADER))}") from error


def has_refused_texts(error: Exception) -> bool:
    """Return whether Pillow refused a PNG because its texts are long."""
    return "text chunks" in str(error) or "MAX_TEXT_CHUNK" in str(error)


def without_texts(content: bytes) -> bytes:
    """Return a PNG without its compressed and its long texts; the metadata of a small picture stays."""
    kept, at = [content[:8]], 8
    while at < len(content):
        length, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        if kind not in (b"zTXt", b"iTXt") and (kind != b"tEXt" or length <= _SHORT_TEXT):
            kept.append(content[at : at + length + 12])
        at += length + 12
    return b"".join(kept)


@contextlib.contextmanager
def no_pillow_limit() -> Generator[None, None, None]:
    """Lift Pillow's global limit of pixels; ours is an argument, and is checked before pixels are decoded."""
    with _limit_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


@contextlib.contextmanager
def _by_libtiff(start: bytes) -> Generator[None, None, None]:
    """Let Pillow decode a TIFF that begins with `start` by libtiff only; call with the lock of the limit.

    Pillow's own decoder takes uncompressed YCbCr of reduced resolution for YCbCr of full resolution.
    """
    if start[:4] not in TIFF_SIGNATURES:
        yield
        return
    from PIL import TiffImagePlugin

    usual, TiffImagePlugin.READ_LIBTIFF = TiffImagePlugin.READ_LIBTIFF, True
    try:
        yield
    finally:
        TiffImagePlugin.READ_LIBTIFF = usual


def texts(image: Image.Image) -> tuple[Any, ...]:
    """Return the texts that may hold metadata: a PNG's, a JPEG's comment and the description in EXIF."""
    found: list[Any] = [image.info.get("car"), image.info.get("comment")]
    with contextlib.suppress(Exception):  # a damaged EXIF block raises almost anything
        # not PNG's own method: it decodes the pixels, because EXIF may follow them
        found.append(Image.Image.getexif(image).get(DESCRIPTION))
    return tuple(found)


def found_info(texts: tuple[Any, ...]) -> tuple[LRInfo | None, str | None]:
    """Return the metadata in the first text that has some, or a note if this text is damaged."""
    try:
        for text in texts:
            if isinstance(text, (str, bytes)) and (info := LRInfo.from_text(text)):
                return info, None
    except ImageError as error:
        return None, str(error)
    return None, None
