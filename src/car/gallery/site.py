"""The folder of a site: what in it is ours, and how that is replaced and removed without touching the rest."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from car.errors import CarError, ImageError, UsageError
from car.images import atomic_write, one_line_errors

MANIFEST = "gallery.json"

_VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_MAX_MANIFEST_BYTES = 2**28


@dataclass(frozen=True)
class Entry:
    """A picture of the site.

    Attributes:
        source: its file, relative to the folder of photographs, with forward slashes.
        sha256: of that file.
        settings: digest of all that determines the small picture, beside the source.
        anchor: names the picture in addresses, ``index.html#anchor``.
        file: the small picture, relative to the site.
        size: (width, height) of the small picture.
        full_size: (width, height) of the photograph, upright.
        bytes: of the small picture.
        source_bytes: of the photograph's file.
        copy: the full-size copy, relative to the site; empty where there is none.
    """

    source: str
    sha256: str
    settings: str
    anchor: str
    file: str
    size: tuple[int, int]
    full_size: tuple[int, int]
    bytes: int
    source_bytes: int
    copy: str = ""

    def __post_init__(self) -> None:
        numbers = (*self.size, *self.full_size, self.bytes, self.source_bytes)
        texts = (self.source, self.sha256, self.settings, self.anchor, self.file, self.copy)
        if not (
            all(type(number) is int and number > 0 for number in numbers)
            and all(isinstance(text, str) for text in texts)
            and len(self.size) == len(self.full_size) == 2
            and re.fullmatch(r"[a-z0-9-]+", self.anchor)
            and _is_inside(self.file)
            and (not self.copy or _is_inside(self.copy))
        ):
            raise ValueError(self.source)

    @property
    def files(self) -> tuple[str, ...]:
        """What of the site belongs to this picture."""
        return (self.file, self.copy) if self.copy else (self.file,)


class Site:
    """A folder in which files are ours only where ``gallery.json`` says so and their content has not changed.

    Attributes:
        entries: pictures by their source.
        made: SHA-256 of the files that were written, by path relative to the site.

    Args:
        root: the folder; made where missing.
        overwrite: other people's files may be replaced where ours must lie.

    Raises:
        UsageError: the folder holds something else than a site, or its record is damaged.
    """

    def __init__(self, root: Path, *, overwrite: bool) -> None:
        self.root, self.overwrite = root, overwrite
        self.entries: dict[str, Entry] = {}
        self.made: dict[str, str] = {}
        if root.exists() and not root.is_dir():
            raise UsageError(f"{root} is a file; a site needs a folder")
        record = root / MANIFEST
        if record.is_file():
            self._read(record)
        elif root.is_dir() and any(root.iterdir()) and not overwrite:
            raise UsageError(
                f"{root} is not empty and no gallery; name another folder, or write into it with --overwrite"
            )
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{root}: cannot make this folder ({error.strerror})") from error

    def _read(self, record: Path) -> None:
        try:
            if record.stat().st_size > _MAX_MANIFEST_BYTES:
                raise ValueError("it is too long")  # noqa: TRY301 - told like any other damage
            content = json.loads(record.read_bytes())
            if content["version"] != _VERSION:
                raise ValueError(f"version {content['version']!r} is unknown")  # noqa: TRY301
            made: dict[str, str] = content["made"]
            if not all(_is_inside(path) and isinstance(digest, str) for path, digest in made.items()):
                raise ValueError("a path leads elsewhere")  # noqa: TRY301
            for value in content["pictures"]:
                pair = {name: tuple(value[name]) for name in ("size", "full_size")}
                entry = Entry(**(value | pair))
                self.entries[entry.source] = entry
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            self.entries = {}
            if self.overwrite:
                return
            raise UsageError(
                f"{record}: not the record of a gallery, or damaged ({error}); --overwrite makes it anew"
            ) from error
        self.made = made

    def save(self) -> None:
        """Write the record.

        Raises:
            ImageError: it cannot be written.
        """
        pictures = [asdict(entry) for entry in self.entries.values()]
        content = {"version": _VERSION, "pictures": pictures, "made": dict(sorted(self.made.items()))}
        atomic_write(self.root / MANIFEST, (json.dumps(content, indent=1) + "\n").encode())

    def check(self, paths: Iterable[str]) -> None:
        """Make sure that files may be written; this is asked before any work is done.

        Raises:
            UsageError: another's file, or an altered one of ours, is where one of them must lie.
        """
        for path in paths:
            target = self._target(path)
            if not self.overwrite and target.exists() and self._digest(path) != self.made.get(path, ""):
                raise UsageError(
                    f"{target} was made or changed by others; move it away, or replace it with --overwrite"
                )

    def write(self, path: str, content: bytes) -> None:
        """Write a file of the site, or take it over where the same content lies there.

        Raises:
            ImageError: it cannot be written, or another's file lies there.
            UsageError: its folder is a link to elsewhere.
        """
        target, digest = self._target(path), hashlib.sha256(content).hexdigest()
        there = self._digest(path)
        if there != digest:
            if there and there != self.made.get(path) and not self.overwrite:
                raise ImageError(f"{target} exists and is another's; --overwrite replaces it")
            with one_line_errors(str(target), "cannot be written"):
                target.parent.mkdir(exist_ok=True)
                atomic_write(target, content)
        self.made[path] = digest

    def has(self, path: str) -> bool:
        """Whether a file of ours is there, unchanged."""
        return path in self.made and self._digest(path) == self.made[path]

    def remove_all_but(self, kept: Iterable[str]) -> tuple[int, list[str]]:
        """Remove what we made and is not among `kept`.

        Returns:
            How many files were removed, and those that others have changed: they stay and are no longer ours.
        """
        removed, foreign = 0, list[str]()
        for path in sorted(self.made.keys() - set(kept)):
            try:
                target = self._target(path)
            except CarError:
                continue  # its folder is no longer in the site
            there = self._digest(path)
            if there == self.made[path]:
                target.unlink(missing_ok=True)
                removed += 1
            elif there:
                foreign.append(str(target))
            del self.made[path]
        return removed, foreign

    def bytes_of(self, path: str) -> int:
        """Return the size of a file of the site."""
        return self._target(path).stat().st_size

    def _target(self, path: str) -> Path:
        target = self.root / path
        if not target.parent.resolve().is_relative_to(self.root.resolve()) or target.is_symlink():
            raise UsageError(f"{target} is a link, or below one, that leads out of the site; remove the link")
        return target

    def _digest(self, path: str) -> str:
        """Return the SHA-256 of what lies at a path, empty where nothing does."""
        try:
            return sha256_of(self.root / path)
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise ImageError(f"{self.root / path}: cannot be read ({error.strerror})") from error


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _is_inside(path: object) -> bool:
    return isinstance(path, str) and all(_NAME.fullmatch(part) for part in path.split("/"))
