"""What earlier runs recorded, in the order of the sources: on disk, as it may be a billion lines."""

import sqlite3
import tempfile
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from car.batch.records import record_lines, values_of
from car.files.storage import Place

_CACHE = 32_000  # KB


class Earlier(NamedTuple):
    """What an earlier run recorded of one result; texts are UTF-8.

    Attributes:
        settings: digest of what determined it.
        stamp: of the source's file.
        size: bytes of the result.
        shrinks: it has no more pixels than its source.
        there: bytes of what is in its place now; None where nothing is.
        line: of the manifest, with all the rest.
    """

    settings: bytes
    stamp: bytes
    size: int
    shrinks: int
    there: int | None
    line: bytes


Known = dict[str, Earlier]
"""What is known of one source, by the names of its results."""


class Index:
    """The last record of each result of earlier runs, with what is at its target now.

    Args:
        target: where the runs wrote their results and records.

    Raises:
        StorageError: it cannot be read.
    """

    def __init__(self, target: Place) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="car-")
        self._data = sqlite3.connect(Path(self._folder.name, "index"), check_same_thread=False)
        # it is made anew by each run, so nothing of it need survive one
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
        """Yield the sources, in the order of their names, with what is known of them."""
        rows = self._data.execute(
            "SELECT source, target, settings, stamp, size, shrinks, bytes, line "
            "FROM known LEFT JOIN there ON name = target ORDER BY source, known.rowid"
        )
        for source, group in groupby(rows, itemgetter(0)):
            yield _name(source), {_name(row[1]): Earlier(*row[2:]) for row in group}

    def close(self) -> None:
        """Remove it."""
        self._data.close()
        self._folder.cleanup()


def _rows(target: Place) -> Iterator[tuple[Any, ...]]:
    for line in record_lines(target):
        values = values_of(line)
        if values is not None and values["status"] != "failed":
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
    # names of files need not be text; in the order of these bytes, names are in order
    return name.encode("utf-8", "surrogatepass")


def _name(key: bytes) -> str:
    return key.decode("utf-8", "surrogatepass")
