"""The manifest of a bulk run: what became of each image, as JSON lines below the target, or as Parquet."""

import json
import math
import os
import secrets
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from car.errors import UsageError
from car.files.atomic import atomic_write
from car.files.places import Place

MANIFEST = "_manifest"
"""Folder below the target with the parts of the manifest."""

_FLUSH = (2.0, 60.0)  # seconds between parts: at first, at most
_JOINED_BYTES = 256 * 10**6  # of parts that are put together: those of a long run stay several files


@dataclass(frozen=True)
class Record:
    """A line of the manifest: what became of one image.

    Attributes:
        source: name below the source.
        status: "done", "unchanged" (done by an earlier run) or "failed".
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
        psnr: of what is restored from it, dB on luma, where asked for; None also for identical pictures.
        ssim: likewise.
        lr_psnr: of the small picture against the bicubic one, where measured.
        seconds: of work.
        notes: what the user should know.
        error: why it failed.
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
        """Return the record of a line of a manifest, None where it is something else."""
        if not isinstance(values, dict) or not isinstance(values.get("source"), str):
            return None
        known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        for name in ("source_size", "target_size", "notes"):
            known[name] = tuple(known.get(name, (0, 0) if name != "notes" else ()))
        record = cls(**known)
        return record if record._is_sound() else None

    def _is_sound(self) -> bool:
        """Whether every value is of its kind: manifests come from anywhere."""
        texts = (f.name for f in fields(self) if f.default == "" or f.name in ("source", "status"))
        sizes, measures = (
            (self.source_size, self.target_size),
            (self.psnr, self.ssim, self.lr_psnr, self.seconds),
        )
        return (
            all(isinstance(getattr(self, name), str) for name in texts)
            and all(type(note) is str for note in self.notes)
            and all(map(_is_count, (self.source_bytes, self.target_bytes)))
            and all(len(size) == 2 and all(map(_is_count, size)) for size in sizes)
            and all(m is None or _is_count(m) or (type(m) is float and math.isfinite(m)) for m in measures)
        )


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63  # as Parquet can hold it


def read_manifest(target: Place) -> dict[tuple[str, str], Record]:
    """Return the last record of each result that was made, by the names of source and target.

    The name of the target is empty where none is written, and for a source that failed and was never done.

    Raises:
        StorageError: a part cannot be read.
    """
    records: dict[tuple[str, str], Record] = {}
    failed: dict[tuple[str, str], Record] = {}
    for name in target.listing(lambda name: name.startswith(MANIFEST + "/") and name.endswith(".jsonl")):
        for line in target.lines(name):
            try:
                record = Record.from_dict(json.loads(line))
            except (
                ValueError,
                TypeError,
                ArithmeticError,
                RecursionError,
            ):  # not ours, or damaged: as if it were not there
                continue
            if record is not None:
                kept = failed if record.status == "failed" else records
                kept[record.source, record.target] = record
    # what made a result is not forgotten because its source was damaged for a while
    done = {source for source, _ in records}
    return records | {key: record for key, record in failed.items() if record.source not in done}


class ManifestWriter:
    """Writes records in parts, as buckets know no appending, and makes larger files of them."""

    def __init__(self, target: Place) -> None:
        self._target = target
        self._run = time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + "-" + secrets.token_hex(4)
        self._files = 0
        self._waiting: list[str] = []
        self._parts: dict[str, bytes] = {}
        self._pause, self._last = _FLUSH[0], time.monotonic()

    def add(self, record: Record) -> None:
        """Take in a record; now and then a part is written.

        Raises:
            StorageError: it cannot be.
        """
        self._waiting.append(json.dumps(asdict(record), allow_nan=False) + "\n")
        if time.monotonic() - self._last > self._pause:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            content = "".join(self._waiting).encode()
            if sum(map(len, self._parts.values())) + len(content) > _JOINED_BYTES:
                self._join()
            self._parts[self._write(content)] = content
            self._waiting = []
        self._pause = min(self._pause * 1.5, _FLUSH[1])
        self._last = time.monotonic()

    def _write(self, content: bytes) -> str:
        name = f"{MANIFEST}/{self._run}-{self._files:06d}.jsonl"
        self._target.write(name, content)
        self._files += 1
        return name

    def _join(self) -> None:
        if len(self._parts) > 1:
            self._write(b"".join(self._parts.values()))
            for part in self._parts:
                self._target.remove(part)
        self._parts = {}

    def close(self) -> None:
        """Write what is left and put the parts together.

        Raises:
            StorageError: they cannot be written.
        """
        self._flush()
        self._join()


def export_manifest(records: Iterable[Record], path: Path) -> None:
    """Write records as .jsonl, or as .parquet for those who have pyarrow.

    Raises:
        UsageError: another ending, or pyarrow is missing.
        ImageError: the file cannot be written.
    """
    rows = [asdict(record) for record in records]
    if path.suffix == ".jsonl":
        atomic_write(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode())
        return
    check_manifest_name(path)
    import pyarrow
    import pyarrow.parquet

    for row in rows:
        for key, value in row.items():  # names of files may be no valid text
            if isinstance(value, str):
                row[key] = value.encode("utf-8", "backslashreplace").decode()
    table = pyarrow.Table.from_pylist(rows)
    atomic_write(path, lambda file: pyarrow.parquet.write_table(table, file))


def check_manifest_name(path: Path) -> None:
    """Raise `UsageError` unless a manifest can be written under this name, as far as can be told before."""
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"{path}: {'is a folder' if path.is_dir() else 'its folder is not there'}")
    if path.suffix not in (".jsonl", ".parquet"):
        raise UsageError(f"{path}: a manifest is written as .jsonl or .parquet")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401  # pyright: ignore[reportUnusedImport]
        except ImportError as error:
            raise UsageError(
                f"{path}: Parquet needs pyarrow: pip install 'content-adaptive-resampler[bulk]'"
            ) from error


def check_no_other_file(path: Path) -> None:
    """Raise `UsageError` where something is there that `export_manifest` cannot have written."""
    if os.path.lexists(path) and not (path.is_file() and _is_export(path)):
        raise UsageError(f"{path} exists and is no manifest; name another file, or --overwrite replaces it")


def _is_export(path: Path) -> bool:
    columns = {f.name for f in fields(Record)}
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            names = set(pyarrow.parquet.read_schema(path).names)
            return names == columns or not names  # none where there was no image
        with path.open("rb") as file:
            return all(json.loads(line).keys() == columns for line in file)
    except Exception:  # whatever a file of another kind makes the readers raise
        return False
