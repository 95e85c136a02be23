"""The table of commands and their modules. A module is imported only when its command is called."""

import importlib
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from car.__main__ import interruptible

# a test compares them with the first lines of the help of the commands
COMMANDS = {
    "downscale": ("pictures", "Shrink pictures to small ordinary pictures that `car upscale` restores."),
    "upscale": ("pictures", "Restore large pictures from small ones, to the exact size of the original."),
    "info": ("info", "Show size and depth of pictures, and the metadata of small pictures."),
    "inspect": ("inspection", "Look inside a model."),
    "bulk": ("bulk", "Work through folders and buckets of any size, resumable, in parallel."),
    "serve": ("serving", "Serve shrinking and restoring over HTTP, with a page to try it."),
    "gallery": ("serving", "Make a web site whose small pictures the visitor's browser restores."),
    "compare": (
        "measures",
        "Shrink and restore one picture, compare the measures with bicubic, and draw a comparison picture.",
    ),
    "evaluate": (
        "measures",
        "Measure shrinking and restoring by the protocol of the papers, and compare with bicubic.",
    ),
    "advise": (
        "advising",
        "Compare small files of a picture with files of it at full size: bytes, quality, the best of them.",
    ),
    "rate": (
        "rating",
        "Compare bits and quality of restored small pictures with those of codecs at full size.",
    ),
    "report": (
        "reporting",
        "Write one HTML page about models: tables with the published rows, crops, error maps, curves, times.",
    ),
    "models": ("models", "List the models: their weights, what they are for, and their PSNR."),
    "pull": (
        "models",
        "Download or copy weights, check them, and keep them in the cache folder under a name.",
    ),
    "convert": (
        "models",
        "Turn published checkpoints into a .safetensors file, and models of family car into checkpoints.",
    ),
    "export": ("exporting", "Write a model for other programs."),
    "train": ("training", "Train a model on a folder of images. You can stop and resume it."),
}
"""The module and short help of each command, in the order of `car --help`."""


class LazyGroup(TyperGroup):
    """The commands of the table above. Commands that are not imported yet have only names and help."""

    def __init__(self, **settings: Any) -> None:
        # importing rich takes as long as all other imports; only the help of single commands uses it
        settings["rich_markup_mode"] = None
        super().__init__(**settings)
        self._fill({})

    def _fill(self, more: dict[str, Any]) -> None:
        there = {**self.commands, **more}
        self.commands = {
            name: there.get(name) or TyperCommand(name, short_help=text)
            for name, (_, text) in COMMANDS.items()
        }

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the command that is called."""
        if args and args[0] in COMMANDS:
            from car.cli.common import app

            with interruptible():
                importlib.import_module(f"car.cli.{COMMANDS[args[0]][0]}")
            self._fill(dict(typer.main.get_group(app).commands))
        return super().resolve_command(ctx, args)
