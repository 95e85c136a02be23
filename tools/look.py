"""Draw what small pictures and restored ones look like where it is hard: text, line art, texture, grey.

    python tools/look.py car_plus_x4 --img-dir datasets -o docs/images/look_x4.webp

A row for each crop: the original, the bicubic small picture and ours (each pixel as a square), and what is
restored of either: by bicubic interpolation and by the model. Below is its PSNR on RGB: of small pictures to
the bicubic ones, of restored ones to the original.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from car.metrics import psnr
from car.models import quantize
from car.ops import bicubic_downscale, bicubic_resize
from car.weights import load

# what, file below the data folder, left and top of a crop
CROPS = (
    ("text", "Set14/ppt3.png", 250, 110),
    ("line art", "Set14/comic.png", 60, 110),
    ("face", "Set14/face.png", 40, 60),
    ("smooth", "Set14/foreman.png", 200, 10),
    ("texture", "Set14/barbara.png", 500, 330),
    ("grey", "Set14/bridge.png", 180, 200),
)
SIDE, GAP, LINE = 192, 8, 16


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def picture(x: torch.Tensor) -> Image.Image:
    pixels = Image.fromarray((x[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())
    return pixels.resize((SIDE, SIDE), Image.Resampling.NEAREST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--img-dir", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    rescaler = load(options.model).rescaler
    scale = rescaler.geometry.scale
    columns = ("original", "bicubic, small", "ours, small", "bicubic, restored", "ours, restored")
    step = (SIDE + GAP, SIDE + GAP + LINE)
    canvas = Image.new("RGB", (GAP + len(columns) * step[0], LINE + GAP + len(CROPS) * step[1]), "white")
    pen = ImageDraw.Draw(canvas)
    for row, (what, name, left, top) in enumerate(CROPS):
        with Image.open(options.img_dir / name) as image:
            hr = tensor(image.convert("RGB").crop((left, top, left + SIDE, top + SIDE)))
        with torch.inference_mode():
            bicubic = quantize(bicubic_downscale(hr, scale))
            ours = quantize(rescaler.downscale(hr))
            enlarged = quantize(bicubic_resize(bicubic, (SIDE, SIDE)))
            restored = quantize(rescaler.upscale(ours))
        shown = (hr, bicubic, ours, enlarged, restored)
        against = (None, None, bicubic, hr, hr)
        for column, (title, x, reference) in enumerate(zip(columns, shown, against, strict=True)):
            at = GAP + column * step[0], LINE + GAP + row * step[1]
            canvas.paste(picture(x), at)
            told = what if reference is None and column == 0 else ""
            if reference is not None:
                told = f"{psnr(x, reference, on='rgb'):.1f} dB"
            pen.text((at[0], at[1] + SIDE + 2), told, fill="black")
            if row == 0:
                pen.text((at[0], GAP // 2), title, fill="black")
    canvas.save(options.output, quality=88, method=6)


if __name__ == "__main__":
    main()
