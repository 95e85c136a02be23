"""Scales and sizes: how small a picture becomes, and which originals a small picture can have.

A scale has at most six decimals. So metadata, names of files and every program mean exactly the same number,
and all of them compute sizes with whole numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any

from car.errors import UsageError, whole_number

LEAST, MOST = 1.25, 16
"""The scales that pictures are shrunk by. Closer to 1, a small picture saves little."""

DEFAULT = 4
"""The scale if nothing is named: neither a scale nor a size nor a model."""

REACH = 1.02
"""A model serves scales up to this multiple of its own; docs/research/scales.md has the measurements."""

Scale = int | float
"""Original pixels for each small pixel along each axis."""

Size = tuple[int, int]
"""(width, height) in pixels."""

_PARTS = 10**6


class AlreadySmallError(UsageError):
    """A picture would have to be enlarged, or would hardly become smaller."""


def exact_scale(value: Any) -> Scale:
    """Return a scale with six decimals, as an integer if it is whole.

    Raises:
        UsageError: it is not a number from 1.25 to 16.

    >>> exact_scale(2.5), exact_scale(4.0)
    (2.5, 4)
    """
    if not _is_number(value) or not LEAST <= value <= MOST:
        raise UsageError(f"the scale must be a number from {LEAST} to {MOST}, got {value!r}")
    return _scale(_parts(float(value)))


def chosen_size(size: Any) -> Size:
    """Return (width, height), which may be any two integers in a row, such as an array.

    Raises:
        UsageError: it is something else.
    """
    try:
        width, height = (whole_number(side, "a side") for side in size)
    except (TypeError, ValueError, UsageError):
        raise UsageError(f"size must be (width, height) in pixels, got {size!r}") from None
    return width, height


def small_size(size: Size, scale: Scale) -> Size:
    """Return the size of the small picture of an original: ``ceil(size / scale)``.

    >>> small_size((1920, 1081), 2.5)
    (768, 433)
    """
    parts = _parts(scale)
    return -(-size[0] * _PARTS // parts), -(-size[1] * _PARTS // parts)


def full_size(size: Size, scale: Scale) -> Size:
    """Return the largest original that has a small picture of this size."""
    parts = _parts(scale)
    return size[0] * parts // _PARTS, size[1] * parts // _PARTS


def fits(size: Size, small: Size, scale: Scale) -> bool:
    """Return whether a picture of `size` may be the original of a small picture of size `small`."""
    return min(size) > 0 and small_size(size, scale) == small


def native_scale(scale: Scale, natives: Sequence[int]) -> int:
    """Return which of the scales that models have serves `scale`: the smallest that reaches so far.

    Between a model's own scale and `scale`, pictures are resampled. A model of a larger scale loses little by
    that, because the picture is first enlarged. For a model of a smaller scale, it first loses detail.

    >>> [native_scale(scale, (2, 4)) for scale in (1.5, 2, 3, 16)]
    [2, 2, 4, 4]
    """
    return min((n for n in natives if scale <= n * REACH), default=max(natives))


@dataclass(frozen=True)
class Wanted:
    """How small pictures are to become: by a scale, or by a size of the small picture.

    At most one value is given. A size never enlarges a picture.

    Attributes:
        scale: 1.25 to 16.
        width: of the small picture, pixels.
        height: of the small picture, pixels.
        size: the longer side of the small picture, pixels.
        megapixels: of the small picture, about.

    Raises:
        UsageError: a value is impossible, or more than one is given.

    >>> Wanted(size=1024).scale_of((2560, 1440))
    2.5
    """

    scale: float | None = field(
        default=None, metadata={"help": "Shrink by this number, 1.25 to 16.", "flags": ("--scale", "-s")}
    )
    width: int | None = field(default=None, metadata={"help": "Width of the small picture in pixels."})
    height: int | None = field(default=None, metadata={"help": "Height of the small picture in pixels."})
    size: int | None = field(
        default=None, metadata={"help": "Longer side of the small picture in pixels, such as 1024."}
    )
    megapixels: float | None = field(
        default=None, metadata={"help": "Millions of pixels of the small picture, such as 0.5."}
    )

    def __post_init__(self) -> None:
        given = {f.name: value for f in fields(Wanted) if (value := getattr(self, f.name)) is not None}
        if len(given) > 1:
            raise UsageError(f"give only one of {', '.join(given)}")
        for name, value in given.items():
            if name == "scale":
                value = exact_scale(value)
            elif not _is_number(value) or not 0 < value < math.inf:
                raise UsageError(f"{name} must be a positive number, got {value!r}")
            elif name != "megapixels":
                value = whole_number(value, name)
            object.__setattr__(self, name, value)

    @property
    def label(self) -> str:
        """What names of small pictures say, such as ``x2.5`` or ``width1024``; "" if nothing is given."""
        for f in fields(Wanted):
            if (value := getattr(self, f.name)) is not None:
                return f"{'x' if f.name == 'scale' else f.name}{value}"
        return ""

    @property
    def _told(self) -> str:
        return next(
            f"{f.name} {value}" for f in fields(Wanted) if (value := getattr(self, f.name)) is not None
        )

    @property
    def by_size(self) -> bool:
        """Whether the scale depends on the size of the picture."""
        return self.scale is None and bool(self.label)

    def scale_of(self, size: Size) -> Scale | None:
        """Return the scale for a picture of this size, or None if nothing is given.

        Raises:
            AlreadySmallError: the scale would be less than 1.25.
            UsageError: the scale would be more than 16.
        """
        if not self.by_size:
            return self.scale
        if self.megapixels is not None:
            parts = math.ceil(math.sqrt(size[0] * size[1] / self.megapixels / 10**6) * _PARTS)
        else:
            sides = {"width": size[0], "height": size[1], "size": max(size)}
            side, wanted = next((n, w) for name, n in sides.items() if (w := getattr(self, name)))
            parts = -(-side * _PARTS // wanted)  # rounded up: the small picture has no pixel more
            whole = -(-side // wanted)
            if -(-side // whole) == wanted:  # a whole scale gives the same size, and may need no resampling
                parts = whole * _PARTS
        if parts < _parts(LEAST):
            raise AlreadySmallError(
                f"a picture of {size[0]}x{size[1]} pixels is too small for {self._told}: "
                f"it would shrink by {parts / _PARTS:.4g}, and the least is {LEAST}: "
                f"at most {small_size(size, LEAST)[0]}x{small_size(size, LEAST)[1]} is possible"
            )
        if parts > _parts(MOST):
            raise UsageError(
                f"a picture of {size[0]}x{size[1]} pixels is too large for {self._told}: "
                f"it would shrink by {parts / _PARTS:.4g}, and the most is {MOST}: "
                f"at least {small_size(size, MOST)[0]}x{small_size(size, MOST)[1]} is possible"
            )
        return _scale(parts)


def scale_between(size: Size, small: Size) -> Scale | None:
    """Return the scale by which a picture of `size` becomes one of size `small`; None if there is none."""
    parts = max(_parts(LEAST), *(-(-n * _PARTS // m) for n, m in zip(size, small, strict=True)))
    for one in (-(-parts // _PARTS) * _PARTS, parts):  # a whole one may need no resampling
        if one <= _parts(MOST) and fits(size, small, _scale(one)):
            return _scale(one)
    return None


def _is_number(value: Any) -> bool:
    return type(value) is not bool and isinstance(value, Real)


def _parts(scale: Scale) -> int:
    return round(scale * _PARTS)


def _scale(parts: int) -> Scale:
    return parts // _PARTS if parts % _PARTS == 0 else parts / _PARTS
