"""How long commands take to start, in units of the imports that they cannot do without.

Everything runs once to warm the disk's cache, then in turns, on one core where the system allows it. What is
measured is the CPU time, of the user and of the system, and the least of all runs counts: so the ratios hold
on a machine with other work too.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

import car
from common import PHOTO, Results

PAGE = "benchmarks.md"

_CLI, _RUNTIME = "import typer, rich, PIL.Image", "import numpy, PIL.Image, onnxruntime"
_PIECE = 100, 100, 388, 388  # of the photograph: 288 pixels a side, 72 when shrunk


def cpu_seconds(command: list[str]) -> float:
    """Return the CPU time that a command takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # compiled modules are kept, as an installation keeps them
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def measured(runs: int) -> dict[str, dict[str, float]]:
    """Return of each command its least time, that of what it is compared with, their ratio and its limit."""
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder, "small.png")
        with Image.open(PHOTO) as photo:
            car.downscale(photo.convert("RGB").crop(_PIECE), 4).save(small)
        python = [sys.executable, "-m", "car"]
        large = str(Path(folder, "large.png"))
        commands = {
            "car --help": ([*python, "--help"], _CLI, 1.5),
            "car info": ([*python, "info", str(small)], _CLI, 1.5),
            "car upscale": ([*python, "upscale", str(small), "-o", large, "--overwrite"], _RUNTIME, 2.5),
            "import car": ([sys.executable, "-c", "import car"], "import typing", 3.0),
        }
        programs = {name: command for name, (command, _, _) in commands.items()}
        programs |= {text: [sys.executable, "-c", text] for _, text, _ in commands.values()}
        least = dict.fromkeys(programs, float("inf"))
        for run in range(runs + 1):
            for name, command in programs.items():
                took = cpu_seconds(command)
                if run:
                    least[name] = min(least[name], took)
    return {
        name: {
            "cpu_seconds": round(least[name], 3),
            "base": round(least[text], 3),
            "ratio": round(least[name] / least[text], 2),
            "limit": limit,
        }
        for name, (_, text, limit) in commands.items()
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=7)


def measure(options: argparse.Namespace) -> Results:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rows = measured(options.runs)
    for name, row in rows.items():
        print(f"{name}: {row['cpu_seconds']} s, {row['ratio']} times {row['base']} s (limit {row['limit']})")
    return {"runs": options.runs, "rows": rows}


def table(results: Results) -> str:
    lines = ["| | CPU seconds | its imports alone, s | ratio | limit |", "|---|---|---|---|---|"]
    lines += [
        f"| `{name}` | {r['cpu_seconds']:.3f} | {r['base']:.3f} | {r['ratio']:.2f} | {r['limit']} |"
        for name, r in results["rows"].items()
    ]
    return "\n".join(lines)
