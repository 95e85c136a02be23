"""Loss terms of the compact models; all means over the batch, in units of the [0, 1] range."""

import torch
import torch.nn.functional as F  # noqa: N812 - the community's name for it

from car.metrics import LUMA_WEIGHTS


def restoration_l1(restored: torch.Tensor, hr: torch.Tensor, luma_weight: float) -> torch.Tensor:
    """Return ``(1 - w) * L1(RGB) + w * L1(luma)``, a scalar; both ``[B, 3, H, W]``.

    A share of luma trades colour accuracy, which the eye and the tables weigh little, for detail.
    """
    difference = restored - hr
    weights = difference.new_tensor(LUMA_WEIGHTS).view(3, 1, 1)
    luma = (difference * weights).sum(dim=1)
    return (1 - luma_weight) * difference.abs().mean() + luma_weight * luma.abs().mean()


def out_of_range(lr: torch.Tensor) -> torch.Tensor:
    """Return how far values lie outside [0, 1] on average: what rounding to 8 bit would cut off."""
    return (F.relu(-lr) + F.relu(lr - 1)).mean()
