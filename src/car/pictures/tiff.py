"""TIFF and BigTIFF: which page is the picture, and its samples."""

import bisect
import io
import math
import struct
from collections import ChainMap, Counter
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import tifffile
from PIL import Image

from car.errors import ImageError
from car.pictures import coded, exif
from car.pictures.depth import Pixels
from car.pictures.formats import DESCRIPTION, FIRST_FRAME, ICC, ORIENTATION
from car.pictures.header import Header, found_info, no_pillow_limit, upright_size
from car.pictures.picture import MAX_DECODED_BYTES, Picture, check_size
from car.pictures.samples import COLOURS, Samples

_KINDS = {
    tifffile.PHOTOMETRIC.MINISWHITE: "GRAY",
    tifffile.PHOTOMETRIC.MINISBLACK: "GRAY",
    tifffile.PHOTOMETRIC.RGB: "RGB",
    tifffile.PHOTOMETRIC.PALETTE: "RGB",
    tifffile.PHOTOMETRIC.YCBCR: "RGB",  # its decoder returns RGB
    tifffile.PHOTOMETRIC.SEPARATED: "CMYK",
    tifffile.PHOTOMETRIC.CIELAB: "LAB",
    tifffile.PHOTOMETRIC.ICCLAB: "LAB",
}
_RAW = (tifffile.PHOTOMETRIC.CFA, tifffile.PHOTOMETRIC.LINEAR_RAW)
_ALPHA = (tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA)
_GIVES_RGB = (tifffile.COMPRESSION.JPEG, tifffile.COMPRESSION.WEBP, tifffile.COMPRESSION.JPEGXL)
_FAX = (tifffile.COMPRESSION.CCITTRLE, tifffile.COMPRESSION.CCITT_T4, tifffile.COMPRESSION.CCITT_T6)
_BY_LIBTIFF = (tifffile.COMPRESSION.JPEG, *_FAX)  # Pillow decodes them so, up to 8 bit, where tifffile cannot
_TAIL = 16  # last bytes of a strip; writers add fewer than that
_END = b"\xff\xd9"  # of a JPEG
_EARLY = "a strip or tile is damaged, or ends too soon: its last rows are not in the file"
_ONES, _NOISE = b"\xff" * 300, np.random.default_rng(1).bytes(300)  # ones: rows like the row above
_EXTRA_CHANNELS = "channels that are neither colour nor transparency were dropped"
_EXTRAS = 338
_AT_CR2, _CR2 = 8, b"CR\2\0"  # Canon's raw files say it here; nothing in their pages names a colour filter
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_MOST_PAGES = 16  # pages that are looked at: a preview lies before its picture, or in a sub-page of it
_PREVIEW = 4  # a page is a preview if another of the same shape has this many times its pixels
_MAX_TILE_EXCESS = 256 * 2**20  # bytes by which a tile may exceed its picture
_MAX_CHANNELS = 16  # a few bytes can claim 65,535 samples a pixel


def _unpacked_lzw(data: bytes, out: int) -> bytes:
    """Unpack LZW into `out` bytes, by libtiff, as if they were a row of grey pixels."""
    tags = {256: out, 257: 1, 258: 8, 259: 5, 262: 1, 273: 0, 277: 1, 278: 1, 279: len(data)}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    row = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + bytes(data)
    with no_pillow_limit(), Image.open(io.BytesIO(row), formats=["TIFF"]) as image:
        return image.tobytes()


class _Decoders(ChainMap[int, Any]):
    """The decoders of tifffile, and one for LZW."""

    def __missing__(self, key: int) -> Any:
        return self.maps[-1][key]  # its error says what is missing


_OWN_LZW = tifffile.COMPRESSION.LZW not in tifffile.TIFF.DECOMPRESSORS  # imagecodecs is not installed
if _OWN_LZW:
    own = {tifffile.COMPRESSION.LZW: _unpacked_lzw}
    tifffile.TIFF.DECOMPRESSORS = _Decoders(own, tifffile.TIFF.DECOMPRESSORS)  # pyright: ignore


