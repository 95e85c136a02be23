"""Processes that tests may interrupt and kill, started in a moment.

A server that has imported the package and its libraries forks them: imports anew would take each of them
seconds. What start-up itself does is tested with processes of the common kind.
"""

import atexit
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

LIMIT = 300
"""Seconds until a test gives up waiting: many, as other programs may be at work on the machine."""

_IMPORTED = ["car.__main__", "car.cli", "car.train.run", "car.serve", "torch.utils.tensorboard", "pytest"]


def run_main(*arguments: str) -> None:
    """Run the command `car`."""
    from car.__main__ import main

    sys.argv = ["car", *arguments]
    main()


def run_script(path: str, *arguments: str) -> None:
    """Run a script as Python does."""
    import runpy

    sys.argv = [path, *arguments]
    runpy.run_path(path, run_name="__main__")


class Process:
    """A running `target(*arguments)`, with what `subprocess.Popen` offers."""

    def __init__(
        self, target: Callable[..., None], *arguments: object, env: Mapping[str, str] | None = None
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_IMPORTED)
        with tempfile.TemporaryDirectory() as folder:
            names = [str(Path(folder) / name) for name in ("out", "err")]
            ready, begun = context.Pipe(duplex=False)
            environment = os.environ | {"CAR_THREADS": "1", "OMP_NUM_THREADS": "1"} | dict(env or {})
            work = (target, list(map(str, arguments)), names, environment, str(Path.cwd()), begun)
            self._process: ForkServerProcess = context.Process(target=_begin, args=work)  # type: ignore[assignment]
            self._process.start()
            begun.close()
            assert ready.poll(LIMIT), "no process starts"
            ready.recv()
            self.stdout, self.stderr = open(names[0]), open(names[1])  # noqa: PTH123, SIM115

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float = LIMIT) -> int:
        """Wait for its end.

        Raises:
            TimeoutError: it goes on.
        """
        self._process.join(timeout)
        if self.returncode is None:
            raise TimeoutError
        return self.returncode

    def communicate(self, timeout: float = LIMIT) -> tuple[str, str]:
        """Wait for its end and return what it printed since it was last read."""
        self.wait(timeout)
        return self.stdout.read(), self.stderr.read()

    def line(self) -> str:
        """Wait for the next line of standard output; it is empty where there will be none."""
        deadline, text = time.monotonic() + LIMIT, ""
        while not text.endswith("\n") and time.monotonic() < deadline:
            ended = self.returncode is not None
            more = self.stdout.readline()
            text += more
            if ended and not more:
                break
            if not more:
                time.sleep(0.02)
        return text

    def send_signal(self, number: int) -> None:
        if self.returncode is None and self._process.pid:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.wait()
        self.stdout.close()
        self.stderr.close()


def _begin(
    target: Callable[..., None],
    arguments: list[str],
    outputs: list[str],
    environment: dict[str, str],
    folder: str,
    begun: Any,
) -> None:
    """In the new process: be as one that a shell has started."""
    for number, name in enumerate(outputs, 1):
        file = os.open(name, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", 1, closefd=False)
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import torch

    torch.set_num_threads(1)
    begun.send(None)
    begun.close()
    try:
        target(*arguments)
    finally:
        atexit._run_exitfuncs()


def start_car(*arguments: object, env: Mapping[str, str] | None = None) -> Process:
    """Start the command `car` as a process."""
    return Process(run_main, *arguments, env=env)


def wait_until(condition: Callable[[], object], process: Process | None = None) -> None:
    """Wait until `condition()` holds, as long as `process` runs."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        assert process is None or process.poll() is None, process and process.communicate()
        time.sleep(0.02)
