"""Encode-time effort: a small picture is refined for the upscaler that will restore it, at no cost to that.

LR samples are moved by gradient steps through the frozen upscaler (in the manner of iterative inference in
learned compression: Yang, Bamler & Mandt, "Improving inference for neural image compression", NeurIPS 2020).
Steps are taken without rounding, whose noise would soon be all that a gradient sees; what counts is what is
restored after it. All levels of effort follow one path and keep the best rounded picture met on it, so that
more effort never restores worse.

Where the small file will be JPEG, WebP or AVIF, the coder is in the loop as well, and what counts is error
against bytes: the logarithm of the one plus that of the other, which is about the exchange rate of codecs at
few bits per pixel.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from car.codec.coding import Coding, encoded
from car.codec.lossy import MEANS_AND_HEADERS, estimated_bits, recode
from car.codec.tiling import split
from car.metrics import LUMA_WEIGHTS
from car.models import Rescaler, quantize

STEPS = (0, 3, 4, 6, 9, 13, 18, 24, 32, 48)
"""Gradient steps of each level of effort, 0 to 9."""

MAX_CHANGE = 8 / 255
"""No LR sample moves further than this from what the downscaler gave."""

MAX_CHANGE_CODED = 24 / 255
"""The same where a lossy coder follows, whose own steps are that large."""

_TILE = 128  # LR pixels a side of which activations are kept for the gradient
_LUMA_SHARE, _LUMA_SHARE_CODED = 0.9, 0.5  # of the squared error that the steps reduce; the rest is RGB
_MEMORY, _MEMORY_CODED = (0.7, 0.9), (0.8, 0.95)  # of Adam: short, as there are few steps


def step_size(scale: int, step: int, *, coded: bool = False) -> float:
    """Return the length of step 1, 2, ... in units of the [0, 1] range, for models of `scale`.

    Found on photographs of the training set. With a lossy coder behind it (`coded`), steps are to add up to
    what that notices.
    """
    first, decay = {2: (0.5, 0.03), 4: (1.0, 0.03)}.get(scale, (1.0, 0.03))
    if coded:
        first, decay = 0.5, 0.05
    return first / (1 + decay * step) / 255


def refine(
    model: Rescaler,
    lr: NDArray[np.generic],
    hr: NDArray[np.generic],
    effort: int,
    device: torch.device | str,
    coding: Coding | None = None,
) -> NDArray[np.generic]:
    """Return an LR picture from which `model` restores `hr` at least as well as from `lr`.

    "As well" is meant in luma, after rounding, with as many pixels shaved off each side as the scale, as the
    tables measure. With `coding`, it is meant for what comes back from the coder, bytes counted too: see
    above. Memory does not grow with the picture beyond a few copies of it.

    Args:
        model: in evaluation mode, on `device`.
        lr: RGB ``[h, w, 3]``, uint8 or uint16.
        hr: RGB ``[H, W, 3]`` of the same type, H in (s * (h - 1), s * h] and W likewise.
        effort: level, 0 to 9; 0 returns `lr`.
        device: where to compute.
        coding: how the file of `lr` will be coded with losses, in 8 bit; None: it will not be.

    Returns:
        ``[h, w, 3]`` of the same type.
    """
    best = lr
    for best in refinements(model, lr, hr, effort, device, coding):  # noqa: B007 - the last one
        pass
    return best


def refinements(
    model: Rescaler,
    lr: NDArray[np.generic],
    hr: NDArray[np.generic],
    effort: int,
    device: torch.device | str,
    coding: Coding | None = None,
) -> Iterator[NDArray[np.generic]]:
    """Yield what `refine` returns for levels 1, 2, ... `effort`, which lie on one path."""
    if effort == 0:
        return
    most = int(np.iinfo(lr.dtype).max)  # type: ignore[type-var]
    levels = 255 if coding else most
    start = torch.from_numpy(lr.astype(np.float32) / most).permute(2, 0, 1)[None].to(device)
    start = quantize(start, levels)
    change = MAX_CHANGE_CODED if coding else MAX_CHANGE
    low, high = (start - change).clamp(0, 1), (start + change).clamp(0, 1)
    values, best = start.clone(), start
    momentum, power = torch.zeros_like(start), torch.zeros_like(start)
    short, long = _MEMORY_CODED if coding else _MEMORY
    error = _Error(model, hr, most, device, _LUMA_SHARE_CODED if coding else _LUMA_SHARE)
    lowest = math.inf
    for step in range(STEPS[effort] + 1):
        level, last = step in STEPS, step == STEPS[effort]
        rounded = quantize(values, levels)
        score, gradient = math.inf, None
        if coding:
            score, gradient = _coded_score(error, rounded, coding, with_gradient=not last)
        else:
            if level:
                score = error(rounded, with_gradient=False).luma
            if not last:
                gradient = error(values, with_gradient=True).gradient
        if score < lowest:
            lowest, best = score, rounded
        if level and step:
            picture = best[0].permute(1, 2, 0).mul(levels).round().cpu().numpy()
            yield (picture * (most // levels)).astype(lr.dtype)
        if gradient is None:
            return
        momentum = short * momentum + (1 - short) * gradient
        power = long * power + (1 - long) * gradient.square()
        mean, spread = momentum / (1 - short ** (step + 1)), (power / (1 - long ** (step + 1))).sqrt()
        # where nothing pulls there is no direction, and Adam's own would be noise
        length = step_size(model.geometry.scale, step + 1, coded=coding is not None)
        values = values - length * mean / (spread + 0.1 * spread.mean() + 1e-12)
        values = torch.minimum(torch.maximum(values, low), high)


def _coded_score(
    error: "_Error", lr: torch.Tensor, coding: Coding, *, with_gradient: bool
) -> tuple[float, torch.Tensor | None]:
    """Return the logarithm of error plus that of bytes, and the gradient of the like of it for `lr`."""
    size = len(encoded((lr[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy(), coding))
    with torch.enable_grad():
        source = lr.detach().requires_grad_(with_gradient)
        decoded, quantiser = recode(source, coding)
        luma, whole, pull = error(decoded.detach(), with_gradient=with_gradient)
        score = math.log(luma + 1e-12) + math.log(size)
        if pull is None:
            return score, None
        bits = estimated_bits(source, quantiser, subsampled=coding.subsampled)
        worth = (decoded * pull).sum() / (whole + 1e-12) + torch.log1p(bits / MEANS_AND_HEADERS)
        (gradient,) = torch.autograd.grad(worth, source)
    return score, gradient


class _Found(NamedTuple):
    """Squared error in luma that counts, the whole that steps reduce, and its gradient for the LR."""

    luma: float
    whole: float
    gradient: torch.Tensor | None


@dataclass(frozen=True)
class _Error:
    """Squared error of what is restored from an LR picture, and its gradient, tile by tile but exact."""

    model: Rescaler
    hr: NDArray[np.generic]
    levels: int
    device: torch.device | str
    luma_share: float

    def __call__(self, lr: torch.Tensor, *, with_gradient: bool) -> _Found:
        """Return the errors of what is restored from `lr`, sums over pixels."""
        s, halo = self.model.geometry.scale, self.model.geometry.halo_up
        height, width = self.hr.shape[:2]
        weights = lr.new_tensor(LUMA_WEIGHTS).view(3, 1, 1)
        # pictures that consist of border only count as a whole
        border = s if min(height, width) > 2 * s else 0
        gradient = torch.zeros_like(lr) if with_gradient else None
        total = whole = 0.0
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
                    self.luma_share * luma.square().sum()
                    + (1 - self.luma_share) * difference.square().mean(0).sum()
                )
            exact = target + difference.detach()
            exact = exact.clamp(0, 1).mul(self.levels).round().div(self.levels) - target
            counted = (exact * weights).sum(0)[
                max(border - core.top, 0) : max(height - border - core.top, 0),
                max(border - core.left, 0) : max(width - border - core.left, 0),
            ]
            total += counted.double().square().sum().item()
            if gradient is not None:
                whole += loss.item()
                (part,) = torch.autograd.grad(loss, window)
                gradient[(..., *tile.window.slices)] += part
        return _Found(total, whole, gradient)
