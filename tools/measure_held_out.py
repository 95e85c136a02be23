"""Measure weights on the photographs that training holds out: what to decide by, while the test sets wait.

    python tools/measure_held_out.py car_plus_x2 runs/x2/model.safetensors --data photos/ --cache runs/cache

Three views of each: the middle 448 pixels; the middle 896 shrunk to half; the first in grey.
Prints luma and RGB PSNR of what is restored, both of the small picture to the bicubic one, and by how
much its PNG and its lossless WebP are larger, each a mean. With --plot, what is restored is drawn over
what the small picture pays for it, for the plain views.
"""

import argparse
import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from car.metrics import psnr
from car.models import quantize
from car.ops import bicubic_downscale
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
    return {"plain": plain, "shrunk": np.array(half), "grey": np.repeat(luma[..., None], 3, axis=2)}


def file_bytes(lr: torch.Tensor, kind: str) -> int:
    buffer = io.BytesIO()
    image = Image.fromarray((lr[0] * 255).round().byte().permute(1, 2, 0).numpy())
    image.save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return buffer.tell()


def plot(path: Path, found: dict[str, np.ndarray]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.5), layout="constrained")
    titles = {2: "luma, dB", 3: "RGB, dB", 4: "PNG, %", 5: "WebP, %"}
    for axes, pair in zip(figure.subplots(1, 2), ((2, 3), (4, 5)), strict=True):
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
            "small picture " + ("to the bicubic one" if pair[0] == 2 else "larger than the bicubic")
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
    options = parser.parse_args()
    store = load_store(options.data, options.cache, min_size=128)
    print(
        "| weights | view | restored, dB | RGB | small to bicubic, dB | RGB | PNG | WebP |\n"
        + "|---" * 8
        + "|"
    )
    plain: dict[str, np.ndarray] = {}
    for name in options.weights:
        model = load(name)
        rescaler, scale = model.rescaler, model.rescaler.geometry.scale
        _, held_out = split_held_out(store, RECIPES[model.name].hold_out)
        rows: dict[str, list[tuple[float, ...]]] = {}
        for image in held_out.images:
            for view, pixels in views(image).items():
                hr = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
                with torch.inference_mode():
                    lr, bicubic = (
                        quantize(x) for x in (rescaler.downscale(hr), bicubic_downscale(hr, scale))
                    )
                    restored = quantize(rescaler.upscale(lr))
                rows.setdefault(view, []).append(
                    (
                        psnr(restored, hr, border=scale),
                        psnr(restored, hr, border=scale, on_luma=False),
                        psnr(lr, bicubic),
                        psnr(lr, bicubic, on_luma=False),
                        *(100 * (file_bytes(lr, k) / file_bytes(bicubic, k) - 1) for k in ("PNG", "WEBP")),
                    )
                )
        for view, found in rows.items():
            luma, rgb, small, small_rgb, png, webp = mean = np.mean(found, axis=0)
            cells = f"{luma:.2f} | {rgb:.2f} | {small:.1f} | {small_rgb:.1f} | {png:+.1f} % | {webp:+.1f} %"
            print(f"| `{name}` | {view} | {cells} |", flush=True)
            if view == "plain":
                plain[Path(name).parent.name or name] = mean
    if options.plot:
        plot(options.plot, plain)


if __name__ == "__main__":
    main()
