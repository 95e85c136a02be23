"""The manifest of a bulk run: a record of each image, as JSON lines below the target, or as Parquet."""

import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, replace
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, BinaryIO

from car.errors import UsageError, needs
from car.files.atomic import atomic_write, check_writable
from car.files.scratch import Scratch
from car.files.storage import Kind, Place

MANIFEST = "_manifest"
"""Folder below the target with the parts of the manifest."""

LEFT_OUT = "left out"
"""Status of a picture that is not worked on. Manifests have it for pictures of kinds that are not read."""

_FLUSH = (2.0, 60.0)  # seconds between parts: at first, at most
_MOST_WAITING = 10_000  # records
_JOINED_BYTES = 256 * 10**6  # of parts that are put together: those of a long run stay several files
_ROWS = 10_000  # of a Parquet file that are written at once


@dataclass(frozen=True)
class Record:
    """A line of the manifest: the result of the work on one image.

    Attributes:
        source: name below the source.
        status: "done", "unchanged" (done by an earlier run), "failed" or `LEFT_OUT`.
        source_bytes: of its file, and so on.
        stamp: of its file, as the file system gives it.
        source_sha256: of its content.
        source_size: width and height in pixels.
        target: name below the target.
        target_bytes: of its file.
        target_sha256: of its content.
        target_size: width and height in pixels.
        model: its name.
        weights: leading digits of their SHA-256.
        settings: digest of what determines the result.
        psnr: PSNR of the restored picture on luma, dB, if measured; None also for identical pictures.
        ssim: likewise.
        lr_psnr: of the small picture against the bicubic one, where measured.
        seconds: of work.
        notes: notes for the user.
        error: why the work failed, or why the picture was left out.
        finished: time of day, UTC.
    """

    source: str
    status: str
    source_bytes: int = 0
    stamp: str = ""
    source_sha256: str = ""
    source_size: tuple[int, int] = (0, 0)
    target: str = ""
    target_bytes: int = 0
    target_sha256: str = ""
    target_size: tuple[int, int] = (0, 0)
    model: str = ""
    weights: str = ""
    settings: str = ""
    psnr: float | None = None
    ssim: float | None = None
    lr_psnr: float | None = None
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    error: str = ""
    finished: str = ""

    @classmethod
    def from_dict(cls, values: Any) -> "Record | None":
        """Return the record of a line of a manifest; None where it is something else."""
        sound = _sound(values)
        if sound is None:
            return None
        for name in _SEQUENCES:
            sound[name] = tuple(sound[name])
        return cls(**sound)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return dict(self.__dict__)

    def line(self) -> bytes:
        """Return it as a line of a manifest."""
        return (json.dumps(self.__dict__, allow_nan=False) + "\n").encode()


_DEFAULTS = {f.name: f.default for f in fields(Record) if f.default is not MISSING}
_NAMES = {f.name for f in fields(Record)}
_TEXTS = itemgetter(*(f.name for f in fields(Record) if f.type is str))
_COUNTS = itemgetter(*(f.name for f in fields(Record) if f.type is int))
_SIZES = itemgetter(*(f.name for f in fields(Record) if f.type == tuple[int, int]))
_MEASURES = itemgetter(*(f.name for f in fields(Record) if f.type in (float, float | None)))
_SEQUENCES = ("source_size", "target_size", "notes")


def _sound(values: Any) -> dict[str, Any] | None:
    """Return the values of a record if every one is of its kind, as lines come from anywhere."""
    if type(values) is not dict or not {"source", "status"} <= values.keys():
        return None
    if values.keys() != _NAMES:
        values = _DEFAULTS | {name: value for name, value in values.items() if name in _NAMES}
    sizes, notes = _SIZES(values), values["notes"]
    if any(type(value) not in (list, tuple) for value in (*sizes, notes)) or {*map(len, sizes)} != {2}:
        return None
    counts = (*_COUNTS(values), *sizes[0], *sizes[1])
    measures = [value for value in _MEASURES(values) if value is not None]
    sound = (
        {*map(type, _TEXTS(values)), *map(type, notes)} == {str}
        and {*map(type, counts)} == {int}
        and min(counts) >= 0
        and max(counts) < 2**63  # as Parquet can hold it
        and {*map(type, measures)} <= {int, float}
        and all(-(2**63) < value < 2**63 for value in measures)  # no number is in that range but a finite one
        and values["seconds"] is not None
    )
    return values if sound else None


def record_of(line: bytes) -> Record | None:
    """Return the record of a line of a manifest; None if the line is damaged or from another program."""
    values = values_of(line)
    return None if values is None else Record.from_dict(values)


def values_of(line: bytes) -> dict[str, Any] | None:
    """Return what `record_of` makes a record of, which is quicker."""
    try:
        return _sound(json.loads(line))
    except (ValueError, RecursionError):
        return None


