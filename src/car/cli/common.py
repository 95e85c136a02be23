"""What all commands share: the application, its consoles and options, errors, progress, printing."""

import json
import math
import re
import sys
import time
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

import typer

from car.cli.commands import LazyGroup
from car.errors import UsageError, needs
from car.errors import reason as reason
from car.scaling import DEFAULT, Wanted

if TYPE_CHECKING:
    from rich.console import Console

ModelName = str | Path | tuple[str | Path, str | Path]
"""The same as `car.weights.ModelName`, which is not imported here because not every command needs weights."""


def _hyphens(option: str) -> str:
    """Accept options with underscores, as in the MindSpore code."""
    return option.replace("_", "-")


app = typer.Typer(
    name="car",
    cls=LazyGroup,
    context_settings={"token_normalize_func": _hyphens},
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Shrink photographs to small ordinary pictures that restore far better than thumbnails.",
)


class _Terminal:
    """Standard output or error. Each text is printed without control characters: names may hold any.

    rich draws tables and bars. Lines are printed without it, because importing it can take as long as a whole
    command.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        self._stderr = stderr

    @property
    def file(self) -> TextIO:
        """The stream that is written to."""
        return sys.stderr if self._stderr else sys.stdout

    @property
    def is_terminal(self) -> bool:
        """Whether the stream is a terminal."""
        return self.file.isatty()

    @cached_property
    def console(self) -> "Console":
        """The console on which rich draws tables and bars."""
        from rich.console import Console

        # file names are no markup, and colours would split numbers into their groups of digits
        return Console(stderr=self._stderr, soft_wrap=True, markup=False, emoji=False, highlight=False)

    def print(self, line: Any) -> None:
        """Print a line of text, or a table drawn by rich."""
        line = shown(line) if isinstance(line, str) else line
        if isinstance(line, str) and "console" not in self.__dict__:  # else there may be a bar to print above
            print(line, file=self.file)
        else:
            self.console.print(line)


stdout, stderr = _Terminal(), _Terminal(stderr=True)


FileFormat = Literal["png", "webp", "tiff", "avif", "jpg", "bmp"]
"""Formats that pictures are written in."""
PAUSE = 10
"""Seconds between two lines of progress, where there is no terminal for a bar."""
_QUICK = 1  # seconds; without a bar for work that takes less, rich need not be imported
REPORT = ("matplotlib", "bjontegaard", "torchmetrics")
"""Modules of the extra [report]."""

Inputs = Annotated[
    list[str],
    typer.Argument(help="Picture files, folders (searched recursively) or globs; - is standard input."),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        help="A file (for one input), a folder, or - for standard output. Default: beside each input.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        help="Leave out files and folders with this name, such as `*_raw.*`. A pattern with a slash applies "
        "to the whole path below the folder, such as `trip/*.png`. Repeatable.",
    ),
]
Scale = Annotated[
    float | None,
    typer.Option("--scale", "-s", help="1.25 to 16, such as 2.5; selects the default model."),
]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Name, tag or .safetensors file of a model; see `car models`."),
]
Kgn = Annotated[
    Path | None,
    typer.Option(
        "--kgn",
        "--kgn-ckpt-name",
        help="Published kernel generator (.ckpt or .pth), with --usn instead of --model.",
    ),
]
Usn = Annotated[
    Path | None,
    typer.Option("--usn", "--usn-ckpt-name", help="Published upscaler (.ckpt or .pth), with --kgn."),
]
Format = Annotated[
    FileFormat, typer.Option("--format", "-f", help="File format, if --output does not name a file.")
]
Quality = Annotated[
    int | None,
    typer.Option(
        "--quality", min=1, max=100, help="Quality of JPEG, WebP and AVIF. Without it, WebP is lossless."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="CPU threads of the networks.", envvar="CAR_THREADS"),
]
KeepExtension = Annotated[
    bool,
    typer.Option(
        "--keep-extension",
        help="Name results photo.jpg.x4.png, not photo.x4.png, so that those of photo.jpg and photo.png "
        "differ.",
    ),
]
DeviceId = Annotated[
    int | None, typer.Option("--device-id", min=0, help="Number of the device; the same as --device cuda:1.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the results as JSON on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]


@dataclass(frozen=True)
class Named:
    """The model that was named, or the files of a published pair."""

    model: Model = None
    kgn: Kgn = None
    usn: Usn = None

    @property
    def name(self) -> ModelName | None:
        """The model, or the pair of files, that the options name.

        Raises:
            UsageError: they contradict each other, or half of a pair is missing.
        """
        if self.kgn is None and self.usn is None:
            return self.model
        if self.model is not None:
            raise UsageError("give either --model or --kgn and --usn")
        if self.kgn is None or self.usn is None:
            missing = "--kgn" if self.kgn is None else "--usn"
            raise UsageError(f"--kgn and --usn need each other; {missing} is missing")
        return self.kgn, self.usn


@dataclass(frozen=True)
class Chosen(Named):
    """The model that was named, or the scale that selects the default model."""

    scale: Scale = None


@dataclass(frozen=True)
class Shrunk(Wanted, Named):
    """The model that was named, and the scale or the size of small pictures."""

    @property
    def wanted(self) -> Wanted:
        """The scale or size alone."""
        return Wanted(self.scale, self.width, self.height, self.size, self.megapixels)


@dataclass(frozen=True)
class Showing:
    """What the user wants to see."""

    as_json: Json = False
    quiet: Quiet = False

    @property
    def text(self) -> bool:
        """Whether results and progress are printed as text."""
        return not (self.as_json or self.quiet)


def say_default_scale(wanted: Wanted, model: ModelName | None, showing: Showing) -> None:
    """Say which scale is taken, if the user has named neither a scale nor a size nor a model."""
    if model is None and not wanted.label and showing.text:
        stderr.print(f"car: note: no scale was named, so it is {DEFAULT}; see --scale, --size and --model")


def chosen_device(device: str, device_id: int | None) -> str:
    """Return the device that --device and the MindSpore code's --device-id name together."""
    if device_id is None or (device_id == 0 and device.lower() in ("auto", "cpu")):
        return device
    if ":" in device or device.lower() in ("auto", "cpu"):
        raise UsageError(
            f"--device-id {device_id} needs a kind of device, such as --device cuda, not {device}"
        )
    return f"{device}:{device_id}"


