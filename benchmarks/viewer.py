"""Time and memory of <car-image> in Chromium, on the CPU.

    npm install --prefix /tmp/ort onnxruntime-web@1.23.0

A photograph of 2 megapixels is opened and clicked: seconds to the first tile that is painted and to the whole
picture, with the weights not yet there (a new browser) and there already; medians of five. Memory is what all
processes of the browser hold together, at most. With onnxruntime-web, the same network is run by it on the
whole picture, with as many threads.
"""

import argparse
import contextlib
import io
import os
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from common import PHOTO, ROOT, Results

sys.path.insert(0, str(ROOT / "tests"))
PAGE = "viewer.md"
ROUNDS = 5
CLICK = """() => new Promise((done) => {
    const picture = document.querySelector("car-image");
    const begin = performance.now();
    const times = {};
    picture.addEventListener("car-progress", () => { times.first ??= performance.now() - begin; });
    picture.addEventListener("car-state", (event) => {
        if (event.detail.state === "failed") done({ error: event.detail.message });
        if (event.detail.state === "restored") done({ ...times, whole: performance.now() - begin });
    });
    picture.restore();
})"""
OTHER = """async ([threads, height, width]) => {
    const ort = await import("/ort/ort.wasm.min.mjs");
    ort.env.wasm.numThreads = threads;
    ort.env.wasm.wasmPaths = "/ort/";
    const session = await ort.InferenceSession.create("/up.onnx", { executionProviders: ["wasm"] });
    const values = new Float32Array(3 * height * width).fill(0.5);
    const lr = new ort.Tensor("float32", values, [1, 3, height, width]);
    const times = [];
    for (let turn = 0; turn < 4; turn++) {
        const begin = performance.now();
        await session.run({ lr });
        times.push(performance.now() - begin);
    }
    return times.slice(1);
}"""


class Memory:
    """What this process' descendants hold, at most, in bytes."""

    def __enter__(self) -> "Memory":
        self.most, self._on = 0, True
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while self._on:
            total = 0
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error, AttributeError):
                    total += child.memory_full_info().pss if "chrom" in child.name() else 0
            self.most = max(self.most, total)
            time.sleep(0.2)

    def __exit__(self, *_: object) -> None:
        self._on = False
        self._thread.join()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--onnxruntime-web", type=Path, help="its folder dist, to be measured too")


def measure(options: argparse.Namespace) -> Results:
    import car
    from browser import Site, chromium
    from car.export.onnx import to_onnx
    from car.viewer import assets, shipped_web_models

    ort = options.onnxruntime_web
    photo = Image.open(PHOTO).convert("RGB").resize((1728, 1160))
    site = Site()
    site.headers |= {
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Embedder-Policy": "require-corp",
    }
    site.files |= {f"/viewer/{name}": content for name, content in assets().items()}
    site.files |= {f"/viewer/models/{n}.safetensors": content for n, content in shipped_web_models().items()}
    site.files["/empty.html"] = b"<!doctype html>"
    if ort:
        site.add_folder(ort, "/ort/")
    rows: dict[str, Any] = {}
    with chromium() as launch:
        for scale in (4, 2):
            small, file = car.downscale(photo, scale), io.BytesIO()
            small.save(file, "PNG")
            site.files["/small.png"] = file.getvalue()
            site.files["/"] = (
                b'<!doctype html><link rel="icon" href="data:,"><style>body { margin: 0 }</style>'
                b'<script type="module" src="/viewer/car-image.js"></script>'
                b'<car-image src="/small.png" restore="none" style="width: 1000px"></car-image>'
            )
            runs: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
            most: list[int] = []
            for _ in range(ROUNDS):
                browser = launch()
                page = browser.new_page(viewport={"width": 1000, "height": 700})
                page.goto(site.url + "/")
                page.wait_for_function("document.querySelector('car-image').small.complete")
                with Memory() as memory:
                    runs["cold"].append(page.evaluate(CLICK))
                most.append(memory.most)
                # workers and weights are there; the picture is opened anew
                page.evaluate("document.querySelector('car-image').src = '/small.png?again'")
                page.wait_for_function("document.querySelector('car-image').small.complete")
                runs["warm"].append(page.evaluate(CLICK))
                browser.close()
            row = {
                f"{kind}_{what}_ms": statistics.median(run[what] for run in taken)
                for kind, taken in runs.items()
                for what in ("first", "whole")
            }
            row |= {"memory": statistics.median(most), "runs": runs}
            if ort:
                site.files["/up.onnx"] = to_onnx(car.load(f"car_plus_x{scale}"))
                browser = launch()
                page = browser.new_page()
                page.goto(site.url + "/empty.html")
                arguments = [os.cpu_count(), small.height, small.width]
                row["onnxruntime_web_ms"] = statistics.median(page.evaluate(OTHER, arguments))
                row["isolated"] = page.evaluate("crossOriginIsolated")
                browser.close()
            rows[f"car_plus_x{scale}"] = row
            print({key: value for key, value in row.items() if key != "runs"}, flush=True)
    return {"megapixels": photo.width * photo.height / 1e6, "rows": rows}


def table(results: Results) -> str:
    lines = [
        f"{results['megapixels']:.1f} megapixels in Chromium, no GPU; medians of {ROUNDS}, from the click.",
        "",
        "| | first tile, s | whole picture, s | the same, in a new browser, s | memory of the browser, MB "
        "| onnxruntime-web 1.23.0, the network alone, s |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in results["rows"].items():
        other = f"{row['onnxruntime_web_ms'] / 1000:.2f}" if "onnxruntime_web_ms" in row else ""
        warm, cold = (
            [row[f"{kind}_{what}_ms"] / 1000 for what in ("first", "whole")] for kind in ("warm", "cold")
        )
        lines.append(
            f"| `{name}` | {warm[0]:.2f} | {warm[1]:.2f} | {cold[0]:.2f} and {cold[1]:.2f} "
            f"| {row['memory'] / 1e6:.0f} | {other} |"
        )
    return "\n".join(lines)
