"""Kernels and offsets as they are, not as they should be."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import car
from car.codec import Codec
from car.errors import UsageError
from car.images import read
from car.inspection import inspect_kernels, kernels_picture
from car.models import create
from car.models.compact import KernelDownscaler, cubic_taps
from car.weights import LoadedModel


def codec_of(name: str, *, offset: float = 0.0) -> Codec:
    """Return an untrained model whose every tap is moved by tanh(`offset`) to the right."""
    torch.manual_seed(0)
    model = create(name)
    down = model.downscaler
    assert isinstance(down, KernelDownscaler)
    with torch.no_grad():
        assert down.offsets.bias is not None
        down.offsets.bias[: down.offsets.out_channels // 2] = offset
    return Codec(LoadedModel(name, None, "0" * 64, model.eval().requires_grad_(False)), device="cpu")


@pytest.mark.parametrize("scale", [2, 4])
def test_statistics_of_known_kernels(scale: int, photo: Path) -> None:
    moved = scale * np.tanh(0.25)
    statistics, view = inspect_kernels(codec_of(f"car_lite_x{scale}", offset=0.25), photo)
    assert statistics.side == 3 * scale + 1
    assert statistics.mean_offset == pytest.approx((moved, 0), abs=1e-5)
    for length in (statistics.mean_length, statistics.weighted_length, statistics.largest):
        assert length == pytest.approx(moved, rel=1e-4)
    assert statistics.roughness == pytest.approx(0, abs=1e-6)
    taps = cubic_taps(scale).numpy()
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
    statistics, _ = inspect_kernels(codec_of("car_lite_x2"), photo)
    axis = np.arange(7) - 3
    profile = cubic_taps(2).numpy().sum(axis=0)
    assert statistics.width == pytest.approx(max((profile * axis**2).sum(), 0) ** 0.5, abs=1e-3)


def test_picture_shows_six_pixels_and_says_the_mean_offset(photo: Path) -> None:
    statistics, view = inspect_kernels(codec_of("car_lite_x4", offset=0.1), photo)
    plain, _ = inspect_kernels(codec_of("car_lite_x4"), photo)
    picture = kernels_picture(view, statistics)
    assert min(picture.size) > 500
    assert np.asarray(picture).std() > 10
    assert plain.mean_length < 1e-6 < statistics.mean_length


def test_models_without_kernels_are_refused(photo: Path) -> None:
    with pytest.raises(UsageError, match="car_plus_x4 has no kernels"):
        inspect_kernels(Codec(car.load("car_plus_x4"), device="cpu"), photo)


def test_the_command(photo: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    torch.manual_seed(0)
    state = {key: value.contiguous() for key, value in create("car_small_x2").state_dict().items()}
    save_file(state, weights, {"model": "car_small_x2"})
    command = [sys.executable, "-m", "car", "inspect", "kernels", str(photo), "--model"]
    target = tmp_path / "kernels.png"
    done = subprocess.run(
        [*command, str(weights), "-o", str(target), "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["side"] == 7
    assert np.sum(found["mean_kernel"]) == pytest.approx(1, abs=1e-4)
    assert Image.open(target).format == "PNG"
    again = subprocess.run([*command, str(weights), "-o", str(target)], capture_output=True, text=True)
    assert again.returncode != 0
    assert "--overwrite" in again.stderr
    for model, message in (("car_plus_x2", "has no kernels"), ("nonsense", "no model is called")):
        bad = subprocess.run(
            [*command, model, "-o", str(tmp_path / "no.png")], capture_output=True, text=True
        )
        assert bad.returncode == 2
        assert message in bad.stderr
    assert not (tmp_path / "no.png").exists()
