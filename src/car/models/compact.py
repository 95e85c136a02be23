"""The compact networks: families `car_lite`, `car_plus` and `car_codec`.

All share one upscaler, plain residual blocks at LR resolution in the manner of EDSR (Lim et al.,
"Enhanced deep residual networks for single image super-resolution", CVPRW 2017), adding what it learned
to a bilinear enlargement. They differ in the downscaler: `car_lite` resamples real pixels with one
content-adaptive kernel for all colours, as the paper does (Sun & Chen, IEEE TIP 29, 2020, section III), but
without offsets, and with kernels that are matched to the pixels instead of learned tap by tap. `car_plus`
adds a learned residual to the bicubic picture, in the spirit of invertible rescaling (Xiao et al., ECCV
2020) without the constraint of invertibility. `car_codec` is `car_plus` trained for small pictures that are
JPEG, WebP or AVIF.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - the community's name for it
from torch import nn

from car.models.registry import register
from car.models.rescaler import BicubicDownscaler, Geometry, KernelDownscaler, Rescaler
from car.ops import bicubic_downscale, bicubic_resize


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


# 2.5 levels of 255, squared: below the noise of photographs there is nothing to weigh
_NOISE = 1e-4


class MatchedDownscaler(KernelDownscaler):
    """Shrink HR with the kernels nearest to bicubic that give the LR the brightness asked for (`car_lite`).

    ::

        HR --+-- pixel-unshuffle s -> conv -> [residual block] x depth -> conv --> change of luma r
             |                                                                         |
             +-- bicubic + r * w (Y - mean Y) / (var Y + noise) as kernels of 4s taps -+--> LR

    The network says by how much the luma of an LR pixel is to differ from bicubic. What is added to the
    bicubic kernel for it is a matched filter: the pixels' own luma Y about its mean, in a window w of 3s
    pixels. Of all kernels that sum to zero and change luma so much, it is the smallest one (in the norm that
    w divides). Every LR pixel thus stays a weighted mean of HR pixels, by one kernel for all colours, which
    follow luma as they do in the window. Scales are even.

    `forward` needs no kernels: their sum over pixels is a ratio of covariances in the window.
    """

    window: torch.Tensor

    def __init__(self, scale: int, width: int, depth: int) -> None:
        super().__init__()
        self.scale = scale
        self.trunk = residual_trunk(3 * scale**2, width, depth, zero_init(nn.Conv2d(width, 1, 3, padding=1)))
        distance = (torch.arange(3 * scale) - (3 * scale - 1) / 2).abs()
        hat = 1 - distance / (1.5 * scale)
        self.register_buffer("window", torch.outer(hat, hat)[None, None], persistent=False)

    def luma_change(self, hr: torch.Tensor) -> torch.Tensor:
        """Return by how much luma is to differ from bicubic, ``[B, 1, H/s, W/s]``."""
        return self.trunk(F.pixel_unshuffle(hr - 0.5, self.scale)).to(hr.dtype)

    def forward(self, hr: torch.Tensor) -> torch.Tensor:
        change = self.luma_change(hr)
        with torch.autocast(hr.device.type, enabled=False):
            hr = hr.float() if hr.dtype in (torch.float16, torch.bfloat16) else hr
            luma = _luma(hr)
            mean = self._means(torch.cat([luma, hr, luma * luma, luma * hr], dim=1))
            covariance = mean[:, 4:] - mean[:, :1] * mean[:, :4]  # of luma with luma, and with each colour
            follow = covariance[:, 1:] / (covariance[:, :1].clamp_min(0) + _NOISE)
            return bicubic_downscale(hr, self.scale) + change * follow

    def _means(self, planes: torch.Tensor) -> torch.Tensor:
        """Return means over the window, of those pixels in it that are in the image."""
        channels = planes.shape[1]
        window = self.window.to(planes.dtype)
        sums = F.conv2d(
            planes, window.expand(channels, -1, -1, -1), None, self.scale, self.scale, groups=channels
        )
        inside = F.conv2d(torch.ones_like(planes[:1, :1]), window, None, self.scale, self.scale)
        return sums / inside

    def kernels_and_offsets(self, hr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        s, (height, width) = self.scale, hr.shape[-2:]
        side, before = 4 * s + 1, 3 * s // 2
        after = side - before - s
        # taps of an even scale lie between pixels; half a pixel puts them on pixels, and leaves the last idle
        grid = (1, side**2, height // s, width // s)

        def taps(planes: torch.Tensor) -> torch.Tensor:
            padded = F.pad(planes, (before, after, before, after))
            return F.unfold(padded, side, stride=s).view(-1, *grid[1:])

        rows, columns = (_cubic_weights(n, s).to(hr).unsqueeze(0) for n in (height, width))
        along = [
            F.pad(m, (before, after)).unfold(2, side, s).diagonal(dim1=1, dim2=2) for m in (rows, columns)
        ]
        base = torch.einsum("xuh,xvw->uvhw", *along).reshape(grid)
        luma = _luma(hr)
        mean = self._means(torch.cat([luma, luma * luma], dim=1))
        variance = (mean[:, 1:] - mean[:, :1].square()).clamp_min(0)
        window = F.pad(self.window.to(hr), (s // 2, side - 3 * s - s // 2) * 2).reshape(1, -1, 1, 1)
        weights = window * taps(torch.ones_like(luma[:1]))
        matched = weights / weights.sum(dim=1, keepdim=True) * (taps(luma) - mean[:, :1])
        kernels = base + self.luma_change(hr) * matched / (variance + _NOISE)
        offset = torch.full_like(kernels, 0.5 / s)
        return kernels, offset, offset


def _luma(rgb: torch.Tensor) -> torch.Tensor:
    weights = rgb.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)  # ITU-R BT.601
    return (rgb * weights).sum(dim=1, keepdim=True)


def _cubic_weights(size: int, scale: int) -> torch.Tensor:
    """Return the weights ``[size / scale, size]``, float64, with which bicubic shrinks a column of pixels."""
    identity = torch.eye(size, dtype=torch.float64)
    return bicubic_resize(identity[None, None], (size // scale, size))[0, 0]


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
    return lambda: Rescaler(
        MatchedDownscaler(scale, width, depth_down),
        CompactUpscaler(scale, width, depth_up),
        _geometry(scale, depth_down, depth_up, reach=2 * scale),
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
