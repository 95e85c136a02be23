"""Formats of picture files: suffixes, tags, and settings of encoders."""

import os
import struct
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from car.errors import ImageError, did_you_mean
from car.families import made_for

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WEBP",
    ".avif": "AVIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".gif": "GIF",
}
"""The formats that are written, by suffix."""
_HEIC_SUFFIXES = {".heic", ".heif", ".hif"}
_FOUND = frozenset(FORMATS) | {".jp2", ".j2k", ".jxl", ".mpo"}
INPUT_SUFFIXES = _FOUND | _HEIC_SUFFIXES if find_spec("pillow_heif") else _FOUND
"""Suffixes of the pictures that are found in folders."""
_RAW = "3fr arw cr2 cr3 crw dcr dng erf iiq kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf srw x3f"
_MORE = "ai bpg cin dds djvu dpx emf eps exr fits hdr heic heif hif ico jls jpx j2c jpm jxr pbm pcx"
_DRAWN = "pdf pfm pgm pict pnm ppm psb psd qoi sgi svg svgz tga wdp wmf xbm xcf xpm"
UNREAD_SUFFIXES = frozenset(f".{name}" for name in f"{_RAW} {_MORE} {_DRAWN}".split()) - INPUT_SUFFIXES
"""Suffixes of other pictures, which are left out."""
DESCRIPTION, ORIENTATION, ICC = 0x010E, 0x0112, 34675  # tags of EXIF and TIFF
HEADER = 2**17  # bytes of a file in which its headers are
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
JXL_CODESTREAM = b"\xff\x0a"
_JXL = (JXL_CODESTREAM, b"\x00\x00\x00\x0cJXL \r\n\x87\n")
_HEIC = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"hevx", b"mif1", b"msf1")
FIRST_FRAME = "only the first of several frames is used"


def check_suffix(path: Path) -> None:
    """Raise `ImageError` unless pictures can be written under this file name."""
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ImageError(f"{path}: unknown picture format {path.suffix!r}{did_you_mean(suffix, FORMATS)}")


_MOST = {"WEBP": 16383, "JPEG": 65500, "AVIF": 65536, "GIF": 65535}  # pixels a side


def check_room(path: Path, width: int, height: int) -> None:
    """Raise `ImageError` if the format of this file name cannot hold so many pixels a side."""
    kind = FORMATS.get(path.suffix.lower(), "")
    most = _MOST.get(kind, width + height)
    if max(width, height) > most:
        raise ImageError(
            f"{path}: {kind} holds at most {most} pixels a side, not {width}x{height}; write PNG or TIFF"
        )


def is_jxl(content: bytes) -> bool:
    """Return whether a file is JPEG XL."""
    return content.startswith(_JXL)


def is_heic(content: bytes) -> bool:
    """Return whether a file is HEIC, and not AVIF."""
    return content[4:8] == b"ftyp" and content[8:12] in _HEIC and b"avif" not in content[:64]


DEFAULT_QUALITY = 95
"""Default quality of other pictures in JPEG and AVIF."""
SMALL_QUALITY = 75
"""Default quality of small pictures in JPEG and AVIF whose model was trained for lossy files."""


def made_for_loss(model: str) -> bool:
    """Return whether the model called `model` was made for lossy files."""
    return made_for(model) == "lossy"


_FINE = {"JPEG": 95, "AVIF": 90}
_FINE_STEPS = 12  # the largest number in JPEG's usual tables for luma (ITU-T T.81, annex K) of quality 95


def is_fine(kind: str, quality: int) -> bool:
    """Return whether a lossy coder of this quality loses little, so that models for lossless files suit it.

    They then restore better for their bytes: on photographs held out, 2x, 40.1 dB as JPEG of quality 98, and
    36.0 dB by the models for lossy files, which were trained for lower qualities.
    """
    return quality >= _FINE.get(kind, 101)


def is_fine_file(kind: str, content: bytes, tables: dict[int, Any] | None = None) -> bool:
    """Return whether a JPEG with these tables, or a small AVIF with this content, is fine; see `is_fine`."""
    if kind == "AVIF":  # from this quality on, `coding_options` gives colours their full resolution
        at = content.find(b"av1C", 0, HEADER)
        return 0 < at < len(content) - 6 and not content[at + 6] & 0x0C
    return bool(tables) and 0 in tables and max(tables[0]) <= _FINE_STEPS


def coding_options(kind: str, quality: int | None, *, restored: bool = False) -> dict[str, Any]:
    """Return Pillow's options to save a picture as JPEG, WebP or AVIF; none for other formats.

    Args:
        kind: Pillow's name of the format.
        quality: 1 to 100; by default 95, and lossless for WebP. Below 90, colours have half the resolution
            (4:2:0).
        restored: whether it is a small picture of a model made for lossy files. Its JPEG then has other
            tables, its AVIF is coded for squared error, and the default quality is `SMALL_QUALITY`.
    """
    if kind == "WEBP":
        return {"lossless": True, "exact": True} if quality is None else {"quality": quality, "method": 5}
    quality = quality or (SMALL_QUALITY if restored else DEFAULT_QUALITY)
    subsampling = "4:4:4" if quality >= 90 else "4:2:0"
    if kind == "JPEG":
        how = {"qtables": _restored_jpeg_steps(quality)} if restored else {"quality": quality}
        return how | {"subsampling": subsampling, "optimize": True}
    if kind == "AVIF":
        return {"quality": quality, "subsampling": subsampling} | (_restored_avif() if restored else {})
    return {}


def _restored_avif() -> dict[str, Any]:
    """Return options of libaom for small AVIFs that restore better at the same bytes; none for other codecs.

    By default, libaom makes the file look similar at its own size. A slower speed than its usual 6 is
    affordable, because the picture is small.
    """
    from PIL import AvifImagePlugin

    # only libaom has a setting of this name; other codecs refuse it
    known = AvifImagePlugin.get_codec_version("aom") is not None
    return {"codec": "aom", "speed": 5, "advanced": {"tune": "psnr"}} if known else {}


def _restored_jpeg_steps(quality: int) -> list[list[int]]:
    """Return JPEG's tables, of luma and of colours, for small pictures that a network restores.

    The usual tables (ITU-T T.81, annex K) code fine detail coarsely, because the eye hardly sees it. But the
    fine detail of a small picture is coarse detail of the large one, so these tables are flatter. They scale
    with quality like the usual ones, and make files smaller by a sixth to a third at the same quality.
    """
    percent = 5000 / quality if quality < 50 else 200 - 2 * quality
    frequencies = [row + column for row in range(8) for column in range(8)]
    tables = [22 + 3.5 * f for f in frequencies], [min(60 + 7 * f, 140) for f in frequencies]
    return [[min(max(round(step * percent / 100), 1), 255) for step in table] for table in tables]


def format_of(name: str | os.PathLike[str]) -> str:
    """Return Pillow's name of the format with the suffix of this file; empty if unknown."""
    return FORMATS.get(Path(name).suffix.lower(), "")


def is_lossy(name: str | os.PathLike[str], quality: int | None) -> bool:
    """Return whether `write` with this `quality` writes a lossy file under this name."""
    kind = format_of(name)
    return kind in ("JPEG", "AVIF") or (kind == "WEBP" and quality is not None)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG file with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
