"""Requests a second and latency of `car serve`, beside Pillow in the same kind of server and nginx.

A photograph of 2040x1356 (a DIV2K photograph's size, a JPEG) is sent over loopback by 1, 8 and 64 clients
at once, which share the processor with the service. Each client asks again as soon as it has its answer;
one that is turned away (503, the queue is full) waits for a tenth of a second. Latencies are those of the
answers with a picture. "Pillow" is a Starlette application under uvicorn, as `car serve` is, that shrinks
by bicubic. nginx, where it is installed, serves the small picture as a static file. With ``--soak``, eight
clients then send pictures to shrink and to restore for some minutes, and the memory of the service is read
every few seconds.
"""

import argparse
import contextlib
import io
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image

from common import PHOTO, Results

PAGE = "serve.md"
SIZE = (2040, 1356)
CLIENTS = (1, 8, 64)
PAUSE = 0.1  # seconds after "the queue is full"
Ask = Callable[[httpx.Client], httpx.Response]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=15.0, help="of each case")
    parser.add_argument("--soak", type=float, default=0.0, help="minutes")


def load(ask: Ask, url: str, clients: int, seconds: float) -> Results:
    """Ask as fast as answers come, for a while; return requests a second, latencies and refusals."""

    def one(_: int) -> tuple[list[float], list[float]]:
        taken: list[float] = []
        refused: list[float] = []
        with httpx.Client(base_url=url, timeout=120) as client:
            while (begin := time.perf_counter()) < end:
                answer = ask(client)
                took = time.perf_counter() - begin
                if answer.status_code == 503:
                    refused.append(took)
                    time.sleep(PAUSE)
                else:
                    answer.raise_for_status()
                    taken.append(took)
        return taken, refused

    start = time.perf_counter()
    end = start + seconds
    with ThreadPoolExecutor(clients) as threads:
        parts = list(threads.map(one, range(clients)))
    taken, refused = ([s for part in parts for s in part[which]] for which in (0, 1))
    p50, p95, p99 = (float(p) for p in np.percentile(taken, (50, 95, 99)))
    return {
        "requests_a_second": len(taken) / (time.perf_counter() - start),
        **{"p50_s": p50, "p95_s": p95, "p99_s": p99},
        "refused": len(refused),
        "refused_p99_s": float(np.percentile(refused, 99)) if refused else None,
    }


@contextlib.contextmanager
def program(line: list[str], url: str | None = None) -> Iterator[tuple[str, int]]:
    """Run a server; yield its address, which it prints unless it is given, and its process."""
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout
            address = url or process.stdout.readline().split()[-1]
            for _ in range(200):
                with contextlib.suppress(httpx.TransportError):
                    httpx.get(address)
                    break
                time.sleep(0.05)
            yield address, process.pid
        finally:
            process.terminate()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def nginx(folder: Path) -> tuple[list[str], str] | None:
    """Return the command of an nginx that serves a folder, and its address; None if there is none."""
    found = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if found is None:
        return None
    port = free_port()
    settings = folder / "nginx.conf"
    settings.write_text(
        f"daemon off; worker_processes auto; pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log off; server {{ listen 127.0.0.1:{port}; root {folder}; }} }}\n"
    )
    folder.chmod(0o755)
    return [found, "-c", str(settings), "-e", f"{folder}/error.log"], f"http://127.0.0.1:{port}"


