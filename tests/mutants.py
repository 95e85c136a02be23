"""Damaged, lying and hostile picture files, made from good ones; each follows from a number."""

import functools
import io
import json
import struct
import zlib
from collections.abc import Callable

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from car.pictures.metadata import LRInfo

INFO = LRInfo("car_plus_x4", "", 4, (96, 80))
EXTREMES = (0, 1, 2, 7, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1)


@functools.cache
def originals() -> dict[str, bytes]:
    """Return good files of every format and kind that is read."""
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)
    image = Image.fromarray(rgb)
    files: dict[str, bytes] = {}

    def save(name: str, kind: str, picture: Image.Image = image, **options: object) -> None:
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        files[name] = buffer.getvalue()

    exif = Image.Exif()
    exif[274] = 6
    described = Image.Exif()
    described[270] = INFO.to_text()
    save("rgb.png", "PNG")
    save("palette.png", "PNG", image.quantize(16), transparency=3)
    save("grey.png", "PNG", image.convert("LA"))
    save("bits.png", "PNG", image.convert("1"))
    save("turned.jpg", "JPEG", exif=exif, comment=INFO.to_text())
    save("progressive.jpg", "JPEG", progressive=True, subsampling=2)
    save("cmyk.jpg", "JPEG", image.convert("CMYK"))
    save("lossless.webp", "WEBP", lossless=True, exif=described)
    save("lossy.webp", "WEBP", exif=exif)
    save("small.avif", "AVIF", exif=described)
    save("plain.bmp", "BMP")
    save("palette.gif", "GIF", image.quantize(8))
    save("old.tif", "TIFF", compression="tiff_lzw", tiffinfo={270: INFO.to_text()})
    files["deep.png"] = bytes(imagecodecs.png_encode(rgb.astype(np.uint16) * 257))
    files["small.png"] = with_text(files["rgb.png"], INFO.to_text())
    files["half.png"] = bytes(imagecodecs.png_encode(np.ascontiguousarray(rgb[:, :, [0, 1, 2, 0]])))
    files["plain.jxl"] = imagecodecs.jpegxl_encode(rgb, lossless=True)
    files["boxed.jxl"] = imagecodecs.jpegxl_encode(rgb.astype(np.uint16) * 257, lossless=True)
    files["plain.jp2"] = imagecodecs.jpeg2k_encode(rgb, level=0)
    files["deep.jp2"] = imagecodecs.jpeg2k_encode(rgb.astype(np.uint16) * 257, level=0)
    files["deep.avif"] = imagecodecs.avif_encode(rgb.astype(np.uint16) << 2, bitspersample=10)
    for name, array, options in (
        ("deep.tif", rgb.astype(np.uint16) * 257, {"compression": "zlib", "predictor": True}),
        ("tiles.tif", rgb, {"tile": (16, 16)}),
        ("big.tif", rgb[:, :, 0], {"bigtiff": True, "rowsperstrip": 7}),
        ("float.tif", rgb.astype(np.float32) / 255, {}),
        ("half.tif", rgb.astype(np.float16) / 255, {"compression": "lzw"}),
        ("jpeg2000.tif", rgb, {"compression": "jpeg2000"}),
        ("jpegxl.tif", rgb, {"compression": "jpegxl"}),
        ("jpeg.tif", rgb, {"compression": "jpeg"}),
        ("webp.tif", rgb, {"compression": "webp"}),
        ("lerc.tif", rgb, {"compression": "lerc"}),
        ("planes.tif", np.moveaxis(rgb, 2, 0), {"planarconfig": "separate", "byteorder": ">"}),
    ):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, array, photometric="minisblack" if array.ndim == 2 else "rgb", **options)
        files[name] = buffer.getvalue()
    return files


def with_text(png: bytes, text: str) -> bytes:
    """Return a PNG with a text chunk `car` after its header."""
    return png[:33] + chunk(b"tEXt", b"car\0" + text.encode("latin-1", "replace")) + png[33:]


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def mutant(number: int) -> tuple[str, bytes]:
    """Return a name and the content of the file of this number."""
    rng = np.random.default_rng(number)
    names = list(originals())
    name = names[int(rng.integers(len(names)))]
    content = originals()[name]
    change: Callable[[bytes, np.random.Generator], bytes]
    change = CHANGES[int(rng.integers(len(CHANGES)))]
    return f"{number}-{change.__name__.strip('_')}-{name}", change(content, rng)


def _bytes_changed(content: bytes, rng: np.random.Generator) -> bytes:
    out = bytearray(content)
    # headers are where the interesting lies are
    end = len(out) if rng.random() < 0.5 else min(len(out), 200)
    for _ in range(int(rng.integers(1, 12))):
        out[int(rng.integers(end))] = int(rng.integers(256))
    return bytes(out)


def _cut(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: int(rng.integers(len(content)))]


