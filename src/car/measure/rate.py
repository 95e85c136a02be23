"""Bits and quality of codecs at full size, and of small pictures that are coded and restored.

Rates are bits per HR pixel of whole files, metadata included. For each setting, bits per pixel and decibels
are averaged over images. Bjontegaard's difference of rates compares these means (G. Bjontegaard, "Calculation
of average PSNR differences between RD-curves", VCEG-M33, 2001; here with Akima interpolation).
"""

import io
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from car.codec.codec import Codec
from car.errors import needs
from car.metrics import luma, mean, psnr, ssim
from car.pictures.formats import coding_options
from car.pictures.metadata import LRInfo
from car.pictures.picture import Picture, measured_pixels
from car.pictures.read import decode
from car.pictures.write import encode

QUALITIES: dict[str, tuple[int, ...]] = {
    "JPEG": (1, 3, 5, 10, 20, 30, 40, 50, 60, 75, 85, 92, 96),
    "WEBP": (1, 2, 3, 5, 10, 15, 30, 50, 65, 75, 85, 92, 97),
    "AVIF": (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95),
    "JXL": (10, 20, 30, 40, 50, 60, 70, 80, 90, 95),
}
"""All settings of each coder that are measured; JXL where pillow-jxl-plugin is installed."""
FEW: dict[str, tuple[int, ...]] = {
    "JPEG": (1, 5, 10, 20, 30, 50, 75, 92),
    "WEBP": (1, 5, 15, 30, 50, 75, 92),
    "AVIF": (1, 5, 10, 20, 30, 50, 70, 90),
    "JXL": (10, 20, 30, 50, 70, 90),
}
"""Those that are enough for a curve."""

LOSSLESS = ("PNG", "WEBP")
_SUFFIX = {"JPEG": ".jpg", "WEBP": ".webp", "AVIF": ".avif", "PNG": ".png", "JXL": ".jxl"}
_TUNED = ("JPEG", "AVIF")  # which our small pictures are coded as with settings of their own
_COMMON = 0.25  # share of a curve's PSNR that another must cover for a comparison
_MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


CLASSICAL = ("direct", "tuned", "bicubic")
"""Methods that are none of ours; see `Point`."""


@dataclass(frozen=True)
class Point:
    """One coded file of one image, and its measures.

    Attributes:
        image: name of the image.
        method: what made the small picture: ``bicubic`` or a model, with its weights if there are several.
            ``direct`` and ``tuned`` mean full size; ``tuned`` has the settings of our small pictures.
        scale: 1 at full size.
        coder: JPEG, WEBP, AVIF, JXL or PNG.
        quality: the coder's setting; 0 for lossless.
        bytes: size of the file, metadata included.
        bpp: bits per HR pixel.
        psnr: PSNR of the whole picture on luma, dB.
        psnr_rgb: PSNR over RGB, dB.
        ssim: SSIM on luma.
        ms_ssim: SSIM on luma over five scales; NaN for pictures under 176 pixels a side.
        encode_seconds: shrinking included, which is done once for all files of one small picture.
        decode_seconds: restoring included.
    """

    image: str
    method: str
    scale: int
    coder: str
    quality: int
    bytes: int
    bpp: float
    psnr: float
    psnr_rgb: float
    ssim: float
    ms_ssim: float
    encode_seconds: float
    decode_seconds: float


@dataclass(frozen=True)
class Curve:
    """Means over images, one value for each setting, in the order of the rate."""

    method: str
    scale: int
    coder: str
    qualities: tuple[int, ...]
    bpp: tuple[float, ...]
    psnr: tuple[float, ...]
    psnr_rgb: tuple[float, ...]
    ssim: tuple[float, ...]
    ms_ssim: tuple[float, ...]
    encode_seconds: tuple[float, ...]
    decode_seconds: tuple[float, ...]

    @property
    def line(self) -> list[tuple[float, float]]:
        """Its points (bpp, PSNR)."""
        return list(zip(self.bpp, self.psnr, strict=True))

    @property
    def name(self) -> str:
        """Its name in legends and tables."""
        if self.scale == 1:
            return self.coder if self.method == "direct" else f"{self.coder}, our settings"
        lossless = ", lossless" if self.qualities == (0,) else ""
        small = f"bicubic {self.scale}x" if self.method == "bicubic" else self.method
        return f"{small} + {self.coder}{lossless}"


@dataclass(frozen=True)
class Decoded:
    """A file and the pixels decoded from it, uint8 ``[H, W, 3]``."""

    point: Point
    pixels: NDArray[np.uint8]


def installed_coders() -> tuple[str, ...]:
    """Return the lossy coders that are installed; JPEG XL needs a plugin of Pillow."""
    try:
        import_module("pillow_jxl")  # registers itself
    except ImportError:
        return ("JPEG", "WEBP", "AVIF")
    return ("JPEG", "WEBP", "AVIF", "JXL")


Qualities = Mapping[str, Sequence[int]]
"""The settings of each coder that are measured."""


