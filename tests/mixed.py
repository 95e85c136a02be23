"""A folder of pictures of kinds mixed at random, through `car bulk`: every fault is one recorded line.

    python tests/mixed.py --count 1000 --seed 1

Formats, depths, alpha, profiles, orientations and damage are drawn for each. What a reader refuses must be
listed as failed with one line that names the file, everything else done, and nothing half-written. Prints the
figures; leaves with 1 where one is wrong.
"""

import argparse
import io
import json
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, ImageCms

DAMAGE = 0.15  # of the files


def mixed(seed: int, number: int) -> tuple[str, bytes]:
    """Return the name and the content of a picture."""
    rng = np.random.default_rng((seed, number))
    height, width = (int(n) for n in rng.choice([1, 2, 3, 7, 16, 30, 61, 90], 2))
    kind = str(rng.choice(list(KINDS)))
    content = KINDS[kind](rng, height, width)
    if rng.random() < DAMAGE:
        content = _damaged(content, rng)
        kind = f"damaged-{kind}"
    name, _, suffix = kind.rpartition(".")
    return f"{number % 7}/{number:05d}-{name}.{suffix}", content


def _samples(rng: np.random.Generator, shape: tuple[int, int], channels: int, dtype: str) -> np.ndarray:
    most = np.iinfo(dtype).max
    coarse = rng.integers(0, 256, (4, 4, channels), dtype=np.uint8)
    planes = [
        np.asarray(Image.fromarray(coarse[:, :, n]).resize(shape[::-1], Image.Resampling.BICUBIC))
        for n in range(channels)
    ]
    array = (np.stack(planes, axis=2).astype(np.float64) / 255 * most).astype(dtype)
    return array[:, :, 0] if channels == 1 else array


def _by_pillow(kind: str, modes: tuple[str, ...], **options: object) -> Any:
    def make(rng: np.random.Generator, height: int, width: int) -> bytes:
        image = Image.fromarray(_samples(rng, (height, width), 4, "uint8"))
        mode = str(rng.choice(modes))
        image = (image if mode == "RGBA" else image.convert("RGB")).convert(mode)
        more: dict[str, Any] = dict(options)
        if rng.random() < 0.3 and kind in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF"):
            exif = Image.Exif()
            exif[274] = int(rng.integers(0, 10))
            more["exif"] = exif
        if rng.random() < 0.3 and mode in ("RGB", "RGBA", "L") and kind not in ("BMP", "GIF"):
            space = str(rng.choice(["sRGB", "LAB"]))  # one that fits, and one that does not
            more["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()
        buffer = io.BytesIO()
        image.save(buffer, kind, **more)
        return buffer.getvalue()

    return make


def _tiff(rng: np.random.Generator, height: int, width: int) -> bytes:
    channels = int(rng.choice([1, 2, 3, 4]))
    dtype = str(rng.choice(["uint8", "uint16", "float32", "float16", "int16", "uint32"]))
    array = _samples(rng, (height, width), channels, "uint16")
    if dtype.startswith("float"):
        array = (array / 65535).astype(dtype)
    elif dtype == "uint8":
        array = (array >> 8).astype(np.uint8)
    else:
        array = (array >> (dtype == "int16")).astype(dtype)
    options: dict[str, Any] = {"photometric": "rgb" if channels > 2 else "minisblack"}
    if channels in (2, 4):
        options["extrasamples"] = [str(rng.choice(["unassalpha", "assocalpha", "unspecified"]))]
    if channels > 1 and rng.random() < 0.3:
        array, options["planarconfig"] = np.ascontiguousarray(np.moveaxis(array, 2, 0)), "separate"
    if rng.random() < 0.5:
        options["compression"] = str(rng.choice(["zlib", "lzw", "zstd", "packbits"]))
    if rng.random() < 0.5:
        options["rowsperstrip"] = int(rng.integers(1, 20))
    if rng.random() < 0.3:
        options["extratags"] = [(274, 3, 1, int(rng.integers(0, 10)), True)]
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer, array, bigtiff=bool(rng.random() < 0.2), byteorder="<>"[rng.integers(2)], **options
    )
    return buffer.getvalue()


