"""Recipes, crops, losses and optimisers, each against an independent computation."""

import copy
import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from car.errors import UsageError
from car.metrics import psnr
from car.models import create, quantize
from car.models.compact import ResidualBlock
from car.models.published import AdaptiveDownscaler
from car.ops import bicubic_downscale
from car.train.data import Crops, ImageStore, Prefetcher, split_held_out
from car.train.losses import (
    Objective,
    Shares,
    coded_bits,
    decibels,
    offset_distance,
    offset_variation,
    out_of_range,
    restoration_decibels,
    restoration_l1,
)
from car.train.optim import MuonAdam, lr_factor, make_optimizer
from car.train.recipes import RECIPES, Recipe, recipe_for, settings


def crops_of(store: ImageStore, **settings: Any) -> Crops:
    return Crops(store, Recipe("car_plus_x2", **settings))


@pytest.mark.parametrize(("scale", "crop", "batch"), [(2, 96, 24), (4, 192, 16)])
def test_published_recipe_is_the_published_one(scale: int, crop: int, batch: int) -> None:
    recipe = RECIPES[f"car_x{scale}"]
    assert (recipe.crop, recipe.batch, recipe.repeats, recipe.epochs) == (crop, batch, 8, 500)
    assert (recipe.lr, recipe.eps, recipe.optimizer) == (1e-4, 1e-6, "adam")
    assert (recipe.tv_weight, recipe.offset_weight) == (0.005, 0.001)
    assert (recipe.luma_weight, recipe.fidelity_weight, recipe.range_weight) == (0, 0, 0)
    rates = [recipe.lr * lr_factor(recipe, (step + 0.5) / 10) for step in range(10)]
    assert rates == pytest.approx([1e-4, 1e-4, 5e-5, 5e-5, 1e-5, 1e-5, 5e-6, 5e-6, 1e-6, 1e-6])
    assert recipe.eval_epochs == 1
    # 800 photographs: as many steps an epoch as the published log has at 4x
    store = ImageStore(tuple(map(str, range(800))), (np.zeros((crop, crop, 3), np.uint8),) * 800)
    crops = Crops(store, recipe)
    assert crops.epoch_steps == 800 * 8 // batch


def test_recipes_are_checked() -> None:
    assert recipe_for("car_plus_x4", minutes=3, crop=None).minutes == 3
    assert recipe_for("car_x4", steps=7).epochs == 0
    with pytest.raises(UsageError, match="did you mean 'car_plus_x4'"):
        recipe_for("car_plus_4x")
    bad = {"crop": 31, "batch": 0, "luma_weight": 1.5, "minutes": -1, "muon_lr": -1.0, "ema": 1.0, "seed": -1}
    for name, value in bad.items():
        with pytest.raises(UsageError, match=f"{name} = {value}"):
            recipe_for("car_plus_x2", **{name: value})
    with pytest.raises(UsageError, match="one of minutes, steps and epochs"):
        recipe_for("car_plus_x2", minutes=0)
    for name, recipe in RECIPES.items():
        assert recipe.model == name
        recipe.validate()
    assert all(text.endswith(".") or "0 for all" in text for _, text, _ in settings().values())


@pytest.mark.parametrize("schedule", ["cosine", "onecycle", "fifths", "constant"])
def test_schedules_rise_to_one_and_fall(schedule: str) -> None:
    recipe = replace(RECIPES["car_plus_x4"], schedule=schedule)
    factors = [lr_factor(recipe, p / 1000) for p in range(1001)]
    peak = int(np.argmax(factors))
    assert factors[peak] == pytest.approx(1)
    assert peak == {"cosine": 20, "onecycle": 300}.get(schedule, 0)
    assert all(np.diff(factors[:peak]) >= 0)
    assert all(np.diff(factors[peak:]) <= 0)
    assert factors[0] > 0
    assert factors[-1] == pytest.approx({"fifths": 0.01, "constant": 1}.get(schedule, 0), abs=1e-3)
    if schedule == "onecycle":
        # torch's own schedule of this name, by its defaults
        parameter = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([parameter], lr=1)
        theirs = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=1, total_steps=1001, final_div_factor=1e4 / 25, cycle_momentum=False
        )
        for step in range(1000):
            assert factors[step] == pytest.approx(optimizer.param_groups[0]["lr"], abs=0.01)
            optimizer.step()
            theirs.step()


