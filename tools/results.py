"""Write the tables of results: docs/results.md, and those of README.md between their markers.

    python tools/results.py

Figures of ours come from ``results/`` (accuracy, by tools/measure_results.py) and ``benchmarks/results/``
(speed, by `make bench`), those of others from ``src/car/measure/published.json``.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import torch
from measure_results import MANIFEST, ROOT, SETS, means
from torch.utils.flop_counter import FlopCounterMode

from car.families import made_for
from car.measure.evaluate import DATASETS, told
from car.measure.model_report import published
from car.models import create
from car.weights import ManifestEntry, manifest

sys.path.insert(0, str(ROOT / "benchmarks"))
from common import about, recorded

BEGIN, END = "<!-- results: made by tools/results.py -->", "<!-- end of results -->"
SHOWN = {name: {"DIV2KHR": "DIV2K val"}.get(name, name) for name in DATASETS}
MAIN, SCALES = (4, 2), (4, 3, 2)
"""The scales of the tables in README.md, and in docs/results.md."""
FAMILIES = ("car_plus", "car_plus_large", "car_lite", "car_codec")
SWAPPED = (
    "(*) Compared with the paper, this row's figures of Set14 and BSDS100 look as if they had been exchanged."
)
PLAIN = "bicubic down + bicubic up"

Row = tuple[float, list[str]]
"""What a row is sorted by, and its cells."""


def main() -> None:
    """Write both files."""
    block = [line for scale in MAIN for line in (*leading(scale), "")]
    block += ["[All results](docs/results.md) have a table for `car_plus_x3` too.", ""]
    block += ["The small picture of a photograph stays close to a normal thumbnail:", ""]
    block += [*small_pictures(("car_plus",), MAIN), *speeds()]
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n" + "\n".join(block) + f"\n{END}{rest.split(END)[1]}")
    (ROOT / "docs" / "results.md").write_text(page())


def page() -> str:
    """Return docs/results.md."""
    machine = measured().get("machine")
    where = f"measured on {about(machine)}" if machine else "not measured yet"
    lines = f"""# Results

