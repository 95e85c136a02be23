"""Which pictures a command measures, as options."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from car.cli.common import Exclude
from car.errors import UsageError
from car.measure.evaluate import DATASETS, find_dataset

ImgDir = Annotated[
    Path | None,
    typer.Option("--img-dir", help="Data folder with the usual test sets.", envvar="CAR_DATA"),
]


@dataclass(frozen=True)
class ToMeasure:
    """Pictures that are named, or those of a test set."""

    inputs: Annotated[list[str] | None, typer.Argument(help="Picture files, folders or globs.")] = None
    img_dir: ImgDir = None
    target_dataset: Annotated[
        str | None,
        typer.Option("--target-dataset", help=f"Test set below --img-dir: {', '.join(DATASETS)}."),
    ] = None
    exclude: Exclude = None

    def named(self) -> list[str]:
        """Return what is named, or the folder of the test set.

        Raises:
            UsageError: it is both or neither, or the test set is not there.
        """
        if self.target_dataset:
            if self.inputs:
                raise UsageError("give either inputs or --target-dataset")
            return [str(find_dataset(self.img_dir or Path("datasets"), self.target_dataset))]
        if not self.inputs:
            raise UsageError("name pictures or folders, or a test set with --img-dir and --target-dataset")
        return self.inputs
