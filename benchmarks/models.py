"""Time and memory of shrinking and restoring with every model.

Each case runs in a process of its own: one warm-up, three runs, median and spread. Memory is the growth of
the process's peak resident set over its size just before the runs (Linux). Models work in float32 through
the same code that `car downscale` and `car upscale` use, without reading and writing files, on a picture of
2040x1356 pixels, a DIV2K photograph's size. The paper's networks have random weights, because their time
does not depend on the values, and work once on a sixteenth of the picture, because whole pictures would
take minutes. All times are given for a megapixel of HR, so that they can be compared.
"""

import argparse
import json
import subprocess
import sys
from typing import Any

from common import Results, timed, told

PAGE = "benchmarks.md"
WIDTH, HEIGHT = 2040, 1356
PUBLISHED = ("car_x4", "car_x2")
SHARE = 4  # of each side, for the paper's networks
STEPS = ("downscale", "upscale")
BACKENDS = ("onnxruntime", "torch")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", action="append", help="only this one; the table then has no others")


def measure(options: argparse.Namespace) -> Results:
    from car.weights import list_models

    shipped = [model.name for model in list_models() if model.tags]
    rows: list[Results] = []
    for model in options.model or [*shipped, *PUBLISHED]:
        for step in STEPS:
            for backend in BACKENDS:
                if model in PUBLISHED and backend == "onnxruntime":
                    continue
                line = [sys.executable, __file__, model, step, backend]
                done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
                row = {"model": model, "step": step, "backend": backend} | json.loads(done.stdout)
                rows.append(row)
                print(f"{model} {step} {backend}: {row['megapixels'] / row['median_s']:.3f} MP/s", flush=True)
    return {"rows": rows}


def one_case(model: str, step: str, backend: Any) -> Results:
    import numpy as np
    import torch

    import car
    from car.codec.codec import Codec
    from car.models import create
    from car.weights import LoadedModel

    torch.manual_seed(0)
    published = model in PUBLISHED
    options = car.Options(device="cpu", backend=backend)
    if published:
        rescaler = create(model)
        for parameter in rescaler.parameters():
            if parameter.ndim > 1 and parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.5 * (1 / parameter[0].numel()) ** 0.5)
        codec = Codec(LoadedModel.of(model, rescaler.eval().requires_grad_(False)), options)
    else:
        codec = car.open(model, options=options)
    share = SHARE if published else 1
    height, width = HEIGHT // share, WIDTH // share
    sides = (height, width) if step == "downscale" else (height // codec.native, width // codec.native)
    pixels = np.random.default_rng(0).integers(0, 256, (*sides, 3), dtype=np.uint8)
    work = codec.downscale_pixels if step == "downscale" else codec.upscale_pixels
    work(pixels[:64, :64])  # compiles
    found = timed(lambda: work(pixels), runs=1 if published else 3, warm_up=0 if published else 1)
    return {"megapixels": height * width / 1e6} | found


def speeds(results: Results) -> dict[tuple[str, str, str], float]:
    """Return HR megapixels a second of each model, step and backend."""
    return {(r["model"], r["step"], r["backend"]): r["megapixels"] / r["median_s"] for r in results["rows"]}


def table(results: Results) -> str:
    found = speeds(results)
    lines = [
        f"{WIDTH}x{HEIGHT} HR, float32; the paper's networks on {WIDTH // SHARE}x{HEIGHT // SHARE} of it.",
        "",
        "| model | step | run by | median s | least - most | HR megapixels/s | extra memory MB |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{r['model']}` | {r['step']} | {r['backend']} | {told(r)} "
        f"| {r['megapixels'] / r['median_s']:.2f} | {r['extra_memory_mb']:.0f} |"
        for r in results["rows"]
    ]
    for scale in (4, 2):
        ours, paper = (f"car_plus_x{scale}", "upscale", BACKENDS[0]), (f"car_x{scale}", "upscale", "torch")
        if ours in found and paper in found:
            lines += [
                "",
                f"A megapixel of HR takes {found[ours] / found[paper]:.0f} times as long to restore with the "
                f"paper's EDSR as with `car_plus_x{scale}` at {scale}x.",
            ]
    return "\n".join(lines)


def machines(all_results: list[Results]) -> str:
    """Return a table with a row for each machine, each from one run."""
    columns = [
        (f"car_plus_x{scale}", step, f"{what}, {scale}x")
        for scale in (4, 2)
        for step, what in zip(STEPS, ("shrink", "restore"), strict=True)
    ]
    lines = [
        "| machine | processor features | " + " | ".join(head for *_, head in columns) + " |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for results in all_results:
        m, found = results["machine"], speeds(results)
        cells = [found.get((model, step, BACKENDS[0])) for model, step, _ in columns]
        shown = " | ".join("-" if cell is None else f"{cell:.2f}" for cell in cells)
        lines.append(
            f"| {m['cpu']}, {m['cores']} cores, {m['started'][:10]} | {', '.join(m['features'])} | {shown} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(json.dumps(one_case(*sys.argv[1:])))
