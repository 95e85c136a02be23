"""Put the weights of a training run into the package: measure, copy, write the manifest entry and the tables.

    python tools/ship_weights.py runs/x4 --tag car_plus_x4.v3 --img-dir datasets --data "trained on..."

The weights are stored in half precision, and measured so: on Set5, Set14 and BSDS100 (those that are there)
into results/, as tools/measure_results.py does. Only these weights of the model stay in the package: older
ones leave with their results. After weights of car_plus, run tools/fit_origin.py.
"""

import argparse
import hashlib
import json
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from measure_results import MANIFEST, RESULTS, SETS, record, write_manifest

import results
from car.codec.codec import Codec
from car.files.atomic import atomic_write
from car.train.recipes import RECIPES
from car.weights import LoadedModel, ManifestEntry, load, manifest
from car.weights.store import file_bytes


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

    trained = load(options.run / "model.safetensors")
    content = halved(trained)
    place = MANIFEST.parent / f"{options.tag}.safetensors"
    atomic_write(place, content)
    loaded = replace(load(place), tag=options.tag)
    record([Codec(loaded)], SETS, options.img_dir)
    entry = ManifestEntry(
        tag=options.tag,
        model=loaded.name,
        file=place.name,
        sha256=hashlib.sha256(content).hexdigest(),
        parameters=sum(p.numel() for p in loaded.rescaler.parameters()),
        licence=options.licence,
        data=options.data,
        recipe=command_of(options.run, loaded.name, options.start),
        trained=time.strftime("%Y-%m-%d"),
        metrics={},
    )
    older = [e for e in manifest() if e.model == loaded.name]
    write_manifest([*(e for e in manifest() if e not in older), entry])
    for old in older:
        if old.tag != entry.tag:
            (MANIFEST.parent / old.file).unlink()
            shutil.rmtree(RESULTS / old.tag, ignore_errors=True)
    manifest.cache_clear()
    results.main()


def halved(trained: LoadedModel) -> bytes:
    """Return the file of weights in half precision, which costs nothing that can be measured.

    The viewer in browsers has always had such weights: now it computes with the same as everything else.
    """
    return file_bytes(
        trained.name, {key: values.astype(np.float16) for key, values in trained.tensors.items()}
    )


def _options(flag: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    if isinstance(value, list):
        return [f"{flag} '{one}'" for one in value]
    return [f"{flag} {value:g}" if isinstance(value, float) else f"{flag} {value}"]


def command_of(run: Path, model: str, start: str | None) -> str:
    """Return the command that repeats a run: what differs from the model's recipe."""
    recipe = json.loads((run / "recipe.json").read_text())
    usual = asdict(RECIPES[model])
    said = ("model", "minutes", "init", "hold_out", "eval_minutes")  # elsewhere, or of no effect on weights
    changed: list[str] = []
    for name, value in recipe.items():
        before = list(usual[name]) if isinstance(usual[name], tuple) else usual[name]
        if name not in said and value != before:
            changed += _options(f"--{name.replace('_', '-')}", value)
    parts = [f"car train {model} --data DATA --out RUN", *changed, f"--minutes {recipe['minutes']:g}"]
    return " ".join(parts) + (f" --init START ({start})" if start else "")


if __name__ == "__main__":
    main()
