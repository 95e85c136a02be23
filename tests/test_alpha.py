"""Colours under alpha 0 are seen by nobody, and by no result."""

import io
from dataclasses import replace

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

import car
from car.pictures.alpha import without_hidden
from car.pictures.read import decode
from car.pictures.write import encode


@pytest.fixture(scope="module")
def codec():
    return car.open("car_plus_x4", options=car.Options(tile=64))


def logo(hidden: int, dtype: str = "uint8") -> tuple[np.ndarray, np.ndarray]:
    """Return a disc of one colour with soft edges, and what lies hidden around it."""
    y, x = np.mgrid[:64, :72]
    seen = np.clip(20 - np.hypot(y - 30, x - 36) + 0.5, 0, 1)
    largest = np.iinfo(dtype).max
    alpha = np.round(seen * largest).astype(dtype)
    pixels = np.where(alpha[:, :, None] > 0, np.array([0.2, 0.5, 0.9]) * largest, hidden * largest)
    return np.round(pixels).astype(dtype), alpha


def file_of(kind: str, pixels: np.ndarray, alpha: np.ndarray) -> bytes:
    buffer, both = io.BytesIO(), np.dstack([pixels, alpha])
    if kind == "png16":
        return bytes(imagecodecs.png_encode(both))
    if kind.startswith("tiff"):
        if kind == "tiff associated":
            both[:, :, :3] = np.round(pixels * (alpha[:, :, None] / np.iinfo(alpha.dtype).max))
        extra = "assocalpha" if kind == "tiff associated" else "unassalpha"
        tifffile.imwrite(buffer, both, photometric="rgb", extrasamples=[extra])
    else:
        options = {
            "webp": {"lossless": True, "exact": True},
            "avif": {"quality": 100, "subsampling": "4:4:4"},
        }.get(kind, {})
        Image.fromarray(both).save(buffer, kind, **options)
    return buffer.getvalue()


def over(pixels: np.ndarray, alpha: np.ndarray, ground: np.ndarray) -> np.ndarray:
    part = alpha[:, :, None] / np.iinfo(alpha.dtype).max
    return (pixels * part + ground * (1 - part)) * (255 / np.iinfo(pixels.dtype).max)


@pytest.mark.parametrize("hidden", [0, 1])
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("png", "uint8"),
        ("png16", "uint16"),
        ("webp", "uint8"),
        ("avif", "uint8"),
        ("tiff", "uint8"),
        ("tiff associated", "uint8"),
        ("tiff associated", "uint16"),
    ],
)
def test_hidden_colours_leave_no_ring(codec, kind, dtype, hidden):
    pixels, alpha = logo(hidden, dtype)
    picture = decode(file_of(kind, pixels, alpha), kind)
    assert picture.pixels.dtype == dtype
    # on a ground of the logo's own colour, nothing is to be seen
    ground = np.array([0.2, 0.5, 0.9]) * np.iinfo(dtype).max
    small, info = codec.shrink(picture)
    zeroed = small.pixels * (small.alpha > 0)[:, :, None].astype(small.pixels.dtype)
    for given in (small, replace(small, pixels=zeroed)):  # as programs do that make files smaller
        large = codec.restore(replace(given, info=info))
        levels = 12 if kind == "avif" else 4 if "associated" in kind and dtype == "uint8" else 2
        for shown in (small, large):
            ring = np.abs(over(shown.pixels, shown.alpha, ground) - ground * (255 / np.iinfo(dtype).max))
            assert ring.max() <= levels


def test_alpha_weighs_colours_as_in_other_programs():
    """Averages of what is filled come near to those weighted by alpha, which Pillow's resize makes."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (8, 8, 4), np.uint8)
    coarse[:, :, 3] = rng.choice([0, 60, 255], (8, 8))
    both = np.asarray(Image.fromarray(coarse).resize((64, 64), Image.Resampling.NEAREST))
    both = np.roll(both, (2, 1), axis=(0, 1))  # so that fields lie across what is averaged
    filled = without_hidden(both[:, :, :3], both[:, :, 3], weighted=True)
    ground = np.array([90, 200, 30])

    def shrunk(array: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(array).resize((16, 16), Image.Resampling.BOX))

    wanted, alpha = shrunk(both)[:, :, :3], shrunk(both)[:, :, 3]
    errors = [
        np.abs(over(shrunk(colours), alpha, ground) - over(wanted, alpha, ground)).mean()
        for colours in (filled, np.ascontiguousarray(both[:, :, :3]))
    ]
    assert errors[0] < 0.4 * errors[1]
    # what is seen as much as all around it stays, however little that is
    half = np.full((64, 64), 60, np.uint8)
    assert without_hidden(both[:, :, :3], half, weighted=True) == pytest.approx(both[:, :, :3], abs=1)


def test_opaque_and_empty_pictures_stay():
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, 3), np.uint8)
    for alpha in (None, np.full((9, 7), 255, np.uint8), np.zeros((9, 7), np.uint8)):
        assert without_hidden(pixels, alpha, weighted=True) is pixels
    for size in ((1, 1), (1, 9), (31, 2)):
        alpha = np.zeros(size, np.uint8)
        alpha[-1, -1] = 200
        pixels = np.full((*size, 3), 7, np.uint8)
        pixels[-1, -1] = 90
        assert (without_hidden(pixels, alpha, weighted=False) == 90).all()


def test_files_keep_what_was_filled():
    pixels, alpha = logo(1)
    picture = decode(file_of("png", pixels, alpha), "a.png")
    again = decode(encode(picture, "a.webp")[0], "a.webp")
    np.testing.assert_array_equal(again.pixels, pixels)
