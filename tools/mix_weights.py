"""Average the weights of two runs of one model, of which the second started from the first.

    python tools/mix_weights.py car_plus_x4 runs/tuned --share 0.5 --out runs/mixed

Averaging weights that lie in one valley of the loss often beats both (Wortsman et al., "Model
soups", ICML 2022), and lies between them where one is better on luma and the other on colours. The folder
that is written serves tools/ship_weights.py.
"""

import argparse
import json
import shutil
from pathlib import Path

from safetensors.torch import save_file

from car.weights import load


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first", help="a model, a tag or a .safetensors file")
    parser.add_argument("run", type=Path, help="folder of the run that started there")
    parser.add_argument("--share", type=float, default=0.5, help="of the run, 0 to 1")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    options = parser.parse_args()
    first, second = (load(x) for x in (options.first, options.run / "model.safetensors"))
    if first.name != second.name:
        parser.error(f"{options.first} is {first.name}, the run is {second.name}")
    weights = second.rescaler.state_dict()
    for key, value in first.rescaler.state_dict().items():
        weights[key] = (value.double().lerp(weights[key].double(), options.share)).float().contiguous()
    options.out.mkdir(parents=True, exist_ok=True)
    recipe = json.loads((options.run / "recipe.json").read_text())
    metadata = {"model": second.name, "recipe": json.dumps(recipe)}
    save_file(weights, options.out / "model.safetensors", metadata)
    shutil.copyfile(options.run / "recipe.json", options.out / "recipe.json")


if __name__ == "__main__":
    main()
