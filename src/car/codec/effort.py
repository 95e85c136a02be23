"""Encode-time effort: refine a small picture for the upscaler that restores it. Restoring takes no longer.

Gradient steps through the frozen upscaler change the LR samples (like iterative inference in learned
compression: Yang, Bamler & Mandt, "Improving inference for neural image compression", NeurIPS 2020). The
steps do not round, because the noise of rounding would soon hide the gradient. The end of the steps is judged
after rounding, by the decibels of luma, chroma and RGB, mixed as in training (`car.metrics.SHARES`). If it is
no better than the start, the start is kept. All levels of effort follow one path. It ends early where the
error hardly falls any more.

If the small file will be JPEG, WebP or AVIF, the coder is part of the loop. Every step is then judged by its
error and its bytes: by the sum of their logarithms, which is about the exchange rate of codecs at low bit
rates. The best one is kept.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from car.codec.coding import Coding, encoded
from car.codec.lossy import MEANS_AND_HEADERS, estimated_bits, recode
from car.codec.tiling import Tile, split
from car.codec.watching import Work
from car.metrics import CHANNEL_WEIGHTS, PERFECT, SHARES
from car.models import Rescaler, quantize

STEPS = (0, 2, 3, 4, 5, 6, 8, 10, 14, 20)
"""Number of gradient steps at effort 0 to 9, at most."""

MAX_CHANGE = 8 / 255
"""The largest change of an LR sample, in units of the [0, 1] range."""

MAX_CHANGE_CODED = 24 / 255
"""The same if a lossy coder follows: its quantiser steps are about this large."""

_TILE = 256  # LR pixels a side; a tile's activations are kept for the gradient
# LR pixels around a tile. Networks see farther, but what is farther changes the gradient by 0.1 per cent, and
# to compute it would double the work.
_HALO = 12
_PARTS = 2  # a gradient takes so many times as long as restoring
_FLAT = 5e-4  # steps end where one lowers the error by a smaller share
_CODED = (0.5, 0.0, 0.5)  # weights of the squared errors of luma, chroma and RGB after a coder


@dataclass(frozen=True)
class _Rule:
    """How steps follow from gradients, as in Adam. The values were found on training photographs.

    Attributes:
        first: the size of a step, in levels; later steps are smaller.
        decay: by how much they become smaller.
        short: the share of the earlier mean in the mean of the gradients.
        long: likewise, of the mean of their squares.
        floor: the share of the mean size of all gradients that is added to the size of each. Without it,
            samples that hardly matter would move as far as the others, and rounding them would cost more than
            they gain.
    """

    first: float
    decay: float
    short: float
    long: float
    floor: float

    def length(self, step: int) -> float:
        """Return the size of step 1, 2, ... in units of the [0, 1] range."""
        return self.first / (1 + self.decay * step) / 255


_LOSSLESS = _Rule(first=0.6, decay=0.1, short=0.5, long=0.9, floor=1.0)
# together, the steps must be large enough to survive the quantiser
_LOSSY = _Rule(first=0.5, decay=0.05, short=0.8, long=0.95, floor=0.1)


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
    copies of the picture, and what the gradient of one tile needs. `car.codec.watching` tells how far it is.

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
    if effort == 0:
        return lr
    return next(_refined(_Error(model, hr, _most(hr), device), lr, (effort,), coding))


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
        return iter(())
    return _refined(_Error(model, hr, _most(hr), device), lr, tuple(range(1, effort + 1)), coding)


def _most(pixels: NDArray[np.generic]) -> int:
    return int(np.iinfo(pixels.dtype).max)  # type: ignore[type-var]


def _refined(
    error: "_Error", lr: NDArray[np.generic], efforts: tuple[int, ...], coding: Coding | None
) -> Iterator[NDArray[np.generic]]:
    """Yield the results at levels of effort that grow."""
    most = _most(lr)
    levels = 255 if coding else most
    start = torch.from_numpy(lr.astype(np.float32) / most).permute(2, 0, 1)[None].to(error.device)
    start = quantize(start, levels)
    steps = STEPS[efforts[-1]]
    error.work = Work("refining", error.parts(lr.shape, gradients=steps, scores=1 + len(efforts)))
    distance = 0.0
    if coding:
        path = _coded_path(error, start, coding, steps)
    else:
        exact = error(start).exact
        distance = _distance(exact)
        # one per cent less error counts the same in luma, chroma and RGB, however small the error is
        path = _path(error, start, _slopes(exact))
    found, taken = start, 0
    for effort in efforts:
        for found in islice(path, STEPS[effort] - taken):  # noqa: B007 - the last one
            pass
        taken = STEPS[effort]
        best = found if coding else _better(error, quantize(found, levels), start, distance)
        if effort == efforts[-1]:
            error.work.end()
        picture = best[0].permute(1, 2, 0).mul(levels).round().cpu().numpy()
        yield (picture * (most // levels)).astype(lr.dtype)


def _path(error: "_Error", start: torch.Tensor, weights: "_Parts") -> Iterator[torch.Tensor]:
    """Yield the LR after each step, not rounded; it ends where the error hardly falls any more."""
    values, steps = start, _Steps(_LOSSLESS, start, MAX_CHANGE)
    before = math.inf
    while True:
        found = error(values, weights)
        if found.gradient is None or found.whole >= before * (1 - _FLAT):
            return
        before = found.whole
        values = steps.taken(values, found.gradient)
        yield values


def _coded_path(error: "_Error", start: torch.Tensor, coding: Coding, most: int) -> Iterator[torch.Tensor]:
    """Yield the best LR that the first steps have found, after each of `most` steps."""
    values, steps = start, _Steps(_LOSSY, start, MAX_CHANGE_CODED)
    best, (lowest, gradient) = start, _coded_score(error, start, coding)
    for step in range(1, most + 1):
        assert gradient is not None
        values = steps.taken(values, gradient)
        rounded = quantize(values)
        score, gradient = _coded_score(error, rounded, coding, with_gradient=step < most)
        if score < lowest:
            lowest, best = score, rounded
        yield best


class _Steps:
    """Steps against the gradient, within limits around the start."""

    def __init__(self, rule: _Rule, start: torch.Tensor, change: float) -> None:
        self._rule, self._count = rule, 0
        self._low, self._high = (start - change).clamp(0, 1), (start + change).clamp(0, 1)
        self._momentum, self._power = torch.zeros_like(start), torch.zeros_like(start)

    def taken(self, values: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """Return `values` after the next step."""
        rule = self._rule
        self._count += 1
        self._momentum = rule.short * self._momentum + (1 - rule.short) * gradient
        self._power = rule.long * self._power + (1 - rule.long) * gradient.square()
        mean = self._momentum / (1 - rule.short**self._count)
        spread = (self._power / (1 - rule.long**self._count)).sqrt()
        # without a gradient there is no direction; Adam would amplify noise
        spread = spread + rule.floor * spread.mean() + 1e-12
        moved = values - rule.length(self._count) * mean / spread
        return torch.minimum(torch.maximum(moved, self._low), self._high)


def _coded_score(
    error: "_Error", lr: torch.Tensor, coding: Coding, *, with_gradient: bool = True
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


def _better(error: "_Error", lr: torch.Tensor, start: torch.Tensor, distance: float) -> torch.Tensor:
    """Return `lr`, or `start`, which has this distance, if `lr` has none that is smaller."""
    return lr if _distance(error(lr).exact) < distance else start


def _slopes(exact: _Parts) -> _Parts:
    """Return the derivative of `_distance` for each error, up to a common factor."""
    luma, chroma, rgb = (share / (part + PERFECT) for share, part in zip(_SHARES, exact, strict=True))
    return luma, chroma, rgb


class _Found(NamedTuple):
    """The mean squared errors, the weighted sum that the steps reduce, and its gradient for the LR."""

    exact: _Parts
    whole: float
    gradient: torch.Tensor | None


@dataclass
class _Error:
    """The squared error of the picture restored from an LR picture, and its exact gradient, by tiles."""

    model: Rescaler
    hr: NDArray[np.generic]
    levels: int
    device: torch.device | str
    work: Work | None = None

    def parts(self, shape: tuple[int, ...], *, gradients: int, scores: int) -> int:
        """Return the parts of the work: each is about as long as restoring a tile."""
        tiles = sum(1 for _ in self._tiles(*shape[:2]))
        return tiles * (_PARTS * gradients + scores)

    def _tiles(self, height: int, width: int) -> Iterator[Tile]:
        return split(height, width, _TILE, min(_HALO, self.model.geometry.halo_up))

    def __call__(self, lr: torch.Tensor, weights: _Parts | None = None) -> _Found:
        """Return the errors of the picture restored from `lr`; with `weights`, also their weighted sum.

        The errors are measured after rounding and without the border. The weighted sum is not rounded and
        includes the border.
        """
        s = self.model.geometry.scale
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
        for tile in self._tiles(lr.shape[2], lr.shape[3]):
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
            if self.work is not None:
                self.work.advance(_PARTS if with_gradient else 1)
        luma, chroma, rgb = (part / counted for part in total)
        return _Found((luma, chroma, rgb), whole, gradient)
