"""Pictures larger than memory: strips are read from a file, pass through a model, and are written to a file.

TIFF and BigTIFF are read and written strip by strip. Other formats are read in strips if pyvips is
installed (extra ``stream``); without it they are decoded as a whole.
"""

import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from car.codec.codec import Codec, as_grey
from car.errors import ImageError, one_line_errors
from car.files.atomic import atomic_write
from car.pictures.exif import kept
from car.pictures.formats import check_room
from car.pictures.info import read_header
from car.pictures.picture import DEFAULT_MAX_PIXELS, Picture, check_size
from car.pictures.read import read
from car.pictures.write import write
from car.scaling import small_size

if TYPE_CHECKING:
    from car.pictures.strips import Strips

_COPIES = 6  # of its samples that a whole picture in work takes, roughly: array, decoder, results, encoder
_STRIP = 64  # rows of a strip of a TIFF that is written
_BIGTIFF = 2**32 - 2**26


class Done(NamedTuple):
    """The result of work on a file: sizes as (width, height), and notes for the user."""

    source_size: tuple[int, int]
    target_size: tuple[int, int]
    notes: tuple[str, ...]


def memory_at_hand() -> int:
    """Return half of the free memory in bytes; 2 GiB if the system does not report it."""
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
    """Return how many of `total` bytes remain for pictures, after the memory of the program itself."""
    try:
        used = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        used = 350 * 10**6
    return max(total - used, total // 4)


def memory_of(width: int, height: int, a_pixel: int) -> int:
    """Return the bytes of memory that work on a whole picture takes, roughly; a pixel has `a_pixel` bytes."""
    return width * height * a_pixel * _COPIES


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
    """Shrink a file as `Codec.shrink` does; strip by strip if the whole would need more than `memory`.

    Args:
        codec: its tile says how many rows are in memory at once.
        source: a picture file.
        target: a picture file.
        memory: bytes.
        max_pixels: larger pictures are refused.
        quality: see `car.pictures.write.write`.
        overwrite: whether `target` may be replaced.

    Raises:
        ImageError: a file cannot be read or written, or would take more than `memory` and cannot be read in
            strips.
    """
    header = read_header(source)
    width, height = header.size
    check_room(target, *small_size((width, height), codec.scale))  # before the work, which may take long
    need = memory_of(width, height, header.pixel_bytes)
    if need > memory:
        check_size(width, height, str(source), max_pixels)
        from car.pictures.strips import open_strips

        with open_strips(source) as strips:
            strips = "--effort needs the whole picture" if codec.options.effort else strips
            if isinstance(strips, str):
                raise ImageError(
                    f"{source}: {width}x{height} pixels take about {gigabytes(need)}, over "
                    f"{gigabytes(memory)}, and are not read in strips, because {strips}: raise --memory"
                )
            small = _shrink_strips(codec, strips)
            info = codec.info(width, height, grey=strips.grey)
            notes = small.notes + write(target, small, info=info, quality=quality, overwrite=overwrite)
            return Done((width, height), (small.width, small.height), notes)
    picture = read(source, max_pixels=max_pixels)
    small, info = codec.shrink(picture)
    notes = picture.notes + write(target, small, info=info, quality=quality, overwrite=overwrite)
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
    """Restore a picture to a file; strip by strip if the whole would need more than `memory`.

    Args:
        codec: its tile says how many rows are in memory at once.
        picture: the small picture.
        target: a picture file; to be written in strips it must be a TIFF.
        memory: bytes.
        size: (width, height), see `Codec.restore`.
        quality: see `car.pictures.write.write`.
        overwrite: whether `target` may be replaced.

    Raises:
        ImageError: the file cannot be written, or needs too much memory and cannot be written in strips.
        UsageError: see `Codec.restore`.
    """
    codec = codec.of(picture)
    (width, height), notes = codec.restored_size(picture, size)
    check_room(target, width, height)  # as above
    need = restored_memory(picture, width, height)
    if need > memory and (advice := in_no_strips(codec, picture, target.suffix, "restore to a .tif file")):
        raise ImageError(
            f"{target}: {width}x{height} pixels take about {gigabytes(need)}, over {gigabytes(memory)}; "
            + advice
        )
    if need <= memory:
        large = codec.restore(picture, size)
        notes = large.notes + write(target, large, quality=quality, overwrite=overwrite)
        return Done((picture.width, picture.height), (large.width, large.height), notes)
    if not overwrite and target.exists():
        raise ImageError(f"{target} exists; --overwrite replaces it")
    rows = codec.upscale_strips(
        lambda top, bottom: picture.pixels[top:bottom], picture.height, picture.width, (width, height)
    )
    grey = picture.grey or (picture.info is not None and picture.info.grey)
    if kept(picture.exif, codec.options.exif):
        notes += ("a picture that is restored in strips carries no EXIF",)
    with one_line_errors(str(target), "cannot be written"):
        _write_tiff(target, rows, (width, height), picture, grey=grey)
    return Done((picture.width, picture.height), (width, height), notes)


def restored_memory(picture: Picture, width: int, height: int) -> int:
    """Return roughly how many bytes of memory it takes to restore `picture` to this size as a whole."""
    channels = 3 if picture.alpha is None else 4
    return memory_of(width, height, channels * picture.pixels.itemsize)


def in_no_strips(codec: Codec, picture: Picture, suffix: str, how: str) -> str:
    """Return what to do if a picture cannot be restored in strips to a file of this suffix; empty if it can.

    Args:
        codec: the one that restores it.
        picture: the small picture.
        suffix: the suffix of the file.
        how: how to ask for a TIFF.
    """
    if picture.alpha is not None:
        return "raise --memory, as it has transparency and cannot be restored in strips"
    if codec.turned(picture) != 1:
        return "raise --memory, as it was turned and cannot be restored in strips"
    strips = suffix.lower().lstrip(".") in ("tif", "tiff")
    return "" if strips else f"{how}, which is written in strips, or raise --memory"


def gigabytes(count: int) -> str:
    """Return a number of bytes as text."""
    return f"{count / 1e9:.1f} GB of memory"


def _shrink_strips(codec: Codec, strips: "Strips") -> Picture:
    small = np.concatenate(list(codec.downscale_strips(strips.rows(), strips.height, strips.width)))
    notes = tuple(dict.fromkeys(strips.samples.notes))
    carried = kept(strips.samples.exif, codec.options.exif)
    return Picture(small, None, False, strips.samples.profile, None, notes, carried=carried)


def why_whole(source: Path) -> str:
    """Return why a file must be decoded as a whole; empty if it can be read in strips.

    Raises:
        ImageError: it cannot be read.
    """
    from car.pictures.strips import open_strips

    with open_strips(source) as strips:
        return strips if isinstance(strips, str) else ""


# --- writing ---------------------------------------------------------------------------------------------


def _write_tiff(
    target: Path, strips: Iterable[NDArray[Any]], size: tuple[int, int], like: Picture, *, grey: bool
) -> None:
    import tifffile

    width, height = size
    dtype = like.pixels.dtype

    def encoded() -> Iterator[bytes]:
        for strip in _regrouped(strips, width, height):
            rows = as_grey(strip)[:, :, 0] if grey else strip
            predicted = np.diff(rows, axis=1, prepend=rows.dtype.type(0))
            yield zlib.compress(predicted.tobytes(), 6)

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