def _encoded(encode: Any, dtypes: tuple[str, ...], channels: tuple[int, ...], **options: object) -> Any:
    def make(rng: np.random.Generator, height: int, width: int) -> bytes:
        count, dtype = int(rng.choice(channels)), str(rng.choice(dtypes))
        return bytes(encode(_samples(rng, (height, width), count, dtype), **options))

    return make


def _damaged(content: bytes, rng: np.random.Generator) -> bytes:
    how, at = rng.integers(4), int(rng.integers(len(content)))
    if how == 0:
        return content[:at]
    if how == 1:
        return content[:at] + rng.bytes(8) + content[at + 8 :]
    if how == 2:
        return content[:at] + struct.pack("<I", 2**31 - 1) + content[at + 4 :]
    return content[:at] + rng.bytes(200) + content[at:]


KINDS: dict[str, Any] = {
    "plain.png": _by_pillow("PNG", ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    "deep.png": _encoded(imagecodecs.png_encode, ("uint16",), (1, 2, 3, 4)),
    "plain.jpg": _by_pillow("JPEG", ("L", "RGB", "CMYK"), quality=90),
    "progressive.jpeg": _by_pillow("JPEG", ("RGB",), progressive=True),
    "lossy.webp": _by_pillow("WEBP", ("RGB", "RGBA")),
    "lossless.webp": _by_pillow("WEBP", ("RGB", "RGBA"), lossless=True),
    "plain.avif": _by_pillow("AVIF", ("RGB", "RGBA")),
    "plain.gif": _by_pillow("GIF", ("L", "P", "RGBA")),
    "plain.bmp": _by_pillow("BMP", ("1", "L", "P", "RGB", "RGBA")),
    "pillow.tif": _by_pillow("TIFF", ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16", "F")),
    "tifffile.tiff": _tiff,
    "plain.jp2": _encoded(imagecodecs.jpeg2k_encode, ("uint8", "uint16"), (1, 3, 4), level=0),
    "plain.jxl": _encoded(imagecodecs.jpegxl_encode, ("uint8", "uint16"), (1, 2, 3, 4), lossless=True),
}


def _check(folder: Path, small: Path, run: "subprocess.CompletedProcess[str]") -> list[str]:
    """Return what is wrong with a run."""
    from car.pictures.read import read

    manifest = sorted((small / "_manifest").glob("*.jsonl"))
    records = [json.loads(line) for path in manifest for line in path.read_text().splitlines()]
    wrong = [f"the run left with {run.returncode}"] if run.returncode not in (0, 1) else []
    wrong += ["a traceback"] if "Traceback" in run.stderr + run.stdout else []
    sources = {str(path.relative_to(folder)) for path in folder.rglob("*.*")}
    recorded = Counter(record["source"] for record in records)
    wrong += [f"{name}: recorded {recorded[name]} times" for name in sources if recorded[name] != 1]
    print(Counter(record["status"] for record in records))
    for record in records:
        if record["status"] == "failed":
            text = record["error"]
            print(record["source"], "|", text)
            if "\n" in text or not text:
                wrong.append(f"{record['source']}: its fault is no line: {text!r}")
        elif read(small / record["target"]).info is None:
            wrong.append(f"{record['target']}: no small picture")
    made = {str(path.relative_to(small)) for path in small.rglob("*.png")}
    told = {record.get("target") for record in records if record["status"] != "failed"}
    return wrong + [f"{name}: no one asked for it" for name in made - told]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, small = Path(place, "mixed"), Path(place, "small")
        for number in range(options.count):
            name, content = mixed(options.seed, number)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        line = [sys.executable, "-m", "car", "bulk", "downscale", str(folder), str(small), "--scale", "2"]
        run = subprocess.run(line, capture_output=True, text=True)
        wrong = _check(folder, small, run)
    print("\n".join(wrong) or f"{options.count} pictures, nothing wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
