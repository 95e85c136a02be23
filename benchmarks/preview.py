"""Bytes for "a preview now, the full size later": small pictures that are restored beside the usual ways.

Every way ends with at least the luma PSNR that ours restores to, image by image. A progressive JPEG shows its
preview as soon as what has come, shrunk to the small picture's size, is as near the bicubic small picture as
ours is.
"""

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageFile

from car.codec.choose import open_codec
from car.codec.codec import Codec
from car.measure.rate import installed_coders
from car.metrics import psnr
from car.pictures.read import decode, from_pil
from car.pictures.write import encode
from common import ROOT, Results
from robust import pictures_of

PAGE = "rate.md"
THUMBNAIL = {"format": "JPEG", "quality": 75, "optimize": True}
# scale, model, suffix, quality: what ours are
OURS: list[tuple[int, str, str, int | None]] = [
    (4, "car_codec_x4", ".jpg", 75),
    (2, "car_codec_x2", ".jpg", 30),
    (2, "car_codec_x2", ".jpg", 50),
    (2, "car_codec_x2", ".jpg", 75),
    (2, "car_codec_x2", ".avif", 50),
    (2, "car_plus_x2", ".webp", None),
]
WAYS = ("thumbnail + JPEG", "thumbnail + AVIF", "progressive JPEG", "AVIF", "JPEG XL, not progressive")


def tensor(pixels: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(pixels)).permute(2, 0, 1)[None].float() / 255


def saved(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


def fewest(low: int, high: int, enough: Callable[[int], bool]) -> int:
    """Return the least number in (low, high] that is enough, if `high` is."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def full_size(hr: Image.Image, wanted: float, **options: Any) -> bytes:
    """Return the file of the lowest quality that has at least the PSNR that is wanted."""

    def enough(quality: int) -> bool:
        return psnr(tensor(opened(saved(hr, quality=quality, **options))), tensor(hr)) >= wanted

    return saved(hr, quality=fewest(0, 100, enough), **options)


def shown_after(data: bytes, small: Image.Image, wanted: float) -> int:
    """Return after how many bytes of a progressive JPEG a preview is as near `small` as is wanted."""

    def enough(length: int) -> bool:
        try:
            shrunk = opened(data[:length]).resize(small.size, Image.Resampling.BICUBIC)
        except OSError:  # not even a header
            return False
        return psnr(tensor(shrunk), tensor(small)) >= wanted

    return fewest(0, len(data), enough)


def one(hr: Image.Image, codec: Codec, suffix: str, quality: int | None) -> dict[str, Any]:
    """Return final PSNR, that of the preview, and for each way (bytes to the preview, bytes in all)."""
    small, info = codec.shrink(from_pil(hr))
    data, _ = encode(small, f"a{suffix}", info=info, quality=quality)
    back = decode(data, f"a{suffix}")
    final = psnr(tensor(codec.restore(back).pixels), tensor(hr))
    bicubic = hr.resize((small.width, small.height), Image.Resampling.BICUBIC)
    near = psnr(tensor(back.pixels), tensor(bicubic))
    thumbnail = len(saved(bicubic, **THUMBNAIL))
    jpeg = len(full_size(hr, final, format="JPEG", optimize=True))
    avif = len(full_size(hr, final, format="AVIF"))
    progressive = full_size(hr, final, format="JPEG", progressive=True, optimize=True)
    found: dict[str, Any] = {
        "final_db": final,
        "preview_db": near,
        "ours": (len(data), len(data)),
        "thumbnail + JPEG": (thumbnail, thumbnail + jpeg),
        "thumbnail + AVIF": (thumbnail, thumbnail + avif),
        "progressive JPEG": (shown_after(progressive, bicubic, near), len(progressive)),
        "AVIF": (avif, avif),
    }
    if "JXL" in installed_coders():
        # its writer makes plain files, and its reader shows nothing of one that is not all there
        jxl = len(full_size(hr, final, format="JXL"))
        found["JPEG XL, not progressive"] = (jxl, jxl)
    return found


def there(rows: list[dict[str, Any]]) -> list[str]:
    """Return the ways that were measured: JPEG XL is a plugin of Pillow's."""
    return [way for way in WAYS if all(way in row["bpp"] for row in rows)]


def plot(rows: list[dict[str, Any]], target: Path) -> None:
    figure: Any = Figure(figsize=(10, 4.5), layout="constrained")
    for axes, which, title in zip(
        figure.subplots(1, 2, sharey=True), (0, 1), ("until a preview", "in all"), strict=True
    ):
        for way in ("ours", *there(rows)):
            # lossless small pictures are another kind of thing; and points are of several kinds of file,
            # which no line joins
            points = sorted(
                (row["bpp"][way][which], row["final_db"])
                for row in rows
                if way in row["bpp"] and "lossless" not in row["ours"]
            )
            style = {"markersize": 8, "color": "black"} if way == "ours" else {"markersize": 5}
            axes.plot([p[0] for p in points], [p[1] for p in points], "o", label=way, **style)
        axes.set_xscale("log")
        axes.grid(alpha=0.3)
        axes.set_title(f"Bits per pixel {title}")
        axes.set_xlabel("bits per HR pixel")
    figure.axes[0].set_ylabel("final PSNR, luma, dB")
    figure.axes[1].legend(fontsize=8)
    figure.savefig(target, dpi=110)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=20)


def measure(options: argparse.Namespace) -> Results:
    pictures = [Image.fromarray(pixels) for pixels in pictures_of(options.data, options.images)]
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    rows: list[dict[str, Any]] = []
    for scale, model, suffix, quality in OURS:
        codec = open_codec(model)
        found = [one(picture, codec, suffix, quality) for picture in pictures]
        kind = suffix[1:].replace("jpg", "jpeg").upper()
        name = f"{scale}x, {kind}, " + (f"quality {quality}" if quality else "lossless")
        bits = {
            way: [
                float(
                    np.mean(
                        [8 * f[way][k] / (p.width * p.height) for f, p in zip(found, pictures, strict=True)]
                    )
                )
                for k in range(2)
            ]
            for way in ("ours", *WAYS)
            if way in found[0]
        }
        decibels = {k: float(np.mean([f[k] for f in found])) for k in ("final_db", "preview_db")}
        rows.append({"ours": name, **decibels, "bpp": bits})
        print(rows[-1], flush=True)
    plot(rows, ROOT / "docs" / "images" / "preview.png")
    return {"images": len(pictures), "rows": rows}


def table(results: Results) -> str:
    rows = results["rows"]
    heads = ("our small picture", "final, dB", "ours", *there(rows))
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        cells = [row["ours"], f"{row['final_db']:.2f}", f"{row['bpp']['ours'][1]:.3f}"]
        cells += ["{:.3f} / {:.3f}".format(*row["bpp"][way]) for way in there(rows)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
