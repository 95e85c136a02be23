"""The tables of speed in the pages are those of the recorded results, and every benchmark can be started."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import common  # noqa: E402
import run  # noqa: E402


@pytest.mark.parametrize("name", run.NAMES)
def test_a_page_has_the_table_of_the_newest_run(name: str) -> None:
    results, module = common.recorded(name), run.module_of(name)
    page = (ROOT / "docs" / module.PAGE).read_text()
    if results:
        assert common.with_table(page, name, run.table_of(module, results[0])) == page
    else:
        assert f"<!-- {name}: made by benchmarks/run.py {name} -->\nNot measured yet.\n" in page


def test_the_table_of_machines_has_every_machine() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    machines = run.module_of("models").machines(common.recorded("models"))
    assert common.with_table(page, "machines", machines) == page


def test_results_lie_with_the_machine_that_they_name() -> None:
    for name in run.NAMES:
        for results in common.recorded(name):
            assert (common.folder_of(results["machine"]) / f"{name}.json").exists()


def test_a_table_shows_the_newest_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    machine = {"cpu": "A B", "cores": 2, "features": ["AVX2"], "started": "2026-01-02 00:00:00"}
    common.record("op", {"machine": machine, "value": 1})
    common.record("op", {"machine": {**machine, "cores": 4, "started": "2026-01-03 00:00:00"}, "value": 2})
    assert [results["value"] for results in common.recorded("op")] == [2, 1]
    common.record("op", {"machine": {**machine, "started": "2026-01-04 00:00:00"}, "value": 3})
    assert [results["value"] for results in common.recorded("op")] == [3, 2]


def test_an_unknown_benchmark_is_named() -> None:
    line = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "models", "speed"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("there is no benchmark speed; there are: models, op")
