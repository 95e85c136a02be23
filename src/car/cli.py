"""The command line: options in, calls to the library, results and exit codes out.

Exit codes: 0 all done, 1 something could not be done, 2 the request makes no sense, 130 interrupted.
"""

import csv
import inspect
import io
import json
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from car import evaluate as evaluation
from car import train as training
from car._version import __version__
from car.codec import DEFAULT_TILE, Codec, codec_for_picture, open_codec
from car.data import TRAINING_SETS, find_training_set
from car.errors import CarError, ImageError, UsageError
from car.files import Job, Plan, Renamer, check_target, find_images, means_folder, plan
from car.images import DEFAULT_MAX_PIXELS, Picture, atomic_write, from_pil, inspect_info, read, write
from car.inspection import inspect_kernels, kernels_picture
from car.recipes import RECIPES, Recipe, recipe_for, settings
from car.report import Caption, comparison_picture
from car.runlog import CURVES, read_log
from car.trainer import STATE, RunPlan
from car.trainer import Progress as TrainingProgress
from car.weights import list_models, manifest


def _hyphens(option: str) -> str:
    """Accept options as the MindSpore code spells them, with underscores."""
    return option.replace("_", "-")


app = typer.Typer(
    name="car",
    context_settings={"token_normalize_func": _hyphens},
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Shrink photographs to small ordinary pictures that restore far better than thumbnails.",
)
# file names are no markup
_out = Console(soft_wrap=True, markup=False, emoji=False)
_err = Console(stderr=True, soft_wrap=True, markup=False, emoji=False)


class _Format(str, Enum):
    png = "png"
    webp = "webp"
    tiff = "tiff"
    avif = "avif"
    jpg = "jpg"
    bmp = "bmp"


