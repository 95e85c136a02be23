"""The compact networks: families `car_lite`, `car_plus` and `car_codec`.

Both share one upscaler, plain residual blocks at LR resolution in the manner of EDSR (Lim et al.,
"Enhanced deep residual networks for single image super-resolution", CVPRW 2017), adding what it learned
to a bilinear enlargement. They differ in the downscaler: `car_lite` resamples real pixels with one
content-adaptive kernel for all colours (Sun & Chen, IEEE TIP 29, 2020, section III), `car_plus` adds a
learned residual to the bicubic picture, in the spirit of invertible rescaling (Xiao et al., ECCV 2020)
without the constraint of invertibility. `car_codec` is `car_plus` trained for small pictures that are JPEG,
WebP or AVIF.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - the community's name for it
from torch import nn

from car.models.registry import register
from car.models.rescaler import BicubicDownscaler, Geometry, ResamplingDownscaler, Rescaler
from car.ops import bicubic_downscale


class ResidualBlock(nn.Module):
    """x + conv3x3(LeakyReLU(conv3x3(x))); the second convolution starts at zero, the block at identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = zero_init(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # in place: the activations of a large picture are limited by memory, not by arithmetic
        return self.conv2(F.leaky_relu_(self.conv1(x), 0.2)).add_(x)


def zero_init(conv: nn.Conv2d) -> nn.Conv2d:
    """Set weight and bias of `conv` to zero, so that what it feeds starts without it."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def residual_trunk(channels_in: int, width: int, depth: int, head: nn.Conv2d) -> nn.Sequential:
    """conv3x3 -> `depth` residual blocks -> `head`."""
    return nn.Sequential(
        nn.Conv2d(channels_in, width, 3, padding=1), *(ResidualBlock(width) for _ in range(depth)), head
    )


class CompactUpscaler(nn.Module):
    """Restore HR from LR; all work is done at LR resolution.

    ::

        LR --+-- conv -> [residual block] x depth -> conv -> pixel-shuffle s --(+)--> HR
             +----------------- bilinear enlargement ---------------------------^
    """

    def __init__(self, scale: int, width: int, depth: int) -> None:
        super().__init__()
        self.scale = scale
        self.trunk = residual_trunk(3, width, depth, zero_init(nn.Conv2d(width, 3 * scale**2, 3, padding=1)))

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        residual = F.pixel_shuffle(self.trunk(lr - 0.5), self.scale)
        base = F.interpolate(lr, scale_factor=self.scale, mode="bilinear", align_corners=False)
        return base + residual.to(base.dtype)


class ResidualDownscaler(nn.Module):
    """Shrink HR to the bicubic picture plus a learned residual (family `car_plus`).

    ::

        HR --+-- pixel-unshuffle s -> conv -> [residual block] x depth -> conv --(+)--> LR
             +--------------------- bicubic -----------------------------------^
    """

    def __init__(self, scale: int, width: int, depth: int) -> None:
        super().__init__()
        self.scale = scale
        self.trunk = residual_trunk(3 * scale**2, width, depth, zero_init(nn.Conv2d(width, 3, 3, padding=1)))

    def forward(self, hr: torch.Tensor) -> torch.Tensor:
        residual = self.trunk(F.pixel_unshuffle(hr - 0.5, self.scale))
        base = bicubic_downscale(hr, self.scale)
        return base + residual.to(base.dtype)


class KernelDownscaler(ResamplingDownscaler):
    """Shrink HR by content-adaptive resampling with signed kernels that sum to one (family `car_lite`).

    The network predicts what a pixel's kernel and offsets add to a fixed start: the cubic kernel and no
    offset, so that an untrained model is a classical downscaler.

    ::

        HR --+-- pixel-unshuffle s -> conv -> [residual block] x depth -+-> 1x1 conv -> kernels
             |                                                          +-> 1x1 conv -> offsets h, v
             +------------- adaptive_resample(HR, kernels, offsets) ---> LR
    """

    taps: torch.Tensor

    def __init__(self, scale: int, width: int, depth: int) -> None:
        super().__init__()
        self.scale = scale
        k = 3 * scale + 1
        self.trunk = residual_trunk(3 * scale**2, width, depth, nn.Conv2d(width, width, 3, padding=1))
        self.kernels = zero_init(nn.Conv2d(width, k * k, 1))
        self.offsets = zero_init(nn.Conv2d(width, 2 * k * k, 1))
        self.register_buffer("taps", cubic_taps(scale).view(1, k * k, 1, 1), persistent=False)

    def kernels_and_offsets(self, hr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        features = F.leaky_relu(self.trunk(F.pixel_unshuffle(hr - 0.5, self.scale)), 0.2)
        change = self.kernels(features).to(hr.dtype)
        kernels = self.taps + change - change.mean(dim=1, keepdim=True)
        offsets_h, offsets_v = torch.tanh(self.offsets(features)).to(hr.dtype).chunk(2, dim=1)
        return kernels, offsets_h, offsets_v


def cubic_taps(scale: int) -> torch.Tensor:
    """Return the ``[k, k]`` kernel, k = 3s + 1, that makes `adaptive_resample` without offsets bicubic.

    At even scales the taps of the op fall half-way between pixels, where it averages two neighbours; the
    kernel is therefore the least-squares solution for which tap *and* averaging give the cubic weights.
    """
    k = 3 * scale + 1
    # tap j samples the HR axis at j - k//2 + (s - 1)/2 from the first pixel of the LR cell
    position = torch.arange(k, dtype=torch.float64) - k // 2 + (scale - 1) / 2
    first = int(position.min().floor()) - 1
    pixels = torch.arange(first, int(position.max().ceil()) + 2, dtype=torch.float64)
    sampling = (1 - (pixels[:, None] - position[None, :]).abs()).clamp_min(0)
    distance = ((pixels - (scale - 1) / 2) / scale).abs()
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    cubic = torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))
    # a little ridge keeps the solution smooth where averaging hides the highest frequency
    normal = sampling.T @ sampling + 1e-3 * torch.eye(k, dtype=torch.float64)
    taps = torch.linalg.solve(normal, sampling.T @ (cubic / cubic.sum()))
    taps = taps / taps.sum()
    return torch.outer(taps, taps).float()


def _geometry(scale: int, depth_down: int, depth_up: int, *, reach: int) -> Geometry:
    # a trunk sees one pixel further with each 3x3 convolution: two a block, one before, one after;
    # `reach` is how far beyond the LR cell the resampling itself looks, in HR pixels
    return Geometry(
        scale=scale,
        multiple=scale,
        min_size=scale,
        halo_down=max(scale * (2 * depth_down + 2), reach),
        halo_up=2 * depth_up + 2,
    )


def _plus(scale: int, width: int, depth_down: int, depth_up: int) -> Callable[[], Rescaler]:
    return lambda: Rescaler(
        ResidualDownscaler(scale, width, depth_down),
        CompactUpscaler(scale, width, depth_up),
        _geometry(scale, depth_down, depth_up, reach=2 * scale),
    )


def _lite(scale: int, width: int, depth_down: int, depth_up: int) -> Callable[[], Rescaler]:
    # k // 2 taps, one unit of offset and the bilinear neighbour
    reach = (3 * scale + 1) // 2 + scale + 1
    return lambda: Rescaler(
        KernelDownscaler(scale, width, depth_down),
        CompactUpscaler(scale, width, depth_up),
        _geometry(scale, depth_down, depth_up, reach=reach),
    )


def _bicubic(scale: int, width: int, depth_up: int) -> Callable[[], Rescaler]:
    return lambda: Rescaler(
        BicubicDownscaler(scale),
        CompactUpscaler(scale, width, depth_up),
        _geometry(scale, 0, depth_up, reach=2 * scale),
    )


register("car_plus_x2", _plus(2, width=48, depth_down=6, depth_up=6))
register("car_plus_x4", _plus(4, width=48, depth_down=6, depth_up=12))
register("car_codec_x2", _plus(2, width=48, depth_down=6, depth_up=6))
register("car_codec_x4", _plus(4, width=48, depth_down=6, depth_up=12))
register("car_lite_x2", _lite(2, width=48, depth_down=3, depth_up=6))
register("car_lite_x4", _lite(4, width=48, depth_down=3, depth_up=9))
register("car_lite_bicubic_x2", _bicubic(2, width=48, depth_up=6), control=True)
register("car_lite_bicubic_x4", _bicubic(4, width=48, depth_up=9), control=True)
