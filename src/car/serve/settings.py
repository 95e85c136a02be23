"""The limits of the service, as data."""

import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Limits of the service; each has a safe default.

    Attributes:
        folder: folder of photographs whose small pictures are served; None serves no folder.
        scale: scale of small pictures if a request names none.
        max_bytes: largest size of an upload.
        max_pixels: most pixels of a picture that is read, and of one that is restored.
        timeout: seconds that the work on a request may take, including the wait.
        upload_timeout: seconds in which the body of a request must arrive.
        concurrency: pictures processed at once, each with `threads` threads of its own.
        threads: threads of the networks, for one picture.
        queue: pictures that may wait; more are rejected.
        cache: folder for requested small pictures; None makes them again each time.
        cache_bytes: largest size of the cache.
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
