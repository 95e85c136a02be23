"""Trained weights: the manifest of what ships with the package, and loading with every check."""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from car.errors import UsageError, WeightsError, did_you_mean
from car.models import Rescaler, create, model_names
from car.weights.convert import PAIR_SUFFIXES, read_pair, weights_bytes
from car.weights.store import pulled, pulled_models

__all__ = [
    "LoadedModel",
    "ManifestEntry",
    "ModelInfo",
    "ModelName",
    "absolute_name",
    "default_model",
    "find",
    "list_models",
    "load",
    "load_file",
    "manifest",
]

ModelName = str | Path | tuple[str | Path, str | Path]
"""What `load` takes."""

HASH_DIGITS = 16  # of the SHA-256, kept in LR files: enough to tell weights apart


@dataclass(frozen=True)
class ManifestEntry:
    """What is known of one file of shipped weights; the fields of ``manifest.json``.

    Attributes:
        tag: ``model.vN``.
        model: architecture name.
        file: file name beside the manifest.
        sha256: of the file, hex.
        parameters: trainable parameters of both halves.
        licence: of the weights.
        data: what they were trained on, with its licence.
        recipe: the command that trained them.
        trained: date, ISO 8601.
        metrics: data set name -> means that ``car evaluate`` measures: of the ``model``, of ``bicubic``, and
            the ``growth`` of the small picture's bytes over bicubic's, per cent; None: infinite.
    """

    tag: str
    model: str
    file: str
    sha256: str
    parameters: int
    licence: str
    data: str
    recipe: str
    trained: str
    metrics: dict[str, dict[str, dict[str, float | None]]]


@dataclass(frozen=True)
class ModelInfo:
    """One architecture, as `list_models` reports it; `tags` of shipped weights, the newest last."""

    name: str
    family: str
    scale: int
    tags: tuple[str, ...]


@dataclass(frozen=True)
class LoadedModel:
    """A pair of networks with its weights: in evaluation mode, without gradients, on the CPU.

    `tag` is that of shipped weights, the name of pulled ones, None for a file of one's own; `sha256` is
    that of the ``.safetensors`` file, for two published checkpoints that of what `car convert` makes of them.
    """

    name: str
    tag: str | None
    sha256: str
    rescaler: Rescaler

    @property
    def short_hash(self) -> str:
        """The digits that LR files carry."""
        return self.sha256[:HASH_DIGITS]

    @property
    def label(self) -> str:
        """What tells these weights from others of the model: ``car_plus_x2.v4``, ``car_plus_x2 (hash)``."""
        told = self.tag or self.short_hash
        return told if told.startswith(self.name) else f"{self.name} ({told})"


@cache
def manifest() -> tuple[ManifestEntry, ...]:
    """Return the shipped weights, in the order in which they were added."""
    text = resources.files("car.weights").joinpath("manifest.json").read_text(encoding="utf-8")
    return tuple(ManifestEntry(**entry) for entry in json.loads(text))


def list_models() -> tuple[ModelInfo, ...]:
    """Return every model that `load` and training know, sorted by name."""
    tags = {name: tuple(e.tag for e in manifest() if e.model == name) for name in model_names(controls=False)}
    return tuple(
        ModelInfo(name, name.rsplit("_x", 1)[0], int(name.rsplit("_x", 1)[1]), tags[name]) for name in tags
    )


def default_model(scale: int, *, coded: bool = False) -> str:
    """Return the name of the model that a scale alone stands for; with `coded`, that for lossy small files.

    Raises:
        UsageError: there are no shipped weights for `scale`.
    """
    family = "car_codec" if coded else "car_plus"
    scales = [model.scale for model in list_models() if model.tags and model.family == family]
    if type(scale) is not int or scale not in scales:
        raise UsageError(f"no model shrinks by {scale!r}; scales: {', '.join(map(str, scales))}")
    return f"{family}_x{scale}"


def find(
    model: str,
    short_hash: str,
    *,
    remedy: str = "name the file of those weights as the model (--model)",
) -> str:
    """Return the tag of the shipped weights, or the name of the pulled ones, that an LR file names.

    Where the file knows no hash, that is the model itself. Nothing that `load` takes for a path is returned.
    `remedy` ends the message where there are none.

    Raises:
        WeightsError: no weights at hand have this hash, or no model has this name.
    """
    if not short_hash and model in model_names():
        return model
    for entry in manifest():
        if short_hash and entry.model == model and entry.sha256.startswith(short_hash):
            return entry.tag
    for record in pulled_models():
        if short_hash and record.model == model and record.sha256.startswith(short_hash):
            return record.name
    raise WeightsError(
        f"made with weights {short_hash or '(not said which)'} of {model}, which this version does not ship "
        f"and `car pull` did not fetch; {remedy}"
    )


