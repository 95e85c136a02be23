"""Add residual blocks to trained weights of family car_plus or car_lite, without changing what they compute.

    python tools/deepen.py old.safetensors deeper.safetensors

The new blocks come last in their half and start as identities, as in an untrained network; how many there
must be follows from the architecture that the file names, as it is now. `car train --init deeper.safetensors`
goes on from there.
"""

import argparse
import json
import struct
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from car.models import create


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args()
    with options.old.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        model = json.loads(file.read(length))["__metadata__"]["model"]
    state = load_file(options.old)
    torch.manual_seed(0)
    deeper = create(model).state_dict()
    for half in ("downscaler", "upscaler"):
        heads = [
            max(int(k.split(".")[2]) for k in s if k.startswith(f"{half}.trunk.")) for s in (state, deeper)
        ]
        print(f"{half}: {heads[0] - 1} blocks become {heads[1] - 1}")
        for key in [k for k in deeper if k.startswith(f"{half}.")]:
            index = int(key.split(".")[2]) if key.startswith(f"{half}.trunk.") else -1
            if index == heads[1]:
                key_there = key.replace(f"trunk.{index}.", f"trunk.{heads[0]}.")
            elif index >= heads[0]:
                continue  # a new block, as `create` made it
            else:
                key_there = key
            deeper[key] = state.pop(key_there)
    if state:
        raise SystemExit(f"{options.old}: {', '.join(state)} has no place in {model}")
    save_file(deeper, options.new, {"model": model})


if __name__ == "__main__":
    main()
