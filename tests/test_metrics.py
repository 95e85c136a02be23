"""PSNR, SSIM and the bicubic reference against independent libraries and the published tables."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from car.metrics import luma, psnr, ssim
from car.ops import bicubic_downscale, bicubic_resize


def images(seed: int, height: int = 40, width: int = 52) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    smooth = np.cumsum(np.cumsum(rng.normal(size=(3, height, width)), axis=1), axis=2)
    a = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    b = np.clip(a + rng.normal(scale=0.02 + 0.1 * rng.random(), size=a.shape), 0, 1)
    return tuple(torch.from_numpy(np.round(x * 255) / 255) for x in (a, b))  # type: ignore[return-value]


def levels_of_luma(image: torch.Tensor) -> np.ndarray:
    """Luma on the 0 to 255 scale, with the published protocol's weights, which sum to 219.859."""
    return 16 + image.permute(1, 2, 0).numpy() @ np.array([65.738, 129.057, 25.064])


@given(seed=st.integers(0, 10**6), border=st.sampled_from([0, 2, 4]))
@settings(max_examples=20, deadline=None)
def test_psnr_agrees_with_scikit_image(seed: int, border: int) -> None:
    a, b = images(seed)
    cut = slice(border, -border or None)
    expected = peak_signal_noise_ratio(
        levels_of_luma(a)[cut, cut], levels_of_luma(b)[cut, cut], data_range=255
    )
    assert psnr(a, b, border=border) == pytest.approx(expected, abs=1e-4)
    expected = peak_signal_noise_ratio(a[:, cut, cut].numpy(), b[:, cut, cut].numpy(), data_range=1)
    assert psnr(a, b, border=border, on_luma=False) == pytest.approx(expected, abs=1e-9)


@given(seed=st.integers(0, 10**6), border=st.sampled_from([0, 2, 4]))
@settings(max_examples=20, deadline=None)
def test_ssim_agrees_with_scikit_image(seed: int, border: int) -> None:
    a, b = images(seed)
    cut = slice(border, -border or None)
    expected = structural_similarity(
        levels_of_luma(a)[cut, cut],
        levels_of_luma(b)[cut, cut],
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert ssim(a, b, border=border) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("pixels", [1, 300, 1000])
def test_a_picture_in_strips_measures_what_the_whole_does(
    pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = torch.rand(2, 2, 3, 41, 53, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    b = (a + 0.1 * b).clamp(0, 1)
    whole = psnr(a, b, border=2), psnr(a, b, on_luma=False), ssim(a, b, border=3)
    monkeypatch.setattr("car.metrics._STRIP_PIXELS", pixels)
    strips = psnr(a, b, border=2), psnr(a, b, on_luma=False), ssim(a, b, border=3)
    assert strips == pytest.approx(whole, rel=1e-12)


def test_luma_range_is_studio_swing() -> None:
    assert luma(torch.zeros(3, 1, 1)).item() * 255 == pytest.approx(16)
    assert luma(torch.ones(3, 1, 1)).item() * 255 == pytest.approx(235.859)


def test_identical_images_have_infinite_psnr_and_ssim_one() -> None:
    a, _ = images(1)
    assert psnr(a, a) == math.inf
    assert ssim(a, a) == pytest.approx(1)


def test_batch_is_one_mean_square() -> None:
    a, b = images(2)
    c, d = images(3)
    both = psnr(torch.stack([a, c]), torch.stack([b, d]))
    mean_square = (10 ** (-psnr(a, b) / 10) + 10 ** (-psnr(c, d) / 10)) / 2
    assert both == pytest.approx(-10 * math.log10(mean_square))


@pytest.mark.parametrize("function", [psnr, ssim])
def test_misuse_is_refused(function) -> None:
    a, _ = images(4)
    with pytest.raises(ValueError, match="differ in shape"):
        function(a, a[:, 1:])
    with pytest.raises(ValueError, match="floating RGB"):
        function(a[:1], a[:1])
    with pytest.raises(ValueError, match="floating RGB"):
        function((a * 255).to(torch.uint8), (a * 255).to(torch.uint8))
    with pytest.raises(ValueError, match="leaves nothing"):
        function(a, a, border=20)


def test_ssim_names_its_smallest_size() -> None:
    a, b = images(5, height=12, width=40)
    with pytest.raises(ValueError, match="11x11"):
        ssim(a, b, border=1)


@given(
    seed=st.integers(0, 10**6),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    target=st.tuples(st.integers(1, 50), st.integers(1, 50)),
)
@settings(max_examples=40, deadline=None)
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
