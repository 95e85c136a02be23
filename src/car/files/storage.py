"""Folders and buckets, local or behind any URL that fsspec knows; files are written whole or not at all."""

import contextlib
import io
import os
import shutil
import stat
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from car.errors import ImageError, StorageError, UsageError, needs, reason
from car.files.atomic import FATAL, MAX_FILE_BYTES, TEMPORARY, atomic_write, check_regular, make_folder
from car.files.scratch import Scratch

# files written here appear whole or not at all; elsewhere they are written under a temporary name first
_ALL_OR_NOTHING = {"s3", "s3a", "gs", "gcs", "az", "abfs", "adl", "memory"}
# packages for kinds of places, and which of our extras brings each
_EXTRAS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("s3", "s3a"), ("s3fs", "bulk")),
    **dict.fromkeys(("gs", "gcs"), ("gcsfs", "gcs")),
}
_LINE_BYTES = 2**20
_LEFTOVER_AGE = 3600  # seconds; no file takes as long to write
_STAMPS = (
    *("ETag", "etag", "md5Hash", "LastModified", "last_modified"),
    *("mtime", "modificationTime", "modify", "created"),
)


@dataclass(frozen=True)
class Entry:
    """A file in a place: its size in bytes, and a text that changes with its content, "" if unknown."""

    size: int
    stamp: str


class Kind(Enum):
    """The kinds of entries that a walk through a place finds."""

    FILE = "file"
    FOLDER = "folder that was not entered"
    LINKED_FOLDER = "link to a folder"
    DEAD_LINK = "link that leads nowhere"
    SPECIAL = "pipe, socket or device"
    UNREADABLE = "folder that cannot be read"


class Found(NamedTuple):
    """One thing that a walk finds: name and kind, the entry of a file, why a folder is unreadable."""

    name: str
    kind: Kind
    entry: Entry | None = None
    why: str = ""


