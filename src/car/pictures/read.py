"""Picture files and PIL images to pictures, with the metadata that lets a small picture be restored.

Pixel values are never changed on the way in, except where a format forces it, and then a note says so.
"""

import contextlib
import io
import logging
import os
import threading
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image, TiffImagePlugin

from car.errors import ImageError
from car.files.atomic import MAX_FILE_BYTES, check_regular
from car.pictures import coded, png_file, tiff
from car.pictures.colour import ADOBE_RGB
from car.pictures.depth import Pixels
from car.pictures.faults import no_picture, png_fault
from car.pictures.formats import DESCRIPTION, FIRST_FRAME, ORIENTATION, TIFF_SIGNATURES
from car.pictures.metadata import LRInfo
from car.pictures.picture import DEFAULT_MAX_PIXELS, Picture, check_size, one_line_errors
from car.pictures.samples import Samples, found_info

# Pillow opens many more, some through other programs; these are the ones that are tested
_PILLOW_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "DIB", "GIF", "JPEG2000")
_PLUGIN_FORMATS = ("HEIF", "JXL")
_EXIF_IFD, _INTEROP_IFD, _COLOUR_SPACE, _INTEROP_INDEX = 0x8769, 0xA005, 0xA001, 1
_HEADER = 2**17  # bytes of a file in which its headers are
_limit_lock = threading.Lock()
# What they log about damaged files would reach stderr where no handler is set up; others still get it.
# Their warnings are left to the program: filters belong to the whole process and are not safe among threads.
for _name in ("tifffile", "PIL"):
    logging.getLogger(_name).addHandler(logging.NullHandler())


