"""PSNR and SSIM as the super-resolution tables measure them ("paper protocol").

Images are float64 or float32 tensors in [0, 1], ``[3, H, W]`` or ``[B, 3, H, W]``, already rounded to
the 8-bit grid. Luma is the studio-swing BT.601 luma with the weights (65.738, 129.057, 25.064)/255 on
RGB differences (the offset of 16 cancels in a difference), `border` pixels are shaved on each side, and
SSIM uses the 11x11 Gaussian window of sigma 1.5 with K = (0.01, 0.03) and L = 255 (Wang et al., "Image
quality assessment: from error visibility to structural similarity", IEEE TIP 13, 2004).
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812 - the community's name for it

LUMA_WEIGHTS = (65.738 / 255, 129.057 / 255, 25.064 / 255)
_LUMA_OFFSET = 16 / 255
_STRIP_PIXELS = 2**20


def luma(image: torch.Tensor) -> torch.Tensor:
    """Return the BT.601 studio-swing luma ``[..., 1, H, W]`` (16/255 to 235.86/255) of RGB in [0, 1]."""
    _check(image, image)
    weights = image.new_tensor(LUMA_WEIGHTS).view(3, 1, 1)
    return (image * weights).sum(dim=-3, keepdim=True) + _LUMA_OFFSET


def psnr(a: torch.Tensor, b: torch.Tensor, *, border: int = 0, on_luma: bool = True) -> float:
    """Return the peak signal-to-noise ratio in dB for a peak of 1; infinite where the images are equal.

    Args:
        a: RGB ``[3, H, W]`` or ``[B, 3, H, W]`` in [0, 1].
        b: the same shape.
        border: pixels left out on each side (the scale, in the tables).
        on_luma: on luma as in the tables, else over all three channels.

    Raises:
        ValueError: shapes differ, are not RGB, or nothing is left inside the border.
    """
    _check(a, b)
    total, count = 0.0, 0
    for x, y in _strips(_shave(a, border), _shave(b, border)):
        difference = x.double() - y.double()
        if on_luma:
            weights = difference.new_tensor(LUMA_WEIGHTS).view(3, 1, 1)
            difference = (difference * weights).sum(dim=-3, keepdim=True)
        total, count = total + difference.square().sum().item(), count + difference.numel()
    mean_square = total / count
    return math.inf if mean_square == 0 else -10 * math.log10(mean_square)


def ssim(a: torch.Tensor, b: torch.Tensor, *, border: int = 0) -> float:
    """Return the mean structural similarity on luma, -1 to 1, over all full 11x11 windows.

    Raises:
        ValueError: as `psnr`, or fewer than 11 pixels a side are left inside the border.
    """
    _check(a, b)
    a, b = _shave(a, border), _shave(b, border)
    if min(a.shape[-2:]) < 11:
        raise ValueError(f"SSIM needs 11x11 pixels inside the border, got {tuple(a.shape[-2:])}")
    total, count = 0.0, 0
    for x, y in _strips(a, b, more=10):
        similarity = _similarity(*(luma(image.double()) * 255 for image in (x, y)))
        total, count = total + similarity.sum().item(), count + similarity.numel()
    return total / count


def _similarity(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the SSIM of all full windows of luma ``[..., 1, H, W]``, 0 to 255."""
    x, y = (image.reshape(-1, 1, *image.shape[-2:]) for image in (x, y))
    taps = torch.arange(11, dtype=torch.float64, device=x.device) - 5
    window = torch.exp(-taps.square() / (2 * 1.5**2))
    window = window / window.sum()

    def blur(image: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.conv2d(image, window.view(1, 1, 1, 11)), window.view(1, 1, 11, 1))

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )


def _strips(
    a: torch.Tensor, b: torch.Tensor, *, more: int = 0
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield rows of both at a time, as float64 takes a multiple of what pictures do; `more` are shared."""
    height, width = a.shape[-2:]
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height - more, rows):
        part = slice(top, top + rows + more)
        yield a[..., part, :], b[..., part, :]


def _check(a: torch.Tensor, b: torch.Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"images differ in shape: {tuple(a.shape)} and {tuple(b.shape)}")
    if a.ndim not in (3, 4) or a.shape[-3] != 3 or not (a.is_floating_point() and b.is_floating_point()):
        raise ValueError(f"expected floating RGB [3, H, W] or [B, 3, H, W], got {a.dtype} {tuple(a.shape)}")


def _shave(image: torch.Tensor, border: int) -> torch.Tensor:
    if border < 0 or 2 * border >= min(image.shape[-2:]):
        raise ValueError(f"a border of {border} leaves nothing of {tuple(image.shape[-2:])}")
    return image[..., border : image.shape[-2] - border, border : image.shape[-1] - border]
