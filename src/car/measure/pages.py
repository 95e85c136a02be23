"""HTML pages that load nothing: tables that can be sorted, pictures to compare under a slider."""

import base64
import html
import io
import json
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class Crops:
    """Crops of one picture, to be compared: (label, pixels ``[H, W, 3]`` uint8), all of one size."""

    title: str
    crops: tuple[tuple[str, NDArray[np.uint8]], ...]


def page(title: str, summary: str, body: Iterable[str]) -> bytes:
    """Return an HTML page of parts made by the functions below; `title` and `summary` are plain text."""
    text = resources.files("car.measure").joinpath("templates/pages.html").read_text(encoding="utf-8")
    values = {"title": html.escape(title), "summary": html.escape(summary), "body": "\n".join(body)}
    for name, value in values.items():
        text = text.replace("{{" + name + "}}", value)
    return text.encode()


def heading(text: str, detail: str = "") -> str:
    """Return a heading, and a paragraph below it if there is one; both plain text."""
    return f"<h2>{html.escape(text)}</h2>" + (f"<p>{html.escape(detail)}</p>" if detail else "")


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    sortable: bool = False,
    bold: Container[int] = (),
) -> str:
    """Return a table of plain text; in a `sortable` one, a click on a column's head sorts the rows.

    Args:
        heads: one for each column.
        rows: of cells.
        sortable: see above.
        bold: numbers of rows in bold type.
    """
    kind = ' class="sortable"' if sortable else ""
    cells = "".join(f"<th>{html.escape(head)}</th>" for head in heads)
    lines = [f'<div class="scroll"><table{kind}><thead><tr>{cells}</tr></thead><tbody>']
    for number, row in enumerate(rows):
        mark = ' class="bold"' if number in bold else ""
        lines.append(f"<tr{mark}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>")
    return "\n".join([*lines, "</tbody></table></div>"])


def plot(png_bytes: bytes, alt: str) -> str:
    """Return a plot, a PNG file."""
    return f'<p><img class="plot" alt="{html.escape(alt)}" src="{_address(png_bytes)}"></p>'


def look(look: Crops, *, left: int = 1, right: int = -1) -> str:
    """Return two crops under a slider, with menus to choose others; `left` and `right` are shown first."""
    crops = [{"name": name, "src": _address(_png(pixels))} for name, pixels in look.crops]
    data = json.dumps(crops).replace("<", "\\u003c")
    first, second = (n % len(crops) for n in (min(left, len(crops) - 1), right))
    return (
        f"<h3>{html.escape(look.title)}</h3>"
        f'<div class="look" data-left="{first}" data-right="{second}">'
        "<label>Left <select></select></label> <label>Right <select></select></label>"
        '<div class="pair"><img class="right" alt=""><img class="left" alt=""></div>'
        '<input type="range" min="0" max="100" value="50" aria-label="Where left ends">'
        f'<script type="application/json">{data}</script></div>'
    )


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _address(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
