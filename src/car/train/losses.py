"""The training objective and its terms. Images are in the [0, 1] range."""

import math

import torch
import torch.nn.functional as F  # noqa: N812 - the community's name for it
from torch import nn

from car.codec.coding import Coding
from car.codec.lossy import MEANS_AND_HEADERS, estimated_bits, recode
from car.metrics import CHANNEL_WEIGHTS, PERFECT, Shares
from car.models import BicubicDownscaler, ResamplingDownscaler, Rescaler, quantize
from car.ops import adaptive_resample, bicubic_downscale
from car.train.recipes import Recipe


def _planes(difference: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return luma ``[B, 1, H, W]`` and chroma ``[B, 2, H, W]`` of a difference of RGB ``[B, 3, H, W]``."""
    matrix = difference.new_tensor([CHANNEL_WEIGHTS[name] for name in ("luma", "cb", "cr")])
    planes = F.conv2d(difference, matrix[:, :, None, None])
    return planes[:, :1], planes[:, 1:]


def restoration_l1(restored: torch.Tensor, hr: torch.Tensor, shares: Shares) -> torch.Tensor:
    """Return the mean absolute errors of RGB, luma and chroma, ``[B, 3, H, W]``, weighted by share."""
    difference = restored - hr
    luma, chroma = (plane.abs().mean() for plane in _planes(difference))
    return shares.rgb * difference.abs().mean() + shares.luma * luma + shares.chroma * chroma


_LOG10 = 0.01 * math.log10(2)  # factor for a base-2 logarithm: 10 dB for a factor of ten, in kilodecibels


def restoration_decibels(restored: torch.Tensor, hr: torch.Tensor, shares: Shares) -> torch.Tensor:
    """Return the mean distance from 60 dB in RGB, luma and chroma, weighted by share, in kilodecibels.

    Tables average decibels over images; this averages them over crops. The hardest crops govern a sum of
    errors. Here, one per cent less error counts the same everywhere. Half of the share of chroma goes to
    small coloured marks, which a mean square over a crop hardly sees: to the root of the mean fourth power of
    the error of 4x4 pixels.
    """
    difference = restored - hr
    luma, chroma = _planes(difference)
    rgb, luma, chroma, marks = (
        _LOG10 * torch.log2(1 + square / PERFECT).mean()
        for square in (
            *(plane.square().mean(dim=(1, 2, 3)) for plane in (difference, luma, chroma)),
            F.avg_pool2d(chroma, 4).pow(4).mean(dim=(1, 2, 3)).add(1e-20).sqrt(),
        )
    )
    return shares.rgb * rgb + shares.luma * luma + shares.chroma * (chroma + marks) / 2


_LEAST = 10**-9.9  # squared error, 99 dB


def decibels(a: torch.Tensor, b: torch.Tensor) -> tuple[float, float, float]:
    """Return PSNR in dB, at most 99, over RGB, luma and both chroma planes of two images ``[B, 3, H, W]``."""
    difference = a.double() - b.double()
    planes = (difference, *_planes(difference))
    rgb, luma, chroma = (-10 * math.log10(max(x.square().mean().item(), _LEAST)) for x in planes)
    return rgb, luma, chroma


def out_of_range(lr: torch.Tensor) -> torch.Tensor:
    """Return the mean distance of values from [0, 1], which rounding to 8 bit would cut off."""
    return (F.relu(-lr) + F.relu(lr - 1)).mean()


def total_variation(x: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute difference of horizontal plus of vertical neighbours of ``[..., H, W]``.

    Applied to the difference between a learned LR and the bicubic one, it approximates the bytes that PNG
    spends on this difference: PNG predicts a value from its neighbours and codes the rest.
    """
    return (x[..., 1:] - x[..., :-1]).abs().mean() + (x[..., 1:, :] - x[..., :-1, :]).abs().mean()


def offset_variation(kernels: torch.Tensor, offsets_h: torch.Tensor, offsets_v: torch.Tensor) -> torch.Tensor:
    """Return the paper's total variation of offsets, a scalar: summed over taps and pixels, averaged over B.

    It makes neighbouring LR pixels sample in similar patterns. It compares vertical offsets along x and
    horizontal ones along y, by forward differences weighted by the kernel (Sun & Chen 2020, section III-D).

    Args:
        kernels: ``[B, k*k, h, w]``.
        offsets_h: likewise, in units of the scale.
        offsets_v: likewise.
    """
    along_x = (offsets_v[..., 1:] - offsets_v[..., :-1]).abs() * kernels[..., :-1]
    along_y = (offsets_h[..., 1:, :] - offsets_h[..., :-1, :]).abs() * kernels[..., :-1, :]
    return (along_x.sum() + along_y.sum()) / kernels.shape[0]


# the derivative of the square root is not finite at 0, where offsets start
_EPSILON = 1e-12


def offset_distance(offsets_h: torch.Tensor, offsets_v: torch.Tensor) -> torch.Tensor:
    """Return the paper's offset distance, a scalar: summed over taps, averaged over batch and pixels.

    The length of each tap's offset is weighted by the tap's distance from the kernel's centre, so that far
    taps stay in place (Sun & Chen 2020, section III-D).

    Args:
        offsets_h: ``[B, k*k, h, w]`` in units of the scale.
        offsets_v: likewise.
    """
    side = round(offsets_h.shape[1] ** 0.5)
    axis = torch.arange(side, dtype=offsets_h.dtype, device=offsets_h.device) - side / 2
    weight = (axis.square()[:, None] + axis.square()[None, :]).sqrt() / side
    length = (offsets_h.square() + offsets_v.square() + _EPSILON).sqrt()
    return (length * weight.reshape(1, -1, 1, 1)).sum(dim=1).mean()


_LEVEL = 1 / 255


def coded_bits(lr: torch.Tensor) -> torch.Tensor:
    """Return about how many bits a lossless codec spends on a value of RGB ``[B, 3, h, w]``, ``[B]``.

    The codec predicts a value from its neighbours, and the colours from green. The residual is Laplacian, and
    costs the logarithm of its mean, image by image. So one more level costs most where the residual was zero:
    in flat areas, and in the colours of a grey picture.
    """
    red, green, blue = lr.unbind(dim=1)
    planes = torch.stack([green, red - green, blue - green], dim=1)
    across, down = (
        (planes[..., 1:] - planes[..., :-1]).abs(),
        (planes[..., 1:, :] - planes[..., :-1, :]).abs(),
    )
    spread = across.mean(dim=(2, 3)) + down.mean(dim=(2, 3))
    return torch.log2(spread / _LEVEL + 1).mean(dim=1)


Sampling = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Objective(nn.Module):
    """A pair of networks with its loss, ``[B, 3, H, W] -> scalar``, as one module to wrap or compile."""

    def __init__(self, model: Rescaler, recipe: Recipe) -> None:
        super().__init__()
        self.model, self.recipe = model, recipe
        self.learn_downscaler = True
        self.restoration = recipe.restoration
        self.shares = Shares(recipe.luma_weight, recipe.chroma_weight)
        self.coding: Coding | None = None
        """The lossy codec of the next step, in a recipe with `coded`."""

    def forward(self, hr: torch.Tensor) -> torch.Tensor:
        """Return the recipe's loss for a round trip of RGB ``[B, 3, H, W]`` in [0, 1]."""
        recipe, model = self.recipe, self.model
        sampling: Sampling | None = None
        first: torch.Tensor | None = None
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.learn_downscaler):
            if isinstance(model.downscaler, ResamplingDownscaler) and (
                recipe.tv_weight or recipe.offset_weight
            ):
                sampling = model.downscaler.kernels_and_offsets(hr)
                lr = adaptive_resample(hr, *sampling, model.geometry.scale)
            elif recipe.first_weight and model.corrector is not None:
                first = model.downscaler(hr)
                lr = model.corrector(hr, first, model.upscaler)
            else:
                lr = model.downscale(hr)
        if self.coding is not None:
            return self._coded(hr, lr, quantize(lr, gradient=recipe.rounding), self.coding)
        loss = self._round_trip(hr, lr)
        if first is not None:
            part = -(-len(hr) // 3)
            loss = loss + recipe.first_weight * self._round_trip(hr[:part], first[:part])
        if sampling:
            with torch.autocast(hr.device.type, enabled=False):
                loss = loss + recipe.tv_weight * offset_variation(*sampling)
                loss = loss + recipe.offset_weight * offset_distance(*sampling[1:])
        return loss

    def _round_trip(self, hr: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        """Return the loss of what is restored from an LR, and that of the LR itself."""
        recipe, model = self.recipe, self.model
        restored = model.upscale(quantize(lr, gradient=recipe.rounding))
        with torch.autocast(hr.device.type, enabled=False):
            lr, restored = lr.float(), restored.float()
            measure = restoration_l1 if self.restoration == "l1" else restoration_decibels
            loss = measure(restored, hr, self.shares)
            if isinstance(model.downscaler, BicubicDownscaler):
                return loss
            bicubic = bicubic_downscale(hr, model.geometry.scale)
            loss = loss + recipe.fidelity_weight * (lr - bicubic).abs().mean()
            if recipe.gradient_weight:
                loss = loss + recipe.gradient_weight * total_variation(lr - bicubic)
            if recipe.rate_weight:
                loss = loss + recipe.rate_weight * F.relu(coded_bits(lr) - coded_bits(bicubic)).mean()
            return loss + recipe.range_weight * out_of_range(lr)

    def _coded(self, hr: torch.Tensor, lr: torch.Tensor, small: torch.Tensor, coding: Coding) -> torch.Tensor:
        """Return the loss for an LR that a lossy codec encodes: decibels + rate_weight * log R + ...

        The loss uses the logarithms of squared error and of bits R, in the same unit. So steps at low and at
        high quality count alike, and the weight of the rate is the slope of the curve on which codecs trade
        one for the other.
        """
        recipe, scale = self.recipe, self.model.geometry.scale
        with torch.autocast(hr.device.type, enabled=False):
            decoded, steps = recode(small.float(), coding)
        restored = self.model.upscale(decoded)
        with torch.autocast(hr.device.type, enabled=False):
            lr = lr.float()
            loss = restoration_decibels(restored.float(), hr, self.shares)
            if recipe.rate_weight:
                bits = estimated_bits(lr, steps, subsampled=coding.subsampled)
                loss = loss + recipe.rate_weight * _LOG10 * torch.log2(1 + bits / MEANS_AND_HEADERS)
            change = lr - bicubic_downscale(hr, scale)
            loss = loss + recipe.fidelity_weight * change.abs().mean()
            return loss + recipe.range_weight * out_of_range(lr)


class LossWatch:
    """Distinguishes a diverging training from a fluctuating one, by a running mean of the loss."""

    _MEMORY = 0.98  # decay in each step
    _SETTLED = 10  # steps before the mean is reliable

    def __init__(self) -> None:
        self.sum = 0.0
        self.weight = 0.0
        self.steps = 0
        self.best = math.inf

    def update(self, loss: float, steps: int) -> None:
        """Add the mean loss of the last `steps` steps."""
        memory = self._MEMORY**steps
        self.sum = memory * self.sum + (1 - memory) * loss
        self.weight = memory * self.weight + (1 - memory)
        self.steps += steps
        if self.steps >= self._SETTLED and math.isfinite(self.sum):
            self.best = min(self.best, self.sum / self.weight)

    @property
    def mean(self) -> float:
        """The running mean of the loss."""
        return self.sum / self.weight if self.weight else 0.0

    @property
    def diverged(self) -> bool:
        """Whether the loss is not finite, or its running mean is over four times its lowest value."""
        return not math.isfinite(self.sum) or self.sum > 4 * self.best * self.weight

    @property
    def suspect(self) -> bool:
        """Whether the loss is so high that the current state may be bad."""
        return not math.isfinite(self.sum) or self.sum > 2 * self.best * self.weight

    def state(self) -> list[float]:
        """Return the complete state, for `restore`."""
        return [self.sum, self.weight, self.steps, self.best]

    def restore(self, state: list[float]) -> None:
        """Restore what `state` returned."""
        self.sum, self.weight, self.steps, self.best = state[0], state[1], int(state[2]), state[3]
