"""Which files of a folder, glob or bucket are pictures to work on: the one rule of all commands.

A picture is a regular file, or a link to one, whose name has the suffix of a picture. Hidden files and hidden
folders are left out, and so are links to folders, because they may lead back or out. A folder that cannot be
read is skipped and reported. A file that the user names is used, whatever its name.
"""

import glob
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache, cached_property
from pathlib import Path

from car.errors import UsageError
from car.files.storage import Entry, Found, Kind, Place

# what file managers, network disks and systems keep among the files of their users
_OF_SYSTEMS = frozenset(
    {"@eadir", "@recycle", "#recycle", "$recycle.bin", "__macosx", "lost+found", "system volume information"}
)
_HIDDEN_FILES, _HIDDEN_FOLDERS, _EXCLUDED, _OTHERS = (
    "hidden files",
    "hidden folders",
    "excluded",
    "other files",
)
SMALL, RESTORED_ONES, FOREIGN = "small pictures", "restored pictures", "pictures without metadata of car"
ALREADY_SMALL = "pictures too small to shrink so"
_KINDS = {
    Kind.LINKED_FOLDER: "links to folders",
    Kind.DEAD_LINK: "links that lead nowhere",
    Kind.SPECIAL: "pipes, sockets and devices",
}
_ONE = {
    _HIDDEN_FILES: "hidden file",
    _HIDDEN_FOLDERS: "hidden folder",
    _OTHERS: "other file",
    SMALL: "small picture",
    RESTORED_ONES: "restored picture",
    FOREIGN: "picture without metadata of car",
    ALREADY_SMALL: "picture too small to shrink so",
    _KINDS[Kind.LINKED_FOLDER]: "link to a folder",
    _KINDS[Kind.DEAD_LINK]: "link that leads nowhere",
    _KINDS[Kind.SPECIAL]: "pipe, socket or device",
}
_TOLD = 8  # kinds that one line names


@dataclass
class Passed:
    """What a listing skipped; complete after the end of the listing.

    Attributes:
        left_out: the number of files of each kind, such as "hidden files" or ".heic".
        problems: a line for each folder that could not be read.
        tell: called with the name and the kind of each file that the listing left out.
    """

    left_out: Counter[str] = field(default_factory=Counter[str])
    problems: list[str] = field(default_factory=list[str])
    tell: Callable[[str, str], None] = lambda name, kind: None


@dataclass(frozen=True)
class Source:
    """An input of the user: a place, and which of its files are pictures.

    Attributes:
        place: the folder or bucket.
        suffixes: of pictures, lower case, with their dot.
        pattern: the pattern of a glob, below the place.
        only: the name of a single file, if the user named one.
        exclude: patterns of names to leave out; a pattern with a slash applies to the whole name below the
            place.
        without: folders that belong to something else, and are not even counted.
    """

    place: Place
    suffixes: frozenset[str]
    pattern: str = "**"
    only: str = ""
    exclude: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def pictures(self, passed: Passed) -> Iterator[tuple[str, Entry]]:
        """Yield name and entry of each picture in the order of the names; add everything else to `passed`.

        Raises:
            StorageError: the place cannot be listed.
        """
        if self.only:
            entry = self.place.entry(self.only)
            if entry is not None:
                yield self.only, entry
            return
        for found in self.place.walk(self._enter):
            kind = self._kind(found)
            if found.kind is Kind.UNREADABLE:
                passed.problems.append(f"{self.place.path_of(found.name)}: cannot be read ({found.why})")
            elif kind:
                passed.left_out[kind] += 1
                passed.tell(found.name, kind)
            elif kind is not None and found.entry is not None:
                yield found.name, found.entry

    @cached_property
    def _leading(self) -> list[re.Pattern[str]]:
        """Patterns of the folders below which something may match."""
        parts = self.pattern.split("/")
        ends = range(1, len(parts) + (parts[-1] == "**"))
        return [_compiled("/".join(parts[:end])) for end in ends]

    @cached_property
    def _whole(self) -> re.Pattern[str] | None:
        return None if self.pattern == "**" else _compiled(self.pattern)

    def _enter(self, folder: str) -> bool:
        return self._folder_kind(folder) == ""

    def _folder_kind(self, folder: str) -> str | None:
        """Return why a folder is left out; "" if it is not, None if it is no part of the source."""
        if folder in self.without or (self._whole and not any(p.match(folder) for p in self._leading)):
            return None
        if is_hidden(folder):
            return _HIDDEN_FOLDERS
        return _EXCLUDED if self._is_excluded(folder) else ""

    def _kind(self, found: Found) -> str | None:
        """Return why a file or folder is left out; "" if it is not, None if it is no part of the source."""
        if found.kind in (Kind.FOLDER, Kind.LINKED_FOLDER):
            return self._folder_kind(found.name) or (
                None if self._folder_kind(found.name) is None else _KINDS.get(found.kind)
            )
        if self._whole and not self._whole.match(found.name):
            return None
        suffix = suffix_of(found.name)
        if is_hidden(found.name):
            return _HIDDEN_FILES if suffix in self.suffixes else None
        if self._is_excluded(found.name):
            return _EXCLUDED
        if suffix in self.suffixes:
            return _KINDS.get(found.kind, "")
        if found.kind is not Kind.FILE:
            return None
        return suffix if 1 < len(suffix) <= 8 and suffix[1:].isalnum() else _OTHERS

    def _is_excluded(self, name: str) -> bool:
        last = name.rpartition("/")[2]
        return any(
            _compiled(pattern).match(name) if "/" in pattern else fnmatchcase(last, pattern)
            for pattern in self.exclude
        )


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    from fsspec.utils import glob_translate  # takes a while to import, and most commands have no pattern

    return re.compile(glob_translate(pattern))


