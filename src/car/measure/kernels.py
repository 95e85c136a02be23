"""Kernels and offsets of a content-adaptive downscaler on an image, in numbers and as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from car.errors import ImageError, UsageError, needs
from car.models import Geometry, KernelDownscaler, ResamplingDownscaler, Rescaler
from car.pictures.depth import eight_bit
from car.pictures.read import read

_SIDE = 512  # HR pixels a side that are looked at
_MOST = 6  # small pixels whose kernels are drawn

Place = tuple[int, int]
"""Column and row of an original pixel."""


@dataclass(frozen=True)
class OffsetStatistics:
    """Learned offsets of one image, in HR pixels.

    Attributes:
        mean: (x, y) mean over all taps and LR pixels.
        mean_length: mean length of an offset, in both axes together.
        weighted_length: the same mean, weighted by the absolute kernel values.
        largest: the largest offset.
        roughness: mean difference of the same tap's offset between neighbouring LR pixels.
    """

    mean: tuple[float, float]
    mean_length: float
    weighted_length: float
    largest: float
    roughness: float


@dataclass(frozen=True)
class KernelStatistics:
    """Kernels of one image; lengths in HR pixels, along one axis.

    Attributes:
        model: name of the model.
        side: taps of a kernel along one axis.
        offsets: of the taps; None if the model does not learn any.
        width: deviation of the taps from the kernel's centre, weighted by their absolute values.
        negative: share of the kernels' absolute weight that is negative.
        mean_kernel: ``[side, side]``, sums to one.
    """

    model: str
    side: int
    offsets: OffsetStatistics | None
    width: float
    negative: float
    mean_kernel: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class KernelView:
    """The HR crop that was inspected, uint8 ``[H, W, 3]``, with arrays ``[k, k, H/s, W/s]`` in HR pixels.

    `x` and `y` are the positions of the taps, relative to the centre of their LR pixel. `pixels` are the LR
    pixels to look at: row and column.
    """

    hr: NDArray[np.uint8]
    scale: int
    kernels: NDArray[np.float32]
    x: NDArray[np.float32]
    y: NDArray[np.float32]
    pixels: tuple[tuple[int, int], ...]


def middle(
    pixels: NDArray[np.uint8], geometry: Geometry, at: Sequence[Place], path: Path
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Return up to 512x512 pixels around `at`, by default around the middle, with their top and left.

    Raises:
        UsageError: there are more than six places, or they do not lie in the image or within 512 pixels.
        ImageError: the image is too small for the model.
    """
    if len(at) > _MOST:
        raise UsageError(f"{len(at)} places are too many; at most {_MOST} kernels are drawn")
    sizes = pixels.shape[:2]
    height, width = (min(_SIDE, n) // geometry.multiple * geometry.multiple for n in sizes)
    if min(height, width) < geometry.min_size:
        raise ImageError(f"{path}: {sizes[1]}x{sizes[0]} is too small for the model")
    corner: list[int] = []
    for axis, (size, part) in enumerate(zip(sizes, (height, width), strict=True)):
        places = [place[1 - axis] for place in at] or [size // 2]
        if min(places) < 0 or max(places) >= size:
            raise UsageError(
                f"{path}: a place lies outside of the picture, which has {sizes[1]}x{sizes[0]} pixels"
            )
        # like the whole picture, the crop begins with a whole LR pixel
        first = (
            max(0, min(size - part, (min(places) + max(places) - part) // 2)) if at else (size - part) // 2
        )
        corner.append(first // geometry.multiple * geometry.multiple)
        if max(places) >= corner[-1] + part or min(places) < corner[-1]:
            raise UsageError(
                f"the places must lie within {part} pixels, and not in the last part of an LR pixel"
            )
    top, left = corner
    return np.array(pixels[top : top + height, left : left + width], dtype=np.uint8), (top, left)


@torch.inference_mode()
def inspect_kernels(
    model: str, rescaler: Rescaler, path: Path, *, at: Sequence[Place] = (), **read_options: Any
) -> tuple[KernelStatistics, KernelView]:
    """Return statistics and arrays of the kernels for up to 512x512 pixels of one image.

    They lie around `at`, by default in the middle; see `middle`. Without places, the view names the LR pixels
    with the strongest edges.

    Raises:
        UsageError: the model does not resample with kernels, or a place is impossible.
        ImageError: the image cannot be read or is too small.
    """
    down, geometry = rescaler.downscaler, rescaler.geometry
    if not isinstance(down, KernelDownscaler):
        raise UsageError(f"{model} does not resample with kernels; its gradients can be inspected")
    pixels = eight_bit(read(path, **read_options).pixels)
    hr, (top, left) = middle(pixels, geometry, at, path)
    tensor = torch.from_numpy(hr).permute(2, 0, 1)[None].float().div(255)
    scale = geometry.scale
    kernels, offsets_h, offsets_v = (t[0].float().cpu() for t in down.kernels_and_offsets(tensor))
    offsets_h, offsets_v = offsets_h * scale, offsets_v * scale
    side = round(kernels.shape[0] ** 0.5)
    grid = torch.arange(side, dtype=torch.float32) - side // 2
    x = offsets_h + grid.repeat(side).view(-1, 1, 1)
    y = offsets_v + grid.repeat_interleave(side).view(-1, 1, 1)
    size = kernels.abs()
    centre = (kernels * x).sum(0), (kernels * y).sum(0)
    spread = (size * ((x - centre[0]).square() + (y - centre[1]).square())).sum() / size.sum() / 2
    mean_kernel = kernels.mean(dim=(1, 2)).view(side, side)
    learned = isinstance(down, ResamplingDownscaler)
    statistics = KernelStatistics(
        model=model,
        side=side,
        offsets=_offset_statistics(size, offsets_h, offsets_v) if learned else None,
        width=float(spread.sqrt()),
        negative=((size - kernels).sum() / 2 / size.sum()).item(),
        mean_kernel=tuple(tuple(row) for row in mean_kernel.tolist()),
    )

    def square(values: torch.Tensor) -> NDArray[np.float32]:
        return values.view(side, side, *values.shape[1:]).numpy()

    chosen = tuple(((y - top) // scale, (x - left) // scale) for x, y in at) or telling_pixels(hr, scale)
    return statistics, KernelView(hr, scale, square(kernels), square(x), square(y), chosen)


def _offset_statistics(size: torch.Tensor, across: torch.Tensor, down: torch.Tensor) -> OffsetStatistics:
    """Return the statistics of offsets `across` and `down`; `size` has the absolute kernels."""
    length = torch.hypot(across, down)
    steps = [
        step.abs().mean()
        for offset in (across, down)
        for step in (offset.diff(dim=-1), offset.diff(dim=-2))
        if step.numel()
    ]
    return OffsetStatistics(
        mean=(across.mean().item(), down.mean().item()),
        mean_length=length.mean().item(),
        weighted_length=((length * size).sum() / size.sum()).item(),
        largest=length.max().item(),
        roughness=float(torch.stack(steps).mean()) if steps else 0.0,
    )


class NumberedFigure:
    """A figure of a crop with numbered LR pixels, a panel for a mean, and a panel for each LR pixel.

    Args:
        hr: the crop, uint8 ``[H, W, 3]``.
        scale: HR pixels per LR pixel along each axis.
        pixels: row and column of each LR pixel, at most six.
        columns: of panels, 4 or 5; the fifth has two panels more.
        title: of the figure.

    Raises:
        UsageError: matplotlib is missing.
    """

    def __init__(
        self, hr: NDArray[np.uint8], scale: int, pixels: Sequence[tuple[int, int]], columns: int, title: str
    ) -> None:
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError as error:
            raise needs("pictures of kernels need matplotlib", "train") from error
        self._figure = Figure(figsize=(3.2 * columns, 8.4), layout="constrained")
        self._canvas = FigureCanvasAgg(self._figure)
        axes: Any = self._figure.subplots(2, columns)
        self._figure.suptitle(title)
        overview, self.mean = axes[0, 0], axes[1, 0]
        overview.imshow(hr)
        overview.set_title("the numbered LR pixels")
        for number, (row, column) in enumerate(pixels, 1):
            y, x = (row + 0.5) * scale - 0.5, (column + 0.5) * scale - 0.5
            overview.text(x, y, str(number), color="red", ha="center", va="center", fontweight="bold")
        panels = [axes[n // 3, 1 + n % 3] for n in range(_MOST)]
        self.panels, unused = panels[: len(pixels)], panels[len(pixels) :]
        for panel in unused:
            panel.set_axis_off()
        for panel in (overview, *self.panels):
            panel.set_xticks([])
            panel.set_yticks([])
        self.more = tuple(axes[:, 4:].flat)

    def bar(self, shown: Any, panel: Any) -> None:
        """Draw the colour bar of what `panel` shows."""
        self._figure.colorbar(shown, ax=panel, shrink=0.7)

    def image(self) -> Image.Image:
        """Return the figure as it is now."""
        self._canvas.draw()
        return Image.fromarray(np.asarray(self._canvas.buffer_rgba())[:, :, :3].copy())


def kernels_picture(view: KernelView, statistics: KernelStatistics) -> Image.Image:
    """Draw the crop, the mean kernel, the taps of a few LR pixels, and learned offsets.

    Raises:
        UsageError: matplotlib is missing.
    """
    side, offsets = statistics.side, statistics.offsets
    title = f"{statistics.model}: kernels, in HR pixels"
    if offsets:
        title += (
            f"; mean offset ({offsets.mean[0]:+.3f}, {offsets.mean[1]:+.3f}), mean length "
            f"{offsets.mean_length:.3f}, weighted by kernels {offsets.weighted_length:.3f}"
        )
    figure = NumberedFigure(view.hr, view.scale, view.pixels, 5 if offsets else 4, title)
    extent = (-side / 2, side / 2, side / 2, -side / 2)
    shown = figure.mean.imshow(np.array(statistics.mean_kernel), extent=extent, cmap="viridis")
    figure.mean.set_title("mean kernel")
    figure.bar(shown, figure.mean)
    for number, (panel, (row, column)) in enumerate(zip(figure.panels, view.pixels, strict=True), 1):
        panel.set_title(f"{number}: taps (area: weight; red: negative)", fontsize=9)
        _draw_taps(panel, view, row, column)
    if offsets:
        lengths, spread = figure.more
        away = np.hypot(*(one - one.mean(axis=(2, 3), keepdims=True) for one in (view.x, view.y))).mean(
            axis=(0, 1)
        )
        figure.bar(lengths.imshow(away, cmap="magma"), lengths)
        lengths.set_title("how far offsets leave their mean")
        # a range of its own: with equal offsets there would be none
        spread.hist(np.hypot(*_offsets(view)).ravel(), bins=60, range=(0, offsets.largest + 0.01))
        spread.set_title("length of offsets, pixels")
    return figure.image()


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


def telling_pixels(hr: NDArray[np.uint8], scale: int) -> tuple[tuple[int, int], ...]:
    """Return the LR pixels with the strongest edges, one in each sixth of the crop, as row and column."""
    grey = hr.mean(axis=2)
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
    return tuple(chosen)
