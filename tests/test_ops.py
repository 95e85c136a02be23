"""The resampling operators: one set of checks, run over the reference and the compiled kernel."""

import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from car.ops import adaptive_resample, adaptive_resample_reference
from car.ops import reference as reference_module
from processes import LIMIT

IMPLEMENTATIONS = {"reference": adaptive_resample_reference, "fast": adaptive_resample}
NAMES = ("image", "kernels", "offsets_h", "offsets_v")

# largest difference from a float64 truth of about unit size
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.bfloat16: 1e-2, torch.float16: 1e-3}

CASES = {
    # name: (B, C, (H, W), (h, w), k, scale, reach of the offsets)
    "4x": (1, 3, (24, 32), (6, 8), 13, 4, 1.0),
    "2x": (2, 3, (16, 16), (8, 8), 7, 2, 1.0),
    "odd": (1, 1, (7, 5), (3, 2), 4, 3, 1.0),
    "odd ratio": (2, 4, (13, 9), (5, 4), 7, 2, 1.0),
    "enlarging": (1, 3, (5, 6), (11, 7), 2, 2, 1.0),
    "one pixel": (1, 3, (1, 1), (1, 1), 7, 2, 1.0),
    "one pixel, large output": (1, 1, (1, 1), (3, 2), 13, 4, 1.0),
    "one row": (1, 3, (1, 9), (1, 3), 7, 3, 1.0),
    "one column": (2, 1, (9, 1), (2, 1), 4, 2, 1.0),
    "smaller than the padding": (1, 4, (3, 2), (2, 2), 13, 4, 1.0),
    "one tap": (2, 3, (8, 12), (4, 3), 1, 2, 1.0),
    "far outside": (2, 3, (13, 9), (4, 3), 4, 3, 50.0),
    "threaded": (2, 3, (64, 90), (48, 48), 4, 2, 1.5),
}


def make_inputs(case, dtype=torch.float64, seed=0):
    B, C, (H, W), (h, w), k, scale, reach = case
    rng = np.random.default_rng(seed)
    image = rng.random((B, C, H, W))
    kernels = rng.normal(size=(B, k * k, h, w)) / k
    offsets = [rng.uniform(-reach, reach, kernels.shape) for _ in range(2)]
    # 1/64 of a pixel: exact in float32, so that every dtype floors alike, beside a half that keeps the
    # positions of integer ratios off whole numbers, where derivatives jump
    offsets = [(np.floor(o * 64 * scale) + 0.5) / 64 / scale for o in offsets]
    return [torch.from_numpy(t).to(dtype) for t in (image, kernels, *offsets)], scale


def brute_force(image, kernels, offsets_h, offsets_v, scale):
    """Follow the published formula in float64 loops; nothing is shared with the package."""
    image, kernels, offsets_h, offsets_v = (
        t.detach().double().numpy() for t in (image, kernels, offsets_h, offsets_v)
    )
    B, C, H, W = image.shape
    _, taps, h, w = kernels.shape
    k = round(taps**0.5)
    r = k // 2
    padded = np.pad(image, ((0, 0), (0, 0), (r, r), (r, r)), mode="reflect")
    Hp, Wp = padded.shape[2:]
    out = np.zeros((B, C, h, w))
    for n, y, x in np.ndindex(B, h, w):
        for i in range(k):
            for j in range(k):
                t = i * k + j
                px = (x + 0.5) * W / w + j + scale * offsets_h[n, t, y, x] - 0.5
                py = (y + 0.5) * H / h + i + scale * offsets_v[n, t, y, x] - 0.5
                a, b = px - np.floor(px), py - np.floor(py)
                left = min(max(int(np.floor(px)), 0), Wp - 1)
                top = min(max(int(np.floor(py)), 0), Hp - 1)
                right, bottom = min(left + 1, Wp - 1), min(top + 1, Hp - 1)
                out[n, :, y, x] += kernels[n, t, y, x] * (
                    (1 - a) * (1 - b) * padded[n, :, top, left]
                    + a * (1 - b) * padded[n, :, top, right]
                    + (1 - a) * b * padded[n, :, bottom, left]
                    + a * b * padded[n, :, bottom, right]
                )
    return torch.from_numpy(out)


