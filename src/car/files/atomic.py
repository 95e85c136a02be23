"""Whole files: written completely or not at all, and read up to a limit."""

import contextlib
import errno
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from car.errors import CarError, ImageError, WriteError, system_errors

MAX_FILE_BYTES = 4 * 2**30
"""Larger files are refused before they are read, because a file is read whole."""

TEMPORARY = re.compile(r"\..{1,30}\.[0-9a-f]{12}\.tmp~", re.DOTALL)
"""Names of files that are being written, or were being written when a program was killed."""

FATAL = frozenset({errno.ENOSPC, errno.EROFS, errno.EDQUOT})
"""Errors of the system after which no other file can be written either."""

_Content = bytes | Callable[[BinaryIO], None]


def check_regular(path: Path, name: str, kind: type[CarError] = ImageError) -> None:
    """Raise an error of `kind` for a folder, device or pipe."""
    # a device or pipe would be read for ever, or replaced by a file
    if path.exists() and not path.is_file():
        raise kind(f"{name}: is a folder" if path.is_dir() else f"{name}: is not a regular file")


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, hex."""
    import hashlib  # not needed to start

    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def make_folder(folder: Path, name: str = "", kind: type[CarError] = ImageError) -> None:
    """Make a folder if there is none; on failure, raise an error of `kind` that calls the folder `name`."""
    with system_errors(f"{name or folder}: cannot make this folder", kind):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise unwritable(str(folder), error) from error
            raise


def unwritable(name: str, error: OSError) -> WriteError:
    """Return the error that says why the file `name` cannot be written."""
    why = error.strerror or str(error)
    if error.errno == errno.ENAMETOOLONG:
        why = "its name is too long; rename the source, or give a shorter name with --output"
    return WriteError(f"{name}: cannot be written ({why})", fatal=error.errno in FATAL)


def atomic_write(path: str | os.PathLike[str], data: _Content) -> None:
    """Write a file under a temporary name beside `path` and rename it when it is complete.

    Args:
        path: the file; its folder must exist.
        data: the content, or a function that writes it to the open file.

    Raises:
        ImageError: `path` is no regular file.
        WriteError: the file cannot be written, for example because the disk is full, or `path` is a link that
            leads nowhere. An existing file then stays as it is, and no temporary file remains.
    """
    atomic_write_all({path: data})


def check_writable(path: Path) -> None:
    """Raise the error that `atomic_write` would raise for `path`, before there is any content.

    Raises:
        ImageError: `path` is no regular file.
        WriteError: the file cannot be written.
    """
    try:
        temporary, _ = _beside(path)
        try:
            temporary.open("xb").close()
        finally:  # also when the user interrupts
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(str(path), error) from error


def _beside(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Return a name for a temporary file, and the file that it will replace."""
    # through a symbolic link, as any program would write
    target = Path(os.path.realpath(path))
    check_regular(target, os.fspath(path))
    if Path(path).is_symlink() and not target.exists():
        # the user cannot see from the link where the file would appear
        raise FileExistsError(errno.EEXIST, "a link is there that leads nowhere")
    # Not mkstemp: only the owner may read its files, and reading the umask means setting it for all threads.
    # Only the start of the name is used, because a name must not exceed 255 bytes.
    return target.with_name(f".{target.name[:30]}.{os.urandom(6).hex()}.tmp~"), target


def atomic_write_all(contents: Mapping[str | os.PathLike[str], _Content] | Mapping[Path, bytes]) -> None:
    """Write files that belong together as `atomic_write` does; none is renamed before all are complete."""
    ready: list[tuple[Path, Path]] = []
    name = ""
    try:
        for path, data in contents.items():
            name = os.fspath(path)
            temporary, target = _beside(path)
            ready.append((temporary, target))  # first: an interruption may come right after opening
            with temporary.open("x+b") as file:
                if isinstance(data, bytes):
                    file.write(data)
                else:
                    data(file)
                file.flush()
                os.fsync(file.fileno())
        while ready:
            temporary, target = ready[0]
            os.replace(temporary, target)  # noqa: PTH105 - tests break it by name
            ready.pop(0)
    except OSError as error:
        raise unwritable(name, error) from error
    finally:
        for temporary, _ in ready:
            with contextlib.suppress(OSError):
                temporary.unlink()
