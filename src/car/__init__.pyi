from ._version import __version__ as __version__
from .codec.api import downscale as downscale
from .codec.api import open as open
from .codec.api import upscale as upscale
from .codec.codec import Codec as Codec
from .codec.options import Options as Options
from .errors import CarError as CarError
from .measure.advice import Offer as Offer
from .measure.advice import advise as advise
from .measure.budget import SmallFile as SmallFile
from .measure.budget import shrink_to as shrink_to
from .weights import list_models as list_models
from .weights import load as load

__all__ = [
    "CarError",
    "Codec",
    "Offer",
    "Options",
    "SmallFile",
    "__version__",
    "advise",
    "downscale",
    "list_models",
    "load",
    "open",
    "shrink_to",
    "upscale",
]
