"""The coding of a lossy small file."""

import io
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

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