def gradients(function, tensors, scale, seed=1):
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    out = function(*leaves, scale)
    weights = torch.from_numpy(np.random.default_rng(seed).normal(size=out.shape)).to(out.dtype)
    return torch.autograd.grad(out, leaves, weights)


def assert_near(actual, expected, dtype):
    """Hold every element to the dtype's tolerance, relative to the largest expected magnitude if above 1."""
    assert actual.shape == expected.shape
    bound = TOLERANCE[dtype] * max(1.0, expected.abs().max().item())
    worst = (actual.double() - expected.double()).abs().max().item()
    assert worst <= bound, f"differs by {worst:.3g}, allowed {bound:.3g}"


@pytest.fixture(params=IMPLEMENTATIONS)
def resample(request):
    return IMPLEMENTATIONS[request.param]


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [name for name in CASES if name != "threaded"])  # too large for loops
def test_forward_follows_the_formula(resample, name, dtype):
    tensors, scale = make_inputs(CASES[name], dtype)
    out = resample(*tensors, scale)
    assert out.dtype == dtype
    assert out.is_contiguous()
    assert_near(out, brute_force(*tensors, scale), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fast_forward_and_gradients_follow_the_reference(case, dtype):
    tensors, scale = make_inputs(case, dtype)
    truth = [t.double() for t in tensors]
    assert_near(adaptive_resample(*tensors, scale), adaptive_resample_reference(*truth, scale), dtype)
    expected = gradients(adaptive_resample_reference, truth, scale)
    for name, got, want in zip(NAMES, gradients(adaptive_resample, tensors, scale), expected, strict=True):
        assert got.dtype == dtype, name
        assert_near(got, want, dtype)


def test_gradients_for_other_devices_follow_autograd_through_the_reference(case):
    tensors, scale = make_inputs(case)
    out = adaptive_resample_reference(*tensors, scale)
    grad = torch.from_numpy(np.random.default_rng(1).normal(size=out.shape))
    got = reference_module.resample_backward(grad, *tensors, scale, True, True)
    for one, want in zip(got, gradients(adaptive_resample_reference, tensors, scale), strict=True):
        assert_near(one, want, torch.float64)


@pytest.mark.parametrize("wanted", range(4), ids=NAMES)
@pytest.mark.parametrize("name", ["odd", "odd ratio", "enlarging", "smaller than the padding"])
def test_gradcheck(resample, name, wanted):
    # offsets lie 1/128 of a pixel or more from where the floor jumps: many steps of 1e-6
    _, C, size, *_ = CASES[name]
    tensors, scale = make_inputs((1, min(C, 2), size, (2, 2), 2, 2, 1.0))
    tensors[wanted].requires_grad_()
    assert torch.autograd.gradcheck(lambda *t: resample(*t, scale), tensors, eps=1e-6, atol=1e-7)


class Calls(TorchDispatchMode):
    """Notes which gradients the backward operator was asked for."""

    def __init__(self):
        super().__init__()
        self.flags = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.car.adaptive_resample_backward.default:
            self.flags.append(args[-2:])
        return func(*args, **(kwargs or {}))


def test_only_the_gradients_asked_for_are_computed():
    tensors, scale = make_inputs(CASES["odd"])
    everything = gradients(adaptive_resample, tensors, scale)
    for wanted in range(4):
        leaves = [t.clone().requires_grad_(i == wanted) for i, t in enumerate(tensors)]
        out = adaptive_resample(*leaves, scale)
        weights = torch.from_numpy(np.random.default_rng(1).normal(size=out.shape))
        with Calls() as calls:
            out.backward(weights)
        assert calls.flags == [(wanted == 0, wanted != 0)]
        assert torch.equal(leaves[wanted].grad, everything[wanted])
        assert all(leaf.grad is None for i, leaf in enumerate(leaves) if i != wanted)


def test_offsets_are_clamped_as_published():
    """Left of the padded image the right neighbour is column 1, above all fractions: not column 0 twice."""
    image = torch.tensor([[[[10.0, 20.0, 30.0, 40.0]]]])
    kernel = torch.ones(1, 1, 1, 1)
    for resample in IMPLEMENTATIONS.values():
        for position, expected in ((-0.25, 17.5), (-2.75, 12.5), (-3.0, 10.0), (3.25, 40.0), (9.5, 40.0)):
            offset = torch.full_like(kernel, position - 1.5)
            out = resample(image, kernel, offset, torch.zeros_like(offset), 1)
            assert out.item() == pytest.approx(expected, abs=1e-5)


def test_float32_keeps_its_precision_in_wide_images():
    (image, kernels, *offsets), scale = make_inputs((1, 3, (2, 20000), (1, 5000), 1, 4, 1.0))
    kernels = torch.ones_like(kernels)
    truth = adaptive_resample_reference(image, kernels, *offsets, scale)
    for resample in IMPLEMENTATIONS.values():
        narrow = [t.float() for t in (image, kernels, *offsets)]
        assert_near(resample(*narrow, scale), truth, torch.float32)


sizes = st.integers(1, 9)


@st.composite
def problems(draw):
    case = (
        draw(st.integers(1, 2)),
        draw(st.integers(1, 3)),
        (draw(sizes), draw(sizes)),
        (draw(st.integers(1, 5)), draw(st.integers(1, 5))),
        draw(st.sampled_from([1, 2, 3, 4, 5])),
        draw(st.integers(1, 4)),
        draw(st.sampled_from([0.5, 1.0, 3.0, 50.0])),
    )
    return make_inputs(case, seed=draw(st.integers(0, 2**32 - 1)))


@given(problems())
def test_property_agrees_with_the_formula(problem):
    tensors, scale = problem
    # random ratios can put a position on a whole number up to rounding, where clamping makes a step
    tensors[2:] = [t + 1e-3 for t in tensors[2:]]
    expected = brute_force(*tensors, scale)
    for resample in IMPLEMENTATIONS.values():
        assert_near(resample(*tensors, scale), expected, torch.float64)


@given(problems(), st.floats(-2, 2))
def test_property_kernels_that_sum_to_one_keep_a_constant(problem, value):
    (image, kernels, *offsets), scale = problem
    kernels = kernels.abs() / kernels.abs().sum(1, keepdim=True)
    for resample in IMPLEMENTATIONS.values():
        out = resample(torch.full_like(image, value), kernels, *offsets, scale)
        assert_near(out, torch.full_like(out, value), torch.float64)


@given(problems(), st.floats(-2, 2))
def test_property_linear_in_the_image(problem, factor):
    (image, *taps), scale = problem
    other = image.flip(-1) ** 2
    for resample in IMPLEMENTATIONS.values():
        both = resample(image + factor * other, *taps, scale)
        apart = resample(image, *taps, scale) + factor * resample(other, *taps, scale)
        assert_near(both, apart, torch.float64)


@given(problems())
def test_property_image_gradient_is_the_adjoint(problem):
    (image, *taps), scale = problem
    leaf = image.clone().requires_grad_()
    out = adaptive_resample(leaf, *taps, scale)
    (grad,) = torch.autograd.grad(out, leaf, out.detach())
    assert_near((grad * image).sum(), (out.detach() ** 2).sum(), torch.float64)


@pytest.mark.parametrize(
    "layout",
    [
        lambda t: t.to(memory_format=torch.channels_last),
        lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
        lambda t: torch.nn.functional.pad(t, (1, 2, 3, 1), value=9.0)[:, :, 3:-1, 1:-2],
        lambda t: t[:1].expand(2, -1, -1, -1),
    ],
    ids=["channels last", "transposed", "slice", "expanded"],
)
def test_layout_does_not_matter(resample, layout):
    tensors, scale = make_inputs(CASES["odd ratio"])
    strided = [layout(t) for t in tensors]
    dense = [t.contiguous() for t in strided]
    assert torch.equal(resample(*strided, scale), resample(*dense, scale))
    for got, want in zip(gradients(resample, strided, scale), gradients(resample, dense, scale), strict=True):
        assert torch.equal(got, want)
    leaves = [t.detach().requires_grad_() for t in strided]
    resample(*leaves, scale).transpose(2, 3).contiguous().sum().backward()
    assert all(leaf.grad.shape == leaf.shape for leaf in leaves)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(resample, dtype):
    tensors, scale = make_inputs(CASES["2x"], dtype)
    out = resample(*tensors, scale)
    wide = [t.float() for t in tensors]
    assert torch.equal(out, resample(*wide, scale).to(dtype))
    assert_near(out, adaptive_resample_reference(*(t.double() for t in tensors), scale), dtype)
    grads = gradients(resample, tensors, scale)
    assert all(g.dtype == dtype and g.isfinite().all() for g in grads)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 3e38, -3e38])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wild_offsets_stay_inside_the_image(resample, bad, dtype):
    (image, kernels, offsets_h, offsets_v), scale = make_inputs(CASES["2x"], dtype)
    clean = resample(image, kernels, offsets_h, offsets_v, scale)
    for which in (offsets_h, offsets_v):
        before = which[0, 5, 2, 3].item()
        which[0, 5, 2, 3] = bad
        out = resample(image, kernels, offsets_h, offsets_v, scale)
        grads = gradients(resample, [image, kernels, offsets_h, offsets_v], scale)
        which[0, 5, 2, 3] = before
        hit = torch.zeros_like(out, dtype=torch.bool)
        hit[0, :, 2, 3] = True
        assert torch.equal(out[~hit], clean[~hit])
        if not (scale * torch.tensor(bad, dtype=dtype)).isfinite():
            assert out[hit].isnan().all()
        else:
            assert out[hit].isfinite().all()
            assert all(g.isfinite().all() for g in grads)
    everywhere = torch.full_like(offsets_h, bad)
    resample(image, kernels, everywhere, everywhere, scale)
    gradients(resample, [image, kernels, everywhere, everywhere], scale)


