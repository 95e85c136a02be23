"""Trained weights: the manifest of the weights in the package, and loading with all checks."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from car.devices import needs_torch
from car.errors import UsageError, WeightsError, did_you_mean, system_errors
from car.families import Architecture, Geometry, MadeFor, architecture, model_names
from car.scaling import Scale, exact_scale, native_scale
from car.weights.store import PAIR_SUFFIXES, pulled, pulled_models

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from car.models import Rescaler

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
    "parameter_shapes",
]

ModelName = str | Path | tuple[str | Path, str | Path]
"""What `load` takes."""

FOLDER = Path(__file__).parent
"""Where the shipped weights and their graphs are."""

HASH_DIGITS = 16  # of the SHA-256, kept in LR files: enough to tell weights apart


@dataclass(frozen=True)
class ManifestEntry:
    """One file of weights in the package; the fields of ``manifest.json``.

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
            the ``growth`` of the small picture's bytes over bicubic's, in per cent; None means infinite.
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
    """One model, as `list_models` reports it.

    Attributes:
        name: ``family_xS``.
        family: the name without the scale.
        scale: original pixels per small pixel along each axis.
        made_for: the kind of small files for which it was trained.
        purpose: what it is for, in a few words.
        tags: those of its weights in the package, newest last.
    """

    name: str
    family: str
    scale: int
    made_for: MadeFor
    purpose: str
    tags: tuple[str, ...]


@dataclass(frozen=True)
class LoadedModel:
    """A model with its weights, as they lie in the file: float32 arrays by the names of parameters.

    `tag` is the tag of weights in the package, the name of pulled weights, or None for another file. `sha256`
    is that of the ``.safetensors`` file; for two published checkpoints, of the file that `car convert` makes.
    """

    architecture: Architecture
    tag: str | None
    sha256: str
    tensors: "Mapping[str, NDArray[np.float32]]" = field(repr=False, compare=False)

    @classmethod
    def of(
        cls,
        model: str | Architecture,
        rescaler: "Rescaler",
        *,
        tag: str | None = None,
        sha256: str = "0" * 64,
    ) -> "LoadedModel":
        """Return a model with copies of the weights of networks, for example during a training."""
        from car.weights.convert import arrays_of

        return cls(architecture(model) if isinstance(model, str) else model, tag, sha256, arrays_of(rescaler))

    @property
    def name(self) -> str:
        """The name of the model, without a version."""
        return self.architecture.name

    @property
    def geometry(self) -> Geometry:
        """Scale, sizes and receptive fields."""
        return self.architecture.geometry

    @property
    def parameters(self) -> int:
        """The number of values in its weights."""
        return sum(values.size for values in self.tensors.values())

    @property
    def short_hash(self) -> str:
        """The digits of the hash that small files carry."""
        return self.sha256[:HASH_DIGITS]

    @property
    def label(self) -> str:
        """The name of these weights, as ``car_plus_x2.v4`` or ``car_plus_x2 (hash)``."""
        told = self.tag or self.short_hash
        return told if told.startswith(self.name) else f"{self.name} ({told})"

    @cached_property
    def rescaler(self) -> "Rescaler":
        """The networks, in evaluation mode, without gradients, on the CPU; no codec uses this copy."""
        return self.build()

    def build(self) -> "Rescaler":
        """Return new networks with these weights.

        Raises:
            UsageError: PyTorch is not installed.
        """
        needs_torch(f"to run the networks of {self.name} as a PyTorch module")
        from car.weights.convert import rescaler_of

        return rescaler_of(self.architecture, self.tensors)

    def uncorrected(self) -> "LoadedModel":
        """Return the model without its corrector, with the same names and hashes; itself if it has none."""
        plain = self.architecture.uncorrected
        if plain is None:
            return self
        kept = {key: values for key, values in self.tensors.items() if not key.startswith("corrector.")}
        return replace(self, architecture=plain, tensors=kept)


@cache
def manifest() -> tuple[ManifestEntry, ...]:
    """Return the weights in the package, in the order in which they were added."""
    text = (FOLDER / "manifest.json").read_text(encoding="utf-8")
    return tuple(ManifestEntry(**entry) for entry in json.loads(text))


