"""The limits of the service, as data; the command line makes its options from them."""

from dataclasses import dataclass
from pathlib import Path

from car.codec.options import setting
from car.scaling import DEFAULT


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
        concurrency: pictures processed at once, each with `threads` threads of its own; None: one a core.
        threads: threads of the networks, for one picture.
        queue: pictures that may wait; more are rejected.
        cache: folder for requested small pictures; None makes them again each time.
        cache_size: largest size of the cache in bytes.
    """

    folder: Path | None = None
    scale: float = setting(DEFAULT, "Default scale of small pictures.", flags=("--scale", "-s"))
    max_bytes: int = setting(64 * 10**6, "Largest size of an upload.", size="64MB")
    max_pixels: int = setting(
        64_000_000, "Largest number of pixels of a picture that is read or restored.", min=1
    )
    timeout: float = setting(60.0, "Largest number of seconds for a request, including the wait.", min=0.1)
    upload_timeout: float = setting(30.0, "Largest number of seconds for an upload to arrive.", min=0.1)
    concurrency: int | None = setting(None, "Pictures processed at once. Default: one for each core.", min=1)
    threads: int = 1
    queue: int = setting(32, "Largest number of pictures that may wait.", min=0)
    cache: Path | None = setting(None, "Folder that caches the small pictures of /small/.")
    cache_size: int = setting(10**9, "Largest size of the cache.", size="1GB")
