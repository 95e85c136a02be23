"""``python -m car`` and the command `car`: the command line, interruptible from the start."""

import os
import signal
from typing import Any


def main() -> None:
    """Import the command line and run it.

    An interrupt while it is imported ends in one line, as it does later on. A handler sees to that: an
    exception in the midst of imports may be caught, or printed and ignored, by what is imported.
    """
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not so under nohup
    if interruptible:
        signal.signal(signal.SIGINT, _leave)
    from car.cli import main as run

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


def _leave(*_: Any) -> None:
    try:
        os.write(2, b"car: interrupted\n")
    finally:
        os._exit(130)  # nothing has begun that would have to be ended


if __name__ == "__main__":
    main()
