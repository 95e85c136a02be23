"""The Triton kernels: on a GPU where there is one, else interpreted, and compiled ahead of time."""

import importlib.util
import os
import subprocess
import sys
import textwrap

import pytest
import torch

from processes import LIMIT
from test_ops import CASES, TOLERANCE, make_inputs

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed (there are packages for Linux only)", allow_module_level=True)

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
if not GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported

from car.ops import reference, triton_kernels  # noqa: E402

# the interpreter takes milliseconds for each tap of each program, however few its pixels are: few taps here
SMALL = {
    "4x": (1, 3, (12, 16), (3, 4), 5, 4, 1.0),
    "two blocks of pixels and of channels": (1, 5, (20, 26), (10, 13), 2, 2, 1.0),
    "smaller than the padding": (1, 3, (3, 2), (2, 2), 5, 2, 1.0),
    "one row": (1, 3, (1, 9), (1, 3), 3, 3, 1.0),
}
SMALL |= {name: CASES[name] for name in ("odd", "enlarging", "one tap", "far outside")}
IN_ALL_TYPES = ("odd", "one tap")
ALL = [
    pytest.param(case, dtype, id=f"{name}, {dtype}")
    for name, case in (CASES | SMALL if GPU else SMALL).items()
    for dtype in TOLERANCE
    if GPU or dtype == torch.float32 or name in IN_ALL_TYPES
]


def on(device, tensors):
    return [t.to(device) for t in tensors]


@pytest.mark.parametrize(("case", "dtype"), ALL)
def test_forward_and_gradients_follow_the_reference(case, dtype):
    inputs, scale = make_inputs(case, dtype)
    truth = [t.double() for t in inputs]
    grad = torch.randn(
        (*inputs[0].shape[:2], *inputs[1].shape[2:]), generator=torch.Generator().manual_seed(1)
    ).to(dtype)
    expected = reference.resample(*truth, scale)
    gradients = reference.resample_backward(grad.double(), *truth, scale, True, True)
    ours = triton_kernels.resample(*on(DEVICE, inputs), scale)
    assert ours.dtype == dtype
    assert ours.is_contiguous()
    torch.testing.assert_close(ours.cpu().double(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    found = triton_kernels.resample_backward(*on(DEVICE, [grad, *inputs]), scale, True, True)
    for one, other in zip(found, gradients, strict=True):
        assert one.dtype == dtype
        size = max(other.abs().max().item(), 1e-30)
        torch.testing.assert_close(one.cpu().double() / size, other / size, atol=2 * TOLERANCE[dtype], rtol=0)


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # infinity less infinity, in NumPy
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1e30])
def test_wild_offsets_stay_inside_the_image(bad):
    inputs, scale = make_inputs(SMALL["odd"], torch.float32)
    inputs[2][0, 1, 1, 1] = bad
    expected = reference.resample(*inputs, scale)
    ours = triton_kernels.resample(*on(DEVICE, inputs), scale).cpu()
    torch.testing.assert_close(ours, expected, equal_nan=True)
    grad = torch.ones_like(expected)
    found = triton_kernels.resample_backward(*on(DEVICE, [grad, *inputs]), scale, True, True)
    same = reference.resample_backward(grad, *inputs, scale, True, True)
    for one, other in zip(found, same, strict=True):
        torch.testing.assert_close(one.cpu(), other, equal_nan=True)


def test_layout_does_not_matter_and_only_what_is_asked_for_is_computed():
    inputs, scale = make_inputs(SMALL["two blocks of pixels and of channels"], torch.float32)
    inputs = on(DEVICE, inputs)
    strided = [t.to(memory_format=torch.channels_last) for t in inputs]
    out = triton_kernels.resample(*inputs, scale)
    assert torch.equal(triton_kernels.resample(*strided, scale), out)
    grad = torch.ones_like(out)
    for for_image, for_taps in ((True, False), (False, True), (False, False)):
        sizes = [
            g.numel() > 0 for g in triton_kernels.resample_backward(grad, *inputs, scale, for_image, for_taps)
        ]
        assert sizes == [for_image, for_taps, for_taps, for_taps]


@pytest.mark.skipif(not GPU, reason="no GPU: dispatch to these kernels is tested where there is one")
def test_gpu_tensors_take_this_path(monkeypatch):
    from car.ops import adaptive_resample

    calls = []
    forward = triton_kernels.resample
    monkeypatch.setattr(triton_kernels, "resample", lambda *a: calls.append(1) or forward(*a))
    inputs, scale = make_inputs(CASES["2x"], torch.float32)
    torch.testing.assert_close(
        adaptive_resample(*on("cuda", inputs), scale).cpu(), reference.resample(*inputs, scale)
    )
    assert calls
    double, scale = make_inputs(CASES["2x"], torch.float64)
    leaves = [t.cuda().requires_grad_() for t in double]
    assert torch.autograd.gradcheck(lambda *a: adaptive_resample(*a, scale), leaves, nondet_tol=1e-10)


AHEAD = """
import sys
import triton.language as tl
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from car.ops import triton_source

inputs = {"forward": "image", "backward_taps": "grad image", "backward_image": "grad"}
results = {"forward": "out", "backward_taps": "grad_kernels grad_h grad_v", "backward_image": "grad_image"}
for target in (GPUTarget("cuda", 80, 32), GPUTarget("hip", "gfx942", 64)):
    for name in inputs:
        for values, K, once in zip(("fp32", "bf16", "fp16", "fp64"), (13, 7) * 2, (True, False) * 2):
            real = "fp64" if values == "fp64" else "fp32"
            constants = {"K": K, "CB": 4, "BLOCK": 128, "ONCE": once}
            constants["REAL"] = tl.float64 if values == "fp64" else tl.float32
            types = dict.fromkeys(f"{inputs[name]} kernels offsets_h offsets_v".split(), "*" + values)
            types |= dict.fromkeys("whole_x part_x whole_y part_y".split(), "*" + real)
            summed = real if name == "backward_image" else values
            types |= dict.fromkeys(results[name].split(), "*" + summed)
            types |= dict.fromkeys("C H W h w scale".split(), "i32")
            types |= dict.fromkeys(constants, "constexpr")
            program = getattr(triton_source, name)
            source = ASTSource(program, {n: types[n] for n in program.arg_names}, constants)
            done = triton.compile(source, target=target)
            binary = done.asm["cubin" if target.backend == "cuda" else "hsaco"]
            print(target.arch, name, values, len(binary) > 1000)
"""


def test_programs_compile_for_nvidia_and_amd(tmp_path):
    """The interpreter accepts what a compiler does not; no GPU is needed for this."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(AHEAD)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert len(lines) == 24
    assert all(line.endswith("True") for line in lines)
