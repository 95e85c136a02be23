"""The adaptive resampling op on a GPU: Triton kernels, plain PyTorch operators, and grid_sample for each tap.

Times are medians of `triton.testing.do_bench` (warm-up, flushed cache, synchronised), with the 20th and
80th percentiles. The bandwidth is what each pass must move at least (every input read once, every result
written once) over the median, as a share of what a device-to-device copy of a gigabyte reaches in the same
run. ``grid_sample`` once for each tap is how the op is written without a kernel of its own.
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from car.ops import adaptive_resample, adaptive_resample_reference
from common import Results

PAGE = "devices.md"
SHAPES = {
    # batch, HR height, HR width, scale
    "training, 4x": (16, 192, 192, 4),
    "training, 2x": (24, 96, 96, 2),
    "a photograph, 4x": (1, 1356, 2040, 4),
}
TOY = {"toy, 4x": (1, 32, 32, 4)}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def grid_sample_per_tap(image, kernels, offsets_h, offsets_v, scale):
    """Resample by one `grid_sample` for each tap; equal to the op but at the outermost pixels."""
    k = round(kernels.shape[1] ** 0.5)
    padded = F.pad(image, [k // 2] * 4, mode="reflect")
    (H, W), (h, w) = image.shape[2:], kernels.shape[2:]
    y = (torch.arange(h, device=image.device, dtype=image.dtype) + 0.5) * H / h - 0.5
    x = (torch.arange(w, device=image.device, dtype=image.dtype) + 0.5) * W / w - 0.5
    out = 0
    for tap in range(k * k):
        px = x + tap % k + scale * offsets_h[:, tap]
        py = y[:, None] + tap // k + scale * offsets_v[:, tap]
        grid = torch.stack(((2 * px + 1) / padded.shape[3] - 1, (2 * py + 1) / padded.shape[2] - 1), dim=-1)
        sample = F.grid_sample(padded, grid, mode="bilinear", padding_mode="border", align_corners=False)
        out = out + kernels[:, tap, None] * sample
    return out


IMPLEMENTATIONS: dict[str, Callable[..., torch.Tensor]] = {
    "car": adaptive_resample,
    "plain PyTorch": adaptive_resample_reference,
    "grid_sample per tap": grid_sample_per_tap,
}


def inputs(
    shape: tuple[int, int, int, int], dtype: torch.dtype, device: str
) -> tuple[list[torch.Tensor], int]:
    batch, H, W, scale = shape
    torch.manual_seed(0)
    taps = (batch, (3 * scale + 1) ** 2, H // scale, W // scale)
    kernels = torch.rand(taps, device=device)
    tensors = [
        torch.rand(batch, 3, H, W, device=device),
        kernels / kernels.sum(1, keepdim=True),
        *(torch.rand(taps, device=device) - 0.5 for _ in range(2)),
    ]
    return [t.to(dtype).requires_grad_() for t in tensors], scale


def bench(function: Callable[[], Any], device: str) -> dict[str, float]:
    if device == "cpu":
        start = time.perf_counter()
        function()
        median = low = high = time.perf_counter() - start
    else:
        from triton.testing import do_bench

        median, low, high = (t / 1e3 for t in do_bench(function, quantiles=[0.5, 0.2, 0.8]))
    return {"median_s": median, "low_s": low, "high_s": high}


def error(function: Callable[..., torch.Tensor], tensors: list[torch.Tensor], scale: int) -> float:
    """Return the largest difference from the definition in float64, on the same inputs."""
    with torch.no_grad():
        truth = adaptive_resample_reference(*(t.double() for t in tensors), scale)
        return (function(*tensors, scale).double() - truth).abs().max().item()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cpu", action="store_true", help="rehearse at a toy size, on the CPU")


def measure(options: argparse.Namespace) -> Results:
    device = "cpu" if options.cpu else "cuda"
    if not options.cpu and not torch.cuda.is_available():
        raise SystemExit("PyTorch sees no GPU here; --cpu rehearses the run")
    copied = 0.0
    if device == "cuda":
        block = torch.empty(1 << 28, device=device)
        copied = 2 * block.nbytes / bench(lambda: block.clone(), device)["median_s"]
        del block
    rows: list[dict[str, Any]] = []
    for (name, shape), (type_name, dtype) in (
        (s, d) for s in (TOY if options.cpu else SHAPES).items() for d in DTYPES.items()
    ):
        tensors, scale = inputs(shape, dtype, device)
        result = adaptive_resample(*tensors, scale)
        forward_bytes = sum(t.nbytes for t in tensors) + result.nbytes
        # backward reads all that again with the gradient for the result, and writes a gradient for each input
        backward_bytes = 2 * forward_bytes
        grad = torch.ones_like(result)
        del result
        for kind, function in IMPLEMENTATIONS.items():
            run = functools.partial(function, *tensors, scale)

            def both(run: Callable[[], torch.Tensor] = run, tensors=tensors, grad=grad) -> None:
                torch.autograd.grad(run(), tensors, grad)

            def forward(run: Callable[[], torch.Tensor] = run) -> None:
                with torch.no_grad():
                    run()

            passes = (
                ("forward", forward, forward_bytes),
                ("forward+backward", both, forward_bytes + backward_bytes),
            )
            for what, work, moved in passes:
                try:
                    times = bench(work, device)
                except torch.OutOfMemoryError:
                    torch.cuda.empty_cache()
                    print(f"{name}, {type_name}, {kind}, {what}: not enough memory", flush=True)
                    continue
                row = {"shape": name, "dtype": type_name, "implementation": kind, "pass": what} | times
                row["bandwidth_share"] = moved / times["median_s"] / copied if copied else None
                row["error"] = error(function, tensors, scale) if what == "forward" else None
                rows.append(row)
                share = f", {row['bandwidth_share']:.0%} of the bandwidth" if copied else ""
                print(
                    f"{name}, {type_name}, {kind}, {what}: {times['median_s'] * 1e3:.3f} ms{share}",
                    flush=True,
                )
    if device == "cpu":
        raise SystemExit("rehearsed on the CPU: nothing is recorded")
    return {"machine": {"gpu": torch.cuda.get_device_name(), "copy_bytes_per_second": copied}, "rows": rows}


def table(results: Results) -> str:
    m = results["machine"]
    lines = [
        f"{m['gpu']}; a copy moves {m['copy_bytes_per_second'] / 1e9:,.0f} GB/s.",
        "",
        "| shape | type | implementation | pass | median ms | 20 % - 80 % | bandwidth used | largest error |",
        "|---" * 8 + "|",
    ]
    for r in results["rows"]:
        times = f"{r['median_s'] * 1e3:.3f} | {r['low_s'] * 1e3:.3f} - {r['high_s'] * 1e3:.3f}"
        error = "" if r["error"] is None else f"{r['error']:.1e}"
        lines.append(
            f"| {r['shape']} | {r['dtype']} | {r['implementation']} | {r['pass']} | {times} "
            f"| {r['bandwidth_share']:.0%} | {error} |"
        )
    return "\n".join(lines)
