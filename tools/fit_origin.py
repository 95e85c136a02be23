"""Fit and check the limits by which `car` recognises a picture of `car_plus` that has no metadata.

    python tools/fit_origin.py --data photos/
    python tools/fit_origin.py --data photos/ --images 100 --fit

Use training photographs only. Each is shrunk by the shipped `car_plus`, and by other filters to ordinary
thumbnails. Half of the photographs, every second one, is for fitting, the other half for checking.
Prints, for each scale, limit and kind of small picture, how many are taken for pictures of `car_plus`.
With --fit, also prints the limit that would be chosen: the lowest one that at most one thumbnail in 100
exceeds.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from car.batch.names import find_images
from car.codec.choose import open_codec
from car.codec.codec import Codec
from car.codec.options import Options
from car.codec.origin import LIMITS, likeness
from car.weights import default_model

MISTAKES = 0.01
"""Share of thumbnails that may be taken for pictures of `car_plus`."""
FILTERS = {"Lanczos": "LANCZOS", "bicubic": "BICUBIC", "area": "BOX"}


def smalls(codec: Codec, photo: Image.Image) -> dict[str, NDArray[np.uint8]]:
    """Return the small pictures of a photograph, ``[h, w, 3]``, by what made them."""
    size = (photo.width // codec.native, photo.height // codec.native)
    made = {name: photo.resize(size, Image.Resampling[filter]) for name, filter in FILTERS.items()}
    made["Lanczos, sharpened"] = made["Lanczos"].filter(ImageFilter.UnsharpMask(0.8, 60, 0))
    return {"car_plus": codec.downscale_pixels(np.array(photo))} | {n: np.array(i) for n, i in made.items()}


def middle(path: Path, side: int) -> Image.Image:
    """Return the middle of a photograph, at most `side` pixels a side."""
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    width, height = (min(side, n) // 24 * 24 for n in rgb.size)
    left, top = (rgb.width - width) // 2, (rgb.height - height) // 2
    return rgb.crop((left, top, left + width, top + height))


def measured(codec: Codec, photos: list[Path], side: int) -> dict[str, NDArray[np.float64]]:
    """Return the likeness of every small picture of these photographs."""
    quick = open_codec(codec.loaded.name, options=Options(fast=True))  # as `car upscale` looks at a picture
    found: dict[str, list[float]] = {}
    for path in photos:
        for kind, pixels in smalls(codec, middle(path, side)).items():
            like = likeness(pixels, quick.upscale_pixels, quick.downscale_pixels)
            found.setdefault(kind, []).append(like)
    return {kind: np.array(values) for kind, values in found.items()}


def fitted(found: dict[str, NDArray[np.float64]]) -> float:
    """Return the lowest limit, of three decimals, above which at most `MISTAKES` of the thumbnails lie."""
    thumbnails = np.concatenate([values for kind, values in found.items() if kind != "car_plus"])
    limits = np.arange(900, 1000) / 1000
    return float(next((limit for limit in limits if (thumbnails > limit).mean() <= MISTAKES), limits[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, help="folders of training photographs")
    parser.add_argument("--images", type=int, default=40, help="number to use, evenly spread")
    parser.add_argument("--side", type=int, default=512, help="most pixels a side that are used of each")
    parser.add_argument("--fit", action="store_true", help="also print the limit that would be chosen")
    asked = parser.parse_args()
    every = list(find_images(asked.data).names)
    photos = [every[n * len(every) // asked.images] for n in range(min(asked.images, len(every)))]
    print(
        f"{len(photos)} photographs, at most {asked.side} pixels a side: those for fitting, then the others\n"
    )
    print("| scale | weights | limit | small picture | taken for `car_plus` | |")
    print("|---|---|---|---|---|---|")
    for scale, limit in LIMITS.items():
        codec = open_codec(default_model(scale))
        halves = [measured(codec, photos[start::2], asked.side) for start in (0, 1)]
        for name, value in (("", limit), *([(" (fitted)", fitted(halves[0]))] if asked.fit else [])):
            for kind in halves[0]:
                counts = (f"{(half[kind] > value).sum()} of {len(half[kind])}" for half in halves)
                print(
                    f"| {scale}x | `{codec.loaded.tag}` | {value}{name} | {kind} | {' | '.join(counts)} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
