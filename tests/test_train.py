"""Training learns, resumes to the bit, scales out, and refuses what cannot work."""

import io
import json
import math
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import is_initialized
from PIL import Image
from safetensors.torch import load_file

import car
from car import families
from car.cli import training
from car.codec.coding import Coding, encoded
from car.errors import ImageError, TrainingError, UsageError
from car.metrics import psnr
from car.models import create
from car.ops import bicubic_downscale
from car.pictures.read import read
from car.train import data as data_module
from car.train import trainer as trainer_module
from car.train import validation
from car.train.data import ImageStore, load_store
from car.train.log import read_log
from car.train.losses import LossWatch, Shares
from car.train.recipes import RECIPES, Recipe, recipe_for
from car.train.run import Run
from car.train.state import fresh_model
from car.train.trainer import Progress, Trainer
from commandline import run_car
from processes import Process, run_script, wait_until


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


NARROW = {"width": 16, "depth_down": 1, "depth_up": 2, "depth_corrector": 1, "passes": 1}
NARROW |= {"features": 4, "up_features": 8, "up_blocks": 2}


_SHIPPED = dict(families._ARCHITECTURES)


def narrow(name: str) -> families.Architecture:
    """The model with the same kinds of networks at small sizes; it has no graphs."""
    known = _SHIPPED[name]
    return replace(known, sizes={size: NARROW[size] for size in known.sizes}, needs_torch=True)


@pytest.fixture
def as_shipped() -> None:
    """The networks have the sizes of the shipped weights."""


