"""Kernels and offsets as they are, not as they should be."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import car
from car.errors import UsageError
from car.measure.gradients import Channel, inspect_gradients
from car.measure.kernels import inspect_kernels, kernels_picture
from car.models import BicubicDownscaler, Geometry, ResamplingDownscaler, Rescaler, create
from car.ops import bicubic_downscale
from car.pictures.read import read
from commandline import run_car


def taps_of(scale: int) -> np.ndarray:
    """A kernel that is symmetric, sums to one and is negative in places."""
    profile = np.hanning(3 * scale + 3)[1:-1] - 0.1
    return np.outer(profile, profile) / profile.sum() ** 2


class FixedDownscaler(ResamplingDownscaler):
    """The same taps at every pixel, moved to the right by `moved` in units of the scale."""

    def __init__(self, scale: int, moved: float) -> None:
        super().__init__()
        self.scale, self.moved = scale, moved

    def kernels_and_offsets(self, hr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        taps = torch.from_numpy(taps_of(self.scale)).to(hr).reshape(1, -1, 1, 1)
        kernels = taps.expand(hr.shape[0], -1, hr.shape[2] // self.scale, hr.shape[3] // self.scale)
        return kernels, torch.full_like(kernels, self.moved), torch.zeros_like(kernels)


def model_of(scale: int, *, moved: float = 0.0) -> "tuple[str, Rescaler]":
    geometry = Geometry(scale, scale, scale, 4 * scale, 1)
    model = Rescaler(FixedDownscaler(scale, moved), torch.nn.Identity(), geometry)
    return f"car_lite_x{scale}", model.eval()


@pytest.mark.parametrize("scale", [2, 4])
def test_statistics_of_known_kernels(scale: int, photo: Path) -> None:
    moved = scale * 0.25
    statistics, view = inspect_kernels(*model_of(scale, moved=0.25), photo)
    assert statistics.side == 3 * scale + 1
    offsets = statistics.offsets
    assert offsets is not None
    assert offsets.mean == pytest.approx((moved, 0), abs=1e-5)
    for length in (offsets.mean_length, offsets.weighted_length, offsets.largest):
        assert length == pytest.approx(moved, rel=1e-4)
    assert offsets.roughness == pytest.approx(0, abs=1e-6)
    taps = taps_of(scale)
    np.testing.assert_allclose(statistics.mean_kernel, taps, atol=1e-5)
    assert statistics.negative == pytest.approx(-taps[taps < 0].sum() / np.abs(taps).sum(), rel=1e-3)
    pixels = read(photo).pixels
    assert np.array_equal(view.hr, pixels)
    assert view.kernels.shape == (*taps.shape, *(n // scale for n in pixels.shape[:2]))
    # the middle tap of an odd number of taps sits at the LR pixel's centre, moved by the offset
    middle = statistics.side // 2
    assert view.x[middle, middle] == pytest.approx(moved, rel=1e-4)
    assert view.y[middle, middle] == pytest.approx(0, abs=1e-5)


def test_width_is_the_deviation_of_the_taps(photo: Path) -> None:
    statistics, _ = inspect_kernels(*model_of(2), photo)
    axis = np.arange(7) - 3
    size = np.abs(taps_of(2))
    assert statistics.width == pytest.approx((size.sum(axis=0) @ axis**2 / size.sum()) ** 0.5, abs=1e-3)


def test_kernels_of_car_lite(photo: Path) -> None:
    """Untrained ones are bicubic: symmetric about the LR pixel's centre, of 4s taps."""
    torch.manual_seed(0)
    model = create("car_lite_x2").eval().requires_grad_(False)
    statistics, view = inspect_kernels("car_lite_x2", model, photo)
    assert statistics.side == 9
    profile = np.array(statistics.mean_kernel).sum(axis=0)
    assert profile.sum() == pytest.approx(1, abs=1e-5)
    assert (profile * view.x[4, :, 20, 20]).sum() == pytest.approx(0, abs=0.02)  # but for the image's borders
    assert profile[8] == 0
    assert statistics.negative > 0.05
    assert statistics.offsets is None
    assert statistics.width > 0.5


def test_picture_shows_six_pixels_and_says_the_mean_offset(photo: Path) -> None:
    statistics, view = inspect_kernels(*model_of(4, moved=0.1), photo)
    plain, _ = inspect_kernels(*model_of(4), photo)
    picture = kernels_picture(view, statistics)
    assert min(picture.size) > 500
    assert np.asarray(picture).std() > 10
    assert plain.offsets is not None
    assert statistics.offsets is not None
    assert plain.offsets.mean_length < 1e-6 < statistics.offsets.mean_length


