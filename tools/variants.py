"""Networks that `car_plus_x4` was compared with, for tools/ablate.py; none of them is shipped.

Each has about the multiply-adds of `car_plus_x4`, where nothing else is said, and one thing is different.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - the community's name for it
from torch import nn

from car.models import Geometry, Rescaler, register
from car.models.compact import CompactUpscaler, ResidualBlock, ResidualDownscaler, zero_init
from car.ops import bicubic_downscale

_SCALE = 4
_GEOMETRY = Geometry(_SCALE, _SCALE, _SCALE, 64, 64)  # not tiled


class BranchedConv(nn.Module):
    """3x3 + 1x1 + identity, which one 3x3 could do after training (Ding et al., RepVGG, CVPR 2021)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide, self.point = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.wide(x) + self.point(x) + x


class LargeKernelBlock(nn.Module):
    """x + 1x1(LeakyReLU(1x1(depthwise 7x7(x)))), the middle of twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.expand, self.reduce = nn.Conv2d(width, 2 * width, 1), zero_init(nn.Conv2d(2 * width, width, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.reduce(F.leaky_relu(self.expand(self.depthwise(x)), 0.2))


class AreaDownscaler(ResidualDownscaler):
    """The residual is added to the mean of s x s pixels instead of the bicubic picture."""

    def forward(self, hr: torch.Tensor) -> torch.Tensor:
        return super().forward(hr) - bicubic_downscale(hr, self.scale) + F.avg_pool2d(hr, self.scale)


class InLumaAndColours(nn.Module):
    """What is inside sees luma and two colour differences instead of RGB, and its result is turned back."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        matrix = torch.tensor([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]])
        self.register_buffer("split", matrix, persistent=False)
        self.register_buffer("joined", matrix.inverse(), persistent=False)

    def forward(self, rgb: torch.Tensor) -> torch.Tensor:
        # by sums of products, which autocast leaves in float32
        inside = self.inner(self._turned(rgb, self.get_buffer("split")))
        return self._turned(inside.float(), self.get_buffer("joined"))

    @staticmethod
    def _turned(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        return (x[:, None] * matrix[None, :, :, None, None]).sum(dim=2)


class Couplings(nn.Module):
    """Two levels of a Haar transform with affine couplings each: invertible but for what is dropped.

    Xiao et al., "Invertible image rescaling", ECCV 2020; what is dropped is taken as zero on the way back.
    """

    def __init__(self, width: int, couplings: int) -> None:
        super().__init__()

        def subnet(channels_in: int, channels_out: int) -> nn.Sequential:
            first = nn.Conv2d(channels_in, width, 3, padding=1)
            last = zero_init(nn.Conv2d(width, channels_out, 3, padding=1))
            return nn.Sequential(first, nn.LeakyReLU(0.2), ResidualBlock(width), last)

        def level(low: int, high: int) -> nn.ModuleList:
            pairs = (nn.ModuleList([subnet(high, low), subnet(low, 2 * high)]) for _ in range(couplings))
            return nn.ModuleList(pairs)

        self.levels = nn.ModuleList([level(3, 9), level(3, 9)])

    @staticmethod
    def _haar(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a, b, c, d = (x[..., i::2, j::2] for i in (0, 1) for j in (0, 1))
        return (a + b + c + d) / 4, torch.cat([a + b - c - d, a - b + c - d, a - b - c + d], dim=1) / 4

    @staticmethod
    def _unhaar(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        v, h, d = high.chunk(3, dim=1)
        corners = [low + v + h + d, low + v - h - d, low - v + h - d, low - v - h + d]
        return F.pixel_shuffle(torch.stack(corners, dim=2).flatten(1, 2), 2)

    @staticmethod
    def _affine(net: nn.Module, low: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scale, shift = net(low - 0.5).float().chunk(2, dim=1)
        return torch.exp(torch.tanh(scale)), shift

    def down(self, hr: torch.Tensor) -> torch.Tensor:
        low = hr
        for level in self.levels:
            low, high = self._haar(low)
            for to_low, to_high in level:  # type: ignore[misc]
                low = low + to_low(high).float()
                factor, shift = self._affine(to_high, low)
                high = high * factor + shift
        return low

    def up(self, lr: torch.Tensor) -> torch.Tensor:
        low = lr
        for level in reversed(list(self.levels)):
            high = low.new_zeros(low.shape[0], 9, *low.shape[2:])
            for to_low, to_high in reversed(list(level)):  # type: ignore[arg-type]
                factor, shift = self._affine(to_high, low)
                high = (high - shift) / factor
                low = low - to_low(high).float()
            low = self._unhaar(low, high)
        return low


class _Half(nn.Module):
    """One direction of a network that knows both; the other one registers its parameters."""

    def __init__(self, run: Callable[[torch.Tensor], torch.Tensor], owned: nn.Module | None = None) -> None:
        super().__init__()
        self.run, self.owned = run, owned

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(x)


def _invertible() -> Rescaler:
    net = Couplings(width=48, couplings=3)
    return Rescaler(_Half(net.down, net), _Half(net.up), _GEOMETRY)


def _pair(
    width: int,
    down: int,
    up: int,
    *,
    block: Callable[[int], nn.Module] = ResidualBlock,
    downscaler: type[ResidualDownscaler] = ResidualDownscaler,
    wrap: Callable[[nn.Module], nn.Module] = lambda half: half,
) -> Callable[[], Rescaler]:
    def make() -> Rescaler:
        halves = (downscaler(_SCALE, width, down), CompactUpscaler(_SCALE, width, up))
        for half in halves:
            for at in range(1, len(half.trunk) - 1):
                half.trunk[at] = block(width)
        return Rescaler(wrap(halves[0]), wrap(halves[1]), _GEOMETRY)

    return make


def _branched(width: int) -> nn.Module:
    block = ResidualBlock(width)
    block.conv1 = BranchedConv(width)  # type: ignore[assignment]
    return block


VARIANTS = {
    "48_3_15": _pair(48, 3, 15),
    "48_9_9": _pair(48, 9, 9),
    "64_3_7": _pair(64, 3, 7),
    "32_13_27": _pair(32, 13, 27),
    "48_3_6": _pair(48, 3, 6),  # half the work
    "branched": _pair(48, 6, 12, block=_branched),
    "large_kernels": _pair(48, 18, 36, block=LargeKernelBlock),
    "area": _pair(48, 6, 12, downscaler=AreaDownscaler),
    "luma_and_colours": _pair(48, 6, 12, wrap=InLumaAndColours),
    "couplings": _invertible,
}


def register_variants() -> dict[str, str]:
    """Register all variants; return name -> registered name."""
    for name, make in VARIANTS.items():
        register(f"variant_{name}_x4", make, control=True)
    return {name: f"variant_{name}_x4" for name in VARIANTS}
