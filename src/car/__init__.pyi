from ._version import __version__ as __version__
from .codec.api import downscale as downscale
from .codec.api import open as open
from .codec.api import upscale as upscale
from .codec.codec import Codec as Codec
from .codec.options import Options as Options
from .errors import CarError as CarError
from .weights import list_models as list_models
from .weights import load as load

__all__ = [
    "CarError",
    "Codec",
    "Options",
    "__version__",
    "downscale",
    "list_models",
    "load",
    "open",
    "upscale",
]
