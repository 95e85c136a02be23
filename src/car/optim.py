"""The optimiser of the compact models: Muon for inner convolutions, Adam for everything else."""

from typing import Any

import torch
from torch import nn

from car.models.compact import ResidualBlock


class MuonAdam:
    """Muon on the convolutions of residual blocks, Adam on the rest.

    Muon (Jordan et al. 2024, as in `torch.optim.Muon`) orthogonalises the update of a matrix; a
    convolution's weight is seen as the matrix ``[out, in * kh * kw]``. Biases and layers with pixels on
    one side keep Adam.

    Args:
        model: its parameters that require a gradient are optimised.
        muon_lr: peak learning rate of the matrices.
        adam_lr: peak learning rate of the rest.
    """

    def __init__(self, model: nn.Module, muon_lr: float, adam_lr: float) -> None:
        blocks = [module for module in model.modules() if isinstance(module, ResidualBlock)]
        self._matrices = [conv.weight for block in blocks for conv in (block.conv1, block.conv2)]
        inner = {id(weight) for weight in self._matrices}
        rest = [p for p in model.parameters() if p.requires_grad and id(p) not in inner]
        # Muon takes two-dimensional parameters: these share the storage of the convolutions' weights
        self._flat = [nn.Parameter(p.detach().view(p.shape[0], -1)) for p in self._matrices]
        self._optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Adam(rest, lr=adam_lr, betas=(0.9, 0.99))
        ]
        if self._flat:
            self._optimizers.append(torch.optim.Muon(self._flat, lr=muon_lr, weight_decay=0))
        self._peaks = [group["lr"] for o in self._optimizers for group in o.param_groups]

    def step(self, lr_factor: float) -> None:
        """Update the parameters from their ``.grad`` at `lr_factor` times the peak rates; clear ``.grad``."""
        groups = [group for o in self._optimizers for group in o.param_groups]
        for group, peak in zip(groups, self._peaks, strict=True):
            group["lr"] = peak * lr_factor
        for flat, parameter in zip(self._flat, self._matrices, strict=True):
            if parameter.grad is not None:
                flat.grad = parameter.grad.reshape(flat.shape)
            parameter.grad = None
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the state of both optimisers, for `load_state_dict`."""
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Restore what `state_dict` gave."""
        for optimizer, values in zip(self._optimizers, state, strict=True):
            optimizer.load_state_dict(values)
