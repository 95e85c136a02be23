"""One process of a training run: steps, validation, checkpoints."""

import hashlib
import io
import json
import math
import shutil
import signal
import statistics
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import nn

from car.codec.coding import Coding, encoded
from car.codec.lossy import drawn, recode
from car.errors import ImageError, TrainingError, UsageError
from car.files.atomic import atomic_write
from car.models import Rescaler, create, quantize
from car.models.compact import deepened
from car.models.published import AdaptiveDownscaler
from car.ops import bicubic_downscale
from car.train.data import Crops, ImageStore, Prefetcher
from car.train.log import RunLog, read_log, write_curves
from car.train.losses import LossWatch, Objective, Shares, decibels
from car.train.optim import lr_factor, make_optimizer
from car.train.recipes import BUDGETS, Recipe
from car.weights import load

if TYPE_CHECKING:
    from accelerate import Accelerator

STATE, LATEST, BEST = "state.pt", "model.safetensors", "best.safetensors"
_CHECK_STEPS = 10  # between readings of the loss, because a reading makes an accelerator wait
_MAX_ROLLBACKS = 3
_VALIDATED = (Coding("JPEG", 30), Coding("WEBP", 30), Coding("JPEG", 60), Coding("AVIF", 50))


@dataclass(frozen=True)
class Validation:
    """PSNR in dB of restored images, on luma, RGB and chroma, and of the LR against the bicubic one.

    `score`, by which the best weights are kept, weighs the first three as the loss does.
    """

    score: float
    psnr: float
    psnr_rgb: float
    psnr_chroma: float
    lr_psnr: float
    lr_psnr_rgb: float


@dataclass(frozen=True)
class Progress:
    """What a running training reports every few steps, with `validation` after one."""

    step: int
    seconds: float
    done: float  # 0 to 1
    loss: float
    images_per_second: float
    validation: Validation | None = None


@dataclass(frozen=True)
class RunPlan:
    """What a run would do; see `plan_run`. Seconds are measured on a few steps."""

    images: int
    validation_images: int
    downscaler_parameters: int
    upscaler_parameters: int
    device: str
    processes: int
    epoch_steps: int
    steps: int
    step_seconds: float
    seconds: float


