"""ONNX files against PyTorch, as onnxruntime runs them; restoring by onnxruntime."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import car
from car.errors import UsageError
from car.export import Half, Storage
from car.export import onnx as onnx_module
from car.export.onnx import ExportError, check, compare, metadata, to_onnx
from car.families import architecture
from car.models import Rescaler, create
from car.ops import adaptive_resample
from car.ops.reference import resample_at_once
from car.weights import LoadedModel, load
from commandline import run_car

# exports are kept in this process
pytestmark = pytest.mark.xdist_group("export")

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return run_car(*arguments)


def untrained(name: str) -> LoadedModel:
    """A shallow model with random weights: the exporter takes its time for each layer."""
    torch.manual_seed(0)
    model = architecture(name)
    sizes = {
        size: min(value, 16 if size in ("width", "up_features") else 2) for size, value in model.sizes.items()
    }
    model = replace(model, sizes=sizes)
    rescaler = create(model).eval().requires_grad_(False)
    for parameter in rescaler.parameters():
        if not parameter.any():
            parameter.normal_(0, 0.05)  # heads start at zero, and would leave nothing to compare
    return LoadedModel.of(model, rescaler)


@pytest.fixture(autouse=True)
def exporting_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An export takes seconds: the same network is exported once, whoever asks for it."""
    monkeypatch.setattr(onnx_module, "network_graph", kept_graph)


_graphs: dict[object, bytes] = {}
_network_graph = onnx_module.network_graph


def kept_graph(rescaler: Rescaler, half: Half, **options: object) -> "onnx.ModelProto":
    weights = (parameter.detach().double().sum().item() for parameter in rescaler.parameters())
    key = (rescaler.geometry, half, *options.items(), *weights)
    if key not in _graphs:
        _graphs[key] = _network_graph(rescaler, half, **options).SerializeToString()  # type: ignore[arg-type]
    return onnx.load_from_string(_graphs[key])


def exported(tag: str, half: Half, storage: Storage = "float32") -> bytes:
    return to_onnx(load(tag), half, storage=storage)


def images(half: Half, loaded: LoadedModel, photo: Path) -> "list[np.ndarray]":
    g = loaded.rescaler.geometry
    step, least = (1, 1) if half == "up" else (g.multiple, g.min_size)
    sizes = [(least, least), (least + step, least + 5 * step), (160, 128), (96, 192)]
    picture = Image.open(photo).convert("RGB")
    return [np.asarray(picture.resize((width, height))) for height, width in sizes]


# car_lite solves equations, which magnify what two float32 implementations of a mean differ by
_SOLVED = 0.015


# whatever has the same kinds of networks, at other sizes or with other weights, takes the same way
@pytest.mark.parametrize(
    ("name", "half"),
    [("car_plus_x4", "up"), ("car_lite_x2", "down")],
)
def test_shipped_models_compute_the_same(name: str, half: Half, photo: Path) -> None:
    loaded = load(name)
    content = exported(name, half)
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [20]
    levels = check(content, loaded, half, images(half, loaded, photo))
    assert sum(levels[1:]) <= (_SOLVED if name == "car_lite_x2" else 1e-4) * sum(levels)


def test_half_the_bytes_for_a_few_levels(photo: Path) -> None:
    loaded = load("car_plus_x4")
    content, small = exported("car_plus_x4", "up"), exported("car_plus_x4", "up", "float16")
    assert len(small) < 0.55 * len(content)
    levels = check(small, loaded, "up", images("up", loaded, photo))
    assert sum(levels[1:]) < 0.05 * sum(levels)


@pytest.mark.parametrize(
    ("name", "half"),
    [
        ("car_plus_x4", "down"),
        ("car_plus_x2", "up"),
        ("car_small_x4", "up"),
        ("car_small_x4", "down"),
        ("car_lite_bicubic_x2", "down"),
    ],
)
def test_every_kind_of_network_does_too(name: str, half: Half, photo: Path) -> None:
    loaded = untrained(name)
    content = to_onnx(loaded, half)
    assert {node.domain for node in onnx.load_from_string(content).graph.node} == {""}
    levels = check(content, loaded, half, images(half, loaded, photo))
    assert sum(levels[1:]) <= 1e-3 * sum(levels)


def test_batches_are_free(photo: Path) -> None:
    import onnxruntime

    loaded = load("car_plus_x4")
    running = onnxruntime.InferenceSession(exported("car_plus_x4", "up"), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        lr = torch.rand(batch, 3, 5, 9)
        with torch.inference_mode():
            want = loaded.rescaler.upscale(lr).numpy()
        np.testing.assert_allclose(running.run(["hr"], {"lr": lr.numpy()})[0], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 12), (2, 2), (4, 30)])
