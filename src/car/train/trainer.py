"""One process of a training run: steps, validation, checkpoints."""

import hashlib
import io
import json
import math
import signal
import statistics
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save
from torch import nn

from car.codec.lossy import drawn
from car.errors import ImageError, TrainingError
from car.files.atomic import atomic_write
from car.models import create
from car.train.data import Crops, ImageStore, OnSkip, Prefetcher, ignore
from car.train.log import RunLog, read_log, write_curves
from car.train.losses import LossWatch, Objective
from car.train.optim import lr_factor, make_optimizer
from car.train.recipes import Recipe
from car.train.state import BEST, LATEST, STATE, check_disk, check_same_run, fresh_model, read_state
from car.train.validation import Validation, spread, validate

if TYPE_CHECKING:
    from accelerate import Accelerator

_CHECK_STEPS = 10  # steps between readings of the loss, because a reading makes an accelerator wait
_CHECK_SECONDS = 10  # the same, where steps are slow
_MAX_ROLLBACKS = 3
_TRIAL_SECONDS = 2  # a step that takes longer is not done as a whole for a plan
_KEPT = ("step", "seconds", "rollbacks", "best", "past_l1")  # attributes that are saved as they are
_PARTS = ("model", "average", "optimizer")  # attributes with a state of their own


@dataclass(frozen=True)
class Progress:
    """What a running training reports every few steps; `validation` is set after a validation."""

    step: int
    seconds: float
    done: float  # 0 to 1
    loss: float
    images_per_second: float
    validation: Validation | None = None


