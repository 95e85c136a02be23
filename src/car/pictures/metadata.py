"""The metadata of a small picture: a line in PNG text, JPEG comments, EXIF and TIFF descriptions."""

import json
import re
from dataclasses import asdict, dataclass

from car.errors import ImageError
from car.scaling import Scale

MAX_METADATA_BYTES = 65_536
"""Longer metadata is not looked at."""

_MARK = "car:"


@dataclass(frozen=True)
class LRInfo:
    """The metadata of a small picture.

    Attributes:
        model: name of the model that made it.
        weights: leading hexadecimal digits (at least 8) of the SHA-256 of its weights, empty if unknown.
        scale: original pixels for each small pixel along each axis; it may differ from that of the model.
        size: (width, height) of the original.
        grey: whether the original was grey; the restored picture is then grey too.
    """

    model: str
    weights: str
    scale: Scale
    size: tuple[int, int]
    grey: bool = False

    def __post_init__(self) -> None:
        good = (
            re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", self.model)
            and re.fullmatch(r"([0-9a-f]{8,64})?", self.weights)
            and len(self.size) == 2
            and type(self.scale) in (int, float)
            and 1 <= self.scale <= 64
            and all(type(n) is int and 1 <= n < 2**31 for n in self.size)
            and type(self.grey) is bool
        )
        if not good:
            said = ", ".join(f"{name} = {value!r}" for name, value in asdict(self).items())
            raise ImageError(f"the metadata of the small picture is damaged: {said[:200]}")

    def to_text(self) -> str:
        """Return the text in the file, the same in all formats: ``car:`` and a JSON list of the values.

        It is short, because small files have few bytes.
        """
        values = [self.model, self.weights, self.scale, *self.size, *([True] if self.grey else [])]
        return _MARK + json.dumps(values, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str | bytes) -> "LRInfo | None":
        """Parse the result of `to_text`; return None for any other text.

        Raises:
            ImageError: the text is damaged.
        """
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        if not text.startswith(_MARK + "["):
            return None
        try:
            if len(text) > MAX_METADATA_BYTES:
                raise ImageError("the metadata of the small picture is too long")
            model, weights, scale, width, height, *grey = json.loads(text.removeprefix(_MARK).rstrip("\0"))
            return cls(model, weights, scale, (width, height), *grey)
        except (ValueError, TypeError, RecursionError) as error:
            raise ImageError("the metadata of the small picture is damaged") from error