class Place:
    """A folder, a bucket or a part of one; names are relative to it, with slashes.

    Args:
        url: a local path, or a URL such as ``s3://bucket/photos``. Options of its file system, such as an
            endpoint, come from fsspec's configuration (environment variables such as
            ``FSSPEC_S3_ENDPOINT_URL``).

    Raises:
        UsageError: fsspec does not know this kind of URL, or the package for it is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_local = "://" not in url or url.startswith("file://")
        if self.is_local:  # and fsspec, which takes a while to import, is not needed
            self._fs: Any = None
            self._root: str = os.path.abspath(url.removeprefix("file://"))  # noqa: PTH100
            return
        from fsspec.core import url_to_fs

        try:
            self._fs, root = url_to_fs(url)
        except ImportError as error:
            extra = _EXTRAS.get(url.partition("://")[0])
            if extra:
                raise needs(f"{url}: {extra[0]} is needed", extra[1]) from error
            raise UsageError(f"{url}: {' '.join(str(error).split())}") from error
        except ValueError as error:
            raise UsageError(f"{url}: this kind of URL is unknown ({error})") from error
        self._root = root.rstrip("/")

    def __str__(self) -> str:
        return self.url

    @property
    def identity(self) -> str:
        """A name that is the same for all spellings of this place."""
        root = os.path.realpath(self._root) if self.is_local else self._root
        return f"{'local' if self.is_local else type(self._fs).__name__}:{root}"

    @property
    def absolute(self) -> str:
        """A name of this place that does not depend on the working folder."""
        return self._root if self.is_local else self.url

    def path_of(self, name: str) -> str:
        """Return how messages name the file `name`."""
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

    @contextlib.contextmanager
    def _told(self, what: str, name: str = "") -> Generator[None, None, None]:
        """Turn any error into a `StorageError`: the file, or this place, cannot be read, written, ..."""
        try:
            yield
        except Exception as error:  # every file system has errors of its own
            # `atomic_write` has already said what went wrong with a local file
            cause = error.__cause__ if isinstance(error, ImageError) and error.__cause__ else error
            forbidden = isinstance(cause, PermissionError) and self._is_bucket
            no_more = isinstance(cause, OSError) and (cause.errno in FATAL or forbidden)
            raise StorageError(
                f"{self.path_of(name) if name else self.url}: cannot be {what} ({reason(cause)[:200]})",
                fatal=what == "written" and no_more,
            ) from error

    def walk(self, enter: Callable[[str], bool] = lambda _: True, below: str = "") -> Iterator[Found]:
        """Yield all entries here and below, in the order of the names, with one folder in memory at a time.

        Args:
            enter: returns whether to look into a sub-folder, given its name.
            below: name of the folder to begin at; the names yielded are still relative to this place.

        Raises:
            StorageError: the place cannot be listed.
        """
        return self._walk_pages(enter, below) if self._pages is not None else self._walk_folders(enter, below)

    def _walk_folders(self, enter: Callable[[str], bool], below: str) -> Iterator[Found]:
        children = self._local_children if self.is_local else self._remote_children
        stack: list[Iterator[Found]] = []
        with self._told("listed"), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            stack.append(iter(children(below)))
        while stack:
            found = next(stack[-1], None)
            if found is None:
                stack.pop()
            elif found.kind is not Kind.FOLDER or not enter(found.name):
                yield found
            else:
                try:
                    stack.append(iter(children(found.name)))
                except (FileNotFoundError, NotADirectoryError):
                    continue
                except Exception as error:
                    yield found._replace(kind=Kind.UNREADABLE, why=reason(error)[:200])

    def _local_children(self, folder: str) -> list[Found]:
        found: list[Found] = []
        with os.scandir(os.path.join(self._root, folder)) as children:  # noqa: PTH118
            for child in children:
                name = f"{folder}/{child.name}" if folder else child.name
                try:
                    if child.is_dir():  # a link to one may lead back here
                        found.append(Found(name, Kind.LINKED_FOLDER if child.is_symlink() else Kind.FOLDER))
                        continue
                    status = child.stat()
                except OSError:
                    if child.is_symlink():  # otherwise, the file has just been removed
                        found.append(Found(name, Kind.DEAD_LINK))
                    continue
                if stat.S_ISREG(status.st_mode):
                    found.append(Found(name, Kind.FILE, _entry_of(status)))
                else:
                    found.append(Found(name, Kind.SPECIAL))
        return _in_order(found)

    def _remote_children(self, folder: str) -> list[Found]:
        path = f"{self._root}/{folder}" if folder else self._root
        self._fs.invalidate_cache(path)
        found: list[Found] = []
        for about in self._fs.ls(path, detail=True):
            name = about["name"][len(self._root) :].strip("/")
            if not name or name == folder:  # a marker of the folder itself
                continue
            if about.get("type") == "directory":
                found.append(Found(name, Kind.FOLDER))
            else:
                found.append(Found(name, Kind.FILE, _entry(about)))
        self._fs.invalidate_cache(path)  # a cache would hold the whole place in the end
        return _in_order(found)

    @property
    def _pages(self) -> Any:
        """A function that lists a bucket page by page; None if the storage has none."""
        return getattr(self._fs, "call_s3", None)

    def _walk_pages(self, enter: Callable[[str], bool], below: str) -> Iterator[Found]:
        passed, last = "", ""
        for name, about in self._keys(below):
            if name < last:
                raise StorageError(f"{self.url}: its listing is not in the order of the names")
            last = name
            if passed and name.startswith(passed):
                continue
            folders = (name[:at] for at, letter in enumerate(name) if letter == "/")
            folder = next((folder for folder in folders if not enter(folder)), "")
            passed = f"{folder}/" if folder else ""
            if folder:
                yield Found(folder, Kind.FOLDER)
            elif not name.endswith("/"):
                yield Found(name, Kind.FILE, _entry(about))

    def _keys(self, below: str) -> Iterator[tuple[str, dict[str, Any]]]:
        bucket, start, _ = self._fs.split_path(self._root)
        start = f"{start}/" if start else ""
        asked: dict[str, Any] = {"Bucket": bucket, "Prefix": f"{start}{below}/" if below else start}
        while True:
            with self._told("listed"):
                page: dict[str, Any] = self._pages("list_objects_v2", **asked)
            for about in page.get("Contents", ()):
                yield about["Key"][len(start) :], about | {"size": about["Size"]}
            if not page.get("IsTruncated"):
                return
            asked["ContinuationToken"] = page["NextContinuationToken"]

    def entry(self, name: str) -> Entry | None:
        """Return the entry of one file, or None if the file does not exist.

        Raises:
            StorageError: it cannot be found out.
        """
        path = self._path(name)
        with self._told("read", name), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if self.is_local:
                return _entry_of(Path(path).stat())
            self._fs.invalidate_cache(path)
            about = self._fs.info(path)
            return _entry(about) if about.get("type", "file") == "file" else None
        return None

    def prepare(self) -> None:
        """Make a local folder, so that errors of writing appear before any work.

        Raises:
            StorageError: the folder cannot be made, is a file or is not writable.
        """
        if not self.is_local:
            return
        make_folder(Path(self._root), self.url, StorageError)
        if not os.access(self._root, os.W_OK | os.X_OK):
            raise StorageError(f"{self.url}: no permission to write here")

    def remove_leftovers(self) -> None:
        """Remove the temporary files of killed programs below a local folder, once they are old enough."""
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
            StorageError: it cannot be read, or is larger than `car.files.atomic.MAX_FILE_BYTES`.
        """
        path = self._path(name)
        with self._told("read", name):
            if self.is_local:
                check_regular(Path(path), "this")  # a pipe would be read for ever
            size = Path(path).stat().st_size if self.is_local else self._fs.size(path)
            if (size or 0) <= MAX_FILE_BYTES:
                return Path(path).read_bytes() if self.is_local else self._fs.cat_file(path)
        raise StorageError(f"{self.path_of(name)}: {size} bytes are over the limit of {MAX_FILE_BYTES}")

    def lines(self, name: str) -> Iterator[bytes]:
        """Yield the lines of a file of any size; a line that is too long comes in pieces.

        Raises:
            StorageError: it cannot be read.
        """
        path = self._path(name)
        with (
            self._told("read", name),
            Path(path).open("rb") if self.is_local else io.BufferedReader(self._fs.open(path)) as file,
        ):
            while line := file.readline(_LINE_BYTES):
                yield line

    def size_of(self, name: str) -> int | None:
        """Return the size in bytes of a file that a result would replace, or None if it does not exist.

        Raises:
            StorageError: it cannot be found out, the file is not a regular file, or it is a link that leads
                out of this place.
        """
        path = self._path(name)
        with self._told("read", name), contextlib.suppress(FileNotFoundError):
            if self.is_local:
                self._check_target(Path(path))
                return Path(path).stat().st_size
            self._fs.invalidate_cache()
            return int(self._fs.info(path).get("size") or 0)
        return None

    @contextlib.contextmanager
    def local(self, name: str) -> Generator[Path, None, None]:
        """Give a file on the local disk with the content of `name`: the file itself, or a temporary copy.

        Raises:
            StorageError: it cannot be read.
        """
        path = self._path(name)
        if self.is_local:
            yield Path(path)
            return
        with Scratch() as folder:
            copy = Path(folder, "file")
            with self._told("read", name):
                self._fs.get_file(path, str(copy))
            yield copy

    def write(self, name: str, content: bytes | Path) -> None:
        """Write a file, whole or not at all; make its folders.

        Args:
            name: of the file.
            content: its bytes, or a file of any size that holds them.

        Raises:
            StorageError: it cannot be written; `fatal` is true if no other file could be written here either.
        """
        path = self._path(name)
        with self._told("written", name):
            if self.is_local:
                self._check_target(Path(path))
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                atomic_write(path, content if isinstance(content, bytes) else _copying(content))
            elif self._is_bucket:
                self._send(path, content)
            else:
                self._write_and_rename(path, content)

    def _send(self, path: str, content: bytes | Path) -> None:
        if isinstance(content, bytes):
            self._fs.pipe_file(path, content)
        else:
            self._fs.put_file(str(content), path)

    @property
    def _is_bucket(self) -> bool:
        protocol = () if self.is_local else self._fs.protocol
        return bool(_ALL_OR_NOTHING.intersection((protocol,) if isinstance(protocol, str) else protocol))

    def _check_target(self, path: Path) -> None:
        real = path.resolve()
        if not real.is_relative_to(Path(self._root).resolve()):
            raise ImageError(f"a link leads to {real}, out of {self.url}")
        if real.exists() and not real.is_file():  # a pipe would be read for ever
            raise ImageError("not a regular file")

    def _write_and_rename(self, path: str, content: bytes | Path) -> None:
        folder, _, last = path.rpartition("/")
        self._fs.makedirs(folder, exist_ok=True)
        temporary = f"{folder}/.{last[:30]}.{os.urandom(6).hex()}.tmp"
        try:
            self._send(temporary, content)
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
        with self._told("removed", name):
            if self.is_local:
                Path(self._path(name)).unlink(missing_ok=True)
            elif self._fs.exists(self._path(name)):
                self._fs.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        check_name(name)
        return os.path.join(self._root, name) if self.is_local else f"{self._root}/{name}"  # noqa: PTH118


