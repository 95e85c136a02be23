"""Checkpoints of the published networks, from PyTorch (``.pth``) and MindSpore (``.ckpt``), and back.

There, a model is a pair of files: ``kgn`` (the kernel generator) and ``usn`` (the upscaler). They use the
parameter names of `car.models.published`, often with a prefix such as ``module.``, and may hold the
optimiser's state too.
"""

import io
import itertools
import math
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import nn

from car.errors import UsageError, WeightsError, system_errors
from car.families import Architecture, model_names
from car.files.atomic import check_regular
from car.models import Rescaler, create
from car.models.published import EDSR, AdaptiveDownscaler
from car.weights.mindspore import ckpt_bytes, read_ckpt
from car.weights.store import MAX_CHECKPOINT_BYTES, file_bytes

_MAX_NESTING = 4  # of dictionaries in a .pth file
_MAX_ENTRIES = 100_000
_HALVES = {"kgn": "kernel generator", "usn": "upscaler"}
# a parameter that only this half has, to find the half behind any prefix
_ANCHORS = {"kgn": "ds_1.1.weight", "usn": "head.0.weight"}

_Entries = Mapping[str, torch.Tensor | None]


@dataclass(frozen=True)
class Converted:
    """A pair of checkpoints as one model: its networks (on the CPU), and the entries that are not weights."""

    model: str
    rescaler: Rescaler
    dropped: tuple[str, ...]


def read_pair(kgn: Path, usn: Path) -> Converted:
    """Read a kernel generator and an upscaler into the published model that they fit.

    Either file may be a PyTorch, MindSpore or ``.safetensors`` file, in any floating type. A PyTorch file
    holds a state dict, alone or in the dictionary of a training. It is unpickled only to tensors and plain
    values.

    Raises:
        UsageError: a file does not exist.
        WeightsError: a file is damaged or does not hold exactly one half of a published model, or the two
            have different scales. The message names the first entry that does not fit.
    """
    files = {"kgn": kgn, "usn": usn}
    entries = {half: _read(path) for half, path in files.items()}
    inner = {half: _behind_prefix(half, files[half], entries[half]) for half in files}
    model = _model_of(files, inner)
    rescaler = _skeleton(model)
    networks = _networks(rescaler)
    dropped: list[str] = []
    for half, path in files.items():
        expected = networks[half].state_dict()
        what = f"the {_HALVES[half]} of {model}"
        networks[half].load_state_dict(_fit(path, what, inner[half], expected), assign=True)
        dropped += [
            f"{path.name}: {name}" for name in _left_over(path, what, entries[half], inner[half], expected)
        ]
    return Converted(model, rescaler, tuple(dropped))


def pair_files(model: str, rescaler: Rescaler, kind: Literal["ckpt", "pth"]) -> dict[str, bytes]:
    """Return the two files (name -> content) that the public code of the paper reads.

    Args:
        model: name of the model, for the error message.
        rescaler: a model with the published architecture.
        kind: "ckpt" for the MindSpore code, "pth" for the PyTorch code, which expects ``module.`` in front.

    Raises:
        UsageError: the model has another architecture.
    """
    networks = _networks(rescaler)
    if not networks:
        raise UsageError(
            f"{model} does not have the published architecture, so the public code cannot run it"
        )
    files: dict[str, bytes] = {}
    for name, network in networks.items():
        state = {key: tensor.float().cpu() for key, tensor in network.state_dict().items()}
        if kind == "ckpt":
            content = ckpt_bytes(state)
        else:
            buffer = io.BytesIO()
            torch.save({f"module.{key}": tensor for key, tensor in state.items()}, buffer)
            content = buffer.getvalue()
        files[f"{name}.{kind}"] = content
    return files


def weights_bytes(model: str, rescaler: Rescaler) -> bytes:
    """Return the content of a ``.safetensors`` file that `car.load` reads; the same for the same weights."""
    return file_bytes(model, arrays_of(rescaler))


def arrays_of(rescaler: Rescaler) -> dict[str, NDArray[np.float32]]:
    """Return copies of the weights of networks, float32, by the names of parameters."""
    return {
        key: np.array(tensor.detach().cpu().numpy(), np.float32, order="C")
        for key, tensor in rescaler.state_dict().items()
    }


