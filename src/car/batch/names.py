"""Which files to work on and where each result goes."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from car.errors import ImageError, UsageError
from car.files.atomic import check_regular, check_writable, make_folder, unwritable
from car.files.places import (
    ALREADY_SMALL,
    FOREIGN,
    RESTORED_ONES,
    SMALL,
    Passed,
    counted,
    open_source,
    suffix_of,
)
from car.pictures.formats import INPUT_SUFFIXES
from car.pictures.header import Header
from car.pictures.info import read_header
from car.scaling import AlreadySmallError, Wanted

RESTORED = ".restored"
"""What the names of restored pictures end with that lie beside their small ones."""

_SHRUNK = re.compile(
    r"(.+)\.(?:x(?:1\.\d+|1[0-6](?:\.\d+)?|[2-9](?:\.\d+)?)|(?:width|height|size|megapixels)[\d.]+)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Naming:
    """Names of results: ``a/photo.jpg`` -> ``a/photo.x4.png`` (shrinking) -> ``a/photo.png`` (restoring).

    Attributes:
        suffix: of the results, with its dot.
        add: text before the suffix, such as ``.x4``.
        restores: whether an ending of the stem such as ``.x4`` is removed first.
        keeps: whether the suffix of the source stays: ``a/photo.jpg.x4.png``.
    """

    suffix: str
    add: str = ""
    restores: bool = False
    keeps: bool = False

    def __call__(self, name: str) -> str:
        """Return the name of the result, given that of the source."""
        return self.stem(name) + self.add + self.suffix

    def stem(self, name: str) -> str:
        """Return the common beginning of the names of a source, its result, and all its sources."""
        folder, slash, last = name.rpartition("/")
        before, dot, _ = last.rpartition(".")
        stem = before if before and dot and not self.keeps else last
        shrunk = _SHRUNK.fullmatch(stem) if self.restores else None
        return folder + slash + (shrunk[1] if shrunk else stem)


@dataclass(frozen=True)
class Job:
    """One input file and the file to write."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Images:
    """The pictures that the inputs of a command name.

    Attributes:
        names: of each file, below the folder that was named; in a stable order and without repeats.
        many: a folder, a glob or several inputs: one failure does not stop the others.
        left_out: the number of files of each kind that were left out.
        problems: a line for each folder that could not be read.
    """

    names: dict[Path, str]
    many: bool
    left_out: Counter[str]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """The jobs of a command, errors of inputs for which no job is possible, and how small results become."""

    jobs: tuple[Job, ...]
    problems: tuple[str, ...]
    many: bool
    left_out: Counter[str] = field(default_factory=Counter[str])
    wanted: Wanted = Wanted()


def find_images(inputs: Sequence[str], exclude: Sequence[str] = ()) -> Images:
    """Expand files, folders (recursively) and globs by the rule of `car.files.places`.

    Raises:
        UsageError: an input does not exist or a glob or folder holds no image.
        StorageError: a folder that was named cannot be read.
    """
    names: dict[Path, str] = {}
    passed = Passed()
    many = len(inputs) > 1
    for text in inputs:
        if "://" in text:
            raise UsageError(f"{text}: car bulk takes URLs, this takes files and folders")
        source = open_source(text, INPUT_SUFFIXES, tuple(exclude))
        many = many or not source.only
        found = {Path(source.place.url, name): name for name, _ in source.pictures(passed)}
        if not found:
            left = f"; {counted(passed.left_out)}" if passed.left_out else ""
            raise UsageError(passed.problems[0] if passed.problems else f"{text}: no pictures here{left}")
        for file, name in found.items():
            names.setdefault(file, name)
    return Images(names, many, passed.left_out, tuple(passed.problems))


def plan(
    inputs: Sequence[str],
    output: str | None,
    naming: Naming,
    exclude: Sequence[str] = (),
    *,
    foreign: bool = False,
    wanted: Wanted = Wanted(),
) -> Plan:
    """Pair every input image with its target.

    In a folder, only small pictures made by `car` are restored, and only other pictures are shrunk. Pictures
    that were restored from a small picture next to them are not shrunk. So one folder can be used for both.

    Args:
        inputs: files, folders and globs.
        output: a file (for one input), a folder (made where missing), or None: beside each input.
        naming: gives the target's name where `output` is not a file.
        exclude: patterns of names to leave out, see `car.files.places.Source`.
        foreign: whether to restore pictures without metadata too, unless they have a small picture made by
            `car` next to them.
        wanted: how small pictures become; in a folder, pictures that are too small for it are left out.

    Raises:
        UsageError: an input does not exist, no picture is left, or one output file is named for several
            inputs.
        StorageError: a folder that was named cannot be read.
    """
    images = find_images(inputs, exclude)
    if output is not None and not images.many and not means_folder(output):
        return Plan((Job(next(iter(images.names)), Path(output)),), (), images.many, wanted=wanted)
    if output is not None and images.many and not Path(output).is_dir() and output[-1:] not in ("/", os.sep):
        if Path(output).is_file():
            raise UsageError(f"{output} is a file; several inputs need a folder")
        if suffix_of(output) in INPUT_SUFFIXES:
            raise UsageError(f"{output} is the name of one picture; several inputs need a folder")
    if images.many:
        images = _sieved(images, naming, wanted, foreign=foreign)
    jobs: list[Job] = []
    problems = list(images.problems)
    taken: dict[Path, Path] = {}
    for source, name in images.names.items():
        target = source.with_name(naming(source.name)) if output is None else Path(output, naming(name))
        if target in taken:
            problems.append(f"{source}: {same_result(str(target), str(taken[target]), naming)}")
            continue
        taken[target] = source
        jobs.append(Job(source, target))
    # results of an earlier run that lie beside their sources are no sources themselves
    jobs = [job for job in jobs if job.source not in taken]
    return Plan(tuple(jobs), tuple(problems), images.many, images.left_out, wanted)


