"""Try an installed `car` as a user would, with nothing but what its installation brought.

    python tests/installed.py          # shrinks, restores, compares, makes a gallery, works through a folder
    python tests/installed.py serve    # the same, and uses the named extras: serve, formats

It needs no pytest and no other file of the repository, so that it can run in a bare virtual environment.
"""

import io
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

import car

CAR = (sys.executable, "-m", "car")
REPOSITORY = Path(__file__).resolve().parent.parent


def run(*arguments: object) -> str:
    """Run a command of `car` that must succeed, and return what it printed."""
    done = subprocess.run([*CAR, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, (arguments, done.stderr)
    return done.stdout


def photograph(path: Path) -> None:
    """Write a picture with edges and smooth areas."""
    y, x = np.mgrid[0:150, 0:203]
    planes = [128 + 90 * np.sin(x / 9 + y / 31), 2.0 * y % 256, 200.0 * (x + y > 170)]
    Image.fromarray(np.stack(planes, 2).clip(0, 255).astype(np.uint8)).save(path)


def try_pictures(folder: Path) -> None:
    """Shrink and restore: commands, library, lossless and lossy, several scales, 8 and 16 bit."""
    photo = folder / "photo.png"
    photograph(photo)
    lossy = ("--size", 60, "--format", "jpg")
    for arguments in (("--scale", 4), ("--scale", 2), ("--scale", 2.5, "--format", "webp"), lossy):
        run("downscale", photo, *arguments, "-o", f"{folder / 'small'}/")
        (made,) = (folder / "small").iterdir()
        run("upscale", made, "-o", folder / "large.png", "--overwrite")
        with Image.open(folder / "large.png") as large:
            assert large.size == (203, 150), (arguments, large.size)
        made.unlink()
    deep = np.tile(np.arange(0, 65536, 512, np.uint16)[:, None, None], (1, 96, 3))
    small = car.downscale(deep, scale=4)
    assert small.dtype == np.uint16
    assert small.shape == (32, 24, 3)
    assert abs(car.upscale(small, scale=4).astype(int) - deep).mean() < 300


def try_commands(folder: Path) -> None:
    """What measures, lists and makes sites."""
    photo = folder / "photo.png"
    compared = json.loads(run("compare", photo, "--scale", 4, "-o", folder / "compared.png", "--json"))
    assert compared["model"]["psnr"] > compared["bicubic"]["psnr"]
    assert "car_plus_x4" in run("models", "--json")
    assert car.__version__ == version("content-adaptive-resampler")
    assert car.__version__ in run("--version")
    photos = folder / "photos"
    photos.mkdir()
    photo.rename(photos / "photo.png")
    run("gallery", photos, "-o", folder / "site")
    assert (folder / "site" / "index.html").exists()
    assert list((folder / "site" / "viewer" / "models").glob("*.safetensors"))
    run("bulk", "downscale", photos, folder / "bulk", "--scale", 4)
    run("bulk", "upscale", folder / "bulk", folder / "back")
    assert list((folder / "back").glob("*.png"))


def try_serve(folder: Path) -> None:
    """Shrink over HTTP."""
    service = subprocess.Popen([*CAR, "serve", "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert service.stdout
        address = service.stdout.readline().split()[-1]
        content = (folder / "photos" / "photo.png").read_bytes()
        with urllib.request.urlopen(f"{address}/v1/downscale?scale=4", data=content) as answer:
            assert Image.open(io.BytesIO(answer.read())).size == (51, 38)
        with urllib.request.urlopen(f"{address}/openapi.json") as answer:
            assert json.load(answer)["info"]["version"] == car.__version__
    finally:
        service.terminate()
        assert service.wait(60) == 0


def try_formats(folder: Path) -> None:
    """Read JPEG XL."""
    import imagecodecs

    content = imagecodecs.jpegxl_encode(np.asarray(Image.open(folder / "photos" / "photo.png")))
    (folder / "photo.jxl").write_bytes(content)
    run("downscale", folder / "photo.jxl", "--scale", 4, "-o", folder / "jxl.png")


def main(*extras: str) -> None:
    """Try everything in a folder of its own."""
    assert REPOSITORY / "src" not in Path(car.__file__).resolve().parents, (
        "this is the checkout, not an installation"
    )
    with tempfile.TemporaryDirectory() as name:
        os.environ["CAR_CACHE"] = str(Path(name) / "cache")
        try_pictures(Path(name))
        try_commands(Path(name))
        for extra in extras:
            {"serve": try_serve, "formats": try_formats}[extra](Path(name))
    print(f"car {car.__version__} works on Python {sys.version.split()[0]}", *extras)


if __name__ == "__main__":
    main(*sys.argv[1:])
