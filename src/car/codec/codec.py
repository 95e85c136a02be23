"""Images through a model: pad, tile, round, restore the exact size. Pixels are rounded here and only here."""

import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from car.codec.effort import STEPS, refine
from car.codec.lossy import Coding
from car.codec.tiling import split
from car.codec.turns import BACK, fits, found_turn, swapped
from car.devices import resolve_device
from car.errors import ImageError, UsageError
from car.export import session, session_possible
from car.models import Rescaler
from car.ops import bicubic_resize
from car.pictures.metadata import LRInfo
from car.pictures.picture import Picture
from car.pictures.read import from_pil, read
from car.pictures.write import to_pil
from car.weights import LoadedModel, ModelName, default_model, find, load

DEFAULT_TILE = 512
"""LR pixels a side that are processed at once; docs/benchmarks.md has the memory that this takes."""

_LEAST_TILE = 64

Precision = Literal["float32", "bf16", "fp16"]
"""Arithmetic of the networks; float32 is exact to within a rounding error on every device."""

Backend = Literal["auto", "torch", "onnxruntime"]
"""What restores on the CPU: auto is onnxruntime where it is installed and can, else torch."""

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

Rows = Callable[[int, int], NDArray[Any]]
"""Gives the rows from the first to before the second of a picture."""

ImageLike = TypeVar("ImageLike", Image.Image, "NDArray[Any]", torch.Tensor)


