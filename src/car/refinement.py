"""Encode-time effort: a small picture is refined for the upscaler that will restore it, at no cost to that.

LR samples are moved by gradient steps through the frozen upscaler, with their rounding in the loop (in the
manner of iterative inference in learned compression: Yang, Bamler & Mandt, "Improving inference for neural
image compression", NeurIPS 2020). All levels of effort follow one path and keep the best picture met on it,
so that more effort never restores worse.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from car.metrics import LUMA_WEIGHTS
from car.models import Rescaler, quantize
from car.tiling import split

STEPS = (0, 2, 4, 6, 9, 13, 18, 24, 32, 48)
"""Gradient steps of each level of effort, 0 to 9."""

MAX_CHANGE = 8 / 255
"""No LR sample moves further than this from what the downscaler gave."""

_TILE = 128  # LR pixels a side of which activations are kept for the gradient
_LUMA_SHARE = 0.5  # of the squared error that the steps reduce; the rest is RGB
_MEMORY = (0.8, 0.95)  # of Adam: short, as there are few steps


def step_size(scale: int, step: int) -> float:
    """Return the length of step 1, 2, ... in units of the [0, 1] range, for models of `scale`.

    Found on photographs of the training set: long enough to leave a level of 8 bit at once, then shorter.
    """
    first, decay = {2: (0.9, 0.1), 4: (1.0, 0.03)}.get(scale, (1.0, 0.1))
    return first / (1 + decay * step) / 255


def refine(
    model: Rescaler, lr: NDArray[np.generic], hr: NDArray[np.generic], steps: int, device: torch.device
) -> NDArray[np.generic]:
    """Return an LR picture from which `model` restores `hr` at least as well as from `lr`.

    "As well" is meant in luma, after rounding, with as many pixels shaved off each side as the scale, as the
    tables measure. Memory does not grow with the picture beyond a few copies of it.

    Args:
        model: in evaluation mode, on `device`.
        lr: RGB ``[h, w, 3]``, uint8 or uint16.
        hr: RGB ``[H, W, 3]`` of the same type, H in (s * (h - 1), s * h] and W likewise.
        steps: gradient steps; 0 returns `lr`.
        device: where to compute.

    Returns:
        ``[h, w, 3]`` of the same type.
    """
    if steps == 0:
        return lr
    levels = int(np.iinfo(lr.dtype).max)  # type: ignore[type-var]
    start = torch.from_numpy(lr.astype(np.float32) / levels).permute(2, 0, 1)[None].to(device)
    low, high = (start - MAX_CHANGE).clamp(0, 1), (start + MAX_CHANGE).clamp(0, 1)
    values, best = start.clone(), start
    momentum, power = torch.zeros_like(start), torch.zeros_like(start)
    error = _Error(model, hr, levels, device)
    lowest = torch.inf
    for step in range(1, steps + 2):
        rounded = quantize(values, levels)
        luma, gradient = error(rounded, with_gradient=step <= steps)
        if luma < lowest:
            lowest, best = luma, rounded
        if gradient is None:
            break
        momentum = _MEMORY[0] * momentum + (1 - _MEMORY[0]) * gradient
        power = _MEMORY[1] * power + (1 - _MEMORY[1]) * gradient.square()
        mean, spread = momentum / (1 - _MEMORY[0] ** step), (power / (1 - _MEMORY[1] ** step)).sqrt()
        # where nothing pulls there is no direction, and Adam's own would be noise
        values = values - step_size(model.geometry.scale, step) * mean / (
            spread + 0.1 * spread.mean() + 1e-12
        )
        values = torch.minimum(torch.maximum(values, low), high)
    out = best[0].permute(1, 2, 0).mul(levels).round().cpu().numpy()
    return out.astype(lr.dtype)


@dataclass(frozen=True)
class _Error:
    """Squared error of what is restored from an LR picture, and its gradient, tile by tile but exact."""

    model: Rescaler
    hr: NDArray[np.generic]
    levels: int
    device: torch.device

    def __call__(self, lr: torch.Tensor, *, with_gradient: bool) -> tuple[float, torch.Tensor | None]:
        """Return the sum of squared luma errors that counts, and the gradient of the whole error for `lr`."""
        s, halo = self.model.geometry.scale, self.model.geometry.halo_up
        height, width = self.hr.shape[:2]
        weights = lr.new_tensor(LUMA_WEIGHTS).view(3, 1, 1)
        # pictures that consist of border only count as a whole
        border = s if min(height, width) > 2 * s else 0
        gradient = torch.zeros_like(lr) if with_gradient else None
        total = 0.0
        for tile in split(lr.shape[2], lr.shape[3], _TILE, halo):
            window = lr[(..., *tile.window.slices)].detach().requires_grad_(with_gradient)
            core, inside = tile.core_scaled(s, 1), tile.core_in_window(s, 1)
            bottom, right = min(core.bottom, height), min(core.right, width)
            pixels = self.hr[core.top : bottom, core.left : right]
            target = (
                torch.from_numpy(pixels.astype(np.float32) / self.levels).permute(2, 0, 1).to(self.device)
            )
            with torch.set_grad_enabled(with_gradient):
                restored = self.model.upscale(window)[0][(..., *inside.slices)]
                difference = restored[:, : bottom - core.top, : right - core.left].float() - target
                luma = (difference * weights).sum(0)
                loss = (
                    _LUMA_SHARE * luma.square().sum() + (1 - _LUMA_SHARE) * difference.square().mean(0).sum()
                )
            exact = target + difference.detach()
            exact = exact.clamp(0, 1).mul(self.levels).round().div(self.levels) - target
            counted = (exact * weights).sum(0)[
                max(border - core.top, 0) : max(height - border - core.top, 0),
                max(border - core.left, 0) : max(width - border - core.left, 0),
            ]
            total += counted.double().square().sum().item()
            if gradient is not None:
                (part,) = torch.autograd.grad(loss, window)
                gradient[(..., *tile.window.slices)] += part
        return total, gradient
