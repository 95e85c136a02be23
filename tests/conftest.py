"""Shared fixtures: a small photograph, and the public test sets where they are at hand."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
PHOTO = Path(__file__).parent / "fixtures" / "photo.png"

# several test processes share the cores; one thread each avoids waiting for one another
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def photo() -> Path:
    """A 160x192 photograph."""
    return PHOTO


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with Set5/, Set14/, BSDS100/ and pngsuite/."""
    folder = Path(os.environ.get("CAR_DATA", ROOT.parent / "shared" / "datasets"))
    if not folder.is_dir():
        pytest.skip(f"the public test sets are not at {folder}; point CAR_DATA to them")
    return folder
