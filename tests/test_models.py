"""The networks: published shapes and names, the pair contract, receptive fields, rounding."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import car
from car.errors import UsageError
from car.families import Architecture, architecture, made_for, model_names, register
from car.models import KernelDownscaler, Rescaler, create, quantize
from car.models.compact import CompactUpscaler, Corrector, MatchedDownscaler, deepened, rescaled
from car.models.published import EDSR, KernelGenerator, _ReturningClamp, published_pair
from car.ops import adaptive_resample, bicubic_downscale, bicubic_resize


def randomized(model: Rescaler) -> Rescaler:
    """Give every parameter a value: layers that start at zero would hide what they see."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1 and parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
    return model.eval()


def small_pair(name: str) -> Rescaler:
    """The model `name`, or for the paper's a narrow one of the same receptive field rules."""
    if name.startswith("car_x"):
        return published_pair(int(name[-1]), features=4, up_features=8, up_blocks=3)
    return create(name)


def conv(channels_in: int, channels_out: int, size: int) -> int:
    return channels_in * channels_out * size**2 + channels_out


# The published tables say 51 and 53 million a pair; EDSR is known for its 40.7 and 43.1 million.
@pytest.mark.parametrize(
    ("scale", "generator", "upscaler"), [(2, 10_645_651, 40_729_603), (4, 9_896_443, 43_089_923)]
)
def test_published_parameter_counts(scale: int, generator: int, upscaler: int) -> None:
    taps, enlarge = (3 * scale + 1) ** 2, (8 // scale) ** 2
    trunk = 4 * conv(256, 256, 3) + conv(256, 256 * enlarge, 1)
    head = conv(256, 256, 3) + conv(256, taps, 3)
    shrink = conv(3, 64, 5) + conv(256, 128, 1) + conv(512, 128, 1) + conv(512, 256, 1)
    assert generator == shrink + 10 * conv(128, 128, 3) + 2 * trunk + 3 * head

    def trainable(model: torch.nn.Module) -> int:
        return sum(p.numel() for p in model.parameters() if p.requires_grad)

    assert trainable(KernelGenerator(scale)) == generator
    assert trainable(EDSR(scale)) == upscaler
    assert trainable(create(f"car_x{scale}")) == generator + upscaler


def test_published_parameter_names_and_shapes() -> None:
    state = KernelGenerator(4).state_dict()
    expected = {
        "sub_mean.weight": (3, 3, 1, 1),
        "ds_1.1.weight": (64, 3, 5, 5),
        "ds_2.downsample.1.weight": (128, 256, 1, 1),
        "ds_4.downsample.1.weight": (128, 512, 1, 1),
        **{f"res_4.{n}.transform.{i}.weight": (128, 128, 3, 3) for n in range(5) for i in (1, 4)},
        "ds_8.downsample.1.weight": (256, 512, 1, 1),
        **{
            f"{t}.{i}.weight": (256, 256, 3, 3)
            for t in ("kernels_trunk", "offsets_trunk")
            for i in (1, 4, 7, 11)
        },
        "kernels_trunk.9.upsample.0.weight": (1024, 256, 1, 1),
        "offsets_trunk.9.upsample.0.weight": (1024, 256, 1, 1),
        **{
            f"{head}.{i}.weight": (out, 256, 3, 3)
            for head in ("kernels_weight", "offsets_h_generation", "offsets_v_generation")
            for i, out in ((1, 256), (4, 169))
        },
    }
    weights = {name: tuple(value.shape) for name, value in state.items() if name.endswith("weight")}
    assert weights == expected
    assert {name.removesuffix("weight") + "bias" for name in weights} == set(state) - set(weights)
    assert torch.equal(state["sub_mean.bias"], -torch.tensor([0.4488, 0.4371, 0.4040]))

    state = EDSR(4).state_dict()
    expected = {
        "sub_mean.weight": (3, 3, 1, 1),
        "add_mean.weight": (3, 3, 1, 1),
        "head.0.weight": (256, 3, 3, 3),
        **{f"body.{n}.body.{i}.weight": (256, 256, 3, 3) for n in range(32) for i in (0, 2)},
        "body.32.weight": (256, 256, 3, 3),
        "tail.0.0.weight": (1024, 256, 3, 3),
        "tail.0.2.weight": (1024, 256, 3, 3),
        "tail.1.weight": (3, 256, 3, 3),
    }
    assert {n: tuple(v.shape) for n, v in state.items() if n.endswith("weight")} == expected
    assert "tail.0.2.weight" not in EDSR(2, features=4, blocks=1).state_dict()


def test_published_kernels_are_non_negative_and_sum_to_one() -> None:
    for scale in (2, 4):
        generator = KernelGenerator(scale, features=4, blocks=1)
        kernels, offsets_h, offsets_v = generator(torch.rand(2, 3, 32, 48))
        assert kernels.shape == offsets_h.shape == offsets_v.shape
        assert kernels.shape == (2, (3 * scale + 1) ** 2, 32 // scale, 48 // scale)
        assert kernels.min() > 0
        torch.testing.assert_close(kernels.sum(dim=1), torch.ones_like(kernels[:, 0]))
        assert offsets_h.abs().max() < 1
        assert not torch.equal(offsets_h, offsets_v)


@pytest.mark.parametrize(
    "model",
    [
        kind
        for known in map(architecture, model_names())
        for kind in (known, known.uncorrected)
        if kind is not None
    ],
    ids=lambda model: model.shape,
)
def test_networks_are_as_the_data_says(model: Architecture) -> None:
    rescaler, most = create(model), 0
    assert rescaler.geometry == model.geometry
    assert isinstance(rescaler.downscaler, KernelDownscaler) == model.kernels
    g = model.geometry
    side = -(-max(16, g.min_size) // g.multiple) * g.multiple * g.scale

    def watch(_: torch.nn.Module, inputs: "tuple[object, ...]", output: object) -> None:
        nonlocal most
        most = max(most, sum(t.numel() for t in (*inputs, output) if isinstance(t, torch.Tensor)))

    for part in rescaler.modules():
        if not list(part.children()):
            part.register_forward_hook(watch)
    with torch.inference_mode():
        rescaler(torch.zeros(1, 3, side, side))
    least = 2 * most / (side // g.scale) ** 2
    # the pass back through the upscaler keeps more than two layers
    assert model.values > least if rescaler.corrector else model.values == least


def test_traits() -> None:
    assert {name for name in model_names() if made_for(name) == "lossy"} == {"car_codec_x2", "car_codec_x4"}
    assert made_for("gone_x4") is None
    for name in model_names(controls=False):
        compact = not name.startswith(("car_x", "car_small_"))
        assert architecture(name).viewer == compact == (not architecture(name).needs_torch)


@pytest.mark.parametrize("name", model_names())
def test_pair_contract(name: str) -> None:
    model = randomized(small_pair(name))
    g = model.geometry
    side = max(g.min_size, g.multiple)
    for height, width in ((side, side), (side + g.multiple, side + 3 * g.multiple)):
        hr = torch.rand(2, 3, height, width, requires_grad=True)
        lr = model.downscale(hr)
        assert lr.shape == (2, 3, height // g.scale, width // g.scale)
        restored = model.upscale(lr)
        assert restored.shape == hr.shape
        restored.mean().backward()
        assert hr.grad is not None
        assert hr.grad.abs().sum() > 0
    with pytest.raises(ValueError, match=f"multiple of {g.multiple}"):
        model.downscale(torch.rand(1, 3, side + 1, side))
    with pytest.raises(ValueError, match="RGB"):
        model.downscale(torch.rand(1, 1, side, side))
    with pytest.raises(ValueError, match="RGB"):
        model.upscale(torch.rand(3, 8, 8))


@pytest.mark.parametrize("name", model_names())
def test_halos_cover_the_receptive_field(name: str) -> None:
    """The gradient of the pixels at a core's corner reaches no further than the stated halo.

    A corrector reaches further by less than rounding, which only trained weights show: tests of tiles do.
    """
    model = randomized(small_pair(name)).double()
    model.corrector = None
    g = model.geometry
    for run, halo, size, cell, to_out in (
        (model.downscale, g.halo_down, 2 * g.halo_down + 16 * g.multiple, g.multiple, lambda p: p // g.scale),
        (model.upscale, g.halo_up, 2 * g.halo_up + 24, 1, lambda p: p * g.scale),
    ):
        size = -(-size // 8) * 8
        core = size // 2 // cell * cell
        # along each axis a strip, four cells wide
        for axis, shape in ((0, (size, 4 * cell)), (1, (4 * cell, size))):
            image = torch.rand(1, 3, *shape, dtype=torch.float64, requires_grad=True)
            out = run(image).select(3 - axis, to_out(2 * cell))
            out.select(2, to_out(core)).sum().backward()
            assert image.grad is not None
            seen = image.grad.abs().sum(dim=(0, 1, 3 - axis)).nonzero().flatten()
            assert seen.min() >= core - halo
            assert seen.max() < core + cell + halo


@pytest.mark.parametrize("name", ["car_plus_x2", "car_plus_x4", "car_lite_x2", "car_lite_x4"])
def test_untrained_compact_downscalers_are_bicubic(name: str) -> None:
    model = create(name)
    hr = torch.rand(1, 3, 32, 48)
    torch.testing.assert_close(model.downscale(hr), bicubic_downscale(hr, model.geometry.scale))


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (8, 12)])
def test_lite_resamples_all_colours_with_one_kernel_that_sums_to_one(
    scale: int, size: tuple[int, int]
) -> None:
    """What it computes without kernels is what the op computes with them."""
    model = randomized(create(f"car_lite_x{scale}")).double()
    downscaler = model.downscaler
    assert isinstance(downscaler, MatchedDownscaler)
    hr = torch.rand(2, 3, scale * size[0], scale * size[1], dtype=torch.float64)
    kernels, offsets_h, offsets_v = downscaler.kernels_and_offsets(hr)
    torch.testing.assert_close(kernels.sum(dim=1), torch.ones_like(kernels[:, 0]))
    lr = model.downscale(hr)
    for channel in range(3):
        one = adaptive_resample(hr[:, channel : channel + 1], kernels, offsets_h, offsets_v, scale)
        torch.testing.assert_close(lr[:, channel : channel + 1], one)


def test_lite_changes_colours_as_asked_where_pixels_have_them() -> None:
    """What is grey or flat stays so, and there it does what it can."""
    model = create("car_lite_x2").double()
    downscaler = model.downscaler
    assert isinstance(downscaler, MatchedDownscaler)
    asked = torch.tensor([0.03, -0.01, 0.02], dtype=torch.float64)
    with torch.no_grad():
        downscaler.trunk[-1].bias.copy_(asked)  # pyright: ignore[reportArgumentType, reportCallIssue]
    asked = asked.view(1, 3, 1, 1)
    hr = torch.rand(1, 3, 24, 24, dtype=torch.float64)
    change = model.downscale(hr) - bicubic_downscale(hr, 2)
    torch.testing.assert_close(change, asked.expand_as(change), rtol=0.02, atol=0)
    grey = hr[:, :1].expand(-1, 3, -1, -1).contiguous()
    change = model.downscale(grey) - bicubic_downscale(grey, 2)
    torch.testing.assert_close(change, asked.mean().expand_as(change), rtol=0.02, atol=0)
    flat = torch.tensor([0.4, 0.5, 0.1], dtype=torch.float64).view(1, 3, 1, 1).expand(1, 3, 24, 24)
    torch.testing.assert_close(model.downscale(flat.contiguous()), flat[..., ::2, ::2])


def corrected(scale: int) -> Rescaler:
    pair = create(f"car_plus_x{scale}")
    assert isinstance(pair.upscaler, CompactUpscaler)
    return Rescaler(pair.downscaler, pair.upscaler, pair.geometry, Corrector(scale, width=8, depth=1))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_corrector_sees_the_error_and_its_gradient(scale: int) -> None:
    up = randomized(corrected(scale)).double().upscaler
    assert isinstance(up, CompactUpscaler)
    lr, hr = torch.rand(2, 3, 9, 8).double(), torch.rand(2, 3, 9 * scale, 8 * scale).double()
    error, gradient = up.error_and_gradient(lr, hr)
    lr.requires_grad_()
    expected = up(lr) - hr
    luma = (expected * torch.tensor([65.738, 129.057, 25.064]).double().view(3, 1, 1) / 255).sum(1)
    half_squares = 0.5 * (luma.square().sum() + 0.5 * expected.square().sum())
    torch.testing.assert_close(error, expected.detach())
    (by_autograd,) = torch.autograd.grad(half_squares, lr)
    inner = (..., slice(1, -1), slice(1, -1))  # the enlargement repeats the outermost pixels
    torch.testing.assert_close(gradient[inner], by_autograd[inner], rtol=1e-5, atol=1e-5)


def test_a_second_pass_corrects_the_result_of_the_first() -> None:
    model = randomized(corrected(2))
    corrector, up = model.corrector, model.upscaler
    assert isinstance(corrector, Corrector)
    assert isinstance(up, CompactUpscaler)
    hr = torch.rand(1, 3, 16, 20)
    start = model.downscaler(hr)
    once = corrector(hr, start, up)
    assert (once - start).abs().max() > 1e-4
    twice = corrector(hr, once, up)
    corrector.passes = 2
    torch.testing.assert_close(corrector(hr, start, up), twice)


def test_a_new_corrector_changes_nothing_and_learns() -> None:
    model = corrected(4)
    hr = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(model.downscale(hr), model.downscaler(hr))
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith("corrector.")}
    model.load_state_dict(deepened(weights, model))
    assert model.corrector is not None
    optimizer = torch.optim.Adam(model.corrector.parameters(), 1e-3)
    losses = []
    for _ in range(12):
        restored = model.upscale(model.downscale(hr))
        loss = (restored - hr).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_quantize_rounds_and_gates_the_gradient() -> None:
    x = torch.tensor([-0.5, -0.005, 0.0, 0.1, 0.5004, 1.0, 1.005, 1.5], requires_grad=True)
    y = quantize(x)
    torch.testing.assert_close(y * 255, torch.tensor([0.0, 0, 0, 26, 128, 255, 255, 255]))
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 1, 1, 0]
    grid = torch.arange(65536) / 65535
    assert torch.equal((quantize(grid, 65535) * 65535).round(), torch.arange(65536.0))


def test_registry_refuses_duplicates_and_suggests() -> None:
    with pytest.raises(ValueError, match="already registered"):
        register(architecture("car_x4"))
    with pytest.raises(UsageError, match="did you mean 'car_plus_x4'"):
        create("car_pluss_x4")
    families = {"car", "car_codec", "car_lite", "car_plus", "car_small"}
    controls = {"car_lite_bicubic", "car_small_bicubic"}
    more = {"car_plus_large_x4", "car_plus_x3", "car_plus_x8"}
    assert set(model_names(controls=False)) == {f"{f}_x{s}" for f in families for s in (2, 4)} | more
    assert set(model_names()) == {f"{f}_x{s}" for f in families | controls for s in (2, 4)} | more


def test_deepened_weights_compute_what_they_did() -> None:
    old, new = car.load("car_codec_x4").rescaler, create("car_plus_x4")
    weights = old.state_dict()
    names = set(weights)
    new.load_state_dict(deepened(weights, new))
    assert set(weights) == names, "what was given stays as it was"
    hr = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for got, expected in zip(new(hr), old(hr), strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    small = create("car_codec_x2")
    small.load_state_dict(deepened(create("car_plus_x2").state_dict(), small))  # which has a corrector
    with pytest.raises(RuntimeError, match=r"trunk"):
        old.load_state_dict(deepened(new.state_dict(), old))  # no block is dropped
    published = published_pair(4, features=4, up_features=8, up_blocks=3)
    assert deepened(published.state_dict(), new).keys() == published.state_dict().keys()


def test_a_corrector_of_another_scale_is_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = Path(__file__).parent.parent / "tools" / "give_corrector.py"
    out = tmp_path / "start.safetensors"
    plain = tmp_path / "plain.safetensors"
    save_file(create("car_codec_x2").state_dict(), plain)
    asked = ["--to", "car_plus_x2", "--of", "car_plus_x4", "--gradient", "6", "--change", "0.5"]
    monkeypatch.setattr(sys, "argv", [str(tool), str(plain), *asked, "--out", str(out)])
    runpy.run_path(str(tool), run_name="__main__")
    made, donor = load_file(out), rescaled(car.load("car_plus_x4").rescaler.state_dict(), 4, 2)
    for key, value in load_file(plain).items():
        assert torch.equal(made[key], value)
    first, last = (f"corrector.trunk.{n}.weight" for n in (0, 7))
    torch.testing.assert_close(made[first][:, :3], 6 * donor[first][:, :3])
    torch.testing.assert_close(made[first][:, 3:], donor[first][:, 3:])
    torch.testing.assert_close(made[last], 0.5 * donor[last])


@pytest.mark.parametrize("to", [3, 8])
def test_weights_of_another_scale_are_a_start(photo: Path, to: int) -> None:
    loaded = car.load("car_plus_x4").rescaler
    model = create(f"car_plus_x{to}")
    model.load_state_dict(rescaled(loaded.state_dict(), 4, to))
    pixels = np.asarray(Image.open(photo).convert("RGB"))
    side = 144  # a multiple of both scales
    hr = torch.from_numpy(pixels[:side, :side].copy()).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        restored = model.upscale(quantize(model.downscale(hr)))
        enlarged = bicubic_resize(quantize(bicubic_downscale(hr, to)), (side, side))
    by_model, by_bicubic = (-10 * (x - hr).square().mean().log10().item() for x in (restored, enlarged))
    assert by_model > by_bicubic + 1
    assert rescaled(loaded.state_dict(), 4, 4).keys() == loaded.state_dict().keys()


def test_returning_clamp_lets_gradients_bring_values_back() -> None:
    raw = torch.tensor([-1.0, -1.0, 0.5, 2.0, 2.0], dtype=torch.float64, requires_grad=True)
    pull = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0], dtype=torch.float64)
    clamped = _ReturningClamp.apply(raw, 0.0, 1.0)
    assert clamped.tolist() == [0, 0, 0.5, 1, 1]
    (clamped * pull).sum().backward()
    # descending moves against the gradient: what would lead further outside is stopped
    assert raw.grad is not None
    assert raw.grad.tolist() == [0, -1, 1, 1, 0]
    inside = torch.rand(7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: _ReturningClamp.apply(x, -1.0, 2.0), (inside,))


@pytest.mark.parametrize("scale", [2, 4])
def test_a_control_shrinks_bicubically_and_restores_like_its_model(scale: int) -> None:
    for family in ("car_small", "car_lite"):
        torch.manual_seed(0)
        control, model = create(f"{family}_bicubic_x{scale}"), create(f"{family}_x{scale}")
        hr = torch.rand(1, 3, 32, 48)
        torch.testing.assert_close(control.downscale(hr), bicubic_downscale(hr, scale))
        assert not list(control.downscaler.parameters())
        shapes = [
            {name: p.shape for name, p in pair.upscaler.named_parameters()} for pair in (control, model)
        ]
        assert shapes[0] == shapes[1]


def test_published_networks_refuse_other_scales() -> None:
    with pytest.raises(ValueError, match="scales 2 and 4"):
        KernelGenerator(3)
    with pytest.raises(ValueError, match="powers of two"):
        EDSR(3)
