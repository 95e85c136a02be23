"""Temporary folders, and what killed programs left of them."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows, where such folders stay until the user removes them
    fcntl = None

_PREFIX, _IN_USE = "car-", ".car-in-use"


class Scratch(tempfile.TemporaryDirectory[str]):
    """A temporary folder that `remove_abandoned` leaves alone as long as this process lives."""

    def __init__(self) -> None:
        super().__init__(prefix=_PREFIX)
        self._held = _held(Path(self.name), "xb")

    def cleanup(self) -> None:
        """Remove the folder."""
        if self._held is not None:
            self._held.close()
        super().cleanup()


def _held(folder: Path, mode: str) -> BinaryIO | None:
    """Lock the file that marks a folder as used; return None if that cannot be done.

    The system ends the lock with the process. A process number would tell less: a later process, or one in
    another container, may have the same.
    """
    if fcntl is None:
        return None
    with contextlib.suppress(OSError):
        file = (folder / _IN_USE).open(mode)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise
        return file  # type: ignore[return-value]
    return None


def remove_abandoned() -> None:
    """Remove the temporary folders of killed programs of this user."""
    if fcntl is None:
        return
    root = Path(tempfile.gettempdir())
    with contextlib.suppress(OSError):
        for entry in os.scandir(root):
            ours = entry.name.startswith(_PREFIX) and entry.is_dir(follow_symlinks=False)
            if not ours or entry.stat(follow_symlinks=False).st_uid != os.getuid():
                continue
            held = _held(Path(entry.path), "r+b")
            if held is not None:
                with held:
                    shutil.rmtree(entry.path, ignore_errors=True)
