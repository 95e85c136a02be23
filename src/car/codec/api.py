"""`car.downscale` and `car.upscale`: one image, of any kind."""

from functools import partial
from os import PathLike
from types import NoneType
from typing import Any, overload

from PIL import Image

from car.codec.choose import codec_for_original, codec_for_picture, open_codec
from car.codec.codec import Codec, ImageLike
from car.codec.kinds import apply
from car.codec.options import Options
from car.errors import UsageError
from car.pictures.metadata import LRInfo
from car.pictures.picture import Picture
from car.scaling import Scale, Wanted
from car.weights import ModelName

open = open_codec  # as `car.open`


@overload
def downscale(
    image: str | PathLike[str],
    scale: Scale | None = None,
    *,
    width: int | None = None,
    height: int | None = None,
    size: int | None = None,
    megapixels: float | None = None,
    model: ModelName | None = None,
    options: Options = ...,
    codec: Codec | None = None,
) -> Image.Image: ...
@overload
def downscale(
    image: ImageLike,
    scale: Scale | None = None,
    *,
    width: int | None = None,
    height: int | None = None,
    size: int | None = None,
    megapixels: float | None = None,
    model: ModelName | None = None,
    options: Options = ...,
    codec: Codec | None = None,
) -> ImageLike: ...
def downscale(  # noqa: PLR0913 - four of them are sizes
    image: Any,
    scale: Scale | None = None,
    *,
    width: int | None = None,
    height: int | None = None,
    size: int | None = None,
    megapixels: float | None = None,
    model: ModelName | None = None,
    options: Options = Options(),
    codec: Codec | None = None,
) -> Any:
    """Shrink one image; the result is an ordinary small picture that `upscale` restores.

    Args:
        image: a path, a PIL image, an array ``[H, W]``, ``[H, W, 1]``, ``[H, W, 3]`` or ``[H, W, 4]``
            (uint8, uint16 or floating in [0, 1]) or a floating RGB tensor ``[3, H, W]`` or
            ``[B, 3, H, W]`` in [0, 1].
        scale: 1.25 to 16, fractions too; selects the default model. Without scale, size and model, it is 4.
        width: instead of a scale, the width of the result in pixels.
        height: the height of the result.
        size: the longer side of the result.
        megapixels: the size of the result, about.
        model: name, tag or ``.safetensors`` file; see `car.load`.
        options: the settings.
        codec: a codec from `car.open`, instead of all others.

    Returns:
        The same kind as `image` (a PIL image for a path), ``ceil(size / scale)``, on the 8-bit grid
        (16-bit for an array of uint16), in colour even if `image` is grey. If a file or PIL image has 16
        bits, they are rounded to 8 with a warning, because PIL images in colour have no more. A PIL image
        has metadata, which its ``save`` writes into PNG and other files. An array or tensor has none:
        `upscale` then needs the model and the size, and a grey image is restored as nearly grey RGB.

    Raises:
        UsageError: more than one scale or size is given, or the input is of another kind.
        AlreadySmallError: the picture is too small for the size, which would shrink it by less than 1.25.
        ImageError: the file cannot be read.
        WeightsError: the weights cannot be loaded.

    >>> import numpy as np
    >>> downscale(np.zeros((64, 96, 3), np.uint8), scale=4).shape
    (16, 24, 3)
    >>> downscale(np.zeros((64, 96, 3), np.uint8), width=60).shape
    (40, 60, 3)
    """
    wanted = Wanted(scale, width, height, size, megapixels)
    _one_answer(codec, model, options, scaled=wanted != Wanted())
    if not wanted.by_size:
        return (codec or open_codec(model, wanted.scale, options)).downscale(image)

    def shrink(picture: Picture) -> tuple[Picture, LRInfo]:
        return codec_for_original((picture.width, picture.height), wanted, model, options).shrink(picture)

    return apply(image, shrink, options.max_pixels)


@overload
def upscale(
    image: str | PathLike[str],
    scale: Scale | None = None,
    *,
    model: ModelName | None = None,
    size: tuple[int, int] | None = None,
    options: Options = ...,
    codec: Codec | None = None,
) -> Image.Image: ...
@overload
def upscale(
    image: ImageLike,
    scale: Scale | None = None,
    *,
    model: ModelName | None = None,
    size: tuple[int, int] | None = None,
    options: Options = ...,
    codec: Codec | None = None,
) -> ImageLike: ...
def upscale(
    image: Any,
    scale: Scale | None = None,
    *,
    model: ModelName | None = None,
    size: tuple[int, int] | None = None,
    options: Options = Options(),
    codec: Codec | None = None,
) -> Any:
    """Restore the large image from a small one.

    Args:
        image: as for `downscale`. A file or PIL image that `downscale` made has metadata, with its weights
            and the original size.
        scale: selects the default model if the image has no metadata.
        model: replaces the model in the metadata.
        size: (width, height) to restore; by default that of the original, or s times the picture. Without
            metadata, scale and model, it also gives the scale.
        options: the settings.
        codec: a codec from `car.open`; it replaces the model in the metadata.

    Returns:
        The same kind as `image` (a PIL image for a path).

    Raises:
        UsageError: the image has no metadata, and neither `scale`, `model` nor `size` is given; or `size` is
            impossible.
        ImageError: the file cannot be read.
        WeightsError: the weights that made the picture are not available.

    >>> import numpy as np
    >>> upscale(np.zeros((16, 24, 3), np.uint8), scale=4, size=(95, 64)).shape
    (64, 95, 3)
    """
    _one_answer(codec, model, options, scaled=scale is not None)
    if codec is not None:
        return codec.upscale(image, size)
    choose = partial(codec_for_picture, model=model, scale=scale, size=size, options=options)
    return apply(image, lambda picture: (choose(picture).restore(picture, size), None), options.max_pixels)


def _one_answer(codec: Codec | None, model: ModelName | None, options: Options, *, scaled: bool) -> None:
    if codec is not None and (scaled or model is not None or options != Options()):
        raise UsageError("give either a codec, or scale, sizes, model and options")
    if not isinstance(codec, (Codec, NoneType)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(f"codec must be what car.open returns, got {type(codec).__name__}")
