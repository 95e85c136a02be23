"""The command that reports on models: report."""

import math
import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from car.batch.names import Job, check_target, find_images
from car.cli.common import (
    REPORT,
    Overwrite,
    Quiet,
    app,
    check_installed,
    leave_if,
    progress,
    stdout,
)
from car.cli.options import with_options
from car.cli.sources import ImgDir
from car.codec.choose import open_codec
from car.codec.codec import Codec
from car.codec.options import Options
from car.devices import cpu_threads
from car.errors import CarError, UsageError
from car.files.atomic import atomic_write
from car.measure import evaluate as evaluation
from car.measure import pages
from car.measure.model_report import Measured, body, crops, measured
from car.measure.rate import Point, curves, point_count, points, settings_of
from car.measure.rate_report import body as rate_body
from car.measure.rate_report import plot, summary_of
from car.pictures.info import read_header
from car.pictures.read import read
from car.weights import list_models

_CODERS = ("JPEG", "AVIF")
_TRIP = 5  # how many times longer it takes to measure a round trip than to measure a point of a curve


@app.command("report")
@with_options("device", "threads", "precision", "effort", "fast", "tile", "max_pixels")
def report_command(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Names or weights files of models. Default: all models with weights in the package."
        ),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option("--images", "-i", help="Picture files, a folder or a glob, as one set; repeatable."),
    ] = None,
    img_dir: ImgDir = None,
    target_dataset: Annotated[
        list[str] | None,
        typer.Option(
            "--target-dataset",
            help=f"Test set below --img-dir: {', '.join(evaluation.DATASETS)}; repeatable. "
            "Default: those that exist.",
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page, an .html file.")] = Path(
        "report.html"
    ),
    looks: Annotated[
        int,
        typer.Option(
            "--looks", min=0, help="Number of pictures in each set whose crops and error maps the page shows."
        ),
    ] = 2,
    rated: Annotated[
        int,
        typer.Option("--curves", min=0, help="Number of pictures to code for the rate-distortion plots."),
    ] = 2,
    most: Annotated[
        int,
        typer.Option("--most", min=0, help="Pictures of each set to measure, evenly spread; 0 for all."),
    ] = 5,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    *,
    options: Options,
) -> None:
    """Write one HTML page about models: tables with the published rows, crops, error maps, curves, times.

    The page opens anywhere, also offline. The command measures by the protocol of the published tables, like
    `car evaluate`. By default, it measures five pictures of each set. Published rows stand beside a set only
    if all of its pictures are measured (`--most 0`). The rate-distortion curves are made as by `car rate`,
    which measures more of them. After the first round trip, the command says about how long the rest will
    take.

    For example:

    ```
    car report --img-dir datasets -o report.html
    car report car_plus_x4 runs/mine/model.safetensors --images photos/ -o report.html
    ```
    """
    check_installed("report", "report", *REPORT)
    if output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{output}: name an .html file")
    failures: list[str] = []
    sets = _sets(images or (), img_dir, target_dataset or (), failures)
    check_target(Job(next(iter(sets.values()))[0], output), overwrite)
    sizes = {name: len(files) for name, files in sets.items()}
    if most:
        sets = {
            name: [files[n * len(files) // most] for n in range(most)] if len(files) > most else files
            for name, files in sets.items()
        }
    names = models or [info.name for info in list_models() if info.tags]
    codecs = [open_codec(name, options=options) for name in names]
    found: list[Measured] = []
    to_see: list[pages.Crops] = []
    every = [path for files in sets.values() for path in files]
    coding = _Coding(codecs, every[:rated])
    with progress(_TRIP * len(codecs) * _pixels(every) + coding.parts, "measuring", not quiet) as advance:
        for name, files in sets.items():
            rows, seen = _measured(codecs, files, options.max_pixels, looks, (advance, failures))
            found += [
                measured(codec, name, records, whole=len(files) == sizes[name])
                for codec, records in rows.items()
                if records
            ]
            to_see += seen
        if not found:
            raise UsageError(f"nothing could be measured: {failures[0] if failures else 'no pictures'}")
        parts = coding.curves(options.max_pixels, advance)
    count = len(every)
    there = sum(sizes.values())
    of = (
        f"{count} of {there} pictures, evenly spread"
        if count < there
        else f"{count} picture{'s' * (count > 1)}"
    )
    told = f"{len(codecs)} model{'s' * (len(codecs) > 1)}, {of}."
    threads = options.threads or cpu_threads()
    machine = f"{platform.system()}, {platform.machine()}, {codecs[0].device}, {threads} threads"
    content = pages.page("Measures of models", told, body(found, to_see, parts, machine))
    atomic_write(output, content)
    if not quiet:
        stdout.print(f"page with all results: {output}")
    leave_if(failures)


def _measured(
    codecs: Sequence[Codec],
    files: Sequence[Path],
    max_pixels: int,
    looks: int,
    tell: tuple[Callable[[int], None], list[str]],
) -> tuple[dict[Codec, list[evaluation.ImageRecord]], list[pages.Crops]]:
    """Return records of the files of one set, and crops of the first `looks` of them.

    `tell` has a function that is called after each round trip, and a list that receives the failures.
    """
    advance, failures = tell
    records: dict[Codec, list[evaluation.ImageRecord]] = {codec: [] for codec in codecs}
    seen: list[pages.Crops] = []
    for number, path in enumerate(files):
        trips: dict[int, list[tuple[str, evaluation.RoundTrip]]] = {}
        for codec in codecs:
            try:
                trip = evaluation.round_trip(codec, path, max_pixels=max_pixels)
            except CarError as error:
                failures.append(str(error))
            else:
                records[codec].append(trip.record)
                if number < looks:
                    trips.setdefault(codec.native, []).append((codec.loaded.label, trip))
            advance(_TRIP * _pixels([path]))
        seen += [crops(path.name, row) for row in trips.values()]
    return records, seen


def _sets(
    images: Sequence[str], img_dir: Path | None, named: Sequence[str], failures: list[str]
) -> dict[str, list[Path]]:
    """Return the files of each set by its name; add folders that cannot be read to `failures`."""

    def files(name: str) -> list[Path]:
        found = find_images([name])
        failures.extend(found.problems)
        return list(found.names)

    sets = {name: files(name) for name in images}
    if images and not named:
        return sets
    folder = img_dir or Path("datasets")
    there = [name for name, place in evaluation.DATASETS.items() if (folder / place).is_dir()]
    for name in named or there:
        place = evaluation.find_dataset(folder, name)
        sets[name] = files(str(place))
    if not sets:
        raise UsageError(f"no test set is in {folder}; name pictures, or the data folder by --img-dir")
    return sets


def _pixels(files: Sequence[Path]) -> int:
    """Return the number of pixels of these files; of files that cannot be read, 0."""
    count = 0
    for path in files:
        with suppress(CarError):
            count += math.prod(read_header(path).size)
    return count


class _Coding:
    """The part of the page about rates and distortions.

    Attributes:
        parts: of the work, each a pixel in one point of a curve.
    """

    def __init__(self, codecs: Sequence[Codec], files: Sequence[Path]) -> None:
        self._files = files
        self._coded = [codec for codec in codecs if codec.loaded.architecture.made_for == "lossy"]
        self._lossless = [codec for codec in codecs if codec not in self._coded]
        scales = len({codec.scale for codec in self._coded})
        self._qualities = settings_of(_CODERS)
        count = point_count(len(self._coded), scales, len(self._lossless), self._qualities)
        self.parts = count * _pixels(files)

    def curves(self, max_pixels: int, advance: Callable[[int], None]) -> list[str]:
        """Return the part of the page; call `advance` with the parts of the work that are done."""
        found: list[Point] = []
        for path in self._files:
            step = partial(advance, _pixels([path]))
            with suppress(CarError):  # it was reported before
                picture = read(path, max_pixels=max_pixels)
                made = points(
                    *(picture, path.name, self._coded, self._lossless),
                    qualities=self._qualities,
                    on_point=step,
                )
                found += [one.point for one in made]
        if not found:
            return []
        lines = curves(found)
        told = f"Mean of {len(self._files)} of the pictures"
        return rate_body(summary_of(lines), [plot(lines, "psnr", told)], ())