def store_of(count: int, size: int = 8) -> ImageStore:
    images = tuple(np.full((size, size, 3), i, np.uint8) for i in range(count))
    return ImageStore(tuple(f"set/{i:02d}.png" for i in range(count)), images)


def test_crops_come_in_all_orientations() -> None:
    image = np.arange(12 * 10 * 3, dtype=np.uint16).astype(np.uint8).reshape(12, 10, 3)
    image[:, :, 0] = np.arange(120).reshape(12, 10)
    store = ImageStore(("a",), (image,))
    possible = {
        np.ascontiguousarray(np.rot90(window, k)[:, ::step]).tobytes(): (k, step, y, x)
        for y in range(10)
        for x in range(8)
        for window in [image[y : y + 3, x : x + 3]]
        for k in range(4)
        for step in (1, -1)
    }
    for orientations, turns in ((8, (0, 1, 2, 3)), (4, (0, 2))):
        batch = crops_of(store, batch=1500, crop=3, orientations=orientations).get(0)
        assert batch.shape == (1500, 3, 3, 3)
        found = {possible[np.ascontiguousarray(crop.permute(1, 2, 0).numpy()).tobytes()] for crop in batch}
        assert {(k, step) for k, step, _, _ in found} == set(itertools.product(turns, (1, -1)))
        assert {(y, x) for _, _, y, x in found} == set(itertools.product(range(10), range(8)))


def test_crops_depend_on_seed_and_step_alone() -> None:
    crops = crops_of(store_of(20), batch=6, crop=4, seed=3)
    whole = crops.get(11)
    assert torch.equal(whole, crops_of(store_of(20), batch=6, crop=4, seed=3).get(11))
    assert torch.equal(torch.cat([crops.get(11, 0, 2), crops.get(11, 2, 2), crops.get(11, 4)]), whole)
    assert not torch.equal(whole, crops.get(12))
    assert not torch.equal(whole, crops_of(store_of(20), batch=6, crop=4, seed=4).get(11))
    ahead = Prefetcher(crops.get, 2)
    for step in (5, 6, 7, 3, 4):  # on, and back again
        assert torch.equal(ahead.get(step), crops.get(step))
    ahead.close()


def test_an_epoch_shows_each_image_as_often_as_asked() -> None:
    crops = crops_of(store_of(6), batch=3, crop=4, repeats=4, sampling="image")
    assert crops.epoch_steps == 8
    orders: list[list[int]] = []
    for epoch in range(2):
        shown = [
            int(crop.flatten()[0])
            for step in range(8)
            for crop in crops.get(epoch * crops.epoch_steps + step)
        ]
        assert sorted(shown) == sorted(list(range(6)) * 4)
        orders.append(shown)
    assert orders[0] != orders[1]


def test_crops_by_area_are_as_likely_as_their_images_are_large() -> None:
    images = (np.zeros((8, 8, 3), np.uint8), np.ones((24, 8, 3), np.uint8))
    batch = crops_of(ImageStore(("a", "b"), images), batch=4000, crop=4).get(0)
    assert batch[:, 0, 0, 0].float().mean().item() == pytest.approx(0.75, abs=0.03)


