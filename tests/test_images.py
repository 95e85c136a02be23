"""Picture files: values against other decoders, metadata, damage, and writing that is all or nothing."""

import contextlib
import io
import json
import os
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import png
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from car.errors import ImageError
from car.files import atomic
from car.files.atomic import atomic_write
from car.pictures.formats import png_chunk
from car.pictures.info import read_header
from car.pictures.metadata import MAX_METADATA_BYTES, LRInfo
from car.pictures.picture import Picture
from car.pictures.read import decode, from_pil, read
from car.pictures.write import to_pil, write

INFO = LRInfo("car_plus_x4", "0123456789abcdef", 4, (1234, 567), grey=True)
LOSSLESS = {"png": ("uint8", "uint16"), "tiff": ("uint8", "uint16"), "webp": ("uint8",)}
CARRIERS = ("png", "jpg", "webp", "avif", "tiff")


def noise(height: int, width: int, channels: int = 3, dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    levels = np.iinfo(dtype).max
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, levels, shape, dtype=dtype, endpoint=True)


def colour(height: int, width: int, dtype: str = "uint8", alpha: bool = False, grey: bool = False) -> Picture:
    pixels = noise(height, width, 3, dtype)
    if grey:
        pixels[:] = pixels[:, :, :1]
    return Picture(pixels, noise(height, width, 1, dtype, 1) if alpha else None, grey, None, None, ())


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@given(
    form=st.sampled_from([(s, d) for s, ds in LOSSLESS.items() for d in ds]),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    alpha=st.booleans(),
    grey=st.booleans(),
    info=st.sampled_from([None, INFO]),
)
def test_lossless_formats_give_back_what_they_got(tmp_path, form, size, alpha, grey, info) -> None:
    suffix, dtype = form
    picture = colour(*size, dtype, alpha, grey)
    path = tmp_path / f"a.{suffix}"
    assert write(path, picture, info=info) == ()
    back = read(path)
    assert back.pixels.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(back.pixels, picture.pixels)
    if picture.alpha is not None and (suffix != "webp" or (picture.alpha < 255).any()):
        assert back.alpha is not None  # WebP drops an alpha that says nothing
        np.testing.assert_array_equal(back.alpha, picture.alpha)
    else:
        assert back.alpha is None
    assert back.grey == (picture.pixels == picture.pixels[:, :, :1]).all()  # whatever holds it
    assert back.info == info == read_header(path).info
    assert not [name for name in files_in(tmp_path) if name.startswith(".")]


