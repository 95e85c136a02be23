"""PSNR, SSIM and the bicubic reference against independent libraries and the published tables."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from car.measure.ciede2000 import ciede2000, difference
from car.measure.ssimulacra2 import ssimulacra2
from car.metrics import luma, psnr, ssim
from car.ops import bicubic_downscale, bicubic_resize


def images(seed: int, height: int = 40, width: int = 52) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    smooth = np.cumsum(np.cumsum(rng.normal(size=(height, width, 3)), axis=0), axis=1)
    a = 255 * (smooth - smooth.min()) / (smooth.max() - smooth.min())
    b = a + rng.normal(scale=5 + 25 * rng.random(), size=a.shape)
    return np.rint(a).astype(np.uint8), np.rint(b.clip(0, 255)).astype(np.uint8)


# the published protocol's YCbCr, whose luma goes from 16 to 235
CHANNELS = {
    "luma": np.array([65.738, 129.057, 25.064]),
    "cb": np.array([-37.797, -74.203, 112.0]),
    "cr": np.array([112.0, -93.786, -18.214]),
}


def levels(image: np.ndarray, channel: str) -> np.ndarray:
    return image / 255 @ CHANNELS[channel] + (16 if channel == "luma" else 128)


@given(seed=st.integers(0, 10**6), border=st.sampled_from([0, 2, 4]))
def test_psnr_agrees_with_scikit_image(seed: int, border: int) -> None:
    a, b = images(seed)
    cut = slice(border, -border or None)
    expected = peak_signal_noise_ratio(a[cut, cut], b[cut, cut], data_range=255)
    assert psnr(a, b, border=border, on="rgb") == pytest.approx(expected, abs=1e-9)
    for channel in CHANNELS:
        pair = (levels(x, channel)[cut, cut] for x in (a, b))
        expected = peak_signal_noise_ratio(*pair, data_range=255)
        assert psnr(a, b, border=border, on=channel) == pytest.approx(expected, abs=1e-9)  # type: ignore[arg-type]


@given(seed=st.integers(0, 10**6), border=st.sampled_from([0, 2, 4]))
def test_ssim_agrees_with_scikit_image(seed: int, border: int) -> None:
    a, b = images(seed)
    cut = slice(border, -border or None)
    expected = structural_similarity(
        levels(a, "luma")[cut, cut],
        levels(b, "luma")[cut, cut],
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert ssim(a, b, border=border) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("pixels", [1, 300, 1000])
def test_a_picture_in_strips_measures_what_the_whole_does(
    pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = (np.stack(pair) for pair in zip(images(1), images(2), strict=True))
    whole = psnr(a, b, border=2), psnr(a, b, on="rgb"), ssim(a, b, border=3), ssimulacra2(a[0], b[0])
    monkeypatch.setattr("car.metrics._STRIP_PIXELS", pixels)
    monkeypatch.setattr("car.measure.ssimulacra2._STRIP_PIXELS", pixels)
    strips = psnr(a, b, border=2), psnr(a, b, on="rgb"), ssim(a, b, border=3), ssimulacra2(a[0], b[0])
    assert strips == pytest.approx(whole, rel=1e-12)


def test_arrays_of_both_kinds_and_tensors_measure_the_same() -> None:
    a, b = images(3)
    expected = psnr(a, b, border=2), psnr(a, b, on="cr"), ssim(a, b)
    x, y = a / 255, b / 255
    assert (psnr(x, y, border=2), psnr(x, y, on="cr"), ssim(x, y)) == pytest.approx(expected, rel=1e-9)
    x, y = (torch.from_numpy(z).permute(2, 0, 1)[None].float() / 255 for z in (a, b))
    assert (psnr(x, y, border=2), psnr(x, y, on="cr"), ssim(x, y)) == pytest.approx(expected, rel=1e-6)


def test_luma_range_is_studio_swing() -> None:
    assert luma(np.zeros((1, 1, 3))).item() * 255 == pytest.approx(16)
    assert luma(np.full((1, 1, 3), 255, np.uint8)).item() * 255 == pytest.approx(235.859)


def test_identical_images_have_no_error() -> None:
    a, _ = images(1)
    assert psnr(a, a) == math.inf
    assert ssim(a, a) == pytest.approx(1)
    assert ssimulacra2(a, a) == 100


# by the authors' program, ssimulacra2 2.1, of the photograph of the fixtures
SSIMULACRA2 = {
    "half": 56.264,
    "quarter": 20.511,
    "without colour": -9.688,
    "blocks": -48.429,
}


@pytest.mark.parametrize("kind", SSIMULACRA2)
def test_ssimulacra2_agrees_with_the_program_of_its_authors(photo: Path, kind: str) -> None:
    with Image.open(photo) as image:
        original = image.convert("RGB")
    assert ssimulacra2(np.asarray(worsened(original, kind)), np.asarray(original)) == pytest.approx(
        SSIMULACRA2[kind], abs=0.05
    )


def worsened(original: Image.Image, kind: str) -> Image.Image:
    width, height = original.size
    if kind == "without colour":
        return original.convert("L").convert("RGB")
    if kind == "blocks":
        return original.resize((20, 24), Image.Resampling.BOX).resize(
            (width, height), Image.Resampling.NEAREST
        )
    scale = {"half": 2, "quarter": 4}[kind]
    small = original.resize((width // scale, height // scale), Image.Resampling.BICUBIC)
    return small.resize((width, height), Image.Resampling.BICUBIC)


def test_batch_is_one_mean_square() -> None:
    a, b = images(2)
    c, d = images(3)
    both = psnr(np.stack([a, c]), np.stack([b, d]))
    mean_square = (10 ** (-psnr(a, b) / 10) + 10 ** (-psnr(c, d) / 10)) / 2
    assert both == pytest.approx(-10 * math.log10(mean_square))


@pytest.mark.parametrize("function", [psnr, ssim])
def test_misuse_is_refused(function) -> None:
    a, _ = images(4)
    with pytest.raises(ValueError, match="differ in shape"):
        function(a, a[:, 1:])
    with pytest.raises(ValueError, match="expected RGB"):
        function(a[..., :1], a[..., :1])
    with pytest.raises(ValueError, match="expected RGB"):
        function(a.astype(np.uint16), a.astype(np.uint16))
    with pytest.raises(ValueError, match="leaves nothing"):
        function(a, a, border=20)


def test_ssimulacra2_refuses_what_it_cannot_compare() -> None:
    a, _ = images(4)
    wrong: list[Any] = [(a, a[1:]), (a[:7], a[:7]), (a / 255, a / 255)]
    for pair in wrong:
        with pytest.raises(ValueError, match="SSIMULACRA2 compares"):
            ssimulacra2(*pair)


def test_ssim_names_its_smallest_size() -> None:
    a, b = images(5, height=12, width=40)
    with pytest.raises(ValueError, match="11x11"):
        ssim(a, b, border=1)


@given(
    seed=st.integers(0, 10**6),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    target=st.tuples(st.integers(1, 50), st.integers(1, 50)),
)
def test_bicubic_agrees_with_pillow(seed: int, size: tuple[int, int], target: tuple[int, int]) -> None:
    values = np.random.default_rng(seed).random(size, dtype=np.float32)
    expected = np.asarray(Image.fromarray(values).resize(target[::-1], Image.Resampling.BICUBIC))
    actual = bicubic_resize(torch.from_numpy(values)[None, None], target)[0, 0].numpy()
    np.testing.assert_allclose(actual, expected, atol=2e-5)


def test_bicubic_refuses_bad_arguments() -> None:
    with pytest.raises(ValueError, match="does not divide"):
        bicubic_downscale(torch.zeros(1, 3, 9, 8), 4)
    with pytest.raises(ValueError, match="floating"):
        bicubic_resize(torch.zeros(1, 3, 9, 8, dtype=torch.uint8), (4, 4))
    with pytest.raises(ValueError, match="positive"):
        bicubic_resize(torch.zeros(1, 3, 9, 8), (0, 4))


def test_ciede2000_gives_the_published_differences() -> None:
    rows = np.loadtxt(Path(__file__).parent / "fixtures/ciede2000.csv", delimiter=",")
    a, b, expected = rows[:, :3], rows[:, 3:6], rows[:, 6]
    assert len(rows) == 34
    for pair in ((a, b), (b, a)):  # the difference has no direction
        assert difference(*pair) == pytest.approx(expected, abs=5e-5)


def test_ciede2000_of_pictures_agrees_with_scikit_image() -> None:
    a, b = images(3, 300, 200)  # several strips
    expected = deltaE_ciede2000(rgb2lab(a[2:-2, 2:-2]), rgb2lab(b[2:-2, 2:-2])).mean()
    assert ciede2000(a, b, border=2) == pytest.approx(expected, rel=1e-3)
    assert ciede2000(a, a) == 0
    for wrong, border in ((b[:-1], 0), (b, 100)):
        with pytest.raises(ValueError, match=r"differ in shape|leaves nothing"):
            ciede2000(a, wrong, border=border)
