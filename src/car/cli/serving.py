"""Small pictures on the web: the HTTP service, and galleries."""

import contextlib
import http.server
import ipaddress
import logging
import os
import signal
import socket
from collections.abc import Generator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from car.cli.common import (
    Exclude,
    KeepExtension,
    Model,
    Quality,
    Quiet,
    Showing,
    app,
    check_installed,
    error_line,
    leave_if,
    print_json,
    print_left_out,
    progress,
    say_default_scale,
    stdout,
)
from car.cli.options import with_options
from car.codec.choose import open_codec
from car.codec.coding import coding_of
from car.codec.options import Options
from car.errors import UsageError, system_errors
from car.gallery import build, megabytes, plan_gallery
from car.scaling import Wanted
from car.serve.settings import Settings
from car.weights import default_model
from car.weights.store import cache_folder

_KEEP_ALIVE = 5
_OPEN_CONNECTIONS = 512
_STOPS: tuple[Any, ...] = (signal.SIGINT, signal.SIGTERM)


@app.command("serve")
@with_options()
def serve_command(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of photographs whose small pictures are served at /small/.")
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; 0.0.0.0 means all.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", "-p", min=0, max=65535, help="Port; 0 picks a free one.")
    ] = 8000,
    *,
    settings: Settings,
    access_log: Annotated[
        bool,
        typer.Option(
            "--access-log/--no-access-log",
            help="Print a line for each request on standard error: common log format, and the seconds.",
        ),
    ] = True,
    quiet: Quiet = False,
) -> None:
    """Serve shrinking and restoring over HTTP, with a page to try it.

    Needs `pip install "content-adaptive-resampler[serve]"`. By default, only this computer can reach it. It
    has no users or passwords: put a proxy that has them in front of it before others use it. After SIGTERM or
    Ctrl-C, it finishes the work that clients wait for, and stops. A second signal stops it at once.

    For example:

    ```
    car serve                                 # then open http://127.0.0.1:8000
    car serve photos/ --port 9000
    curl --data-binary @photo.jpg 'http://127.0.0.1:8000/v1/downscale?scale=4' -o small.png
    ```
    """
    check_installed("serving", "serve", "fastapi", "uvicorn", "prometheus_client")
    import uvicorn

    from car.serve.app import create_app

    if folder is not None and not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    default_model(settings.scale)  # otherwise only the first request would find a bad scale
    settings = replace(settings, folder=folder, cache=settings.cache or cache_folder() / "serve")
    service = create_app(settings)
    listener = _listen(host, port)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    if not quiet:
        stdout.print(f"listening on {address}")
        stdout.file.flush()
    if not _is_loopback(host):
        error_line(f"note: others can reach {host}, and the service has no users or passwords")
    logging.getLogger("car.serve").addHandler(logging.StreamHandler())
    if access_log and not quiet:
        logging.getLogger("car.serve.access").setLevel(logging.INFO)
    config = uvicorn.Config(
        service,
        log_level="error",
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE,
        limit_concurrency=_OPEN_CONNECTIONS,
        timeout_graceful_shutdown=int(settings.timeout) + 1,
        server_header=False,
    )

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            if self.should_exit:  # the second signal
                os._exit(130)
            self.should_exit = True

        @contextlib.contextmanager
        def capture_signals(self) -> Generator[None, None, None]:
            # unlike uvicorn's own, does not send the signal again at the end, because stopping on request is
            # success
            before = {number: signal.signal(number, self.handle_exit) for number in _STOPS}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    Server(config).run(sockets=[listener])
    # all clients have their answer; a regular exit would wait for threads whose work timed out
    os._exit(0)


@app.command("gallery")
@with_options("device", "threads", "precision", "effort", "fast", "max_pixels")
def gallery_command(
    folder: Annotated[str, typer.Argument(help="Photographs: a folder (searched recursively) or a glob.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the site.")],
    *,
    wanted: Wanted,
    model: Model = None,
    title: Annotated[
        str | None, typer.Option("--title", help="Title of the page. Default: the name of the folder.")
    ] = None,
    description: Annotated[str, typer.Option("--description", help="A line below the title.")] = "",
    format: Annotated[
        Literal["png", "jpg", "webp", "avif"],
        typer.Option("--format", "-f", help="Format of the small pictures; only png is lossless."),
    ] = "png",
    quality: Quality = None,
    exclude: Exclude = None,
    keep_extension: KeepExtension = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Write into a folder that holds other files; these are kept."),
    ] = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Afterwards, serve the site on this computer until Ctrl-C.")
    ] = False,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port for --serve; 0 picks a free one.")
    ] = 8001,
    showing: Showing,
    options: Options,
) -> None:
    """Make a web site whose small pictures the visitor's browser restores.

    The site consists of plain files for any web host. If you repeat the command, it updates only what
    changed. It replaces and removes only files that it made.

    For example:

    ```
    car gallery photos/ -o site/ --title 'Lisbon, in spring' --serve
    car gallery photos/ -o site/ --size 512
    car gallery photos/ -o site/ --scale 2 --format avif --quality 60     # much lighter pages
    ```
    """
    if quality is not None and format == "png":
        raise UsageError("--quality needs --format jpg, webp or avif; png is lossless")
    suffix = f".{format}"
    options = replace(options, coding=coding_of(f"x{suffix}", quality))
    codec = open_codec(model, wanted.scale, options)  # by sizes, scales differ; the model does not
    chosen = wanted if wanted.label else Wanted(codec.scale)
    todo = plan_gallery(folder, output, chosen, suffix, exclude or (), keep_extension=keep_extension)
    say_default_scale(wanted, model, showing)
    name = title or Path(folder).resolve().name
    with progress(len(todo.jobs), "shrinking", showing.text) as advance:
        built = build(
            todo,
            output,
            codec,
            title=name,
            description=description,
            quality=quality,
            overwrite=overwrite,
            on_picture=advance,
        )
    if showing.as_json:
        result = {"site": str(output), "site_bytes": built.site_bytes, "source_bytes": built.source_bytes}
        shown = [asdict(picture) for picture in built.pictures]
        result |= {"made": built.made, "pictures": shown, "failures": list(built.failures)}
        print_json(result | {"left_out": dict(todo.left_out)})
    elif showing.text:
        count = len(built.pictures)
        stdout.print(
            f"{output}: {count} picture{'s' * (count != 1)}, {built.made} of them new, "
            f"{megabytes(built.site_bytes)}; the originals are {megabytes(built.source_bytes)}"
        )
        print_left_out(todo.left_out)
    try:
        leave_if(built.failures)
    finally:
        if serve:
            _show(output, port)


def _show(site: Path, port: int) -> None:
    class Handler(http.server.SimpleHTTPRequestHandler):
        extensions_map = {  # noqa: RUF012 - as its base class has it
            **http.server.SimpleHTTPRequestHandler.extensions_map,
            ".js": "text/javascript",
            ".wasm": "application/wasm",
        }

        def log_message(self, format: str, *args: object) -> None:
            pass

    with system_errors(f"cannot listen on port {port}", UsageError):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, directory=str(site)))
    stdout.print(f"showing the site at http://127.0.0.1:{server.server_address[1]}")
    stdout.file.flush()
    with server, contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


def _listen(host: str, port: int) -> socket.socket:
    with system_errors(f"cannot listen on {host}, port {port}", UsageError):
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
        return listener


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
