"""The command that shows metadata: info."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from car.cli.common import Json, app, print_json, stdout
from car.pictures.info import inspect_info


@app.command("info")
def info_command(
    image: Annotated[Path, typer.Argument(help="An image file.")], as_json: Json = False
) -> None:
    """Show the metadata of a small picture: model, weights, scale and original size."""
    info = inspect_info(image)
    if as_json:
        print_json(None if info is None else asdict(info))
    elif info is None:
        stdout.print(f"{image}: not made by `car downscale`, or its metadata was lost or damaged")
    else:
        stdout.print(
            f"{image}: made by {info.model} (weights {info.weights or 'unknown'}) at {info.scale}x "
            f"from {info.size[0]}x{info.size[1]}",
        )
