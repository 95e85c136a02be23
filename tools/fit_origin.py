"""Fit and check the network by which `car` recognises a picture of `car_plus` that has no metadata.

    python tools/fit_origin.py --data photos/
    python tools/fit_origin.py --data photos/ --fit
    python tools/fit_origin.py --data photos/ --fit --scales 8

Run it with --fit whenever the weights of `car_plus` change, or a scale is added. It needs training
photographs only. Of five photographs, four are for fitting and one for checking. Each is shrunk by
`car_plus`, and in many other ways to ordinary thumbnails; every sixth one is replaced by a drawing, a text
or a screen. With --fit, the network of each scale starts from the weights in the package, or from those of
the next scale; it is fitted and written into the package. Then the tool counts, for each kind of small
picture of the photographs for checking, how often the answer is wrong.
"""

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save
from small_pictures import LOSSY_OWN, OWN, THUMBNAILS, drawing, lossy, photographs
from torch import nn

from car.codec.choose import open_codec
from car.codec.options import Options
from car.codec.origin import LEAST, PIECE, WEIGHTS, evidence, fine_detail, fitted_weights
from car.files.atomic import atomic_write
from car.weights import default_model, list_models

Weights = Mapping[str, NDArray[np.float32]]
FITTED, CHECKED = 96, 128
"""Sides of the small pictures for fitting and for checking."""
BATCH, RATE = 32, 5e-3
COSTS = {
    "after JPEG or WebP, 75 to 95": 0.4,
    "after JPEG or WebP, 95 to 98": 0.3,
    "after JPEG or WebP, 85 to 94": 0.02,
}
"""What a mistake costs, for kinds for which it costs less than 1: several dB."""


@dataclass(frozen=True)
class Example:
    """A small picture ``[h, w, 3]``, what made it, and whether that was `car_plus`."""

    subject: str
    kind: str
    made: bool
    pixels: NDArray[np.uint8]

    @property
    def weight(self) -> float:
        """What a mistake costs."""
        return COSTS.get(self.kind, 1.0)


def examples(scale: int, photos: Sequence[Path], *, every_kind: bool) -> Iterator[Example]:
    """Yield small pictures of photographs: two own of each, and thumbnails of every kind or of nine."""
    model = default_model(scale)
    best, fast = (open_codec(model, options=Options(fast=fast)) for fast in (False, True))
    side = CHECKED if every_kind else FITTED
    for number, path in enumerate(photos):
        random = default_rng([scale, number, every_kind])
        subject = "drawing" if number % 6 == 5 else "photograph"
        original = drawing(random, side * scale) if subject == "drawing" else part(random, path, side * scale)
        usual, *rarer = OWN
        # a corrector takes long, so few of those for fitting have seen it
        small = OWN[usual](random, best if every_kind or number % 3 == 0 else fast, original)
        made = {usual: small} | {kind: lossy(random, small, *of) for kind, of in LOSSY_OWN.items()}
        kind = str(random.choice(rarer))
        made[kind] = OWN[kind](random, fast, original)
        for kind, small in made.items():
            yield Example(subject, kind, True, np.asarray(small))
        kinds = [*THUMBNAILS] if every_kind else random.choice([*THUMBNAILS], 9, replace=False)
        for kind in map(str, kinds):
            small = THUMBNAILS[kind](random, original, (side, side))
            yield Example(subject, kind, False, np.asarray(small))


def part(random: Generator, path: Path, side: int) -> Image.Image:
    """Return a square part of a photograph, which is mirrored at its edges if it is smaller."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    pixels = np.pad(pixels, [*((0, max(side - n, 0)) for n in pixels.shape[:2]), (0, 0)], "symmetric")
    top, left = (int(random.integers(n - side + 1)) for n in pixels.shape[:2])
    return Image.fromarray(np.ascontiguousarray(pixels[top : top + side, left : left + side]))


class Network(nn.Module):
    """What `car.codec.origin` computes from fine detail ``[n, 3, h, w]``; parameters have the same names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, 2), nn.Conv2d(16, 16, 3)
        self.third = nn.Conv2d(16, 24, 3, 2)
        self.hidden, self.out = nn.Linear(24, 12), nn.Linear(12, 1)

    def forward(self, detail: torch.Tensor) -> torch.Tensor:
        for layer in (self.first, self.second, self.third):
            detail = layer(detail).relu()
        means = torch.log(detail.mean((2, 3)) + 0.01)
        return self.out(self.hidden(means).relu())[:, 0]


