"""The registry: from model names to constructors."""

from collections.abc import Callable

from car.errors import UsageError, did_you_mean
from car.models.rescaler import Rescaler

_FACTORIES: dict[str, Callable[[], Rescaler]] = {}
_CONTROLS: set[str] = set()


def register(name: str, factory: Callable[[], Rescaler], *, control: bool = False) -> None:
    """Add a model under `name` (``family_xS``).

    Args:
        name: unique.
        factory: builds it with fresh parameters.
        control: it exists only for comparison; lists of models leave it out.

    Raises:
        ValueError: the name is taken.
    """
    if name in _FACTORIES:
        raise ValueError(f"model {name!r} is already registered")
    _FACTORIES[name] = factory
    if control:
        _CONTROLS.add(name)


def model_names(*, controls: bool = True) -> tuple[str, ...]:
    """Return the names of all known architectures, sorted, with or without the controls."""
    return tuple(sorted(name for name in _FACTORIES if controls or name not in _CONTROLS))


def create(name: str) -> Rescaler:
    """Build the model `name` with freshly initialised parameters, on the CPU.

    Raises:
        UsageError: there is no such model; the message suggests the nearest name.
    """
    if name not in _FACTORIES:
        raise UsageError(f"no model is called {name!r}{did_you_mean(name, _FACTORIES)}")
    return _FACTORIES[name]()
