"""Compact models on the CPU, by onnxruntime: graphs without weights, and weights from their file."""

import ctypes
import os
import threading
import weakref
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from car.families import Architecture
from car.weights import FOLDER, LoadedModel

Half = Literal["down", "up"]


def graph(model: Architecture, half: Half) -> bytes:
    """Return the graph of one half of a model: ONNX, its weights named and left out."""
    shape = (model if half == "down" else model.uncorrected or model).shape
    return (FOLDER / f"graphs/{shape}.{half}.onnx").read_bytes()


def _needed_by(half: Half, tensors: "Mapping[str, Any]") -> "dict[str, Any]":
    """Return the names of the weights of one half; a corrector also needs those of the upscaler."""
    if half == "down" and any(key.startswith("corrector.") for key in tensors):
        return dict(tensors)
    return {key: values for key, values in tensors.items() if key.startswith(half)}


class OnnxEngine:
    """A compact model on the CPU in float32.

    Args:
        loaded: the model; its arrays are shared, not copied.
        threads: for one tile.
    """

    name: Literal["onnxruntime"] = "onnxruntime"
    device = "cpu"

    def __init__(self, loaded: LoadedModel, threads: int) -> None:
        self._loaded, self._threads = loaded, threads
        self._sessions: dict[Half, Any] = {}
        self._lock = threading.Lock()
        _engines.add(self)

    def downscale(self, hr: NDArray[np.float32]) -> NDArray[np.float32]:
        """Shrink a tile."""
        return self._run("down", hr)

    def upscale(self, lr: NDArray[np.float32]) -> NDArray[np.float32]:
        """Restore a tile."""
        return self._run("up", lr)

    def _run(self, half: Half, tile: NDArray[np.float32]) -> NDArray[np.float32]:
        with self._lock:
            if half not in self._sessions:
                self._sessions[half] = self._started(half)
            session = self._sessions[half]
        name = "hr" if half == "down" else "lr"
        planes = np.ascontiguousarray(tile.transpose(2, 0, 1)[None])
        return session.run(None, {name: planes}, self._run_options(half))[0][0].transpose(1, 2, 0)

    def _corrects(self, half: Half) -> bool:
        return half == "down" and self._loaded.architecture.uncorrected is not None

    def _run_options(self, half: Half) -> Any:
        if not self._corrects(half):
            return None
        import onnxruntime

        options: Any = onnxruntime.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        return options

    def _started(self, half: Half) -> Any:
        # onnxruntime collects what machine it runs on, to send it home; the setting is read at its import
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        runtime: Any = onnxruntime
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        # idle threads would spin after each layer: up to a sixth more CPU time, and no faster
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # An arena would keep the memory of the largest tile for good, so there is none. With a corrector, the
        # heap of the C library would fall to pieces instead (2 GB for what takes 0.5 GB, and slower), so
        # there is one, given back after each tile.
        options.enable_cpu_mem_arena = self._corrects(half)
        provider = ("CPUExecutionProvider", {"arena_extend_strategy": "kSameAsRequested"})
        arrays = _needed_by(half, self._loaded.tensors)
        values = [runtime.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()]
        options.add_external_initializers(list(arrays), values)
        content = graph(self._loaded.architecture, half)
        return runtime.InferenceSession(content, options, providers=[provider])

    def forget(self) -> None:
        """Make new sessions after a fork, because the threads of the old ones do not exist in the child."""
        for session in self._sessions.values():
            # to end a session is to wait for its threads, so it must never end
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
        self._sessions, self._lock = {}, threading.Lock()


_engines: "weakref.WeakSet[OnnxEngine]" = weakref.WeakSet()


def _forget_all() -> None:
    for engine in list(_engines):
        engine.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
