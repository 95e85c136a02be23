"""Lossy coders in the training loop: a small picture after JPEG, WebP or AVIF, and an estimate of its bits.

Forward, the real encoders and decoders of Pillow run. Backward, gradients pass through them as if they only
reduced the resolution of colours. (Passing gradients only for the DCT coefficients that a coder keeps made
training worse.) A coder's count of bytes has no gradient. The bits are therefore estimated from the
logarithms of the DCT coefficients in units of the coder's steps.
"""

import io
import math

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the community's name for it
from PIL import Image

from car.codec.coding import CoderName, Coding, encoded

# bits that a coder spends in addition to the estimate, in units of `estimated_bits`; found by comparing
# estimates with the bytes of photographs
MEANS_AND_HEADERS = 0.08

# share of training steps, lowest and highest quality
_DRAWN: dict[CoderName, tuple[float, int, int]] = {
    "JPEG": (0.60, 10, 90),
    "WEBP": (0.22, 5, 85),
    "AVIF": (0.18, 20, 80),
}


def drawn(seed: int, step: int) -> Coding:
    """Return a random coder for a training step. It depends on `seed` and `step` alone."""
    generator = np.random.default_rng([seed, step, 0xC0DE])
    names = list(_DRAWN)
    coder = names[generator.choice(len(names), p=[_DRAWN[name][0] for name in names])]
    _, least, most = _DRAWN[coder]
    return Coding(coder, int(generator.integers(least, most + 1)))


def recode(lr: torch.Tensor, coding: Coding) -> tuple[torch.Tensor, torch.Tensor]:
    """Return RGB ``[B, 3, h, w]`` in [0, 1] after coding and decoding, and the quantiser's steps.

    Args:
        lr: on the 8-bit grid, or rounded to it; any device.
        coding: the coder and its quality.

    Returns:
        The decoded pictures and the quantiser's steps, ``[2, 8, 8]`` for luma and colours, in levels. The
        pictures have the gradient of the identity, or of colours at half the resolution if the coder reduces
        them (4:2:0). The steps are JPEG's tables. Other coders choose steps for each block; for these, it is
        the uniform step that makes as large an error.
    """
    rows = (lr.detach().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    decoded: list[np.ndarray] = []
    steps: torch.Tensor | None = None
    for row in rows:
        with Image.open(io.BytesIO(encoded(row, coding))) as image:
            if coding.coder == "JPEG" and steps is None:
                steps = _jpeg_steps(image)
            decoded.append(np.asarray(image.convert("RGB")))
    back = torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).to(lr.device).float() / 255
    if steps is None:
        error = float((back - lr.detach()).square().mean()) * 255**2
        # an error that is even over a step of s has a variance of s^2 / 12
        steps = torch.full((2, 8, 8), max(math.sqrt(12 * error), 1.0))
    passed = _colours_at_half(lr) if coding.subsampled else lr
    return passed + (back - passed).detach(), steps.to(lr.device)


def _colours_at_half(rgb: torch.Tensor) -> torch.Tensor:
    """Return RGB ``[B, 3, h, w]`` with colours averaged over 2x2 pixels, as 4:2:0 leaves them."""
    luma, colours = _planes(rgb).split([1, 2], dim=1)
    half = F.avg_pool2d(colours, 2, ceil_mode=True)
    full = F.interpolate(half, scale_factor=2, mode="nearest")[..., : rgb.shape[2], : rgb.shape[3]]
    return torch.einsum("oc,bchw->bohw", _to_ycc(rgb).inverse(), torch.cat([luma, full], dim=1))


def _to_ycc(like: torch.Tensor) -> torch.Tensor:
    """Return the matrix of JFIF's conversion of RGB to luma, blue and red difference."""
    luma, blue, red = [0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]
    return like.new_tensor([luma, blue, red])


def _planes(rgb: torch.Tensor) -> torch.Tensor:
    return torch.einsum("oc,bchw->bohw", _to_ycc(rgb), rgb)


def _jpeg_steps(image: Image.Image) -> torch.Tensor:
    tables = getattr(image, "quantization")  # noqa: B009 - only JPEG images have it
    rows = [tables[0], tables.get(1, tables[0])]
    return torch.tensor(rows, dtype=torch.float32).reshape(2, 8, 8)


def estimated_bits(lr: torch.Tensor, steps: torch.Tensor, *, subsampled: bool) -> torch.Tensor:
    """Estimate the bits that a transform coder spends on RGB ``[B, 3, h, w]`` in [0, 1]: a scalar.

    Each coefficient c of the 8x8 DCT of luma and colours, except the mean of each block, counts as
    ``log2(1 + (2 c / step)^2) / 2``. That is about 0 if the coder rounds it to zero, and its length in bits
    otherwise.

    Args:
        lr: any device.
        steps: ``[2, 8, 8]``, for luma and for colours, in levels of 255, as `recode` returns them.
        subsampled: whether colours have half the resolution.
    """
    planes = _planes(lr * 255)
    luma, colours = planes[:, :1], planes[:, 1:]
    if subsampled:
        colours = F.avg_pool2d(colours, 2, ceil_mode=True)
    total = lr.new_zeros(())
    for plane, step in ((luma, steps[0]), (colours, steps[1])):
        scaled = 2 * _coefficients(plane) / step.reshape(64)[:, None]
        bits = 0.5 * torch.log2(1 + scaled.square())
        total = total + bits[:, :, 1:].sum()
    return total / (lr.shape[0] * lr.shape[2] * lr.shape[3])


def _coefficients(planes: torch.Tensor) -> torch.Tensor:
    """Return the orthonormal 8x8 DCT of ``[B, C, h, w]`` as ``[B, C, 64, blocks]``, row by row."""
    batch, channels, height, width = planes.shape
    padded = F.pad(planes, (0, -width % 8, 0, -height % 8), mode="replicate")
    n = torch.arange(8, dtype=torch.float64)
    basis = torch.cos(math.pi * (2 * n[None, :] + 1) * n[:, None] / 16) / 2
    basis[0] /= math.sqrt(2)
    filters = torch.einsum("ui,vj->uvij", basis, basis).reshape(64, 64).to(planes)
    blocks = F.unfold(padded.reshape(batch * channels, 1, *padded.shape[2:]), 8, stride=8)
    return (filters @ blocks).reshape(batch, channels, 64, -1)
