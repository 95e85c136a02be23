"""Pulling weights: they are downloaded or copied, checked, converted and kept in the cache folder."""

import hashlib
import http.client
import json
import re
import string
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from filelock import FileLock

from car._version import __version__
from car.devices import needs_torch
from car.errors import UsageError, WeightsError, did_you_mean, system_errors
from car.families import model_names
from car.files.atomic import atomic_write, file_digest
from car.weights import load_file, manifest
from car.weights.store import (
    MAX_CHECKPOINT_BYTES,
    PAIR_SUFFIXES,
    Pulled,
    Source,
    cache_folder,
    check_name,
    file_bytes,
    install,
    pulled,
)

OFFICIAL = {
    scale: tuple(f"https://download.mindspore.cn/vision/car/{scale}x/{half}.ckpt" for half in ("kgn", "usn"))
    for scale in (2, 4)
}
"""Addresses of the MindSpore project's published weights, kernel generator and upscaler, by scale."""

_CHUNK = 1 << 20
_TIMEOUT = 60.0  # seconds without a byte
_ATTEMPTS = 5
_PAUSE = 1.0  # seconds before the second attempt; longer before each further one

OnBytes = Callable[[str, int, int | None], None]
"""Called with an address, the bytes received, and the total bytes if the server tells them."""


@dataclass(frozen=True)
class Limits:
    """Limits of a download: bytes of a file, seconds without a byte, attempts, seconds between attempts."""

    bytes: int = MAX_CHECKPOINT_BYTES
    timeout: float = _TIMEOUT
    attempts: int = _ATTEMPTS
    pause: float = _PAUSE


def pull(
    sources: Sequence[str],
    name: str | None = None,
    *,
    sha256: Sequence[str] = (),
    force: bool = False,
    limits: Limits = Limits(),
    on_bytes: OnBytes | None = None,
) -> Pulled:
    """Fetch a model and keep it in the cache folder, where `car.load` finds it by name.

    Args:
        sources: ``car_x2`` or ``car_x4`` for the published weights; or the URL or path of a
            ``.safetensors`` file; or those of a kernel generator and an upscaler, in this order.
        name: name in the cache; by default that of the architecture.
        sha256: expected digests, hex, in the order of the files. Without them, the digest of the first
            download from an address is recorded, and later ones must have the same.
        force: fetch again, and accept that the content of an address has changed.
        limits: limits of each download.
        on_bytes: called with the progress.

    Raises:
        UsageError: the sources or the name make no sense, or a file does not exist.
        WeightsError: a download failed, has an unexpected digest, or holds no usable model.
    """
    addresses, expected_model = _resolve(sources)
    name = expected_model if name is None else name
    if sha256 and len(sha256) != len(addresses):
        raise UsageError(f"--sha256 is needed once for each of the {len(addresses)} files, got {len(sha256)}")
    digests = [digest.lower() for digest in sha256] or [None] * len(addresses)
    for digest in digests:
        if digest is not None and not re.fullmatch("[0-9a-f]{64}", digest):
            raise UsageError(f"{digest!r} is not a SHA-256: it must have 64 hexadecimal digits")
    if name is not None:
        _check_free(name)
        known = None if force else _still_there(name, addresses)
        if known is not None:
            if sha256 and [source.sha256 for source in known.sources] != digests:
                raise WeightsError(f"{name} exists already, with another SHA-256 than requested")
            return known
    # locked to the end, so that no other pull replaces or removes the fetched files
    with _locked(addresses):
        files = [
            _fetch(address, digest, force=force, limits=limits, on_bytes=on_bytes)
            for address, digest in zip(addresses, digests, strict=True)
        ]
        try:
            return _installed(files, name, expected_model, force=force)
        except WeightsError as error:
            text = str(error)
            for path, source in files:
                text = text.replace(str(path), source.address)
            raise WeightsError(text) from error
        finally:  # it is now in the cache, converted, or it is useless
            for path, source in files:
                if _is_url(source.address):
                    path.unlink(missing_ok=True)


def _installed(
    files: list[tuple[Path, Source]], name: str | None, expected: str | None, *, force: bool
) -> Pulled:
    """Convert the fetched files, put the model into the cache and record its origin."""
    sources = tuple(source for _, source in files)
    model, content = _content([path for path, _ in files])
    _check_architecture(name, model, expected, sources[0].address)
    if name is None:
        name = model
        _check_free(name)
        if not force:
            _still_there(name, [source.address for source in sources])
    digest = hashlib.sha256(content).hexdigest()
    record = Pulled(name, model, digest, sources, date.today().isoformat())
    install(record, content)
    for source in sources:
        _remember(source)
    return record


