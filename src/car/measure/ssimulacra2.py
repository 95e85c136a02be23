"""SSIMULACRA2: an estimate of how an observer would rate a picture next to its original.

SSIMULACRA 2.1 (Sneyers, Cloudinary, 2023) is structural similarity in the colour space of JPEG XL, at six
sizes. It measures ringing and blur separately, with weights that agree with observers, and also measures
colour. Scores differ from those of the authors' program by up to 0.2 below 80, and up to 0.7 above, because
that program computes in float32. The package for Python treats borders in another way, and differs by up to
4. Pictures under 121 pixels a side are too small for six sizes. For these, the program uses weights of other
sizes; here, each size keeps its own weights.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from car.metrics import windowed

_SIZES = 6
_C2 = 0.0009
_STRIP_PIXELS = 2**16
_BIAS = 0.0037930732552754493
_OPSIN = (
    (0.30, 0.622, 0.078),
    (0.23, 0.692, 0.078),
    (0.24342268924547819, 0.20476744424496821, 1 - 0.24342268924547819 - 0.20476744424496821),
)
# half of a Gaussian of sigma 1.5, approximated by three cosines as in the authors' program; then the middle
_TAPS = (0.00941436781, 0.0360111147, 0.109335373, 0.212928592, 0.264621105)
_REACH = len(_TAPS) - 1
# channel (X, Y, B), size, norm (1, 4), and of each: dissimilarity, ringing, blur
_WEIGHTS = (
    (
        ((0.0, 0.0007376606707406586, 0.0), (0.0, 0.0007793481682867309, 0.0)),
        (
            (0.0, 0.0004371155730107379, 0.0),
            (1.1041726426657346, 0.00066284834129271, 0.00015231632783718752),
        ),
        ((0.0, 0.0016406437456599754, 0.0), (1.8422455520539298, 11.441172603757666, 0.0)),
        ((0.0007989109436015163, 0.000176816438078653, 0.0), (1.8787594979546387, 10.94906990605142, 0.0)),
        (
            (0.0007289346991508072, 0.9677937080626833, 0.0),
            (0.00014003424285435884, 0.9981766977854967, 0.00031949755934435053),
        ),
        ((0.0004550992113792063, 0.0, 0.0), (0.0013648766163243398, 0.0, 0.0)),
    ),
    (
        ((0.0, 0.0, 0.0), (7.466890328078848, 0.0, 17.445833984131262)),
        ((0.0006235601634041466, 0.0, 0.0), (6.683678146179332, 0.00037724407979611296, 1.027889937768264)),
        ((225.20515300849274, 0.0, 0.0), (19.213238186143016, 0.0011401524586618361, 0.001237755635509985)),
        ((176.39317598450694, 0.0, 0.0), (24.43300999870476, 0.28520802612117757, 0.0004485436923833408)),
        ((0.0, 0.0, 0.0), (34.77906344483772, 44.835625328877896, 0.0)),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    ),
    (
        ((0.0, 0.0008680556573291698, 0.0), (0.0, 0.0, 0.0)),
        ((0.0, 0.0005313191874358747, 0.0), (0.00016533814161379112, 0.0, 0.0)),
        ((0.0, 0.0, 0.0), (0.0004179171803251336, 0.0017290828234722833, 0.0)),
        ((0.0020827005846636437, 0.0, 0.0), (8.826982764996862, 23.19243343998926, 0.0)),
        (
            (95.1080498811086, 0.9863978034400682, 0.9834382792465353),
            (0.0012286405048278493, 171.2667255897307, 0.9807858872435379),
        ),
        ((0.0, 0.0, 0.0), (0.0005130064588990679, 0.0, 0.00010854057858411537)),
    ),
)


def ssimulacra2(image: NDArray[np.uint8], original: NDArray[np.uint8]) -> float:
    """Return the score of ``[H, W, 3]`` against `original`: 100 for no error; it may be negative.

    90 is visually lossless, 70 high quality, 50 medium, 30 low.

    Raises:
        ValueError: the pictures differ in shape, are not RGB in uint8, or have fewer than 8 pixels a side.
    """
    if image.shape != original.shape or image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < 8:
        raise ValueError(f"SSIMULACRA2 compares RGB of 8x8 and more, got {image.shape} and {original.shape}")
    if image.dtype != np.uint8 or original.dtype != np.uint8:
        raise ValueError(f"SSIMULACRA2 compares uint8, got {image.dtype} and {original.dtype}")
    if np.array_equal(image, original):
        return 100.0
    levels = np.arange(256) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    total = 0.0
    pair = original, image
    for weights in np.moveaxis(np.array(_WEIGHTS), 1, 0):
        total += float((weights * _norms(*pair, linear)).sum())
        if min(pair[0].shape[:2]) < 8:
            break
        pair = tuple(_halved(one, linear) for one in pair)
    total *= 0.9562382616834844
    total = 2.326765642916932 * total - 0.020884521182843837 * total**2 + 6.248496625763138e-05 * total**3
    return 100 - 10 * max(total, 0.0) ** 0.6276336467831387


def _norms(original: NDArray[Any], image: NDArray[Any], linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each channel the 1- and 4-norm of dissimilarity, ringing and blur, ``[3, 2, 3]``."""
    sums = np.zeros((3, 2, 3))
    for a, b in zip(_strips(original, linear), _strips(image, linear), strict=True):
        mean_a, mean_b = _blurred(a), _blurred(b)
        product, squares = mean_a * mean_b, mean_a**2 + mean_b**2
        close = (2 * (_blurred(a * b) - product) + _C2) / (_blurred(a * a + b * b) - squares + _C2)
        inner = (..., slice(_REACH, -_REACH), slice(_REACH, -_REACH))
        edges = (1 + np.abs(b[inner] - mean_b)) / (1 + np.abs(a[inner] - mean_a)) - 1
        maps = (1 - (1 - (mean_a - mean_b) ** 2) * close, edges, -edges)
        for n, error in enumerate(maps):
            found = np.maximum(error, 0)
            sums[:, 0, n] += found.sum(axis=(1, 2))
            sums[:, 1, n] += (found**4).sum(axis=(1, 2))
    sums /= original.shape[0] * original.shape[1]
    sums[:, 1] **= 0.25
    return sums


