"""PSNR and SSIM as the super-resolution tables measure them ("paper protocol"), and of chroma.

Pictures are arrays ``[H, W, 3]`` or ``[B, H, W, 3]`` of RGB: uint8, or floating point in [0, 1]. PyTorch
tensors are accepted too: ``[3, H, W]`` or ``[B, 3, H, W]``, floating point. Round pictures to 8 bits before
you compare them. Luma and chroma are those of studio-swing BT.601 (offsets cancel in differences). `border`
pixels are left out on each side. SSIM uses the 11x11 Gaussian window of sigma 1.5 with
K = (0.01, 0.03) and L = 255 (Wang et al., "Image quality assessment: from error visibility to structural
similarity", IEEE TIP 13, 2004).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

LUMA_WEIGHTS = (65.738 / 255, 129.057 / 255, 25.064 / 255)
CHANNEL_WEIGHTS = {
    "luma": LUMA_WEIGHTS,
    "cb": (-37.797 / 255, -74.203 / 255, 112 / 255),
    "cr": (112 / 255, -93.786 / 255, -18.214 / 255),
}
PERFECT = 1e-6  # squared error, 60 dB; errors below it hardly count where decibels are mixed


@dataclass(frozen=True)
class Shares:
    """The shares of luma and chroma in what counts as restored well; RGB has the rest."""

    luma: float = 0.0
    chroma: float = 0.0

    @property
    def rgb(self) -> float:
        """The share of RGB."""
        return 1 - self.luma - self.chroma


SHARES = Shares(luma=0.4, chroma=0.2)
"""What `car_plus_x4` is trained for, and what effort improves."""

_LUMA_OFFSET = 16 / 255
_STRIP_PIXELS = 2**17  # float64 takes a multiple of what pictures do, and a strip stays in the cache
_WINDOW = 11

Channel = Literal["luma", "rgb", "cb", "cr"]
"""What PSNR is measured on; ``rgb``: over all three."""


def luma(image: Any) -> NDArray[np.float64]:
    """Return the BT.601 studio-swing luma ``[..., H, W]`` (16/255 to 235.86/255) of a picture."""
    return _unit(_pictures(image, image)[0]) @ np.array(LUMA_WEIGHTS) + _LUMA_OFFSET


def mean(values: Iterable[float]) -> float:
    """Return the mean of all values that are not NaN, or NaN."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def psnr(a: Any, b: Any, *, border: int = 0, on: Channel = "luma") -> float:
    """Return the peak signal-to-noise ratio in dB for a peak of 255; infinite if the pictures are equal.

    Args:
        a: a picture or a batch, see above.
        b: the same shape.
        border: pixels left out on each side (the scale, in the tables).
        on: luma as in the tables, all of RGB, or one of the chroma channels.

    Raises:
        ValueError: shapes differ, are not RGB, or nothing is left inside the border.
    """
    a, b = (_shaved(image, border) for image in _pictures(a, b))
    total, count = 0.0, 0
    for x, y in _strips(a, b):
        difference = _unit(x) - _unit(y)
        if on != "rgb":
            difference = difference @ np.array(CHANNEL_WEIGHTS[on])
        total, count = total + float(np.vdot(difference, difference)), count + difference.size
    return math.inf if total == 0 else -10 * math.log10(total / count)


def ssim(a: Any, b: Any, *, border: int = 0) -> float:
    """Return the mean structural similarity on luma, -1 to 1, over all full 11x11 windows.

    Raises:
        ValueError: as `psnr`, or fewer than 11 pixels a side are left inside the border.
    """
    a, b = (_shaved(image, border) for image in _pictures(a, b))
    if min(a.shape[-3:-1]) < _WINDOW:
        raise ValueError(f"SSIM needs 11x11 pixels inside the border, got {a.shape[-3:-1]}")
    total, count = 0.0, 0
    for x, y in _strips(a, b, more=_WINDOW - 1):
        similarity = _similarity(255 * luma(_unit(x)), 255 * luma(_unit(y)))
        total, count = total + float(similarity.sum()), count + similarity.size
    return total / count


def _similarity(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the SSIM of all full windows of luma ``[..., H, W]``, 0 to 255."""
    half = np.exp(-((np.arange(_WINDOW // 2 + 1) - _WINDOW // 2) ** 2) / (2 * 1.5**2))
    taps = half / (2 * half.sum() - half[-1])
    mean_x, mean_y, square, product = (windowed(image, taps) for image in (x, y, x * x + y * y, x * y))
    both, squares = mean_x * mean_y, mean_x**2 + mean_y**2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return ((2 * both + c1) * (2 * (product - both) + c2)) / ((squares + c1) * (square - squares + c2))


def windowed(image: NDArray[np.float64], taps: Sequence[float]) -> NDArray[np.float64]:
    """Return ``[..., H, W]`` under a symmetric, separable window, where it lies inside the image.

    `taps` are the first half of the window along an axis, the middle included.
    """
    for axis in (-2, -1):
        lines = np.moveaxis(image, axis, 0)
        reach = len(taps) - 1
        most = len(lines) - 2 * reach
        total = taps[reach] * lines[reach:][:most]
        for n in range(reach):
            total += taps[n] * (lines[n:][:most] + lines[2 * reach - n :][:most])
        image = np.moveaxis(total, 0, axis)
    return image


def _strips(
    a: NDArray[Any], b: NDArray[Any], *, more: int = 0
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield rows of both at a time; `more` are shared by one strip and the next."""
    height, width = a.shape[-3:-1]
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height - more, rows):
        part = slice(top, top + rows + more)
        yield a[..., part, :, :], b[..., part, :, :]


def _unit(image: NDArray[Any]) -> NDArray[np.float64]:
    """Return a picture in [0, 1]."""
    return image / 255 if image.dtype == np.uint8 else image.astype(np.float64, copy=False)


def _pictures(a: Any, b: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    if a.shape != b.shape:
        raise ValueError(f"pictures differ in shape: {tuple(a.shape)} and {tuple(b.shape)}")
    pair = _array(a), _array(b)
    for image in pair:
        known = image.dtype == np.uint8 or np.issubdtype(image.dtype, np.floating)
        if image.ndim not in (3, 4) or image.shape[-1] != 3 or not known:
            raise ValueError(f"expected RGB, uint8 or floating point, got {a.dtype} {tuple(a.shape)}")
    return pair


def _array(image: Any) -> NDArray[Any]:
    """Return a picture with its channels last."""
    if isinstance(image, np.ndarray):
        return image
    return np.moveaxis(image.detach().cpu().numpy(), -3, -1)  # a tensor, without an import of PyTorch


def _shaved(image: NDArray[Any], border: int) -> NDArray[Any]:
    height, width = image.shape[-3:-1]
    if border < 0 or 2 * border >= min(height, width):
        raise ValueError(f"a border of {border} leaves nothing of {(height, width)}")
    return image[..., border : height - border, border : width - border, :]
