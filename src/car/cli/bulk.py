"""Commands for whole folders and buckets: bulk downscale, upscale, evaluate."""

import functools
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from car.batch.local import Engine, Plan, Summary, Work, plan, run, run_here
from car.batch.ray import run_on_ray
from car.batch.records import Record, check_manifest_name, check_no_other_file, export_manifest
from car.cli.common import (
    FileFormat,
    Json,
    Model,
    Overwrite,
    Quiet,
    Scale,
    app,
    duration,
    error_line,
    print_json,
    shown,
    stderr,
    stdout,
)
from car.cli.options import with_options
from car.codec.options import Options
from car.devices import cpu_threads
from car.errors import UsageError
from car.files.places import counted

bulk_app = typer.Typer(
    help="Work through folders and buckets of any size, resumable, in parallel.", no_args_is_help=True
)
app.add_typer(bulk_app, name="bulk")


class EngineName(str, Enum):
    """What hands the images out."""

    local = "local"
    ray = "ray"


Source = Annotated[
    str, typer.Argument(help="A folder, a glob or a URL (s3://bucket/photos, gs://..., memory://...).")
]
Target = Annotated[str, typer.Argument(help="A folder or URL; the tree below the source is kept.")]
FileFormatOption = Annotated[FileFormat, typer.Option("--format", "-f", help="File format of the results.")]
Quality = Annotated[
    int | None, typer.Option("--quality", min=1, max=100, help="Lossy quality of JPEG, WebP and AVIF.")
]
Verify = Annotated[
    bool, typer.Option("--verify", help="Compare the content of what is done, not sizes and times only.")
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Images at a time. Default: one a CPU core.")
]
EngineOption = Annotated[EngineName, typer.Option("--engine", help="This machine, or a Ray cluster.")]
Address = Annotated[
    str | None, typer.Option("--address", help="Of the Ray cluster; without it, one is started here.")
]
ManifestFile = Annotated[
    Path | None,
    typer.Option("--manifest", help="Also write the records of all images to this .jsonl or .parquet file."),
]


@bulk_app.command("downscale")
@with_options("device", "precision", "effort", "memory", "tile", "backend", "max_pixels")
def bulk_downscale_command(
    source: Source,
    target: Target,
    scale: Scale = None,
    model: Model = None,
    format: FileFormatOption = FileFormat.png,
    quality: Quality = None,
    psnr: Annotated[bool, typer.Option("--psnr", help="Also restore and record the PSNR.")] = False,
    overwrite: Overwrite = False,
    verify: Verify = False,
    workers: Workers = None,
    engine: EngineOption = EngineName.local,
    address: Address = None,
    manifest: ManifestFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    *,
    options: Options,
) -> None:
    """Shrink every image below a folder or URL.

    What is done is recorded below the target, in _manifest: run the same command again after an interruption
    and it goes on. Images whose content has changed are done again.

    For example:

    ```
    car bulk downscale photos/ small/ --scale 4
    car bulk downscale s3://photos/2026 s3://thumbnails/2026 --scale 4 --format webp
    car bulk downscale /mnt/photos /mnt/small --scale 2 --engine ray --address auto
    ```
    """
    work = Work(
        "downscale",
        scale,
        model,
        format.value,
        quality,
        psnr,
        overwrite,
        verify,
        options,
    )
    _run(source, target, work, _engine(engine, address, workers), manifest, as_json=as_json, quiet=quiet)


@bulk_app.command("upscale")
@with_options("device", "precision", "memory", "tile", "backend", "max_pixels")
def bulk_upscale_command(
    source: Source,
    target: Target,
    scale: Scale = None,
    model: Model = None,
    format: FileFormatOption = FileFormat.png,
    quality: Quality = None,
    overwrite: Overwrite = False,
    verify: Verify = False,
    workers: Workers = None,
    engine: EngineOption = EngineName.local,
    address: Address = None,
    manifest: ManifestFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    *,
    options: Options,
) -> None:
    """Restore every small picture below a folder or URL.

    For example:

    ```
    car bulk upscale small/ restored/ --format jpg --quality 92
    ```
    """
    work = Work(
        "upscale",
        scale,
        model,
        format.value,
        quality,
        False,
        overwrite,
        verify,
        options,
    )
    _run(source, target, work, _engine(engine, address, workers), manifest, as_json=as_json, quiet=quiet)


