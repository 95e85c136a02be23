"""A static web server in memory and a real browser, for the tests of web pages."""

import http.server
import mimetypes
import os
import shutil
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ARGUMENTS = [
    "--no-sandbox",  # it needs this where tests run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Site:
    """Files by path, served on loopback; `asked` has the paths of all requests."""

    def __init__(self) -> None:
        self.files: dict[str, bytes | Callable[[], bytes]] = {}
        self.asked: list[str] = []
        self.headers: dict[str, str] = {}
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.split("?")[0]
                site.asked.append(path)
                content = site.files.get(path)
                content = content() if callable(content) else content
                self.send_response(200 if content is not None else 404)
                kind = mimetypes.guess_type(path)[0] or ("text/html" if path.endswith("/") else None)
                self.send_header("Content-Type", kind or "application/octet-stream")
                for name, value in site.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def add_folder(self, folder: Path, prefix: str = "/") -> None:
        """Serve what is in `folder`."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.files[prefix + path.relative_to(folder).as_posix()] = path.read_bytes()
        if prefix + "index.html" in self.files:
            self.files[prefix] = self.files[prefix + "index.html"]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def chromium() -> Generator[Callable[..., Any], None, None]:
    """Give what starts Chromium; skip where Playwright or Chromium are not installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = os.environ.get("CAR_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("no Chromium is installed; CAR_CHROMIUM may name one")
    with playwright.sync_playwright() as driver:
        yield lambda *more: driver.chromium.launch(executable_path=program, args=[*ARGUMENTS, *more])
