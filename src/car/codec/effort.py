"""Encode-time effort: refine a small picture for the upscaler that restores it. Restoring takes no longer.

Gradient steps through the frozen upscaler change the LR samples (like iterative inference in learned
compression: Yang, Bamler & Mandt, "Improving inference for neural image compression", NeurIPS 2020). The
steps do not round, because the noise of rounding would soon hide the gradient. A result is judged after
rounding, by the decibels of luma, chroma and RGB, mixed as in training (`car.metrics.SHARES`). All levels of
effort follow one path and keep the best rounded picture on it, so more effort never restores worse.

If the small file will be JPEG, WebP or AVIF, the coder is part of the loop. A result is then judged by its
error and its bytes: by the sum of their logarithms, which is about the exchange rate of codecs at low bit
rates.
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
from car.metrics import CHANNEL_WEIGHTS, PERFECT, SHARES
from car.models import Rescaler, quantize

STEPS = (0, 3, 4, 6, 9, 13, 18, 24, 32, 48)
"""Number of gradient steps at effort 0 to 9."""

MAX_CHANGE = 8 / 255
"""The largest change of an LR sample, in units of the [0, 1] range."""

MAX_CHANGE_CODED = 24 / 255
"""The same if a lossy coder follows: its quantiser steps are about this large."""

_TILE = 128  # LR pixels a side; a tile's activations are kept for the gradient
_CODED = (0.5, 0.0, 0.5)  # weights of the squared errors of luma, chroma and RGB after a coder
_MEMORY, _MEMORY_CODED = (0.7, 0.9), (0.8, 0.95)  # betas of Adam; small, because there are few steps


def step_size(scale: int, step: int, *, coded: bool = False) -> float:
    """Return the size of step 1, 2, ... in units of the [0, 1] range, for models of `scale`.

    The values were found on photographs of the training set. If a lossy coder follows (`coded`), the steps
    together must be large enough to survive its quantiser.
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

    Both are compared after rounding, by the mix of luma, chroma and RGB of this module, without a border of
    `scale` pixels. With `coding`, they are compared after the coder, and bytes count as well. Memory is a few
    copies of the picture.

    Args:
        model: in evaluation mode, on `device`.
        lr: RGB ``[h, w, 3]``, uint8 or uint16.
        hr: RGB ``[H, W, 3]`` of the same type, H in (s * (h - 1), s * h] and W likewise.
        effort: level, 0 to 9; 0 returns `lr`.
        device: where to compute.
        coding: the lossy coding of the small file, in 8 bit; None if it will be lossless.

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
    """Yield what `refine` returns at effort 1, 2, ... `effort`: all on one path."""
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
    error = _Error(model, hr, most, device)
    # one per cent less error counts the same in luma, chroma and RGB, however small the error is
    weights = _CODED if coding else _slopes(error(start).exact)
    lowest = math.inf
    for step in range(STEPS[effort] + 1):
        level, last = step in STEPS, step == STEPS[effort]
        rounded = quantize(values, levels)
        score, gradient = math.inf, None
        if coding:
            score, gradient = _coded_score(error, rounded, coding, with_gradient=not last)
        else:
            if level:
                score = _distance(error(rounded).exact)
            if not last:
                gradient = error(values, weights).gradient
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
        # without a gradient there is no direction; Adam would amplify noise
        length = step_size(model.geometry.scale, step + 1, coded=coding is not None)
        values = values - length * mean / (spread + 0.1 * spread.mean() + 1e-12)
        values = torch.minimum(torch.maximum(values, low), high)


