"""Measure every level of `car downscale --effort`, and write the tables in docs/research/effort.md.

    python tools/measure_effort.py car_plus_x4 --img-dir datasets [--sets Set5] [--images 20]

Mean PSNR of luma, RGB and chroma of the restored images, that of the small pictures to bicubic, and seconds
of CPU time to shrink a megapixel on this machine, by as many processes of one thread as it has cores. All
levels are read off one path, which is what the command follows; each is judged, for which the command takes
no time at the levels below the one that is asked for.
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

import car
from car.batch.names import find_images
from car.codec.codec import Codec
from car.codec.effort import STEPS, refinements
from car.codec.options import Options
from car.measure.evaluate import find_dataset
from car.metrics import Channel, psnr
from car.models import quantize
from car.ops import bicubic_downscale
from car.pictures.read import read

PAGE = Path(__file__).parent.parent / "docs" / "research" / "effort.md"
SETS = ("Set5", "Set14", "BSDS100")
CHANNELS: tuple[Channel, ...] = ("luma", "rgb", "cb", "cr")


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255


@cache
def codec_of(model: str) -> Codec:
    torch.set_num_threads(1)
    return Codec(car.load(model), Options(device="cpu"))


def measured(model: str, path: Path) -> np.ndarray:
    """Return of each level the columns of the table: ``[levels, 7]``, decibels and seconds."""
    codec = codec_of(model)
    pixels = read(path).pixels
    pixels = np.ascontiguousarray(pixels[: pixels.shape[0] // 8 * 8, : pixels.shape[1] // 8 * 8])
    hr = tensor(pixels)
    bicubic = quantize(bicubic_downscale(hr, codec.scale))
    begin = time.process_time()
    small = codec.downscale_pixels(pixels)
    seconds = time.process_time() - begin
    refined = refinements(codec.loaded.rescaler, small, pixels, len(STEPS) - 1, torch.device("cpu"))

    def row() -> list[float]:
        restored = tensor(codec.upscale_pixels(small))
        quality = [psnr(restored, hr, border=codec.scale, on=on) for on in CHANNELS]
        near = [psnr(tensor(small), bicubic, on=on) for on in ("luma", "rgb")]
        return [*quality, *near, seconds / (pixels.shape[0] * pixels.shape[1] / 1e6)]

    rows = [row()]
    for _ in STEPS[1:]:
        begin = time.process_time()
        small = next(refined)
        seconds += time.process_time() - begin
        rows.append(row())
    return np.array(rows)


def cells(columns: np.ndarray) -> str:
    """Return the cell of a set."""
    luma, rgb, cb, cr, near_luma, near_rgb, seconds = columns
    quality = f"{luma:.2f} / {rgb:.2f} / {(cb + cr) / 2:.2f}"
    return f"{quality} | {near_luma:.1f} / {near_rgb:.1f} | {seconds:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", choices=["car_plus_x4"], metavar="model")
    parser.add_argument("--img-dir", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS, metavar="set")
    parser.add_argument("--images", type=int, default=0, help="of each set, evenly spread; 0 for all")
    options = parser.parse_args()
    files = {
        name: list(find_images([str(find_dataset(options.img_dir, name))]).names) for name in options.sets
    }
    most = options.images
    files = {
        name: [paths[n * len(paths) // most] for n in range(most)] if 0 < most < len(paths) else paths
        for name, paths in files.items()
    }
    for model in options.models:
        lines = [
            "| weights | set | effort | steps | luma / RGB / chroma, dB | small to bicubic, dB | CPU s/MP |",
            "|---" * 7 + "|",
        ]
        tag = car.load(model).tag
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            for name, paths in files.items():
                found = np.stack(list(pool.map(measured, repeat(model), paths)))
                title = f"{name} ({len(paths)})"
                for level, steps in enumerate(STEPS):
                    means = cells(found[:, level].mean(axis=0))
                    lines.append(f"| `{tag}` | {title} | {level} | {steps} | {means} |")
                    print(lines[-1], flush=True)
        begin, end = (
            f"<!-- effort of {model}: made by tools/measure_effort.py -->",
            f"<!-- end of effort of {model} -->",
        )
        head, rest = PAGE.read_text().split(begin)
        table = "\n".join(lines)
        PAGE.write_text(f"{head}{begin}\n{table}\n{end}{rest.split(end)[1]}")


if __name__ == "__main__":
    main()
