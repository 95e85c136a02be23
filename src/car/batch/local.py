"""Whole folders and buckets through a model: resumable, in parallel, on one machine or on many.

Each image is one unit of work: read, shrunk or restored, written all or nothing. What was done is recorded in
a manifest of JSON lines below the target; a later run leaves out what has not changed since.
"""

import contextlib
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from car.batch.records import MANIFEST, ManifestWriter, Record, read_manifest
from car.codec.choose import model_for_picture, open_codec
from car.codec.codec import Codec
from car.codec.coding import Coding, coding_of
from car.codec.large import gigabytes
from car.codec.options import Options
from car.devices import cpu_threads
from car.errors import CarError, ImageError, StorageError, UsageError
from car.files.places import Entry, Place, open_source
from car.measure.evaluate import round_trip_of
from car.metrics import psnr
from car.pictures.formats import is_supported_input
from car.pictures.picture import Picture, check_size
from car.pictures.read import decode, header_size, pixel_bytes
from car.pictures.write import encode
from car.weights import ModelName, list_models

Kind = Literal["downscale", "upscale", "evaluate"]

_TILE = 256  # LR pixels a side; smaller than usual, as several images are in work, and just as fast
_COPIES = 6  # of its pixels that an image in work takes, roughly: array, decoder, what is made of it, encoder
_MEASURING = 45  # bytes a pixel that it takes beside them


@dataclass(frozen=True)
class Work:
    """What is to be done to each image; the same for a whole run."""

    kind: Kind
    scale: int | None = None
    model: ModelName | None = None
    format: str = "png"
    quality: int | None = None
    psnr: bool = False
    overwrite: bool = False
    verify: bool = False
    options: Options = Options(memory=2 * 10**9)

    @property
    def memory(self) -> int:
        """Bytes that the work on pictures may take."""
        return self.options.memory or 2 * 10**9

    @property
    def coding(self) -> Coding | None:
        """How small pictures are coded that are written with losses."""
        return coding_of(f"x.{self.format}", self.quality) if self.kind == "downscale" else None

    def target_name(self, name: str, scale: int) -> str:
        """Return the name of the result for an image called `name`; empty where none is written."""
        if self.kind == "evaluate":
            return ""
        folder, _, last = name.rpartition("/")
        stem = last.rpartition(".")[0] or last
        if self.kind == "downscale":
            stem += f".x{scale}"
        else:
            ending = next((f".x{m.scale}" for m in list_models() if stem.endswith(f".x{m.scale}")), "")
            stem = stem.removesuffix(ending) or stem
        return f"{folder}/{stem}.{self.format}" if folder else f"{stem}.{self.format}"

    def settings(self) -> dict[str, Any]:
        """Return what determines the results, beside the source.

        The backend is not among it: it moves single values by a level, no reason to do a million again.
        """
        names = ("kind", "scale", "format", "quality", "psnr")
        how = {"precision": self.options.precision, "effort": self.options.effort}
        model = [str(part) for part in self.model] if isinstance(self.model, tuple) else self.model
        return {name: getattr(self, name) for name in names} | how | {"model": model}


@dataclass(frozen=True)
class Item:
    """An image to work on: its name, its file's entry, what is at its target, what was recorded of it."""

    name: str
    entry: Entry
    target: str
    there: Entry | None
    known: Record | None


