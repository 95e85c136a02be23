"""Kernels and offsets of a content-adaptive downscaler on an image, in numbers and as a picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from car.errors import ImageError, UsageError, needs
from car.models import KernelDownscaler, Rescaler
from car.pictures.depth import eight_bit
from car.pictures.read import read

_SIDE = 512  # HR pixels a side that are looked at, from the middle of the image


@dataclass(frozen=True)
class KernelStatistics:
    """Kernels and offsets of one image; lengths in HR pixels, along one axis unless stated otherwise.

    Attributes:
        model: name of the model.
        side: taps of a kernel along one axis.
        mean_offset: (x, y) mean over all taps and LR pixels.
        mean_length: mean length of an offset, in both axes together.
        weighted_length: the same mean, weighted by the absolute kernel values.
        largest: the largest offset.
        roughness: mean difference of the same tap's offset between neighbouring LR pixels.
        width: deviation of the mean kernel from its centre, offsets included.
        negative: share of the kernels' absolute weight that is negative.
        mean_kernel: ``[side, side]``, sums to one.
    """

    model: str
    side: int
    mean_offset: tuple[float, float]
    mean_length: float
    weighted_length: float
    largest: float
    roughness: float
    width: float
    negative: float
    mean_kernel: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class KernelView:
    """The HR crop that was inspected, uint8 ``[H, W, 3]``, with arrays ``[k, k, H/s, W/s]`` in HR pixels.

    `x` and `y` are the positions of the taps, relative to the centre of their LR pixel.
    """

    hr: NDArray[np.uint8]
    scale: int
    kernels: NDArray[np.float32]
    x: NDArray[np.float32]
    y: NDArray[np.float32]


@torch.inference_mode()
def inspect_kernels(
    model: str, rescaler: Rescaler, path: Path, **read_options: Any
) -> tuple[KernelStatistics, KernelView]:
    """Return statistics and arrays of the kernels for the middle of one image, up to 512x512 pixels.

    Raises:
        UsageError: the model does not resample with kernels.
        ImageError: the image cannot be read or is too small.
    """
    down, geometry = rescaler.downscaler, rescaler.geometry
    if not isinstance(down, KernelDownscaler):
        raise UsageError(f"{model} has no kernels to inspect; car, car_small and car_lite have")
    pixels = eight_bit(read(path, **read_options).pixels)
    height, width = (min(_SIDE, n) // geometry.multiple * geometry.multiple for n in pixels.shape[:2])
    if min(height, width) < geometry.min_size:
        raise ImageError(f"{path}: {pixels.shape[1]}x{pixels.shape[0]} is too small for {model}")
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    hr = np.array(pixels[top : top + height, left : left + width], dtype=np.uint8)
    tensor = torch.from_numpy(hr).permute(2, 0, 1)[None].float().div(255)
    scale = geometry.scale
    kernels, offsets_h, offsets_v = (t[0].float().cpu() for t in down.kernels_and_offsets(tensor))
    offsets_h, offsets_v = offsets_h * scale, offsets_v * scale
    side = round(kernels.shape[0] ** 0.5)
    grid = torch.arange(side, dtype=torch.float32) - side // 2
    x = offsets_h + grid.repeat(side).view(-1, 1, 1)
    y = offsets_v + grid.repeat_interleave(side).view(-1, 1, 1)
    size, length = kernels.abs(), torch.hypot(offsets_h, offsets_v)
    steps = [
        step.abs().mean()
        for offset in (offsets_h, offsets_v)
        for step in (offset.diff(dim=-1), offset.diff(dim=-2))
        if step.numel()
    ]
    centre = (kernels * x).sum(0), (kernels * y).sum(0)
    spread = (kernels * ((x - centre[0]).square() + (y - centre[1]).square())).sum(0).mean() / 2
    mean_kernel = kernels.mean(dim=(1, 2)).view(side, side)
    statistics = KernelStatistics(
        model=model,
        side=side,
        mean_offset=(offsets_h.mean().item(), offsets_v.mean().item()),
        mean_length=length.mean().item(),
        weighted_length=((length * size).sum() / size.sum()).item(),
        largest=length.max().item(),
        roughness=float(torch.stack(steps).mean()) if steps else 0.0,
        width=float(spread.clamp_min(0).sqrt()),
        negative=((size - kernels).sum() / 2 / size.sum()).item(),
        mean_kernel=tuple(tuple(row) for row in mean_kernel.tolist()),
    )

    def square(values: torch.Tensor) -> NDArray[np.float32]:
        return values.view(side, side, *values.shape[1:]).numpy()

    return statistics, KernelView(hr, scale, square(kernels), square(x), square(y))


def kernels_picture(view: KernelView, statistics: KernelStatistics) -> Image.Image:
    """Draw the crop, the mean kernel, the length of offsets, and the taps of six LR pixels at strong edges.

    Raises:
        UsageError: matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise needs("pictures of kernels need matplotlib", "train") from error
    side = statistics.side
    figure = Figure(figsize=(16, 8.4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes: Any = figure.subplots(2, 5)
    figure.suptitle(
        f"{statistics.model}, in HR pixels: mean offset ({statistics.mean_offset[0]:+.3f}, "
        f"{statistics.mean_offset[1]:+.3f}), mean length {statistics.mean_length:.3f}, "
        f"weighted by kernels {statistics.weighted_length:.3f}"
    )
    overview, kernel, lengths, spare = axes[0, 0], axes[1, 0], axes[0, 4], axes[1, 4]
    overview.imshow(view.hr)
    overview.set_title("the numbered LR pixels")
    extent = (-side / 2, side / 2, side / 2, -side / 2)
    shown = kernel.imshow(np.array(statistics.mean_kernel), extent=extent, cmap="viridis")
    kernel.set_title("mean kernel")
    figure.colorbar(shown, ax=kernel, shrink=0.7)
    offset = np.hypot(
        view.x - view.x.mean(axis=(2, 3), keepdims=True), view.y - view.y.mean(axis=(2, 3), keepdims=True)
    ).mean(axis=(0, 1))
    shown = lengths.imshow(offset, cmap="magma")
    lengths.set_title("how far offsets leave their mean")
    figure.colorbar(shown, ax=lengths, shrink=0.7)
    # a range of its own: with equal offsets there would be none
    spare.hist(np.hypot(*_offsets(view)).ravel(), bins=60, range=(0, statistics.largest + 0.01))
    spare.set_title("length of offsets, pixels")
    for number, (row, column) in enumerate(_telling_pixels(view), 1):
        y, x = (row + 0.5) * view.scale - 0.5, (column + 0.5) * view.scale - 0.5
        overview.text(x, y, str(number), color="red", ha="center", va="center", fontweight="bold")
        panel = axes[(number - 1) // 3, 1 + (number - 1) % 3]
        panel.set_title(f"{number}: taps (area: weight; red: negative)", fontsize=9)
        _draw_taps(panel, view, row, column)
    for panel in axes.flat:
        if panel is not spare and panel is not kernel:
            panel.set_xticks([])
            panel.set_yticks([])
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3].copy())


def _draw_taps(panel: Any, view: KernelView, row: int, column: int) -> None:
    """Draw where the taps of an LR pixel lie, over the part of the crop around it."""
    side, scale = view.kernels.shape[0], view.scale
    y, x = (row + 0.5) * scale - 0.5, (column + 0.5) * scale - 0.5
    reach = side / 2 + scale
    panel.imshow(view.hr)
    panel.set_xlim(x - reach, x + reach)
    panel.set_ylim(y + reach, y - reach)
    weights, across, down = (a[:, :, row, column].ravel() for a in (view.kernels, view.x, view.y))
    panel.scatter(
        x + across,
        y + down,
        s=1500 * np.abs(weights) / max(np.abs(weights).max(), 1e-9) / side + 2,
        c=np.where(weights < 0, "tab:red", "tab:cyan"),
        edgecolors="black",
        linewidths=0.4,
    )


def _offsets(view: KernelView) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    side = view.kernels.shape[0]
    grid = np.arange(side, dtype=np.float32) - side // 2
    return view.x - grid[None, :, None, None], view.y - grid[:, None, None, None]


def _telling_pixels(view: KernelView) -> list[tuple[int, int]]:
    """Return the LR pixels with the strongest edges, one in each sixth of the crop."""
    scale = view.scale
    grey = view.hr.mean(axis=2)
    height, width = (n // scale for n in grey.shape)
    cells = grey[: height * scale, : width * scale].reshape(height, scale, width, scale)
    contrast = cells.std(axis=(1, 3))
    chosen: list[tuple[int, int]] = []
    for rows in np.array_split(np.arange(height), 2):
        for columns in np.array_split(np.arange(width), 3):
            if len(rows) and len(columns):
                part = contrast[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                row, column = np.unravel_index(np.argmax(part), part.shape)
                chosen.append((int(rows[0] + row), int(columns[0] + column)))
    return chosen
