"""What a run has to do: the listing of the source, joined with the records of earlier runs.

Both are sorted by name, and both are streams: memory does not grow with the number of images. Only images
that share a result, and results that lie beside their sources, depend on each other. Their names begin alike,
so the listing gives them in one piece.
"""

import hashlib
import json
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import get_args

from car.batch.index import Index, Known
from car.batch.names import Naming, belongs_to, same_result
from car.batch.records import MANIFEST, Record, record_of
from car.batch.work import Item, Kind, Work
from car.codec.choose import checked_label, open_codec
from car.codec.options import Options
from car.errors import UsageError
from car.files.places import FOREIGN, RESTORED_ONES, SMALL, Passed, Source, counted, open_source
from car.files.storage import Entry, Place
from car.pictures.formats import INPUT_SUFFIXES
from car.scaling import LEAST, MOST
from car.weights import default_model


@dataclass(frozen=True)
class Unchanged:
    """An image that an earlier run finished. `line` is its line in the manifest."""

    line: bytes


Step = Item | Record | Unchanged
"""A picture to work on, the record of one that cannot be worked on, or one that is already done."""


@dataclass(frozen=True)
class Plan:
    """A run that is ready to start.

    Attributes:
        source: what to list.
        target: URL of the place for results and records.
        work: what to do with each image.
        digest: a hash of everything that determines the results.
        naming: how results are named; None if none are written.
        in_place: whether results lie beside their sources.
    """

    source: Source
    target: str
    work: Work
    digest: str
    naming: Naming | None
    in_place: bool

    def steps(self, passed: Passed) -> Generator[Step, None, None]:
        """Yield a step for each image, roughly in the order of the names.

        Args:
            passed: receives what the listing leaves out; complete at the end.

        Raises:
            StorageError: a place cannot be listed.
        """
        with closing(Index(Place(self.target))) as index:
            groups = _Groups(self, passed)
            for name, entry, known in _joined(self.source.pictures(passed), iter(index)):
                yield from groups.take(_Image(name, entry, known))
            yield from groups.rest()


@dataclass(frozen=True)
class _Image:
    name: str
    entry: Entry
    known: Known


@dataclass
class _Group:
    """Images that share a result, while more of them may follow in the listing.

    Attributes:
        stem: the start of all their names, and of the result's name.
        result: name of the result.
        original: stem of the picture that all of them are, or were made of.
        small: a small picture of it is in the listing.
        images: the images.
        made: names with this stem that are results of this run or an earlier one.
        there: whether the listing itself contains the result.
    """

    stem: str
    result: str
    original: str
    small: bool = False
    images: list[_Image] = field(default_factory=list[_Image])
    made: set[str] = field(default_factory=set[str])
    there: bool = False


