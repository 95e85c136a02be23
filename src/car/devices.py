"""Names of devices, as users and the MindSpore code write them, and errors if a device is missing.

Importing this module does not import PyTorch.
"""

import importlib
import importlib.util
import os
import re
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from car.errors import UsageError, needs

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "float32", "bf16", "fp16"]
"""Arithmetic of the networks; float32 is exact to within a rounding error on every device."""

_SEED_NAMES = {"GPU": "cuda", "CPU": "cpu", "Ascend": "npu"}
_NEEDS = {
    "cuda": "an NVIDIA GPU with its driver and a CUDA build of PyTorch, or an AMD GPU and a ROCm build",
    "npu": "an Ascend NPU with its driver and CANN, and the package torch_npu (the extra [npu])",
    "xpu": "an Intel GPU with its driver and an XPU build of PyTorch",
    "mps": "a Mac with Apple silicon",
}
# what the drivers of NVIDIA, of AMD, of Windows' subsystem for Linux and of Ascend put there
_NODES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg", "/dev/davinci_manager")


def needs_torch(what: str) -> None:
    """Import PyTorch, or say how to install it.

    Args:
        what: what it is needed for, as "to train".

    Raises:
        UsageError: it is not installed.
    """
    try:
        import torch  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise needs(f"{what}, PyTorch is needed", "torch") from error


_threads: int | None = None


def set_cpu_threads(count: int) -> None:
    """Set the number of CPU threads that the networks of this process use."""
    global _threads
    _threads = count
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)
    else:
        os.environ["OMP_NUM_THREADS"] = str(count)  # as PyTorch reads it when it is imported


def cpu_threads() -> int:
    """Return the number of CPU threads that the networks use: as set, or one for each available core."""
    if _threads is not None:
        return _threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_cpu(name: str) -> bool:
    """Return whether `name` stands for the CPU. PyTorch is imported only if it may be another device.

    Raises:
        UsageError: no device has this name.
    """
    if name == "auto" and not _may_have_gpu():
        return True
    if name != "auto" and _parts(name)[0] == "cpu":
        return True
    if name != "auto":
        needs_torch(f"for device {name!r}")
    return resolve_device(name).type == "cpu"


def _may_have_gpu() -> bool:
    """Return whether there may be a GPU or NPU and a PyTorch that can use it."""
    if sys.platform == "darwin":
        return False  # `auto` never means mps
    if sys.platform == "linux" and not any(Path(node).exists() for node in _NODES):
        return False
    try:
        return importlib.util.find_spec("torch") is not None
    except ValueError:  # raised for a module that must not be imported
        return False


def _parts(name: str) -> tuple[str, str, str]:
    """Return kind, colon and number of a device.

    Raises:
        UsageError: no device has such a name.
    """
    kind, colon, index = name.partition(":")
    kind = _SEED_NAMES.get(kind, kind)
    known = kind == "cpu" or kind in _NEEDS
    if (
        not known
        or (colon and not (index.isdecimal() and len(index) < 4))
        or (kind == "cpu" and index.strip("0"))
    ):
        raise UsageError(
            f"no device is called {name!r}; known: auto, cpu, {', '.join(_NEEDS)}, with a number as cuda:1"
        )
    return kind, colon, index


def resolve_device(name: str) -> "torch.device":
    """Return the device called `name`; ``auto`` is a GPU or NPU if PyTorch sees one, else the CPU.

    Args:
        name: ``auto``, ``cpu``, ``cuda`` (also for ROCm), ``npu``, ``xpu``, ``mps``, the MindSpore names GPU,
            CPU and Ascend, or one of them with a number, as ``cuda:1``.

    Raises:
        UsageError: no device has this name, or it cannot be used here. The message says what it needs.
    """
    kind, colon, index = ("", "", "") if name == "auto" else _parts(name)
    needs_torch(f"for device {name!r}")
    import torch

    if name == "auto":
        npu = getattr(torch, "npu", None)  # exists once torch_npu is loaded
        return torch.device(
            "cuda" if torch.cuda.is_available() else "npu" if npu and npu.is_available() else "cpu"
        )
    try:
        if kind == "npu" and not hasattr(torch, "npu"):
            importlib.import_module("torch_npu")
        device = torch.device(kind + colon + index)
        torch.zeros(1, device=device)
    except Exception as error:  # each backend has errors of its own, of many lines
        reason = re.split(r"\.\s|\n", str(error).strip())[0] or type(error).__name__
        needs = f"it needs {_NEEDS[kind]}" if kind in _NEEDS else "it should always be there"
        raise UsageError(
            f"device {name!r} cannot be used here: {needs} (PyTorch {torch.__version__} says: {reason})"
        ) from error
    return device


def fast_bf16(device: "torch.device") -> bool:
    """Return whether `device` has instructions for bfloat16."""
    import torch

    if device.type == "cpu":
        tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(bool(getattr(torch.cpu, test, bool)()) for test in tests)
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "npu"


def resolve_precision(precision: Precision, device: "torch.device") -> Precision:
    """Return what ``auto`` stands for: bf16 on a GPU or NPU that has instructions for it, else float32.

    On a CPU it is always float32, so that restored pictures are exact. Warns of bf16 on a CPU that has no
    instructions for it.
    """
    if precision == "auto":
        return "bf16" if device.type != "cpu" and fast_bf16(device) else "float32"
    if precision == "bf16" and device.type == "cpu" and not fast_bf16(device):
        warnings.warn(
            "this CPU has no instructions for bf16, which is then 10 to 20 times slower than float32",
            stacklevel=3,
        )
    return precision
