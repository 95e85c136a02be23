"""Models on test sets, as one HTML page: tables beside published rows, crops, error maps, timing."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from car.codec.codec import Codec
from car.measure import pages
from car.measure.comparison import most_telling_crop
from car.measure.evaluate import DATASETS, ImageRecord, RoundTrip, growth, mean_quality, told
from car.measure.pages import Crops
from car.metrics import LUMA_WEIGHTS
from car.scaling import Scale

_CROP = 192
_FULL_ERROR = 32  # levels of luma error at which an error map is white


@dataclass(frozen=True)
class Measured:
    """One model on one set of images.

    Attributes:
        model: its name in the tables.
        scale: HR pixels per LR pixel along each axis.
        parameters: of both networks.
        images: name of the set.
        records: one for each image.
        whole: whether all images of the set were measured, as for the published rows.
    """

    model: str
    scale: Scale
    parameters: int
    images: str
    records: tuple[ImageRecord, ...]
    whole: bool = True


def measured(codec: Codec, images: str, records: Sequence[ImageRecord], *, whole: bool = True) -> Measured:
    """Return `records` of `codec` on the set called `images`; see `Measured`."""
    known = codec.loaded
    return Measured(known.label, codec.scale, known.parameters, images, tuple(records), whole)


def published(scale: float) -> list[dict[str, Any]]:
    """Return the published rows for `scale`: system, parameters, and measures (as of `Quality`) by set."""
    rows = json.loads(resources.files("car.measure").joinpath("published.json").read_text(encoding="utf-8"))
    return [row for row in rows if row["scale"] == scale]


def body(found: Sequence[Measured], looks: Sequence[Crops], curves: Sequence[str], machine: str) -> list[str]:
    """Return the parts of the page; see `car.measure.pages`.

    Args:
        found: the measures of each model on each set.
        looks: crops to compare, see `crops`.
        curves: finished parts about rate and distortion; may be empty.
        machine: the machine on which the seconds were measured.
    """
    parts: list[str] = []
    for scale in sorted({one.scale for one in found}):
        at_scale = [one for one in found if one.scale == scale]
        known = _published_rows(at_scale, scale)
        told_apart = " Rows in bold type are measured here, the others are as published." if known else ""
        parts += [
            pages.heading(
                f"{scale}x: restored pictures", f"PSNR in dB / SSIM on luma, mean over images.{told_apart}"
            ),
            _results(at_scale, known),
            pages.heading(
                f"{scale}x: colour of restored pictures",
                "What luma does not show: PSNR in dB over RGB and of chroma, SSIMULACRA2 (90 is visually "
                "lossless, 70 high quality, 50 medium), and CIEDE2000, the mean difference of colours (0 is "
                "none, 1 just noticeable between two areas side by side).",
            ),
            _colour(at_scale),
            pages.heading(
                f"{scale}x: small pictures and time",
                "Compared with the bicubic small picture: PSNR in dB on luma and RGB, SSIMULACRA2, "
                "bytes as PNG and lossless WebP. Shrink and restore: megapixels (HR) a second, median over "
                f"pictures; {machine}.",
            ),
            _fidelity(at_scale),
        ]
    if looks:
        text = (
            "Choose what is on either side. An error map is black where luma is exact, and white from "
            f"{_FULL_ERROR} levels on."
        )
        parts += [pages.heading("To look at", text), *(pages.look(one, left=2, right=3) for one in looks)]
    parts += curves
    parts += [pages.heading("Each picture", "A click on a column's head sorts."), _each(found)]
    return parts


def _published_rows(found: Sequence[Measured], scale: Scale) -> list[tuple[str, ...]]:
    """Return the published rows that have a value for a set of which all images were measured."""
    sets = list(dict.fromkeys(one.images for one in found))
    comparable = {one.images for one in found if one.whole} & set(DATASETS)
    return [
        (
            row["system"],
            _millions(row["parameters"]),
            *(
                f"{row[n]['psnr']:.2f} / {told(row[n].get('ssim'), '.4f')}"
                if n in comparable & set(row)
                else ""
                for n in sets
            ),
        )
        for row in published(scale)
        if comparable & set(row)
    ]


def _results(found: Sequence[Measured], rows: Sequence[tuple[str, ...]]) -> str:
    sets = list(dict.fromkeys(one.images for one in found))
    heads = ("", "parameters", *sets)
    bold: list[tuple[str, ...]] = []
    for name in dict.fromkeys(one.model for one in found):
        own = {one.images: one for one in found if one.model == name}
        cells: list[str] = []
        for images in sets:
            if images in own:
                mean = mean_quality(r.model for r in own[images].records)
                cells.append(f"{mean.psnr:.2f} / {mean.ssim:.4f}")
            else:
                cells.append("")
        bold.append((name, _millions(next(iter(own.values())).parameters), *cells))
    return pages.table(heads, [*rows, *bold], bold=range(len(rows), len(rows) + len(bold)))


def _colour(found: Sequence[Measured]) -> str:
    """Return the measures of colour, each model next to bicubic."""
    heads = ("", "pictures", "RGB", "Cb", "Cr", "SSIMULACRA2", "CIEDE2000")
    fields = {"psnr_rgb": ".2f", "psnr_cb": ".2f", "psnr_cr": ".2f", "ssimulacra2": ".1f", "ciede2000": ".2f"}
    rows: list[tuple[str, ...]] = []
    for images in dict.fromkeys(one.images for one in found):
        own = [one for one in found if one.images == images]
        means = [("bicubic", mean_quality(r.bicubic for r in own[0].records))]
        means += [(one.model, mean_quality(r.model for r in one.records)) for one in own]
        for name, mean in means:
            cells = (told(getattr(mean, field), form) for field, form in fields.items())
            rows.append((name, images, *cells))
    return pages.table(heads, rows, bold=[n for n, row in enumerate(rows) if row[0] != "bicubic"])


def _fidelity(found: Sequence[Measured]) -> str:
    heads = ("", "pictures", "luma", "RGB", "SSIMULACRA2", "PNG bytes", "WebP bytes", "shrink", "restore")
    rows: list[tuple[str, ...]] = []
    for one in found:
        ours = mean_quality(r.model for r in one.records)
        megapixels = [(r.width * r.height / 1e6, r.model) for r in one.records]
        down = median(size / m.downscale_seconds for size, m in megapixels)
        up = median(size / m.upscale_seconds for size, m in megapixels)
        near = (ours.lr_psnr, ours.lr_psnr_rgb, ours.lr_ssimulacra2)
        larger = (f"{growth(one.records, field):+.1f} %" for field in ("lr_png", "lr_webp"))
        rows.append(
            (one.model, one.images, *(told(n, ".1f") for n in near), *larger, f"{down:.2f}", f"{up:.2f}")
        )
    return pages.table(heads, rows)


def _each(found: Sequence[Measured]) -> str:
    heads = (
        *("picture", "set", "model", "size", "PSNR", "SSIM", "above bicubic, dB", "RGB", "above bicubic, dB"),
        *("SSIMULACRA2", "bicubic's", "small, luma"),
    )
    rows = [
        (
            *(r.name, one.images, one.model, f"{r.width}x{r.height}"),
            f"{r.model.psnr:.2f}",
            f"{r.model.ssim:.4f}",
            f"{r.model.psnr - r.bicubic.psnr:+.2f}",
            f"{r.model.psnr_rgb:.2f}",
            f"{r.model.psnr_rgb - r.bicubic.psnr_rgb:+.2f}",
            told(r.model.ssimulacra2, ".1f"),
            told(r.bicubic.ssimulacra2, ".1f"),
            f"{r.model.lr_psnr:.1f}",
        )
        for one in found
        for r in one.records
    ]
    return pages.table(heads, rows, sortable=True)


def crops(name: str, trips: Sequence[tuple[str, RoundTrip]]) -> Crops:
    """Return crops of one image for (model, round trip) pairs of one scale, where the models differ most."""
    first = trips[0][1]
    side = min(_CROP, *first.hr.shape[:2])
    scale = first.hr.shape[0] // first.lr.shape[0]
    top, left = (n // scale * scale for n in most_telling_crop(first.hr, first.restored, first.bicubic, side))
    side = side // scale * scale

    def cut(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return pixels[top : top + side, left : left + side]

    small = first.lr[top // scale : (top + side) // scale, left // scale : (left + side) // scale]
    enlarged = np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.NEAREST))
    hr = cut(first.hr)
    rows = [("original", hr), (f"small picture of {trips[0][0]}, enlarged", enlarged)]
    rows.append((f"bicubic, {first.record.bicubic.psnr:.2f} dB", cut(first.bicubic)))
    rows += [(f"{model}, {trip.record.model.psnr:.2f} dB", cut(trip.restored)) for model, trip in trips]
    rows.append(("error of bicubic", error_map(cut(first.bicubic), hr)))
    rows += [(f"error of {model}", error_map(cut(trip.restored), hr)) for model, trip in trips]
    return Crops(f"{name}, {scale}x", tuple(rows))


def error_map(picture: NDArray[np.uint8], hr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the size of the luma error, ``[H, W, 3]``, from black over red and yellow to white."""
    weights = np.asarray(LUMA_WEIGHTS)
    error = np.abs((picture.astype(np.float64) - hr) @ weights) / _FULL_ERROR
    channels = [np.clip(3 * error - n, 0, 1) for n in range(3)]
    return np.round(255 * np.stack(channels, axis=2)).astype(np.uint8)


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.2f} M" if 0 < parameters < 10e6 else f"{parameters / 1e6:.0f} M"
