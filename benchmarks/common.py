"""What all benchmarks share: the machine, medians, and where results and tables are kept.

A benchmark is a module with four names, and ``run.py`` does the rest:

- ``PAGE``: the page of ``docs/`` that has its table, between two markers;
- ``add_options(parser)``: its options, if it has any;
- ``measure(options)``: measures, prints progress, and returns a JSON object;
- ``table(results)``: the table in Markdown, from that object with the key ``machine``.
"""

import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PHOTO = ROOT / "examples" / "street.webp"

Results = dict[str, Any]

_FEATURES = {
    "avx2": "AVX2",
    "avx_vnni": "AVX-VNNI",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "amx_tile": "AMX",
    "asimd": "NEON",
    "sve": "SVE",
}
"""Flags of /proc/cpuinfo that decide how fast networks run, and their usual names."""


def machine() -> Results:
    """Return what figures depend on: processor, its features, cores, threads, versions and the date."""
    import numpy as np
    import onnxruntime
    import torch

    about = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = re.findall(r"^model name\s*:\s*(.+)$", about, re.MULTILINE)
    flags = set(" ".join(re.findall(r"^(?:flags|Features)\s*:\s*(.+)$", about, re.MULTILINE)).split())
    features = [name for flag, name in _FEATURES.items() if flag in flags]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "features": features or [torch.backends.cpu.get_cpu_capability()],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "onnxruntime": onnxruntime.__version__,
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def about(m: Results) -> str:
    """Return a machine as the first words of a line above a table."""
    return (
        f"{m['cpu']}, {m['cores']} cores ({', '.join(m['features'])}); Python {m['python']}, "
        f"PyTorch {m['torch']}, onnxruntime {m['onnxruntime']}; {m['started'][:10]}"
    )


def folder_of(m: Results) -> Path:
    """Return the folder with the results of a machine."""
    name = f"{m['cpu']} {m['cores']} cores {m['features'][-1]}".lower()
    return RESULTS / re.sub(r"[^a-z0-9]+", "-", name).strip("-")


def record(name: str, results: Results) -> None:
    """Write the results of a benchmark, in place of those that this machine had."""
    target = folder_of(results["machine"]) / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(results, indent=1) + "\n")


def recorded(name: str) -> list[Results]:
    """Return the results of a benchmark on every machine, the newest first."""
    found = [json.loads(path.read_text()) for path in RESULTS.glob(f"*/{name}.json")]
    return sorted(found, key=lambda results: results["machine"]["started"], reverse=True)


def spread(seconds: Sequence[float]) -> Results:
    """Return median, least, most and number of several times."""
    return {
        "median_s": statistics.median(seconds),
        "min_s": min(seconds),
        "max_s": max(seconds),
        "runs": len(seconds),
    }


def told(row: Results, digits: int = 3) -> str:
    """Return two cells: the median of a `spread`, and least to most with the number of runs."""
    runs = f"{row['runs']} run{'s' * (row['runs'] > 1)}"
    return f"{row['median_s']:.{digits}f} | {row['min_s']:.{digits}f} - {row['max_s']:.{digits}f} ({runs})"


def timed(work: Callable[[], object], *, runs: int, warm_up: int) -> Results:
    """Return the `spread` of the seconds that `work` takes, and how far memory grew (Linux)."""
    seconds: list[float] = []
    before = 0
    for i in range(warm_up + runs):
        if i == 0:
            before = _status("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading and compiling
        start = time.perf_counter()
        work()
        if i >= warm_up:
            seconds.append(time.perf_counter() - start)
    return spread(seconds) | {"extra_memory_mb": (_status("VmHWM") - before) / 1e6}


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def show(name: str, page: str, table: str) -> None:
    """Write a table between its markers in a page of ``docs/``."""
    path = ROOT / "docs" / page
    path.write_text(with_table(path.read_text(), name, table))


def with_table(text: str, name: str, table: str) -> str:
    """Return the text of a page with a table between its markers."""
    begin, end = f"<!-- {name}: made by benchmarks/run.py {name} -->", f"<!-- end of {name} -->"
    before, rest = text.split(begin)
    return f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"