Inputs = Annotated[list[str], typer.Argument(help="Image files, folders (searched recursively) or globs.")]
Output = Annotated[
    str | None,
    typer.Option("--output", "-o", help="A file (for one input) or a folder. Default: beside each input."),
]
Scale = Annotated[int | None, typer.Option("--scale", "-s", help="2 or 4; picks the default model.")]
Model = Annotated[
    str | None, typer.Option("--model", "-m", help="Model name, tag or .safetensors file; see `car models`.")
]
Format = Annotated[_Format, typer.Option("--format", "-f", help="File format where --output names no file.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps, ...")]
Tile = Annotated[
    int, typer.Option("--tile", min=16, help="LR pixels a side processed at once; less needs less memory.")
]
MaxPixels = Annotated[
    int, typer.Option("--max-pixels", min=1, help="Refuse larger images (guards against bombs).")
]
Json = Annotated[bool, typer.Option("--json", help="Print the results as JSON on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        _out.print(f"car {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, help="CPU threads of the networks.", envvar="CAR_THREADS"),
    ] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and leave.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    if threads:
        torch.set_num_threads(threads)


@app.command("downscale")
def downscale_command(
    inputs: Inputs,
    output: Output = None,
    scale: Scale = None,
    model: Model = None,
    format: Format = _Format.png,
    quality: Annotated[
        int | None, typer.Option("--quality", min=1, max=100, help="Lossy quality of JPEG, WebP and AVIF.")
    ] = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    tile: Tile = DEFAULT_TILE,
    max_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    as_json: Json = False,
    quiet: Quiet = False,
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
    codec = open_codec(model, scale, device=device, tile=tile)
    todo = plan(inputs, output, Renamer(f".{format.value}", add=f".x{codec.scale}"))

    def shrink(job: Job) -> dict[str, Any]:
        picture = read(job.source, max_pixels=max_pixels)
        small, info = codec.shrink(picture)
        notes = picture.notes + write(job.target, small, info=info, quality=quality, overwrite=overwrite)
        return _sizes(job, picture, small) | {"model": codec.loaded.name, "notes": list(notes)}

    _run(todo, shrink, overwrite=overwrite, as_json=as_json, quiet=quiet, verb="shrinking")


@app.command("upscale")
def upscale_command(
    inputs: Inputs,
    output: Output = None,
    scale: Scale = None,
    model: Model = None,
    size: Annotated[
        str | None, typer.Option("--size", help="WIDTHxHEIGHT to restore, where the file does not say.")
    ] = None,
    format: Format = _Format.png,
    quality: Annotated[
        int | None, typer.Option("--quality", min=1, max=100, help="Lossy quality of JPEG, WebP and AVIF.")
    ] = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    tile: Tile = DEFAULT_TILE,
    max_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Restore large images from small ones, to the exact size of the original.

    Files made by `car downscale` need no option; for other pictures name a scale or a model.

    For example:

    ```
    car upscale photo.x4.png
    car upscale small/ -o restored/ --format jpg --quality 92
    car upscale thumbnail.png --model car_plus_x4 -o large.png
    ```
    """
    wanted = _parse_size(size)
    asked = model is not None or scale is not None
    chosen = open_codec(model, scale, device=device, tile=tile) if asked else None
    codecs: dict[tuple[str, str], Codec] = {}
    endings = sorted({f".x{m.scale}" for m in list_models()})
    add = ".restored" if output is None else ""
    todo = plan(inputs, output, Renamer(f".{format.value}", add=add, remove=endings))

    def codec_of(picture: Picture) -> Codec:
        info = picture.info
        if info is None or model is not None or scale not in (None, info.scale):
            return chosen or codec_for_picture(picture)
        key = (info.model, info.weights)
        if key not in codecs:
            codecs[key] = codec_for_picture(picture, device=device, tile=tile)
        return codecs[key]

    def restore(job: Job) -> dict[str, Any]:
        picture = read(job.source, max_pixels=max_pixels)
        codec = codec_of(picture)
        _check_restored_pixels(job.source, picture, codec.scale, max_pixels)
        large = codec.restore(picture, wanted)
        notes = picture.notes + large.notes + write(job.target, large, quality=quality, overwrite=overwrite)
        return _sizes(job, picture, large) | {"model": codec.loaded.name, "notes": list(notes)}

    _run(todo, restore, overwrite=overwrite, as_json=as_json, quiet=quiet, verb="restoring")


@app.command("compare")
def compare_command(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            help="A folder for small picture, restored picture and comparison, or a picture file.",
        ),
    ] = "comparison.png",
    scale: Scale = None,
    model: Model = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    tile: Tile = DEFAULT_TILE,
    max_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Shrink and restore one image, measure it against bicubic and draw the comparison.

    The image is taken as 8-bit RGB and cropped to multiples of 8, as in the published tables.

    For example:

    ```
    car compare photo.jpg --scale 4
    car compare photo.png --model car_plus_x2 -o out/
    ```
    """
    codec = open_codec(model, scale, device=device, tile=tile)
    if not image.is_file():
        raise UsageError(
            f"{image}: {'is a folder; compare takes one image' if image.is_dir() else 'no such file'}"
        )
    folder, place = means_folder(output), Path(output)
    stem = image.stem
    names = {
        "comparison": place / f"{stem}.comparison.png" if folder else place,
        **(
            {"small": place / f"{stem}.x{codec.scale}.png", "restored": place / f"{stem}.restored.png"}
            if folder
            else {}
        ),
    }
    for target in names.values():
        check_target(Job(image, target), overwrite)
    trip = evaluation.round_trip(codec, image, max_pixels=max_pixels)
    record = trip.record
    if folder:
        info = codec.info(record.width, record.height)
        write(names["small"], Picture(trip.lr, None, False, None, None, ()), info=info)
        write(names["restored"], Picture(trip.restored, None, False, None, None, ()))
    bytes_of = {name: path.stat().st_size for name, path in names.items() if path.exists() and folder}
    ours, theirs = record.model, record.bicubic
    picture = comparison_picture(
        trip.hr,
        trip.lr,
        trip.bicubic,
        trip.restored,
        (
            Caption("Original"),
            Caption("Small picture"),
            Caption("Bicubic, from a bicubic small picture", f"{theirs.psnr:.2f} dB, SSIM {theirs.ssim:.4f}"),
            Caption(f"{codec.loaded.name}", f"{ours.psnr:.2f} dB, SSIM {ours.ssim:.4f}"),
        ),
    )
    write(names["comparison"], from_pil(picture))
    files = {name: str(path) for name, path in names.items()}
    if as_json:
        source = {
            "source": str(image),
            "source_bytes": image.stat().st_size,
            "bytes": bytes_of,
            "files": files,
        }
        _print_json(record.to_dict() | source | {"name": codec.loaded.name, "scale": codec.scale})
        return
    if quiet:
        return
    _out.print(
        _quality_table(f"{image.name}, {record.width}x{record.height}", codec.loaded.name, ours, theirs)
    )
    _out.print(f"original: {image.stat().st_size:,} bytes")
    for name, path in names.items():
        _out.print(f"{name}: {path} ({path.stat().st_size:,} bytes)")


@app.command("evaluate")
def evaluate_command(
    inputs: Annotated[list[str] | None, typer.Argument(help="Image files, folders or globs.")] = None,
    scale: Scale = None,
    model: Model = None,
    img_dir: Annotated[
        Path | None,
        typer.Option("--img-dir", help="Data folder with the usual test sets.", envvar="CAR_DATA"),
    ] = None,
    target_dataset: Annotated[
        str | None,
        typer.Option(
            "--target-dataset",
            help=f"Test set below --img-dir: {', '.join(evaluation.DATASETS)}.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write all records to this .json or .csv file.")
    ] = None,
    device: Annotated[
        str,
        typer.Option("--device", "--device-target", help="auto, cpu, cuda, cuda:1, mps, ..."),
    ] = "auto",
    tile: Tile = DEFAULT_TILE,
    max_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure round trips by the protocol of the published tables, beside bicubic down + bicubic up.

    PSNR and SSIM are on luma, with as many pixels shaved on each side as the scale.

    For example:

    ```
    car evaluate Set5/ --scale 4
    car evaluate --img-dir datasets --target-dataset Set14 --scale 2 -o set14.json
    ```
    """
    if output is not None and output.suffix not in (".json", ".csv"):
        raise UsageError(f"{output}: records are written as .json or .csv")
    if target_dataset:
        if inputs:
            raise UsageError("give either inputs or --target-dataset")
        inputs = [str(evaluation.find_dataset(img_dir or Path("datasets"), target_dataset))]
    if not inputs:
        raise UsageError("name images or folders, or a test set with --img-dir and --target-dataset")
    if output is not None:
        check_target(Job(Path(inputs[0]), output), overwrite)
    codec = open_codec(model, scale, device=device, tile=tile)
    files = [path for path, _ in find_images(inputs)[0]]
    records: list[evaluation.ImageRecord] = []
    failures: list[dict[str, str]] = []
    with _progress(len(files), "measuring", as_json or quiet) as advance:
        for path in files:
            try:
                records.append(evaluation.round_trip(codec, path, max_pixels=max_pixels).record)
            except CarError as error:
                failures.append({"source": str(path), "error": str(error)})
            advance()
    result = evaluation.summary(
        records, model=codec.loaded.name, weights=codec.loaded.short_hash, scale=codec.scale
    )
    result["failures"] = failures
    if output:
        atomic_write(
            output, _csv(records) if output.suffix == ".csv" else json.dumps(result, indent=1).encode()
        )
    if as_json:
        _print_json(result)
    elif records and not quiet:
        ours = evaluation.mean_quality(r.model for r in records)
        theirs = evaluation.mean_quality(r.bicubic for r in records)
        if len(records) <= 20:
            _out.print(_per_image_table(records))
        title = f"{target_dataset or inputs[0]}: mean of {len(records)} images, {codec.scale}x"
        _out.print(_quality_table(title, codec.loaded.tag or codec.loaded.name, ours, theirs))
    for failure in failures:
        _error(failure["error"])
    if failures:
        raise typer.Exit(1)


@app.command("models")
def models_command(as_json: Json = False) -> None:
    """List the models, their shipped weights and what they measure."""
    if as_json:
        _print_json(
            {"models": [asdict(m) for m in list_models()], "weights": [asdict(e) for e in manifest()]}
        )
        return
    table = Table(
        "model", "scale", "weights", "parameters", "Set5", "Set14", "BSDS100", title="PSNR in dB on luma"
    )
    entries = {entry.tag: entry for entry in manifest()}
    for model in list_models():
        if not model.tags:
            table.add_row(model.name, f"{model.scale}x", "none yet", "", "", "", "")
        for tag in model.tags:
            entry = entries[tag]
            values = [
                f"{entry.metrics[s]['psnr']:.2f}" if s in entry.metrics else ""
                for s in ("Set5", "Set14", "BSDS100")
            ]
            table.add_row(model.name, f"{model.scale}x", tag, f"{entry.parameters:,}", *values)
    _out.print(table)


@app.command("info")
def info_command(
    image: Annotated[Path, typer.Argument(help="An image file.")], as_json: Json = False
) -> None:
    """Show what a small picture says about itself: model, weights, scale and original size."""
    info = inspect_info(image)
    if as_json:
        _print_json(None if info is None else asdict(info))
    elif info is None:
        _out.print(f"{image}: not made by `car downscale`, or its metadata was lost")
    else:
        _out.print(
            f"{image}: made by {info.model} (weights {info.weights or 'unknown'}) at {info.scale}x "
            f"from {info.size[0]}x{info.size[1]}",
        )


inspect_app = typer.Typer(help="Look inside a model.", no_args_is_help=True)
app.add_typer(inspect_app, name="inspect")


@inspect_app.callback()
def _inspect() -> None:
    """Look inside a model."""


@inspect_app.command("kernels")
def inspect_kernels_command(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    model: Annotated[
        str,
        typer.Option("--model", "-m", help="Of family car or car_lite: name, tag or .safetensors file."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture to write.")] = Path(
        "kernels.png"
    ),
    overwrite: Overwrite = False,
    device: Device = "auto",
    max_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    as_json: Json = False,
) -> None:
    """Show the kernels and offsets with which a model resamples the middle of an image.

    For example:

    ```
    car inspect kernels photo.jpg --model runs/small/model.safetensors -o kernels.png
    ```
    """
    check_target(Job(image, output), overwrite)
    codec = open_codec(model, None, device=device)
    statistics, view = inspect_kernels(codec, image, max_pixels=max_pixels)
    write(output, from_pil(kernels_picture(view, statistics)), overwrite=overwrite)
    if as_json:
        _print_json(asdict(statistics) | {"picture": str(output)})
        return
    table = Table("of kernels and offsets", "", title=f"{image.name}, {statistics.model}; HR pixels")
    x, y = statistics.mean_offset
    table.add_row("mean offset, x and y", f"{x:+.4f}, {y:+.4f}")
    table.add_row("mean length of an offset", f"{statistics.mean_length:.4f}")
    table.add_row("the same, weighted by the kernel", f"{statistics.weighted_length:.4f}")
    table.add_row("longest offset", f"{statistics.largest:.4f}")
    table.add_row("mean change to the next LR pixel", f"{statistics.roughness:.4f}")
    table.add_row("deviation of the sampling pattern", f"{statistics.width:.4f}")
    table.add_row("negative share of the weights", f"{statistics.negative:.4f}")
    _out.print(table)
    _out.print(f"picture: {output}")


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command`, which takes the settings of a recipe as keywords, an option for each of them."""
    named = inspect.signature(command).parameters.values()
    own = [p for p in named if p.kind is not inspect.Parameter.VAR_KEYWORD]
    added: list[inspect.Parameter] = []
    for name, (kind, text, flags) in settings().items():
        flag = f"--{name.replace('_', '-')}"
        many, choice = name == "hold_out", name == "orientations"
        annotation: Any = list[str] if many else int if choice else kind
        names = (f"{flag}/--no-{flag[2:]}",) if kind is bool else (flag, *flags)
        option = typer.Option(*names, help=text, rich_help_panel="Settings, where not as in the recipe")
        added.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[annotation | None, option],
            )
        )
    command.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    return command


@app.command("train")
@_with_settings
def train_command(
    model: Annotated[
        str | None,
        typer.Argument(help=f"{', '.join(RECIPES)}. Default: the published recipe of --scale, `car_xS`."),
    ] = None,
    *,
    scale: Scale = None,
    data: Annotated[
        list[Path] | None, typer.Option("--data", "-d", help="Folder of images; may be given repeatedly.")
    ] = None,
    image_path: Annotated[
        Path | None,
        typer.Option(
            "--image-path", help="Instead of --data: the folder that holds DIV2K/.", envvar="CAR_DATA"
        ),
    ] = None,
    target_dataset: Annotated[
        str, typer.Option("--target-dataset", help=f"With --image-path: {', '.join(TRAINING_SETS)}.")
    ] = "DIV2KHR",
    valid: Annotated[
        Path | None,
        typer.Option("--valid", help="Folder of images to validate on. Default: some are held out."),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", "--checkpoint-path", help="Folder of the run; an unfinished run goes on."
        ),
    ] = Path("checkpoint"),
    cache: Annotated[
        Path | None, typer.Option(help="Folder for decoded pixels. Default: inside --out.")
    ] = None,
    device: Annotated[
        str, typer.Option("--device", "--device-target", help="auto, cpu, cuda, npu or mps.")
    ] = "auto",
    workers: Annotated[
        int, typer.Option(min=0, help="Threads that decode images and cut crops ahead of the training.")
    ] = 1,
    save_seconds: Annotated[
        float, typer.Option(min=0, help="Seconds between two writings of the state.")
    ] = 60.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done, timed on a few steps, and stop.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    **changes: Any,
) -> None:
    """Train a model on a folder of images; stop and resume it at will.

    Run the same command again to go on after an interrupt. The weights are `model.safetensors` in the
    run's folder, usable as --model everywhere; `tensorboard --logdir FOLDER` shows the run.

    For example:

    ```
    car train car_plus_x4 --data photos/ --out runs/x4 --minutes 40
    car train --scale 4 --image-path datasets --dry-run
    car train car_plus_x4 --data photos/ --out runs/fine --init car_plus_x4 --lr 2e-4 --minutes 5
    torchrun --nproc-per-node 8 -m car train car_x4 --image-path datasets --out runs/published
    ```
    """
    if model is None:
        if scale is None:
            raise UsageError("name a model, or --scale for the published recipe")
        model = f"car_x{scale}"
    hold_out = changes.pop("hold_out", None)
    recipe = recipe_for(model, hold_out=tuple(hold_out) if hold_out else None, **changes)
    if scale is not None and not model.endswith(f"_x{scale}"):
        raise UsageError(f"{model} is not a model of scale {scale}")
    if not data:
        if image_path is None:
            raise UsageError("name a folder of images with --data, or the folder of DIV2K/ with --image-path")
        data, valid = find_training_set(image_path, target_dataset, valid)
    hidden = quiet or as_json
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        console=_err,
        disable=hidden or not _err.is_terminal,
    )
    decoding = bar.add_task("reading images", total=None)

    def on_decode(done: int, total: int) -> None:
        bar.update(decoding, completed=done, total=total)

    def on_note(line: str) -> None:
        bar.console.print(f"car: note: {' '.join(line.split())}")

    place: dict[str, Any] = {
        "valid": valid,
        "cache": cache,
        "device": device,
        "workers": workers,
        "on_decode": on_decode,
        "on_note": on_note,
    }
    if dry_run:
        with bar:
            found = training.plan_run(recipe, data, out, **place)
        _print_plan(recipe, found, as_json)
        return
    running = bar.add_task("training", total=1, visible=False)
    newest = ""

    def on_progress(state: TrainingProgress) -> None:
        nonlocal newest
        bar.update(decoding, visible=False)
        if state.psnr is not None:
            newest = f", {state.psnr:.2f} dB"
            if not hidden:
                bar.console.print(
                    f"{state.seconds / 60:.1f} min, step {state.step}: loss {state.loss:.4f}, "
                    f"validation PSNR {state.psnr:.2f} dB, LR to bicubic {state.lr_psnr:.2f} dB"
                )
        speed = f"{state.images_per_second:.1f} images/s"
        text = f"step {state.step}, loss {state.loss:.4f}{newest}, {speed}"
        bar.update(running, visible=True, completed=state.done, description=text)

    try:
        with bar:
            path = training.train(
                recipe, data, out, save_seconds=save_seconds, on_progress=on_progress, **place
            )
    except KeyboardInterrupt:
        if (out / STATE).exists():
            _error(f"the state is saved in {out}; the same command goes on from there")
        raise
    if os.environ.get("RANK", "0") != "0":
        return  # the first process speaks for all
    if as_json:
        _print_json({"weights": str(path), "log": read_log(out)})
    elif not quiet:
        _out.print(f"weights: {path}; curves: {out / CURVES}")


