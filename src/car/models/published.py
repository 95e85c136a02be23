"""Family `car`: the networks of the paper, with the parameter names of the published checkpoints.

Sun & Chen, "Learned image downscaling for upscaling using content adaptive resampler", IEEE TIP 29, 2020
(arXiv 1907.12904); upscaler: Lim et al., "Enhanced deep residual networks for single image
super-resolution", CVPRW 2017.
"""

from dataclasses import replace

import torch
from torch import nn

from car.families import published_geometry
from car.models.rescaler import BicubicDownscaler, ResamplingDownscaler, Rescaler

RGB_MEAN = (0.4488, 0.4371, 0.4040)  # of the DIV2K training set


class MeanShift(nn.Conv2d):
    """Add `sign` times the mean colour: a frozen 1x1 convolution, stored in checkpoints like any other."""

    def __init__(self, sign: int) -> None:
        super().__init__(3, 3, 1)
        with torch.no_grad():
            self.weight.copy_(torch.eye(3).view(3, 3, 1, 1))
            assert self.bias is not None
            self.bias.copy_(sign * torch.tensor(RGB_MEAN))
        self.requires_grad_(False)


def _padded_conv(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [nn.ReflectionPad2d(1), nn.Conv2d(channels_in, channels_out, 3)]


class _Shrink(nn.Module):
    """Pixel-unshuffle by two and mix the channels."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.downsample = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * channels_in, channels_out, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.downsample(x)


class _Enlarge(nn.Module):
    """Mix the channels and pixel-shuffle by `factor`."""

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.upsample = nn.Sequential(nn.Conv2d(channels, channels * factor**2, 1), nn.PixelShuffle(factor))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.upsample(x)


class _KernelBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.transform = nn.Sequential(
            *_padded_conv(channels, channels), nn.LeakyReLU(0.2), *_padded_conv(channels, channels)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.transform(x)


class _ReturningClamp(torch.autograd.Function):
    """clamp(x, low, high) that passes gradients to values outside if they lead back inside.

    A plain clamp stops all gradients outside. With it, all taps of a kernel reach one of the two bounds after
    a few hundred steps at a usual learning rate, and the kernels no longer depend on the image.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, x: torch.Tensor, low: float, high: float
    ) -> torch.Tensor:
        ctx.save_for_backward(x < low, x > high)
        return x.clamp(low, high)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, *grad_outputs: torch.Tensor
    ) -> tuple[torch.Tensor, None, None]:
        below, above = ctx.saved_tensors  # type: ignore[attr-defined]
        gradient = grad_outputs[0]
        lost = (below & (gradient > 0)) | (above & (gradient < 0))
        return gradient.masked_fill(lost, 0), None, None