def settings_of(coders: Sequence[str], *, dense: bool = False) -> Qualities:
    """Return a few settings of these coders, or all of them."""
    return {coder: (QUALITIES if dense else FEW)[coder] for coder in coders}


def point_count(coded: int, scales: int, lossless: int, qualities: Qualities) -> int:
    """Return the number of points that `points` yields, given the numbers of models and of coded scales."""
    tuned = sum(len(row) for coder, row in qualities.items() if coder in _TUNED)
    lossy = (1 + scales + coded) * sum(len(row) for row in qualities.values())
    return lossy + tuned + lossless * len(LOSSLESS)


def points(
    picture: Picture,
    name: str,
    coded: Sequence[Codec],
    lossless: Sequence[Codec],
    *,
    qualities: Qualities,
    on_point: Callable[[], None] = lambda: None,
) -> Iterator[Decoded]:
    """Code a picture in every way, and yield the measures of each.

    Each model shrinks it once, for all its files.

    Args:
        picture: the original; it is cropped to multiples of 8, and used as 8-bit RGB.
        name: the name of its points.
        coded: models whose small pictures are coded by each lossy coder, and bicubic ones of the same scales.
        lossless: models whose small pictures are stored without loss.
        qualities: the lossy coders, see `installed_coders`, and their settings, see `settings_of`.
        on_point: called after each.

    Raises:
        ImageError: the picture is too small to be measured.
    """
    hr = measured_pixels(picture, name)
    for way in _ways(hr, coded, lossless, qualities):
        begin = time.perf_counter()
        data = way.make()
        made = time.perf_counter()
        pixels = way.back(data)
        done = time.perf_counter()
        on_point()
        where = (name, way.method, way.scale, way.coder, way.quality)
        size = (len(data), 8 * len(data) / (hr.shape[0] * hr.shape[1]))
        seconds = (way.shrink_seconds + made - begin, done - made)
        yield Decoded(Point(*where, *size, *_measured(hr, pixels), *seconds), pixels)


class _Way(NamedTuple):
    """A way to code a picture: the file that it makes, and what comes back from that."""

    method: str
    scale: int
    coder: str
    quality: int
    make: Callable[[], bytes]
    back: Callable[[bytes], NDArray[np.uint8]]
    shrink_seconds: float = 0.0


