"""Time and memory of every model and of the adaptive resampling op, on this machine.

    python benchmarks/run.py            # everything, about fifteen minutes on two cores
    python benchmarks/run.py plus op    # only cases whose name contains one of the words

Each case runs in a process of its own: one warm-up, several runs, median and spread. Memory is the growth of
the process's peak resident set over its size just before the runs (Linux). Models work on a 2040x1356 picture
(one DIV2K photograph's size) in float32 through the same code that `car downscale` and `car upscale` use,
without reading and writing files. The paper's networks run once, on random weights: their time does not
depend on the values. Results go to ``benchmarks/results.json`` and ``docs/benchmarks.md``.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
WIDTH, HEIGHT = 2040, 1356
FAMILIES = ("car_plus", "car_lite", "car")
CASES = [
    f"{family}_x{scale} {what}"
    for scale in (4, 2)
    for family in FAMILIES
    for what in ("downscale", "upscale")
]
CASES[2:2] = [f"car_plus_large_x4 {what}" for what in ("downscale", "upscale")]
CASES += [f"op {kind} {what}" for what in ("forward", "forward+backward") for kind in ("fast", "reference")]


def machine() -> dict[str, Any]:
    import numpy as np
    import torch

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":")[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def publish(name: str, page: str, results: dict[str, Any], table: str) -> None:
    """Write ``benchmarks/NAME.json``, and the table between the markers of a page of ``docs/``."""
    (ROOT / "benchmarks" / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    path = ROOT / "docs" / page
    begin, end = f"<!-- {name}: made by benchmarks/{name}.py -->", f"<!-- end of {name} -->"
    before, rest = path.read_text().split(begin)
    path.write_text(f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def measure(work: Callable[[], object], runs: int, warm_up: int) -> dict[str, Any]:
    seconds: list[float] = []
    before, peak = 0, 0
    for i in range(warm_up + runs):
        if i == 0:
            before = _status("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading and compiling
        start = time.perf_counter()
        work()
        if i >= warm_up:
            seconds.append(time.perf_counter() - start)
    peak = _status("VmHWM")
    return {
        "median_s": statistics.median(seconds),
        "min_s": min(seconds),
        "max_s": max(seconds),
        "runs": runs,
        "extra_memory_mb": (peak - before) / 1e6,
    }


def run_case(case: str) -> dict[str, Any]:
    import numpy as np
    import torch

    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    words = case.split()
    if words[0] == "op":
        return run_op(words[1], backward=words[2] == "forward+backward")
    from car.codec.codec import Codec
    from car.codec.options import Options
    from car.models import create
    from car.weights import LoadedModel

    rescaler = create(words[0])
    for parameter in rescaler.parameters():
        if parameter.ndim > 1 and parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.5 * (1 / parameter[0].numel()) ** 0.5)
    rescaler.eval().requires_grad_(False)
    codec = Codec(LoadedModel.of(words[0], rescaler), Options(device="cpu"))
    shape = (
        (HEIGHT, WIDTH, 3) if words[1] == "downscale" else (HEIGHT // codec.scale, WIDTH // codec.scale, 3)
    )
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    work = codec.downscale_pixels if words[1] == "downscale" else codec.upscale_pixels
    work(pixels[:64, :64])
    slow = words[0] in ("car_x2", "car_x4")
    return measure(lambda: work(pixels), runs=1 if slow else 7, warm_up=0 if slow else 1)


def run_op(kind: str, *, backward: bool) -> dict[str, Any]:
    import torch

    from car.ops import adaptive_resample, adaptive_resample_reference

    scale, k = 4, 13
    h, w = HEIGHT // scale, WIDTH // scale
    image = torch.rand(1, 3, HEIGHT, WIDTH, requires_grad=backward)
    kernels = torch.rand(1, k * k, h, w).softmax(dim=1).requires_grad_(backward)
    offsets = [(torch.rand(1, k * k, h, w) * 2 - 1).requires_grad_(backward) for _ in range(2)]
    op = adaptive_resample if kind == "fast" else adaptive_resample_reference

    def work() -> None:
        out = op(image, kernels, *offsets, scale)
        if backward:
            out.sum().backward()
            for tensor in (image, kernels, *offsets):
                tensor.grad = None

    small = [t[..., :8, :8].detach() for t in (kernels, *offsets)]
    op(image.detach()[..., :32, :32], *small, scale)  # compiles
    return measure(work, runs=5, warm_up=1)


def table(results: dict[str, Any]) -> str:
    cases, m = results["cases"], results["machine"]
    megapixels = WIDTH * HEIGHT / 1e6

    def ratio(a: str, b: str, key: str = "median_s") -> str:
        if a not in cases or b not in cases or cases[a].get("run") != cases[b].get("run"):
            return "(not measured in one run)"
        return f"{cases[a][key] / cases[b][key]:.1f}"

    lines = [
        "# Benchmarks",
        "",
        "`make bench` (`benchmarks/run.py`) writes this page; do not edit it. The beginning of the script "
        "describes how each number is measured.",
        "",
        f"Machine: {m['cpu']}, {m['cores']} cores, {m['threads']} threads; Python {m['python']}, "
        f"PyTorch {m['torch']}; last run {m['date']}. Rows that this run did not measure come from earlier "
        "runs.",
        "",
        f"## Models, {WIDTH}x{HEIGHT} HR, float32",
        "",
        "| model | step | median s | min - max s | HR megapixels/s | extra memory MB |",
        "|---|---|---|---|---|---|",
    ]
    for case, r in cases.items():
        if not case.startswith("op"):
            lines.append(
                f"| {case.replace(' ', ' | ')} | {r['median_s']:.3f} | {r['min_s']:.3f} - {r['max_s']:.3f} "
                f"({r['runs']} run{'s' * (r['runs'] > 1)}) | {megapixels / r['median_s']:.2f} "
                f"| {r['extra_memory_mb']:.0f} |"
            )
    lines += [
        "",
        "Time of restoring with the paper's EDSR, divided by the time with `car_plus`: "
        f"{ratio('car_x4 upscale', 'car_plus_x4 upscale')} at 4x, "
        f"{ratio('car_x2 upscale', 'car_plus_x2 upscale')} at 2x.",
        "",
        "## Adaptive resampling op, 1x3x1356x2040, k = 13, scale 4",
        "",
        "| implementation | pass | median s | min - max s | extra memory MB |",
        "|---|---|---|---|---|",
    ]
    for case, r in cases.items():
        if case.startswith("op"):
            _, kind, what = case.split()
            lines.append(
                f"| {kind} | {what} | {r['median_s']:.3f} | {r['min_s']:.3f} - {r['max_s']:.3f} "
                f"({r['runs']} run{'s' * (r['runs'] > 1)}) | {r['extra_memory_mb']:.0f} |"
            )
    for what in ("forward", "forward+backward"):
        fast, reference = f"op fast {what}", f"op reference {what}"
        lines += [
            "",
            f"{what}: the reference takes {ratio(reference, fast)} times as long and "
            f"{ratio(reference, fast, 'extra_memory_mb')} times the extra memory.",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    if sys.argv[1:2] == ["--case"]:
        print(json.dumps(run_case(sys.argv[2])))
        return
    target = ROOT / "benchmarks" / "results.json"
    results = {"machine": machine(), "cases": {}}
    if sys.argv[1:] and target.exists():
        results["cases"] = json.loads(target.read_text())["cases"]
    for case in CASES:
        if sys.argv[1:] and not any(word in case for word in sys.argv[1:]):
            continue
        done = subprocess.run(
            [sys.executable, __file__, "--case", case], stdout=subprocess.PIPE, text=True, check=True
        )
        results["cases"][case] = json.loads(done.stdout) | {"run": results["machine"]["started"]}
        print(f"{case}: {results['cases'][case]['median_s']:.3f} s", flush=True)
    results["cases"] = {case: results["cases"][case] for case in CASES if case in results["cases"]}
    target.write_text(json.dumps(results, indent=1) + "\n")
    (ROOT / "docs" / "benchmarks.md").write_text(table(results))


if __name__ == "__main__":
    main()
