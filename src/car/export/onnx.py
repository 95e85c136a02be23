"""ONNX, checked against PyTorch."""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from car._version import __version__
from car.errors import CarError, UsageError, needs
from car.export import DEFAULT_OPSET, OPSETS, Half, Storage
from car.models import Rescaler, quantize
from car.ops.reference import resample_at_once
from car.weights import LoadedModel

if TYPE_CHECKING:
    import onnx

_SMALLEST_HALVED = 64  # values; smaller tensors, such as biases, stay float32


class ExportError(CarError):
    """The values of the exported model differ from those of PyTorch."""


def to_onnx(
    loaded: LoadedModel, half: Half = "up", *, storage: Storage = "float32", opset: int = DEFAULT_OPSET
) -> bytes:
    """Return one half of a model as an ONNX file.

    Input ``lr`` or ``hr``, output the other: RGB, NCHW, float32, nominally in [0, 1], neither clamped nor
    rounded; batch, height and width are free; height and width of ``hr`` must be multiples of the model's
    `multiple`. All operators are standard ones. The metadata has model, weights (SHA-256), scale, multiple,
    min_size, halo (in pixels of the input), half and version.

    Args:
        loaded: the model, on the CPU.
        half: ``up`` restores, ``down`` shrinks.
        storage: type of the stored weights; ``float16`` halves the file, and the arithmetic stays float32.
        opset: version of the operators, 18 to 23.

    Raises:
        UsageError: a required package is not installed, or an argument is not one of these.
    """
    if half not in get_args(Half) or storage not in get_args(Storage) or opset not in OPSETS:
        raise UsageError(f"unknown half, storage or opset: {half}, {storage}, {opset}")
    g = loaded.geometry
    names = ("lr", "hr") if half == "up" else ("hr", "lr")
    model = network_graph(loaded.build(), half, opset=opset)
    if storage == "float16":
        _halve(model)
    about = {
        "model": loaded.name,
        "tag": loaded.tag or "",
        "weights": loaded.sha256,
        "half": half,
        "scale": g.scale,
        "multiple": 1 if half == "up" else g.multiple,
        "min_size": 1 if half == "up" else g.min_size,
        "halo": g.halo_up if half == "up" else g.halo_down,
        "storage": storage,
        "input": f"{names[0]}: RGB, NCHW, float32 in [0, 1]",
        "version": __version__,
    }
    for key, value in about.items():
        model.metadata_props.add(key=key, value=str(value))
    return model.SerializeToString()


class _Network(nn.Module):
    """One half of a pair: the downscaler, corrector included, or the upscaler."""

    def __init__(self, rescaler: Rescaler, half: Half) -> None:
        super().__init__()
        self.restores = half == "up"
        self.upscaler = rescaler.upscaler
        if half == "down":
            self.downscaler, self.corrector = rescaler.downscaler, rescaler.corrector
        if half == "down" and rescaler.corrector is None:
            del self.upscaler

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.restores:
            return self.upscaler(x)
        lr = self.downscaler(x)
        return lr if self.corrector is None else self.corrector(x, lr, self.upscaler)


class _Weightless(nn.Module):
    """A network whose weights are given with its input."""

    def __init__(self, network: _Network) -> None:
        super().__init__()
        object.__setattr__(self, "network", network)  # not as a part, or its weights would be constants

    def forward(self, x: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.func.functional_call(self.network, weights, (x,))  # pyright: ignore[reportArgumentType]


def network_graph(
    rescaler: Rescaler, half: Half, *, opset: int = DEFAULT_OPSET, weightless: bool = False
) -> "onnx.ModelProto":
    """Return one half of a pair as `to_onnx` does, without metadata.

    Args:
        rescaler: the pair.
        half: ``up`` or ``down``.
        opset: version of the operators.
        weightless: make the weights inputs, with the names that they have in the pair.

    Raises:
        UsageError: a required package is not installed.
    """
    _needed("onnx")
    _needed("onnxscript")
    g, network = rescaler.geometry, _Network(rescaler, half).eval()
    # unequal sides, and more than one picture, or the exporter would take them for constants
    least = g.min_size
    rows, columns = (24, 20) if half == "up" else (least + 2 * g.multiple, least + 3 * g.multiple)
    free = torch.export.Dim.DYNAMIC
    sizes: dict[int, Any] = {0: free, 2: free, 3: free}
    weights = dict(network.named_parameters())
    names = ("lr", "hr") if half == "up" else ("hr", "lr")
    with warnings.catch_warnings(), _silence(), torch.inference_mode():
        warnings.simplefilter("ignore")
        example = torch.rand(2, 3, rows, columns)
        if weightless:
            program = torch.export.export(
                _Weightless(network),
                (example, weights),
                dynamic_shapes=(sizes, dict.fromkeys(weights)),
                strict=False,
            )
        else:
            program = torch.export.export(network, (example,), dynamic_shapes=(sizes,), strict=False)
        # the op that resamples is ours alone; others know what it is made of
        program = program.run_decompositions({torch.ops.car.adaptive_resample.default: resample_at_once})
        result: Any = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            input_names=[names[0], *(weights if weightless else ())],
            output_names=names[1:],
            optimize=True,
            verbose=False,
        )
    model: onnx.ModelProto = result.model_proto
    del model.metadata_props[:]
    model.producer_name, model.producer_version = "content-adaptive-resampler", __version__
    _strip(model)
    return model


