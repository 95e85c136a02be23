"""Shared fixtures, which tests run beside each other, and which may be skipped."""

import os
import signal
from collections.abc import Callable, Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from browser import FirefoxPage, Site, chromium, firefox
from car.devices import set_cpu_threads
from processes import LIMIT

ROOT = Path(__file__).parent.parent
PHOTO = Path(__file__).parent / "fixtures" / "photo.png"

# a busy machine is no fault of a test, and files of an example may replace those of the one before
_any_machine = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("car", _any_machine, max_examples=20)
settings.register_profile("thorough", _any_machine, max_examples=200)  # see CONTRIBUTING.md
settings.load_profile("car")

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
    """A Chromium whose pages wait as long as everything else."""
    running = launch()

    def new_context(**options: Any) -> Any:
        context = running.new_context(**options)
        context.set_default_timeout(1000 * LIMIT)
        return context

    yield SimpleNamespace(new_context=new_context)
    running.close()


@pytest.fixture(scope="session")
def firefox_page(tmp_path_factory: pytest.TempPathFactory) -> Generator[FirefoxPage, None, None]:
    """The page of a Firefox."""
    with firefox(tmp_path_factory.mktemp("firefox")) as page:
        yield page


@pytest.fixture
def site() -> Generator[Site, None, None]:
    """An empty web site."""
    running = Site()
    yield running
    running.close()


# --- the order, and what is skipped ----------------------------------------------------------------------

# what takes longest comes first, so that no worker is left alone with it
SLOW = ("test_bulk_ray", "test_viewer", "test_export", "test_gallery", "test_serve", "test_train")
EXPECTED_SKIPS = Path(__file__).parent / "expected_skips.txt"

_unexpected: list[str] = []


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep together what shares a browser, a cluster or a service; see `--dist loadgroup`."""
    items.sort(key=lambda item: SLOW.index(item.path.stem) if item.path.stem in SLOW else len(SLOW))
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        fixtures: list[str] = getattr(item, "fixturenames", [])
        for name in ("launch", "cluster", "service"):
            if name in fixtures:
                item.add_marker(pytest.mark.xdist_group(name))
                break


def _note_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    expected = [line.split("#")[0].strip() for line in EXPECTED_SKIPS.read_text().splitlines()]
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    if not any(name and report.nodeid.startswith(name) for name in expected):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        _unexpected.append(f"{report.nodeid}: {reason}")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note_skip(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _note_skip(report)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In continuous integration, what is skipped without being expected to is a failure."""
    if os.environ.get("CI") and _unexpected and not session.exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if os.environ.get("CI") and _unexpected:
        terminalreporter.section("skipped, but not in tests/expected_skips.txt", red=True)
        for line in _unexpected:
            terminalreporter.line(line)