class Worker:
    """Does one item after the other; the model is loaded once. Safe to call from several threads."""

    def __init__(self, source: str, target: str, work: Work, digest: str) -> None:
        self.source, self.target, self.work, self.digest = Place(source), Place(target), work, digest
        self._codecs: dict[str, Codec] = {}
        self._lock = threading.Lock()
        self._room = _Room(work.memory)

    def __call__(self, item: Item) -> Record:
        """Work on an item; whatever goes wrong with it is in the record.

        Raises:
            StorageError: the target cannot be written to at all.
        """
        begin = time.perf_counter()
        record = self.failure(item, "")
        try:
            record = self._process(item, record)
        except StorageError as error:
            if error.fatal:
                raise
            record = replace(record, error=self._told(item, error))
        except (CarError, OSError, MemoryError) as error:
            record = replace(record, error=self._told(item, error))
        except Exception as error:  # one image must not end the others
            record = replace(record, error=f"internal error: {type(error).__name__}: {error}")
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return replace(record, seconds=round(time.perf_counter() - begin, 4), finished=now)

    def failure(self, item: Item, error: str) -> Record:
        """Return the record of an item on which nothing was done."""
        return Record(
            item.name, "failed", item.entry.size, item.entry.stamp, settings=self.digest, error=error
        )

    def _told(self, item: Item, error: BaseException) -> str:
        text, path = str(error) or type(error).__name__, self.source.path_of(item.name)
        return text if path in text else f"{path}: {text}"

    def _process(self, item: Item, record: Record) -> Record:
        content = self.source.read(item.name)
        record = replace(record, source_bytes=len(content), source_sha256=hashlib.sha256(content).hexdigest())
        known, path = item.known, self.source.path_of(item.name)
        same = known is not None and known.source_sha256 == record.source_sha256
        if known and same and known.settings == self.digest and self._still_there(item, known):
            return replace(known, status="unchanged", stamp=item.entry.stamp)
        width, height = header_size(content, path)
        check_size(width, height, path, self.work.options.max_pixels)
        need = self._need(width, height, pixel_bytes(content, path), path)
        if self.work.kind == "upscale":  # the restored picture is what takes the room
            need *= (self.work.scale or max(m.scale for m in list_models())) ** 2
        with self._room.taken(need):
            picture = decode(content, path, max_pixels=self.work.options.max_pixels)
            del content
            record = replace(record, source_size=(picture.width, picture.height))
            made, encoded = self._made(picture, item, record)
        if encoded is None:
            return made
        made = replace(
            made,
            target=item.target,
            target_bytes=len(encoded),
            target_sha256=hashlib.sha256(encoded).hexdigest(),
        )
        return self._kept(item, made, encoded)

    def _need(self, width: int, height: int, a_pixel: int, path: str) -> int:
        """Return the bytes of memory that work on a picture takes, roughly.

        Raises:
            ImageError: it is more than all that is allowed.
        """
        work = self.work
        measuring = _MEASURING if work.kind == "evaluate" or work.psnr else 0
        need = width * height * (a_pixel * _COPIES + measuring)
        if need > work.memory:
            advice = "raise --memory"
            if work.kind == "upscale":
                advice += ", or restore it alone to a .tif file: car upscale writes that in strips"
            elif not (measuring or work.options.effort):
                advice += ", or shrink it alone: car downscale reads in strips"
            raise ImageError(
                f"{path}: {width}x{height} pixels take about {gigabytes(need)}, over "
                f"{gigabytes(work.memory)}; {advice}"
            )
        return need

    def _still_there(self, item: Item, known: Record) -> bool:
        """Whether the recorded result is there; with `verify`, whether its content is, too."""
        if not item.target:
            return True
        if item.there is None or item.there.size != known.target_bytes or known.target != item.target:
            return False
        if not self.work.verify:
            return True
        return hashlib.sha256(self.target.read(item.target)).hexdigest() == known.target_sha256

    def _made(self, picture: Picture, item: Item, record: Record) -> tuple[Record, bytes | None]:
        work, name = self.work, item.target
        codec = self._codec(picture, self.source.path_of(item.name))
        record = replace(record, model=codec.loaded.name, weights=codec.loaded.short_hash)
        if work.kind == "evaluate":
            return self._measured(picture, codec, record), None
        if work.kind == "downscale":
            small, info = codec.shrink(picture)
            encoded, notes = encode(small, name, info=info, quality=work.quality)
            record = replace(record, target_size=(small.width, small.height))
            if work.psnr:
                # from the file, as it may have lost something
                restored = codec.restore(replace(decode(encoded, name), info=info))
                record = replace(record, psnr=_luma_psnr(restored, picture, codec.scale))
        else:
            (width, height), _ = codec.restored_size(picture)
            if width * height > work.options.max_pixels:
                raise ImageError(
                    f"{self.source.path_of(item.name)}: restores to {width * height} pixels, over the limit "
                    f"of {work.options.max_pixels}; raise it with --max-pixels"
                )
            self._need(width, height, 3 * picture.pixels.itemsize, self.source.path_of(item.name))
            large = codec.restore(picture)
            encoded, notes = encode(large, name, quality=work.quality)
            notes = large.notes + notes
            record = replace(record, target_size=(large.width, large.height))
        return replace(record, status="done", notes=picture.notes + notes), encoded

    def _measured(self, picture: Picture, codec: Codec, record: Record) -> Record:
        quality = round_trip_of(codec, picture, record.source, perceptual=False).record.model
        return replace(
            record,
            status="done",
            psnr=_finite(quality.psnr),
            ssim=quality.ssim,
            lr_psnr=_finite(quality.lr_psnr),
        )

    def _kept(self, item: Item, record: Record, encoded: bytes) -> Record:
        """Write the result, unless the same is there; what this program did not make stays."""
        if not self.work.overwrite:
            size = self.target.size_of(item.target)
            known = item.known
            if size is not None:
                # what cannot be the same is not read: it may be of any size
                like = size in (len(encoded), known.target_bytes if known else -1)
                digest = hashlib.sha256(self.target.read(item.target)).hexdigest() if like else ""
                if digest == record.target_sha256:
                    return record  # of a run that ended before it was recorded, or of one beside this
                if known is None or digest != known.target_sha256 or known.settings != self.digest:
                    raise ImageError(
                        f"{self.target.path_of(item.target)} exists and is another; --overwrite replaces it"
                    )
        self.target.write(item.target, encoded)
        return record

    def _codec(self, picture: Picture, name: str) -> Codec:
        work, model = self.work, self.work.model
        if work.kind == "upscale" and model is None:
            if picture.info is None and work.scale is None:
                raise UsageError(
                    f"{name}: the picture does not say which model made it; name a scale or a model"
                )
            model = model_for_picture(picture, work.scale)
        with self._lock:
            key = str(model)
            if key not in self._codecs:
                options = replace(work.options, coding=work.coding)
                scale = work.scale if model == work.model else None
                codec = open_codec(model, scale, options)
                if options.tile is None and codec.tile > _TILE:
                    codec = open_codec(model, scale, replace(options, tile=_TILE))
                self._codecs[key] = codec
            return self._codecs[key]


