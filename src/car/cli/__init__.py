"""The command line `car`."""

from car.cli.main import main

__all__ = ["main"]
