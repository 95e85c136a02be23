"""Put the weights of a training run into the package: copy, measure, write the manifest entry.

    python tools/ship_weights.py runs/x4 --tag car_plus_x4.v3 --img-dir datasets --data "trained on..."

Measures on Set5, Set14 and BSDS100 (those that are there) by the paper protocol. An entry with the same tag
is replaced; ship better weights under a new tag once the old one is released, so that old files restore.
"""

import argparse
import hashlib
import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path

from car.codec.codec import Codec
from car.errors import UsageError
from car.files.atomic import atomic_write
from car.measure.evaluate import find_dataset, mean_quality, round_trip
from car.train.recipes import RECIPES
from car.weights import load

PACKAGE = Path(__file__).parent.parent / "src" / "car" / "weights"
KEPT = ("psnr", "ssim", "psnr_rgb", "lr_psnr", "lr_psnr_rgb", "lr_bytes")


def measured(codec: Codec, img_dir: Path) -> dict[str, dict[str, float]]:
    """Return what the manifest says of weights: test set -> measures, for those sets that are there."""
    metrics: dict[str, dict[str, float]] = {}
    for name in ("Set5", "Set14", "BSDS100"):
        try:
            folder = find_dataset(img_dir, name)
        except UsageError as missing:
            print(missing)
            continue
        trips = [round_trip(codec, path).record for path in sorted(folder.glob("*.png"))]
        mean, bicubic = (
            asdict(mean_quality(getattr(t, side) for t in trips)) for side in ("model", "bicubic")
        )
        metrics[name] = {key: round(mean[key], 4) for key in KEPT}
        metrics[name]["bicubic_lr_bytes"] = round(bicubic["lr_bytes"], 4)
        print(name, metrics[name], flush=True)
    return metrics


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of the training run")
    parser.add_argument("--tag", required=True)
    parser.add_argument("--img-dir", type=Path, required=True)
    parser.add_argument("--data", required=True, help="training data and its licence")
    parser.add_argument("--start", help="what the run's --init was")
    parser.add_argument("--licence", default="Apache-2.0")
    options = parser.parse_args()

    source = options.run / "model.safetensors"
    loaded = load(source)
    metrics = measured(Codec(loaded), options.img_dir)
    recipe = json.loads((options.run / "recipe.json").read_text())
    usual = asdict(RECIPES[loaded.name])
    said = ("model", "minutes", "init", "hold_out", "eval_minutes")  # elsewhere, or of no effect on weights
    changed = [
        f"--{name.replace('_', '-')} {value:g}"
        if isinstance(value, float)
        else f"--{name.replace('_', '-')} {value}"
        for name, value in recipe.items()
        if name not in said and value != usual[name]
    ]
    start = f" --init START ({options.start})" if options.start else ""
    file = f"{options.tag}.safetensors"
    entry = {
        "tag": options.tag,
        "model": loaded.name,
        "file": file,
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "parameters": sum(p.numel() for p in loaded.rescaler.parameters()),
        "licence": options.licence,
        "data": options.data,
        "recipe": " ".join(
            [
                f"car train {loaded.name} --data DATA --out RUN",
                *changed,
                f"--minutes {recipe['minutes']:g}{start}",
            ]
        ),
        "trained": time.strftime("%Y-%m-%d"),
        "metrics": metrics,
    }
    shutil.copyfile(source, PACKAGE / file)
    entries = [e for e in json.loads((PACKAGE / "manifest.json").read_text()) if e["tag"] != options.tag]
    atomic_write(PACKAGE / "manifest.json", (json.dumps([*entries, entry], indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
