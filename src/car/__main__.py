"""``python -m car`` and the command `car`: the command line, interruptible from the start."""

import atexit
import gc
import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any


def main() -> None:
    """Import the command line and run it. SIGTERM ends it as an interrupt does, temporary files removed."""
    with interruptible():
        from car.cli import main as run
    # The system takes back the memory of a program that ends. Without this, Python first looks for cycles in
    # all that was imported, which takes a sixth of the time of a short command.
    atexit.register(gc.freeze)
    with _terminable():
        run()


@contextmanager
def interruptible() -> Generator[None, None, None]:
    """Let an interrupt during imports end the program with one line, as it does later.

    A handler does this, because what is imported may catch an exception in the midst of it, or print and
    ignore it.
    """
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not so under nohup
    if not usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def _terminable() -> Generator[None, None, None]:
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _leave(*_: Any) -> None:
    try:
        os.write(2, b"car: interrupted\n")
    finally:
        os._exit(130)  # nothing has begun that would have to be ended


if __name__ == "__main__":
    main()
