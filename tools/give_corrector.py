"""Give a model without a corrector that of another scale, as a start for training.

    python tools/give_corrector.py runs/x2/model.safetensors --to car_plus_x2 --of car_plus_x4.v6 \
        --gradient 6 --change 0.5 --out runs/start.safetensors

The weights of downscaler and upscaler stay. The corrector's kernels over HR pixels are interpolated to the
other scale (`car.models.compact.rescaled`). Errors are smaller at smaller scales. So the weights for the
gradient, and those of the last convolution, are multiplied by a factor.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file

from car.families import architecture
from car.files.atomic import atomic_write
from car.models.compact import rescaled
from car.weights import load
from car.weights.store import file_bytes


def corrector(
    weights: dict[str, torch.Tensor], scales: tuple[int, int], gradient: float, change: float
) -> dict[str, torch.Tensor]:
    """Return the corrector among `weights`, for the second scale instead of the first."""
    found = {key: value for key, value in rescaled(weights, *scales).items() if key.startswith("corrector.")}
    last = max(int(key.split(".")[2]) for key in found)
    factors = {f"corrector.trunk.{last}.weight": change, f"corrector.trunk.{last}.bias": change}
    found = {key: value * factors.get(key, 1.0) for key, value in found.items()}
    found["corrector.trunk.0.weight"][:, :3] *= gradient
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path, help=".safetensors file of the model without a corrector")
    parser.add_argument("--to", required=True, help="model that the result is for")
    parser.add_argument("--of", required=True, help="model or tag that has a corrector")
    parser.add_argument("--gradient", type=float, default=1.0, help="factor of the weights for the gradient")
    parser.add_argument("--change", type=float, default=1.0, help="factor of the last convolution")
    parser.add_argument("--out", type=Path, required=True, help=".safetensors file to write")
    asked = parser.parse_args()
    donor = load(asked.of).rescaler
    scales = donor.geometry.scale, architecture(asked.to).scale
    start = load_file(asked.weights) | corrector(donor.state_dict(), scales, asked.gradient, asked.change)
    content = file_bytes(asked.to, {key: value.float().numpy() for key, value in start.items()})
    atomic_write(asked.out, content)
    load(asked.out)  # or it does not fit the model


if __name__ == "__main__":
    main()
