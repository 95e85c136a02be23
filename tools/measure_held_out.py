"""Measure weights on the photographs that training holds out: what to decide by, while the test sets wait.

    python tools/measure_held_out.py car_plus_x2 runs/x2/model.safetensors --data photos/ --cache runs/cache

Four views of each: the middle 448 pixels; these as a camera would store them, a JPEG of quality 92 with
4:2:0; the middle 896 shrunk to half; the first in grey.
Prints means: of what is restored, PSNR on luma, RGB and chroma (the mean of Cb and Cr) and SSIMULACRA2; of
the small picture, PSNR on luma and RGB and SSIMULACRA2 to the bicubic one, and by how much its PNG and its
lossless WebP are larger. A row for bicubic stands first. With --plot, what is restored is drawn over what the
small picture pays for it, for the plain views.
"""

import argparse
import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from car.measure.evaluate import ImageRecord, Quality, bicubic, growth, mean_quality, quality
from car.models import Rescaler, quantize
from car.models.compact import Corrector
from car.train.data import load_store, split_held_out
from car.train.recipes import RECIPES
from car.weights import load


def middle(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    side = min(side, *image.shape[:2]) // 32 * 32
    top, left = ((n - side) // 2 for n in image.shape[:2])
    return np.array(image[top : top + side, left : left + side])


def views(image: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
    plain, large = middle(image, 448), Image.fromarray(middle(image, 896))
    luma = np.rint(plain @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    half = large.resize((large.width // 2, large.height // 2), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    Image.fromarray(plain).save(file, "JPEG", quality=92, subsampling="4:2:0")
    with Image.open(file) as image:
        jpeg = np.array(image)
    grey = np.repeat(luma[..., None], 3, axis=2)
    return {"plain": plain, "jpeg": jpeg, "shrunk": np.array(half), "grey": grey}


def measured(rescaler: Rescaler, hr: NDArray[np.uint8], *, perceptual: bool) -> ImageRecord:
    """Return the record of one view; pictures are ``[H, W, 3]`` uint8."""
    height, width = hr.shape[:2]
    scale = rescaler.geometry.scale
    x = torch.from_numpy(hr).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        small = quantize(rescaler.downscale(x))
        both = [
            (y[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
            for y in (small, rescaler.upscale(small))
        ]
    bicubic_lr = bicubic(hr, (height // scale, width // scale))
    pairs = ((both[0], both[1]), (bicubic_lr, bicubic(bicubic_lr, (height, width))))
    ours, theirs = (quality(hr, lr, large, bicubic_lr, perceptual=perceptual) for lr, large in pairs)
    return ImageRecord("", width, height, ours, theirs)


def cells(mean: Quality, png: float, webp: float) -> str:
    """Return the numbers of a row."""
    chroma = (mean.psnr_cb + mean.psnr_cr) / 2
    numbers = (mean.psnr, mean.psnr_rgb, chroma, mean.ssimulacra2)
    small = (mean.lr_psnr, mean.lr_psnr_rgb, mean.lr_ssimulacra2)
    told = [f"{n:.2f}" for n in numbers] + [f"{n:.1f}" for n in small] + [f"{n:+.1f} %" for n in (png, webp)]
    return " | ".join("-" if n.startswith("nan") else n for n in told)


def plot(path: Path, found: dict[str, tuple[float, ...]]) -> None:
    """Draw luma of what is restored over PSNR (luma, RGB) and bytes (PNG, WebP) of the small picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.5), layout="constrained")
    titles = {1: "luma, dB", 2: "RGB, dB", 3: "PNG, %", 4: "WebP, %"}
    for axes, pair in zip(figure.subplots(1, 2), ((1, 2), (3, 4)), strict=True):
        for column, marker in zip(pair, "os", strict=True):
            line = sorted((row[column], row[0], name) for name, row in found.items())
            axes.plot([x for x, _, _ in line], [y for _, y, _ in line], marker=marker, label=titles[column])
            for at, (x, y, name) in enumerate(line):  # above and below in turn, as some lie close together
                place = (4, (4, -9)[at % 2])
                axes.annotate(name, (x, y), fontsize=7, xytext=place, textcoords="offset points")
        axes.margins(0.15)
        axes.set_ylabel("restored, PSNR on luma, dB")
        axes.grid(alpha=0.3)
        axes.legend()
        axes.set_xlabel(
            "small picture " + ("to the bicubic one" if pair[0] == 1 else "larger than the bicubic")
        )
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", nargs="+")
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--cache", type=Path, required=True, help="decoded images, as of car train")
    parser.add_argument("--plot", type=Path, help="PNG; points are called as the folders of the weights")
    parser.add_argument("--no-ssimulacra2", action="store_true", help="leave SSIMULACRA2 out")
    parser.add_argument("--fast", action="store_true", help="shrink without the corrector")
    parser.add_argument("--passes", type=int, help="passes of the corrector, if not those of the model")
    options = parser.parse_args()
    store = load_store(options.data, options.cache, min_size=128)
    heads = ("luma, dB", "RGB", "chroma", "SSIMULACRA2", "small: luma", "RGB", "SSIMULACRA2", "PNG", "WebP")
    print(f"| weights | view | {' | '.join(heads)} |\n" + "|---" * (2 + len(heads)) + "|")
    plain: dict[str, tuple[float, ...]] = {}
    told: set[tuple[int, str]] = set()
    for name in options.weights:
        model = load(name).uncorrected() if options.fast else load(name)
        if options.passes and isinstance(model.rescaler.corrector, Corrector):
            model.rescaler.corrector.passes = options.passes
        _, held_out = split_held_out(store, RECIPES[model.name].hold_out)
        rows: dict[str, list[ImageRecord]] = {}
        for image in held_out.images:
            for view, pixels in views(image).items():
                record = measured(model.rescaler, pixels, perceptual=not options.no_ssimulacra2)
                rows.setdefault(view, []).append(record)
        scale = model.rescaler.geometry.scale
        for view, found in rows.items():
            if (scale, view) not in told:
                told.add((scale, view))
                theirs = mean_quality(r.bicubic for r in found)
                print(f"| bicubic, {scale}x | {view} | {cells(theirs, 0, 0)} |")
            mean = mean_quality(r.model for r in found)
            png, webp = growth(found, "lr_png"), growth(found, "lr_webp")
            print(f"| `{name}` | {view} | {cells(mean, png, webp)} |", flush=True)
            if view == "plain":
                plain[Path(name).parent.name or name] = (mean.psnr, mean.lr_psnr, mean.lr_psnr_rgb, png, webp)
    if options.plot:
        plot(options.plot, plain)


if __name__ == "__main__":
    main()
