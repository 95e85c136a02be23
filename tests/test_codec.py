"""Images through the shipped models: sizes, kinds, tiles, metadata."""

import io
import os
import struct
import warnings
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

import car
from car.codec.choose import codec_for_picture, open_codec
from car.codec.codec import Codec, as_grey
from car.codec.coding import Encoding, coding_of
from car.codec.large import restore_file, shrink_file
from car.codec.options import Options
from car.codec.turns import found_turn
from car.devices import resolve_device
from car.errors import ImageError, UsageError, WeightsError
from car.families import architecture, model_names, published_geometry
from car.metrics import psnr
from car.models import create
from car.pictures.info import read_header
from car.pictures.metadata import LRInfo
from car.pictures.picture import Picture
from car.pictures.read import decode, from_pil, read
from car.pictures.write import encode, write
from car.serve.pictures import Pictures
from car.serve.settings import Settings
from car.weights import LoadedModel, manifest
from commandline import run_car


@pytest.fixture(scope="module")
def codecs() -> dict[int, Codec]:
    return {scale: open_codec(scale=scale) for scale in (2, 4)}


def any_model(name: str) -> LoadedModel:
    """The shipped model `name`, or an untrained one with random weights (a narrow one of the paper's)."""
    if name.startswith("car_plus"):
        return car.load(name)
    torch.manual_seed(0)
    narrow = name.startswith("car_x")
    model = architecture(name)
    if narrow:
        sizes = {"features": 4, "up_features": 8, "up_blocks": 2}
        model = replace(model, sizes=sizes, geometry=published_geometry(model.scale, 2))
    rescaler = create(model)
    for parameter in rescaler.parameters():
        if parameter.ndim > 1 and parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.5 * (1 / parameter[0].numel()) ** 0.5)
    return LoadedModel.of(model, rescaler)


def picture(
    height: int, width: int, *, dtype: str = "uint8", alpha: bool = False, grey: bool = False
) -> Picture:
    rng = np.random.default_rng(height * 1000 + width)
    levels = np.iinfo(dtype).max
    pixels = rng.integers(0, levels, (height, width, 3), dtype=dtype, endpoint=True)
    if grey:
        pixels[:] = pixels[:, :, :1]
    mask = rng.integers(0, levels, (height, width), dtype=dtype, endpoint=True) if alpha else None
    return Picture(pixels, mask, grey, None, None, ())


def _png(picture: Picture) -> bytes:
    return encode(picture, "a.png")[0]


