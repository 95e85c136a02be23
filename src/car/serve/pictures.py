"""The service's work on pictures, from bytes to bytes, independent of HTTP."""

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from car.codec.choose import codec_for_original, codec_for_picture, open_codec
from car.codec.codec import Codec
from car.codec.coding import Encoding, FileFormat
from car.codec.options import Options
from car.errors import CarError, ImageError, StorageError, UsageError, did_you_mean
from car.files.atomic import atomic_write
from car.files.places import Passed, is_hidden, open_source
from car.files.storage import check_name
from car.measure.evaluate import round_trip_of
from car.pictures.formats import INPUT_SUFFIXES
from car.pictures.info import read_header
from car.pictures.picture import check_size
from car.pictures.read import decode
from car.pictures.write import encode
from car.scaling import Size, Wanted, full_size
from car.serve.settings import Settings
from car.weights import find, list_models, load
from car.weights.store import pulled_models

_NO_WEIGHTS = "pull them on the machine of the service, or name another model of the same scale"


class TooLargeError(CarError):
    """A picture has more pixels than the service allows."""


class NotThereError(CarError):
    """There is no such picture in the folder."""


_PNG, _USUAL = Encoding(), Options()


@dataclass(frozen=True)
class Result:
    """A picture file: its content, its media type, and notes."""

    content: bytes
    kind: str
    notes: tuple[str, ...] = ()


