"""Round trips measured by the paper protocol, beside bicubic down + bicubic up."""

import io
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from car.codec.codec import Codec
from car.errors import ImageError, UsageError, did_you_mean
from car.metrics import psnr, ssim
from car.models import quantize
from car.ops import bicubic_downscale, bicubic_resize
from car.pictures.picture import Picture
from car.pictures.read import read

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
    """How one round trip fared.

    Attributes:
        psnr: of the restored image, dB, on luma, `scale` pixels shaved.
        ssim: likewise.
        psnr_rgb: over all channels.
        lr_psnr: of the LR against the bicubic LR, dB, on luma; infinite for bicubic itself.
        lr_psnr_rgb: likewise over all channels.
        lr_bytes: size of the LR as a PNG file, in bytes per HR pixel.
        downscale_seconds: time in the downscaler, all included.
        upscale_seconds: time in the upscaler, all included.
    """

    psnr: float
    ssim: float
    psnr_rgb: float
    lr_psnr: float
    lr_psnr_rgb: float
    lr_bytes: float
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
        UsageError: the name is not known or the folder is not there.
    """
    if name not in DATASETS:
        raise UsageError(f"no test set is called {name!r}{did_you_mean(name, DATASETS)}")
    folder = img_dir / DATASETS[name]
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is not there; {name} is expected as {DATASETS[name]}/ below the data folder"
        )
    return folder


def round_trip(codec: Codec, path: Path, **read_options: Any) -> RoundTrip:
    """Shrink and restore one image, crop included, and measure it by the paper protocol.

    The HR is read as 8-bit RGB and cropped at the top left to multiples of 8; LR and restored image are
    rounded to 8 bit; see `car.metrics` for the measures.

    Raises:
        ImageError: the image cannot be read or is too small to be measured.
    """
    return round_trip_of(codec, read(path, **read_options), str(path))


def round_trip_of(codec: Codec, picture: Picture, path: str) -> RoundTrip:
    """Do what `round_trip` does with a picture that was read; `path` is its name.

    Raises:
        ImageError: the image is too small to be measured.
    """
    pixels = picture.pixels
    if pixels.dtype != np.uint8:
        pixels = np.round(pixels / 257).astype(np.uint8)
    height, width = (n // 8 * 8 for n in pixels.shape[:2])
    scale = codec.scale
    if min(height, width) < 2 * scale + 11:
        raise ImageError(f"{path}: {picture.width}x{picture.height} is too small to be measured at {scale}x")
    hr = np.ascontiguousarray(pixels[:height, :width])

    start = time.perf_counter()
    lr = codec.downscale_pixels(hr)
    shrunk = time.perf_counter()
    restored = codec.upscale_pixels(lr)
    done = time.perf_counter()

    hr_tensor = _tensor(hr)
    bicubic_start = time.perf_counter()
    bicubic_lr = quantize(bicubic_downscale(hr_tensor, scale))
    bicubic_shrunk = time.perf_counter()
    bicubic_hr = quantize(bicubic_resize(bicubic_lr, (height, width)))
    bicubic_done = time.perf_counter()

    def quality(small: torch.Tensor, large: torch.Tensor, down: float, up: float) -> Quality:
        return Quality(
            psnr=psnr(large, hr_tensor, border=scale),
            ssim=ssim(large, hr_tensor, border=scale),
            psnr_rgb=psnr(large, hr_tensor, border=scale, on_luma=False),
            lr_psnr=psnr(small, bicubic_lr),
            lr_psnr_rgb=psnr(small, bicubic_lr, on_luma=False),
            lr_bytes=_png_bytes(_array(small)) / (height * width),
            downscale_seconds=down,
            upscale_seconds=up,
        )

    record = ImageRecord(
        name=PurePath(path).name,
        width=width,
        height=height,
        model=quality(_tensor(lr), _tensor(restored), shrunk - start, done - shrunk),
        bicubic=quality(
            bicubic_lr, bicubic_hr, bicubic_shrunk - bicubic_start, bicubic_done - bicubic_shrunk
        ),
    )
    return RoundTrip(hr, lr, restored, _array(bicubic_hr), record)


def mean_quality(qualities: Iterable[Quality]) -> Quality:
    """Return the field-wise mean over images, as the tables average."""
    rows = list(qualities)
    return Quality(
        **{f.name: math.fsum(getattr(q, f.name) for q in rows) / len(rows) for f in fields(Quality)}
    )


def summary(records: Sequence[ImageRecord], *, model: str, weights: str, scale: int) -> dict[str, Any]:
    """Return a JSON-ready record of a whole evaluation; None stands for an infinite PSNR."""
    return finite(
        {
            "model": model,
            "weights": weights,
            "scale": scale,
            "images": [asdict(record) for record in records],
            "mean": {
                "model": asdict(mean_quality(r.model for r in records)),
                "bicubic": asdict(mean_quality(r.bicubic for r in records)),
            }
            if records
            else None,
        }
    )


def _tensor(pixels: NDArray[np.uint8]) -> torch.Tensor:
    return torch.tensor(pixels).permute(2, 0, 1)[None].float().div(255)


def _array(image: torch.Tensor) -> NDArray[np.uint8]:
    return image[0].mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def _png_bytes(pixels: NDArray[np.uint8]) -> int:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.tell()


def finite(value: Any) -> Any:
    """Return nested dicts, lists and tuples as JSON takes them: None for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
