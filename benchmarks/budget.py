"""Small files that keep to a size or a quality: how much of a budget is used, and whether a search pays.

The middle of each photograph is shrunk to fixed numbers of bytes, in two ways: by the search of
``car downscale --max-bytes``, and at one scale in one format, always the same, with the highest quality that
fits. Then it is shrunk to fixed qualities (``--min-ssimulacra2``, ``--min-psnr``).
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import car
from car.codec.kinds import as_picture
from car.codec.options import Options
from car.errors import ImageError
from car.measure.trips import FORMATS, SCALES, Trips
from common import Results

PAGE = "budget.md"

RATES = (0.25, 0.5, 1.0, 2.0)  # bits per pixel of the original
GOALS: tuple[dict[str, float], ...] = ({"min_ssimulacra2": 50}, {"min_ssimulacra2": 70}, {"min_psnr": 32})
USED = 0.92


def photos(folder: Path, count: int, side: int) -> list[tuple[str, np.ndarray]]:
    files = sorted(path for path in folder.iterdir() if path.suffix in (".webp", ".png", ".jpg"))
    found: list[tuple[str, np.ndarray]] = []
    for path in (files[n * len(files) // count] for n in range(count)):
        with Image.open(path) as image:
            left, top = ((n - side) // 2 for n in image.size)
            found.append(
                (path.name, np.asarray(image.convert("RGB").crop((left, top, left + side, top + side))))
            )
    return found


def row(small: car.SmallFile, seconds: float) -> dict[str, Any]:
    made = small.made
    full = small.full_size
    return {
        "setting": str(made.setting),
        "bytes": made.bytes,
        "ssimulacra2": round(made.score.ssimulacra2, 3),
        "psnr_rgb": round(made.score.psnr_rgb, 3),
        "trips": len(small.tried),
        "full_size": full and {"setting": str(full.setting), "ssimulacra2": round(full.score.ssimulacra2, 3)},
        "seconds": round(seconds, 2),
    }


def budgets(name: str, pixels: np.ndarray) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    trips = Trips(as_picture(pixels), Options())
    for rate in RATES:
        budget = int(rate * pixels.shape[0] * pixels.shape[1] / 8)
        begin = time.perf_counter()
        small = car.shrink_to(pixels, max_bytes=budget)
        found = row(small, time.perf_counter() - begin)
        fixed: dict[str, float | None] = {}
        for scale in SCALES:
            for format in FORMATS:
                setting = trips.fit(scale, format, budget)
                score = setting and trips.judge(setting).score.ssimulacra2
                fixed[f"{scale:g}x {format}"] = None if score is None else round(score, 3)
        rows.append({"image": name, "rate": rate, "budget": budget, **found, "fixed": fixed})
    return rows


def goals(name: str, pixels: np.ndarray) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for goal in GOALS:
        begin = time.perf_counter()
        (told, least), *_ = goal.items()
        try:
            found = row(car.shrink_to(pixels, **goal), time.perf_counter() - begin)
        except ImageError as error:
            found = {"unreachable": str(error)}
        rows.append({"image": name, "goal": told, "least": least, **found})
    return rows


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for rate in RATES:
        some = [r for r in rows if r["rate"] == rate]
        fixed = {
            name: float(np.mean([r["fixed"][name] for r in some]))
            for name in some[0]["fixed"]
            if all(r["fixed"][name] is not None for r in some)
        }
        best = max(fixed, key=lambda name: fixed[name])
        shares = [r["bytes"] / r["budget"] for r in some]
        found.append(
            {
                "rate": rate,
                "over": sum(r["bytes"] > r["budget"] for r in some),
                "used": float(np.mean(shares)),
                "under": sum(share < USED for share in shares),
                "ssimulacra2": float(np.mean([r["ssimulacra2"] for r in some])),
                "best_fixed": best,
                "best_fixed_ssimulacra2": fixed[best],
                "fixed": fixed,
                "trips": float(np.mean([r["trips"] for r in some])),
                "most_trips": max(r["trips"] for r in some),
                "full_size_better": sum(r["full_size"] is not None for r in some),
            }
        )
    return found


def goal_summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for goal in GOALS:
        (told, least), *_ = goal.items()
        some = [r for r in rows if (r["goal"], r["least"]) == (told, least)]
        made = [r for r in some if "bytes" in r]
        values = [r[told.removeprefix("min_").replace("psnr", "psnr_rgb")] for r in made]
        found.append(
            {
                "goal": told,
                "least": least,
                "reached": len(made),
                "of": len(some),
                "missed": sum(value < least for value in values),
                "value": float(np.mean(values)),
                "bytes": float(np.mean([r["bytes"] for r in made])),
                "trips": float(np.mean([r["trips"] for r in made])),
                "most_trips": max(r["trips"] for r in made),
            }
        )
    return found


def table(results: Results) -> str:
    means, reached, count = results["budgets"], results["goals"], results["images"]
    lines = [
        "| bits per pixel | budget used, mean | over budget | under 92 % | SSIMULACRA2 "
        "| best fixed scale and format | round trips, mean and most | full size is better |",
        "|---" * 8 + "|",
    ]
    lines += [
        f"| {m['rate']:g} | {100 * m['used']:.1f} % | {m['over']} of {count} | {m['under']} of {count} "
        f"| {m['ssimulacra2']:.1f} | {m['best_fixed']}: {m['best_fixed_ssimulacra2']:.1f} "
        f"| {m['trips']:.1f}, {m['most_trips']} | {m['full_size_better']} of {count} |"
        for m in means
    ]
    lines += [
        "",
        "| goal | reached | of these, below it | value, mean | bytes, mean | round trips, mean and most |",
        "|---" * 6 + "|",
    ]
    lines += [
        f"| `--{m['goal'].replace('_', '-')} {m['least']:g}` | {m['reached']} of {m['of']} | {m['missed']} "
        f"| {m['value']:.2f} | {m['bytes']:,.0f} | {m['trips']:.1f}, {m['most_trips']} |"
        for m in reached
    ]
    return "\n".join(lines)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--side", type=int, default=384, help="pixels a side of the middle that is used")


def measure(options: argparse.Namespace) -> Results:
    rows: list[dict[str, Any]] = []
    reached: list[dict[str, Any]] = []
    for name, pixels in photos(options.data, options.images, options.side):
        rows += budgets(name, pixels)
        reached += goals(name, pixels)
        print(
            name, [(r["setting"], r["bytes"] / r["budget"], r["ssimulacra2"]) for r in rows[-4:]], flush=True
        )
    return {
        "images": options.images,
        "side": options.side,
        "scales": SCALES,
        "budgets": summary(rows),
        "goals": goal_summary(reached),
        "rows": rows,
        "goal_rows": reached,
    }
