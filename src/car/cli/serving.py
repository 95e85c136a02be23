"""The HTTP service and what shows a web site on this computer."""

import contextlib
import ipaddress
import logging
import signal
import socket
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Any

import typer

from car.cli.common import Quiet, app, chosen_bytes, error_line, stdout
from car.errors import UsageError
from car.weights import default_model
from car.weights.store import cache_folder

_KEEP_ALIVE = 5
_OPEN_CONNECTIONS = 512


@app.command("serve")
def serve_command(
    folder: Annotated[
        Path | None, typer.Argument(help="Photographs whose small pictures are served at /small/.")
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 is all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="0 picks a free one.")] = 8000,
    scale: Annotated[int, typer.Option("--scale", "-s", help="Of small pictures, where not asked for.")] = 4,
    max_bytes: Annotated[str, typer.Option("--max-bytes", help="Of an upload.")] = "64MB",
    max_pixels: Annotated[
        int, typer.Option("--max-pixels", min=1, help="Of a picture read or restored.")
    ] = 64_000_000,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds of work for a request, waiting included.")
    ] = 60,
    upload_timeout: Annotated[
        float, typer.Option("--upload-timeout", min=0.1, help="Seconds in which an upload must have come.")
    ] = 30,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", min=1, help="Pictures at once. Default: one a core.")
    ] = None,
    queue: Annotated[int, typer.Option("--queue", min=0, help="Pictures that may wait.")] = 32,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Folder of small pictures made for /small/.")
    ] = None,
    cache_size: Annotated[str, typer.Option("--cache-size", help="What it may hold.")] = "1GB",
    quiet: Quiet = False,
) -> None:
    """Serve shrinking and restoring over HTTP, with a page to try it.

    Needs `pip install 'content-adaptive-resampler[serve]'`. Without options it listens to this computer
    alone. It knows no users: put a proxy that does in front of it before others reach it. SIGTERM finishes
    what is in hand.

    For example:

    ```
    car serve                                 # then open http://127.0.0.1:8000
    car serve photos/ --port 9000
    curl --data-binary @photo.jpg 'http://127.0.0.1:8000/v1/downscale?scale=4' -o small.png
    ```
    """
    try:
        import uvicorn

        from car.serve import Settings, create_app
    except ImportError as error:
        raise UsageError(
            f"serving needs {error.name}: pip install 'content-adaptive-resampler[serve]'"
        ) from error
    if folder is not None and not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    default_model(scale)  # or it would be found out by whoever asks first
    defaults = Settings()
    settings = Settings(
        folder=folder,
        scale=scale,
        max_bytes=chosen_bytes("--max-bytes", max_bytes),
        max_pixels=max_pixels,
        timeout=timeout,
        upload_timeout=upload_timeout,
        concurrency=concurrency or defaults.concurrency,
        queue=queue,
        cache=cache or cache_folder() / "serve",
        cache_bytes=chosen_bytes("--cache-size", cache_size),
    )
    service = create_app(settings)
    listener = _listen(host, port)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    if not quiet:
        stdout.print(f"listening on {address}")
        stdout.file.flush()
    if not _is_loopback(host):
        error_line(f"note: {host} may be reached by others, and there are no users and no passwords")
    logging.getLogger("car.serve").addHandler(logging.StreamHandler())
    config = uvicorn.Config(
        service,
        log_level="error",
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE,
        limit_concurrency=_OPEN_CONNECTIONS,
        timeout_graceful_shutdown=int(timeout) + 1,
        server_header=False,
    )

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Generator[None, None, None]:
            # unlike uvicorn's own, the signal is not sent again at the end: to stop when asked to is success
            before = {number: signal.signal(number, self.handle_exit) for number in _STOPS}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    Server(config).run(sockets=[listener])


_STOPS: tuple[Any, ...] = (signal.SIGINT, signal.SIGTERM)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise UsageError(f"cannot listen on {host}, port {port}: {error.strerror}") from error
    listener.listen(128)
    return listener


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
