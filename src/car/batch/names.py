"""Which files to work on and where each result goes."""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from car.errors import ImageError, UsageError
from car.pictures.formats import is_supported_input


@dataclass(frozen=True)
class Job:
    """One input file and the file to write."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Plan:
    """What a command will do: jobs, and what is wrong with the inputs that cannot become one."""

    jobs: tuple[Job, ...]
    problems: tuple[str, ...]
    many: bool  # a folder or several inputs: one failure does not stop the others


def find_images(inputs: Sequence[str]) -> tuple[list[tuple[Path, Path]], bool]:
    """Expand files, folders (recursively) and globs into ``(file, path relative to its folder)`` pairs.

    Returns:
        The pairs, in a stable order and without repeats, and whether the request was for many files.

    Raises:
        UsageError: an input does not exist or a glob or folder holds no image.
    """
    pairs: dict[Path, Path] = {}
    many = len(inputs) > 1
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            many = True
            found = {
                Path(root, name): Path(root, name).relative_to(path)
                for root, _, names in os.walk(path, onerror=_cannot_be_read)
                for name in names
                if is_supported_input(Path(name)) and not name.startswith(".")
            }
            if not found:
                raise UsageError(f"{text}: no images in this folder")
        elif path.exists():
            found = {path: Path(path.name)}
        elif glob.has_magic(text):
            many = True
            matches = [Path(match) for match in glob.glob(text, recursive=True)]  # noqa: PTH207 - absolute patterns
            found = {match: Path(match.name) for match in matches if match.is_file()}
            if not found:
                raise UsageError(f"{text}: matches no file")
        else:
            raise UsageError(f"{text}: no such file or folder")
        for file in sorted(found):
            pairs.setdefault(file, found[file])
    return list(pairs.items()), many


def plan(inputs: Sequence[str], output: str | None, rename: "Renamer") -> Plan:
    """Pair every input image with its target.

    Args:
        inputs: files, folders and globs.
        output: a file (for one input), a folder (made where missing), or None: beside each input.
        rename: gives the target's file name where `output` is not a file.

    Raises:
        UsageError: an input does not exist, or one output file is named for several inputs.
    """
    pairs, many = find_images(inputs)
    if output is not None and not many and not means_folder(output):
        return Plan((Job(pairs[0][0], Path(output)),), (), many)
    if output is not None and many and Path(output).is_file():
        raise UsageError(f"{output} is a file; several inputs need a folder")
    jobs: list[Job] = []
    problems: list[str] = []
    taken: dict[Path, Path] = {}
    for source, relative in pairs:
        name = rename(relative.name)
        target = source.with_name(name) if output is None else Path(output) / relative.with_name(name)
        if target in taken:
            problems.append(f"{source}: its result would be {target}, as that of {taken[target]}")
            continue
        taken[target] = source
        jobs.append(Job(source, target))
    # results of an earlier run that lie beside their sources are no sources themselves
    return Plan(tuple(job for job in jobs if job.source not in taken), tuple(problems), many)


class Renamer:
    """Target names: ``photo.jpg`` -> ``photo.x4.png`` (shrinking) -> ``photo.png`` (restoring).

    Args:
        suffix: of the target file, with its dot.
        add: put before the suffix (``.x4``).
        remove: endings taken from the stem (``.x2``, ``.x4``).
        fallback: put before the suffix where no ending was removed and `remove` is not empty.
    """

    def __init__(self, suffix: str, *, add: str = "", remove: Sequence[str] = (), fallback: str = "") -> None:
        self.suffix, self.add, self.remove, self.fallback = suffix, add, tuple(remove), fallback

    def __call__(self, name: str) -> str:
        """Return the target's file name for the source's."""
        stem = Path(name).stem
        for ending in self.remove:
            if stem.endswith(ending) and len(stem) > len(ending):
                return stem[: -len(ending)] + self.add + self.suffix
        return stem + self.add + self.fallback + self.suffix


def check_target(job: Job, overwrite: bool) -> None:
    """Refuse a target that is its own source or, unless `overwrite`, exists; make its folder.

    Raises:
        ImageError: as described, or the folder cannot be made.
    """
    target = job.target
    if target.exists():
        if target.is_dir():
            raise ImageError(f"{target} is a folder")
        if job.source.exists() and target.samefile(job.source):
            raise ImageError(f"{target}: source and target are the same file")
        if not overwrite:
            raise ImageError(f"{target} exists; --overwrite replaces it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(f"{target.parent}: cannot make this folder ({error.strerror})") from error


def means_folder(output: str) -> bool:
    """Whether an output is a folder: it is one, ends with a slash, or has no suffix and does not exist."""
    path = Path(output)
    return path.is_dir() or output.endswith(("/", os.sep)) or (not path.suffix and not path.exists())


def _cannot_be_read(error: OSError) -> None:
    raise UsageError(f"{error.filename}: cannot be read ({error.strerror})")
