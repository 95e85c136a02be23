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

from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812 - the community's name for it
from torch import nn

from car.families import compact_geometry
from car.metrics import LUMA_WEIGHTS
from car.models.rescaler import BicubicDownscaler, KernelDownscaler, Rescaler
from car.ops import bicubic_downscale, bicubic_resize


class ResidualBlock(nn.Module):
    """x + conv3x3(LeakyReLU(conv3x3(x))); the second convolution starts at zero, the block at identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = zero_init(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # in place, because memory, not arithmetic, limits how large a picture can be
        return self.conv2(F.leaky_relu_(self.conv1(x), 0.2)).add_(x)


def zero_init(conv: nn.Conv2d) -> nn.Conv2d:
    """Set weight and bias of `conv` to zero, so that it contributes nothing at first."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def residual_trunk(channels_in: int, width: int, depth: int, head: nn.Conv2d) -> nn.Sequential:
    """conv3x3 -> `depth` residual blocks -> `head`."""
    return nn.Sequential(
        nn.Conv2d(channels_in, width, 3, padding=1), *(ResidualBlock(width) for _ in range(depth)), head
    )


def deepened(weights: dict[str, torch.Tensor], model: Rescaler) -> dict[str, torch.Tensor]:
    """Return weights for `model` that compute the same as `weights`, which belong to a shallower model.

    Blocks that `weights` lack are added at the end of their half. They are the blocks of `model`, which must
    be untrained, so that they are identities. A missing corrector is that of `model` too, and changes
    nothing; one that `model` lacks is left out. Weights of another kind are returned unchanged, or with names
    that fit no model.
    """
    state = model.state_dict()
    for half in ("downscaler", "upscaler"):
        ends = [
            max((int(key.split(".")[2]) for key in keys if key.startswith(f"{half}.trunk.")), default=0)
            for keys in (weights, state)
        ]
        if 0 < ends[0] < ends[1]:
            head = {f"{half}.trunk.{ends[0]}.{kind}": kind for kind in ("weight", "bias")}
            weights = {
                f"{half}.trunk.{ends[1]}.{head[key]}" if key in head else key: value
                for key, value in weights.items()
            }
            between = [f"{half}.trunk.{n}." for n in range(ends[0], ends[1])]
            weights |= {key: value for key, value in state.items() if key.startswith(tuple(between))}
    corrector = {key: value for key, value in state.items() if key.startswith("corrector.")}
    if not corrector:
        return {key: value for key, value in weights.items() if not key.startswith("corrector.")}
    fits_with_it = weights.keys() | corrector.keys() == state.keys() and not weights.keys() & corrector.keys()
    return weights | corrector if fits_with_it else weights


def rescaled(weights: dict[str, torch.Tensor], scale: int, to: int) -> dict[str, torch.Tensor]:
    """Return weights of compact networks for another scale, as a start for training.

    The trunks stay. The convolutions that read HR pixels are kernels of 3 x `scale` HR pixels, and the last
    one of the upscaler writes a cell of `scale` pixels: both are interpolated, so that they cover the same
    part of the LR grid. Weights of other networks are returned unchanged.

    Args:
        weights: names and values, as in a state dict.
        scale: the scale of `weights`.
        to: the other scale.
    """
    if scale == to or "upscaler.trunk.0.weight" not in weights:
        return weights
    head = max(int(key.split(".")[2]) for key in weights if key.startswith("upscaler.trunk."))
    reads, corrects = "downscaler.trunk.0.weight", "corrector.trunk.0.weight"
    changed = {
        key: _other_cells(weights[key], scale, to)
        for key in (f"upscaler.trunk.{head}.weight", f"upscaler.trunk.{head}.bias")
    }
    if reads in weights:
        changed[reads] = _other_kernels(weights[reads], scale, to)
    if corrects in weights:
        count = 3 * scale**2
        gradient, error, hr, lr = weights[corrects].split([3, count, count, 3], dim=1)
        pixels = [_other_kernels(part, scale, to) for part in (error, hr)]
        # the gradient is a sum over the HR pixels of a cell
        changed[corrects] = torch.cat([gradient * (scale / to) ** 2, *pixels, lr], dim=1)
    return weights | changed


def _other_kernels(weight: torch.Tensor, scale: int, to: int) -> torch.Tensor:
    """Return a convolution over unshuffled pixels, ``[O, 3*scale^2, 3, 3]``, for cells of `to` pixels."""
    kernels = F.pixel_shuffle(weight, scale)
    kernels = F.interpolate(kernels, size=(3 * to, 3 * to), mode="bilinear", align_corners=False)
    return F.pixel_unshuffle(kernels * (scale / to) ** 2, to)