class Codec:
    """One model on one device, turning pictures into small ones and back.

    Args:
        loaded: the model with its weights; moved to `device`.
        device: see `car.devices.resolve_device`.
        tile: side of the square processed at once, in LR pixels. Memory grows with its square; results
            agree with whole-image processing up to float rounding. None: what fits into `memory`.
        memory: bytes that one tile may take; only asked for where `tile` is None.
        precision: ``bf16`` and ``fp16`` are faster where the hardware has them, and change single pixels by
            several levels; docs/devices.md has what that costs.
        effort: 0 to 9, of shrinking: above 0 the small picture is refined, see `car.codec.effort`. Restoring
            takes no longer.
        coding: how the small file will be coded, where that loses something and effort is to know it.
        backend: of restoring; onnxruntime is faster on a CPU (docs/export.md), and moves single values by a
            level.

    Raises:
        UsageError: the device or the backend cannot be used, or `tile` is not positive.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        device: str = "auto",
        tile: int | None = DEFAULT_TILE,
        memory: int = 0,
        precision: Precision = "float32",
        effort: int = 0,
        coding: Coding | None = None,
        backend: Backend = "torch",
    ) -> None:
        if tile is not None and tile < 1:
            raise UsageError(f"tile must be positive, got {tile}")
        if precision not in get_args(Precision):
            raise UsageError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
        if effort not in range(len(STEPS)):
            raise UsageError(f"effort must be 0 to {len(STEPS) - 1}, got {effort}")
        if backend not in get_args(Backend):
            raise UsageError(f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}")
        self.precision, self.effort = precision, effort
        self.coding = coding.of(loaded.name) if coding else None
        self.loaded = loaded
        self.device = resolve_device(device)
        self.tile = fitting_tile(loaded.rescaler, memory) if tile is None else tile
        # channels-last is 1.4 times as fast for these convolutions on a CPU, and no slower on a GPU
        loaded.rescaler.to(self.device)
        loaded.rescaler.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - not in the stubs
        # weights of one's own change often, and each would be exported anew
        self.backend = (
            "torch"
            if backend == "auto" and loaded.tag is None
            else chosen_backend(backend, device, precision)
        )
        self._session: Callable[[torch.Tensor], torch.Tensor] | None = None

    @property
    def scale(self) -> int:
        """HR pixels per LR pixel along each axis."""
        return self.loaded.rescaler.geometry.scale

    def shrink(self, picture: Picture) -> tuple[Picture, LRInfo]:
        """Return the LR picture, ``ceil(size / scale)``, of the same depth, and what its file should say.

        Sizes that the model does not take are continued beyond the right and bottom edge by repeating the
        last pixel. Alpha is shrunk on its own (bicubic). The LR of a grey picture is RGB: its colours,
        a few levels from grey, carry detail worth several dB. The metadata makes it grey again.
        """
        size = (-(-picture.height // self.scale), -(-picture.width // self.scale))
        small = replace(
            picture,
            pixels=self.downscale_pixels(picture.pixels),
            grey=False,
            alpha=None if picture.alpha is None else _resize_alpha(picture.alpha, size),
            info=None,
            notes=(),
            turned=1,
        )
        return small, self.info(picture.width, picture.height, grey=picture.grey)

    def info(self, width: int, height: int, *, grey: bool = False) -> LRInfo:
        """Return what the file of an LR picture made from `width` x `height` pixels should say."""
        return LRInfo(self.loaded.name, self.loaded.short_hash, self.scale, (width, height), grey)

    def restore(self, picture: Picture, size: tuple[int, int] | None = None) -> Picture:
        """Return the HR picture of `size` (width, height), by default that in the metadata, else s times.

        A small picture that was turned after it was made is restored the way it was made, and turned again:
        the networks know what lies where. That it was turned is told by EXIF, or by its sides, which the
        metadata has the other way round.

        Raises:
            UsageError: `size` does not belong to an LR picture of this size at this scale.
        """
        (width, height), notes = self.restored_size(picture, size)
        turned, clear = self._turn(picture)
        if turned != 1:
            if not clear:
                way = "clockwise" if turned == 6 else "anticlockwise"
                notes += (f"which way is not clear from its pixels: taken for a quarter {way}",)
            as_made = picture.turn(BACK[turned])
            large = self.restore(as_made, (height, width) if turned >= 5 else (width, height))
            return replace(large.turn(turned), notes=notes)
        full = (picture.width * self.scale, picture.height * self.scale)
        grey = picture.grey or (picture.info is not None and picture.info.grey)
        pixels = self.upscale_pixels(picture.pixels)[:height, :width]
        alpha = None
        if picture.alpha is not None:
            alpha = _resize_alpha(picture.alpha, (full[1], full[0]))[:height, :width]
        return replace(
            picture,
            pixels=np.ascontiguousarray(as_grey(pixels) if grey else pixels),
            grey=grey,
            alpha=None if alpha is None else np.ascontiguousarray(alpha),
            info=None,
            notes=notes,
        )

    def restored_size(
        self, picture: Picture, size: tuple[int, int] | None = None
    ) -> tuple[tuple[int, int], tuple[str, ...]]:
        """Return the (width, height) to which `restore` brings `picture`, and notes for the user.

        Raises:
            UsageError: see `restore`.
        """
        s = self.scale
        notes: tuple[str, ...] = ()
        full = (picture.width * s, picture.height * s)
        if picture.info is not None and (picture.info.scale, picture.info.model) != (s, self.loaded.name):
            notes = (
                f"made by {picture.info.model} at {picture.info.scale}x, "
                f"but restored by {self.loaded.name} at {s}x",
            )
        elif picture.info is not None and not self.loaded.sha256.startswith(picture.info.weights):
            notes = (f"made with other weights of {self.loaded.name} than it is restored with, as asked for",)
        elif (
            picture.info is not None
            and picture.lossy
            and self.loaded.name.startswith(("car_plus_", "car_lite_"))
        ):
            notes = (
                f"the file is lossy, which {self.loaded.name} is not made for: unless its quality is high, "
                f"{default_model(s, coded=True)} may restore it better",
            )
        if size is None:
            size = full
            if picture.info is not None and picture.info.scale == s:
                other_way = swapped(picture.info.size)
                if picture.turned < 5 and fits(picture.info.size, full, s):
                    size = picture.info.size
                elif fits(other_way, full, s):
                    size = other_way
                    if picture.turned < 5:
                        notes += ("the picture was turned after it was made",)
                        lossy = picture.lossy or self.loaded.name.startswith("car_codec_")
                        if other_way != full and lossy:
                            # what a lossy coder leaves does not tell which way: which side was filled up?
                            size = full
                            notes += (f"its size is {full[0]}x{full[1]}, as it is not known what to cut off",)
                else:
                    notes += (
                        f"the picture was cropped or resized after it was made: restored to {s} times "
                        f"its present size ({full[0]}x{full[1]}) instead of "
                        f"{picture.info.size[0]}x{picture.info.size[1]}",
                    )
        elif not fits(size, full, s):
            raise UsageError(
                f"a picture of {picture.width}x{picture.height} restores to {full[0]}x{full[1]} "
                f"or up to {s - 1} pixels less, not to {size[0]}x{size[1]}"
            )
        return size, notes

    def turned(self, picture: Picture) -> int:
        """Return the EXIF orientation that leads from how the small picture was made to how it is now."""
        return self._turn(picture)[0]

    def _turn(self, picture: Picture) -> tuple[int, bool]:
        """Return what `turned` does, and whether it is clear."""
        return found_turn(picture, self.scale, lambda made: self._plainly_shrunk(self.upscale_pixels(made)))

    def downscale_pixels(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Shrink RGB ``[H, W, 3]``, uint8 or uint16, to ``[ceil(H/s), ceil(W/s), 3]`` of the same dtype."""
        small = self._plainly_shrunk(pixels)
        if not self.effort:
            return small
        with self._arithmetic(gradients=True):
            return refine(self.loaded.rescaler, small, pixels, self.effort, self.device, self.coding)

    def _plainly_shrunk(self, pixels: NDArray[Any]) -> NDArray[Any]:
        height, width = pixels.shape[:2]
        small = np.empty((-(-height // self.scale), -(-width // self.scale), 3), pixels.dtype)
        _fill(small, self.downscale_strips(lambda top, bottom: pixels[top:bottom], height, width))
        return small

    def upscale_pixels(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Restore RGB ``[h, w, 3]``, uint8 or uint16, to ``[s*h, s*w, 3]`` of the same dtype."""
        height, width = pixels.shape[:2]
        large = np.empty((height * self.scale, width * self.scale, 3), pixels.dtype)
        _fill(large, self.upscale_strips(lambda top, bottom: pixels[top:bottom], height, width))
        return large

    def downscale_strips(self, rows: Rows, height: int, width: int) -> Iterator[NDArray[Any]]:
        """Yield the LR of a picture of `height` x `width`, strip by strip from the top, without effort.

        Args:
            rows: called with (top, bottom), returns those rows as RGB ``[bottom - top, width, 3]``, uint8 or
                uint16. Neither grows smaller from call to call.
            height: of the picture.
            width: of the picture.
        """
        s, g = self.scale, self.loaded.rescaler.geometry
        padded = [max(g.min_size, -(-n // g.multiple) * g.multiple) for n in (height, width)]
        tiles = split(padded[0], padded[1], self.tile * s, g.halo_down, g.multiple)
        for _, row in groupby(tiles, lambda tile: tile.core.top):
            row_of_tiles = list(row)
            core, window = row_of_tiles[0].core, row_of_tiles[0].window
            if core.top >= height:
                return  # nothing but what fills up to the model's smallest size
            source = rows(window.top, min(window.bottom, height))
            # indices beyond the picture repeat its last row and column
            down = np.minimum(np.arange(window.top, window.bottom), height - 1) - window.top
            strip = np.empty(((core.bottom - core.top) // s, padded[1] // s, 3), source.dtype)
            for tile in row_of_tiles:
                across = np.minimum(np.arange(tile.window.left, tile.window.right), width - 1)
                with self._arithmetic():
                    lr = self.loaded.rescaler.downscale(self._tensor(source[down[:, None], across]))
                result = _rounded(lr, source.dtype)[tile.core_in_window(1, s).slices]
                strip[:, tile.core.left // s : tile.core.right // s] = result
            yield strip[: -(-height // s) - core.top // s, : -(-width // s)]

    def upscale_strips(self, rows: Rows, height: int, width: int) -> Iterator[NDArray[Any]]:
        """Yield what is restored from an LR of `height` x `width`, s times as large, strip by strip.

        Args:
            rows: as for `downscale_strips`.
            height: of the LR.
            width: of the LR.
        """
        s, g = self.scale, self.loaded.rescaler.geometry
        for _, row in groupby(split(height, width, self.tile, g.halo_up), lambda tile: tile.core.top):
            row_of_tiles = list(row)
            core, window = row_of_tiles[0].core, row_of_tiles[0].window
            source = rows(window.top, window.bottom)
            strip = np.empty(((core.bottom - core.top) * s, width * s, 3), source.dtype)
            for tile in row_of_tiles:
                with self._arithmetic():
                    part = source[:, tile.window.left : tile.window.right]
                    hr = self._restore(self._tensor(part))
                result = _rounded(hr, source.dtype)[tile.core_in_window(s, 1).slices]
                strip[:, tile.core.left * s : tile.core.right * s] = result
            yield strip

    def _restore(self, lr: torch.Tensor) -> torch.Tensor:
        if self.backend == "torch":
            return self.loaded.rescaler.upscale(lr)
        if self._session is None:  # two threads may both make one, which costs time and nothing else
            self._session = session(self.loaded, torch.get_num_threads())
        return self._session(lr)

    @contextmanager
    def _arithmetic(self, *, gradients: bool = False) -> Generator[None, None, None]:
        dtype = _DTYPES.get(self.precision)
        with (
            nullcontext() if gradients else torch.inference_mode(),
            torch.autocast(self.device.type, dtype) if dtype else nullcontext(),
            nullcontext() if dtype else _exact_float32,
        ):
            yield

    def _tensor(self, pixels: NDArray[Any]) -> torch.Tensor:
        levels = np.iinfo(pixels.dtype).max
        # [H, W, 3] memory seen as [1, 3, H, W] is channels-last already
        tensor = torch.from_numpy(np.divide(pixels, levels, dtype=np.float32)).permute(2, 0, 1)[None]
        return tensor.to(self.device, memory_format=torch.channels_last)


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


def chosen_backend(backend: Backend, device: str, precision: Precision) -> Backend:
    """Return ``torch`` or ``onnxruntime``: which of them ``auto`` stands for here.

    Raises:
        UsageError: onnxruntime is asked for and cannot do it.
    """
    plain = resolve_device(device).type == "cpu" and precision == "float32"
    if backend == "onnxruntime" and not plain:
        raise UsageError("onnxruntime restores on the CPU in float32 only; leave --backend to torch")
    if backend == "auto":
        return "onnxruntime" if plain and session_possible() else "torch"
    return backend


def downscale(
    image: ImageLike | str | Path,
    scale: int | None = None,
    *,
    model: ModelName | None = None,
    device: str = "auto",
    precision: Precision = "float32",
    effort: int = 0,
) -> ImageLike | Image.Image:
    """Shrink one image; the result is an ordinary small picture that `upscale` restores.

    Args:
        image: a path, a PIL image, an array ``[H, W]``, ``[H, W, 1]``, ``[H, W, 3]`` or ``[H, W, 4]``
            (uint8, uint16 or floating in [0, 1]) or a floating RGB tensor ``[3, H, W]`` or
            ``[B, 3, H, W]`` in [0, 1].
        scale: 2 or 4; picks the default model. Needless with `model`.
        model: name, tag or ``.safetensors`` file; see `car.load`.
        device: see `car.devices.resolve_device`.
        precision: see `Codec`.
        effort: 0 to 9, see `Codec`.

    Returns:
        The same kind as `image` (a PIL image for a path), ``ceil(size / scale)``, on the 8-bit grid
        (16-bit for uint16), in colour even if `image` is grey. A PIL image carries metadata that its
        ``save`` writes into PNG and other files; an array or tensor cannot, so `upscale` will want to
        know the model and the size.

    Raises:
        UsageError: neither or both of `scale` and `model` fit, or the input is of another kind.
        ImageError: the file cannot be read.
        WeightsError: the weights cannot be loaded.
    """
    codec = open_codec(model, scale, device=device, precision=precision, effort=effort)

    def shrink(picture: Picture) -> tuple[Picture, LRInfo | None]:
        return codec.shrink(picture)

    return _apply(image, shrink)


def upscale(
    image: ImageLike | str | Path,
    scale: int | None = None,
    *,
    model: ModelName | None = None,
    size: tuple[int, int] | None = None,
    device: str = "auto",
    precision: Precision = "float32",
) -> ImageLike | Image.Image:
    """Restore the large image from a small one.

    Args:
        image: as for `downscale`. A file or PIL image that `downscale` made says itself which weights and
            which size it wants.
        scale: picks the default model where the image says nothing.
        model: overrides what the image says.
        size: (width, height) to restore; by default that of the original, or s times the picture.
        device: see `car.devices.resolve_device`.
        precision: see `Codec`.

    Returns:
        The same kind as `image` (a PIL image for a path).

    Raises:
        UsageError: the image says nothing and neither `scale` nor `model` is given, or `size` is impossible.
        ImageError: the file cannot be read.
        WeightsError: the weights that made the picture are not at hand.
    """

    def restore(picture: Picture) -> tuple[Picture, LRInfo | None]:
        codec = codec_for_picture(picture, model=model, scale=scale, device=device, precision=precision)
        return codec.restore(picture, size), None

    return _apply(image, restore)


def fitting_tile(rescaler: Rescaler, memory: int) -> int:
    """Return the side of the largest tile, up to `DEFAULT_TILE`, with which the networks take `memory` bytes.

    What a layer reads and writes is found by a run on a tiny picture; two layers are held at once, at most.
    """
    most = 0

    def watch(_: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal most
        tensors = [t for t in (*inputs, output) if isinstance(t, torch.Tensor)]
        most = max(most, sum(t.numel() * 4 for t in tensors))

    side = max(16, rescaler.geometry.min_size)
    side = -(-side // rescaler.geometry.multiple) * rescaler.geometry.multiple * rescaler.geometry.scale
    hooks = [m.register_forward_hook(watch) for m in rescaler.modules() if not list(m.children())]
    try:
        with torch.inference_mode():
            device = next((p.device for p in rescaler.parameters()), None)
            rescaler(torch.zeros(1, 3, side, side, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    a_pixel = 2 * most / (side // rescaler.geometry.scale) ** 2
    halo = max(rescaler.geometry.halo_up, -(-rescaler.geometry.halo_down // rescaler.geometry.scale))
    tile = int((memory / max(a_pixel, 1)) ** 0.5) - 2 * halo
    return max(_LEAST_TILE, min(DEFAULT_TILE, tile // 16 * 16))


def codec_for_picture(
    picture: Picture,
    *,
    model: ModelName | None = None,
    scale: int | None = None,
    device: str = "auto",
    tile: int | None = DEFAULT_TILE,
    memory: int = 0,
    precision: Precision = "float32",
    backend: Backend = "torch",
) -> Codec:
    """Return the codec that restores `picture`: `model` if given, else what its metadata names.

    Raises:
        UsageError: nothing says which model.
        WeightsError: the metadata names weights that are not shipped.
    """
    if model is not None:  # then a scale that contradicts it is an error
        name, asked = model, scale
    else:
        name, asked = model_for_picture(picture, scale), None
    return open_codec(
        name, asked, device=device, tile=tile, memory=memory, precision=precision, backend=backend
    )


def model_for_picture(picture: Picture, scale: int | None = None) -> str:
    """Return the name of what restores `picture`: weights that its metadata names, unless for another scale.

    Where it has none, `scale` stands for `car_plus`, and for `car_codec` where the file is lossy.

    Raises:
        UsageError: nothing says which model.
        WeightsError: the metadata names weights that are not at hand.
    """
    if picture.info is not None and scale in (None, picture.info.scale):
        return find(picture.info.model, picture.info.weights)
    if scale is None:
        raise UsageError(
            f"{why_unknown(picture)}; name a model, for lossy files car_codec_x2 or car_codec_x4, or a scale"
        )
    return default_model(scale, coded=picture.lossy)


def why_unknown(picture: Picture) -> str:
    """Say why it is not known which model made `picture`, which has no metadata."""
    return picture.damage or "the picture does not say which model made it"


def open_codec(
    model: ModelName | None = None,
    scale: int | None = None,
    *,
    device: str = "auto",
    tile: int | None = DEFAULT_TILE,
    memory: int = 0,
    precision: Precision = "float32",
    effort: int = 0,
    backend: Backend = "torch",
    coding: Coding | None = None,
) -> Codec:
    """Load `model`, or the default model for `scale`, ready to work.

    With `coding`, which is how a lossy small file will be coded, the default is the model for such files
    where it loses much, and effort refines for them.

    Raises:
        UsageError: neither is given, or they contradict each other.
        WeightsError: the weights cannot be loaded.
    """
    if model is None:
        if scale is None:
            raise UsageError("give a scale (2 or 4) or the name of a model")
        model = default_model(scale, coded=coding is not None and not coding.fine)
    codec = Codec(
        load(model),
        device=device,
        tile=tile,
        memory=memory,
        precision=precision,
        effort=effort,
        coding=coding,
        backend=backend,
    )
    if scale is not None and scale != codec.scale:
        named = ", ".join(map(str, model)) if isinstance(model, tuple) else model
        raise UsageError(f"{named} works at scale {codec.scale}, not {scale}")
    return codec


def _apply(image: Any, process: Any) -> Any:
    """Run `process` on `image` as a `Picture` and give the result back as the kind that came in."""
    if isinstance(image, (str, Path)):
        picture = read(image)
        result, info = process(picture)
        _warn(picture.notes + result.notes)
        return to_pil(result, info=info)
    if isinstance(image, Image.Image):
        picture = from_pil(image)
        result, info = process(picture)
        _warn(picture.notes + result.notes)
        return to_pil(result, info=info)
    if isinstance(image, np.ndarray):
        picture = _picture_from_array(image)
        result, _ = process(picture)
        _warn(result.notes)
        return _array_like(result, image)
    if isinstance(image, torch.Tensor):
        rgb = image.ndim in (3, 4) and image.shape[-3] == 3 and image.is_floating_point()
        if not rgb or 0 in image.shape:
            raise UsageError(
                f"expected a floating RGB tensor [3, H, W] or [B, 3, H, W], "
                f"got {image.dtype} {tuple(image.shape)}"
            )
        batch = image.detach().reshape(-1, *image.shape[-3:]).permute(0, 2, 3, 1).float().cpu().numpy()
        results = [_array_like(process(_picture_from_array(one))[0], one) for one in batch]
        out = torch.from_numpy(np.stack(results)).permute(0, 3, 1, 2).to(image.device, image.dtype)
        return out.reshape(*image.shape[:-3], *out.shape[1:])
    raise UsageError(f"expected a path, PIL image, array or tensor, got {type(image).__name__}")


def _warn(notes: tuple[str, ...]) -> None:
    for note in notes:
        warnings.warn(note, UserWarning, stacklevel=4)


def _picture_from_array(array: NDArray[Any]) -> Picture:
    shape = array.shape
    if array.ndim not in (2, 3) or 0 in shape or (array.ndim == 3 and shape[2] not in (1, 3, 4)):
        raise UsageError(f"expected [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], got {shape}")
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise ImageError("the array holds values that are not finite")
        if array.max() > 2:
            raise UsageError(f"floating values must lie in [0, 1], got up to {array.max():g}: divide by 255?")
        array = np.round(np.clip(array, 0, 1) * 255).astype(np.uint8)
    elif array.dtype.name not in ("uint8", "uint16"):
        raise UsageError(f"expected uint8, uint16 or floating values in [0, 1], got {array.dtype}")
    grey = array.ndim == 2 or shape[2] == 1
    colour = np.repeat(array.reshape(*shape[:2], 1), 3, axis=2) if grey else array[:, :, :3]
    alpha = array[:, :, 3] if not grey and shape[2] == 4 else None
    return Picture(
        np.ascontiguousarray(colour),
        None if alpha is None else np.ascontiguousarray(alpha),
        grey,
        None,
        None,
        (),
    )


def _array_like(picture: Picture, like: NDArray[Any]) -> NDArray[Any]:
    pixels = picture.pixels
    if picture.grey:
        pixels = pixels[:, :, 0] if like.ndim == 2 else pixels[:, :, :1]
    if picture.alpha is not None:
        pixels = np.concatenate([pixels, picture.alpha[:, :, None]], axis=2)
    if np.issubdtype(like.dtype, np.floating):
        return (pixels / np.iinfo(pixels.dtype).max).astype(like.dtype)
    return np.ascontiguousarray(pixels)


def _fill(whole: NDArray[Any], strips: Iterable[NDArray[Any]]) -> None:
    top = 0
    for strip in strips:
        whole[top : top + len(strip)] = strip
        top += len(strip)


def _rounded(image: torch.Tensor, dtype: "np.dtype[Any]") -> NDArray[Any]:
    # the same values as `quantize`, in fewer passes over memory
    levels = int(np.iinfo(dtype).max)
    values = image.float().clamp(0, 1).mul_(levels).round_()[0].permute(1, 2, 0)
    return values.to(torch.uint8 if levels == 255 else torch.int32).cpu().numpy().astype(dtype, copy=False)


def _resize_alpha(alpha: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    levels = int(np.iinfo(alpha.dtype).max)
    tensor = torch.from_numpy(np.divide(alpha, levels, dtype=np.float32))[None, None]
    return _rounded(bicubic_resize(tensor, size), alpha.dtype)[:, :, 0]


_GREY = (19595, 38470, 7471)  # luma of ITU-R BT.601, in parts of 65536


def as_grey(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return RGB ``[H, W, 3]``, uint8 or uint16, with every channel the luma of the three.

    That is what networks are trained for most, and what effort and tables measure. Integers give the same
    levels in the viewer.
    """
    luma = np.full(pixels.shape[:2], 32768, np.uint32)
    for channel, weight in enumerate(_GREY):
        luma += np.multiply(pixels[:, :, channel], weight, dtype=np.uint32)
    return np.repeat((luma >> 16).astype(pixels.dtype)[:, :, None], 3, axis=2)