def open_source(text: str, suffixes: frozenset[str], exclude: tuple[str, ...] = ()) -> Source:
    """Return the source that a folder, file, glob or URL names.

    Args:
        text: as given by the user.
        suffixes: of pictures, lower case, with their dot.
        exclude: see `Source`.

    Raises:
        UsageError: no such file or folder exists.
        StorageError: the program cannot find out whether one exists.
    """
    if not text:
        raise UsageError("an input has an empty name")
    here = "://" not in text
    exclude = tuple(pattern.strip("/") for pattern in exclude)
    if glob.has_magic(text) and not (here and Path(text).exists()):
        root = re.split(r"[*?\[]", text, maxsplit=1)[0].rpartition("/")[0]
        if not here and root.endswith(":/"):
            raise UsageError(f"{text}: name the bucket without wildcards")
        place = Place(root or ("/" if text.startswith("/") else "."))
        return Source(place, suffixes, text[len(root) :].lstrip("/"), exclude=exclude)
    if here and Path(text).is_dir():
        return Source(Place(text), suffixes, exclude=exclude)
    if here and not Path(text).exists():
        raise UsageError(f"{text}: no such file or folder")
    if here:
        return Source(Place(str(Path(text).parent)), suffixes, only=Path(text).name)
    folder, _, last = text.rpartition("/")
    if suffix_of(last) in suffixes and not folder.endswith(":/"):
        place = Place(folder)
        if place.entry(last) is not None:  # one object
            return Source(place, suffixes, only=last)
    return Source(Place(text), suffixes, exclude=exclude)


def is_hidden(name: str) -> bool:
    """Return whether the last part of a name begins with a dot or is that of a folder of the system."""
    last = name.rpartition("/")[2]
    return last.startswith(".") or last.lower() in _OF_SYSTEMS


def suffix_of(name: str) -> str:
    """Return the suffix of a file's name, lower case, with its dot; "" if it has none."""
    stem, dot, suffix = name.rpartition("/")[2].rpartition(".")
    return f".{suffix.lower()}" if stem and dot else ""


def counted(left_out: Mapping[str, int]) -> str:
    """Return one line that counts what was left out, by kind: ``left out: 3 .heic, 1 hidden file``."""
    kinds = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    told = [f"{count} {_ONE.get(kind, kind) if count == 1 else kind}" for kind, count in kinds[:_TOLD]]
    rest = sum(count for _, count in kinds[_TOLD:])
    return "left out: " + ", ".join(told) + (f" and {rest} of other kinds" if rest else "")