class KernelGenerator(nn.Module):
    """Predict, for every LR pixel, a k x k kernel and k x k sampling offsets, k = 3s + 1 (section III-A).

    ::

        HR -> -mean -> ds_1 -> ds_2 -> ds_4 -> res_4 -(+)-> ds_8 -+-> kernels_trunk -> kernels_weight
                                         +--------------^         +-> offsets_trunk -+-> offsets_h
                                                                                     +-> offsets_v

    Args:
        scale: 2 or 4.
        features: channels of the first layer; the paper's 64. The others are multiples of it.
        blocks: residual blocks in `res_4`; the paper's 5.

    Takes RGB ``[B, 3, H, W]`` in [0, 1], H and W multiples of 8 and at least 16 (reflection padding).
    Returns kernels (non-negative, summing to one) and offsets_h, offsets_v (in (-1, 1), units of s
    pixels), each ``[B, k*k, H/s, W/s]``.
    """

    def __init__(self, scale: int, features: int = 64, blocks: int = 5) -> None:
        super().__init__()
        if scale not in (2, 4):
            raise ValueError(f"the published kernel generator exists for scales 2 and 4, not {scale}")
        taps = (3 * scale + 1) ** 2
        half, full = 2 * features, 4 * features

        def trunk() -> nn.Sequential:
            convs = [layer for _ in range(3) for layer in (*_padded_conv(full, full), nn.ReLU())]
            return nn.Sequential(*convs, _Enlarge(full, 8 // scale), *_padded_conv(full, full), nn.ReLU())

        def generation(*last: nn.Module) -> nn.Sequential:
            return nn.Sequential(*_padded_conv(full, full), nn.ReLU(), *_padded_conv(full, taps), *last)

        self.sub_mean = MeanShift(-1)
        self.ds_1 = nn.Sequential(nn.ReflectionPad2d(2), nn.Conv2d(3, features, 5), nn.LeakyReLU(0.2))
        self.ds_2 = _Shrink(features, half)
        self.ds_4 = _Shrink(half, half)
        self.res_4 = nn.Sequential(*(_KernelBlock(half) for _ in range(blocks)))
        self.ds_8 = _Shrink(half, full)
        self.kernels_trunk = trunk()
        self.kernels_weight = generation()
        self.offsets_trunk = trunk()
        self.offsets_h_generation = generation(nn.Tanh())
        self.offsets_v_generation = generation(nn.Tanh())
        self.returning_clamp = False

    def forward(self, hr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x = self.ds_4(self.ds_2(self.ds_1(self.sub_mean(hr))))
        x = self.ds_8(x + self.res_4(x))
        raw = self.kernels_weight(self.kernels_trunk(x)).float()
        clamp = _ReturningClamp.apply if self.returning_clamp else torch.clamp
        kernels: torch.Tensor = clamp(raw, 1e-6, 1.0)  # type: ignore[assignment]
        kernels = kernels / kernels.sum(dim=1, keepdim=True)
        offsets = self.offsets_trunk(x)
        return (
            kernels.to(hr.dtype),
            self.offsets_h_generation(offsets).to(hr.dtype),
            self.offsets_v_generation(offsets).to(hr.dtype),
        )


class AdaptiveDownscaler(ResamplingDownscaler):
    """Resample HR with the kernels and offsets that its kernel generator `kgn` predicts."""

    def __init__(self, scale: int, features: int = 64, blocks: int = 5) -> None:
        super().__init__()
        self.scale = scale
        self.kgn = KernelGenerator(scale, features, blocks)

    def kernels_and_offsets(self, hr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.kgn(hr)

    def start_classical(self) -> None:
        """Prepare an untrained kernel generator for a short training.

        PyTorch's default weights attenuate the signal: after a dozen layers, only the layers' biases reach
        the kernels. The kernels then hardly depend on the image for thousands of steps, and the first ones
        average over all k x k pixels. Here, weights keep the signal's size (He et al. 2015), and biases and
        residual branches start at zero. Every pixel starts with the same Gaussian kernel of 0.3 LR pixels and
        no offsets, and training loses no tap to the clamp.
        """
        self.kgn.returning_clamp = True
        for layer in self.kgn.modules():
            if isinstance(layer, nn.Conv2d) and not isinstance(layer, MeanShift):
                nn.init.kaiming_normal_(layer.weight, a=0.2)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        for block in self.kgn.res_4:
            nn.init.zeros_([p for p in block.parameters() if p.ndim > 1][-1])
        axis = (torch.arange(3 * self.scale + 1) - (3 * self.scale) // 2) / self.scale
        taps = torch.exp(-(axis[:, None].square() + axis[None, :].square()) / (2 * 0.3**2)).flatten()
        heads = (self.kgn.kernels_weight, self.kgn.offsets_h_generation, self.kgn.offsets_v_generation)
        # slightly above zero everywhere, because a tap below the clamp would get no gradient
        for head, start in zip(heads, (0.5 * taps + 1e-5, 0.0, 0.0), strict=True):
            last = [layer for layer in head if isinstance(layer, nn.Conv2d)][-1]
            with torch.no_grad():
                last.weight.zero_()
                assert last.bias is not None
                last.bias.copy_(torch.as_tensor(start))


class _EDSRBlock(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(features, features, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(features, features, 3, padding=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.1 * self.body(x)


class EDSR(nn.Module):
    """Restore HR from LR (Lim et al. 2017, as the paper uses it).

    ::

        LR -> -mean -> head -+-> body -(+)-> tail (conv, pixel-shuffle 2, ...) -> +mean -> HR
                             +----------^

    Args:
        scale: a power of two.
        features: channels; the paper's 256.
        blocks: residual blocks; the paper's 32.
    """

    def __init__(self, scale: int, features: int = 256, blocks: int = 32) -> None:
        super().__init__()
        if scale < 2 or scale & (scale - 1):
            raise ValueError(f"EDSR enlarges by powers of two, not {scale}")
        enlarge = [
            layer
            for _ in range(scale.bit_length() - 1)
            for layer in (nn.Conv2d(features, 4 * features, 3, padding=1), nn.PixelShuffle(2))
        ]
        self.sub_mean = MeanShift(-1)
        self.head = nn.Sequential(nn.Conv2d(3, features, 3, padding=1))
        self.body = nn.Sequential(
            *(_EDSRBlock(features) for _ in range(blocks)), nn.Conv2d(features, features, 3, padding=1)
        )
        self.tail = nn.Sequential(nn.Sequential(*enlarge), nn.Conv2d(features, 3, 3, padding=1))
        self.add_mean = MeanShift(+1)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        x = self.head(self.sub_mean(lr))
        return self.add_mean(self.tail(x + self.body(x)))


def published_pair(scale: int, features: int = 64, up_features: int = 256, up_blocks: int = 32) -> Rescaler:
    """Build the paper's pair, or a narrower one of the same shape (for tests and reduced training)."""
    geometry = published_geometry(scale, up_blocks)
    return Rescaler(AdaptiveDownscaler(scale, features), EDSR(scale, up_features, up_blocks), geometry)


def bicubic_pair(scale: int, up_features: int, up_blocks: int) -> Rescaler:
    """Build a pair that shrinks bicubically and restores with a published upscaler."""
    geometry = published_geometry(scale, up_blocks)
    reach = replace(geometry, halo_down=2 * scale, multiple=scale, min_size=scale)
    return Rescaler(BicubicDownscaler(scale), EDSR(scale, up_features, up_blocks), reach)