def rescaler_of(model: Architecture, arrays: Mapping[str, NDArray[np.float32]]) -> Rescaler:
    """Return new networks with these weights: on the CPU, in evaluation mode, without gradients."""
    rescaler = create(model)
    rescaler.load_state_dict({key: torch.tensor(values) for key, values in arrays.items()})
    return rescaler.eval().requires_grad_(False)


def built_shapes(model: Architecture) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the parameters of a model, by building it."""
    return {key: tuple(tensor.shape) for key, tensor in create(model).state_dict().items()}


def _read(path: Path) -> _Entries:
    check_regular(path, str(path), UsageError)
    if not path.exists():
        raise UsageError(f"{path}: no such file")
    with system_errors(f"{path}: cannot be read", WeightsError), path.open("rb") as file:
        size, start = path.stat().st_size, file.read(9)
    if size == 0:
        raise WeightsError(f"{path}: is empty")
    if size > MAX_CHECKPOINT_BYTES:
        raise WeightsError(f"{path}: {size:,} bytes exceed the limit of {MAX_CHECKPOINT_BYTES:,}")
    if start.startswith((b"PK", b"\x80")):
        return _read_torch(path)
    if start[8:] == b"{":
        return _read_safetensors(path)
    if start.lstrip()[:1] == b"<":
        raise WeightsError(f"{path}: a web page, not a checkpoint; did a download fail?")
    return read_ckpt(path)


def _read_torch(path: Path) -> _Entries:
    try:
        if zipfile.is_zipfile(path):
            _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    # a damaged file may raise any exception
    except Exception as error:
        reason = str(error).strip().splitlines()
        if any("weights_only" in line or "Weights only" in line for line in reason):
            text = "it holds objects other than tensors; only tensors and plain values can be read"
        else:
            text = reason[0] if reason else type(error).__name__
        raise WeightsError(f"{path}: not a readable PyTorch checkpoint ({text})") from error
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not a state dict")
    # shared dictionaries in a file could be visited without end
    entries = dict(itertools.islice(_flat(content, "", _MAX_NESTING), _MAX_ENTRIES + 1))
    if len(entries) > _MAX_ENTRIES:
        raise WeightsError(f"{path}: holds more than {_MAX_ENTRIES:,} entries")
    return entries


def _check_archive(path: Path) -> None:
    """Raise ValueError if the zip archive is damaged, which PyTorch does not check, or is a bomb."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise ValueError("its records are compressed, which PyTorch never does")
        if sum(record.file_size for record in records) > MAX_CHECKPOINT_BYTES:
            raise ValueError(f"its records claim more than {MAX_CHECKPOINT_BYTES:,} bytes")
        damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} does not match: damaged")


def _flat(content: Mapping[Any, Any], prefix: str, depth: int) -> Iterator[tuple[str, torch.Tensor | None]]:
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and depth:
            yield from _flat(value, f"{name}/", depth - 1)
        else:
            yield name, value if isinstance(value, torch.Tensor) else None


def _read_safetensors(path: Path) -> _Entries:
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({error})") from error


@dataclass(frozen=True)
class _Inner:
    """The entries behind the prefix of the weights."""

    prefix: str
    entries: _Entries


def _prefixes(entries: _Entries, half: str) -> list[str]:
    anchor = _ANCHORS[half]
    found = [name.removesuffix(anchor) for name in entries if name.endswith(anchor)]
    # the optimiser's copies have a longer prefix
    return sorted((p for p in found if not p or p.endswith((".", "/"))), key=len)


def _behind_prefix(half: str, path: Path, entries: _Entries) -> _Inner:
    found = _prefixes(entries, half)
    if not found:
        other = next(name for name in _HALVES if name != half)
        mixed_up = f"it holds the {_HALVES[other]}; are the files swapped?"
        reason = mixed_up if _prefixes(entries, other) else f"{_ANCHORS[half]} is missing"
        raise WeightsError(f"{path}: no {_HALVES[half]} of the published architecture: {reason}")
    containers = sorted({prefix.rpartition("/")[0] for prefix in found})
    if len(containers) > 1:
        raise WeightsError(
            f"{path}: holds more than one {_HALVES[half]} ({', '.join(containers)}); "
            "save the intended one alone"
        )
    prefix = found[0]
    return _Inner(prefix, {n.removeprefix(prefix): t for n, t in entries.items() if n.startswith(prefix)})


