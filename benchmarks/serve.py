"""Requests a second and latency of `car serve`, loaded over loopback by this process.

    python benchmarks/serve.py     # two minutes; let nothing else run

A service of its own answers one photograph (2040x1356, a DIV2K photograph's size, as JPEG) and its small
picture, from one client and from four at once; and a small picture of its folder from the cache. Results go
to ``benchmarks/serve.json`` and ``docs/serve.md``, between the markers.
"""

import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from run import ROOT, machine, publish

SIZE = (2040, 1356)
SECONDS = 15.0


def load(ask: Callable[[httpx.Client], httpx.Response], url: str, clients: int) -> dict[str, float]:
    """Ask as fast as answers come, for a while; return requests a second and latencies in seconds."""

    def one(_: int) -> list[float]:
        taken: list[float] = []
        with httpx.Client(base_url=url, timeout=60) as client:
            ask(client).raise_for_status()
            while time.perf_counter() < end:
                begin = time.perf_counter()
                ask(client).raise_for_status()
                taken.append(time.perf_counter() - begin)
        return taken

    start = time.perf_counter()
    end = start + SECONDS
    with ThreadPoolExecutor(clients) as threads:
        taken = [seconds for part in threads.map(one, range(clients)) for seconds in part]
    p50, p95, p99 = np.percentile(taken, (50, 95, 99))
    count = len(taken) / (time.perf_counter() - start)
    return {"requests_a_second": count, "p50_s": float(p50), "p95_s": float(p95), "p99_s": float(p99)}


def main() -> None:
    results: dict[str, Any] = {"machine": machine(), "cases": {}}
    with tempfile.TemporaryDirectory() as folder:
        photo = Image.open(ROOT / "examples" / "street.webp").convert("RGB").resize(SIZE)
        jpeg = io.BytesIO()
        photo.save(jpeg, "JPEG", quality=92)
        photographs = Path(folder, "photographs")
        photographs.mkdir()
        (photographs / "street.jpg").write_bytes(jpeg.getvalue())
        command = [sys.executable, "-m", "car", "serve", str(photographs), "--port", "0", "--cache", folder]
        command.append("--no-access-log")
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            url = process.stdout.readline().split()[-1]
            small = httpx.post(f"{url}/v1/downscale", content=jpeg.getvalue(), timeout=60).content
            cases: dict[str, Callable[[httpx.Client], httpx.Response]] = {
                "shrink 4x, to PNG": lambda c: c.post("/v1/downscale", content=jpeg.getvalue()),
                "restore 4x, to JPEG": lambda c: c.post("/v1/upscale?format=jpg", content=small),
                "a small picture from the cache": lambda c: c.get("/small/street.jpg"),
            }
            for name, ask in cases.items():
                for clients in (1, 4):
                    row = load(ask, url, clients)
                    results["cases"][f"{name}, {clients}"] = row
                    print(f"{name}, {clients} clients: {row}", flush=True)
            process.terminate()
    m = results["machine"]
    lines = [
        f"{m['cpu']}, {m['cores']} cores, which the clients share, {m['date']}: a photograph of 2040x1356.",
        "",
        "| | clients | requests a second | p50, ms | p95, ms | p99, ms |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in results["cases"].items():
        what, clients = name.rsplit(", ", 1)
        times = " | ".join(f"{row[p] * 1000:.1f}" for p in ("p50_s", "p95_s", "p99_s"))
        lines.append(f"| {what} | {clients} | {row['requests_a_second']:.2f} | {times} |")
    publish("serve", "serve.md", results, "\n".join(lines))


if __name__ == "__main__":
    main()