def compare(
    content: bytes, loaded: LoadedModel, half: Half, images: Iterable[NDArray[np.uint8]]
) -> tuple[int, ...]:
    """Compare an exported half with PyTorch; return how many 8-bit samples differ by 0, 1, 2... levels.

    Args:
        content: what `to_onnx` returned.
        loaded: the model that was exported.
        half: the half that was exported.
        images: RGB ``[H, W, 3]``, input of that half; they are cut to a size that it accepts.

    Raises:
        UsageError: onnxruntime is not installed, or an image is too small.
    """
    running: Any = _needed("onnxruntime").InferenceSession(content, providers=["CPUExecutionProvider"])
    g = loaded.geometry
    multiple, least = (1, 1) if half == "up" else (g.multiple, g.min_size)
    counts = np.zeros(256, np.int64)
    for image in images:
        height, width = (n // multiple * multiple for n in image.shape[:2])
        if min(height, width) < least:
            raise UsageError(f"a picture of {image.shape[1]}x{image.shape[0]} is too small for {loaded.name}")
        x = torch.from_numpy(image[:height, :width] / np.float32(255)).permute(2, 0, 1)[None].contiguous()
        network = loaded.rescaler.upscale if half == "up" else loaded.rescaler.downscale
        with torch.inference_mode():
            ours = _levels(network(x))
        theirs = _levels(torch.from_numpy(running.run(None, {running.get_inputs()[0].name: x.numpy()})[0]))
        counts += np.bincount((ours - theirs).abs().flatten().numpy(), minlength=256)
    return tuple(int(n) for n in np.trim_zeros(counts, "b"))


def check(
    content: bytes, loaded: LoadedModel, half: Half, images: Iterable[NDArray[np.uint8]]
) -> tuple[int, ...]:
    """Return what `compare` does.

    Raises:
        ExportError: a sample differs by more than one level.
    """
    levels = compare(content, loaded, half, images)
    if len(levels) > 2:
        raise ExportError(
            f"the exported {loaded.name} differs from PyTorch by up to {len(levels) - 1} levels"
        )
    return levels


def _levels(image: torch.Tensor) -> torch.Tensor:
    return (quantize(image) * 255).round().long()


def _needed(name: str) -> Any:
    # onnxruntime collects what machine it runs on, to send it home; the setting is read at its import
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        return import_module(name)
    except ImportError as error:
        raise needs(f"this needs {name}", "export") from error


class _silence:  # noqa: N801 - used like a function
    """Keep the exporter's messages about its progress from standard output and the log."""

    def __enter__(self) -> None:
        self._stdout = contextlib.redirect_stdout(io.StringIO())
        self._stdout.__enter__()
        self._logger = logging.getLogger("torch.onnx")
        self._level = self._logger.level
        self._logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self._logger.setLevel(self._level)
        self._stdout.__exit__(None, None, None)


def _halve(model: "onnx.ModelProto") -> None:
    """Store large weights as float16; a Cast converts them to float32 where they are used."""
    onnx = _needed("onnx")
    casts: list[Any] = []
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < _SMALLEST_HALVED:
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}.float16"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}.float16"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    # their shapes are said a second time, with the old type
    halved = {cast.output[0] for cast in casts}
    kept = [value for value in model.graph.value_info if value.name not in halved]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)


def _strip(model: "onnx.ModelProto") -> None:
    """Remove the paths of this machine that the exporter writes."""
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.initializer, *model.functions):
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]
        if hasattr(part, "doc_string"):
            part.doc_string = ""


def metadata(content: bytes) -> dict[str, str]:
    """Return the metadata of an ONNX file."""
    onnx = _needed("onnx")
    return {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