@pytest.mark.parametrize("suffix", CARRIERS)
def test_metadata_survives_and_other_readers_see_the_picture(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    smooth = np.full((24, 32, 3), (200, 120, 40), np.uint8)
    lossy = suffix in ("jpg", "avif")
    notes = write(path, replace(colour(24, 32), pixels=smooth), info=INFO, quality=80 if lossy else None)
    assert read(path).info == read_header(path).info == INFO
    assert any("lossy" in note for note in notes) == lossy
    assert np.abs(np.asarray(Image.open(path).convert("RGB")).astype(int) - smooth).max() <= 3


@pytest.mark.parametrize("suffix", ["bmp", "gif"])
def test_formats_without_metadata_say_so(suffix: str, tmp_path: Path) -> None:
    notes = write(tmp_path / f"a.{suffix}", colour(8, 8), info=INFO)
    assert any("cannot carry metadata" in note for note in notes)
    assert read(tmp_path / f"a.{suffix}").info is None


@pytest.mark.parametrize("suffix", CARRIERS)
def test_pil_images_carry_the_metadata_into_their_files(suffix: str, tmp_path: Path) -> None:
    image = to_pil(colour(16, 16), info=INFO)
    image.save(tmp_path / f"a.{suffix}")
    assert read(tmp_path / f"a.{suffix}").info == INFO
    assert from_pil(image).info == INFO
    with (tmp_path / f"b.{suffix}").open("wb") as file:
        image.save(file)
    assert read(tmp_path / f"b.{suffix}").info == INFO
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    assert from_pil(Image.open(buffer)).info == INFO
    if suffix == "webp":
        assert np.array_equal(read(tmp_path / "a.webp").pixels, np.asarray(image))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(noise(5, 8))
    image.save(tmp_path / "a.png", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.png")))
    assert (expected.shape == (8, 5, 3)) == (orientation > 4)
    for suffix, options in (("png", {}), ("webp", {"lossless": True}), ("tiff", {})):
        path = tmp_path / f"a.{suffix}"
        image.save(path, exif=exif, **options)
        np.testing.assert_array_equal(read(path).pixels, expected)
    deep = noise(5, 8).astype(np.uint16) * 257
    tifffile.imwrite(
        tmp_path / "deep.tiff", deep, photometric="rgb", extratags=[(274, 3, 1, orientation, True)]
    )
    np.testing.assert_array_equal(read(tmp_path / "deep.tiff").pixels, expected.astype(np.uint16) * 257)


def test_palette_grey_one_bit_and_transparency(tmp_path: Path) -> None:
    rgb = Image.fromarray(noise(9, 7))
    palette = rgb.quantize(16)
    palette.save(tmp_path / "p.png", transparency=3)
    back = read(tmp_path / "p.png")
    expected = np.asarray(Image.open(tmp_path / "p.png").convert("RGBA"))
    np.testing.assert_array_equal(back.pixels, expected[:, :, :3])
    np.testing.assert_array_equal(back.alpha, expected[:, :, 3])
    assert back.alpha is not None
    assert set(np.unique(back.alpha)) == {0, 255}

    rgb.convert("1").save(tmp_path / "one.png")
    back = read(tmp_path / "one.png")
    assert back.grey
    np.testing.assert_array_equal(back.pixels[:, :, 1], np.asarray(rgb.convert("1")) * 255)

    rgb.convert("L").save(tmp_path / "t.png", transparency=int(np.asarray(rgb.convert("L"))[0, 0]))
    back = read(tmp_path / "t.png")
    assert back.grey
    assert back.alpha is not None
    assert back.alpha[0, 0] == 0


def test_sixteen_bit_is_read_in_full(tmp_path: Path) -> None:
    for channels in (1, 2, 3, 4):
        array = noise(6, 5, channels, "uint16")
        (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(array))
        back = read(tmp_path / "a.png")
        assert back.pixels.dtype == np.uint16
        assert back.grey == (channels < 3)
        seen = back.pixels if channels > 2 else back.pixels[:, :, :1]
        planes = [seen, back.alpha[:, :, None]] if back.alpha is not None else [seen]
        np.testing.assert_array_equal(np.concatenate(planes, axis=2), array.reshape(6, 5, channels))
    planar = noise(6, 5, dtype="uint16")
    tifffile.imwrite(
        tmp_path / "b.tif", np.moveaxis(planar, 2, 0), photometric="rgb", planarconfig="separate"
    )
    np.testing.assert_array_equal(read(tmp_path / "b.tif").pixels, planar)
    for width in (1, 5):
        thin = noise(3, width, 1, "uint16")
        tifffile.imwrite(tmp_path / "c.tif", thin, photometric="miniswhite")
        np.testing.assert_array_equal(read(tmp_path / "c.tif").pixels[:, :, 0], 65535 - thin)


def test_float_tiff_within_one_is_sixteen_bit_and_other_values_are_refused(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    tifffile.imwrite(tmp_path / "f.tif", values, photometric="minisblack")
    np.testing.assert_array_equal(read(tmp_path / "f.tif").pixels[:, :, 0], np.round(values * 65535))
    for bad in (values * 2, values - 0.5):
        tifffile.imwrite(tmp_path / "f.tif", bad.astype(np.float32), photometric="minisblack")
        with pytest.raises(ImageError, match="they must lie between 0 and 1"):
            read(tmp_path / "f.tif")


def test_a_note_says_that_floating_point_colours_may_be_linear(tmp_path: Path) -> None:
    """libvips takes such files for linear light, and no tag tells."""
    values = noise(6, 5, 3).astype(np.float32) / 255
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, array, options, told in (
        ("plain", values, {}, True),
        ("half", values.astype(np.float16), {}, True),
        ("profile", values, {"iccprofile": profile}, False),
        ("levels", np.round(values * 255), {}, False),
        ("integers", np.round(values * 65535).astype(np.uint16), {}, False),
    ):
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, array, photometric="rgb", **options)
        notes = read(path).notes
        assert any("if they are linear light" in note for note in notes) == told, name
    vips = pytest.importorskip("pyvips")
    image = vips.Image.new_from_array(noise(6, 5, 3), interpretation="srgb").colourspace("scrgb")
    image.write_to_file(str(tmp_path / "scrgb.tif"))
    assert any("if they are linear light" in note for note in read(tmp_path / "scrgb.tif").notes)


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_lab_of_other_samples_is_refused_by_their_type(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((4, 4, 3), dtype), photometric="cielab")
    with pytest.raises(
        ImageError, match=rf"CIELAB with samples of type {dtype} is not supported: convert it"
    ):
        read(path)


@pytest.mark.parametrize("dtype", ["int32", "uint32"])
def test_the_largest_value_of_a_32_bit_tiff_tells_its_depth(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for largest, depth in ((3, "uint8"), (255, "uint8"), (256, "uint16"), (65535, "uint16")):
        grey = np.array([[0, 1, largest], [largest // 2, 2, 3]], dtype)
        for kind in ("minisblack", "miniswhite"):
            tifffile.imwrite(path, grey, photometric=kind)
            back = read(path)
            assert (back.pixels.dtype, back.grey) == (depth, True)
            white = np.iinfo(depth).max
            np.testing.assert_array_equal(
                back.pixels[:, :, 0], grey if kind == "minisblack" else white - grey.astype(int)
            )
        tifffile.imwrite(path, grey, photometric="minisblack")
        if dtype == "int32":  # mode I, as Pillow calls it
            np.testing.assert_array_equal(from_pil(Image.open(path)).pixels, read(path).pixels)
        tifffile.imwrite(path, np.dstack([grey] * 3), photometric="rgb")
        back = read(path)
        assert (back.pixels.dtype, back.grey) == (depth, True)
        np.testing.assert_array_equal(back.pixels[:, :, 1], grey)
    colours = np.array([[[50, 100, 0, 128], [60, 0, 0, 255]]], dtype)
    tifffile.imwrite(path, colours, photometric="rgb", extrasamples=["assocalpha"])
    assert read(path).pixels.tolist() == [[[100, 199, 0], [60, 0, 0]]]
    for bad in ([[0, 65536]], [[-1, 5]])[: 2 if dtype == "int32" else 1]:
        tifffile.imwrite(path, np.array(bad).astype(dtype), photometric="minisblack")
        with pytest.raises(ImageError, match=rf"a.tif: {dtype} values from .* do not fit 16 bit"):
            read(path)


def test_colour_profiles(tmp_path: Path) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for suffix in ("png", "webp", "tiff", "jpg", "avif"):
        write(tmp_path / f"a.{suffix}", replace(colour(8, 8), icc=icc))
        assert read(tmp_path / f"a.{suffix}").icc == icc
    write(tmp_path / "deep.png", replace(colour(8, 8, "uint16"), icc=icc))
    assert read(tmp_path / "deep.png").icc == icc
    Image.fromarray(noise(8, 8)).save(tmp_path / "bad.png", icc_profile=b"not a profile at all")
    back = read(tmp_path / "bad.png")
    assert back.icc is None
    assert "profile" in back.notes[0]
    # a profile for colour in a grey file
    Image.fromarray(noise(8, 8, 1)).save(tmp_path / "odd.png", icc_profile=icc)
    assert read(tmp_path / "odd.png").icc is None


def test_cmyk_becomes_srgb(tmp_path: Path) -> None:
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    image.save(tmp_path / "a.jpg", quality=100)
    back = read(tmp_path / "a.jpg")
    assert "CMYK converted to sRGB" in back.notes
    assert np.abs(back.pixels.astype(int) - (255, 0, 0)).max() <= 3


def test_first_frame_is_used_and_said(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (6, 5), c) for c in ("red", "blue")]
    for name, options in (("a.gif", {}), ("a.png", {}), ("a.webp", {"lossless": True}), ("a.tiff", {})):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        back = read(tmp_path / name)
        assert back.notes == ("only the first of several frames is used",)
        assert (back.pixels == (255, 0, 0)).all()


def test_transparency_is_never_dropped_silently(tmp_path: Path) -> None:
    for suffix in ("jpg", "bmp", "gif"):
        with pytest.raises(ImageError, match="transparency"):
            write(tmp_path / f"a.{suffix}", colour(4, 4, alpha=True))
        opaque = replace(colour(4, 4), alpha=np.full((4, 4), 255, np.uint8))
        write(tmp_path / f"a.{suffix}", opaque)
    assert any("rounded from 16 bit" in n for n in write(tmp_path / "a.webp", colour(4, 4, "uint16")))


def png_header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + data + struct.pack(">I", 100) + b"IDAT" + b"\0" * 100


def gif_header(width: int, height: int) -> bytes:
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return screen + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00;"


def bmp_header(width: int, height: int) -> bytes:
    return (
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    )


@pytest.mark.parametrize("make", [png_header, gif_header, bmp_header])
def test_bombs_are_refused_on_their_header(make, tmp_path: Path) -> None:
    path = tmp_path / "bomb.bin"
    path.write_bytes(make(65000, 65000))
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(
        ImageError, match=r"65000 x 65000 pixels is over the limit of 400000000.*--max-pixels"
    ):
        read(path)
    assert before == Image.MAX_IMAGE_PIXELS
    assert read_header(path).info is None
    write(tmp_path / "a.png", colour(10, 10))
    with pytest.raises(ImageError, match="over the limit of 99"):
        read(tmp_path / "a.png", max_pixels=99)
    assert read(tmp_path / "a.png", max_pixels=100).width == 10


def test_large_pictures_within_the_limit_raise_no_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    write(tmp_path / "a.png", colour(30, 30))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(tmp_path / "a.png").width == 30


def encoded(suffix: str) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(noise(24, 24))
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"webp": {"lossless": True}, "tiff": {"compression": "tiff_lzw"}}.get(suffix, {})
    if suffix not in ("bmp", "gif"):
        options |= {"exif": exif}
    image.save(buffer, {"jpg": "JPEG"}.get(suffix, suffix.upper()), **options)
    return buffer.getvalue()


FORMATS = ("png", "jpg", "webp", "avif", "tiff", "bmp", "gif")
SAMPLES = {suffix: encoded(suffix) for suffix in FORMATS} | {
    "png16": imagecodecs.png_encode(noise(24, 24, dtype="uint16")),
}
_deep = io.BytesIO()
tifffile.imwrite(_deep, noise(24, 24, dtype="uint16"), photometric="rgb", compression="lzw")
SAMPLES["tiff16"] = _deep.getvalue()


@pytest.mark.parametrize("kind", SAMPLES)
def test_truncated_files_are_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "cut.bin"
    content = SAMPLES[kind]
    path.write_bytes(content)
    read(path)
    for share in (0.01, 0.1, 0.3, 0.5, 0.8):
        path.write_bytes(content[: max(1, int(len(content) * share))])
        with pytest.raises(ImageError) as caught:
            read(path)
        assert "\n" not in str(caught.value)


@given(kind=st.sampled_from(sorted(SAMPLES)), data=st.data())
@settings(max_examples=5 * settings().max_examples)
def test_damaged_files_are_read_or_refused(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    content = bytearray(SAMPLES[kind])
    limit = min(len(content), data.draw(st.sampled_from([60, 400, len(content)])))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, limit - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.bin"
    path.write_bytes(content)
    with contextlib.suppress(ImageError):
        picture = read(path, max_pixels=10**6)
        assert picture.pixels.shape == (picture.height, picture.width, 3)
        assert picture.height * picture.width <= 10**6


def test_hopeless_inputs_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png: no such file"):
        read(tmp_path / "gone.png")
    with pytest.raises(ImageError, match="is a folder"):
        read(tmp_path)
    (tmp_path / "empty.png").write_bytes(b"")
    for function in (read, read_header):
        with pytest.raises(ImageError, match="the file is empty"):
            function(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(ImageError, match="not a picture of a known format"):
        read(tmp_path / "text.png")
    # PostScript would start another program
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    with pytest.raises(ImageError, match="not a picture of a known format"):
        read(tmp_path / "a.png")


GOOD = ["m", "0" * 16, 4, 3, 4, True]


@pytest.mark.parametrize(
    ("at", "lie"),
    [
        *((0, lie) for lie in ("../../etc/passwd", "m" * 65, "")),
        *((1, lie) for lie in ("xyz", "0" * 65, 7)),
        *((2, lie) for lie in (0, 65, True, 64.5, "4", -4, None)),
        *((3, lie) for lie in (0, 2**31, -3, "3", [3], {"a": 1})),
        *((5, lie) for lie in ("yes", 1, None)),
    ],
)
def test_metadata_that_lies_is_ignored_with_a_note(at: int, lie: object, tmp_path: Path) -> None:
    assert LRInfo.from_text("car:" + json.dumps(GOOD)) == LRInfo("m", "0" * 16, 4, (3, 4), True)
    text = "car:" + json.dumps([*GOOD[:at], lie, *GOOD[at + 1 :]])
    with pytest.raises(ImageError):
        LRInfo.from_text(text)
    info = PngImagePlugin.PngInfo()
    info.add_text("car", text)
    Image.new("RGB", (3, 3)).save(tmp_path / "a.png", pnginfo=info)
    back = read(tmp_path / "a.png")
    assert back.info is None
    assert "metadata" in back.notes[0]


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_metadata_behind_the_pixels_is_found_without_decoding_them(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    write(path, colour(24, 32, dtype), info=INFO)
    content = path.read_bytes()
    start = content.index(b"tEXt") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    path.write_bytes(content[:start] + content[end:-12] + content[start:end] + content[-12:])
    assert read(path).info == INFO
    decoded: list[object] = []
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", decoded.append)
    assert read_header(path).info == INFO
    path.write_bytes(content[:start] + content[end:])
    assert read_header(path).info is None
    # without an end, or with chunks that claim more than there is
    for damaged in (content[:-20], content[:end] + struct.pack(">I", 2**31 - 1) + b"IDAT" + content[end:]):
        path.write_bytes(damaged)
        assert read_header(path).info == INFO
    assert decoded == []


DAMAGED = (
    'car:["m"]',
    'car:["m","",2,8,8,true,1]',
    'car:["m","",2,8,8,1]',
    'car:["m","",0.5,8,8]',
    'car:["m","",2,8,',
    'car:["../x","",2,8,8]',
    'car:["m","",4,-8,8]',
    'car:["m","",4,8,2147483648]',
    'car:["m",' + "[" * 30_000,
    "car:[" + "9" * MAX_METADATA_BYTES,
)


@pytest.mark.parametrize("text", DAMAGED)
def test_damaged_metadata_is_refused_at_once(text: str) -> None:
    began = time.perf_counter()
    with pytest.raises(ImageError, match="metadata of the small picture is"):
        LRInfo.from_text(text)
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize(
    "text", ["", "[]", "car: a red one", 'car:{"model": "m"}', "x" * 100_000, b"\xff\xfe"]
)
def test_other_texts_are_no_metadata(text: str | bytes) -> None:
    assert LRInfo.from_text(text) is None


@pytest.mark.parametrize("suffix", CARRIERS)
def test_one_text_of_metadata_in_all_formats(suffix: str, tmp_path: Path) -> None:
    path, plain = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    for info in (INFO, replace(INFO, grey=False)):
        assert LRInfo.from_text(info.to_text()) == LRInfo.from_text(info.to_text().encode()) == info
        write(path, colour(24, 32), info=info)
        assert read(path).info == read_header(path).info == info
        assert path.read_bytes().count(info.to_text().encode()) == 1
    write(plain, colour(24, 32))
    assert path.stat().st_size < plain.stat().st_size + 200
    with Image.open(path) as image:
        exif = image.getexif()
        found = image.info.get("car") or image.info.get("comment") or exif[0x010E]
    assert found in (info.to_text(), info.to_text().encode())


@pytest.mark.parametrize("suffix", CARRIERS)
def test_damaged_metadata_is_a_note(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x010E] = DAMAGED[0]
    options = {"comment": DAMAGED[0]} if suffix == "jpg" else {"exif": exif}
    Image.new("RGB", (8, 8)).save(path, **options)
    picture = read(path)
    assert picture.info is None
    assert picture.damage in picture.notes
    assert "damaged" in str(picture.damage)
    assert "LRInfo" not in str(picture.damage)
    # what another program says is beside it, or instead
    options = {"comment": "a red one"} if suffix == "jpg" else {"exif": exif}
    exif[0x010E] = "my holidays"
    Image.new("RGB", (8, 8)).save(path, **options)
    assert (read(path).info, read(path).notes) == (None, ())


def test_what_a_caller_gives_beside_the_metadata_stays(tmp_path: Path) -> None:
    small = to_pil(colour(16, 16), info=INFO)
    exif = Image.Exif()
    exif[0x010F] = "maker"
    for suffix in ("webp", "avif"):
        for given_exif in (exif, exif.tobytes()):
            small.save(tmp_path / f"a.{suffix}", exif=given_exif)
            assert read(tmp_path / f"a.{suffix}").info == INFO
            with Image.open(tmp_path / f"a.{suffix}") as image:
                assert image.getexif()[0x010F] == "maker"
    small.save(tmp_path / "a.tif", tiffinfo={0x010F: "maker"})
    assert read(tmp_path / "a.tif").info == INFO
    with Image.open(tmp_path / "a.tif") as image:
        assert image.getexif()[0x010F] == "maker"


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.png"
    write(target, colour(5, 5))
    before = target.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ImageError, match=r"a\.png: cannot be written \(No space left on device\)"):
            write(target, colour(6, 6))
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(ImageError, match="No space left"):
            write(target, colour(6, 6))

    def interrupted(file: io.BufferedIOBase) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic_write(target, interrupted)
    with pytest.raises(ImageError, match="exists"):
        write(target, colour(6, 6), overwrite=False)
    assert target.read_bytes() == before
    assert files_in(tmp_path) == ["a.png"]


def test_unwritable_targets_are_explained(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "a.xyz", r"unknown picture format '\.xyz'"),
        (tmp_path / "a.pngg", r"did you mean '\.png'"),
        (tmp_path / "missing" / "a.png", "No such file or directory"),
        (Path("/proc/a.png"), "cannot be written"),
    ):
        with pytest.raises(ImageError, match=message):
            write(path, colour(4, 4))
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ImageError, match="is a folder"):
        write(tmp_path / "folder.png", colour(4, 4))
    for name, most in (("a.webp", 16383), ("a.jpg", 65500), ("a.avif", 65536)):
        with pytest.raises(
            ImageError, match=f"holds at most {most} pixels a side, not {most + 1}x1; write PNG"
        ):
            write(tmp_path / name, colour(1, most + 1))
    assert files_in(tmp_path) == ["folder.png"]


def test_devices_and_pipes_are_neither_read_nor_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "null.png").symlink_to("/dev/null")
    for path in (tmp_path / "pipe.png", tmp_path / "null.png"):
        for work in (read, read_header, lambda p: write(p, colour(4, 4))):
            with pytest.raises(ImageError, match="is not a regular file"):
                work(path)
    assert files_in(tmp_path) == ["null.png", "pipe.png"]


def test_writing_through_a_link_replaces_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "a.png"
    target.write_bytes(b"old")
    (tmp_path / "link.png").symlink_to(target)
    write(tmp_path / "link.png", colour(4, 4))
    assert (tmp_path / "link.png").is_symlink()
    assert read(target).width == 4


@pytest.mark.parametrize("leads", ["elsewhere/a.png", "none/a.png", "link.png"])
def test_a_link_that_leads_nowhere_is_not_written_through(tmp_path: Path, leads: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / leads)
    for overwrite in (False, True):
        with pytest.raises(ImageError, match=r"link\.png: .* \(a link is there that leads nowhere\)"):
            write(tmp_path / "link.png", colour(4, 4), overwrite=overwrite)
    assert (tmp_path / "link.png").is_symlink()
    assert files_in(tmp_path) == ["elsewhere", "link.png"]
    assert files_in(tmp_path / "elsewhere") == []


def test_new_files_have_the_usual_permissions(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        write(tmp_path / "a.png", colour(4, 4))
    finally:
        os.umask(old)
    assert (tmp_path / "a.png").stat().st_mode & 0o777 == 0o644


def test_pngsuite_against_pillow_and_libpng(data_dir: Path) -> None:
    suite = data_dir / "pngsuite"
    if not suite.is_dir():
        pytest.skip(f"{suite} is not there")
    for path in sorted(suite.glob("*.png")):
        if path.name == "xcsn0g01.png":  # a wrong checksum around sound pixels
            assert "the checksum of its pixels is wrong" in read(path).notes[-1]
            continue
        if path.name.startswith("x"):
            with pytest.raises(ImageError, match=f"{path.name}: a PNG "):
                read(path)
            continue
        content = path.read_bytes()
        at = content.find(b"gAMA") - 4  # without which levels stay as they are; other tests are of colours
        back = decode(content[:at] + content[at + 16 :] if at > 0 else content, path.name)
        if content[24] == 16:
            width, height, rows, about = png.Reader(bytes=content).read()
            decoded = np.vstack([np.asarray(row) for row in rows]).reshape(height, width, about["planes"])
            if about["alpha"]:
                np.testing.assert_array_equal(back.alpha, decoded[:, :, -1], err_msg=path.name)
            elif "transparent" in about:
                opaque = (decoded != about["transparent"]).any(axis=2)
                np.testing.assert_array_equal(back.alpha, opaque * 65535, err_msg=path.name)
            expected = decoded[:, :, :3] if decoded.shape[2] > 2 else decoded[:, :, :1].repeat(3, axis=2)
        else:
            expected = np.asarray(Image.open(path).convert("RGB"))
            if b"tRNS" in content:
                _, _, rows, _ = png.Reader(bytes=content).asRGBA8()
                alpha = np.vstack([np.asarray(row) for row in rows])[:, 3::4]
                np.testing.assert_array_equal(back.alpha, alpha, err_msg=path.name)
        np.testing.assert_array_equal(back.pixels, expected, err_msg=path.name)


def test_interlaced_sixteen_bit_png(tmp_path: Path) -> None:
    array = noise(11, 13, dtype="uint16")
    array[2, 3] = (7, 8, 9)
    writer = png.Writer(13, 11, greyscale=False, bitdepth=16, interlace=True, transparent=(7, 8, 9))
    with (tmp_path / "a.png").open("wb") as file:
        writer.write(file, array.reshape(11, -1).tolist())
    back = read(tmp_path / "a.png")
    np.testing.assert_array_equal(back.pixels, array)
    assert back.alpha is not None
    assert np.argwhere(back.alpha == 0).tolist() == [[2, 3]]


@pytest.mark.parametrize(("bits", "level"), [(1, 1), (2, 2), (4, 15), (8, 2)])
def test_transparent_grey_of_few_bits(bits: int, level: int, tmp_path: Path) -> None:
    row = list(range(min(2**bits, 16)))
    with (tmp_path / "a.png").open("wb") as file:
        png.Writer(len(row), 1, greyscale=True, bitdepth=bits, transparent=level).write(file, [row])
    back = read(tmp_path / "a.png")
    assert back.alpha is not None
    assert [n for n in row if back.alpha[0, n] == 0] == [level]
    given = Image.open(tmp_path / "a.png")
    said = given.info["transparency"]
    np.testing.assert_array_equal(from_pil(given).alpha, back.alpha)
    assert given.info["transparency"] == said


def test_only_channels_that_a_tiff_calls_alpha_are_alpha(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    array = np.array([[[1000, 2000, 3000, 32768], [500, 0, 0, 500]]], np.uint16)
    tifffile.imwrite(path, array, photometric="rgb", extrasamples=["unassalpha"])
    assert read(path).pixels.tolist() == array[:, :, :3].tolist()
    tifffile.imwrite(path, array, photometric="rgb", extrasamples=["assocalpha"])
    assert read(path).pixels.tolist() == [[[2000, 4000, 6000], [65535, 0, 0]]]
    for dtype in (np.uint8, np.uint16):
        tifffile.imwrite(path, array.astype(dtype), photometric="rgb", extrasamples=["unspecified"])
        back = read(path)
        assert back.alpha is None
        assert "neither colour nor transparency" in back.notes[0]
    mixed = np.dstack([array, array[:, :, :1]])
    kinds = ["unspecified", "unassalpha"]
    tifffile.imwrite(path, mixed, photometric="rgb", planarconfig="contig", extrasamples=kinds)
    back = read(path)
    assert back.pixels.tolist() == mixed[:, :, :3].tolist()
    assert back.alpha is not None
    assert back.alpha.tolist() == mixed[:, :, 4].tolist()
    assert len(back.notes) == 1


def test_a_fourth_channel_that_a_tiff_says_nothing_of_is_alpha(tmp_path: Path) -> None:
    array = noise(3, 4, 4, "uint16")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, photometric="rgb", extrasamples=["unassalpha"])
    extras, printer = (struct.pack("<HH", tag, 3) for tag in (338, 337))
    (tmp_path / "a.tif").write_bytes(buffer.getvalue().replace(extras, printer))
    back = read(tmp_path / "a.tif")
    assert back.notes == ()
    np.testing.assert_array_equal(back.pixels, array[:, :, :3])
    np.testing.assert_array_equal(back.alpha, array[:, :, 3])


@pytest.mark.parametrize("bits", [9, 10, 12, 14, 15, 16])
def test_grey_tiff_of_odd_depth_fills_the_range(bits: int, tmp_path: Path) -> None:
    largest = 2**bits - 1
    array = np.array([[0, 1, largest // 2], [largest - 1, largest, 7]], np.uint16)
    expected = np.round(array * (65535 / largest)).astype(np.uint16)
    for kind in ("minisblack", "miniswhite"):
        tifffile.imwrite(tmp_path / "a.tif", array, photometric=kind, bitspersample=bits)
        back = read(tmp_path / "a.tif")
        assert back.pixels.dtype == np.uint16
        np.testing.assert_array_equal(
            back.pixels[:, :, 0], expected if kind == "minisblack" else 65535 - expected
        )


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bit_cmyk_tiff_is_read_as_one_of_eight(order: str, tmp_path: Path) -> None:
    eight = noise(5, 6, 4)
    tifffile.imwrite(tmp_path / "a.tif", eight, photometric="separated")
    tifffile.imwrite(
        tmp_path / "b.tif", eight.astype(np.uint16) * 257, photometric="separated", byteorder=order
    )
    shallow, deep = read(tmp_path / "a.tif"), read(tmp_path / "b.tif")
    np.testing.assert_array_equal(deep.pixels, shallow.pixels)
    assert "16-bit CMYK reduced to 8 bit" in deep.notes
    assert "16-bit CMYK reduced to 8 bit" not in shallow.notes


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "avif", "tiff", "bmp", "gif"])
def test_the_limit_is_ours_and_not_that_of_pillow(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / f"a.{suffix}", colour(5, 6))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    assert read(tmp_path / f"a.{suffix}").width == 6
    assert Image.MAX_IMAGE_PIXELS == 1


def test_warnings_of_other_threads_are_not_lost_while_a_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.png", colour(4, 4))
    during: list[object] = []

    def warn_elsewhere(*_: object) -> None:
        thread = threading.Thread(target=warnings.warn, args=("from elsewhere",))
        thread.start()
        thread.join()
        during.append(list(warnings.filters))

    works = (read, read_header, lambda path: write(path, colour(4, 4)))
    for module in (sys.modules[read.__module__], sys.modules[read_header.__module__], atomic):
        monkeypatch.setattr(module, "check_regular", warn_elsewhere)
    for work in works:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            inside = list(warnings.filters)
            work(tmp_path / "a.png")
        assert [str(warning.message) for warning in caught] == ["from elsewhere"]
        assert during.pop() == inside


def png_with(content: bytes, kind: bytes, data: bytes) -> bytes:
    """Return a PNG with one more chunk behind its header."""
    return content[:33] + png_chunk(kind, data) + content[33:]


NOISY_READS = """
import sys
from car.errors import ImageError
from car.pictures.read import read
for path in sys.argv[1:]:
    try:
        read(path)
    except ImageError:
        pass
"""


def test_decoders_tell_stderr_nothing(tmp_path: Path) -> None:
    profile = b"ICC profile\0\0" + zlib.compress(b"no profile" * 30)
    (tmp_path / "a.png").write_bytes(png_with(SAMPLES["png16"], b"iCCP", profile))
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, noise(24, 24, dtype="uint16"), photometric="rgb", description="x" * 99)
    # the description is said to lie beyond the end of the file, which tifffile logs
    entry = struct.pack("<HHI", 270, 2, 100)
    content = buffer.getvalue()
    at = content.index(entry) + len(entry)
    (tmp_path / "a.tif").write_bytes(content[:at] + struct.pack("<I", 10**9) + content[at + 4 :])
    paths = [str(tmp_path / name) for name in ("a.png", "a.tif")]
    done = subprocess.run([sys.executable, "-c", NOISY_READS, *paths], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    np.testing.assert_array_equal(read(tmp_path / "a.png").pixels, noise(24, 24, dtype="uint16"))


def test_names_of_any_length_are_written_or_refused_in_one_line(tmp_path: Path) -> None:
    for name in ("\u5b57" * 83 + ".png", "a" * 251 + ".png"):  # 253 and 255 bytes; 255 is the most
        write(tmp_path / name, colour(4, 4))
        assert read(tmp_path / name).width == 4
    long = tmp_path / ("a" * 300 + ".png")
    works = (read, read_header, lambda p: write(p, colour(4, 4), overwrite=False))
    for work in works:
        for path in (long, tmp_path / "a\0.png"):
            with pytest.raises(ImageError, match=r"cannot be (read|written)"):
                work(path)
    with pytest.raises(ImageError, match="cannot be written"):
        atomic_write(long, b"")


def test_writing_leaves_the_umask_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(mask: int) -> int:
        raise AssertionError(f"umask({mask})")

    old = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", touched)
            write(tmp_path / "a.png", colour(4, 4))
    finally:
        os.umask(old)
    assert (tmp_path / "a.png").stat().st_mode & 0o777 == 0o640


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"a\.jpg: JPEG cannot keep the transparency"):
        write(tmp_path / "a.jpg", colour(4, 4, alpha=True))
    tifffile.imwrite(tmp_path / "f.tif", np.full((3, 4), 2.5, np.float32), photometric="minisblack")
    with pytest.raises(ImageError, match=r"f\.tif: its float32 values"):
        read(tmp_path / "f.tif")


def test_what_a_format_loses_is_said(tmp_path: Path) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for suffix in ("bmp", "gif"):
        notes = write(tmp_path / f"a.{suffix}", replace(colour(4, 4), icc=icc))
        assert any("colour profile" in note for note in notes)
    assert any("256 colours" in note for note in write(tmp_path / "b.gif", colour(40, 40)))
    assert write(tmp_path / "c.gif", colour(4, 4)) == ()
    assert any("no quality" in note for note in write(tmp_path / "a.png", colour(4, 4), quality=90))
    for quality in (0, 101, -3):
        with pytest.raises(ImageError, match="quality must be from 1 to 100"):
            write(tmp_path / "a.jpg", colour(4, 4), quality=quality)


def test_text_of_the_caller_does_not_displace_the_metadata(tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "me")
    chunks = list(text.chunks)
    to_pil(colour(4, 4), info=INFO).save(tmp_path / "a.png", pnginfo=text)
    assert text.chunks == chunks
    assert read(tmp_path / "a.png").info == INFO
    assert Image.open(tmp_path / "a.png").info["Author"] == "me"


@pytest.mark.parametrize("count", [0, 2])
def test_a_tiff_whose_width_is_no_number_is_refused(tmp_path, count):
    tifffile.imwrite(tmp_path / "f.tif", noise(8, 8).astype(np.uint16), photometric="rgb")
    content = (tmp_path / "f.tif").read_bytes()
    entry = next(e for kind in (3, 4) if (e := struct.pack("<HHI", 256, kind, 1)) in content)
    (tmp_path / "f.tif").write_bytes(content.replace(entry, entry[:4] + struct.pack("<I", count)))
    for refuse in (read, read_header):
        with pytest.raises(ImageError, match=r"f\.tif: "):
            refuse(tmp_path / "f.tif")


def claiming_tiff(
    size: tuple[int, int], samples: int, bits: int, kind: int = 1, tile: tuple[int, int] | None = None
) -> bytes:
    """Return a TIFF of a few bytes with one strip or tile, which is left out and so stands for black."""
    sides = {322: tile[0], 323: tile[1], 324: 0, 325: 0} if tile else {273: 0, 278: size[1], 279: 0}
    colours = {262: 2 if samples > 2 else 1, 277: samples, 339: kind}
    tags = {256: size[0], 257: size[1], 258: bits, 259: 1} | colours | sides
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


def test_a_tiff_of_a_few_bytes_that_claims_much_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[int, ...]] = []

    def decoded(page: tifffile.TiffPage) -> None:
        asked.append(page.shape)
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(tifffile.TiffPage, "asarray", decoded)
        with pytest.raises(ImageError, match=r"f\.tif: its samples take 51200000000 bytes, over the limit"):
            decode(claiming_tiff((20000, 20000), 16, 64, kind=3), "f.tif")
        for bits in (8, 16):
            content = claiming_tiff((100, 100), 1, bits, tile=(65536, 65536))
            with pytest.raises(ImageError, match=r"f\.tif: tiles of 65536 x 65536 are too large"):
                decode(content, "f.tif")
        assert not asked
        for bits, kind in ((16, 1), (32, 3)):
            with pytest.raises(ImageError, match="not enough memory"):
                decode(claiming_tiff((20000, 20000), 3, bits, kind), "f.tif")
        assert asked == [(20000, 20000, 3)] * 2
    assert not decode(claiming_tiff((100, 100), 1, 16, tile=(512, 512)), "f.tif").pixels.any()
