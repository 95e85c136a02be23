"""Content adaptive resampling: small pictures that any viewer opens and that restore well.

import car
small = car.downscale("photo.jpg", scale=4)
small.save("photo.x4.png")
large = car.upscale("photo.x4.png")
"""

from car._version import __version__
from car.codec import downscale, upscale
from car.errors import CarError
from car.weights import list_models, load

__all__ = ["CarError", "__version__", "downscale", "list_models", "load", "upscale"]