def list_models() -> tuple[ModelInfo, ...]:
    """Return every model that `load` and training know, sorted by name."""
    known = map(architecture, model_names(controls=False))
    tags = {m: tuple(e.tag for e in manifest() if e.model == m.name) for m in known}
    return tuple(ModelInfo(m.name, m.family, m.scale, m.made_for, m.purpose, own) for m, own in tags.items())


_DEFAULTS: dict[MadeFor, str] = {"lossless": "car_plus", "lossy": "car_codec"}


def default_model(scale: Scale, *, coded: bool = False) -> str:
    """Return the name of the default model for `scale`; with `coded`, of that for lossy small files.

    Raises:
        UsageError: `scale` is not a number from 1.25 to 16.
    """
    family = _DEFAULTS["lossy" if coded else "lossless"]
    scales = [model.scale for model in list_models() if model.tags and model.family == family]
    return f"{family}_x{native_scale(exact_scale(scale), scales)}"


def find(
    model: str,
    short_hash: str,
    *,
    remedy: str = "name the file of those weights as the model (--model)",
) -> str:
    """Return the tag or name of the weights that a small file names: in the package, or pulled.

    If the file has no hash, return the name of the model. The result is never one that `load` would take for
    a path. `remedy` is the end of the error message.

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
        f"made with weights {short_hash or '(unknown)'} of {model}, which this version does not ship "
        f"and `car pull` did not fetch; {remedy}"
    )


def _files(name: ModelName) -> tuple[Path, ...]:
    """Return the file or the two files that `name` stands for; none if it is that of a model or a tag.

    Raises:
        UsageError: a published model needs two files.
    """
    text = str(name)
    if isinstance(name, tuple):
        return Path(name[0]), Path(name[1])
    if text.endswith(".safetensors") and ("," not in text or Path(text).exists()):
        return (Path(text),)
    if not text.endswith(PAIR_SUFFIXES) and "," not in text:
        return ()
    files = tuple(map(Path, text.split(",")))
    if len(files) != 2:
        raise UsageError(f"{text}: a published model is two files: kernel generator,upscaler")
    return files


def absolute_name(name: ModelName) -> ModelName:
    """Return a name of the same model that does not depend on the working folder."""
    files = [file.absolute() for file in _files(name)]
    return (files[0], files[1]) if len(files) == 2 else files[0] if files else name


def load(name: ModelName) -> LoadedModel:
    """Load a model by name (its newest weights), by tag, or from files.

    Args:
        name: ``car_plus_x4``, ``car_plus_x4.v2``, the name of a model that `car pull` fetched, the path of a
            ``.safetensors`` file that `car train` or `car convert` wrote, or the two files of a published
            model, kernel generator and upscaler, as a tuple or as ``"kgn.ckpt,usn.ckpt"``.

    Raises:
        UsageError: no model, tag or file has this name.
        WeightsError: the weights are missing, damaged or do not fit the architecture. Weights are never
            loaded in part.
    """
    if not isinstance(name, (str, Path, tuple)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(f"give a model by its name, tag or file, not as {type(name).__name__}")
    text, files = str(name), _files(name)
    if files:
        return load_file(files[0]) if len(files) == 1 else _load_pair(*files)
    entries = {entry.tag: entry for entry in manifest()}
    newest = {entry.model: entry for entry in manifest()}
    entry = entries.get(text) or newest.get(text)
    if entry is not None:
        return _load(FOLDER / entry.file, entry.sha256, entry.model, entry.tag, "install the package again")
    record = pulled(text)
    if record is not None:
        again = f"`car pull --name {text} {' '.join(source.address for source in record.sources)}` repairs it"
        return _load(record.path, record.sha256, record.model, record.name, again)
    if text in ("car_x2", "car_x4"):
        raise WeightsError(f"{text} ships without weights: `car pull {text}` fetches the published ones")
    if text in model_names():
        raise WeightsError(f"{text} ships without weights: train it, or give a .safetensors file")
    if text and Path(text).exists():
        inside = Path(text, "model.safetensors")
        hint = f"; did you mean {inside}?" if inside.is_file() else ""
        raise UsageError(f"{text}: not a .safetensors file{hint}")
    known = {*entries, *newest, *model_names(), *(r.name for r in pulled_models())}
    raise UsageError(f"no model is called {text!r}{did_you_mean(text, known)}")


def load_file(path: Path) -> LoadedModel:
    """Load a ``.safetensors`` file, whatever its name; raises as `load` does."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    return _load(path, None, None, None, "")


