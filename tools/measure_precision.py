"""Measure what reduced precision costs, and write the table in docs/devices.md.

    python tools/measure_precision.py --img-dir datasets

Both halves of a model run in the precision; seconds are those of restoring the whole set, on this machine.
"""

import argparse
from pathlib import Path

import car
from car.batch.names import find_images
from car.codec.codec import Codec
from car.codec.options import Options
from car.measure.evaluate import find_dataset, mean_quality, round_trip

PAGE = Path(__file__).parent.parent / "docs" / "devices.md"
SETS = ("Set5", "Set14")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--img-dir", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    lines = [
        f"| on {options.device} | precision | {' | '.join(SETS)} | seconds to restore |",
        "|---" * (3 + len(SETS)) + "|",
    ]
    for model in ("car_plus_x4", "car_plus_x2"):
        for precision in ("float32", "bf16", "fp16"):
            codec = Codec(car.load(model), Options(device=options.device, precision=precision))
            cells: list[str] = []
            seconds = 0.0
            for name in SETS:
                files = list(find_images([str(find_dataset(options.img_dir, name))]).names)
                records = [round_trip(codec, path).record.model for path in files]
                cells.append(f"{mean_quality(records).psnr:.2f}")
                seconds += sum(r.upscale_seconds for r in records)
            lines.append(f"| `{codec.loaded.tag}` | {precision} | {' | '.join(cells)} | {seconds:.1f} |")
            print(lines[-1], flush=True)
    head, _, rest = PAGE.read_text().partition("measure_precision.py -->\n")
    _, _, tail = rest.partition("<!-- end of precision -->")
    table = "\n".join(lines)
    PAGE.write_text(f"{head}measure_precision.py -->\n{table}\n<!-- end of precision -->{tail}")


if __name__ == "__main__":
    main()
