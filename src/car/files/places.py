"""Folders and buckets, local or behind any URL that fsspec knows: names and bytes, all or nothing."""

import contextlib
import errno
import glob
import io
import os
import re
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from car.errors import ImageError, StorageError, UsageError
from car.files.atomic import MAX_FILE_BYTES, TEMPORARY, atomic_write

# a write to these shows at once or not at all; elsewhere it goes under a temporary name first
_ALL_OR_NOTHING = {"s3", "s3a", "gs", "gcs", "az", "abfs", "adl", "memory"}
# after one of these nothing else can be written to the place either
_FATAL = {errno.ENOSPC, errno.EROFS, errno.EDQUOT}
_LINE_BYTES = 2**20
_LEFTOVER_AGE = 3600  # seconds; no file takes as long to write
_STAMPS = (
    *("ETag", "etag", "md5Hash", "LastModified", "last_modified"),
    *("mtime", "modificationTime", "modify", "created"),
)
# kinds of what a local listing passes over
_HIDDEN_FILE, _HIDDEN_FOLDER, _LINKED_FOLDER = "hidden files", "hidden folders", "links to folders"
_DEAD_LINK, _SPECIAL_FILE = "links that lead nowhere", "pipes, sockets and devices"


@dataclass(frozen=True)
class Entry:
    """A file in a place: its size in bytes and what changes when its content does, "" where unknown."""

    size: int
    stamp: str


