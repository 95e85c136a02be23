"""Training runs, from one CPU process to many accelerators, which can be stopped and resumed."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from car.devices import fast_bf16, resolve_device
from car.errors import ImageError, TrainingError, UsageError, needs
from car.models import create
from car.train.data import ImageStore, load_store, split_held_out
from car.train.recipes import Recipe
from car.train.trainer import Progress, RunPlan, Trainer

if TYPE_CHECKING:
    from accelerate import Accelerator


def train(
    recipe: Recipe,
    folders: Sequence[Path],
    out: Path,
    *,
    valid: Path | None = None,
    cache: Path | None = None,
    device: str = "auto",
    workers: int = 1,
    save_seconds: float = 60.0,
    on_progress: Callable[[Progress], None] | None = None,
    on_decode: Callable[[int, int], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Path:
    """Train `recipe` on the images below `folders`, or continue the run in `out`.

    Under ``torchrun`` or ``accelerate launch``, all processes train: each takes its share of every batch, and
    the first one writes. `out` receives

    - ``state.pt``: everything needed to continue, written every `save_seconds` and at an interrupt,
    - ``model.safetensors`` and ``best.safetensors``: the (averaged) weights at the last validation, and at
      the one with the highest PSNR,
    - ``log.jsonl``, ``tensorboard/`` and, at the end, ``curves.png``,
    - ``recipe.json``.

    If the loss is no longer finite or diverges, training returns to the last good state and continues at half
    the learning rate, at most three times.

    Args:
        recipe: what to train and how.
        folders: searched recursively for images.
        out: the run's folder, created if missing; all machines of a run must see it.
        valid: folder of images to validate on; by default some of the training images are held out.
        cache: folder for decoded pixels; ``out / "cache"`` by default.
        device: see `car.devices.resolve_device`.
        workers: threads that decode and cut crops ahead of the training.
        save_seconds: seconds between two writings of the state.
        on_progress: called every ten steps and at each validation, in the first process.
        on_decode: called with (images done, total images) while images are decoded, in the first process.
        on_note: called with a line for each skipped image and for other notes, in the first process.

    Returns:
        The path of ``model.safetensors``.

    Raises:
        UsageError: a setting or the device cannot be used.
        TrainingError: a package or usable images are missing; `out` cannot be written, is in use or holds a
            run of another recipe; or the training diverged too often (the last good state is kept).
        KeyboardInterrupt: SIGINT or SIGTERM came; the step was finished and the state written first.
    """
    with _trainer(
        recipe, folders, out, valid, cache, device, workers, on_decode=on_decode, on_note=on_note
    ) as trainer:
        return trainer.run(save_seconds, on_progress)


def plan_run(
    recipe: Recipe,
    folders: Sequence[Path],
    out: Path,
    *,
    valid: Path | None = None,
    cache: Path | None = None,
    device: str = "auto",
    workers: int = 1,
    on_decode: Callable[[int, int], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> RunPlan:
    """Return what `train` would do with these arguments, timed on a few steps that are discarded.

    Images are decoded into the cache, and the real run uses them. Nothing else is written.

    Raises:
        UsageError, TrainingError: as `train`.
    """
    with _trainer(
        recipe, folders, out, valid, cache, device, workers, on_decode=on_decode, on_note=on_note
    ) as trainer:
        return trainer.plan()


@contextmanager
def _trainer(
    recipe: Recipe,
    folders: Sequence[Path],
    out: Path,
    valid: Path | None,
    cache: Path | None,
    device: str,
    workers: int,
    *,
    on_decode: Callable[[int, int], None] | None,
    on_note: Callable[[str], None] | None,
) -> Generator["Trainer"]:
    recipe.validate()
    try:
        import tensorboard as _tensorboard
        from accelerate.state import AcceleratorState, is_initialized
        from filelock import FileLock, Timeout
    except ImportError as error:
        raise needs(f"training needs {error.name}", "train") from error
    del _tensorboard
    own_state = not is_initialized()
    lock = FileLock(out / ".lock", timeout=0)
    try:
        accelerator = _accelerator(recipe, device, on_note or _ignore)
        note = on_note if on_note and accelerator.is_main_process else _ignore
        out.mkdir(parents=True, exist_ok=True)
        if accelerator.is_main_process:
            lock.acquire()
            for left_over in out.glob(".*.tmp~"):  # of a run that was killed while it wrote
                left_over.unlink()
        store = _stores(recipe, folders, out, valid, cache, workers, accelerator, on_decode, note)
        trainer = Trainer(recipe, *store, out, accelerator=accelerator, workers=workers, on_note=note)
        try:
            yield trainer
        finally:
            trainer.close()
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


def _accelerator(recipe: Recipe, name: str, note: Callable[[str], None]) -> "Accelerator":
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


def _stores(
    recipe: Recipe,
    folders: Sequence[Path],
    out: Path,
    valid: Path | None,
    cache: Path | None,
    workers: int,
    accelerator: "Accelerator",
    on_decode: Callable[[int, int], None] | None,
    note: Callable[[str], None],
) -> tuple[ImageStore, ImageStore]:
    """Return images to train and to validate on. One process on each machine decodes; the others wait."""
    place = cache or out / "cache"

    def open_store(which: Sequence[Path], where: Path, min_size: int) -> ImageStore:
        first = accelerator.is_local_main_process
        return load_store(
            which,
            where,
            min_size=min_size,
            workers=workers,
            leave_out=(out, place),
            on_progress=on_decode if first else None,
            on_skip=note if first else None,
        )

    with accelerator.local_main_process_first():
        store = open_store(folders, place, recipe.crop)
        if valid is None:
            return split_held_out(store, recipe.hold_out)
        store, _ = split_held_out(store, recipe.hold_out, 0)
        # a validation crop needs pixels inside the border that is shaved
        smallest = max(8 * create(recipe.model).geometry.scale, 32)
        return store, open_store([valid], place / "valid", smallest)


def _ignore(_: str) -> None:
    """Ignore a note."""