@bulk_app.command("evaluate")
@with_options("device", "precision", "effort", "memory", "tile", "backend", "max_pixels")
def bulk_evaluate_command(
    source: Source,
    target: Target,
    scale: Scale = None,
    model: Model = None,
    overwrite: Overwrite = False,
    workers: Workers = None,
    engine: EngineOption = EngineName.local,
    address: Address = None,
    manifest: ManifestFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    *,
    options: Options,
) -> None:
    """Measure the round trip of every image below a folder or URL; the target holds nothing but the records.

    For example:

    ```
    car bulk evaluate photos/ measured/ --scale 4 --manifest measured.parquet
    ```
    """
    work = Work(
        "evaluate",
        scale,
        model,
        overwrite=overwrite,
        options=options,
    )
    _run(source, target, work, _engine(engine, address, workers), manifest, as_json=as_json, quiet=quiet)


def _engine(name: EngineName, address: str | None, workers: int | None) -> Engine:
    if name is EngineName.ray:
        return functools.partial(run_on_ray, address=address, workers=workers or 0)
    if address is not None:
        raise UsageError("--address goes with --engine ray")
    return functools.partial(run_here, workers=workers or cpu_threads())


def _run(
    source: str,
    target: str,
    work: Work,
    engine: Engine,
    manifest: Path | None,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Plan, work, report; leave with 1 where an image failed."""
    if manifest is not None:
        check_manifest_name(manifest)
        if not work.overwrite:
            check_no_other_file(manifest)
    todo = plan(source, target, work)
    with _progress(todo, as_json or quiet) as on_record:
        summary, records = run(todo, engine=engine, on_record=on_record)
    if as_json:
        print_json(asdict(summary))
    elif not quiet:
        _print_summary(summary, records)
    for record in summary.failures:
        error_line(record.error)
    if summary.stopped:
        error_line(f"{summary.stopped}; stopped, run the same command again to go on")
    elif summary.failed:
        error_line(f"{summary.failed} of {summary.found} images failed; the others are done")
    if manifest is not None:  # last, as it may fail
        export_manifest(records, manifest)
    if summary.stopped or summary.failed:
        raise typer.Exit(1)


def _print_summary(summary: Summary, records: list[Record]) -> None:
    done = [record for record in records if record.status == "done"]
    text = f"{summary.done} done, {summary.unchanged} unchanged, {summary.failed} failed"
    if summary.done and summary.seconds:
        rate, megabytes = summary.done / summary.seconds, summary.source_bytes / summary.seconds / 1e6
        text += f", {rate:.1f} images/s, {megabytes:.1f} MB/s, {duration(summary.seconds)}"
    stdout.print(text)
    if summary.target_bytes:
        stdout.print(f"{summary.source_bytes:,} bytes -> {summary.target_bytes:,} bytes")
    if summary.left_out:
        stdout.print(counted(summary.left_out))
    measured = [record.psnr for record in done if record.psnr is not None]
    if measured:
        stdout.print(f"mean PSNR {sum(measured) / len(measured):.2f} dB of {len(measured)} images")
    notes = {note for record in done for note in record.notes}
    for note in sorted(notes):
        count = sum(note in record.notes for record in done)
        stderr.print(f"car: note: {shown(note)} ({count} images)")


@contextmanager
def _progress(todo: Plan, hidden: bool) -> Generator[Callable[[Record], None], None, None]:
    """Show a bar on a terminal, a line a minute elsewhere; give the function that takes in a record."""
    total, state = len(todo.items), {"images": 0, "bytes": 0, "failed": 0}
    begin = time.monotonic()
    columns: Any = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    live = stderr.is_terminal and not hidden
    with Progress(*columns, console=stderr, transient=True, disable=not live) as bar:
        task = bar.add_task(todo.work.kind, total=total, rate="")
        said = begin

        def on_record(record: Record) -> None:
            nonlocal said
            state["images"] += 1
            state["bytes"] += record.source_bytes
            state["failed"] += record.status == "failed"
            passed = max(time.monotonic() - begin, 1e-9)
            images, megabytes = state["images"] / passed, state["bytes"] / passed / 1e6
            rate = f"{images:.1f} images/s, {megabytes:.1f} MB/s"
            bar.update(task, advance=1, rate=rate)
            if not live and not hidden and time.monotonic() - said > 60:
                said = time.monotonic()
                left = duration((total - state["images"]) / images)
                stderr.print(f"car: {state['images']} of {total}, {rate}, {left} left")

        yield on_record