class Place:
    """A folder, a bucket or a part of one; names are relative to it, with slashes.

    Args:
        url: a local path, or a URL as ``s3://bucket/photos``. Options of its file system, as an endpoint,
            come from fsspec's configuration (environment variables such as ``FSSPEC_S3_ENDPOINT_URL``).

    Raises:
        UsageError: no such kind of place, or the package for it is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            fs, root = url_to_fs(url)
        except ImportError as error:
            raise UsageError(f"{url}: {' '.join(str(error).split())}") from error
        except ValueError as error:
            raise UsageError(f"{url}: no such kind of place ({error})") from error
        self._fs: Any = fs
        self.is_local = isinstance(fs, LocalFileSystem)
        # fsspec makes local paths absolute, and would take a backslash or tilde in a name for something else
        self._root: str = os.path.abspath(url.removeprefix("file://")) if self.is_local else root.rstrip("/")  # noqa: PTH100

    def __str__(self) -> str:
        return self.url

    @property
    def identity(self) -> str:
        """What is the same for each way to write this place."""
        root = os.path.realpath(self._root) if self.is_local else self._root
        return f"{type(self._fs).__name__}:{root}"

    @property
    def absolute(self) -> str:
        """What names this place whatever the working folder is."""
        return self._root if self.is_local else self.url

    def path_of(self, name: str) -> str:
        """Return what stands for `name` in messages."""
        return f"{self.url.rstrip('/')}/{name}"

    def below(self, other: "Place") -> str | None:
        """Return the name of this place in `other`, "" if it is the same, None if it lies elsewhere."""
        if self.is_local != other.is_local or type(self._fs) is not type(other._fs):
            return None
        ours, theirs = (
            os.path.realpath(place._root) if place.is_local else place._root for place in (self, other)
        )
        if ours == theirs:
            return ""
        theirs = theirs.rstrip("/") + "/"
        return ours[len(theirs) :].replace(os.sep, "/") if ours.startswith(theirs) else None

    def listing(
        self, keep: Callable[[str], bool], left_out: dict[str, str] | None = None
    ) -> dict[str, Entry]:
        """Return what is here and below, by name, as far as `keep` accepts the name; it may be nothing.

        Args:
            keep: which names count.
            left_out: takes in what a local listing passes over, whatever `keep` says of it: name -> kind.

        Raises:
            StorageError: the place cannot be listed.
        """
        try:
            passed = {} if left_out is None else left_out
            found = self._local_files(passed) if self.is_local else self._remote_files()
            return {name: entry for name, entry in sorted(found) if keep(name)}
        except Exception as error:
            raise StorageError(f"{self.url}: cannot be listed ({_why(error)})") from error

    def _local_files(self, left_out: dict[str, str]) -> Iterator[tuple[str, Entry]]:
        def leave_out(path: Path, kind: str) -> None:
            left_out[path.relative_to(self._root).as_posix()] = kind

        for folder, below, names in os.walk(self._root, onerror=_cannot_be_read):
            for name in below:
                if name.startswith("."):
                    leave_out(Path(folder, name), _HIDDEN_FOLDER)
                elif Path(folder, name).is_symlink():  # os.walk does not follow it: it may lead back here
                    leave_out(Path(folder, name), _LINKED_FOLDER)
            below[:] = [name for name in below if not name.startswith(".")]
            for name in names:
                path = Path(folder, name)
                if name.startswith("."):
                    leave_out(path, _HIDDEN_FILE)
                    continue
                try:
                    status = path.stat()
                except OSError:
                    if path.is_symlink():  # else it is a file that was there a moment ago
                        leave_out(path, _DEAD_LINK)
                    continue
                if not stat.S_ISREG(status.st_mode):  # a pipe would be read for ever
                    leave_out(path, _SPECIAL_FILE)
                    continue
                entry = Entry(status.st_size, f"{status.st_size}-{status.st_mtime_ns}")
                yield path.relative_to(self._root).as_posix(), entry

    def _remote_files(self) -> Iterator[tuple[str, Entry]]:
        self._fs.invalidate_cache()
        for path, about in self._fs.find(self._root, detail=True).items():
            size = int(about.get("size") or 0)
            known = next((about[key] for key in _STAMPS if about.get(key)), None)
            name = path[len(self._root) :].lstrip("/")
            if name:
                yield name, Entry(size, f"{size}-{known}" if known else "")

    def prepare(self) -> None:
        """Make a local folder, so that one that cannot be written to is known before any work.

        Raises:
            StorageError: it cannot be made, is a file or is not to be written to.
        """
        if not self.is_local:
            return
        try:
            Path(self._root).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{self.url}: cannot make this folder ({_why(error)})") from error
        if not os.access(self._root, os.W_OK | os.X_OK):
            raise StorageError(f"{self.url}: no right to write here")

    def remove_leftovers(self) -> None:
        """Remove temporary files of programs that were killed long enough ago, below a local folder."""
        if not self.is_local:
            return
        for folder, _, names in os.walk(self._root):
            for name in names:
                path = Path(folder, name)
                with contextlib.suppress(OSError):
                    if TEMPORARY.fullmatch(name) and time.time() - path.stat().st_mtime > _LEFTOVER_AGE:
                        path.unlink()

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
            StorageError: it cannot be read, or is over `car.files.atomic.MAX_FILE_BYTES`.
        """
        path = self._path(name)
        try:
            size = Path(path).stat().st_size if self.is_local else self._fs.size(path)
            if (size or 0) <= MAX_FILE_BYTES:
                return Path(path).read_bytes() if self.is_local else self._fs.cat_file(path)
        except Exception as error:  # every file system has errors of its own
            raise StorageError(f"{self.path_of(name)}: cannot be read ({_why(error)})") from error
        raise StorageError(f"{self.path_of(name)}: {size} bytes are over the limit of {MAX_FILE_BYTES}")

    def lines(self, name: str) -> Iterator[bytes]:
        """Yield the lines of a file of any size; one that is too long comes in pieces.

        Raises:
            StorageError: it cannot be read.
        """
        path = self._path(name)
        try:
            with Path(path).open("rb") if self.is_local else io.BufferedReader(self._fs.open(path)) as file:
                while line := file.readline(_LINE_BYTES):
                    yield line
        except Exception as error:
            raise StorageError(f"{self.path_of(name)}: cannot be read ({_why(error)})") from error

    def size_of(self, name: str) -> int | None:
        """Return the bytes of a file that a result would replace, or None where there is none.

        Raises:
            StorageError: it cannot be told, it is no regular file, or a link there leads out of this place.
        """
        path = self._path(name)
        try:
            if self.is_local:
                self._check_target(Path(path))
                return Path(path).stat().st_size
            self._fs.invalidate_cache()
            return int(self._fs.info(path).get("size") or 0)
        except FileNotFoundError:
            return None
        except Exception as error:
            raise StorageError(f"{self.path_of(name)}: cannot be read ({_why(error)})") from error

    def write(self, name: str, content: bytes) -> None:
        """Write a file, all or nothing; folders are made.

        Raises:
            StorageError: it cannot be written; `fatal` is set where nothing else here could be either.
        """
        path = self._path(name)
        try:
            if self.is_local:
                self._check_target(Path(path))
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                atomic_write(path, content)
                return
            if self._is_bucket:
                self._fs.pipe_file(path, content)
            else:
                self._write_and_rename(path, content)
        except Exception as error:
            cause = error.__cause__ if isinstance(error, ImageError) else error
            raise StorageError(
                f"{self.path_of(name)}: cannot be written ({_why(cause or error)})",
                fatal=isinstance(cause, OSError)
                and (cause.errno in _FATAL or (isinstance(cause, PermissionError) and self._is_bucket)),
            ) from error

    @property
    def _is_bucket(self) -> bool:
        protocol = self._fs.protocol
        return bool(_ALL_OR_NOTHING.intersection((protocol,) if isinstance(protocol, str) else protocol))

    def _check_target(self, path: Path) -> None:
        real = path.resolve()
        if not real.is_relative_to(Path(self._root).resolve()):
            raise ImageError(f"a link leads to {real}, out of {self.url}")
        if real.exists() and not real.is_file():  # a pipe would be read for ever
            raise ImageError("not a regular file")

    def _write_and_rename(self, path: str, content: bytes) -> None:
        folder, _, last = path.rpartition("/")
        self._fs.makedirs(folder, exist_ok=True)
        temporary = f"{folder}/.{last[:30]}.{os.urandom(6).hex()}.tmp"
        try:
            self._fs.pipe_file(temporary, content)
            self._fs.mv(temporary, path)
        except BaseException:
            if self._fs.exists(temporary):
                self._fs.rm_file(temporary)
            raise

    def remove(self, name: str) -> None:
        """Remove a file if it is there.

        Raises:
            StorageError: it cannot be removed.
        """
        try:
            if self.is_local:
                Path(self._path(name)).unlink(missing_ok=True)
            elif self._fs.exists(self._path(name)):
                self._fs.rm_file(self._path(name))
        except Exception as error:
            raise StorageError(f"{self.path_of(name)}: cannot be removed ({_why(error)})") from error

    def _path(self, name: str) -> str:
        check_name(name)
        return os.path.join(self._root, name) if self.is_local else f"{self._root}/{name}"  # noqa: PTH118


