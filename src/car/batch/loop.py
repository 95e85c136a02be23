"""The loop over the files of a command: failures are collected, and the other files are done."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

from car.errors import CarError, told

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
    names: Callable[[_T], tuple[str, ...]] = lambda thing: (str(thing),),
    passing: tuple[type[CarError], ...] = (),
) -> Iterator[_R]:
    """Yield the result of `work` for each thing; add those that fail to `failures`.

    Args:
        things: to work on.
        work: may raise a `CarError`, `OSError` or `MemoryError`.
        failures: the list to which failures are added.
        names: of a thing, for messages: that of its file, then those of files made of it.
        passing: errors that end the loop.

    Raises:
        CarError: nothing more can be written, for example because the disk is full, as the last of `failures`
            says; or one of `passing`, which then names the file.
    """
    for thing in things:
        try:
            result = work(thing)
        except passing as error:  # noqa: PERF203 - one bad file must not end the others
            raise type(error)(told(error, *names(thing))) from error
        except (CarError, OSError, MemoryError) as error:
            failures.append(Failure(names(thing)[0], told(error, *names(thing))))
            if isinstance(error, CarError) and error.fatal:
                raise
        else:
            yield result
