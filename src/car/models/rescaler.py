"""The interface of all model families: a downscaler and an upscaler that are trained as a pair."""

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import nn

from car.families import Geometry
from car.ops import adaptive_resample, bicubic_downscale


class Rescaler(nn.Module):
    """A pair of networks at one scale.

    ::

        HR [B,3,H,W] --downscaler--> LR [B,3,H/s,W/s] --quantize--> 8-bit LR --upscaler--> HR [B,3,H,W]

    A `corrector`, where there is one, then changes the LR by what the upscaler would make of it. Both halves
    take and return RGB, NCHW, floating point, nominally in [0, 1] but not clamped. `quantize` clamps and
    rounds; it is separate so that training and coding round in the same way. Both halves are differentiable
    and run on the device of their parameters.
    """

    def __init__(
        self,
        downscaler: nn.Module,
        upscaler: nn.Module,
        geometry: Geometry,
        corrector: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.downscaler = downscaler
        self.upscaler = upscaler
        self.corrector = corrector
        self.geometry = geometry

    def downscale(self, hr: torch.Tensor) -> torch.Tensor:
        """Shrink RGB ``[B, 3, H, W]`` to ``[B, 3, H/s, W/s]``; not yet rounded.

        Raises:
            ValueError: H or W is not a multiple of ``geometry.multiple`` or under ``geometry.min_size``.
        """
        g = self.geometry
        if hr.ndim != 4 or hr.shape[1] != 3:
            raise ValueError(f"expected RGB [B, 3, H, W], got {tuple(hr.shape)}")
        height, width = hr.shape[-2:]
        if height % g.multiple or width % g.multiple or min(height, width) < g.min_size:
            raise ValueError(
                f"HR size must be a multiple of {g.multiple} and at least {g.min_size}, got {height}x{width}"
            )
        lr = self.downscaler(hr)
        return lr if self.corrector is None else self.corrector(hr, lr, self.upscaler)

    def upscale(self, lr: torch.Tensor) -> torch.Tensor:
        """Restore RGB ``[B, 3, h, w]`` (8-bit values / 255) to ``[B, 3, s*h, s*w]``; not clamped.

        Raises:
            ValueError: `lr` is not ``[B, 3, h, w]``.
        """
        if lr.ndim != 4 or lr.shape[1] != 3:
            raise ValueError(f"expected RGB [B, 3, h, w], got {tuple(lr.shape)}")
        return self.upscaler(lr)

    def forward(self, hr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``(lr, restored)``; `restored` comes from the LR rounded to 8 bit, as in training."""
        lr = self.downscale(hr)
        return lr, self.upscale(quantize(lr))


class KernelDownscaler(nn.Module, ABC):
    """A downscaler whose LR pixels are weighted means of HR pixels, with one kernel for all colours."""

    scale: int

    @abstractmethod
    def kernels_and_offsets(self, hr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return kernels, offsets_h and offsets_v for RGB ``[B, 3, H, W]``, each ``[B, k*k, H/s, W/s]``.

        Kernels sum to one; offsets lie in (-1, 1), in units of the scale. With them,
        `car.ops.adaptive_resample` computes the same as `forward`.
        """


class ResamplingDownscaler(KernelDownscaler):
    """A downscaler that learns kernels and offsets, and resamples with them (Sun & Chen 2020)."""

    def forward(self, hr: torch.Tensor) -> torch.Tensor:
        kernels, offsets_h, offsets_v = self.kernels_and_offsets(hr)
        return adaptive_resample(hr, kernels, offsets_h, offsets_v, self.scale)


class BicubicDownscaler(nn.Module):
    """Antialiased bicubic downscaling without parameters, for comparison with learned downscalers."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, hr: torch.Tensor) -> torch.Tensor:
        return bicubic_downscale(hr, self.scale)


# Just outside [0, 1], the loss may still pull values back. Far outside, a gradient that ignores the clamp
# lets them diverge.
_GRADIENT_MARGIN = 0.01

Rounding = Literal["gated", "straight", "soft"]


class _Quantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, lr: torch.Tensor, levels: int, gradient: Rounding
    ) -> torch.Tensor:
        if gradient == "gated":
            ctx.save_for_backward((lr >= -_GRADIENT_MARGIN) & (lr <= 1 + _GRADIENT_MARGIN))
        elif gradient == "soft":
            ctx.save_for_backward(1 - torch.cos(2 * math.pi * levels * lr))
        return lr.clamp(0, 1).mul(levels).round().div(levels)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, *grad_outputs: torch.Tensor
    ) -> tuple[torch.Tensor, None, None]:
        saved = ctx.saved_tensors  # type: ignore[attr-defined]
        return (grad_outputs[0] * saved[0] if saved else grad_outputs[0]), None, None


def quantize(lr: torch.Tensor, levels: int = 255, gradient: Rounding = "gated") -> torch.Tensor:
    """Clamp to [0, 1] and round to multiples of ``1/levels``, with a gradient made for training.

    Args:
        lr: any shape, floating point, any device.
        levels: 255 for 8 bit, 65535 for 16 bit.
        gradient: "gated" passes the gradient on where the value lies within [-0.01, 1.01] and stops it
            elsewhere; "straight" passes it on everywhere (Bengio et al. 2013); "soft" is the derivative of
            ``x - sin(2 pi x) / (2 pi)`` in units of a level, which is 0 at a level and 2 half-way.
    """
    return _Quantize.apply(lr, levels, gradient)  # type: ignore[no-any-return]