def chosen_memory(size: int | None) -> int:
    """Return the bytes for pictures that --memory leaves; without --memory, those that are free."""
    from car.codec.large import memory_at_hand, memory_besides

    if size is None:
        return memory_at_hand()
    if size < 5 * 10**8:
        raise UsageError(f"--memory of {size:,} bytes: at least 500MB are needed")
    return memory_besides(size)


def chosen_bytes(option: str, text: str) -> int:
    """Return a size such as 800MB or 2GB in bytes."""
    match = re.fullmatch(r"\s*([0-9]{1,9}(?:\.[0-9]{1,3})?)\s*([kKmMgGtT])?[iI]?[bB]?\s*", text)
    if match is None:
        raise UsageError(f"{option} needs a size such as 800MB or 2GB, got {text!r}")
    return int(float(match[1]) * 1000 ** " kmgt".index((match[2] or " ").lower()))


def duration(seconds: float) -> str:
    """Return a duration in words."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def check_installed(what: str, extra: str, *modules: str) -> None:
    """Raise `UsageError` if one of these modules is missing; the message names the extra to install."""
    for module in modules:
        if find_spec(module) is None:
            raise needs(f"{what} needs {module}", extra)


def print_notes(notes: Mapping[str, int], names: Mapping[str, str] = MappingProxyType({})) -> None:
    """Print each note once, with the name of the picture that has it or the number of pictures."""
    for note, count in notes.items():
        of_one = count == 1 and names.get(note)
        many = "" if of_one else f" ({count} picture{'s' * (count != 1)})"
        stderr.print(f"car: note: {f'{of_one}: ' if of_one else ''}{note}{many}")


def leave_if(failures: Collection[str]) -> None:
    """Print a line for each failure, and exit with 1 if there is one."""
    for failure in failures:
        error_line(failure)
    if failures:
        raise typer.Exit(1)


def print_left_out(left_out: Mapping[str, int]) -> None:
    """Print what a listing left out, if anything."""
    if left_out:
        from car.files.places import counted  # not needed to start

        stdout.print(counted(left_out))


def error_line(message: str) -> None:
    """Print one line on standard error."""
    stderr.print(f"car: {' '.join(message.split())}")


def shown(text: str) -> str:
    """Return `text`, which may come from a file or a server, without control characters."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


@contextmanager
def progress(total: int, verb: str, shown: bool) -> Generator[Callable[..., None], None, None]:
    """Show progress and the time that is left, as a bar or elsewhere as lines.

    Yields the function that advances it: by one of `total` parts, or by the number that it is given.
    """
    if not (shown and stderr.is_terminal):
        lines, done = _Lines(), 0

        def advance(parts: int = 1) -> None:
            nonlocal done
            done += parts
            if shown:
                lines(verb, done, total)

        advance(0)
        yield advance
    else:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(*columns, console=stderr.console, transient=True) as bar:
            task = bar.add_task(verb, total=total)
            yield partial(bar.advance, task)


@contextmanager
def telling(shown: bool) -> Generator[None, None, None]:
    """Show how far long work on one picture is, and how long it will take, as a bar or elsewhere as lines."""
    from car.codec.watching import watched

    if not shown:
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(watched(_bar(stack) if stderr.is_terminal else _Lines()))
        yield


def _bar(stack: ExitStack) -> Callable[[str, int, int], None]:
    bar: list[tuple[Any, Any]] = []
    begin = time.monotonic()

    def tell(what: str, done: int, parts: int) -> None:
        if not bar:
            if done == 0 or time.monotonic() - begin < _QUICK:
                return  # most pictures are done before there is anything to tell
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
            made = stack.enter_context(Progress(*columns, console=stderr.console, transient=True))
            bar.append((made, made.add_task(what)))
        bar[0][0].update(bar[0][1], description=what, completed=done, total=parts)

    return tell


class _Lines:
    """Prints an estimate if work takes long, and then a line now and then."""

    def __init__(self) -> None:
        self._what, self._begin, self._last, self._share = "", 0.0, 0.0, 0

    def __call__(self, what: str, done: int, parts: int) -> None:
        now = time.monotonic()
        if what != self._what or done == 0:
            self._what, self._begin, self._last, self._share = what, now, -math.inf, 0
        left = (now - self._begin) / max(done, 1) * (parts - done)
        if done == 0 or done == parts or (self._last < 0 and left < PAUSE):
            return
        share = 100 * done // parts
        if now - self._last >= PAUSE and share > self._share:
            stderr.print(f"{what}: {share} % done, about {duration(left)} left")
            self._last, self._share = now, share


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    sys.stdout.write(json.dumps(value, indent=1, allow_nan=False) + "\n")