def _strips(image: NDArray[Any], linear: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Yield rows of ``[H, W, 3]`` in XYB, ``[3, h, w]``, and what the blur needs around them."""
    height, width = image.shape[:2]
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        first, last = max(0, top - _REACH), min(height, bottom + _REACH)
        outside = (_REACH - top + first, _REACH - last + bottom)
        yield np.pad(_colours(image[first:last], linear), ((0, 0), outside, (_REACH, _REACH)))


def _colours(image: NDArray[Any], linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return XYB ``[3, H, W]`` of ``[H, W, 3]``, shifted to positive numbers."""
    mixed = np.moveaxis(_light(image, linear) @ np.array(_OPSIN).T, -1, 0) + _BIAS
    long, medium, short = np.cbrt(mixed) - np.cbrt(_BIAS)
    y = (long + medium) / 2
    return np.stack([7 * (long - medium) + 0.42, y + 0.01, short - y + 0.55])


def _light(image: NDArray[Any], linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return linear light of sRGB in uint8; values that are linear already stay."""
    return linear[image] if image.dtype == np.uint8 else image.astype(np.float64, copy=False)


def _halved(image: NDArray[Any], linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``[H, W, 3]`` in linear light at half the size, rounded up, edges repeated."""
    height, width = image.shape[:2]
    rows = 2 * max(1, _STRIP_PIXELS // width)
    parts: list[NDArray[np.float64]] = []
    for top in range(0, height, rows):
        part = _light(image[top : top + rows], linear)
        part = np.pad(part, ((0, len(part) % 2), (0, width % 2), (0, 0)), mode="edge")
        parts.append((part[::2, ::2] + part[1::2, ::2] + part[::2, 1::2] + part[1::2, 1::2]) / 4)
    return np.concatenate(parts)


def _blurred(image: NDArray[np.float64]) -> NDArray[np.float64]:
    return windowed(image, _TAPS)
