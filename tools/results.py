"""Write the tables of results: docs/results.md, and those of README.md between their markers.

    python tools/results.py                       # from what is recorded
    python tools/results.py --img-dir datasets    # measures the newest weights anew first, in minutes

Figures of ours come from ``src/car/weights/manifest.json`` (accuracy, as `car evaluate` measures it) and
``benchmarks/results.json`` (speed, by `make bench`), those of others from ``src/car/measure/published.json``.
"""

import argparse
import json
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from ship_weights import PACKAGE, measured
from torch import nn

from car.codec.choose import open_codec
from car.families import architecture, made_for
from car.files.atomic import atomic_write
from car.measure.evaluate import DATASETS
from car.measure.model_report import published
from car.models import create
from car.weights import ManifestEntry, manifest

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- results: made by tools/results.py -->", "<!-- end of results -->"
SHOWN = {
    "Set5": "Set5",
    "Set14": "Set14",
    "BSDS100": "BSDS100",
    "Urban100": "Urban100",
    "DIV2KHR": "DIV2K val",
}
SWAPPED = "(*) Its Set14 and BSDS100 look swapped at 4x, against the paper's own."
MEASURED = ("Set5", "Set14", "BSDS100")


def newest(family: str) -> dict[int, ManifestEntry]:
    """Return scale -> newest weights of `family`."""
    prefix = f"{family}_x"
    return {int(e.model[len(prefix) :]): e for e in manifest() if e.model.startswith(prefix)}


@cache
def multiply_adds(model: str) -> tuple[float, float]:
    """Return multiplications of shrinking and of restoring, for each HR pixel, in the convolutions."""
    rescaler, counts = create(model), [0, 0]
    g = rescaler.geometry
    side = 64 * g.scale

    def watch(half: int) -> Any:
        def count(conv: nn.Conv2d, _: Any, out: torch.Tensor) -> None:
            counts[half] += out[0].numel() * conv.weight[0].numel()

        return count

    for half, network in enumerate((rescaler.downscaler, rescaler.upscaler)):
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(watch(half))
    with torch.inference_mode():
        rescaler.upscale(rescaler.downscale(torch.zeros(1, 3, side, side)))
    return counts[0] / side**2, counts[1] / side**2


def speed(model: str, half: str) -> str:
    cases = json.loads((ROOT / "benchmarks" / "results.json").read_text())["cases"]
    found = cases.get(f"{model} {half}")
    return f"{2040 * 1356 / 1e6 / found['median_s']:.2f}" if found else ""


def quality(values: Any) -> str:
    if not values:
        return ""
    psnr, ssim = (values["psnr"], values["ssim"]) if isinstance(values, dict) else values
    return f"{psnr:.2f} / {ssim:.4f}".replace("/ 0.", "/ .")


def millions(count: int) -> str:
    return "0" if not count else f"{count / 1e6:.3g} M"


def accuracy(scale: int, sets: dict[str, str], *, costs: bool) -> list[str]:
    """Return the rows of the table for `scale`: published ones, ours at their place by Set5."""
    computed = {"CAR (paper)": f"car_x{scale}", "CAR (MindSpore)": f"car_x{scale}"}
    rows: list[tuple[float, list[str]]] = []
    for row in published(scale):
        model = computed.get(row["system"])
        if not any(name in row for name in sets):
            continue
        mark = " (*)" if (row["system"], scale) == ("CAR (MindSpore)", 4) else ""
        cells = [row["system"] + mark, millions(row["parameters"])]
        if costs:
            cells += (
                [f"{multiply_adds(model)[1] / 1e3:,.0f} k", speed(model, "upscale")] if model else ["", ""]
            )
        cells += [quality(row.get(name)) for name in sets]
        rows.append((row.get("Set5", [0.0])[0], cells))
    for family in ("car_plus", "car_plus_large", "car_lite"):
        entry = newest(family).get(scale)
        if entry is None:
            continue
        cells = [f"**`{entry.model}`**", f"**{millions(entry.parameters)}**"]
        if costs:
            cells += [f"{multiply_adds(entry.model)[1] / 1e3:,.0f} k", speed(entry.model, "upscale")]
        cells += [f"**{q}**" if (q := quality(entry.metrics.get(name))) else "not measured" for name in sets]
        rows.append((entry.metrics["Set5"]["psnr"], cells))
    rows.sort(key=lambda row: row[0])
    # a row without Set5 goes last
    rows = [row for row in rows if row[0]] + [row for row in rows if not row[0]]
    heads = [f"{scale}x", "parameters"]
    heads += ["multiply-adds an HR pixel, restoring", "megapixels/s, restoring"] if costs else []
    heads += list(sets.values())
    return [
        "| " + " | ".join(heads) + " |",
        "|---" * len(heads) + "|",
        *(f"| {' | '.join(c)} |" for _, c in rows),
    ]


