"""What files hold, against readers that know nothing of this one: every depth, colour, layout and codec."""

import io
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageDraw

import car
from car.codec.codec import Codec
from car.codec.large import shrink_file, why_whole
from car.errors import ImageError
from car.pictures import coded
from car.pictures import tiff as tiff_files
from car.pictures.formats import png_chunk
from car.pictures.info import read_header
from car.pictures.metadata import LRInfo
from car.pictures.picture import Picture, upright
from car.pictures.read import decode, from_pil, read
from car.pictures.strips import open_strips
from test_images import noise, png_with

RGB = noise(24, 30)
GREY = noise(24, 30, 1)


def tiff(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    colour = array.ndim == 3 and 3 in (array.shape[0], array.shape[2])
    tifffile.imwrite(buffer, array, **{"photometric": "rgb" if colour else "minisblack"} | options)
    return buffer.getvalue()


def pillow(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def levels(picture: Picture) -> np.ndarray:
    """Return the pixels in 0 to 1."""
    return picture.pixels / np.iinfo(picture.pixels.dtype).max


# --- depth -----------------------------------------------------------------------------------------------

UNIT = np.linspace(0, 1, 24 * 30, dtype=np.float64).reshape(24, 30)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize(
    ("dtype", "largest"),
    [
        ("float16", 1),
        ("float32", 1),
        ("float64", 1),
        ("float32", 255),
        ("uint8", 255),
        ("int8", 127),
        ("uint16", 65535),
        ("int16", 32767),
        ("int32", 255),
        ("uint32", 65535),
        ("uint32", 2**32 - 1),
        ("int32", 2**31 - 1),
        ("uint64", 255),
    ],
)
def test_samples_of_every_type_fill_the_range(dtype, largest, colours, compression, order) -> None:
    values = (UNIT * largest).astype(dtype) if largest == 1 else np.floor(UNIT * largest).astype(dtype)
    array = values if colours == 1 else np.dstack([values, values[::-1], values[:, ::-1]])
    picture = decode(tiff(array, compression=compression, byteorder=order), "a.tif")
    assert all("if they are linear light" in note for note in picture.notes)
    assert len(picture.notes) == (colours == 3 and largest == 1)
    seen = levels(picture) if colours == 3 else levels(picture)[:, :, 0]
    step = 1 / min(largest, 65535) if largest > 1 else (2**-11 if dtype == "float16" else 1 / 65535)
    np.testing.assert_allclose(seen, array.astype(np.float64) / largest, atol=step)
    assert seen.max() > 0.98


@pytest.mark.parametrize("bits", [9, 10, 12, 14, 15])
def test_odd_depths_of_colour_fill_the_range(bits: int) -> None:
    largest = 2**bits - 1
    array = np.round(UNIT * largest).astype(np.uint16)
    content = tiff(np.dstack([array] * 3), bitspersample=bits)
    np.testing.assert_array_equal(
        decode(content, "a.tif").pixels[:, :, 0], np.round(array * (65535 / largest)).astype(np.uint16)
    )


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_fills_the_range(bits: int) -> None:
    packed = np.random.default_rng(0).integers(0, 256, 8 * 16 * bits // 8, np.uint8).tobytes()
    entries = [(256, 16), (257, 8), (258, bits), (259, 1), (262, 1), (273, 200), (277, 1), (278, 8)]
    entries += [(279, len(packed))]
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    head += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries) + bytes(4)
    content = head.ljust(200, b"\0") + packed
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("L"))
    np.testing.assert_array_equal(decode(content, "a.tif").pixels[:, :, 0], expected)


def test_floats_that_are_no_levels() -> None:
    values = UNIT.astype(np.float32)
    values[3, 4] = np.nan
    picture = decode(tiff(values), "a.tif")
    assert picture.pixels[3, 4, 0] == 0
    assert "not finite" in picture.notes[0]
    picture = decode(tiff(UNIT.astype(np.float32) * 1.06 - 0.03), "a.tif")
    assert (picture.pixels.min(), picture.pixels.max()) == (0, 65535)
    assert "cut off" in picture.notes[0]
    for bad, why in (
        (values * np.nan, "finite"),
        (UNIT * 3.3, "must lie between 0 and 1"),
        (UNIT - 0.5, "must lie between 0 and 1"),
    ):
        with pytest.raises(ImageError, match=rf"a\.tif: .*{why}"):
            decode(tiff(bad.astype(np.float32)), "a.tif")


# --- layouts and codecs of TIFF ----------------------------------------------------------------------------

CODECS = (
    "lzw",
    "zlib",
    "packbits",
    "lzma",
    "zstd",
    "jpeg2000",
    "jpegxl",
    "webp",
    "lerc",
    "png",
    "jpegxr",
    "jpeg",
)
LAYOUTS: tuple[dict[str, object], ...] = (
    {"byteorder": ">", "bigtiff": True},
    {"tile": (16, 16)},
    {"rowsperstrip": 5},
    {"planarconfig": "separate"},
)


@pytest.mark.parametrize("codec", CODECS)
def test_codecs_of_tiff(codec: str, capfd: pytest.CaptureFixture[str]) -> None:
    for dtype in ("uint8",) if codec in ("webp", "jpeg") else ("uint8", "uint16"):
        array = noise(32, 48, dtype=dtype)
        content = tiff(array, compression=codec, rowsperstrip=32)
        np.testing.assert_array_equal(decode(content, "a.tif").pixels, tifffile.imread(io.BytesIO(content)))
        if codec not in ("jpeg", "jpegxr"):
            np.testing.assert_array_equal(decode(content, "a.tif").pixels, array)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_layouts_of_tiff(layout: dict[str, object], dtype: str) -> None:
    array = noise(40, 33, dtype=dtype)
    given = np.moveaxis(array, 2, 0) if "planarconfig" in layout else array
    np.testing.assert_array_equal(decode(tiff(given, **layout), "a.tif").pixels, array)


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_fax(compression: str, capfd: pytest.CaptureFixture[str]) -> None:
    page = Image.fromarray(GREY).resize((160, 120)).convert("1")
    content = pillow(page, "TIFF", compression=compression)
    picture = decode(content, "a.tif")
    np.testing.assert_array_equal(picture.pixels[:, :, 0], np.asarray(page) * 255)
    assert capfd.readouterr() == ("", "")


def subsampled(across: int, down: int, **options: int) -> tuple[bytes, np.ndarray]:
    """Return a TIFF of YCbCr (TIFF 6.0, section 21) and its RGB; options: `tile`, `compression`, `rows`."""
    height, width, side = 23, 30, options.get("tile", 0)
    smooth = Image.fromarray(noise(4, 4) // 2 + 60).resize((width, height), Image.Resampling.BICUBIC)
    room = [-(-n // unit) * unit for n, unit in ((height, side or down), (width, side or across))]
    pad = [(0, room[0] - height), (0, room[1] - width)]
    planes = np.moveaxis(np.asarray(smooth.convert("YCbCr")).astype(float), 2, 0)
    luma, *colours = (np.pad(plane, pad, mode="edge") for plane in planes)
    boxes = room[0] // down, down, room[1] // across, across
    blue, red = (np.round(plane.reshape(boxes).mean(axis=(1, 3))) for plane in colours)
    cells = luma.reshape(boxes).transpose(0, 2, 1, 3).reshape(boxes[0], boxes[2], down * across)
    units = np.dstack([cells, blue, red]).astype(np.uint8)
    b, r = (plane.repeat(down, 0).repeat(across, 1) - 128 for plane in (blue, red))
    rgb = np.dstack([luma + 1.402 * r, luma - 0.344136 * b - 0.714136 * r, luma + 1.772 * b])
    rows, columns = side or options.get("rows", room[0]), side or room[1]
    parts = [
        units[top // down : (top + rows) // down, left // across : (left + columns) // across].tobytes()
        for top in range(0, room[0], rows)
        for left in range(0, room[1], columns)
    ]
    parts = [zlib.compress(part) for part in parts] if options.get("compression") == 8 else parts
    offsets = [8 + sum(map(len, parts[:n])) for n in range(len(parts))]
    tags = {
        256: [width],
        257: [height],
        258: [8] * 3,
        259: [options.get("compression", 1)],
        262: [6],
        277: [3],
    }
    tags |= {322: [side], 323: [side], 324: offsets} if side else {273: offsets, 278: [rows]}
    tags |= {325 if side else 279: [len(part) for part in parts], 530: [across, down]}
    content, where = b"".join(parts), {}
    for tag, values in tags.items():
        where[tag] = 8 + len(content)
        packed = struct.pack(f"<{len(values)}I" if tag not in (258, 530) else f"<{len(values)}H", *values)
        content += packed if len(packed) > 4 else b""
        where[tag] = where[tag] if len(packed) > 4 else int.from_bytes(packed, "little")
    entries = (
        struct.pack("<HHII", tag, 3 if tag in (258, 530) else 4, len(tags[tag]), where[tag])
        for tag in sorted(tags)
    )
    directory = struct.pack("<H", len(tags)) + b"".join(entries) + bytes(4)
    head = b"II*\0" + struct.pack("<I", 8 + len(content))
    return head + content + directory, rgb[:height, :width].clip(0, 255)


@pytest.mark.parametrize("layout", [{}, {"rows": 8}, {"tile": 16}, {"compression": 8}], ids=str)
@pytest.mark.parametrize(("across", "down"), [(1, 1), (2, 1), (1, 2), (2, 2), (4, 2), (4, 4)])
def test_ycbcr_of_reduced_resolution(
    across: int, down: int, layout: dict[str, int], capfd: pytest.CaptureFixture[str]
) -> None:
    content, expected = subsampled(across, down, **layout)
    picture = decode(content, "a.tif")
    assert np.abs(picture.pixels - expected).max() <= 2
    assert picture.notes == ()
    assert capfd.readouterr() == ("", "")
    with pytest.raises(ImageError, match=r"^a\.tif: "):
        decode(content[:200], "a.tif")


def text_page() -> Image.Image:
    """Return a black-and-white page with lines of text."""
    page = Image.new("1", (160, 120), 1)
    for y in range(10, 110, 12):
        ImageDraw.Draw(page).text((10, y), "The quick brown fox jumps", fill=0)
    return page


EARLY = "a strip or tile is damaged, or ends too soon: its last rows are not in the file"


@pytest.mark.parametrize("page", [text_page(), Image.new("1", (160, 3000), 1)], ids=["text", "blank"])
@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt", "jpeg"])
def test_strips_that_end_too_soon_are_said(compression: str, page: Image.Image) -> None:
    """Decoders of fax and JPEG make up the rows that are missing, without a word."""
    content = pillow(page.convert("L" if compression == "jpeg" else "1"), "TIFF", compression=compression)
    assert not decode(content, "a.tif").notes
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        start, length = file.pages.first.dataoffsets[0], file.pages.first.databytecounts[0]
        tag = file.pages.first.tags["StripByteCounts"]
    half, data = length // 2, bytearray(content)
    struct.pack_into({3: "<H", 4: "<I"}[tag.dtype], data, tag.valueoffset, half)
    zeros = content[: start + half] + bytes(length - half) + content[start + length :]
    for damaged in (bytes(data), zeros):
        picture = decode(damaged, "a.tif")
        assert EARLY in picture.notes
        assert (picture.width, picture.height) == page.size


def test_palettes_cmyk_and_lab_of_tiff() -> None:
    palette = Image.fromarray(RGB).quantize(16)
    content = pillow(palette, "TIFF")
    np.testing.assert_array_equal(decode(content, "a.tif").pixels, np.asarray(palette.convert("RGB")))
    cmyk = Image.fromarray(RGB).convert("CMYK")
    picture = decode(pillow(cmyk, "TIFF"), "a.tif")
    np.testing.assert_array_equal(picture.pixels, np.asarray(cmyk.convert("RGB")))
    assert picture.notes == ("CMYK converted to sRGB",)
    lab = ImageCms.profileToProfile(
        Image.fromarray(RGB), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    for picture in (decode(pillow(lab, "TIFF"), "a.tif"), from_pil(lab)):
        assert np.abs(picture.pixels.astype(int) - RGB).mean() < 4
        assert picture.notes == ("LAB converted to sRGB",)


@pytest.mark.parametrize("icc", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize(
    "layout", [{}, {"compression": "zlib", "predictor": True}, {"planarconfig": "separate"}]
)
def test_lab_of_tiff_at_both_depths(icc: bool, dtype: str, layout: dict[str, object]) -> None:
    lab = Image.new("LAB", (30, 24))
    lab.putdata([(n % 256, (3 * n) % 256, (7 * n) % 256) for n in range(24 * 30)])
    signed = np.frombuffer(lab.tobytes(), np.uint8).reshape(24, 30, 3)  # as TIFF 6.0 has a and b
    stored = signed ^ np.array([0, 128, 128], np.uint8) if icc else signed
    array = (stored.astype(np.uint16) << 8) if dtype == "uint16" else stored
    array = np.moveaxis(array, 2, 0) if "planarconfig" in layout else array
    picture = decode(tiff(array, photometric="icclab" if icc else "cielab", **layout), "a.tif")
    np.testing.assert_array_equal(picture.pixels, from_pil(lab).pixels)
    reduced = ("16-bit LAB reduced to 8 bit",) if dtype == "uint16" else ()
    assert picture.notes == (*reduced, "LAB converted to sRGB")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_every_depth(bits: int, order: str) -> None:
    colours, indices = noise(1, 2**bits)[0], GREY >> (8 - bits)
    digits = np.unpackbits(indices[:, :, None], axis=2)[:, :, 8 - bits :]
    rows, table = np.packbits(digits.reshape(24, -1), axis=1), colours.T.astype(f"{order}u2") * 256
    tags = {256: 30, 257: 24, 258: bits, 259: 1, 262: 3, 273: 8, 277: 1, 278: 24, 279: rows.size}
    start = 8 + rows.size
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items())
    entries += struct.pack(f"{order}HHII", 320, 3, table.size, start + 2 + len(entries) + 12 + 4)
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    count = struct.pack(f"{order}H", len(tags) + 1)
    content = b"".join([header, rows.tobytes(), count, entries, bytes(4), table.tobytes()])
    np.testing.assert_array_equal(decode(content, "a.tif").pixels, colours[indices])


def with_parts(content: bytes, **tags: list[int] | None) -> bytes:
    """Return a TIFF with other places or lengths of its strips, or without these tags."""
    data = bytearray(content)
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page = file.pages.first
        for name, values in tags.items():
            tag = page.tags[name]
            assert tag.count > 2
            if values is None:  # a tag that nobody knows
                struct.pack_into("<H", data, tag.offset, 65000 + tag.code % 500)
                continue
            kind = {3: "H", 4: "I", 16: "Q"}[tag.dtype]
            struct.pack_into(f"<{tag.count}{kind}", data, tag.valueoffset, *values)
    return bytes(data)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits"])
def test_lengths_of_strips_that_are_wrong(compression: str | None) -> None:
    """Readers that take them as they are give black, or nothing."""
    array = noise(40, 30)
    content = tiff(array, compression=compression, rowsperstrip=8, metadata=None)
    page = tifffile.TiffFile(io.BytesIO(content)).pages.first
    true = page.databytecounts
    assert not decode(content, "a.tif").notes
    wrong: list[list[int] | None] = [[0] * 5, [60000] * 5, [*true[:2], 0, *true[3:]], None]
    for lengths in wrong if compression else [*wrong, [1] * 5]:
        picture = decode(with_parts(content, StripByteCounts=lengths), "a.tif")
        np.testing.assert_array_equal(picture.pixels, array)
        assert picture.notes == (
            "the lengths of its strips or tiles are wrong; its pixels were found nevertheless",
        )
    again = page.dataoffsets[3]
    for places, lengths in (
        ([10**6] * 5, true),
        ([*page.dataoffsets[:2], again, again, 8], [*true[:2], 0, *true[3:]]),
    ):
        damaged = with_parts(content, StripOffsets=list(places), StripByteCounts=list(lengths))
        with pytest.raises(ImageError, match=r"a\.tif: it ends too soon, or is damaged: strips"):
            decode(damaged, "a.tif")


def test_what_a_tiff_leaves_out_is_black_and_said() -> None:
    array = noise(40, 30)
    content = tiff(array, rowsperstrip=8, metadata=None)
    page = tifffile.TiffFile(io.BytesIO(content)).pages.first
    places, lengths = (list(values) for values in (page.dataoffsets, page.databytecounts))
    places[1] = lengths[1] = 0
    picture = decode(with_parts(content, StripOffsets=places, StripByteCounts=lengths), "a.tif")
    np.testing.assert_array_equal(picture.pixels[16:], array[16:])
    assert not picture.pixels[8:16].any()
    assert picture.notes == ("parts of the picture are not in the file: they were taken for black",)


@pytest.mark.parametrize("content", [b"II*\0", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\0", b"II*\0\xff\xff\0\0"])
def test_a_tiff_that_ends_before_its_picture(content: bytes) -> None:
    with pytest.raises(ImageError, match=r"a\.tif: (a TIFF without a picture, or damaged|cannot be read)"):
        decode(content, "a.tif")


ARCHIVE: dict[str, tuple[Any, ...]] = {
    "colours": (1, 3),
    "dtype": ("uint8", "uint16", "uint32", "int16", "float16", "float32"),
    "extra": (None, "unassalpha", "assocalpha", "unspecified"),
    "planar": (False, True),
    "coding": (
        {},
        {"compression": "zlib", "predictor": True},
        {"compression": "lzw"},
        {"compression": "packbits"},
    ),
    "parts": ({}, {"tile": (16, 32)}, {"rowsperstrip": 7}),
    "order": ("<", ">"),
    "bigtiff": (False, True),
    "inverted": (False, True),
    "orientation": tuple(range(1, 9)),
}


@pytest.mark.parametrize("seed", range(120))
def test_tiffs_of_properties_mixed_at_random(seed: int, tmp_path: Path) -> None:
    """Samples, alpha, layout, coding, byte order and orientation, as a whole, in strips and in the header."""
    rng = np.random.default_rng(seed)
    one = {name: values[int(rng.integers(len(values)))] for name, values in ARCHIVE.items()}
    colours, inverted = one["colours"], one["inverted"] and one["colours"] == 1
    count = colours + (one["extra"] is not None)
    most = 1 if one["dtype"].startswith("f") else np.iinfo(one["dtype"]).max
    smooth = [
        Image.fromarray(plane).resize((37, 45)) for plane in rng.integers(0, 256, (count, 4, 4), np.uint8)
    ]
    unit = np.dstack([np.asarray(plane) for plane in smooth]).reshape(45, 37, count) / 255
    if one["extra"] == "assocalpha":
        unit[:, :, :colours] *= unit[:, :, colours:]
    stored = np.round(unit * most).astype(one["dtype"]) if most > 1 else unit.astype(one["dtype"])
    values = stored / most
    options: dict[str, Any] = {
        "photometric": ("miniswhite" if inverted else "minisblack", "rgb")[colours > 1]
    }
    options |= one["coding"] | one["parts"] | {"byteorder": one["order"], "bigtiff": one["bigtiff"]}
    options |= {"extrasamples": [one["extra"]]} if one["extra"] else {}
    if count > 1:
        options["planarconfig"] = "separate" if one["planar"] else "contig"
        stored = np.ascontiguousarray(np.moveaxis(stored, 2, 0)) if one["planar"] else stored
    content = tiff(
        stored if count > 1 else stored[:, :, 0], extratags=[(274, 3, 1, one["orientation"], True)], **options
    )
    picture = decode(content, "a.tif")
    colour = 1 - values[:, :, :colours] if inverted else values[:, :, :colours]
    opacity = values[:, :, colours:] if one["extra"] in ("unassalpha", "assocalpha") else None
    if one["extra"] == "assocalpha":
        colour = colour / np.maximum(opacity, 1e-3)
    seen = upright(levels(picture), {6: 8, 8: 6}.get(one["orientation"], one["orientation"]))  # back
    tolerance = (0.03 if one["extra"] == "assocalpha" else 0.006) if most in (1, 255) else 0.001
    visible = np.ones((45, 37), bool) if opacity is None else opacity[:, :, 0] > 0.3
    np.testing.assert_allclose(
        seen[visible], np.broadcast_to(colour, seen.shape)[visible].clip(0, 1), atol=tolerance
    )
    assert (picture.alpha is None) == (opacity is None)
    assert read_header(content, "a.tif").size == (picture.width, picture.height)
    (tmp_path / "a.tif").write_bytes(content)
    with open_strips(tmp_path / "a.tif") as strips:
        if not isinstance(strips, str):
            np.testing.assert_array_equal(np.concatenate(list(strips.blocks)), picture.pixels)


# --- previews ----------------------------------------------------------------------------------------------


def pages(*given: tuple[np.ndarray, dict[str, object]]) -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for array, options in given:
            kind = "rgb" if array.ndim == 3 else "minisblack"
            writer.write(array, **{"photometric": kind, "metadata": None} | options)
    return buffer.getvalue()


@pytest.mark.parametrize("flag", [{"subfiletype": 1}, {}])
def test_a_preview_before_its_picture_is_passed_over(flag: dict[str, object], tmp_path: Path) -> None:
    small, large = noise(30, 40), noise(120, 160)
    content = pages((small, flag), (large, {}))
    picture = decode(content, "a.tif")
    np.testing.assert_array_equal(picture.pixels, large)
    assert picture.notes == ("its first page is a preview: that of 160 x 120 pixels is used",)
    assert read_header(content).size == (160, 120)
    hanging = decode(pages((small, {"subifds": 1, "subfiletype": 1}), (large, {})), "a.tif")
    np.testing.assert_array_equal(hanging.pixels, large)


def test_of_pages_that_are_no_preview_the_first_is_used() -> None:
    for other in (noise(24, 30), noise(23, 29), noise(100, 90)):
        picture = decode(pages((RGB, {}), (other, {})), "a.tif")
        np.testing.assert_array_equal(picture.pixels, RGB)
        assert picture.notes == ("only the first of several frames is used",)


@pytest.mark.parametrize(
    "others",
    [
        [(noise(12, 15), {"subfiletype": 1})],
        [(noise(12, 15), {}), (noise(6, 7), {})],
        [(noise(12, 15), {"subfiletype": 1}), (noise(24, 30, 1) > 99, {"subfiletype": 4})],
    ],
)
def test_levels_of_a_pyramid_and_previews_are_no_frames(others: list[tuple[np.ndarray, dict[str, object]]]):
    picture = decode(pages((RGB, {}), *others), "a.tif")
    np.testing.assert_array_equal(picture.pixels, RGB)
    assert not picture.notes


def test_a_mask_before_its_picture_is_passed_over() -> None:
    picture = decode(pages((noise(24, 30, 1) > 99, {"subfiletype": 4}), (RGB, {})), "a.tif")
    np.testing.assert_array_equal(picture.pixels, RGB)
    assert picture.notes == ("its first page is a mask: that of 30 x 24 pixels is used",)


def test_raw_files_of_canon_are_refused_in_a_line(tmp_path: Path) -> None:
    """Their first page is a preview, and the page of the raw data has neither a size nor colours."""
    content = tiff(RGB)
    count = int.from_bytes(content[8:10], "little")
    moved = content[8 : 8 + 2 + 12 * count + 4]  # the directory, which then makes room
    start = content[:4] + struct.pack("<I", len(content)) + b"CR\2\0"
    (tmp_path / "a.cr2").write_bytes(start + content[12:] + moved)
    np.testing.assert_array_equal(decode(start[:8] + b"abcd" + content[12:] + moved, "a.tif").pixels, RGB)
    for look in (read, read_header):
        with pytest.raises(ImageError, match=r"a\.cr2: it holds raw data of a camera: develop it first"):
            look(tmp_path / "a.cr2")


def test_raw_data_of_a_camera_is_refused_in_a_line() -> None:
    raw = noise(120, 160, 1, "uint16")
    content = pages((noise(30, 40), {"subifds": 1, "subfiletype": 1}), (raw, {"photometric": "cfa"}))
    with pytest.raises(ImageError, match=r"a\.dng: it holds raw data .* preview of 40 x 30: develop it"):
        decode(content, "a.dng")


# --- colours -----------------------------------------------------------------------------------------------


def srgb_of(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)


def light_of(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


P3_TO_SRGB = np.array(  # CSS Color 4
    [[1.2249401, -0.2249402, 0.0], [-0.0420569, 1.0420571, 0.0], [-0.0196376, -0.0786361, 1.0982735]]
)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_colours_of_png_without_a_profile(dtype: str) -> None:
    largest = np.iinfo(dtype).max
    smooth = np.asarray(Image.fromarray(noise(4, 5) // 3 + 90).resize((30, 24))).astype(dtype) * dtype_step(
        dtype
    )
    content = bytes(imagecodecs.png_encode(np.ascontiguousarray(smooth)))
    linear = decode(png_with(content, b"gAMA", struct.pack(">I", 100_000)), "a.png")
    assert linear.notes == ("gamma 1 converted to sRGB",)
    np.testing.assert_allclose(levels(linear), srgb_of(smooth / largest), atol=1.1 / 255)
    p3 = decode(png_with(content, b"cICP", bytes([12, 13, 0, 1])), "a.png")
    assert p3.notes == ("Display P3 converted to sRGB",)
    expected = srgb_of(np.clip(light_of(smooth / largest) @ P3_TO_SRGB.T, 0, 1))
    np.testing.assert_allclose(levels(p3), expected, atol=1.6 / 255)
    usual = ((b"cICP", bytes([1, 13, 0, 1])), (b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 45_455)))
    for kind, data in usual:
        picture = decode(png_with(content, kind, data), "a.png")
        np.testing.assert_array_equal(picture.pixels, smooth)
        assert picture.notes == ()
    for transfer, name in ((16, "PQ"), (18, "HLG")):
        with pytest.raises(ImageError, match=rf"a\.png: .*high dynamic range \({name}\)"):
            decode(png_with(content, b"cICP", bytes([9, transfer, 0, 1])), "a.png")


def dtype_step(dtype: str) -> int:
    return 257 if dtype == "uint16" else 1


def nclx(primaries: int, transfer: int, bits: int = 8) -> bytes:
    array = np.full((16, 16, 3), (200, 120, 60), np.uint8)
    deep = array.astype(np.uint16) << 2 if bits == 10 else array
    content = bytes(imagecodecs.avif_encode(deep, level=100, bitspersample=bits))
    at = content.index(b"colrnclx") + 8
    return content[:at] + struct.pack(">HH", primaries, transfer) + content[at + 4 :]


def test_colours_of_avif_without_a_profile() -> None:
    usual = decode(nclx(1, 13), "a.avif")
    assert usual.notes == ()
    p3 = decode(nclx(12, 13), "a.avif")
    assert p3.notes == ("Display P3 converted to sRGB",)
    expected = srgb_of(np.clip(light_of(levels(usual)) @ P3_TO_SRGB.T, 0, 1))
    np.testing.assert_allclose(levels(p3), expected, atol=1.6 / 255)
    with pytest.raises(ImageError, match="high dynamic range"):
        decode(nclx(9, 16), "a.avif")


def test_ten_bits_of_avif_stay() -> None:
    picture = decode(nclx(1, 13, 10), "a.avif")
    assert picture.pixels.dtype == np.uint16
    assert picture.lossy
    np.testing.assert_allclose(
        levels(picture), np.array([800, 480, 240]) / 1023 + np.zeros((16, 16, 3)), atol=0.004
    )


def test_adobe_rgb_that_only_exif_tells() -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 2
    content = pillow(Image.new("RGB", (8, 8), (100, 200, 90)), "JPEG", quality=100, exif=exif)
    picture = decode(content, "a.jpg")
    assert picture.notes == ("Adobe RGB converted to sRGB",)
    profile = imagecodecs.cms_profile("adobergb")
    deep = np.full((1, 1, 3), (100, 200, 90), np.uint16) * np.uint16(257)
    expected = imagecodecs.cms_transform(
        deep, profile, imagecodecs.cms_profile("srgb"), colorspace="rgb", outcolorspace="rgb"
    )
    assert np.abs(picture.pixels[0, 0] - expected.reshape(3) / 257).max() < 3


def test_a_gain_map_is_not_lost_silently() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" hdrgm:Version="1.0"></x:xmpmeta>'
    picture = decode(pillow(Image.fromarray(RGB), "JPEG", xmp=xmp), "a.jpg")
    assert "gain map" in picture.notes[0]


def test_grey_profiles_at_both_depths_in_every_format() -> None:
    profile = imagecodecs.cms_profile("gray", whitepoint=[0.3127, 0.329, 1.0], gamma=1.0)
    ramp = np.linspace(0, 255, 256).astype(np.uint8).reshape(16, 16)
    deep = ramp.astype(np.uint16) * 257
    files = [
        pillow(Image.fromarray(ramp), "PNG", icc_profile=profile),
        png_with(bytes(imagecodecs.png_encode(deep)), b"iCCP", b"p\0\0" + zipped(profile)),
        tiff(ramp, iccprofile=profile),
        tiff(deep, iccprofile=profile),
    ]
    for content in files:
        picture = decode(content, "a")
        assert picture.grey
        assert picture.notes == ("grey with a colour profile converted to sRGB",)
        np.testing.assert_allclose(levels(picture)[:, :, 0], srgb_of(ramp / 255), atol=1.1 / 255)


def zipped(data: bytes) -> bytes:
    return zlib.compress(data)


PNG = pillow(Image.fromarray(noise(20, 30)), "PNG")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (PNG[:4] + b"\n" + PNG[4:], "a PNG whose first bytes are damaged, perhaps by a transfer as text"),
        (PNG.replace(b"\r\n", b"\n", 1), "a PNG whose first bytes are damaged"),
        (PNG[:25] + b"\x01" + PNG[26:], "a PNG of colour type 1, which does not exist"),
        (
            PNG[:24] + b"\x03" + PNG[25:],
            "a PNG of 3 bits a sample, which does not exist with its colour type 2",
        ),
        (PNG[:19] + b"\x09" + PNG[20:], "a PNG that is damaged: the checksum of its header is wrong"),
        (PNG[:60], "a PNG that ends too soon, or is damaged"),
        (PNG[:33] + png_chunk(b"IEND", b""), "a PNG without pixels"),
        (b"\xff\xd8\xff\xe0 and no more", "a JPEG that is damaged or ends too soon"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "cannot be read: it is damaged, or of a kind that is not supported ("),
        (b"GIF89a", "a GIF that is damaged or ends too soon"),
        (b"BM1234", "a BMP that is damaged or ends too soon"),
        (b"<!DOCTYPE html><p>404", "not a picture of a known format: it is a web page"),
        (b'<?xml version="1.0"?><svg/>', "not a picture of a known format: it is SVG, a drawing"),
        (b"%PDF-1.7", "not a picture of a known format: it is a PDF"),
        (b"AT&TFORM\0\0", "not a picture of a known format: it is DjVu; convert it to PNG or TIFF first"),
        (
            b"\0\0\x01\0\x01\0",
            "not a picture of a known format: it is an icon (ICO); convert it to PNG or TIFF first",
        ),
        (
            b"\0\0\0\x18ftypcrx \0\0\0\1",
            "not a picture of a known format: it holds raw data of a camera: develop",
        ),
        (b"FUJIFILMCCD-RAW 0201", "not a picture of a known format: it holds raw data of a camera: develop"),
        (b"\0\0\0\x18ftypisom\0\0\0\1", "not a picture of a known format: it is a video"),
        (b"\x1f\x8b\x08", "not a picture of a known format: it is packed by gzip"),
        (b"P6\n3 2\n255\n", "not a picture of a known format: it is PNM; convert it to PNG or TIFF first"),
        (bytes(1000), "not a picture of a known format: it holds nothing but zeros"),
        (b"hello", "not a picture of a known format, or damaged"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_plain_words(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageError) as caught:
        read(tmp_path / "a.png")
    assert str(caught.value).startswith(f"{tmp_path / 'a.png'}: {said}")


def test_a_wrong_checksum_of_sound_pixels_is_said() -> None:
    at = PNG.index(b"IDAT")
    end = at + 4 + int.from_bytes(PNG[at - 4 : at], "big")
    picture = decode(PNG[:end] + b"\0\0\0\0" + PNG[end + 4 :], "a.png")
    np.testing.assert_array_equal(picture.pixels, decode(PNG, "a.png").pixels)
    assert "the checksum of its pixels is wrong" in picture.notes[0]


@pytest.mark.parametrize("behind", [False, True])
def test_long_texts_of_a_png_do_not_keep_its_pixels_from_being_read(behind: bool, tmp_path: Path) -> None:
    text = png_chunk(b"zTXt", b"notes\0\0" + zlib.compress(bytes(2**21)))
    info = png_chunk(
        b"tEXt", b"car\0" + LRInfo("car_plus_x4", "0" * 16, 4, (120, 96), False).to_text().encode()
    )
    at = len(PNG) - 12 if behind else 33
    content = PNG[:33] + info + PNG[33:at] + text + PNG[at:]
    picture = decode(content, "a.png")
    np.testing.assert_array_equal(picture.pixels, decode(PNG, "a.png").pixels)
    assert picture.info is not None
    (tmp_path / "a.png").write_bytes(content)
    assert read_header(tmp_path / "a.png").size == (picture.width, picture.height)


def test_what_is_grey_is_grey_whatever_holds_it() -> None:
    dither = Image.fromarray(GREY).convert("1")
    rgb = dither.convert("RGB")
    for content in (
        pillow(rgb, "PNG"),
        pillow(rgb, "WEBP", lossless=True),
        pillow(rgb, "TIFF"),
        pillow(rgb, "BMP"),
    ):
        assert decode(content, "a").grey
    assert from_pil(rgb).grey
    assert from_pil(rgb.quantize(2)).grey
    array = np.asarray(rgb).copy()
    array[-1, -1, 2] ^= 1
    assert not from_pil(Image.fromarray(array)).grey


# --- other files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_jpeg_xl_and_jpeg_2000(dtype: str, channels: int) -> None:
    array = noise(24, 40, channels, dtype)
    for name, content in (
        ("a.jxl", imagecodecs.jpegxl_encode(array, lossless=True)),
        ("a.jp2", imagecodecs.jpeg2k_encode(array, level=0)),
    ):
        picture = decode(bytes(content), name)
        assert read_header(bytes(content)).size == (40, 24)
        assert picture.pixels.dtype == dtype
        assert (picture.alpha is not None) == (channels in (2, 4))
        whole = array.reshape(24, 40, channels)
        colours = whole[:, :, :3] if channels > 2 else whole[:, :, :1].repeat(3, axis=2)
        np.testing.assert_array_equal(picture.pixels, colours)
        if picture.alpha is not None:
            np.testing.assert_array_equal(picture.alpha, whole[:, :, -1])


@pytest.mark.parametrize("size", [(8, 8), (24, 40), (256, 256), (37, 1), (1000, 1500), (300, 400)])
def test_sizes_in_headers_of_jpeg_xl(size: tuple[int, int]) -> None:
    height, width = size
    for dtype in (np.uint8, np.uint16):  # a bare codestream, and one in boxes
        content = imagecodecs.jpegxl_encode(np.zeros((height, width), dtype))
        assert read_header(content).size == (width, height)
    with pytest.raises(ImageError, match="over the limit"):
        decode(imagecodecs.jpegxl_encode(np.zeros(size, np.uint8)), "a.jxl", max_pixels=30)


def test_heic_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as where it is not installed
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    with pytest.raises(ImageError, match=r"^a\.heic: it is HEIC, which needs .*: pip install pillow-heif$"):
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200), "a.heic")


def test_heic_is_read_where_its_plugin_is_installed() -> None:
    heif = pytest.importorskip("pillow_heif")
    smooth = np.asarray(Image.fromarray(noise(4, 4)).resize((64, 48), Image.Resampling.BICUBIC))
    buffer = io.BytesIO()
    heif.from_pillow(Image.fromarray(smooth)).save(buffer, quality=95)
    picture = decode(buffer.getvalue(), "a.heic")
    assert np.abs(picture.pixels.astype(int) - smooth).mean() < 4


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_lacks_only_its_end(progressive: bool) -> None:
    smooth = Image.fromarray(noise(8, 9)).resize((90, 80), Image.Resampling.BICUBIC)
    whole = pillow(smooth, "JPEG", quality=90, progressive=progressive)
    for cut in (whole[:-2], whole[:-1], whole[:-2] + b"\0\0"):
        picture = decode(cut, "a.jpg")
        np.testing.assert_array_equal(picture.pixels, decode(whole, "a.jpg").pixels)
        if cut == whole[:-2]:
            assert picture.notes == ("the file lacks its end; its pixels are all there",)
    for cut in (whole[: len(whole) // 2], whole[:-40]):
        with pytest.raises(ImageError, match=r"^a\.jpg: a JPEG that is damaged or ends too soon$"):
            decode(cut, "a.jpg")


@pytest.mark.parametrize("how", [{}, {"subsampling": 0}, {"progressive": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_that_is_damaged_inside(mode: str, how: dict[str, Any]) -> None:
    """libjpeg shows what it can, and Pillow does not pass on its warnings."""
    picture = Image.fromarray(noise(20, 24)).resize((240, 200), Image.Resampling.BICUBIC).convert(mode)
    whole = pillow(picture, "JPEG", quality=85, **how)
    assert coded.DAMAGED not in decode(whole, "a.jpg").notes
    rng, seen = np.random.default_rng(0), 0
    for _ in range(30):
        at = int(rng.integers(whole.find(b"\xff\xda") + 20, len(whole) - 300))
        try:
            notes = decode(whole[:at] + bytes(128) + whole[at + 128 :], "a.jpg").notes
        except ImageError:
            notes = (coded.DAMAGED,)
        seen += coded.DAMAGED in notes
    assert seen >= (6 if "progressive" in how or "restart_marker_rows" in how else 12)


@pytest.mark.parametrize("layout", [{}, {"tile": (64, 64)}, {"rowsperstrip": 16}, {"of": "pillow"}], ids=str)
@pytest.mark.parametrize("read_by", ["tifffile", "pillow"])
def test_jpeg_that_is_damaged_inside_a_tiff(
    layout: dict[str, Any], read_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is judged as in a file of its own, with or without tables that its tiles share."""
    picture = Image.fromarray(noise(20, 24)).resize((240, 200), Image.Resampling.BICUBIC)
    if "of" in layout:
        whole = pillow(picture, "TIFF", compression="jpeg", quality=95)
    else:
        whole = tiff(np.asarray(picture), compression="jpeg", compressionargs={"level": 95}, **layout)
    if read_by == "pillow":
        monkeypatch.setattr(tiff_files, "only_pillow_knows", lambda page: True)
    assert not decode(whole, "a.tif").notes
    with tifffile.TiffFile(io.BytesIO(whole)) as file:
        parts = list(zip(file.pages.first.dataoffsets, file.pages.first.databytecounts, strict=True))
    rng, seen = np.random.default_rng(0), 0
    for _ in range(12):
        start, length = parts[int(rng.integers(len(parts)))]
        at = start + int(rng.integers(length // 2, length - 80))
        try:
            notes = decode(whole[:at] + bytes(48) + whole[at + 48 :], "a.tif").notes
        except ImageError:
            notes = (coded.DAMAGED,)
        seen += coded.DAMAGED in notes
    assert seen >= (3 if "rowsperstrip" in layout else 6)


def test_a_jpeg_of_much_detail_is_not_taken_for_damaged() -> None:
    for quality in (1, 50, 95, 100):
        for mode in ("L", "RGB", "CMYK"):
            for seed in range(10):
                picture = Image.fromarray(noise(24, 40, seed=seed)).convert(mode)
                content = pillow(picture, "JPEG", quality=quality, subsampling=0)
                assert coded.DAMAGED not in decode(content, "a.jpg").notes


def test_bytes_behind_the_pixels_of_a_jpeg_are_no_damage() -> None:
    whole = pillow(Image.fromarray(noise(20, 24)), "JPEG")
    for more in (b"", bytes(40), b"\xff" * 9):
        assert not decode(whole[:-2] + more + whole[-2:] + bytes(100), "a.jpg").notes


@pytest.mark.parametrize(
    ("frame", "bits", "why"),
    [
        (0xC0, 8, "a JPEG that is damaged or ends too soon"),
        (0xC1, 12, "a JPEG of 12 bits a sample, which is not read"),
        (0xC2, 12, "a JPEG of 12 bits a sample, which is not read"),
        (0xC3, 16, "a JPEG of 16 bits a sample, which is not read"),
        (0xF7, 8, "it is JPEG-LS, which is not read"),
    ],
)
def test_a_jpeg_that_cannot_be_read_is_told_by_its_kind(frame: int, bits: int, why: str) -> None:
    comment = b"\xff\xfe\0\x04\xff\xc0"  # that looks like the start of a frame
    content = b"\xff\xd8" + comment + b"\xff" + bytes([0xFF, frame, 0, 11, bits, 0, 9, 0, 9, 1, 1, 17, 0])
    with pytest.raises(ImageError, match=rf"^a\.jpg: {why}"):
        decode(content + b"\xff\xda" + bytes(50), "a.jpg")


# --- PIL ---------------------------------------------------------------------------------------------------

GREY_MODES = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B")


@pytest.mark.parametrize(
    "mode", [*GREY_MODES, "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"]
)
def test_every_mode_of_pil(mode: str) -> None:
    colour = Image.new("RGB", (5, 4), (200, 120, 40))
    if mode.startswith("I;16"):
        image = Image.frombytes(
            mode, (5, 4), np.full(20, 40_000, ">u2" if mode == "I;16B" else "<u2").tobytes()
        )
        picture = from_pil(image)
        assert (picture.pixels == 40_000).all()
    elif mode == "LAB":
        image = ImageCms.profileToProfile(
            colour, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
        assert image is not None
        assert np.abs(from_pil(image).pixels.astype(int) - (200, 120, 40)).max() <= 4
    else:
        steps = {"La": ("LA",), "PA": ("P",), "RGBa": ("RGBA",), "I": ("L",), "F": ("L",)}.get(mode, ())
        image = colour
        for step in (*steps, mode):
            image = image.convert(step)
        picture = from_pil(image)
        if mode not in GREY_MODES:
            wanted = np.asarray(image.convert("RGBA" if mode in ("PA", "RGBa") else "RGB"))[:, :, :3]
            np.testing.assert_array_equal(picture.pixels, wanted)
        elif mode != "1":
            assert (picture.pixels == np.asarray(colour.convert("L"))[0, 0]).all()
    assert from_pil(image).grey == (mode in GREY_MODES)
    assert (from_pil(image).alpha is not None) == (mode in ("LA", "La", "PA", "RGBA", "RGBa"))


# --- strips ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def codec() -> Codec:
    return car.open("car_lite_x2", options=car.Options(tile=32))


def _gamma() -> bytes:
    return imagecodecs.cms_profile("gray", whitepoint=[0.3127, 0.329, 1.0], gamma=1.0)


PLAIN = pillow(Image.fromarray(noise(70, 50)), "PNG")
STRIPS: dict[str, bytes] = {
    "grey.tif": tiff(noise(70, 50, 1), iccprofile=_gamma(), rowsperstrip=16),
    "grey16.tif": tiff(noise(70, 50, 1, "uint16"), iccprofile=_gamma(), rowsperstrip=16),
    "dither.tif": tiff(noise(70, 50, 1).repeat(3).reshape(70, 50, 3), rowsperstrip=16),
    "white.tif": tiff(noise(70, 50, 1), photometric="miniswhite", rowsperstrip=16),
    "twelve.tif": tiff(noise(70, 50, 3, "uint16") >> 4, bitspersample=12, rowsperstrip=16),
    "palette.tif": tiff(
        noise(70, 50, 1), photometric="palette", colormap=noise(3, 256, 1, "uint16"), rowsperstrip=16
    ),
    "cmyk.tif": tiff(noise(70, 50, 4), photometric="separated", rowsperstrip=16),
    "alpha.tif": tiff(noise(70, 50, 4), extrasamples=["assocalpha"], photometric="rgb", rowsperstrip=16),
    "half.tif": tiff(noise(70, 50).astype(np.float16) / 255, rowsperstrip=16),
    "turned.tif": tiff(noise(70, 50), rowsperstrip=16, extratags=[(274, 3, 1, 3, True)]),
    "extra.tif": tiff(noise(70, 50, 4), extrasamples=[0], photometric="rgb", rowsperstrip=16),
    "dither.png": pillow(Image.fromarray(noise(70, 50, 1)).convert("1").convert("RGB"), "PNG"),
    "linear.png": png_with(
        pillow(Image.fromarray(noise(70, 50)), "PNG"), b"gAMA", struct.pack(">I", 100_000)
    ),
    "p3.png": png_with(PLAIN, b"cICP", bytes([12, 13, 0, 1])),
    "grey16.png": png_with(
        bytes(imagecodecs.png_encode(noise(70, 50, 1, "uint16"))), b"iCCP", b"p\0\0" + zipped(_gamma())
    ),
    "deep.avif": bytes(imagecodecs.avif_encode(noise(70, 50, 3, "uint16") >> 6, bitspersample=10)),
    "plain.jp2": bytes(imagecodecs.jpeg2k_encode(noise(70, 50), level=0)),
    "plain.jxl": bytes(imagecodecs.jpegxl_encode(noise(70, 50), lossless=True)),
}


@pytest.mark.parametrize("name", STRIPS)
def test_strips_give_what_wholes_do(name: str, codec: Codec, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(STRIPS[name])
    if why := why_whole(tmp_path / name):
        with pytest.raises(ImageError, match=f"because {why}"):
            shrink_file(codec, tmp_path / name, tmp_path / "strips.png", memory=0)
        assert name not in (
            "grey.tif",
            "grey16.tif",
            "dither.tif",
            "white.tif",
            "twelve.tif",
            "cmyk.tif",
            "extra.tif",
        )
        return
    strips = shrink_file(codec, tmp_path / name, tmp_path / "strips.png", memory=0)
    whole = shrink_file(codec, tmp_path / name, tmp_path / "whole.png", memory=10**12)
    assert (tmp_path / "strips.png").read_bytes() == (tmp_path / "whole.png").read_bytes()
    assert strips.source_size == whole.source_size
    assert strips.notes == whole.notes
