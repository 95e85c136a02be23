"""What is recorded of each request: metrics, and a line of the access log."""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from prometheus_client import Counter, Histogram

_log = logging.getLogger("car.serve.access")
_PAGE_POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src 'self' blob: data:; "
    "connect-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Observed:
    """Counts, times and logs responses, and adds security headers to them."""

    def __init__(self, app: Any, requests: Counter, seconds: Histogram) -> None:
        self.app, self.requests, self.seconds = app, requests, seconds

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin, status, size = time.perf_counter(), 500, 0

        async def observed(message: Any) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] += [
                    (b"x-content-type-options", b"nosniff"),
                    (b"content-security-policy", _PAGE_POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                ]
            size += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, observed)
        finally:
            # not the requested address, because there is no limit to the number of these
            route = getattr(scope.get("route"), "path", "none")
            self.requests.labels(route, str(status)).inc()
            seconds = time.perf_counter() - begin
            self.seconds.labels(route).observe(seconds)
            _log.info("%s", _access_line(scope, status, size, seconds))


def _access_line(scope: dict[str, Any], status: int, size: int, seconds: float) -> str:
    """Return a line in the common log format, and the seconds: the request as it came, in ASCII."""
    address = (scope.get("client") or ("-",))[0]
    asked = scope.get("raw_path", b"") + (b"?" if scope["query_string"] else b"") + scope["query_string"]
    # of what a client sends, nothing can end the line or the quotes
    told = asked.decode("ascii", "backslashreplace")
    told = "".join(letter if letter.isprintable() and letter != '"' else "?" for letter in told)
    at = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime())
    request = f"{scope['method']} {told} HTTP/{scope['http_version']}"
    return f'{address} - - [{at}] "{request}" {status} {size} {seconds:.3f}'
