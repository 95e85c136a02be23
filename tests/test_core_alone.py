"""The command line without PyTorch, numba and imagecodecs, as `pip install` without extras leaves it."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

import car
from car.cli.commands import COMMANDS
from car.pictures.read import read
from car.pictures.write import write

# what extras bring
_EXTRAS = (
    "torch",
    "numba",
    "triton",
    "imagecodecs",
    "pydantic",
    "png",
    "matplotlib",
    "bjontegaard",
    "onnx",
    "fastapi",
    "s3fs",
    "gcsfs",
    "ray",
)
_SCRIPT = f"""
import contextlib, io, json, sys
for name in {_EXTRAS}:
    sys.modules[name] = None  # as if it were not installed
from car.cli.main import _main
for line in sys.stdin:
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["car", *json.loads(line)]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = _main()
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""

Result = tuple[int, str, str]


@pytest.fixture(scope="module")
def core() -> Any:
    """Runs commands, one after the other, in a process without PyTorch; gives code, output and errors."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def run(*arguments: object) -> Result:
        process.stdin.write(json.dumps(list(map(str, arguments))) + "\n")
        process.stdin.flush()
        code, out, err = json.loads(process.stdout.readline())
        return code, out, err

    yield run
    process.stdin.close()
    assert process.wait() == 0


@pytest.mark.parametrize(
    "model", ["car_plus_x2", "car_plus_x4", "car_plus_large_x4", "car_codec_x4", "car_lite_x2"]
)
def test_pictures_go_both_ways(core: Any, model: str, photo: Path, tmp_path: Path) -> None:
    small, large = tmp_path / "small.png", tmp_path / "large.png"
    assert core("downscale", photo, "-m", model, "-o", small)[0] == 0
    code, out, _ = core("info", small)
    assert code == 0
    assert model in out
    assert core("upscale", small, "-o", large)[0] == 0
    assert large.stat().st_size > small.stat().st_size


def test_measuring_and_sites(core: Any, photo: Path, tmp_path: Path) -> None:
    code, out, err = core("compare", photo, "-s", 4, "-o", tmp_path / "compared.png", "--json")
    assert code == 0, err
    assert json.loads(out)["model"]["psnr"] > json.loads(out)["bicubic"]["psnr"]
    code, out, err = core("evaluate", photo, "-s", 4, "--json")
    assert code == 0, err
    assert len(json.loads(out)["images"]) == 1
    code, out, err = core("models", "--json")
    assert code == 0, err
    assert "car_plus_large_x4" in out
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(photo.read_bytes())
    code, _, err = core("gallery", photos, "-o", tmp_path / "site")
    assert code == 0, err
    code, _, err = core("bulk", "downscale", photos, tmp_path / "small", "-s", 4, "--psnr")
    assert code == 0, err
    code, _, err = core("bulk", "upscale", tmp_path / "small", tmp_path / "large")
    assert code == 0, err


@pytest.mark.parametrize(
    ("extra", "arguments"),
    [
        ("torch", ("downscale", "PHOTO", "-s", 4, "--precision", "bf16")),
        ("torch", ("downscale", "PHOTO", "-s", 4, "--device", "cuda")),
        ("torch", ("downscale", "PHOTO", "-s", 4, "--effort", 1)),
        ("torch", ("downscale", "PHOTO", "-s", 4, "--backend", "torch")),
        ("torch", ("convert", "kgn.ckpt", "usn.ckpt", "-o", "OUT.safetensors")),
        ("torch", ("evaluate", "PHOTO", "--kgn", "kgn.ckpt", "--usn", "usn.ckpt")),
        ("train", ("train", "car_plus_x4", "--data", "PHOTO", "--dry-run")),
        ("train", ("inspect", "kernels", "PHOTO", "-m", "car_lite_x2", "-o", "OUT.png")),
        ("export", ("export", "onnx", "car_plus_x4", "-o", "OUT.onnx")),
        ("report", ("rate", "PHOTO", "-o", "OUT")),
        ("report", ("report", "--images", "PHOTO", "-o", "OUT.html")),
        ("serve", ("serve", "--port", 0)),
        ("bulk", ("bulk", "downscale", "s3://photos/a", "OUT", "-s", 4)),
        ("gcs", ("bulk", "downscale", "gs://photos/a", "OUT", "-s", 4)),
        ("ray", ("bulk", "downscale", "PHOTO", "OUT", "-s", 4, "--engine", "ray")),
    ],
)
def test_what_needs_an_extra_names_it(
    core: Any, extra: str, arguments: tuple[object, ...], photo: Path, tmp_path: Path
) -> None:
    filled = [str(a).replace("PHOTO", str(photo)).replace("OUT", str(tmp_path / "out")) for a in arguments]
    code, _, err = core(*filled)
    assert code == 2
    assert err.strip().endswith(f': pip install "content-adaptive-resampler[{extra}]"')
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "command",
    [
        *COMMANDS,
        *(f"bulk {kind}" for kind in ("downscale", "upscale", "evaluate")),
        "export onnx",
        "inspect kernels",
    ],
)
def test_every_help_is_there(core: Any, command: str) -> None:
    code, out, err = core(*command.split(), "--help")
    assert (code, err) == (0, "")
    assert f"car {command}" in " ".join(out.split())
    if command != "train":  # whose help comes from the recipes
        assert re.findall(r"(?i)(?<![-\w])images?\b", out) == []


_RGB = (
    np.random.default_rng(0).integers(0, 256, (40, 44, 3), np.uint8) // 2
    + np.arange(44, dtype=np.uint8)[:, None]
)
_DEEP = _RGB.astype(np.uint16) * 257


def _tiff(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, photometric="rgb" if array.ndim == 3 else "minisblack", **options)
    return buffer.getvalue()


def _fax() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_RGB).convert("1").save(buffer, "TIFF", compression="group4")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        _tiff(_RGB, compression="lzw"),
        _tiff(_DEEP, compression="lzw", predictor=True, byteorder=">"),
        _tiff(_DEEP, compression="lzw", tile=(16, 32)),
        _tiff((_DEEP / 65535).astype(np.float32)[:, :, 0], compression="lzw"),
        _tiff(np.moveaxis(_DEEP, 2, 0), compression="zlib", predictor=True, planarconfig="separate"),
        _tiff(_DEEP, compression="packbits"),
        _tiff(_RGB, compression="jpeg"),
        _fax(),
        bytes(imagecodecs.png_encode(_DEEP)),
        bytes(imagecodecs.png_encode(np.ascontiguousarray(_DEEP[:, :, :2]))),
    ],
    ids=["lzw", "deep-lzw", "tiles", "floats", "planes", "packbits", "jpeg", "fax", "png", "grey-alpha-png"],
)
def test_usual_files_are_read_as_with_all_decoders(core: Any, content: bytes, tmp_path: Path) -> None:
    source, small = tmp_path / "a", tmp_path / "small.png"
    source.write_bytes(content)
    code, _, err = core("downscale", source, "-s", 4, "-o", small)
    assert code == 0, err
    with_all = tmp_path / "all.png"
    codec = car.open("car_plus_x4")
    picture, info = codec.shrink(read(source))
    write(with_all, picture, info=info)
    alone, expected = read(small), read(with_all)
    assert alone.info == expected.info
    # of 16 bit, the last of 65,536 levels may depend on how many threads add up
    np.testing.assert_allclose(alone.pixels, expected.pixels, atol=1)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jxl", imagecodecs.jpegxl_encode(_RGB)),
        ("a.jp2", imagecodecs.jpeg2k_encode(_DEEP, level=0)),
        ("a.tif", _tiff(_RGB, compression="zstd")),
        ("b.tif", _tiff(_RGB, compression="jpeg2000")),
    ],
)
def test_what_needs_more_decoders_says_so(core: Any, name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    code, _, err = core("downscale", tmp_path / name, "-s", 4)
    assert code == 1
    assert 'pip install "content-adaptive-resampler[formats]"' in err
    assert len(err.splitlines()) == 1


def test_a_deep_avif_is_read_with_a_note(core: Any, tmp_path: Path) -> None:
    (tmp_path / "a.avif").write_bytes(imagecodecs.avif_encode(_DEEP >> 6, bitspersample=10))
    code, _, err = core("downscale", tmp_path / "a.avif", "-s", 4)
    assert code == 0
    assert "10 bit reduced to 8" in err


def test_next_to_nothing_is_imported() -> None:
    script = (
        "import sys; import car; from car.cli import main; "
        "print(*{'torch', 'numba', 'numpy', 'PIL', 'onnxruntime', 'rich.console', 'car.files.storage'}"
        " & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_showing_metadata_starts_no_runtime(photo: Path) -> None:
    script = (
        f"import sys; sys.argv = ['car', 'info', {str(photo)!r}]; from car.cli.main import _main; _main(); "
        "print(*{'torch', 'numpy', 'onnxruntime', 'fsspec', 'tifffile', 'rich.console', 'car.files.storage'}"
        " & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


def test_restoring_a_file_imports_what_it_needs(photo: Path, tmp_path: Path) -> None:
    car.downscale(photo, 2).save(tmp_path / "small.png")
    script = (
        f"import sys; sys.argv = ['car', 'upscale', {str(tmp_path / 'small.png')!r}]; "
        "from car.cli.main import _main; assert _main() == 0; "
        "print(*{'torch', 'fsspec', 'tifffile', 'rich.console', 'PIL.ImageCms'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


def test_help_of_commands_is_their_own() -> None:
    """What `car --help` shows of a command is the first line of its own help."""
    import importlib

    import typer

    from car.cli.common import app

    for module, _ in COMMANDS.values():
        importlib.import_module(f"car.cli.{module}")
    real = {info.name: (info.callback.__doc__ or "") for info in app.registered_commands}
    real |= {group.name: group.typer_instance.info.help for group in app.registered_groups}
    assert set(real) == set(COMMANDS)
    for name, (_, text) in COMMANDS.items():
        assert " ".join(real[name].split()).startswith(" ".join(text.split())), (
            f"{name}: change car.cli.commands"
        )
    assert list(typer.main.get_command(app).commands) == list(COMMANDS)
