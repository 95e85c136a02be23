"""The command that shows metadata: info."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from car.batch.loop import Failure, each
from car.cli.common import Exclude, Inputs, Json, app, leave_if, print_left_out, stdout
from car.errors import UsageError
from car.pictures.header import Header
from car.pictures.info import read_header


@app.command("info")
def info_command(inputs: Inputs, exclude: Exclude = None, as_json: Json = False) -> None:
    """Show size and depth of pictures, and the metadata of small pictures.

    The metadata names the model, the weights, the scale and the original size. With --json, there is one line
    for each picture, and `made` holds the metadata. `made` is null if `car downscale` did not make the
    picture, or if its metadata was lost. `damage` says what is wrong with metadata that cannot be read. The
    exit code is 0 in all these cases, and 1 if a picture cannot be read.

    For example:

    ```
    car info photo.x4.png
    car info small/ --json
    ```
    """
    if "-" in inputs:
        raise UsageError("car info reads files and folders, not standard input")
    files, problems, left_out = _found(inputs, exclude or [])
    failures: list[Failure] = []
    for file, header in each(files, lambda file: (file, read_header(file)), failures):
        if as_json:
            typer.echo(json.dumps(_described(file, header), allow_nan=False))
        else:
            stdout.print(f"{file}: {header.size[0]}x{header.size[1]}, {header.bits} bit; {_origin(header)}")
    if not as_json:
        print_left_out(left_out)
    leave_if([*problems, *(failure.error for failure in failures)])


def _found(inputs: list[str], exclude: list[str]) -> tuple[Iterable[Path], tuple[str, ...], Counter[str]]:
    """Return the files that are named, the problems of folders, and what was left out of them."""
    if not exclude and all(Path(text).is_file() for text in inputs):
        return dict.fromkeys(map(Path, inputs)), (), Counter()
    from car.batch.names import find_images  # takes longer to import than a header to read

    images = find_images(inputs, exclude)
    return images.names, images.problems, images.left_out


def _described(file: Path, header: Header) -> dict[str, Any]:
    made = None if header.info is None else asdict(header.info)
    name = str(file).encode(errors="replace").decode()  # JSON holds no name that is not valid text
    return {"file": name, "size": header.size, "bits": header.bits, "made": made, "damage": header.damage}


def _origin(header: Header) -> str:
    info = header.info
    if info is None:
        return header.damage or "not made by `car downscale`, or its metadata was lost"
    return (
        f"made by {info.model} (weights {info.weights or 'unknown'}) at {info.scale}x "
        f"from {info.size[0]}x{info.size[1]}"
    )