def _number_replaced(content: bytes, rng: np.random.Generator) -> bytes:
    out = bytearray(content)
    form = ("<H", ">H", "<I", ">I")[int(rng.integers(4))]
    size = struct.calcsize(form)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(min(len(out), 300) - size))
        value = EXTREMES[int(rng.integers(len(EXTREMES)))] % 2 ** (8 * size)
        out[at : at + size] = struct.pack(form, value)
    return bytes(out)


def _spliced(content: bytes, rng: np.random.Generator) -> bytes:
    other = list(originals().values())[int(rng.integers(len(originals())))]
    return content[: int(rng.integers(len(content)))] + other[int(rng.integers(len(other))) :]


def _repeated(content: bytes, rng: np.random.Generator) -> bytes:
    at, length = int(rng.integers(len(content))), int(rng.integers(1, 64))
    return content[:at] + content[at : at + length] * int(rng.integers(2, 40)) + content[at:]


def _claimed_size(content: bytes, rng: np.random.Generator) -> bytes:
    """Claim a size, up to 10^18 pixels, with a checksum that is right."""
    sides = (0, 1, 3, 24, 31_623, 65_500, 10**9, 2**31 - 1, 2**32 - 1)
    width, height = (sides[int(rng.integers(len(sides)))] for _ in range(2))
    if content.startswith(b"\x89PNG"):
        head = struct.pack(">II", width, height) + content[24:29]
        return content[:8] + chunk(b"IHDR", head) + content[33:]
    if content.startswith(b"\xff\xd8"):
        at = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
        sizes = struct.pack(">HH", height % 65536, width % 65536)
        return content[: at + 5] + sizes + content[at + 9 :]
    if content.startswith((b"BM", b"GIF")):
        at, form = (18, "<II") if content.startswith(b"BM") else (6, "<HH")
        limit = 2 ** (32 if content.startswith(b"BM") else 16)
        sizes = struct.pack(form, width % limit, height % limit)
        return content[:at] + sizes + content[at + len(sizes) :]
    out = bytearray(content)
    for old, new in ((24, width), (20, height)):  # somewhere in a TIFF, WebP or AVIF header
        at = out.find(struct.pack("<H", old), 8)
        if at >= 0:
            out[at : at + 2] = struct.pack("<H", new % 65536)
    return bytes(out)


_LIES: tuple[object, ...] = (
    ["car_plus_x4", "", 4, 10**9, 10**9],
    ["car_plus_x4", "", 4, 95, 79],
    ["car_plus_x2", "", 4, 96, 80],
    ["car_plus_x4", "0" * 16, 4, 96, 80],
    ["../../../etc/passwd", "", 4, 96, 80],
    ["nobody_x4", "", 4, 96, 80],
    ["car_plus_x4", "", 10**12, 96, 80],
    ["car_plus_x4", "", -4, 0, -1],
    ["car_plus_x4", "", 4.0, "96", "80"],
    [["a"], {}, None, {}, {}],
    ["car_plus_x4", "", 4, 96, 80, "yes"],
    [],
    "x" * 70_000,
    None,
)


def _lying_metadata(content: bytes, rng: np.random.Generator) -> bytes:
    lie = _LIES[int(rng.integers(len(_LIES)))]
    text = "car:" + json.dumps(lie)
    if rng.random() < 0.3:  # broken JSON and deep nesting
        text = ("car:" + "[" * 20_000, text[:-3], "\0" + text, "{" * 500)[int(rng.integers(4))]
    if content.startswith(b"\x89PNG"):
        return with_text(originals()["rgb.png"], text)
    said = INFO.to_text().encode()  # of the same length, as headers say it
    return content.replace(said, text.encode().ljust(len(said))[: len(said)])


CHANGES = (_bytes_changed, _cut, _number_replaced, _spliced, _repeated, _claimed_size, _lying_metadata)


def survive(number: int) -> str:
    """Read, shrink and restore the file of this number; return "done" or "refused".

    Raises:
        Exception: whatever is no `CarError`: a fault of the program.
    """
    from car.codec.choose import codec_for_picture
    from car.codec.options import Options
    from car.errors import CarError
    from car.pictures.info import read_header
    from car.pictures.read import decode
    from car.pictures.write import encode

    name, content = mutant(number)
    try:
        width, height = read_header(content, name).size
        assert width >= 0
        assert height >= 0
        picture = decode(content, name, max_pixels=10**7)
        # the networks, which see surroundings too, are not what is tried here
        if (picture.width + 100) * (picture.height + 100) > 10**5:
            return "done"
        codec = codec_for_picture(
            picture, scale=None if picture.info else 4, options=Options(device="cpu", tile=64)
        )
        small, info = codec.shrink(picture)
        encode(small, "small.png", info=info)
        (large_width, large_height), _ = codec.restored_size(picture)
        if large_width * large_height < 10**6:
            large = codec.restore(picture)
            assert (large.width, large.height) == (large_width, large_height)
    except CarError as error:
        refusal = str(error)
    else:
        return "done"
    assert "\n" not in refusal
    return "refused"
