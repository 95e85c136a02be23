"""Measure every level of `car downscale --effort`, and write the table in docs/models.md.

    python tools/measure_effort.py --img-dir datasets [--images 10]

Mean luma PSNR of what is restored, and seconds to shrink an image, on this machine.
"""

import argparse
from pathlib import Path

import car
from car.codec import Codec
from car.evaluate import find_dataset, mean_quality, round_trip
from car.files import find_images
from car.refinement import STEPS

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
SETS = ("Set5", "Set14", "BSDS100")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--img-dir", type=Path, required=True)
    parser.add_argument("--images", type=int, default=0, help="of each set, the first ones; 0 for all")
    parser.add_argument("--models", nargs="+", default=["car_plus_x4", "car_plus_x2"])
    parser.add_argument("--levels", type=int, nargs="+", default=list(range(len(STEPS))))
    options = parser.parse_args()
    files = {
        name: [path for path, _ in find_images([str(find_dataset(options.img_dir, name))])[0]]
        for name in SETS
    }
    files = {name: paths[: options.images or None] for name, paths in files.items()}
    titles = [f"{name} ({len(paths)} images), dB / s" for name, paths in files.items()]
    lines = [f"| | effort | steps | {' | '.join(titles)} | small to bicubic, dB |", "|---" * 7 + "|"]
    for model in options.models:
        for level in options.levels:
            codec = Codec(car.load(model), device="cpu", effort=level)
            means = [
                mean_quality(round_trip(codec, p).record.model for p in paths) for paths in files.values()
            ]
            cells = [f"{m.psnr:.2f} / {m.downscale_seconds:.2f}" for m in means]
            near = ", ".join(f"{m.lr_psnr:.1f}" for m in means)
            lines.append(
                f"| `{codec.loaded.tag}` | {level} | {STEPS[level]} | {' | '.join(cells)} | {near} |"
            )
            print(lines[-1], flush=True)
    head, _, rest = PAGE.read_text().partition("measure_effort.py -->\n")
    _, _, tail = rest.partition("<!-- end of effort -->")
    table = "\n".join(lines)
    PAGE.write_text(f"{head}measure_effort.py -->\n{table}\n<!-- end of effort -->{tail}")


if __name__ == "__main__":
    main()