def _other_cells(value: torch.Tensor, scale: int, to: int) -> torch.Tensor:
    """Return a weight or bias ``[3*scale^2, ...]``, which writes cells, for cells of `to` pixels a side."""
    rest = value.shape[1:]
    cells = value.reshape(3, scale, scale, -1).permute(3, 0, 1, 2)
    cells = F.interpolate(cells, size=(to, to), mode="bilinear", align_corners=False)
    return cells.permute(1, 2, 3, 0).reshape(3 * to**2, *rest)


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

    def _layers(self) -> tuple[nn.Conv2d, list[ResidualBlock], nn.Conv2d]:
        first, *blocks, head = cast("list[Any]", list(self.trunk))
        return first, blocks, head

    def error_and_gradient(self, lr: torch.Tensor, hr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the error of what is restored, and the gradient of its weighted square for `lr`.

        Written out as a forward pass, so that it can be exported and needs no automatic differentiation. It
        is exact but for the LR's outermost pixels, which the bilinear enlargement repeats beyond the border.

        Args:
            lr: RGB ``[B, 3, h, w]`` in [0, 1].
            hr: RGB ``[B, 3, s*h, s*w]``.

        Returns:
            The error ``[B, 3, s*h, s*w]``, restored minus `hr`, and the gradient ``[B, 3, h, w]`` of half the
            sum of its squares, those of luma counted in full and those of RGB by half.
        """
        first, blocks, head = self._layers()
        x, positive = first(lr - 0.5), list[torch.Tensor]()
        for block in blocks:
            hidden = F.leaky_relu(block.conv1(x), 0.2)
            positive.append(hidden > 0)  # of what is activated, so that convolution and activation are fused
            x = x + block.conv2(hidden)
        residual = F.pixel_shuffle(head(x), self.scale)
        base = F.interpolate(lr, scale_factor=self.scale, mode="bilinear", align_corners=False)
        error = base + residual.to(base.dtype) - hr
        luma = error.new_tensor(LUMA_WEIGHTS)
        metric = torch.outer(luma, luma) + 0.5 * torch.eye(3, dtype=error.dtype, device=error.device)
        pull = F.conv2d(error, metric[:, :, None, None])
        gradient = _pulled_back(F.pixel_unshuffle(pull, self.scale), head)
        for block, mask in zip(reversed(blocks), reversed(positive), strict=True):
            hidden = _pulled_back(gradient, block.conv2)
            gradient = gradient + _pulled_back(torch.where(mask, hidden, 0.2 * hidden), block.conv1)
        s = self.scale
        taps = 2 * s - s % 2  # where s is odd, an LR pixel's centre is that of an HR pixel
        profile = 1 - (torch.arange(taps, dtype=pull.dtype, device=pull.device) - (taps - 1) / 2).abs() / s
        window = torch.outer(profile, profile).expand(3, 1, -1, -1)
        through_base = F.conv2d(pull, window, stride=s, padding=s // 2, groups=3)
        return error, through_base + _pulled_back(gradient, first).to(pull.dtype)


def _pulled_back(gradient: torch.Tensor, conv: nn.Conv2d) -> torch.Tensor:
    """Return the gradient for what went into a 3x3 convolution from that for what came out of it."""
    return F.conv2d(gradient, conv.weight.transpose(0, 1).flip(2, 3), padding=1)


class Corrector(nn.Module):
    """Correct an LR picture by what its upscaler makes of it.

    ::

        LR --upscaler--> error, gradient --+
        HR, LR ----------------------------+-- conv -> [residual block] x depth -> conv --(+ LR)--> LR

    A downscaler does not know what the upscaler will do with its pixels. Gradient steps on the LR gain half
    a decibel and more (`car.codec.effort`). Each pass is one such step, of learned direction and length; all
    passes have the same weights. Training passes no gradient through what the upscaler shows on the way:
    upscaler and downscaler learn from the final restored picture.
    """

    def __init__(self, scale: int, width: int, depth: int, passes: int = 1) -> None:
        super().__init__()
        self.scale = scale
        self.passes = passes
        self.trunk = residual_trunk(
            6 * scale**2 + 6, width, depth, zero_init(nn.Conv2d(width, 3, 3, padding=1))
        )

    def forward(self, hr: torch.Tensor, lr: torch.Tensor, upscaler: CompactUpscaler) -> torch.Tensor:
        pixels = F.pixel_unshuffle(hr - 0.5, self.scale)
        for _ in range(self.passes):
            with torch.no_grad():
                error, gradient = upscaler.error_and_gradient(lr.detach().clamp(0, 1), hr)
            errors = F.pixel_unshuffle(_ERROR_GAIN * error, self.scale)
            change = self.trunk(torch.cat([gradient, errors, pixels, lr - 0.5], dim=1))
            lr = lr + _CORRECTION * change.to(lr.dtype)
        return lr


# bring errors to about the size of pixels, and what the trunk says to about the size of a correction
_ERROR_GAIN, _CORRECTION = 4.0, 0.1


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


# 0.8 levels of 255, squared: if pixels differ by less, no kernel can make another colour of them
_NOISE = 1e-5


class MatchedDownscaler(KernelDownscaler):
    """Shrink HR with the kernels nearest to bicubic that give each LR pixel a requested colour (`car_lite`).

    ::

        HR --+-- pixel-unshuffle s -> conv -> [residual block] x depth -> conv --> change of colour r
             |                                                                         |
             +-- bicubic + w (C - mean C) (cov C + noise)^-1 r as kernels of 4s taps --+--> LR

    The network predicts how much an LR pixel should differ from bicubic. For this, a matched filter is added
    to the bicubic kernel: the pixels' own colours C about their mean, in a window w of 3s pixels. Of all
    kernels that sum to zero and change the colour in this way, it is the smallest (in the norm that w
    divides). So every LR pixel is a weighted mean of HR pixels, with one kernel for all colours, and what is
    grey or flat in HR is grey or flat in LR. Scales are even.

    `forward` needs no kernels: their sum over pixels is ``cov C (cov C + noise)^-1 r``.
    """

    profile: torch.Tensor
    axes: torch.Tensor

    def __init__(self, scale: int, width: int, depth: int) -> None:
        super().__init__()
        self.scale = scale
        self.trunk = residual_trunk(3 * scale**2, width, depth, zero_init(nn.Conv2d(width, 3, 3, padding=1)))
        distance = (torch.arange(3 * scale) - (3 * scale - 1) / 2).abs()
        self.register_buffer("profile", 1 - distance / (1.5 * scale), persistent=False)
        # orthonormal: grey, red against green, both against blue
        axes = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [1.0, 1.0, -2.0]], dtype=torch.float64)
        axes = (axes / axes.norm(dim=1, keepdim=True)).float()
        self.register_buffer("axes", axes[:, :, None, None], persistent=False)

    def forward(self, hr: torch.Tensor) -> torch.Tensor:
        change = self._change(hr)
        with torch.autocast(hr.device.type, enabled=False):
            hr = hr.float() if hr.dtype in (torch.float16, torch.bfloat16) else hr
            change = change.to(hr.dtype)
            solution = self._solved(hr, change)[2].to(hr.dtype)
            lost = _NOISE * F.conv_transpose2d(solution, self.axes.to(hr.dtype))
            return bicubic_downscale(hr, self.scale) + change - lost

    def _change(self, hr: torch.Tensor) -> torch.Tensor:
        return self.trunk(F.pixel_unshuffle(hr - 0.5, self.scale))

    def _solved(
        self, hr: torch.Tensor, change: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return colours C, their mean in the window, and ``(cov C + noise)^-1 r``, along `axes`.

        The axes are not RGB, because there the variance of nearly grey pixels is a small difference of large
        numbers. Outside of training, variances are float64 for the same reason: in float32, what is almost
        flat would depend on the order of the sums, and so on the device, by single levels.
        """
        axes = self.axes.to(hr.dtype)
        exact = not self.training and hr.device.type != "mps"  # which has no float64
        colours = F.conv2d(hr - 0.5, axes).to(torch.float64 if exact else hr.dtype)
        light, first, second = colours.split(1, dim=1)
        products = torch.cat([colours * colours, light * first, light * second, first * second], dim=1)
        mean, moments = self._means(torch.cat([colours, products], dim=1)).split([3, 6], dim=1)
        y, u, v = mean.split(1, dim=1)
        covariance = moments - torch.cat([mean * mean, y * u, y * v, u * v], dim=1)
        return colours, mean, _solve(covariance, F.conv2d(change, axes).to(covariance.dtype))

    def _means(self, planes: torch.Tensor) -> torch.Tensor:
        """Return the means over those pixels of the window that are in the image."""
        s, channels = self.scale, planes.shape[1]
        profile = self.profile.to(planes.dtype).view(3, s).T

        def sums(x: torch.Tensor) -> torch.Tensor:
            # along the last axis: a window is three cells of s pixels; beyond the image there is nothing
            padded = F.pad(x, (s, s))
            parts = padded.unflatten(-1, (padded.shape[-1] // s, s)) @ profile
            return parts[..., :-2, 0] + parts[..., 1:-1, 1] + parts[..., 2:, 2]

        both = torch.cat([planes, torch.ones_like(planes[:, :1])], dim=1)
        both = sums(sums(both.mT).mT)
        return both[:, :channels] / both[:, channels:]

    def kernels_and_offsets(self, hr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        s, (height, width) = self.scale, hr.shape[-2:]
        side, before = 4 * s + 1, 3 * s // 2
        after = side - before - s
        # at an even scale, taps lie between pixels; an offset of half a pixel moves them onto pixels, and
        # leaves the last one unused
        grid = (side**2, height // s, width // s)

        def taps(plane: torch.Tensor) -> torch.Tensor:
            padded = F.pad(plane, (before, after, before, after))
            return F.unfold(padded, side, stride=s).view(-1, *grid)

        rows, columns = (_cubic_weights(n, s).to(hr).unsqueeze(0) for n in (height, width))
        along = [
            F.pad(m, (before, after)).unfold(2, side, s).diagonal(dim1=1, dim2=2) for m in (rows, columns)
        ]
        kernels = torch.einsum("xuh,xvw->uvhw", *along).reshape(1, *grid)
        profile = F.pad(self.profile.to(hr), (s // 2, side - 3 * s - s // 2))
        weights = torch.outer(profile, profile).view(1, -1, 1, 1) * taps(torch.ones_like(hr[:1, :1]))
        weights = weights / weights.sum(dim=1, keepdim=True)
        for colour, mean, solution in zip(
            *(t.to(hr.dtype).split(1, dim=1) for t in self._solved(hr, self._change(hr).to(hr.dtype))),
            strict=True,
        ):
            kernels = kernels + solution * weights * (taps(colour) - mean)
        offset = torch.full_like(kernels, 0.5 / s)
        return kernels, offset, offset


def _solve(covariance: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return x of ``(covariance + noise) x = right`` at every pixel, by an LDL^T decomposition.

    Args:
        covariance: ``[B, 6, h, w]``: of three colours with themselves, then of the first and second, first
            and third, second and third.
        right: ``[B, 3, h, w]``.
    """
    aa, bb, cc, ab, ac, bc = covariance.split(1, dim=1)
    first = aa.clamp_min(0) + _NOISE
    b_a, c_a = ab / first, ac / first
    # without rounding errors, the pivots would not be smaller than the noise
    second = (bb + _NOISE - b_a * ab).clamp_min(_NOISE)
    left = bc - b_a * ac
    c_b = left / second
    third = (cc + _NOISE - c_a * ac - c_b * left).clamp_min(_NOISE)
    a, b, c = right.split(1, dim=1)
    b = b - b_a * a
    c = (c - c_a * a - c_b * b) / third
    b = b / second - c_b * c
    a = a / first - b_a * b - c_a * c
    return torch.cat([a, b, c], dim=1)


def _cubic_weights(size: int, scale: int) -> torch.Tensor:
    """Return the weights ``[size / scale, size]``, float64, that shrink a column of pixels bicubically."""
    identity = torch.eye(size, dtype=torch.float64)
    return bicubic_resize(identity[None, None], (size // scale, size))[0, 0]


def plus(
    scale: int, width: int, depth_down: int, depth_up: int, depth_corrector: int = 0, passes: int = 1
) -> Rescaler:
    """Build a pair of the families `car_plus` and `car_codec`; without depth, there is no corrector."""
    return Rescaler(
        ResidualDownscaler(scale, width, depth_down),
        CompactUpscaler(scale, width, depth_up),
        compact_geometry(scale, depth_down, depth_up, passes if depth_corrector else 0),
        Corrector(scale, width, depth_corrector, passes) if depth_corrector else None,
    )


def lite(scale: int, width: int, depth_down: int, depth_up: int) -> Rescaler:
    """Build a pair of the family `car_lite`."""
    return Rescaler(
        MatchedDownscaler(scale, width, depth_down),
        CompactUpscaler(scale, width, depth_up),
        compact_geometry(scale, depth_down, depth_up),
    )


def bicubic_pair(scale: int, width: int, depth_up: int) -> Rescaler:
    """Build a pair that shrinks bicubically."""
    return Rescaler(
        BicubicDownscaler(scale),
        CompactUpscaler(scale, width, depth_up),
        compact_geometry(scale, 0, depth_up),
    )
