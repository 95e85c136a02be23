"""Rate and distortion as CSV, plots and one HTML page that opens anywhere."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from car.errors import needs
from car.measure import pages
from car.measure.comparison import most_telling_crop
from car.measure.pages import Crops
from car.measure.rate import CLASSICAL, Curve, Decoded, Point, bd_rate, below, gain_at_equal_bytes, hull

_CROP = 192
_UNKNOWN = "not known, as too few points lie there or too little PSNR is common to both"
RATES = (0.15, 0.3, 0.5)
"""Bits per pixel at which crops are put side by side."""


def points_csv(found: Sequence[Point]) -> bytes:
    """Return all points, one row for each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [f.name for f in fields(Point)]
    writer.writerow(names)
    writer.writerows([getattr(point, name) for name in names] for point in found)
    return text.getvalue().encode()


def summary_of(curves: Sequence[Curve]) -> dict[str, Any]:
    """Return curves, Bjontegaard differences against each coder at full size, and gains at equal bytes."""
    direct = {c.coder: c for c in curves if c.method == "direct"}
    rows: list[dict[str, Any]] = []
    for curve in curves:
        if curve.method == "direct" or curve.qualities == (0,):
            continue
        against = {coder: bd_rate(curve.line, anchor.line) for coder, anchor in direct.items()}
        gains = gain_at_equal_bytes(curve, direct[curve.coder])
        by_quality = dict(zip(curve.qualities, gains, strict=True))
        under = below(curve, direct[curve.coder])
        at_least = [quality for quality, small in zip(curve.qualities, under, strict=True) if small]
        rows.append(
            {"name": curve.name, "bd_rate": against, "gain_db": by_quality, "gain_at_least": at_least}
        )
    hulls: list[dict[str, Any]] = []
    for coder, anchor in direct.items():
        ours = [c for c in curves if c.coder == coder and c.method not in CLASSICAL and len(c.bpp) > 1]
        if ours:
            least, most = (0.1, 0.5) if coder == "JPEG" else (0.05, 0.3)
            found = bd_rate(hull(ours), anchor.line, least, most)
            hulls.append({"coder": coder, "least_bpp": least, "most_bpp": most, "bd_rate": found})
    return {"curves": [asdict(c) | {"name": c.name} for c in curves], "differences": rows, "hulls": hulls}


def equal_bytes_crops(decoded: Sequence[Decoded], hr: NDArray[np.uint8]) -> tuple[Crops, ...]:
    """Return, for each of `RATES`, crops of one picture from each way of coding, at no higher rate."""
    image = decoded[0].point.image
    found: list[Crops] = []
    side = min(_CROP, *hr.shape[:2])
    for rate in RATES:
        best: dict[str, Decoded] = {}
        for one in decoded:
            p = one.point
            label = p.coder if p.method == "direct" else f"{p.method} {p.scale}x + {p.coder}"
            if p.method == "tuned":
                label = f"{p.coder}, our settings"
            kept = best.get(label)
            if p.quality and p.bpp <= rate * 1.02 and (kept is None or p.bpp > kept.point.bpp):
                best[label] = one
        # what spends much less is not at equal bytes
        best = {label: one for label, one in best.items() if one.point.bpp > 0.6 * rate}
        ours = max(
            (one for one in best.values() if one.point.method not in CLASSICAL),
            key=lambda one: (one.point.coder == "JPEG", one.point.psnr),
            default=None,
        )
        if ours is None or "JPEG" not in best:
            continue
        top, left = most_telling_crop(hr, ours.pixels, best["JPEG"].pixels, side)
        rows = [("original", hr)]
        # the slider opens on the first coder, JPEG at full size, and on what comes last
        for label, one in sorted(best.items(), key=lambda item: item[1] is ours):
            rows.append((f"{label}: {one.point.psnr:.2f} dB at {one.point.bpp:.3f} bpp", one.pixels))
        cut = tuple((name, pixels[top : top + side, left : left + side]) for name, pixels in rows)
        found.append(Crops(f"{image}, {rate} bits per pixel", cut))
    return tuple(found)


