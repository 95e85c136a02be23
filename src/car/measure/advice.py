"""What the small files of a picture cost and keep, beside files of the picture at full size."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from car.codec.kinds import as_picture
from car.codec.options import Options
from car.errors import UsageError
from car.measure.trips import Setting, SmallFormat, Trial, Trips

ADVISED: tuple[float, ...] = (1.5, 2, 3, 4)
"""The scales of the small pictures, unless others are named."""

_SMALL: tuple[tuple[SmallFormat, int | None], ...] = (
    *((f, q) for f in ("avif", "webp", "jpg") for q in (50, 75)),
    ("webp", None),
    ("png", None),
)
_FULL: tuple[tuple[SmallFormat, int | None], ...] = (
    *((f, q) for f in ("avif", "webp", "jpg") for q in (25, 50, 75, 90)),
    ("webp", None),
    ("png", None),
)


@dataclass(frozen=True)
class Offer:
    """A way to keep a picture in fewer bytes.

    Attributes:
        scale: of the small picture; 1 for the picture itself in a file of another format.
        format: suffix of the file, without its dot.
        quality: 1 to 100; None is lossless.
        model: the model that shrinks and restores it; empty at full size.
        bytes: the size of the whole file, metadata included; of a large picture, mostly an estimate.
        psnr: PSNR of the restored picture on luma, dB; infinite if nothing is lost.
        psnr_rgb: likewise, over RGB.
        ssimulacra2: its SSIMULACRA2, 100 if nothing is lost; NaN under 8 pixels a side.
        front: whether no other offer has as few bytes and as high an SSIMULACRA2 (under 8 pixels a side: PSNR
            over RGB).
    """

    scale: float
    format: str
    quality: int | None
    model: str
    bytes: int
    psnr: float
    psnr_rgb: float
    ssimulacra2: float
    front: bool = False

    def beats(self, other: "Offer") -> bool:
        """Return whether it has as few bytes as `other` and is as good, and is not the same in both."""
        better = self._quality > other._quality
        return (better and self.bytes <= other.bytes) or (
            self._quality == other._quality and self.bytes < other.bytes
        )

    @property
    def _quality(self) -> float:
        return self.psnr_rgb if math.isnan(self.ssimulacra2) else self.ssimulacra2


def settings_of(scales: Sequence[float]) -> tuple[Setting, ...]:
    """Return the settings that `advise` compares."""
    small = (Setting(scale, *how) for scale in scales for how in _SMALL)
    return (*small, *(Setting(1, *how) for how in _FULL))


def advise(
    image: Any,
    *,
    scales: Sequence[float] = ADVISED,
    options: Options = Options(),
    on_trial: Callable[[Trial], None] = lambda _: None,
) -> tuple[Offer, ...]:
    """Return the sizes and the quality of small files of a picture, beside those of files at full size.

    Every file is made and restored. A picture of more than two megapixels is judged by four pieces of it.
    Most sizes of its files are estimated from those of the pieces.

    Args:
        image: a path, a PIL image or an array, as for `car.downscale`.
        scales: those of the small pictures.
        options: the settings.
        on_trial: called after each round trip.

    Returns:
        Offers by scale, format and quality; those at full size come last.

    Raises:
        UsageError: `image` is of another kind, or there is no model for a scale.
        ImageError: the file cannot be read.
        WeightsError: the weights cannot be loaded.

    >>> import numpy as np
    >>> offers = advise(np.zeros((64, 96, 3), np.uint8), scales=[2])
    >>> min(offers, key=lambda offer: offer.bytes).bytes < 500
    True
    """
    if options.effort or options.coding is not None:
        raise UsageError("advice takes no effort and no coding")
    trips = Trips(as_picture(image, options.max_pixels), options, on_trial)
    holding = trips.formats(("avif", "webp", "jpg", "png"))
    for format in holding:  # estimates of small files and of files at full size
        for scale in (sorted(scales)[len(scales) // 2], 1) if format != "png" else (1,):
            trips.calibrate(scale, format)
    found: list[Offer] = []
    for setting in settings_of(scales):
        if setting.format in holding:
            trial = trips.judge(setting)
            kept = trial.score.psnr, trial.score.psnr_rgb, trial.score.ssimulacra2
            found.append(
                Offer(setting.scale, setting.format, setting.quality, trial.model, trial.bytes, *kept)
            )
    return tuple(replace(one, front=not any(other.beats(one) for other in found)) for one in found)


def verdict(offers: Sequence[Offer]) -> str:
    """Return in a sentence or two which offers to use, and whether small pictures are among them."""
    small = [offer for offer in offers if offer.scale != 1]
    best = [offer for offer in small if offer.front]
    lossless = min(
        (o for o in offers if o.scale == 1 and o.quality is None), key=lambda o: o.bytes, default=None
    )
    told = ""
    if lossless is not None and any(lossless.beats(offer) for offer in small):
        beaten = sum(lossless.beats(offer) for offer in small)
        told = (
            f"As lossless {lossless.format} at full size, the picture has {lossless.bytes:,} bytes and loses "
            f"nothing: {beaten} of {len(small)} small pictures are larger. "
        )
    if not best:
        return told + "For every small picture, another file is smaller and better."
    return told + f"{len(best)} of {len(small)} small pictures are on the front."
