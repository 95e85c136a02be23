"""Rows of a picture file from the top, without the whole in memory.

TIFF and BigTIFF are read strip by strip, other formats if pyvips is installed (extra ``stream``).
"""

import importlib.util
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from car.errors import ImageError, reading_errors
from car.files.atomic import MAX_FILE_BYTES
from car.pictures import coded, exif, tiff
from car.pictures.depth import Pixels
from car.pictures.faults import JPEG_SIGNATURE, jpeg_fault
from car.pictures.header import open_by_pillow
from car.pictures.picture import is_grey
from car.pictures.read import header_samples
from car.pictures.rows import RowBuffer
from car.pictures.samples import Samples

_BLOCK = 256  # rows that are asked of pyvips at once


@dataclass
class Strips:
    """An open picture: blocks of rows RGB ``[n, width, 3]``, uint8 or uint16, from the top.

    Attributes:
        width: columns.
        height: rows.
        samples: description of the samples; profile and notes are known after the first block.
        blocks: of rows.
        grey: whether all rows read so far are grey.
    """

    width: int
    height: int
    samples: Samples
    blocks: Iterator[Pixels]
    grey: bool = True

    def rows(self) -> "RowBuffer":
        """Return a `RowBuffer` of the rows."""
        return RowBuffer(self._watched())

    def _watched(self) -> Iterator[Pixels]:
        for block in self.blocks:
            self.grey = self.grey and is_grey(block)
            yield block


@contextmanager
def open_strips(path: Path) -> Generator["Strips | str", None, None]:
    """Open a picture for reading from the top, or yield the reason why it must be decoded as a whole.

    Raises:
        ImageError: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(4)
    with reading_errors(str(path)):
        if start[:2] in (b"II", b"MM"):
            with tifffile.TiffFile(path) as file:
                found = _tiff_strips(file)
                if isinstance(found, Strips):
                    found.samples.exif = exif.of_tiff(path)
                yield found
        elif importlib.util.find_spec("pyvips") is None:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise ImageError(f"{path.stat().st_size} bytes are over the limit of {MAX_FILE_BYTES}")
            yield "pyvips, which reads other formats than TIFF in strips, is not installed"
        else:
            yield _vips_strips(path)


def _tiff_strips(file: tifffile.TiffFile) -> Strips | str:
    notes: list[str] = []
    page: Any = tiff.main_page(file, notes)
    tiff.check_tiles(page)
    if tiff.only_pillow_knows(page):
        return "only Pillow knows its kind"
    tiff.check_page(page, notes)
    samples = tiff.page_samples(page, notes)
    contig = page.planarconfig == tifffile.PLANARCONFIG.CONTIG
    for bad, why in (
        (tiff.alpha(page) is not None, "it has transparency"),
        (page.dtype not in (np.uint8, np.uint16), "only integers of 8 and 16 bits can be"),
        (not contig and page.samplesperpixel > 1, "its colours are stored apart"),
        (samples.orientation in range(2, 9), "it is stored turned"),
        (
            not page.is_tiled and page.rowsperstrip > max(4096, page.imagelength // 8),
            "it is stored in one piece",
        ),
    ):
        if bad:
            return why
    blocks = (samples.rows(tiff.pick(page, block, notes))[0] for block in _tiff_blocks(page))
    return Strips(page.imagewidth, page.imagelength, samples, blocks)


def _tiff_blocks(page: Any) -> Iterator[Pixels]:
    row: Pixels | None = None
    top = 0
    for data, (_, _, y, x, _), shape in page.segments(maxworkers=1):
        height = shape[1]
        if row is None or y != top:
            if row is not None:
                yield row
            row, top = np.zeros((min(height, page.imagelength - y), page.imagewidth, shape[3]), page.dtype), y
        if data is not None:  # None stands for a segment of zeros that was left out of the file
            part = data[0, : len(row), : page.imagewidth - x]
            row[:, x : x + part.shape[1]] = part
    if row is not None:
        yield row


def _vips_strips(path: Path) -> Strips | str:
    import pyvips

    samples = header_samples(path)
    reading: dict[str, Any] = {"access": "sequential", "fail_on": "truncated"}
    notes: list[str] = []
    try:
        with path.open("rb") as file:
            jpeg = file.read(len(JPEG_SIGNATURE)) == JPEG_SIGNATURE
        if jpeg:
            image: Any = pyvips.Image.new_from_buffer(_checked_jpeg(path, notes), "", **reading)
        else:
            # not by its name: libvips would give what the file held when it was read before
            image = pyvips.Image.new_from_source(pyvips.Source.new_from_file(str(path)), "", **reading)
    except pyvips.Error:
        return "this installation of libvips does not read its format"
    kinds = {"b-w": 1, "grey16": 1, "srgb": 3, "rgb": 3, "rgb16": 3}
    fields = image.get_fields()
    for bad, why in (
        (kinds.get(image.interpretation) != image.bands, "only grey and RGB without alpha can be"),
        (image.format not in ("uchar", "ushort"), "only 8 and 16 bits can be"),
        ("orientation" in fields and image.get("orientation") != 1, "it is stored turned"),
        ("n-pages" in fields and image.get("n-pages") > 1, "it has several frames"),
        (samples is None or samples.bits, "libvips reads its kind differently"),
    ):
        if bad:
            return why
    assert samples is not None
    if image.get("vips-loader").startswith("heifload"):
        return Strips(image.width, image.height, samples, _by_pillow(path, samples))
    samples.notes += notes
    samples.kind = "GRAY" if image.bands == 1 else "RGB"
    dtype = np.uint8 if image.format == "uchar" else np.uint16

    def blocks() -> Iterator[Pixels]:
        region = pyvips.Region.new(image)
        for top in range(0, image.height, _BLOCK):
            count = min(_BLOCK, image.height - top)
            data: Any = region.fetch(0, top, image.width, count)
            array = np.frombuffer(data, dtype).reshape(count, image.width, image.bands)
            yield samples.rows(array)[0]

    return Strips(image.width, image.height, samples, blocks())


def _by_pillow(path: Path, samples: Samples) -> Iterator[Pixels]:
    """Yield the rows of an AVIF as Pillow decodes them.

    libheif decodes the whole picture too, but interpolates colours otherwise: by up to 40 levels.
    """
    with path.open("rb") as file, open_by_pillow(file, str(path)) as image:
        array = np.asarray(image)
    samples.kind = "GRAY" if array.ndim == 2 else "RGB"
    for top in range(0, len(array), _BLOCK):
        yield samples.rows(array[top : top + _BLOCK])[0]


def _checked_jpeg(path: Path, notes: list[str]) -> bytes:
    """Return the content of a JPEG, with its end if that is missing; add a note on what is wrong with it.

    Raises:
        ImageError: pixels are missing.
    """
    content = path.read_bytes()
    if coded.lacks_end(content):
        completed = coded.completed_jpeg(content)
        if completed is None:
            raise ImageError(f"{path}: {jpeg_fault(content)}")
        notes.append(coded.COMPLETED)
        return completed
    if coded.is_damaged_jpeg(content):
        notes.append(coded.DAMAGED)
    return content
