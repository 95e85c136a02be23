"""Measure round trips at many scales on the test sets: PSNR over the scale, as JSON and as a plot.

    python tools/measure_scales.py --img-dir datasets                         # in about an hour
    python tools/measure_scales.py --img-dir datasets --set Set5 --scale 1.5 --scale 3

The models are the default ones, measured by the paper protocol, as by `car evaluate`. Results are added to
docs/research/scales.json; the plot lies beside it.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from measure_results import rounded

from car.codec.choose import open_codec
from car.files.atomic import atomic_write
from car.measure.evaluate import find_dataset, round_trip, summary
from car.scaling import exact_scale

RESEARCH = Path(__file__).parent.parent / "docs" / "research"
SCALES = (1.25, 1.5, 1.75, 2, 2.25, 2.5, 3, 3.5, 4, 5, 6, 8, 12, 16)
KEPT = ("psnr", "psnr_rgb", "lr_psnr", "lr_psnr_rgb")


def measure(scale: float, folder: Path) -> dict[str, Any]:
    """Return the means at one scale: of the model and of bicubic."""
    codec = open_codec(scale=scale)
    records = [round_trip(codec, path, perceptual=False).record for path in sorted(folder.glob("*.png"))]
    found = summary(records, model=codec.loaded.name, weights=codec.loaded.short_hash, scale=codec.scale)
    means = {side: {name: found["mean"][side][name] for name in KEPT} for side in ("model", "bicubic")}
    return rounded({"model": codec.loaded.tag, "scale": codec.scale, "mean": means})


def plot(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw luma and RGB over the scale, with bicubic beside them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for axes, (name, label) in zip(
        figure.subplots(1, 2), (("psnr", "luma"), ("psnr_rgb", "RGB")), strict=True
    ):
        for images, rows in found.items():
            order = sorted(rows.values(), key=lambda row: row["scale"])
            scales = [row["scale"] for row in order]
            (line,) = axes.plot(
                scales, [row["mean"]["model"][name] for row in order], marker="o", label=images
            )
            theirs = [row["mean"]["bicubic"][name] for row in order]
            axes.plot(scales, theirs, linestyle=":", color=line.get_color(), label=f"{images}, bicubic")
        axes.set_xscale("log", base=2)
        axes.set_xticks(
            [1.25, 1.5, 2, 3, 4, 6, 8, 12, 16], ["1.25", "1.5", "2", "3", "4", "6", "8", "12", "16"]
        )
        axes.set_xlabel("scale")
        axes.set_ylabel(f"restored, PSNR on {label}, dB")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--img-dir", type=Path, required=True)
    parser.add_argument("--set", action="append", choices=("Set5", "BSDS100"))
    parser.add_argument("--scale", action="append", type=float)
    options = parser.parse_args()
    file = RESEARCH / "scales.json"
    found: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.is_file() else {}
    for images in options.set or ("Set5", "BSDS100"):
        for scale in map(exact_scale, options.scale or SCALES):
            row = measure(scale, find_dataset(options.img_dir, images))
            found.setdefault(images, {})[str(scale)] = row
            print(images, row, flush=True)
            atomic_write(file, (json.dumps(found, indent=1) + "\n").encode())
    plot(found, RESEARCH / "scales.png")


if __name__ == "__main__":
    main()