def test_a_share_of_the_crops_has_one_or_two_colours() -> None:
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    store = ImageStore(("a",), (noise,))
    mixed, plain = (crops_of(store, batch=400, crop=16, flat=share).get(0) for share in (0.3, 0.0))
    colours = torch.tensor([len(crop.flatten(1).unique(dim=1).T) for crop in mixed])
    flat = colours <= 2
    assert flat.float().mean().item() == pytest.approx(0.3, abs=0.08)
    assert set(colours[flat].tolist()) == {1, 2}
    assert torch.equal(mixed[~flat], plain[~flat])


def test_a_share_of_the_crops_has_been_a_jpeg() -> None:
    ramp = np.arange(64)[:, None, None]
    image = ramp * [3, 1, 2] + np.arange(64)[:, None] % 2 * [40, 0, 20]
    store = ImageStore(("a",), (image.astype(np.uint8),))
    mixed, plain = (crops_of(store, batch=400, crop=16, jpeg=share).get(0) for share in (0.3, 0.0))
    changed = (mixed != plain).any(dim=3).any(dim=2).any(dim=1)
    assert changed.float().mean().item() == pytest.approx(0.3, abs=0.08)
    # colours lose their finest detail, and brightness keeps it
    luma, blue = [0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5]
    change = mixed[changed].numpy() - plain[changed].numpy().astype(float)
    lost = [np.tensordot(weights, change, axes=(0, 1)).std() for weights in (luma, blue)]
    assert lost[1] > 2 * lost[0]


def test_a_share_of_the_crops_is_grey() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    store = ImageStore(("a",), (noise,))
    mixed, plain = (crops_of(store, batch=2000, crop=4, grey=share).get(0) for share in (0.3, 0.0))
    grey = (mixed == mixed[:, :1]).all(dim=3).all(dim=2).all(dim=1)
    assert grey.float().mean().item() == pytest.approx(0.3, abs=0.04)
    assert torch.equal(mixed[~grey], plain[~grey])
    luma = np.tensordot([0.299, 0.587, 0.114], plain[grey].numpy(), axes=(0, 1))
    assert np.abs(mixed[grey][:, 0].numpy() - luma).max() <= 0.5 + 1e-9


def test_shrunk_crops_are_cut_from_shrunk_images() -> None:
    rng = np.random.default_rng(0)
    store = ImageStore(("a",), (rng.integers(0, 256, (96, 128, 3), dtype=np.uint8),))
    mixed, plain = (crops_of(store, batch=400, crop=32, shrunk=share).get(0) for share in (0.5, 0.0))
    assert mixed.shape == plain.shape == (400, 3, 32, 32)
    same = (mixed == plain).flatten(1).all(dim=1)
    assert same.float().mean().item() == pytest.approx(0.5, abs=0.08)
    # shrinking averages noise
    spread = [part.float().std(dim=(1, 2, 3)).mean().item() for part in (mixed[~same], plain[~same])]
    assert 0.4 * spread[1] < spread[0] < 0.95 * spread[1]
    # an image no larger than the crop cannot be shrunk
    tight = ImageStore(("a",), (store.images[0][:32, :32],))
    assert (
        crops_of(tight, batch=4, crop=32, shrunk=1.0).get(0).sum(dim=(1, 2, 3)) == int(tight.images[0].sum())
    ).all()


