"""Content adaptive resampling: small pictures that any viewer opens and that restore well.

>>> import car
>>> small = car.downscale("photo.jpg", scale=4)  # doctest: +SKIP
>>> small.save("photo.x4.png")  # doctest: +SKIP
>>> large = car.upscale("photo.x4.png")  # doctest: +SKIP

What is here is imported when it is first used; ``__init__.pyi`` lists it.
"""

import lazy_loader

from car._version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
