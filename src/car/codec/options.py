"""The settings of a codec, as data; the command line makes its options from them."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from car.codec.coding import Coding
from car.devices import Precision
from car.errors import UsageError, whole_number
from car.families import Architecture
from car.pictures.exif import KeptExif
from car.pictures.picture import DEFAULT_MAX_PIXELS

Backend = Literal["auto", "torch", "onnxruntime"]
"""What runs the networks. auto: onnxruntime if possible, because it needs no PyTorch and starts at once."""

DEFAULT_TILE = 512
"""LR pixels a side that are processed at once; docs/benchmarks.md has the memory that this takes."""

MOST_EFFORT = 9

MOST_THREADS = 1024
"""More threads gain nothing, and a million would fill the memory."""

_LEAST_TILE = 64


def setting(default: Any, text: str, **about: Any) -> Any:
    """Return a field of a dataclass, from which the command line makes an option.

    Args:
        default: its value if nothing is chosen.
        text: the help.
        about: ``min`` and ``max``; ``flags``, if they differ from the name; ``size``, for a number of bytes:
            the default as text, such as 2GB.
    """
    return field(default=default, metadata={"help": text, **about})


@dataclass(frozen=True)
class Options:
    """How pictures are shrunk and restored.

    Attributes:
        device: see `car.devices.resolve_device`.
        precision: ``auto`` is float32 on a CPU, and bf16 on a GPU that is fast at it. ``bf16`` and ``fp16``
            change single pixels by several levels; docs/devices.md shows the cost.
        threads: CPU threads of the networks; None: `car.devices.cpu_threads`.
        memory: largest number of bytes for the work on a picture; None: no limit.
        tile: side of the square processed at once, in LR pixels. Memory grows with its square; results
            agree with whole-image processing up to float rounding. None: what fits into `memory`, at most
            512.
        effort: 0 to 9. Above 0, shrinking refines the small picture, see `car.codec.effort`. Restoring takes
            no longer.
        fast: shrink by the downscaler alone, without the corrector of those models that have one.
        backend: what runs the networks.
        max_pixels: larger pictures are refused.
        exif: what results carry on of the EXIF block of their source: ``none``; ``keep``, which is date,
            camera, lens, exposure, artist and copyright; or ``all``, which adds the place and the rest.
        coding: the coding of a lossy small file, which effort takes into account; None for a lossless file.

    Raises:
        UsageError: a setting has a value that is not allowed.

    >>> Options(effort=3).effort
    3
    """

    device: str = setting(
        "auto", "auto, cpu, cuda, cuda:1, npu, xpu or mps.", flags=("--device", "--device-target")
    )
    precision: Precision = setting(
        "auto", "Arithmetic of the networks. auto: float32 on a CPU, bf16 on a GPU that is fast at it."
    )
    threads: int | None = setting(
        None, "CPU threads of the networks. Default: one for each core.", min=1, max=MOST_THREADS
    )
    memory: int | None = setting(
        None,
        "Memory limit, such as 2GB, program included. Larger pictures are processed in strips. "
        "Default: half of the free memory.",
        size=None,
    )
    tile: int | None = setting(
        None, "Side of a tile in pixels of the small picture. Default: what --memory allows.", min=16
    )
    effort: int = setting(
        0,
        "Refine the small picture while shrinking; 9 takes longest. Gains little for lossy files.",
        min=0,
        max=MOST_EFFORT,
    )
    fast: bool = setting(
        False, "Shrink without the corrector: several times faster. Changes nothing for models without one."
    )
    backend: Backend = setting(
        "auto", "Program that runs the networks. auto: onnxruntime on a CPU if possible, else PyTorch."
    )
    max_pixels: int = setting(
        DEFAULT_MAX_PIXELS, "Refuse pictures with more pixels (guards against decompression bombs).", min=1
    )
    exif: KeptExif = setting(
        "none",
        "What to keep of EXIF. keep: date, camera, lens, exposure, artist and copyright. "
        "all: also the place and the rest.",
    )
    coding: Coding | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", str(self.device))  # it may be a torch.device
        for one in fields(self):
            if one.type in (int, int | None):
                self._check_number(one.name, one.metadata.get("max"), optional=one.default is None)
        for name, kind in (("precision", Precision), ("backend", Backend), ("exif", KeptExif)):
            value = getattr(self, name)
            if value not in get_args(kind):
                raise UsageError(f"{name} must be one of {', '.join(get_args(kind))}, got {value!r}")

    def _check_number(self, name: str, most: int | None, *, optional: bool) -> None:
        value = getattr(self, name)
        if value is None and optional:
            return
        value, least = whole_number(value, name), 0 if name == "effort" else 1
        if most is not None and not least <= value <= most:
            raise UsageError(f"{name} must be {least} to {most}, got {value}")
        if value < least:
            raise UsageError(f"{name} must be positive, got {value}")
        object.__setattr__(self, name, value)  # as an int, whatever its type was

    def tile_for(self, model: Architecture) -> int:
        """Return the side of the tiles of a model, in LR pixels: as set, or as large as `memory` allows."""
        if self.tile is not None:
            return self.tile
        if self.memory is None:
            return DEFAULT_TILE
        g = model.geometry
        halo = max(g.halo_up, -(-g.halo_down // g.scale))
        # a quarter of the memory is for the networks, the rest for pictures
        side = int((self.memory / 4 / max(4 * model.values, 1)) ** 0.5) - 2 * halo
        return max(_LEAST_TILE, min(DEFAULT_TILE, side // 16 * 16))
