"""Any scale and any size: sizes, models, metadata, strips."""

import io
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import car
from car.codec.choose import open_codec
from car.codec.codec import Codec
from car.codec.options import Options
from car.errors import UsageError
from car.metrics import psnr
from car.pictures.metadata import LRInfo
from car.pictures.read import from_pil, read
from car.pictures.resize import bicubic_resize
from car.pictures.rows import resampled
from car.scaling import (
    AlreadySmallError,
    Wanted,
    exact_scale,
    fits,
    full_size,
    native_scale,
    scale_between,
    small_size,
)

SCALES = st.integers(125, 1600).map(lambda n: exact_scale(n / 100)) | st.floats(1.25, 16).map(exact_scale)
SIZES = st.tuples(st.integers(1, 10**5), st.integers(1, 10**5))


@given(SIZES, SCALES)
def test_the_size_of_an_original_is_one_of_those_that_its_small_picture_can_have(
    size: tuple[int, int], scale: float
) -> None:
    small = small_size(size, scale)
    assert min(small) >= 1
    assert fits(size, small, scale)
    assert fits(full_size(small, scale), small, scale)
    assert not fits((full_size(small, scale)[0] + 1, size[1]), small, scale)
    found = scale_between(size, small)
    assert found is not None
    assert fits(size, small, found)


@given(SIZES, st.integers(1, 10**5), st.sampled_from(["width", "height", "size"]))
def test_a_wanted_size_is_met_exactly_or_refused(size: tuple[int, int], pixels: int, name: str) -> None:
    try:
        scale = Wanted(**{name: pixels}).scale_of(size)
    except UsageError:
        side = {"width": size[0], "height": size[1], "size": max(size)}[name]
        assert not 1.26 <= side / pixels <= 15.9
        return
    assert scale is not None
    small = small_size(size, scale)
    assert {"width": small[0], "height": small[1], "size": max(small)}[name] == pixels


@pytest.mark.parametrize(
    ("wanted", "size", "scale"),
    [
        (Wanted(size=1024), (4095, 3000), 4),  # as whole as it can be
        (Wanted(width=100), (250, 90), 2.5),
        (Wanted(height=100), (90, 250), 2.5),
        (Wanted(megapixels=1), (4000, 1000), 2),
        (Wanted(scale=2.5), (7, 7), 2.5),
        (Wanted(), (7, 7), None),
    ],
)
def test_scales_follow_from_sizes(wanted: Wanted, size: tuple[int, int], scale: float | None) -> None:
    assert wanted.scale_of(size) == scale


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"scale": 0}, "scale must be"),
        ({"scale": 1}, "scale must be"),
        ({"scale": 17}, "scale must be"),
        ({"scale": float("nan")}, "scale must be"),
        ({"scale": "3/0"}, "scale must be"),
        ({"width": 0}, "width must be a positive"),
        ({"size": -1}, "size must be a positive"),
        ({"height": 2.5}, "height must be a whole number"),
        ({"megapixels": float("inf")}, "megapixels must be"),
        ({"scale": 2, "size": 100}, "only one of scale, size"),
        ({"size": 250}, "too small for size 250:"),
        ({"size": 3}, "too large for size 3:"),
    ],
)
def test_impossible_scales_and_sizes_are_told_in_a_line(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        car.downscale(np.zeros((256, 200, 3), np.uint8), **values)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, AlreadySmallError) == ("too small" in said)


def test_a_model_of_another_scale_would_be_used_where_there_is_one() -> None:
    scales = (1.25, 2, 2.5, 3, 3.5, 5, 8, 16)
    assert [native_scale(s, (2, 3, 4, 8)) for s in scales] == [2, 2, 3, 3, 4, 8, 8, 8]
    assert [open_codec(scale=s).native for s in scales] == [2, 2, 3, 3, 4, 4, 4, 4]
    assert open_codec("car_plus_x2", 3).native == 2
    assert open_codec(scale=4).at(2.5).at(4).scale == 4


@pytest.mark.parametrize("lossy", [False, True])
@settings(max_examples=settings().max_examples // 2)
@given(scale=SCALES, width=st.integers(1, 70), height=st.integers(1, 70))
def test_every_scale_gives_back_the_exact_size(lossy: bool, scale: float, width: int, height: int) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))
    small = car.downscale(image, scale, model="car_codec_x2" if lossy else None)
    assert small.size == small_size((width, height), scale)
    file = io.BytesIO()
    small.save(file, "PNG")
    info = LRInfo.from_text(small.info["car"])
    assert info is not None
    assert (info.scale, info.size) == (scale, (width, height))
    assert car.upscale(Image.open(file)).size == (width, height)
    pixels = np.asarray(small)
    again = car.upscale(pixels, scale, model=info.model, size=(width, height))
    assert again.shape == (height, width, 3)


