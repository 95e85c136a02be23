"""Headers of picture files, read without NumPy, because imports take most of the time of `car info`."""

import contextlib
import io
import os
from pathlib import Path
from typing import BinaryIO

from car.errors import ImageError, reading_errors
from car.files.atomic import check_regular
from car.pictures.formats import HEADER, ORIENTATION, TIFF_SIGNATURES, png_chunk
from car.pictures.header import (
    Header,
    found_info,
    needs_jxl_decoder,
    open_by_pillow,
    sample_bits,
    texts,
    upright_size,
)

_MOST_CHUNKS, _MOST_TEXT = 100_000, 2**20  # chunks usually have 8 KB and more, and texts far fewer bytes


def read_header(source: str | os.PathLike[str] | bytes, name: str = "") -> Header:
    """Return size, depth and metadata of a file, without decoding its pixels.

    Args:
        source: the file, or its content.
        name: for messages; by default that of the file.

    Raises:
        ImageError: the file cannot be read.
    """
    name = name or ("the picture" if isinstance(source, bytes) else os.fspath(source))
    with reading_errors(name):
        if isinstance(source, bytes):
            return _header(io.BytesIO(source), name)
        check_regular(Path(source), name)
        with Path(source).open("rb") as file:
            return _header(file, name)


def _header(file: BinaryIO, name: str) -> Header:
    start = file.read(HEADER)
    if not start:
        raise ImageError(f"{name}: the file is empty")
    file.seek(0)
    if start[:4] in TIFF_SIGNATURES:  # Pillow does not know them all
        from car.pictures import tiff

        return tiff.header(file)
    bits = 16 if sample_bits(start) > 8 else 8
    if needs_jxl_decoder(start):
        from car.pictures.coded import jxl_size

        return Header(jxl_size(start), bits, 3 * bits // 8)
    with open_by_pillow(file, name) as image:
        size, about, orientation = image.size, image, None
        if image.format == "PNG":
            with contextlib.suppress(ImageError):  # texts that Pillow refuses say nothing
                about = open_by_pillow(_without_pixels(file), name)
        with contextlib.suppress(Exception):  # a damaged EXIF block raises almost anything
            # in a PNG without EXIF, Pillow would look for it behind the pixels, which are not there
            if image.format != "PNG" or "exif" in about.info:
                orientation = about.getexif().get(ORIENTATION)
        samples = 4 if image.has_transparency_data or image.mode == "CMYK" else 3
        return Header(upright_size(size, orientation), bits, samples * bits // 8, *found_info(texts(about)))


def _without_pixels(file: BinaryIO) -> io.BytesIO:
    """Return a PNG with only its header and texts: Pillow reads texts behind pixels only with the pixels."""
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
