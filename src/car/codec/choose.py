"""The choice of the model that shrinks or restores a picture, in one place."""

import os
import threading
from collections import OrderedDict

from car.codec.codec import Codec, check_scale
from car.codec.options import Options
from car.codec.origin import looks_made
from car.errors import UsageError
from car.pictures.formats import made_for_loss
from car.pictures.picture import Picture
from car.scaling import DEFAULT, Scale, Size, Wanted, chosen_size, scale_between
from car.weights import ModelName, default_model, find, load

_KEPT = 8
_codecs: "OrderedDict[tuple[str, str, str | None, Options], Codec]" = OrderedDict()
_lock = threading.Lock()


def open_codec(
    model: ModelName | None = None, scale: Scale | None = None, options: Options = Options()
) -> Codec:
    """Return the codec of `model`, or of the default model for `scale`.

    The same weights and options give the same codec. It may be used from several threads. ``options.coding``
    is the coding of a lossy small file. If such a file loses much, the default is the model for lossy files.
    Effort then refines small pictures for this coding.

    Args:
        model: name, tag or ``.safetensors`` file; see `car.load`.
        scale: 1.25 to 16; by default that of the model, or 4 without `model`.
        options: the settings.

    Raises:
        UsageError: the scale is impossible, or the device cannot be used.
        WeightsError: the weights cannot be loaded.

    >>> open_codec().loaded.name
    'car_plus_x4'
    """
    if not isinstance(options, Options):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(f"options must be car.Options, got {type(options).__name__}")
    if model is None:
        scale = DEFAULT if scale is None else scale
        model = default_model(scale, coded=options.coding is not None and not options.coding.fine)
    loaded = load(model)
    key = (loaded.name, loaded.sha256, loaded.tag, options)
    with _lock:
        codec = _codecs.get(key)
        if codec is None:
            codec = _codecs[key] = Codec(loaded, options)
            if len(_codecs) > _KEPT:
                _codecs.popitem(last=False)
        _codecs.move_to_end(key)
    return codec if scale is None else codec.at(scale)


def _unlock() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)  # another thread may have held it


def codec_for_original(
    size: Size, wanted: Wanted, model: ModelName | None = None, options: Options = Options()
) -> Codec:
    """Return the codec that shrinks a picture of `size` (width, height) as `wanted`; see `open_codec`.

    Raises:
        AlreadySmallError: the picture would have to be enlarged, or would hardly become smaller.
        UsageError: as `open_codec`, or the scale would be more than 16.
    """
    return open_codec(model, wanted.scale_of(size), options)


def checked_label(wanted: Wanted, model: ModelName | None, options: Options = Options()) -> str:
    """Return what names of small pictures say, such as ``x4``; see `Wanted.label`.

    Raises:
        UsageError: as `open_codec`, as far as this does not depend on the picture.
    """
    if wanted.by_size and model is None:
        return wanted.label
    codec = open_codec(model, wanted.scale, options)
    return wanted.label or f"x{codec.scale}"


def codec_for_picture(
    picture: Picture,
    *,
    model: ModelName | None = None,
    scale: Scale | None = None,
    size: Size | None = None,
    options: Options = Options(),
) -> Codec:
    """Return the codec that restores `picture`: that of `model` if given, else that of its metadata.

    The scale is that of the metadata. Without metadata, it is `scale` if given, else the one by which a
    picture of `size` (width, height) becomes as small as `picture`, else that of the model.

    If the picture was made for a lossless file, but its file is coarse (see `Picture`), the model for lossy
    files restores it better, and is chosen. A picture without metadata is restored by the default model for
    `scale` if its pixels show that this model made it. Otherwise it is enlarged as an ordinary thumbnail:
    halfway between bicubic and the model for lossy files. A note says so (`Codec.note`).

    Raises:
        UsageError: neither the picture nor the arguments name a model.
        WeightsError: the weights in the metadata are not available.
    """
    if scale is None and picture.info is None and size is not None:
        scale = scale_between(chosen_size(size), (picture.width, picture.height))
    if scale is not None:
        check_scale(picture, scale)
    if model is not None:
        return open_codec(model, scale, options).of(picture)
    codec = open_codec(model_for_picture(picture, scale), scale, options).of(picture)
    if picture.info is not None:
        return _for_its_file(codec, picture, picture.info.model, options)
    return codec if picture.damage else _by_its_pixels(codec, picture, options)  # damaged: car made it


def _for_its_file(codec: Codec, picture: Picture, maker: str, options: Options) -> Codec:
    if not picture.coarse or made_for_loss(maker):
        return codec
    other = open_codec(default_model(codec.native, coded=True), codec.scale, options)
    return other.with_note(
        f"made by {maker}, but it was saved again as a lossy file: restored by {other.loaded.name}, "
        "which is made for these"
    )


def _by_its_pixels(codec: Codec, picture: Picture, options: Options) -> Codec:
    name, unsaid = codec.loaded.name, "the picture does not say that car made it"
    if not picture.lossy:
        if looks_made(picture.pixels, codec.native):
            return codec.with_note(f"{unsaid}, but its pixels look like those of {name}")
        codec = open_codec(default_model(codec.native, coded=True), codec.scale, options)
    return codec.for_thumbnails(
        f"{unsaid}: enlarged as an ordinary thumbnail; if car made it, name the model, such as {name}"
    )


def model_for_picture(picture: Picture, scale: Scale | None = None) -> str:
    """Return the name of the weights that restore `picture`: those of its metadata.

    Without metadata, return the default model for `scale`: the one for lossy files if the file is lossy.

    Raises:
        UsageError: there is neither metadata nor a scale, or the metadata has another scale.
        WeightsError: the weights in the metadata are not available.
    """
    if scale is not None:
        check_scale(picture, scale)
    if picture.info is not None:
        return find(picture.info.model, picture.info.weights)
    if scale is None:
        raise UsageError(f"{why_unknown(picture)}; name a model or a scale")
    return default_model(scale, coded=picture.lossy)


def why_unknown(picture: Picture) -> str:
    """Return why the model that made `picture` is unknown."""
    return picture.damage or "the picture does not say which model made it"
