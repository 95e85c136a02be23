"""The manifest tells the truth, and damaged or foreign weights are refused."""

import dataclasses
import hashlib
import re
from importlib import resources
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import car
from car import weights
from car.errors import UsageError, WeightsError
from car.families import model_names
from car.models import create
from car.weights import ManifestEntry, manifest

FOLDER = Path(str(resources.files("car.weights")))


@pytest.mark.parametrize("entry", manifest(), ids=lambda e: e.tag)
def test_every_entry_is_true(entry: ManifestEntry) -> None:
    assert re.fullmatch(rf"{entry.model}\.v[1-9][0-9]*", entry.tag)
    content = (FOLDER / entry.file).read_bytes()
    assert hashlib.sha256(content).hexdigest() == entry.sha256
    assert len(content) < 8_000_000
    loaded = car.load(entry.tag)
    parameters = list(loaded.rescaler.parameters())
    assert sum(p.numel() for p in parameters) == entry.parameters < 1_500_000
    assert all(torch.isfinite(p).all() for p in parameters)
    assert not any(p.requires_grad for p in parameters)
    assert loaded.tag == entry.tag
    assert entry.recipe.startswith(f"car train {entry.model} ")
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", entry.trained)
    for text in (entry.licence, entry.data):
        assert text
    assert entry.metrics.keys() <= {"Set5", "Set14", "BSDS100"}
    for metrics in entry.metrics.values():
        assert (
            metrics["model"].keys()
            == metrics["bicubic"].keys()
            >= {"psnr", "psnr_rgb", "psnr_cb", "ssimulacra2"}
        )


# what each set is restored to at least, by mean over images: PSNR on luma and over RGB, SSIMULACRA2
PROMISED = {
    "car_plus_x2": {"Set5": (44.0, 39.1, 87.5), "Set14": (41.1, 36.4, 83.0), "BSDS100": (40.7, 38.1, 84.5)},
    "car_plus_x4": {"Set5": (35.2, 32.3, 70.0), "Set14": (31.6, 29.1, 56.5), "BSDS100": (30.5, 28.9, 54.0)},
    "car_plus_x3": {"Set5": (37.7, 34.7, 78.0), "Set14": (34.0, 31.3, 67.0), "BSDS100": (32.9, 31.4, 66.0)},
    "car_plus_large_x4": {"Set5": (35.8, 31.4, 65.0), "Set14": (32.1, 28.6, 50.0)},
    "car_lite_x2": {},
    "car_lite_x4": {},
}


@pytest.mark.parametrize("model", PROMISED)
def test_the_weights_are_as_good_as_promised(model: str) -> None:
    (entry,) = (entry for entry in manifest() if entry.model == model)
    assert "Set5" in entry.metrics
    for name, metrics in entry.metrics.items():
        found = metrics["model"]
        least = PROMISED[model].get(name, (0.0, 0.0, 0.0))
        for measure, bound in zip(("psnr", "psnr_rgb", "ssimulacra2"), least, strict=True):
            assert found[measure] >= bound, (name, measure)
        # the small picture looks like a bicubic one, and as PNG costs hardly more
        assert found["lr_psnr"] >= 40, name
        assert metrics["growth"]["lr_png"] <= 15, name


def test_weights_are_stored_in_half_precision() -> None:
    for entry in manifest():
        stored = load_file(FOLDER / entry.file)
        assert {values.dtype for values in stored.values()} == {torch.float16}, entry.tag
        assert {str(values.dtype) for values in car.load(entry.tag).tensors.values()} == {"float32"}


def test_manifest_and_files_match() -> None:
    assert {entry.file for entry in manifest()} == {path.name for path in FOLDER.glob("*.safetensors")}
    assert len({entry.model for entry in manifest()}) == len(manifest())


