"""The command `car train`; its options are the settings of a recipe."""

import inspect
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from car.cli.common import (
    PAUSE,
    DeviceId,
    Showing,
    app,
    check_installed,
    chosen_device,
    duration,
    error_line,
    print_json,
    stderr,
    stdout,
)
from car.cli.options import with_options
from car.errors import UsageError
from car.families import architecture
from car.train.recipes import DEMO, RECIPES, Recipe, recipe_for, settings

if TYPE_CHECKING:
    from car.train.trainer import Progress as TrainingProgress
    from car.train.trainer import RunPlan


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command`, which takes the settings of a recipe as keywords, an option for each setting."""
    named = inspect.signature(command).parameters.values()
    own = [p for p in named if p.kind is not inspect.Parameter.VAR_KEYWORD]
    added: list[inspect.Parameter] = []
    for name, (kind, text, flags) in settings().items():
        flag = f"--{name.replace('_', '-')}"
        many, choice = name in ("hold_out", "emphasis"), name == "orientations"
        annotation: Any = list[str] if many else int if choice else kind
        names = (f"{flag}/--no-{flag[2:]}",) if kind is bool else (flag, *flags)
        option = typer.Option(*names, help=text, rich_help_panel="Settings that replace those of the recipe")
        added.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[annotation | None, option],
            )
        )
    command.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    return command


@app.command("train")
@with_options("threads")
@_with_settings
def train_command(
    model: Annotated[
        str | None,
        typer.Argument(help=f"{', '.join(RECIPES)}. Default: the published recipe of --scale, `car_xS`."),
    ] = None,
    *,
    scale: Annotated[
        int | None, typer.Option("--scale", "-s", help="2 or 4; selects the published recipe.")
    ] = None,
    data: Annotated[
        list[Path] | None, typer.Option("--data", "-d", help="Folder of pictures; repeatable.")
    ] = None,
    image_path: Annotated[
        Path | None,
        typer.Option(
            "--image-path", help="Instead of --data: the folder that holds DIV2K/.", envvar="CAR_DATA"
        ),
    ] = None,
    target_dataset: Annotated[
        str, typer.Option("--target-dataset", help="With --image-path: the set to train on.")
    ] = "DIV2KHR",
    valid: Annotated[
        Path | None,
        typer.Option("--valid", help="Folder of pictures to validate on. Default: some are held out."),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", "--checkpoint-path", help="Folder of the run; an unfinished run continues."
        ),
    ] = Path("checkpoint"),
    cache: Annotated[
        Path | None, typer.Option(help="Folder for decoded pixels. Default: inside --out.")
    ] = None,
    device: Annotated[
        str, typer.Option("--device", "--device-target", help="auto, cpu, cuda, npu, xpu or mps.")
    ] = "auto",
    device_id: DeviceId = None,
    workers: Annotated[
        int,
        typer.Option(
            min=0, max=256, help="Threads that decode pictures and cut crops ahead of the training."
        ),
    ] = 1,
    save_seconds: Annotated[
        float, typer.Option(min=0, help="Seconds between saves of the training state.")
    ] = 60.0,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print the settings and an estimate of the time, and stop. Writes nothing."
        ),
    ] = False,
    showing: Showing,
    **changes: Any,
) -> None:
    """Train a model on a folder of images. You can stop and resume it.

    To continue after an interrupt, run the same command again. The weights are in `model.safetensors` in the
    run's folder; every --model accepts this file. `tensorboard --logdir FOLDER` shows the run.

    For example:

    ```
    car train car_plus_x4 --data photos/ --out runs/x4 --minutes 40
    car train --scale 4 --image-path datasets --dry-run
    car train car_plus_x4 --data photos/ --out runs/fine --init car_plus_x4 --lr 2e-4 --minutes 5
    torchrun --nproc-per-node 8 -m car train car_x4 --image-path datasets --out runs/published
    ```
    """
    recipe = _recipe(model, scale, changes)
    check_installed("training", "train", "torch", "accelerate", "tensorboard")
    from car.train.data import TRAINING_SETS, find_training_set
    from car.train.run import Run
    from car.train.state import STATE

    imagined = None
    if not data:
        if image_path is None:
            raise UsageError(
                "name a folder of pictures with --data, or the folder of DIV2K/ with --image-path"
            )
        try:
            data, valid = find_training_set(image_path, target_dataset, valid)
        except UsageError as error:
            if not dry_run or target_dataset not in TRAINING_SETS:
                raise
            imagined = target_dataset
            error_line(f"note: {error}; this assumes its {sum(TRAINING_SETS[imagined].counts)} pictures")
    show = _Show(showing.text)
    run = Run(recipe, data or (), out, valid, cache, chosen_device(device, device_id), workers, save_seconds)
    run = replace(
        run, imagined=imagined, on_progress=show.progress, on_decode=show.decoded, on_note=show.note
    )
    if dry_run:
        with show.bar:
            found = run.plan()
        _print_plan(recipe, found, showing.as_json)
        return
    try:
        with show.bar:
            path = run.train()
    except KeyboardInterrupt:
        if (out / STATE).exists():
            error_line(f"the state is saved in {out}; the same command continues from there")
        raise
    if os.environ.get("RANK", "0") == "0":  # only the first process prints
        _print_result(path, out, showing)


def _recipe(model: str | None, scale: int | None, changes: dict[str, Any]) -> Recipe:
    """Return the chosen recipe, with the changed settings."""
    if model is None:
        if scale is None:
            raise UsageError("name a model, or --scale for the published recipe")
        model = f"car_x{scale}"
    lists = {name: tuple(changes.pop(name, None) or ()) or None for name in ("hold_out", "emphasis")}
    recipe = recipe_for(model, **lists, **changes)
    if scale is not None and architecture(model).scale != scale:
        raise UsageError(f"{model} is not a model of scale {scale}")
    return recipe


class _Show:
    """Shows the progress of a training on a terminal, and prints a line for each validation."""

    def __init__(self, shown: bool) -> None:
        self._shown, self._newest = shown, ""
        self._lines = shown and not stderr.is_terminal
        self._told = time.monotonic()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeRemainingColumn(),
            console=stderr.console,
            disable=not shown or not stderr.is_terminal,
        )
        self._decoding = self.bar.add_task("reading pictures", total=None)
        self._running = self.bar.add_task("training", total=1, visible=False)

    def decoded(self, done: int, total: int) -> None:
        self.bar.update(self._decoding, completed=done, total=total)
        self._line(f"reading pictures: {done} of {total}")

    def note(self, line: str) -> None:
        self.bar.console.print(f"car: note: {' '.join(line.split())}")

    def progress(self, state: "TrainingProgress") -> None:
        self.bar.update(self._decoding, visible=False)
        found = state.validation
        if found is not None:
            self._newest = f", {found.psnr:.2f} dB"
            if self._shown:
                self.bar.console.print(
                    f"{state.seconds / 60:.1f} min, step {state.step}: loss {state.loss:.4f}, "
                    f"validation PSNR on luma {found.psnr:.2f}, RGB {found.psnr_rgb:.2f}, chroma "
                    f"{found.psnr_chroma:.2f} dB; small picture to bicubic, luma {found.lr_psnr:.2f}, RGB "
                    f"{found.lr_psnr_rgb:.2f} dB"
                )
        speed = f"{state.images_per_second:.1f} pictures/s"
        text = f"step {state.step}, loss {state.loss:.4f}{self._newest}, {speed}"
        self.bar.update(self._running, visible=True, completed=state.done, description=text)
        left = state.seconds / state.done * (1 - state.done) if state.done else 0
        self._line(f"training: {100 * state.done:.0f} %, {text}, about {duration(left)} left")

    def _line(self, text: str) -> None:
        """Print a line now and then, where there is no terminal for a bar."""
        if self._lines and time.monotonic() - self._told >= PAUSE:
            stderr.print(text)
            self._told = time.monotonic()


def _print_result(weights: Path, out: Path, showing: Showing) -> None:
    from car.train.log import CURVES, read_log

    if showing.as_json:
        print_json({"weights": str(weights), "log": read_log(out)})
    elif showing.text:
        stdout.print(f"weights: {weights}; curves: {out / CURVES}")


def _print_plan(recipe: Recipe, found: "RunPlan", as_json: bool) -> None:
    if os.environ.get("RANK", "0") != "0":
        return
    if as_json:
        print_json({"recipe": asdict(recipe), "plan": asdict(found)})
        return
    table = Table("setting", "value", title=f"{recipe.model}: the recipe", title_justify="left")
    for name, value in asdict(recipe).items():
        text = ", ".join(value) if isinstance(value, tuple) else str(value)
        if name == "hold_out" and value == DEMO:
            text = "the photograph in the README, if it is among the pictures"
        table.add_row(name, text)
    stdout.print(table)
    stdout.print(
        f"{found.images} pictures to train on, {found.validation_images} to validate on\n"
        f"{found.downscaler_parameters:,} + {found.upscaler_parameters:,} parameters to train "
        "(downscaler + upscaler)\n"
        f"{found.processes} process(es) on {found.device}; {found.epoch_steps} steps an epoch\n"
        f"{found.steps:,} steps of {found.step_seconds:.3g} s: about {duration(found.seconds)}"
    )