class _Room:
    """Lets images in while their bytes together stay below a limit; one larger than that goes in alone."""

    def __init__(self, size: int) -> None:
        self._limit, self._used = size, 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, size: int) -> Generator[None, None, None]:
        share = min(size, self._limit)
        with self._changed:
            self._changed.wait_for(lambda: self._used + share <= self._limit)
            self._used += share
        try:
            yield
        finally:
            with self._changed:
                self._used -= share
                self._changed.notify_all()


# --- a run -----------------------------------------------------------------------------------------------


@dataclass
class Summary:
    """How a run went; it is complete when `run` has returned."""

    found: int = 0
    done: int = 0
    unchanged: int = 0
    failed: int = 0
    source_bytes: int = 0
    target_bytes: int = 0
    seconds: float = 0.0
    failures: list[Record] = field(default_factory=list)
    stopped: str = ""
    left_out: dict[str, int] = field(default_factory=dict)


Engine = Callable[["Plan", Iterable[Item]], Iterator[Record]]


@dataclass(frozen=True)
class Plan:
    """A run that is ready to start."""

    source: str
    target: str
    work: Work
    digest: str
    items: tuple[Item, ...]
    unchanged: tuple[Record, ...]
    problems: tuple[Record, ...]
    left_out: Mapping[str, int] = field(default_factory=dict[str, int])

    def worker(self) -> Worker:
        """Return what does the items."""
        return Worker(self.source, self.target, self.work, self.digest)


def plan(source: str, target: str, work: Work) -> Plan:
    """List source and target and decide what is to be done.

    Raises:
        UsageError: the source holds no image, or the request makes no sense.
        StorageError: a place cannot be listed.
    """
    if work.kind not in get_args(Kind):
        raise UsageError(f"no such kind of work: {work.kind!r}")
    scale, weights = work.scale or 0, ""
    if work.kind != "upscale" or work.model is not None or work.scale is not None:
        codec = open_codec(work.model, work.scale, Options(device="cpu", coding=work.coding))
        scale, weights = codec.scale, codec.loaded.sha256
    place, found, passed = open_source(source, lambda name: is_supported_input(Path(name)))
    to = Place(target)
    inner = to.below(place)
    if inner:  # what lies in a target below the source is no part of the source
        passed = {name: kind for name, kind in passed.items() if not f"{name}/".startswith(inner + "/")}
    left_out = Counter(passed.values())
    to.remove_leftovers()
    there = to.listing(lambda name: True)
    known = {key: record for key, record in read_manifest(to).items() if record.status != "failed"}
    # results from another source are no earlier ones of this source's images
    determined = [work.settings(), weights, place.identity]
    digest = hashlib.sha256(json.dumps(determined).encode()).hexdigest()[:16]
    items: list[Item] = []
    unchanged: list[Record] = []
    problems: list[Record] = []
    taken: dict[str, str] = {}
    targets = {
        name: work.target_name(name, scale)
        for name in found
        if not name.startswith((MANIFEST + "/", *([inner + "/"] if inner else [])))
    }
    if inner == "":  # results of earlier runs beside their sources are no sources themselves
        results = {result for name, result in targets.items() if result != name}
        # but what was shrunk may be restored, and the other way round
        shrinks = work.kind != "upscale"
        earlier = (record for record in known.values() if record.source in found)
        results |= {
            record.target for record in earlier if (record.target_size <= record.source_size) == shrinks
        }
        targets = {name: result for name, result in targets.items() if name not in results}
    # of two images with one result, that which has it already keeps it
    for name, result in sorted(targets.items(), key=lambda pair: pair not in known):
        entry = found[name]
        if inner == "" and result == name:
            text = f"{place.path_of(name)}: its result would take its place; name another target or format"
            problems.append(Record(name, "failed", entry.size, entry.stamp, settings=digest, error=text))
            continue
        if result and result in taken:
            text = f"{place.path_of(name)}: its result would be {result}, as that of {taken[result]}"
            problems.append(Record(name, "failed", entry.size, entry.stamp, settings=digest, error=text))
            continue
        old = known.get((name, result))
        if inner == "" and work.overwrite and result in found and old is None:
            text = (
                f"{place.path_of(name)}: its result would replace {result}, which no run in this place made"
            )
            problems.append(Record(name, "failed", entry.size, entry.stamp, settings=digest, error=text))
            continue
        taken[result] = name
        at_target = there.get(result) if result else None
        fits = old is not None and old.settings == digest and old.stamp == entry.stamp != ""
        if (
            old
            and fits
            and not work.verify
            and not (work.overwrite)
            and (not result or (at_target is not None and at_target.size == old.target_bytes))
        ):
            unchanged.append(replace(old, status="unchanged"))
        else:
            items.append(Item(name, entry, result, at_target, old))
    return Plan(place.url, target, work, digest, tuple(items), tuple(unchanged), tuple(problems), left_out)


