"""Content adaptive resampling: small pictures that any viewer opens and that restore well."""

from car._version import __version__

__all__ = ["__version__"]