def test_arrays_are_restored_by_their_size_alone(photo: Path) -> None:
    picture = read(photo).pixels[:120]
    small = car.downscale(picture, size=64)
    assert small.shape == (48, 64, 3)
    assert (car.upscale(small, size=(160, 120)) == car.upscale(small, 2.5, size=(160, 120))).all()


@pytest.mark.parametrize("scale", [1.5, 2.5, 3, 6])
def test_small_pictures_look_like_bicubic_ones_and_restore_better(photo: Path, scale: float) -> None:
    height, width = 180, 150  # multiples of these scales, so that no border is added
    picture = read(photo).pixels[:height, :width]
    small = car.downscale(picture, scale)
    plain = bicubic_resize(picture.astype(np.float32), small.shape[:2])
    enlarged = bicubic_resize(plain, (height, width)).round().clip(0, 255).astype(np.uint8)
    assert psnr(small, plain.round().clip(0, 255).astype(np.uint8)) > 34
    restored = car.upscale(small, scale, size=(width, height))
    assert psnr(restored, picture) > psnr(enlarged, picture) + (1 if scale > 4 else 3)


def test_deep_grey_and_transparent_pictures_stay_so(photo: Path) -> None:
    rgba = read(photo).pixels[:90, :121].astype(np.uint16) * 257
    alpha = np.full((90, 121, 1), 65535, np.uint16)
    alpha[:30] = 0
    small = car.downscale(np.concatenate([rgba, alpha], axis=2), 2.5)
    assert (small.shape, small.dtype) == ((36, 49, 4), np.uint16)
    restored = car.upscale(small, 2.5, size=(121, 90))
    assert (restored.shape, restored.dtype) == ((90, 121, 4), np.uint16)
    assert restored[60:, :, 3].min() == 65535
    grey = Image.open(photo).convert("L").crop((0, 0, 121, 90))
    picture, info = open_codec(scale=2.5).shrink(from_pil(grey))
    assert open_codec(scale=2.5).restore(replace(picture, info=info)).grey


def test_turned_small_pictures_are_restored_upright(photo: Path) -> None:
    original = Image.open(photo).convert("RGB").crop((0, 0, 160, 120))
    small = car.downscale(original, 2.5)
    turned = small.transpose(Image.Transpose.ROTATE_90)
    turned.info = dict(small.info)
    with pytest.warns(UserWarning, match="turned"):
        restored = car.upscale(turned)
    assert restored.size == (120, 160)
    assert np.array_equal(
        np.asarray(restored.transpose(Image.Transpose.ROTATE_270)), np.asarray(car.upscale(small))
    )


def test_another_models_small_picture_is_refused(photo: Path) -> None:
    small = car.downscale(Image.open(photo).convert("RGB").crop((0, 0, 64, 64)), 1.5)
    with pytest.raises(UsageError, match=r"made at scale 1\.5, not 2"):
        car.upscale(small, 2)
    with pytest.raises(UsageError, match="car_plus_x4 cannot replace"):
        car.upscale(small, model="car_plus_x4")


@pytest.mark.parametrize("scale", [1.5, 3.3, 9])
@pytest.mark.parametrize("deep", [False, True])
def test_strips_give_the_bytes_of_the_whole(photo: Path, scale: float, deep: bool) -> None:
    codec = Codec(open_codec(scale=scale).loaded, Options(tile=16)).at(scale)
    pixels = read(photo).pixels[:191, :130]
    pixels = pixels.astype(np.uint16) * 257 if deep else pixels
    blocks = (pixels[a:b] for a, b in pairwise([0, 1, 60, 64, 190, 191]))
    from car.pictures.rows import RowBuffer

    small = np.concatenate(list(codec.downscale_strips(RowBuffer(blocks), 191, 130)))
    assert (small == codec.downscale_pixels(pixels)).all()
    rows = codec.upscale_strips(
        lambda top, bottom: small[top:bottom], small.shape[0], small.shape[1], (130, 191)
    )
    assert (np.concatenate(list(rows)) == codec.upscale_pixels(small, (130, 191))).all()


@given(st.integers(1, 90), st.integers(1, 90))
def test_flat_pictures_stay_flat_at_any_size(length: int, target: int) -> None:
    flat = np.full((length, 7, 3), 200, np.uint8)
    for back in (False, True):
        blocks = list(resampled(lambda a, b: flat[a:b], (length, 7), (target, 5), back=back))
        assert np.allclose(np.concatenate(blocks), 200 / 255, atol=1e-5)
        assert sum(map(len, blocks)) == target


def test_enlarging_and_back_is_almost_exact(photo: Path) -> None:
    pixels = read(photo).pixels[:100, :90]
    large = np.concatenate(list(resampled(lambda a, b: pixels[a:b], (100, 90), (134, 120))))
    between = np.rint(large.clip(0, 1) * 65535).astype(np.uint16)
    back = np.concatenate(list(resampled(lambda a, b: between[a:b], (134, 120), (100, 90), back=True)))
    assert np.abs(back * 255 - pixels).mean() < 0.5
