"""Picture files and PIL images to pictures, with the metadata that lets a small picture be restored.

Pixel values are never changed on the way in, except where a format forces it, and then a note says so.
"""

import contextlib
import io
import logging
import os
import threading
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
import png
import tifffile
from PIL import Image, ImageCms, TiffImagePlugin

from car.errors import ImageError
from car.files.atomic import MAX_FILE_BYTES, check_regular
from car.pictures.formats import (
    DESCRIPTION,
    EXTRA_CHANNELS,
    FIRST_FRAME,
    ICC,
    ORIENTATION,
    TIFF_SIGNATURES,
    XMP,
    png_chunk,
)
from car.pictures.metadata import LRInfo
from car.pictures.picture import (
    DEFAULT_MAX_PIXELS,
    MAX_DECODED_BYTES,
    Picture,
    Pixels,
    check_size,
    full_range,
    one_line_errors,
    to_unsigned,
    upright,
    with_declared_alpha,
)

# Pillow opens many more, some through other programs; these are the ones that are tested
_PILLOW_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "DIB", "GIF")
_BITS, _SAMPLES, _EXTRAS = 258, 277, 338
_TIFF_KINDS = (tifffile.PHOTOMETRIC.MINISWHITE, tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
_MAX_TILE_EXCESS = 256 * 2**20  # bytes of a TIFF's tile beyond its picture
_MAX_TIFF_CHANNELS = 16  # a few bytes can claim 65,535 samples a pixel
_limit_lock = threading.Lock()
# What they log about damaged files would reach stderr where no handler is set up; others still get it.
# Their warnings are left to the program: filters belong to the whole process and are not safe among threads.
for _name in ("tifffile", "PIL"):
    logging.getLogger(_name).addHandler(logging.NullHandler())


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
        if content[:4] in TIFF_SIGNATURES:
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
            if start in TIFF_SIGNATURES:  # Pillow does not know them all
                with tifffile.TiffFile(file) as tiff:
                    return _tiff_size(tiff.pages.first)
            with _open(file, name, None) as image:
                return image.width, image.height


def pixel_bytes(content: bytes, name: str) -> int:
    """Return the bytes of a pixel that decoding the content of a picture file makes, at least those of RGB.

    Raises:
        ImageError: there is no such header.
    """
    if content[:4] in TIFF_SIGNATURES:
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
            if start in TIFF_SIGNATURES:  # Pillow does not know them all
                with tifffile.TiffFile(file) as tiff:
                    return _find_info(None, tiff.pages.first.tags.valueof(XMP))[0]
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
            kept.append(png_chunk(kind, file.read(length)))
            length = 0
        file.seek(length + 4, os.SEEK_CUR)
    return io.BytesIO(b"".join([*kept, png_chunk(b"IDAT", b""), png_chunk(b"IEND", b"")]))


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
        notes = [FIRST_FRAME] if len(file.pages) > 1 else []
        tags = {tag.code: tag.value for tag in page.tags if tag.code in (ORIENTATION, ICC, XMP, _EXTRAS)}
    colours = 3 if page.photometric == tifffile.PHOTOMETRIC.RGB else 1
    array = full_range(array, page.bitspersample)
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        array[:, :, 0] = np.iinfo(array.dtype).max - array[:, :, 0]
    if array.shape[2] < colours:
        raise ImageError(f"{name}: {array.shape[2]} channels are too few for colour")
    extras = tuple(page.extrasamples)
    if _EXTRAS not in tags and array.shape[2] == colours + 1:
        extras = (tifffile.EXTRASAMPLE.UNASSALPHA,)  # not said, but so other readers take it
    array = with_declared_alpha(array, colours, extras, notes)
    icc = checked_profile(tags.get(ICC), "RGB" if colours == 3 else "GRAY", notes)
    return _finish(array, tags.get(ORIENTATION, 1), icc, _find_info(None, tags.get(XMP)), notes)


def _picture(image: Image.Image, deep: Pixels | None) -> Picture:
    notes: list[str] = []
    if getattr(image, "is_animated", False) and image.format != "MPO":
        notes.append(FIRST_FRAME)
    tags = getattr(image, "tag_v2", None) or {}
    if tags.get(_SAMPLES, 1) > len(image.getbands()):
        notes.append(EXTRA_CHANNELS)
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
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a damaged EXIF block raises almost anything and is no reason to refuse the pixels
        orientation = 1
    xmp = image.info.get("xmp") or tags.get(XMP)
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
    array = to_unsigned(array)
    array = array.reshape(*array.shape[:2], -1)
    channels = array.shape[2]
    if channels > 4:
        raise ImageError(f"{channels} channels are too many")
    grey = channels < 3
    if grey and icc is not None:
        notes.append("its grey colour profile was dropped")
        icc = None
    orientation = orientation if orientation in range(1, 9) else 1
    array = upright(array, orientation)
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


def _comments(image: Image.Image) -> list[bytes]:
    """Return the comment of a JPEG and the description in EXIF, where `LRInfo.to_comment` may be."""
    found: list[Any] = [image.info.get("comment")]
    with contextlib.suppress(Exception):  # a damaged EXIF block raises almost anything
        # not that of PNG, which decodes the pixels to look behind them
        description = Image.Image.getexif(image).get(DESCRIPTION)
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
