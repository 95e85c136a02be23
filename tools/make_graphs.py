"""Write the graphs by which onnxruntime runs the compact models, without their weights.

    python tools/make_graphs.py            # after a change to a network, or a new entry in car.families
    python tools/make_graphs.py --check    # say which are not up to date

There is a pair for each shape of networks, and one file with the names and shapes of their weights. A shape
with a corrector has a graph of its own for shrinking; for the rest, it uses those of the shape without.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import onnx

from car.export import Half
from car.export.onnx import network_graph
from car.families import Architecture, architecture, model_names
from car.models import create
from car.weights.convert import built_shapes

FOLDER = Path(__file__).parent.parent / "src" / "car" / "weights" / "graphs"


def without_weights(model: onnx.ModelProto) -> bytes:
    """Return a graph whose weights are only named, and nothing in it that is not needed to run it."""
    graph = model.graph
    picture, *weights = graph.input
    del graph.input[1:]
    new: dict[str, str] = {}
    for node in graph.node:
        node.name, node.doc_string = "", ""
        outputs = [name for name in node.output if name != graph.output[0].name]
        new |= {name: f"v{len(new) + n}" for n, name in enumerate(outputs)}
    new |= {one.name: f"c{number}" for number, one in enumerate(graph.initializer)}
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new.get(name, name) for name in names]
    for one in graph.initializer:
        one.name = new[one.name]
    for value in weights:
        shape = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        one = onnx.TensorProto(name=value.name, data_type=onnx.TensorProto.FLOAT, dims=shape)
        one.data_location = onnx.TensorProto.EXTERNAL
        one.external_data.add(key="location", value="weights")
        graph.initializer.append(one)
    del graph.value_info[:]
    graph.name, model.producer_version = "car", ""
    assert picture.name in ("lr", "hr")
    return model.SerializeToString(deterministic=True)


def graphs(names: Iterable[str] = model_names()) -> dict[str, bytes]:
    """Return the files by name."""
    models = [model for model in map(architecture, names) if not model.needs_torch]
    shapes = {
        model.shape: {key: list(shape) for key, shape in built_shapes(model).items()} for model in models
    }
    needed: dict[tuple[str, Half], Architecture] = {}
    for model in models:
        plain = model.uncorrected or model
        needed |= {(model.shape, "down"): model, (plain.shape, "down"): plain, (plain.shape, "up"): plain}
    files = {
        f"{shape}.{half}.onnx": without_weights(network_graph(create(model), half, weightless=True))
        for (shape, half), model in needed.items()
    }
    files["parameters.json"] = (json.dumps(shapes, sort_keys=True) + "\n").encode()
    return files


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; leave with 1 where one is old")
    options = parser.parse_args()
    made = graphs()
    there = {path.name: path.read_bytes() for path in FOLDER.glob("*")}
    old = sorted(name for name in {*made, *there} if made.get(name) != there.get(name))
    if not options.check:
        FOLDER.mkdir(exist_ok=True)
        for name in old:
            if name in made:
                (FOLDER / name).write_bytes(made[name])
            else:
                (FOLDER / name).unlink()
    for name in old:
        print(f"{name}: {len(made.get(name, b'')):,} bytes")
    if options.check and old:
        sys.exit(1)


if __name__ == "__main__":
    main()
