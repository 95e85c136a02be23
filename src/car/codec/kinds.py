"""Conversion of paths, files, PIL images, arrays and tensors to pictures and back."""

import inspect
import os
import warnings
from collections.abc import Callable, Iterable
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from car.codec.coding import Encoding
from car.errors import ImageError, UsageError, one_line_errors
from car.files.atomic import MAX_FILE_BYTES
from car.pictures.depth import CUT_OFF
from car.pictures.metadata import LRInfo
from car.pictures.picture import DEFAULT_MAX_PIXELS, Picture, is_grey
from car.pictures.read import decode, from_pil, read
from car.pictures.write import encode, to_pil

File = str | os.PathLike[str] | bytes | bytearray | IO[bytes]
"""A path, the content of a picture file, or a file open in binary mode."""

Process = Callable[[Picture], tuple[Picture, LRInfo | None]]
"""Makes another picture of one, and returns the metadata for its file."""

_NOT_DEEP = (
    "16 bit were rounded to 8, because a PIL image in colour has no more; an array of uint16 keeps them, "
    "and so does the command car"
)
_VISIBLE = 0.5 / 255  # beyond the range from 0 to 1: cutting off less changes no level of 8 bits


def apply(
    image: Any,
    process: Process,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    encoding: Encoding | None = None,
) -> Any:
    """Run `process` on `image` as a `Picture` and return the result as the same kind.

    Args:
        image: see `as_picture`; a batch of arrays or tensors gives a batch.
        process: makes the result.
        max_pixels: larger files are refused.
        encoding: if given, the result is returned as the content of such a file.

    Raises:
        UsageError: `image` is of no such kind, or a batch is to become one file.
        ImageError: a file cannot be read.
    """
    tensor = hasattr(image, "is_floating_point")  # for others, PyTorch is not imported
    if encoding is not None:
        if getattr(image, "ndim", 0) > 3:
            raise UsageError("a file holds one picture, not a batch")
        picture = _picture_from_array(_batch_of(image)[0]) if tensor else as_picture(image, max_pixels)
        result, info = process(picture)
        content, notes = encode(result, encoding.name, info=info, quality=encoding.quality)
        _warn(picture.notes + result.notes + notes)
        return content
    if tensor:
        return _apply_to_tensor(image, process)
    if isinstance(image, np.ndarray):
        if image.ndim == 4:
            return np.stack(_each(_checked_batch(image), process))
        return _each([image], process)[0]
    picture = as_picture(image, max_pixels)
    result, info = process(picture)
    returned = to_pil(result, info=info)
    deep = result.pixels.dtype == np.uint16 and not returned.mode.startswith("I;16")
    _warn((*picture.notes, *result.notes, *((_NOT_DEEP,) if deep else ())))
    return returned


def _each(arrays: Iterable[NDArray[Any]], process: Process) -> list[NDArray[Any]]:
    """Return the results of `process` on arrays; each note is told once."""
    results: list[NDArray[Any]] = []
    notes: dict[str, None] = {}
    for array in arrays:
        picture = as_picture(array)
        result, _ = process(picture)
        notes |= dict.fromkeys(picture.notes + result.notes)
        results.append(_array_like(result, np.asarray(array)))
    _warn(tuple(notes))
    return results


def _checked_batch(arrays: NDArray[Any]) -> NDArray[Any]:
    if arrays.shape[3] not in (1, 3, 4) or 0 in arrays.shape:
        hint = (
            "; if it is [B, 3, H, W], batch.transpose(0, 2, 3, 1) gives that" if arrays.shape[1] == 3 else ""
        )
        raise UsageError(f"expected a batch [B, H, W, 1 or 3 or 4], got {arrays.shape}{hint}")
    return arrays


def _apply_to_tensor(image: Any, process: Process) -> Any:
    import torch

    out = torch.from_numpy(np.stack(_each(_batch_of(image), process)))
    out = out.permute(0, 3, 1, 2).to(image.device, image.dtype)
    return out.reshape(*image.shape[:-3], *out.shape[1:])


def _batch_of(image: Any) -> NDArray[Any]:
    """Return a tensor ``[3, H, W]`` or ``[B, 3, H, W]`` as an array ``[B, H, W, 3]``."""
    import torch

    rgb = image.ndim in (3, 4) and image.shape[-3] == 3
    known = image.is_floating_point() or image.dtype == torch.uint8
    if not rgb or not known or 0 in image.shape:
        hint = ""
        if known and image.ndim in (3, 4) and image.shape[-1] == 3:
            order = "2, 0, 1" if image.ndim == 3 else "0, 3, 1, 2"
            hint = f"; tensor.permute({order}) puts the channels first"
        raise UsageError(
            "expected an RGB tensor [3, H, W] or [B, 3, H, W], floating in [0, 1] or uint8, "
            f"got {image.dtype} {tuple(image.shape)}{hint}"
        )
    if image.is_meta or image.layout != torch.strided:
        raise UsageError(f"expected a dense tensor with values, got {image.layout} on {image.device}")
    batch = image.detach().reshape(-1, *image.shape[-3:]).permute(0, 2, 3, 1)
    return (batch.float() if image.is_floating_point() else batch).cpu().numpy()


