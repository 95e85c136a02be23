"""A bounded pool of threads for the work on pictures."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

_T = TypeVar("_T")
_POLL = 0.5  # seconds between checks that the client is still there


class BusyError(Exception):
    """The queue is full."""


class TooSlowError(Exception):
    """The time limit of a request is over."""


class GoneError(Exception):
    """The client left before its work was done."""


class WorkPool:
    """Runs functions on threads: at most `concurrency` at once, and at most `queue` waiting.

    Work that has begun cannot be stopped. It keeps its thread, and counts as work in progress, until it is
    done, even if nobody waits for it.
    """

    def __init__(self, concurrency: int, queue: int) -> None:
        self._threads = ThreadPoolExecutor(concurrency, "picture")
        self.room = concurrency + queue
        self._lock = threading.Lock()
        self.in_hand = 0
        """Number of functions that run or wait."""

    async def run(
        self, function: Callable[[], _T], timeout: float, disconnected: Callable[[], Awaitable[bool]]
    ) -> _T:
        """Return the result of `function`.

        Raises:
            BusyError: the queue is full; nothing was started.
            TooSlowError: `timeout` seconds are over.
            GoneError: `disconnected` returned true before the work was done.
        """
        with self._lock:
            if self.in_hand >= self.room:
                raise BusyError
            self.in_hand += 1
        future = self._threads.submit(function)
        future.add_done_callback(self._done)
        deadline = asyncio.get_running_loop().time() + timeout
        waiting = asyncio.wrap_future(future)
        while True:
            left = deadline - asyncio.get_running_loop().time()
            done, _ = await asyncio.wait({waiting}, timeout=max(0.0, min(_POLL, left)))
            if done:
                return waiting.result()
            late = asyncio.get_running_loop().time() >= deadline
            if late or await disconnected():
                future.cancel()
                waiting.add_done_callback(_forget)
                raise TooSlowError if late else GoneError

    def _done(self, _: "Future[Any]") -> None:
        with self._lock:
            self.in_hand -= 1

    def close(self) -> None:
        """Start no more work, and do not wait for work whose result nobody needs."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _forget(future: "asyncio.Future[Any]") -> None:
    # nobody waits for it, but asyncio reports an exception that is never retrieved
    if not future.cancelled():
        future.exception()