class _Groups:
    """Takes images in the order of their names, and decides what to do with each."""

    def __init__(self, todo: Plan, passed: Passed) -> None:
        self._todo, self._digest, self._passed = todo, todo.digest.encode(), passed
        self._open: list[_Group] = []

    def take(self, image: _Image) -> Iterator[Step]:
        """Take the next image, and yield the steps that are now certain."""
        naming = self._todo.naming
        if naming is None:
            yield self._decided(image, "")
            return
        over = [group for group in self._open if not image.name.startswith(group.stem)]
        if over:
            self._open = [group for group in self._open if image.name.startswith(group.stem)]
            for group in over:
                yield from self._settled(group)
        result = naming(image.name)
        original, kind = belongs_to(image.name)
        group = next((group for group in self._open if group.result == result), None)
        if group is None:
            # a restored picture waits for the small picture that may come after it
            stem = original if kind == RESTORED_ONES else naming.stem(image.name)
            group = _Group(stem if naming.keeps else f"{stem}.", result, original)
            self._open.append(group)
        for other in self._open if kind == SMALL else ():
            names = {one.name for one in other.images}  # one of them, if its suffix was kept
            other.small |= original in {other.original, *names}
        if self._todo.in_place:
            group.made |= self._made_of(image, result)
            for other in self._open:
                other.there |= other.result == image.name
            # results beside their sources are not sources themselves
            if any(image.name in other.made for other in self._open):
                return
        group.images.append(image)

    def rest(self) -> Iterator[Step]:
        """Yield the remaining steps, after the last image."""
        for group in self._open:
            yield from self._settled(group)

    def _made_of(self, image: _Image, result: str) -> set[str]:
        """Return the names of an image's results, those of earlier runs included."""
        # a small picture may be restored, and a restored one may be shrunk
        shrinks = self._todo.work.kind != "upscale"
        made = {target for target, old in image.known.items() if bool(old.shrinks) == shrinks}
        return made | {result}

    def _settled(self, group: _Group) -> Iterator[Step]:
        todo, result, taken = self._todo, group.result, ""
        images = [image for image in group.images if image.name not in group.made]
        if group.small:
            kinds = {image.name: self._left_out(image.name) for image in images}
            self._passed.left_out.update(kind for kind in kinds.values() if kind)
            images = [image for image in images if not kinds[image.name]]
        # if two images share a result, the one that already has it keeps it
        for image in sorted(images, key=lambda image: result not in image.known):
            if taken:
                yield self._problem(image, same_result(result, taken, todo.naming))
            elif todo.in_place and todo.work.overwrite and group.there and result not in image.known:
                yield self._problem(
                    image, f"its result would replace {result}, which no run in this place made"
                )
            else:
                taken = image.name
                yield self._decided(image, result)

    def _left_out(self, name: str) -> str:
        """Return why a picture is left out that has a small picture beside it; "" if it is not."""
        _, kind = belongs_to(name)
        if self._todo.work.kind == "upscale":
            return "" if kind == SMALL else FOREIGN
        return kind if kind == RESTORED_ONES else ""

    def _decided(self, image: _Image, result: str) -> Step:
        """Return `Unchanged` for an image that is done, and an item for any other."""
        work, entry, old = self._todo.work, image.entry, image.known.get(result)
        if old is None:
            return Item(image.name, entry, result, None, None)
        if (
            old.settings == self._digest
            and old.stamp == entry.stamp.encode("utf-8", "surrogatepass") != b""
            and not (work.verify or work.overwrite)
            and (not result or old.there == old.size)
        ):
            return Unchanged(old.line)
        return Item(image.name, entry, result, old.there, record_of(old.line))

    def _problem(self, image: _Image, text: str) -> Record:
        error = f"{self._todo.source.place.path_of(image.name)}: {text}"
        return failure(image.name, image.entry, self._todo.digest, error)


def failure(name: str, entry: Entry, digest: str, error: str) -> Record:
    """Return the record of an image that was not worked on."""
    return Record(name, "failed", entry.size, entry.stamp, settings=digest, error=error)


def _joined(
    listing: Iterator[tuple[str, Entry]], known: Iterator[tuple[str, Known]]
) -> Iterator[tuple[str, Entry, Known]]:
    """Join a listing with the records of its files. Both are sorted by name."""
    nothing: Known = {}
    of, what = next(known, ("", nothing))
    for name, entry in listing:
        while of and of < name:
            of, what = next(known, ("", nothing))
        yield name, entry, (what if of == name else nothing)


def plan(source: str, target: str, work: Work, exclude: tuple[str, ...] = ()) -> Plan:
    """Prepare a run, without listing the whole source.

    Args:
        source: a folder, file, glob or URL.
        target: a folder or URL.
        work: what to do with each image.
        exclude: see `car.files.places.Source`.

    Raises:
        UsageError: the source holds no image, or the request makes no sense.
        StorageError: the source cannot be listed.
    """
    if work.kind not in get_args(Kind):
        raise UsageError(f"no such kind of work: {work.kind!r}")
    label, weights = "", ""
    if work.kind != "upscale" or work.model is not None or work.wanted.scale is not None:
        options = Options(device="cpu", coding=work.coding)
        label = checked_label(work.wanted, work.model, options)
        # a size may need any of the default models
        scales = (LEAST, *range(2, MOST + 1)) if work.wanted.by_size else (work.wanted.scale,)
        codecs = [open_codec(work.model, scale, options) for scale in scales]
        if work.kind == "upscale" and work.model is None:  # what does not look like ours
            codecs.append(open_codec(default_model(codecs[0].native, coded=True), options=options))
        found = {codec.loaded.sha256 for codec in codecs}
        weights = " ".join(sorted(found))
    found = open_source(source, INPUT_SUFFIXES, exclude)
    inner = Place(target).below(found.place)
    # if the target lies below the source, its files are not part of the source
    found = replace(found, without=(MANIFEST, *((inner,) if inner else ())))
    # results from another source do not count as earlier results of this one
    determined = [work.settings(), weights, found.place.identity]
    digest = hashlib.sha256(json.dumps(determined).encode()).hexdigest()[:16]
    passed = Passed()
    if next(found.pictures(passed), None) is None:
        told = f"; {counted(passed.left_out)}" if passed.left_out else ""
        raise UsageError(passed.problems[0] if passed.problems else f"{source}: no pictures here{told}")
    work = replace(work, alone=bool(found.only))
    in_place = inner == ""
    return Plan(found, target, work, digest, work.naming(label, in_place=in_place), in_place)
