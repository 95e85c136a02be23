"""Throughput and memory of `car bulk` beside a loop that does one image after the other.

Both run as processes over the same files: `car downscale FOLDER` and `car upscale FOLDER`, which are such
loops, and `car bulk`. Three rounds, taking turns; medians. Then a command for each of every tenth picture, as
a loop in a shell does it.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

from common import Results

PAGE = "scale.md"
EVERY = 10  # of the pictures, one gets a command of its own
FORMATS = (("jpg", {"quality": 92}), ("png", {}), ("webp", {"quality": 90}), ("jpg", {"quality": 85}))


def make(data: Path, folder: Path, count: int) -> int:
    """Write `count` pictures of mixed sizes and formats; return their pixels."""
    folder.mkdir()
    sources = sorted(path for path in data.rglob("*") if path.suffix.lower() in (".webp", ".png", ".jpg"))
    pixels = 0
    for n in range(count):
        with Image.open(sources[n * len(sources) // count]) as image:
            factor = (0.5, 1, 1, 1.5, 2)[n % 5]
            size = (round(image.width * factor), round(image.height * factor))
            suffix, options = FORMATS[n % len(FORMATS)]
            image.convert("RGB").resize(size).save(folder / f"{n:03d}.{suffix}", **options)
            pixels += size[0] * size[1]
    return pixels


def timed(line: list[str]) -> tuple[float, int]:
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "car", *line], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{line} failed")
    return time.perf_counter() - begin, usage.ru_maxrss * 1024


def table(results: dict[str, Any]) -> str:
    lines = [
        f"{results['images']} pictures, "
        f"{results['megapixels']:.0f} megapixels, 4x; median of {results['rounds']} rounds (least to most).",
        "",
        "| | one after the other, s | `car bulk`, s | faster by | memory, MB | memory of `car bulk`, MB |",
        "|---|---|---|---|---|---|",
    ]
    for kind, r in results["rows"].items():
        cells = {
            way: f"{statistics.median(s):.1f} ({min(s):.1f} to {max(s):.1f})"
            for way, s in ((way, r[way]["seconds"]) for way in ("loop", "bulk"))
        }
        ratio = statistics.median(r["loop"]["seconds"]) / statistics.median(r["bulk"]["seconds"])
        peaks = {way: max(r[way]["peak"]) / 1e6 for way in ("loop", "bulk")}
        lines.append(
            f"| {kind} | {cells['loop']} | {cells['bulk']} | {ratio:.2f} "
            f"| {peaks['loop']:.0f} | {peaks['bulk']:.0f} |"
        )
    single, count = results["commands"], results["images"]
    each = {kind: seconds / single["images"] for kind, seconds in single["seconds"].items()}
    times = {
        kind: s * count / statistics.median(results["rows"][kind]["bulk"]["seconds"])
        for kind, s in each.items()
    }
    told = (
        f"{s:.2f} s to {kind} one, {times[kind]:.1f} times as long as `car bulk`" for kind, s in each.items()
    )
    lines += [
        "",
        f"With a command for each picture, as a shell has it ({single['images']} of them): "
        f"{', '.join(told)}.",
    ]
    return "\n".join(lines)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)


def measure(options: argparse.Namespace) -> Results:
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        pixels = make(options.data, place / "photos", options.count)
        small = place / "small"
        rows: dict[str, Any] = {}
        for kind, source in (("downscale", "photos"), ("upscale", "small")):
            rows[kind] = {way: {"seconds": [], "peak": []} for way in ("loop", "bulk")}
            for _ in range(options.rounds):
                for way in ("loop", "bulk"):
                    target = place / f"{kind}-{way}"
                    shutil.rmtree(target, ignore_errors=True)
                    line = [*(["bulk"] if way == "bulk" else []), kind, str(place / source)]
                    line += [str(target)] if way == "bulk" else ["-o", str(target)]
                    seconds, peak = timed([*line, *(["--scale", "4"] if kind == "downscale" else [])])
                    rows[kind][way]["seconds"].append(seconds)
                    rows[kind][way]["peak"].append(peak)
                    print(kind, way, f"{seconds:.1f} s, {peak / 1e6:.0f} MB", flush=True)
            shutil.copytree(place / "downscale-bulk", small, dirs_exist_ok=True)
        results: Results = {"images": options.count, "megapixels": pixels / 1e6, "rounds": options.rounds}
        return results | {"rows": rows, "commands": commands(place / "photos", place)}


def commands(photos: Path, place: Path) -> dict[str, Any]:
    """Time a process for each of some pictures: shrinking them, then restoring those small pictures."""
    some, seconds = sorted(photos.iterdir())[::EVERY], {"downscale": 0.0, "upscale": 0.0}
    for n, source in enumerate(some):
        small, restored = place / f"{n}.png", place / f"{n}.restored.png"
        seconds["downscale"] += timed(["downscale", str(source), "-o", str(small), "--scale", "4"])[0]
        seconds["upscale"] += timed(["upscale", str(small), "-o", str(restored)])[0]
    return {"images": len(some), "seconds": seconds}