@contextmanager
def _locked(addresses: list[str]) -> Generator[None, None, None]:
    """Make other pulls of these addresses wait; locks have one order, so that there is no deadlock."""
    with ExitStack() as held:
        for address in sorted({a for a in addresses if _is_url(a)}):
            folder, key = _place(address)
            with system_errors(f"{folder}: cannot be written", WeightsError):
                folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(FileLock(folder / f"{key}.lock"))
        yield


def _resolve(sources: Sequence[str]) -> tuple[list[str], str | None]:
    official = {f"car_x{scale}": list(addresses) for scale, addresses in OFFICIAL.items()}
    if len(sources) == 1 and sources[0] in official:
        return official[sources[0]], sources[0]
    for source in sources:
        if not _is_url(source) and not Path(source).is_file():
            kind = "not a regular file" if Path(source).exists() else "no such file, URL or published model"
            raise UsageError(f"{source}: {kind}{did_you_mean(source, official)}")
    if len(sources) not in (1, 2):
        raise UsageError("give one model, or a kernel generator and an upscaler")
    if len(sources) == 1 and sources[0].endswith(PAIR_SUFFIXES):
        raise UsageError(
            f"{sources[0]}: a published model consists of two files, kernel generator and upscaler"
        )
    return [_checked_url(s) if _is_url(s) else str(Path(s).absolute()) for s in sources], None


def _checked_url(url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or not url.isprintable() or " " in url:
        raise UsageError(f"{url!r} is not an http or https address")
    return urllib.parse.quote(url, safe=string.punctuation)


def _still_there(name: str, addresses: list[str]) -> Pulled | None:
    """Return the model of this name if it is whole and from these addresses; None if it must be fetched.

    Raises:
        UsageError: the name belongs to a model from other addresses.
    """
    known = pulled(name)
    if known is None:
        return None
    if [source.address for source in known.sources] != addresses:
        raise UsageError(f"{name} exists already, from {known.sources[0].address}; --force replaces it")
    local = [source for source in known.sources if not _is_url(source.address)]
    if any(_digest(Path(source.address)) != source.sha256 for source in local):
        return None  # the file has changed
    whole = known.path.is_file() and _digest(known.path) == known.sha256
    return known if whole else None


def _check_architecture(name: str | None, model: str, expected: str | None, address: str) -> None:
    if expected is not None and model != expected:
        raise WeightsError(f"{address} holds weights of {model}, not of {expected}")
    if name in model_names() and name != model:
        raise UsageError(f"{name} is the name of another architecture, not of {model}; choose another --name")


def _check_free(name: str) -> None:
    check_name(name)
    if any(name in (entry.model, entry.tag) for entry in manifest()):
        raise UsageError(f"{name} ships with the package; choose another --name")


def _content(paths: list[Path]) -> tuple[str, bytes]:
    """Return the architecture and the ``.safetensors`` content of the fetched files, checked in full."""
    if len(paths) == 2:
        needs_torch("to read published checkpoints")
        from car.weights.convert import read_pair, weights_bytes

        pair = read_pair(*paths)
        return pair.model, weights_bytes(pair.model, pair.rescaler)
    loaded = load_file(paths[0])
    return loaded.name, file_bytes(loaded.name, loaded.tensors)


def _is_url(source: str) -> bool:
    return "://" in source


def _fetch(
    address: str, digest: str | None, *, force: bool, limits: Limits, on_bytes: OnBytes | None
) -> tuple[Path, Source]:
    if not _is_url(address):
        path = Path(address)
        return path, _checked(address, path, digest, "as requested")
    folder, key = _place(address)
    with system_errors(f"{folder}: cannot be written", WeightsError):
        path = _download(address, folder / key, limits, on_bytes)
        first = None if force else _remembered(folder / f"{key}.sha256")
        which = "as requested" if digest else "as in the first download"
        return path, _checked(address, path, digest or first, which)


def _place(address: str) -> tuple[Path, str]:
    return cache_folder() / "downloads", hashlib.sha256(address.encode()).hexdigest()[:32]


def _remembered(record: Path) -> str | None:
    try:
        words = record.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return None
    return words[0] if words else None


def _remember(source: Source) -> None:
    """Record the digest of the first usable download from an address."""
    if _is_url(source.address):
        folder, key = _place(source.address)
        atomic_write(folder / f"{key}.sha256", f"{source.sha256}  {source.address}\n".encode())


def _digest(path: Path) -> str:
    with system_errors(f"{path}: cannot be read", WeightsError):
        return file_digest(path)


def _checked(address: str, path: Path, digest: str | None, which: str) -> Source:
    found = _digest(path)
    if digest is not None and found != digest:
        if _is_url(address):
            path.unlink()
        raise WeightsError(
            f"{address}: SHA-256 {found[:16]}... is not {digest[:16]}..., {which}"
            + ("" if which == "as requested" else "; --force accepts the change")
        )
    return Source(address, path.stat().st_size, found)


def _download(address: str, target: Path, limits: Limits, on_bytes: OnBytes | None) -> Path:
    """Fetch `address` into `target`; continue an earlier attempt if the server supports this."""
    part, notes = target.with_suffix(".part"), target.with_suffix(".part.json")
    reason = "no answer"
    for attempt in range(limits.attempts):
        if attempt:
            time.sleep(limits.pause * 2 ** (attempt - 1))
        before = part.stat().st_size if part.exists() else 0
        try:
            _attempt(address, part, notes, limits, on_bytes)
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} {http.client.responses.get(error.code, '')}".strip()
            if error.code == 416:  # the local part is not the beginning of the file
                part.unlink(missing_ok=True)
            elif error.code < 500 and error.code not in (408, 425, 429):
                break
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.filename is not None:
                raise  # the disk, not the network
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        else:
            part.replace(target)
            notes.unlink(missing_ok=True)
            return target
        after = part.stat().st_size if part.exists() else 0
        if attempt == limits.attempts - 1 and after > before:
            reason += "; the same command continues from there"
    raise WeightsError(f"{address}: cannot be fetched ({reason})")


