"""Measure the weights of the package on the test sets: one JSON file for each in results/.

    python tools/measure_results.py --img-dir datasets                        # all of them, in an hour
    python tools/measure_results.py car_plus_x4 --img-dir datasets --set Set5

A file is what `car evaluate` measures (the protocol of the papers, float32), rounded, without times, which
benchmarks.md has: each image, and means. Their means also go into the manifest of the package. `make results`
makes the tables of them.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from car.codec.choose import open_codec
from car.codec.codec import Codec
from car.errors import UsageError
from car.files.atomic import atomic_write
from car.measure.evaluate import find_dataset, round_trip, summary
from car.weights import ManifestEntry, manifest

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
MANIFEST = ROOT / "src" / "car" / "weights" / "manifest.json"
SETS = ("Set5", "Set14", "BSDS100")
_DIGITS = {"ssim": 4, "ssimulacra2": 2, "lr_ssimulacra2": 2}  # 3 for all else


def measure(codec: Codec, images: str, folder: Path) -> dict[str, Any]:
    """Return what is recorded of weights on the set called `images`."""
    records = [round_trip(codec, path).record for path in sorted(folder.glob("*.png"))]
    loaded = codec.loaded
    found = summary(records, model=loaded.name, weights=loaded.short_hash, scale=codec.scale)
    how = f"paper protocol, float32, PyTorch {torch.__version__}, {codec.device}"
    return rounded({"tag": loaded.tag, "set": images, "measured": how} | found)


def rounded(value: Any, name: str = "") -> Any:
    """Return nested values with as many digits as mean something; without times."""
    if isinstance(value, dict):
        return {key: rounded(item, key) for key, item in value.items() if not key.endswith("_seconds")}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, _DIGITS.get(name, 3)) if isinstance(value, float) else value


def as_text(found: dict[str, Any]) -> str:
    """Return JSON with a line for each image."""
    head = json.dumps({key: value for key, value in found.items() if key != "images"}, indent=1)
    images = ",\n".join(f"  {json.dumps(image)}" for image in found["images"])
    return head.removesuffix("\n}") + f',\n "images": [\n{images}\n ]\n}}\n'


def means(tag: str) -> dict[str, dict[str, Any]]:
    """Return what the manifest says of weights: set -> means of the model and of bicubic, and growth."""
    found: dict[str, dict[str, Any]] = {}
    for name in SETS:
        file = RESULTS / tag / f"{name}.json"
        if file.is_file():
            found[name] = json.loads(file.read_text())["mean"]
    return found


def record(codecs: Iterable[Codec], sets: Sequence[str], img_dir: Path) -> None:
    """Measure, and write each file as it is done."""
    for name in sets:
        try:
            folder = find_dataset(img_dir, name)
        except UsageError as missing:
            print(missing)
            continue
        for codec in codecs:
            found = measure(codec, name, folder)
            place = RESULTS / str(codec.loaded.tag) / f"{name}.json"
            place.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(place, as_text(found).encode())
            print(codec.loaded.tag, name, found["mean"], flush=True)


def write_manifest(entries: Iterable[ManifestEntry]) -> None:
    """Write the manifest, with the means of results/."""
    rows = [asdict(entry) | {"metrics": means(entry.tag)} for entry in entries]
    atomic_write(MANIFEST, (json.dumps(rows, indent=1) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*")
    parser.add_argument("--img-dir", type=Path, required=True)
    parser.add_argument("--set", action="append", choices=SETS)
    options = parser.parse_args()
    codecs = [open_codec(name) for name in options.models or {e.model: e for e in manifest()}]
    record(codecs, options.set or SETS, options.img_dir)
    write_manifest(manifest())


if __name__ == "__main__":
    main()
