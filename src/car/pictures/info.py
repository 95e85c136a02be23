"""What picture files say about themselves, read without NumPy: showing it takes as long as the imports."""

import io
import os
from pathlib import Path
from typing import BinaryIO

from car.errors import ImageError, one_line_errors
from car.files.atomic import check_regular
from car.pictures.formats import TIFF_SIGNATURES, png_chunk
from car.pictures.header import found_info, needs_jxl_decoder, open_by_pillow, texts
from car.pictures.metadata import LRInfo

_MOST_CHUNKS, _MOST_TEXT = 100_000, 2**20  # usual are chunks of 8 KB and more, and texts far below it


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
                from car.pictures import tiff

                return found_info((tiff.description(file),))[0]
            if needs_jxl_decoder(start):
                return None
            with open_by_pillow(file, str(path)) as image:
                if image.format == "PNG":
                    image = open_by_pillow(_without_pixels(file), str(path))
                return found_info(texts(image))[0]


def _without_pixels(file: BinaryIO) -> io.BytesIO:
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
