"""Optimisers and learning-rate schedules."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from car.models import Rescaler
from car.train.recipes import Recipe


class MuonAdam(torch.optim.Optimizer):
    """Muon on inner convolutions, Adam on the rest.

    Muon (Jordan et al. 2024, as in `torch.optim.Muon`) orthogonalises the update of a matrix; the
    weight of a convolution is treated as the matrix ``[out, in * kh * kw]``. Adam optimises biases and
    convolutions that change the number of channels.

    Args:
        halves: (module, factor for its learning rates); parameters that require a gradient are optimised.
        recipe: gives the peak learning rates, `muon_lr` of the matrices and `lr` of the rest, `beta2` and
            `eps` of Adam, and `weight_decay` of the matrices.
    """

    def __init__(self, halves: list[tuple[nn.Module, float]], recipe: Recipe) -> None:
        groups: list[dict[str, Any]] = []
        for half, factor in halves:
            matrix = {id(weight) for weight in _inner_weights(half)}
            trained = [p for p in half.parameters() if p.requires_grad]
            for matrices, rate in ((False, recipe.lr), (True, recipe.muon_lr)):
                chosen = [p for p in trained if (id(p) in matrix) == matrices]
                if chosen:
                    groups.append({"params": chosen, "lr": rate * factor, "matrices": matrices})
        super().__init__(groups, {})
        self._inner: list[torch.optim.Optimizer] = []
        for group in self.param_groups:
            if group["matrices"]:
                # Muon takes matrices only; these share storage with the convolutions' weights
                flat = [nn.Parameter(p.detach().view(p.shape[0], -1)) for p in group["params"]]
                inner = torch.optim.Muon(flat, lr=group["lr"], weight_decay=recipe.weight_decay)
            else:
                betas = (0.9, recipe.beta2)
                inner = torch.optim.Adam(group["params"], lr=group["lr"], betas=betas, eps=recipe.eps)
            self._inner.append(inner)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the parameters from their ``.grad``, at the current learning rates of the groups."""
        for group, optimizer in zip(self.param_groups, self._inner, strict=True):
            (own,) = optimizer.param_groups
            own["lr"] = group["lr"]
            if group["matrices"]:
                for flat, parameter in zip(own["params"], group["params"], strict=True):
                    flat.grad = None if parameter.grad is None else parameter.grad.reshape(flat.shape)
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all inner optimisers, for `load_state_dict`."""
        return {"inner": [optimizer.state_dict() for optimizer in self._inner]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for optimizer, values in zip(self._inner, state_dict["inner"], strict=True):
            optimizer.load_state_dict(values)


def _inner_weights(half: nn.Module) -> list[torch.Tensor]:
    """Return the weights of 3x3 convolutions that keep the number of features, without the first and last."""
    convs = [module for module in half.modules() if isinstance(module, nn.Conv2d)]
    # first and last have pixels on one side; at 4x these can have as many channels as features
    inner = convs[1:-1]
    return [c.weight for c in inner if c.in_channels == c.out_channels > 3 and c.kernel_size == (3, 3)]


def make_optimizer(model: Rescaler, recipe: Recipe) -> torch.optim.Optimizer:
    """Build the recipe's optimiser for the parameters of `model` that require a gradient.

    The ``lr`` of every parameter group is its peak; scale it by `lr_factor`.
    """
    halves: list[tuple[nn.Module, float]] = [
        (model.downscaler, recipe.downscaler_lr),
        (model.upscaler, 1.0),
    ]
    if model.corrector is not None:
        halves.append((model.corrector, recipe.corrector_lr))
    if recipe.optimizer == "muon":
        return MuonAdam(halves, recipe)
    groups = [
        {"params": trained, "lr": recipe.lr * factor}
        for half, factor in halves
        if (trained := [p for p in half.parameters() if p.requires_grad])
    ]
    betas = (0.9, recipe.beta2)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=betas, eps=recipe.eps, weight_decay=recipe.weight_decay)
    return torch.optim.Adam(groups, betas=betas, eps=recipe.eps)


# the paper's levels, each for a fifth of the training
_FIFTHS = (1.0, 0.5, 0.1, 0.05, 0.01)


def lr_factor(recipe: Recipe, progress: float) -> float:
    """Return the share of the peak learning rate at `progress` (0 to 1) of the training."""
    done = min(max(progress, 0.0), 1.0)
    if recipe.schedule == "constant":
        return 1.0
    if recipe.schedule == "fifths":
        return _FIFTHS[min(int(5 * done), 4)]
    if recipe.schedule == "onecycle":  # Smith & Topin 2017: up over 30 %, down to almost nothing
        if done < 0.3:
            return _half_cosine(1 / 25, 1.0, done / 0.3)
        return _half_cosine(1.0, 1e-4, (done - 0.3) / 0.7)
    if done < recipe.warmup:
        return max(done / recipe.warmup, 1e-3)
    return _half_cosine(1.0, 0.0, (done - recipe.warmup) / (1 - recipe.warmup))


def _half_cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * done))