def test_results_do_not_depend_on_threads():
    tensors, scale = make_inputs(CASES["threaded"], torch.float32)
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 2, 3, 7):
            torch.set_num_threads(number)
            results.append(
                [adaptive_resample(*tensors, scale), *gradients(adaptive_resample, tensors, scale)]
            )
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_concurrent_calls_agree():
    tensors, scale = make_inputs(CASES["threaded"], torch.float32)

    def everything(_):
        return [adaptive_resample(*tensors, scale), *gradients(adaptive_resample, tensors, scale)]

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(everything, range(8))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(("name", "dtype"), [("odd", torch.float64), ("2x", torch.float32)])
def test_opcheck(name, dtype):
    tensors, scale = make_inputs(CASES[name], dtype)
    grad = torch.ones_like(adaptive_resample(*tensors, scale))
    leaves = [t.clone().requires_grad_() for t in tensors]
    torch.library.opcheck(torch.ops.car.adaptive_resample.default, (*leaves, scale))
    for for_image, for_taps in ((True, True), (True, False), (False, True)):
        arguments = (grad, *tensors, scale, for_image, for_taps)
        torch.library.opcheck(torch.ops.car.adaptive_resample_backward.default, arguments)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_whole(dynamic):
    torch.compiler.reset()
    compiled = torch.compile(adaptive_resample, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for name in ("2x", "odd ratio"):
        tensors, scale = make_inputs(CASES[name])
        assert torch.equal(compiled(*tensors, scale), adaptive_resample(*tensors, scale))
        for got, want in zip(
            gradients(compiled, tensors, scale), gradients(adaptive_resample, tensors, scale), strict=True
        ):
            assert torch.equal(got, want)


def test_meta_tensors_give_the_shape():
    tensors, scale = make_inputs(CASES["odd ratio"], torch.float32)
    out = adaptive_resample(*(t.to("meta") for t in tensors), scale)
    assert (out.shape, out.device.type) == ((2, 4, 5, 4), "meta")


def test_second_derivative_is_refused():
    tensors, scale = make_inputs(CASES["odd"])
    leaves = [t.requires_grad_() for t in tensors]
    first = torch.autograd.grad(adaptive_resample(*leaves, scale).sum(), leaves, create_graph=True)
    with pytest.raises(RuntimeError, match="adaptive_resample_backward"):
        first[1].sum().backward()


IMAGE, TAPS = torch.zeros(2, 3, 8, 8), torch.zeros(2, 9, 4, 4)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"image": IMAGE.numpy()}, TypeError, r"image must be a torch\.Tensor, got ndarray"),
        ({"image": IMAGE[0]}, ValueError, r"image must have 4 dimensions, got shape \(3, 8, 8\)"),
        ({"image": IMAGE.byte()}, TypeError, r"image must be float32, .*, got torch\.uint8"),
        ({"image": IMAGE[..., :0]}, ValueError, r"image must not be empty, got shape \(2, 3, 8, 0\)"),
        ({"image": IMAGE.new_empty(1).expand(2, 1, 1, 2**24)}, ValueError, "image must not exceed"),
        ({"kernels": TAPS.double()}, TypeError, r"kernels must have the dtype of image, torch\.float32"),
        ({"kernels": TAPS.to("meta")}, ValueError, "kernels must be on the device of image, cpu, got meta"),
        ({"kernels": TAPS[:1]}, ValueError, r"kernels .* batch size .* \(1, 9, 4, 4\) and \(2, 3, 8, 8\)"),
        ({"kernels": TAPS[:, :8]}, ValueError, r"kernels .* square .* \(2, 8, 4, 4\)"),
        ({"offsets_h": TAPS[..., :3]}, ValueError, r"offsets_h .* \(2, 9, 4, 4\), got \(2, 9, 4, 3\)"),
        ({"offsets_v": TAPS[:, :4]}, ValueError, r"offsets_v .* \(2, 9, 4, 4\), got \(2, 4, 4, 4\)"),
        ({"scale": 0}, ValueError, "scale must be at least 1, got 0"),
        ({"scale": 2.0}, TypeError, "scale must be an int, got float"),
        ({"scale": True}, TypeError, "scale must be an int, got bool"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_arguments_are_named(resample, change, error, message):
    arguments = {"image": IMAGE, "kernels": TAPS, "offsets_h": TAPS, "offsets_v": TAPS, "scale": 2} | change
    with pytest.raises(error, match=message):
        resample(**arguments)


def run_python(code):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_leaves_numba_alone():
    assert run_python("import sys, car.ops; print('numba' in sys.modules)").strip() == "False"


def test_works_where_no_cache_folder_is_writable():
    run_python("""
        from numba.core import caching

        def refuse(self):
            raise OSError("read-only")

        for locator in caching.CacheImpl._locator_classes:
            locator.ensure_cache_path = refuse
        from car.ops import numba_kernels
        assert type(numba_kernels.forward._cache).__name__ == "NullCache", numba_kernels.forward._cache
        assert numba_kernels._padded_index(2.0, 7.0) == 2
    """)


def test_works_in_a_forked_process():
    run_python("""
        import os, torch
        from car.ops import adaptive_resample
        torch.set_num_threads(2)
        tensors = [torch.rand(1, n, 64, 64) for n in (3, 49, 49, 49)]
        before = adaptive_resample(*tensors, 1)
        child = os.fork()
        if child == 0:
            os._exit(0 if torch.equal(before, adaptive_resample(*tensors, 1)) else 1)
        assert os.waitpid(child, 0)[1] == 0
    """)
