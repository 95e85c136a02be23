"""Round trips measured by the protocol of the papers, next to bicubic down + bicubic up."""

import io
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from car._version import __version__
from car.codec.codec import Codec
from car.errors import UsageError, did_you_mean
from car.measure.ciede2000 import ciede2000
from car.measure.ssimulacra2 import ssimulacra2
from car.metrics import mean, psnr, ssim
from car.pictures.picture import Picture, measured_pixels
from car.pictures.read import read
from car.pictures.resize import bicubic_resize
from car.scaling import Scale, small_size

DATASETS = {
    "Set5": "Set5",
    "Set14": "Set14",
    "BSDS100": "BSDS100",
    "Urban100": "Urban100",
    "DIV2KHR": "DIV2K/DIV2K_valid_HR",
}
"""Names of the usual test sets and where they lie below the data folder."""


@dataclass(frozen=True)
class Quality:
    """The measures of one round trip; NaN means not measured.

    Attributes:
        psnr: PSNR of the restored image on luma, dB, without a border of `scale` pixels, rounded up.
        ssim: SSIM, likewise.
        psnr_rgb: PSNR over RGB, likewise.
        psnr_cb: PSNR of Cb, likewise; NaN for a grey image, which has no colour to restore.
        psnr_cr: PSNR of Cr, likewise.
        ssimulacra2: score of the whole restored image, 100 for no error; see `car.measure.ssimulacra2`.
        ciede2000: mean difference of colours without the border; see `car.measure.ciede2000`.
        lr_psnr: PSNR of the small picture against the bicubic one on luma, dB; infinite for bicubic itself.
        lr_psnr_rgb: likewise, over RGB.
        lr_ssimulacra2: its score against the bicubic one; NaN also under 8 pixels a side.
        lr_png: size of the small picture as a PNG file, bytes.
        lr_webp: likewise as lossless WebP.
        downscale_seconds: time in the downscaler, all included.
        upscale_seconds: time in the upscaler, all included.
    """

    psnr: float
    ssim: float
    psnr_rgb: float
    psnr_cb: float
    psnr_cr: float
    ssimulacra2: float
    ciede2000: float
    lr_psnr: float
    lr_psnr_rgb: float
    lr_ssimulacra2: float
    lr_png: float
    lr_webp: float
    downscale_seconds: float
    upscale_seconds: float


