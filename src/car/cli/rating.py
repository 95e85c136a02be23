"""The command that compares with codecs: rate."""

import contextlib
import json
import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from car.batch.loop import Failure, each
from car.batch.names import find_images
from car.cli.common import (
    REPORT,
    Exclude,
    Json,
    Overwrite,
    Quiet,
    app,
    check_installed,
    error_line,
    print_json,
    progress,
    stdout,
)
from car.cli.options import with_options
from car.codec.choose import open_codec
from car.codec.options import Options
from car.errors import UsageError
from car.files.atomic import atomic_write_all
from car.files.places import counted
from car.measure import evaluate as evaluation
from car.measure.pages import Crops, page
from car.measure.rate import Decoded, Point, curves, installed_coders, measured_pixels, point_count, points
from car.measure.rate_report import body, equal_bytes_crops, plot, points_csv, summary_of, tables
from car.pictures.read import read
from car.weights import default_model

_NAMES = ("index.html", "points.csv", "summary.json", "tables.md", "psnr.png", "ms_ssim.png")


@app.command("rate")
@with_options("device", "tile", "max_pixels")
def rate_command(
    inputs: Annotated[list[str] | None, typer.Argument(help="Image files, folders or globs.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for page, plots and tables.")] = Path(
        "rate"
    ),
    scale: Annotated[
        list[int] | None, typer.Option("--scale", "-s", help="2 or 4; repeatable. Both, where none is given.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="Models for lossily coded small pictures; repeatable."),
    ] = None,
    coder: Annotated[
        list[str] | None,
        typer.Option("--coder", help="JPEG, WEBP, AVIF or JXL; repeatable. Default: those installed."),
    ] = None,
    img_dir: Annotated[
        Path | None,
        typer.Option("--img-dir", help="Data folder with the usual test sets.", envvar="CAR_DATA"),
    ] = None,
    target_dataset: Annotated[
        str | None,
        typer.Option("--target-dataset", help=f"Test set below --img-dir: {', '.join(evaluation.DATASETS)}."),
    ] = None,
    images: Annotated[
        int, typer.Option("--images", min=0, help="So many images, evenly spread over all; 0 for all.")
    ] = 0,
    looks: Annotated[int, typer.Option("--looks", min=0, help="So many images have crops to look at.")] = 3,
    exclude: Exclude = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    *,
    options: Options,
) -> None:
    """Compare small pictures that are restored with codecs at full size: bits per pixel against quality.

    Each image goes through each coder at about ten qualities: at full size, as a bicubic small picture that
    is enlarged again, and as a small picture of the `car_codec` models that is restored; and through
    `car_plus` as lossless PNG and WebP. Bits are those of whole files. An image of
    half a megapixel takes a minute or two.

    For example:

    ```
    car rate photos/ -o rate/
    car rate --img-dir datasets --target-dataset Set5 --scale 2 --coder JPEG -o rate/
    ```
    """
    check_installed("rate", "report", *REPORT)
    chosen = tuple(name.upper().replace("JPG", "JPEG") for name in coder or installed_coders())
    unknown = [name for name in chosen if name not in installed_coders()]
    if "JXL" in unknown:
        raise UsageError("JXL needs Pillow's plugin: pip install pillow-jxl-plugin")
    if unknown:
        raise UsageError(f"no coder is called {unknown[0]}; there are {', '.join(installed_coders())}")
    if target_dataset:
        if inputs:
            raise UsageError("give either inputs or --target-dataset")
        inputs = [str(evaluation.find_dataset(img_dir or Path("datasets"), target_dataset))]
    if not inputs:
        raise UsageError("name images or folders, or a test set with --img-dir and --target-dataset")
    old = [name for name in _NAMES if (output / name).exists()]
    if old and not overwrite:
        raise UsageError(f"{output / old[0]} exists; --overwrite replaces it")
    scales = sorted(set(scale or (() if model else (2, 4))))
    names = [*(model or ()), *(default_model(s, coded=True) for s in scales)]
    coded = [open_codec(name, options=options) for name in names]
    lossless = [open_codec(default_model(s), options=options) for s in scales]
    there = find_images(inputs, exclude or ())
    files = list(there.names)
    same = Counter(path.name for path in files)
    if images and images < len(files):
        files = [files[n * len(files) // images] for n in range(images)]
    made = [folder for folder in (output, *output.parents) if not folder.exists()]
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{output}: {error.strerror}") from error
    found: list[Point] = []
    crops: list[Crops] = []
    failures = [Failure("", problem) for problem in there.problems]
    of_each = point_count(len(coded), len({c.scale for c in coded}), len(lossless), chosen)
    with progress(of_each * len(files), "coding", as_json or quiet) as advance:

        def measure(path: Path) -> None:
            look = path in files[:looks]
            picture = read(path, max_pixels=options.max_pixels)
            name = path.name if same[path.name] == 1 else str(path)
            own: list[Point] = []
            decoded: list[Decoded] = []
            for one in points(picture, name, coded, lossless, coders=chosen, on_point=advance):
                own.append(one.point)
                if look:
                    decoded.append(one)
            if look:
                crops.extend(equal_bytes_crops(decoded, measured_pixels(picture, name)))
            found.extend(own)

        for _ in each(files, measure, failures):
            pass
    if not found:
        with contextlib.suppress(OSError):  # others may have put something there
            for folder in made:
                folder.rmdir()
        raise UsageError(f"nothing could be measured: {failures[0].error if failures else 'no images'}")
    lines = curves(found)
    result: dict[str, Any] = {"images": len({p.image for p in found}), "coders": chosen, **summary_of(lines)}
    count = f"{result['images']} image{'s' if result['images'] > 1 else ''}"
    title = "Small pictures, restored, beside codecs"
    plots = [plot(lines, measure, f"Mean of {count}") for measure in ("psnr", "ms_ssim")]
    told = (
        f"{count}. Dashed: codecs at full size (with dots: coded as our small pictures are); "
        "dotted: bicubic small pictures, enlarged; lines: ours, restored; stars: ours, stored without loss."
    )
    contents = (
        page(title, told, body(result, plots, crops)),
        points_csv(found),
        (json.dumps(evaluation.finite(result), indent=1) + "\n").encode(),
        tables(result).encode(),
        *plots,
    )
    atomic_write_all({output / name: content for name, content in zip(_NAMES, contents, strict=True)})
    if as_json:
        told = [asdict(failure) for failure in failures]
        print_json(evaluation.finite(result | {"failures": told, "left_out": dict(there.left_out)}))
    elif not quiet:
        _print(result, output)
        if there.left_out:
            stdout.print(counted(there.left_out))
    for failure in failures:
        error_line(failure.error)
    if failures:
        raise typer.Exit(1)


def _print(result: dict[str, Any], output: Path) -> None:
    table = Table("", *(f"bits against {coder}" for coder in result["coders"]), title="The same PSNR takes")
    for row in result["differences"]:
        cells = (row["bd_rate"].get(coder, math.nan) for coder in result["coders"])
        table.add_row(row["name"], *("not known" if math.isnan(c) else f"{c:+.1f} %" for c in cells))
    stdout.print(table)
    stdout.print(f"{output / 'index.html'} shows it all")
