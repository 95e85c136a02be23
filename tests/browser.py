"""A static web server in memory and real browsers, for the tests of web pages."""

import http.server
import json
import mimetypes
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from processes import LIMIT, wait_until

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


class FirefoxPage:
    """The one page of a Firefox, with those methods of a page of Playwright that our tests need.

    Playwright drives only a Firefox of its own. Every Firefox speaks Marionette, as geckodriver does: a
    length, a colon, and JSON.
    """

    def __init__(self, port: int) -> None:
        self._stream = socket.create_connection(("127.0.0.1", port), timeout=LIMIT).makefile("rwb")
        self._receive()
        self.call("WebDriver:NewSession")
        self.call("WebDriver:SetTimeouts", script=1000 * LIMIT, pageLoad=1000 * LIMIT)

    def _receive(self) -> Any:
        length = b""
        while not length.endswith(b":"):
            length += self._stream.read(1)
        return json.loads(self._stream.read(int(length[:-1])))

    def call(self, command: str, **values: Any) -> Any:
        message = json.dumps([0, 1, command, values]).encode()
        self._stream.write(b"%d:%s" % (len(message), message))
        self._stream.flush()
        _, _, error, result = self._receive()
        if error:
            raise RuntimeError(f"{command}: {error['error']}: {error['message']}")
        return result

    def goto(self, address: str) -> None:
        self.call("WebDriver:Navigate", url=address)

    def evaluate(self, expression: str, argument: Any = None) -> Any:
        """The value of an expression; a function is called; a promise is awaited."""
        script = f"""return (async (argument) => {{
            const value = ({expression});
            return typeof value === "function" ? value(argument) : value;
        }})(arguments[0])"""
        return self.call("WebDriver:ExecuteScript", script=script, args=[argument], sandbox=None)["value"]

    def wait_for_function(self, expression: str) -> None:
        wait_until(lambda: self.evaluate(expression))

    @property
    def problems(self) -> list[str]:
        """The errors of scripts that pages did not catch."""
        self.call("Marionette:SetContext", value="chrome")
        script = """return Services.console.getMessageArray()
            .filter((m) => m instanceof Ci.nsIScriptError && !(m.flags & m.warningFlag))
            .filter((m) => m.sourceName.startsWith("http"))
            .map((m) => m.errorMessage)"""
        found = self.call("WebDriver:ExecuteScript", script=script, args=[], sandbox=None)["value"]
        self.call("Marionette:SetContext", value="content")
        return found


@contextmanager
def firefox(profile: Path) -> Generator[FirefoxPage, None, None]:
    """Run a Firefox with an empty profile; skip where there is none."""
    program = os.environ.get("CAR_FIREFOX") or next(
        filter(None, map(shutil.which, ("firefox", "firefox-esr"))), None
    )
    if program is None:
        pytest.skip("no Firefox is installed; CAR_FIREFOX may name one")
    (profile / "user.js").write_text('user_pref("marionette.port", 0);')  # any free port
    command = [
        program,
        "--headless",
        "--marionette",
        "--remote-allow-system-access",
        "--profile",
        str(profile),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            port = profile / "MarionetteActivePort"
            wait_until(lambda: port.exists() and port.read_text())
            page = FirefoxPage(int(port.read_text()))
            yield page
            page.call("Marionette:Quit", flags=["eForceQuit"])
        finally:
            running.terminate()
