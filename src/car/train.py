"""Training of the compact models: recipes as data, a time-budgeted loop, resumable checkpoints."""

import io
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from car.data import ImageStore, load_store, split_held_out
from car.errors import TrainingError, UsageError, did_you_mean
from car.images import atomic_write
from car.losses import out_of_range, restoration_l1
from car.metrics import psnr
from car.models import create, quantize
from car.ops import bicubic_downscale
from car.optim import MuonAdam


@dataclass(frozen=True)
class Recipe:
    """How a compact model is trained. Learning rates are peaks; see `lr_factor` for the schedule.

    Attributes:
        model: name of the architecture.
        minutes: training time, spread over as many runs as it takes; validation and start-up not counted.
        steps: train for so many steps instead, however long they take, where this is not 0.
        crop: side of the square HR crops, in pixels.
        batch: crops a step.
        muon_lr: for the convolutions of residual blocks.
        adam_lr: for everything else.
        warmup: share of the time during which the learning rate rises.
        luma_weight: share of luma in the restoration loss, 0 to 1.
        fidelity_weight: weight of the L1 distance between the LR and the bicubic LR.
        range_weight: weight of LR values outside [0, 1].
        ema: decay a step of the averaged weights that are shipped.
        clip: largest gradient norm.
        bf16: run the networks under bfloat16 autocast.
        seed: of crops and initial weights.
        hold_out: patterns of image names kept for validation, beside eight that are spread evenly.
    """

    model: str
    minutes: float = 40
    steps: int = 0
    crop: int = 128
    batch: int = 8
    muon_lr: float = 5e-3
    adam_lr: float = 1e-3
    warmup: float = 0.02
    luma_weight: float = 0.5
    fidelity_weight: float = 0.05
    range_weight: float = 1.0
    ema: float = 0.998
    clip: float = 0.5
    bf16: bool = True
    seed: int = 0
    hold_out: tuple[str, ...] = field(default=())

    def validate(self) -> None:
        """Raise `UsageError` where a value makes no sense."""
        scale = create(self.model).geometry.scale
        checks = {
            "minutes": self.minutes > 0,
            "steps": self.steps >= 0,
            "crop": self.crop >= 8 * scale and self.crop % create(self.model).geometry.multiple == 0,
            "batch": self.batch >= 1,
            "muon_lr": self.muon_lr > 0,
            "adam_lr": self.adam_lr > 0,
            "warmup": 0 <= self.warmup < 1,
            "luma_weight": 0 <= self.luma_weight <= 1,
            "fidelity_weight": self.fidelity_weight >= 0,
            "range_weight": self.range_weight >= 0,
            "ema": 0 <= self.ema < 1,
            "clip": self.clip > 0,
        }
        for name, good in checks.items():
            if not good:
                raise UsageError(f"{name} = {getattr(self, name)} is out of range for {self.model}")


# the photograph that the demonstration restores must be new to the weights
_DEMO = ("*b939ac34faa94b5d0e753d570edc7048*",)

RECIPES = {
    recipe.model: recipe
    for recipe in (
        Recipe("car_plus_x4", minutes=48, crop=128, hold_out=_DEMO),
        Recipe("car_plus_x2", minutes=44, crop=80, hold_out=_DEMO),
        Recipe("car_lite_x4", minutes=48, crop=128, hold_out=_DEMO),
        Recipe("car_lite_x2", minutes=44, crop=80, hold_out=_DEMO),
    )
}


def recipe_for(model: str, **changes: Any) -> Recipe:
    """Return the committed recipe of `model` with `changes` (those that are None are ignored).

    Raises:
        UsageError: there is no recipe for `model`, or a changed value is out of range.
    """
    if model not in RECIPES:
        raise UsageError(f"no training recipe for {model!r}{did_you_mean(model, RECIPES)}")
    recipe = replace(RECIPES[model], **{k: v for k, v in changes.items() if v is not None})
    recipe.validate()
    return recipe


def lr_factor(progress: float, warmup: float) -> float:
    """Return the share of the peak learning rate at `progress` (0 to 1): linear rise, then half a cosine."""
    if progress < warmup:
        return max(progress / warmup, 1e-3)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup))))


@dataclass(frozen=True)
class Progress:
    """What a running training reports: once every few steps, with `psnr` after a validation."""

    step: int
    seconds: float
    done: float  # 0 to 1
    loss: float
    psnr: float | None
    lr_psnr: float | None


def train(
    recipe: Recipe,
    folders: Sequence[Path],
    out: Path,
    *,
    cache: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_decode: Callable[[int, int], None] | None = None,
    on_skip: Callable[[str], None] | None = None,
) -> Path:
    """Train `recipe` on the images below `folders`, or go on with what `out` holds.

    `out` receives ``state.pt`` (everything needed to go on, written once a minute and at an interrupt),
    ``log.jsonl`` (a line a validation) and at each validation ``model.safetensors`` (averaged weights).

    Args:
        recipe: what to train and how.
        folders: searched recursively for images.
        out: the run's folder, made where missing.
        cache: folder for decoded pixels; ``out / "cache"`` by default.
        on_progress: called every ten steps and at each validation.
        on_decode: called with (images done, images in all) while images are decoded.
        on_skip: called with one line for each image that cannot be used.

    Returns:
        The path of ``model.safetensors``.

    Raises:
        TrainingError: no usable image, `out` cannot be written or holds another recipe's run, or the loss
            stopped being finite (the last checkpoint before that is kept).
    """
    recipe.validate()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"cannot write to {out}: {error.strerror}") from error
    store = load_store(
        folders, cache or out / "cache", min_size=recipe.crop, on_progress=on_decode, on_skip=on_skip
    )
    run = _Run(recipe, store, out)
    return run.go(on_progress)


