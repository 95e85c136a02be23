"""How long commands take to start, in units of the imports that they cannot do without.

    python benchmarks/startup.py              # prints the ratios and the limits
    python benchmarks/startup.py --record     # writes startup.json beside this file too

Everything runs once to warm the disk's cache, then in turns, so that other work on the machine meets all
alike. Ratios are those of medians.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import car

_CLI, _RUNTIME = "import typer, rich, PIL.Image", "import numpy, PIL.Image, onnxruntime"


def timed(command: list[str]) -> float:
    """Return the seconds that a command takes."""
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begin


def measured(runs: int) -> dict[str, dict[str, float]]:
    """Return of each command its median, that of what it is compared with, their ratio and its limit."""
    with tempfile.TemporaryDirectory() as folder:
        pixels = np.random.default_rng(0).integers(0, 256, (288, 288, 3), np.uint8)
        small = Path(folder, "small.png")
        car.downscale(Image.fromarray(pixels), 4).save(small)
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
        seconds: dict[str, list[float]] = {name: [] for name in programs}
        for run in range(runs + 1):
            for name, command in programs.items():
                took = timed(command)
                if run:
                    seconds[name].append(took)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        name: {
            "seconds": round(medians[name], 3),
            "base": round(medians[text], 3),
            "ratio": round(medians[name] / medians[text], 2),
            "limit": limit,
        }
        for name, (_, text, limit) in commands.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    found = measured(options.runs)
    for name, row in found.items():
        print(f"{name}: {row['seconds']} s, {row['ratio']} times {row['base']} s (limit {row['limit']})")
    if options.record:
        about = {"python": platform.python_version(), "machine": platform.machine(), "runs": options.runs}
        text = json.dumps(about | {"commands": found}, indent=1) + "\n"
        Path(__file__).with_suffix(".json").write_text(text)
    sys.exit(any(row["ratio"] > row["limit"] for row in found.values()))


if __name__ == "__main__":
    main()
