"""What is wrong with a damaged picture, or with a file that is no picture, in plain words."""

import zlib

from car.pictures.formats import PNG_SIGNATURE

_STARTS = (
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
)
_FIRST = "; convert it to PNG or TIFF first"
_DEVELOP = "it holds raw data of a camera: develop it first, for example to a TIFF"
_VIDEO = "it is a video"
_VIDEOS = (b"isom", b"iso2", b"iso5", b"iso6", b"mp41", b"mp42", b"avc1", b"qt  ", b"M4V ", b"3gp4", b"3gp5")
_OTHERS = (
    (b"%PDF", f"it is a PDF{_FIRST}"),
    (b"%!PS", f"it is PostScript{_FIRST}"),
    (b"8BPS", f"it is a Photoshop file{_FIRST}"),
    (b"gimp xcf", f"it is a GIMP file{_FIRST}"),
    (b"AT&TFORM", f"it is DjVu{_FIRST}"),
    (b"\0\0\x01\0", f"it is an icon (ICO){_FIRST}"),
    (b"v/1\x01", f"it is OpenEXR{_FIRST}"),
    (b"#?RADIANCE", f"it is Radiance HDR{_FIRST}"),
    (b"II\xbc", f"it is JPEG XR{_FIRST}"),
    *((b"P%d%c" % (kind, space), f"it is PNM{_FIRST}") for kind in range(1, 7) for space in b" \t\r\n"),
    (b"icns", f"it is an icon (ICNS){_FIRST}"),
    (b"\0\0\x02\0", f"it is a cursor, or TGA{_FIRST}"),
    (b"qoif", f"it is QOI{_FIRST}"),
    *(
        (start, _DEVELOP)
        for start in (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb", b"\0MRM")
    ),
    (b"II\x1a\0\0\0HEAPCCDR", _DEVELOP),
    (b"\x1a\x45\xdf\xa3", _VIDEO),
    (b"\x1f\x8b", "it is packed by gzip"),
    (b"PK\x03\x04", "it is a ZIP archive, or a document stored as one"),
)
_TEXTS = (
    (b"<svg", f"it is SVG, a drawing{_FIRST}"),
    (b"<html", "it is a web page"),
    (b"<!doctype html", "it is a web page"),
)
JPEG_SIGNATURE = b"\xff\xd8"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers of JPEG before sizes
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # of PNG's colour types


def no_picture(content: bytes) -> str:
    """Say why the file that begins with `content` was not recognised as a picture."""
    if content[1:4] == b"PNG" or content[12:16] == b"IHDR":
        return png_fault(content) or "a PNG that is damaged"
    if content.startswith(JPEG_SIGNATURE):
        return jpeg_fault(content)
    for start, kind in _STARTS:
        if content.startswith(start):
            return f"a {kind} that is damaged or ends too soon"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "a WebP that is damaged or ends too soon"
    brand = content[8:12] if content[4:8] == b"ftyp" else b""
    found = _DEVELOP if brand == b"crx " else _VIDEO if brand in _VIDEOS else None
    if brand and not found:
        return "a file like AVIF, HEIC or a video, but of an unknown kind, damaged or ending too soon"
    found = found or next((what for start, what in _OTHERS if content.startswith(start)), None)
    text = content[:1024].lower()
    found = found or next((what for part, what in _TEXTS if part in text), None)
    if not content.strip(b"\0"):
        found = "it holds nothing but zeros"
    return (
        f"not a picture of a known format: {found}"
        if found
        else "not a picture of a known format, or damaged"
    )


def jpeg_fault(content: bytes) -> str:
    """Say what is wrong with a JPEG that cannot be decoded, given its first bytes or all of them."""
    at = 2
    while at + 5 <= len(content) and content[at] == 0xFF:
        marker, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4], "big")
        if marker == 0xFF:  # a fill byte; there may be several
            at += 1
            continue
        if marker == 0xF7:
            return "it is JPEG-LS, which is not read; convert it, for example to PNG"
        if marker in _FRAMES:
            bits = content[at + 4]
            if bits != 8:
                return f"a JPEG of {bits} bits a sample, which is not read; convert it to a PNG of 16 bits"
            break
        at += 2 + length
    return "a JPEG that is damaged or ends too soon"


def png_fault(content: bytes) -> str:
    """Say what is wrong with a PNG; empty if its chunks show no damage."""
    if not content.startswith(PNG_SIGNATURE):
        return "a PNG whose first bytes are damaged, perhaps by a transfer as text"
    at, pixels = 8, False
    while at + 12 <= len(content):
        length, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        end = at + 12 + length
        if end > len(content):
            return "a PNG that ends too soon, or is damaged"
        name = kind.decode("ascii", "replace") if kind.isalpha() else ""
        if not name:
            return "a PNG that is damaged"
        if kind == b"IHDR" and (fault := _header_fault(content[at + 8 : end - 4])):
            return fault
        critical = kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND")
        if critical and zlib.crc32(content[at + 4 : end - 4]) != int.from_bytes(
            content[end - 4 : end], "big"
        ):
            return f"a PNG that is damaged: the checksum of its {_PARTS[name]} is wrong"
        pixels = pixels or kind == b"IDAT"
        if kind == b"IEND":
            return "" if pixels else "a PNG without pixels"
        at = end
    return "a PNG that ends too soon, or is damaged"


_PARTS = {"IHDR": "header", "PLTE": "palette", "IDAT": "pixels", "IEND": "end"}


def _header_fault(header: bytes) -> str:
    if len(header) != 13:
        return "a PNG whose header is damaged"
    depth, colour = header[8:10]
    if colour not in _DEPTHS:
        return f"a PNG of colour type {colour}, which does not exist"
    if depth not in _DEPTHS[colour]:
        return f"a PNG of {depth} bits a sample, which does not exist with its colour type {colour}"
    return ""