def fitted(made: Sequence[Example], minutes: float, start: Weights | None = None) -> Weights:
    """Return the weights of a network that was fitted to these examples for so long, from a start."""
    torch.manual_seed(0)
    random, network = default_rng(0), Network()
    if start:
        network.load_state_dict({key: torch.from_numpy(values) for key, values in start.items()})
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-3)
    details = [fine_detail(one.pixels).astype(np.float16) for one in made]
    answers, weights = (np.array([getattr(one, name) for one in made]) for name in ("made", "weight"))
    for answer in (False, True):  # own pictures are rarer, and as likely
        weights[answers == answer] /= 2 * weights[answers == answer].sum()
    begun = time.process_time()
    while (done := (time.process_time() - begun) / (60 * minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1 - done, 20 * done + 0.01)
        chosen = random.choice(len(made), BATCH, p=weights / weights.sum())
        side = PIECE - 4 if random.random() < 0.85 else LEAST
        pieces = [cut(random, details[i], side, turn=not answers[i]) for i in chosen]
        batch = torch.from_numpy(np.stack(pieces))
        odds = network(batch.float().permute(0, 3, 1, 2))
        loss = nn.functional.binary_cross_entropy_with_logits(odds, torch.from_numpy(answers[chosen]).float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {key: values.numpy() for key, values in network.state_dict().items()}


def cut(random: Generator, detail: NDArray[np.float16], side: int, *, turn: bool) -> NDArray[np.float16]:
    """Return the fine detail of a piece. Only thumbnails may be turned: models are not symmetric."""
    top, left = (int(random.integers(n - side + 1)) for n in detail.shape[:2])
    piece = detail[top : top + side, left : left + side]
    if turn:
        piece = np.rot90(piece, random.integers(4))[:, :: random.choice([-1, 1])]
    return piece


def write(weights: Mapping[int, Weights]) -> None:
    """Write the weights of all scales into the package."""
    arrays = {
        f"{scale}.{name}": np.ascontiguousarray(values, np.float16)
        for scale, network in sorted(weights.items())
        for name, values in network.items()
    }
    atomic_write(WEIGHTS, save(arrays))


def counted(scale: int, made: Sequence[Example], weights: Weights) -> None:
    """Print how many answers are wrong, for each kind of small picture and in total."""
    wrong: dict[tuple[bool, str], list[bool]] = {}
    for one in made:
        answer = evidence(one.pixels, weights) > 0
        kinds = (one.kind,) if one.kind in LOSSY_OWN else (one.kind, one.subject, "all")
        for kind in kinds:
            wrong.setdefault((one.made, kind), []).append(answer != one.made)
    for (own, kind), mistakes in sorted(wrong.items(), reverse=True):
        maker = "`car_plus`" if own else "thumbnail"
        print(f"| {scale}x | {maker} | {kind} | {sum(mistakes)} of {len(mistakes)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, help="folders of training photographs")
    parser.add_argument("--scales", nargs="+", type=int, help="default: all of car_plus")
    parser.add_argument(
        "--fit", action="store_true", help="fit the networks, and write them into the package"
    )
    parser.add_argument("--minutes", type=float, default=3, help="processor time to fit a network (3)")
    asked = parser.parse_args()
    photos = photographs(asked.data)
    shipped = [m.scale for m in list_models() if m.family == "car_plus" and m.tags]
    torch.set_num_threads(1)
    print("| scale | made by | kind | wrong answers |\n|---|---|---|---|")
    for scale in asked.scales or shipped:
        known = fitted_weights()
        if asked.fit:
            fitting = [path for number, path in enumerate(photos) if number % 5 != 4]
            start = known[min(known, key=lambda other: abs(other - scale))] if known else None
            network = fitted([*examples(scale, fitting, every_kind=False)], asked.minutes, start)
            write(known | {scale: network})
            fitted_weights.cache_clear()
        counted(scale, [*examples(scale, photos[4::5], every_kind=True)], fitted_weights()[scale])


if __name__ == "__main__":
    main()
