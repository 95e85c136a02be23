"""The kernels that a downscaler without kernels is equivalent to at a few small pixels, by its gradient."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from car.measure.kernels import NumberedFigure, Place, middle, telling_pixels
from car.metrics import LUMA_WEIGHTS
from car.models import Rescaler
from car.pictures.depth import eight_bit
from car.pictures.read import read

Channel = Literal["luma", "red", "green", "blue"]
_CELLS = 3  # small pixels on each side of the own one that are shown


@dataclass(frozen=True)
class EquivalentKernel:
    """How a small pixel follows the original pixels around it; lengths in HR pixels.

    Attributes:
        x: column of the original at the middle of the small pixel.
        y: its row.
        total: the sum of all weights; 1 keeps the brightness.
        width: deviation of the absolute weights from the middle of the small pixel, along one axis.
        negative: share of the absolute weight that is negative.
        outside: share of the absolute weight that lies further away than three small pixels.
        other_colours: share of the absolute weight that lies on other colours; 0 for luma.
    """

    x: int
    y: int
    total: float
    width: float
    negative: float
    outside: float
    other_colours: float


@dataclass(frozen=True)
class GradientView:
    """The HR crop, uint8 ``[H, W, 3]``, its small pixels (row, column), their kernels ``[n, 7s, 7s]``."""

    hr: NDArray[np.uint8]
    scale: int
    pixels: tuple[tuple[int, int], ...]
    kernels: NDArray[np.float32]


def inspect_gradients(
    rescaler: Rescaler,
    path: Path,
    *,
    channel: Channel = "luma",
    at: Sequence[Place] = (),
    **read_options: Any,
) -> tuple[tuple[EquivalentKernel, ...], GradientView]:
    """Return the equivalent kernels of up to six small pixels of one image.

    The downscaler is not linear. Around one picture, it acts as its gradient: the change of a small pixel for
    a small change of each original pixel. For luma, all three colours of the original pixel change by the
    same amount. For a colour, the kernel shows the same colour of the original.

    Args:
        rescaler: the networks, on any device.
        path: the image; its values are taken as 8 bit.
        channel: of the small pixel.
        at: columns and rows of the original, within 512 pixels; by default the six with the strongest edges
            in the middle of the image.
        read_options: those of `car.pictures.read.read`.

    Raises:
        UsageError: the places do not lie in the image, or lie too far apart.
        ImageError: the image cannot be read or is too small.
    """
    geometry = rescaler.geometry
    scale = geometry.scale
    crop, (top, left) = middle(eight_bit(read(path, **read_options).pixels), geometry, at, path)
    pixels = tuple(((y - top) // scale, (x - left) // scale) for x, y in at) or telling_pixels(crop, scale)
    gradients = _gradients(rescaler, crop, pixels, channel)
    own = gradients.sum(1) if channel == "luma" else gradients[:, get_args(Channel).index(channel) - 1]
    reach = _CELLS * scale
    padded = np.pad(own, ((0, 0), (reach, reach), (reach, reach)))
    side = 2 * reach + scale
    kernels = np.stack(
        [
            padded[n, row * scale : row * scale + side, column * scale : column * scale + side]
            for n, (row, column) in enumerate(pixels)
        ]
    )
    every = np.abs(own).sum((1, 2))
    others = 0 * every if channel == "luma" else np.abs(gradients).sum((1, 2, 3)) - every
    found = tuple(
        EquivalentKernel(
            x=left + column * scale + scale // 2,
            y=top + row * scale + scale // 2,
            total=float(own[n].sum()),
            width=_deviation(own[n], row, column, scale),
            negative=float(-own[n].clip(max=0).sum() / every[n]),
            outside=float(1 - np.abs(kernels[n]).sum() / every[n]),
            other_colours=float(others[n] / (others[n] + every[n])),
        )
        for n, (row, column) in enumerate(pixels)
    )
    return found, GradientView(crop, scale, pixels, kernels)


def _gradients(
    rescaler: Rescaler, crop: NDArray[np.uint8], pixels: Sequence[tuple[int, int]], channel: Channel
) -> NDArray[np.float32]:
    """Return the gradient of each small pixel, ``[n, 3, H, W]``: one colour of it, or its luma."""
    tensor = torch.from_numpy(crop).permute(2, 0, 1)[None].float().div(255)
    weights = torch.zeros(3)
    if channel == "luma":
        weights += torch.tensor(LUMA_WEIGHTS) / sum(LUMA_WEIGHTS)  # of grey, luma then has its value
    else:
        weights[get_args(Channel).index(channel) - 1] = 1
    g = rescaler.geometry
    height, width = (
        min(n, -(-(2 * g.halo_down + g.scale) // g.multiple) * g.multiple) for n in crop.shape[:2]
    )
    found = np.zeros((len(pixels), 3, *crop.shape[:2]), np.float32)
    for n, (row, column) in enumerate(pixels):
        # what lies beyond the receptive field has no influence, so a part of the crop is enough
        top, left = (
            max(0, min(size - part, at * g.scale + g.scale // 2 - part // 2)) // g.multiple * g.multiple
            for size, part, at in zip(crop.shape[:2], (height, width), (row, column), strict=True)
        )
        hr = tensor[:, :, top : top + height, left : left + width].clone().requires_grad_()
        small = rescaler.downscale(hr)[0, :, row - top // g.scale, column - left // g.scale]
        (gradient,) = torch.autograd.grad((small * weights.to(small)).sum(), hr)
        found[n, :, top : top + height, left : left + width] = gradient[0].numpy()
    return found


def _deviation(kernel: NDArray[np.float32], row: int, column: int, scale: int) -> float:
    size = np.abs(kernel)
    y, x = (
        np.arange(n) - (at + 0.5) * scale + 0.5 for n, at in zip(kernel.shape, (row, column), strict=True)
    )
    square = (size * (np.square(y)[:, None] + np.square(x))).sum() / size.sum() / 2
    return math.sqrt(float(square))


def gradients_picture(view: GradientView, model: str, channel: Channel) -> Image.Image:
    """Draw the crop, the mean kernel and that of each small pixel; red is positive, blue negative.

    Raises:
        UsageError: matplotlib is missing.
    """
    title = f"{model}: how the {channel} of a small pixel follows the original (red: more, blue: less)"
    figure = NumberedFigure(view.hr, view.scale, view.pixels, 4, title)
    side = view.kernels.shape[1]
    edge = view.scale / 2
    largest = float(np.abs(view.kernels).max())
    drawn = zip((figure.mean, *figure.panels), (view.kernels.mean(0), *view.kernels), strict=True)
    for number, (panel, kernel) in enumerate(drawn):
        name = str(number or "mean")
        most = float(np.abs(kernel).max()) if not number else largest
        extent = (-side / 2, side / 2, side / 2, -side / 2)
        shown = panel.imshow(kernel, extent=extent, cmap="RdBu_r", vmin=-most, vmax=most)
        panel.plot([-edge, edge, edge, -edge, -edge], [-edge, -edge, edge, edge, -edge], "k:", lw=0.8)
        panel.set_title(f"{name}: sum {kernel.sum():.2f}, HR pixels", fontsize=9)
        if not number:
            figure.bar(shown, panel)
    return figure.image()
