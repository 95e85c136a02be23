"""Any model on any device, by PyTorch; needed for GPUs, 16-bit arithmetic and effort."""

import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from car.codec.coding import Coding
from car.codec.effort import refine
from car.devices import Precision, resolve_device, resolve_precision
from car.errors import UsageError
from car.weights import LoadedModel

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TorchEngine:
    """A model on one device, with its own copy of the networks.

    Args:
        loaded: the model with its weights.
        device: see `car.devices.resolve_device`.
        precision: see `car.codec.options.Options`.
        threads: on the CPU, for one tile.

    Raises:
        UsageError: the device cannot be used.
    """

    name: Literal["torch"] = "torch"

    def __init__(self, loaded: LoadedModel, device: str, precision: Precision, threads: int) -> None:
        self._device = resolve_device(device)
        self._precision, self._threads = resolve_precision(precision, self._device), threads
        # whatever mode and default device the caller is in: the networks are kept for others
        with torch.inference_mode(False), torch.device("cpu"):
            # effort takes gradients, but none for the weights
            self._rescaler = loaded.build().to(self._device).requires_grad_(False)
            # channels-last is 1.4 times as fast for these convolutions on a CPU, and no slower on a GPU
            self._rescaler.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - not in the stubs

    @property
    def device(self) -> str:
        """The device, as PyTorch names it."""
        return str(self._device)

    def downscale(self, hr: NDArray[np.float32]) -> NDArray[np.float32]:
        """Shrink a tile."""
        return self._run(self._rescaler.downscale, hr)

    def upscale(self, lr: NDArray[np.float32]) -> NDArray[np.float32]:
        """Restore a tile."""
        return self._run(self._rescaler.upscale, lr)

    def refine(self, lr: NDArray[Any], hr: NDArray[Any], effort: int, coding: Coding | None) -> NDArray[Any]:
        """Return what `car.codec.effort.refine` makes of a small picture."""
        with self._arithmetic(gradients=True):
            return refine(self._rescaler, lr, hr, effort, self._device, coding)

    def _run(
        self, network: Callable[[torch.Tensor], torch.Tensor], tile: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        # [H, W, 3] memory seen as [1, 3, H, W] is channels-last already
        tensor = torch.from_numpy(tile).permute(2, 0, 1)[None]
        with self._arithmetic():
            result = network(tensor.to(self._device, memory_format=torch.channels_last))
            return result[0].permute(1, 2, 0).float().cpu().numpy()

    @contextmanager
    def _arithmetic(self, *, gradients: bool = False) -> Generator[None, None, None]:
        dtype = _DTYPES.get(self._precision)
        _refuse_fork(self._device)
        with (
            _threads(self._threads) if self._device.type == "cpu" else nullcontext(),
            torch.inference_mode(not gradients),
            torch.autocast(self._device.type, dtype) if dtype else nullcontext(),
            nullcontext() if dtype else _exact_float32,
        ):
            yield


_used_by: set[int] = set()  # the processes in which PyTorch has computed, this one's parents among them


def _refuse_fork(device: torch.device) -> None:
    """Refuse to compute in a child process if the parent computed before the fork: it would never end.

    Raises:
        UsageError: this is such a child process.
    """
    if _used_by - {os.getpid()}:
        raise UsageError(
            "PyTorch has computed in the process from which this one was forked, and would wait for ever on "
            f"{device} here: start processes by spawn (multiprocessing.set_start_method('spawn'))"
        )
    _used_by.add(os.getpid())


@contextmanager
def _threads(count: int) -> Generator[None, None, None]:
    """Set PyTorch's number of threads while this thread computes."""
    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _ExactFloat32:
    """Within it, convolutions on NVIDIA GPUs are float32; PyTorch's default has 10 bits of mantissa.

    The setting belongs to the whole process: the first thread that comes in changes it and the last one that
    leaves puts it back.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._before = threading.Lock(), 0, False

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                torch.backends.cudnn.allow_tf32 = self._before


_exact_float32 = _ExactFloat32()
