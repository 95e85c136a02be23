"""What picture files say about themselves, read without NumPy: showing it takes as long as the imports."""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from car.errors import ImageError, one_line_errors
from car.files.atomic import check_regular
from car.pictures.formats import HEADER, ORIENTATION, PNG_SIGNATURE, TIFF_SIGNATURES, png_chunk
from car.pictures.header import found_info, needs_jxl_decoder, open_by_pillow, texts
from car.pictures.metadata import LRInfo

_MOST_CHUNKS, _MOST_TEXT = 100_000, 2**20  # usual are chunks of 8 KB and more, and texts far below it


@dataclass(frozen=True)
class Header:
    """What a file says about itself, before its pixels are decoded.

    Attributes:
        size: (width, height), upright.
        bits: 8 or 16, of a sample as it will be read.
        info: the metadata of a small picture.
        damage: what is wrong with these, where `info` is None for that.
    """

    size: tuple[int, int]
    bits: int
    info: LRInfo | None = None
    damage: str | None = None

    @property
    def made_here(self) -> bool:
        """Whether `car downscale` made the file, even if its metadata is damaged."""
        return self.info is not None or self.damage is not None


def read_header(path: str | os.PathLike[str]) -> Header:
    """Return what a file says about itself, without decoding its pixels.

    Raises:
        ImageError: the file cannot be read.
    """
    path = Path(path)
    with one_line_errors(str(path), "cannot be read"):
        check_regular(path, str(path))
        with path.open("rb") as file:
            start = file.read(HEADER)
            if not start:
                raise ImageError(f"{path}: the file is empty")
            file.seek(0)
            if start[:4] in TIFF_SIGNATURES:  # Pillow does not know them all
                from car.pictures import tiff

                size, orientation, bits, text = tiff.header(file)
                return Header(_upright(size, orientation), bits, *found_info((text,)))
            bits = _bits(start)
            if needs_jxl_decoder(start):
                from car.pictures.coded import jxl_size

                return Header(jxl_size(start), bits)
            with open_by_pillow(file, str(path)) as image:
                size = image.size
                if image.format == "PNG":
                    image = open_by_pillow(_without_pixels(file), str(path))
                # of a PNG without it, Pillow would look behind the pixels, which are not there
                known = image.format != "PNG" or "exif" in image.info
                orientation = image.getexif().get(ORIENTATION) if known else 1
                return Header(_upright(size, orientation), bits, *found_info(texts(image)))


def _upright(size: tuple[int, int], orientation: Any) -> tuple[int, int]:
    return (size[1], size[0]) if orientation in (5, 6, 7, 8) else size


def _bits(start: bytes) -> int:
    if start[:8] == PNG_SIGNATURE:
        return 16 if start[24:25] == b"\x10" else 8
    if start[:3] == b"\xff\xd8\xff":
        return 8
    from car.pictures.coded import is_deep

    return 16 if is_deep(start) else 8


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