def plot(curves: Sequence[Curve], measure: str, title: str) -> bytes:
    """Return a PNG of rate against `measure`, the name of a field of `Curve`.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise needs("this needs matplotlib", "report") from error
    figure: Any = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    colours = {"JPEG": "#d62728", "WEBP": "#1f77b4", "AVIF": "#2ca02c", "JXL": "#9467bd", "PNG": "#555555"}
    for curve in curves:
        lossless = curve.qualities == (0,)
        style = {"direct": "--", "tuned": "-.", "bicubic": ":"}.get(curve.method, "-")
        marker = "*" if lossless else {1: "", 2: "o", 4: "s"}.get(curve.scale, "^")
        axes.plot(
            curve.bpp,
            getattr(curve, measure),
            style,
            marker=marker,
            markersize=10 if lossless else 4,
            color=colours[curve.coder],
            linewidth=1.3,
            label=curve.name,
        )
    axes.set_xscale("log")
    most = max(4.0, *(1.1 * rate for curve in curves for rate in curve.bpp))
    axes.set_xlim(0.03, most)
    ticks = [t for t in (0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 4, 8, 16) if t <= most]
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.set_xlabel("bits per HR pixel, of the whole file")
    axes.set_ylabel(measure.replace("psnr_rgb", "PSNR, RGB, dB").replace("psnr", "PSNR, luma, dB"))
    axes.set_title(title)
    if all(math.isnan(value) for curve in curves for value in getattr(curve, measure)):
        axes.text(0.5, 0.5, "not known of pictures under 176 pixels", transform=axes.transAxes, ha="center")
    axes.legend(fontsize=8, ncols=2)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def body(found: dict[str, Any], plots: Sequence[bytes], looks: Sequence[Crops]) -> list[str]:
    """Return the parts of an HTML page of what `summary_of` returned; see `car.measure.pages`."""
    parts = [pages.heading("Rate and distortion"), *(pages.plot(content, "plot") for content in plots)]
    coders = sorted({coder for row in found["differences"] for coder in row["bd_rate"]})
    if rows := _differences(found, coders):
        text = "Bjontegaard's difference of rates; less is better."
        if any(not cell for row in rows for cell in row):
            text += " A cell is empty if the curves have too little PSNR in common."
        parts.append(pages.heading("Bits for the same PSNR", text))
        parts.append(pages.table(("", *(f"against {coder}" for coder in coders)), rows))
    heads = ("", "quality", "bpp", "PSNR", "PSNR, RGB", "SSIM", "MS-SSIM", "encode, s", "decode, s")
    names = ("bpp", "psnr", "psnr_rgb", "ssim", "ms_ssim", "encode_seconds", "decode_seconds")
    points = [
        (curve["name"], str(quality or ""), *(_cell(curve[name][n]) for name in names))
        for curve in found["curves"]
        for n, quality in enumerate(curve["qualities"])
    ]
    parts += [pages.heading("All curves"), pages.table(heads, points, sortable=True)]
    if looks:
        parts.append(pages.heading("At equal bytes"))
    return [*parts, *(pages.look(look) for look in looks)]


def tables(found: dict[str, Any]) -> str:
    """Return the result of `summary_of` as tables of Markdown."""
    coders = sorted({coder for row in found["differences"] for coder in row["bd_rate"]})
    lines = [
        "| bits for the same PSNR, against | " + " | ".join(coders) + " |",
        "|---|" + "---|" * len(coders),
    ]
    lines += [f"| {' | '.join(row)} |" for row in _differences(found, coders)]
    lines.append("")
    lines += [
        f"The better of ours at each rate, {item['least_bpp']} to {item['most_bpp']} bits per pixel, as "
        f"{item['coder']} against {item['coder']} at full size: {_percent(item['bd_rate']) or _UNKNOWN}"
        for item in found["hulls"]
    ]
    heads = ("", "quality", "bits per pixel", "PSNR, dB", "above the same coder at full size, dB")
    lines += ["", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    differences = {row["name"]: row for row in found["differences"]}
    for curve in found["curves"]:
        for n, quality in enumerate(curve["qualities"]):
            cells = (curve["name"], quality or "", f"{curve['bpp'][n]:.3f}", f"{curve['psnr'][n]:.2f}")
            gain = _gain(differences.get(curve["name"]), quality)
            lines.append("| " + " | ".join(map(str, cells)) + f" | {gain} |")
    return "\n".join(lines) + "\n"


def _differences(found: dict[str, Any], coders: Sequence[str]) -> list[tuple[str, ...]]:
    """Return a name and a cell for each coder; rows without any value are left out."""
    rows = (
        (row["name"], *(_percent(row["bd_rate"].get(coder)) for coder in coders))
        for row in found["differences"]
    )
    return [row for row in rows if any(row[1:])]


def _gain(row: dict[str, Any] | None, quality: int) -> str:
    gain = row["gain_db"].get(quality, math.nan) if row else math.nan
    if row is None or math.isnan(gain):
        return ""
    return f"{'at least ' if quality in row['gain_at_least'] else ''}{gain:+.2f}"


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:+.1f} %"
