"""Thousands of pictures, some broken, through `car bulk` that is killed again and again.

    python tools/soak.py            # 2,000 pictures, one in twenty broken, five kills

At the end every good picture must be done once and restorable, every broken one listed, nothing half-written,
and memory must not grow with the number of pictures. Prints the figures; leaves with 1 where one is wrong.
"""

import argparse
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent

sys.path.insert(0, str(ROOT / "tests"))


def make(folder: Path, count: int) -> set[str]:
    """Write pictures in a tree; return the names of those that no program could read."""
    from car.errors import CarError
    from car.pictures.read import decode

    broken: set[str] = set()
    for n in range(count):
        rng = np.random.default_rng(n)
        height, width = rng.integers(40, 200, 2)
        coarse = rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((int(width), int(height)), Image.Resampling.BICUBIC)
        suffix = ("png", "jpg", "webp", "tif")[n % 4]
        buffer = io.BytesIO()
        image.save(buffer, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()))
        content = buffer.getvalue()
        name = f"{n % 37:02d}/{n:05d}.{suffix}"
        if n % 20 == 7:
            while True:  # damaged so that it cannot be read
                content = buffer.getvalue()[: int(rng.integers(0, len(buffer.getvalue()) // 2))]
                try:
                    decode(content, name)
                except CarError:
                    break
            broken.add(name)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return broken


def results(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.x4.png") if not path.name.startswith(".")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=5)
    options = parser.parse_args()
    from car.pictures.read import read

    with tempfile.TemporaryDirectory() as temporary:
        source, target = Path(temporary, "source"), Path(temporary, "target")
        source.mkdir()
        broken = make(source, options.count)
        line = [
            sys.executable,
            "-m",
            "car",
            "bulk",
            "downscale",
            str(source),
            str(target),
            "--scale",
            "4",
            "--json",
        ]
        begin, chance = time.monotonic(), random.Random(0)
        for kill in range(options.kills):
            process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wanted = len(results(target)) + chance.randrange(1, options.count // (options.kills + 2))
            while process.poll() is None and len(results(target)) < wanted:
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            process.wait()
            print(f"kill {kill + 1}: {len(results(target))} pictures were there", flush=True)
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        summary = json.loads(out)
        seconds = time.monotonic() - begin
        again = json.loads(subprocess.run(line, capture_output=True, text=True, check=False).stdout)
        good = {
            path.relative_to(source).with_suffix("").as_posix()
            for path in source.rglob("*.*")
            if path.relative_to(source).as_posix() not in broken
        }
        made = {path.relative_to(target).as_posix().removesuffix(".x4.png"): path for path in results(target)}
        unreadable = sum(read(path).info is None for path in made.values())
        checks = {
            "the last run exits with 1, for the broken ones": os.waitstatus_to_exitcode(status) == 1,
            "all good ones are there": set(made) == good,
            "all carry their metadata": unreadable == 0,
            "exactly the broken ones failed": {f["source"] for f in summary["failures"]} == broken,
            "done and unchanged are the good ones": summary["done"] + summary["unchanged"] == len(good),
            "one more run finds nothing to do": (again["done"], again["unchanged"]) == (0, len(good)),
        }
        left = [path for path in target.rglob(".*") if path.is_file()]
        for check, holds in checks.items():
            print(f"{'yes' if holds else 'NO '} {check}")
        print(
            f"{options.count} pictures, {len(broken)} broken, {options.kills} kills, {seconds:.0f} s in all; "
            f"peak memory of the last run {usage.ru_maxrss / 1024:.0f} MiB; "
            f"{len(left)} hidden temporary files of killed runs are left"
        )
        sys.exit(not all(checks.values()))


if __name__ == "__main__":
    main()
