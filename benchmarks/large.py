"""Time and memory of pictures up to 400 megapixels, shrunk and restored in strips; a seam test on the way.

Each size is a TIFF that is made here, of waves and noise. `car downscale` and `car upscale` run as processes
with ``--memory 1GB``; the peak of their resident memory is the kernel's figure. Pieces of both results,
across the seams of strips and tiles, are compared with what the model makes of the same region without tiles.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from common import Results

PAGE = "scale.md"


def rows(top: int, bottom: int, width: int) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Return rows of the picture: fine and coarse waves in other directions for each colour, and grain."""
    y, x = np.mgrid[top:bottom, :width].astype(np.float32)
    planes = [
        np.sin(x / (9 + c) + y / 31) + np.sin(y / (4 + c) - x / 57) + 2 * np.sin((x + 2 * y) / (400 + 90 * c))
        for c in range(3)
    ]
    grain = np.random.default_rng(top).normal(scale=0.2, size=(bottom - top, width, 3)).astype(np.float32)
    return np.clip((np.stack(planes, axis=2) + grain) * 28 + 128, 0, 255).astype(np.uint8)


def make(path: Path, side: int) -> None:
    strip = 64

    def strips() -> Any:
        for top in range(0, side, strip):
            yield rows(top, min(top + strip, side), side).tobytes()

    tifffile.imwrite(
        path,
        strips(),
        shape=(side, side, 3),
        dtype=np.uint8,
        photometric="rgb",
        rowsperstrip=strip,
        metadata=None,
    )


def timed(*arguments: object) -> tuple[float, int]:
    """Return seconds and peak memory in bytes of a command."""
    begin = time.perf_counter()
    # a child's peak starts at what its parent had at the time: an empty parent between them keeps ours out
    count = "import os, sys; e = os.wait4(os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ), 0); "
    count += "print(e[2].ru_maxrss * 1024); sys.exit(e[1] != 0)"
    command = [sys.executable, "-m", "car", *map(str, arguments), "--quiet"]
    result = subprocess.run([sys.executable, "-S", "-c", count, *command], stdout=subprocess.PIPE, text=True)
    if result.returncode:
        raise SystemExit(f"{arguments} failed")
    return time.perf_counter() - begin, int(result.stdout)


def check_seams(large: Path, small: Path, restored: Path, scale: int) -> int:
    """Compare regions of the results with untiled work; return the largest difference in levels of 255."""
    import car
    from car.codec.codec import Codec
    from car.codec.options import Options
    from car.pictures.read import read

    codec = Codec(car.load(f"car_plus_x{scale}"), Options(tile=4096))
    geometry = codec.loaded.rescaler.geometry
    lr = read(small, max_pixels=10**9).pixels
    hr = tifffile.memmap(large)
    with tifffile.TiffFile(restored) as file:
        back = file.asarray(out="memmap")
    worst, side = 0, 160
    down = -(-geometry.halo_down // scale)
    for top, left in ((0, 0), (480, 200), (200, 480), (lr.shape[0] - side, lr.shape[1] - side)):
        top, left = max(0, min(top, lr.shape[0] - side)), max(0, min(left, lr.shape[1] - side))
        y0, x0 = max(0, top - down), max(0, left - down)
        y1, x1 = min(lr.shape[0], top + side + down), min(lr.shape[1], left + side + down)
        part = codec.downscale_pixels(
            np.ascontiguousarray(hr[y0 * scale : y1 * scale, x0 * scale : x1 * scale])
        )
        part = part[top - y0 : top - y0 + side, left - x0 : left - x0 + side]
        there = lr[top : top + side, left : left + side]
        worst = max(worst, int(np.abs(part.astype(int) - there).max()))
        y0, x0 = max(0, top - geometry.halo_up), max(0, left - geometry.halo_up)
        y1, x1 = (min(n, m + side + geometry.halo_up) for n, m in zip(lr.shape, (top, left), strict=False))
        part = codec.upscale_pixels(np.ascontiguousarray(lr[y0:y1, x0:x1]))
        part = part[(top - y0) * scale :, (left - x0) * scale :][: side * scale, : side * scale]
        there = back[top * scale : (top + side) * scale, left * scale : (left + side) * scale]
        part = part[: there.shape[0], : there.shape[1]]
        worst = max(worst, int(np.abs(part.astype(int) - there).max()))
    return worst


def table(results: dict[str, Any]) -> str:
    lines = [
        f"One run each, `--memory {results['memory']}`.",
        "",
        "| megapixels | scale | shrink, s | peak, MB | restore, s | peak, MB | s a megapixel | seam levels |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in results["rows"]:
        cost = (r["down_seconds"] + r["up_seconds"]) / r["megapixels"]
        lines.append(
            f"| {r['megapixels']} | {r['scale']} | {r['down_seconds']:.1f} | {r['down_peak'] / 1e6:.0f} "
            f"| {r['up_seconds']:.1f} | {r['up_peak'] / 1e6:.0f} | {cost:.2f} | {r['seam_levels']} |"
        )
    return "\n".join(lines)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--megapixels", type=int, nargs="+", default=[4, 16, 64, 256, 400])
    parser.add_argument("--scale", type=int, nargs="+", default=[4])
    parser.add_argument("--memory", default="1GB")


def measure(options: argparse.Namespace) -> Results:
    results: Results = {"memory": options.memory, "rows": []}
    for scale in options.scale:
        for megapixels in options.megapixels:
            side = round((megapixels * 1e6) ** 0.5)
            with tempfile.TemporaryDirectory() as folder:
                large, small, restored = (Path(folder, n) for n in ("large.tif", "small.png", "restored.tif"))
                make(large, side)
                limit = ("--memory", options.memory)
                down = timed("downscale", large, "-o", small, "--scale", scale, *limit)
                up = timed("upscale", small, "-o", restored, *limit)
                seams = check_seams(large, small, restored, scale)
            row = {"megapixels": megapixels, "scale": scale, "seam_levels": seams}
            row |= {"down_seconds": down[0], "down_peak": down[1], "up_seconds": up[0], "up_peak": up[1]}
            results["rows"].append(row)
            print(json.dumps(row), flush=True)
    return results