def _coded_score(
    error: "_Error", lr: torch.Tensor, coding: Coding, *, with_gradient: bool
) -> tuple[float, torch.Tensor | None]:
    """Return log(error) + log(bytes), and the gradient of a differentiable estimate of it for `lr`."""
    size = len(encoded((lr[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy(), coding))
    with torch.enable_grad():
        source = lr.detach().requires_grad_(with_gradient)
        decoded, quantiser = recode(source, coding)
        (luma, _, _), whole, pull = error(decoded.detach(), _CODED if with_gradient else None)
        score = math.log(luma + 1e-12) + math.log(size)
        if pull is None:
            return score, None
        bits = estimated_bits(source, quantiser, subsampled=coding.subsampled)
        worth = (decoded * pull).sum() / (whole + 1e-12) + torch.log1p(bits / MEANS_AND_HEADERS)
        (gradient,) = torch.autograd.grad(worth, source)
    return score, gradient


_Parts = tuple[float, float, float]
"""A number each for luma, for chroma and for RGB."""

_SHARES = (SHARES.luma, SHARES.chroma, SHARES.rgb)

# from RGB to planes whose squares add up to the squared error of luma, of chroma (the mean of two) and of RGB
_MATRICES = (
    np.array([CHANNEL_WEIGHTS["luma"]]),
    np.array([CHANNEL_WEIGHTS["cb"], CHANNEL_WEIGHTS["cr"]]) / 2**0.5,
    np.eye(3) / 3**0.5,
)


def _distance(exact: _Parts) -> float:
    """Return the mean squared errors on a logarithmic scale, mixed by share; ten times that is decibels."""
    return sum(share * math.log10(1 + part / PERFECT) for share, part in zip(_SHARES, exact, strict=True))


def _slopes(exact: _Parts) -> _Parts:
    """Return the derivative of `_distance` for each error, up to a common factor."""
    luma, chroma, rgb = (share / (part + PERFECT) for share, part in zip(_SHARES, exact, strict=True))
    return luma, chroma, rgb


class _Found(NamedTuple):
    """The mean squared errors, the weighted sum that the steps reduce, and its gradient for the LR."""

    exact: _Parts
    whole: float
    gradient: torch.Tensor | None


@dataclass(frozen=True)
class _Error:
    """The squared error of the picture restored from an LR picture, and its exact gradient, by tiles."""

    model: Rescaler
    hr: NDArray[np.generic]
    levels: int
    device: torch.device | str

    def __call__(self, lr: torch.Tensor, weights: _Parts | None = None) -> _Found:
        """Return the errors of the picture restored from `lr`; with `weights`, also their weighted sum.

        The errors are measured after rounding and without the border. The weighted sum is not rounded and
        includes the border.
        """
        s, halo = self.model.geometry.scale, self.model.geometry.halo_up
        height, width = self.hr.shape[:2]
        with_gradient = weights is not None
        parts = [torch.tensor(matrix, dtype=torch.float32, device=self.device) for matrix in _MATRICES]
        form = torch.zeros(3, 3, device=self.device)
        for weight, part in zip(weights or (), parts, strict=False):
            form += weight * part.T @ part
        # a picture that is all border counts as a whole
        border = s if min(height, width) > 2 * s else 0
        gradient = torch.zeros_like(lr) if with_gradient else None
        total, counted, whole = [0.0, 0.0, 0.0], 0, 0.0
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
                loss = (difference * torch.einsum("cd,dhw->chw", form, difference)).sum()
            exact = target + difference.detach()
            exact = exact.clamp(0, 1).mul(self.levels).round().div(self.levels) - target
            exact = exact[
                :,
                max(border - core.top, 0) : max(height - border - core.top, 0),
                max(border - core.left, 0) : max(width - border - core.left, 0),
            ]
            counted += exact[0].numel()
            for n, part in enumerate(parts):
                total[n] += torch.einsum("pc,chw->phw", part, exact).double().square().sum().item()
            if gradient is not None:
                whole += loss.item()
                (pull,) = torch.autograd.grad(loss, window)
                gradient[(..., *tile.window.slices)] += pull
        luma, chroma, rgb = (part / counted for part in total)
        return _Found((luma, chroma, rgb), whole, gradient)
