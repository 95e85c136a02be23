"""Commands that make pictures: downscale, upscale."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from car.batch.names import Job, Plan, Renamer, check_target, means_folder, plan
from car.cli.common import (
    FileFormat,
    Format,
    Inputs,
    Json,
    Kgn,
    Model,
    Output,
    Overwrite,
    Quiet,
    Scale,
    Usn,
    app,
    chosen_model,
    error_line,
    print_json,
    progress,
    reason,
    stderr,
    stdout,
)
from car.cli.options import with_options
from car.codec.choose import codec_for_picture, open_codec
from car.codec.codec import Codec
from car.codec.coding import coding_of
from car.codec.large import Done, restore_file, shrink_file
from car.codec.options import Options
from car.errors import CarError, ImageError, UsageError
from car.pictures.picture import Picture
from car.pictures.read import read
from car.weights import default_model, list_models


@app.command("downscale")
@with_options("device", "precision", "effort", "memory", "tile", "backend", "max_pixels")
def downscale_command(
    inputs: Inputs,
    output: Output = None,
    scale: Scale = None,
    model: Model = None,
    kgn: Kgn = None,
    usn: Usn = None,
    format: Format = FileFormat.png,
    quality: Annotated[
        int | None, typer.Option("--quality", min=1, max=100, help="Lossy quality of JPEG, WebP and AVIF.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    *,
    options: Options,
) -> None:
    """Shrink images to small ordinary pictures that `car upscale` restores.

    The small file says which weights made it and how large the original was.

    For example:

    ```
    car downscale photo.jpg --scale 4
    car downscale photos/ -o small/ --scale 2 --format webp
    car downscale 'shots/*.tif' -o small/ --model car_plus_x4
    ```
    """
    file = f"x.{format.value}" if output is None or means_folder(output) else output
    options = replace(options, coding=coding_of(file, quality))
    codec = open_codec(chosen_model(model, kgn, usn), scale, options)
    todo = plan(inputs, output, Renamer(f".{format.value}", add=f".x{codec.scale}"))

    def shrink(job: Job) -> dict[str, Any]:
        done = shrink_file(
            codec,
            job.source,
            job.target,
            memory=options.memory or 0,
            max_pixels=options.max_pixels,
            quality=quality,
            overwrite=overwrite,
        )
        return _described(job, done, codec)

    _run(todo, shrink, overwrite=overwrite, as_json=as_json, quiet=quiet, verb="shrinking")


@app.command("upscale")
@with_options("device", "precision", "memory", "tile", "backend", "max_pixels")
def upscale_command(
    inputs: Inputs,
    output: Output = None,
    scale: Scale = None,
    model: Model = None,
    kgn: Kgn = None,
    usn: Usn = None,
    size: Annotated[
        str | None, typer.Option("--size", help="WIDTHxHEIGHT to restore, where the file does not say.")
    ] = None,
    format: Format = FileFormat.png,
    quality: Annotated[
        int | None, typer.Option("--quality", min=1, max=100, help="Lossy quality of JPEG, WebP and AVIF.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    *,
    options: Options,
) -> None:
    """Restore large images from small ones, to the exact size of the original.

    Files made by `car downscale` need no option; for other pictures name a scale or a model. A scale stands
    for `car_codec` where the file is JPEG, AVIF or lossy WebP, and for `car_plus` otherwise.

    For example:

    ```
    car upscale photo.x4.png
    car upscale small/ -o restored/ --format jpg --quality 92
    car upscale thumbnail.png --model car_plus_x4 -o large.png
    ```
    """
    wanted = _parse_size(size)
    named = chosen_model(model, kgn, usn)
    if named is None and scale is not None:
        default_model(scale)  # or it would be found out by every picture
    chosen = None if named is None else open_codec(named, scale, options)
    endings = sorted({f".x{m.scale}" for m in list_models()})
    add = ".restored" if output is None else ""
    todo = plan(inputs, output, Renamer(f".{format.value}", add=add, remove=endings))

    def restore(job: Job) -> dict[str, Any]:
        picture = read(job.source, max_pixels=options.max_pixels)
        codec = chosen or codec_for_picture(picture, scale=scale, options=options)
        _check_restored_pixels(job.source, picture, codec.scale, options.max_pixels)
        done = restore_file(
            codec,
            picture,
            job.target,
            memory=options.memory or 0,
            size=wanted,
            quality=quality,
            overwrite=overwrite,
        )
        return _described(job, replace(done, notes=picture.notes + done.notes), codec)

    _run(todo, restore, overwrite=overwrite, as_json=as_json, quiet=quiet, verb="restoring")


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and len(part) < 10 and int(part) for part in parts):
        raise UsageError(f"--size wants WIDTHxHEIGHT, as 1920x1080, got {text!r}")
    return int(parts[0]), int(parts[1])


def _check_restored_pixels(source: Path, picture: Picture, scale: int, max_pixels: int) -> None:
    pixels = picture.width * picture.height * scale**2
    if pixels > max_pixels:
        raise ImageError(
            f"{source}: restores to {pixels} pixels, over the limit of {max_pixels}; "
            "raise it with --max-pixels"
        )


def _described(job: Job, done: Done, codec: Codec) -> dict[str, Any]:
    return {
        "source_size": list(done.source_size),
        "target_size": list(done.target_size),
        "source_bytes": job.source.stat().st_size,
        "target_bytes": job.target.stat().st_size,
        "model": codec.loaded.name,
        "notes": list(done.notes),
    }


def _run(
    todo: Plan,
    work: Callable[[Job], dict[str, Any]],
    *,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    verb: str,
) -> None:
    """Do every job; report the failed ones at the end and leave with 1 if there are any."""
    results: list[dict[str, Any]] = []
    failures = [{"error": problem} for problem in todo.problems]
    with progress(len(todo.jobs), verb, as_json or quiet or not todo.many) as advance:
        for job in todo.jobs:
            if todo.many and not overwrite and job.target.exists() and not job.target.is_dir():
                results.append({"source": str(job.source), "target": str(job.target), "skipped": "exists"})
                advance()
                continue
            start = time.perf_counter()
            try:
                check_target(job, overwrite)
                done = work(job)
                done["seconds"] = round(time.perf_counter() - start, 3)
                results.append({"source": str(job.source), "target": str(job.target)} | done)
            except (CarError, OSError, MemoryError) as error:
                if isinstance(error, UsageError) and not todo.many:
                    raise
                text = str(error) if isinstance(error, CarError) else reason(error)
                if str(job.source) not in text:
                    text = f"{job.source}: {text}"
                failures.append({"source": str(job.source), "error": text})
            advance()
    if as_json:
        print_json({"results": results, "failures": failures})
    elif not quiet:
        _print_results(results)
    for failure in failures:
        error_line(failure["error"])
    if failures:
        if todo.many:
            error_line(f"{len(failures)} of {len(todo.jobs) + len(todo.problems)} images failed")
        raise typer.Exit(1)


def _print_results(results: list[dict[str, Any]]) -> None:
    skipped = [r for r in results if "skipped" in r]
    for result in results:
        if "skipped" in result:
            continue
        for note in result["notes"]:
            stderr.print(f"car: note: {result['source']}: {note}")
        (width, height), (new_width, new_height) = result["source_size"], result["target_size"]
        stdout.print(
            f"{result['source']} {width}x{height} ({result['source_bytes']:,} bytes) -> {result['target']} "
            f"{new_width}x{new_height} ({result['target_bytes']:,} bytes), {result['seconds']:.1f} s",
        )
    if skipped:
        stdout.print(f"{len(skipped)} skipped: their targets exist; --overwrite does them again")
