"""Names of devices, as users and the MindSpore code write them, and what to do where one is missing."""

import importlib
import re

import torch

from car.errors import UsageError

_SEED_NAMES = {"GPU": "cuda", "CPU": "cpu", "Ascend": "npu"}
_NEEDS = {
    "cuda": "an NVIDIA GPU with its driver and a CUDA build of PyTorch, or an AMD GPU and a ROCm build",
    "npu": "an Ascend NPU with its driver and CANN, and the package torch_npu (the extra [npu])",
    "xpu": "an Intel GPU with its driver and an XPU build of PyTorch",
    "mps": "a Mac with Apple silicon",
}


def resolve_device(name: str) -> torch.device:
    """Return the device called `name`; ``auto`` is a GPU or NPU where PyTorch sees one, else the CPU.

    Args:
        name: ``auto``, ``cpu``, ``cuda`` (also for ROCm), ``npu``, ``xpu``, ``mps``, the MindSpore names GPU,
            CPU and Ascend, or one of them with a number, as ``cuda:1``.

    Raises:
        UsageError: no such device, or it cannot be used here; the message says what it needs.
    """
    if name == "auto":
        npu = getattr(torch, "npu", None)  # there once torch_npu is loaded
        return torch.device(
            "cuda" if torch.cuda.is_available() else "npu" if npu and npu.is_available() else "cpu"
        )
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


def fast_bf16(device: torch.device) -> bool:
    """Return whether `device` has instructions for bf16, which is 10 to 20 times slower without them."""
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # pyright: ignore[reportPrivateUsage]
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
