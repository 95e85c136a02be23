"""Validation: measures of a training at intervals, on images that it does not train on."""

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from car.codec.coding import Coding, encoded
from car.codec.lossy import recode
from car.models import Rescaler, quantize
from car.ops import bicubic_downscale
from car.train.data import ImageStore
from car.train.losses import Shares, decibels
from car.train.recipes import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator

_VALIDATED = (Coding("JPEG", 30), Coding("WEBP", 30), Coding("JPEG", 60), Coding("AVIF", 50))

Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


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


def spread(store: ImageStore, count: int) -> ImageStore:
    """Return `count` images, evenly spread over `store`, or all if `count` is 0."""
    total = len(store.names)
    if not 0 < count < total:
        return store
    chosen = {store.names[i * total // count] for i in range(count)}
    return store.subset(lambda name: name in chosen)


@torch.inference_mode()
def validate(
    model: Rescaler, store: ImageStore, recipe: Recipe, accelerator: "Accelerator"
) -> tuple[Validation, list[Triple]]:
    """Return the mean PSNR of restored images and of the LR against bicubic, and a few pictures.

    All are measured on centre crops, and each process takes its share of them. With a lossy codec, the score
    is lower if the small pictures take more bytes than bicubic ones; `rate_weight` says by how much.
    """
    geometry = model.geometry
    shares = Shares(recipe.luma_weight, recipe.chroma_weight)
    sums = np.zeros(len(fields(Validation)))
    pictures: list[Triple] = []
    unit = math.lcm(8, geometry.multiple)
    first, processes = accelerator.process_index, accelerator.num_processes
    for number in range(first, len(store.images), processes):
        image = store.images[number]
        side = min(recipe.eval_crop, *image.shape[:2]) // unit * unit
        top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
        crop = torch.from_numpy(np.array(image[top : top + side, left : left + side]))
        hr = crop.permute(2, 0, 1)[None].to(accelerator.device).float().div(255)
        hr = hr.contiguous(memory_format=torch.channels_last)
        lr = quantize(model.downscale(hr))
        bicubic, small = quantize(bicubic_downscale(hr, geometry.scale)).cpu(), lr.cpu()
        price = 0.0
        if recipe.coded:
            coding = _VALIDATED[number % len(_VALIDATED)]
            lr = recode(lr, coding)[0]
            price = 10 * recipe.rate_weight * math.log10(_bytes(small, coding) / _bytes(bicubic, coding))
        restored, hr = quantize(model.upscale(lr)).cpu(), hr.cpu()
        sums += _measured(restored, hr, small, bicubic, shares, price)
        if len(pictures) < 3:
            pictures.append((hr[0], small[0], restored[0]))
    total: Any = accelerator.reduce(torch.from_numpy(sums).float().to(accelerator.device), "sum")
    return Validation(*(total / len(store.images)).tolist()), pictures


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
