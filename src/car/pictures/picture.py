"""A decoded picture, and the limits of decoding."""

from dataclasses import dataclass, replace

import numpy as np

from car.errors import ImageError
from car.pictures.depth import Pixels as Pixels
from car.pictures.depth import eight_bit
from car.pictures.metadata import LRInfo

DEFAULT_MAX_PIXELS = 400_000_000
"""Larger pictures are refused before they are decoded: a few bytes can claim billions of pixels."""
MAX_DECODED_BYTES = 8 * 2**30
"""Deep TIFFs whose samples take more bytes are refused before they are decoded.

A pixel may have 16 samples of 8 bytes. The limit admits every picture of 400 megapixels with up to four
samples of 32 bits.
"""

_BLOCK = 64  # rows that are compared at once


@dataclass(frozen=True)
class Picture:
    """A decoded picture, upright.

    Attributes:
        pixels: RGB ``[H, W, 3]``, uint8 or uint16; grey is repeated.
        alpha: ``[H, W]`` of the same dtype, or None.
        grey: whether its channels are equal, or those of its restored picture must be.
        icc: the RGB ICC profile of the pixels; None stands for sRGB.
        info: the metadata of a small picture.
        notes: notes for the user on how it was read.
        turned: the EXIF orientation, 1 to 8, that was applied to make it upright.
        damage: why `info` is None, if the metadata is damaged.
        lossy: whether its file is JPEG, AVIF or lossy WebP.
        fine: whether this lossy file lost little; see `car.pictures.formats.is_fine`.
        coarse: whether models for lossy files restore it better, whoever made it: a JPEG or WebP not `fine`.
            An AVIF loses less, and does not count (docs/research/thumbnails.md).
        exif: what a camera wrote into the file, see `car.pictures.exif.block`; it is never written.
        carried: the part of the EXIF block of its source that is written into its file.
    """

    pixels: Pixels
    alpha: Pixels | None
    grey: bool
    icc: bytes | None
    info: LRInfo | None
    notes: tuple[str, ...]
    turned: int = 1
    damage: str | None = None
    lossy: bool = False
    fine: bool = False
    coarse: bool = False
    exif: bytes = b""
    carried: bytes = b""

    @property
    def height(self) -> int:
        """Rows."""
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        """Columns."""
        return self.pixels.shape[1]

    def turn(self, orientation: int) -> "Picture":
        """Return the picture turned by this EXIF orientation, 1 to 8, as a viewer shows it."""
        alpha = None if self.alpha is None else upright(self.alpha[:, :, None], orientation)[:, :, 0]
        return replace(self, pixels=upright(self.pixels, orientation), alpha=alpha, turned=1)


def check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    """Raise `ImageError` if a picture has more than `max_pixels`."""
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: {width} x {height} pixels is over the limit of {max_pixels}; "
            "raise it with --max-pixels (max_pixels) if you trust the file"
        )


def measured_pixels(picture: Picture, name: str, least: int = 64, where: str = "") -> Pixels:
    """Return the pixels that tables measure: RGB ``[H, W, 3]``, uint8, H and W multiples of 8.

    Args:
        picture: right and bottom edges are cut off.
        name: for the message.
        least: smallest side.
        where: end of the message.

    Raises:
        ImageError: the picture is smaller.
    """
    height, width = picture.height // 8 * 8, picture.width // 8 * 8
    if min(height, width) < least:
        raise ImageError(f"{name}: {picture.width}x{picture.height} is too small to be measured{where}")
    return np.ascontiguousarray(eight_bit(picture.pixels[:height, :width]))


def upright(array: Pixels, orientation: int) -> Pixels:
    """Return ``[H, W, C]`` turned by this EXIF orientation, 1 to 8, as a viewer shows it."""
    # EXIF 2.3, tag 274: 5 to 8 swap the axes; the others are flips
    if orientation >= 5:
        array = array.transpose(1, 0, 2)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(array[::rows, ::columns])


def file_array(picture: Picture) -> Pixels:
    """Return ``[H, W]`` grey, or ``[H, W, C]``, as files hold it."""
    grey = picture.grey and picture.icc is None  # the profile is one for RGB
    channels = [picture.pixels[:, :, :1] if grey else picture.pixels]
    if picture.alpha is not None:
        channels.append(picture.alpha[:, :, None])
    array = np.concatenate(channels, axis=2) if len(channels) > 1 else channels[0]
    return np.ascontiguousarray(array[:, :, 0] if array.shape[2] == 1 else array)


def is_grey(pixels: Pixels) -> bool:
    """Return whether the three channels of ``[H, W, 3]`` are equal everywhere."""
    blocks = (
        pixels[top : top + _BLOCK] for top in range(0, len(pixels), _BLOCK)
    )  # most colours show at once
    return all(bool((block[:, :, :1] == block[:, :, 1:]).all()) for block in blocks)
