"""An HTTP service that shrinks photographs and restores small pictures; docs/serve.md describes it."""

from car.serve.app import create_app
from car.serve.settings import Settings

__all__ = ["Settings", "create_app"]