@dataclass(frozen=True)
class ImageRecord:
    """One image: its size in pixels (after cropping) and both round trips."""

    name: str
    width: int
    height: int
    model: Quality
    bicubic: Quality

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested values; infinite PSNR (identical images) becomes None."""
        return finite(asdict(self))


@dataclass(frozen=True)
class RoundTrip:
    """The pictures of a round trip, uint8 ``[H, W, 3]``, and its record."""

    hr: NDArray[np.uint8]
    lr: NDArray[np.uint8]
    restored: NDArray[np.uint8]
    bicubic: NDArray[np.uint8]
    record: ImageRecord


def find_dataset(img_dir: Path, name: str) -> Path:
    """Return the folder of the test set `name` in the usual layout below `img_dir`.

    Raises:
        UsageError: the name is unknown or the folder does not exist.
    """
    if name not in DATASETS:
        raise UsageError(f"no test set is called {name!r}{did_you_mean(name, DATASETS)}")
    folder = img_dir / DATASETS[name]
    if not folder.is_dir():
        raise UsageError(
            f"{folder} does not exist; {name} is expected as {DATASETS[name]}/ below the data folder"
        )
    return folder


def round_trip(codec: Codec, path: Path, *, perceptual: bool = True, **read_options: Any) -> RoundTrip:
    """Shrink and restore one image, and measure it by the protocol of the papers.

    The original is read as 8-bit RGB. Its right and bottom edges are cropped, so that both sides are
    multiples of 8. The small and the restored picture are rounded to 8 bits. `car.metrics` describes the
    measures. Without `perceptual`, SSIMULACRA2 and CIEDE2000 are left out, which take two to four seconds for
    a megapixel.

    Raises:
        ImageError: the image cannot be read or is too small to be measured.
    """
    return round_trip_of(codec, read(path, **read_options), str(path), perceptual=perceptual)


def round_trip_of(codec: Codec, picture: Picture, path: str, *, perceptual: bool = True) -> RoundTrip:
    """Do the same as `round_trip` with a picture that has been read; `path` is its name.

    Raises:
        ImageError: the image is too small to be measured.
    """
    scale = codec.scale
    hr = measured_pixels(picture, path, 2 * math.ceil(scale) + 11, f" at {scale}x")
    if scale == codec.native:  # a cell that is not whole would be filled up, and no bicubic one is
        hr = np.ascontiguousarray(hr[: len(hr) // scale * scale, : hr.shape[1] // scale * scale])
    height, width = hr.shape[:2]
    columns, rows = small_size((width, height), scale)

    times = [time.perf_counter()]
    lr = codec.downscale_pixels(hr)
    times.append(time.perf_counter())
    restored = codec.upscale_pixels(lr, (width, height))
    times.append(time.perf_counter())
    bicubic_lr = bicubic(hr, (rows, columns))
    times.append(time.perf_counter())
    bicubic_hr = bicubic(bicubic_lr, (height, width))
    times.append(time.perf_counter())
    seconds = [after - before for before, after in pairwise(times)]

    record = ImageRecord(
        name=PurePath(path).name,
        width=width,
        height=height,
        model=quality(hr, lr, restored, bicubic_lr, seconds[:2], perceptual=perceptual),
        bicubic=quality(hr, bicubic_lr, bicubic_hr, bicubic_lr, seconds[2:], perceptual=perceptual),
    )
    return RoundTrip(hr, lr, restored, bicubic_hr, record)


def quality(
    hr: NDArray[np.uint8],
    lr: NDArray[np.uint8],
    restored: NDArray[np.uint8],
    bicubic_lr: NDArray[np.uint8],
    seconds: Sequence[float] = (math.nan, math.nan),
    *,
    perceptual: bool = True,
) -> Quality:
    """Measure a round trip; all pictures ``[H, W, 3]`` uint8.

    Args:
        hr: the original.
        lr: its small picture.
        restored: the picture restored from `lr`.
        bicubic_lr: the small picture with which `lr` is compared.
        seconds: the seconds of shrinking and of restoring.
        perceptual: whether SSIMULACRA2 and CIEDE2000 are measured.
    """
    scale = -(-hr.shape[0] // lr.shape[0])
    grey = bool((hr == hr[..., :1]).all())
    return Quality(
        psnr=psnr(restored, hr, border=scale),
        ssim=ssim(restored, hr, border=scale),
        psnr_rgb=psnr(restored, hr, border=scale, on="rgb"),
        psnr_cb=math.nan if grey else psnr(restored, hr, border=scale, on="cb"),
        psnr_cr=math.nan if grey else psnr(restored, hr, border=scale, on="cr"),
        ssimulacra2=ssimulacra2(restored, hr) if perceptual else math.nan,
        ciede2000=ciede2000(restored, hr, border=scale) if perceptual else math.nan,
        lr_psnr=psnr(lr, bicubic_lr),
        lr_psnr_rgb=psnr(lr, bicubic_lr, on="rgb"),
        lr_ssimulacra2=ssimulacra2(lr, bicubic_lr) if perceptual and min(lr.shape[:2]) >= 8 else math.nan,
        lr_png=_file_bytes(lr, "PNG", optimize=True),
        lr_webp=_file_bytes(lr, "WEBP", lossless=True),
        downscale_seconds=seconds[0],
        upscale_seconds=seconds[1],
    )


def bicubic(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize ``[H, W, 3]`` uint8 to ``(height, width)`` as the tables do it, rounded once, at the end."""
    return bicubic_resize(pixels.astype(np.float32), size).round().clip(0, 255).astype(np.uint8)


def mean_quality(qualities: Iterable[Quality]) -> Quality:
    """Return the mean of each field over images, as the tables do; values not measured are left out."""
    rows = list(qualities)
    return Quality(**{f.name: mean(getattr(q, f.name) for q in rows) for f in fields(Quality)})


def growth(records: Iterable[ImageRecord], field: str) -> float:
    """Return the excess of `field` (a size) of the model over bicubic's, in per cent, a mean over images."""
    return mean(100 * (getattr(r.model, field) / getattr(r.bicubic, field) - 1) for r in records)


def told(value: float | None, form: str) -> str:
    """Return a number for a table: "-" if it was not measured, is unknown or is infinite."""
    return "-" if value is None or not math.isfinite(value) else format(value, form)


def summary(records: Sequence[ImageRecord], *, model: str, weights: str, scale: Scale) -> dict[str, Any]:
    """Return a JSON-ready record of a whole evaluation.

    None means infinite or not measured. ``growth`` is the growth of sizes, in per cent.
    """
    means: dict[str, Any] | None = None
    if records:
        means = {
            side: asdict(mean_quality(getattr(r, side) for r in records)) for side in ("model", "bicubic")
        }
        means["growth"] = {field: growth(records, field) for field in ("lr_png", "lr_webp")}
    found = {"model": model, "weights": weights, "scale": scale, "version": __version__}
    return finite(found | {"mean": means, "images": [asdict(record) for record in records]})


def _file_bytes(pixels: NDArray[np.uint8], kind: str, **options: Any) -> int:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.tell()


def finite(value: Any) -> Any:
    """Return nested dicts, lists and tuples for JSON: None replaces numbers that are not finite."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
