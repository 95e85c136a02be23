"""The two engines against each other, graphs against networks, and codecs as things that are kept."""

import copy
import importlib.util
import json
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import car
from car.codec.codec import Codec
from car.codec.onnx_engine import OnnxEngine
from car.codec.options import Backend, Options
from car.codec.torch_engine import TorchEngine
from car.errors import UsageError
from car.families import architecture, model_names
from car.models import quantize
from car.ops import bicubic_resize as bicubic_of_tensors
from car.pictures.resize import bicubic_resize
from car.weights import manifest, parameter_shapes
from car.weights.convert import built_shapes

TOOLS = Path(__file__).parent.parent / "tools"


CORRECTED = [entry.tag for entry in manifest() if architecture(entry.model).uncorrected]


@pytest.mark.parametrize(
    ("tag", "fast"), [(entry.tag, False) for entry in manifest()] + [(tag, True) for tag in CORRECTED]
)
def test_engines_agree(tag: str, fast: bool, photo: Path) -> None:
    """Also that graphs are up to date: another network would restore something else."""
    hr = np.asarray(Image.open(photo).convert("RGB"))
    codecs = [
        Codec(car.load(tag), Options(device="cpu", backend=b, fast=fast)) for b in ("onnxruntime", "torch")
    ]
    assert isinstance(codecs[0].engine, OnnxEngine)
    assert isinstance(codecs[1].engine, TorchEngine)
    small = [codec.downscale(hr) for codec in codecs]
    large = [codec.upscale(small[1]) for codec in codecs]
    for ours, theirs in (small, large):
        levels = np.abs(ours.astype(int) - theirs)
        assert levels.max() <= 1
        assert (levels > 0).mean() < 1e-4


@pytest.mark.parametrize("tag", CORRECTED)
def test_fast_is_the_downscaler_alone(tag: str, photo: Path) -> None:
    loaded, hr = car.load(tag), np.asarray(Image.open(photo).convert("RGB"))[:, :144]  # 3 divides it
    picture = torch.from_numpy(hr / np.float32(255)).permute(2, 0, 1)[None]
    first = quantize(loaded.rescaler.downscaler(picture))[0].permute(1, 2, 0).mul(255).round().numpy()
    codec = Codec(loaded, Options(device="cpu", fast=True))
    small = codec.downscale(hr)
    assert np.abs(small - first).max() <= 1
    assert (small != first).mean() < 1e-4
    corrected = Codec(loaded, Options(device="cpu"))
    assert (small != corrected.downscale(hr)).mean() > 0.1
    assert codec.info(144, 192) == corrected.info(144, 192)
    assert np.array_equal(codec.upscale(small), corrected.upscale(small))


def test_fast_changes_nothing_without_a_corrector() -> None:
    for entry in manifest():
        if entry.tag not in CORRECTED:
            loaded = car.load(entry.tag)
            assert loaded.uncorrected() is loaded


@pytest.mark.parametrize("name", [name for name in model_names() if not architecture(name).needs_torch])
def test_shapes_of_weights_are_those_of_the_networks(name: str) -> None:
    assert parameter_shapes(architecture(name)) == built_shapes(architecture(name))