class _Run:
    """One training run: networks, averaged weights, optimiser, clock and random state."""

    def __init__(self, recipe: Recipe, store: ImageStore, out: Path) -> None:
        self.recipe, self.out = recipe, out
        self.training, self.validation = split_held_out(store, recipe.hold_out)
        torch.manual_seed(recipe.seed)
        self.rng = np.random.default_rng(recipe.seed)
        self.model = create(recipe.model)
        self.average = create(recipe.model)
        self.average.load_state_dict(self.model.state_dict())
        self.optimizer = MuonAdam(self.model, recipe.muon_lr, recipe.adam_lr)
        self.step = 0
        self.seconds = 0.0
        state_path = out / "state.pt"
        if state_path.exists():
            self._restore(state_path)

    def go(self, on_progress: Callable[[Progress], None] | None) -> Path:
        loss = math.nan
        self.model.train()
        atomic_write(self.out / "recipe.json", json.dumps(asdict(self.recipe), indent=1).encode())
        self._save()  # a folder that cannot be written is found out before the work, not after
        last_saved = last_validated = time.monotonic()
        try:
            while self._done() < 1:
                start = time.monotonic()
                loss = self._train_step(self._done())
                now = time.monotonic()
                self.seconds += now - start
                if not math.isfinite(loss):
                    raise TrainingError(
                        f"the loss is {loss} at step {self.step}; {self.out / 'state.pt'} holds the last "
                        "good state: start anew with lower learning rates"
                    )
                if on_progress and self.step % 10 == 0:
                    on_progress(Progress(self.step, self.seconds, self._done(), loss, None, None))
                if now - last_saved > 60:
                    self._save()
                    last_saved = time.monotonic()
                if now - last_validated > 240:
                    self._report(loss, on_progress)
                    last_validated = time.monotonic()
        except KeyboardInterrupt:
            self._save()
            raise
        self._save()
        self._report(loss, on_progress)
        return self.out / "model.safetensors"

    def _done(self) -> float:
        recipe = self.recipe
        return self.step / recipe.steps if recipe.steps else self.seconds / (60 * recipe.minutes)

    def _train_step(self, progress: float) -> float:
        recipe = self.recipe
        hr = self.training.sample(self.rng, recipe.batch, recipe.crop).float().div_(255)
        hr = hr.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
            lr, restored = self.model(hr)
        loss = restoration_l1(restored, hr, recipe.luma_weight)
        loss = (
            loss
            + recipe.fidelity_weight * (lr - bicubic_downscale(hr, self.model.geometry.scale)).abs().mean()
        )
        loss = loss + recipe.range_weight * out_of_range(lr)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
        self.optimizer.step(lr_factor(progress, recipe.warmup))
        self.step += 1
        # a short memory at first, so that the average does not carry the initial weights along
        decay = min(recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
        return loss.item()

    def _report(self, loss: float, on_progress: Callable[[Progress], None] | None) -> None:
        restored, small = self._validate()
        weights = {k: v.contiguous() for k, v in self.average.state_dict().items()}
        metadata = {
            "model": self.recipe.model,
            "recipe": json.dumps(asdict(self.recipe)),
            "step": str(self.step),
        }
        atomic_write(self.out / "model.safetensors", save(weights, metadata))
        record = {
            "step": self.step,
            "seconds": round(self.seconds, 1),
            "loss": loss if math.isfinite(loss) else None,
        }
        with (self.out / "log.jsonl").open("a") as log:
            log.write(json.dumps(record | {"psnr": restored, "lr_psnr": small}) + "\n")
        if on_progress:
            on_progress(Progress(self.step, self.seconds, self._done(), loss, restored, small))

    @torch.inference_mode()
    def _validate(self) -> tuple[float, float]:
        """Return mean luma PSNR of restored images and of the LR against bicubic, on centre crops."""
        scale = self.model.geometry.scale
        pairs: list[tuple[float, float]] = []
        for image in self.validation.images:
            side = min(256, min(image.shape[:2]) // 8 * 8)
            top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
            crop = torch.from_numpy(np.array(image[top : top + side, left : left + side]))
            hr = crop.permute(2, 0, 1)[None].float().div(255).contiguous(memory_format=torch.channels_last)
            lr = quantize(self.average.downscale(hr))
            restored = quantize(self.average.upscale(lr))
            reference = quantize(bicubic_downscale(hr, scale))
            pairs.append((min(psnr(restored, hr, border=scale), 99.0), min(psnr(lr, reference), 99.0)))
        return float(np.mean([p[0] for p in pairs])), float(np.mean([p[1] for p in pairs]))

    def _save(self) -> None:
        state = {
            "recipe": asdict(self.recipe) | {"hold_out": list(self.recipe.hold_out)},
            "step": self.step,
            "seconds": self.seconds,
            "rng": json.dumps(self.rng.bit_generator.state),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        atomic_write(self.out / "state.pt", buffer.getvalue())

    def _restore(self, path: Path) -> None:
        try:
            state = torch.load(path, weights_only=True)
            saved = Recipe(**(state["recipe"] | {"hold_out": tuple(state["recipe"]["hold_out"])}))
        except Exception as error:
            raise TrainingError(f"{path} cannot be read ({error}); use another --out folder") from error
        # a longer budget is the one thing that may change on the way
        if replace(saved, minutes=self.recipe.minutes, steps=self.recipe.steps) != self.recipe:
            raise TrainingError(f"{self.out} holds a run with another recipe; use another --out folder")
        self.step, self.seconds = state["step"], state["seconds"]
        self.rng.bit_generator.state = json.loads(state["rng"])
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