def run(
    todo: Plan, *, engine: Engine, on_record: Callable[[Record], None] | None = None
) -> tuple[Summary, list[Record]]:
    """Do what is planned; failed items are tried once more at the end.

    Args:
        todo: see `plan`.
        engine: `run_here` or another that yields a record for each item.
        on_record: called for each item as it is done; not for the first failure of an item.

    Returns:
        The summary and the last record of every image of the source.

    Raises:
        StorageError: the target or the manifest cannot be written.
        KeyboardInterrupt: passed on when the work in hand is finished; the next run takes it over.
    """
    begin = time.monotonic()
    Place(todo.target).prepare()
    total = len(todo.items) + len(todo.unchanged) + len(todo.problems)
    summary = Summary(found=total, unchanged=len(todo.unchanged), left_out=dict(todo.left_out))
    last = {record.source: record for record in (*todo.unchanged, *todo.problems)}
    writer = ManifestWriter(Place(todo.target))

    def take(record: Record) -> None:
        writer.add(record)
        last[record.source] = record
        if record.status == "unchanged":
            summary.unchanged += 1
        elif record.status == "done":
            summary.done += 1
            summary.target_bytes += record.target_bytes
        summary.source_bytes += record.source_bytes
        if on_record:
            on_record(record)

    again: list[Item] = []
    by_name = {item.name: item for item in todo.items}
    try:
        for record in engine(todo, todo.items):
            if record.status == "failed":
                again.append(by_name[record.source])
                last[record.source] = record
            else:
                take(record)
        for record in engine(todo, again):
            take(record)
    except StorageError as error:
        if not error.fatal:
            raise
        summary.stopped = str(error)
    finally:
        with contextlib.suppress(*([StorageError] if summary.stopped else [])):
            writer.close()
        summary.seconds = time.monotonic() - begin
    summary.failures = [record for record in last.values() if record.status == "failed"]
    summary.failed = len(summary.failures)
    return summary, list(last.values())


def run_here(todo: Plan, items: Iterable[Item], *, workers: int = 0) -> Iterator[Record]:
    """Work on this machine, several images at a time: while one is decoded, another is in the network.

    Args:
        todo: the plan.
        items: of it.
        workers: images at a time; 0 for one a core. The networks' threads are shared out among them.
    """
    count = workers or cpu_threads()
    threads = todo.work.options.threads or max(1, cpu_threads() // count)
    options = replace(todo.work.options, threads=threads)
    worker = replace(todo, work=replace(todo.work, options=options)).worker()
    pool = ThreadPoolExecutor(count, "images")
    waiting: set[Future[Record]] = set()
    queue = iter(items)
    try:
        while True:
            # a few in advance, so that no worker waits; not all, as they may be a million
            waiting |= {pool.submit(worker, item) for item in islice(queue, 2 * count - len(waiting))}
            if not waiting:
                return
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _luma_psnr(restored: Picture, original: Picture, scale: int) -> float | None:
    if min(original.width, original.height) <= 2 * scale:
        return None
    pair = (
        p.pixels if p.pixels.dtype == np.uint8 else p.pixels / np.float32(65535) for p in (restored, original)
    )
    return _finite(psnr(*pair, border=scale))


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