def read(path: str | os.PathLike[str], *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Picture:
    """Read a PNG, JPEG, WebP, AVIF, TIFF, JPEG 2000, JPEG XL, BMP or GIF file, whatever its name.

    EXIF orientation is applied. An RGB ICC profile is kept; other colours are converted to sRGB. HEIC is
    read where pillow-heif is installed.

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
            picture = _read_tiff(content, name, max_pixels)
            if picture is not None:
                return picture
        if coded.is_jxl(content) and "JXL" not in Image.OPEN:
            return _read_jxl(content, name, max_pixels)
        try:
            picture = _read_by_pillow(content, name, max_pixels)
        except ImageError:
            raise
        except Exception as error:
            whole = coded.completed_jpeg(content) if "truncated" in str(error) else None
            if whole is not None:
                picture = _read_by_pillow(whole, name, max_pixels)
                return replace(
                    picture, notes=(*picture.notes, "the file lacks its end; its pixels are all there")
                )
            if content.startswith(b"\x89PNG") and (fault := png_fault(content)):
                raise ImageError(f"{name}: {fault}") from error
            raise
        if content.startswith(b"\x89PNG") and (fault := png_fault(content)):  # Pillow overlooks some
            picture = replace(picture, notes=(*picture.notes, f"{fault}, but it could be read"))
        return picture


def _read_tiff(content: bytes, name: str, max_pixels: int) -> Picture | None:
    """Read a TIFF; None where only Pillow knows its kind."""
    notes: list[str] = []
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page = tiff.main_page(file, notes)
        tiff.check_tiles(page)
        if page is file.pages.first and tiff.only_pillow_knows(page):
            return None
        check_size(*tiff.page_size(page), name, max_pixels)
        tiff.check_page(page)
        array = tiff.pick(page, tiff.page_array(page), notes)
        return tiff.page_samples(page, notes).picture(array)


def _read_jxl(content: bytes, name: str, max_pixels: int) -> Picture:
    check_size(*coded.jxl_size(content), name, max_pixels)
    array = coded.decode_jxl(content)
    samples = Samples("RGB" if array.ndim == 3 and array.shape[2] > 2 else "GRAY")
    # the decoder does not say which they are
    samples.notes.append(
        "its colours are taken for sRGB; with pillow-jxl-plugin, what it says of them is known"
    )
    return samples.picture(array)


def _read_by_pillow(content: bytes, name: str, max_pixels: int) -> Picture:
    with _open(io.BytesIO(content), name, max_pixels) as image:
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            with _no_pillow_limit():
                image.load_prepare()  # asks for the limit a second time
        return _picture(image, content)


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
            start = file.read(_HEADER)
            if not start:
                raise ImageError(f"{name}: the file is empty")
            file.seek(0)
            if start[:4] in TIFF_SIGNATURES:  # Pillow does not know them all
                with tifffile.TiffFile(file) as opened:
                    return tiff.page_size(tiff.main_page(opened, []))
            if coded.is_jxl(start) and "JXL" not in Image.OPEN:
                return coded.jxl_size(start)
            with _open(file, name, None) as image:
                return image.width, image.height


def header_samples(path: Path) -> Samples | None:
    """Return what the header of a file that Pillow opens says of its samples; None if that is not all.

    Raises:
        ImageError: they are of high dynamic range.
    """
    with path.open("rb") as file:
        start = file.read(_HEADER)
        file.seek(0)
        if coded.is_jxl(start) and "JXL" not in Image.OPEN:
            return None
        with _open(file, str(path), None) as image:
            if png_file.is_deep(start) and start[28]:  # decoded otherwise, where interlaced
                return None
            return _samples(image, start)


def pixel_bytes(source: Path | bytes, name: str) -> int:
    """Return the bytes of a pixel that decoding a picture file, or its content, makes; at least those of RGB.

    Raises:
        ImageError: there is no such header.
    """
    with (
        one_line_errors(name, "cannot be read"),
        source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file,
    ):
        content = file.read(_HEADER)
        file.seek(0)
        if content[:4] in TIFF_SIGNATURES:
            with tifffile.TiffFile(file) as opened:
                page: Any = tiff.main_page(opened, [])
                return max(3, page.samplesperpixel) * tiff.sample_bytes(page)
    deep = png_file.is_deep(content) or coded.is_jxl(content)
    return 6 if deep or coded.avif_bits(content) > 8 or coded.jpeg2000_bits(content) > 8 else 3


def from_pil(image: Image.Image) -> Picture:
    """Return the picture of a PIL image of any mode.

    Raises:
        ImageError: its values cannot be mapped to 8 or 16 bit, or its colours are of high dynamic range.
    """
    with one_line_errors("image", "cannot be used"):
        return _picture(image, b"")


def inspect_info(path: str | os.PathLike[str]) -> LRInfo | None:
    """Return what a file says about itself, without decoding its pixels.

    Raises:
        ImageError: the file cannot be read.
    """
    path = Path(path)
    with one_line_errors(str(path), "cannot be read"):
        check_regular(path, str(path))
        with path.open("rb") as file:
            start = file.read(16)
            if not start:
                raise ImageError(f"{path}: the file is empty")
            file.seek(0)
            if start[:4] in TIFF_SIGNATURES:  # Pillow does not know them all
                with tifffile.TiffFile(file) as opened:
                    return found_info((tiff.main_page(opened, []).tags.valueof(DESCRIPTION),))[0]
            if coded.is_jxl(start) and "JXL" not in Image.OPEN:
                return None
            with _open(file, str(path), None) as image:
                if image.format == "PNG":
                    image = _open(png_file.without_pixels(file), str(path), None)
                return found_info(_texts(image))[0]


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
    if coded.is_heic(file.read(64)) and "HEIF" not in Image.OPEN:
        try:
            import pillow_heif  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImageError(
                f"{name}: it is HEIC, which needs pillow-heif: pip install pillow-heif"
            ) from error
        pillow_heif.register_heif_opener()  # pyright: ignore[reportUnknownMemberType]
    file.seek(0)
    formats = [*_PILLOW_FORMATS, *(kind for kind in _PLUGIN_FORMATS if kind in Image.OPEN)]
    with _no_pillow_limit():
        try:
            image = Image.open(file, formats=formats)
        except Image.UnidentifiedImageError as error:
            file.seek(0)
            raise ImageError(f"{name}: {no_picture(file.read(_HEADER))}") from error
    if max_pixels is not None:
        check_size(image.width, image.height, name, max_pixels)
    return image


def _samples(image: Image.Image, content: bytes) -> Samples:
    """Return what an open image, not yet decoded, and the start of its file say of its samples."""
    samples = Samples("RGB", icc=image.info.get("icc_profile"))
    if getattr(image, "is_animated", False) and image.format != "MPO":
        samples.notes.append(FIRST_FRAME)
    if coded.has_gain_map(content, image.info):
        samples.notes.append("its gain map, for screens of high dynamic range, was dropped")
    samples.lossy = image.format in ("JPEG", "MPO", "AVIF") or coded.is_lossy_webp(content)
    if image.format == "AVIF" and coded.avif_bits(content) > 8:
        samples.bits = coded.avif_bits(content)
    elif image.format == "JPEG2000" and coded.jpeg2000_bits(content) > 8:
        samples.bits = coded.jpeg2000_bits(content)
    _find_colours(image, content, samples)
    return samples


def _picture(image: Image.Image, content: bytes) -> Picture:
    """Return the picture of an open image; `content` is that of its file, where it has one."""
    samples = _samples(image, content)
    transparent = _stretched_transparency(image)
    image.load()  # of a deep one too: it finds damage, and texts behind the pixels
    if transparent is not None:
        image = image.copy()  # it may be the caller's
        image.info["transparency"] = transparent
    array = _deep(image.format, content, samples.bits)
    if array is None:
        array, samples.kind = _array_of(image)
    else:
        samples.kind = "RGB" if array.ndim == 3 and array.shape[2] > 2 else "GRAY"
    # asked after load(): some decoders turn the picture themselves and then forget the tag
    with contextlib.suppress(
        Exception
    ):  # a damaged EXIF block raises almost anything, and the pixels are good
        samples.orientation = image.getexif().get(ORIENTATION, 1)
    samples.texts = _texts(image)
    return samples.picture(array)


def _find_colours(image: Image.Image, content: bytes, samples: Samples) -> None:
    """Find out what the format says of colours without a profile, or, where Pillow is silent, with one."""
    if image.format == "PNG" or (image.format is None and "gamma" in image.info):
        samples.calibration, overrules = png_file.calibration(content, image.info)
        samples.icc = None if overrules else samples.icc
    elif image.format == "AVIF":
        samples.calibration = None if samples.icc else coded.avif_calibration(content)
    elif image.format == "JPEG2000":
        samples.icc = samples.icc or coded.jpeg2000_profile(content)
    elif image.format in ("JPEG", "MPO"):
        with contextlib.suppress(Exception):  # as above
            exif = image.getexif()
            space = exif.get_ifd(_EXIF_IFD).get(_COLOUR_SPACE)
            index = exif.get_ifd(_INTEROP_IFD).get(_INTEROP_INDEX)
            if space == 2 or (space == 0xFFFF and index == "R03"):
                samples.calibration = ADOBE_RGB
    elif image.format == "HEIF" and image.info.get("bit_depth", 8) > 8:
        samples.notes.append(f"{image.info['bit_depth']} bit reduced to 8")


def _deep(kind: str | None, content: bytes, bits: int) -> Pixels | None:
    """Return the samples of a file of more than 8 bits that Pillow would reduce to them."""
    if png_file.is_deep(content):
        return png_file.decode_deep(content)
    if bits:
        return coded.decode_deep_avif(content) if kind == "AVIF" else coded.decode_jpeg2000(content)
    return None


def _array_of(image: Image.Image) -> tuple[Pixels, str]:
    """Return the samples of a PIL image of any mode, and what kind they are of."""
    mode = image.mode
    if mode.startswith("I;16"):  # not asarray, which does not know them all
        order = {"I;16B": ">u2", "I;16N": "=u2"}.get(mode, "<u2")
        return np.frombuffer(image.tobytes(), order).reshape(image.height, image.width), "GRAY"
    if mode in ("I", "F"):
        return np.asarray(image), "GRAY"
    if mode in ("CMYK", "LAB", "YCbCr", "HSV"):
        return np.asarray(image), mode
    transparent = image.has_transparency_data
    if mode in ("1", "L", "LA", "La"):
        return np.asarray(image.convert("LA" if transparent else "L")), "GRAY"
    return np.asarray(image.convert("RGBA" if transparent else "RGB")), "RGB"


def _stretched_transparency(image: Image.Image) -> int | None:
    """Return the transparent level of a PNG of 2- or 4-bit grey that is not yet decoded, as 8 bit."""
    # Pillow stretches the pixels when it decodes them, but not the level that tRNS calls transparent
    level, tiles = image.info.get("transparency"), getattr(image, "tile", None)
    if image.format == "PNG" and image.mode == "L" and tiles and isinstance(level, int):
        largest = {"L;2": 3, "L;4": 15}.get(tiles[0].args)
        if largest is not None and level <= largest:
            return level * 255 // largest
    return None


def _texts(image: Image.Image) -> tuple[Any, ...]:
    """Return PNG's text, a JPEG's comment and the description in EXIF, where `LRInfo.to_text` may be."""
    found: list[Any] = [image.info.get("car"), image.info.get("comment")]
    with contextlib.suppress(Exception):  # a damaged EXIF block raises almost anything
        # not that of PNG, which decodes the pixels to look behind them
        found.append(Image.Image.getexif(image).get(DESCRIPTION))
    return tuple(found)
