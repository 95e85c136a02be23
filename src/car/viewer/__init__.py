"""Restoring small pictures in a browser: static files, and weights in the format that they read.

`car-image.js` defines the element ``<car-image>``; docs/viewer.md describes it. It loads the other files
from the same folder.
"""

import hashlib
import json
from importlib import resources

import numpy as np
from safetensors.numpy import save

from car.errors import UsageError
from car.weights import LoadedModel, load, manifest

_SUFFIXES = (".js", ".wasm", ".ts")


def assets() -> dict[str, bytes]:
    """Return the files of the viewer by name. A page includes ``car-image.js``."""
    files = sorted(resources.files("car.viewer").iterdir(), key=lambda file: file.name)
    return {file.name: file.read_bytes() for file in files if file.name.endswith(_SUFFIXES)}


def web_model(loaded: LoadedModel) -> bytes:
    """Return the upscaler of a model in the viewer's format: float16 tensors in a safetensors file.

    Half of the bits are enough: restored pictures differ by at most one 8-bit level (tests/test_viewer.py).

    Raises:
        UsageError: the upscaler is not a compact one; the viewer supports no others.
    """
    if not loaded.architecture.viewer:
        raise UsageError(f"{loaded.name} does not work in a browser: only models with a compact upscaler do")
    state = {
        key.removeprefix("upscaler."): values.astype(np.float16)
        for key, values in loaded.tensors.items()
        if key.startswith("upscaler.")
    }
    blocks = len({key.split(".")[1] for key in state}) - 2
    about = {
        "weights": loaded.short_hash,
        "scale": str(loaded.geometry.scale),
        "halo": str(loaded.geometry.halo_up),
        "blocks": str(blocks),
    }
    plain = save(state, about)
    start = 8 + int.from_bytes(plain[:8], "little")
    header = json.loads(plain[8:start])
    header["__metadata__"]["digest"] = hashlib.sha256(plain[start:]).hexdigest()
    text = json.dumps(
        header, separators=(",", ":"), sort_keys=True
    ).encode()  # the order of metadata is not fixed
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + plain[start:]


def shipped_web_models() -> dict[str, bytes]:
    """Return the `web_model` of all shipped weights that have one, by the hash in small pictures."""
    models = (load(entry.tag) for entry in manifest())
    return {m.short_hash: web_model(m) for m in models if m.architecture.viewer}