@dataclass(frozen=True)
class RunPlan:
    """What a run would do, see `car.train.run.Run.plan`. Times are measured on a few steps."""

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
        accelerator: "Accelerator",
        workers: int = 0,
        note: OnSkip = ignore,
    ) -> None:
        self.recipe, self.out, self.accelerator, self.note = recipe, out, accelerator, note
        self.validation = spread(validation, recipe.eval_images)
        torch.manual_seed(recipe.seed)
        model = fresh_model(recipe)
        self.average = create(recipe.model).to(accelerator.device).requires_grad_(False)
        self.average.load_state_dict(model.state_dict())
        self._inner_objective = Objective(model, recipe)
        self.objective: nn.Module = accelerator.prepare_model(self._inner_objective)
        self.model = model
        inner = make_optimizer(model, recipe)
        self._peaks = [float(group["lr"]) for group in inner.param_groups]
        self.optimizer: Any = accelerator.prepare_optimizer(inner)
        self.crops = Crops(training, recipe)
        share = recipe.batch // accelerator.num_processes
        first = share * accelerator.process_index
        pinned = accelerator.device.type == "cuda"

        def crops(step: int) -> torch.Tensor:
            batch = self.crops.get(step, first, share)
            return batch.pin_memory() if pinned else batch

        self.batches = Prefetcher(crops, workers)
        self.step, self.seconds, self.rollbacks, self.best = 0, 0.0, 0, -math.inf
        # stays true even if a longer budget moves the end of `l1_share` beyond this step
        self.past_l1 = False
        self.watch = LossWatch()
        self._losses: list[torch.Tensor] = []
        self._stop: int | None = None
        if (out / STATE).exists():
            self._restore(budget_may_change=True)

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *_: object) -> None:
        self.batches.close()

    def plan(self) -> RunPlan:
        """Time a few steps, and compute the steps and time of the whole budget. This changes the weights."""
        recipe = self.recipe
        step_seconds = self._step_seconds()
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

    def _step_seconds(self) -> float:
        """Return how long a step takes, from a few; from steps of fewer crops where they take long."""

        def timed(crops: int | None) -> float:
            start = time.monotonic()
            self._train_step(0.5, crops)
            self._mean_loss()  # waits for the device
            return time.monotonic() - start

        share, parts = self.recipe.batch // self.accelerator.num_processes, self.recipe.accumulate
        few, more = parts, min(3 * parts, share)
        timed(few)  # starts everything
        least = timed(few)
        if few == more or least * share / few < _TRIAL_SECONDS:
            timed(None)  # a batch of another size may need other preparations
            times: list[float] = []
            while len(times) < 5 and sum(times) < 2 * _TRIAL_SECONDS:
                times.append(timed(None))
            return statistics.median(times)
        a_crop = max((timed(more) - least) / (more - few), least / few / 4)
        return least + (share - few) * a_crop

    def run(self, save_seconds: float, on_progress: Callable[[Progress], None]) -> Path:
        """Train to the end of the budget; see `car.train.run.Run.train`."""
        report = on_progress if self.accelerator.is_main_process else ignore
        check_disk(self.out, self.model)
        precision = {"no": "float32"}.get(self.accelerator.mixed_precision, self.accelerator.mixed_precision)
        begun = f", continuing at step {self.step}" if self.step else ""
        self.note(
            f"{self.recipe.model}: {len(self.crops.store.images)} pictures to train on, "
            f"{len(self.validation.images)} to validate on, {self.accelerator.device} in {precision}{begun}"
        )
        if self.accelerator.is_main_process:
            record = json.dumps(asdict(self.recipe), indent=1)
            atomic_write(self.out / "recipe.json", record.encode())
        self._save()  # if the folder cannot be written, this fails before the work, not after it
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

    def _loop(self, save_seconds: float, report: Callable[[Progress], None], log: RunLog | None) -> None:
        last_saved = last_validated = mark = time.monotonic()
        validated_step, mark_step = self.step, self.step
        alone = self.accelerator.num_processes == 1  # else all must read the loss at the same step
        while True:
            now = time.monotonic()
            done, validate, saving, stop = self._agree(
                self._done(),
                self._validation_due(now - last_validated, validated_step),
                now - last_saved >= save_seconds,
                self._stop is not None,
            )
            finished, done = done >= 1, min(done, 1.0)  # the last step may end after the time is up
            check = self.step % _CHECK_STEPS == 0 or (alone and now - mark >= _CHECK_SECONDS)
            if self._losses and (finished or validate or saving or stop or check):
                steps = len(self._losses)
                loss = self._mean_loss()
                self.watch.update(loss, steps)
                if self.watch.diverged:
                    self._roll_back(loss)
                    validated_step = mark_step = self.step
                    continue
                speed = (self.step - mark_step) * self.recipe.batch / max(now - mark, 1e-9)
                state = Progress(self.step, self.seconds, done, loss, speed)
                report(state)
                if validate or finished:
                    report(self._report(state, log, may_fail=not finished))
                    last_validated, validated_step = time.monotonic(), self.step
                mark, mark_step = time.monotonic(), self.step
            elif finished and self._unreported():
                # the run was killed after its last step, or its files were deleted; the state has everything
                state = Progress(self.step, self.seconds, done, self.watch.mean, 0.0)
                report(self._report(state, log, may_fail=False))
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

    def _train_step(self, progress: float, crops: int | None = None) -> torch.Tensor:
        """Do one step on this process's share of the batch; return its loss without waiting for it.

        Args:
            progress: the share of the training that is done.
            crops: how many crops are used; None for all.
        """
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
        batch = self.batches.get(self.step)[:crops]
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
        found, pictures = validate(self.average, self.validation, self.recipe, self.accelerator)
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

    def _save(self, *, may_fail: bool = False) -> None:
        """Write the state; with `may_fail`, do not raise, and skip a state that the loss makes suspect."""
        if may_fail and self.watch.suspect:
            return
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            state: dict[str, Any] = {name: getattr(self, name) for name in _KEPT}
            state |= {name: getattr(self, name).state_dict() for name in _PARTS}
            state |= {
                "recipe": asdict(self.recipe),
                "watch": self.watch.state(),
                "images": self._images(),
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
        state = read_state(self.out, self.accelerator.device)
        if budget_may_change:
            check_same_run(self.out, state, self.recipe, self._done_at(state["step"], state["seconds"]))
            if state["images"] != self._images():
                self.note("the run began with other pictures; the search for the best weights starts again")
                state["best"] = -math.inf
        for name in _KEPT:
            setattr(self, name, state[name])
        self.watch.restore(state["watch"])
        self._losses = []
        for name in _PARTS:
            getattr(self, name).load_state_dict(state[name])
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["torch_rng"].cpu())
