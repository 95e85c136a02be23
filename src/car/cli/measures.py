"""Commands that measure: compare, evaluate."""

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from car.batch.loop import Failure, each
from car.batch.names import Job, check_target, find_images, means_folder
from car.cli.common import (
    Chosen,
    DeviceId,
    Overwrite,
    Showing,
    Shrunk,
    app,
    chosen_device,
    leave_if,
    print_json,
    print_left_out,
    progress,
    say_default_scale,
    shown,
    stdout,
)
from car.cli.options import with_options
from car.cli.sources import ToMeasure
from car.codec.choose import checked_label, codec_for_original, open_codec
from car.codec.codec import Codec
from car.codec.options import Options
from car.errors import UsageError
from car.files.atomic import atomic_write
from car.measure import evaluate as evaluation
from car.measure.comparison import Caption, comparison_picture
from car.pictures.info import read_header
from car.pictures.picture import Picture
from car.pictures.read import from_pil
from car.pictures.write import write
from car.scaling import Wanted

_ROWS = (
    ("PSNR, luma, dB", "psnr", ".2f"),
    ("SSIM, luma", "ssim", ".4f"),
    ("PSNR, RGB, dB", "psnr_rgb", ".2f"),
    ("PSNR, Cb, dB", "psnr_cb", ".2f"),
    ("PSNR, Cr, dB", "psnr_cr", ".2f"),
    ("SSIMULACRA2", "ssimulacra2", ".1f"),
    ("CIEDE2000, mean", "ciede2000", ".2f"),
    ("small picture to bicubic: luma, dB", "lr_psnr", ".2f"),
    ("the same: RGB, dB", "lr_psnr_rgb", ".2f"),
    ("the same: SSIMULACRA2", "lr_ssimulacra2", ".1f"),
    ("small picture as PNG, bytes", "lr_png", ",.0f"),
    ("the same as lossless WebP", "lr_webp", ",.0f"),
    ("shrinking, s", "downscale_seconds", ".2f"),
    ("restoring, s", "upscale_seconds", ".2f"),
)
"""The measures of a round trip that are printed: label, field of `Quality`, format."""


@app.command("compare")
@with_options("device", "threads", "precision", "effort", "fast", "tile", "backend", "max_pixels")
def compare_command(
    image: Annotated[Path, typer.Argument(metavar="PICTURE", help="A picture file.")],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            help="A file for the comparison picture, or a folder for all three pictures.",
        ),
    ] = "comparison.png",
    *,
    chosen: Shrunk,
    overwrite: Overwrite = False,
    showing: Showing,
    options: Options,
) -> None:
    """Shrink and restore one picture, compare the measures with bicubic, and draw a comparison picture.

    The picture is taken as 8-bit RGB and cropped to multiples of 8, as in the published tables.

    For example:

    ```
    car compare photo.jpg --scale 4
    car compare photo.png --model car_plus_x2 -o out/
    ```
    """
    label = checked_label(chosen.wanted, chosen.name, options)
    say_default_scale(chosen.wanted, chosen.name, showing)
    if not image.is_file():
        raise UsageError(
            f"{image}: {'is a folder; compare takes one picture' if image.is_dir() else 'no such file'}"
        )
    codec = codec_for_original(read_header(image).size, chosen.wanted, chosen.name, options)
    files = _compared_files(image, output, label)
    for target in files.values():
        check_target(Job(image, target), overwrite)
    trip = evaluation.round_trip(codec, image, max_pixels=options.max_pixels)
    record = trip.record
    if "small" in files:
        info = codec.info(record.width, record.height)
        write(files["small"], Picture(trip.lr, None, False, None, None, ()), info=info)
        write(files["restored"], Picture(trip.restored, None, False, None, None, ()))
    write(files["comparison"], _comparison(trip, codec))
    sizes = {name: path.stat().st_size for name, path in files.items()}
    if showing.as_json:
        source: dict[str, Any] = {"source": str(image), "source_bytes": image.stat().st_size}
        source |= {"bytes": sizes, "files": {name: str(path) for name, path in files.items()}}
        print_json(record.to_dict() | source | {"name": codec.loaded.name, "scale": codec.scale})
    elif showing.text:
        title = f"{shown(image.name)}, {record.width}x{record.height}"
        stdout.print(_quality_table(title, codec.loaded.name, record.model, record.bicubic))
        stdout.print(f"original: {image.stat().st_size:,} bytes")
        for name, path in files.items():
            stdout.print(f"{name}: {path} ({sizes[name]:,} bytes)")


def _compared_files(image: Path, output: str, label: str) -> dict[str, Path]:
    """Return the files that `compare` writes: one picture, or three in a folder."""
    place, stem = Path(output), image.stem
    if not means_folder(output):
        return {"comparison": place}
    names = {"comparison": ".comparison", "small": f".{label}", "restored": ".restored"}
    return {name: place / f"{stem}{ending}.png" for name, ending in names.items()}


def _comparison(trip: evaluation.RoundTrip, codec: Codec) -> Picture:
    ours, theirs = (
        f"{quality.psnr:.2f} dB, SSIM {quality.ssim:.4f}"
        for quality in (trip.record.model, trip.record.bicubic)
    )
    captions = (
        Caption("Original"),
        Caption("Small picture"),
        Caption("Bicubic, from a bicubic small picture", theirs),
        Caption(codec.loaded.name, ours),
    )
    return from_pil(comparison_picture(trip.hr, trip.lr, trip.bicubic, trip.restored, captions))


