"""The loop over the files of a command: failures are collected, and the other files are done."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

from car.errors import CarError, StorageError, told

_T = TypeVar("_T")
_R = TypeVar("_R")


class Failure(NamedTuple):
    """A file that failed, and the reason in one line that names the file."""

    source: str
    error: str


def each(
    things: Iterable[_T],
    work: Callable[[_T], _R],
    failures: list[Failure],
    name: Callable[[_T], str] = str,
    passing: tuple[type[CarError], ...] = (),
) -> Iterator[_R]:
    """Yield the result of `work` for each thing; add those that fail to `failures`.

    Args:
        things: to work on.
        work: may raise a `CarError`, `OSError` or `MemoryError`.
        failures: the list to which failures are added.
        name: of a thing, for messages.
        passing: errors that end the loop.

    Raises:
        StorageError: nothing more can be written, for example because the disk is full.
    """
    for thing in things:
        try:
            result = work(thing)
        except passing:  # noqa: PERF203 - one bad file must not end the others
            raise
        except (CarError, OSError, MemoryError) as error:
            if isinstance(error, StorageError) and error.fatal:
                raise
            failures.append(Failure(name(thing), told(error, name(thing))))
        else:
            yield result
