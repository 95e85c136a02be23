"""The samples of a file, and the picture made from them: depth, colours, alpha, orientation."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from car.errors import ImageError
from car.pictures.alpha import straight
from car.pictures.colour import Calibration, Convert, converter
from car.pictures.depth import Pixels, to_unsigned
from car.pictures.header import found_info
from car.pictures.picture import Picture, is_grey

_ENCODED = "floating-point colours taken for sRGB; if they are linear light, convert them to sRGB first"
COLOURS = {"GRAY": 1, "RGB": 3, "CMYK": 4, "LAB": 3, "YCbCr": 3, "HSV": 3}
"""Samples of a pixel, by kind."""


@dataclass
class Samples:
    """The description of the samples in a file.

    Attributes:
        kind: kind of colours, see `car.pictures.colour.converter`.
        icc: the profile in the file, if any.
        calibration: colour space that the format names without a profile.
        bits: bits of a sample in the file; 0 for all bits of its type.
        inverted: whether zero is white.
        associated: whether colours are stored multiplied by alpha.
        orientation: orientation by EXIF or TIFF; an invalid one counts as 1.
        texts: texts that may hold the metadata of a small picture.
        lossy: see `Picture`.
        fine: see `Picture`.
        coarse: see `Picture`.
        exif: see `Picture`.
        notes: notes for the user.
    """

    kind: str
    icc: Any = None
    calibration: Calibration | None = None
    bits: int = 0
    inverted: bool = False
    associated: bool = False
    orientation: Any = 1
    texts: tuple[Any, ...] = ()
    lossy: bool = False
    fine: bool = False
    coarse: bool = False
    exif: bytes = b""
    notes: list[str] = field(default_factory=list[str])
    _convert: Convert | None = None
    _profile: bytes | None = None

    @property
    def colours(self) -> int:
        """Samples a pixel without alpha."""
        return COLOURS[self.kind]

    @property
    def profile(self) -> bytes | None:
        """The RGB profile of the result; None means sRGB."""
        self._prepare()
        return self._profile

    def _prepare(self) -> Convert:
        if self._convert is None:
            self._convert, self._profile = converter(self.kind, self.icc, self.calibration, self.notes)
        return self._convert

    def rows(self, array: Pixels) -> tuple[Pixels, Pixels | None]:
        """Return RGB ``[n, W, 3]`` and alpha ``[n, W]`` or None of samples ``[n, W]`` or ``[n, W, C]``.

        Raises:
            ImageError: there are too few or too many channels, or values that do not fit 16 bit.
        """
        convert = self._prepare()
        kind = array.dtype.kind
        array = to_unsigned(array, self.notes, self.bits)
        if kind == "f" and self.kind == "RGB" and array.dtype == np.uint16 and self._profile is None:
            self.notes.append(_ENCODED)  # no tag of TIFF tells
        array = array.reshape(*array.shape[:2], -1)
        count = self.colours
        if array.shape[2] not in (count, count + 1):
            raise ImageError(
                f"{array.shape[2]} channels are too {'few' if array.shape[2] < count else 'many'}"
            )
        colour = array[:, :, :count]
        alpha = array[:, :, count] if array.shape[2] > count else None
        if self.inverted:
            colour = np.iinfo(colour.dtype).max - colour
        if alpha is not None and self.associated:
            colour = straight(colour, alpha)
        colour = convert(colour)
        if alpha is not None and alpha.dtype != colour.dtype:  # the colours were reduced
            alpha = (alpha // 257).astype(colour.dtype)
        colour = np.repeat(colour, 3, axis=2) if colour.shape[2] == 1 else np.ascontiguousarray(colour)
        return colour, None if alpha is None else np.ascontiguousarray(alpha)

    def picture(self, array: Pixels) -> Picture:
        """Return the upright picture of samples ``[H, W]`` or ``[H, W, C]`` of any type.

        Raises:
            ImageError: see `rows`.
        """
        colour, alpha = self.rows(array)
        turned = self.orientation if self.orientation in range(1, 9) else 1
        info, damage = found_info(self.texts)
        notes = (*self.notes, damage) if damage else tuple(self.notes)
        picture = Picture(
            colour,
            alpha,
            is_grey(colour),
            self.profile,
            info,
            tuple(dict.fromkeys(notes)),
            1,
            damage,
            self.lossy,
            self.fine,
            self.coarse,
            self.exif,
        )
        return replace(picture.turn(turned), turned=turned)
