"""Commands that look inside a model: inspect kernels."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from car.batch.names import Job, check_target
from car.cli.common import Json, Named, Overwrite, app, check_installed, print_json, stdout
from car.cli.options import with_options
from car.codec.options import Options
from car.families import architecture
from car.pictures.formats import check_suffix
from car.pictures.read import from_pil
from car.pictures.write import write
from car.weights import load, manifest

inspect_app = typer.Typer(help="Look inside a model.", no_args_is_help=True)
app.add_typer(inspect_app, name="inspect")


@inspect_app.callback()
def _inspect() -> None:
    """Look inside a model."""


@inspect_app.command("kernels")
@with_options("threads", "max_pixels")
def inspect_kernels_command(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    *,
    named: Named,
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture to write.")] = Path(
        "kernels.png"
    ),
    overwrite: Overwrite = False,
    as_json: Json = False,
    options: Options,
) -> None:
    """Show the kernels and offsets with which a model resamples the middle of an image.

    For example:

    ```
    car inspect kernels photo.jpg --model runs/small/model.safetensors -o kernels.png
    ```
    """
    check_installed("inspect kernels", "train", "torch", "matplotlib")
    from car.measure.kernels import inspect_kernels, kernels_picture

    check_suffix(output)
    check_target(Job(image, output), overwrite)
    loaded = load(named.name or next(e.model for e in manifest() if architecture(e.model).kernels))
    statistics, view = inspect_kernels(loaded.name, loaded.rescaler, image, max_pixels=options.max_pixels)
    write(output, from_pil(kernels_picture(view, statistics)), overwrite=overwrite)
    if as_json:
        print_json(asdict(statistics) | {"picture": str(output)})
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
    stdout.print(table)
    stdout.print(f"picture: {output}")
