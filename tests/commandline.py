"""The command line, called in this process: a process of its own takes seconds, most of them for imports.

What only a process shows (start-up, signals, pipes, kills) is tested with one, which `start_car` starts.
"""

import functools
import io
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TextIO

import pytest

LIMIT = 300
"""Seconds until a test gives up waiting: many, as other programs may be at work on the machine."""


def run_car(
    *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Call the command `car` with `arguments`, and `env` besides the environment of the tests.

    What it prints, warnings included, and its exit code are as those of a process.
    """
    from car.__main__ import main

    command = ["car", *map(str, arguments)]
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    code: object = 0

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        err.write(warnings.formatwarning(message, category, filename, lineno, line))

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(sys, "argv", command)
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        patch.setenv("COLUMNS", "200")
        patch.delenv("CAR_DATA", raising=False)
        for name, value in (env or {}).items():
            patch.setenv(name, value)
        if cwd is not None:
            patch.chdir(cwd)
        # the filters that Python starts with
        warnings.simplefilter("default")
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
        warnings.showwarning = show
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code
    assert isinstance(code, int), code
    text = [stream.buffer.getvalue().decode("utf-8", "surrogateescape") for stream in (out, err)]  # type: ignore[attr-defined]
    return subprocess.CompletedProcess(command, code, *text)


def start_car(*arguments: object, env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
    """Start the command `car` as a process that interrupts reach, even where this one ignores them."""
    return subprocess.Popen(
        [sys.executable, "-m", "car", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"CAR_THREADS": "1"} | dict(env or {}),
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def wait_until(condition: Callable[[], object], process: "subprocess.Popen[str] | None" = None) -> None:
    """Wait until `condition()` holds, as long as `process` runs."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.02)
