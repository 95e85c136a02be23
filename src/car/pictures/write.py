"""Pictures to files and PIL images, with the metadata that lets a small picture be restored.

Writing changes pixel values only if the format requires it, and then a note says so.
"""

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from car.errors import ImageError, one_line_errors
from car.files.atomic import atomic_write
from car.pictures import exif, png_file
from car.pictures.depth import Pixels, eight_bit
from car.pictures.formats import (
    DEFAULT_QUALITY,
    DESCRIPTION,
    FORMATS,
    check_room,
    check_suffix,
    coding_options,
    is_fine,
    is_lossy,
    made_for_loss,
    png_chunk,
)
from car.pictures.metadata import LRInfo
from car.pictures.picture import Picture, file_array


def write(
    path: str | os.PathLike[str],
    picture: Picture,
    *,
    info: LRInfo | None = None,
    quality: int | None = None,
    overwrite: bool = True,
) -> tuple[str, ...]:
    """Write a picture in the format of the name's suffix, whole or not at all.

    Args:
        path: the file; an existing one is replaced at the very end, or kept if `overwrite` is False.
        picture: 16-bit pixels stay 16-bit in PNG and TIFF and are rounded to 8 bit elsewhere.
        info: stored in the metadata, for small pictures.
        quality: 1 to 100 for JPEG, WebP (lossless without it) and AVIF; a note says if it has no effect.
        overwrite: whether an existing file may be replaced.

    Returns:
        Notes for the user on what was lost or cannot be stored.

    Raises:
        ImageError: the suffix is unknown, the format cannot hold the picture, or the file cannot be written.
    """
    path = Path(path)
    check_suffix(path)
    with one_line_errors(str(path), "cannot be written"):
        if not overwrite and path.exists():
            raise ImageError(f"{path} exists; --overwrite replaces it")
        data, notes = encode(picture, str(path), info=info, quality=quality)
        atomic_write(path, data)
    return notes


def encode(
    picture: Picture, name: str, *, info: LRInfo | None = None, quality: int | None = None
) -> tuple[bytes, tuple[str, ...]]:
    """Return what `write` would put into a file of this name, and its notes.

    Raises:
        ImageError: as `write`.
    """
    check_suffix(Path(name))
    check_room(Path(name), picture.width, picture.height)
    if quality is not None and not 1 <= quality <= 100:
        raise ImageError(f"{name}: quality must be from 1 to 100, not {quality}")
    with one_line_errors(name, "cannot be written"):
        return _encode(picture, FORMATS[Path(name).suffix.lower()], info, quality)


def to_pil(picture: Picture, *, info: LRInfo | None = None) -> Image.Image:
    """Return a PIL image; colour is 8-bit, as PIL has no deeper colour (16-bit grey without alpha stays).

    With `info`, its ``save`` stores the metadata in every format that can carry it.
    """
    array = file_array(picture)
    if array.dtype == np.uint16 and array.ndim == 3:
        array = eight_bit(array)
    image = Image.fromarray(array)
    if picture.icc is not None:
        image.info["icc_profile"] = picture.icc
    if picture.carried:
        image.info["exif"] = picture.carried
    if info is None:
        return image
    small = _SmallImage()
    small.__dict__.update(image.__dict__)
    small.info["car"] = info.to_text()
    return small


class _SmallImage(Image.Image):
    """A PIL image whose `save` writes the metadata; images derived from it are plain images."""

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None:
        """Save as PIL does, with the metadata of the small picture."""
        text = self.info.get("car")
        if text is None:
            return super().save(fp, format, **params)
        info = LRInfo.from_text(text)
        if info is None:
            return super().save(fp, format, **params)
        name = getattr(fp, "name", fp)
        suffix = Path(os.fsdecode(name)).suffix.lower() if isinstance(name, (str, bytes, os.PathLike)) else ""
        kind = (format or FORMATS.get(suffix, "")).upper()
        if "exif" in self.info and kind not in ("BMP", "GIF"):
            params.setdefault("exif", self.info["exif"])
        if kind == "PNG":
            params["pnginfo"] = _png_text(info, params.get("pnginfo"))
        elif kind == "JPEG":
            params.setdefault("comment", text.encode())
        elif kind in ("WEBP", "AVIF") or (kind == "TIFF" and "tiffinfo" not in params):
            params["exif"] = _described(info, params.get("exif"))
        elif kind == "TIFF":
            params["tiffinfo"] = _described_tags(text, params.get("tiffinfo"))
        if kind == "WEBP":
            params.setdefault("lossless", True)
        return super().save(fp, format, **params)


