"""Rows of a picture file from the top, without the whole in memory.

TIFF and BigTIFF are read strip by strip, other formats where pyvips is installed (extra ``stream``).
"""

import importlib.util
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from car.errors import ImageError
from car.files.atomic import MAX_FILE_BYTES
from car.pictures.picture import one_line_errors
from car.pictures.read import check_tiff_tiles, checked_profile

_BLOCK = 256  # rows that are asked of pyvips at once
_ICC_TAG, _TURN_TAG = 34675, 274


@dataclass(frozen=True)
class Strips:
    """An open picture: blocks of rows ``[n, width, 1 or 3]``, uint8 or uint16, from the top."""

    width: int
    height: int
    grey: bool
    icc: bytes | None
    notes: tuple[str, ...]
    blocks: Iterator[NDArray[Any]]


class RowBuffer:
    """Give any rows of a picture that comes once, from the top, as long as the asking moves downwards."""

    def __init__(self, blocks: Iterator[NDArray[Any]]) -> None:
        self._blocks = blocks
        self._kept: list[NDArray[Any]] = []
        self._top = 0  # of what is kept

    def __call__(self, top: int, bottom: int) -> NDArray[Any]:
        """Return rows ``[bottom - top, width, 3]``; neither number may be smaller than in the call before."""
        while self._kept and self._top + len(self._kept[0]) <= top:
            self._top += len(self._kept.pop(0))
        have = self._top + sum(map(len, self._kept))
        while have < bottom:
            block = next(self._blocks, None)
            if block is None:
                raise ImageError("the picture ends before its last row")
            if have + len(block) <= top:
                self._top += len(block)
            else:
                self._kept.append(np.repeat(block, 3, axis=2) if block.shape[2] == 1 else block)
            have += len(block)
        return np.concatenate(self._kept)[top - self._top : bottom - self._top]


@contextmanager
def open_strips(path: Path) -> Generator["Strips | str", None, None]:
    """Open a picture for reading from the top, or give the reason why it must be decoded as a whole.

    Raises:
        ImageError: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(4)
    with one_line_errors(str(path), "cannot be read"):
        if start[:2] in (b"II", b"MM"):
            with tifffile.TiffFile(path) as file:
                yield _tiff_strips(file)
        elif importlib.util.find_spec("pyvips") is None:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise ImageError(f"{path.stat().st_size} bytes are over the limit of {MAX_FILE_BYTES}")
            yield "pyvips, which reads other formats than TIFF in strips, is not installed"
        else:
            yield _vips_strips(path)


def _tiff_strips(file: tifffile.TiffFile) -> Strips | str:
    page: Any = file.pages.first
    check_tiff_tiles(page)
    kinds = tifffile.PHOTOMETRIC
    colours = {kinds.RGB: 3, kinds.MINISBLACK: 1, kinds.MINISWHITE: 1}.get(page.photometric)
    turned = page.tags.valueof(_TURN_TAG, default=1) != 1
    for bad, why in (
        (
            colours is None or page.samplesperpixel != colours,
            "only grey and RGB without alpha come in strips",
        ),
        (page.dtype not in (np.uint8, np.uint16), "only 8 and 16 bit come in strips"),
        (page.bitspersample not in (8, 16), "only 8 and 16 bit come in strips"),
        (page.planarconfig != tifffile.PLANARCONFIG.CONTIG and colours != 1, "its colours are stored apart"),
        (turned, "it is stored turned"),
        (page.imagedepth != 1, "it has depth"),
        (not page.is_tiled and page.rowsperstrip > max(4096, page.imagelength // 8), "it is one strip"),
    ):
        if bad:
            return why
    notes: list[str] = ["only the first of several frames is used"] if len(file.pages) > 1 else []
    icc = checked_profile(page.tags.valueof(_ICC_TAG), "RGB" if colours == 3 else "GRAY", notes)
    if icc is not None and colours == 1:
        notes.append("its grey colour profile was dropped")
        icc = None
    inverted = np.iinfo(page.dtype).max if page.photometric == kinds.MINISWHITE else None
    blocks = _tiff_blocks(page, inverted)
    return Strips(page.imagewidth, page.imagelength, colours == 1, icc, tuple(notes), blocks)


def _tiff_blocks(page: Any, inverted: int | None) -> Iterator[NDArray[Any]]:
    row: NDArray[Any] | None = None
    top = 0
    for data, (_, _, y, x, _), shape in page.segments(maxworkers=1):
        height = shape[1]
        if row is None or y != top:
            if row is not None:
                yield row
            row, top = np.zeros((min(height, page.imagelength - y), page.imagewidth, shape[3]), page.dtype), y
        if data is not None:  # None stands for a segment that was left out, which is black
            part = data[0, : len(row), : page.imagewidth - x]
            row[:, x : x + part.shape[1]] = part if inverted is None else inverted - part
    if row is not None:
        yield row


def _vips_strips(path: Path) -> Strips | str:
    import pyvips

    image: Any = pyvips.Image.new_from_file(str(path), access="sequential", fail_on="truncated")
    kinds = {"b-w": 1, "grey16": 1, "srgb": 3, "rgb": 3, "rgb16": 3}
    fields = image.get_fields()
    turned = "orientation" in fields and image.get("orientation") != 1
    for bad, why in (
        (kinds.get(image.interpretation) != image.bands, "only grey and RGB without alpha come in strips"),
        (image.format not in ("uchar", "ushort"), "only 8 and 16 bit come in strips"),
        (turned, "it is stored turned"),
        ("n-pages" in fields and image.get("n-pages") > 1, "it has several frames"),
    ):
        if bad:
            return why
    notes: list[str] = []
    profile = image.get("icc-profile-data") if "icc-profile-data" in fields else None
    icc = checked_profile(profile, "RGB" if image.bands == 3 else "GRAY", notes)
    if icc is not None and image.bands == 1:
        return "it is grey with a colour profile"
    dtype = np.uint8 if image.format == "uchar" else np.uint16

    def blocks() -> Iterator[NDArray[Any]]:
        region = pyvips.Region.new(image)
        for top in range(0, image.height, _BLOCK):
            count = min(_BLOCK, image.height - top)
            data: Any = region.fetch(0, top, image.width, count)
            yield np.frombuffer(data, dtype).reshape(count, image.width, image.bands)

    return Strips(image.width, image.height, image.bands == 1, icc, tuple(notes), blocks())