def _attempt(address: str, part: Path, notes: Path, limits: Limits, on_bytes: OnBytes | None) -> None:
    headers = {"User-Agent": f"car/{__version__}", "Accept-Encoding": "identity"}
    start = part.stat().st_size if part.exists() else 0
    version = _noted(notes) if start else None
    if version is None:
        start = 0  # without a version, old and new bytes might belong to different files
    else:
        headers |= {"Range": f"bytes={start}-", "If-Range": version}
    request = urllib.request.Request(address, headers=headers)
    with urllib.request.urlopen(request, timeout=limits.timeout) as answer:
        if answer.headers.get_content_type() == "text/html":
            raise WeightsError(f"{address}: the server sent a web page instead of a file")
        goes_on = answer.status == 206 and _starts_at(answer.headers.get("Content-Range"), start)
        if answer.status == 206 and not goes_on:
            raise http.client.HTTPException("the server sent another part than requested")
        here = start if goes_on else 0
        announced = answer.headers.get("Content-Length", "")
        total = here + int(announced) if announced.isdecimal() else None
        _check_size(address, total or 0, limits)
        etag, modified = answer.headers.get("ETag"), answer.headers.get("Last-Modified")
        strong = etag if etag and not etag.startswith("W/") else modified
        if not goes_on:
            notes.unlink(missing_ok=True)
        with part.open("ab" if goes_on else "wb", buffering=0) as file:
            if strong and not goes_on:
                atomic_write(notes, json.dumps(strong).encode())
            while chunk := answer.read(_CHUNK):
                here += len(chunk)
                _check_size(address, here, limits)
                with system_errors(f"{part}: cannot be written", WeightsError):  # not one of the network
                    file.write(chunk)
                if on_bytes:
                    on_bytes(address, here, total)
    if total is not None and here < total:
        raise http.client.HTTPException(f"the connection ended after {here:,} of {total:,} bytes")


def _noted(notes: Path) -> str | None:
    try:
        value: Any = json.loads(notes.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, str) and value.isprintable() else None


def _starts_at(content_range: str | None, start: int) -> bool:
    return content_range is not None and content_range.replace("bytes ", "").split("-")[0].strip() == str(
        start
    )


def _check_size(address: str, size: int, limits: Limits) -> None:
    if size > limits.bytes:
        raise WeightsError(f"{address}: {size:,} bytes exceed the limit of {limits.bytes:,}")