def decode(content: bytes, name: str, max_pixels: int) -> Picture | list[str]:
    """Decode the content of a TIFF. Where only Pillow knows its kind, return notes for the user instead.

    Raises:
        ImageError: see `car.pictures.read.read`.
    """
    notes: list[str] = []
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page = main_page(file, notes)
        check_tiles(page)
        if page is file.pages.first and only_pillow_knows(page):
            return _notes_of_jpeg(page)
        check_size(*page_size(page), name, max_pixels)
        check_page(page, notes)
        array = pick(page, page_array(page), notes)
        samples = page_samples(page, notes)
        if any(tag in page.tags for tag in exif.SIGNS):  # Pillow warns of damage elsewhere in the file
            samples.exif = exif.of_tiff(io.BytesIO(content))
        return samples.picture(array)


def header(file: BinaryIO) -> Header:
    """Return the header of a TIFF."""
    with tifffile.TiffFile(file) as opened:
        page = main_page(opened, [])
        tags, deep = page.tags, sample_bytes(page)
        size = upright_size(page_size(page), tags.valueof(ORIENTATION))
        found = found_info((tags.valueof(DESCRIPTION),))
        return Header(size, 16 if deep > 1 else 8, max(3, page.samplesperpixel) * deep, *found)


def main_page(file: tifffile.TiffFile, notes: list[str]) -> Any:
    """Return the page that is the picture: the first, unless that is a preview of another.

    Raises:
        ImageError: the picture consists of raw data of a camera.
    """
    if not len(file.pages):
        raise ImageError("a TIFF without a picture, or damaged")
    first: Any = file.pages.first
    file.filehandle.seek(_AT_CR2)
    if file.filehandle.read(len(_CR2)) == _CR2:
        raise ImageError("it holds raw data of a camera: develop it first, for example to a TIFF")
    pages = [page for page in _some_pages(file) if _is_sized(page) and not _subfile(page) & _MASK]
    largest = max(pages, key=_area, default=first)
    if largest.photometric in _RAW and _area(largest) > _area(first):
        raise ImageError(
            f"it holds raw data of a camera and a preview of {first.imagewidth} x {first.imagelength}: "
            "develop it first, for example to a TIFF"
        )
    whole = [page for page in pages if not _subfile(page) & _REDUCED and page.photometric in _KINDS]
    page = max(whole, key=_area, default=first)
    if page is not first and (_subfile(first) & (_REDUCED | _MASK) or _is_preview(first, page)):
        what = "mask" if _subfile(first) & _MASK else "preview"
        notes.append(
            f"its first page is a {what}: that of {page.imagewidth} x {page.imagelength} pixels is used"
        )
        return page
    others: list[Any] = file.pages[1:_MOST_PAGES]
    if any(not _subfile(page) & (_REDUCED | _MASK) and not _is_preview(page, first) for page in others):
        notes.append(FIRST_FRAME)
    return first


def _some_pages(file: tifffile.TiffFile) -> Iterator[Any]:
    for page in file.pages[:_MOST_PAGES]:
        yield page
        try:
            yield from (page.pages or ())[:_MOST_PAGES]  # its sub-pages
        except Exception:
            continue


def _area(page: Any) -> int:
    return page.imagewidth * page.imagelength


def _is_sized(page: Any) -> bool:
    sides: tuple[Any, ...] = (page.imagewidth, page.imagelength)
    return all(isinstance(n, int) and n > 0 for n in sides)


def _subfile(page: Any) -> int:
    kind = page.subfiletype
    return kind if isinstance(kind, int) else 0


def _is_preview(page: Any, of: Any) -> bool:
    same_shape = abs(page.imagewidth * of.imagelength - page.imagelength * of.imagewidth) <= 2 * max(
        of.imagewidth, of.imagelength
    )
    return same_shape and _area(page) * _PREVIEW <= _area(of)


def page_size(page: Any) -> tuple[int, int]:
    """Return (width, height).

    Raises:
        ImageError: width or height is not a number.
    """
    width, height = page.imagewidth, page.imagelength
    if not (isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0):
        raise ImageError("its width or height is not a number")
    return width, height


