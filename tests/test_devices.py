"""Devices and precisions: what is asked for is what runs, or a line says what is missing."""

import contextlib
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import car
from car import devices
from car.codec.codec import Codec
from car.codec.options import Options
from car.codec.torch_engine import TorchEngine
from car.devices import fast_bf16, is_cpu, resolve_device, resolve_precision
from car.errors import UsageError
from car.metrics import psnr
from car.models import create, rescaler
from car.ops import adaptive_resample_reference, reference
from car.pictures.read import read
from car.train.losses import Objective
from car.train.recipes import recipe_for

LIST = Path(__file__).parent / "fixtures" / "aten_operators.txt"


class Recorder(TorchDispatchMode):
    """Collects the names of the operators that reach a backend."""

    def __init__(self):
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names[str(func)] += 1
        return func(*args, **(kwargs or {}))


def operators(monkeypatch):
    """Return which operators training and inference of each family, and the op, want of a device."""
    found: dict[str, set[str]] = {}
    rng = torch.Generator().manual_seed(0)
    inputs = [torch.rand(shape, generator=rng) for shape in ((1, 3, 16, 16), *[(1, 49, 8, 8)] * 3)]
    with Recorder() as seen:
        out = reference.resample(*inputs, 2)
        reference.resample_backward(torch.ones_like(out), *inputs, 2, True, True)
    found["adaptive_resample"] = set(seen.names)
    # what a device without kernels of its own runs, with autograd through the operators themselves
    monkeypatch.setattr(rescaler, "adaptive_resample", adaptive_resample_reference)
    monkeypatch.setattr("car.train.losses.adaptive_resample", adaptive_resample_reference)
    for name in ("car_small_x2", "car_lite_x2", "car_plus_x2"):
        model = create(name)
        hr = torch.rand(1, 3, 32, 32, generator=rng)
        with Recorder() as seen, torch.inference_mode():
            model.upscale(rescaler.quantize(model.downscale(hr)))
        found[f"{name}, inference"] = set(seen.names)
        terms = {"gradient_weight": 0.01}
        if "small" in name:
            terms |= {"tv_weight": 0.005, "offset_weight": 0.001}
        objective = Objective(model, recipe_for(name, **terms))
        with Recorder() as seen:
            objective(hr).backward()
        found[f"{name}, training"] = set(seen.names)
    return found


def test_operators_that_a_device_must_have(monkeypatch):
    """Anything new here must be looked up for NPU, MPS and XPU before it is added to the list."""
    found = set().union(*operators(monkeypatch).values())
    known = set(LIST.read_text().split())
    assert found == known, f"new: {sorted(found - known)}, gone: {sorted(known - found)}"
    assert all(name.startswith("aten.") for name in known)


def test_names_of_devices(monkeypatch):
    assert resolve_device("cpu") == resolve_device("CPU") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if not hasattr(torch, "npu"):
        assert resolve_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("cuda", "an NVIDIA GPU with its driver"),
        ("GPU", "an NVIDIA GPU with its driver"),
        ("cuda:7", "an NVIDIA GPU with its driver"),
        ("npu", r"the package torch_npu \(the extra \[npu\]\)"),
        ("Ascend", r"the package torch_npu \(the extra \[npu\]\)"),
        ("xpu", "an Intel GPU with its driver"),
        ("mps", "a Mac with Apple silicon"),
        ("tpu", "known: auto, cpu, cuda"),
        ("meta", "known: auto, cpu, cuda"),
        ("", "known: auto, cpu, cuda"),
        ("cpu:x", "known: auto, cpu, cuda"),
        ("cpu:1", "known: auto, cpu, cuda"),
        ("cuda:0:1", "known: auto, cpu, cuda"),
    ],
)
def test_what_a_missing_device_needs_is_said(name, needs):
    kind = name.split(":")[0]
    if kind in ("cuda", "GPU") and torch.cuda.is_available() and name != "cuda:7":
        pytest.skip("there is a GPU")
    if kind in ("mps", "xpu") and getattr(torch, kind).is_available():
        pytest.skip(f"there is {kind}")
    with pytest.raises(UsageError, match=needs) as caught:
        resolve_device(name)
    assert "\n" not in str(caught.value)


