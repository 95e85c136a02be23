"""Rate and distortion as CSV, plots and one HTML page that opens anywhere."""

import base64
import csv
import html
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from car.errors import UsageError
from car.rate import Curve, Decoded, Point, bd_rate, gain_at_equal_bytes, hull
from car.report import most_telling_crop

_CROP = 192
RATES = (0.15, 0.3, 0.5)
"""Bits per pixel at which crops are put side by side."""


@dataclass(frozen=True)
class Crops:
    """Crops of one picture at about equal bytes: the original first, then (label, pixels)."""

    image: str
    rate: float
    crops: tuple[tuple[str, NDArray[np.uint8]], ...]


def points_csv(found: Sequence[Point]) -> bytes:
    """Return all points, a row each."""
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
        line = tuple(zip(curve.bpp, curve.psnr, strict=True))
        against = {c: bd_rate(line, tuple(zip(a.bpp, a.psnr, strict=True))) for c, a in direct.items()}
        gains = gain_at_equal_bytes(curve, direct[curve.coder])
        by_quality = dict(zip(curve.qualities, gains, strict=True))
        rows.append({"name": curve.name, "bd_rate": against, "gain_db": by_quality})
    hulls: list[dict[str, Any]] = []
    for coder, anchor in direct.items():
        ours = [c for c in curves if c.coder == coder and c.method.startswith("car_codec") and len(c.bpp) > 1]
        if ours:
            least, most = (0.1, 0.5) if coder == "JPEG" else (0.05, 0.3)
            line = tuple(zip(anchor.bpp, anchor.psnr, strict=True))
            found = bd_rate(hull(ours), line, least, most)
            hulls.append({"coder": coder, "least_bpp": least, "most_bpp": most, "bd_rate": found})
    return {"curves": [asdict(c) | {"name": c.name} for c in curves], "differences": rows, "hulls": hulls}


def equal_bytes_crops(decoded: Sequence[Decoded], hr: NDArray[np.uint8]) -> tuple[Crops, ...]:
    """Return, for each of `RATES`, what each way of coding makes of one picture with no more bytes."""
    image = decoded[0].point.image
    found: list[Crops] = []
    side = min(_CROP, *hr.shape[:2])
    for rate in RATES:
        best: dict[str, Decoded] = {}
        for one in decoded:
            p = one.point
            label = p.coder if p.method == "direct" else f"{p.method} {p.scale}x + {p.coder}"
            kept = best.get(label)
            if p.quality and p.bpp <= rate * 1.02 and (kept is None or p.bpp > kept.point.bpp):
                best[label] = one
        # what spends much less is not at equal bytes
        best = {label: one for label, one in best.items() if one.point.bpp > 0.6 * rate}
        ours = max(
            (d for k, d in best.items() if k.startswith("car")), key=lambda d: d.point.psnr, default=None
        )
        if ours is None or "JPEG" not in best:
            continue
        top, left = most_telling_crop(hr, ours.pixels, best["JPEG"].pixels, side)
        rows = [("original", hr)]
        for label, one in best.items():
            rows.append((f"{label}: {one.point.psnr:.2f} dB at {one.point.bpp:.3f} bpp", one.pixels))
        cut = tuple((name, pixels[top : top + side, left : left + side]) for name, pixels in rows)
        found.append(Crops(image, rate, cut))
    return tuple(found)


