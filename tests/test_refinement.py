"""Encode-time effort: more is never worse, the result stays near its start, tiles and sizes do not matter."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import car
from car.codec import effort as refinement
from car.codec.choose import open_codec
from car.codec.codec import Codec
from car.codec.coding import Coding, encoded
from car.codec.effort import MAX_CHANGE, MAX_CHANGE_CODED, STEPS, refine, refinements
from car.codec.options import Options
from car.codec.watching import watched
from car.errors import UsageError
from car.measure.evaluate import round_trip
from car.metrics import CHANNEL_WEIGHTS, PERFECT, SHARES, psnr
from car.pictures.read import decode, read
from car.pictures.write import encode


@pytest.fixture(scope="module")
def piece(photo, tmp_path_factory):
    """A piece of the photograph: each step takes its time for each pixel."""
    path = tmp_path_factory.mktemp("piece") / "piece.png"
    Image.open(photo).crop((32, 48, 128, 144)).save(path)
    return path


def mixed(*decibels):
    """Return what effort improves, in dB below 60, of PSNR on luma, Cb, Cr and RGB."""
    luma, cb, cr, rgb = (10 ** (-value / 10) for value in decibels)
    parts = ((SHARES.luma, luma), (SHARES.chroma, (cb + cr) / 2), (SHARES.rgb, rgb))
    return -sum(10 * share * math.log10(1 + part / PERFECT) for share, part in parts)


def restored_mix(codec, small, hr):
    large = codec.upscale_pixels(small)[: hr.shape[0], : hr.shape[1]]
    one, other = (pixels.astype(np.float64) / np.iinfo(hr.dtype).max for pixels in (large, hr))
    border = codec.scale if min(hr.shape[:2]) > 2 * codec.scale else 0
    return mixed(*(psnr(one, other, border=border, on=on) for on in ("luma", "cb", "cr", "rgb")))


def restored_psnr_of(large, hr, scale):
    one, other = (
        torch.tensor(p.astype(np.float64)).permute(2, 0, 1) / np.iinfo(hr.dtype).max for p in (large, hr)
    )
    # as small pictures have no inside
    return psnr(one, other, border=scale if min(hr.shape[:2]) > 2 * scale else 0)


@pytest.mark.parametrize(
    ("scale", "fast", "gain", "colour"), [(2, True, 1.4, 0.2), (2, False, 0.6, 0.15), (4, False, 0.7, 0.2)]
)
def test_no_level_is_worse_than_the_one_below(piece, scale, fast, gain, colour):
    """A corrector has gained a part already, so less is left for effort."""
    measured, colours = [], []
    for effort in (0, 1, 2, 4):
        codec = Codec(car.load(f"car_plus_x{scale}"), Options(device="cpu", effort=effort, fast=fast))
        found = round_trip(codec, piece, perceptual=False).record.model
        measured.append(mixed(found.psnr, found.psnr_cb, found.psnr_cr, found.psnr_rgb))
        colours.append((found.psnr_cb, found.psnr_cr))
    assert measured == sorted(measured)
    # for luma alone, colours would get worse: by 0.9 dB and more after level 3
    assert min(np.subtract(colours[-1], colours[0])) > colour
    assert measured[1] > measured[0] + 0.1
    assert measured[-1] > measured[0] + gain


def test_lower_levels_are_the_start_of_the_same_path(piece):
    codec = open_codec("car_plus_x4")
    pixels = read(piece).pixels
    start = codec.downscale_pixels(pixels)
    path = list(refinements(codec.loaded.rescaler, start, pixels, 3, codec.device))
    for effort in (1, 2, 3):
        alone = refine(codec.loaded.rescaler, start, pixels, effort, codec.device)
        assert np.array_equal(path[effort - 1], alone)
    assert list(refinements(codec.loaded.rescaler, start, pixels, 0, codec.device)) == []


def test_steps_end_where_nothing_falls_any_more(piece, monkeypatch):
    """All further levels then give the same picture, and a path that leads nowhere gives the start."""
    codec = open_codec("car_plus_x4")
    pixels = read(piece).pixels[:48, :48].copy()
    start = codec.downscale_pixels(pixels)
    monkeypatch.setattr(refinement, "_FLAT", 0.05)
    seen = []
    with watched(lambda what, done, parts: seen.append((what, done, parts))):
        path = list(refinements(codec.loaded.rescaler, start, pixels, 9, codec.device))
    assert not np.array_equal(path[0], start)
    assert np.array_equal(path[6], path[8])
    assert {what for what, _, _ in seen} == {"refining"}
    assert seen[0][1] == 0
    assert seen[-1][1] == seen[-1][2]
    monkeypatch.setattr(refinement, "_LOSSLESS", replace(refinement._LOSSLESS, first=50.0))
    assert np.array_equal(refine(codec.loaded.rescaler, start, pixels, 1, codec.device), start)


def test_each_level_takes_more_steps():
    assert STEPS[0] == 0
    assert list(STEPS) == sorted(set(STEPS))
    assert len(STEPS) == 10


@pytest.mark.parametrize(("height", "width"), [(5, 7), (33, 50), (64, 61)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_any_size_and_depth(photo, height, width, dtype):
    hr = np.ascontiguousarray(read(photo).pixels[:height, :width])
    hr = (hr.astype(dtype) * 257 if dtype == np.uint16 else hr).copy()
    plain, more = (Codec(car.load("car_plus_x4"), Options(device="cpu", effort=effort)) for effort in (0, 2))
    start, small = plain.downscale_pixels(hr), more.downscale_pixels(hr)
    assert (small.shape, small.dtype) == (start.shape, start.dtype)
    limit = MAX_CHANGE * np.iinfo(dtype).max + 1e-3
    assert np.abs(small.astype(int) - start.astype(int)).max() <= limit
    assert restored_mix(plain, small, hr) >= restored_mix(plain, start, hr) - 1e-4  # what engines differ by


def test_tiles_give_the_gradient_of_the_whole_picture(photo, monkeypatch):
    codec = Codec(car.load("car_plus_x4"), Options(device="cpu", fast=True))  # where gradients are large
    hr = np.ascontiguousarray(read(photo).pixels[:190, :158])
    start = codec.downscale_pixels(hr)
    model, lr = codec.loaded.rescaler, torch.tensor(start).permute(2, 0, 1)[None].float() / 255
    error = refinement._Error(model, hr, 255, torch.device("cpu"))
    whole = error(lr, (0.5, 0.2, 0.3))
    monkeypatch.setattr(refinement, "_TILE", 16)
    near = error(lr, (0.5, 0.2, 0.3)).gradient - whole.gradient
    assert near.square().mean().sqrt() < 0.01 * whole.gradient.square().mean().sqrt()
    monkeypatch.setattr(refinement, "_HALO", model.geometry.halo_up)
    tiled = error(lr, (0.5, 0.2, 0.3))
    assert tiled.exact == pytest.approx(whole.exact, rel=1e-3)
    largest = whole.gradient.abs().max().item()
    torch.testing.assert_close(tiled.gradient, whole.gradient, atol=1e-3 * largest, rtol=1e-3)
    large = torch.tensor(codec.upscale_pixels(start)[:190, :158]).permute(2, 0, 1).double() / 255
    target = torch.tensor(hr).permute(2, 0, 1).double() / 255
    luma, cb, cr, rgb = (psnr(large, target, border=4, on=on) for on in ("luma", "cb", "cr", "rgb"))
    chroma = -10 * np.log10((10 ** (-cb / 10) + 10 ** (-cr / 10)) / 2)
    assert -10 * np.log10(whole.exact) == pytest.approx([luma, chroma, rgb], abs=1e-3)


def test_gradient_is_that_of_finite_differences(photo):
    """In float64, of the weighted error that the steps reduce."""
    codec = Codec(car.load("car_plus_x4"), Options(device="cpu"))
    model = codec.loaded.rescaler.double()
    hr = np.ascontiguousarray(read(photo).pixels[:24, :24])
    error = refinement._Error(model, hr, 255, torch.device("cpu"))
    lr = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradient = error(lr, (0.5, 0.2, 0.3)).gradient
    target = torch.tensor(hr).permute(2, 0, 1).double() / 255

    def whole(values):
        difference = model.upscale(values)[0] - target
        matrix = torch.tensor([CHANNEL_WEIGHTS[name] for name in ("luma", "cb", "cr")]).double()
        luma, cb, cr = torch.einsum("pc,chw->phw", matrix, difference).square().sum((1, 2))
        return (0.5 * luma + 0.1 * (cb + cr) + 0.3 * difference.square().mean(0).sum()).item()

    for place in ((0, 0, 0, 0), (0, 1, 3, 2), (0, 2, 5, 5)):
        step = torch.zeros_like(lr)
        step[place] = 1e-6
        slope = (whole(lr + step) - whole(lr - step)) / 2e-6
        assert gradient[place].item() == pytest.approx(slope, rel=1e-3, abs=1e-4)


def test_nothing_moves_without_steps_and_flat_pictures_stay_as_they_are():
    codec = Codec(car.load("car_plus_x4"), Options(device="cpu"))
    flat = np.full((32, 32, 3), 128, np.uint8)
    start = codec.downscale_pixels(flat)
    assert refine(codec.loaded.rescaler, start, flat, 0, codec.device) is start
    small = refine(codec.loaded.rescaler, start, flat, 2, codec.device)
    assert np.isfinite(small).all()
    assert restored_mix(codec, small, flat) >= restored_mix(codec, start, flat)


def test_library_takes_effort_and_refuses_nonsense(piece):
    easy, hard = (np.asarray(car.downscale(piece, 4, options=Options(effort=effort))) for effort in (0, 1))
    assert not np.array_equal(easy, hard)
    for effort in (-1, 10):
        with pytest.raises(UsageError, match="effort must be 0 to 9"):
            car.downscale(piece, 4, options=Options(effort=effort))


@pytest.mark.parametrize(
    ("scale", "coding"),
    [(2, Coding("JPEG", 30)), (4, Coding("JPEG", 75)), (2, Coding("WEBP", 40)), (4, Coding("AVIF", 50))],
)
def test_lossy_files_are_worth_more_the_more_effort(photo, scale, coding):
    picture = read(photo)
    name = f"small.{coding.coder.lower()}"

    def made(effort):
        codec = open_codec(None, scale, options=Options(device="cpu", effort=effort, coding=coding))
        small, info = codec.shrink(picture)
        content, _ = encode(small, name, info=info, quality=coding.quality)
        pixels = codec.restore(decode(content, name)).pixels
        squared = 10 ** (-restored_psnr_of(pixels, picture.pixels, scale) / 10)
        # without what is not pixels, which effort cannot change
        return math.log(squared) + math.log(len(encoded(small.pixels.astype(np.uint8), coding)))

    worth = [made(effort) for effort in (0, 3, 9)]
    assert worth == sorted(worth, reverse=True)
    assert worth[-1] < worth[0] - 0.005


def test_lossy_effort_takes_16_bit(photo):
    hr = np.ascontiguousarray(read(photo).pixels[:40, :56]).astype(np.uint16) * 257
    coding = Coding("JPEG", 40)
    plain, more = (
        open_codec(None, 2, options=Options(device="cpu", effort=effort, coding=coding)).downscale_pixels(hr)
        for effort in (0, 2)
    )
    assert (more.shape, more.dtype) == (plain.shape, np.uint16)
    assert np.abs(more.astype(int) - plain.astype(int)).max() <= (MAX_CHANGE_CODED * 255 + 1) * 257
