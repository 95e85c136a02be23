"""`car.downscale` and `car.upscale`: one image, of any kind."""

from dataclasses import replace
from types import NoneType
from typing import TYPE_CHECKING, Any, TypedDict, overload

from PIL import Image

from car.codec.choose import codec_for_original, codec_for_picture, open_codec
from car.codec.codec import Codec, ImageLike
from car.codec.coding import Encoding, FileFormat
from car.codec.kinds import File, apply
from car.codec.options import Options
from car.errors import UsageError
from car.pictures.metadata import LRInfo
from car.pictures.picture import Picture
from car.scaling import Scale, Wanted
from car.weights import ModelName

if TYPE_CHECKING:
    from typing_extensions import Unpack

open = open_codec  # as `car.open`


class _Settings(TypedDict, total=False):
    model: ModelName | None
    options: Options
    codec: Codec | None


class _Sizes(_Settings, total=False):
    width: int | None
    height: int | None
    size: int | None
    megapixels: float | None


class _Size(_Settings, total=False):
    size: tuple[int, int] | None


@overload
def downscale(
    image: File, scale: Scale | None = None, *, format: None = None, **settings: "Unpack[_Sizes]"
) -> Image.Image: ...
@overload
def downscale(
    image: ImageLike, scale: Scale | None = None, *, format: None = None, **settings: "Unpack[_Sizes]"
) -> ImageLike: ...
@overload
def downscale(
    image: Any,
    scale: Scale | None = None,
    *,
    format: FileFormat,
    quality: int | None = None,
    **settings: "Unpack[_Sizes]",
) -> bytes: ...
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
    format: FileFormat | None = None,
    quality: int | None = None,
) -> Any:
    """Shrink one image; the result is an ordinary small picture that `upscale` restores.

    Args:
        image: a path, the content of a picture file as bytes, a file open in binary mode, a PIL image, an
            array or a tensor. Arrays have the channels last: ``[H, W]``, ``[H, W, 1]``, ``[H, W, 3]``,
            ``[H, W, 4]`` or a batch ``[B, H, W, C]``, uint8, uint16 or floating in [0, 1]. Tensors have them
            first: ``[3, H, W]`` or ``[B, 3, H, W]``, uint8 or floating in [0, 1]. The other order is refused.
        scale: 1.25 to 16, fractions too; selects the default model. Without scale, size and model, it is 4.
        width: instead of a scale, the width of the result in pixels.
        height: the height of the result.
        size: the longer side of the result.
        megapixels: the size of the result, about.
        model: name, tag or ``.safetensors`` file; see `car.load`.
        options: the settings.
        codec: a codec from `car.open`, instead of all others.
        format: png, webp, jpg, avif or tiff: return the content of such a file.
        quality: 1 to 100, with the format jpg, webp or avif. As in the command, a lossy file is made by
            `car_codec` unless it is of high quality.

    Returns:
        The same kind as `image` (a PIL image for a file), ``ceil(size / scale)``, on the 8-bit grid
        (16-bit for an array of uint16), in colour even if `image` is grey. If a file or PIL image has 16
        bits, they are rounded to 8 with a warning, because PIL images in colour have no more. A PIL image
        has metadata, which its ``save`` writes into PNG and other files. An array or tensor has none:
        `upscale` then needs the model and the size, and a grey image is restored as nearly grey RGB.

    Raises:
        UsageError: more than one scale or size is given, the input is of another kind, or the format is
            unknown or has no quality.
        AlreadySmallError: the picture is too small for the size, which would shrink it by less than 1.25.
        ImageError: the file cannot be read.
        WeightsError: the weights cannot be loaded.

    >>> import numpy as np
    >>> downscale(np.zeros((64, 96, 3), np.uint8), scale=4).shape
    (16, 24, 3)
    >>> downscale(np.zeros((64, 96, 3), np.uint8), width=60).shape
    (40, 60, 3)
    >>> content = downscale(np.zeros((64, 96, 3), np.uint8), format="jpg", quality=60)
    >>> upscale(content).size
    (96, 64)
    """
    wanted = Wanted(scale, width, height, size, megapixels)
    _one_answer(codec, model, options, scaled=wanted != Wanted())
    encoding = _encoding(format, quality)
    if codec is not None:
        return apply(image, codec.shrink, codec.options.max_pixels, encoding)
    if encoding is not None:
        options = replace(options, coding=encoding.coding)
    if not wanted.by_size:
        open_codec(model, wanted.scale, options)  # what is wrong with these is told before the image is read

    def shrink(picture: Picture) -> tuple[Picture, LRInfo]:
        return codec_for_original((picture.width, picture.height), wanted, model, options).shrink(picture)

    return apply(image, shrink, options.max_pixels, encoding)


@overload
def upscale(
    image: File, scale: Scale | None = None, *, format: None = None, **settings: "Unpack[_Size]"
) -> Image.Image: ...
@overload
def upscale(
    image: ImageLike, scale: Scale | None = None, *, format: None = None, **settings: "Unpack[_Size]"
) -> ImageLike: ...
@overload
def upscale(
    image: Any,
    scale: Scale | None = None,
    *,
    format: FileFormat,
    quality: int | None = None,
    **settings: "Unpack[_Size]",
) -> bytes: ...
def upscale(
    image: Any,
    scale: Scale | None = None,
    *,
    model: ModelName | None = None,
    size: tuple[int, int] | None = None,
    options: Options = Options(),
    codec: Codec | None = None,
    format: FileFormat | None = None,
    quality: int | None = None,
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
        format: png, webp, jpg, avif or tiff: return the content of such a file.
        quality: 1 to 100, with the format jpg, webp or avif.

    Returns:
        The same kind as `image` (a PIL image for a file).

    Raises:
        UsageError: the image has no metadata, and neither `scale`, `model` nor `size` is given; or `size` is
            impossible; or the format is unknown or has no quality.
        ImageError: the file cannot be read.
        WeightsError: the weights that made the picture are not available.

    >>> import numpy as np
    >>> upscale(np.zeros((16, 24, 3), np.uint8), scale=4, size=(95, 64)).shape
    (64, 95, 3)
    """
    _one_answer(codec, model, options, scaled=scale is not None)
    encoding = _encoding(format, quality)

    def restore(picture: Picture) -> tuple[Picture, None]:
        chosen = codec or codec_for_picture(picture, model=model, scale=scale, size=size, options=options)
        return chosen.restore(picture, size), None

    return apply(image, restore, (codec.options if codec else options).max_pixels, encoding)


def _encoding(format: FileFormat | None, quality: int | None) -> Encoding | None:
    if format is not None:
        return Encoding(format, quality)
    if quality is not None:
        raise UsageError("quality needs a format: jpg, webp or avif")
    return None


def _one_answer(codec: Codec | None, model: ModelName | None, options: Options, *, scaled: bool) -> None:
    if codec is not None and (scaled or model is not None or options != Options()):
        raise UsageError("give either a codec, or scale, sizes, model and options")
    if not isinstance(codec, (Codec, NoneType)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(f"codec must be what car.open returns, got {type(codec).__name__}")