def small_pictures(families: tuple[str, ...]) -> list[str]:
    """Return the rows that say how near to bicubic ones small pictures are, and what RGB keeps."""
    lines = ["| | " + " | ".join(MEASURED) + " |", "|---" * (len(MEASURED) + 1) + "|"]
    for family in families:
        for scale, entry in sorted(newest(family).items(), reverse=True):
            m = [entry.metrics[name] for name in MEASURED]
            rows = {
                "the small picture's PSNR to the bicubic one, luma / RGB, dB": [
                    f"{x['lr_psnr']:.1f} / {x['lr_psnr_rgb']:.1f}" for x in m
                ],
                "its bytes as PNG, against the bicubic one's": [
                    f"{100 * (x['lr_bytes'] / x['bicubic_lr_bytes'] - 1):+.1f} %" for x in m
                ],
                "the restored picture's PSNR on RGB, dB": [f"{x['psnr_rgb']:.2f}" for x in m],
            }
            name = f"{scale}x" if len(families) == 1 else f"`{entry.model}`"
            lines += [f"| {name}: {what} | {' | '.join(cells)} |" for what, cells in rows.items()]
    return lines


def card(entry: ManifestEntry) -> list[str]:
    down, up = multiply_adds(entry.model)
    size = (PACKAGE / entry.file).stat().st_size
    lines = [
        f"### `{entry.tag}`",
        "",
        f"- {entry.parameters:,} parameters, {size / 1e6:.1f} MB; licence {entry.licence}",
        f"- trained {entry.trained} on {entry.data}",
        f"- `{entry.recipe}`",
        f"- multiply-adds an HR pixel: {down / 1e3:,.0f} k shrinking, {up / 1e3:,.0f} k restoring",
    ]
    speeds = [speed(entry.model, half) for half in ("downscale", "upscale")]
    if all(speeds) and entry is {e.model: e for e in manifest()}[entry.model]:  # the newest was timed
        lines.append(f"- megapixels a second: {speeds[0]} shrinking, {speeds[1]} restoring")
    if architecture(entry.model).family in ("car_plus", "car_plus_large"):
        lines.append("- known failures, with pictures: [models.md](models.md#what-goes-wrong)")
    if made_for(entry.model) == "lossy":
        lines.append(
            "- for lossy small files, whose figures are in [rate.md](rate.md); below is what PNG gives"
        )
    lines.append(
        f"- measured by `car evaluate --img-dir datasets --target-dataset Set5 --model {entry.tag}`:"
    )
    lines += [
        "",
        "| | PSNR / SSIM | PSNR on RGB | small to bicubic, luma / RGB | PNG against bicubic |",
        "|---" * 5 + "|",
    ]
    for name, m in entry.metrics.items():
        growth = 100 * (m["lr_bytes"] / m["bicubic_lr_bytes"] - 1)
        small = f"{m['lr_psnr']:.1f} / {m['lr_psnr_rgb']:.1f}"
        lines.append(f"| {name} | {quality(m)} | {m['psnr_rgb']:.2f} | {small} | {growth:+.1f} % |")
    return [*lines, ""]


def page() -> str:
    machine = json.loads((ROOT / "benchmarks" / "results.json").read_text())["machine"]
    lines = [
        "# Results",
        "",
        "Written by `make results` (`tools/results.py`); do not edit. PSNR in dB / SSIM on luma, by the",
        "protocol of the papers ([usage.md](usage.md)). Our rows are measured, the others as published.",
        "Urban100 and DIV2K were not at hand: `car evaluate --img-dir datasets --target-dataset Urban100",
        f"--scale 4` (or `DIV2KHR`) measures them. Speed: 2040x1356 pixels on {machine['cores']} cores of",
        f"{machine['cpu']}, float32, PyTorch, last run {machine['date']} ([benchmarks.md](benchmarks.md)).",
        "Multiply-adds are those of convolutions.",
        "",
        SWAPPED,
    ]
    for scale in (4, 2):
        lines += ["", *accuracy(scale, SHOWN, costs=True)]
    lines += [
        "",
        "## The small pictures",
        "",
        *small_pictures(("car_plus", "car_plus_large", "car_lite", "car_codec")),
    ]
    lines += ["", "## Weights in the package", ""]
    lines += ["Older weights are kept so that small pictures made with them restore.", ""]
    for entry in sorted(manifest(), key=lambda e: (e.model, e.tag)):
        lines += card(entry)
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--img-dir", type=Path)
    options = parser.parse_args()
    if options.img_dir:
        latest = {e.model: e for e in manifest()}
        for entry in latest.values():
            entry.metrics.update(measured(open_codec(entry.tag), options.img_dir))
        text = json.dumps([asdict(e) for e in manifest()], indent=1) + "\n"
        atomic_write(PACKAGE / "manifest.json", text.encode())
    shown = {name: SHOWN[name] for name in MEASURED}
    assert set(SHOWN) == set(DATASETS)
    block = [*accuracy(4, shown, costs=False), "", *accuracy(2, shown, costs=False), ""]
    block += [SWAPPED, "", "The small picture stays a normal thumbnail:", "", *small_pictures(("car_plus",))]
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n" + "\n".join(block) + f"\n{END}{rest.split(END)[1]}")
    (ROOT / "docs" / "results.md").write_text(page())


if __name__ == "__main__":
    main()