def test_resampling_at_once_is_resampling(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    h, w = size
    image = torch.rand(2, 3, 2 * h, 2 * w, dtype=torch.float64)
    kernels = torch.rand(2, 49, h, w, dtype=torch.float64)
    offsets = [torch.rand(2, 49, h, w, dtype=torch.float64) * 4 - 2 for _ in range(2)]
    got = resample_at_once(image, kernels, offsets[0], offsets[1], 2)
    torch.testing.assert_close(got, adaptive_resample(image, kernels, offsets[0], offsets[1], 2))


def test_the_file_says_what_it_is() -> None:
    loaded = load("car_plus_x4")
    contents = exported("car_plus_x4", "up"), exported("car_lite_x2", "down")
    up, down = map(metadata, contents)
    g = loaded.rescaler.geometry
    assert (up["model"], up["tag"], up["weights"]) == (loaded.name, loaded.tag, loaded.sha256)
    assert (up["half"], up["scale"], up["multiple"], up["halo"]) == ("up", "4", "1", str(g.halo_up))
    assert (down["half"], down["multiple"], down["halo"]) == (
        "down",
        "2",
        str(load("car_lite_x2").geometry.halo_down),
    )
    assert metadata(exported("car_plus_x4", "up", "float16"))["storage"] == "float16"
    # nothing of where the exporter ran
    for content in contents:
        assert str(Path(car.__file__).parent).encode() not in content
        assert b"site-packages" not in content


def test_a_difference_is_found(photo: Path) -> None:
    other = load("car_plus_x4")
    content = exported("car_plus_x4", "up")
    with torch.no_grad():
        next(other.rescaler.upscaler.parameters()).mul_(1.2)
    assert len(compare(content, other, "up", images("up", other, photo))) > 2
    with pytest.raises(ExportError, match=r"differs from PyTorch by up to \d+ levels"):
        check(content, other, "up", images("up", other, photo))


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_module, "network_graph", _network_graph)  # not one that was kept
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(
        UsageError, match=r"needs onnxscript: pip install .content-adaptive-resampler\[export\]"
    ):
        to_onnx(load("car_plus_x4"))
    for arguments in ({"half": "sideways"}, {"storage": "int8"}, {"opset": 5}):
        with pytest.raises(UsageError, match="unknown half"):
            to_onnx(load("car_plus_x4"), **arguments)  # type: ignore[arg-type]


def test_command(tmp_path: Path, photo: Path) -> None:
    target = tmp_path / "up.onnx"
    done = run("export", "onnx", "car_plus_x4", "-o", target, "--images", photo, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["bytes"] == target.stat().st_size
    assert sum(said["levels"]) == 160 * 192 * 3
    assert metadata(target.read_bytes())["half"] == "up"
    again = run("export", "onnx", "car_plus_x4", "-o", target)
    assert again.returncode in (1, 2)
    assert "exists" in again.stderr
    assert len(again.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("car_plus_x9", "-o", "x.onnx"), "no model is called"),
        (("car_plus_x4", "-o", "x.pt"), "name an .onnx file"),
        (("car_plus_x4", "-o", "/proc/x.onnx"), "/proc/x.onnx"),
        (("car_small_x4", "-o", "x.onnx"), "ships without weights"),
        (("car_plus_x4", "-o", "x.onnx", "--images", "missing.png"), "missing.png"),
    ],
)
def test_bad_requests(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = run_car("export", "onnx", *arguments, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not list(tmp_path.iterdir())


# --- restoring -------------------------------------------------------------------------------------------


def test_command_restores_by_either(photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAR_CACHE", str(tmp_path / "cache"))
    assert run("downscale", photo, "-s", 4, "-o", tmp_path / "small.png").returncode == 0
    made = {}
    for backend in ("torch", "onnxruntime", "auto"):
        target = tmp_path / f"{backend}.png"
        done = run("upscale", tmp_path / "small.png", "-o", target, "--backend", backend)
        assert done.returncode == 0, done.stderr
        made[backend] = np.asarray(Image.open(target)).astype(int)
    assert (made["auto"] == made["onnxruntime"]).all()
    assert np.abs(made["auto"] - made["torch"]).max() <= 1
    refused = run(
        "upscale", tmp_path / "small.png", "--backend", "onnxruntime", "--precision", "bf16", "--overwrite"
    )
    assert refused.returncode == 2
    assert "cannot be used for precision bf16" in refused.stderr


def test_bad_comparisons_are_found_before_the_work(tmp_path: Path) -> None:
    for arguments, message in (
        (("--images", tmp_path / "gone"), "no such file"),
        (("--images", tmp_path, "--no-check"), "no effect with --no-check"),
    ):
        done = run("export", "onnx", "car_plus_x2", "-o", tmp_path / "a.onnx", *arguments)
        assert done.returncode == 2
        assert message in done.stderr
    assert list(tmp_path.iterdir()) == []
