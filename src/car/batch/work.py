"""What a run does with each image, as data."""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

from car.batch.names import RESTORED, Naming, too_small
from car.batch.records import Record
from car.codec.coding import Coding, coding_of
from car.codec.options import Options
from car.files.places import FOREIGN, SMALL
from car.files.storage import Entry
from car.pictures.header import Header
from car.scaling import Wanted
from car.weights import ModelName

Kind = Literal["downscale", "upscale", "evaluate"]


@dataclass(frozen=True)
class Work:
    """What to do with each image; the same for a whole run.

    Attributes:
        wanted: how small pictures become; when restoring, the scale of those without metadata.
        keep_extension: names of small pictures keep the suffix of their source, as ``photo.jpg.x4.png``.
        alone: the user named one picture, which is worked on whatever it is; see `left_out`.
    """

    kind: Kind
    wanted: Wanted = Wanted()
    model: ModelName | None = None
    format: str = "png"
    quality: int | None = None
    psnr: bool = False
    overwrite: bool = False
    verify: bool = False
    keep_extension: bool = False
    alone: bool = False
    options: Options = Options(memory=2 * 10**9)

    @property
    def memory(self) -> int:
        """Bytes of memory that pictures in work may take together."""
        return self.options.memory or 2 * 10**9

    @property
    def coding(self) -> Coding | None:
        """The lossy coding of small pictures; None if they are lossless."""
        return coding_of(f"x.{self.format}", self.quality) if self.kind == "downscale" else None

    @cached_property
    def measures(self) -> bool:
        """Whether results are compared with their sources."""
        return self.kind == "evaluate" or self.psnr

    def left_out(self, header: Header) -> str:
        """Return why a picture among others is left out; "" if it is not.

        Args:
            header: of its file; small pictures have metadata.
        """
        if self.alone or self.kind == "evaluate":
            return ""
        if self.kind == "downscale":
            return SMALL if header.made_here else too_small(header, self.wanted)
        named = self.model is not None or self.wanted.scale is not None
        return "" if header.made_here or named else FOREIGN

    def naming(self, label: str, *, in_place: bool) -> Naming | None:
        """Return how results are named; None if none are written. In place, restored ones say so."""
        if self.kind == "downscale":
            return Naming(f".{self.format}", add=f".{label}", keeps=self.keep_extension)
        add = RESTORED if in_place else ""
        return Naming(f".{self.format}", add, restores=True) if self.kind == "upscale" else None

    def settings(self) -> dict[str, Any]:
        """Return the settings that determine the results.

        The backend is not one of them. It changes single values by one level, which is no reason to repeat a
        run.
        """
        names = ("kind", "format", "quality", "psnr")
        how = {name: getattr(self.options, name) for name in ("precision", "effort", "fast", "exif")}
        model = [str(part) for part in self.model] if isinstance(self.model, tuple) else self.model
        values = {name: getattr(self, name) for name in names} | how
        return values | {"model": model, "wanted": asdict(self.wanted)}


@dataclass(frozen=True)
class Item:
    """An image to work on.

    Attributes:
        name: its name, relative to the source.
        entry: size and stamp of its file.
        target: name of its result; empty if none is written.
        there: bytes of the file at its target, if an earlier run recorded that file.
        known: the record of an earlier run.
    """

    name: str
    entry: Entry
    target: str
    there: int | None
    known: Record | None

    def to_dict(self) -> dict[str, Any]:
        """Return the item as values for JSON."""
        known = self.known and self.known.to_dict()
        return self.__dict__ | {"entry": self.entry.__dict__, "known": known}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Item":
        """Return the item from the values that `to_dict` made."""
        name, target, there = values["name"], values["target"], values["there"]
        known = Record.from_dict(values["known"]) if values["known"] else None
        return cls(name, Entry(**values["entry"]), target, there, known)
