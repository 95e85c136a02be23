"""Commands that make pictures: downscale, upscale."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from car.batch.names import RESTORED, Job, Naming, check_target, means_folder, plan
from car.cli.common import (
    Chosen,
    Exclude,
    FileFormat,
    Format,
    Inputs,
    KeepExtension,
    Output,
    Overwrite,
    Quality,
    Showing,
    Shrunk,
    app,
    say_default_scale,
)
from car.cli.jobs import piped, run_jobs
from car.cli.options import with_options
from car.codec.choose import checked_label, codec_for_original, codec_for_picture, open_codec
from car.codec.codec import Codec
from car.codec.coding import coding_of
from car.codec.large import Done, restore_file, shrink_file
from car.codec.options import Options
from car.devices import is_cpu
from car.errors import ImageError, UsageError
from car.measure.goal import Goal
from car.pictures.info import read_header
from car.pictures.picture import Picture
from car.pictures.read import read
from car.scaling import Scale, full_size
from car.weights import default_model

SmallFormat = Annotated[
    FileFormat | None,
    typer.Option(
        "--format",
        "-f",
        help="File format, if --output does not name a file. Default: png, with --max-bytes and the like "
        "the best of avif, webp, jpg and png.",
    ),
]


@app.command("downscale")
@with_options(
    "device", "threads", "precision", "effort", "fast", "memory", "tile", "backend", "exif", "max_pixels"
)
def downscale_command(
    inputs: Inputs,
    output: Output = None,
    *,
    chosen: Shrunk,
    format: SmallFormat = None,
    quality: Quality = None,
    goal: Goal,
    exclude: Exclude = None,
    keep_extension: KeepExtension = False,
    overwrite: Overwrite = False,
    showing: Showing,
    options: Options,
) -> None:
    """Shrink pictures to small ordinary pictures that `car upscale` restores.

    The small file says which weights made it and how large the original was. In a folder, the command leaves
    out small pictures and pictures that were restored from them.

    Small pictures of photographs look like ordinary thumbnails. Those of text, line art and black-and-white
    photographs have coloured fringes, which show when you look at them at twice their size. With
    `--model car_lite_x4` they have none, and restore less detail. Keep small files as they are: resized,
    edited or saved again as JPEG, they restore no better than ordinary thumbnails.

    For example:

    ```
    car downscale photo.jpg                                   # by 4
    car downscale photos/ -o small/ --scale 2 --format webp
    car downscale photos/ -o small/ --size 1024               # the longer side; never enlarges
    car downscale 'shots/*.tif' -o small/ --model car_plus_x4
    car downscale - --scale 4 --format webp < photo.jpg > small.webp
    ```

    Instead of a scale you can name a number of bytes or a quality. The command then makes about ten files of
    different scales, formats and qualities, restores each of them, and keeps the best. That can take
    minutes for a large photograph. SSIMULACRA2 decides, unless you name a PSNR. `--format`, or the suffix of
    `--output`, leaves one format (avif, webp, jpg or png).

    ```
    car downscale photo.jpg --max-bytes 60kB
    car downscale photos/ -o small/ --min-ssimulacra2 70 --format avif
    car downscale photo.jpg -o small.jpg --min-psnr 38
    ```
    """
    if goal.given:
        from car.cli.goals import shrink_to_goal

        return shrink_to_goal(
            inputs,
            output,
            goal,
            chosen=chosen,
            format=format,
            quality=quality,
            exclude=exclude or [],
            keep_extension=keep_extension,
            overwrite=overwrite,
            showing=showing,
            options=options,
        )
    format = format or "png"
    unnamed = output is None or output == "-" or means_folder(output)
    file = f"x.{format}" if unnamed or output is None else output
    options = replace(options, coding=coding_of(file, quality))
    wanted = chosen.wanted
    label = checked_label(wanted, chosen.name, options)
    naming = Naming(f".{format}", add=f".{label}", keeps=keep_extension)

    def shrink(job: Job) -> dict[str, Any]:
        check_target(job, overwrite)
        codec = codec_for_original(read_header(job.source).size, wanted, chosen.name, options)
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

    with piped(inputs, output, naming.suffix, showing) as pipe:
        todo = plan(pipe.inputs, pipe.output, naming, exclude or (), wanted=wanted)
        say_default_scale(wanted, chosen.name, showing)
        run_jobs("shrinking", todo, shrink, pipe, overwrite=overwrite)


@app.command("upscale")
@with_options("device", "threads", "precision", "memory", "tile", "backend", "exif", "max_pixels")
def upscale_command(
    inputs: Inputs,
    output: Output = None,
    *,
    chosen: Chosen,
    size: Annotated[
        str | None,
        typer.Option("--size", help="WIDTHxHEIGHT of the restored picture, if the file has no metadata."),
    ] = None,
    format: Format = "png",
    quality: Quality = None,
    exclude: Exclude = None,
    overwrite: Overwrite = False,
    showing: Showing,
    options: Options,
) -> None:
    """Restore large pictures from small ones, to the exact size of the original.

    Files made by `car downscale` need no option; for other pictures name a scale or a model. A scale alone
    restores a picture only if its pixels look like those of `car_plus`; others are enlarged as ordinary
    thumbnails, and a note says so. If you name neither for a folder, only files made by `car downscale` are
    restored, and the others are counted.

    For example:

    ```
    car upscale photo.x4.png
    car upscale small/ -o restored/ --format jpg --quality 92
    car upscale thumbnail.png --model car_plus_x4 -o large.png
    ```
    """
    wanted = _parse_size(size)
    scale, named = chosen.scale, chosen.name
    if named is None and scale is not None:
        default_model(scale)  # fails here, not once for every picture
    if named is not None:
        open_codec(named, scale, options)  # likewise
    is_cpu(options.device)
    naming = Naming(f".{format}", add=RESTORED if output is None else "", restores=True)

    def restore(job: Job) -> dict[str, Any]:
        picture = read(job.source, max_pixels=options.max_pixels)
        codec = codec_for_picture(picture, model=named, scale=scale, size=wanted, options=options)
        check_target(job, overwrite)
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
        return _described(job, done._replace(notes=picture.notes + done.notes), codec)

    foreign = named is not None or scale is not None
    with piped(inputs, output, naming.suffix, showing) as pipe:
        todo = plan(pipe.inputs, pipe.output, naming, exclude or (), foreign=foreign)
        run_jobs("restoring", todo, restore, pipe, overwrite=overwrite)


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and len(part) < 10 and int(part) for part in parts):
        raise UsageError(f"--size needs WIDTHxHEIGHT, such as 1920x1080, got {text!r}")
    return int(parts[0]), int(parts[1])


def _check_restored_pixels(source: Path, picture: Picture, scale: Scale, max_pixels: int) -> None:
    width, height = full_size((picture.width, picture.height), scale)
    pixels = width * height
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