def test_coded_bits_are_what_a_coder_of_differences_pays() -> None:
    lr = torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bits = []
    for picture in lr.numpy() * 255:
        green = picture[1]
        for plane in (green, picture[0] - green, picture[2] - green):
            spread = np.abs(np.diff(plane, axis=0)).mean() + np.abs(np.diff(plane, axis=1)).mean()
            bits.append(math.log2(1 + spread))
    assert coded_bits(lr).tolist() == pytest.approx(np.reshape(bits, (2, 3)).mean(axis=1), rel=1e-9)
    grey = lr[:, 1:2].expand(-1, 3, -1, -1)
    assert (coded_bits(grey) < coded_bits(lr)).all()
    assert coded_bits(torch.full((1, 3, 4, 4), 0.3)).item() == 0
    assert torch.autograd.gradcheck(coded_bits, lr.clone().requires_grad_())
    # a level of noise costs more on a flat picture than on a busy one
    noise = torch.randn(lr.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 255
    flat = torch.full_like(lr, 0.5)
    more = coded_bits(flat + noise) - coded_bits(flat), coded_bits(lr + noise) - coded_bits(lr)
    assert (more[0] > 5 * more[1]).all()


def test_the_rate_term_is_what_the_lr_costs_above_bicubic() -> None:
    hr = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = create("car_plus_x2")
    torch.nn.init.normal_(model.downscaler.trunk[-1].weight, std=0.02)
    losses = [
        Objective(model, recipe_for("car_plus_x2", first_weight=0.0, rate_weight=weight))(hr).item()
        for weight in (0.0, 1.0)
    ]
    extra = coded_bits(model.downscale(hr)) - coded_bits(bicubic_downscale(hr, 2))
    assert losses[1] - losses[0] == pytest.approx(extra.clamp_min(0).mean().item(), abs=1e-5)
    assert (extra > 0).any()
    # nothing is gained below what the bicubic picture costs
    with torch.no_grad():
        flat = Objective(create("car_plus_x2"), recipe_for("car_plus_x2", first_weight=0.0, rate_weight=1.0))
        flat.model.downscaler.forward = lambda image: (
            bicubic_downscale(image, 2).mean((2, 3), True).expand(-1, -1, 16, 16)
        )
        free = Objective(flat.model, recipe_for("car_plus_x2", first_weight=0.0, rate_weight=0.0))
        assert flat(hr).item() == pytest.approx(free(hr).item())


def test_hold_out_keeps_named_images_from_training() -> None:
    store = store_of(40)
    training_part, held = split_held_out(store, ["set/07*"], count=8)
    assert "set/07.png" in held.names
    assert len(held.names) == 9
    assert set(held.names) | set(training_part.names) == set(store.names)
    assert not set(held.names) & set(training_part.names)


def test_restoration_and_range_losses() -> None:
    a, b = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    assert restoration_l1(a, b, Shares()).item() == pytest.approx((a - b).abs().mean().item())
    grey = (a - b).mul(torch.tensor([65.738, 129.057, 25.064]).view(3, 1, 1) / 255).sum(1)
    assert restoration_l1(a, b, Shares(luma=1)).item() == pytest.approx(grey.abs().mean().item(), rel=1e-5)
    # a change of grey has no chroma
    assert restoration_l1(b + 0.1, b, Shares(chroma=1)).item() == pytest.approx(0, abs=1e-6)
    red = (a - b).mul(torch.tensor([112, -93.786, -18.214]).view(3, 1, 1) / 255).sum(1).abs().mean().item()
    blue = (a - b).mul(torch.tensor([-37.797, -74.203, 112]).view(3, 1, 1) / 255).sum(1).abs().mean().item()
    assert restoration_l1(a, b, Shares(chroma=1)).item() == pytest.approx((red + blue) / 2, rel=1e-5)
    assert out_of_range(torch.tensor([-1.0, 0.5, 2.0, 1.0])).item() == pytest.approx(0.5)


def test_decibels_are_the_mean_of_the_crops_psnr() -> None:
    hr = torch.rand(3, 3, 40, 40) * 0.8 + 0.1
    restored = hr + torch.randn(3, 3, 40, 40) * torch.tensor([0.1, 0.02, 0.005]).view(3, 1, 1, 1)
    for share in (0.0, 0.3, 1.0):
        # 60 dB is as good as perfect
        far = [
            [
                10 * math.log10(1 + 10 ** (6 - psnr(a[None], b[None], on=on) / 10)) / 1000
                for on in ("rgb", "luma")
            ]
            for a, b in zip(restored, hr, strict=True)
        ]
        expected = np.mean(far, axis=0) @ [1 - share, share]
        assert restoration_decibels(restored, hr, Shares(luma=share)).item() == pytest.approx(
            expected, rel=1e-4
        )
    assert restoration_decibels(hr, hr, Shares(0.5, 0.2)).item() == pytest.approx(0, abs=1e-6)
    # a per cent less error is worth the same in each crop
    restored.requires_grad_()
    restoration_decibels(restored, hr, Shares()).backward()
    assert restored.grad is not None
    worth = (restored.grad * (restored - hr)).detach().sum(dim=(1, 2, 3))
    assert worth.numpy() == pytest.approx(0.02 / math.log(10) / 3, rel=0.05)


def test_shares_of_luma_chroma_and_rgb_add_up() -> None:
    hr = torch.rand(1, 3, 16, 16) * 0.8 + 0.1
    restored = hr + 0.05 * torch.randn(1, 3, 16, 16)
    one = [restoration_decibels(restored, hr, s).item() for s in (Shares(), Shares(1, 0), Shares(0, 1))]
    mixed = restoration_decibels(restored, hr, Shares(luma=0.4, chroma=0.2)).item()
    assert mixed == pytest.approx(0.4 * one[0] + 0.4 * one[1] + 0.2 * one[2], rel=1e-5)
    # what is measured while training is what the loss is made of, but for the marks
    rgb, luma, _ = decibels(restored, hr)
    assert [60 - rgb, 60 - luma] == pytest.approx([1000 * one[0], 1000 * one[1]], abs=0.1)


def test_half_of_the_chroma_share_is_for_small_coloured_marks() -> None:
    hr = torch.full((1, 3, 64, 64), 0.5)
    spread, mark = hr.clone(), hr.clone()
    spread[:, 0] += 0.02
    mark[:, 0, :8, :8] += 0.16  # a 64th of the pixels, with as much squared error
    sums = [restoration_decibels(x, hr, Shares(0, 1)).item() for x in (spread, mark)]
    # independently: Cb and Cr of a change of red, their mean square, and the root of the mean fourth power
    chroma = np.array([-37.797, 112]) / 255
    for total, change, share in zip(sums, (0.02, 0.16), (1, 1 / 64), strict=True):
        square = share * (chroma**2).mean() * change**2
        fourth = math.sqrt(share * (chroma**4).mean()) * change**2
        expected = sum(10 * math.log10(1 + x / 1e-6) for x in (square, fourth)) / 2000
        assert total == pytest.approx(expected, rel=1e-4)


def test_a_share_of_chroma_that_leaves_nothing_for_rgb_is_refused() -> None:
    with pytest.raises(UsageError, match="chroma_weight"):
        recipe_for("car_plus_x4", luma_weight=0.7, chroma_weight=0.4)


def test_emphasised_images_are_drawn_as_often_as_asked() -> None:
    images = tuple(np.full((16, 16, 3), i, np.uint8) for i in range(2))
    store = ImageStore(("set/00.png", "set/01.png"), images)
    crops = crops_of(store, batch=2000, crop=8, emphasis=("set/00*=3",))
    drawn = crops.get(0)[:, 0, 0, 0]
    assert (drawn == 0).float().mean().item() == pytest.approx(0.75, abs=0.04)
    with pytest.raises(UsageError, match="PATTERN=FACTOR"):
        recipe_for("car_plus_x4", emphasis=("set/00*",))


def test_offset_losses_are_the_paper_s_sums() -> None:
    rng = np.random.default_rng(0)
    batch, k, h, w = 2, 3, 4, 5
    kernels, off_h, off_v = rng.uniform(-1, 1, (3, batch, k * k, h, w))
    variation, distance = 0.0, 0.0
    for b, t, y, x in itertools.product(range(batch), range(k * k), range(h), range(w)):
        if x + 1 < w:
            variation += abs(off_v[b, t, y, x + 1] - off_v[b, t, y, x]) * kernels[b, t, y, x]
        if y + 1 < h:
            variation += abs(off_h[b, t, y + 1, x] - off_h[b, t, y, x]) * kernels[b, t, y, x]
        i, j = divmod(t, k)
        reach = math.hypot(j - k / 2, i - k / 2) / k
        distance += math.hypot(off_h[b, t, y, x], off_v[b, t, y, x]) * reach
    tensors = [torch.tensor(values) for values in (kernels, off_h, off_v)]
    assert offset_variation(*tensors).item() == pytest.approx(variation / batch)
    assert offset_distance(*tensors[1:]).item() == pytest.approx(distance / (batch * h * w))
    zero = torch.zeros(1, 9, 2, 2, requires_grad=True)
    offset_distance(zero, zero).backward()
    assert zero.grad is not None
    assert torch.isfinite(zero.grad).all()


def test_objective_is_the_sum_of_its_terms() -> None:
    torch.manual_seed(0)
    recipe = replace(RECIPES["car_small_x2"], fidelity_weight=0.3, range_weight=0.7, crop=32)
    model = create(recipe.model)
    hr = torch.rand(2, 3, 32, 32)
    sampling = model.downscaler.kernels_and_offsets(hr)
    lr, restored = model(hr)
    expected = (
        restoration_l1(restored, hr, Shares(recipe.luma_weight))
        + 0.3 * (lr - bicubic_downscale(hr, 2)).abs().mean()
        + 0.7 * out_of_range(lr)
        + 0.005 * offset_variation(*sampling)
        + 0.001 * offset_distance(*sampling[1:])
    )
    assert Objective(model, recipe)(hr).item() == pytest.approx(expected.item(), rel=1e-5)


def test_classical_start_is_a_blurred_bicubic_without_offsets() -> None:
    torch.manual_seed(0)
    hr = torch.nn.functional.interpolate(torch.rand(1, 3, 16, 16), size=(64, 64), mode="bicubic").clamp(0, 1)
    for scale in (2, 4):
        model = create(f"car_small_x{scale}")
        down = model.downscaler
        assert isinstance(down, AdaptiveDownscaler)
        reference = bicubic_downscale(hr, scale)
        before = (model.downscale(hr) - reference).abs().mean()
        down.start_classical()
        kernels, offsets_h, offsets_v = down.kernels_and_offsets(hr)
        assert not offsets_h.any()
        assert not offsets_v.any()
        assert (kernels - kernels[:, :, :1, :1]).abs().max() < 1e-6
        after = (model.downscale(hr) - reference).abs().mean()
        assert after < 0.5 * before
        # every tap can still move
        model.downscale(hr).square().sum().backward()
        last = down.kgn.kernels_weight[-1]
        assert (last.bias.grad != 0).all()


def test_gradients_of_rounding() -> None:
    lr = torch.tensor([-0.5, -0.005, 0.2, 0.5 / 255, 3 / 255, 1.5], dtype=torch.float64, requires_grad=True)
    expected = {
        "gated": [0, 1, 1, 1, 1, 0],
        "straight": [1, 1, 1, 1, 1, 1],
        "soft": [1 - math.cos(2 * math.pi * 255 * v) for v in lr.tolist()],
    }
    for gradient, values in expected.items():
        lr.grad = None
        rounded = quantize(lr, gradient=gradient)
        assert torch.equal(rounded.detach() * 255, (lr.detach().clamp(0, 1) * 255).round())
        rounded.sum().backward()
        assert lr.grad is not None
        assert lr.grad.tolist() == pytest.approx(values, abs=1e-9)


def test_muon_moves_inner_convolutions_by_an_orthogonal_matrix() -> None:
    torch.manual_seed(0)
    model = create("car_codec_x2")
    block = next(m for m in model.modules() if isinstance(m, ResidualBlock))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = MuonAdam([(model.downscaler, 1.0), (model.upscaler, 0.5)], Recipe("car_plus_x2", muon_lr=0.1))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    moved = {name: p.detach() - before[name] for name, p in model.named_parameters()}
    assert all(change.abs().sum() > 0 for change in moved.values())
    assert all(p.grad is None for p in model.parameters())
    name = next(n for n, p in model.named_parameters() if p is block.conv1.weight)
    singular = torch.linalg.svdvals(moved[name].flatten(1)) / 0.1
    assert singular.min() > 0.6
    assert singular.max() < 1.3
    # Adam's first step has the size of its learning rate
    for bias, rate in (("downscaler.trunk.1.conv1.bias", 1e-3), ("upscaler.trunk.1.conv1.bias", 5e-4)):
        torch.testing.assert_close(moved[bias].abs(), torch.full_like(moved[bias], rate), rtol=0.01, atol=0)


@pytest.mark.parametrize("scale", [2, 4])
def test_muon_gets_the_convolutions_of_residual_blocks(scale: int) -> None:
    model = create(f"car_plus_x{scale}")
    optimizer = make_optimizer(model, RECIPES[f"car_plus_x{scale}"])
    found = [id(p) for group in optimizer.param_groups if group["matrices"] for p in group["params"]]
    blocks = [module for module in model.modules() if isinstance(module, ResidualBlock)]
    assert sorted(found) == sorted(id(c.weight) for block in blocks for c in (block.conv1, block.conv2))


@pytest.mark.parametrize("optimizer", ["muon", "adam", "adamw"])
def test_optimisers_minimise_and_resume(optimizer: str) -> None:
    recipe = replace(RECIPES["car_plus_x2"], optimizer=optimizer, weight_decay=0.01)

    def setup() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = create(recipe.model)
        return model, make_optimizer(model, recipe)

    def steps(model: torch.nn.Module, optimizer: torch.optim.Optimizer, count: int) -> list[float]:
        hr = torch.linspace(0, 1, 3 * 16 * 16).view(1, 3, 16, 16)
        losses: list[float] = []
        for _ in range(count):
            loss = (model.upscaler(model.downscaler(hr)) - hr.flip(1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    model, inner = setup()
    losses = steps(model, inner, 10)
    assert losses[-1] < 0.8 * losses[0]
    other, resumed = setup()
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(inner.state_dict()))
    assert steps(other, resumed, 3) == steps(model, inner, 3)


def test_every_setting_is_checked_or_cannot_be_wrong() -> None:
    recipe = RECIPES["car_plus_x4"]
    for name in settings():
        value = getattr(recipe, name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            with pytest.raises(UsageError, match=f"{name} = -3"):
                replace(recipe, **{name: -3}).validate()


def test_recipe_is_hashable_data() -> None:
    assert len({*RECIPES.values()}) == len(RECIPES)
    assert Recipe("car_plus_x4", minutes=1) == Recipe("car_plus_x4", minutes=1)


def test_the_first_small_picture_of_a_corrected_model_is_trained_too() -> None:
    recipe = recipe_for(
        "car_plus_x4", first_weight=0.5, fidelity_weight=0.0, range_weight=0.0, rate_weight=0.0
    )
    hr = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    model = create("car_plus_x4").eval()
    assert model.corrector is not None
    with torch.no_grad():  # a new corrector changes nothing
        model.corrector.get_parameter("trunk.7.weight").normal_(std=0.1)
    with_first, without = (
        Objective(model, replace(recipe, first_weight=weight))(hr).item() for weight in (0.5, 0.0)
    )
    # a third of four crops is two; their LR is that of the downscaler alone
    restored = model.upscale(quantize(model.downscaler(hr[:2])))
    alone = restoration_decibels(restored, hr[:2], Shares(recipe.luma_weight, recipe.chroma_weight))
    assert with_first - without == pytest.approx(0.5 * alone.item(), rel=1e-4)
    with pytest.raises(UsageError, match="no corrector"):
        recipe_for("car_lite_x4", first_weight=0.5)