class Pictures:
    """The service's models and folder.

    Models are known by name only: neither a request nor a file can make the service open a weights file.
    Methods may be called from several threads.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.cache_hits = 0
        self._lock = threading.Lock()
        self._making: dict[str, threading.Lock] = {}
        self.root = settings.folder.resolve() if settings.folder else None

    def known(self) -> dict[str, int]:
        """Return the names that a request may use, with their scales."""
        names = {name: m.scale for m in list_models() if m.tags for name in (m.name, *m.tags)}
        return names | {record.name: load(record.name).geometry.scale for record in pulled_models()}

    def chooser(
        self,
        model: str | None,
        wanted: Wanted,
        file: Encoding = _PNG,
        how: Options = _USUAL,
    ) -> Callable[[Size], Codec]:
        """Return the function that gives the codec for an original of a size (width, height).

        Args:
            model: its name; None for the default.
            wanted: the scale or size of small pictures.
            file: the files they become.
            how: effort, speed, and what is kept of EXIF; the service sets the rest.

        Raises:
            UsageError: there is no such model, or the scale or size is impossible; that of a picture may turn
                out later.
        """
        self._check_known(model)
        if model is None and not wanted.label:
            wanted = Wanted(self.settings.scale)
        options = self._here(replace(how, coding=file.coding))
        if not wanted.by_size:
            open_codec(model, wanted.scale, options)  # fails here, not after the picture was sent
        return lambda size: codec_for_original(size, wanted, model, options)

    def _check_known(self, model: str | None) -> None:
        if model is not None and model not in self.known():
            raise UsageError(f"no model is called {model!r}{did_you_mean(model, self.known())}")

    def _here(self, how: Options) -> Options:
        return replace(how, device="cpu", threads=self.settings.threads)

    def shrink(self, content: bytes, choose: Callable[[Size], Codec], file: Encoding) -> Result:
        """Return the small picture of a photograph.

        Raises:
            TooLargeError: it has too many pixels.
            ImageError: it cannot be read.
            UsageError: it is too small or too large for the size that was asked for.
        """
        picture = self._read(content)
        small, info = choose((picture.width, picture.height)).shrink(picture)
        encoded, notes = encode(small, file.name, info=info, quality=file.quality)
        return Result(encoded, file.kind, picture.notes + small.notes + notes)

    def restore(
        self,
        content: bytes,
        model: str | None,
        scale: float | None,
        file: Encoding,
        how: Options = _USUAL,
    ) -> Result:
        """Restore the large picture, by the given model or else by the one that the small picture names.

        Raises:
            TooLargeError: the result has too many pixels.
            ImageError: it cannot be read.
            UsageError: neither the picture nor the request names a model, or they contradict each other.
            WeightsError: the weights that the picture names are not available.
        """
        picture = self._read(content)
        info = picture.info
        if model is None and info is not None:
            find(info.model, info.weights, remedy=_NO_WEIGHTS)
        self._check_known(model)
        codec = codec_for_picture(picture, model=model, scale=scale, options=self._here(how))
        self._check_size(*full_size((picture.width, picture.height), codec.scale))
        large = codec.restore(picture)
        encoded, notes = encode(large, file.name, quality=file.quality)
        return Result(encoded, file.kind, picture.notes + large.notes + notes)

    def measure(self, content: bytes, choose: Callable[[Size], Codec]) -> dict[str, Any]:
        """Measure a round trip of a photograph by the protocol of the papers.

        Raises:
            TooLargeError: it has too many pixels.
            ImageError: it cannot be read, or is too small to measure.
        """
        picture = self._read(content)
        codec = choose((picture.width, picture.height))
        small, info = codec.shrink(picture)
        trip = round_trip_of(codec, picture, "the picture", perceptual=False)
        record = trip.record.to_dict()
        quality = ("psnr", "ssim", "psnr_rgb")
        return {
            "model": codec.loaded.name,
            "scale": codec.scale,
            "width": picture.width,
            "height": picture.height,
            "bytes": len(content),
            "small_width": small.width,
            "small_height": small.height,
            "small_bytes": len(encode(small, "picture.png", info=info)[0]),
            "restored": {name: record["model"][name] for name in quality},
            "bicubic": {name: record["bicubic"][name] for name in quality},
        }

    def listing(self, limit: int = 1000) -> list[str]:
        """Return the names of pictures in the folder, sorted, at most `limit`."""
        if self.root is None:
            return []
        source = open_source(str(self.root), INPUT_SUFFIXES)
        names = (name for name, _ in source.pictures(Passed()))
        return list(islice((name for name in names if self._is_there(name)), limit))

    def _is_there(self, name: str) -> bool:
        """Return whether `located` finds a picture that the listing found."""
        if name.encode(errors="replace").decode() != name:  # neither JSON nor an address can hold it
            return False
        try:
            self.located(name)
        except NotThereError:  # a link that leads out of the folder
            return False
        return True

    def located(self, name: str) -> Path:
        """Return the path of a picture in the folder.

        Raises:
            NotThereError: there is no picture of this name, or the name leads out of the folder.
        """
        missing = NotThereError(f"there is no picture {name!r}")
        try:
            check_name(name)
            named = Path(self.root or "", name)
            path = named.resolve(strict=True)
            inside = self.root is not None and path.is_relative_to(self.root) and path.is_file()
            inside = inside and named.parent.resolve() == named.parent  # through no link to a folder
        except (StorageError, OSError, ValueError, RuntimeError):
            raise missing from None
        hidden = any(map(is_hidden, name.split("/")))
        if not inside or hidden or path.suffix.lower() not in INPUT_SUFFIXES:
            raise missing
        return path

    def etag(self, path: Path, codec: Codec, file: Encoding) -> str:
        """Return a tag that changes whenever the small picture of a file would change.

        Raises:
            NotThereError: the file was just removed.
        """
        try:
            status = path.stat()
        except OSError:
            raise NotThereError(f"there is no picture {path.name!r}") from None
        parts = (
            str(path),
            status.st_size,
            status.st_mtime_ns,
            codec.loaded.sha256,
            codec.options.effort,
            codec.options.fast,
            codec.options.exif,
            codec.scale,
            file.format,
            file.quality,
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]

    def small(self, path: Path, codec: Codec, file: Encoding) -> Result:
        """Return the small picture of a file in the folder, from the cache if it is there.

        Raises:
            TooLargeError: it has too many pixels.
            ImageError: it cannot be read.
        """
        key = self.etag(path, codec, file)
        name = f"{key}.{file.format}"
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:  # only one of several requests for a picture makes it
            try:
                kept = self._kept(name)
                if kept is not None:
                    return Result(kept, file.kind)
                if path.stat().st_size > self.settings.max_bytes:
                    raise TooLargeError(f"the picture is larger than {self.settings.max_bytes} bytes")
                result = self.shrink(path.read_bytes(), lambda _: codec, file)
            except OSError:
                raise NotThereError("the picture is gone") from None
            else:
                self._keep(name, result.content)
                return result
            finally:
                with self._lock:
                    self._making.pop(key, None)

    def _kept(self, name: str) -> bytes | None:
        if self.settings.cache is None:
            return None
        path = self.settings.cache / name
        try:
            content = path.read_bytes()
            os.utime(path)  # the least recently used is deleted first
        except OSError:
            return None
        self.cache_hits += 1
        return content

    def _keep(self, name: str, content: bytes) -> None:
        folder = self.settings.cache
        if folder is None or len(content) > self.settings.cache_size:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            atomic_write(folder / name, content)
            with self._lock:
                _shorten(folder, self.settings.cache_size)
        except (OSError, ImageError):
            pass  # a full disk makes the service slower, but does not stop it

    def _read(self, content: bytes) -> Any:
        self._check_size(*read_header(content).size)
        return decode(content, "the picture", max_pixels=self.settings.max_pixels)

    def _check_size(self, width: int, height: int) -> None:
        try:
            check_size(width, height, "the picture", self.settings.max_pixels)
        except ImageError:
            raise TooLargeError(
                f"{width} x {height} pixels exceed the limit of {self.settings.max_pixels}"
            ) from None


def _shorten(folder: Path, limit: int) -> None:
    """Delete the least recently used files until at most `limit` bytes are left."""
    files = [(entry.stat(), Path(entry.path)) for entry in os.scandir(folder) if _of_ours(entry)]
    total = sum(status.st_size for status, _ in files)
    for status, path in sorted(files, key=lambda file: file[0].st_mtime_ns):
        if total <= limit:
            return
        path.unlink(missing_ok=True)
        total -= status.st_size


def _of_ours(entry: "os.DirEntry[str]") -> bool:
    stem, _, ending = entry.name.partition(".")
    return ending in get_args(FileFormat) and len(stem) == 32 and entry.is_file(follow_symlinks=False)
