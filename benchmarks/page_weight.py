"""Bytes of a gallery beside the same photographs as full-size JPEG, WebP and AVIF.

Quality is the luma PSNR of what is seen in the end: the restored picture, or the decoded file.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import car
from car.metrics import psnr
from car.pictures.formats import INPUT_SUFFIXES
from common import Results

PAGE = "viewer.md"
COUNT = 24
CODECS = {
    "JPEG, quality 90": ("JPEG", {"quality": 90}),
    "WebP, quality 80": ("WEBP", {"quality": 80}),
    "AVIF, quality 60": ("AVIF", {"quality": 60}),
}
SITES = {
    "gallery, 4x": ["--scale", "4"],
    "gallery, 2x": ["--scale", "2"],
    "gallery, 4x, AVIF of quality 60": ["--scale", "4", "--format", "avif", "--quality", "60"],
    "gallery, 2x, AVIF of quality 60": ["--scale", "2", "--format", "avif", "--quality", "60"],
    "gallery, 2x, JPEG of quality 75": ["--scale", "2", "--format", "jpg", "--quality", "75"],
}


def quality(restored: Image.Image, original: Image.Image) -> float:
    import torch

    tensors = [
        torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)[None] / 255
        for image in (restored, original)
    ]
    return psnr(tensors[0], tensors[1], border=4)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True)


def measure(options: argparse.Namespace) -> Results:
    pictures = [Path(root, name) for root, _, names in os.walk(options.data) for name in names]
    pictures = [path for path in pictures if path.suffix.lower() in INPUT_SUFFIXES]
    pixels = {path: Image.open(path).width * Image.open(path).height for path in pictures}
    chosen = sorted(pictures, key=lambda path: (-pixels[path], path.name))[:COUNT]
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        photographs = Path(folder, "photographs")
        photographs.mkdir()
        originals: dict[str, Image.Image] = {}
        for number, path in enumerate(chosen):
            name = f"{number:02}"
            originals[name] = Image.open(path).convert("RGB")
            originals[name].save(photographs / f"{name}.png")
        for label, settings in SITES.items():
            site = Path(folder, label)
            command = [sys.executable, "-m", "car", "gallery", photographs, "-o", site, "--json", *settings]
            made = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
            small = {Path(p["source"]).stem: site / p["file"] for p in made["pictures"]}
            values = [quality(car.upscale(small[name]), original) for name, original in originals.items()]
            rows[label] = {
                "bytes": made["site_bytes"],
                "pictures_bytes": sum(p["small_bytes"] for p in made["pictures"]),
                "psnr": float(np.mean(values)),
            }
            print(rows, flush=True)
        for label, (kind, settings) in CODECS.items():
            total, values = 0, []
            for original in originals.values():
                file = io.BytesIO()
                original.save(file, kind, **settings)
                total += file.tell()
                values.append(quality(Image.open(file), original))
            rows[label] = {"bytes": total, "pictures_bytes": total, "psnr": float(np.mean(values))}
            print(label, rows[label], flush=True)
    return {"megapixels": sum(pixels[path] for path in chosen) / 1e6, "rows": rows}


def table(results: Results) -> str:
    count = results["megapixels"]
    lines = [
        f"{COUNT} photographs of {count:.1f} megapixels in all:",
        "",
        "| | whole page, MB | pictures alone, MB | bits a pixel | luma PSNR of what is seen, dB |",
        "|---|---|---|---|---|",
    ]
    for label, row in results["rows"].items():
        bits = row["pictures_bytes"] * 8 / count / 1e6
        sizes = f"{row['bytes'] / 1e6:.2f} | {row['pictures_bytes'] / 1e6:.2f}"
        lines.append(f"| {label} | {sizes} | {bits:.2f} | {row['psnr']:.2f} |")
    return "\n".join(lines)