def record_lines(target: Place) -> Iterator[bytes]:
    """Yield the lines of the manifests of earlier runs, the oldest first; they may hold anything.

    Raises:
        StorageError: a part cannot be read.
    """
    for found in target.walk(below=MANIFEST):
        if found.kind is Kind.FILE and found.name.endswith(".jsonl"):
            yield from target.lines(found.name)


class ManifestWriter:
    """Writes records in parts, because buckets cannot append, and joins the parts to larger files."""

    def __init__(self, target: Place) -> None:
        self._target = target
        self._run = time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + "-" + secrets.token_hex(4)
        self._files = 0
        self._waiting: list[bytes] = []
        self._parts: list[str] = []
        self._folder = Scratch()
        self._joined = Path(self._folder.name, "joined")  # what the parts hold together
        self._pause, self._last = _FLUSH[0], time.monotonic()

    def add(self, record: Record) -> None:
        """Take in a record; now and then a part is written.

        Raises:
            StorageError: it cannot be.
        """
        self._waiting.append(record.line())
        if time.monotonic() - self._last > self._pause or len(self._waiting) >= _MOST_WAITING:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            content = b"".join(self._waiting)
            if self._parts and self._joined.stat().st_size + len(content) > _JOINED_BYTES:
                self._join()
            self._parts.append(self._write(content))
            with self._joined.open("ab") as file:
                file.write(content)
            self._waiting = []
        self._pause = min(self._pause * 1.5, _FLUSH[1])
        self._last = time.monotonic()

    def _write(self, content: bytes | Path) -> str:
        name = f"{MANIFEST}/{self._run}-{self._files:06d}.jsonl"
        self._target.write(name, content)
        self._files += 1
        return name

    def _join(self) -> None:
        if len(self._parts) > 1:
            self._write(self._joined)
            for part in self._parts:
                self._target.remove(part)
        self._parts = []
        self._joined.unlink(missing_ok=True)

    def close(self) -> None:
        """Write what is left and put the parts together.

        Raises:
            StorageError: they cannot be written.
        """
        try:
            self._flush()
            self._join()
        finally:
            self._folder.cleanup()


class Export:
    """Takes in the records of all images of a run, on disk, and writes them to one file in the end.

    Args:
        path: a ``.jsonl`` or ``.parquet`` file, see `check_manifest_name`.

    Raises:
        WriteError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        check_writable(path)
        self._path = path
        self._lines = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `write`

    def add(self, record: Record) -> None:
        """Take in the record of an image."""
        self._lines.write(record.line())

    def add_unchanged(self, line: bytes) -> None:
        """Take in an image that an earlier run did, by the line that it wrote."""
        record = record_of(line)
        assert record is not None
        self.add(replace(record, status="unchanged"))

    def write(self) -> None:
        """Write the file.

        Raises:
            ImageError: it cannot be written.
        """
        with self._lines as lines:
            lines.seek(0)
            if self._path.suffix == ".jsonl":
                atomic_write(self._path, lambda file: shutil.copyfileobj(lines, file))
            else:
                atomic_write(self._path, lambda file: _write_parquet(lines, file))


def _write_parquet(lines: IO[bytes], file: BinaryIO) -> None:
    import pyarrow
    import pyarrow.parquet

    kinds: dict[Any, Any] = {
        str: pyarrow.string(),
        int: pyarrow.int64(),
        tuple[int, int]: pyarrow.list_(pyarrow.int64()),
        tuple[str, ...]: pyarrow.list_(pyarrow.string()),
    }
    columns = fields(Record)
    schema = pyarrow.schema([(f.name, kinds.get(f.type, pyarrow.float64())) for f in columns])
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        while rows := [json.loads(line) for line in islice(lines, _ROWS)]:
            for row in rows:
                row |= {key: _as_text(value) for key, value in row.items() if isinstance(value, str)}
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))


def _as_text(value: str) -> str:
    # names of files may be no valid text
    return value.encode("utf-8", "backslashreplace").decode()


def check_manifest_name(path: Path) -> None:
    """Raise `UsageError` unless a manifest can be written under this name, as far as can be known now."""
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"{path}: {'is a folder' if path.is_dir() else 'its folder does not exist'}")
    if path.suffix not in (".jsonl", ".parquet"):
        raise UsageError(f"{path}: name a .jsonl or .parquet file for the manifest")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401  # pyright: ignore[reportUnusedImport]
        except ImportError as error:
            raise needs(f"{path}: Parquet needs pyarrow", "bulk") from error


def check_no_other_file(path: Path) -> None:
    """Raise `UsageError` if a file exists that `Export` cannot have written."""
    if os.path.lexists(path) and not (path.is_file() and _is_export(path)):
        raise UsageError(
            f"{path} exists and is not a manifest; name another file, or replace it with --overwrite"
        )


def _is_export(path: Path) -> bool:
    columns = {f.name for f in fields(Record)}
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            return set(pyarrow.parquet.read_schema(path).names) == columns
        with path.open("rb") as file:
            return all(json.loads(line).keys() == columns for line in file)
    except Exception:  # whatever a file of another kind makes the readers raise
        return False
