"""The command that shows metadata: info."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from car.cli.common import Json, app, print_json, stdout
from car.pictures.info import read_header


@app.command("info")
def info_command(
    image: Annotated[Path, typer.Argument(help="An image file.")], as_json: Json = False
) -> None:
    """Show size and depth of a picture, and the metadata of a small picture.

    The metadata names the model, the weights, the scale and the original size. With --json, `made` holds it.
    `made` is null if `car downscale` did not make the picture, or if its metadata was lost. `damage` says
    what is wrong with metadata that cannot be read. The exit code is 0 in all these cases.
    """
    header = read_header(image)
    info = header.info
    if as_json:
        made = None if info is None else asdict(info)
        print_json({"size": header.size, "bits": header.bits, "made": made, "damage": header.damage})
        return
    if info is None:
        origin = header.damage or "not made by `car downscale`, or its metadata was lost"
    else:
        origin = (
            f"made by {info.model} (weights {info.weights or 'unknown'}) at {info.scale}x "
            f"from {info.size[0]}x{info.size[1]}"
        )
    stdout.print(f"{image}: {header.size[0]}x{header.size[1]}, {header.bits} bit; {origin}")
