"""Records against independent arithmetic, the published bicubic rows and the shipped models' claims."""

import csv
import io
import json
import math
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from car.codec.choose import open_codec
from car.codec.codec import Codec
from car.errors import ImageError, UsageError
from car.measure.comparison import Caption, comparison_picture, most_telling_crop
from car.measure.evaluate import (
    Quality,
    bicubic,
    find_dataset,
    growth,
    mean_quality,
    round_trip,
    summary,
)
from car.ops import bicubic_resize
from car.pictures.read import read
from car.weights import manifest

RESULTS = Path(__file__).parent.parent / "results"

# "bicubic down + bicubic up" of Sun & Chen 2020, table of 2x and 4x
PUBLISHED_BICUBIC = {
    (2, "Set5"): (33.66, 0.9299),
    (2, "Set14"): (30.24, 0.8688),
    (4, "Set5"): (28.42, 0.8104),
    (4, "Set14"): (26.00, 0.7027),
}


@pytest.fixture(scope="module")
def codec() -> Codec:
    return open_codec(scale=4)


def test_record_against_another_library(codec: Codec, photo: Path) -> None:
    trip = round_trip(codec, photo)
    assert trip.hr.shape == (192, 160, 3)
    assert trip.lr.shape == (48, 40, 3)
    ours, theirs = trip.record.model, trip.record.bicubic
    channels = {
        "psnr": [65.738, 129.057, 25.064],
        "psnr_cb": [-37.797, -74.203, 112],
        "psnr_cr": [112, -93.786, -18.214],
    }
    for field, weights in channels.items():
        y = [image[4:-4, 4:-4] @ np.array(weights) / 255 for image in (trip.hr, trip.restored, trip.bicubic)]
        for quality, image in ((ours, y[1]), (theirs, y[2])):
            expected = peak_signal_noise_ratio(y[0], image, data_range=255)
            assert getattr(quality, field) == pytest.approx(expected, abs=1e-6)
    assert theirs.lr_psnr == math.inf
    assert ours.psnr > theirs.psnr + 4
    assert theirs.lr_ssimulacra2 == 100 > ours.lr_ssimulacra2
    for field, kind, options in (
        ("lr_png", "PNG", {"optimize": True}),
        ("lr_webp", "WEBP", {"lossless": True}),
    ):
        buffer = io.BytesIO()
        Image.fromarray(trip.lr).save(buffer, kind, **options)
        assert getattr(ours, field) == len(buffer.getvalue())
    percent = 100 * (ours.lr_png / theirs.lr_png - 1)
    assert growth([trip.record, trip.record], "lr_png") == pytest.approx(percent)
    assert np.array_equal(trip.lr, codec.downscale_pixels(read(photo).pixels))
    assert json.dumps(trip.record.to_dict(), allow_nan=False)
    assert trip.record.to_dict()["bicubic"]["lr_psnr"] is None


def test_a_grey_picture_has_no_chroma_and_the_fast_way_no_score(
    codec: Codec, photo: Path, tmp_path: Path
) -> None:
    grey = tmp_path / "grey.png"
    with Image.open(photo) as image:
        image.convert("L").save(grey)
    first, second = (round_trip(codec, path, perceptual=False).record for path in (grey, photo))
    assert math.isnan(first.model.psnr_cb)
    assert math.isnan(first.bicubic.psnr_cr)
    assert math.isnan(second.model.ssimulacra2)
    # means are over what was measured
    assert mean_quality([first.model, second.model]).psnr_cb == second.model.psnr_cb
    assert math.isnan(mean_quality([first.model, second.model]).lr_ssimulacra2)
    assert first.to_dict()["model"]["psnr_cb"] is None


@pytest.mark.parametrize("size", [(7, 9), (24, 31)])
def test_bicubic_is_that_of_the_tables(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None].double()
    expected = bicubic_resize(tensor, size)[0].permute(1, 2, 0).clamp(0, 255).round().numpy()
    assert np.array_equal(bicubic(pixels, size), expected)


def test_crops_to_multiples_of_eight(codec: Codec, photo: Path, tmp_path: Path) -> None:
    path = tmp_path / "odd.png"
    Image.open(photo).crop((0, 0, 101, 94)).save(path)
    record = round_trip(codec, path).record
    assert (record.width, record.height) == (96, 88)


def test_too_small_to_measure_is_said(codec: Codec, tmp_path: Path) -> None:
    path = tmp_path / "tiny.png"
    Image.new("RGB", (20, 17)).save(path)
    with pytest.raises(ImageError, match="20x17 is too small"):
        round_trip(codec, path)


