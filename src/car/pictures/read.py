"""Picture files and PIL images to pictures, with the metadata that lets a small picture be restored.

Reading changes pixel values only if the format requires it, and then a note says so.
"""

import contextlib
import io
import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from car.errors import ImageError, one_line_errors, reading_errors
from car.files.atomic import MAX_FILE_BYTES, check_regular
from car.pictures import coded, exif, png_file
from car.pictures.colour import ADOBE_RGB
from car.pictures.depth import Pixels
from car.pictures.faults import JPEG_SIGNATURE, jpeg_fault, png_fault
from car.pictures.formats import (
    FIRST_FRAME,
    HEADER,
    ORIENTATION,
    PNG_SIGNATURE,
    TIFF_SIGNATURES,
    is_fine_file,
)
from car.pictures.header import (
    has_refused_texts,
    needs_jxl_decoder,
    no_pillow_limit,
    open_by_pillow,
    sample_bits,
    texts,
    without_texts,
)
from car.pictures.picture import DEFAULT_MAX_PIXELS, Picture, check_size
from car.pictures.samples import Samples

_EXIF_IFD, _INTEROP_IFD, _COLOUR_SPACE, _INTEROP_INDEX = 0x8769, 0xA005, 0xA001, 1


def read(path: str | os.PathLike[str], *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Picture:
    """Read a PNG, JPEG, WebP, AVIF, TIFF, JPEG 2000, JPEG XL, BMP or GIF file, whatever its name.

    EXIF orientation is applied. An RGB ICC profile is kept; other colours are converted to sRGB. HEIC is
    read if pillow-heif is registered with Pillow.

    Raises:
        ImageError: the file is missing, empty, damaged, not a picture, of an unsupported kind or larger than
            `max_pixels`.
    """
    path = Path(os.fsdecode(path))
    with reading_errors(str(path)):
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
    with reading_errors(name):
        if not content:
            raise ImageError(f"{name}: the file is empty")
        notes: list[str] = []
        if content[:4] in TIFF_SIGNATURES:
            from car.pictures import tiff

            found = tiff.decode(content, name, max_pixels)
            if isinstance(found, Picture):
                return found
            notes = found
        if needs_jxl_decoder(content):
            return _read_jxl(content, name, max_pixels)
        try:
            picture = _read_by_pillow(content, name, max_pixels)
        except ImageError:
            raise
        except Exception as error:
            shorter = without_texts(content) if has_refused_texts(error) else content
            if len(shorter) < len(content):  # they are behind its pixels
                return decode(shorter, name, max_pixels=max_pixels)
            whole = coded.completed_jpeg(content) if "truncated" in str(error) else None
            if whole is not None:
                picture = _read_by_pillow(whole, name, max_pixels)
                return replace(picture, notes=(*picture.notes, coded.COMPLETED))
            if content.startswith(PNG_SIGNATURE) and (fault := png_fault(content)):
                raise ImageError(f"{name}: {fault}") from error
            if content.startswith(JPEG_SIGNATURE) and isinstance(error, OSError):
                raise ImageError(f"{name}: {jpeg_fault(content)}") from error
            raise
        if content.startswith(PNG_SIGNATURE) and (fault := png_fault(content)):  # Pillow overlooks some
            notes.append(f"{fault}, but it could be read")
        if content.startswith(JPEG_SIGNATURE) and coded.is_damaged_jpeg(content):  # likewise
            notes.append(coded.DAMAGED)
        return replace(picture, notes=(*picture.notes, *notes)) if notes else picture


def _read_jxl(content: bytes, name: str, max_pixels: int) -> Picture:
    check_size(*coded.jxl_size(content), name, max_pixels)
    import imagecodecs

    array = imagecodecs.jpegxl_decode(content, index=0)
    samples = Samples("RGB" if array.ndim == 3 and array.shape[2] > 2 else "GRAY")
    # the decoder does not say which they are
    samples.notes.append("its colours are taken for sRGB; install pillow-jxl-plugin to read its colour space")
    return samples.picture(array)


def _read_by_pillow(content: bytes, name: str, max_pixels: int) -> Picture:
    with open_by_pillow(io.BytesIO(content), name) as image:
        check_size(image.width, image.height, name, max_pixels)
        if image.format == "TIFF" and isinstance(image, ImageFile.ImageFile):
            with no_pillow_limit():
                image.load_prepare()  # asks for the limit a second time
        return _picture(image, content)


def header_samples(path: Path) -> Samples | None:
    """Return the description of samples in the header of a file that Pillow opens; None if incomplete.

    Raises:
        ImageError: the colours are of high dynamic range.
    """
    with path.open("rb") as file:
        start = file.read(HEADER)
        file.seek(0)
        if needs_jxl_decoder(start):
            return None
        with open_by_pillow(file, str(path)) as image:
            if (
                image.format == "PNG" and sample_bits(start) == 16 and start[28]
            ):  # decoded otherwise, where interlaced
                return None
            samples = _samples(image, start)
            samples.exif = exif.block(image)
            return samples


def from_pil(image: Image.Image) -> Picture:
    """Return the picture of a PIL image of any mode.

    Raises:
        ImageError: its values cannot be mapped to 8 or 16 bit, or its colours are of high dynamic range.
    """
    with one_line_errors("image", "cannot be used"):
        if not image.width or not image.height:
            raise ImageError(f"it has no pixels: {image.width} x {image.height}")
        return _picture(image, b"")


def _samples(image: Image.Image, content: bytes) -> Samples:
    """Return the description of the samples of an open image, before it is decoded.

    `content` is the start of its file, or all of it.
    """
    samples = Samples("RGB", icc=image.info.get("icc_profile"))
    if getattr(image, "is_animated", False) and image.format != "MPO":
        samples.notes.append(FIRST_FRAME)
    if coded.has_gain_map(content, image.info):
        samples.notes.append("its gain map, for screens of high dynamic range, was dropped")
    samples.lossy = image.format in ("JPEG", "MPO", "AVIF") or coded.is_lossy_webp(content)
    samples.fine = is_fine_file(image.format or "", content, getattr(image, "quantization", None))
    samples.coarse = samples.lossy and not samples.fine and image.format != "AVIF"
    if image.format in ("AVIF", "JPEG2000") and sample_bits(content) > 8:
        samples.bits = sample_bits(content)
    _find_colours(image, content, samples)
    return samples


def _picture(image: Image.Image, content: bytes) -> Picture:
    """Return the picture of an open image; `content` is the content of its file, if it has one."""
    samples = _samples(image, content)
    transparent = _stretched_transparency(image)
    image.load()  # also if the picture is deep: this finds damage, and texts behind the pixels
    if transparent is not None:
        image = image.copy()  # it may be the caller's
        image.info["transparency"] = transparent
    array = _deep(image, content, samples)
    if array is None:
        array, samples.kind = _array_of(image)
    else:
        samples.kind = "RGB" if array.ndim == 3 and array.shape[2] > 2 else "GRAY"
    # only after load(): some decoders turn the picture themselves and then forget the tag
    with contextlib.suppress(Exception):  # a damaged EXIF block raises almost anything
        samples.orientation = image.getexif().get(ORIENTATION, 1)
    samples.texts = texts(image)
    samples.exif = exif.block(image)
    return samples.picture(array)


def _find_colours(image: Image.Image, content: bytes, samples: Samples) -> None:
    """Find the colour space that a file names without a profile, or a profile that Pillow does not read."""
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


def _deep(image: Image.Image, content: bytes, samples: Samples) -> Pixels | None:
    """Return the samples of a file of more than 8 bits, if Pillow would reduce them to 8; else None."""
    if image.format == "PNG" and sample_bits(content) == 16:
        return png_file.decode_deep(content, image)
    if not samples.bits:
        return None
    if image.format == "AVIF" and find_spec("imagecodecs") is None:
        samples.notes.append(f"{samples.bits} bit reduced to 8; the extra [formats] reads all bits")
        samples.bits = 0
        return None
    import imagecodecs

    if image.format == "JPEG2000":
        return imagecodecs.jpeg2k_decode(content)
    return imagecodecs.avif_decode(content, index=0)


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
    # when it decodes the pixels, Pillow stretches them, but not the level that tRNS calls transparent
    level, tiles = image.info.get("transparency"), getattr(image, "tile", None)
    if image.format == "PNG" and image.mode == "L" and tiles and isinstance(level, int):
        largest = {"L;2": 3, "L;4": 15}.get(tiles[0].args)
        if largest is not None and level <= largest:
            return level * 255 // largest
    return None
