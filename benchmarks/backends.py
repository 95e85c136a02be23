"""Restoring by onnxruntime beside PyTorch, on the CPU.

    python benchmarks/backends.py      # a minute; let nothing else run

The upscalers of the shipped models on one tile, in turns in one process: two rounds to warm up, then nine;
medians. Results go to ``benchmarks/backends.json`` and ``docs/export.md``, between the markers.
"""

import statistics
import time
from typing import Any

import torch

from car.codec.onnx_engine import OnnxEngine
from car.weights import list_models, load
from run import machine, publish

HEIGHT, WIDTH = 339, 510  # a quarter of a DIV2K photograph
WARM_UP, ROUNDS = 2, 9


def main() -> None:
    import onnxruntime

    results: dict[str, Any] = {"machine": machine() | {"onnxruntime": onnxruntime.__version__}, "models": {}}
    for model in (m for m in list_models() if m.tags):
        loaded = load(model.name)
        scale = model.scale
        lr = torch.rand(1, 3, HEIGHT * 4 // scale, WIDTH * 4 // scale)
        channels_last = lr.to(memory_format=torch.channels_last)
        upscaler = loaded.rescaler.upscaler.to(memory_format=torch.channels_last)
        engine, tile = (
            OnnxEngine(loaded, torch.get_num_threads()),
            lr[0].permute(1, 2, 0).contiguous().numpy(),
        )
        seconds: dict[str, list[float]] = {"torch": [], "onnxruntime": []}
        for turn in range(WARM_UP + ROUNDS):
            ways = (("torch", upscaler, channels_last), ("onnxruntime", engine.upscale, tile))
            for name, restore, source in ways:
                time.sleep(0.3)  # the threads of the other spin for a while before they sleep
                begin = time.perf_counter()
                with torch.inference_mode():
                    restore(source)
                if turn >= WARM_UP:
                    seconds[name].append(time.perf_counter() - begin)
        megapixels = lr.shape[2] * lr.shape[3] * scale**2 / 1e6
        rows = {
            name: {
                "median_s": statistics.median(s),
                "min_s": min(s),
                "max_s": max(s),
                "megapixels": megapixels,
            }
            for name, s in seconds.items()
        }
        results["models"][model.name] = rows
        print(
            model.name,
            {name: f"{megapixels / row['median_s']:.2f} MP/s" for name, row in rows.items()},
            flush=True,
        )
    m = results["machine"]
    lines = [
        f"{m['cpu']}, {m['threads']} threads, torch {m['torch']}, onnxruntime {m['onnxruntime']}, "
        f"{m['date']}; the networks alone, medians of {ROUNDS} (from fastest to slowest).",
        "",
        "| | PyTorch, s | onnxruntime, s | megapixels a second | times as fast |",
        "|---|---|---|---|---|",
    ]
    for name, rows in results["models"].items():
        cells = [f"{r['median_s']:.3f} ({r['min_s']:.3f} - {r['max_s']:.3f})" for r in rows.values()]
        speeds = " and ".join(f"{r['megapixels'] / r['median_s']:.2f}" for r in rows.values())
        ratio = rows["torch"]["median_s"] / rows["onnxruntime"]["median_s"]
        lines.append(f"| `{name}` | {cells[0]} | {cells[1]} | {speeds} | {ratio:.2f} |")
    publish("backends", "export.md", results, "\n".join(lines))


if __name__ == "__main__":
    main()
