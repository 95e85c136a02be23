"""The command that compares with codecs: rate."""

import json
import math
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from car.batch.loop import Failure, each
from car.batch.names import Job, check_target, find_images
from car.cli.common import (
    REPORT,
    Overwrite,
    Showing,
    app,
    check_installed,
    leave_if,
    print_json,
    print_left_out,
    progress,
    stdout,
)
from car.cli.options import with_options
from car.cli.sources import ToMeasure
from car.codec.choose import open_codec
from car.codec.options import Options
from car.errors import UsageError
from car.files.atomic import atomic_write_all
from car.measure import evaluate as evaluation
from car.measure.pages import Crops, page
from car.measure.rate import Decoded, Point, curves, installed_coders, point_count, points, settings_of
from car.measure.rate_report import body, equal_bytes_crops, plot, points_csv, summary_of, tables
from car.pictures.picture import measured_pixels
from car.pictures.read import read
from car.weights import default_model

_NAMES = ("index.html", "points.csv", "summary.json", "tables.md", "psnr.png", "ms_ssim.png")


@app.command("rate")
@with_options("device", "threads", "tile", "max_pixels")
def rate_command(
    *,
    pictures: ToMeasure,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for page, plots and tables.")] = Path(
        "rate"
    ),
    scale: Annotated[
        list[int] | None, typer.Option("--scale", "-s", help="2 or 4; repeatable. Default: both.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", help="Models whose small pictures are saved as lossy files; repeatable."
        ),
    ] = None,
    coder: Annotated[
        list[str] | None,
        typer.Option("--coder", help="JPEG, WEBP, AVIF or JXL; repeatable. Default: all that are installed."),
    ] = None,
    dense: Annotated[
        bool, typer.Option("--dense", help="Measure 10 to 13 qualities of each coder, not 6 to 8.")
    ] = False,
    images: Annotated[
        int, typer.Option("--images", min=0, help="Number of pictures to use, evenly spread; 0 for all.")
    ] = 0,
    looks: Annotated[
        int, typer.Option("--looks", min=0, help="Number of pictures whose crops the page shows.")
    ] = 3,
    overwrite: Overwrite = False,
    showing: Showing,
    options: Options,
) -> None:
    """Compare bits and quality of restored small pictures with those of codecs at full size.

    Each coder codes each picture at seven qualities or so in three ways: at full size, as a bicubic small
    picture that is enlarged again, and as a small picture of the `car_codec` models that is restored. Each
    picture is also shrunk by `car_plus`, stored as lossless PNG and WebP, and restored. Bits are those of
    whole files.
    A megapixel takes five to six minutes of one CPU core.

    For example:

    ```
    car rate photos/ -o rate/
    car rate --img-dir datasets --target-dataset Set5 --scale 2 --coder JPEG -o rate/
    ```
    """
    check_installed("rate", "report", *REPORT)
    coders = _coders(coder)
    qualities = settings_of(coders, dense=dense)
    there = find_images(pictures.named(), pictures.exclude or ())
    scales = sorted(set(scale or (() if model else (2, 4))))
    names = [*(model or ()), *(default_model(s, coded=True) for s in scales)]
    coded = [open_codec(name, options=options) for name in names]
    lossless = [open_codec(default_model(s), options=options) for s in scales]
    files = list(there.names)
    if images and images < len(files):
        files = [files[n * len(files) // images] for n in range(images)]
    same = Counter(path.name for path in there.names)
    found: list[Point] = []
    crops: list[Crops] = []
    failures = [Failure("", problem) for problem in there.problems]
    with _folder(output, files[0], overwrite):
        of_each = point_count(len(coded), len({c.scale for c in coded}), len(lossless), qualities)
        with progress(of_each * len(files), "coding", showing.text) as advance:

            def measure(path: Path) -> None:
                picture = read(path, max_pixels=options.max_pixels)
                name = path.name if same[path.name] == 1 else str(path)
                seen: list[Decoded] = []
                own: list[Point] = []
                for one in points(picture, name, coded, lossless, qualities=qualities, on_point=advance):
                    own.append(one.point)
                    seen += [one] if path in files[:looks] else []
                found.extend(own)
                crops.extend(equal_bytes_crops(seen, measured_pixels(picture, name)) if seen else ())

            for _ in each(files, measure, failures):
                pass
        if not found:
            raise UsageError(f"nothing could be measured: {failures[0].error if failures else 'no pictures'}")
    result = _written(output, found, crops, coders)
    if showing.as_json:
        told = [failure._asdict() for failure in failures]
        print_json(evaluation.finite(result | {"failures": told, "left_out": dict(there.left_out)}))
    elif showing.text:
        _print(result, output)
        print_left_out(there.left_out)
    leave_if([failure.error for failure in failures])


def _coders(named: list[str] | None) -> tuple[str, ...]:
    """Return the coders that are named, or all that are installed."""
    installed = installed_coders()
    chosen = tuple(name.upper().replace("JPG", "JPEG") for name in named or installed)
    unknown = [name for name in chosen if name not in installed]
    if "JXL" in unknown:
        raise UsageError("JXL needs Pillow's plugin: pip install pillow-jxl-plugin")
    if unknown:
        raise UsageError(f"unknown coder {unknown[0]}; installed: {', '.join(installed)}")
    return chosen


@contextmanager
def _folder(output: Path, image: Path, overwrite: bool) -> Generator[None, None, None]:
    """Make the folder for the results; if it is new and stays without results, remove it again."""
    made = [folder for folder in (output, *output.parents) if not folder.exists()]
    for name in _NAMES:
        check_target(Job(image, output / name), overwrite)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # others may have put something there
            for folder in made:
                folder.rmdir()
        raise


def _written(
    output: Path, found: Sequence[Point], crops: Sequence[Crops], coders: tuple[str, ...]
) -> dict[str, Any]:
    """Write page, plots and tables; return the summary."""
    lines = curves(found)
    count = len({point.image for point in found})
    result: dict[str, Any] = {"images": count, "coders": coders, **summary_of(lines)}
    images = f"{count} picture{'s' if count > 1 else ''}"
    plots = [plot(lines, measure, f"Mean of {images}") for measure in ("psnr", "ms_ssim")]
    told = (
        f"{images}. Dashed lines: codecs at full size (with dots: coded with the settings of our small "
        "pictures). Dotted lines: bicubic small pictures, enlarged. Solid lines: our small pictures, "
        "restored. Stars: the same from lossless files."
    )
    contents = (
        page("Restored small pictures compared with codecs", told, body(result, plots, crops)),
        points_csv(found),
        (json.dumps(evaluation.finite(result), indent=1) + "\n").encode(),
        tables(result).encode(),
        *plots,
    )
    atomic_write_all({output / name: content for name, content in zip(_NAMES, contents, strict=True)})
    return result


def _print(result: dict[str, Any], output: Path) -> None:
    table = Table("", *(f"bits against {coder}" for coder in result["coders"]), title="The same PSNR takes")
    for row in result["differences"]:
        cells = (row["bd_rate"].get(coder, math.nan) for coder in result["coders"])
        table.add_row(row["name"], *("not known" if math.isnan(c) else f"{c:+.1f} %" for c in cells))
    stdout.print(table)
    stdout.print(f"page with all results: {output / 'index.html'}")
