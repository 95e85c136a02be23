"""Training learns, resumes, and refuses what cannot work."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import car
from car import train as training
from car.data import ImageStore, load_store, split_held_out
from car.errors import TrainingError, UsageError
from car.images import read
from car.losses import out_of_range, restoration_l1
from car.models import create, quantize
from car.models.compact import ResidualBlock
from car.optim import MuonAdam
from car.train import RECIPES, Progress, Recipe, lr_factor, recipe_for, train


@pytest.fixture
def folder(tmp_path: Path, photo: Path) -> Path:
    """Six usable images (the photograph in different orientations), one too small, one broken."""
    images = tmp_path / "images"
    (images / "more").mkdir(parents=True)
    source = Image.open(photo)
    for i, turned in enumerate(
        (source, source.rotate(180), source.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    ):
        turned.save(images / f"{i}.png")
        turned.crop((0, 0, 110, 104)).save(images / "more" / f"{i}.webp", lossless=True)
    source.crop((0, 0, 24, 24)).save(images / "small.png")
    (images / "broken.png").write_bytes((images / "0.png").read_bytes()[:1000])
    (images / "notes.txt").write_text("no image")
    return images


TINY = replace(RECIPES["car_plus_x2"], steps=150, crop=32, batch=2, bf16=False, hold_out=("more/0*",))


def restored_l1(model: car.weights.LoadedModel, photo: Path) -> float:
    hr = torch.tensor(read(photo).pixels).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        _, restored = model.rescaler(hr)
    return (restored - hr).abs().mean().item()


def test_training_improves_and_writes_loadable_weights(folder: Path, tmp_path: Path, photo: Path) -> None:
    skipped: list[str] = []
    seen: list[Progress] = []
    path = train(TINY, [folder], tmp_path / "run", on_skip=skipped.append, on_progress=seen.append)
    loaded = car.load(path)
    assert loaded.name == "car_plus_x2"
    hr = torch.tensor(read(photo).pixels).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        _, start = create("car_plus_x2")(hr)
    assert restored_l1(loaded, photo) < 0.9 * (start - hr).abs().mean().item()
    assert any("broken.png" in line for line in skipped)
    assert any("small.png: 24x24 is smaller" in line for line in skipped)
    assert seen[-1].psnr is not None
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["psnr"] == pytest.approx(seen[-1].psnr)
    assert log[-1]["step"] == seen[-1].step == 150


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_learns_on_one_batch(name: str, folder: Path, tmp_path: Path) -> None:
    store = load_store([folder], tmp_path / "cache", min_size=32)
    run = training._Run(replace(RECIPES[name], crop=32, batch=2, hold_out=()), store, tmp_path)
    batch = run.training.sample(np.random.default_rng(0), 2, 32)
    run.training = ImageStore(("same",), (batch[0].permute(1, 2, 0).numpy(),))
    losses = [run._train_step(0.1) for _ in range(25)]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:3])


def seen_minutes(out: Path) -> float:
    return torch.load(out / "state.pt", weights_only=True)["seconds"] / 60


def test_a_run_goes_on_where_it_stopped(folder: Path, tmp_path: Path) -> None:
    def stop_at_ten(progress: Progress) -> None:
        if progress.step >= 10:
            raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(TINY, [folder], out, on_progress=stop_at_ten)
    state = torch.load(out / "state.pt", weights_only=True)
    assert state["step"] == 10
    seen: list[Progress] = []
    train(replace(TINY, steps=13), [folder], out, on_progress=seen.append)
    assert seen[-1].step == 13
    assert seen[-1].seconds > state["seconds"]
    seen.clear()
    timed = replace(TINY, steps=0, minutes=seen_minutes(out) + 0.02)
    train(timed, [folder], out, on_progress=seen.append)
    assert seen[-1].step > 13
    assert seen[-1].seconds >= timed.minutes * 60
    before = (out / "recipe.json").read_text()
    with pytest.raises(TrainingError, match="another recipe"):
        train(replace(TINY, crop=48), [folder], out)
    assert (out / "recipe.json").read_text() == before


def test_resumed_state_is_the_saved_one(folder: Path, tmp_path: Path) -> None:
    store = load_store([folder], tmp_path / "cache", min_size=32)
    (tmp_path / "a").mkdir()
    one = training._Run(TINY, store, tmp_path / "a")
    for _ in range(3):
        one._train_step(0.5)
    one._save()
    two = training._Run(TINY, store, tmp_path / "a")
    for _ in range(3):
        assert one._train_step(0.5) == two._train_step(0.5)
    for a, b in zip(one.average.parameters(), two.average.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_state(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = load_store([folder], tmp_path / "cache", min_size=32)
    run = training._Run(TINY, store, tmp_path)
    run._train_step(0.5)
    run._save()
    before = (tmp_path / "state.pt").read_bytes()
    monkeypatch.setattr(training, "restoration_l1", lambda *_: torch.tensor(math.nan, requires_grad=True))
    with pytest.raises(TrainingError, match="loss is nan at step 2"):
        run.go(None)
    assert (tmp_path / "state.pt").read_bytes() == before


def test_damaged_state_and_hopeless_folders_are_explained(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "state.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(TrainingError, match=r"state\.pt cannot be read"):
        train(TINY, [folder], out)
    with pytest.raises(TrainingError, match="not a folder of images"):
        train(TINY, [tmp_path / "missing"], tmp_path / "run2")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match="no images found"):
        train(TINY, [tmp_path / "empty"], tmp_path / "run2")
    with pytest.raises(TrainingError, match="at least 512 pixels"):
        train(replace(TINY, crop=512), [folder], tmp_path / "run3")
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot write"):
        train(TINY, [folder], tmp_path / "file" / "run")


def test_recipes_are_checked() -> None:
    assert recipe_for("car_plus_x4", minutes=3, crop=None).minutes == 3
    with pytest.raises(UsageError, match="did you mean 'car_plus_x4'"):
        recipe_for("car_plus_4x")
    for name, value in {"crop": 31, "batch": 0, "luma_weight": 1.5, "minutes": 0, "muon_lr": -1.0}.items():
        with pytest.raises(UsageError, match=f"{name} = {value}"):
            recipe_for("car_plus_x2", **{name: value})
    for name, recipe in RECIPES.items():
        assert recipe.model == name
        recipe.validate()


def test_store_is_decoded_once_and_samples_real_crops(folder: Path, tmp_path: Path) -> None:
    decoded: list[int] = []
    first = load_store(
        [folder], tmp_path / "c", min_size=100, on_progress=lambda done, _: decoded.append(done)
    )
    again = load_store(
        [folder], tmp_path / "c", min_size=100, on_progress=lambda done, _: decoded.append(-done)
    )
    assert decoded
    assert min(decoded) > 0
    assert first.names == again.names
    assert len(first.names) == 6
    for name, image in zip(again.names, again.images, strict=True):
        assert np.array_equal(image, read(folder / name).pixels)
    (folder / "9.png").write_bytes((folder / "0.png").read_bytes())
    assert len(load_store([folder], tmp_path / "c", min_size=100).names) == 7


def test_samples_are_crops_in_all_eight_orientations() -> None:
    image = np.arange(12 * 10 * 3, dtype=np.uint16).astype(np.uint8).reshape(12, 10, 3)
    image[:, :, 0] = np.arange(120).reshape(12, 10)
    store = ImageStore(("a",), (image,))
    batch = store.sample(np.random.default_rng(0), 400, 3)
    assert batch.shape == (400, 3, 3, 3)
    possible = {
        np.ascontiguousarray(np.rot90(window, k)[:, ::step]).tobytes(): (k, step)
        for y in range(10)
        for x in range(8)
        for window in [image[y : y + 3, x : x + 3]]
        for k in range(4)
        for step in (1, -1)
    }
    found = [possible[np.ascontiguousarray(crop.permute(1, 2, 0).numpy()).tobytes()] for crop in batch]
    assert set(found) == {(k, step) for k in range(4) for step in (1, -1)}


def test_hold_out_keeps_named_images_from_training() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    store = ImageStore(tuple(f"set/{i:02d}.png" for i in range(40)), (image,) * 40)
    training_part, held = split_held_out(store, ["set/07*"], count=8)
    assert "set/07.png" in held.names
    assert len(held.names) == 9
    assert set(held.names) | set(training_part.names) == set(store.names)
    assert not set(held.names) & set(training_part.names)


def test_learning_rate_rises_then_falls_to_zero() -> None:
    factors = [lr_factor(p / 1000, 0.02) for p in range(1001)]
    peak = int(np.argmax(factors))
    assert factors[peak] == pytest.approx(1)
    assert 15 <= peak <= 25
    assert all(np.diff(factors[:peak]) >= 0)
    assert all(np.diff(factors[peak:]) <= 0)
    assert factors[0] > 0
    assert factors[-1] == pytest.approx(0, abs=1e-9)


def test_losses() -> None:
    a, b = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    assert restoration_l1(a, b, 0).item() == pytest.approx((a - b).abs().mean().item())
    grey = (a - b).mul(torch.tensor([65.738, 129.057, 25.064]).view(3, 1, 1) / 255).sum(1)
    assert restoration_l1(a, b, 1).item() == pytest.approx(grey.abs().mean().item(), rel=1e-5)
    assert out_of_range(torch.tensor([-1.0, 0.5, 2.0, 1.0])).item() == pytest.approx(0.5)


def test_muon_moves_block_weights_by_an_orthogonal_matrix() -> None:
    torch.manual_seed(0)
    model = create("car_plus_x2")
    block = next(m for m in model.modules() if isinstance(m, ResidualBlock))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = MuonAdam(model, muon_lr=0.1, adam_lr=1e-3)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step(1.0)
    moved = {name: p.detach() - before[name] for name, p in model.named_parameters()}
    assert all(change.abs().sum() > 0 for change in moved.values())
    assert all(p.grad is None for p in model.parameters())
    name = next(n for n, p in model.named_parameters() if p is block.conv1.weight)
    singular = torch.linalg.svdvals(moved[name].flatten(1)) / 0.1
    assert singular.min() > 0.6
    assert singular.max() < 1.3
    # Adam's first step has the size of its learning rate
    bias = next(n for n, p in model.named_parameters() if p is block.conv1.bias)
    torch.testing.assert_close(moved[bias].abs(), torch.full_like(moved[bias], 1e-3), rtol=0.01, atol=0)


def test_runaway_values_get_no_gradient_from_rounding() -> None:
    lr = torch.tensor([1.5], requires_grad=True)
    (quantize(lr) * -1).sum().backward()
    assert lr.grad is not None
    assert lr.grad.item() == 0


def test_recipe_is_stored_with_the_run(folder: Path, tmp_path: Path) -> None:
    train(replace(TINY, steps=1), [folder], tmp_path / "run")
    stored = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert Recipe(**stored | {"hold_out": tuple(stored["hold_out"])}) == replace(TINY, steps=1)
