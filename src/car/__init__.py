"""Content adaptive resampling: small pictures that any viewer opens and that restore well.

import car
small = car.downscale("photo.jpg", scale=4)
small.save("photo.x4.png")
large = car.upscale("photo.x4.png")
"""

from typing import TYPE_CHECKING, Any

from car._version import __version__

if TYPE_CHECKING:
    from car.codec.codec import downscale, upscale
    from car.errors import CarError
    from car.weights import list_models, load

__all__ = ["CarError", "__version__", "downscale", "list_models", "load", "upscale"]


def __getattr__(name: str) -> Any:
    """Import the library when something of it is first asked for.

    PyTorch takes seconds to import, and `car.__main__` has to be there before, to answer an interrupt.
    """
    if not name.startswith("_"):
        from car.codec.codec import downscale, upscale
        from car.errors import CarError
        from car.weights import list_models, load

        known = globals()  # by now with the modules that these import, as car.pictures
        known.update(
            downscale=downscale, upscale=upscale, CarError=CarError, list_models=list_models, load=load
        )
        if name in known:
            return known[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
