r"""What does a learned downscaler gain over the same upscaler trained just as long on bicubic pictures?

    python tools/compare_with_bicubic.py car_small_x2 --data photos/ --img-dir datasets --out runs/gain \
        --steps 2400 --control-steps 2400 4800

Trains the model and its control (``car_small_bicubic_x2``) by their recipes, one after the other; the control
for as many steps, and again for as many steps as it does in the time that the model took (a step without a
kernel generator takes less; ``car train MODEL --dry-run`` measures it). Measures all on the test sets by the
paper protocol, adds the result to ``docs/research/gain.json`` and the table to ``docs/research/training.md``.
The runs resume like any other: the same command goes on after an interrupt.

    python tools/compare_with_bicubic.py car_lite_x2 --runs runs/lite runs/control --img-dir datasets

compares runs of `car train` that are there already, as long as each other: first the model's, then controls.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from car.batch.names import find_images
from car.codec.choose import open_codec
from car.codec.options import Options
from car.measure.evaluate import find_dataset, mean_quality, round_trip
from car.train.log import read_log
from car.train.recipes import recipe_for
from car.train.run import Run

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "research" / "gain.json"
PAGE = ROOT / "docs" / "research" / "training.md"
BEGIN, END = "<!-- gain: made by tools/compare_with_bicubic.py -->", "<!-- end of gain -->"


def measure(weights: Path, img_dir: Path, sets: list[str]) -> dict[str, Any]:
    codec = open_codec(str(weights), None, options=Options(device="cpu"))
    found: dict[str, Any] = {}
    for name in sets:
        files = list(find_images([str(find_dataset(img_dir, name))]).names)
        mean = mean_quality(round_trip(codec, path).record.model for path in files)
        found[name] = {"psnr": mean.psnr, "ssim": mean.ssim, "lr_psnr": mean.lr_psnr}
    return found


def table(results: dict[str, Any]) -> str:
    sets = list(next(iter(results.values()))["learned"]["sets"])
    lines = [
        "| trained | steps | minutes | " + " | ".join(f"{s}, dB" for s in sets) + " |",
        "|---" * (3 + len(sets)) + "|",
    ]
    for _, result in sorted(results.items()):
        ours = result["learned"]
        for run in (ours, *result["controls"]):
            cells: list[str] = []
            for name in sets:
                value = run["sets"][name]["psnr"]
                gain = "" if run is ours else f" (gain {ours['sets'][name]['psnr'] - value:+.2f})"
                cells.append(f"{value:.2f}{gain}")
            minutes = run.get("minutes", "")
            lines.append(f"| `{run['model']}` | {run['steps']:,} | {minutes} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, action="append")
    parser.add_argument("--img-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--control-steps", type=int, nargs="+")
    parser.add_argument("--runs", type=Path, nargs="+")
    parser.add_argument("--sets", nargs="+", default=["Set5", "Set14", "BSDS100"])
    parser.add_argument("--cache", type=Path)
    options = parser.parse_args()
    training = (options.data, options.out, options.steps, options.control_steps)
    if (options.runs and any(training)) or (not options.runs and not all(training)):
        parser.error("either --runs, or --data, --out, --steps and --control-steps")

    def result(model: str, out: Path) -> dict[str, Any]:
        log = read_log(out)
        done = {
            "model": model,
            "steps": log[-1]["step"],
            "minutes": round(log[-1]["seconds"] / 60, 1),
            "validation": [[r["step"], r["psnr"]] for r in log],
            "sets": measure(out / "model.safetensors", options.img_dir, options.sets),
        }
        print(json.dumps(done), flush=True)
        return done

    def run(model: str, steps: int) -> dict[str, Any]:
        out = options.out / f"{model}_{steps}"
        recipe = recipe_for(model, steps=steps)
        Run(recipe, options.data, out, cache=options.cache or options.out / "cache").train()
        return result(model, out)

    family, scale = options.model.rsplit("_", 1)
    control = f"{family}_bicubic_{scale}"
    if options.runs:
        learned, *controls = (
            result(model, out)
            for model, out in zip([options.model] + [control] * len(options.runs), options.runs, strict=False)
        )
    else:
        learned = run(options.model, options.steps)
        controls = [run(control, steps) for steps in options.control_steps]
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[options.model] = {
        "date": time.strftime("%Y-%m-%d"),
        "learned": learned,
        "controls": controls,
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table(results)}\n{END}{rest.split(END)[1]}")
    print(table(results))


if __name__ == "__main__":
    main()
