"""From names of models to their networks."""

import importlib

from car.families import Architecture, architecture
from car.models.rescaler import Rescaler


def create(model: str | Architecture) -> Rescaler:
    """Build a model with freshly initialised parameters, float32, on the CPU.

    Raises:
        UsageError: there is no such model; the message suggests the nearest name.
    """
    known = architecture(model) if isinstance(model, str) else model
    network = known.network
    if isinstance(network, str):
        module, _, function = network.partition(":")
        network = getattr(importlib.import_module(module), function)
    rescaler: Rescaler = network(scale=known.scale, **known.sizes)
    return rescaler.float()
