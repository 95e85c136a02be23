"""Antialiased bicubic resizing: the classical method with which learned pictures are compared."""

import torch.nn.functional as F  # noqa: N812 - the community's name for it
from torch import Tensor


def bicubic_resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize with the cubic convolution kernel (a = -1/2), widened by the scale when shrinking.

    It is the "bicubic" of the super-resolution tables (MATLAB ``imresize``, Pillow ``BICUBIC``).

    Args:
        image: ``[B, C, H, W]``, floating point, any range, any device.
        size: target ``(height, width)`` in pixels, both at least 1.

    Returns:
        ``[B, C, height, width]`` of the same dtype and device. Not clamped: the kernel overshoots.

    Raises:
        ValueError: `image` is not a 4-dimensional floating tensor or `size` is not positive.
    """
    if image.ndim != 4 or not image.is_floating_point():
        raise ValueError(
            f"image must be a floating [B, C, H, W] tensor, got {image.dtype} {tuple(image.shape)}"
        )
    if min(size) < 1:
        raise ValueError(f"size must be positive, got {size}")
    if size[1] == 1 < size[0]:
        # PyTorch (2.13, CPU) computes wrong rows if the result is one pixel wide; one pixel high is correct
        return bicubic_resize(image.mT, (1, size[0])).mT
    # antialias=True selects a = -1/2 for enlarging as well; without it PyTorch uses a = -3/4
    return F.interpolate(image, size=size, mode="bicubic", align_corners=False, antialias=True)


def bicubic_downscale(image: Tensor, scale: int) -> Tensor:
    """Shrink ``[B, C, H, W]`` by an integer `scale` that divides H and W; see `bicubic_resize`.

    Raises:
        ValueError: `scale` does not divide the size.
    """
    height, width = image.shape[-2:]
    if scale < 1 or height % scale or width % scale:
        raise ValueError(f"scale {scale} does not divide the size {height}x{width}")
    return bicubic_resize(image, (height // scale, width // scale))