def _model_of(files: Mapping[str, Path], inner: Mapping[str, _Inner]) -> str:
    """Return the name of the published model that both halves belong to, judged by a few shapes."""
    scales = {"kgn": _scale_of_generator(inner["kgn"]), "usn": _scale_of_upscaler(inner["usn"])}
    for half, scale in scales.items():
        if scale not in (2, 4):
            raise WeightsError(f"{files[half]}: its shapes fit no {_HALVES[half]} for scale 2 or 4")
    if scales["kgn"] != scales["usn"]:
        raise WeightsError(
            f"{files['kgn']} is for scale {scales['kgn']}, {files['usn']} for scale {scales['usn']}: "
            "they are not a pair"
        )
    fallback = f"car_x{scales['kgn']}"
    for name in model_names(controls=False):
        if not name.endswith(f"_x{scales['kgn']}"):
            continue
        sizes = {
            half: tuple(network.state_dict()[_ANCHORS[half]].shape)
            for half, network in _networks(_skeleton(name)).items()
        }
        if sizes == {half: _shape(inner[half], _ANCHORS[half]) for half in files}:
            return name
    return fallback


def _scale_of_generator(inner: _Inner) -> int:
    shape = _shape(inner, "kernels_weight.4.weight")
    taps = math.isqrt(shape[0]) if shape else 0
    return (taps - 1) // 3 if shape and taps**2 == shape[0] and taps % 3 == 1 else 0


def _scale_of_upscaler(inner: _Inner) -> int:
    doublings = sum(f"tail.0.{2 * i}.weight" in inner.entries for i in range(8))
    return 2**doublings if doublings else 0


def _shape(inner: _Inner, name: str) -> tuple[int, ...]:
    tensor = inner.entries.get(name)
    return tuple(tensor.shape) if tensor is not None else ()


def _skeleton(model: str) -> Rescaler:
    return create(model).eval().requires_grad_(False)


def _networks(rescaler: Rescaler) -> dict[str, nn.Module]:
    """Return the two halves of a model with the published architecture; an empty dictionary for others."""
    downscaler, upscaler = rescaler.downscaler, rescaler.upscaler
    if not isinstance(downscaler, AdaptiveDownscaler) or not isinstance(upscaler, EDSR):
        return {}
    return {"kgn": downscaler.kgn, "usn": upscaler}


def _fit(
    path: Path, what: str, inner: _Inner, expected: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    for key, like in expected.items():
        name = inner.prefix + key
        if key not in inner.entries:
            raise WeightsError(f"{path}: {name} of {what} is missing")
        tensor = inner.entries[key]
        if tensor is None or not _is_plain(tensor) or not tensor.is_floating_point():
            raise WeightsError(f"{path}: {name} of {what} is not a floating-point tensor")
        if tensor.shape != like.shape:
            raise WeightsError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, {what} needs {tuple(like.shape)}"
            )
        state[key] = tensor.detach().to("cpu", torch.float32).contiguous()
        if not state[key].isfinite().all():
            raise WeightsError(f"{path}: {name} holds values that are not finite")
    return state


def _is_plain(tensor: torch.Tensor) -> bool:
    dense = tensor.layout == torch.strided and not (tensor.is_nested or tensor.is_quantized)
    return dense and tensor.device.type == "cpu"


def _left_over(
    path: Path, what: str, entries: _Entries, inner: _Inner, expected: Mapping[str, torch.Tensor]
) -> Iterator[str]:
    """Yield the entries that a training leaves in addition to the weights; others are an error."""
    container = inner.prefix.rpartition("/")[0]
    # in a file with both halves, ignore the other half
    others = {p for half in _HALVES for p in _prefixes(entries, half)} - {inner.prefix, ""}
    for name, tensor in entries.items():
        if name.startswith(inner.prefix) and name.removeprefix(inner.prefix) in expected:
            continue
        number = tensor is None or (_is_plain(tensor) and tensor.numel() <= 1)
        dots = [place for place, letter in enumerate(name) if letter == "."][:_MAX_NESTING]
        copy = any(name[place + 1 :] in expected for place in dots)
        elsewhere = name.rpartition("/")[0] != container
        beside = inner.prefix != "" and name.startswith(tuple(others))
        if not (number or copy or elsewhere or beside):
            raise WeightsError(f"{path}: {name} is not a parameter of {what}")
        yield name
