"""Commands about weights: models, pull, convert."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.table import Table

from car.batch.names import Job, check_target, means_folder
from car.cli.common import Json, Overwrite, Showing, app, print_json, shown, stderr, stdout
from car.cli.options import with_options
from car.devices import needs_torch
from car.errors import UsageError
from car.files.atomic import atomic_write_all
from car.weights import list_models, load, manifest
from car.weights.pull import pull
from car.weights.store import pulled_models

_SETS = ("Set5", "Set14", "BSDS100")
_WIDE = 100  # columns of a terminal that has room for all sets


@app.command("models")
def models_command(as_json: Json = False) -> None:
    """List the models: their weights, what they are for, and their PSNR."""
    if as_json:
        print_json(
            {
                "models": [asdict(m) for m in list_models()],
                "weights": [asdict(e) for e in manifest()],
                "pulled": [asdict(p) for p in pulled_models()],
            }
        )
        return
    table = Table("weights", "made for", title="PSNR in dB, luma/RGB", title_justify="left")
    table.columns[0].no_wrap = True  # names are copied from here
    sets = _SETS[:2] if stdout.console.width < _WIDE else _SETS
    for name in sets:
        table.add_column(name, no_wrap=True)
    entries = {entry.tag: entry for entry in manifest()}
    own = pulled_models()
    for model in list_models():
        names = [record.name for record in own if record.model == model.name]
        if not model.tags and not names:
            table.add_row(f"{model.name}: none", model.purpose, *[""] * len(sets))
        for tag in model.tags:
            metrics = entries[tag].metrics
            means = [metrics[name]["model"] if name in metrics else None for name in sets]
            values = [f"{m['psnr']:.2f}/{m['psnr_rgb']:.2f}" if m else "" for m in means]
            table.add_row(tag, model.purpose, *values)
        for name in names:
            table.add_row(f"{name} (pulled)", model.purpose, *[""] * len(sets))
    stdout.print(table)
    stdout.print("Names end with the scale. Without a version, a name means the newest weights.")


@app.command("pull")
@with_options()
def pull_command(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="car_x2 or car_x4 for the published weights, or URLs or paths: one .safetensors file, or "
            "a kernel generator and an upscaler (.ckpt or .pth)."
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option("--name", "-n", help="Name in the cache folder. Default: the name of the architecture."),
    ] = None,
    sha256: Annotated[
        list[str] | None,
        typer.Option(
            "--sha256", help="Expected SHA-256, once for each file. Default: that of the first download."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Download again, and accept a changed file.")
    ] = False,
    *,
    showing: Showing,
) -> None:
    """Download or copy weights, check them, and keep them in the cache folder under a name.

    An interrupted download continues where it stopped. CAR_CACHE names the cache folder; the default is the
    usual folder of the system.

    For example:

    ```
    car pull car_x4
    car pull https://example.org/kgn.pth https://example.org/usn.pth --name theirs
    car pull runs/x4/model.safetensors --name mine
    ```
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=stderr.console,
        transient=True,
        disable=not (showing.text and stderr.is_terminal),
    )
    tasks: dict[str, TaskID] = {}

    def on_bytes(address: str, here: int, total: int | None) -> None:
        if address not in tasks:
            tasks[address] = bar.add_task(address.rsplit("/", 1)[-1])
        bar.update(tasks[address], completed=here, total=total)

    with bar:
        record = pull(sources, name, sha256=sha256 or (), force=force, on_bytes=on_bytes)
    if showing.as_json:
        print_json(asdict(record) | {"path": str(record.path)})
    elif showing.text:
        for source in record.sources:
            stdout.print(f"{source.address}: {source.bytes:,} bytes, SHA-256 {source.sha256}")
        stdout.print(f"{record.name}: {record.model}, in {record.path}; use it with --model {record.name}")


@app.command("convert")
@with_options()
def convert_command(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Kernel generator and upscaler (.ckpt, .pth), or one model: name, tag or .safetensors file."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A .safetensors file, or the folder for kgn and usn.")
    ],
    to: Annotated[
        Literal["ckpt", "pth"] | None,
        typer.Option(
            "--to", help="Write the pair of files for the MindSpore code (ckpt) or the PyTorch code (pth)."
        ),
    ] = None,
    overwrite: Overwrite = False,
    *,
    showing: Showing,
) -> None:
    """Turn published checkpoints into a .safetensors file, and models of family car into checkpoints.

    Nothing in a checkpoint is executed. Entries other than weights are dropped and listed.

    For example:

    ```
    car convert kgn.ckpt usn.ckpt -o car_x4.safetensors
    car convert kgn.pth usn.pth -o for-mindspore/ --to ckpt
    car convert runs/published/model.safetensors -o for-pytorch/ --to pth
    ```
    """
    if len(sources) > 2:
        raise UsageError("give a kernel generator and an upscaler, or one model")
    if to is None and output.suffix != ".safetensors":
        raise UsageError(f"{output}: name a .safetensors file, or give --to ckpt or --to pth")
    if to is not None and not means_folder(str(output)):
        raise UsageError(f"{output}: name a folder, because two files are written")
    needs_torch("to convert weights")
    from car.weights.convert import pair_files, read_pair, weights_bytes

    dropped: tuple[str, ...] = ()
    if len(sources) == 2:
        pair = read_pair(Path(sources[0]), Path(sources[1]))
        model, rescaler, dropped = pair.model, pair.rescaler, pair.dropped
    else:
        loaded = load(sources[0])
        model, rescaler = loaded.name, loaded.rescaler
    if to is None:
        contents = {output: weights_bytes(model, rescaler)}
    else:
        contents = {output / name: content for name, content in pair_files(model, rescaler, to).items()}
    for path in contents:
        for source in sources:
            check_target(Job(Path(source), path), overwrite)
    atomic_write_all(contents)
    _print_converted(model, list(contents), dropped, showing)


def _print_converted(model: str, files: list[Path], dropped: tuple[str, ...], showing: Showing) -> None:
    if showing.as_json:
        print_json({"model": model, "files": [str(path) for path in files], "dropped": list(dropped)})
    elif showing.text:
        for path in files:
            stdout.print(f"{path}: {model}")
        if dropped:
            some = ", ".join(dropped[:20]) + (f" and {len(dropped) - 20} more" if len(dropped) > 20 else "")
            stdout.print(f"dropped, because they are not weights: {shown(some)}")
