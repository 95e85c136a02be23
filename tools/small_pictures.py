"""Small pictures of many kinds: those that `car` makes, and ordinary thumbnails; see fit_origin.py."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from car.batch.names import find_images
from car.codec.codec import Codec

Size = tuple[int, int]
Thumbnail = Callable[[Generator, Image.Image, Size], Image.Image]
"""Shrinks a picture to a size (width, height)."""
Own = Callable[[Generator, Codec, Image.Image], Image.Image]
"""Shrinks a picture by a codec."""

RESAMPLING = Image.Resampling


def _saved(picture: Image.Image, kind: str, **how: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, kind, **how)
    return Image.open(file).convert("RGB")


def lossy(random: Generator, picture: Image.Image, least: int, most: int) -> Image.Image:
    """Return a picture after a lossy file of a quality from `least` to `most`: JPEG or WebP."""
    quality = int(random.integers(least, most + 1))
    if random.random() < 0.35:
        return _saved(picture, "WEBP", quality=quality)
    return _saved(picture, "JPEG", quality=quality, subsampling=int(random.choice([0, 2])))


def _of_jpeg(random: Generator, picture: Image.Image) -> Image.Image:
    return _saved(picture, "JPEG", quality=int(random.integers(60, 94)), subsampling=2)


def _grey(picture: Image.Image) -> Image.Image:
    return picture.convert("L").convert("RGB")


def _sharpened(random: Generator, picture: Image.Image) -> Image.Image:
    radius, percent, threshold = random.uniform(0.4, 1.6), random.integers(20, 160), random.integers(3)
    return picture.filter(ImageFilter.UnsharpMask(radius, int(percent), int(threshold)))


def _noisy(random: Generator, picture: Image.Image) -> Image.Image:
    values = np.asarray(picture, np.float32)
    values = values + random.normal(0, random.uniform(0, 6), (*values.shape[:2], 1))
    return _image(values + random.normal(0, random.uniform(0, 5), values.shape))


def _image(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _cubic_matrix(before: int, after: int, b: float, c: float, *, widened: bool) -> np.ndarray:
    """Return ``[after, before]``: the cubic filter of Mitchell and Netravali, along one axis."""
    step, margin = before / after, 3 * (before // after + 1)
    places = np.arange(-margin, before + margin)
    x = np.abs(((np.arange(after) + 0.5) * step - 0.5)[:, None] - places) / (step if widened else 1)
    near = (12 - 9 * b - 6 * c) * x**3 + (-18 + 12 * b + 6 * c) * x**2 + 6 - 2 * b
    far = (-b - 6 * c) * x**3 + (6 * b + 30 * c) * x**2 + (-12 * b - 48 * c) * x + 8 * b + 24 * c
    taps = np.where(x < 1, near, np.where(x < 2, far, 0))
    matrix = np.zeros((after, before))
    for place, column in zip(places, (taps / taps.sum(1, keepdims=True)).T, strict=True):
        matrix[:, min(max(place, 0), before - 1)] += column
    return matrix


def _cubic(b: float, c: float, *, widened: bool = True) -> Thumbnail:
    def shrink(random: Generator, picture: Image.Image, size: Size) -> Image.Image:
        rows, columns = (
            _cubic_matrix(n, m, b, c, widened=widened)
            for n, m in ((picture.height, size[1]), (picture.width, size[0]))
        )
        return _image(np.stack([rows @ np.asarray(band, float) @ columns.T for band in picture.split()], 2))

    return shrink


def _filter(name: str) -> Thumbnail:
    return lambda random, picture, size: picture.resize(size, RESAMPLING[name])


FILTERS: dict[str, Thumbnail] = {
    "Lanczos": _filter("LANCZOS"),
    "bicubic": _filter("BICUBIC"),
    "area": _filter("BOX"),
    "Hamming": _filter("HAMMING"),
    "bilinear": _filter("BILINEAR"),
    "Mitchell": _cubic(1 / 3, 1 / 3),
    "bicubic, sharper (a = -3/4)": _cubic(0, 0.75),
    "bicubic without antialiasing": _cubic(0, 0.75, widened=False),
}


def _any(random: Generator, picture: Image.Image, size: Size) -> Image.Image:
    """Shrink by any filter, and sharpen some results."""
    small = list(FILTERS.values())[random.integers(len(FILTERS))](random, picture, size)
    return _sharpened(random, small) if random.random() < 0.4 else small


def _linear_light(random: Generator, picture: Image.Image, size: Size) -> Image.Image:
    values = np.asarray(picture, np.float32) / 255
    light = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    how = RESAMPLING[str(random.choice(["LANCZOS", "BICUBIC", "BOX", "HAMMING"]))]
    bands = [Image.fromarray(light[:, :, i].astype(np.float32)).resize(size, how) for i in range(3)]
    light = np.clip(np.stack([np.asarray(band) for band in bands], 2), 0, 1)
    return _image(255 * np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055))


def _two_steps(random: Generator, picture: Image.Image, size: Size) -> Image.Image:
    how = RESAMPLING[str(random.choice(["BOX", "BICUBIC", "BILINEAR"]))]
    return _any(random, picture.resize((picture.width * 2 // 3, picture.height * 2 // 3), how), size)


def _not_shrunk(random: Generator, picture: Image.Image, size: Size) -> Image.Image:
    left, top = (int(random.integers(n - m + 1)) for n, m in zip(picture.size, size, strict=True))
    return picture.crop((left, top, left + size[0], top + size[1]))


def _another_factor(random: Generator, picture: Image.Image, size: Size) -> Image.Image:
    share = random.uniform(1.2 * size[0] / picture.width, 1)
    return _any(random, picture.crop((0, 0, int(picture.width * share), int(picture.height * share))), size)


THUMBNAILS: dict[str, Thumbnail] = FILTERS | {
    "sharpened": lambda random, picture, size: _sharpened(random, _any(random, picture, size)),
    "in linear light": _linear_light,
    "in two steps": _two_steps,
    "by another factor": _another_factor,
    "not shrunk": _not_shrunk,
    "of a JPEG (4:2:0)": lambda random, picture, size: _any(random, _of_jpeg(random, picture), size),
    "with noise": lambda random, picture, size: _noisy(random, _any(random, picture, size)),
    "grey": lambda random, picture, size: _grey(_any(random, picture, size)),
    "after JPEG or WebP, 75 to 95": lambda random, picture, size: lossy(
        random, _any(random, picture, size), 75, 95
    ),
}


def _made(codec: Codec, picture: Image.Image) -> Image.Image:
    return Image.fromarray(codec.downscale_pixels(np.asarray(picture)))


def _between(random: Generator, codec: Codec, picture: Image.Image) -> Image.Image:
    """Shrink a picture that was resampled before, as at a scale that no model has."""
    native, share = codec.native, random.uniform(0.8, 1.25)
    if share > 1:
        picture = picture.crop((0, 0, int(picture.width / share), int(picture.height / share)))
    width, height = (round(n * share) // native * native for n in picture.size)
    return _made(codec, picture.resize((width, height), RESAMPLING.BICUBIC))


OWN: dict[str, Own] = {
    "as it is": lambda random, codec, picture: _made(codec, picture),
    "of a grey photograph": lambda random, codec, picture: _made(codec, _grey(picture)),
    "of a JPEG": lambda random, codec, picture: _made(codec, _of_jpeg(random, picture)),
    "at a scale in between": _between,
}
LOSSY_OWN = {"after JPEG or WebP, 95 to 98": (95, 98), "after JPEG or WebP, 85 to 94": (85, 94)}
"""Kinds of own pictures after lossy files of these qualities."""


def _colour(random: Generator) -> Size | tuple[int, ...]:
    grey = random.random() < 0.4
    return tuple(int(value) for value in (random.integers(0, 256, 1 if grey else 3).repeat(3 if grey else 1)))


def _words(random: Generator, count: int) -> str:
    letters = [*" " * 12, *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", *"abcdefghijklmnopqrstuvwxyz" * 3]
    return "".join(random.choice(letters, count))


def drawing(random: Generator, side: int) -> Image.Image:
    """Return a drawing of shapes and lines, a page of text, or a screen with windows."""
    ground = random.integers(200, 256, 3) if random.random() < 0.7 else random.integers(0, 70, 3)
    kind = random.choice(["shapes", "text", "windows"])
    large = 2 * side if kind == "shapes" else side
    picture = Image.new("RGB", (large, large), tuple(int(value) for value in ground))
    draw = ImageDraw.Draw(picture)
    if kind == "shapes":
        for _ in range(int(random.integers(15, 60))):
            left, top, width, height = (int(n) for n in random.integers(2, large, 4))
            box, thick = (left, top, left + width // 3, top + height // 3), int(random.integers(1, 10))
            fill = _colour(random) if random.random() < 0.5 else None
            shape = random.choice([draw.ellipse, draw.rectangle])
            shape(box, fill=fill, outline=_colour(random), width=thick)
            ends = [(int(x), int(y)) for x, y in random.integers(0, large, (3, 2))]
            draw.line(ends, fill=_colour(random), width=thick)
        return picture.resize((side, side), RESAMPLING.BOX)
    if kind == "windows":
        for _ in range(int(random.integers(2, 6))):
            left, top, width, height = (int(n) for n in random.integers(side // 6, side, 4))
            left, top = left - side // 6, top - side // 6
            draw.rectangle((left, top, left + width, top + height), _colour(random), _colour(random))
            for line in range(top + 10, top + height, int(random.integers(14, 28))):
                font = ImageFont.load_default(int(random.integers(9, 16)))
                draw.text((left + 6, line), _words(random, width // 8), _colour(random), font)
        return picture
    line, ink = 4, _colour(random)
    while line < side:
        size = int(random.integers(9, 30))
        draw.text((8, line), _words(random, side // 4), ink, ImageFont.load_default(size))
        line += int(1.4 * size)
    return picture


def photographs(folders: Sequence[str]) -> list[Path]:
    """Return the pictures in folders, one of each photograph.

    A table ``sources.csv`` beside them may name the photograph (``repository``, ``path``) of each ``file``.
    """
    found: dict[object, Path] = {}
    sources: dict[Path, tuple[str, str]] = {}
    for path in map(Path, find_images(folders).names):
        table = path.with_name("sources.csv")
        if table.exists() and path not in sources:
            with table.open(encoding="utf-8") as lines:
                for row in csv.DictReader(lines):
                    sources[path.with_name(row["file"])] = (row["repository"], row["path"])
        found.setdefault(sources.get(path, path), path)
    return list(found.values())
