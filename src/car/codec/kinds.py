"""Conversion of paths, PIL images, arrays and tensors to pictures and back."""

import inspect
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from car.errors import ImageError, UsageError
from car.pictures.depth import CUT_OFF
from car.pictures.metadata import LRInfo
from car.pictures.picture import DEFAULT_MAX_PIXELS, Picture, is_grey
from car.pictures.read import from_pil, read
from car.pictures.write import to_pil

Process = Callable[[Picture], tuple[Picture, LRInfo | None]]
"""Makes another picture of one, and returns the metadata for its file."""

_NOT_DEEP = (
    "16 bit were rounded to 8, because a PIL image in colour has no more; an array of uint16 keeps them, "
    "and so does the command car"
)
_VISIBLE = 0.5 / 255  # beyond the range from 0 to 1: cutting off less changes no level of 8 bits


def apply(image: Any, process: Process, max_pixels: int = DEFAULT_MAX_PIXELS) -> Any:
    """Run `process` on `image` as a `Picture` and return the result as the same kind."""
    if isinstance(image, np.ndarray):
        picture = as_picture(image, max_pixels)
        result, _ = process(picture)
        _warn(picture.notes + result.notes)
        return _array_like(result, np.asarray(image))
    if isinstance(image, (str, os.PathLike, Image.Image)):
        picture = as_picture(image, max_pixels)
        result, info = process(picture)
        returned = to_pil(result, info=info)
        deep = result.pixels.dtype == np.uint16 and not returned.mode.startswith("I;16")
        _warn((*picture.notes, *result.notes, *((_NOT_DEEP,) if deep else ())))
        return returned
    if hasattr(image, "is_floating_point"):  # a tensor; for others PyTorch is not imported
        return _apply_to_tensor(image, process)
    return as_picture(image)  # says what is expected


def _apply_to_tensor(image: Any, process: Process) -> Any:
    import torch

    rgb = image.ndim in (3, 4) and image.shape[-3] == 3 and image.is_floating_point()
    if not rgb or 0 in image.shape:
        raise UsageError(
            "expected a floating RGB tensor [3, H, W] or [B, 3, H, W], "
            f"got {image.dtype} {tuple(image.shape)}"
        )
    if image.is_meta or image.layout != torch.strided:
        raise UsageError(f"expected a dense tensor with values, got {image.layout} on {image.device}")
    batch = image.detach().reshape(-1, *image.shape[-3:]).permute(0, 2, 3, 1).float().cpu().numpy()
    pictures = [_picture_from_array(one) for one in batch]
    results = [_array_like(process(picture)[0], one) for picture, one in zip(pictures, batch, strict=True)]
    _warn(tuple(dict.fromkeys(note for picture in pictures for note in picture.notes)))
    out = torch.from_numpy(np.stack(results)).permute(0, 3, 1, 2).to(image.device, image.dtype)
    return out.reshape(*image.shape[:-3], *out.shape[1:])


def as_picture(image: Any, max_pixels: int = DEFAULT_MAX_PIXELS) -> Picture:
    """Return the picture of a path, a PIL image or an array.

    Raises:
        UsageError: `image` is of another kind, or an array of other values than pictures have.
        ImageError: the file cannot be read.
    """
    if isinstance(image, Image.Image):
        return from_pil(image)
    if isinstance(image, (str, os.PathLike)):
        return read(image, max_pixels=max_pixels)
    if isinstance(image, np.ndarray):
        if np.ma.is_masked(image):
            raise UsageError("the array has a mask, which would be ignored: fill it with .filled(value)")
        return _picture_from_array(np.asarray(image))  # a matrix would keep two dimensions whatever is done
    hint = "; PIL.Image.open reads open files" if hasattr(image, "read") else ""
    hint = "; PIL.Image.open(io.BytesIO(content)) reads bytes" if isinstance(image, bytes) else hint
    raise UsageError(f"expected a path, PIL image, array or tensor, got {type(image).__name__}{hint}")


def _warn(notes: tuple[str, ...]) -> None:
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals["__name__"].startswith("car."):
        level, frame = level + 1, frame.f_back
    for note in notes:
        warnings.warn(note, UserWarning, stacklevel=level)


def _picture_from_array(array: NDArray[Any]) -> Picture:
    shape = array.shape
    if array.ndim not in (2, 3) or 0 in shape or (array.ndim == 3 and shape[2] not in (1, 3, 4)):
        raise UsageError(f"expected [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], got {shape}")
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
