"""The interface that runs the networks, tile by tile, and the choice between its engines."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from car.codec.options import Backend, Options
from car.devices import cpu_threads, is_cpu, needs_torch
from car.errors import UsageError
from car.families import Architecture
from car.weights import LoadedModel

Tile = NDArray[np.float32]
"""RGB ``[H, W, 3]``, nominally in [0, 1]; what comes out is neither clamped nor rounded."""


class Engine(Protocol):
    """A model that is ready to run. Its methods may be called from several threads."""

    @property
    def name(self) -> Backend:
        """Its name as a backend."""
        ...

    @property
    def device(self) -> str:
        """The device on which it runs, as PyTorch names it."""
        ...

    def downscale(self, hr: Tile) -> Tile:
        """Shrink a tile whose sides the model accepts; see `car.families.Geometry`."""
        ...

    def upscale(self, lr: Tile) -> Tile:
        """Restore a tile of any size."""
        ...


def chosen_backend(model: Architecture, options: Options) -> Backend:
    """Return the backend for this model and `options`: ``torch`` or ``onnxruntime``.

    Raises:
        UsageError: `options` name onnxruntime, which cannot do this, or PyTorch is needed and not installed.
    """
    reasons = {
        f"for model {model.name}": model.needs_torch,
        f"for device {options.device!r}": not is_cpu(options.device),
        f"for precision {options.precision}": options.precision not in ("auto", "float32"),
        "for effort above 0": options.effort > 0,
    }
    reason = next((reason for reason, given in reasons.items() if given), None)
    if options.backend == "onnxruntime" and reason is not None:
        raise UsageError(f"onnxruntime cannot be used {reason}: leave out --backend onnxruntime")
    if options.backend == "torch" or reason is not None:
        needs_torch(reason or "for backend torch")
        return "torch"
    return "onnxruntime"


def open_engine(loaded: LoadedModel, options: Options) -> Engine:
    """Return the engine of a model.

    Raises:
        UsageError: the device or the backend cannot be used.
    """
    threads = options.threads or cpu_threads()
    if chosen_backend(loaded.architecture, options) == "onnxruntime":
        from car.codec.onnx_engine import OnnxEngine

        return OnnxEngine(loaded, threads)
    from car.codec.torch_engine import TorchEngine

    return TorchEngine(loaded, options.device, options.precision, threads)