def measure(options: argparse.Namespace) -> Results:
    rows: list[Results] = []
    soaked = None

    def measured(what: str, ask: Ask, url: str) -> None:
        for clients in CLIENTS:
            row = load(ask, url, clients, options.seconds)
            rows.append({"what": what, "clients": clients} | row)
            print(f"{what}, {clients} clients: {row}", flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        buffer = io.BytesIO()
        Image.open(PHOTO).convert("RGB").resize(SIZE).save(buffer, "JPEG", quality=92)
        jpeg = buffer.getvalue()
        photographs = folder / "photographs"
        photographs.mkdir()
        (photographs / "street.jpg").write_bytes(jpeg)
        command = [sys.executable, "-m", "car", "serve", str(photographs), "--port", "0", "--no-access-log"]
        with program([*command, "--cache", str(folder / "cache")]) as (url, process):
            small = httpx.post(f"{url}/v1/downscale", content=jpeg, timeout=60).content
            (folder / "small.png").write_bytes(small)
            measured("shrink 4x, to PNG", lambda c: c.post("/v1/downscale", content=jpeg), url)
            measured("restore 4x, to JPEG", lambda c: c.post("/v1/upscale?format=jpg", content=small), url)
            measured("a small picture from the cache", lambda c: c.get("/small/street.jpg"), url)
            if options.soak:
                soaked = soak(url, process, jpeg, small, options.soak * 60)
        with program([sys.executable, __file__]) as (url, _):
            measured("Pillow: shrink 4x, to PNG", lambda c: c.post("/", content=jpeg), url)
        if files := nginx(folder):
            with program(*files) as (url, _):
                measured("nginx: the small picture as a file", lambda c: c.get("/small.png"), url)
    return {"seconds": options.seconds, "rows": rows, "soak": soaked}


def soak(url: str, process: int, jpeg: bytes, small: bytes, seconds: float) -> Results:
    """Send pictures for a while; return the requests answered and the memory over time."""
    memory: list[tuple[float, float]] = []
    begin = time.perf_counter()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(5):
            used = psutil.Process(process).memory_info().rss / 1e6
            memory.append((round(time.perf_counter() - begin, 1), round(used, 1)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    turn = iter(range(10**9))

    def ask(client: httpx.Client) -> httpx.Response:
        if next(turn) % 2:
            return client.post("/v1/downscale", content=jpeg)
        return client.post("/v1/upscale?format=jpg", content=small)

    try:
        row = load(ask, url, 8, seconds)
    finally:
        over.set()
        watcher.join()
    print(f"soak: {row}, memory {memory[0][1]} to {memory[-1][1]} MB", flush=True)
    return row | {"seconds": seconds, "memory_mb": memory}


def table(results: Results) -> str:
    lines = [
        f"A photograph of {SIZE[0]}x{SIZE[1]}, "
        f"{results['seconds']:g} seconds a case. The clients share the cores.",
        "",
        "| | clients | requests a second | p50, ms | p95, ms | p99, ms | turned away | in ms, p99 |",
        "|---" * 8 + "|",
    ]
    for row in results["rows"]:
        times = " | ".join(f"{row[p] * 1000:.1f}" for p in ("p50_s", "p95_s", "p99_s"))
        away = f"{row['refused']} | {row['refused_p99_s'] * 1000:.1f}" if row["refused"] else "0 | -"
        lines.append(
            f"| {row['what']} | {row['clients']} | {row['requests_a_second']:.2f} | {times} | {away} |"
        )
    if soaked := results["soak"]:
        memory = [used for _, used in soaked["memory_mb"]]
        third = len(memory) // 3
        lines += [
            "",
            f"{soaked['seconds'] / 60:.0f} minutes with eight clients: "
            f"{soaked['requests_a_second']:.2f} requests a second; memory at most "
            f"{max(memory[:third]):.0f} MB in the first third, "
            f"{max(memory[-third:]):.0f} MB in the last.",
        ]
    return "\n".join(lines)


def pillow(port: int) -> None:
    """Serve bicubic shrinking by Pillow until the process is ended."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    def shrunk(data: bytes) -> bytes:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        buffer = io.BytesIO()
        image.resize((image.width // 4, image.height // 4), Image.Resampling.BICUBIC).save(buffer, "PNG")
        return buffer.getvalue()

    async def answer(request: Request) -> Response:
        return Response(await run_in_threadpool(shrunk, await request.body()), media_type="image/png")

    print(f"http://127.0.0.1:{port}", flush=True)
    application: Any = Starlette(routes=[Route("/", answer, methods=["POST"])])
    uvicorn.run(application, host="127.0.0.1", port=port, log_level="error")


if __name__ == "__main__":
    pillow(free_port())
