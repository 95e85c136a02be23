"""What the service allows, as data."""

import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Limits of the service; each has a safe default.

    Attributes:
        folder: of photographs whose small pictures are served; None: only what is sent.
        scale: of small pictures where a request does not say.
        max_bytes: of an upload.
        max_pixels: of a picture that is read, and of one that is restored.
        timeout: seconds that the work on a request may take, waiting included.
        upload_timeout: seconds in which a request's body must have come.
        concurrency: pictures worked on at once, each with `threads` threads of its own.
        threads: of the networks, for one picture.
        queue: pictures that may wait; more are turned away.
        cache: folder of small pictures that were asked for; None: made anew each time.
        cache_bytes: that the cache may hold.
    """

    folder: Path | None = None
    scale: int = 4
    max_bytes: int = 64 * 2**20
    max_pixels: int = 64_000_000
    timeout: float = 60.0
    upload_timeout: float = 30.0
    concurrency: int = field(default_factory=lambda: os.cpu_count() or 1)
    threads: int = 1
    queue: int = 32
    cache: Path | None = None
    cache_bytes: int = 2**30