def test_without_offsets_the_picture_has_no_panels_of_them(photo: Path) -> None:
    statistics, view = inspect_kernels(*model_of(4, moved=0.1), photo)
    narrow = kernels_picture(view, replace(statistics, offsets=None))
    assert narrow.width < kernels_picture(view, statistics).width


@pytest.mark.parametrize("channel", ["luma", "red", "blue"])
def test_the_equivalent_kernel_of_bicubic_is_bicubic(channel: Channel, photo: Path) -> None:
    model = Rescaler(BicubicDownscaler(2), torch.nn.Identity(), Geometry(2, 2, 2, 8, 1))
    (one,), view = inspect_gradients(model, photo, channel=channel, at=[(41, 30)])
    assert (one.x, one.y) == (41, 31)  # the middle of the small pixel of columns 40 and 41, rows 30 and 31
    assert one.total == pytest.approx(1, abs=1e-5)
    assert one.outside == pytest.approx(0, abs=1e-6)
    assert one.other_colours == 0
    kernel = view.kernels[0]
    assert kernel.shape == (14, 14)
    for other in (kernel.T, kernel[::-1], kernel[:, ::-1]):
        np.testing.assert_allclose(kernel, other, atol=1e-6)
    impulse = torch.zeros(1, 3, 28, 28)
    impulse[:, :, 9, 12] = 1
    assert kernel[3, 6] == pytest.approx(bicubic_downscale(impulse, 2)[0, 0, 6, 6].item(), abs=1e-6)


def test_equivalent_kernels_foretell_small_changes(photo: Path) -> None:
    rescaler = car.load("car_plus_x2").rescaler
    (one,), view = inspect_gradients(rescaler, photo, channel="green", at=[(60, 50)])
    row, column = view.pixels[0]
    hr = torch.from_numpy(view.hr).permute(2, 0, 1)[None].float().div(255)
    changed = hr.clone()
    changed[0, 1, row * 2, column * 2] += 0.002
    with torch.no_grad():
        change = (rescaler.downscale(changed) - rescaler.downscale(hr))[0, 1, row, column].item() / 0.002
    assert change == pytest.approx(view.kernels[0][6, 6], abs=0.03)
    assert abs(view.kernels[0][6, 6]) > 0.05
    assert 0 < one.other_colours < 1


@pytest.mark.parametrize(
    ("at", "message"), [([(5000, 1)], "outside of the picture"), ([(1, 1)] * 7, "at most 6")]
)
def test_impossible_places_are_refused(at: list[tuple[int, int]], message: str, photo: Path) -> None:
    with pytest.raises(UsageError, match=message):
        inspect_kernels(*model_of(2), photo, at=at)


def test_models_without_kernels_are_refused(photo: Path) -> None:
    with pytest.raises(UsageError, match="car_plus_x4 does not resample"):
        inspect_kernels("car_plus_x4", car.load("car_plus_x4").rescaler, photo)


def test_the_command(photo: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    torch.manual_seed(0)
    state = {key: value.contiguous() for key, value in create("car_small_x2").state_dict().items()}
    save_file(state, weights, {"model": "car_small_x2"})
    command = ("inspect", "kernels", photo, "--model")
    target = tmp_path / "kernels.png"
    done = run_car(*command, weights, "-o", target, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["side"] == 7
    assert np.sum(found["mean_kernel"]) == pytest.approx(1, abs=1e-4)
    assert Image.open(target).format == "PNG"
    again = run_car(*command, weights, "-o", target)
    assert again.returncode != 0
    assert "--overwrite" in again.stderr
    plain = json.loads(run_car("inspect", "kernels", photo, "--json", "-o", tmp_path / "default.png").stdout)
    assert (plain["model"], plain["channel"], len(plain["pixels"])) == ("car_plus_x4", "luma", 6)
    for arguments, message in (
        ((weights, "--channel", "red"), "leave out --channel"),
        (("car_plus_x2", "--at", "here"), "--at takes a column and a row"),
        (("nonsense",), "no model is called"),
    ):
        bad = run_car(*command, *arguments, "-o", tmp_path / "no.png")
        assert bad.returncode == 2
        assert message in bad.stderr
    assert not (tmp_path / "no.png").exists()
