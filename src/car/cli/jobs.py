"""One picture file after the other: the work, its report, standard input and output."""

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path
from typing import Any

import typer

from car.batch.loop import Failure, each
from car.batch.names import Job, Plan, means_folder, target_exists
from car.cli.common import (
    Showing,
    error_line,
    print_json,
    print_left_out,
    print_notes,
    progress,
    stdout,
    telling,
)
from car.errors import CarError, UsageError
from car.files.atomic import MAX_FILE_BYTES
from car.files.scratch import Scratch
from car.files.storage import Place

_ALONE = "- stands for one picture, without others beside it"
_STDIN = "standard input"


@dataclass(frozen=True)
class Pipe:
    """Inputs and output, with files in `folder` in place of standard input and output.

    With `to_output`, standard output is for the picture alone.
    """

    inputs: Sequence[str]
    output: str | None
    showing: Showing
    folder: str = ""
    to_output: bool = False

    def named(self, text: str) -> str:
        """Return a message in which these files have the names that the user knows."""
        return text.replace(self.folder + os.sep, "") if self.folder else text


@contextmanager
def piped(
    inputs: Sequence[str], output: str | None, suffix: str, showing: Showing
) -> Generator[Pipe, None, None]:
    """Replace ``-`` by files for standard input and output; the picture is sent if all went well.

    Raises:
        UsageError: they are terminals, or other pictures are named too.
    """
    output = "-" if output is None and "-" in inputs else output
    if "-" not in inputs and output != "-":
        yield Pipe(inputs, output, showing)
        return
    if len(inputs) > 1 or Path(inputs[0]).is_dir() or (has_magic(inputs[0]) and not Path(inputs[0]).exists()):
        raise UsageError(_ALONE)
    if output is not None and output != "-" and means_folder(output):
        raise UsageError(f"{output}: name a file, because a picture from standard input has no name")
    if output == "-" and showing.as_json:
        raise UsageError("--json and the picture cannot both go to standard output")
    if output == "-" and sys.stdout.isatty():
        raise UsageError("standard output is a terminal; redirect it to a file, or name a file with --output")
    with Scratch() as folder:
        source, target = Path(folder, _STDIN), Path(folder, f"standard output{suffix}")
        if "-" in inputs:
            _take_in(source)
            inputs = [str(source)]
        pipe = Pipe(inputs, str(target) if output == "-" else output, showing, folder, output == "-")
        try:
            yield pipe
        except CarError as error:
            raise type(error)(pipe.named(str(error))) from error
        if output == "-":
            with target.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()


def _take_in(path: Path) -> None:
    if sys.stdin.isatty():
        raise UsageError("standard input is a terminal; redirect it from a picture")
    left = MAX_FILE_BYTES + 1  # one byte too many, so that the reader of the file refuses it
    with path.open("wb") as file:
        while left and (block := sys.stdin.buffer.read(min(left, 2**20))):
            file.write(block)
            left -= len(block)


def run_jobs(
    verb: str, todo: Plan, work: Callable[[Job], dict[str, Any]], pipe: Pipe, *, overwrite: bool
) -> None:
    """Do every job and report the results; exit with 1 if something failed."""
    results: list[dict[str, Any]] = []
    failures = [Failure("", problem) for problem in todo.problems]
    stopped = False
    if todo.many and pipe.output is not None:
        Place(pipe.output).prepare()
    try:
        text = pipe.showing.text
        with progress(len(todo.jobs), verb, todo.many and text) as advance, telling(not todo.many and text):

            def one(job: Job) -> dict[str, Any]:
                try:
                    return _done(job, work, skips=todo.many and not overwrite)
                finally:
                    advance()

            # if the only picture makes no sense, neither does the request
            passing = () if todo.many else (UsageError,)
            for result in each(todo.jobs, one, failures, _files, passing):
                results.append(result)  # noqa: PERF402 - what was done is kept if the next one ends all
    except CarError as error:
        if not error.fatal:
            raise
        stopped = todo.many
    finally:
        _report(results, failures, todo.left_out, pipe)
    if failures:
        if stopped:
            error_line("stopped; run the same command again to continue")
        elif todo.many:
            error_line(f"{len(failures)} of {len(todo.jobs) + len(todo.problems)} pictures failed")
        raise typer.Exit(1)


def _files(job: Job) -> tuple[str, str]:
    return str(job.source), str(job.target)


def _done(job: Job, work: Callable[[Job], dict[str, Any]], *, skips: bool) -> dict[str, Any]:
    names = {"source": str(job.source), "target": str(job.target)}
    if skips and target_exists(job) and not job.target.is_dir():
        return names | {"skipped": "exists"}
    start = time.perf_counter()
    return names | work(job) | {"seconds": round(time.perf_counter() - start, 3)}


def _report(
    results: list[dict[str, Any]], failures: Sequence[Failure], left_out: Counter[str], pipe: Pipe
) -> None:
    results = [r | {name: pipe.named(r[name]) for name in ("source", "target")} for r in results]
    failures = [Failure(pipe.named(failure.source), pipe.named(failure.error)) for failure in failures]
    if pipe.showing.as_json:
        told = [failure._asdict() for failure in failures]
        print_json({"results": results, "failures": told, "left_out": dict(left_out)})
    elif not pipe.showing.quiet:
        names = {note: r["source"] for r in results for note in r.get("notes", ())}
        print_notes(Counter(note for r in results for note in r.get("notes", ())), names)
        if not pipe.to_output:
            _print_results(results, left_out)
    for failure in failures:
        error_line(failure.error)


def _print_results(results: list[dict[str, Any]], left_out: Counter[str]) -> None:
    skipped = sum("skipped" in result for result in results)
    for result in results:
        if "skipped" in result:
            continue
        (width, height), (new_width, new_height) = result["source_size"], result["target_size"]
        stdout.print(
            f"{result['source']} {width}x{height} ({result['source_bytes']:,} bytes) -> "
            f"{result['target']} {new_width}x{new_height} ({result['target_bytes']:,} bytes), "
            f"{result['seconds']:.1f} s",
        )
        if "chosen" in result:
            stdout.print(f"chosen: {result['chosen']}")
    if skipped:
        stdout.print(f"{skipped} skipped: their targets exist; --overwrite replaces them")
    print_left_out(left_out)