def _print_plan(recipe: Recipe, found: RunPlan, as_json: bool) -> None:
    if os.environ.get("RANK", "0") != "0":
        return
    if as_json:
        _print_json({"recipe": asdict(recipe), "plan": asdict(found)})
        return
    table = Table("setting", "value", title=f"{recipe.model}: the recipe", title_justify="left")
    for name, value in asdict(recipe).items():
        table.add_row(name, ", ".join(value) if isinstance(value, tuple) else str(value))
    _out.print(table)
    _out.print(
        f"{found.images} images to train on, {found.validation_images} to validate on\n"
        f"{found.downscaler_parameters:,} + {found.upscaler_parameters:,} parameters to train "
        "(downscaler + upscaler)\n"
        f"{found.processes} process(es) on {found.device}; {found.epoch_steps} steps an epoch\n"
        f"{found.steps:,} steps of {found.step_seconds:.3g} s: about {_duration(found.seconds)}"
    )


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def main() -> None:
    """Run the command line and leave with its exit code; every failure is one line on standard error."""
    sys.exit(_main())


def _main() -> int:
    # without any handler, Python prints what decoders log about damaged files
    logging.getLogger().addHandler(logging.NullHandler())
    # and what they warn of; only here, as the filters belong to the whole process
    warnings.filterwarnings("ignore", module=r"(PIL|tifffile|imagecodecs)\b")
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # file names may be no valid text
        code = typer.main.get_command(app).main(standalone_mode=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        # the reader of our output left; nothing more can be said to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UsageError as error:
        return _fail(str(error), 2)
    except CarError as error:
        return _fail(str(error), 1)
    except (OSError, MemoryError) as error:
        return _fail(f"{getattr(error, 'filename', None) or ''} {_reason(error)}".strip(), 1)
    except typer.Abort:
        return _fail("interrupted", 130)
    except Exception as error:
        # typer brings its own copy of click from 0.20 on, so the class of its errors has no stable name
        message: Callable[[], str] | None = getattr(error, "format_message", None)
        if message is not None:
            return _fail(message(), 2) if message() else 2
        if os.environ.get("CAR_DEBUG"):
            raise
        return _fail(f"internal error: {type(error).__name__}: {error}; CAR_DEBUG=1 shows where", 1)
    # typer turns an interrupt into this exit code without a word
    return _fail("interrupted", 130) if code == 130 else code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    _error(message)
    return code


def _error(message: str) -> None:
    _err.print(f"car: {' '.join(message.split())}")


def _reason(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "not enough memory; a smaller --tile needs less"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


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


def _sizes(job: Job, source: Picture, target: Picture) -> dict[str, Any]:
    return {
        "source_size": [source.width, source.height],
        "target_size": [target.width, target.height],
        "source_bytes": job.source.stat().st_size,
        "target_bytes": job.target.stat().st_size,
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
    with _progress(len(todo.jobs), verb, as_json or quiet or not todo.many) as advance:
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
                text = str(error) if isinstance(error, CarError) else f"{job.source}: {_reason(error)}"
                failures.append({"source": str(job.source), "error": text})
            advance()
    if as_json:
        _print_json({"results": results, "failures": failures})
    elif not quiet:
        _print_results(results)
    for failure in failures:
        _error(failure["error"])
    if failures:
        if todo.many:
            _error(f"{len(failures)} of {len(todo.jobs) + len(todo.problems)} images failed")
        raise typer.Exit(1)


def _print_results(results: list[dict[str, Any]]) -> None:
    skipped = [r for r in results if "skipped" in r]
    for result in results:
        if "skipped" in result:
            continue
        for note in result["notes"]:
            _err.print(f"car: note: {result['source']}: {note}")
        (width, height), (new_width, new_height) = result["source_size"], result["target_size"]
        _out.print(
            f"{result['source']} {width}x{height} ({result['source_bytes']:,} bytes) -> {result['target']} "
            f"{new_width}x{new_height} ({result['target_bytes']:,} bytes), {result['seconds']:.1f} s",
        )
    if skipped:
        _out.print(f"{len(skipped)} skipped: their targets exist; --overwrite does them again")


@contextmanager
def _progress(total: int, verb: str, hidden: bool) -> Generator[Callable[[], None], None, None]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_err, transient=True, disable=hidden or not _err.is_terminal) as bar:
        task = bar.add_task(verb, total=total)
        yield lambda: bar.advance(task)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=1, allow_nan=False) + "\n")


