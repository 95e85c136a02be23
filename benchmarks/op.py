"""Time and memory of the adaptive resampling op on the CPU, beside its definition in plain PyTorch.

Each case runs in a process of its own, on 1x3x1356x2040 with k = 13 at scale 4: one warm-up, five runs,
median and spread. Memory is the growth of the process's peak resident set over its size just before the
runs (Linux).
"""

import argparse
import json
import subprocess
import sys

from common import Results, timed, told

PAGE = "benchmarks.md"
WIDTH, HEIGHT, SCALE, TAPS = 2040, 1356, 4, 13
KINDS, PASSES = ("fast", "reference"), ("forward", "forward+backward")


def measure(options: argparse.Namespace) -> Results:
    rows: list[Results] = []
    for kind in KINDS:
        for what in PASSES:
            line = [sys.executable, __file__, kind, what]
            done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
            rows.append({"implementation": kind, "pass": what} | json.loads(done.stdout))
            print(f"{kind} {what}: {rows[-1]['median_s']:.3f} s", flush=True)
    return {"rows": rows}


def one_case(kind: str, what: str) -> Results:
    import torch

    from car.ops import adaptive_resample, adaptive_resample_reference

    torch.manual_seed(0)
    backward = what == "forward+backward"
    h, w = HEIGHT // SCALE, WIDTH // SCALE
    image = torch.rand(1, 3, HEIGHT, WIDTH, requires_grad=backward)
    kernels = torch.rand(1, TAPS**2, h, w).softmax(dim=1).requires_grad_(backward)
    offsets = [(torch.rand(1, TAPS**2, h, w) * 2 - 1).requires_grad_(backward) for _ in range(2)]
    op = adaptive_resample if kind == "fast" else adaptive_resample_reference

    def work() -> None:
        out = op(image, kernels, *offsets, SCALE)
        if backward:
            out.sum().backward()
            for tensor in (image, kernels, *offsets):
                tensor.grad = None

    small = [t[..., :8, :8].detach() for t in (kernels, *offsets)]
    op(image.detach()[..., : 8 * SCALE, : 8 * SCALE], *small, SCALE)  # compiles
    return timed(work, runs=5, warm_up=1)


def table(results: Results) -> str:
    lines = [
        "| implementation | pass | median s | least - most | extra memory MB |",
        "|---|---|---|---|---|",
    ]
    rows = {(r["implementation"], r["pass"]): r for r in results["rows"]}
    lines += [
        f"| {kind} | {what} | {told(r)} | {r['extra_memory_mb']:.0f} |" for (kind, what), r in rows.items()
    ]
    for what in PASSES:
        ours, other = (rows[kind, what] for kind in KINDS)
        lines += [
            "",
            f"{what}: the reference takes {other['median_s'] / ours['median_s']:.1f} times as long and "
            f"{other['extra_memory_mb'] / max(1, ours['extra_memory_mb']):.1f} times the extra memory.",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(json.dumps(one_case(*sys.argv[1:])))