def _png_text(info: LRInfo, others: PngImagePlugin.PngInfo | None = None) -> PngImagePlugin.PngInfo:
    text = PngImagePlugin.PngInfo()
    if others is not None:
        text.chunks.extend(others.chunks)  # a copy: the caller may use them for other pictures
    text.add_text("car", info.to_text())
    return text


def _described(info: LRInfo, others: Any = None) -> bytes:
    """Return an EXIF block with the metadata as description, and the other tags of the caller."""
    exif = Image.Exif()
    if isinstance(others, bytes):
        exif.load(others)
    elif others is not None:
        exif.update(others)
    exif[DESCRIPTION] = info.to_text()
    return exif.tobytes()


def _described_tags(text: str, others: Any) -> Any:
    """Return TIFF tags with the metadata as description, and the other tags of the caller."""
    from PIL import TiffImagePlugin

    tags = TiffImagePlugin.ImageFileDirectory_v2() if others is None else others
    tags[DESCRIPTION] = text
    return tags


def _encode(
    picture: Picture, kind: str, info: LRInfo | None, quality: int | None
) -> tuple[bytes, tuple[str, ...]]:
    array, notes = file_array(picture), list[str]()
    trained_for_loss = info is not None and made_for_loss(info.model)
    if quality is not None and kind not in ("JPEG", "WEBP", "AVIF"):
        notes.append(f"{kind} has no quality: the setting was not used")
    if picture.icc is not None and kind in ("BMP", "GIF"):
        notes.append(f"{kind} cannot carry a colour profile: its colours may look different")
    if picture.carried and kind in ("BMP", "GIF"):
        notes.append(f"{kind} cannot carry EXIF: it was left out")
    if array.dtype == np.uint16:
        if kind == "PNG":
            return _encode_deep_png(array, picture, info), tuple(notes)
        if kind != "TIFF":
            array = eight_bit(array)
            notes.append(f"{kind} holds 8 bit: the picture was rounded from 16 bit")
    if kind == "TIFF":
        return _encode_tiff(array, picture, info), tuple(notes)
    if kind in ("JPEG", "BMP", "GIF") and picture.alpha is not None:
        array = _opaque(array, picture.alpha, kind)
    lossy = kind == "GIF" or is_lossy(f"x.{kind}", quality)
    if info and kind in ("BMP", "GIF"):
        notes.append(f"{kind} cannot carry metadata: name the model and the size to restore this picture")
    if info and lossy and not trained_for_loss and not is_fine(kind, quality or DEFAULT_QUALITY):
        notes.append(
            f"{kind} is lossy here; a small picture restores well from a lossless file only (PNG, WebP, TIFF)"
        )
    # small files are kept and sent: they are worth the time of the strongest compression
    chosen = coding_options(kind, quality, restored=trained_for_loss)
    chosen |= _carried(kind, picture, info)
    image = Image.fromarray(np.ascontiguousarray(array))
    if kind == "GIF" and image.getcolors(256) is None:
        notes.append("GIF holds 256 colours: the picture was reduced to them")
    if kind in ("WEBP", "AVIF") and image.mode in ("L", "LA"):
        image = image.convert("RGBA" if image.mode == "LA" else "RGB")
    buffer = io.BytesIO()
    image.save(buffer, kind, **chosen)
    return buffer.getvalue(), tuple(notes)


def _opaque(array: Pixels, alpha: Pixels, kind: str) -> Pixels:
    """Return the colours of a picture, which must have no transparent pixels."""
    if alpha.min() < np.iinfo(alpha.dtype).max:
        raise ImageError(f"{kind} cannot keep the transparency of this picture; PNG, WebP, AVIF and TIFF can")
    return array[:, :, :-1] if array.shape[2] == 4 else array[:, :, 0]