@app.command("evaluate")
@with_options("device", "threads", "precision", "effort", "fast", "tile", "backend", "max_pixels")
def evaluate_command(
    *,
    pictures: ToMeasure,
    chosen: Chosen,
    device_id: DeviceId = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write all records to this .json or .csv file.")
    ] = None,
    no_perceptual: Annotated[
        bool,
        typer.Option(
            "--no-perceptual", help="Leave out SSIMULACRA2 and CIEDE2000, which take most of the time."
        ),
    ] = False,
    overwrite: Overwrite = False,
    showing: Showing,
    options: Options,
) -> None:
    """Measure shrinking and restoring by the protocol of the papers, and compare with bicubic.

    PSNR is measured on luma, RGB and chroma, and SSIM on luma. First, as many pixels as the scale are cut off
    on each side. SSIMULACRA2 estimates how an observer would judge the picture, colour included: 90 is
    visually lossless, 70 high quality, 50 medium quality. CIEDE2000 is the mean difference of colours; 1 is
    just noticeable between two areas side by side.

    For example:

    ```
    car evaluate Set5/ --scale 4
    car evaluate --img-dir datasets --target-dataset Set14 --scale 2 -o set14.json
    ```
    """
    if output is not None and output.suffix not in (".json", ".csv"):
        raise UsageError(f"{output}: name a .json or .csv file for the records")
    inputs = pictures.named()
    if output is not None:
        check_target(Job(Path(inputs[0]), output), overwrite)
    options = replace(options, device=chosen_device(options.device, device_id))
    codec = open_codec(chosen.name, chosen.scale, options)
    say_default_scale(Wanted(chosen.scale), chosen.name, showing)
    images = find_images(inputs, pictures.exclude or ())
    failures = [Failure("", problem) for problem in images.problems]
    how: dict[str, Any] = {"perceptual": not no_perceptual, "max_pixels": options.max_pixels}
    with progress(len(images.names), "measuring", showing.text) as advance:

        def measure(path: Path) -> evaluation.ImageRecord:
            try:
                return evaluation.round_trip(codec, path, **how).record
            finally:
                advance()

        records = list(each(images.names, measure, failures))
    result = evaluation.summary(
        records, model=codec.loaded.name, weights=codec.loaded.short_hash, scale=codec.scale
    )
    result |= {"failures": [failure._asdict() for failure in failures], "left_out": dict(images.left_out)}
    if output:
        atomic_write(
            output, _csv(records) if output.suffix == ".csv" else json.dumps(result, indent=1).encode()
        )
    if showing.as_json:
        print_json(result)
    elif showing.text:
        if records:
            _print(records, pictures.target_dataset or (inputs[0] if len(inputs) == 1 else ""), codec)
        print_left_out(images.left_out)
    leave_if([failure.error for failure in failures])


def _print(records: Sequence[evaluation.ImageRecord], of_what: str, codec: Codec) -> None:
    ours = evaluation.mean_quality(r.model for r in records)
    theirs = evaluation.mean_quality(r.bicubic for r in records)
    if len(records) <= 20:
        stdout.print(_per_image_table(records))
    title = f"{of_what}: mean of" if of_what else "Mean of"
    title += f" {len(records)} picture{'s' if len(records) > 1 else ''}, {codec.scale}x"
    table = _quality_table(title, codec.loaded.tag or codec.loaded.name, ours, theirs)
    for field, label in (("lr_png", "small PNG over bicubic's"), ("lr_webp", "small WebP over bicubic's")):
        table.add_row(label, f"{evaluation.growth(records, field):+.1f} %", "")
    stdout.print(table)
    exact = sum(math.isinf(r.model.psnr) for r in records)
    if 0 < exact < len(records):
        stdout.print(f"{exact} of them restored without any error, which makes the mean infinite")


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
    """Return the measures of a model next to those of bicubic."""
    table = Table(title=title, title_justify="left")
    for column in ("", name, "bicubic"):
        table.add_column(column, justify="right" if column else "left")
    for label, key, form in _ROWS:
        values = [getattr(quality, key) for quality in (ours, theirs)]
        table.add_row(label, *(_told(value, form, small=key.startswith("lr_")) for value in values))
    return table


def _told(value: float, form: str, *, small: bool) -> str:
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "equal" if small else "infinite"
    return format(value, form)


def _per_image_table(records: Iterable[evaluation.ImageRecord]) -> Table:
    """Return luma, RGB and SSIMULACRA2 of each image, bicubic's in brackets."""
    forms = {"psnr": ".2f", "psnr_rgb": ".2f", "ssimulacra2": ".1f"}
    table = Table("picture", "size", "luma, dB", "RGB, dB", "SSIMULACRA2", caption="in brackets: bicubic")
    table.columns[0].no_wrap = True  # names are copied from here
    for r in records:
        cells = (
            f"{_told(getattr(r.model, key), form, small=False)} "
            f"({_told(getattr(r.bicubic, key), form, small=False)})"
            for key, form in forms.items()
        )
        table.add_row(shown(r.name), f"{r.width}x{r.height}", *cells)
    return table
