"""The records of earlier runs, sorted by source. They are kept on disk: there may be a billion of them."""

import sqlite3
import tempfile
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from car.batch.records import LEFT_OUT, record_lines, values_of
from car.errors import StorageError
from car.files.scratch import Scratch
from car.files.storage import Place

_CACHE = 32_000  # KB


class Earlier(NamedTuple):
    """What an earlier run recorded about one result. Texts are UTF-8.

    Attributes:
        settings: a hash of everything that determined the result.
        stamp: stamp of the source's file.
        size: bytes of the result.
        shrinks: whether the result has no more pixels than its source.
        there: bytes of the file that is there now; None if there is none.
        line: the whole line of the manifest.
    """

    settings: bytes
    stamp: bytes
    size: int
    shrinks: int
    there: int | None
    line: bytes


Known = dict[str, Earlier]
"""The records of one source, by the names of its results."""


class Index:
    """The latest record of each result, with the size of the file that is there now.

    Args:
        target: where earlier runs wrote their results and records.

    Raises:
        StorageError: the target cannot be read, or temporary files cannot be written.
    """

    def __init__(self, target: Place) -> None:
        self._folder = Scratch()
        self._data = sqlite3.connect(Path(self._folder.name, "index"), check_same_thread=False)
        try:
            self._fill(target)
        except (sqlite3.Error, StorageError) as error:
            self.close()
            if isinstance(error, StorageError):
                raise
            raise StorageError(
                f"{tempfile.gettempdir()}: temporary files cannot be written ({error}); "
                "make room, or name another folder in TMPDIR"
            ) from error

    def _fill(self, target: Place) -> None:
        # each run makes it anew, so it need not survive a crash
        for setting in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{_CACHE}", "temp_store=FILE"):
            self._data.execute(f"PRAGMA {setting}")
        self._data.execute(
            "CREATE TABLE known (source BLOB, target BLOB, settings, stamp, size, shrinks, line BLOB)"
        )
        self._data.execute("CREATE TABLE there (name BLOB PRIMARY KEY, bytes) WITHOUT ROWID")
        self._data.executemany("INSERT INTO known VALUES (?, ?, ?, ?, ?, ?, ?)", _rows(target))
        self._data.execute("CREATE INDEX by_source ON known (source)")
        if next(self._data.execute("SELECT 1 FROM known LIMIT 1"), None):
            files = ((_key(found.name), found.entry.size) for found in target.walk() if found.entry)
            self._data.executemany("INSERT INTO there VALUES (?, ?)", files)
        self._data.commit()

    def __iter__(self) -> Iterator[tuple[str, Known]]:
        """Yield each source with its records, in the order of the names."""
        rows = self._data.execute(
            "SELECT source, target, settings, stamp, size, shrinks, bytes, line "
            "FROM known LEFT JOIN there ON name = target ORDER BY source, known.rowid"
        )
        for source, group in groupby(rows, itemgetter(0)):
            yield _name(source), {_name(row[1]): Earlier(*row[2:]) for row in group}

    def close(self) -> None:
        """Remove the database."""
        self._data.close()
        self._folder.cleanup()


def _rows(target: Place) -> Iterator[tuple[Any, ...]]:
    for line in record_lines(target):
        values = values_of(line)
        if values is not None and values["status"] not in ("failed", LEFT_OUT):
            yield (
                _key(values["source"]),
                _key(values["target"]),
                _key(values["settings"]),
                _key(values["stamp"]),
                values["target_bytes"],
                list(values["target_size"]) <= list(values["source_size"]),
                line,
            )


def _key(name: str) -> bytes:
    # a file name need not be valid text; these bytes sort as the names do
    return name.encode("utf-8", "surrogatepass")


def _name(key: bytes) -> str:
    return key.decode("utf-8", "surrogatepass")