def sample_bytes(page: Any) -> int:
    """Return the bytes of a sample, rounded up."""
    return -(-page.bitspersample // 8)


def check_tiles(page: Any) -> None:
    """Raise `ImageError` if a tile claims to be much larger than the picture."""
    width, height = page_size(page)
    if page.is_tiled:  # strips are cut to the picture, a tile is decoded as a whole
        claimed = page.tilewidth * page.tilelength * page.tiledepth
        if (claimed - width * height) * page.samplesperpixel * sample_bytes(page) > _MAX_TILE_EXCESS:
            raise ImageError(f"tiles of {page.tilewidth} x {page.tilelength} are too large for the picture")


def check_page(page: Any, notes: list[str]) -> None:
    """Check the samples of a page, and correct the lengths of its strips or tiles.

    Raises:
        ImageError: samples are of an unknown kind or would need too much memory, or parts are missing.
    """
    width, height = page_size(page)
    kind = _KINDS.get(page.photometric)
    known = page.dtype in (np.uint8, np.uint16) if kind == "LAB" else kind is not None
    if not known or page.imagedepth != 1 or page.dtype is None:
        kind = getattr(page.photometric, "name", page.photometric)
        samples = f"{page.bitspersample} bits" if page.dtype is None else f"samples of type {page.dtype}"
        raise ImageError(f"TIFF of kind {kind} with {samples} is not supported: convert it to RGB")
    if page.compression == tifffile.COMPRESSION.LZW and _OWN_LZW and page.bitspersample % 8:
        raise ModuleNotFoundError(name="imagecodecs")  # tifffile does not say how many bytes it holds
    if page.samplesperpixel > _MAX_CHANNELS:
        raise ImageError(f"{page.samplesperpixel} channels are too many")
    size = width * height * page.samplesperpixel * sample_bytes(page)
    if size > MAX_DECODED_BYTES:
        raise ImageError(f"its samples take {size} bytes, over the limit of {MAX_DECODED_BYTES}")
    _find_parts(page, notes)
    if page.compression in _FAX and _stops_early(page):
        notes.append(_EARLY)
    notes += _notes_of_jpeg(page)


def _notes_of_jpeg(page: Any) -> list[str]:
    """Return a note if a strip or tile of JPEG is damaged, because its decoder does not say so."""
    if page.compression != tifffile.COMPRESSION.JPEG:
        return []
    _find_parts(page, [])
    tables = bytes(page.jpegtables or b"")[:-2]
    damaged = False
    for _, data in _parts(page):
        if _END not in data[-_TAIL:]:
            return [_EARLY]
        damaged = damaged or coded.is_damaged_jpeg(
            tables + data[2:] if tables else data, most=math.prod(page.chunks)
        )
    return [coded.DAMAGED] if damaged else []


def _parts(page: Any) -> Iterator[tuple[int, bytes]]:
    """Yield number and data of each strip or tile that is in the file."""
    file = page.parent.filehandle
    for number, (place, length) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
        file.seek(place)
        if data := file.read(length):
            yield number, data


def _stops_early(page: Any) -> bool:
    """Return whether the decoder of fax made up missing rows, which it does without a word."""
    for number, data in _parts(page):
        # a decoder that reads exactly to the end ignores added bytes, but needs the last ones
        seen, longer, other = (
            page.decode(given, number)[0] for given in (data, data + _ONES, data[:-_TAIL] + _NOISE)
        )
        if not np.array_equal(seen, longer) or (len(data) > 4 * _TAIL and np.array_equal(seen, other)):
            return True
    return False


def _find_parts(page: Any, notes: list[str]) -> None:
    """Correct the lengths of strips or tiles. tifffile trusts them, and takes a length of zero for black.

    A part with neither place nor length was left out on purpose. Every other part ends before the next one
    begins.

    Raises:
        ImageError: the file ends before a part does.
    """
    places, lengths, end = page.dataoffsets, list(page.databytecounts), page.parent.filehandle.size
    lost = ImageError("it ends too soon, or is damaged: strips or tiles are missing")
    if len(places) < math.prod(page.chunked) or any(place >= end for place in places):
        raise lost
    stops, used = sorted({*places, page.offset, end}), Counter(places)
    plain = page.compression == tifffile.COMPRESSION.NONE
    full = math.prod(page.chunks) * page.bitspersample // 8 if plain else 0  # the last strip may have less
    wrong = len(lengths) != len(places)
    lengths = [0] * len(places) if wrong else lengths
    for number, (place, length) in enumerate(zip(places, lengths, strict=True)):
        if not place and not length:
            continue
        room = stops[bisect.bisect_right(stops, place)] - place
        if 0 < length <= end - place and length >= min(full, room):
            continue
        if not length and used[place] > 1:
            raise lost
        lengths[number] = min(full, room) if plain else room
        wrong = wrong or not length or length > end - place or number < len(places) - 1
    if wrong:
        notes.append("the lengths of its strips or tiles are wrong; its pixels were found nevertheless")
    if not all(places):
        notes.append("parts of the picture are not in the file: they were taken for black")
    page.databytecounts = tuple(lengths)


def only_pillow_knows(page: Any) -> bool:
    """Return whether only Pillow (libtiff) can decode this 8-bit page, and tifffile cannot."""
    kinds, coders = tifffile.PHOTOMETRIC, tifffile.COMPRESSION
    return page.bitspersample <= 8 and (
        page.compression == coders.OJPEG
        or (page.photometric == kinds.CIELAB and page.compression == coders.JPEG)
        or (page.photometric == kinds.YCBCR and page.compression not in _GIVES_RGB)
        or (page.compression == coders.LZW and _OWN_LZW and page.bitspersample < 8)
        or (page.compression in _BY_LIBTIFF and page.compression not in tifffile.TIFF.DECOMPRESSORS)
    )


def page_samples(page: Any, notes: list[str]) -> Samples:
    """Return the description of a page's samples after `pick` has reduced them to colours and alpha."""
    tags, extras = page.tags, [kind for kind in page.extrasamples if kind in _ALPHA]
    kind = _KINDS[page.photometric]
    made = kind == "LAB" or page.photometric == tifffile.PHOTOMETRIC.PALETTE  # `pick` makes 8 bit of them
    bits = 0 if made else page.bitspersample
    if kind in ("CMYK", "LAB") and page.bitspersample > 8:
        notes.append(f"16-bit {kind} reduced to 8 bit")
    return Samples(
        kind,
        icc=tags.valueof(ICC),
        bits=bits if page.dtype.kind in "iu" else 0,
        inverted=page.photometric == tifffile.PHOTOMETRIC.MINISWHITE,
        associated=alpha(page) is not None and [*extras, None][0] == tifffile.EXTRASAMPLE.ASSOCALPHA,
        orientation=tags.valueof(ORIENTATION, default=1),
        texts=(tags.valueof(DESCRIPTION),),
        notes=notes,
    )


def alpha(page: Any) -> int | None:
    """Return the index of the sample of a page that is alpha, or None."""
    colours = COLOURS[_KINDS[page.photometric]]
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
        return None
    if _EXTRAS not in page.tags and page.samplesperpixel == colours + 1:
        return colours  # the file does not say so, but other readers take it for alpha
    found = next((colours + n for n, kind in enumerate(page.extrasamples) if kind in _ALPHA), None)
    return None if found is None or found >= page.samplesperpixel else found


def pick(page: Any, array: Pixels, notes: list[str]) -> Pixels:
    """Return the colours and the alpha of samples ``[n, W, S]`` of a page, and RGB for a palette.

    Raises:
        ImageError: there are too few samples.
    """
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
        return _looked_up(page, array)
    colours = COLOURS[_KINDS[page.photometric]]
    if array.shape[2] < colours:
        raise ImageError(f"{array.shape[2]} channels are too few for colour")
    opacity = alpha(page)
    if array.shape[2] > colours + (opacity is not None) and _EXTRA_CHANNELS not in notes:
        notes.append(_EXTRA_CHANNELS)
    wanted = [*range(colours), *([] if opacity is None else [opacity])]
    if _KINDS[page.photometric] == "LAB":
        array = array if array.dtype == np.uint8 else (array >> 8).astype(np.uint8)
        if page.photometric == tifffile.PHOTOMETRIC.ICCLAB:  # its a and b have no sign, but an offset
            array = array ^ np.array([0, 128, 128] + [0] * (array.shape[2] - 3), np.uint8)
    return array if wanted == list(range(array.shape[2])) else array[:, :, wanted]


def _looked_up(page: Any, array: Pixels) -> Pixels:
    colours = np.asarray(page.colormap)  # [3, N], 16 bit; some writers put 8 bit there
    array = array.astype(np.uint8) if array.dtype == bool else array  # bool would be a mask, not an index
    table = colours.T if colours.max() <= 255 else colours.T >> 8
    if int(array.max()) >= len(table):
        raise ImageError("a pixel has a colour that is not in the palette")
    return table.astype(np.uint8)[array[:, :, 0]]


def page_array(page: Any) -> Pixels:
    """Return the samples ``[H, W, S]`` of a whole page."""
    array = page.asarray()
    if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and page.samplesperpixel > 1:
        array = np.moveaxis(array.reshape(page.samplesperpixel, page.imagelength, page.imagewidth), 0, 2)
    return array.reshape(page.imagelength, page.imagewidth, -1)
