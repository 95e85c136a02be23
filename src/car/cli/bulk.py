"""Commands for whole folders and buckets: bulk downscale, upscale, evaluate."""

import functools
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from car.batch.local import run_here
from car.batch.plan import plan
from car.batch.ray import run_on_ray
from car.batch.records import Export, Record, check_manifest_name, check_no_other_file
from car.batch.run import Engine, Summary, Told, run
from car.batch.work import Work
from car.cli.common import (
    Exclude,
    FileFormat,
    KeepExtension,
    Model,
    Overwrite,
    Quality,
    Scale,
    Showing,
    app,
    duration,
    error_line,
    print_json,
    print_left_out,
    print_notes,
    say_default_scale,
    stderr,
    stdout,
)
from car.cli.options import with_options
from car.codec.options import Options
from car.devices import cpu_threads
from car.errors import UsageError
from car.scaling import Wanted

bulk_app = typer.Typer(
    help="Work through folders and buckets of any size, resumable, in parallel.", no_args_is_help=True
)
app.add_typer(bulk_app, name="bulk")


Source = Annotated[
    str, typer.Argument(help="A folder, a glob or a URL (s3://bucket/photos, gs://..., memory://...).")
]
Target = Annotated[
    str, typer.Argument(help="A folder or URL. The results have the same tree of folders as the source.")
]
FileFormatOption = Annotated[FileFormat, typer.Option("--format", "-f", help="File format of the results.")]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify", help="Compare the contents of files from earlier runs, not only sizes and times."
    ),
]
ManifestFile = Annotated[
    Path | None,
    typer.Option(
        "--manifest", help="Also write the records of all pictures to this .jsonl or .parquet file."
    ),
]


@dataclass(frozen=True)
class Results:
    """The format of the files that are written, and how files of earlier runs are checked."""

    format: FileFormatOption = "png"
    quality: Quality = None
    verify: Verify = False

    @property
    def of_work(self) -> dict[str, Any]:
        """The same as arguments of `Work`."""
        return {"format": self.format, "quality": self.quality, "verify": self.verify}


@dataclass(frozen=True)
class How:
    """How a run works through its images, and where it records them."""

    exclude: Exclude = None
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, help="Pictures in progress at a time. Default: one for each CPU core."
        ),
    ] = None
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option("--engine", help="Where the work runs: on this machine, or on a Ray cluster."),
    ] = "local"
    address: Annotated[
        str | None,
        typer.Option("--address", help="Address of the Ray cluster. Default: a cluster on this machine."),
    ] = None
    manifest: ManifestFile = None

    def chosen_engine(self) -> Engine:
        """Return the engine with its settings.

        Raises:
            UsageError: they contradict each other.
        """
        if self.engine == "ray":
            return functools.partial(run_on_ray, address=self.address, workers=self.workers or 0)
        if self.address is not None:
            raise UsageError("--address needs --engine ray")
        return functools.partial(run_here, workers=self.workers or cpu_threads())


@bulk_app.command("downscale")
@with_options(
    "device", "threads", "precision", "effort", "fast", "memory", "tile", "backend", "exif", "max_pixels"
)
def bulk_downscale_command(
    source: Source,
    target: Target,
    *,
    wanted: Wanted,
    model: Model = None,
    results: Results,
    psnr: Annotated[
        bool, typer.Option("--psnr", help="Also restore each picture, and record its PSNR.")
    ] = False,
    keep_extension: KeepExtension = False,
    overwrite: Overwrite = False,
    how: How,
    showing: Showing,
    options: Options,
) -> None:
    """Shrink every picture below a folder or URL, except small pictures and pictures restored from them.

    The command records its work below the target, in _manifest. To continue after an interruption, run the
    same command again. Pictures whose content has changed are processed again.

    For example:

    ```
    car bulk downscale photos/ small/ --scale 4
    car bulk downscale photos/ thumbnails/ --size 512
    car bulk downscale s3://photos/2026 s3://thumbnails/2026 --scale 4 --format webp
    car bulk downscale /mnt/photos /mnt/small --scale 2 --engine ray --address auto
    ```
    """
    made = results.of_work
    made |= {"psnr": psnr, "keep_extension": keep_extension, "overwrite": overwrite}
    work = Work("downscale", wanted, model, options=options, **made)
    _run(source, target, work, how, showing)