class Trainer:
    """One training run in one process: networks, averaged weights, optimiser, clock and random state."""

    def __init__(
        self,
        recipe: Recipe,
        training: ImageStore,
        validation: ImageStore,
        out: Path,
        *,
        accelerator: "Accelerator",
        workers: int = 0,
        on_note: Callable[[str], None] | None = None,
    ) -> None:
        self.recipe, self.out, self.accelerator = recipe, out, accelerator
        self.note = on_note or _ignore
        self.validation = _spread(validation, recipe.eval_images)
        torch.manual_seed(recipe.seed)
        model = _fresh_model(recipe)
        self.average = create(recipe.model).to(accelerator.device).requires_grad_(False)
        self.average.load_state_dict(model.state_dict())
        self._inner_objective = Objective(model, recipe)
        self.objective: nn.Module = accelerator.prepare_model(self._inner_objective)
        self.model = model
        inner = make_optimizer(model, recipe)
        self._peaks = [float(group["lr"]) for group in inner.param_groups]
        self.optimizer: Any = accelerator.prepare_optimizer(inner)
        self.crops = Crops(
            training,
            batch=recipe.batch,
            crop=recipe.crop,
            repeats=recipe.repeats,
            by_area=recipe.sampling == "area",
            orientations=recipe.orientations,
            grey=recipe.grey,
            shrunk=recipe.shrunk,
            emphasis=recipe.emphasis_of,
            seed=recipe.seed,
        )
        share = recipe.batch // accelerator.num_processes
        first = share * accelerator.process_index
        self.batches = Prefetcher(lambda step: self._to_device(self.crops.get(step, first, share)), workers)
        self.step, self.seconds, self.rollbacks = 0, 0.0, 0
        self.best = -math.inf
        self.past_l1 = (
            False  # stays true even if a longer budget moves the end of that share beyond this step
        )
        self.watch = LossWatch()
        self._losses: list[torch.Tensor] = []
        self._stop: int | None = None
        if (out / STATE).exists():
            self._restore(budget_may_change=True)

    def close(self) -> None:
        """Stop the threads."""
        self.batches.close()

    def plan(self) -> RunPlan:
        """Time a few steps, which changes the weights, and compute the steps and time of the whole budget."""
        recipe = self.recipe
        self._train_step(0.5)
        times: list[float] = []
        while len(times) < 5 and sum(times) < 60:
            start = time.monotonic()
            self._train_step(0.5)
            self._mean_loss()  # waits for the device
            times.append(time.monotonic() - start)
        step_seconds = statistics.median(times)
        steps = recipe.steps or recipe.epochs * self.crops.epoch_steps
        steps = steps or max(1, round(60 * recipe.minutes / step_seconds))

        def trained(half: nn.Module) -> int:
            return sum(p.numel() for p in half.parameters() if p.requires_grad)

        return RunPlan(
            images=len(self.crops.store.images),
            validation_images=len(self.validation.images),
            downscaler_parameters=trained(self.model.downscaler),
            upscaler_parameters=trained(self.model.upscaler),
            device=str(self.accelerator.device),
            processes=self.accelerator.num_processes,
            epoch_steps=self.crops.epoch_steps,
            steps=steps,
            step_seconds=step_seconds,
            seconds=steps * step_seconds,
        )

    def run(self, save_seconds: float, on_progress: Callable[[Progress], None] | None) -> Path:
        """Train to the end of the budget; see `train`."""
        report = on_progress if on_progress and self.accelerator.is_main_process else None
        self._check_disk()
        precision = {"no": "float32"}.get(self.accelerator.mixed_precision, self.accelerator.mixed_precision)
        begun = f", continuing at step {self.step}" if self.step else ""
        self.note(
            f"{self.recipe.model}: {len(self.crops.store.images)} images to train on, "
            f"{len(self.validation.images)} to validate on, {self.accelerator.device} in {precision}{begun}"
        )
        if self.accelerator.is_main_process:
            record = json.dumps(asdict(self.recipe), indent=1)
            atomic_write(self.out / "recipe.json", record.encode())
        self._save()  # finds a folder that cannot be written before the work, not after it
        log = RunLog(self.out, self.step) if self.accelerator.is_main_process else None
        try:
            with self._signals_wait():
                self._loop(save_seconds, report, log)
            if self._stop is not None:
                raise KeyboardInterrupt
        finally:
            if log:
                log.close()
        if self.accelerator.is_main_process and read_log(self.out):
            write_curves(self.out)
        self.accelerator.wait_for_everyone()
        return self.out / LATEST

    def _loop(
        self, save_seconds: float, report: Callable[[Progress], None] | None, log: RunLog | None
    ) -> None:
        last_saved = last_validated = mark = time.monotonic()
        validated_step, mark_step = self.step, self.step
        while True:
            now = time.monotonic()
            done, validate, saving, stop = self._agree(
                self._done(),
                self._validation_due(now - last_validated, validated_step),
                now - last_saved >= save_seconds,
                self._stop is not None,
            )
            finished = done >= 1
            if self._losses and (finished or validate or saving or stop or self.step % _CHECK_STEPS == 0):
                steps = len(self._losses)
                loss = self._mean_loss()
                self.watch.update(loss, steps)
                if self.watch.diverged:
                    self._roll_back(loss)
                    validated_step = mark_step = self.step
                    continue
                speed = (self.step - mark_step) * self.recipe.batch / max(now - mark, 1e-9)
                state = Progress(self.step, self.seconds, done, loss, speed)
                if report:
                    report(state)
                if validate or finished:
                    state = self._report(state, log, may_fail=not finished)
                    if report:
                        report(state)
                    last_validated, validated_step = time.monotonic(), self.step
                mark, mark_step = time.monotonic(), self.step
            elif finished and self._unreported():
                # the run was killed after its last step, or its files were deleted; the state has everything
                state = Progress(self.step, self.seconds, done, self.watch.mean, 0.0)
                state = self._report(state, log, may_fail=False)
                if report:
                    report(state)
            if saving or stop or finished:
                self._save(may_fail=not (stop or finished))
                last_saved = time.monotonic()
            if finished or stop:
                if stop and self._stop is None:
                    self._stop = signal.SIGTERM  # another process received the signal
                return
            start = time.monotonic()
            self._losses.append(self._train_step(done))
            self.seconds += time.monotonic() - start

    def _unreported(self) -> bool:
        """Whether a finished run lacks its weights or the last line of its log."""
        found = (self.out / LATEST).exists() and any(r["step"] == self.step for r in read_log(self.out))
        (missing,) = self._agree(0.0, not found, False, False)[1:2]
        return missing

    def _train_step(self, progress: float) -> torch.Tensor:
        """Do one step on this process's share of the batch; return its loss without waiting for it."""
        recipe, accelerator = self.recipe, self.accelerator
        factor = lr_factor(recipe, progress) * 0.5**self.rollbacks
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        self._inner_objective.learn_downscaler = progress >= recipe.downscaler_delay
        self.past_l1 = self.past_l1 or progress >= recipe.l1_share
        by_l1 = not (self.past_l1 or recipe.init or recipe.coded)
        restoration = "l1" if by_l1 else recipe.restoration
        if self._inner_objective.restoration == "l1" != restoration:
            self.watch = LossWatch()  # values of another loss are not comparable
        self._inner_objective.restoration = restoration
        self._inner_objective.coding = drawn(recipe.seed, self.step) if recipe.coded else None
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        batch = self.batches.get(self.step)
        total = torch.zeros((), device=accelerator.device)
        parts = batch.chunk(recipe.accumulate)
        for i, part in enumerate(parts):
            hr = part.to(accelerator.device, non_blocking=True).float().div(255)
            with nullcontext() if i + 1 == len(parts) else accelerator.no_sync(self.objective):
                loss = self.objective(hr.contiguous(memory_format=layout)) / len(parts)
                accelerator.backward(loss)
            total += loss.detach()
        if recipe.clip:
            accelerator.clip_grad_norm_(self.objective.parameters(), recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        # a short memory at first, so that the initial weights do not stay in the average
        decay = min(recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
        return total

    def _to_device(self, batch: torch.Tensor) -> torch.Tensor:
        return batch.pin_memory() if self.accelerator.device.type == "cuda" else batch

    def _done(self) -> float:
        return self._done_at(self.step, self.seconds)

    def _done_at(self, step: int, seconds: float) -> float:
        recipe = self.recipe
        steps = recipe.steps or recipe.epochs * self.crops.epoch_steps
        return step / steps if steps else seconds / (60 * recipe.minutes)

    def _images(self) -> str:
        """Return a digest of the names and sizes of all images."""
        listing = [
            [(name, image.shape) for name, image in zip(store.names, store.images, strict=True)]
            for store in (self.crops.store, self.validation)
        ]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]

    def _validation_due(self, seconds: float, validated_step: int) -> bool:
        period = self.recipe.eval_epochs * self.crops.epoch_steps
        if period:
            return self.step > validated_step and self.step % period == 0
        return seconds >= 60 * self.recipe.eval_minutes

    def _agree(self, done: float, validate: bool, saving: bool, stop: bool) -> tuple[float, bool, bool, bool]:
        """Follow the first process's clock, and stop if any process was told to stop."""
        if self.accelerator.num_processes == 1:
            return done, validate, saving, stop
        first = self.accelerator.is_main_process
        flags = [done, float(validate), float(saving)] if first else [0.0, 0.0, 0.0]
        values = torch.tensor([*flags, float(stop)], dtype=torch.float32, device=self.accelerator.device)
        torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX)
        agreed = values.tolist()
        return agreed[0], bool(agreed[1]), bool(agreed[2]), bool(agreed[3])

    def _mean_loss(self) -> float:
        """Return the mean loss of the steps since the last call, over all processes."""
        mean = torch.stack(self._losses).mean() if self._losses else torch.zeros(())
        self._losses = []
        reduced: Any = self.accelerator.reduce(mean.to(self.accelerator.device), "mean")
        return float(reduced)

    def _roll_back(self, loss: float) -> None:
        step, rollbacks = self.step, self.rollbacks + 1
        what = f"the loss is {loss:.4g}" if math.isfinite(loss) else f"the loss is {loss}"
        if rollbacks > _MAX_ROLLBACKS:
            raise TrainingError(
                f"the training diverged again ({what} at step {step}) at "
                f"1/{2**self.rollbacks} of the learning rates; {self.out / STATE} holds the last good state"
            )
        self._restore(budget_may_change=False)
        self.rollbacks = rollbacks
        self.note(
            f"diverged: {what} at step {step}; back to step {self.step}, "
            f"continuing at 1/{2**rollbacks} of the learning rates"
        )

    def _report(self, state: Progress, log: RunLog | None, *, may_fail: bool) -> Progress:
        """Validate; write the weights and the log."""
        found, pictures = self._validate()
        if log:
            try:
                self._write_weights(LATEST)
                if found.score > self.best:
                    self._write_weights(BEST)
                log.add(
                    {
                        "step": state.step,
                        "epoch": round(state.step / self.crops.epoch_steps, 3),
                        "seconds": round(state.seconds, 1),
                        "loss": state.loss,
                        **asdict(found),
                        "lr": lr_factor(self.recipe, state.done) * self.recipe.lr * 0.5**self.rollbacks,
                        "images_per_second": round(state.images_per_second, 2),
                    }
                )
                log.add_images(state.step, pictures)
            except (ImageError, OSError) as error:
                if not may_fail:
                    raise
                self.note(f"weights or log could not be written, will try again: {error}")
        self.best = max(self.best, found.score)
        return replace(state, validation=found)

    def _write_weights(self, name: str) -> None:
        weights = {k: v.contiguous().cpu() for k, v in self.average.state_dict().items()}
        # weights may be published; do not reveal the folders that they started from
        start = ",".join(Path(part).name for part in self.recipe.init.split(","))
        metadata = {
            "model": self.recipe.model,
            "recipe": json.dumps(asdict(self.recipe) | {"init": start}),
            "step": str(self.step),
        }
        atomic_write(self.out / name, save(weights, metadata))

    @torch.inference_mode()
    def _validate(self) -> tuple[Validation, list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]]:
        """Return PSNR of restored images and of the LR against bicubic on average, and a few pictures.

        All are measured on centre crops, of which each process takes its share. With a lossy coder, the score
        is less what the recipe says that the bytes above those of coded bicubic ones are worth.
        """
        accelerator, geometry = self.accelerator, self.model.geometry
        sums = np.zeros(len(fields(Validation)))
        pictures: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        unit = math.lcm(8, geometry.multiple)
        first, processes = accelerator.process_index, accelerator.num_processes
        for number in range(first, len(self.validation.images), processes):
            image = self.validation.images[number]
            side = min(self.recipe.eval_crop, *image.shape[:2]) // unit * unit
            top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
            crop = torch.from_numpy(np.array(image[top : top + side, left : left + side]))
            hr = crop.permute(2, 0, 1)[None].to(accelerator.device).float().div(255)
            hr = hr.contiguous(memory_format=torch.channels_last)
            lr = quantize(self.average.downscale(hr))
            bicubic, small = quantize(bicubic_downscale(hr, geometry.scale)).cpu(), lr.cpu()
            price = 0.0
            if self.recipe.coded:
                coding = _VALIDATED[number % len(_VALIDATED)]
                lr = recode(lr, coding)[0]
                price = (
                    10 * self.recipe.rate_weight * math.log10(_bytes(small, coding) / _bytes(bicubic, coding))
                )
            restored, hr = quantize(self.average.upscale(lr)).cpu(), hr.cpu()
            sums += _measured(restored, hr, small, bicubic, self._inner_objective.shares, price)
            if len(pictures) < 3:
                pictures.append((hr[0], small[0], restored[0]))
        total: Any = accelerator.reduce(torch.from_numpy(sums).float().to(accelerator.device), "sum")
        return Validation(*(total / len(self.validation.images)).tolist()), pictures

    @contextmanager
    def _signals_wait(self) -> Generator[None]:
        """Delay the first SIGINT or SIGTERM to the end of the step; the second acts as usual."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may handle signals
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def handle(number: int, _: Any) -> None:
            self._stop = number
            restore()

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        for number in before:
            signal.signal(number, handle)
        try:
            yield
        finally:
            restore()

    def _check_disk(self) -> None:
        parameters = sum(p.numel() * p.element_size() for p in self.model.parameters())
        # state (weights, average, two moments), its temporary copy, and two files of weights
        needed = parameters * (2 * 4 + 3)
        free = shutil.disk_usage(self.out).free
        if free < needed:
            raise TrainingError(
                f"{self.out}: {free / 1e6:.0f} MB free, but the run's state needs {needed / 1e6:.0f} MB"
            )

    def _save(self, *, may_fail: bool = False) -> None:
        """Write the state; with `may_fail`, do not raise, and skip a state that the loss makes suspect."""
        if may_fail and self.watch.suspect:
            return
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            state = {
                "recipe": _jsonable(self.recipe),
                "step": self.step,
                "seconds": self.seconds,
                "rollbacks": self.rollbacks,
                "best": self.best,
                "past_l1": self.past_l1,
                "watch": self.watch.state(),
                "images": self._images(),
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": scaler.state_dict() if scaler else {},
                "torch_rng": torch.get_rng_state(),
            }
            buffer = io.BytesIO()
            torch.save(state, buffer)
            try:
                atomic_write(self.out / STATE, buffer.getvalue())
            except ImageError as error:
                if not may_fail:
                    raise
                self.note(f"the state could not be saved, will try again: {error}")
        self.accelerator.wait_for_everyone()

    def _restore(self, *, budget_may_change: bool) -> None:
        path = self.out / STATE
        try:
            state = torch.load(path, map_location=self.accelerator.device, weights_only=True)
            saved = _recipe(state["recipe"])
        except Exception as error:
            rest = (
                f"; --init {self.out / LATEST} starts from its weights"
                if (self.out / LATEST).exists()
                else ""
            )
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise TrainingError(
                f"{path} cannot be read ({reason}); use another --out folder{rest}"
            ) from error
        if budget_may_change:
            budget = {name: getattr(self.recipe, name) for name in BUDGETS}
            if replace(saved, **budget) != self.recipe:
                raise TrainingError(
                    f"{self.out} holds a run with another recipe ({_differences(saved, self.recipe)}); "
                    "use another --out folder"
                )
            done = self._done_at(state["step"], state["seconds"])
            if done > 1 and budget != {name: getattr(saved, name) for name in BUDGETS}:
                raise UsageError(
                    f"{self.out} has trained {state['step']} steps in {state['seconds'] / 60:.1f} minutes: "
                    "ask for more, or use another --out folder"
                )
            if state["images"] != self._images():
                self.note("the run began with other images; the search for the best weights starts again")
                state["best"] = -math.inf
        self.step, self.seconds = state["step"], state["seconds"]
        self.rollbacks, self.best = state["rollbacks"], state["best"]
        self.past_l1 = state.get("past_l1", False)  # states of earlier versions do not say
        self.watch.restore(state["watch"])
        self._losses = []
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["torch_rng"].cpu())


def _fresh_model(recipe: Recipe) -> Rescaler:
    model = create(recipe.model)
    if recipe.kernel_start == "classical" and isinstance(model.downscaler, AdaptiveDownscaler):
        model.downscaler.start_classical()
    if recipe.init:
        loaded = load(recipe.init)
        weights = deepened(loaded.rescaler.state_dict(), model)
        shapes = {name: value.shape for name, value in weights.items()}
        if shapes != {name: value.shape for name, value in model.state_dict().items()}:
            raise UsageError(
                f"the weights {recipe.init} belong to {loaded.name} and do not fit {recipe.model}"
            )
        model.load_state_dict(weights)
    frozen = {"downscaler": model.downscaler, "upscaler": model.upscaler}.get(recipe.freeze)
    if frozen is not None:
        frozen.requires_grad_(False)
    if not any(p.requires_grad for p in model.parameters()):
        raise UsageError(f"{recipe.model} with {recipe.freeze} frozen has nothing to train")
    return model


def _recipe(values: dict[str, Any]) -> Recipe:
    """Return the recipe of which `_jsonable` gave `values`."""
    tuples: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return Recipe(**tuples)


def _jsonable(recipe: Recipe) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(recipe).items()}


def _spread(store: ImageStore, count: int) -> ImageStore:
    """Return `count` images, evenly spread over `store`, or all if `count` is 0."""
    total = len(store.names)
    if not 0 < count < total:
        return store
    chosen = {store.names[i * total // count] for i in range(count)}
    return store.subset(lambda name: name in chosen)


def _measured(
    restored: torch.Tensor,
    hr: torch.Tensor,
    small: torch.Tensor,
    bicubic: torch.Tensor,
    shares: Shares,
    price: float,
) -> NDArray[np.float64]:
    """Return the values of `Validation` for one image, each at most 99 dB."""
    scale = hr.shape[-1] // small.shape[-1]
    inside = (..., slice(scale, -scale), slice(scale, -scale))
    rgb, luma, chroma = decibels(restored[inside], hr[inside])
    lr_rgb, lr_luma, _ = decibels(small, bicubic)
    score = shares.luma * luma + shares.chroma * chroma + shares.rgb * rgb - price
    return np.array([score, luma, rgb, chroma, lr_luma, lr_rgb])


def _bytes(lr: torch.Tensor, coding: Coding) -> int:
    """Return the size of the file of RGB ``[1, 3, h, w]``."""
    return len(encoded((lr[0] * 255).round().byte().permute(1, 2, 0).numpy(), coding))


def _differences(saved: Recipe, asked: Recipe) -> str:
    names = [name for name in asdict(saved) if name not in BUDGETS]
    pairs = [(name, getattr(saved, name), getattr(asked, name)) for name in names]
    return ", ".join(f"{name} {was!r} there, {now!r} here" for name, was, now in pairs if was != now)


def _ignore(_: str) -> None:
    """Ignore a note."""