def check_name(name: str) -> None:
    """Refuse a name that may lead out of its place, because others can write the listings with the names.

    Raises:
        StorageError: the name is absolute, has an empty part, ``.`` or ``..``, or a character that no path
            can have.
    """
    parts = name.replace("\\", "/").split("/") if os.sep == "\\" else name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in name or (os.name == "nt" and ":" in name):
        raise StorageError(f"{name!r} is not the name of a file below its folder")


def _copying(source: Path) -> Callable[[BinaryIO], None]:
    def copy(target: BinaryIO) -> None:
        with source.open("rb") as file:
            shutil.copyfileobj(file, target, 2**20)

    return copy


def _in_order(found: list[Found]) -> list[Found]:
    """Sort a folder so that the full names of all files are in order: ``a.png`` comes before ``a/b.png``."""
    return sorted(found, key=lambda one: f"{one.name}/" if one.kind is Kind.FOLDER else one.name)


def _entry_of(status: os.stat_result) -> Entry:
    return Entry(status.st_size, f"{status.st_size}-{status.st_mtime_ns}")


def _entry(about: dict[str, Any]) -> Entry:
    size = int(about.get("size") or 0)
    known = next((about[key] for key in _STAMPS if about.get(key)), None)
    return Entry(size, f"{size}-{known}" if known else "")
