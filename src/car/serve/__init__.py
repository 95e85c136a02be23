"""An HTTP service: photographs in, small pictures out, and back; docs/serve.md describes it."""

from car.serve.app import create_app
from car.serve.settings import Settings

__all__ = ["Settings", "create_app"]