def plot(curves: Sequence[Curve], measure: str, title: str) -> bytes:
    """Return a PNG of rate against `measure`, the name of a field of `Curve`.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("this needs matplotlib: pip install 'content-adaptive-resampler[report]'") from error
    figure: Any = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    colours = {"JPEG": "#d62728", "WEBP": "#1f77b4", "AVIF": "#2ca02c", "JXL": "#9467bd", "PNG": "#555555"}
    for curve in curves:
        lossless = curve.qualities == (0,)
        style = "--" if curve.method == "direct" else ":" if curve.method == "bicubic" else "-"
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
    axes.set_xlim(0.03, 4)
    ticks = (0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 4)
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.set_xlabel("bits per HR pixel, of the whole file")
    axes.set_ylabel(measure.replace("psnr_rgb", "PSNR, RGB, dB").replace("psnr", "PSNR, luma, dB"))
    axes.set_title(title)
    axes.legend(fontsize=8, ncols=2)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def page(
    title: str, summary: str, found: dict[str, Any], plots: Sequence[bytes], looks: Sequence[Crops]
) -> bytes:
    """Return the HTML page; it loads nothing."""
    body = ["<h2>Rate and distortion</h2>"]
    body += [f'<p><img class="plot" alt="plot" src="{_address(content)}"></p>' for content in plots]
    coders = sorted({coder for row in found["differences"] for coder in row["bd_rate"]})
    body.append("<h2>Bits for the same PSNR</h2><p>Bjontegaard's difference of rates; less is better.</p>")
    head = "".join(f"<th>against {coder}</th>" for coder in coders)
    body.append(f'<div class="scroll"><table><tr><th></th>{head}</tr>')
    for row in found["differences"]:
        cells = "".join(f"<td>{_percent(row['bd_rate'].get(coder))}</td>" for coder in coders)
        body.append(f"<tr><td>{html.escape(row['name'])}</td>{cells}</tr>")
    body.append("</table></div>")
    body.append("<h2>All curves</h2><div class='scroll'><table>")
    heads = ("", "quality", "bpp", "PSNR", "PSNR, RGB", "SSIM", "MS-SSIM", "encode, s", "decode, s")
    body.append("<tr>" + "".join(f"<th>{h}</th>" for h in heads) + "</tr>")
    names = ("bpp", "psnr", "psnr_rgb", "ssim", "ms_ssim", "encode_seconds", "decode_seconds")
    for curve in found["curves"]:
        for n, quality in enumerate(curve["qualities"]):
            cells = "".join(f"<td>{curve[name][n]:.4g}</td>" for name in names)
            body.append(f"<tr><td>{html.escape(curve['name'])}</td><td>{quality or ''}</td>{cells}</tr>")
    body.append("</table></div>")
    if looks:
        body.append("<h2>At equal bytes</h2>")
    for look in looks:
        crops = [{"name": name, "src": _address(_png(pixels))} for name, pixels in look.crops]
        data = json.dumps(crops).replace("<", "\\u003c")
        body.append(
            f"<h3>{html.escape(look.image)}, {look.rate} bits per pixel</h3>"
            '<div class="look"><label>Left <select></select></label> <label>Right <select></select></label>'
            '<div class="pair"><img class="right" alt=""><img class="left" alt=""></div>'
            '<input type="range" min="0" max="100" value="50" aria-label="Where left ends">'
            f'<script type="application/json">{data}</script></div>'
        )
    text = resources.files("car").joinpath("rate_report.html").read_text(encoding="utf-8")
    values = {"title": html.escape(title), "summary": html.escape(summary), "body": "\n".join(body)}
    for name, value in values.items():
        text = text.replace("{{" + name + "}}", value)
    return text.encode()


def tables(found: dict[str, Any]) -> str:
    """Return the result of `summary_of` as tables of Markdown."""
    coders = sorted({coder for row in found["differences"] for coder in row["bd_rate"]})
    lines = [
        "| bits for the same PSNR, against | " + " | ".join(coders) + " |",
        "|---|" + "---|" * len(coders),
    ]
    for row in found["differences"]:
        cells = (_percent(row["bd_rate"].get(coder)) for coder in coders)
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    lines.append("")
    lines += [
        f"The better of ours at each rate, {item['least_bpp']} to {item['most_bpp']} bits per pixel, as "
        f"{item['coder']} against {item['coder']} at full size: {_percent(item['bd_rate']) or 'no overlap'}"
        for item in found["hulls"]
    ]
    heads = ("", "quality", "bits per pixel", "PSNR, dB", "above the same coder at full size, dB")
    lines += ["", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    gains = {row["name"]: row["gain_db"] for row in found["differences"]}
    for curve in found["curves"]:
        for n, quality in enumerate(curve["qualities"]):
            gain = gains.get(curve["name"], {}).get(quality, math.nan)
            cells = (curve["name"], quality or "", f"{curve['bpp'][n]:.3f}", f"{curve['psnr'][n]:.2f}")
            lines.append(
                "| " + " | ".join(map(str, cells)) + f" | {'' if math.isnan(gain) else f'{gain:+.2f}'} |"
            )
    return "\n".join(lines) + "\n"


def _percent(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:+.1f} %"


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _address(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
