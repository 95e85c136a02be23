"""Speed of training on this machine's CPU: against a straightforward loop, and against a constant batch.

- `car_plus_x4` by its recipe: steps of the trainer with crops from the cache, alternating with steps on one
  constant batch, several rounds; medians and their ratio say what the data path costs.
- The same network, loss and optimiser in the loop that one would write first: a DataLoader that decodes a PNG
  file for every crop, default memory layout, float32. Alternating with the above.
- `car_x4`, batch 16, as published: seconds and peak memory of a step, in a process of its own.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from car.models import create
from car.train.data import load_store
from car.train.losses import Objective
from car.train.optim import make_optimizer
from car.train.recipes import RECIPES, Recipe
from car.train.run import Run
from car.train.trainer import Trainer
from common import Results

PAGE = "training.md"
ROUNDS, STEPS = 7, 10


class PNGFolder(torch.utils.data.Dataset[torch.Tensor]):
    """What one would write first: open the file, crop, flip, divide."""

    def __init__(self, files: list[Path], crop: int, length: int) -> None:
        self.files, self.crop, self.length = files, crop, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        rng = np.random.default_rng(index)
        image = np.asarray(Image.open(self.files[rng.integers(len(self.files))]).convert("RGB"))
        top, left = (int(rng.integers(n - self.crop + 1)) for n in image.shape[:2])
        patch = image[top : top + self.crop, left : left + self.crop]
        patch = np.rot90(patch, rng.integers(4))[:, :: rng.choice((1, -1))]
        return torch.from_numpy(patch.copy()).permute(2, 0, 1).float() / 255


def straightforward(recipe: Recipe, files: list[Path], workers: int) -> Callable[[], None]:
    torch.manual_seed(0)
    model = create(recipe.model)
    objective, optimizer = Objective(model, recipe), make_optimizer(model, recipe)
    batches = torch.utils.data.DataLoader(
        PNGFolder(files, recipe.crop, 10**6), batch_size=recipe.batch, num_workers=workers
    )
    stream = iter(batches)

    def step() -> None:
        optimizer.zero_grad()
        loss = objective(next(stream))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        loss.item()

    return step


@contextmanager
def trainer_for(recipe: Recipe, data: list[Path], cache: Path, workers: int) -> Iterator[Trainer]:
    with (
        tempfile.TemporaryDirectory() as out,
        Run(recipe, data, Path(out), cache=cache, device="cpu", workers=workers).trainer() as trainer,
    ):
        yield trainer


def seconds_of(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    return (time.perf_counter() - start) / STEPS


def compact(data: list[Path], cache: Path) -> dict[str, Any]:
    recipe = RECIPES["car_plus_x4"]
    with tempfile.TemporaryDirectory() as folder, trainer_for(recipe, data, cache, 1) as trainer:
        store = load_store(data, cache, min_size=recipe.crop)
        files: list[Path] = []
        for i, image in enumerate(store.images[::8]):
            files.append(Path(folder) / f"{i}.png")
            Image.fromarray(np.array(image)).save(files[-1])
        constant = trainer.crops.get(0)
        from_cache = trainer.batches.get

        def ours() -> None:
            trainer.batches.get = from_cache
            trainer._train_step(0.5).item()

        def no_data() -> None:
            trainer.batches.get = lambda step: constant
            trainer._train_step(0.5).item()

        cases = {
            "trainer, crops from the cache": ours,
            "trainer, one constant batch": no_data,
            "straightforward loop, 2 workers": straightforward(recipe, files, 2),
            "straightforward loop, no worker": straightforward(recipe, files, 0),
        }
        times: dict[str, list[float]] = {name: [] for name in cases}
        for round_number in range(ROUNDS + 1):
            for name, step in cases.items():
                took = seconds_of(step)
                if round_number:  # the first is the warm-up
                    times[name].append(took)
        crops: list[float] = []
        for i in range(200):
            start = time.perf_counter()
            trainer.crops.get(i)
            crops.append(time.perf_counter() - start)
    found = {
        name: {"median_s": statistics.median(t), "min_s": min(t), "max_s": max(t)}
        for name, t in times.items()
    }
    paired = [
        a / b
        for a, b in zip(
            times["trainer, crops from the cache"], times["trainer, one constant batch"], strict=True
        )
    ]
    return {
        "batch": recipe.batch,
        "crop": recipe.crop,
        "steps": found,
        "data_over_constant": statistics.median(paired),
        "crops_s": statistics.median(crops),
    }


def published() -> dict[str, Any]:
    recipe = replace(RECIPES["car_x4"], hold_out=())
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for i in range(4):
            noise = rng.integers(0, 256, (200, 200, 3), dtype=np.uint8)
            Image.fromarray(noise).save(Path(folder) / f"{i}.png")
        with trainer_for(recipe, [Path(folder)], Path(folder) / "cache", 0) as trainer:
            times: list[float] = []
            for _ in range(2):
                start = time.perf_counter()
                trainer._train_step(0.5).item()
                times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"first_s": times[0], "second_s": times[1], "peak_bytes": peak}


def table(results: Results) -> str:
    small, large = results["compact"], results["published"]
    steps = small["steps"]
    ours = steps["trainer, crops from the cache"]["median_s"]
    lines = [
        f"`car_plus_x4`, {small['batch']} crops of {small['crop']} pixels a step, "
        f"{ROUNDS} rounds of {STEPS} steps each:",
        "",
        "| loop | seconds a step, median (min - max) | steps a second | relative speed |",
        "|---|---|---|---|",
    ]
    for name, t in steps.items():
        spread = f"{t['median_s']:.4f} ({t['min_s']:.4f} - {t['max_s']:.4f})"
        lines.append(f"| {name} | {spread} | {1 / t['median_s']:.2f} | {ours / t['median_s']:.2f} |")
    lines += [
        "",
        "Real data against a constant batch, median over rounds: "
        f"{small['data_over_constant']:.3f} times the step time. "
        f"Cutting a batch takes {small['crops_s'] * 1000:.2f} ms, on another thread.",
        "",
        f"`car_x4` as published, batch 16, float32: {large['second_s']:.1f} s a step (one run), "
        f"{large['peak_bytes'] / 1e9:.1f} GB peak memory of the process.",
    ]
    return "\n".join(lines)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "car-benchmark")


def measure(options: argparse.Namespace) -> Results:
    small = compact(options.data, options.cache)
    done = subprocess.run([sys.executable, __file__], check=True, capture_output=True)
    return {"compact": small, "published": json.loads(done.stdout.splitlines()[-1])}


if __name__ == "__main__":
    print(json.dumps(published()))
