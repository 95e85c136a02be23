"""The logs of a training run: JSON lines, TensorBoard events and a picture of the curves."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the community's name for it

from car.errors import TrainingError
from car.files.atomic import atomic_write

LOG = "log.jsonl"
CURVES = "curves.png"


class RunLog:
    """Writes ``log.jsonl`` and ``tensorboard/`` below `out`; drops older records after `step`."""

    def __init__(self, out: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._path = out / LOG
        kept = [record for record in read_log(out) if record["step"] <= step]
        atomic_write(self._path, "".join(json.dumps(record) + "\n" for record in kept).encode())
        self._events = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)

    def add(self, record: dict[str, Any]) -> None:
        """Write one record: "step" and any other values; numbers go to TensorBoard too."""
        with self._path.open("a") as log:
            log.write(json.dumps(record) + "\n")
        for name, value in record.items():
            if name != "step" and isinstance(value, (int, float)):
                self._events.add_scalar(name, value, record["step"])

    def add_images(
        self, step: int, triples: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
    ) -> None:
        """Write one picture for each (hr, lr, restored), ``[3, H, W]`` in [0, 1], side by side."""
        for i, (hr, lr, restored) in enumerate(triples):
            small = F.interpolate(lr[None], size=hr.shape[-2:], mode="nearest")[0]
            row = torch.cat([hr, small, restored], dim=-1).clamp(0, 1)
            self._events.add_image(f"original, small, restored/{i}", row, step)
        self._events.flush()

    def close(self) -> None:
        """Finish the event file."""
        self._events.close()


def read_log(out: Path) -> list[dict[str, Any]]:
    """Return the records of the run in `out`; none if there is no log. Half-written lines are skipped."""
    try:
        lines = (out / LOG).read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    return [record for line in lines if (record := _record(line))]


def _record(line: str) -> dict[str, Any] | None:
    """Return the record, or None if the line is incomplete, as a killed run may leave it."""
    try:
        record: Any = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(record, dict) and isinstance(record.get("step"), int)
    return record if whole else None


_CURVES = {
    "psnr": "restored, luma",
    "psnr_rgb": "restored, RGB",
    "psnr_chroma": "restored, chroma",
    "lr_psnr": "small picture to bicubic, luma",
    "lr_psnr_rgb": "small picture to bicubic, RGB",
}


def write_curves(out: Path) -> Path:
    """Draw the loss and validation PSNR of the run in `out` over its steps, as ``curves.png``.

    Raises:
        TrainingError: the run has no log.
    """
    from matplotlib.figure import Figure

    records = read_log(out)
    if not records:
        raise TrainingError(f"{out}: no {LOG} to draw")
    figure = Figure(figsize=(11, 4), layout="constrained")
    for axes, names, unit in zip(
        figure.subplots(1, 2), (("loss",), tuple(_CURVES)), ("loss", "PSNR, dB"), strict=True
    ):
        for name in names:
            points = [(r["step"], r[name]) for r in records if r.get(name) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=_CURVES.get(name, name))
        axes.set_xlabel("step")
        axes.set_ylabel(unit)
        axes.grid(alpha=0.3)
        axes.legend()
        if unit == "loss":
            axes.set_yscale("log")
    atomic_write(out / CURVES, lambda file: figure.savefig(file, format="png", dpi=100))
    return out / CURVES
