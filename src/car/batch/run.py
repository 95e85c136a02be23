"""A run over a folder or bucket. Each image is recorded when it is done; failed ones are tried once more."""

import contextlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

from car.batch.plan import Plan
from car.batch.records import LEFT_OUT, ManifestWriter, Record
from car.batch.work import Item
from car.errors import StorageError
from car.files.places import Passed
from car.files.scratch import remove_abandoned
from car.files.storage import Place
from car.pictures.formats import UNREAD_SUFFIXES

_TOLD = 1000  # failures, and kinds of notes, that a summary holds; the manifest has them all

Engine = Callable[[Plan, Iterable[Item]], Iterator[Record]]
"""Takes items when it needs them, and yields a record for each."""


@dataclass
class Summary:
    """The outcome of a run. It is complete when `run` has returned.

    Attributes:
        found: images that were found.
        failures: the records of the first failures; `failed` counts all of them.
        stopped: why the run ended early.
        left_out: how many files of each kind the listing left out.
        problems: a line for each folder that could not be read.
        notes: how many images have each note.
        measured: images with a PSNR.
        mean_psnr: their mean PSNR, dB.
    """

    found: int = 0
    done: int = 0
    unchanged: int = 0
    failed: int = 0
    source_bytes: int = 0
    target_bytes: int = 0
    seconds: float = 0.0
    failures: list[Record] = field(default_factory=list[Record])
    stopped: str = ""
    left_out: dict[str, int] = field(default_factory=dict[str, int])
    problems: list[str] = field(default_factory=list[str])
    notes: Counter[str] = field(default_factory=Counter[str])
    measured: int = 0
    mean_psnr: float | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing failed."""
        return not (self.failed or self.stopped or self.problems)

    def take(self, record: Record) -> None:
        """Count the record of an image."""
        self.found += 1
        if record.status == "failed":
            self.failed += 1
            if len(self.failures) < _TOLD:
                self.failures.append(record)
        elif record.status == "unchanged":
            self.unchanged += 1
        else:
            self.done += 1
            self.target_bytes += record.target_bytes
            for note in record.notes:
                if note in self.notes or len(self.notes) < _TOLD:
                    self.notes[note] += 1
            if record.psnr is not None:
                self.mean_psnr = ((self.mean_psnr or 0.0) * self.measured + record.psnr) / (self.measured + 1)
                self.measured += 1


class _Again:
    """Failed items with their records, kept on disk until they are tried once more."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed with the run

    def add(self, item: Item, record: Record) -> None:
        self._file.write(json.dumps([item.to_dict(), record.line().decode()]).encode() + b"\n")

    def __iter__(self) -> Iterator[tuple[Item, Record]]:
        self._file.seek(0)
        for line in self._file:
            item, record = json.loads(line)
            known = Record.from_dict(json.loads(record))
            assert known is not None
            yield Item.from_dict(item), known


@dataclass(frozen=True)
class Told:
    """Functions that are called once for each image, when its outcome is final.

    Attributes:
        record: called with the record of an image that was done or failed.
        unchanged: called with the manifest line of an image that an earlier run finished.
        left: called with the record of a picture of a kind that is not read.
    """

    record: Callable[[Record], None] = lambda _: None
    unchanged: Callable[[bytes], None] = lambda _: None
    left: Callable[[Record], None] = lambda _: None


def run(todo: Plan, *, engine: Engine, told: Told | None = None) -> Summary:
    """Carry out a plan. Failed items are tried once more at the end.

    Args:
        todo: see `car.batch.plan.plan`.
        engine: what distributes the items, such as `car.batch.local.run_here`.
        told: what to call for each image.

    Raises:
        StorageError: a place cannot be listed, or the target or the manifest cannot be written.
        KeyboardInterrupt: raised again when the images in work are finished; the next run continues.
    """
    begin = time.monotonic()
    target = Place(todo.target)
    target.prepare()
    target.remove_leftovers()
    remove_abandoned()
    going = _Run(todo, engine, told or Told(), ManifestWriter(target))
    summary = going.summary
    try:
        going.work()
    except StorageError as error:
        if not error.fatal:
            raise
        summary.stopped = str(error)
    finally:
        with contextlib.suppress(*([StorageError] if summary.stopped else [])):
            going.writer.close()
        summary.seconds = time.monotonic() - begin
        summary.left_out, summary.problems = dict(going.passed.left_out), going.passed.problems
    return summary


class _Run:
    """The state of a run."""

    def __init__(self, todo: Plan, engine: Engine, told: Told, writer: ManifestWriter) -> None:
        self.todo, self.engine, self.told, self.writer = todo, engine, told, writer
        self.summary, self.passed = Summary(), Passed(tell=self._leave)
        self._in_hand: dict[str, Item] = {}  # items that the engine has for the first time
        self._last: dict[str, Record] = {}  # records of the first try of items that the engine has again
        self._again = _Again()
        self._steps = todo.steps(self.passed)
        self._failed: Iterator[tuple[Item, Record]] | None = None

    def work(self) -> None:
        """Process every image, and failed ones once more."""
        try:
            for record in self.engine(self.todo, self._first()):
                item = self._in_hand.pop(record.source)
                if record.status == "failed":
                    self._again.add(item, record)
                else:
                    self._take(record)
            self._failed = iter(self._again)
            for record in self.engine(self.todo, self._second()):
                del self._last[record.source]
                self._take(record)
        finally:
            self._steps.close()
            # if the run was stopped, items that failed once count as failed
            left = iter(self._again) if self._failed is None else self._failed
            for record in chain(self._last.values(), (record for _, record in left)):
                self._count(record)

    def _first(self) -> Iterator[Item]:
        for step in self._steps:
            if isinstance(step, Item):
                self._in_hand[step.name] = step
                yield step
            elif isinstance(step, Record):
                self._count(step)
            else:
                self.summary.found += 1
                self.summary.unchanged += 1
                self.told.unchanged(step.line)

    def _second(self) -> Iterator[Item]:
        for item, record in self._failed or ():
            self._last[item.name] = record
            yield item

    def _take(self, record: Record) -> None:
        if record.status == LEFT_OUT:
            self.passed.left_out[record.error] += 1
            return
        self.writer.add(record)
        self.summary.source_bytes += record.source_bytes
        self._count(record)

    def _leave(self, name: str, kind: str) -> None:
        """Record a picture of a kind that is not read; other files that are left out are only counted."""
        if kind in UNREAD_SUFFIXES:
            record = Record(name, LEFT_OUT, error=f"{kind} is not read")
            self.writer.add(record)
            self.told.left(record)

    def _count(self, record: Record) -> None:
        self.summary.take(record)
        self.told.record(record)
