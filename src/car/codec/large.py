"""Pictures that are larger than the memory for them: strips from a file, through a model, into a file.

TIFF and BigTIFF are read and written strip by strip. Other formats are read so where pyvips is installed
(extra ``stream``); without it they are decoded as a whole.
"""

import importlib.util
import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from car.codec.codec import Codec, as_grey
from car.errors import ImageError
from car.files.atomic import MAX_FILE_BYTES, atomic_write
from car.pictures.images import (
    DEFAULT_MAX_PIXELS,
    Picture,
    check_size,
    check_tiff_tiles,
    checked_profile,
    header_size,
    one_line_errors,
    read,
    write,
)

_WHOLE = 16  # bytes a pixel of 8 bit while a whole picture is read or written: array, Pillow's copy, encoder
_STRIP = 64  # rows of a strip of a TIFF that is written
_BLOCK = 256  # rows that are asked of pyvips at once
_BIGTIFF = 2**32 - 2**26
_ICC_TAG, _TURN_TAG = 34675, 274


@dataclass(frozen=True)
class Done:
    """What became of a file: sizes as (width, height), and notes for the user."""

    source_size: tuple[int, int]
    target_size: tuple[int, int]
    notes: tuple[str, ...]


def memory_at_hand() -> int:
    """Return half of the memory that is free, in bytes, as far as the system tells; else 2 GiB."""
    limits = [Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")]
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 2 * 2**30
    try:
        # what the kernel keeps of files can be had back, but MemAvailable is Linux's alone
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
        largest, used = (int(path.read_text()) for path in limits)
        free = min(free, largest - used)
    except (OSError, ValueError, StopIteration):
        pass  # no such system, or no limit
    return max(free // 2, 64 * 2**20)


def memory_besides(total: int) -> int:
    """Return what is left of `total` bytes for pictures, beside what the program itself takes by now."""
    try:
        used = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        used = 350 * 10**6
    return max(total - used, total // 4)


def shrink_file(
    codec: Codec,
    source: Path,
    target: Path,
    *,
    memory: int,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    quality: int | None = None,
    overwrite: bool = True,
) -> Done:
    """Shrink a file as `Codec.shrink` does, strip by strip where the whole would take more than `memory`.

    Args:
        codec: its tile says how many rows are in memory at once.
        source: a picture file.
        target: a picture file.
        memory: bytes.
        max_pixels: larger pictures are refused.
        quality: see `car.pictures.images.write`.
        overwrite: whether `target` may be replaced.

    Raises:
        ImageError: a file cannot be read or written.
    """
    reason = ""
    width, height = header_size(source)
    if width * height * _WHOLE > memory and not codec.effort:
        check_size(width, height, str(source), max_pixels)
        with _open_strips(source) as strips:
            if isinstance(strips, _Strips):
                small, notes = _shrink_strips(codec, strips)
                info = codec.info(width, height, grey=strips.grey)
                notes += write(target, small, info=info, quality=quality, overwrite=overwrite)
                return Done((width, height), (small.width, small.height), notes)
            reason = f"read as a whole, as {strips}"
    picture = read(source, max_pixels=max_pixels)
    small, info = codec.shrink(picture)
    notes = (*picture.notes, *([reason] if reason else []))
    notes += write(target, small, info=info, quality=quality, overwrite=overwrite)
    return Done((picture.width, picture.height), (small.width, small.height), notes)


def restore_file(
    codec: Codec,
    picture: Picture,
    target: Path,
    *,
    memory: int,
    size: tuple[int, int] | None = None,
    quality: int | None = None,
    overwrite: bool = True,
) -> Done:
    """Restore a picture to a file, strip by strip where the whole would take more than `memory`.

    Args:
        codec: its tile says how many rows are in memory at once.
        picture: the small picture.
        target: a picture file; to be written in strips it must be a TIFF.
        memory: bytes.
        size: (width, height), see `Codec.restore`.
        quality: see `car.pictures.images.write`.
        overwrite: whether `target` may be replaced.

    Raises:
        ImageError: the file cannot be written, or the whole is too much for a format without strips.
        UsageError: see `Codec.restore`.
    """
    (width, height), notes = codec.restored_size(picture, size)
    need = width * height * _WHOLE * picture.pixels.itemsize
    strips = target.suffix.lower() in (".tif", ".tiff")
    if need > memory and not strips:
        raise ImageError(
            f"{target}: {width}x{height} pixels take about {gigabytes(need)}, over {gigabytes(memory)}; "
            "restore to a .tif file, which is written in strips, or raise --memory"
        )
    if need <= memory or picture.alpha is not None or codec.turned(picture) != 1:
        large = codec.restore(picture, size)
        notes = large.notes + write(target, large, quality=quality, overwrite=overwrite)
        return Done((picture.width, picture.height), (large.width, large.height), notes)
    if not overwrite and target.exists():
        raise ImageError(f"{target} exists; --overwrite replaces it")
    rows = codec.upscale_strips(lambda top, bottom: picture.pixels[top:bottom], picture.height, picture.width)
    grey = picture.grey or (picture.info is not None and picture.info.grey)
    with one_line_errors(str(target), "cannot be written"):
        _write_tiff(target, rows, (width, height), picture, grey=grey)
    return Done((picture.width, picture.height), (width, height), notes)


def gigabytes(count: int) -> str:
    """Say a number of bytes."""
    return f"{count / 1e9:.1f} GB of memory"


# --- reading ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Strips:
    """An open picture: blocks of rows ``[n, width, 1 or 3]``, uint8 or uint16, from the top."""

    width: int
    height: int
    grey: bool
    icc: bytes | None
    notes: tuple[str, ...]
    blocks: Iterator[NDArray[Any]]


class _RowBuffer:
    """Give any rows of a picture that comes once, from the top, as long as the asking moves downwards."""

    def __init__(self, blocks: Iterator[NDArray[Any]]) -> None:
        self._blocks = blocks
        self._kept: list[NDArray[Any]] = []
        self._top = 0  # of what is kept

    def __call__(self, top: int, bottom: int) -> NDArray[Any]:
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


def _shrink_strips(codec: Codec, strips: _Strips) -> tuple[Picture, tuple[str, ...]]:
    rows = _RowBuffer(strips.blocks)
    small = np.concatenate(list(codec.downscale_strips(rows, strips.height, strips.width)))
    return Picture(small, None, False, strips.icc, None, ()), strips.notes


@contextmanager
def _open_strips(path: Path) -> Generator["_Strips | str", None, None]:
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


def _tiff_strips(file: tifffile.TiffFile) -> _Strips | str:
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
    return _Strips(page.imagewidth, page.imagelength, colours == 1, icc, tuple(notes), blocks)


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


def _vips_strips(path: Path) -> _Strips | str:
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

    return _Strips(image.width, image.height, image.bands == 1, icc, tuple(notes), blocks())


# --- writing ---------------------------------------------------------------------------------------------


def _write_tiff(
    target: Path, strips: Iterable[NDArray[Any]], size: tuple[int, int], like: Picture, *, grey: bool
) -> None:
    width, height = size
    dtype = like.pixels.dtype

    def encoded() -> Iterator[bytes]:
        for strip in _regrouped(strips, width, height):
            rows = as_grey(strip)[:, :, 0] if grey else strip
            predicted: Any = imagecodecs.delta_encode(rows, axis=1)
            yield bytes(imagecodecs.deflate_encode(predicted, level=6))

    def save(file: BinaryIO) -> None:
        tifffile.imwrite(
            file,
            encoded(),
            shape=(height, width) if grey else (height, width, 3),
            dtype=dtype,
            bigtiff=width * height * (1 if grey else 3) * dtype.itemsize > _BIGTIFF,
            rowsperstrip=_STRIP,
            photometric="minisblack" if grey else "rgb",
            planarconfig=None if grey else "contig",
            compression="zlib",
            predictor=True,
            iccprofile=None if grey else like.icc,
            metadata=None,
        )

    atomic_write(target, save)


def _regrouped(strips: Iterable[NDArray[Any]], width: int, height: int) -> Iterator[NDArray[Any]]:
    """Cut strips to the picture's size, in pieces of `_STRIP` rows."""
    rest: NDArray[Any] | None = None
    done = 0
    for strip in strips:
        rows = strip[: height - done, :width]
        done += len(rows)
        rest = rows if rest is None or not len(rest) else np.concatenate([rest, rows])
        whole = len(rest) // _STRIP * _STRIP
        for top in range(0, whole, _STRIP):
            yield np.ascontiguousarray(rest[top : top + _STRIP])
        rest = rest[whole:]
    if rest is not None and len(rest):
        yield np.ascontiguousarray(rest)
