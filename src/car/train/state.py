"""What a run starts from: new networks, other weights, or the state of a run that was stopped."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from car.errors import TrainingError, UsageError
from car.models import Rescaler, create
from car.models.compact import deepened, rescaled
from car.models.published import AdaptiveDownscaler
from car.train.recipes import BUDGETS, Recipe
from car.weights import load

STATE, LATEST, BEST = "state.pt", "model.safetensors", "best.safetensors"


def fresh_model(recipe: Recipe) -> Rescaler:
    """Return the networks that a run of `recipe` starts with.

    Raises:
        UsageError: the weights of `init` do not fit, or everything is frozen.
    """
    model = create(recipe.model)
    if recipe.kernel_start == "classical" and isinstance(model.downscaler, AdaptiveDownscaler):
        model.downscaler.start_classical()
    if recipe.init:
        loaded = load(recipe.init)
        scales = loaded.rescaler.geometry.scale, model.geometry.scale
        weights = deepened(rescaled(loaded.rescaler.state_dict(), *scales), model)
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


def check_disk(out: Path, model: Rescaler) -> None:
    """Raise `TrainingError` if the state of a run would not fit on the disk of `out`."""
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    # state (weights, average, two moments), its temporary copy, and two files of weights
    needed = parameters * (2 * 4 + 3)
    free = shutil.disk_usage(out).free
    if free < needed:
        raise TrainingError(
            f"{out}: {free / 1e6:.0f} MB free, but the run's state needs {needed / 1e6:.0f} MB"
        )


def read_state(out: Path, device: torch.device) -> dict[str, Any]:
    """Return the state of the run in `out`, its recipe as a `Recipe`.

    Raises:
        TrainingError: the file is damaged.
    """
    try:
        state = torch.load(out / STATE, map_location=device, weights_only=True)
        return state | {"recipe": Recipe(**state["recipe"])}
    except Exception as error:
        latest = out / LATEST
        rest = f"; --init {latest} starts from its weights" if latest.exists() else ""
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TrainingError(
            f"{out / STATE} cannot be read ({reason}); use another --out folder{rest}"
        ) from error


def check_same_run(out: Path, state: dict[str, Any], asked: Recipe, done: float) -> None:
    """Refuse to continue a run by another recipe, or one that has already spent the new budget.

    Args:
        out: the run's folder.
        state: the state of the run.
        asked: the recipe that the user asks for.
        done: share of this recipe's budget that the run has spent.

    Raises:
        TrainingError: the recipes differ in more than the budget.
        UsageError: there is nothing left to do.
    """
    saved = state["recipe"]
    names = [name for name in asdict(saved) if name not in BUDGETS]
    pairs = [(name, getattr(saved, name), getattr(asked, name)) for name in names]
    if other := ", ".join(f"{name} {was!r} there, {now!r} here" for name, was, now in pairs if was != now):
        raise TrainingError(f"{out} holds a run with another recipe ({other}); use another --out folder")
    if done > 1 and saved != asked:
        raise UsageError(
            f"{out} has trained {state['step']} steps in {state['seconds'] / 60:.1f} minutes: "
            "ask for more, or use another --out folder"
        )
