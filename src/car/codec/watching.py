"""How far the work on one picture is: told to whoever watches, wherever in the code the work is done."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")

Watcher = Callable[[str, int, int], None]
"""Takes what is done, such as "refining", the parts of it that are done, and the number of all parts.

It is also called before the first part.
"""

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watched(watcher: Watcher) -> Generator[None, None, None]:
    """Within it, `watcher` is called whenever long work in this thread advances.

    >>> with watched(lambda what, done, parts: print(f"{what}: {done} of {parts}")):
    ...     Work("refining", 2).advance()
    refining: 0 of 2
    refining: 1 of 2
    """
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


class Work:
    """Long work of so many parts, of about the same length."""

    def __init__(self, what: str, parts: int) -> None:
        self._what, self._parts, self._done, self._tell = what, parts, 0, _watcher.get()
        self.advance(0)

    def advance(self, parts: int = 1) -> None:
        """Tell that more parts are done."""
        self._done = min(self._parts, self._done + parts)
        if self._tell is not None:
            self._tell(self._what, self._done, self._parts)

    def end(self) -> None:
        """Tell that all is done, even if fewer parts were needed."""
        if self._done < self._parts:
            self.advance(self._parts - self._done)


def told(what: str, parts: int, function: Callable[[_Part], _Result]) -> Callable[[_Part], _Result]:
    """Return `function`, which does one of so many parts of a work, and tells after each call."""
    work = Work(what, parts)

    def one(part: _Part) -> _Result:
        result = function(part)
        work.advance()
        return result

    return one