def _csv(records: Iterable[evaluation.ImageRecord]) -> bytes:
    text = io.StringIO()
    writer: Any = None
    for record in records:
        nested = record.to_dict()
        row = {key: nested[key] for key in ("name", "width", "height")}
        row |= {
            f"{side}_{key}": value for side in ("model", "bicubic") for key, value in nested[side].items()
        }
        if writer is None:
            writer = csv.DictWriter(text, list(row))
            writer.writeheader()
        writer.writerow(row)
    return text.getvalue().encode()


def _quality_table(title: str, name: str, ours: evaluation.Quality, theirs: evaluation.Quality) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("", name, "bicubic"):
        table.add_column(column, justify="right" if column else "left")
    for label, key, form in (
        ("PSNR, dB", "psnr", ".2f"),
        ("SSIM", "ssim", ".4f"),
        ("PSNR of RGB, dB", "psnr_rgb", ".2f"),
        ("small picture to bicubic, dB", "lr_psnr", ".2f"),
        ("the same on RGB, dB", "lr_psnr_rgb", ".2f"),
        ("small PNG, bytes per HR pixel", "lr_bytes", ".3f"),
        ("shrinking, s", "downscale_seconds", ".2f"),
        ("restoring, s", "upscale_seconds", ".2f"),
    ):
        values = [getattr(quality, key) for quality in (ours, theirs)]
        table.add_row(label, *("equal" if math.isinf(v) else format(v, form) for v in values))
    return table


def _per_image_table(records: Iterable[evaluation.ImageRecord]) -> Table:
    table = Table("image", "size", "PSNR dB", "SSIM", "bicubic dB", "bicubic SSIM")
    for r in records:
        table.add_row(
            r.name,
            f"{r.width}x{r.height}",
            f"{r.model.psnr:.2f}",
            f"{r.model.ssim:.4f}",
            f"{r.bicubic.psnr:.2f}",
            f"{r.bicubic.ssim:.4f}",
        )
    return table


if __name__ == "__main__":
    main()
