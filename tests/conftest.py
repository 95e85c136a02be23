"""Shared fixtures: a small photograph, and the public test sets where they are at hand."""

import os
import signal
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from browser import Site, chromium
from car.devices import set_cpu_threads

ROOT = Path(__file__).parent.parent
PHOTO = Path(__file__).parent / "fixtures" / "photo.png"

# several test processes share the cores; one thread each avoids waiting for one another
set_cpu_threads(1)

# a shell starts what it puts into the background with this signal ignored, and the programs that the tests
# start and interrupt would inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture(scope="session")
def launch() -> Generator[Callable[..., Any], None, None]:
    """Starts a Chromium, driven by Playwright, with more options if given."""
    with chromium() as start:
        yield start


@pytest.fixture(scope="session")
def browser(launch: Callable[..., Any]) -> Generator[Any, None, None]:
    """A Chromium."""
    running = launch()
    yield running
    running.close()


@pytest.fixture
def site() -> Generator[Site, None, None]:
    """An empty web site."""
    running = Site()
    yield running
    running.close()
