"""Commands that look inside a model: inspect kernels."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from car.batch.names import Job, check_target
from car.cli.common import Json, Named, Overwrite, app, check_installed, print_json, stdout
from car.cli.options import with_options
from car.codec.options import Options
from car.errors import UsageError
from car.pictures.formats import check_suffix
from car.pictures.read import from_pil
from car.pictures.write import write
from car.weights import default_model, load

if TYPE_CHECKING:
    from car.measure.gradients import EquivalentKernel
    from car.measure.kernels import KernelStatistics

inspect_app = typer.Typer(help="Look inside a model.", no_args_is_help=True)
app.add_typer(inspect_app, name="inspect")


@inspect_app.callback()
def _inspect() -> None:
    """Look inside a model."""


@inspect_app.command("kernels")
@with_options("threads", "max_pixels")
def inspect_kernels_command(
    image: Annotated[Path, typer.Argument(metavar="PICTURE", help="A picture file.")],
    *,
    named: Named,
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture to write.")] = Path(
        "kernels.png"
    ),
    at: Annotated[
        list[str] | None,
        typer.Option(
            "--at",
            help="Column and row of an original pixel, such as 120,80; up to six times. Default: those "
            "with the strongest edges in the middle.",
        ),
    ] = None,
    channel: Annotated[
        Literal["luma", "red", "green", "blue"] | None,
        typer.Option("--channel", help="Of a model without kernels. Default: luma."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    options: Options,
) -> None:
    """Show with which kernels a model shrinks a part of a picture, at six small pixels.

    Models of the families car, car_small and car_lite compute kernels, and car and car_small offsets too. The
    others have none. For these, the command shows the equivalent kernels: how much each small pixel follows
    the original pixels around it, by the gradient of the downscaler.

    For example:

    ```
    car inspect kernels photo.jpg
    car inspect kernels photo.jpg --at 120,80 --channel red -o red.png
    car inspect kernels photo.jpg --model runs/small/model.safetensors -o kernels.png
    ```
    """
    check_installed("inspect kernels", "train", "torch", "matplotlib")
    from car.measure.gradients import gradients_picture, inspect_gradients
    from car.measure.kernels import inspect_kernels, kernels_picture

    check_suffix(output)
    check_target(Job(image, output), overwrite)
    places = [_place(text) for text in at or ()]
    loaded = load(named.name or default_model(4))
    kernels = loaded.architecture.kernels
    if kernels and channel:
        raise UsageError(f"{loaded.name} has one kernel for all channels; leave out --channel")
    if kernels:
        statistics, view = inspect_kernels(
            loaded.name, loaded.rescaler, image, at=places, max_pixels=options.max_pixels
        )
        picture, table = kernels_picture(view, statistics), _kernel_table(image, statistics)
        told = asdict(statistics)
    else:
        of = channel or "luma"
        found, seen = inspect_gradients(
            loaded.rescaler, image, channel=of, at=places, max_pixels=options.max_pixels
        )
        picture, table = (
            gradients_picture(seen, loaded.name, of),
            _gradient_table(image, loaded.name, of, found),
        )
        told = {"model": loaded.name, "channel": of, "side": seen.kernels.shape[1]}
        told |= {"mean_kernel": seen.kernels.mean(0).tolist(), "pixels": [asdict(one) for one in found]}
    write(output, from_pil(picture), overwrite=overwrite)
    if as_json:
        print_json(told | {"picture": str(output)})
        return
    stdout.print(table)
    stdout.print(f"picture: {output}")


def _place(text: str) -> tuple[int, int]:
    if not re.fullmatch(r"\d+,\d+", text):
        raise UsageError(f"--at takes a column and a row, such as 120,80, got {text}")
    x, y = text.split(",")
    return int(x), int(y)


def _kernel_table(image: Path, statistics: "KernelStatistics") -> Table:
    table = Table("of kernels", "", title=f"{image.name}, {statistics.model}; HR pixels")
    if offsets := statistics.offsets:
        x, y = offsets.mean
        table.add_row("mean offset, x and y", f"{x:+.4f}, {y:+.4f}")
        table.add_row("mean length of an offset", f"{offsets.mean_length:.4f}")
        table.add_row("the same, weighted by the kernel", f"{offsets.weighted_length:.4f}")
        table.add_row("longest offset", f"{offsets.largest:.4f}")
        table.add_row("mean change to the next LR pixel", f"{offsets.roughness:.4f}")
    table.add_row("deviation of the sampling pattern", f"{statistics.width:.4f}")
    table.add_row("negative share of the weights", f"{statistics.negative:.4f}")
    return table


def _gradient_table(image: Path, model: str, channel: str, found: "Sequence[EquivalentKernel]") -> Table:
    table = Table("", "at", "sum", "width", "negative", "far", title=f"{image.name}, {model}, {channel}")
    if channel != "luma":
        table.add_column("other colours")
    for number, one in enumerate(found, 1):
        shares = [one.negative, one.outside, *([one.other_colours] if channel != "luma" else [])]
        cells = [f"{one.total:.3f}", f"{one.width:.2f}", *(f"{100 * share:.0f} %" for share in shares)]
        table.add_row(str(number), f"{one.x},{one.y}", *cells)
    table.caption = (
        "width in HR pixels; the rest: shares of the absolute weights; far: over 3 small pixels away"
    )
    return table