def _carried(kind: str, picture: Picture, info: LRInfo | None) -> dict[str, Any]:
    """Return the settings of Pillow that put a profile, EXIF and the metadata into a file."""
    plain = kind in ("BMP", "GIF")
    profile: dict[str, Any] = {} if picture.icc is None or plain else {"icc_profile": picture.icc}
    if picture.carried and not plain:
        profile["exif"] = picture.carried
    if kind == "PNG":
        profile["optimize"] = info is not None
    if info is None:
        return profile
    if kind == "PNG":
        return profile | {"pnginfo": _png_text(info)}
    if kind == "JPEG":
        return profile | {"comment": info.to_text().encode()}
    return profile | ({"exif": _described(info, picture.carried or None)} if kind in ("WEBP", "AVIF") else {})


def _encode_tiff(array: Pixels, picture: Picture, info: LRInfo | None) -> bytes:
    import tifffile

    buffer = io.BytesIO()
    colours = 1 if array.ndim == 2 or array.shape[2] < 3 else 3
    tifffile.imwrite(
        buffer,
        array,
        photometric="minisblack" if colours == 1 else "rgb",
        planarconfig="contig" if array.ndim == 3 else None,
        extrasamples=["unassalpha"] if picture.alpha is not None else None,
        compression="zlib",
        predictor=True,
        iccprofile=picture.icc,
        description=info.to_text() if info else None,
        metadata=None,
        byteorder="<",
    )
    return _with_exif(buffer.getvalue(), picture.carried, described=info is not None)


def _with_exif(content: bytes, carried: bytes, *, described: bool) -> bytes:
    """Return a TIFF with a new directory of tags at its end; tifffile cannot write those of EXIF.

    With `described`, the description in the file stays.
    """
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    if not carried or content[:4] != b"II*\0":  # a BigTIFF has offsets of another size
        return content
    made = bytearray(content)
    (at,) = struct.unpack_from("<I", made, 4)
    (count,) = struct.unpack_from("<H", made, at)
    rows = (bytes(made[at + 2 + 12 * n :][:12]) for n in range(count))
    entries = {struct.unpack_from("<H", row)[0]: row for row in rows}
    for tag, value in exif.parts(carried).items():
        if described and tag == DESCRIPTION:
            continue
        made += bytes(len(made) % 2)
        if isinstance(value, dict):
            entries[tag] = struct.pack("<HHII", tag, 4, 1, len(made))
            directory = ImageFileDirectory_v2(b"II*\0\x08\0\0\0", group=tag)
            directory.update(value)
            made += directory.tobytes(len(made))
        elif isinstance(value, (str, bytes)):
            text = value.encode("utf-8", "replace") + b"\0" if isinstance(value, str) else value
            kind = 2 if isinstance(value, str) else 1
            where = text.ljust(4, b"\0") if len(text) <= 4 else len(made).to_bytes(4, "little")
            entries[tag] = struct.pack("<HHI", tag, kind, len(text)) + where
            made += text if len(text) > 4 else b""
        elif isinstance(value, int) and 0 <= value < 2**16:
            entries[tag] = struct.pack("<HHIHH", tag, 3, 1, value, 0)
    made += bytes(len(made) % 2)
    struct.pack_into("<I", made, 4, len(made))
    table = b"".join(row for _, row in sorted(entries.items()))
    return bytes(made) + struct.pack("<H", len(entries)) + table + bytes(4)


def _encode_deep_png(array: Pixels, picture: Picture, info: LRInfo | None) -> bytes:
    chunks = b""
    if picture.icc is not None:
        chunks += png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(picture.icc))
    if picture.carried:
        chunks += png_chunk(b"eXIf", picture.carried.removeprefix(b"Exif\0\0"))
    if info:
        chunks += png_chunk(b"tEXt", b"car\0" + info.to_text().encode())
    return png_file.encode_deep(array, chunks)