`make results` (`tools/results.py`) writes this page, so do not edit it. All figures follow the protocol of
the papers ([measuring](usage.md#measuring)). `car evaluate` measured our rows; [the folder
results/](../results) has the figures of each picture. The other rows are as published. "-" means that nobody
published or measured a figure.

We had no Urban100 and no DIV2K. To measure them, use `car evaluate --img-dir datasets --target-dataset
Urban100 --scale 4` (or `DIV2KHR`).

Speeds are those of 2040x1356 pixels in float32 ([time and memory](benchmarks.md#models)), {where}.
onnxruntime runs our compact models, PyTorch the paper's. Multiply-adds are
those of the convolutions.

## Luma

Each cell has PSNR in dB and SSIM, both on luma, as in all papers.

{SWAPPED}""".split("\n")
    for scale in SCALES:
        lines += ["", *on_luma(scale)]
    lines += ["", "## Colour", "", *COLOUR.split("\n")]
    for scale in SCALES:
        lines += ["", *in_colour(scale)]
    lines += ["", *OTHERS.split("\n"), "", *others()]
    lines += ["", "## The small pictures", "", *SIZES.split("\n"), "", *small_pictures(FAMILIES, SCALES)]
    lines += ["", "## Weights in the package", ""]
    for entry in sorted(manifest(), key=lambda e: (e.model, e.tag)):
        lines += card(entry)
    return "\n".join(lines).rstrip() + "\n"


COLOUR = """\
Luma is a weighted mean of red, green and blue, so it does not show errors of colour. Of two models with the
same PSNR on luma, one may restore pale or blotched colours. Each cell below has PSNR in dB over RGB, of Cb
and of Cr, and SSIMULACRA2. SSIMULACRA2 agrees with observers better than PSNR does: 90 is visually lossless,
70 high quality, 50 medium and 30 low quality. The means of Cb and Cr leave out the grey pictures (`bridge`
and `man` of Set14), which have no colour to restore."""

SIZES = """\
Bytes are compared picture by picture, and the percentages are means over the pictures. The small picture of a
grey picture is in colour, because it then restores better. For the two grey pictures of Set14, it has 2.6
times the bytes of a grey bicubic picture, as WebP."""

OTHERS = """\
Some papers published figures of colour, and of their small pictures. Each cell has PSNR on luma and over RGB
in dB. "Restored" compares the restored picture with the original, and "small picture" compares the small
picture with the bicubic one:"""


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table of Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]


def leading(scale: int) -> list[str]:
    """Return the table of README.md for `scale`: luma, RGB, SSIMULACRA2."""

    def cell(values: dict[str, Any]) -> str:
        return joined(values, psnr=".2f", psnr_rgb=".2f", ssimulacra2=".0f")

    known = ("CAR (paper)", "IRN")
    rows: list[Row] = [
        (row["Set5"]["psnr"], [row["system"], millions(row["parameters"]), *(cell(row[s]) for s in SETS)])
        for row in published(scale)
        if row["system"] in known
    ]
    rows += ours(scale, FAMILIES[:3], lambda side: [cell(side.get(s, {})) for s in SETS])
    return table([f"{scale}x: luma / RGB / SSIMULACRA2", "parameters", *SETS], in_order(rows))


def on_luma(scale: int) -> list[str]:
    """Return the table for `scale` of what all papers measure, with costs."""
    computed = {"CAR (paper)": f"car_x{scale}", "CAR (MindSpore)": f"car_x{scale}"}
    rows: list[Row] = []
    for row in published(scale):
        mark = " (*)" if (row["system"], scale) == ("CAR (MindSpore)", 4) else ""
        cells = [row["system"] + mark, millions(row["parameters"]), *costs(computed.get(row["system"]))]
        rows.append((row.get("Set5", {}).get("psnr", 0), cells + [quality(row.get(s)) for s in SHOWN]))
    own = ours(scale, FAMILIES[:3], lambda side: [quality(side.get(s)) for s in SHOWN])
    names = {f"**`{entry.model}`**": entry.model for entry in manifest()}
    for key, cells in own:
        if cells[0] in names:
            rows.append((key, [*cells[:2], *costs(names[cells[0]]), *cells[2:]]))
    heads = [f"{scale}x", "parameters", "multiply-adds an HR pixel, restoring", "megapixels/s, restoring"]
    return table([*heads, *SHOWN.values()], in_order(rows))


def in_colour(scale: int) -> list[str]:
    """Return the table for `scale` of RGB, chroma and SSIMULACRA2."""

    def cell(values: dict[str, Any]) -> str:
        return joined(values, psnr_rgb=".2f", psnr_cb=".2f", psnr_cr=".2f", ssimulacra2=".1f")

    rows = ours(scale, FAMILIES, lambda side: [cell(side.get(s, {})) for s in SETS])
    heads = [f"{scale}x: RGB / Cb / Cr / SSIMULACRA2", "parameters", *SETS]
    return table(heads, in_order(rows))


def others() -> list[str]:
    """Return the rows of those who published more than luma."""
    fields = ("psnr", "psnr_rgb", "lr_psnr", "lr_psnr_rgb")
    rows: list[list[str]] = []
    for scale in (1.5, 2, 2.5, 3.5, 4):
        for row in published(scale):
            for name in SHOWN:
                cells = [told(row.get(name, {}).get(field), ".2f") for field in fields]
                if cells[1] != "-":
                    cells = [" / ".join(pair) for pair in (cells[:2], cells[2:])]
                    rows.append([f"{row['system']}, {scale:g}x", SHOWN[name], *cells])
    return table(["", "pictures", "restored", "small picture"], rows)


def ours(
    scale: int, families: Sequence[str], cells: Callable[[dict[str, dict[str, Any]]], list[str]]
) -> list[Row]:
    """Return the rows of bicubic, measured here, and of our models; `cells` makes them of set -> measures."""
    rows: list[Row] = []
    for entry in manifest():
        family, _, own = entry.model.rpartition("_x")
        measured = means(entry.tag)
        if int(own) != scale or family not in families or "Set5" not in measured:
            continue
        sides = {side: {s: m[side] for s, m in measured.items()} for side in ("model", "bicubic")}
        bold = [f"**{cell}**" if cell.strip("-/ ") else cell for cell in cells(sides["model"])]
        names = [f"**`{entry.model}`**", f"**{millions(entry.parameters)}**"]
        rows.append((sides["model"]["Set5"]["psnr"], names + bold))
        plain = (sides["bicubic"]["Set5"]["psnr"], [PLAIN, "0", *cells(sides["bicubic"])])
        if len(measured) == len(SETS) or not any(row[1][0] == PLAIN for row in rows):
            rows = [row for row in rows if row[1][0] != PLAIN] + [plain]
    return rows


def in_order(rows: Iterable[Row]) -> list[list[str]]:
    """Return the cells of rows, sorted; one without Set5 goes last."""
    return [cells for _, cells in sorted(rows, key=lambda row: row[0] or float("inf"))]


def small_pictures(families: Sequence[str], scales: Sequence[int]) -> list[str]:
    """Return the table of how near small pictures are to bicubic ones, and of restored colour."""
    rows: list[list[str]] = []
    for family in families:
        for entry in sorted(manifest(), key=lambda e: e.model, reverse=True):
            name, _, scale = entry.model.rpartition("_x")
            if name != family or int(scale) not in scales:
                continue
            found = means(entry.tag)
            for what, cell in SMALL.items():
                cells = [cell(found[images]) if images in found else "-" for images in SETS]
                rows.append([f"`{entry.model}`: {what}", *cells])
    return table(["", *SETS], rows)


SMALL: dict[str, Callable[[dict[str, Any]], str]] = {
    "the small picture's PSNR to the bicubic one, luma / RGB, dB": lambda m: joined(
        m["model"], lr_psnr=".1f", lr_psnr_rgb=".1f"
    ),
    "its SSIMULACRA2 to the bicubic one": lambda m: joined(m["model"], lr_ssimulacra2=".0f"),
    "its bytes over the bicubic one's, PNG / lossless WebP, %": lambda m: joined(
        m["growth"], lr_png="+.1f", lr_webp="+.1f"
    ),
    "restored colour: PSNR of Cb / Cr, dB (by bicubic)": lambda m: "{} ({})".format(
        *(joined(m[side], psnr_cb=".1f", psnr_cr=".1f") for side in ("model", "bicubic"))
    ),
}
"""Rows of `small_pictures`: what is told, and the cell made of the means of a set."""


def card(entry: ManifestEntry) -> list[str]:
    """Return the section about some weights."""
    down, up = multiply_adds(entry.model)
    size = (MANIFEST.parent / entry.file).stat().st_size
    lines = [
        f"### `{entry.tag}`",
        "",
        f"- {entry.parameters:,} parameters, {size / 1e6:.1f} MB; licence {entry.licence}",
        f"- trained {entry.trained} on {entry.data}",
        f"- `{entry.recipe}`",
        f"- multiply-adds an HR pixel: {down / 1e3:,.0f} k shrinking, {up / 1e3:,.0f} k restoring",
    ]
    speeds = [speed(entry.model, half) for half in ("downscale", "upscale")]
    if "-" not in speeds:
        lines.append(f"- megapixels a second: {speeds[0]} shrinking, {speeds[1]} restoring")
    if made_for(entry.model) == "lossless":
        lines.append("- known failures, with pictures: [what goes wrong](models.md#what-goes-wrong)")
    if made_for(entry.model) == "lossy":
        lines.append("- made for [lossy small files](rate.md); the figures below are those of PNG files")
    command = f"car evaluate --img-dir datasets --target-dataset Set5 --model {entry.tag}"
    lines += [f"- measured by `{command}`:", ""]
    heads = [
        "",
        "luma",
        "RGB",
        "Cb / Cr",
        "SSIMULACRA2",
        "small: luma / RGB",
        "SSIMULACRA2",
        "PNG, WebP, bytes",
    ]
    rows: list[list[str]] = []
    for name, mean in means(entry.tag).items():
        growth = f" ({mean['growth']['lr_png']:+.1f} %, {mean['growth']['lr_webp']:+.1f} %)"
        for side, label, more in (("model", name, growth), ("bicubic", f"{name}, bicubic", "")):
            m = mean[side]
            pairs = [
                joined(m, psnr_rgb=".2f"),
                joined(m, psnr_cb=".2f", psnr_cr=".2f"),
                joined(m, ssimulacra2=".1f"),
                joined(m, lr_psnr=".1f", lr_psnr_rgb=".1f"),
                joined(m, lr_ssimulacra2=".1f"),
            ]
            rows.append([label, quality(m), *pairs, f"{m['lr_png']:,.0f}, {m['lr_webp']:,.0f}{more}"])
    return [*lines, *table(heads, rows), ""]


@cache
def multiply_adds(model: str) -> tuple[float, float]:
    """Return multiply-adds of shrinking and of restoring, for each HR pixel, in the convolutions."""
    rescaler = create(model)
    side = 64 * rescaler.geometry.scale

    def counted(half: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> tuple[float, torch.Tensor]:
        with FlopCounterMode(display=False) as counter:
            y = half(x)
        flops = counter.get_flop_counts()["Global"]
        return sum(n for op, n in flops.items() if "convolution" in str(op)) / 2 / side**2, y

    with torch.no_grad():
        down, small = counted(rescaler.downscale, torch.zeros(1, 3, side, side))
        up, _ = counted(rescaler.upscale, small)
    return down, up


def costs(model: str | None) -> list[str]:
    """Return what restoring by `model` costs: multiply-adds an HR pixel, megapixels a second."""
    return [f"{multiply_adds(model)[1] / 1e3:,.0f} k", speed(model, "upscale")] if model else ["-", "-"]


def speeds() -> list[str]:
    """Return the paragraph of README.md about speed; nothing if none was measured."""
    if not (machine := measured().get("machine")):
        return []
    told = [
        f"`car_plus_x{scale}` shrinks {speed(f'car_plus_x{scale}', 'downscale')} megapixels a second and "
        f"restores {speed(f'car_plus_x{scale}', 'upscale')}."
        for scale in MAIN
    ]
    return [
        "",
        f"Speed in megapixels of the original, on {machine['cores']} cores of {machine['cpu']} "
        f"({', '.join(machine['features'])}), in float32: {' '.join(told)} Shrinking takes "
        "longer because it restores each small picture to correct it, at 4x twice. `--fast` leaves that out "
        "([time and memory](docs/benchmarks.md)).",
    ]


def measured() -> dict[str, Any]:
    """Return the newest speeds of all models; empty if there are none."""
    return next(iter(recorded("models")), {})


def speed(model: str, half: str) -> str:
    """Return megapixels a second."""
    rows = [r for r in measured().get("rows", ()) if (r["model"], r["step"]) == (model, half)]
    return f"{rows[0]['megapixels'] / rows[0]['median_s']:.2f}" if rows else "-"


def joined(values: dict[str, Any], **forms: str) -> str:
    """Return several measures in a cell, or "-" where none is known."""
    cells = [told(values.get(name), form) for name, form in forms.items()]
    return " / ".join(cells) if set(cells) != {"-"} else "-"


def quality(values: dict[str, Any] | None) -> str:
    """Return PSNR / SSIM on luma."""
    values = values or {}
    cells = (told(values.get("psnr"), ".2f"), told(values.get("ssim"), ".4f").removeprefix("0"))
    return " / ".join(cells) if values else "-"


def millions(count: int | None) -> str:
    """Return a number of parameters."""
    return "-" if count is None else f"{count / 1e6:.3g} M" if count else "0"


if __name__ == "__main__":
    main()
