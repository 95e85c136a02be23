"""Names of devices, as users and the MindSpore code write them."""

import torch

from car.errors import UsageError

_SEED_NAMES = {"GPU": "cuda", "CPU": "cpu", "Ascend": "npu"}


def resolve_device(name: str) -> torch.device:
    """Return the device called `name`; ``auto`` is a GPU or NPU where PyTorch sees one, else the CPU.

    Raises:
        UsageError: no such device, or it cannot be used here.
    """
    if name == "auto":
        npu = getattr(torch, "npu", None)  # there once torch_npu is loaded
        return torch.device(
            "cuda" if torch.cuda.is_available() else "npu" if npu and npu.is_available() else "cpu"
        )
    kind, colon, index = name.partition(":")
    try:
        device = torch.device(_SEED_NAMES.get(kind, kind) + colon + index)
        torch.zeros(1, device=device)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(f"device {name!r} cannot be used here: {reason}") from error
    return device