def decibels(a: np.ndarray, b: np.ndarray) -> float:
    x, y = (torch.from_numpy(i.astype(np.float64) / np.iinfo(i.dtype).max).permute(2, 0, 1) for i in (a, b))
    return psnr(x, y)


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    scale=st.sampled_from([2, 4]),
    dtype=st.sampled_from(["uint8", "uint16"]),
    alpha=st.booleans(),
    grey=st.booleans(),
)
def test_any_size_comes_back_exactly(codecs, size, scale, dtype, alpha, grey) -> None:
    source = picture(*size, dtype=dtype, alpha=alpha, grey=grey)
    small, info = codecs[scale].shrink(source)
    assert small.pixels.shape == (-(-size[0] // scale), -(-size[1] // scale), 3)
    assert info.size == (size[1], size[0])
    large = codecs[scale].restore(replace(small, info=info))
    assert large.pixels.shape == source.pixels.shape
    assert large.pixels.dtype == small.pixels.dtype == np.dtype(dtype)
    assert (large.alpha is not None) == (small.alpha is not None) == alpha
    if large.alpha is not None:
        assert large.alpha.shape == size
        assert large.alpha.dtype == np.dtype(dtype)
    assert large.grey == info.grey == grey
    if grey:
        assert (large.pixels == large.pixels[:, :, :1]).all()
    assert large.notes == ()


SHIPPED = sorted({entry.model for entry in manifest()})
COLOURS = ((0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 0, 255), (10, 200, 60), (128, 128, 128))
SIDES = ((1, 1), (2, 2), (3, 7), (8, 8), (16, 16), (3, 40), (17, 20), (40, 33))


def _there_and_back(codec: Codec, pixels: np.ndarray) -> np.ndarray:
    small, info = codec.shrink(Picture(np.ascontiguousarray(pixels), None, False, None, None, ()))
    if codec.loaded.architecture.made_for == "lossy":
        small = decode(encode(small, "a.jpg", quality=95)[0], "a.jpg")
    return codec.restore(replace(small, info=info)).pixels


def _bicubic_there_and_back(codec: Codec, pixels: np.ndarray) -> np.ndarray:
    (height, width), s = pixels.shape[:2], codec.scale
    size = (-(-height // s), -(-width // s))
    filled = np.pad(pixels, ((0, size[0] * s - height), (0, size[1] * s - width), (0, 0)), mode="edge")
    small = Image.fromarray(filled).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    if codec.loaded.architecture.made_for == "lossy":
        lossless = Picture(np.asarray(small), None, False, None, None, ())
        small = Image.fromarray(decode(encode(lossless, "a.jpg", quality=95)[0], "a.jpg").pixels)
    large = small.resize((size[1] * s, size[0] * s), Image.Resampling.BICUBIC)
    return np.asarray(large)[:height, :width]


@pytest.mark.parametrize("name", SHIPPED)
def test_tiny_flat_pictures_keep_their_colours(name: str) -> None:
    codec = open_codec(name)
    for size in SIDES:
        # where a side is tiny nothing but repetition is seen; elsewhere zeros beyond the edge show a little
        worst = 2 if max(size) <= 4 * codec.scale else 20
        for colour in COLOURS:
            flat = np.full((*size, 3), colour, np.uint8)
            restored = _there_and_back(codec, flat).astype(int)
            assert np.abs(restored - flat).max() <= worst, (size, colour)


@pytest.mark.parametrize("name", SHIPPED)
def test_tiny_photographs_restore_as_well_as_by_bicubic(name: str, photo: Path) -> None:
    codec, pixels = open_codec(name), np.asarray(Image.open(photo).convert("RGB"))
    gains = []
    for height, width in SIDES[1:]:
        ours = bicubic = 0.0
        for top in (0, 70, 152):
            for left in (0, 50, 120):
                piece = pixels[top : top + height, left : left + width]
                ours += np.square(_there_and_back(codec, piece) - piece.astype(float)).mean()
                bicubic += np.square(_bicubic_there_and_back(codec, piece) - piece.astype(float)).mean()
        gains.append(10 * np.log10(bicubic / ours))
    assert min(gains) > -1.2, gains  # a few pixels are no picture: some lose, by less than they did
    assert np.mean(gains) > 0, gains


@pytest.mark.parametrize("scale", [2, 4])
def test_restores_far_better_than_bicubic(codecs, photo: Path, scale: int) -> None:
    source = read(photo)
    small, info = codecs[scale].shrink(source)
    ours = codecs[scale].restore(replace(small, info=info)).pixels
    image = Image.fromarray(source.pixels)
    shrunk = image.resize((source.width // scale, source.height // scale), Image.Resampling.BICUBIC)
    bicubic = np.asarray(shrunk.resize(image.size, Image.Resampling.BICUBIC))
    assert decibels(ours, source.pixels) > decibels(bicubic, source.pixels) + 4
    # and the small picture looks like the thumbnail that it is
    assert decibels(small.pixels, np.asarray(shrunk)) > 38


@pytest.mark.parametrize(
    "name",
    [name for name in model_names(controls=False) if name in SHIPPED or architecture(name).needs_torch],
)
def test_tiles_agree_with_the_whole(name: str, photo: Path) -> None:
    model = any_model(name)
    # so high that a tile in the middle sees neither end
    pixels = np.concatenate([read(photo).pixels] * 2)[:301, :76]
    whole, tiled = Codec(model, Options(tile=4096)), Codec(model, Options(tile=16))
    small = whole.downscale_pixels(pixels)
    for a, b in (
        (small, tiled.downscale_pixels(pixels)),
        (whole.upscale_pixels(small), tiled.upscale_pixels(small)),
    ):
        difference = np.abs(a.astype(int) - b.astype(int))
        assert difference.max() <= 1
        assert (difference > 0).mean() < 1e-4


def test_same_bytes_every_time(codecs, photo: Path) -> None:
    pixels = read(photo).pixels
    first = codecs[4].downscale_pixels(pixels)
    assert (first == codecs[4].downscale_pixels(pixels)).all()
    assert (codecs[4].upscale_pixels(first) == codecs[4].upscale_pixels(first)).all()


def test_alpha_is_resampled_alone_and_constant_alpha_stays(codecs) -> None:
    source = replace(picture(33, 21), alpha=np.full((33, 21), 200, np.uint8))
    small, info = codecs[4].shrink(source)
    assert small.alpha is not None
    assert (small.alpha == 200).all()
    large = codecs[4].restore(replace(small, info=info))
    assert large.alpha is not None
    assert (large.alpha == 200).all()
    assert (small.pixels == codecs[4].shrink(replace(source, alpha=None))[0].pixels).all()


@pytest.mark.parametrize("scale", [2, 4])
def test_grey_photographs_restore_as_well_as_coloured_ones(codecs, photo: Path, scale: int) -> None:
    image = Image.open(photo).convert("L")
    source = from_pil(image)
    assert source.grey
    small, info = codecs[scale].shrink(source)
    large = codecs[scale].restore(replace(small, info=info))
    shrunk = image.resize((image.width // scale, image.height // scale), Image.Resampling.BICUBIC)
    bicubic = from_pil(shrunk.resize(image.size, Image.Resampling.BICUBIC))
    assert decibels(large.pixels, source.pixels) > decibels(bicubic.pixels, source.pixels) + 3


@pytest.mark.parametrize("scale", [2, 4])
def test_what_is_grey_in_effect_comes_back_grey_by_every_path(
    photo: Path, tmp_path: Path, scale: int
) -> None:
    dither = Image.open(photo).convert("1").convert("RGB")
    dither.save(tmp_path / "a.tif", compression="tiff_deflate")
    dither.save(tmp_path / "a.png")
    codec = open_codec(scale=scale)
    small = car.downscale(dither, codec=codec)
    want = np.asarray(car.upscale(small).convert("RGB"))
    assert (want == want[:, :, :1]).all()

    car.downscale(tmp_path / "a.png", codec=codec).save(tmp_path / "small.png")
    np.testing.assert_array_equal(np.asarray(car.upscale(tmp_path / "small.png").convert("RGB")), want)
    for memory in (0, 10**12):
        shrink_file(codec, tmp_path / "a.tif", tmp_path / "small.png", memory=memory)
        restore_file(codec, read(tmp_path / "small.png"), tmp_path / "large.tif", memory=memory)
        np.testing.assert_array_equal(read(tmp_path / "large.tif").pixels, want)
    pictures = Pictures(Settings())
    shrunk = pictures.shrink((tmp_path / "a.png").read_bytes(), lambda _: codec, Encoding()).content
    large = pictures.restore(shrunk, None, None, Encoding()).content
    np.testing.assert_array_equal(decode(large, "a.png").pixels, want)


def test_grey_in_effect_is_restored_grey_where_no_metadata_says_so(photo: Path, tmp_path: Path) -> None:
    grey = np.asarray(Image.open(photo).convert("L").resize((24, 16)))
    rgb = np.repeat(grey[:, :, None], 3, axis=2)
    codec = open_codec(scale=2)
    want = codec.upscale(grey)
    assert want.ndim == 2
    Image.fromarray(rgb).save(tmp_path / "a.png")
    alpha = np.dstack([rgb, np.full_like(grey, 255)])
    tensor = torch.from_numpy(rgb / np.float32(255)).permute(2, 0, 1)
    for image in (rgb, alpha, grey[:, :, None], Image.fromarray(rgb), tmp_path / "a.png", tensor):
        large = codec.upscale(image)
        if isinstance(large, torch.Tensor):
            large = (large.permute(1, 2, 0) * 255).round().byte().numpy()
        if isinstance(large, Image.Image):
            large = np.asarray(large.convert("RGB"))
        assert large.shape[2] == getattr(image, "shape", (0, 0, 3))[2] if image is not tensor else 3
        for channel in range(min(large.shape[2], 3)):
            np.testing.assert_array_equal(large[:, :, channel], want)
    coloured = rgb.copy()
    coloured[0, 0, 0] ^= 1
    assert not (codec.upscale(coloured) == want[:, :, None]).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_is_luma_rounded_to_the_nearest_level(dtype: type) -> None:
    most = np.iinfo(dtype).max
    corners = np.array([[[r, g, b] for r in (0, most) for g in (0, most) for b in (0, most)]], dtype)
    rest = np.random.default_rng(0).integers(0, most, (40, 50, 3), dtype, endpoint=True)
    for pixels in (corners, rest):
        exact = pixels @ np.array([0.299, 0.587, 0.114])
        grey = as_grey(pixels)
        assert grey.dtype == dtype
        assert np.abs(grey - exact[:, :, None]).max() <= 0.5 + most * 1e-5
    assert as_grey(corners)[0, -1].tolist() == [most] * 3


def test_sixteen_bit_keeps_more_than_eight(codecs) -> None:
    ramp = np.linspace(20000, 22000, 64).astype(np.uint16)
    pixels = np.ascontiguousarray(np.broadcast_to(ramp[None, :, None], (64, 64, 3)))
    small, _ = codecs[2].shrink(Picture(pixels, None, False, None, None, ()))
    assert len(np.unique(small.pixels)) > 2 * len(np.unique(small.pixels // 257))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_small_picture_that_exif_turns_is_restored_as_it_was_made(
    codecs, photo: Path, tmp_path: Path, orientation: int, suffix: str
) -> None:
    made = read(photo).turn(1)
    made = replace(made, pixels=made.pixels[:157, :131])
    small, info = codecs[2].shrink(made)
    write(tmp_path / f"made.{suffix}", small, info=info)
    as_made = codecs[2].restore(read(tmp_path / f"made.{suffix}"))
    content = (tmp_path / f"made.{suffix}").read_bytes()
    exif = Image.Exif()
    exif[0x0112] = orientation
    if suffix == "jpg":  # a segment after the start of the image
        told = exif.tobytes()
        content = content[:2] + b"\xff\xe1" + struct.pack(">H", len(told) + 2) + told + content[2:]
    else:  # a chunk after the header
        body = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
        chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        content = content[:33] + chunk + content[33:]
    (tmp_path / f"turned.{suffix}").write_bytes(content)
    turned = codecs[2].restore(read(tmp_path / f"turned.{suffix}"))
    with Image.open(io.BytesIO(_png(as_made))) as restored:
        restored.getexif()[0x0112] = orientation
        expected = np.asarray(ImageOps.exif_transpose(restored))
    np.testing.assert_array_equal(turned.pixels, expected)
    assert turned.notes == as_made.notes


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_small_picture_that_a_program_turned_is_restored_as_it_was_made(
    codecs, photo: Path, orientation: int
) -> None:
    small, info = codecs[4].shrink(read(photo))
    as_made = codecs[4].restore(replace(small, info=info))
    turned = codecs[4].restore(replace(small.turn(orientation), info=info))
    np.testing.assert_array_equal(turned.pixels, as_made.turn(orientation).pixels)
    assert turned.notes == ("the picture was turned after it was made",)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_coded_small_picture_that_a_program_turned_loses_no_pixels(photo: Path, orientation: int) -> None:
    """Which way cannot be told, and so not which side was filled up: nothing is cut off."""
    codec = open_codec("car_codec_x2")
    odd = Image.open(photo).convert("RGB").crop((0, 0, 101, 93))
    small, info = codec.shrink(from_pil(odd))
    coded = decode(encode(small, "a.jpg", info=info, quality=75)[0], "a.jpg")
    turned = codec.restore(replace(coded.turn(orientation), info=info))
    want = Picture(codec.upscale_pixels(coded.pixels), None, False, None, None, ()).turn(orientation)
    assert turned.pixels.shape == want.pixels.shape == (102, 94, 3)
    assert np.abs(turned.pixels.astype(float) - want.pixels).mean() < 3
    assert "its size is 94x102" in turned.notes[1]


@pytest.mark.parametrize(("size", "looked"), [((64, 60), False), ((64, 68), True), ((80, 80), False)])
def test_turns_are_looked_for_where_several_pieces_can_tell(size: tuple[int, int], looked: bool) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(size[1], size[0], 3)).astype(np.uint8)
    info = LRInfo("car_plus_x4", "", 4, (4 * size[0], 4 * size[1]))
    calls: list[tuple[int, ...]] = []

    def again(small: np.ndarray) -> np.ndarray:
        calls.append(small.shape)
        return small

    assert found_turn(Picture(pixels, None, False, None, info, ()), again, by_pixels=True) == (1, "")
    assert bool(calls) is looked


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_a_small_picture_that_a_program_mirrored_is_restored_as_it_was_made(
    codecs, photo: Path, orientation: int
) -> None:
    small, info = codecs[2].shrink(read(photo))
    as_made = codecs[2].restore(replace(small, info=info))
    assert as_made.notes == ()
    turned = codecs[2].restore(replace(small.turn(orientation), info=info))
    np.testing.assert_array_equal(turned.pixels, as_made.turn(orientation).pixels)
    assert "after it was made, as its pixels show" in turned.notes[0]


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_square_picture_that_a_tag_of_tiff_turns_is_restored_as_it_was_made(
    codecs, photo: Path, tmp_path: Path, orientation: int
) -> None:
    made = replace(read(photo), pixels=read(photo).pixels[:64, :64])
    small, info = codecs[2].shrink(made)
    as_made = codecs[2].restore(replace(small, info=info))
    tifffile.imwrite(
        tmp_path / "a.tif",
        small.pixels,
        photometric="rgb",
        description=info.to_text(),
        metadata=None,
        extratags=[(274, 3, 1, orientation, True)],
    )
    turned = codecs[2].restore(read(tmp_path / "a.tif"))
    np.testing.assert_array_equal(turned.pixels, as_made.turn(orientation).pixels)
    assert turned.notes == ()


@pytest.mark.parametrize("orientation", [6, 8])
def test_how_a_page_was_turned_is_told_by_what_is_on_it(codecs, photo: Path, orientation: int) -> None:
    page = np.full((600, 520, 3), 240, np.uint8)
    page[:192, :160] = np.asarray(Image.open(photo).convert("RGB").resize((160, 192)))
    small, info = codecs[2].shrink(replace(picture(1, 1), pixels=page))
    assert codecs[2].turned(replace(small.turn(orientation), info=info)) == orientation


def test_how_a_flat_picture_was_turned_is_said_to_be_unclear(codecs) -> None:
    source = replace(picture(1, 1), pixels=np.full((60, 83, 3), 240, np.uint8))
    small, info = codecs[2].shrink(source)
    turned = replace(small.turn(6), info=info)
    large = codecs[2].restore(turned)
    assert large.pixels.shape == (83, 60, 3)
    assert "do not show which way it was turned" in large.notes[1]


def test_a_lossless_model_s_picture_saved_as_jpeg_and_turned_loses_no_pixels(codecs, photo: Path) -> None:
    odd = Image.open(photo).convert("RGB").crop((0, 0, 101, 93))
    small, info = codecs[2].shrink(from_pil(odd))
    coded = decode(encode(small, "a.jpg", info=info, quality=75)[0], "a.jpg")
    assert codecs[2].restored_size(coded.turn(6))[0] == (94, 102)


def test_of_a_lossless_model_s_picture_in_a_lossy_file_a_note_names_the_other_model(photo: Path) -> None:
    for name, suffix, quality, noted in (
        ("car_plus_x4", "png", None, False),
        ("car_plus_x4", "jpg", 90, True),
        ("car_plus_x4", "jpg", 94, True),
        ("car_plus_x4", "jpg", 95, False),  # from here on, the better model
        ("car_plus_x4", "jpg", None, False),
        ("car_plus_x4", "webp", 100, True),
        ("car_lite_x4", "avif", 89, True),
        ("car_plus_x4", "avif", 90, False),
        ("car_codec_x4", "jpg", None, False),
    ):
        codec = open_codec(name)
        small, info = codec.shrink(read(photo))
        file = f"a.{suffix}"
        content, written = encode(small, file, info=info, quality=quality)
        (*notes,) = codec.restored_size(decode(content, file))[1]
        assert ["is lossy here" in note for note in written] == [True] * noted
        assert [f"which {name} is not made for" in note for note in notes] == [True] * noted
        assert all("car_codec_x4 may restore it better" in note for note in notes)


def test_a_cropped_small_picture_is_restored_with_a_note(codecs) -> None:
    small, info = codecs[4].shrink(picture(64, 64))
    cut = replace(small, pixels=small.pixels[:10], info=info)
    large = codecs[4].restore(cut)
    assert large.pixels.shape == (40, 64, 3)
    assert "cropped or resized" in large.notes[0]


def test_impossible_sizes_are_refused(codecs) -> None:
    small, _ = codecs[4].shrink(picture(64, 64))
    assert codecs[4].restore(small, (61, 64)).width == 61
    with pytest.raises(UsageError, match="not to 60x64"):
        codecs[4].restore(small, (60, 64))


def test_path_to_file_and_back(tmp_path: Path, photo: Path) -> None:
    small = car.downscale(photo, scale=4)
    assert isinstance(small, Image.Image)
    assert small.size == (40, 48)
    small.save(tmp_path / "small.png")
    info = read(tmp_path / "small.png").info
    assert info is not None
    assert (info.model, info.scale, info.size) == ("car_plus_x4", 4, (160, 192))
    large = car.upscale(tmp_path / "small.png")
    assert isinstance(large, Image.Image)
    assert large.size == (160, 192)
    assert np.array_equal(np.asarray(large), np.asarray(car.upscale(small)))
    assert np.array_equal(np.asarray(small), np.asarray(car.downscale(Image.open(photo), 4)))


def test_arrays_and_tensors_come_back_as_they_came(photo: Path) -> None:
    pixels = read(photo).pixels[:49, :50]
    small = car.downscale(pixels, model="car_plus_x2")
    assert isinstance(small, np.ndarray)
    assert small.shape == (25, 25, 3)
    assert small.dtype == np.uint8
    assert car.upscale(small, 2, size=(50, 49)).shape == (49, 50, 3)
    for array in (pixels[:, :, 0], pixels[:, :, :1], np.dstack([pixels, pixels[:, :, 0]])):
        shrunk = car.downscale(np.ascontiguousarray(array), 2)
        assert shrunk.shape == (25, 25, max(3, *array.shape[2:], 3))
    as_float = car.downscale((pixels / 255).astype(np.float32), 2)
    assert as_float.dtype == np.float32
    assert np.array_equal(np.round(as_float * 255), small)
    tensor = torch.tensor(pixels).permute(2, 0, 1).float() / 255
    for batched in (tensor, tensor[None], tensor[None].repeat(2, 1, 1, 1).double()):
        result = car.downscale(batched, 2)
        assert result.dtype == batched.dtype
        assert result.shape == (*batched.shape[:-2], 25, 25)
        last = result if result.ndim == 3 else result[-1]
        assert np.array_equal((last * 255).round().permute(1, 2, 0).numpy(), small)


def test_misuse_is_explained(photo: Path) -> None:
    for odd in ("4", 1, 0, -2, True, [4]):
        with pytest.raises(UsageError, match="scale must be a number from"):
            car.downscale(photo, odd)  # type: ignore[arg-type]
    for size in (5, (1, 2, 3), (1.0, 2)):
        for scale in (4, None):
            with pytest.raises(UsageError, match="size must be"):
                car.upscale(photo, scale, size=size)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="does not say which model"):
        car.upscale(photo)
    with pytest.raises(UsageError, match="expected a path"):
        car.downscale(42, 2)  # type: ignore[type-var]
    with pytest.raises(UsageError, match=r"got \(4, 4, 2\)"):
        car.downscale(np.zeros((4, 4, 2), np.uint8), 2)
    with pytest.raises(UsageError, match="int64"):
        car.downscale(np.zeros((4, 4, 3), np.int64), 2)
    with pytest.raises(UsageError, match=r"got .* to 255: divide by 255\?"):
        car.downscale(np.full((4, 4, 3), 255.0), 2)
    with pytest.raises(UsageError, match=r"got -1 to 0.5: is black -1\?"):
        car.downscale(np.linspace(-1, 0.5, 48).reshape(4, 4, 3), 2)
    with pytest.raises(ImageError, match="it has no pixels: 0 x 5"):
        car.downscale(Image.new("RGB", (0, 5)), 2)
    assert car.downscale(np.asmatrix(np.zeros((4, 4), np.uint8)), 2).shape == (2, 2, 3)
    with pytest.raises(ImageError, match="not finite"):
        car.downscale(np.full((4, 4, 3), np.nan, np.float32), 2)
    with pytest.raises(UsageError, match="expected an RGB tensor"):
        car.downscale(torch.zeros(1, 4, 4), 2)
    with pytest.raises(UsageError, match="expected an RGB tensor"):
        car.downscale(torch.zeros(0, 3, 4, 4), 2)
    for hollow in (torch.zeros(3, 4, 4).to_sparse(), torch.zeros(3, 4, 4, device="meta")):
        with pytest.raises(UsageError, match="a dense tensor with values, got torch"):
            car.downscale(hollow, 2)
    with pytest.raises(UsageError, match=r"has a mask.*filled"):
        car.downscale(np.ma.masked_equal(np.zeros((4, 4, 3), np.uint8), 0), 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"options": {}}, "options must be car.Options, got dict"),
        ({"options": None}, "options must be car.Options, got NoneType"),
        ({"codec": "car_plus_x4"}, "codec must be what car.open returns, got str"),
        ({"model": car.list_models()[0]}, "by its name, tag or file, not as ModelInfo"),
        ({"model": 5}, "by its name, tag or file, not as int"),
        ({"model": ""}, "no model is called ''"),
    ],
)
def test_an_argument_of_the_wrong_type_is_named(arguments: dict[str, Any], message: str) -> None:
    if "codec" not in arguments and "model" not in arguments:
        arguments = arguments | {"scale": 2}
    with pytest.raises(UsageError, match=message):
        car.downscale(np.zeros((4, 4, 3), np.uint8), **arguments)


def test_numbers_of_numpy_and_paths_of_any_type_are_taken(photo: Path) -> None:
    class Named:
        def __init__(self, name: str | bytes) -> None:
            self.name = name

        def __fspath__(self) -> Any:
            return self.name

    small = np.zeros((4, 5, 3), np.uint8)
    for size in ((9, 7), [9, 7], np.array([9, 7])):
        assert car.upscale(small, np.int64(2), size=size).shape == (7, 9, 3)  # type: ignore[arg-type]
    want = np.asarray(car.downscale(photo, 2))
    for path in (Named(str(photo)), Named(os.fsencode(photo))):
        assert np.array_equal(np.asarray(car.downscale(path, np.uint8(2))), want)  # type: ignore[arg-type]


def test_a_note_says_what_is_lost_on_the_way_to_the_caller_s_kind(tmp_path: Path) -> None:
    deep = np.full((8, 8, 3), 1000, np.uint16)
    tifffile.imwrite(tmp_path / "deep.tif", deep, photometric="rgb")
    for image in (tmp_path / "deep.tif", Image.fromarray(deep[:, :, 0])):
        with pytest.warns(UserWarning, match="16 bit were rounded to 8"):
            assert car.downscale(image, 2).mode == "RGB"
    beyond = np.full((8, 8, 3), 1.25, np.float32)
    with pytest.warns(UserWarning, match="above 1 were cut off"):
        assert car.downscale(beyond, 2).max() == 1
    with pytest.warns(UserWarning, match="above 1 were cut off") as found:
        car.downscale(torch.from_numpy(beyond).permute(2, 0, 1)[None].repeat(2, 1, 1, 1), 2)
    assert len(found) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert car.downscale(deep, 2).dtype == np.uint16
        car.downscale(np.full((8, 8, 3), 1 + 1e-4), 2)  # what arithmetic leaves


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"threads": 10**6}, "threads must be 1 to 1024, got 1000000"),
        ({"threads": True}, "threads must be a whole number, got True"),
        ({"memory": "1GB"}, "memory must be a whole number, got '1GB'"),
        ({"memory": -1}, "memory must be positive, got -1"),
        ({"tile": 512.0}, "tile must be a whole number, got 512.0"),
        ({"max_pixels": None}, "max_pixels must be a whole number, got None"),
        ({"effort": 2.5}, "effort must be a whole number, got 2.5"),
    ],
)
def test_a_setting_that_is_not_allowed_is_named(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Options(**setting)


def test_settings_may_be_of_other_types_that_mean_the_same() -> None:
    same = Options(device=torch.device("cpu"), tile=np.int16(64), effort=np.uint8(3))  # type: ignore[arg-type]
    assert same == Options(device="cpu", tile=64, effort=3)
    assert type(same.tile) is int


@pytest.mark.parametrize(
    "model", ["evil.safetensors", "kgn.ckpt", car.weights.manifest()[0].tag, "car_plus_x9"]
)
def test_a_model_in_the_metadata_is_a_name_and_no_file(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = Path(car.__file__).parent / "weights" / car.weights.manifest()[0].file
    (tmp_path / model).write_bytes(shipped.read_bytes())
    small = replace(picture(8, 8), info=LRInfo(model, "", 4, (32, 32)))
    with pytest.raises(WeightsError, match="which this version does not ship"):
        codec_for_picture(small)
    known = replace(small, info=LRInfo("car_plus_x4", "", 4, (32, 32)))
    assert codec_for_picture(known).loaded.name == "car_plus_x4"


@pytest.mark.parametrize(
    ("name", "quality", "family"),
    [
        ("a.jpg", None, "car_codec"),
        ("a.jpg", 94, "car_codec"),
        ("a.jpg", 95, "car_plus"),
        ("a.avif", 89, "car_codec"),
        ("a.avif", 90, "car_plus"),
        ("a.webp", 100, "car_codec"),
        ("a.webp", None, "car_plus"),
        ("a.png", None, "car_plus"),
    ],
)
def test_what_a_file_loses_decides_which_model_makes_it(name: str, quality: int | None, family: str) -> None:
    assert open_codec(None, 2, options=Options(coding=coding_of(name, quality))).loaded.name == f"{family}_x2"


@pytest.mark.parametrize(
    ("name", "quality", "least"), [("a.jpg", 98, 2.0), ("a.avif", 97, 2.0), ("a.jpg", 80, -9.0)]
)
def test_the_model_that_is_chosen_restores_better(photo: Path, name: str, quality: int, least: float) -> None:
    source = read(photo)
    found = []
    for family in ("car_plus", "car_codec"):
        codec = open_codec(f"{family}_x2", options=Options(device="cpu"))
        small, info = codec.shrink(source)
        content, _ = encode(small, name, info=info, quality=quality)
        found.append(decibels(codec.restore(decode(content, name)).pixels, source.pixels))
    better = found[0] - found[1]
    assert better > least
    chosen = open_codec(None, 2, options=Options(coding=coding_of(name, quality))).loaded.name
    assert chosen == ("car_plus_x2" if better > 0 else "car_codec_x2")


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("a.jpg", {}),
        ("a.avif", {}),
        ("a.webp", {"icc_profile": SRGB}),
        ("a.webp", {"lossless": True}),
        ("a.png", {}),
        ("a.tiff", {}),
    ],
)
def test_a_thumbnail_restores_no_worse_than_bicubic(
    name: str, how: dict[str, Any], photo: Path, tmp_path: Path
) -> None:
    """Without metadata, library, command and bulk run enlarge it as a thumbnail, and say so."""
    path = tmp_path / "small" / name
    path.parent.mkdir()
    with Image.open(photo) as image:
        original = image.convert("RGB").crop((0, 0, image.width // 4 * 4, image.height // 4 * 4))
    original.resize((original.width // 4, original.height // 4), Image.Resampling.LANCZOS).save(path, **how)
    assert codec_for_picture(read(path), model="car_plus_x4").note == ""
    with pytest.warns(UserWarning, match="ordinary thumbnail"):
        ours = np.asarray(car.upscale(path, scale=4))
    with Image.open(path) as image:
        bicubic = np.asarray(image.convert("RGB").resize(original.size, Image.Resampling.BICUBIC))
    assert decibels(ours, np.asarray(original)) > decibels(bicubic, np.asarray(original))
    for out, arguments in (
        (tmp_path / "one.png", ["upscale", path, "-o", tmp_path / "one.png"]),
        (tmp_path / "many" / "a.png", ["bulk", "upscale", path.parent, tmp_path / "many"]),
    ):
        done = run_car(*arguments, "--scale", 4)
        assert done.returncode == 0
        assert "ordinary thumbnail" in done.stderr
        assert np.abs(np.asarray(Image.open(out)).astype(int) - ours).max() <= 1  # other tiles


def test_a_small_picture_saved_again_as_a_coarse_jpeg_restores_by_the_model_for_lossy_files(
    photo: Path, tmp_path: Path
) -> None:
    source = read(photo)
    codec = open_codec("car_plus_x4", options=Options(device="cpu"))
    small, info = codec.shrink(source)
    for quality, expected in ((80, "car_codec_x4"), (98, "car_plus_x4")):
        path = tmp_path / f"{quality}.jpg"
        write(path, small, info=info, quality=quality)
        chosen = codec_for_picture(read(path))
        assert chosen.loaded.name == expected
        large = chosen.restore(read(path))
        other = open_codec("car_plus_x4" if quality == 80 else "car_codec_x4").restore(read(path))
        assert decibels(large.pixels, source.pixels) > decibels(other.pixels, source.pixels)
    with pytest.warns(UserWarning, match="saved again as a lossy file: restored by car_codec_x4"):
        car.upscale(tmp_path / "80.jpg")


@pytest.mark.parametrize("quality", [60, 89])
def test_a_small_picture_saved_again_as_avif_stays_with_its_model(
    photo: Path, tmp_path: Path, quality: int
) -> None:
    path = tmp_path / "small.avif"
    codec = open_codec("car_plus_x2", options=Options(device="cpu"))
    small, info = codec.shrink(read(photo))
    write(path, small, info=info, quality=quality)
    chosen = codec_for_picture(read(path))
    assert chosen.loaded.name == "car_plus_x2"
    assert np.array_equal(chosen.restore(read(path)).pixels, codec.restore(read(path)).pixels)


def test_a_small_picture_made_grey_restores_in_grey_with_a_note(tmp_path: Path) -> None:
    info = LRInfo("car_plus_x4", "", 4, (64, 48))
    grey = picture(12, 16).pixels[:, :, :1].repeat(3, axis=2)
    write(tmp_path / "grey.png", replace(picture(12, 16), pixels=grey, grey=True), info=info)
    with pytest.warns(UserWarning, match="has lost its colours"):
        assert car.upscale(tmp_path / "grey.png").mode == "L"


@pytest.mark.parametrize("name", ["photo.png", "photo.jpg"])
def test_a_grey_photograph_stored_in_colour_comes_back_grey(photo: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with Image.open(photo) as image:
        image.convert("L").convert("RGB").save(path)
    small = car.downscale(path)
    assert small.mode == "RGB"  # its colours carry detail
    small.save(tmp_path / "small.png")
    assert car.upscale(tmp_path / "small.png").mode == "L"
    done = run_car("upscale", tmp_path / "small.png", "-o", tmp_path / "large.png")
    assert (done.returncode, done.stderr) == (0, "")
    with Image.open(tmp_path / "large.png") as large:
        assert large.mode == "L"
    # as an editor leaves it that keeps the metadata
    written = PngImagePlugin.PngInfo()
    written.add_text("car", small.info["car"])
    small.convert("L").save(tmp_path / "grey.png", pnginfo=written)
    with pytest.warns(UserWarning, match="lost its colours") as told:
        assert car.upscale(tmp_path / "grey.png").mode == "L"
    assert len(told) == 1


def as_file(image: Image.Image, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    image.save(content, kind)
    return content.getvalue()


def test_files_may_be_given_as_bytes_or_open(photo: Path, tmp_path: Path) -> None:
    content = photo.read_bytes()
    expected = np.asarray(car.downscale(photo))
    with photo.open("rb") as file:
        for given in (content, bytearray(content), memoryview(content), io.BytesIO(content), file):
            small = car.downscale(given)
            assert np.array_equal(np.asarray(small), expected)
    assert car.upscale(as_file(small)).size == Image.open(photo).size
    for given, kind, match in (
        (b"", ImageError, "the file is empty"),
        (b"junk", ImageError, "not a picture"),
        (io.StringIO("text"), UsageError, "open the file in binary mode"),
    ):
        with pytest.raises(kind, match=match):
            car.downscale(given)  # type: ignore[call-overload]


def test_batches_of_arrays_and_tensors_of_bytes(photo: Path) -> None:
    array = np.asarray(Image.open(photo).convert("RGB"))[:50, :49]
    one = car.downscale(array, 2)
    batch = np.stack([array, array[::-1]])
    small = car.downscale(batch, 2)
    assert (small.shape, small.dtype) == ((2, 25, 25, 3), np.uint8)
    assert np.array_equal(small[0], one)
    assert car.upscale(small, model="car_plus_x2", size=(49, 50)).shape == batch.shape
    assert car.downscale(batch[..., :1], 2).shape == (2, 25, 25, 3)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    result = car.downscale(tensor, 2)
    assert result.dtype == torch.uint8
    assert np.array_equal(result.permute(1, 2, 0).numpy(), one)
    assert car.downscale(torch.stack([tensor] * 2), 2).shape == (2, 3, 25, 25)
    for wrong, remedy in (
        (array.transpose(2, 0, 1), r"array\.transpose\(1, 2, 0\)"),
        (batch.transpose(0, 3, 1, 2), r"batch\.transpose\(0, 2, 3, 1\)"),
        (torch.from_numpy(array), r"tensor\.permute\(2, 0, 1\)"),
        (torch.from_numpy(batch), r"tensor\.permute\(0, 3, 1, 2\)"),
        (tensor.int(), "floating in .* or uint8"),
    ):
        with pytest.raises(UsageError, match=remedy):
            car.downscale(wrong, 2)


def test_results_as_files(photo: Path, tmp_path: Path) -> None:
    for format, quality, model in (
        ("png", None, "car_plus_x4"),
        ("jpg", 60, "car_codec_x4"),
        ("jpg", 97, "car_plus_x4"),
        ("webp", np.int64(70), "car_codec_x4"),
        ("avif", 50, "car_codec_x4"),
    ):
        content = car.downscale(photo, format=format, quality=quality)
        info = read_header(content).info
        assert info is not None
        assert info.model == model
        target = tmp_path / f"small.{format}"
        write(target, *open_codec(model).shrink(read(photo))[:1], info=info, quality=quality and int(quality))
        assert abs(len(content) / target.stat().st_size - 1) < 0.02
    assert len(car.upscale(content, format="jpg", quality=20)) < len(car.upscale(content, format="jpg"))
    small = car.downscale(np.asarray(Image.open(photo)), format="png", codec=car.open("car_plus_x2"))
    assert car.upscale(small).size == Image.open(photo).size
    for how, match in (
        ({"quality": 5}, "quality needs a format"),
        ({"format": "png", "quality": 5}, "png is lossless"),
        ({"format": "jpg", "quality": 101}, "quality must be from 1 to 100"),
        ({"format": "gif"}, "format must be one of png, webp, jpg, avif, tiff"),
    ):
        with pytest.raises(UsageError, match=match):
            car.downscale(photo, **how)
    with pytest.raises(UsageError, match="one picture, not a batch"):
        car.downscale(np.zeros((2, 8, 8, 3), np.uint8), format="png")


def test_deep_grey_pil_images_are_rounded_with_a_warning() -> None:
    deep = Image.fromarray(np.linspace(0, 65535, 40 * 48).reshape(40, 48).astype(np.uint16))
    assert deep.mode == "I;16"
    with pytest.warns(UserWarning, match="16 bit were rounded to 8"):
        assert car.downscale(deep, 2).mode == "RGB"


def test_unknown_weights_in_the_metadata_are_named(tmp_path: Path) -> None:
    info = LRInfo("car_plus_x4", "0123456789abcdef", 4, (64, 64))
    write(tmp_path / "old.png", picture(16, 16), info=info)
    with pytest.raises(WeightsError, match="0123456789abcdef"):
        car.upscale(tmp_path / "old.png")
    assert codec_for_picture(read(tmp_path / "old.png"), model="car_plus_x4").scale == 4


def test_devices() -> None:
    assert resolve_device("cpu") == resolve_device("CPU") == torch.device("cpu")
    with pytest.raises(UsageError, match="no device is called 'tpu9'"):
        resolve_device("tpu9")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="'cuda' cannot be used here"):
            resolve_device("cuda")
