"""Training runs, from one CPU process to many accelerators, which can be stopped and resumed."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from car.devices import fast_bf16, resolve_device
from car.errors import ImageError, TrainingError, UsageError, needs
from car.models import create
from car.train.data import (
    ImageStore,
    OnProgress,
    OnSkip,
    ignore,
    imagined_stores,
    load_store,
    sampled_store,
    split_held_out,
)
from car.train.recipes import Recipe
from car.train.trainer import Progress, RunPlan, Trainer

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Run:
    """A training run: what is trained, on which images, and which functions receive its progress.

    Under ``torchrun`` or ``accelerate launch``, all processes train: each takes its share of every batch, and
    the first one writes. `out` receives

    - ``state.pt``: everything needed to continue, written every `save_seconds` and at an interrupt,
    - ``model.safetensors`` and ``best.safetensors``: the (averaged) weights at the last validation, and at
      the one with the highest PSNR,
    - ``log.jsonl``, ``tensorboard/`` and, at the end, ``curves.png``,
    - ``recipe.json``.

    If the loss is no longer finite or diverges, training returns to the last good state and continues at half
    the learning rate, at most three times.

    Attributes:
        recipe: what to train and how.
        folders: searched recursively for images.
        out: the run's folder, created if missing; all machines of a run must see it.
        valid: folder of images to validate on; by default some of the training images are held out.
        cache: folder for decoded pixels; ``out / "cache"`` by default.
        device: see `car.devices.resolve_device`.
        workers: threads that decode and cut crops ahead of the training.
        save_seconds: seconds between saves of the state.
        imagined: for `plan` only: the usual training set whose numbers of images are assumed, because it is
            not on this machine; `folders` may then be empty.
        on_progress: called every ten steps and at each validation, in the first process.
        on_decode: called with (images done, total images) while images are decoded, in the first process.
        on_note: called with a line for each skipped image and for other notes, in the first process.
    """

    recipe: Recipe
    folders: Sequence[Path]
    out: Path
    valid: Path | None = None
    cache: Path | None = None
    device: str = "auto"
    workers: int = 1
    save_seconds: float = 60.0
    imagined: str | None = None
    on_progress: Callable[[Progress], None] = ignore
    on_decode: OnProgress = ignore
    on_note: OnSkip = ignore

    def train(self) -> Path:
        """Train, or continue the run in `out`; return the path of ``model.safetensors``.

        Raises:
            UsageError: a setting or the device cannot be used.
            TrainingError: a package or usable images are missing; `out` cannot be written, is in use or holds
                a run of another recipe; or the training diverged too often (the last good state is kept).
            KeyboardInterrupt: SIGINT or SIGTERM came. Before that, the step is finished and the state saved.
        """
        with self.trainer() as trainer:
            return trainer.run(self.save_seconds, self.on_progress)

    def plan(self) -> RunPlan:
        """Return what `train` would do, timed on a few steps or parts of steps that are discarded.

        A few images are decoded, and stand for the others. With `imagined`, none is needed at all. Nothing is
        written.

        Raises:
            UsageError, TrainingError: as `train`.
        """
        with self.trainer(trial=True) as trainer:
            return trainer.plan()

    @contextmanager
    def trainer(self, *, trial: bool = False) -> Generator[Trainer]:
        """Yield the trainer of this process; meanwhile, the folder of the run is locked.

        Args:
            trial: only a few images are decoded, and nothing is written.
        """
        self.recipe.validate()
        try:
            import tensorboard as _tensorboard
            from accelerate.state import AcceleratorState, is_initialized
            from filelock import FileLock, Timeout
        except ImportError as error:
            raise needs(f"training needs {error.name}", "train") from error
        del _tensorboard
        out, own_state = self.out, not is_initialized()
        lock = FileLock(out / ".lock", timeout=0)
        try:
            accelerator = _accelerator(self.recipe, self.device, self.on_note)
            note = self.on_note if accelerator.is_main_process else ignore
            if accelerator.is_main_process and not trial:
                out.mkdir(parents=True, exist_ok=True)
                lock.acquire()
                for left_over in out.glob(".*.tmp~"):  # of a run that was killed while it wrote
                    left_over.unlink()
            stores = self._trial_stores(note) if trial else self._stores(accelerator, note)
            with Trainer(self.recipe, *stores, out, accelerator, self.workers, note) as trainer:
                yield trainer
        except Timeout as error:
            raise TrainingError(f"{out} is in use by another run") from error
        except OSError as error:
            raise TrainingError(f"cannot write to {out}: {error.strerror or error}") from error
        except ImageError as error:  # raised by atomic_write
            raise TrainingError(str(error)) from error
        finally:
            if lock.is_locked:
                Path(lock.lock_file).unlink(missing_ok=True)
                lock.release()
            if own_state:
                AcceleratorState._reset_state(reset_partial_state=True)  # pyright: ignore[reportPrivateUsage]

    def _stores(self, accelerator: "Accelerator", note: OnSkip) -> tuple[ImageStore, ImageStore]:
        """Return images to train and to validate on. One process a machine decodes; the others wait."""
        place, recipe = self.cache or self.out / "cache", self.recipe
        first = accelerator.is_local_main_process

        def open_store(which: Sequence[Path], where: Path, min_size: int) -> ImageStore:
            return load_store(
                which,
                where,
                min_size=min_size,
                workers=self.workers,
                leave_out=(self.out, place),
                on_progress=self.on_decode if first else ignore,
                on_skip=note if first else ignore,
            )

        with accelerator.local_main_process_first():
            store = open_store(self.folders, place, recipe.crop)
            if self.valid is None:
                return split_held_out(store, recipe.hold_out)
            store, _ = split_held_out(store, recipe.hold_out, 0)
            return store, open_store([self.valid], place / "valid", self._least_valid)

    def _trial_stores(self, note: OnSkip) -> tuple[ImageStore, ImageStore]:
        """Return stores for a trial: few images are decoded, or none."""
        if self.imagined is not None:
            return imagined_stores(self.imagined)
        recipe, leave_out = self.recipe, (self.out, self.cache or self.out / "cache")
        store = sampled_store(self.folders, min_size=recipe.crop, leave_out=leave_out, on_skip=note)
        if self.valid is None:
            return split_held_out(store, recipe.hold_out)
        store, _ = split_held_out(store, recipe.hold_out, 0)
        return store, sampled_store(
            [self.valid], min_size=self._least_valid, leave_out=leave_out, on_skip=note
        )

    @property
    def _least_valid(self) -> int:
        # a validation crop needs pixels inside the border that is cut off
        return max(8 * create(self.recipe.model).geometry.scale, 32)


def _accelerator(recipe: Recipe, name: str, note: OnSkip) -> "Accelerator":
    from accelerate import Accelerator, DistributedDataParallelKwargs

    device = resolve_device(name)
    if device.index:
        raise UsageError(f"cannot train on {name}: choose a device with CUDA_VISIBLE_DEVICES={device.index}")
    precision = recipe.precision
    if precision == "auto":
        precision = "bf16" if fast_bf16(device) else "float32"
    elif precision == "bf16" and not fast_bf16(device):
        note("this device has no instructions for bf16: float32 is 10 to 20 times as fast")
    if precision == "fp16" and device.type == "cpu":
        raise UsageError("precision fp16 needs an accelerator; float32 works on every CPU")
    try:
        accelerator = Accelerator(
            cpu=device.type == "cpu",
            mixed_precision={"float32": "no"}.get(precision, precision),
            dynamo_backend="inductor" if recipe.compile else None,
            kwargs_handlers=[
                DistributedDataParallelKwargs(find_unused_parameters=recipe.downscaler_delay > 0)
            ],
        )
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"cannot train on {name} in {precision}: {error}") from error
    if accelerator.device.type != device.type:
        raise UsageError(f"cannot train on {name}: accelerate uses {accelerator.device.type}")
    shares = accelerator.num_processes * recipe.accumulate
    if recipe.batch % shares:
        raise UsageError(f"batch = {recipe.batch} must be a multiple of processes x accumulate = {shares}")
    return accelerator
