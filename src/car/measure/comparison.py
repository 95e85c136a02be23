"""Comparison pictures: original, small picture, bicubic and ours."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_MARGIN = 16
_PANEL = 384  # side of a zoomed crop, in pixels
_CAPTION = 52  # pixels above a panel
_BACKGROUND, _INK, _FRAME = (250, 250, 250), (30, 30, 30), (220, 40, 40)


@dataclass(frozen=True)
class Caption:
    """A panel's title and the line of numbers below it."""

    title: str
    detail: str = ""


def most_telling_crop(
    hr: NDArray[np.uint8], ours: NDArray[np.uint8], other: NDArray[np.uint8], side: int
) -> tuple[int, int]:
    """Return (top, left) of the `side`-pixel square where `ours` improves most on `other`.

    All ``[H, W, 3]`` uint8, H and W at least `side`.
    """

    def error(image: NDArray[np.uint8]) -> NDArray[np.float64]:
        return np.square(image.astype(np.float64) - hr).sum(axis=2)

    gain = error(other) - error(ours)
    table = np.pad(gain.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    sums = table[side:, side:] - table[:-side, side:] - table[side:, :-side] + table[:-side, :-side]
    top, left = np.unravel_index(np.argmax(sums), sums.shape)
    return int(top), int(left)


def comparison_picture(
    hr: NDArray[np.uint8],
    lr: NDArray[np.uint8],
    bicubic: NDArray[np.uint8],
    restored: NDArray[np.uint8],
    captions: Sequence[Caption],
) -> Image.Image:
    """Lay out the original, the small picture at its own size and a zoomed crop of all four.

    Args:
        hr: the original, ``[H, W, 3]`` uint8.
        lr: the small picture, ``[h, w, 3]`` uint8.
        bicubic: the bicubic restoration, the size of `hr`.
        restored: our restored picture, the size of `hr`.
        captions: for original, small picture, bicubic and ours, in this order.
    """
    height, width = hr.shape[:2]
    scale = height // lr.shape[0]
    side = min(128, height // scale * scale, width // scale * scale)
    top, left = most_telling_crop(hr, restored, bicubic, side)
    top, left = top // scale * scale, left // scale * scale

    inner = 4 * _PANEL + 3 * _MARGIN
    small = Image.fromarray(lr)
    shown = small.crop((0, 0, min(small.width, inner // 2), min(small.height, inner // 2)))
    overview = Image.fromarray(hr)
    overview.thumbnail((inner - _MARGIN - shown.width, 2 * _PANEL), Image.Resampling.LANCZOS)
    ratio = overview.width / width
    frame = ImageDraw.Draw(overview)
    frame.rectangle(
        [left * ratio, top * ratio, (left + side) * ratio, (top + side) * ratio], outline=_FRAME, width=2
    )

    def zoom(image: NDArray[np.uint8], y: int, x: int, n: int) -> Image.Image:
        return Image.fromarray(image[y : y + n, x : x + n]).resize((_PANEL, _PANEL), Image.Resampling.NEAREST)

    crops = (
        zoom(hr, top, left, side),
        zoom(lr, top // scale, left // scale, side // scale),
        zoom(bicubic, top, left, side),
        zoom(restored, top, left, side),
    )
    first_row = max(overview.height, shown.height)
    size = (inner + 2 * _MARGIN, first_row + _PANEL + 2 * _CAPTION + 4 * _MARGIN)
    canvas = Image.new("RGB", size, _BACKGROUND)
    cut = "" if shown.size == small.size else " (a part of it)"
    about = Caption("Original", f"{width} x {height}; the frame is shown below")
    _place(canvas, overview, _MARGIN, _MARGIN, about)
    about = Caption("The small picture, pixel for pixel", f"{small.width} x {small.height}{cut}")
    _place(canvas, shown, 2 * _MARGIN + overview.width, _MARGIN, about)
    for i, (crop, text) in enumerate(zip(crops, captions, strict=True)):
        _place(canvas, crop, _MARGIN + i * (_PANEL + _MARGIN), 3 * _MARGIN + _CAPTION + first_row, text)
    return canvas


def _place(canvas: Image.Image, image: Image.Image, x: int, y: int, text: Caption) -> None:
    draw = ImageDraw.Draw(canvas)
    draw.text((x, y), text.title, _INK, ImageFont.load_default(20))
    draw.text((x, y + 26), text.detail, _INK, ImageFont.load_default(16))
    canvas.paste(image, (x, y + _CAPTION))