def as_picture(image: Any, max_pixels: int = DEFAULT_MAX_PIXELS) -> Picture:
    """Return the picture of a path, the content of a file, an open file, a PIL image or an array.

    Raises:
        UsageError: `image` is of another kind, or an array of other values than pictures have.
        ImageError: the file cannot be read.
    """
    if isinstance(image, Image.Image):
        return from_pil(image)
    if isinstance(image, (str, os.PathLike)):
        return read(image, max_pixels=max_pixels)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return decode(bytes(image), "the picture", max_pixels=max_pixels)
    if isinstance(image, np.ndarray):
        if np.ma.is_masked(image):
            raise UsageError("the array has a mask, which would be ignored: fill it with .filled(value)")
        return _picture_from_array(np.asarray(image))  # a matrix would keep two dimensions whatever is done
    if hasattr(image, "read"):
        return decode(_content_of(image), "the picture", max_pixels=max_pixels)
    raise UsageError(
        f"expected a path, bytes, open file, PIL image, array or tensor, got {type(image).__name__}"
    )


def _content_of(file: Any) -> bytes:
    with one_line_errors("the picture", "cannot be read"):
        content = file.read(MAX_FILE_BYTES + 1)
    if not isinstance(content, bytes):
        raise UsageError(f"open the file in binary mode ('rb'): it gives {type(content).__name__}")
    if len(content) > MAX_FILE_BYTES:
        raise ImageError(f"the picture: more than {MAX_FILE_BYTES} bytes")
    return content


def _warn(notes: tuple[str, ...]) -> None:
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals["__name__"].startswith("car."):
        level, frame = level + 1, frame.f_back
    for note in notes:
        warnings.warn(note, UserWarning, stacklevel=level)


def _picture_from_array(array: NDArray[Any]) -> Picture:
    shape = array.shape
    if array.ndim not in (2, 3) or 0 in shape or (array.ndim == 3 and shape[2] not in (1, 3, 4)):
        first = array.ndim == 3 and shape[0] in (1, 3, 4) and 0 not in shape
        hint = "; array.transpose(1, 2, 0) puts the channels last" if first else ""
        raise UsageError(
            "expected [H, W], [H, W, 1], [H, W, 3], [H, W, 4], or a batch [B, H, W, 1 or 3 or 4], "
            f"got {shape}{hint}"
        )
    notes: tuple[str, ...] = ()
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise ImageError("the array holds values that are not finite")
        low, high = array.min(), array.max()
        if low < -0.5 or high > 2:  # filters overshoot less than that
            hint = "divide by 255?" if high > 2 else "is black -1?"
            raise UsageError(f"floating values must lie in [0, 1], got {low:g} to {high:g}: {hint}")
        if low < -_VISIBLE or high > 1 + _VISIBLE:
            notes = (CUT_OFF,)
        array = np.round(np.clip(array, 0, 1) * 255).astype(np.uint8)
    elif array.dtype.name not in ("uint8", "uint16"):
        raise UsageError(f"expected uint8, uint16 or floating values in [0, 1], got {array.dtype}")
    one = _has_one_channel(array)
    colour = np.repeat(array.reshape(*shape[:2], 1), 3, axis=2) if one else array[:, :, :3]
    alpha = array[:, :, 3] if not one and shape[2] == 4 else None
    return Picture(
        np.ascontiguousarray(colour),
        None if alpha is None else np.ascontiguousarray(alpha),
        one or is_grey(colour),
        None,
        None,
        notes,
    )


def _has_one_channel(array: NDArray[Any]) -> bool:
    return array.ndim == 2 or array.shape[2] == 1


def _array_like(picture: Picture, like: NDArray[Any]) -> NDArray[Any]:
    pixels = picture.pixels
    if picture.grey and _has_one_channel(like):
        pixels = pixels[:, :, 0] if like.ndim == 2 else pixels[:, :, :1]
    if picture.alpha is not None:
        pixels = np.concatenate([pixels, picture.alpha[:, :, None]], axis=2)
    if np.issubdtype(like.dtype, np.floating):
        return (pixels / np.iinfo(pixels.dtype).max).astype(like.dtype)
    return np.ascontiguousarray(pixels)