def test_torch_npu_is_imported_only_when_asked_for(monkeypatch):
    asked = []

    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name == "torch_npu":
                asked.append(name)

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    resolve_device("auto")
    resolve_device("cpu")
    assert not asked
    with pytest.raises(UsageError):
        resolve_device("npu")
    assert asked == ["torch_npu"] or hasattr(torch, "npu")


@pytest.mark.parametrize("scale", [2, 4])
def test_reduced_precision_costs_little(photo, scale):
    """The differences are rounding errors of 8 bits of mantissa, not another picture."""
    picture = read(photo)
    luma = {}
    for precision in ("float32", "bf16"):
        codec = Codec(car.load(f"car_plus_x{scale}"), Options(device="cpu", precision=precision))
        small, info = codec.shrink(picture)
        large = codec.restore(small, info.size).pixels
        one, other = (torch.tensor(p).permute(2, 0, 1).double() / 255 for p in (large, picture.pixels))
        luma[precision] = psnr(one, other)
    assert luma["bf16"] != luma["float32"]  # it was not ignored
    assert luma["bf16"] == pytest.approx(luma["float32"], abs=1.0)


def test_float32_is_not_tf32(monkeypatch):
    """On NVIDIA GPUs PyTorch rounds the operands of convolutions to 10 bits unless told otherwise."""
    inside = []
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    for precision in ("float32", "bf16"):
        codec = Codec(car.load("car_plus_x4"), Options(device="cpu", precision=precision, backend="torch"))
        upscaler = codec.engine._rescaler.upscaler
        forward = upscaler.forward
        monkeypatch.setattr(
            upscaler,
            "forward",
            lambda lr, forward=forward: (
                inside.append((torch.backends.cudnn.allow_tf32, torch.backends.cudnn.enabled)) or forward(lr)
            ),
        )
        codec.upscale_pixels(np.zeros((8, 8, 3), np.uint8))
    assert inside == [(False, True), (True, True)]
    assert torch.backends.cudnn.allow_tf32


def test_threads_that_overlap_leave_the_setting_as_it_was(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    inside, leave = threading.Event(), threading.Event()
    engine = TorchEngine(car.load("car_plus_x4"), "cpu", "float32", 1)

    def work():
        with engine._arithmetic():
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=work)
    with engine._arithmetic():
        thread.start()
        assert inside.wait(30)
    assert not torch.backends.cudnn.allow_tf32  # the other thread still needs it
    leave.set()
    thread.join(30)
    assert torch.backends.cudnn.allow_tf32


def test_unknown_precision_is_refused():
    with pytest.raises(UsageError, match="precision must be one of auto, float32, bf16, fp16, got 'int8'"):
        car.downscale(np.zeros((8, 8, 3), np.uint8), 4, options=Options(precision="int8"))


def test_bf16_is_taken_where_it_is_fast(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert not fast_bf16(cpu)
    with pytest.warns(UserWarning, match="10 to 20 times slower"):
        assert resolve_precision("bf16", cpu) == "bf16"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert fast_bf16(cpu)
    assert resolve_precision("auto", cpu) == "float32"  # what is restored on a CPU is exact
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    assert resolve_precision("auto", torch.device("cuda")) == "bf16"


def test_the_cpu_is_known_without_pytorch(monkeypatch):
    monkeypatch.setattr(devices, "_NODES", ())
    assert is_cpu("cpu")
    assert is_cpu("CPU:0")
    assert is_cpu("auto")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert is_cpu("auto")
    with pytest.raises(UsageError, match=r"for device 'cuda', PyTorch is needed: pip install"):
        is_cpu("cuda")
    with pytest.raises(UsageError, match="no device is called 'gpu0'"):
        is_cpu("gpu0")


if __name__ == "__main__":  # writes the list anew
    with pytest.MonkeyPatch.context() as patch:
        LIST.write_text("\n".join(sorted(set().union(*operators(patch).values()))) + "\n")