def test_means_and_summary() -> None:
    qualities = [Quality(*[float(i)] * len(fields(Quality))) for i in (1, 2, 6)]
    assert mean_quality(qualities) == Quality(*[3.0] * len(fields(Quality)))
    assert summary([], model="m", weights="w", scale=4)["mean"] is None


def test_datasets_are_found_or_explained(tmp_path: Path) -> None:
    (tmp_path / "DIV2K" / "DIV2K_valid_HR").mkdir(parents=True)
    assert find_dataset(tmp_path, "DIV2KHR") == tmp_path / "DIV2K" / "DIV2K_valid_HR"
    with pytest.raises(UsageError, match="Set5 is expected as Set5/"):
        find_dataset(tmp_path, "Set5")
    with pytest.raises(UsageError, match="did you mean 'Set14'"):
        find_dataset(tmp_path, "set14")


@pytest.mark.parametrize(("scale", "name"), PUBLISHED_BICUBIC)
def test_bicubic_row_is_that_of_the_tables(data_dir: Path, scale: int, name: str) -> None:
    codec: Any = SimpleNamespace(  # of no weight here, so one that takes no time
        scale=scale,
        native=scale,
        downscale_pixels=lambda hr: hr[::scale, ::scale],
        upscale_pixels=lambda lr, size: lr.repeat(scale, 0).repeat(scale, 1),
    )
    files = sorted(find_dataset(data_dir, name).glob("*.png"))
    mean = mean_quality(round_trip(codec, path, perceptual=False).record.bicubic for path in files)
    expected_psnr, expected_ssim = PUBLISHED_BICUBIC[scale, name]
    # the tables give two decimals; MATLAB's borders differ a little from ours
    assert round(mean.psnr, 2) == pytest.approx(expected_psnr, abs=0.05 + 1e-9)
    assert mean.ssim == pytest.approx(expected_ssim, abs=0.002)


@pytest.mark.parametrize("entry", manifest(), ids=lambda e: e.tag)
def test_manifest_metrics_are_reproduced(data_dir: Path, entry) -> None:
    result = json.loads((RESULTS / entry.tag / "Set5.json").read_text())
    assert entry.metrics["Set5"]["model"] == result["mean"]["model"]
    for name, mean in result["mean"]["model"].items():
        assert mean == pytest.approx(np.mean([i["model"][name] for i in result["images"]]), rel=1e-3), name
    # one picture stands for all: whoever measures the others finds what that file has of them
    (told,) = (image["model"] for image in result["images"] if image["name"] == "butterfly.png")
    found = round_trip(open_codec(entry.tag), find_dataset(data_dir, "Set5") / "butterfly.png").record.model
    for name, error in {
        "psnr": 0.01,
        "psnr_cb": 0.02,
        "psnr_rgb": 0.01,
        "ssim": 0.0005,
        "lr_psnr": 0.05,
    }.items():
        assert getattr(found, name) == pytest.approx(told[name], abs=error), name
    assert found.ssimulacra2 == pytest.approx(told["ssimulacra2"], abs=0.1)


def test_most_telling_crop_is_the_brute_force_maximum() -> None:
    rng = np.random.default_rng(0)
    hr, ours, other = (rng.integers(0, 256, (14, 17, 3), dtype=np.uint8) for _ in range(3))
    error = [np.square(image.astype(float) - hr).sum(axis=2) for image in (other, ours)]
    gain = {
        (y, x): (error[0] - error[1])[y : y + 5, x : x + 5].sum()
        for y in range(14 - 4)
        for x in range(17 - 4)
    }
    assert most_telling_crop(hr, ours, other, 5) == max(gain, key=lambda k: gain[k])


@pytest.mark.parametrize("size", [(24, 24), (24, 400), (400, 24), (2000, 3000)])
def test_comparison_picture_shows_every_panel(size: tuple[int, int]) -> None:
    height, width = size
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0)]
    hr, lr, bicubic, ours = (np.zeros((height, width, 3), np.uint8) + np.uint8(c) for c in colours)
    picture = comparison_picture(hr, lr[::4, ::4], bicubic, ours, [Caption("a", "b")] * 4)
    counts = {colour: count for count, colour in picture.getcolors(10**7) or []}
    for colour in colours:
        assert counts.get(colour, 0) >= 384 * 384
    assert picture.width < 2000


def test_csv_has_a_row_an_image(codec: Codec, photo: Path) -> None:
    from car.cli.measures import _csv

    rows = list(csv.DictReader(io.StringIO(_csv([round_trip(codec, photo).record]).decode())))
    assert rows[0]["name"] == "photo.png"
    assert float(rows[0]["model_psnr"]) > float(rows[0]["bicubic_psnr"])