def check_name(name: str) -> None:
    """Refuse a name that may lead out of its place: names come from listings, which others can write.

    Raises:
        StorageError: the name is absolute, has an empty part, ``.`` or ``..``, or a character no path has.
    """
    parts = name.replace("\\", "/").split("/") if os.sep == "\\" else name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in name or (os.name == "nt" and ":" in name):
        raise StorageError(f"{name!r} is no name of a file below its folder")


def open_source(text: str, keep: Callable[[str], bool]) -> tuple[Place, dict[str, Entry], dict[str, str]]:
    """Return the place that a folder, file, glob or URL names, what is there, and what was left out.

    Left out (name -> kind) are what would count by its name but is hidden, a link that leads nowhere or no
    regular file, and folders below which something might: hidden ones, and links, which may lead back or out.

    Args:
        text: as given by the user.
        keep: which names count.

    Raises:
        UsageError: there is nothing.
        StorageError: the place cannot be listed.
    """
    here = "://" not in text
    passed: dict[str, str] = {}
    asked = "**"
    if glob.has_magic(text) and not (here and Path(text).exists()):
        root = re.split(r"[*?\[]", text, maxsplit=1)[0].rpartition("/")[0]
        if not here and root.endswith(":/"):
            raise UsageError(f"{text}: name the bucket without wildcards")
        place = Place(root or ("/" if text.startswith("/") else "."))
        asked = text[len(root) :].lstrip("/")
        pattern = re.compile(glob_translate(asked))
        found = place.listing(lambda name: bool(pattern.match(name)) and keep(name), passed)
    elif here and Path(text).is_file():
        place = Place(str(Path(text).parent))
        found = place.listing(lambda name: name == Path(text).name)
    else:
        if here and not Path(text).is_dir():
            raise UsageError(f"{text}: no such file or folder")
        place = Place(text)
        found = place.listing(keep, passed)
        if not found and not here:  # perhaps one object
            folder, _, last = text.rpartition("/")
            one = Place(folder).listing(lambda name: name == last)
            place, found = (Place(folder), one) if one else (place, found)
    left_out = _asked_for(passed, asked, keep)
    if not found:
        told = f"; {counted(Counter(left_out.values()))}" if left_out else ""
        raise UsageError(f"{text}: no images here{told}")
    return place, found, left_out


def counted(left_out: Mapping[str, int]) -> str:
    """Say in one line what was left out, by its kinds."""
    return "left out: " + ", ".join(f"{kind} ({count})" for kind, count in sorted(left_out.items()))


def _asked_for(passed: dict[str, str], pattern: str, keep: Callable[[str], bool]) -> dict[str, str]:
    """Return what of it a glob asks for: matching files, and folders below which some may be."""
    parts = pattern.split("/")
    ends = range(1, len(parts) + (parts[-1] == "**"))
    leading = [re.compile(glob_translate("/".join(parts[:end]))) for end in ends]
    whole = re.compile(glob_translate(pattern))

    def asked(name: str, kind: str) -> bool:
        if kind not in (_HIDDEN_FOLDER, _LINKED_FOLDER):
            return bool(whole.match(name)) and keep(name)
        return any(part.match(name) for part in leading)

    return {name: kind for name, kind in passed.items() if asked(name, kind)}


def _cannot_be_read(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):  # no folder, or no longer
        raise error


def _why(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return text[:200]
