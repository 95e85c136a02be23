"""The cache folder: pulled models, each a checked file with a record of its origin."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from car.errors import UsageError, WeightsError
from car.files.atomic import atomic_write, make_folder

MAX_CHECKPOINT_BYTES = 4 << 30
"""Larger files are refused. The published ones have at most 180 MB."""

PAIR_SUFFIXES = (".ckpt", ".pth", ".pt")
"""Suffixes of published checkpoints."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class Source:
    """Where a file came from (URL or path), its size in bytes and its SHA-256, hex."""

    address: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Pulled:
    """A model in the cache folder: its name there, its architecture, the SHA-256 of its file, its origin."""

    name: str
    model: str
    sha256: str
    sources: tuple[Source, ...]
    pulled: str

    @property
    def path(self) -> Path:
        """The ``.safetensors`` file."""
        return models_folder() / f"{self.name}.safetensors"


def cache_folder() -> Path:
    """Return the folder for downloads: ``CAR_CACHE``, or the usual place of the operating system."""
    if os.environ.get("CAR_CACHE"):
        return Path(os.environ["CAR_CACHE"])
    import platformdirs

    return Path(platformdirs.user_cache_dir("car", appauthor=False))


def models_folder() -> Path:
    """Return the folder of pulled models."""
    return cache_folder() / "models"


def check_name(name: str) -> None:
    """Raise `UsageError` unless `name` can name a model, and thus a file, in the cache."""
    if name.endswith((".safetensors", *PAIR_SUFFIXES)):
        raise UsageError(f"{name!r} cannot name a model: it looks like a file name")
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot name a model: use at most 64 letters, digits, _ . and -")


def pulled(name: str) -> Pulled | None:
    """Return the record of the pulled model `name`, if there is one.

    Raises:
        WeightsError: its record is damaged.
    """
    record = models_folder() / f"{name}.json"
    if not _NAME.fullmatch(name) or not record.is_file():
        return None
    try:
        found = _parsed(json.loads(record.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        found = None
    if found is None or found.name != name:
        raise WeightsError(f"{record} is damaged: pull {name} again with --force")
    return found


def _parsed(values: Any) -> Pulled | None:
    """Return the record if all its values have the right types."""
    sources = tuple(Source(**source) for source in values.pop("sources"))
    found = Pulled(**values, sources=sources)
    texts: list[Any] = [found.name, found.model, found.pulled, *(source.address for source in sources)]
    digests: list[Any] = [found.sha256, *(source.sha256 for source in sources)]
    good = sources and all(isinstance(text, str) for text in texts)
    return found if good and all(_DIGEST.fullmatch(digest) for digest in digests) else None


def pulled_models() -> tuple[Pulled, ...]:
    """Return the models in the cache folder whose records are whole, sorted by name."""
    try:
        names = sorted(path.stem for path in models_folder().glob("*.json"))
    except OSError:
        return ()
    found: list[Pulled] = []
    for name in names:
        try:
            record = pulled(name)
        except WeightsError:
            continue  # loading it by name reports what is wrong
        if record is not None:
            found.append(record)
    return tuple(found)


def install(record: Pulled, content: bytes) -> None:
    """Put a model into the cache: the file first, then the record that makes it known."""
    make_folder(record.path.parent, kind=WeightsError)
    atomic_write(record.path, content)
    atomic_write(record.path.with_suffix(".json"), json.dumps(asdict(record), indent=1).encode())


def file_bytes(model: str, arrays: Mapping[str, NDArray[np.floating]]) -> bytes:
    """Return the content of a ``.safetensors`` file that `car.load` reads; the same for the same weights."""
    return save({key: np.ascontiguousarray(values) for key, values in arrays.items()}, {"model": model})
