"""What restored pictures lose when small files were changed on the way, but kept their metadata.

Luma PSNR of what is restored, against the part of the original that belongs to it; means over images.
"""

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from car.codec.choose import open_codec
from car.codec.codec import Codec
from car.metrics import psnr
from car.pictures.metadata import LRInfo
from car.pictures.picture import Picture, measured_pixels
from car.pictures.read import decode, from_pil
from car.pictures.write import encode
from common import Results

PAGE = "rate.md"

# pixels cut off at the top and at the left: no multiple of a coder's blocks
TOP, LEFT = 13, 5


def jpeg(pixels: Any, quality: int) -> Any:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as image:
        return np.asarray(image.convert("RGB"))


# name: (what happens to the small pixels, what to do to the original to compare with)
CHANGES: dict[str, tuple[Callable[[Any], Any], Callable[[Any, int], Any]]] = {
    "none": (lambda small: small, lambda hr, _: hr),
    "turned by 90 degrees": (np.rot90, lambda hr, _: np.rot90(hr)),
    "turned by 180 degrees": (lambda small: np.rot90(small, 2), lambda hr, _: np.rot90(hr, 2)),
    "mirrored": (np.fliplr, lambda hr, _: np.fliplr(hr)),
    "cropped": (lambda small: small[TOP:, LEFT:], lambda hr, s: hr[s * TOP :, s * LEFT :]),
    "saved again as JPEG, quality 90": (lambda small: jpeg(small, 90), lambda hr, _: hr),
    "saved again as JPEG, quality 70": (lambda small: jpeg(small, 70), lambda hr, _: hr),
}
# name: (model that shrinks, file, quality, model that restores)
WAYS = {
    "PNG, car_plus": ("car_plus", ".png", None, "car_plus"),
    "PNG, car_plus, restored by car_codec": ("car_plus", ".png", None, "car_codec"),
    "JPEG 75, car_codec": ("car_codec", ".jpg", 75, "car_codec"),
}


def decibels(codec: Codec, pixels: Any, info: LRInfo, hr: Any) -> float:
    small = Picture(np.ascontiguousarray(pixels), None, False, None, info, ())
    restored = codec.restore(small).pixels
    one, other = (
        torch.tensor(np.ascontiguousarray(p)).permute(2, 0, 1)[None].float() / 255 for p in (restored, hr)
    )
    return psnr(one, other, border=codec.scale)


def bicubic(pixels: Any, scale: int) -> Any:
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((image.width // scale, image.height // scale), Image.Resampling.BICUBIC))


def pictures_of(folder: Path, count: int) -> list[Any]:
    """Return `count` pictures spread over a folder, or all: RGB ``[H, W, 3]`` with sides that 8 divides."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    count = min(count, len(files))
    pictures: list[Any] = []
    for path in (files[n * len(files) // count] for n in range(count)):
        with Image.open(path) as image:
            pictures.append(measured_pixels(from_pil(image.convert("RGB")), path.name))
    return pictures


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=20)


def measure(options: argparse.Namespace) -> Results:
    pictures = pictures_of(options.data, options.images)
    rows: dict[str, dict[str, float]] = {}
    for scale in (2, 4):
        codecs = {family: open_codec(f"{family}_x{scale}") for family in ("car_plus", "car_codec")}
        for name, (shrinks, suffix, quality, restores) in WAYS.items():
            smalls: list[Any] = []
            for hr in pictures:
                small, info = codecs[shrinks].shrink(Picture(hr, None, False, None, None, ()))
                data, _ = encode(small, f"a{suffix}", info=info, quality=quality)
                smalls.append(decode(data, f"a{suffix}"))
            row: dict[str, float] = {}
            for change, (of_small, of_hr) in CHANGES.items():
                found = [
                    decibels(codecs[restores], of_small(small.pixels), small.info, of_hr(hr, scale))
                    for small, hr in zip(smalls, pictures, strict=True)
                ]
                row[change] = float(np.mean(found))
            rows[f"{scale}x, {name}"] = row
            print(f"{scale}x, {name}", row, flush=True)
        plain: dict[str, float] = {}
        for change, (of_small, of_hr) in CHANGES.items():
            found = []
            for hr in pictures:
                image = Image.fromarray(np.ascontiguousarray(of_small(bicubic(hr, scale))))
                size = (image.width * scale, image.height * scale)
                large = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
                one, other = (
                    torch.tensor(np.ascontiguousarray(p)).permute(2, 0, 1)[None].float() / 255
                    for p in (large, of_hr(hr, scale))
                )
                found.append(psnr(one, other, border=scale))
            plain[change] = float(np.mean(found))
        rows[f"{scale}x, bicubic, PNG"] = plain
        print(f"{scale}x, bicubic", plain, flush=True)
    return {"images": len(pictures), "rows": rows}


def table(results: Results) -> str:
    lines = ["| small file | " + " | ".join(CHANGES) + " |", "|---" * (len(CHANGES) + 1) + "|"]
    lines += [
        f"| {name} | " + " | ".join(f"{row[change]:.2f}" for change in CHANGES) + " |"
        for name, row in results["rows"].items()
    ]
    return "\n".join(lines)
