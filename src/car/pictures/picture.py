"""A decoded picture: its value, and limits of what is decoded."""

import contextlib
from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np

from car.errors import ImageError
from car.pictures.depth import Pixels as Pixels
from car.pictures.metadata import LRInfo

DEFAULT_MAX_PIXELS = 400_000_000
"""Larger images are refused before they are decoded: a few bytes can claim billions of pixels."""
MAX_DECODED_BYTES = 8 * 2**30
"""Deep TIFFs whose samples take more are refused before they are decoded: each pixel may have 16 of 8 bytes.

Any picture of 400 megapixels with up to four samples of 32 bits is within it.
"""

_BLOCK = 64  # rows that are compared at once


@dataclass(frozen=True)
class Picture:
    """A decoded picture, upright.

    Attributes:
        pixels: RGB ``[H, W, 3]``, uint8 or uint16; grey is repeated.
        alpha: ``[H, W]`` of the same dtype, or None.
        grey: its channels are equal, however its file holds them, and so are those of what is restored.
        icc: the RGB ICC profile of the pixels; None stands for sRGB.
        info: what a small picture says about itself.
        notes: what the user should know about how it was read.
        turned: the EXIF orientation, 1 to 8, that was applied to make it upright.
        damage: what is wrong with what it says about itself, where `info` is None for that.
        lossy: the file that it was read from is JPEG, AVIF or lossy WebP.
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

    @property
    def height(self) -> int:
        """Rows."""
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        """Columns."""
        return self.pixels.shape[1]

    def turn(self, orientation: int) -> "Picture":
        """Return it as a reader shows it that finds this EXIF orientation, 1 to 8, in its file."""
        alpha = None if self.alpha is None else upright(self.alpha[:, :, None], orientation)[:, :, 0]
        return replace(self, pixels=upright(self.pixels, orientation), alpha=alpha, turned=1)


@contextlib.contextmanager
def one_line_errors(name: str, what: str) -> Generator[None, None, None]:
    """Turn whatever a decoder or the system raises into an `ImageError` of one line."""
    # decoders meet damaged files with almost any exception
    try:
        yield
    except ImageError as error:
        if str(error).startswith(name):
            raise
        raise ImageError(f"{name}: {error}") from error
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file") from error
    except MemoryError as error:
        raise ImageError(f"{name}: not enough memory") from error
    except Exception as error:
        reason = getattr(error, "strerror", None)
        if reason is None:  # not the system, but a decoder
            reason = " ".join(str(error).split()) or type(error).__name__
            what += ": it is damaged, or of a kind that is not supported" if what == "cannot be read" else ""
        raise ImageError(f"{name}: {what} ({reason[:200]})") from error


def check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    """Raise `ImageError` where a picture has more than `max_pixels`."""
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: {width} x {height} pixels is over the limit of {max_pixels}; "
            "raise it with --max-pixels (max_pixels) if you trust the file"
        )


def upright(array: Pixels, orientation: int) -> Pixels:
    """Return ``[H, W, C]`` as a reader shows it that finds this EXIF orientation, 1 to 8."""
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
