"""The coding of a lossy small file."""

import io
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from car.errors import UsageError, whole_number
from car.pictures.formats import coding_options, format_of, is_fine, is_lossy, made_for_loss

CoderName = Literal["JPEG", "WEBP", "AVIF"]


@dataclass(frozen=True)
class Coding:
    """A lossy coder as `car.pictures.write.write` uses it for small pictures.

    Attributes:
        coder: Pillow's name.
        quality: 1 to 100; None for the coder's default.
        tuned: whether to use the settings for small pictures of a model made for lossy files.
    """

    coder: CoderName
    quality: int | None
    tuned: bool = True

    def of(self, model: str) -> "Coding":
        """Return the same coding with the settings for small pictures of this model."""
        return replace(self, tuned=made_for_loss(model))

    @property
    def fine(self) -> bool:
        """Whether it loses so little that a model made for lossless files restores better."""
        return self.quality is not None and is_fine(self.coder, self.quality)

    @property
    def options(self) -> dict[str, Any]:
        """The options for Pillow."""
        return coding_options(self.coder, self.quality, restored=self.tuned)

    @property
    def subsampled(self) -> bool:
        """Whether colours have half the resolution (4:2:0)."""
        return self.options.get("subsampling", "4:2:0") == "4:2:0"


FileFormat = Literal["png", "webp", "jpg", "avif", "tiff"]
"""The formats that can carry the metadata of a small picture."""


@dataclass(frozen=True)
class Encoding:
    """The format and the quality of a file.

    Attributes:
        format: of the file.
        quality: 1 to 100, for jpg, webp and avif; WebP is lossless without it.

    Raises:
        UsageError: the format is unknown, or the quality impossible.
    """

    format: FileFormat = "png"
    quality: int | None = None

    def __post_init__(self) -> None:
        if self.format not in get_args(FileFormat):
            raise UsageError(f"format must be one of {', '.join(get_args(FileFormat))}, got {self.format!r}")
        if self.quality is None:
            return
        quality = whole_number(self.quality, "quality")
        if not 1 <= quality <= 100:
            raise UsageError(f"quality must be from 1 to 100, got {quality}")
        if not is_lossy(self.name, quality):
            raise UsageError(f"quality needs the format jpg, webp or avif; {self.format} is lossless")
        object.__setattr__(self, "quality", quality)

    @property
    def name(self) -> str:
        """A name of a file with the suffix of the format."""
        return f"picture.{self.format}"

    @property
    def kind(self) -> str:
        """The media type."""
        return f"image/{format_of(self.name).lower()}"

    @property
    def coding(self) -> Coding | None:
        """How a small picture is coded; None if the file is lossless."""
        return coding_of(self.name, self.quality)


def coding_of(name: str, quality: int | None) -> Coding | None:
    """Return the coding of a small file called `name` with this `quality`; None if it is lossless."""
    if not is_lossy(name, quality):
        return None
    kind = format_of(name)
    return Coding(next(coder for coder in get_args(CoderName) if coder == kind), quality)


def encoded(rgb: np.ndarray, coding: Coding) -> bytes:
    """Return the file of RGB ``[h, w, 3]`` uint8, as `pictures.write.write` makes it, without metadata."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, coding.coder, **coding.options)
    return buffer.getvalue()