def test_list_models_knows_every_architecture_and_tag() -> None:
    models = {model.name: model for model in car.list_models()}
    assert set(models) == set(model_names(controls=False))
    assert models["car_plus_x4"].family == "car_plus"
    assert models["car_plus_x4"].scale == 4
    assert {tag for model in models.values() for tag in model.tags} == {entry.tag for entry in manifest()}
    for model in models.values():  # the purpose says "default" of those that are, and of no others
        defaults = (weights.default_model(model.scale, coded=coded) for coded in (False, True))
        assert model.purpose.startswith("default") == (model.name in defaults)
    for name in ("car_plus_x2", "car_plus_x4"):
        assert car.load(name).tag == models[name].tags[-1]


def test_names_are_checked() -> None:
    with pytest.raises(UsageError, match="did you mean 'car_plus_x4'"):
        car.load("car_plus_4")
    with pytest.raises(WeightsError, match="ships without weights"):
        car.load("car_x4")
    with pytest.raises(UsageError, match="no such file"):
        car.load("nowhere.safetensors")
    with pytest.raises(UsageError, match="the scale must be"):
        weights.default_model(17)


def test_files_of_other_kinds_are_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UsageError, match=r"not a .safetensors file; did you mean .*/model.safetensors"):
        car.load(tmp_path)
    (tmp_path / "state.bin").touch()
    with pytest.raises(UsageError, match=r"state\.bin: not a .safetensors file$"):
        car.load(tmp_path / "state.bin")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.safetensors"
    save_file(create("car_plus_x2").state_dict(), path, {"model": "car_plus_x2"})
    return path


def test_own_file_loads(own: Path) -> None:
    loaded = car.load(own)
    assert (loaded.name, loaded.tag) == ("car_plus_x2", None)
    assert loaded.sha256 == hashlib.sha256(own.read_bytes()).hexdigest()
    assert loaded.short_hash == loaded.sha256[:16]


def test_foreign_and_damaged_files_are_refused(own: Path, tmp_path: Path) -> None:
    state = load_file(own)
    key = "upscaler.trunk.0.weight"
    bad = tmp_path / "bad.safetensors"

    save_file({k: v for k, v in state.items() if k != key}, bad, {"model": "car_plus_x2"})
    with pytest.raises(WeightsError, match=rf"{re.escape(key)} of car_plus_x2 is missing"):
        car.load(bad)
    save_file(state | {key: torch.zeros(1)}, bad, {"model": "car_plus_x2"})
    with pytest.raises(WeightsError, match=rf"{re.escape(key)} has shape \(1,\)"):
        car.load(bad)
    save_file(state | {"extra": torch.zeros(1)}, bad, {"model": "car_plus_x2"})
    with pytest.raises(WeightsError, match="extra is not a parameter"):
        car.load(bad)
    save_file(state | {key: torch.full_like(state[key], torch.nan)}, bad, {"model": "car_plus_x2"})
    with pytest.raises(WeightsError, match=rf"{re.escape(key)} holds values that are not finite"):
        car.load(bad)
    save_file(state, bad)
    with pytest.raises(WeightsError, match="does not name a known model"):
        car.load(bad)
    content = own.read_bytes()
    for broken in (b"", b"\0" * 100, content[: len(content) // 2], b"\xff" * 8 + content[8:]):
        bad.write_bytes(broken)
        with pytest.raises(WeightsError, match="not a readable safetensors file"):
            car.load(bad)


def test_a_damaged_shipped_file_is_noticed(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = manifest()[0]
    lying = dataclasses.replace(honest, sha256="0" * 64)
    monkeypatch.setattr(weights, "manifest", lambda: (lying,))
    with pytest.raises(WeightsError, match="is damaged"):
        car.load(honest.tag)


def test_lr_files_find_their_weights_by_hash() -> None:
    entry = manifest()[0]
    assert weights.find(entry.model, entry.sha256[:16]) == entry.tag
    with pytest.raises(WeightsError, match="does not ship"):
        weights.find(entry.model, "f" * 16)
