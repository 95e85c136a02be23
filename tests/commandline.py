"""The command line, called in this process: a process of its own takes seconds, most of them for imports.

What only a process shows (start-up, signals, pipes, kills) is tested with one: see `processes`.
"""

import io
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

import pytest


def run_car(
    *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Call the command `car` with `arguments`, and `env` besides the environment of the tests.

    What it prints, warnings included, and its exit code are as those of a process.
    """
    from car.__main__ import main
    from car.cli import common

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
        for terminal in (common.stdout, common.stderr):
            terminal.__dict__.pop("console", None)  # it knows the width of the terminal of an earlier call
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