def absolute_name(name: ModelName) -> ModelName:
    """Return what names the same model whatever the working folder is."""
    files = name if isinstance(name, tuple) else str(name).split(",")
    if len(files) == 2 and not (isinstance(name, str) and Path(name).exists()):
        return Path(files[0]).absolute(), Path(files[1]).absolute()
    return Path(str(name)).absolute() if str(name).endswith(".safetensors") else name


def load(name: ModelName) -> LoadedModel:
    """Load a model by name (its newest weights), by tag, or from files.

    Args:
        name: ``car_plus_x4``, ``car_plus_x4.v2``, the name of a model that `car pull` fetched, the path of a
            ``.safetensors`` file that `car train` or `car convert` wrote, or the two files of a published
            model, kernel generator and upscaler, as a tuple or as ``"kgn.ckpt,usn.ckpt"``.

    Raises:
        UsageError: no such model, tag or file.
        WeightsError: there are no weights, or they are damaged or do not fit the architecture; nothing
            is ever loaded in part.
    """
    if isinstance(name, tuple):
        return _load_pair(Path(name[0]), Path(name[1]))
    text = str(name)
    if text.endswith(".safetensors") and ("," not in text or Path(text).exists()):
        return load_file(Path(text))
    if text.endswith(PAIR_SUFFIXES) or "," in text:
        files = text.split(",")
        if len(files) != 2:
            raise UsageError(f"{text}: a published model is two files: kernel generator,upscaler")
        return _load_pair(Path(files[0]), Path(files[1]))
    entries = {entry.tag: entry for entry in manifest()}
    newest = {entry.model: entry for entry in manifest()}
    entry = entries.get(text) or newest.get(text)
    if entry is not None:
        with resources.as_file(resources.files("car.weights").joinpath(entry.file)) as path:
            return _load(path, entry.sha256, entry.model, entry.tag, "install the package again")
    record = pulled(text)
    if record is not None:
        again = f"`car pull --name {text} {' '.join(source.address for source in record.sources)}` repairs it"
        return _load(record.path, record.sha256, record.model, record.name, again)
    if text in ("car_x2", "car_x4"):
        raise WeightsError(f"{text} ships without weights: `car pull {text}` fetches the published ones")
    if text in model_names():
        raise WeightsError(f"{text} ships without weights: train it, or give a .safetensors file")
    if Path(text).exists():
        inside = Path(text, "model.safetensors")
        hint = f"; did you mean {inside}?" if inside.is_file() else ""
        raise UsageError(f"{text}: not a .safetensors file{hint}")
    known = {*entries, *newest, *model_names(), *(r.name for r in pulled_models())}
    raise UsageError(f"no model is called {text!r}{did_you_mean(text, known)}")


def load_file(path: Path) -> LoadedModel:
    """Load a ``.safetensors`` file of whatever name; raises as `load` does."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    return _load(path, None, None, None, "")


def _load_pair(kgn: Path, usn: Path) -> LoadedModel:
    pair = read_pair(kgn, usn)
    digest = hashlib.sha256(weights_bytes(pair.model, pair.rescaler)).hexdigest()
    return LoadedModel(pair.model, None, digest, pair.rescaler)


def _load(path: Path, sha256: str | None, model: Any, tag: str | None, remedy: str) -> LoadedModel:
    if sha256 and not path.is_file():
        raise WeightsError(f"{path} is gone: {remedy}")
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if sha256 and digest != sha256:
            raise WeightsError(f"{path.name} is damaged (SHA-256 {digest[:12]}...): {remedy}")
        with safe_open(path, "pt") as file:
            metadata: dict[str, Any] = file.metadata() or {}
            state: dict[str, torch.Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({error})") from error
    model = model or metadata.get("model")
    if not isinstance(model, str) or model not in model_names():
        raise WeightsError(f"{path}: does not say which model it belongs to (metadata 'model': {model!r})")
    rescaler = create(model)
    _check_fit(path, model, rescaler.state_dict(), state)
    for key, tensor in state.items():
        if not tensor.isfinite().all():
            raise WeightsError(f"{path}: {key} holds values that are not finite")
    rescaler.load_state_dict(state)
    return LoadedModel(model, tag, digest, rescaler.eval().requires_grad_(False))


def _check_fit(
    path: Path, model: str, expected: dict[str, torch.Tensor], state: dict[str, torch.Tensor]
) -> None:
    for key, tensor in expected.items():
        if key not in state:
            raise WeightsError(f"{path}: {key} of {model} is missing")
        if state[key].shape != tensor.shape:
            raise WeightsError(
                f"{path}: {key} has shape {tuple(state[key].shape)}, {model} needs {tuple(tensor.shape)}"
            )
    for key in state:
        if key not in expected:
            raise WeightsError(f"{path}: {key} is not a parameter of {model}")
