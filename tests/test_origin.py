"""Whether `car` made a picture without metadata: the check, and the tool that fits it."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

import car
from car.codec import origin
from car.codec.choose import open_codec
from car.codec.options import Options


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_picture_without_metadata_is_recognised_by_its_pixels(photo: Path, scale: int) -> None:
    small = np.asarray(car.downscale(photo, scale))
    with pytest.warns(UserWarning, match=f"its pixels look like those of car_plus_x{scale}"):
        large = car.upscale(small, scale)
    assert np.array_equal(large, car.upscale(small, model=f"car_plus_x{scale}"))
    fine = small.astype(np.uint16) * 257  # a picture of 16 bits has the same detail
    assert origin.looks_made(fine, scale)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("how", ["LANCZOS", "BICUBIC", "BOX", "HAMMING"])
def test_thumbnails_are_not_taken_for_pictures_of_car(photo: Path, scale: int, how: str) -> None:
    with Image.open(photo) as image:
        size = (image.width // scale, image.height // scale)
        small = image.convert("RGB").resize(size, Image.Resampling[how])
    for picture in (small, small.convert("L").convert("RGB"), small.filter(ImageFilter.SHARPEN)):
        assert not origin.looks_made(np.array(picture), scale)


def test_what_shows_nothing_is_taken_for_a_thumbnail(photo: Path) -> None:
    small = np.asarray(car.downscale(photo, 2))
    assert origin.looks_made(small, 2)
    assert not origin.looks_made(small, 9)  # no model has this scale
    assert not origin.looks_made(small[: origin.LEAST - 1], 2)
    assert not origin.looks_made(np.full_like(small, 99), 2)


def test_pictures_of_the_public_sets_are_recognised(data_dir: Path) -> None:
    wrong = []
    for path in sorted((data_dir / "Set5").glob("*.png")):
        with Image.open(path) as image:
            picture = image.convert("RGB")
        for scale in (2, 4):
            codec = open_codec(f"car_plus_x{scale}", options=Options(fast=True))
            size = (picture.width // scale, picture.height // scale)
            for how in (None, "LANCZOS", "BOX"):
                small = picture.resize(size, Image.Resampling[how]) if how else picture
                pixels = np.array(small) if how else codec.downscale_pixels(np.array(small))
                if origin.looks_made(pixels, scale) != (how is None):
                    wrong.append((path.name, scale, how))
    assert len(wrong) <= 1, wrong  # of 30


@pytest.fixture(scope="module")
def fitting() -> dict[str, Any]:
    """The names in the tool that fits the check."""
    folder = Path(__file__).parent.parent / "tools"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        return runpy.run_path(str(folder / "fit_origin.py"))


def test_the_tool_makes_small_pictures_of_all_kinds(fitting: dict[str, Any], photo: Path) -> None:
    made = list(fitting["examples"](2, [photo], every_kind=True))
    assert {one.made for one in made} == {True, False}
    assert len({(one.made, one.kind) for one in made}) == len(made) >= 20
    assert all(one.pixels.dtype == np.uint8 and one.pixels.shape[2] == 3 for one in made)
    fewer = list(fitting["examples"](2, [photo] * 6, every_kind=False))
    assert {one.subject for one in fewer} == {"photograph", "drawing"}


def test_the_tool_fits_a_network_that_tells_noise_from_none(
    fitting: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    made = []
    for number in range(12):
        ramp = np.linspace(60, 180, 70)[:, None, None] + np.zeros((70, 70, 3))
        noise = random.normal(0, 9, ramp.shape) * (number % 2)
        pixels = np.clip(np.rint(ramp + noise), 0, 255).astype(np.uint8)
        made.append(fitting["Example"]("photograph", "any", number % 2 == 1, pixels))
    weights = fitting["fitted"](made, minutes=0.02)
    assert [origin.evidence(one.pixels, weights) > 0 for one in made] == [one.made for one in made]
    piece = made[1].pixels[: origin.PIECE, : origin.PIECE]  # both ways to compute the network agree
    network = fitting["Network"]()
    network.load_state_dict({key: torch.from_numpy(values) for key, values in weights.items()})
    detail = torch.from_numpy(origin.fine_detail(piece)).permute(2, 0, 1)[None]
    assert network(detail).item() == pytest.approx(origin.evidence(piece, weights), abs=1e-3)
    fitting["counted"](2, made, weights)
    assert "| 2x | thumbnail | any | 0 of 6 |" in capsys.readouterr().out