@bulk_app.command("upscale")
@with_options("device", "threads", "precision", "memory", "tile", "backend", "exif", "max_pixels")
def bulk_upscale_command(
    source: Source,
    target: Target,
    scale: Scale = None,
    model: Model = None,
    *,
    results: Results,
    overwrite: Overwrite = False,
    how: How,
    showing: Showing,
    options: Options,
) -> None:
    """Restore every small picture below a folder or URL.

    If you name a scale or a model, pictures without metadata are restored too, unless a small picture lies
    beside them.

    For example:

    ```
    car bulk upscale small/ restored/ --format jpg --quality 92
    ```
    """
    work = Work("upscale", Wanted(scale), model, overwrite=overwrite, options=options, **results.of_work)
    _run(source, target, work, how, showing)


@bulk_app.command("evaluate")
@with_options("device", "threads", "precision", "effort", "fast", "memory", "tile", "backend", "max_pixels")
def bulk_evaluate_command(
    source: Source,
    target: Target,
    scale: Scale = None,
    model: Model = None,
    overwrite: Overwrite = False,
    *,
    how: How,
    showing: Showing,
    options: Options,
) -> None:
    """Measure the round trip of every picture below a folder or URL; the target holds only the records.

    For example:

    ```
    car bulk evaluate photos/ measured/ --scale 4 --manifest measured.parquet
    ```
    """
    work = Work("evaluate", Wanted(scale), model, overwrite=overwrite, options=options)
    _run(source, target, work, how, showing)


def _run(source: str, target: str, work: Work, how: How, showing: Showing) -> None:
    """Plan, work and report; exit with 1 if an image failed."""
    engine = how.chosen_engine()
    export = None
    if how.manifest is not None:
        check_manifest_name(how.manifest)
        if not work.overwrite:
            check_no_other_file(how.manifest)
        export = Export(how.manifest)
    todo = plan(source, target, work, tuple(how.exclude or ()))
    if work.kind != "upscale":
        say_default_scale(work.wanted, work.model, showing)
    with _progress(work.kind, showing.text) as show:

        def tell(record: Record) -> None:
            show(record)
            if export is not None:
                export.add(record)

        told = Told(tell) if export is None else Told(tell, export.add_unchanged, export.add)
        summary = run(todo, engine=engine, told=told)
    if showing.as_json:
        print_json(asdict(summary))
    elif showing.text:
        _print_summary(summary)
    _print_errors(summary)
    if export is not None:  # last, as it may fail
        export.write()
    if not summary.complete:
        raise typer.Exit(1)


def _print_errors(summary: Summary) -> None:
    for record in summary.failures:
        error_line(record.error)
    for problem in summary.problems:
        error_line(problem)
    if summary.failed > len(summary.failures):
        error_line(f"and {summary.failed - len(summary.failures)} more, which the manifest names")
    if summary.stopped:
        error_line(f"{summary.stopped}; stopped; run the same command again to continue")
    elif summary.failed:
        error_line(f"{summary.failed} of {summary.found} pictures failed; the others are done")


def _print_summary(summary: Summary) -> None:
    text = f"{summary.done} done, {summary.unchanged} unchanged, {summary.failed} failed"
    if summary.done and summary.seconds:
        rate, megabytes = summary.done / summary.seconds, summary.source_bytes / summary.seconds / 1e6
        text += f", {rate:.1f} pictures/s, {megabytes:.1f} MB/s, {duration(summary.seconds)}"
    stdout.print(text)
    if summary.target_bytes:
        stdout.print(f"{summary.source_bytes:,} bytes -> {summary.target_bytes:,} bytes")
    print_left_out(summary.left_out)
    if summary.mean_psnr is not None:
        stdout.print(f"mean PSNR {summary.mean_psnr:.2f} dB of {summary.measured} pictures")
    print_notes(dict(sorted(summary.notes.items())))


@contextmanager
def _progress(verb: str, shown: bool) -> Generator[Callable[[Record], None], None, None]:
    """Yield a function that takes in each record; show the progress, in a line a minute if not on a terminal.

    The number of images is unknown until the last one is listed.
    """
    images = size = failed = 0
    said = begin = time.monotonic()
    live = stderr.is_terminal and shown
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=stderr.console, transient=True, disable=not live) as bar:
        task = bar.add_task(verb, total=None)

        def on_record(record: Record) -> None:
            nonlocal images, size, failed, said
            images += 1
            size += record.source_bytes
            failed += record.status == "failed"
            now = time.monotonic()
            if now - said < (0.1 if live else 60):
                return
            said, passed = now, max(now - begin, 1e-9)
            text = f"{images} pictures, {images / passed:.1f} pictures/s, {size / passed / 1e6:.1f} MB/s"
            text += f", {failed} failed" if failed else ""
            if live:
                bar.update(task, description=f"{verb}: {text}")
            elif shown:
                stderr.print(f"car: {text}")

        yield on_record
