"""Antialiased bicubic resizing without PyTorch; `car.ops.bicubic_resize` is the same for tensors."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def bicubic_resize(pixels: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize with the cubic convolution kernel (a = -1/2), widened by the scale when shrinking.

    Args:
        pixels: ``[H, W]`` or ``[H, W, C]``, any range.
        size: target ``(height, width)`` in pixels, both at least 1.

    Returns:
        ``[height, width]`` or ``[height, width, C]``. Not clamped: the kernel overshoots.

    >>> bicubic_resize(np.ones((4, 6), np.float32), (2, 3)).shape
    (2, 3)
    """
    if pixels.ndim == 3:
        planes = [bicubic_resize(pixels[:, :, channel], size) for channel in range(pixels.shape[2])]
        return np.stack(planes, axis=2)
    plane = Image.fromarray(np.ascontiguousarray(pixels, np.float32))
    return np.asarray(plane.resize((size[1], size[0]), Image.Resampling.BICUBIC), np.float32)