def _ways(
    hr: NDArray[np.uint8], coded: Sequence[Codec], lossless: Sequence[Codec], qualities: Qualities
) -> Iterator[_Way]:
    lossy = [(coder, quality) for coder, row in qualities.items() for quality in row]
    full, size = _plain(hr), (hr.shape[1], hr.shape[0])
    for coder, row in qualities.items():
        for method in ("direct", "tuned") if coder in _TUNED else ("direct",):
            for quality in row:
                make = partial(_file, full, coder, quality, restored=method == "tuned")
                yield _Way(method, 1, coder, quality, make, _pixels)

    def enlarge(data: bytes) -> NDArray[np.uint8]:
        return _resized(_pixels(data), size)

    for scale in sorted({codec.native for codec in coded}):
        begin = time.perf_counter()
        small = _plain(_resized(hr, (size[0] // scale, size[1] // scale)))
        seconds = time.perf_counter() - begin
        for coder, quality in lossy:
            yield _Way(
                "bicubic", scale, coder, quality, partial(_file, small, coder, quality), enlarge, seconds
            )
    weights = Counter(name for name, _ in {(c.loaded.name, c.loaded.sha256) for c in (*coded, *lossless)})
    stored = [(coder, 0) for coder in LOSSLESS]
    for codec, settings in [*((c, lossy) for c in coded), *((c, stored) for c in lossless)]:
        method = codec.loaded.label if weights[codec.loaded.name] > 1 else codec.loaded.name
        begin = time.perf_counter()
        ours, info = codec.shrink(full)
        seconds = time.perf_counter() - begin
        for coder, quality in settings:
            make = partial(_small_file, ours, info, coder, quality)
            yield _Way(method, codec.native, coder, quality, make, partial(_restored, codec, size), seconds)


def _plain(pixels: NDArray[np.uint8]) -> Picture:
    return Picture(pixels, None, False, None, None, ())


def _resized(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def _small_file(small: Picture, info: LRInfo, coder: str, quality: int) -> bytes:
    if coder == "JXL":  # Pillow's plugin takes no metadata: counted all the same
        return _file(small, coder, quality) + info.to_text().encode()
    return encode(small, f"a{_SUFFIX[coder]}", info=info, quality=quality or None)[0]


def _restored(codec: Codec, size: tuple[int, int], data: bytes) -> NDArray[np.uint8]:
    return codec.upscale_pixels(_pixels(data))[: size[1], : size[0]].astype(np.uint8)


def _file(picture: Picture, coder: str, quality: int, *, restored: bool = False) -> bytes:
    buffer = io.BytesIO()
    options = {"quality": quality} if coder == "JXL" else coding_options(coder, quality, restored=restored)
    Image.fromarray(picture.pixels).save(buffer, coder, **options)
    return buffer.getvalue()


def _pixels(data: bytes) -> NDArray[np.uint8]:
    if data[:2] == b"\xff\x0a" or data[4:8] == b"JXL ":
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    return decode(data, "small picture").pixels.astype(np.uint8)


def _measured(hr: NDArray[np.uint8], pixels: NDArray[np.uint8]) -> tuple[float, float, float, float]:
    return psnr(pixels, hr), psnr(pixels, hr, on="rgb"), ssim(pixels, hr), ms_ssim(pixels, hr)


def ms_ssim(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Return the multi-scale structural similarity of luma, over five scales; NaN under 176 pixels a side.

    Wang, Simoncelli, Bovik, "Multiscale structural similarity for image quality assessment", 2003, by
    torchmetrics.

    Args:
        a: ``[H, W, 3]`` uint8.
        b: the same shape.
    """
    if min(a.shape[:2]) < 176:
        return math.nan
    import torch
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    x, y = (torch.from_numpy(luma(image)).float()[None, None] * 255 for image in (a, b))
    found: Any = multiscale_structural_similarity_index_measure(
        x, y, data_range=255.0, betas=_MS_SSIM_WEIGHTS
    )
    return float(found)


def curves(found: Iterable[Point]) -> tuple[Curve, ...]:
    """Return the mean curves of points; every image must have every setting."""
    grouped: dict[tuple[str, int, str, bool], dict[int, list[Point]]] = {}
    for point in found:
        key = (point.method, point.scale, point.coder, point.quality == 0)
        grouped.setdefault(key, {}).setdefault(point.quality, []).append(point)
    names = [f.name for f in fields(Curve)][4:]
    made: list[Curve] = []
    for (method, scale, coder, _), by_quality in grouped.items():
        means = [(q, *(mean(getattr(p, n) for p in rows) for n in names)) for q, rows in by_quality.items()]
        means.sort(key=lambda row: row[1])
        made.append(Curve(method, scale, coder, *zip(*means, strict=True)))
    return tuple(made)


def hull(several: Sequence[Curve]) -> tuple[tuple[float, float], ...]:
    """Return (bpp, PSNR) of the best points of `several` at each rate, in the order of the rate."""
    return tuple(rising(sorted(point for curve in several for point in curve.line)))


def rising(curve: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points (bpp, PSNR) that are better than all points of a lower rate, in that order."""
    best: list[tuple[float, float]] = []
    for rate, quality in curve:
        if not best or quality > best[-1][1]:
            best.append((rate, quality))
    return best


def gain_at_equal_bytes(curve: Curve, anchor: Curve) -> tuple[float, ...]:
    """Return, for each setting, by how many dB `curve` is above `anchor` at the same bits per pixel.

    The anchor is interpolated linearly in the logarithm of the rate. Below its range,
    where `below` is true, the result is the difference from the smallest file of the anchor. A still smaller
    file would not have more decibels, so `curve` gains at least that much. NaN if nothing is known.
    """
    at = np.interp(np.log(curve.bpp), np.log(anchor.bpp), anchor.psnr, right=math.nan)
    gains = [float(ours - theirs) for ours, theirs in zip(curve.psnr, at, strict=True)]
    return tuple(
        math.nan if under and gain < 0 else gain
        for gain, under in zip(gains, below(curve, anchor), strict=True)
    )


def below(curve: Curve, anchor: Curve) -> tuple[bool, ...]:
    """Return, for each setting, whether all files of `anchor` are larger than that of `curve`."""
    return tuple(rate < min(anchor.bpp) for rate in curve.bpp)


def bd_rate(
    test: Sequence[tuple[float, float]],
    anchor: Sequence[tuple[float, float]],
    least: float = 0.0,
    most: float = math.inf,
) -> float:
    """Return how many more bits `test` needs than `anchor` for the same PSNR, in per cent.

    Args:
        test: (bpp, PSNR), in the order of the rate.
        anchor: likewise.
        least: rates below this are left out.
        most: rates above this are left out.

    Returns:
        The per cent, negative for fewer bits. NaN if fewer than four points remain, or less than a quarter of
        the range of PSNR is common to both.

    Raises:
        UsageError: bjontegaard is not installed.
    """
    try:
        import bjontegaard
    except ImportError as error:
        raise needs("this needs bjontegaard", "report") from error
    rows = [rising([(r, q) for r, q in curve if least <= r <= most]) for curve in (anchor, test)]
    if min(map(len, rows)) < 4:
        return math.nan
    common = min(rows[0][-1][1], rows[1][-1][1]) - max(rows[0][0][1], rows[1][0][1])
    if common < _COMMON * min(row[-1][1] - row[0][1] for row in rows):
        return math.nan
    (anchor_rate, anchor_psnr), (test_rate, test_psnr) = (np.asarray(curve).T for curve in rows)
    found: Any = bjontegaard.bd_rate(
        anchor_rate,
        anchor_psnr,
        test_rate,
        test_psnr,
        method="akima",
        require_matching_points=False,
        min_overlap=0,
    )
    return float(found)
