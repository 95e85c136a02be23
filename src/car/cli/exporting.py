"""Commands that write models for other programs."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from car.batch.names import Job, check_target, find_images
from car.cli.common import Overwrite, Showing, app, check_installed, print_json, stdout
from car.cli.options import with_options
from car.codec.codec import Codec
from car.codec.options import Options
from car.errors import UsageError
from car.export import DEFAULT_OPSET, OPSETS, Half, Storage
from car.files.atomic import atomic_write
from car.pictures.depth import eight_bit
from car.pictures.read import read
from car.weights import load

_PIXELS = 2048  # longest side of a picture for the comparison


export_app = typer.Typer(help="Write a model for other programs.", no_args_is_help=True)
app.add_typer(export_app, name="export")


@export_app.callback()
def _export() -> None:
    """Write a model for other programs."""


@export_app.command("onnx")
@with_options()
def export_onnx_command(
    model: Annotated[str, typer.Argument(help="Name, tag or .safetensors file; see `car models`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .onnx file.")],
    half: Annotated[Half, typer.Option("--half", help="up: the upscaler; down: the downscaler.")] = "up",
    storage: Annotated[
        Storage, typer.Option("--weights", help="float16 halves the file; the arithmetic stays float32.")
    ] = "float32",
    opset: Annotated[
        int, typer.Option("--opset", min=OPSETS[0], max=OPSETS[-1], help="Version of the ONNX operators.")
    ] = DEFAULT_OPSET,
    checked: Annotated[
        bool, typer.Option("--check/--no-check", help="Compare with PyTorch before writing the file.")
    ] = True,
    images: Annotated[
        list[str] | None, typer.Option("--images", help="Photographs to compare on: files, folders, globs.")
    ] = None,
    overwrite: Overwrite = False,
    *,
    showing: Showing,
) -> None:
    """Write one half of a model as ONNX, for any size of picture, with standard operators and metadata.

    For example:

    ```
    car export onnx car_plus_x4 -o restore_x4.onnx --images photos/
    car export onnx car_plus_x4 --half down --weights float16 -o shrink_x4.onnx
    ```
    """
    if output.suffix != ".onnx":
        raise UsageError(f"{output}: name an .onnx file")
    if images and not checked:
        raise UsageError("--images has no effect with --no-check")
    check_installed("export", "export", "torch", "onnx", "onnxscript")
    from car.export.onnx import check, to_onnx

    check_target(Job(Path(model), output), overwrite)
    samples = _photographs(images) if images else [_pattern()]
    loaded = load(model)
    content = to_onnx(loaded, half, storage=storage, opset=opset)
    levels: tuple[int, ...] = ()
    if checked:
        if half == "up":
            shrink = Codec(loaded, Options(device="cpu")).downscale_pixels
            samples = [shrink(sample) for sample in samples]
        levels = check(content, loaded, half, samples)
    atomic_write(output, content)
    result: dict[str, Any] = {"file": str(output), "bytes": len(content), "model": loaded.name, "half": half}
    if showing.as_json:
        print_json(result | {"opset": opset, "weights": storage, "levels": list(levels)})
    elif showing.text:
        stdout.print(f"{output}: {half}scaler of {loaded.name}, opset {opset}, {len(content):,} bytes")
        for level, count in enumerate(levels):
            told = f"differ from PyTorch by {level} of 255 levels" if level else "equal those of PyTorch"
            stdout.print(f"{count:,} samples {told}")


def _photographs(inputs: list[str]) -> "list[NDArray[np.uint8]]":
    return [eight_bit(read(path).pixels[:_PIXELS, :_PIXELS]) for path in find_images(inputs).names]


def _pattern() -> "NDArray[np.uint8]":
    """Return a picture with edges, waves of many lengths, flat parts and noise."""
    y, x = np.mgrid[:480, :512].astype(np.float64)
    chirp = 127.5 + 127 * np.sin(x**2 / 900 + y / 7)
    edges = np.where((x // 37 + y // 53) % 2, 30.0, 225.0)
    noise = np.random.default_rng(0).normal(128, 40, (480, 512))
    rgb = np.stack([np.where(y < 240, chirp, edges), np.where(x < 256, edges, noise), (x + y) / 4], axis=2)
    return np.clip(rgb, 0, 255).astype(np.uint8)