def belongs_to(name: str) -> tuple[str, str]:
    """Return the stem of the picture that `name` was made of, and what its name says that it is.

    That is "" for other pictures, which are their own.
    """
    stem = Naming("").stem(name)
    folder, slash, last = stem.rpartition("/")
    if shrunk := _SHRUNK.fullmatch(last):
        return folder + slash + shrunk[1], SMALL
    restored = stem.removesuffix(RESTORED)
    return restored, RESTORED_ONES if restored != stem else ""


def same_result(result: str, other: str, naming: Naming | None) -> str:
    """Say that a picture would have the same `result` as the picture `other`, and what to do."""
    remedy = "rename one of them, or --exclude it and name its result with --output"
    if naming and not (naming.keeps or naming.restores):
        remedy = "--keep-extension keeps them apart"
    return f"its result would be {result}, as that of {other}; {remedy}"


def _sieved(images: Images, naming: Naming, wanted: Wanted, *, foreign: bool) -> Images:
    """Leave out what is not to be shrunk or restored, as `plan` says."""
    plain, small = Naming(""), Naming("", restores=True)
    headers = {file: _header(file) for file in images.names}
    ours = {file for file, header in headers.items() if header and header.made_here}
    originals = {file.with_name(small.stem(file.name)) for file in ours}
    restored = {stem.with_name(stem.name + RESTORED) for stem in originals}

    def why_not(file: Path) -> str:
        stem = file.with_name(plain.stem(file.name))
        if not naming.restores:
            kind = SMALL if file in ours else RESTORED_ONES if stem in restored else ""
            header = headers[file]
            return kind or (too_small(header, wanted) if header else "")
        if file in ours or (foreign and not {file, stem} & (originals | restored)):
            return ""
        return FOREIGN

    kinds = {file: why_not(file) for file in images.names}
    left_out = images.left_out + Counter(kind for kind in kinds.values() if kind)
    names = {file: name for file, name in images.names.items() if not kinds[file]}
    if not names:
        work = "restore" if naming.restores else "shrink"
        raise UsageError(f"no pictures to {work} here; {counted(left_out)}")
    return replace(images, names=names, left_out=left_out)


def too_small(header: Header, wanted: Wanted) -> str:
    """Return `ALREADY_SMALL` if a picture is too small to become as small as wanted, else ""."""
    try:
        wanted.scale_of(header.size)
    except AlreadySmallError:
        return ALREADY_SMALL
    except UsageError:
        pass  # it is too large, which is told when it is worked on
    return ""


def _header(file: Path) -> Header | None:
    try:
        return read_header(file)
    except (ImageError, OSError):
        return None  # it is told of when it is worked on


def check_target(job: Job, overwrite: bool) -> None:
    """Refuse a target that is its own source, cannot be written or exists; make its folder.

    Args:
        job: source and target.
        overwrite: whether it may exist.

    Raises:
        ImageError: as described, or the folder cannot be made.
        WriteError: it cannot be written.
    """
    target = job.target
    if target_exists(job):
        if target.is_dir():
            raise ImageError(f"{target} is a folder")
        check_regular(target, str(target))  # that --overwrite replaces it would not be true
        if job.source.exists() and target.samefile(job.source):
            raise ImageError(f"{target}: source and target are the same file")
        if not overwrite:
            raise ImageError(f"{target} exists; --overwrite replaces it, --output names another")
    make_folder(target.parent, f"{target}: {target.parent}")
    check_writable(target)


def target_exists(job: Job) -> bool:
    """Return whether a file of the target's name exists.

    Raises:
        WriteError: there can be none of this name.
    """
    try:
        return job.target.exists()
    except OSError as error:
        raise unwritable(str(job.target), error) from error


def means_folder(output: str) -> bool:
    """Whether an output is a folder: it is one, ends with a slash, or has no suffix and does not exist.

    Raises:
        WriteError: there can be no file or folder of this name.
    """
    path = Path(output)
    try:
        return path.is_dir() or output.endswith(("/", os.sep)) or (not path.suffix and not path.exists())
    except OSError as error:
        raise unwritable(output, error) from error
