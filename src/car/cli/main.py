"""The command line: global options, errors and exit codes.

Exit codes: 0 all done, 1 something could not be done, 2 the request makes no sense, 130 interrupted.
"""

import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from car._version import __version__
from car.cli.common import Threads, app, error_line, reason, stdout
from car.devices import set_cpu_threads
from car.errors import CarError, UsageError, needs


def _print_version(wanted: bool) -> None:
    if wanted:
        stdout.print(f"car {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    threads: Threads = None,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    if threads:
        set_cpu_threads(threads)


def main() -> None:
    """Run the command line and exit with its exit code; each failure is one line on standard error."""
    sys.exit(_main())


def _main() -> int:
    # without any handler, Python prints what decoders log about damaged files
    logging.getLogger().addHandler(logging.NullHandler())
    # and what they warn of; only here, as the filters belong to the whole process
    warnings.filterwarnings("ignore", module=r"(PIL|tifffile|imagecodecs)\b")
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # file names may be no valid text
        code = typer.main.get_command(app).main(standalone_mode=False, prog_name="car")
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)
    except BrokenPipeError:
        # the reader of our output left; nothing more can be said to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UsageError as error:
        return _fail(str(error), 2)
    except CarError as error:
        return _fail(str(error), 1)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "numba"):
            raise
        return _fail(str(needs("this needs PyTorch", "torch")), 2)
    except (OSError, MemoryError) as error:
        return _fail(f"{getattr(error, 'filename', None) or ''} {reason(error)}".strip(), 1)
    except Exception as error:
        # typer brings its own copy of click from 0.20 on, so the class of its errors has no stable name
        message: Callable[[], str] | None = getattr(error, "format_message", None)
        if message is not None:
            told = _told(error, message())
            return _fail(told + _dash_hint(told.startswith("No such option")), 2) if told else 2
        if os.environ.get("CAR_DEBUG"):
            raise
        return _fail(f"internal error: {type(error).__name__}: {error}; CAR_DEBUG=1 shows where", 1)
    # typer turns an interrupt into this exit code without a word
    return _fail("interrupted", 130) if code == 130 else code if isinstance(code, int) else 0


# what typer says, and how we say it
_WORDS = (
    (r"(?:Value error, )?'?(.*?)'? is not one of (.*?)\.?", r"{name} {0}: no such choice; there are {1}"),
    (r".* is not a valid int(?:eger)?\b.*", "{name} wants a whole number"),
    (r".* is not a valid float\b.*", "{name} wants a number"),
    (r".* is not in the range (\S+)<=x<=(\S+)\.", "{name} must be from {0} to {1}"),
    (r".* is not in the range x>=(\S+)\.", "{name} must be at least {0}"),
    (r".* is not in the range (.*)\.", "{name} must be in the range {0}"),
)


def _told(error: Any, message: str) -> str:
    """Say in our own words what typer objects to."""
    param = getattr(error, "param", None)
    if param is None:
        return message
    name = param.opts[0] if param.opts[0].startswith("-") else param.name.upper()
    if message.startswith("Missing"):
        return f"{name} is missing; {error.ctx.command_path} --help shows how it is used"
    for pattern, words in _WORDS:
        found = re.fullmatch(pattern, error.message)
        if found:
            return words.format(*(part and part.replace("'", "") for part in found.groups()), name=name)
    return message


def _dash_hint(unknown: bool) -> str:
    """Return how to name a file whose name was taken for an option; empty if there is none.

    Args:
        unknown: whether an option is unknown. What ends like a picture is then taken for a file.
    """
    from car.pictures.formats import INPUT_SUFFIXES

    named = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    for name in named:
        like = unknown and "=" not in name and Path(name).suffix.lower() in INPUT_SUFFIXES
        if name.startswith("-") and (like or os.path.lexists(name)):
            return f"; for the file {name}, write ./{name}"
    return ""


def _fail(message: str, code: int) -> int:
    error_line(message)
    return code
