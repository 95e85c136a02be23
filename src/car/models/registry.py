"""Model names to constructors."""

from collections.abc import Callable

from car.errors import UsageError, did_you_mean
from car.models.rescaler import Rescaler

_FACTORIES: dict[str, Callable[[], Rescaler]] = {}


def register(name: str, factory: Callable[[], Rescaler]) -> None:
    """Add a model under `name` (``family_xS``).

    Raises:
        ValueError: the name is taken.
    """
    if name in _FACTORIES:
        raise ValueError(f"model {name!r} is already registered")
    _FACTORIES[name] = factory


def model_names() -> tuple[str, ...]:
    """Return the names of all known architectures, sorted."""
    return tuple(sorted(_FACTORIES))


def create(name: str) -> Rescaler:
    """Build the model `name` with freshly initialised parameters, on the CPU.

    Raises:
        UsageError: there is no such model; the message suggests the nearest name.
    """
    if name not in _FACTORIES:
        raise UsageError(f"no model is called {name!r}{did_you_mean(name, _FACTORIES)}")
    return _FACTORIES[name]()
