"""CIEDE2000: the mean difference of colours as people see it.

G. Sharma, W. Wu, E. N. Dalal, "The CIEDE2000 color-difference formula: implementation notes, supplementary
test data, and mathematical observations", Color Research and Application 30(1), 2005. A difference of 1 is
just noticeable between two large areas side by side. Colours are those of sRGB under D65.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Lab = NDArray[np.float64]

_STRIP_PIXELS = 2**15
_TO_XYZ = np.array(  # IEC 61966-2-1; rows sum to the white of D65
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
)
_LEVELS = np.arange(256) / 255
_LIGHT = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4)


def ciede2000(a: NDArray[np.uint8], b: NDArray[np.uint8], *, border: int = 0) -> float:
    """Return the mean CIEDE2000 difference of two pictures; 0 if they are equal.

    Args:
        a: sRGB ``[H, W, 3]``, uint8.
        b: the same shape.
        border: pixels left out on each side.

    Raises:
        ValueError: the shapes differ, or nothing is left inside the border.

    >>> import numpy as np
    >>> grey = np.full((8, 8, 3), 128, np.uint8)
    >>> round(ciede2000(grey, grey + np.uint8(3)), 2)
    1.12
    """
    if a.shape != b.shape:
        raise ValueError(f"pictures differ in shape: {a.shape} and {b.shape}")
    height, width = a.shape[:2]
    a, b = (image[border : height - border, border : width - border] for image in (a, b))
    if not a.size:
        raise ValueError(f"a border of {border} leaves nothing of {(height, width)}")
    rows = max(1, _STRIP_PIXELS // a.shape[1])
    strips = ((a[top : top + rows], b[top : top + rows]) for top in range(0, len(a), rows))
    return float(sum(difference(lab(x), lab(y)).sum() for x, y in strips) / (a.size // 3))


def lab(rgb: NDArray[np.uint8]) -> Lab:
    """Return the CIELAB colours ``[..., 3]`` of sRGB ``[..., 3]`` uint8; L from 0 to 100."""
    ratio = _LIGHT[rgb] @ (_TO_XYZ / _TO_XYZ.sum(axis=1, keepdims=True)).T
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def difference(a: Lab, b: Lab) -> NDArray[np.float64]:
    """Return the CIEDE2000 differences ``[...]`` of CIELAB colours ``[..., 3]``."""
    (light_a, chroma_a, hue_a), (light_b, chroma_b, hue_b) = _adapted(a, b)
    light, chroma = (light_a + light_b) / 2, (chroma_a + chroma_b) / 2
    coloured = chroma_a * chroma_b > 0  # without chroma there is no hue
    turn = np.where(coloured, (hue_b - hue_a + 180) % 360 - 180, 0.0)  # the shorter way round
    # exactly half a turn goes the way that the paper defines
    turn = np.where((turn == -180) & (hue_b > hue_a), 180.0, turn)
    hue = np.where(coloured, hue_a + turn / 2, hue_a + hue_b) % 360
    sized = 2 * np.sqrt(chroma_a * chroma_b) * np.sin(np.radians(turn / 2))
    weight = 1 - 0.17 * _cos(hue - 30) + 0.24 * _cos(2 * hue)
    weight += 0.32 * _cos(3 * hue + 6) - 0.20 * _cos(4 * hue - 63)
    off_middle = (light - 50) ** 2
    of_light = (light_b - light_a) / (1 + 0.015 * off_middle / np.sqrt(20 + off_middle))
    of_chroma = (chroma_b - chroma_a) / (1 + 0.045 * chroma)
    of_hue = sized / (1 + 0.015 * chroma * weight)
    rotation = -np.sin(np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2)))) * 2 * _saturation(chroma)
    squared: Any = of_light**2 + of_chroma**2 + of_hue**2 + rotation * of_chroma * of_hue
    return np.sqrt(np.maximum(squared, 0))


def _adapted(*colours: Lab) -> list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]:
    """Return lightness, chroma and hue in degrees; the red-green axis of greyish colours is widened."""
    mean_chroma = sum(np.hypot(one[..., 1], one[..., 2]) for one in colours) / len(colours)
    widening = 1 + 0.5 * (1 - _saturation(mean_chroma))
    found: list[Any] = []
    for one in colours:
        red, yellow = widening * one[..., 1], one[..., 2]
        found.append((one[..., 0], np.hypot(red, yellow), np.degrees(np.arctan2(yellow, red)) % 360))
    return found


def _saturation(chroma: Any) -> NDArray[np.float64]:
    seventh = chroma**7
    return np.sqrt(seventh / (seventh + 25.0**7))


def _cos(degrees: Any) -> NDArray[np.float64]:
    return np.cos(np.radians(degrees))
