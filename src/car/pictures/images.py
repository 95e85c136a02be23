"""Picture files to arrays and back, with the metadata that lets a small picture be restored.

Pixel values are never changed on the way in or out, except where a format forces it, and then a note says so.
"""

import contextlib
import io
import logging
import os
import struct
import threading
import zlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
import png
import tifffile
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image, ImageCms, PngImagePlugin, TiffImagePlugin

from car.errors import ImageError, did_you_mean
from car.files.atomic import MAX_FILE_BYTES, atomic_write, check_regular
from car.pictures.metadata import LRInfo

DEFAULT_MAX_PIXELS = 400_000_000
"""Larger images are refused before they are decoded: a few bytes can claim billions of pixels."""

MAX_DECODED_BYTES = 8 * 2**30
"""Deep TIFFs whose samples take more are refused before they are decoded: each pixel may have 16 of 8 bytes.

Any picture of 400 megapixels with up to four samples of 32 bits is within it.
"""

_FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".avif": "AVIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".gif": "GIF",
}
INPUT_SUFFIXES = frozenset(_FORMATS)
# Pillow opens many more, some through other programs; these are the ones that are tested
_PILLOW_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "DIB", "GIF")
_DESCRIPTION, _ORIENTATION, _XMP, _ICC = 0x010E, 0x0112, 700, 34675  # tags of EXIF and TIFF
_BITS, _SAMPLES, _EXTRAS = 258, 277, 338
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TIFF_KINDS = (tifffile.PHOTOMETRIC.MINISWHITE, tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
_TIFF_ALPHA = (tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA)
_EXTRA_CHANNELS = "channels that are neither colour nor transparency were dropped"
_FIRST_FRAME = "only the first of several frames is used"
_MAX_TILE_EXCESS = 256 * 2**20  # bytes of a TIFF's tile beyond its picture
_MAX_TIFF_CHANNELS = 16  # a few bytes can claim 65,535 samples a pixel
_limit_lock = threading.Lock()
# What they log about damaged files would reach stderr where no handler is set up; others still get it.
# Their warnings are left to the program: filters belong to the whole process and are not safe among threads.
for _name in ("tifffile", "PIL"):
    logging.getLogger(_name).addHandler(logging.NullHandler())

Pixels = NDArray[Any]


@dataclass(frozen=True)
class Picture:
    """A decoded picture, upright.

    Attributes:
        pixels: RGB ``[H, W, 3]``, uint8 or uint16; grey is repeated.
        alpha: ``[H, W]`` of the same dtype, or None.
        grey: the source had one colour channel, and so will what is written.
        icc: the RGB ICC profile of the pixels; None stands for sRGB.
        info: what a small picture says about itself.
        notes: what the user should know about how it was read.
        turned: the EXIF orientation, 1 to 8, that was applied to make it upright.
        damage: what is wrong with what it says about itself, where `info` is None for that.
        lossy: the file that it was read from is JPEG, AVIF or lossy WebP.
    """

    pixels: Pixels
    alpha: Pixels | None
    grey: bool
    icc: bytes | None
    info: LRInfo | None
    notes: tuple[str, ...]
    turned: int = 1
    damage: str | None = None
    lossy: bool = False

    @property
    def height(self) -> int:
        """Rows."""
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        """Columns."""
        return self.pixels.shape[1]

    def turn(self, orientation: int) -> "Picture":
        """Return it as a reader shows it that finds this EXIF orientation, 1 to 8, in its file."""
        alpha = None if self.alpha is None else _upright(self.alpha[:, :, None], orientation)[:, :, 0]
        return replace(self, pixels=_upright(self.pixels, orientation), alpha=alpha, turned=1)


def is_supported_input(path: Path) -> bool:
    """Whether the name ends like that of a picture that `read` knows."""
    return path.suffix.lower() in INPUT_SUFFIXES


# --- reading ---------------------------------------------------------------------------------------------


def read(path: str | os.PathLike[str], *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Picture:
    """Read a PNG, JPEG, WebP, AVIF, TIFF, BMP or GIF file, whatever its name.

    EXIF orientation is applied. An RGB ICC profile is kept; grey, CMYK and Lab are converted to sRGB. A TIFF
    of 32-bit integers is one of 8 bit where none is over 255, and one of 16 bit where none is over 65535.

    Raises:
        ImageError: the file is missing, empty, damaged, no such picture, of an unsupported kind or larger
            than `max_pixels`.
    """
    path = Path(path)
    with one_line_errors(str(path), "cannot be read"):
        check_regular(path, str(path))
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ImageError(f"{path}: {path.stat().st_size} bytes are over the limit of {MAX_FILE_BYTES}")
        content = path.read_bytes()
    return decode(content, str(path), max_pixels=max_pixels)


def decode(content: bytes, name: str, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Picture:
    """Decode the content of a picture file as `read` does; `name` is for messages.

    Raises:
        ImageError: as `read`.
    """
    with one_line_errors(name, "cannot be read"):
        if not content:
            raise ImageError(f"{name}: the file is empty")
        if content[:4] in _TIFF_SIGNATURES:
            picture = _read_deep_tiff(content, name, max_pixels)
            if picture is not None:
                return picture
        with _open(io.BytesIO(content), name, max_pixels) as image:
            if isinstance(image, TiffImagePlugin.TiffImageFile):
                with _no_pillow_limit():
                    image.load_prepare()  # asks for the limit a second time
            picture = _picture(image, _decode_deep_png(content) if _is_deep_png(content) else None)
            return replace(picture, lossy=picture.lossy or _is_lossy_webp(content))


def header_size(source: Path | bytes, name: str = "") -> tuple[int, int]:
    """Return the (width, height) that the header of a picture file, or of its content, claims.

    They are those of the pixels as stored, before a turn that EXIF asks for.

    Raises:
        ImageError: there is no such header.
    """
    name = name or str(source)
    with one_line_errors(name, "cannot be read"):
        if isinstance(source, Path):
            check_regular(source, name)
        with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file:
            start = file.read(4)
            if not start:
                raise ImageError(f"{name}: the file is empty")
            file.seek(0)
            if start in _TIFF_SIGNATURES:  # Pillow does not know them all
                with tifffile.TiffFile(file) as tiff:
                    return _tiff_size(tiff.pages.first)
            with _open(file, name, None) as image:
                return image.width, image.height


def pixel_bytes(content: bytes, name: str) -> int:
    """Return the bytes of a pixel that decoding the content of a picture file makes, at least those of RGB.

    Raises:
        ImageError: there is no such header.
    """
    if content[:4] in _TIFF_SIGNATURES:
        with one_line_errors(name, "cannot be read"), tifffile.TiffFile(io.BytesIO(content)) as tiff:
            page: Any = tiff.pages.first
            return max(3, page.samplesperpixel) * _sample_bytes(page)
    return 6 if _is_deep_png(content) else 3


def _is_deep_png(content: bytes) -> bool:
    return content[:8] == b"\x89PNG\r\n\x1a\n" and len(content) > 28 and content[24] == 16


def _tiff_size(page: Any) -> tuple[int, int]:
    width, height = page.imagewidth, page.imagelength
    if not (isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0):
        raise ImageError("its width or height is no number")
    return width, height


def check_tiff_tiles(page: Any) -> None:
    """Raise `ImageError` where a tile claims far more than the picture, as it is decoded as a whole."""
    if not page.is_tiled:  # strips are cut to the picture
        return
    pixels, claimed = page.imagewidth * page.imagelength, page.tilewidth * page.tilelength * page.tiledepth
    if (claimed - pixels) * page.samplesperpixel * _sample_bytes(page) > _MAX_TILE_EXCESS:
        raise ImageError(f"tiles of {page.tilewidth} x {page.tilelength} are too large for the picture")


def _sample_bytes(page: Any) -> int:
    return -(-page.bitspersample // 8)


def from_pil(image: Image.Image) -> Picture:
    """Return the picture of a PIL image of any mode that a supported file can have.

    Raises:
        ImageError: the mode or its values cannot be mapped to 8 or 16 bit.
    """
    with one_line_errors("image", "cannot be used"):
        return _picture(image, None)


def inspect_info(path: str | os.PathLike[str]) -> LRInfo | None:
    """Return what a file says about itself, without decoding its pixels.

    Raises:
        ImageError: the file cannot be read.
    """
    path = Path(path)
    with one_line_errors(str(path), "cannot be read"):
        check_regular(path, str(path))
        with path.open("rb") as file:
            start = file.read(4)
            if not start:
                raise ImageError(f"{path}: the file is empty")
            file.seek(0)
            if start in _TIFF_SIGNATURES:  # Pillow does not know them all
                with tifffile.TiffFile(file) as tiff:
                    return _find_info(None, tiff.pages.first.tags.valueof(_XMP))[0]
            with _open(file, str(path), None) as image:
                if image.format == "PNG":
                    image = _open(_without_pixels(file), str(path), None)
                return _find_info(image.info.get("car"), image.info.get("xmp"), _comments(image))[0]


_MOST_PNG_CHUNKS, _MOST_PNG_TEXT = 100_000, 2**20  # usual are chunks of 8 KB and more, and texts far below it


def _without_pixels(file: BinaryIO) -> io.BytesIO:
    """Return a PNG of header and texts alone: those behind the pixels, Pillow reads with the pixels only."""
    file.seek(0)
    kept, left = [file.read(8)], _MOST_PNG_TEXT
    for _ in range(_MOST_PNG_CHUNKS):
        length, kind = int.from_bytes(file.read(4), "big"), file.read(4)
        if kind in (b"", b"IEND"):
            break
        if kind in (b"IHDR", b"tEXt", b"zTXt", b"iTXt", b"eXIf") and length <= left:
            left -= length
            kept.append(_chunk(kind, file.read(length)))
            length = 0
        file.seek(length + 4, os.SEEK_CUR)
    return io.BytesIO(b"".join([*kept, _chunk(b"IDAT", b""), _chunk(b"IEND", b"")]))


@contextlib.contextmanager
def one_line_errors(name: str, what: str) -> Generator[None, None, None]:
    """Turn whatever a decoder or the system raises into an `ImageError` of one line."""
    # decoders meet damaged files with almost any exception
    try:
        yield
    except ImageError as error:
        if str(error).startswith(name):
            raise
        raise ImageError(f"{name}: {error}") from error
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file") from error
    except MemoryError as error:
        raise ImageError(f"{name}: not enough memory") from error
    except Exception as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name}: {what} ({reason[:200]})") from error


@contextlib.contextmanager
def _no_pillow_limit() -> Generator[None, None, None]:
    # Pillow's own limit is a global; ours is an argument, checked on the header before anything is decoded
    with _limit_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _open(file: Any, name: str, max_pixels: int | None) -> Image.Image:
    with _no_pillow_limit():
        try:
            image = Image.open(file, formats=_PILLOW_FORMATS)
        except Image.UnidentifiedImageError as error:
            raise ImageError(f"{name}: not a picture of a known format, or damaged") from error
    if max_pixels is not None:
        check_size(image.width, image.height, name, max_pixels)
    return image


def check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    """Raise `ImageError` where a picture has more than `max_pixels`."""
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: {width} x {height} pixels is over the limit of {max_pixels}; "
            "raise it with --max-pixels (max_pixels) if you trust the file"
        )


def _decode_deep_png(content: bytes) -> Pixels:
    """Decode a PNG of 16 bits a channel, which Pillow would reduce to 8, as ``[H, W]`` or ``[H, W, C]``."""
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


def _read_deep_tiff(content: bytes, name: str, max_pixels: int) -> Picture | None:
    """Read a TIFF of more than 8 bits a channel; None for all others, which are left to Pillow."""
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page: Any = file.pages.first
        check_tiff_tiles(page)
        if page.bitspersample <= 8:
            return None
        check_size(*_tiff_size(page), name, max_pixels)
        separated, contig = tifffile.PHOTOMETRIC.SEPARATED, tifffile.PLANARCONFIG.CONTIG
        if (page.photometric, page.bitspersample, page.planarconfig) == (separated, 16, contig):
            return None  # Pillow reduces it to 8 bit, as colour management would
        if page.photometric not in _TIFF_KINDS or page.imagedepth != 1:
            kind = getattr(page.photometric, "name", page.photometric)
            raise ImageError(f"{name}: TIFF of kind {kind} with {page.bitspersample} bits is not supported")
        if page.samplesperpixel > _MAX_TIFF_CHANNELS:
            raise ImageError(f"{name}: {page.samplesperpixel} channels are too many")
        size = page.imagewidth * page.imagelength * page.samplesperpixel * _sample_bytes(page)
        if size > MAX_DECODED_BYTES:
            raise ImageError(f"{name}: its samples take {size} bytes, over the limit of {MAX_DECODED_BYTES}")
        array = page.asarray()
        if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and array.ndim == 3:
            array = np.moveaxis(array, 0, 2)
        array = array.reshape(page.imagelength, page.imagewidth, -1)
        notes = [_FIRST_FRAME] if len(file.pages) > 1 else []
        tags = {tag.code: tag.value for tag in page.tags if tag.code in (_ORIENTATION, _ICC, _XMP, _EXTRAS)}
    colours = 3 if page.photometric == tifffile.PHOTOMETRIC.RGB else 1
    array = _full_range(array, page.bitspersample)
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        array[:, :, 0] = np.iinfo(array.dtype).max - array[:, :, 0]
    if array.shape[2] < colours:
        raise ImageError(f"{name}: {array.shape[2]} channels are too few for colour")
    extras = tuple(page.extrasamples)
    if _EXTRAS not in tags and array.shape[2] == colours + 1:
        extras = (tifffile.EXTRASAMPLE.UNASSALPHA,)  # not said, but so other readers take it
    array = _with_declared_alpha(array, colours, extras, notes)
    icc = checked_profile(tags.get(_ICC), "RGB" if colours == 3 else "GRAY", notes)
    return _finish(array, tags.get(_ORIENTATION, 1), icc, _find_info(None, tags.get(_XMP)), notes)


def _full_range(array: Pixels, bits: int) -> Pixels:
    """Return samples of `bits` bits over all of their type: unstretched, 12 would look almost black."""
    if array.dtype == np.uint16 and bits < 16:
        return np.round(array * (65535 / (2**bits - 1))).astype(np.uint16)
    return _to_unsigned(array)


def _with_declared_alpha(array: Pixels, colours: int, extras: tuple[int, ...], notes: list[str]) -> Pixels:
    """Return the colours of ``[H, W, C]`` and, where the TIFF names one, its straight alpha."""
    alpha = next((n for n, kind in enumerate(extras) if kind in _TIFF_ALPHA), None)
    if array.shape[2] > colours + (alpha is not None):
        notes.append(_EXTRA_CHANNELS)
    if alpha is None or colours + alpha >= array.shape[2]:
        return array[:, :, :colours]
    array = array[:, :, [*range(colours), colours + alpha]]
    if extras[alpha] == tifffile.EXTRASAMPLE.ASSOCALPHA:
        largest = np.iinfo(array.dtype).max
        opacity = np.maximum(array[:, :, -1:], 1) / largest
        array[:, :, :-1] = np.minimum(np.round(array[:, :, :-1] / opacity), largest)
    return array


def _picture(image: Image.Image, deep: Pixels | None) -> Picture:
    notes: list[str] = []
    if getattr(image, "is_animated", False) and image.format != "MPO":
        notes.append(_FIRST_FRAME)
    tags = getattr(image, "tag_v2", None) or {}
    if tags.get(_SAMPLES, 1) > len(image.getbands()):
        notes.append(_EXTRA_CHANNELS)
    if image.mode == "CMYK" and max(tags.get(_BITS, (8,))) > 8:
        notes.append("16-bit CMYK reduced to 8 bit")
    transparent = _stretched_transparency(image)
    image.load()
    if transparent is not None:
        image = image.copy()  # it may be the caller's
        image.info["transparency"] = transparent
    spaces = {"1": "GRAY", "L": "GRAY", "LA": "GRAY", "CMYK": "CMYK", "LAB": "Lab"}
    expected = "GRAY" if image.mode.startswith(("I", "F")) else spaces.get(image.mode, "RGB")
    icc = checked_profile(image.info.get("icc_profile"), expected, notes)
    if deep is None:
        array, icc = _array_of(image, icc, notes)
    else:
        array = deep
    # asked after load(): some decoders turn the picture themselves and then forget the tag
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block raises almost anything and is no reason to refuse the pixels
        orientation = 1
    xmp = image.info.get("xmp") or tags.get(_XMP)
    found = _find_info(image.info.get("car"), xmp, _comments(image))
    picture = _finish(array, orientation, icc, found, notes)
    return replace(picture, lossy=image.format in ("JPEG", "MPO", "AVIF"))


_MOST_WEBP_CHUNKS = 1000  # before the pixels; usual are three, and a hostile file could have millions


def _is_lossy_webp(content: bytes) -> bool:
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


def _stretched_transparency(image: Image.Image) -> int | None:
    """Return the transparent level of a PNG of 2- or 4-bit grey that is not yet decoded, as 8 bit."""
    # Pillow stretches the pixels when it decodes them, but not the level that tRNS calls transparent
    level, tiles = image.info.get("transparency"), getattr(image, "tile", None)
    if image.format == "PNG" and image.mode == "L" and tiles and isinstance(level, int):
        largest = {"L;2": 3, "L;4": 15}.get(tiles[0].args)
        if largest is not None and level <= largest:
            return level * 255 // largest
    return None


def _finish(
    array: Pixels,
    orientation: Any,
    icc: bytes | None,
    found: "tuple[LRInfo | None, str | None]",
    notes: list[str],
) -> Picture:
    """Turn ``[H, W]`` or ``[H, W, C]`` of any type into an upright picture."""
    array = _to_unsigned(array)
    array = array.reshape(*array.shape[:2], -1)
    channels = array.shape[2]
    if channels > 4:
        raise ImageError(f"{channels} channels are too many")
    grey = channels < 3
    if grey and icc is not None:
        notes.append("its grey colour profile was dropped")
        icc = None
    orientation = orientation if orientation in range(1, 9) else 1
    array = _upright(array, orientation)
    colour = np.repeat(array[:, :, :1], 3, axis=2) if grey else np.ascontiguousarray(array[:, :, :3])
    alpha = np.ascontiguousarray(array[:, :, -1]) if channels in (2, 4) else None
    info, damage = found
    all_notes = (*notes, damage) if damage else tuple(notes)
    return Picture(colour, alpha, grey, icc, info, all_notes, orientation, damage)


def _array_of(image: Image.Image, icc: bytes | None, notes: list[str]) -> tuple[Pixels, bytes | None]:
    mode = image.mode
    if mode in ("I", "F") or mode.startswith("I;16"):
        return np.asarray(image), icc
    if mode in ("CMYK", "LAB", "YCbCr", "HSV"):
        notes.append(f"{mode} converted to sRGB")
        return np.asarray(_to_srgb(image, icc, notes)), None
    transparent = image.has_transparency_data
    if mode in ("1", "L", "LA", "La"):
        both = image.convert("LA" if transparent else "L")
        if icc is None:
            return np.asarray(both), None
        notes.append("grey with a colour profile converted to sRGB")
        grey = np.asarray(_to_srgb(both.getchannel("L"), icc, notes))[:, :, :1]
        return np.concatenate([grey, np.asarray(both)[:, :, 1:]], axis=2) if transparent else grey, None
    return np.asarray(image.convert("RGBA" if transparent else "RGB")), icc


def _to_srgb(image: Image.Image, icc: bytes | None, notes: list[str]) -> Image.Image:
    if icc is not None:
        try:
            source, target = ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
            if converted is not None:
                return converted
        except ImageCms.PyCMSError:
            notes.append("its colour profile is damaged and was not used")
    return image.convert("RGB")


def _to_unsigned(array: Pixels) -> Pixels:
    """Map what a file may hold to uint8 or uint16 without losing levels that those can have.

    Integers of 32 bits hold pictures of 8 or 16, and only the largest of them tells which: a picture of 8 bit
    would be almost black where 65535 is white.
    """
    if array.dtype.name in ("uint8", "uint16"):
        return array
    low, high = array.min(), array.max()
    if array.dtype.kind in "iu" and low >= 0 and high <= 65535:
        return array.astype(np.uint8 if array.dtype.itemsize > 2 and high <= 255 else np.uint16)
    if array.dtype.kind == "f" and low >= 0 and high <= 1:
        return np.round(array * 65535).astype(np.uint16)
    raise ImageError(f"{array.dtype} values from {low} to {high} do not fit 16 bit")


def checked_profile(icc: Any, expected: str, notes: list[str]) -> bytes | None:
    """Return an ICC profile if it is one for the colour space `expected`; else None, with a note."""
    if not isinstance(icc, bytes) or not icc:
        return None
    try:
        opened: Any = ImageCms.getOpenProfile(io.BytesIO(icc))
        space = opened.profile.xcolor_space.strip()
    except (OSError, ImageCms.PyCMSError, TypeError):
        space = None
    if space != expected:
        notes.append("its colour profile is damaged or does not belong to it and was dropped")
        return None
    return icc


def _upright(array: Pixels, orientation: int) -> Pixels:
    # EXIF 2.3, tag 274: 5 to 8 swap the axes; the others are flips
    if orientation >= 5:
        array = array.transpose(1, 0, 2)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(array[::rows, ::columns])


def _comments(image: Image.Image) -> list[bytes]:
    """Return the comment of a JPEG and the description in EXIF, where `LRInfo.to_comment` may be."""
    found: list[Any] = [image.info.get("comment")]
    with contextlib.suppress(Exception):  # a damaged EXIF block raises almost anything
        # not that of PNG, which decodes the pixels to look behind them
        description = Image.Image.getexif(image).get(_DESCRIPTION)
        found.append(description.encode() if isinstance(description, str) else description)
    return [comment for comment in found if isinstance(comment, bytes)]


def _find_info(text: Any, xmp: Any, comments: Sequence[bytes] = ()) -> tuple[LRInfo | None, str | None]:
    """Return what PNG text, a comment or an XMP packet say and, where that is damaged, a note."""
    try:
        if isinstance(text, str):
            return LRInfo.from_json(text), None
        for comment in comments:
            if found := LRInfo.from_comment(comment):
                return found, None
        if isinstance(xmp, (str, bytes)):
            return LRInfo.from_xmp(xmp.encode() if isinstance(xmp, str) else xmp), None
    except ImageError as error:
        return None, str(error)
    return None, None


# --- writing ---------------------------------------------------------------------------------------------


def check_suffix(path: Path) -> None:
    """Raise `ImageError` unless pictures can be written under this file name."""
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        raise ImageError(f"{path}: unknown picture format {path.suffix!r}{did_you_mean(suffix, _FORMATS)}")


def write(
    path: str | os.PathLike[str],
    picture: Picture,
    *,
    info: LRInfo | None = None,
    quality: int | None = None,
    overwrite: bool = True,
) -> tuple[str, ...]:
    """Write a picture in the format that the name's ending says; all or nothing.

    Args:
        path: an existing file is replaced at the very end, or kept where `overwrite` is False.
        picture: 16-bit pixels stay 16-bit in PNG and TIFF and are rounded to 8 bit elsewhere.
        info: stored in the metadata, for small pictures.
        quality: 1 to 100 for JPEG, WebP (lossless without it) and AVIF; a note says where it has no meaning.
        overwrite: whether an existing file may be replaced.

    Returns:
        Notes that the user should see: what was lost or cannot be stored.

    Raises:
        ImageError: unknown ending, a format that cannot hold the picture, or the file cannot be written.
    """
    path = Path(path)
    check_suffix(path)
    with one_line_errors(str(path), "cannot be written"):
        if not overwrite and path.exists():
            raise ImageError(f"{path} exists; --overwrite replaces it")
        data, notes = encode(picture, str(path), info=info, quality=quality)
        atomic_write(path, data)
    return notes


def encode(
    picture: Picture, name: str, *, info: LRInfo | None = None, quality: int | None = None
) -> tuple[bytes, tuple[str, ...]]:
    """Return what `write` would put into a file of this name, and its notes.

    Raises:
        ImageError: as `write`.
    """
    check_suffix(Path(name))
    if quality is not None and not 1 <= quality <= 100:
        raise ImageError(f"{name}: quality must be from 1 to 100, not {quality}")
    with one_line_errors(name, "cannot be written"):
        return _encode(picture, _FORMATS[Path(name).suffix.lower()], info, quality)


def to_pil(picture: Picture, *, info: LRInfo | None = None) -> Image.Image:
    """Return a PIL image; colour is 8-bit, as PIL has no deeper colour (16-bit grey without alpha stays).

    With `info`, its ``save`` stores the metadata in every format that can carry it.
    """
    array = _file_array(picture)
    if array.dtype == np.uint16 and array.ndim == 3:
        array = _eight_bit(array)
    image = Image.fromarray(array)
    if picture.icc is not None:
        image.info["icc_profile"] = picture.icc
    if info is None:
        return image
    small = _SmallImage()
    small.__dict__.update(image.__dict__)
    small.info["car"] = info.to_json()
    return small


class _SmallImage(Image.Image):
    """A PIL image whose `save` writes the metadata; whatever is derived from it is a plain image."""

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None:
        """Save as PIL does, with the metadata of the small picture."""
        text = self.info.get("car")
        if text is None:
            return super().save(fp, format, **params)
        info = LRInfo.from_json(text)
        name = getattr(fp, "name", fp)
        suffix = Path(os.fsdecode(name)).suffix.lower() if isinstance(name, (str, bytes, os.PathLike)) else ""
        kind = (format or _FORMATS.get(suffix, "")).upper()
        if kind == "PNG":
            params["pnginfo"] = _png_text(info, params.get("pnginfo"))
        elif kind == "WEBP":
            params.setdefault("lossless", True)
        if kind == "JPEG":
            params.setdefault("comment", info.to_comment())
        elif kind in ("WEBP", "AVIF"):
            if "exif" in params:  # of the caller
                params.setdefault("xmp", info.to_xmp())
            else:
                params["exif"] = _exif(info)
        elif kind == "TIFF":
            params.setdefault("tiffinfo", {_XMP: info.to_xmp()})
        return super().save(fp, format, **params)


def _png_text(info: LRInfo, others: PngImagePlugin.PngInfo | None = None) -> PngImagePlugin.PngInfo:
    text = PngImagePlugin.PngInfo()
    if others is not None:
        text.chunks.extend(others.chunks)  # a copy: the caller may use them for other pictures
    text.add_text("car", info.to_json())
    return text


def _exif(info: LRInfo) -> bytes:
    """Return an EXIF block whose description is the comment that JPEG files carry: shorter than XMP."""
    exif = Image.Exif()
    exif[_DESCRIPTION] = info.to_comment().decode()
    return exif.tobytes()


def _file_array(picture: Picture) -> Pixels:
    """Return ``[H, W]`` grey, or ``[H, W, C]``, as files hold it."""
    channels = [picture.pixels[:, :, :1] if picture.grey else picture.pixels]
    if picture.alpha is not None:
        channels.append(picture.alpha[:, :, None])
    array = np.concatenate(channels, axis=2) if len(channels) > 1 else channels[0]
    return np.ascontiguousarray(array[:, :, 0] if array.shape[2] == 1 else array)


def _eight_bit(array: Pixels) -> Pixels:
    return np.round(array / 257).astype(np.uint8)


def _encode(
    picture: Picture, kind: str, info: LRInfo | None, quality: int | None
) -> tuple[bytes, tuple[str, ...]]:
    array, notes = _file_array(picture), list[str]()
    trained_for_loss = info is not None and made_for_loss(info.model)
    if quality is not None and kind not in ("JPEG", "WEBP", "AVIF"):
        notes.append(f"{kind} has no quality: the setting was not used")
    if picture.icc is not None and kind in ("BMP", "GIF"):
        notes.append(f"{kind} cannot carry a colour profile: its colours may look different")
    if array.dtype == np.uint16:
        if kind == "PNG":
            return _encode_deep_png(array, picture.icc, info), tuple(notes)
        if kind != "TIFF":
            array = _eight_bit(array)
            notes.append(f"{kind} holds 8 bit: the picture was rounded from 16 bit")
    if kind == "TIFF":
        return _encode_tiff(array, picture, info), tuple(notes)
    if kind in ("JPEG", "BMP", "GIF") and picture.alpha is not None:
        if picture.alpha.min() < np.iinfo(picture.alpha.dtype).max:
            raise ImageError(
                f"{kind} cannot keep the transparency of this picture; PNG, WebP, AVIF and TIFF can"
            )
        array = array[:, :, :-1] if array.shape[2] == 4 else array[:, :, 0]
    lossy = kind == "GIF" or is_lossy(f"x.{kind}", quality)
    if info and kind in ("BMP", "GIF"):
        notes.append(f"{kind} cannot carry metadata: name the model and the size to restore this picture")
    if info and lossy and not trained_for_loss:
        notes.append(
            f"{kind} is lossy here; a small picture restores well from a lossless file only (PNG, WebP, TIFF)"
        )
    # small files are kept and sent: they are worth the time of the strongest compression
    chosen = coding_options(kind, quality, restored=trained_for_loss)
    if kind == "PNG":
        chosen["optimize"] = info is not None
    if picture.icc is not None and kind not in ("BMP", "GIF"):
        chosen["icc_profile"] = picture.icc
    if info and kind == "PNG":
        chosen["pnginfo"] = _png_text(info)
    elif info and kind == "JPEG":
        chosen["comment"] = info.to_comment()
    elif info and kind in ("WEBP", "AVIF"):
        chosen["exif"] = _exif(info)
    image = Image.fromarray(np.ascontiguousarray(array))
    if kind == "GIF" and image.getcolors(256) is None:
        notes.append("GIF holds 256 colours: the picture was reduced to them")
    if kind in ("WEBP", "AVIF") and image.mode in ("L", "LA"):
        image = image.convert("RGBA" if image.mode == "LA" else "RGB")
    buffer = io.BytesIO()
    image.save(buffer, kind, **chosen)
    return buffer.getvalue(), tuple(notes)


SMALL_QUALITY = 75
"""Of small pictures in JPEG and AVIF whose model was trained for that, where nothing else is asked for."""


def made_for_loss(model: str) -> bool:
    """Return whether small pictures of the model so called are meant for lossy files."""
    return model.startswith("car_codec_")


def coding_options(kind: str, quality: int | None, *, restored: bool = False) -> dict[str, Any]:
    """Return what Pillow is told to save a picture as JPEG, WebP or AVIF; nothing for other formats.

    Args:
        kind: Pillow's name of the format.
        quality: 1 to 100; by default 95, and lossless for WebP. Below 90, colours have half the resolution
            (4:2:0).
        restored: the picture is a small one of a model made for lossy files; its JPEG has other tables, its
            AVIF is coded for squared error, and the default of both is `SMALL_QUALITY`.
    """
    if kind == "WEBP":
        return {"lossless": True, "exact": True} if quality is None else {"quality": quality, "method": 5}
    quality = quality or (SMALL_QUALITY if restored else 95)
    subsampling = "4:4:4" if quality >= 90 else "4:2:0"
    if kind == "JPEG":
        how = {"qtables": _restored_jpeg_steps(quality)} if restored else {"quality": quality}
        return how | {"subsampling": subsampling, "optimize": True}
    if kind == "AVIF":
        return {"quality": quality, "subsampling": subsampling} | (_restored_avif() if restored else {})
    return {}


def _restored_avif() -> dict[str, Any]:
    """Return what makes small AVIFs that a network restores better for their bytes, where libaom codes them.

    By default it codes for a likeness that the eye judges at the file's own size. Slower than its usual 6 is
    affordable for a picture so small.
    """
    # the setting has this name in libaom alone, and other coders refuse it
    known = AvifImagePlugin.get_codec_version("aom") is not None
    return {"codec": "aom", "speed": 5, "advanced": {"tune": "psnr"}} if known else {}


def _restored_jpeg_steps(quality: int) -> list[list[int]]:
    """Return JPEG's tables, of luma and of colours, for small pictures that a network restores.

    The usual ones (ITU-T T.81, annex K) spend little on what the eye hardly sees at the file's own size. A
    small picture's fine detail is the large one's coarse detail: these are flatter. They scale with quality
    as the usual ones do, and at the same quality make files smaller by a sixth to a third.
    """
    percent = 5000 / quality if quality < 50 else 200 - 2 * quality
    frequency = np.add.outer(np.arange(8), np.arange(8)).ravel()
    tables = (22 + 3.5 * frequency, np.minimum(60 + 7 * frequency, 140))
    return [np.clip(np.round(table * percent / 100), 1, 255).astype(int).tolist() for table in tables]


def format_of(name: str | os.PathLike[str]) -> str:
    """Return what Pillow calls the format that a file's suffix stands for; empty for unknown ones."""
    return _FORMATS.get(Path(name).suffix.lower(), "")


def is_lossy(name: str | os.PathLike[str], quality: int | None) -> bool:
    """Return whether `write` with this `quality` codes a file of this name with losses that depend on it."""
    kind = format_of(name)
    return kind in ("JPEG", "AVIF") or (kind == "WEBP" and quality is not None)


def _encode_tiff(array: Pixels, picture: Picture, info: LRInfo | None) -> bytes:
    buffer = io.BytesIO()
    xmp = info.to_xmp() if info else b""
    tifffile.imwrite(
        buffer,
        array,
        photometric="minisblack" if picture.grey else "rgb",
        planarconfig="contig" if array.ndim == 3 else None,
        extrasamples=["unassalpha"] if picture.alpha is not None else None,
        compression="zlib",
        predictor=True,
        iccprofile=picture.icc,
        extratags=[(_XMP, 1, len(xmp), xmp, True)] if info else [],
        metadata=None,
    )
    return buffer.getvalue()


def _encode_deep_png(array: Pixels, icc: bytes | None, info: LRInfo | None) -> bytes:
    encoded = imagecodecs.png_encode(array, level=6)
    chunks = b""
    if icc is not None:
        chunks += _chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc))
    if info:
        chunks += _chunk(b"tEXt", b"car\0" + info.to_json().encode("latin-1"))
    header = 8 + 25  # signature and IHDR
    return bytes(encoded[:header] + chunks + encoded[header:])


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