def _load_pair(kgn: Path, usn: Path) -> LoadedModel:
    needs_torch("to read published checkpoints")
    from car.weights.convert import read_pair, weights_bytes

    pair = read_pair(kgn, usn)
    digest = hashlib.sha256(weights_bytes(pair.model, pair.rescaler)).hexdigest()
    return LoadedModel.of(pair.model, pair.rescaler, sha256=digest)


def _load(path: Path, sha256: str | None, model: str | None, tag: str | None, remedy: str) -> LoadedModel:
    if sha256 and not path.is_file():
        raise WeightsError(f"{path} is gone: {remedy}")
    with system_errors(f"{path}: cannot be read", WeightsError):
        status = path.stat()
        known = _read(path.absolute(), status.st_mtime_ns, status.st_size, status.st_ino)
    if sha256 and known.sha256 != sha256:
        raise WeightsError(f"{path.name} is damaged (SHA-256 {known.sha256[:12]}...): {remedy}")
    if known.problem:
        raise WeightsError(f"{path}: {known.problem}")
    model = model or known.model
    if not isinstance(model, str) or model not in model_names():
        raise WeightsError(f"{path}: its metadata does not name a known model ('model': {model!r})")
    shape_of = architecture(model)
    _check_fit(path, shape_of, known.tensors)
    return LoadedModel(shape_of, tag, known.sha256, known.tensors)


@dataclass(frozen=True)
class _File:
    """A weights file: the model that it names, and its arrays, or the reason why it has none."""

    sha256: str
    model: Any
    tensors: "Mapping[str, NDArray[np.float32]]"
    problem: str = ""


@lru_cache(maxsize=16)
def _read(path: Path, *_: int) -> _File:
    """Read and hash a file; again only after it has changed."""
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load as arrays

    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    try:
        found = arrays(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        model = header.get("__metadata__", {}).get("model")
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        return _File(digest, None, {}, f"not a readable safetensors file ({error})")
    for key, values in found.items():
        if values.dtype.kind != "f":
            return _File(digest, model, {}, f"{key} holds {values.dtype}, not floating values")
        if not np.isfinite(values).all():
            return _File(digest, model, {}, f"{key} holds values that are not finite")
        found[key] = values.astype(np.float32, copy=False)
        found[key].flags.writeable = False
    return _File(digest, model, found)


@cache
def _shapes() -> dict[str, dict[str, list[int]]]:
    """Return the shapes of the parameters of each pair of graphs."""
    text = (FOLDER / "graphs/parameters.json").read_text(encoding="utf-8")
    return json.loads(text)


def parameter_shapes(model: Architecture) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of a model's weights.

    Raises:
        UsageError: PyTorch is needed to find them, and it is not installed.
    """
    if not model.needs_torch:
        return {key: tuple(shape) for key, shape in _shapes()[model.shape].items()}
    needs_torch(f"to load {model.name}")
    from car.weights.convert import built_shapes

    return built_shapes(model)


def _check_fit(path: Path, model: Architecture, tensors: "Mapping[str, NDArray[np.float32]]") -> None:
    expected = parameter_shapes(model)
    for key, shape in expected.items():
        if key not in tensors:
            raise WeightsError(f"{path}: {key} of {model.name} is missing")
        if tensors[key].shape != shape:
            raise WeightsError(f"{path}: {key} has shape {tensors[key].shape}, {model.name} needs {shape}")
    for key in tensors:
        if key not in expected:
            raise WeightsError(f"{path}: {key} is not a parameter of {model.name}")