def test_graphs_are_what_the_tool_writes() -> None:
    pytest.importorskip("onnxscript")
    spec = importlib.util.spec_from_file_location("make_graphs", TOOLS / "make_graphs.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    made = tool.graphs(["car_plus_x2"])
    shapes = json.loads(made.pop("parameters.json"))
    kept = json.loads((tool.FOLDER / "parameters.json").read_text())
    assert shapes.items() <= kept.items()
    assert set(kept) == {a.shape for a in map(architecture, model_names()) if not a.needs_torch}
    for name, content in made.items():
        assert (tool.FOLDER / name).read_bytes() == content, f"{name} is old: python tools/make_graphs.py"
    assert sum(path.stat().st_size for path in tool.FOLDER.iterdir()) < 400_000


@pytest.mark.parametrize("size", [(5, 7), (1, 9), (40, 31), (16, 1)])
def test_bicubic_without_pytorch_is_that_with_it(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).random((20, 14, 3), np.float32)
    got = bicubic_resize(pixels, size)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    want = bicubic_of_tensors(tensor, size)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(bicubic_resize(pixels[:, :, 1], size), got[:, :, 1])


def test_a_codec_is_opened_once() -> None:
    found: list[Codec] = []
    threads = [threading.Thread(target=lambda: found.append(car.open(scale=4))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(codec) for codec in found}) == 1
    assert car.open("car_plus_x4") is found[0]
    assert car.open("car_plus_x4", options=Options(tile=64)) is not found[0]


def test_weights_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "own.safetensors"
    tag = manifest()[0].tag
    file.write_bytes((Path(car.weights.__file__).parent / f"{tag}.safetensors").read_bytes())
    first = car.load(file)
    read, reads = Path.read_bytes, []
    monkeypatch.setattr(Path, "read_bytes", lambda path: reads.append(path) or read(path))
    assert car.load(file).tensors is first.tensors
    assert reads == []
    with file.open("r+b") as content:
        content.seek(-4, os.SEEK_END)
        content.write(b"\0\0\0\0")
    os.utime(file, (1, 1))
    assert car.load(file).sha256 != first.sha256


def test_a_codec_leaves_what_is_the_callers(photo: Path) -> None:
    loaded = car.load("car_plus_x4")
    mine = loaded.rescaler.double().train()
    codec = Codec(loaded, Options(device="cpu", backend="torch"))
    codec.downscale(np.zeros((8, 8, 3), np.uint8))
    assert next(mine.parameters()).dtype == torch.float64
    assert mine.training
    assert not car.load("car_plus_x4").rescaler.training


def test_kinds_come_back_as_they_went_in(photo: Path) -> None:
    codec = car.open("car_plus_x4")
    for image in (photo, str(photo), Image.open(photo)):
        small = codec.downscale(image)
        assert isinstance(small, Image.Image)
        assert codec.upscale(small).size == Image.open(photo).size
    array = np.zeros((9, 10, 3), np.uint16)
    assert codec.downscale(array).dtype == np.uint16
    assert car.upscale(codec.downscale(array), codec=codec, size=(10, 9)).shape == array.shape
    tensor = car.downscale(torch.zeros(2, 3, 8, 12, dtype=torch.float64), codec=codec)
    assert tensor.shape == (2, 3, 2, 3)
    assert tensor.dtype == torch.float64
    with pytest.raises(UsageError, match="either a codec"):
        car.downscale(array, 4, codec=codec)


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_other_default_types_change_nothing(backend: str) -> None:
    hr = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    loaded, options = car.load("car_lite_x2"), Options(device="cpu", backend=backend)
    want = Codec(loaded, options).downscale(hr)
    torch.set_default_dtype(torch.float64)
    try:
        np.testing.assert_array_equal(Codec(loaded, options).downscale(hr), want)
    finally:
        torch.set_default_dtype(torch.float32)


def test_effort_works_in_any_mode_of_pytorch() -> None:
    hr = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    loaded, options = car.load("car_plus_x2"), Options(device="cpu", effort=1)
    want = Codec(loaded, options).downscale(hr)
    with torch.inference_mode():
        codec = Codec(loaded, options)
        np.testing.assert_array_equal(codec.downscale(hr), want)
    np.testing.assert_array_equal(codec.downscale(hr), want)  # it does not keep the mode
    with torch.no_grad(), torch.device("meta"):
        np.testing.assert_array_equal(Codec(loaded, options).downscale(hr), want)


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_a_codec_is_copied_and_sent(backend: Backend) -> None:
    hr = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    codec = car.open("car_plus_x4", options=Options(device="cpu", backend=backend, fast=True, tile=32))
    for same in (copy.copy(codec), copy.deepcopy(codec), pickle.loads(pickle.dumps(codec))):
        assert (same.loaded, same.options) == (codec.loaded, codec.options)
        np.testing.assert_array_equal(same.downscale(hr), codec.downscale(hr))


_FORK = """
import os, sys
import numpy as np, car
from car.codec.options import Backend, Options
hr = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
options = Options(device="cpu", threads=2, backend=sys.argv[1])
before = car.downscale(hr, 4, options=options)
child = os.fork()
if child == 0:
    try:
        same = np.array_equal(car.downscale(hr, 4, options=options), before)
        os._exit(0 if same else 1)
    except car.CarError as error:
        print(error)
        os._exit(2)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
@pytest.mark.parametrize(("backend", "code"), [("onnxruntime", 0), ("torch", 2)])
def test_a_forked_child_works_or_says_why_not(backend: str, code: int) -> None:
    command = [sys.executable, "-c", _FORK, backend]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stderr
    assert ("spawn" in done.stdout) == (code == 2)


def test_onnxruntime_keeps_no_record_of_this_machine(tmp_path: Path) -> None:
    script = "import numpy as np, car; car.downscale(np.zeros((16, 16, 3), np.uint8), 4)"
    places = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"), str(tmp_path))
    subprocess.run([sys.executable, "-c", script], env=os.environ | places, check=True, timeout=300)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
