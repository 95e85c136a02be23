"""The choice of the model that shrinks or restores a picture, in one place."""

import os
import threading
from collections import OrderedDict

from car.codec.codec import Codec, check_scale
from car.codec.options import Options
from car.errors import UsageError
from car.pictures.picture import Picture
from car.weights import ModelName, default_model, find, load

_KEPT = 8
_codecs: "OrderedDict[tuple[str, str, str | None, Options], Codec]" = OrderedDict()
_lock = threading.Lock()


def open_codec(
    model: ModelName | None = None, scale: int | None = None, options: Options = Options()
) -> Codec:
    """Return the codec of `model`, or of the default model for `scale`.

    The same weights and options give the same codec. It may be used from several threads. ``options.coding``
    is the coding of a lossy small file. If such a file loses much, the default is the model for lossy files.
    Effort then refines small pictures for this coding.

    Args:
        model: name, tag or ``.safetensors`` file; see `car.load`.
        scale: 2 or 4; not needed with `model`.
        options: the settings.

    Raises:
        UsageError: `model` and `scale` are both missing or contradict each other, or the device cannot be
            used.
        WeightsError: the weights cannot be loaded.

    >>> open_codec(scale=4).loaded.name
    'car_plus_x4'
    """
    if not isinstance(options, Options):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(f"options must be car.Options, got {type(options).__name__}")
    if model is None:
        if scale is None:
            raise UsageError("give a scale (2 or 4) or the name of a model")
        model = default_model(scale, coded=options.coding is not None and not options.coding.fine)
    loaded = load(model)
    if scale is not None and scale != loaded.geometry.scale:
        named = ", ".join(map(str, model)) if isinstance(model, tuple) else model
        raise UsageError(f"{named} works at scale {loaded.geometry.scale}, not {scale}")
    key = (loaded.name, loaded.sha256, loaded.tag, options)
    with _lock:
        codec = _codecs.get(key)
        if codec is None:
            codec = _codecs[key] = Codec(loaded, options)
            if len(_codecs) > _KEPT:
                _codecs.popitem(last=False)
        _codecs.move_to_end(key)
    return codec


def _unlock() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)  # another thread may have held it


def codec_for_picture(
    picture: Picture,
    *,
    model: ModelName | None = None,
    scale: int | None = None,
    options: Options = Options(),
) -> Codec:
    """Return the codec that restores `picture`: that of `model` if given, else that of its metadata.

    Raises:
        UsageError: neither the picture nor the arguments name a model.
        WeightsError: the weights in the metadata are not available.
    """
    if model is not None:  # then a scale that contradicts it is an error
        return open_codec(model, scale, options)
    return open_codec(model_for_picture(picture, scale), None, options)


def model_for_picture(picture: Picture, scale: int | None = None) -> str:
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
        raise UsageError(
            f"{why_unknown(picture)}; name a model, for lossy files car_codec_x2 or car_codec_x4, or a scale"
        )
    return default_model(scale, coded=picture.lossy)


def why_unknown(picture: Picture) -> str:
    """Return why the model that made `picture` is unknown."""
    return picture.damage or "the picture does not say which model made it"