@pytest.fixture(autouse=True)
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a step take a tenth of the time; what trains them does not know how large networks are."""
    if "as_shipped" not in request.fixturenames:
        for name in RECIPES:
            monkeypatch.setitem(families._ARCHITECTURES, name, narrow(name))


@pytest.fixture
def curves() -> None:
    """Curves are drawn."""


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """To draw curves takes longer than a few steps."""
    if "curves" not in request.fixturenames:
        monkeypatch.setattr(trainer_module, "write_curves", lambda out: out)


TINY = replace(
    RECIPES["car_plus_x2"],
    minutes=0,
    steps=60,
    crop=32,
    batch=2,
    jpeg=0.0,
    first_weight=0.0,
    precision="float32",
    hold_out=("more/0*",),
)


def train(recipe: Recipe, folders: list[Path], out: Path, **settings: Any) -> Path:
    return Run(recipe, folders, out, **settings).train()


@pytest.mark.usefixtures("curves")
def test_training_improves_and_writes_all_it_promises(folder: Path, tmp_path: Path, photo: Path) -> None:
    notes: list[str] = []
    seen: list[Progress] = []
    out = tmp_path / "run"
    recipe = replace(TINY, steps=200)
    path = train(recipe, [folder], out, on_note=notes.append, on_progress=seen.append)
    loaded = car.load(path)
    assert loaded.name == "car_plus_x2"
    hr = torch.tensor(read(photo).pixels).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        _, start = create("car_plus_x2")(hr)
        _, restored = loaded.rescaler(hr)
    assert psnr(restored, hr) > psnr(start, hr) + 1
    assert any("broken.png" in line for line in notes)
    assert any("small.png: 24x24 is smaller" in line for line in notes)
    (record,) = read_log(out)
    assert record["step"] == seen[-1].step == 200
    last = seen[-1].validation
    assert last is not None
    assert {name: record[name] for name in asdict(last)} == pytest.approx(asdict(last))
    assert record["images_per_second"] > 0
    assert car.load(out / "best.safetensors").name == "car_plus_x2"
    assert Image.open(out / "curves.png").size[0] > 500
    stored = json.loads((out / "recipe.json").read_text())
    assert Recipe(**{k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}) == recipe
    assert not is_initialized()


def test_a_finished_run_makes_again_what_was_deleted(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipe = replace(TINY, steps=3)
    path = train(recipe, [folder], out)
    before = car.load(path).rescaler.state_dict()
    path.unlink()
    (out / "log.jsonl").write_text("")  # as if it had been killed between its last step and the validation
    after = car.load(train(recipe, [folder], out)).rescaler.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert [record["step"] for record in read_log(out)] == [3]


def test_a_budget_below_what_is_done_is_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(replace(TINY, steps=3), [folder], out)
    for budget in ({"steps": 2}, {"steps": 0, "minutes": 1e-6}):
        with pytest.raises(UsageError, match=r"has trained 3 steps .*: ask for more"):
            train(replace(TINY, **budget), [folder], out)
    assert json.loads((out / "recipe.json").read_text())["steps"] == 3
    train(replace(TINY, steps=4), [folder], out)
    assert [record["step"] for record in read_log(out)] == [3, 4]


def test_other_images_than_before_are_noticed(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(replace(TINY, steps=2), [folder], out)
    notes: list[str] = []
    train(replace(TINY, steps=3), [folder], out, on_note=notes.append)
    assert not any("other pictures" in line for line in notes)
    assert any("continuing at step 2" in line for line in notes)
    (folder / "1.png").rename(folder / "9.png")
    train(replace(TINY, steps=4), [folder], out, on_note=notes.append)
    assert any("other pictures" in line for line in notes)


@pytest.mark.usefixtures("curves")
def test_links_to_nowhere_and_its_own_pictures_are_no_images(folder: Path) -> None:
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "loop.png").symlink_to("loop.png")
    out = folder / "run"
    notes: list[str] = []
    train(replace(TINY, steps=2), [folder], out, on_note=notes.append)
    assert (out / "curves.png").exists()
    assert sum("2 links that lead nowhere" in line for line in notes) == 1
    train(replace(TINY, steps=3), [folder], out, on_note=notes.append)
    assert not any("curves.png" in line or "other pictures" in line for line in notes)


def test_nothing_left_to_train_on_is_an_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"all 6 pictures are held out \(\*\): none is left to train on"):
        train(replace(TINY, hold_out=("*",)), [folder], tmp_path / "run")


def test_settings_without_effect_are_refused() -> None:
    for name, value in (("tv_weight", 1.0), ("offset_weight", 0.1), ("kernel_start", "classical")):
        with pytest.raises(UsageError, match=f"{name}: car_plus_x4 has no learned kernels"):
            recipe_for("car_plus_x4", **{name: value})
        assert getattr(recipe_for("car_small_x4", **{name: value}), name) == value


def test_tensorboard_has_curves_and_pictures(folder: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    train(replace(TINY, steps=2), [folder], out)
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    assert {"loss", "psnr", "lr_psnr", "lr", "images_per_second"} <= set(events.Tags()["scalars"])
    (loss,) = events.Scalars("loss")
    assert loss.step == 2
    assert loss.value == pytest.approx(read_log(out)[0]["loss"])
    assert len(events.Tags()["images"]) == 2  # one for each image that is held out


@pytest.fixture
def trainer_of(folder: Path, tmp_path: Path) -> Callable[..., Any]:
    def make(recipe: Recipe, out: str = "run") -> Any:
        return Run(recipe, [folder], tmp_path / out, None, tmp_path / "cache", "cpu", 0).trainer()

    return make


# one model for each kind of networks in each family: scales differ in numbers only
KINDS = {
    (known.family, *known.sizes): known.name
    for known in map(families.architecture, RECIPES)
    if known.family != "car"
}


@pytest.mark.parametrize("name", KINDS.values())
def test_every_recipe_learns_on_one_batch(
    name: str, trainer_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPES[name], crop=8 * max(4, families.architecture(name).scale), batch=2, hold_out=())
    if recipe.coded:  # from nothing, it takes many steps to gain as much as the bytes cost
        for known in (name, recipe.init):
            monkeypatch.setitem(families._ARCHITECTURES, known, _SHIPPED[known])
    else:
        recipe = replace(recipe, init="")
    # one coder as well, as the loss depends on it; logarithms fall more slowly
    monkeypatch.setattr(trainer_module, "drawn", lambda seed, step: Coding("JPEG", 50))
    share = 0.97 if recipe.restoration == "decibels" else 0.9
    with trainer_of(recipe) as trainer:
        one = trainer.crops.get(0)
        trainer.batches.get = lambda step: one
        losses = [trainer._train_step(0.1).item() for _ in range(25)]
    assert np.mean(losses[-5:]) < share * np.mean(losses[:3])


@pytest.mark.usefixtures("as_shipped")
def test_what_recipes_start_from_fits() -> None:
    started = [fresh_model(recipe) for recipe in RECIPES.values() if recipe.init]
    assert started


def test_validation_through_a_coder(trainer_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same by hand: PSNR of what comes back from the files, less the price of their bytes."""
    coding = Coding("JPEG", 40)
    monkeypatch.setattr(validation, "_VALIDATED", (coding,))
    recipe = replace(
        RECIPES["car_codec_x2"], crop=32, batch=2, hold_out=(), init="", eval_crop=64, rate_weight=0.7
    )
    with trainer_of(recipe) as trainer:
        measured = validation.validate(trainer.average, trainer.validation, recipe, trainer.accelerator)[0]
        shares = Shares(recipe.luma_weight)
        price = shares.luma * measured.psnr + shares.rgb * measured.psnr_rgb - measured.score
        found = measured.psnr - price
        model, images = trainer.average, trainer.validation.images
    expected = []
    for image in images:
        top, left = (image.shape[0] - 64) // 2, (image.shape[1] - 64) // 2
        hr = np.array(image[top : top + 64, left : left + 64])
        tensor = torch.tensor(hr).permute(2, 0, 1)[None].float() / 255
        files = []
        for small in (model.downscale(tensor), bicubic_downscale(tensor, 2)):
            rgb = (small[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
            files.append(encoded(rgb, coding))
        back = np.asarray(Image.open(io.BytesIO(files[0])).convert("RGB"))
        restored = model.upscale(torch.tensor(back).permute(2, 0, 1)[None].float() / 255)
        restored = (restored.clamp(0, 1) * 255).round() / 255
        price = 0.7 * 10 * math.log10(len(files[0]) / len(files[1]))
        expected.append(psnr(restored, tensor, border=2) - price)
    assert found == pytest.approx(np.mean(expected), abs=0.02)


def stop_at(step: int) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    return report


def test_a_run_goes_on_where_it_stopped(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(TINY, [folder], out, on_progress=stop_at(10))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    state = torch.load(out / "state.pt", weights_only=True)
    assert 10 <= state["step"] <= 11
    seen: list[Progress] = []
    train(replace(TINY, steps=13), [folder], out, on_progress=seen.append)
    assert seen[-1].step == 13
    assert seen[-1].seconds > state["seconds"]
    seconds = seen[-1].seconds
    seen.clear()
    timed = replace(TINY, steps=0, minutes=seconds / 60 + 0.02)
    train(timed, [folder], out, on_progress=seen.append)
    assert seen[-1].step > 13
    assert seen[-1].seconds >= timed.minutes * 60
    assert seen[-1].done == 1
    before = (out / "recipe.json").read_text()
    with pytest.raises(TrainingError, match=r"another recipe \(crop 32 there, 48 here\)"):
        train(replace(TINY, crop=48), [folder], out)
    assert (out / "recipe.json").read_text() == before
    steps = [record["step"] for record in read_log(out)]
    assert steps == sorted(set(steps))


COMMAND = [
    *("train", "car_plus_x2", "--steps", "60", "--crop", "32", "--batch", "2"),
    *("--precision", "float32", "--save-seconds", "0", "--quiet", "--device", "cpu"),
]

NARROW_CAR = """
import json, sys
from dataclasses import replace
from car import families
from car.__main__ import main

name, sizes = "car_plus_x2", json.loads(sys.argv.pop(1))
families._ARCHITECTURES[name] = replace(families.architecture(name), sizes=sizes, needs_torch=True)
main()
"""


def start_narrow_car(folder: Path, *arguments: object) -> Process:
    """Start the command `car` as a process, in which `car_plus_x2` is as small as here."""
    script = folder / "narrow_car.py"
    script.write_text(NARROW_CAR)
    return Process(run_script, script, json.dumps(narrow("car_plus_x2").sizes), *arguments)


def test_a_killed_run_ends_with_the_same_bits(folder: Path, tmp_path: Path) -> None:
    command = [*COMMAND, "--data", str(folder), "--cache", str(tmp_path / "cache"), "--out"]
    assert run_car(*command, tmp_path / "whole").returncode == 0
    killed = tmp_path / "killed"
    state = killed / "state.pt"
    kills = 0
    for _ in range(3):
        before = state.stat().st_mtime_ns if state.exists() else 0
        with start_narrow_car(tmp_path, *command, killed) as run:
            # one that is done before it is seen to be at work is no fault
            wait_until(
                lambda: run.poll() is not None or (state.exists() and state.stat().st_mtime_ns > before)  # noqa: B023
            )
            time.sleep(random.uniform(0, 0.1))
            run.kill()
            kills += run.wait() == -signal.SIGKILL
    assert kills
    assert run_car(*command, killed).returncode == 0
    states = [torch.load(tmp_path / out / "state.pt", weights_only=True) for out in ("whole", "killed")]
    for half in ("model", "average"):
        for key, value in states[0][half].items():
            assert torch.equal(value, states[1][half][key]), key
    weights = [load_file(tmp_path / out / "model.safetensors") for out in ("whole", "killed")]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    assert not list(killed.glob("*.tmp~"))


def test_interrupting_the_command_saves_and_says_how_to_go_on(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [*COMMAND, "--data", str(folder), "--out", str(out), "--steps", "100000"]
    command[command.index("--save-seconds") + 1] = "1000"
    run = start_narrow_car(tmp_path, *command, "--hold-out", "more/0*", "--eval-minutes", 1e-6)
    wait_until(lambda: (out / "log.jsonl").exists() and read_log(out), run)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate()
    assert run.returncode == 130
    assert f"the state is saved in {out}; the same command continues" in errors.replace("\n", " ")
    assert torch.load(out / "state.pt", weights_only=True)["step"] > 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_processes(count: int, script: Path, *arguments: str) -> list[str]:
    """Run `script` in `count` processes joined by gloo; return what each printed."""
    port = str(free_port())
    runs = [
        Process(
            *(run_script, script, *arguments),
            env={"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
            | {"LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
        )
        for rank in range(count)
    ]
    outputs = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0] * count
    return outputs


SPREAD = """
import json, sys
from dataclasses import replace
from pathlib import Path
import torch
from car import families
from car.train.recipes import RECIPES
from car.train.run import Run
from car.train.trainer import Trainer

torch.set_num_threads(1)
folder, out, cache = map(Path, sys.argv[1:4])
name = sys.argv[4]
families._ARCHITECTURES[name] = replace(
    families.architecture(name), sizes=json.loads(sys.argv[7]), needs_torch=True
)
recipe = replace(RECIPES[name], minutes=0, steps=4, crop=32, batch=4, precision="float32",
                 accumulate=int(sys.argv[5]), optimizer=sys.argv[6], first_weight=0.0, hold_out=())
losses, shares, wrote = [], [], []
mean, step = Trainer._mean_loss, Trainer._train_step

def mean_loss(self):
    losses.append(mean(self))
    return losses[-1]

def train_step(self, progress):
    shares.append(self.batches.get(self.step).float().sum().item())
    return step(self, progress)

Trainer._mean_loss, Trainer._train_step = mean_loss, train_step
import car.train.trainer
car.train.trainer._CHECK_SECONDS = 1e9  # the loss is told at the end alone, however long the steps take
original = car.train.trainer.atomic_write
car.train.trainer.write_curves = lambda out: out
car.train.trainer.atomic_write = lambda path, data: (wrote.append(Path(path).name), original(path, data))
seen = []
Run(recipe, [folder], out, cache=cache, device="cpu", on_progress=seen.append).train()
print(json.dumps({"losses": losses, "shares": shares, "wrote": wrote, "reports": len(seen)}))
"""


@pytest.mark.parametrize(
    ("model", "optimizer"),
    [(narrow("car_plus_x2"), "muon"), (_SHIPPED["car_small_x4"], "adam")],
    ids=["muon", "adam"],
)
def test_two_processes_train_like_one(
    model: families.Architecture, optimizer: str, folder: Path, tmp_path: Path
) -> None:
    """Also where each of them makes its share of a batch in parts."""
    script = tmp_path / "spread.py"
    script.write_text(SPREAD)
    results: dict[str, list[dict[str, Any]]] = {}
    for out, count, accumulate in (("one", 1, 1), ("both", 2, 2)):
        # one process starts as anyone would start it: without the variables of a launcher
        arguments = [str(folder), str(tmp_path / out), str(tmp_path / "cache"), model.name]
        arguments += [str(accumulate), optimizer, json.dumps(model.sizes)]
        if count == 1:
            alone = Process(run_script, script, *arguments)
            printed, errors = alone.communicate()
            assert alone.returncode == 0, errors
            outputs = [printed]
        else:
            outputs = run_processes(count, script, *arguments)
        results[out] = [json.loads(output.splitlines()[-1]) for output in outputs]
    one = results["one"][0]
    # Muon computes in bfloat16 and gives every direction of a gradient the same size, the ones that are
    # mere rounding among them: its weights may wander where the loss does not see it
    loss_tolerance, weight_tolerance = (3e-3, 0.3) if optimizer == "muon" else (1e-4, 0.02)
    whole = load_file(tmp_path / "one" / "model.safetensors")
    for process in results["both"]:
        assert process["losses"] == pytest.approx(one["losses"], rel=loss_tolerance)
    other = load_file(tmp_path / "both" / "model.safetensors")
    for key, value in whole.items():
        assert (other[key] - value).norm() <= weight_tolerance * value.norm() + 1e-3, key
    first, second = results["both"]
    assert first["shares"] != second["shares"]
    assert np.add(first["shares"], second["shares"]) == pytest.approx(one["shares"])
    assert {"state.pt", "model.safetensors", "recipe.json"} <= set(first["wrote"])
    assert first["reports"]
    assert not second["wrote"]
    assert not second["reports"]


def test_a_batch_that_cannot_be_shared_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="batch = 3"):
        train(replace(TINY, batch=3, accumulate=2), [folder], tmp_path / "run")


def test_half_precision_needs_an_accelerator(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fp16 needs an accelerator"):
        train(replace(TINY, precision="fp16"), [folder], tmp_path / "run", device="cpu")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="cuda"):
            train(TINY, [folder], tmp_path / "run", device="cuda")


def test_bfloat16_and_layout_change_the_numbers_a_little(trainer_of: Callable[..., Any]) -> None:
    def losses(**changes: Any) -> list[float]:
        with trainer_of(replace(TINY, **changes), str(changes)) as trainer:
            return [trainer._train_step(0.5).item() for _ in range(3)]

    plain = losses()
    assert losses(channels_last=False) == pytest.approx(plain, rel=1e-4)
    half = losses(precision="bf16")
    assert half != plain
    assert half == pytest.approx(plain, rel=0.05)


def test_l1_comes_first_and_decibels_take_over(folder: Path, tmp_path: Path) -> None:
    def trained(**changes: Any) -> dict[str, torch.Tensor]:
        name = "-".join(map(str, changes.values()))
        return load_file(train(replace(TINY, steps=4, ema=0.0, **changes), [folder], tmp_path / name))

    def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
        return all(torch.equal(a[name], b[name]) for name in a)

    l1, decibels = trained(restoration="l1"), trained(restoration="decibels", l1_share=0.0)
    assert not same(l1, decibels)
    assert same(trained(restoration="decibels", l1_share=1.0), l1)
    both = trained(restoration="decibels", l1_share=0.5)
    assert not same(both, l1)
    assert not same(both, decibels)
    # what is tuned further has been through that
    start = str(tmp_path / "l1" / "model.safetensors")
    tuned, without = (
        load_file(train(replace(TINY, steps=2, init=start, l1_share=share), [folder], tmp_path / str(share)))
        for share in (1.0, 0.0)
    )
    assert same(tuned, without)


def test_a_longer_budget_does_not_bring_l1_back(
    folder: Path, tmp_path: Path, trainer_of: Callable[..., Any]
) -> None:
    recipe = replace(TINY, steps=4, restoration="decibels", l1_share=0.6)
    train(recipe, [folder], tmp_path / "run")

    def goes_by(steps: int) -> str:
        with trainer_of(replace(recipe, steps=steps)) as trainer:
            trainer._train_step(trainer._done())
            return trainer._inner_objective.restoration

    assert goes_by(8) == goes_by(40) == "decibels"
    # what is not through is still to come
    train(replace(recipe, steps=2, l1_share=0.9), [folder], tmp_path / "short")
    assert not torch.load(tmp_path / "short" / "state.pt", weights_only=True)["past_l1"]


def test_another_loss_is_watched_anew(trainer_of: Callable[..., Any]) -> None:
    with trainer_of(replace(TINY, restoration="decibels", l1_share=0.5)) as trainer:
        known = []
        for progress in (0.1, 0.4, 0.5, 0.9):
            trainer.watch.update(0.01, 20)
            trainer._train_step(progress)
            known.append(trainer.watch.steps)
    assert known == [20, 40, 0, 20]


def test_a_compiled_network_computes_the_same(
    trainer_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def losses(**changes: Any) -> list[float]:
        with trainer_of(replace(TINY, **changes), str(changes)) as trainer:
            return [trainer._train_step(0.5).item() for _ in range(2)]

    # Adam makes a full step of rounding errors where the gradient is zero: let it be a small one
    adam: dict[str, Any] = {"optimizer": "adam", "lr": 1e-6}
    # what is ours is that the network can be captured; to compile it in C++ as well takes a minute
    capture, captured = torch.compile, []

    def compile_without_code(module: Any, **options: Any) -> Any:
        captured.append(options["backend"])
        return capture(module, **options | {"backend": "aot_eager"})

    monkeypatch.setattr(torch, "compile", compile_without_code)
    assert losses(compile=True, **adam) == pytest.approx(losses(**adam), rel=1e-3)
    assert captured == ["inductor"]


def test_a_run_that_diverges_goes_back_and_slows_down(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "lr_factor", lambda _, done: 1.0 if done < 0.02 else 3e4)
    notes: list[str] = []
    wild = replace(TINY, optimizer="adam", clip=0.0, steps=2000)
    with pytest.raises(TrainingError, match="diverged again"):
        train(wild, [folder], tmp_path / "run", on_note=notes.append, save_seconds=0)
    back = [line for line in notes if line.startswith("diverged")]
    assert len(back) == 3
    assert "1/8 of the learning rates" in back[-1]
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in state["model"].values())


def test_a_loss_that_is_not_finite_once_is_survived(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    original = Trainer._train_step
    broken = [35]

    def step(self: Trainer, progress: float) -> torch.Tensor:
        loss = original(self, progress)
        if self.step in broken:
            broken.clear()
            for parameter in self.model.parameters():
                parameter.data.mul_(math.nan)
            return loss * math.nan
        return loss

    monkeypatch.setattr(Trainer, "_train_step", step)
    path = train(replace(TINY, steps=60), [folder], tmp_path / "run", on_note=notes.append, save_seconds=0)
    assert any(line.startswith("diverged: the loss is nan at step 35; back to step 34") for line in notes)
    assert all(torch.isfinite(value).all() for value in load_file(path).values())


def test_loss_watch_tells_trouble_from_noise() -> None:
    rng = np.random.default_rng(0)
    watch = LossWatch()
    for step in range(500):
        watch.update((0.1 * math.exp(-step / 100) + 0.02) * rng.uniform(0.6, 1.4), 10)
        assert not watch.diverged
    assert not watch.suspect
    seen: list[tuple[bool, bool]] = []
    for _ in range(40):
        watch.update(0.12, 10)
        seen.append((watch.suspect, watch.diverged))
    assert seen.index((True, False)) < seen.index((True, True)) < 30
    watch = LossWatch()
    watch.update(math.inf, 10)
    assert watch.diverged


def test_full_disk_is_found_before_the_work_and_survived_during_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage)
    with pytest.raises(TrainingError, match="MB free, but the run's state needs"):
        train(TINY, [folder], tmp_path / "run")
    Usage.free = 10**12
    original = trainer_module.atomic_write
    full = [False]

    def write(path: Path, data: Any) -> None:
        if full[0]:
            raise ImageError(f"{path}: cannot be written (No space left on device)")
        original(path, data)

    def fill(progress: Progress) -> None:
        full[0] = 10 <= progress.step < 30

    monkeypatch.setattr(trainer_module, "atomic_write", write)
    notes: list[str] = []
    recipe = replace(TINY, steps=40)
    train(recipe, [folder], tmp_path / "run", on_note=notes.append, on_progress=fill, save_seconds=0)
    assert any("could not be saved, will try again" in line for line in notes)
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 40


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_at_the_end_is_an_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(progress: Progress) -> None:
        if progress.step == 3:
            (tmp_path / "run" / "log.jsonl").unlink(missing_ok=True)
            (tmp_path / "run" / "log.jsonl").symlink_to("/dev/full")

    with pytest.raises(TrainingError, match="No space left"):
        train(replace(TINY, steps=3), [folder], tmp_path / "run", on_progress=fill)


def test_one_run_at_a_time_in_a_folder(folder: Path, tmp_path: Path) -> None:
    errors: list[str] = []

    def second(_: Progress) -> None:
        def intrude() -> None:
            try:
                train(replace(TINY, steps=1), [folder], tmp_path / "run")
            except TrainingError as error:
                errors.append(str(error))

        thread = threading.Thread(target=intrude)
        thread.start()
        thread.join()

    train(replace(TINY, steps=1), [folder], tmp_path / "run", on_progress=second)
    assert errors
    assert "in use by another run" in errors[0]


def test_damaged_state_and_hopeless_folders_are_explained(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "state.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(TrainingError, match=r"state\.pt cannot be read"):
        train(TINY, [folder], out)
    with pytest.raises(TrainingError, match="not a folder of pictures"):
        train(TINY, [tmp_path / "missing"], tmp_path / "run2")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match="no pictures found"):
        train(TINY, [tmp_path / "empty"], tmp_path / "run2")
    with pytest.raises(TrainingError, match="at least 512 pixels"):
        train(replace(TINY, crop=512), [folder], tmp_path / "run3")
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot write"):
        train(TINY, [folder], tmp_path / "file" / "run")


@pytest.mark.usefixtures("as_shipped")
def test_fine_tuning_starts_from_weights_and_freezing_keeps_a_half(folder: Path, tmp_path: Path) -> None:
    start = car.load("car_plus_x2").rescaler.state_dict()
    path = train(replace(TINY, init="car_plus_x2", steps=1, ema=0.0), [folder], tmp_path / "tuned")
    tuned = load_file(path)
    assert all((tuned[key] - value).abs().max() < 0.05 for key, value in start.items())
    assert any(not torch.equal(tuned[key], value) for key, value in start.items())
    for half in ("downscaler", "upscaler"):
        recipe = replace(TINY, init="car_plus_x2", freeze=half, steps=2)
        frozen = load_file(train(recipe, [folder], tmp_path / half))
        kept = {key: torch.equal(frozen[key], value) for key, value in start.items()}
        assert all(same for key, same in kept.items() if key.startswith(half))
        assert not all(same for key, same in kept.items() if not key.startswith(half))
    with pytest.raises(UsageError, match="belong to car_plus_x2 and do not fit car_lite_x2"):
        train(replace(TINY, model="car_lite_x2", init=str(path)), [folder], tmp_path / "other")
    bicubic = replace(TINY, model="car_lite_bicubic_x2", freeze="upscaler")
    with pytest.raises(UsageError, match="nothing to train"):
        train(bicubic, [folder], tmp_path / "nothing")


def test_a_bicubic_control_trains_its_upscaler_on_bicubic_pictures(folder: Path, tmp_path: Path) -> None:
    train(replace(TINY, model="car_lite_bicubic_x2", steps=2), [folder], tmp_path / "run")
    (record,) = read_log(tmp_path / "run")
    assert record["lr_psnr"] == 99.0
    assert "car_lite_bicubic_x2" not in {model.name for model in car.list_models()}


def test_validation_each_epoch_keeps_the_best(folder: Path, tmp_path: Path) -> None:
    recipe = replace(
        TINY, steps=0, epochs=3, repeats=4, sampling="image", eval_epochs=1, eval_images=2, hold_out=()
    )
    seen: list[Progress] = []
    out = tmp_path / "run"
    train(recipe, [folder], out, valid=folder / "more", on_progress=seen.append)
    records = read_log(out)
    assert [record["step"] for record in records] == [12, 24, 36]
    assert [record["epoch"] for record in records] == [1, 2, 3]
    best = max(records, key=lambda record: record["psnr"])
    from safetensors import safe_open

    with safe_open(out / "best.safetensors", "pt") as file:
        assert file.metadata()["step"] == str(best["step"])


def test_a_damaged_log_is_gone_on_with(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(replace(TINY, steps=2), [folder], out)
    with (out / "log.jsonl").open("ab") as log:
        log.write(b'{"step": 9}\n[1}\n"text"\n{"no": 1}\n\xff\n{"step": 3, "ps')
    train(replace(TINY, steps=4), [folder], out)
    assert [record["step"] for record in read_log(out)] == [2, 4]


def test_damaged_caches_are_made_again(folder: Path, tmp_path: Path) -> None:
    def names() -> tuple[str, ...]:
        return load_store([folder], tmp_path / "c", min_size=100).names

    first = names()
    for file, content in (
        ("pixels.u8", b"short"),
        ("index.json", b"{"),
        ("index.json", b"[]"),
        ("index.json", b'{"entries": 3}'),
    ):
        (tmp_path / "c" / file).write_bytes(content)
        assert names() == first


def test_plan_measures_without_training(folder: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPES["car_small_x2"], crop=32, batch=2, minutes=0, epochs=7, hold_out=())
    plan = Run(recipe, [folder], tmp_path / "run", folder / "more", tmp_path / "cache").plan()
    assert plan.images == 6
    assert plan.validation_images == 3
    assert plan.epoch_steps == 6 * 8 // 2
    assert plan.steps == 7 * plan.epoch_steps
    assert plan.seconds == pytest.approx(plan.steps * plan.step_seconds)
    model = create("car_small_x2")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert plan.downscaler_parameters + plan.upscaler_parameters == trained
    assert not (tmp_path / "run" / "state.pt").exists()
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_workers_do_not_change_the_crops(folder: Path, tmp_path: Path) -> None:
    results = [
        load_file(train(replace(TINY, steps=8), [folder], tmp_path / f"run{workers}", workers=workers))
        for workers in (0, 3)
    ]
    assert all(torch.equal(value, results[1][key]) for key, value in results[0].items())


def test_the_command_takes_the_published_options(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "datasets" / "DIV2K"
    data.mkdir(parents=True)
    (data / "DIV2K_train_HR").symlink_to(folder)
    (data / "DIV2K_valid_HR").symlink_to(folder / "more")
    done = run_car(
        *("train", "--device_target", "CPU", "--scale", 2, "--resize", 64),
        *("--checkpoint_path", tmp_path / "ckpt", "--image_path", tmp_path / "datasets"),
        *("--train_batchsize", 2, "--base_lr", 0.0002, "--end_epoch", 3, "--workers", 2),
        *("--eval_proid", 2, "--train_repeat_num", 4, "--target_dataset", "DIV2KHR"),
        *("--dry-run", "--json"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    recipe = asdict(RECIPES["car_x2"]) | {
        "crop": 64,
        "batch": 2,
        "lr": 0.0002,
        "epochs": 3,
        "eval_epochs": 2,
        "repeats": 4,
    }
    assert found["recipe"] == recipe | {"hold_out": [], "emphasis": []}
    assert found["plan"]["images"] == 6
    assert found["plan"]["validation_images"] == 3
    assert found["plan"]["steps"] == 3 * (6 * 4 // 2)


def test_a_plan_decodes_few_images_and_writes_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(7):
        Image.new("RGB", (100, 80 + number)).save(photos / f"{number}.png")
    monkeypatch.setattr(data_module, "_SAMPLED", 2)
    opened: list[Path] = []
    monkeypatch.setattr(data_module, "read", lambda path: opened.append(path) or read(path))
    store = data_module.sampled_store([photos], min_size=64)
    assert len(opened) == 2
    assert store.names == load_store([photos], tmp_path / "cache", min_size=64).names
    found = Run(replace(TINY, steps=8), [photos], tmp_path / "run").plan()
    assert (found.images + found.validation_images, found.steps) == (7, 8)
    assert not (tmp_path / "run").exists()


def test_a_plan_of_slow_steps_is_made_from_few_crops(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    used: list[int | None] = []
    clock = [0.0]

    def step(self: Trainer, progress: float, crops: int | None = None) -> torch.Tensor:
        used.append(crops)
        clock[0] += 1 + 2 * (crops or self.recipe.batch)
        return torch.zeros(())

    monkeypatch.setattr(Trainer, "_train_step", step)
    monkeypatch.setattr(Trainer, "_mean_loss", lambda _: 0.0)
    monkeypatch.setattr(trainer_module.time, "monotonic", lambda: clock[0])
    found = Run(replace(TINY, batch=8, steps=10), [folder], tmp_path / "run").plan()
    assert used == [1, 1, 3]
    assert found.step_seconds == 1 + 2 * 8
    assert found.seconds == 10 * found.step_seconds


def test_the_command_plans_without_the_training_set(tmp_path: Path) -> None:
    done = run_car(
        *("train", "car_small_x4", "--image-path", tmp_path, "--crop", 64, "--batch", 4, "--epochs", 2),
        *("--out", tmp_path / "run", "--dry-run", "--json", "--device", "cpu"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["plan"]
    assert (found["images"], found["validation_images"]) == (800, 100)
    assert "DIV2K_train_HR does not exist" in done.stderr
    assert "assumes its 900 pictures" in done.stderr
    assert not (tmp_path / "run").exists()


def test_progress_of_a_training_is_told_in_lines(capsys: Any, monkeypatch: Any) -> None:
    now = [0.0]
    monkeypatch.setattr(training.time, "monotonic", lambda: now[0])
    show = training._Show(shown=True)
    for seconds in (2, 11, 14, 22):
        now[0] = seconds
        show.progress(Progress(seconds, float(seconds), seconds / 44, 0.5, 3.0))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["training: 25 %", "training: 50 %"]
    assert lines[0].endswith("step 11, loss 0.5000, 3.0 pictures/s, about 33 seconds left")


def test_the_command_explains_what_is_missing(tmp_path: Path) -> None:
    for arguments, message in (
        (["car_plus_x4"], "name a folder of pictures"),
        (["--data", "."], "name a model, or --scale"),
        (["car_plus_x4", "--scale", "2", "--data", "."], "not a model of scale 2"),
        (["car_plus_x4", "--image-path", "nowhere"], "DIV2K_train_HR does not exist"),
        (["car_plus_x4", "--data", ".", "--schedule", "sometimes"], "--schedule sometimes: no such choice"),
        (
            ["car_plus_x4", "--data", ".", "--minutes", "1", "--steps", "2"],
            "one of minutes, steps and epochs",
        ),
        (["car_plus_x4", "--data", ".", "--orientations", "5"], "orientations = 5: must be 4 or 8"),
    ):
        done = run_car("train", *arguments, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert message in " ".join(done.stderr.split())
        assert not list(tmp_path.iterdir())


def test_store_is_decoded_once(folder: Path, tmp_path: Path) -> None:
    decoded: list[int] = []

    def store() -> ImageStore:
        return load_store(
            [folder],
            tmp_path / "c",
            min_size=100,
            workers=3,
            on_progress=lambda done, _: decoded.append(done),
        )

    first = store()
    assert decoded == list(range(1, 9))
    again = store()
    assert len(decoded) == 8
    assert first.names == again.names
    assert len(first.names) == 6
    for name, image in zip(again.names, again.images, strict=True):
        assert np.array_equal(image, read(folder / name).pixels)
    (folder / "9.png").write_bytes((folder / "0.png").read_bytes())
    assert len(store().names) == 7
