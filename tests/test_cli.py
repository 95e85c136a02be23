"""The command line: results, exit codes, one-line errors, and nothing damaged on failure."""

import errno
import functools
import hashlib
import importlib
import io
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import car
from car.batch import names
from car.batch.names import Job, Naming, check_target, plan
from car.cli import common
from car.codec.codec import Codec
from car.codec.watching import Work
from car.errors import ImageError, UsageError
from car.measure import evaluate as evaluation
from car.models import create
from car.pictures.info import read_header
from car.pictures.read import read
from car.weights import list_models
from commandline import run_car as run
from processes import LIMIT, start_car, wait_until


def fails(code: int, message: str, *arguments: object, cwd: Path | None = None) -> None:
    done = run(*arguments, cwd=cwd)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_shrink_and_restore_a_file(tmp_path: Path, photo: Path) -> None:
    source = tmp_path / "photo.png"
    Image.open(photo).crop((0, 0, 101, 75)).save(source)
    # once as anyone starts it
    subprocess.run([sys.executable, "-m", "car", "downscale", source, "--scale", "4"], check=True)
    small = tmp_path / "photo.x4.png"
    assert Image.open(small).size == (26, 19)
    assert run("upscale", small).returncode == 0
    assert Image.open(tmp_path / "photo.restored.png").size == (101, 75)

    shown = json.loads(run("info", small, "--json").stdout)
    assert (shown["size"], shown["bits"], shown["made"]["size"]) == ([26, 19], 8, [101, 75])
    # the small file as any other tool would rewrite it, without its metadata
    bare = tmp_path / "bare.png"
    Image.fromarray(np.asarray(Image.open(small))).save(bare)
    fails(2, "does not say which model", "upscale", bare)
    assert run("upscale", bare, "--model", "car_plus_x4", "-o", tmp_path / "b.png").returncode == 0
    assert Image.open(tmp_path / "b.png").size == (104, 76)
    named = ("--model", "car_plus_x4", "--size", "101x75")
    assert run("upscale", bare, *named, "-o", tmp_path / "c.png").returncode == 0
    assert (read(tmp_path / "c.png").pixels == read(tmp_path / "photo.restored.png").pixels).all()


@pytest.fixture
def folder(tmp_path: Path, photo: Path) -> Path:
    """A tree of pictures with two bad ones."""
    tree = tmp_path / "photos"
    (tree / "trip").mkdir(parents=True)
    picture = Image.open(photo)
    picture.crop((0, 0, 50, 30)).save(tree / "a.png")
    picture.crop((0, 0, 31, 64)).save(tree / "trip" / "b.jpg", quality=95)
    picture.crop((0, 0, 9, 9)).convert("L").save(tree / "trip" / "c.webp", lossless=True)
    content = (tree / "a.png").read_bytes()
    (tree / "cut.png").write_bytes(content[: len(content) // 2])
    (tree / "empty.png").write_bytes(b"")
    (tree / "notes.txt").write_text("not a picture")
    return tree


def test_folders_keep_their_tree_and_finish_despite_bad_files(folder: Path, tmp_path: Path) -> None:
    before = digest(folder)
    done = run("downscale", folder, "-o", tmp_path / "small", "--scale", 2, "--json")
    assert done.returncode == 1
    result = json.loads(done.stdout)
    assert len(result["results"]) == 3
    assert {Path(f["source"]).name for f in result["failures"]} == {"cut.png", "empty.png"}
    assert "2 of 5 pictures failed" in done.stderr
    assert "Traceback" not in done.stderr
    small = set(digest(tmp_path / "small"))
    assert small == {"a.x2.png", "trip/b.x2.png", "trip/c.x2.png"}
    assert digest(folder) == before

    again = json.loads(run("downscale", folder, "-o", tmp_path / "small", "--scale", 2, "--json").stdout)
    assert [r.get("skipped") for r in again["results"]] == ["exists"] * 3

    done = run("upscale", tmp_path / "small", "-o", tmp_path / "large")
    assert done.returncode == 0, done.stderr
    sizes = {name: Image.open(tmp_path / "large" / name).size for name in digest(tmp_path / "large")}
    assert sizes == {"a.png": (50, 30), "trip/b.png": (31, 64), "trip/c.png": (9, 9)}

    done = run("downscale", tmp_path / "photos" / "**" / "?.*", "-o", tmp_path / "globbed", "--scale", 2)
    assert done.returncode == 0, done.stderr
    assert len(digest(tmp_path / "globbed")) == 3


def test_repeating_a_run_beside_the_sources_changes_nothing(folder: Path) -> None:
    for bad in ("cut.png", "empty.png"):
        (folder / bad).unlink()
    assert run("downscale", folder, "-s", 4).returncode == 0
    first = digest(folder)
    assert {"a.x4.png", "trip/b.x4.png", "trip/c.x4.png"} <= set(first)
    done = run("downscale", folder, "-s", 4)
    assert done.returncode == 0, done.stderr
    assert "3 skipped" in done.stdout
    assert digest(folder) == first


def test_a_folder_is_shrunk_and_later_restored_in_place(folder: Path) -> None:
    for bad in ("cut.png", "empty.png"):
        (folder / bad).unlink()
    originals = digest(folder)
    assert run("downscale", folder, "-s", 4).returncode == 0
    fails(2, "x.png: no such file", "upscale", folder / "x.png")
    for option in ((), ("--scale", 4), ("--model", "car_plus_x4")):
        done = run("upscale", folder, "--json", "--overwrite", *option)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        restored = {Path(r["target"]).relative_to(folder).as_posix() for r in told["results"]}
        assert restored == {"a.restored.png", "trip/b.restored.png", "trip/c.restored.png"}
        assert told["left_out"]["pictures without metadata of car"] in (3, 6)
    assert Image.open(folder / "trip" / "b.restored.png").size == (31, 64)
    # nothing that was made is a source, at any scale
    for scale in (4, 2):
        done = run("downscale", folder, "-s", scale)
        assert done.returncode == 0, done.stderr
        assert "left out: 3 restored pictures, 3 small pictures" in done.stdout
    assert {"a.x2.png", "a.x4.png"} <= set(digest(folder))
    assert not [name for name in digest(folder) if "restored.x" in name or "x4.x" in name]
    assert digest(folder).items() >= originals.items()
    # as a shell hands them over
    (folder / "a.x2.png").unlink()
    done = run("upscale", *folder.glob("*.png"), "-o", folder / "out")
    assert done.returncode == 0, done.stderr
    assert "left out: 2 pictures without metadata of car" in done.stdout
    fails(
        2,
        "no pictures to restore here; left out: 1 picture without metadata",
        "upscale",
        folder / "trip" / "*.jpg",
    )
    # one that is named alone is used
    assert run("downscale", folder / "a.x4.png", "-s", 2, "-o", folder / "smaller.png").returncode == 0


def test_one_file_cannot_hold_several_pictures(folder: Path, tmp_path: Path) -> None:
    for inputs in ((folder / "a.png", folder / "trip" / "b.jpg"), (folder,)):
        fails(
            2, "q4.png is the name of one picture", "downscale", *inputs, "-s", 4, "-o", tmp_path / "q4.png"
        )
    assert not (tmp_path / "q4.png").exists()


def test_without_a_scale_pictures_shrink_by_4_and_the_command_says_so(folder: Path, tmp_path: Path) -> None:
    said = "no scale was named, so it is 4"
    for arguments, target in (
        (("downscale", folder / "trip" / "b.jpg", "-o", tmp_path / "one"), tmp_path / "one" / "b.x4.png"),
        (("bulk", "downscale", folder / "trip", tmp_path / "many"), tmp_path / "many" / "b.x4.png"),
        (("gallery", folder / "trip", "-o", tmp_path / "site"), tmp_path / "site" / "pictures" / "b.x4.png"),
    ):
        done = run(*arguments)
        assert done.returncode == 0, done.stderr
        assert said in done.stderr
        info = read(target).info
        assert info is not None
        assert (info.model, info.scale) == ("car_plus_x4", 4)
    for more in (("-s", 2), ("--size", 16), ("-m", "car_plus_x2"), ("--quiet",)):
        assert (
            said
            not in run("downscale", folder / "trip" / "b.jpg", "-o", tmp_path / f"{more[0]}/", *more).stderr
        )


def test_pictures_that_differ_by_their_suffix_can_go_together(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    for name, colour in (("a.jpg", "red"), ("a.png", "blue"), ("a.jpg copy.png", "green")):
        Image.new("RGB", (40, 32), colour).save(source / name)
    for arguments in (
        ("downscale", source, "-o", tmp_path / "without"),
        ("bulk", "downscale", source, tmp_path / "in bulk"),
        ("gallery", source, "-o", tmp_path / "site"),
    ):
        done = run(*arguments)
        assert done.returncode == 1
        assert "as that of" in done.stderr
        assert "--keep-extension keeps them apart" in done.stderr
    expected = {"a.jpg.x4.png", "a.png.x4.png", "a.jpg copy.png.x4.png"}
    for arguments, out in (
        (("downscale", source, "-o", tmp_path / "one"), tmp_path / "one"),
        (("bulk", "downscale", source, tmp_path / "many"), tmp_path / "many"),
        (("gallery", source, "-o", tmp_path / "kept"), tmp_path / "kept" / "pictures"),
    ):
        for _ in range(2):  # and they are known again
            done = run(*arguments, "--keep-extension")
            assert done.returncode == 0, done.stderr
            assert {path.name for path in out.glob("*.png")} == expected


@pytest.mark.parametrize("command", [("downscale",), ("bulk", "downscale")])
def test_a_folder_with_kept_suffixes_serves_both_ways(command: tuple[str, ...], tmp_path: Path) -> None:
    """Results beside their sources are neither shrunk nor restored again."""
    for name, colour in (("a.jpg", "red"), ("a.png", "blue")):
        Image.new("RGB", (40, 32), colour).save(tmp_path / name)
    place = (tmp_path, tmp_path) if len(command) > 1 else (tmp_path,)
    restore = (*command[:-1], "upscale", *place)
    small = {"a.jpg.x4.png", "a.png.x4.png"}
    restored = {"a.jpg.restored.png", "a.png.restored.png"}
    for arguments in ((*command, *place, "--keep-extension"), (*restore, "-s", 4)) * 2:
        done = run(*arguments)
        assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {
        "a.jpg",
        "a.png",
    } | small | restored


def test_threads_may_follow_the_command(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[int] = []
    for module in ("car.cli.main", "car.cli.options"):
        monkeypatch.setattr(importlib.import_module(module), "set_cpu_threads", chosen.append)
    a = folder / "a.png"
    assert run("downscale", a, "-s", 4, "-o", tmp_path / "a.png", "--threads", 3).returncode == 0
    assert run("--threads", 2, "upscale", tmp_path / "a.png", "-o", tmp_path / "b.png").returncode == 0
    assert chosen == [3, 2]
    fails(2, "--threads must be at least 1", "upscale", a, "--threads", 0)


def test_a_scale_that_the_metadata_contradict_is_refused(folder: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.x4.png"
    assert run("downscale", folder / "a.png", "-s", 4, "-o", small).returncode == 0
    said = "the picture was made at scale 4, not 2"
    fails(2, said, "upscale", small, "--scale", 2)
    assert said in run("bulk", "upscale", small, tmp_path / "out", "--scale", 2).stderr
    with pytest.raises(UsageError, match=said):
        car.upscale(small, 2)
    assert [path.name for path in tmp_path.glob("*.png")] == [small.name]


def test_the_first_cause_is_told_first(folder: Path) -> None:
    (folder / "a.restored.png").write_bytes(b"")
    fails(2, "does not say which model made it", "upscale", folder / "a.png")
    fails(1, "exists; --overwrite replaces it, --output names another", "upscale", folder / "a.png", "-s", 2)


def test_a_note_of_many_pictures_is_printed_once(folder: Path) -> None:
    for name in ("a.png", "trip/b.jpg"):
        shutil.copy(folder / name, folder / f"copy-{Path(name).name}")
    options = ("-s", 2, "-m", "car_plus_x2", "-f", "jpg", "--quality", 80)
    done = run("downscale", folder / "*a.png", folder / "*b.jpg", *options)
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("car: note: ")
    assert line.endswith(" (3 pictures)")
    done = run("downscale", folder / "a.png", *options, "--overwrite")
    assert done.stderr.startswith(f"car: note: {folder / 'a.png'}: ")


def test_info_of_any_picture(folder: Path, tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[274] = 6
    Image.open(folder / "a.png").save(tmp_path / "turned.jpg", exif=turned)
    Image.fromarray(np.zeros((4, 6), np.uint16)).save(tmp_path / "deep.png")
    for path, size, bits in ((tmp_path / "turned.jpg", [30, 50], 8), (tmp_path / "deep.png", [6, 4], 16)):
        done = run("info", path, "--json")
        told = {"file": str(path), "size": size, "bits": bits, "made": None, "damage": None}
        assert (done.returncode, json.loads(done.stdout)) == (0, told)
        done = run("info", path)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"{size[0]}x{size[1]}, {bits} bit; not made by `car downscale`" in done.stdout
    fails(1, "the file is empty", "info", folder / "empty.png")


@pytest.mark.parametrize("ending", [".png", "", "/x.png", "/"])
def test_an_output_with_a_name_that_is_too_long_has_a_remedy(
    folder: Path, tmp_path: Path, ending: str
) -> None:
    output = f"{tmp_path}/{'n' * 300}{ending}"
    message = "give a shorter name with --output"
    fails(1, message, "downscale", folder / "a.png", "--scale", 2, "-o", output)
    assert not list(tmp_path.glob("n*"))


def test_info_of_several_pictures_and_folders(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    for name in ("a.png", "b <&>.png"):
        Image.new("RGB", (6, 4)).save(inside / name)
    (inside / "logo.svg").write_text("<svg/>")
    (inside / "broken.png").write_bytes(b"x")
    for inputs in ((inside,), (inside / "a.png", inside / "b <&>.png", inside / "broken.png")):
        done = run("info", *inputs)
        assert done.returncode == 1
        assert [line.count("6x4, 8 bit") for line in done.stdout.splitlines()][:2] == [1, 1]
        assert "1 .svg" in done.stdout or len(inputs) > 1
        assert done.stderr.startswith(f"car: {inside / 'broken.png'}: ")
        assert done.stderr.count("\n") == 1
    done = run("info", inside, "--exclude", "broken*", "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, [line["file"] for line in lines]) == (
        0,
        [str(inside / "a.png"), str(inside / "b <&>.png")],
    )
    fails(2, "no such file", "info", inside / "a.png", tmp_path / "missing.png")
    fails(2, "not standard input", "info", "-")


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("--scale wants a number", ("downscale", "x.png", "-s", "four")),
        ("--format gif: no such choice; there are png, webp", ("downscale", "x.png", "-f", "gif")),
        (
            "--precision f8: no such choice; there are auto, float32",
            ("upscale", "x.png", "--precision", "f8"),
        ),
        ("--effort must be from 0 to 9", ("downscale", "x.png", "--effort", 12)),
        ("--threads must be at least 1", ("--threads", 0, "models")),
        ("--lr wants a number", ("train", "car_plus_x4", "--lr", "fast")),
        ("INPUTS is missing; car downscale --help", ("downscale",)),
    ],
)
def test_bad_values_are_refused_in_our_words(message: str, arguments: tuple[object, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"car: {message}")
    assert len(done.stderr.splitlines()) == 1


def test_models_fit_a_terminal() -> None:
    lines = run("models", env={"COLUMNS": "80"}).stdout.splitlines()
    assert max(map(len, lines)) <= 80
    row = next(line for line in lines if "car_plus_x4.v" in line)
    assert row.count("/") == 2
    assert row.split("│")[2].strip() == "default"
    assert "…" not in "".join(lines)
    for info in list_models():  # names are whole, and every model says what it is for
        for name in info.tags or (f"{info.name}: none",):
            (row,) = (line for line in lines if f" {name} " in line)
            assert row.split("│")[2].strip()


def test_numbers_have_one_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    told = io.StringIO()
    console = common._Terminal().console
    console.file = told
    console.print("12,345,678 bytes, 1.5 s")
    assert told.getvalue() == "12,345,678 bytes, 1.5 s\n"


def test_own_weights_named_in_the_file_are_not_replaced_silently(tmp_path: Path, photo: Path) -> None:
    own = tmp_path / "own.safetensors"
    torch.manual_seed(1)
    save_file(create("car_plus_x4").state_dict(), own, {"model": "car_plus_x4"})
    small = tmp_path / "small.png"
    assert run("downscale", photo, "-m", own, "-o", small).returncode == 0
    for scale in ((), ("--scale", 4)):
        fails(1, "name the file of those weights", "upscale", small, "-o", tmp_path / "a.png", *scale)
    assert run("upscale", small, "-m", own, "-o", tmp_path / "a.png").returncode == 0
    fails(2, "made at scale 4, not 2", "upscale", small, "-s", 2, "-o", tmp_path / "b.png")
    done = run("upscale", small, "-m", "car_codec_x4", "-o", tmp_path / "b.png")
    assert done.returncode == 0
    assert "made by car_plus_x4, but restored by car_codec_x4" in done.stderr
    fails(
        2,
        "the scale must be a number from 1.25 to 16, got 0",
        "upscale",
        small,
        "-s",
        0,
        "-o",
        tmp_path / "c.png",
    )


def test_file_names_are_printed_as_they_are(tmp_path: Path, photo: Path) -> None:
    name = "a [final] :heart: [bold] é.png"
    shutil.copy(photo, tmp_path / name)
    done = run("downscale", tmp_path / name, "-s", 4)
    assert done.returncode == 0, done.stderr
    assert name in done.stdout
    small = tmp_path / "a [final] :heart: [bold] é.x4.png"
    assert small.name in run("info", small).stdout
    assert name in run("evaluate", tmp_path / name, "-s", 4).stdout
    assert run("compare", tmp_path / name, "-s", 4, "-o", f"{tmp_path}/out.v1/").returncode == 0
    assert len(digest(tmp_path / "out.v1")) == 3


@pytest.mark.parametrize("suffix", ["webp", "tiff", "avif", "jpg"])
def test_every_format_that_carries_metadata_restores_without_options(suffix: str, folder: Path) -> None:
    small = folder / f"a.x4.{suffix}"
    done = run("downscale", folder / "a.png", "-s", 4, "-f", suffix)
    assert done.returncode == 0, done.stderr
    assert "lossy" not in done.stderr
    info = read_header(small).info
    assert info is not None
    assert info.size == (50, 30)
    # what a lossy file holds was made by the model that is trained for that
    assert info.model == ("car_codec_x4" if suffix in ("avif", "jpg") else "car_plus_x4")
    assert run("upscale", small, "-o", folder / "r.png").returncode == 0
    assert Image.open(folder / "r.png").size == (50, 30)


def test_a_picture_restored_without_error_is_named_beside_the_mean(folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (48, 48), (128, 128, 128)).save(tmp_path / "flat.png")
    done = run("evaluate", folder / "a.png", tmp_path / "flat.png", "-s", 4)
    assert done.returncode == 0, done.stderr
    assert "Mean of 2 pictures, 4x" in done.stdout
    assert "infinite" in done.stdout
    assert "1 of them restored without any error" in done.stdout


def test_quality_of_small_pictures(folder: Path) -> None:
    def size(*options: object) -> tuple[int, str]:
        done = run("downscale", folder / "a.png", "-s", 2, "--overwrite", *options)
        assert done.returncode == 0, done.stderr
        path = folder / ("a.x2.webp" if "webp" in options else "a.x2.jpg")
        info = read_header(path).info
        assert info is not None
        return path.stat().st_size, info.model + (" lossy" if "lossy" in done.stderr else "")

    (low, model), (middle, _), (high, _) = (size("-f", "jpg", "--quality", q) for q in (20, 75, 95))
    assert model == "car_codec_x2"
    assert low < middle < high
    assert size("-f", "jpg") == (middle, "car_codec_x2")
    assert size("-f", "jpg", "-m", "car_plus_x2", "--quality", 94)[1] == "car_plus_x2 lossy"
    assert size("-f", "jpg", "-m", "car_plus_x2", "--quality", 95)[1] == "car_plus_x2"
    assert size("-f", "webp")[1] == "car_plus_x2"
    assert size("-f", "webp", "--quality", 60)[1] == "car_codec_x2"


def test_usage_errors_are_one_line_and_exit_2(folder: Path, tmp_path: Path) -> None:
    a = folder / "a.png"
    before = digest(tmp_path)
    for message, arguments in {
        "no such file or folder": ("downscale", folder / "missing.png", "-s", 4),
        "photos/*.xyz: no pictures here": ("downscale", folder / "*.xyz", "-s", 4),
        "did you mean 'car_plus_x4'": ("downscale", a, "-m", "car_plus_x44"),
        "ships without weights": ("downscale", a, "-m", "car_x2"),
        "the scale must be a number from 1.25 to 16, got 17": ("downscale", a, "-s", 17),
        "got 1": ("downscale", a, "-m", "car_plus_x4", "-s", 1),
        "No such command": ("shrink", a),
        "No such option": ("downscale", a, "--scael", 4),
        "no device is called": ("downscale", a, "-s", 4, "--device", "tpu"),
        "WIDTHxHEIGHT": ("upscale", a, "-s", 4, "--size", "12"),
        "does not exist": ("evaluate", "--img-dir", tmp_path, "--target-dataset", "Set5", "--scale", 4),
        "Set14": ("evaluate", "--img-dir", tmp_path, "--target-dataset", "set14", "--scale", 4),
        ".json or .csv": ("evaluate", a, "--scale", 4, "-o", tmp_path / "x.txt"),
        "is a folder; compare takes one picture": ("compare", folder, "-s", 4),
        "no training recipe": ("train", "car_plus", "--data", folder, "--out", tmp_path / "run"),
    }.items():
        fails(1 if "weights" in message else 2, message, *arguments)
    assert digest(tmp_path) == before


def test_failed_work_is_one_line_exit_1_and_leaves_everything_as_it_was(folder: Path, tmp_path: Path) -> None:
    a = folder / "a.png"
    text = folder / "text.png"
    text.write_text("this is no picture")
    bomb = folder / "bomb.png"
    header = struct.pack(">IIBBBBB", 40000, 40000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I", 9)
        + b"IDAT"
    )
    (tmp_path / "file").write_text("")
    before = digest(tmp_path)
    for message, arguments in {
        "cut.png": ("downscale", folder / "cut.png", "-s", 4),
        "is not a folder of pictures": (
            "train",
            "car_plus_x4",
            "-d",
            tmp_path / "none",
            "-o",
            tmp_path / "run",
        ),
        "empty": ("downscale", folder / "empty.png", "-s", 4),
        "text.png": ("downscale", text, "-s", 4),
        "--max-pixels": ("downscale", bomb, "-s", 4),
        "same file": ("downscale", a, "-s", 4, "-o", a, "--overwrite"),
        "exists": ("downscale", a, "-s", 4, "-o", folder / "cut.png"),
        "cannot make this folder": ("downscale", a, "-s", 4, "-o", tmp_path / "file" / "x.png"),
        ".xyz": ("downscale", a, "-s", 4, "-o", tmp_path / "x.xyz"),
        "too small to be measured": (
            "compare",
            folder / "trip" / "c.webp",
            "-s",
            4,
            "-o",
            tmp_path / "c.png",
        ),
    }.items():
        fails(1, message, *arguments)
    assert digest(tmp_path) == before


def test_a_message_names_the_file_that_it_is_about(folder: Path, tmp_path: Path) -> None:
    """The small picture that contradicts the options; the target that cannot be written."""
    small, plain = tmp_path / "a.x4.png", folder / "a.png"
    assert run("downscale", plain, "-s", 4, "-o", small).returncode == 0
    (tmp_path / "file").write_text("")
    dead = tmp_path / "dead.png"
    dead.symlink_to(tmp_path / "nowhere" / "x.png")
    before = digest(tmp_path)
    for code, start, arguments in (
        (2, f"{small}: the picture was made at scale 4, not 2", ("upscale", small, "-s", 2)),
        (2, f"{small}: a picture of 13x8 restores to", ("upscale", small, "--size", "9x9")),
        (2, f"{plain}: the picture does not say", ("upscale", plain)),
        (1, f"{dead}: cannot be written", ("upscale", small, "-o", dead)),
        (
            1,
            f"{tmp_path}/file/x.png: {tmp_path}/file: cannot make",
            ("upscale", small, "-o", tmp_path / "file/x.png"),
        ),
        (1, "/dev/full: is not a regular file", ("upscale", small, "-o", "/dev/full")),
        (1, f"{tmp_path}/file/x: cannot make this", ("upscale", folder, "-s", 4, "-o", tmp_path / "file/x")),
        (2, "no device is called 'tpu'", ("upscale", small, "--device", "tpu")),
    ):
        fails(code, f"car: {start}", *arguments)
    assert digest(tmp_path) == before


@pytest.mark.parametrize("command", ["downscale", "info", "compare"])
@pytest.mark.parametrize("name", ["-dash.png", "--quality.jpg", "-absent.TIFF"])
def test_a_name_that_begins_with_a_dash(
    command: str, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    if "absent" not in name:
        shutil.copy("a.png", name)
    fails(2, f"; for the file {name}, write ./{name}\n", command, name)
    if command == "downscale":  # what follows -- is no option
        fails(2, "no such file or folder", command, "-s", 4, "--", "-none.png")
        assert "write ./" not in run(command, "--format=x.png", "a.png").stderr


def test_a_full_disk_ends_the_run_at_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        done = run("downscale", folder, "-s", 4, "-o", tmp_path / "small")
        assert done.returncode == 1
        assert done.stderr.count("(No space left on device)") == 1
        assert done.stderr.endswith("car: stopped; run the same command again to continue\n")
        one = run("downscale", folder / "a.png", "-s", 4, "-o", tmp_path / "a.png", "--json")
        told = json.loads(one.stdout)
        assert told["failures"][0]["source"] == str(folder / "a.png")
    assert not list((tmp_path / "small").iterdir())
    assert "a.x4.png" in run("downscale", folder, "-s", 4, "-o", tmp_path / "small").stdout


def test_what_decoders_warn_of_is_not_printed(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    body = b"acTL" + bytes(8)  # an animation of no frames, which Pillow warns of
    chunk = struct.pack(">I", 8) + body + struct.pack(">I", zlib.crc32(body))
    (tmp_path / "a.png").write_bytes(content[:33] + chunk + content[33:])
    done = run("info", tmp_path / "a.png", "--json")
    assert (done.returncode, done.stderr) == (0, "")


def test_compare_prints_numbers_and_writes_pictures(tmp_path: Path, photo: Path) -> None:
    done = run("compare", photo, "-s", 4, "-o", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["model"]["psnr"] > result["bicubic"]["psnr"] + 4
    names = {"photo.x4.png", "photo.restored.png", "photo.comparison.png"}
    assert set(digest(tmp_path / "out")) == names
    assert result["bytes"]["small"] == (tmp_path / "out" / "photo.x4.png").stat().st_size
    restored = run("upscale", tmp_path / "out" / "photo.x4.png", "-o", tmp_path / "r.png")
    assert restored.returncode == 0
    assert (read(tmp_path / "r.png").pixels == read(tmp_path / "out" / "photo.restored.png").pixels).all()
    done = run("compare", photo, "-s", 4, "-o", tmp_path / "only.png")
    assert f"{result['model']['psnr']:.2f}" in done.stdout
    assert f"{result['bicubic']['ssim']:.4f}" in done.stdout
    assert Image.open(tmp_path / "only.png").width > 1000


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no symbolic links")
@pytest.mark.parametrize(
    ("ending", "command"),
    [
        ("json", ("evaluate", "{photo}", "-s", 4, "-o")),
        ("html", ("report", "car_plus_x2", "-i", "{photo}", "-o")),
        ("png", ("compare", "{photo}", "-s", 4, "-o")),
        ("png", ("downscale", "{photo}", "-s", 4, "-o")),
        ("jsonl", ("bulk", "evaluate", "{folder}", "{folder}/../target", "-s", 4, "--manifest")),
    ],
)
def test_an_output_that_cannot_be_written_is_found_before_the_work(
    ending: str, command: tuple[object, ...], photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_work(*_: Any, **__: Any) -> None:
        raise AssertionError("the work has begun")

    for place in (Codec, evaluation):
        name = "shrink" if place is Codec else "round_trip_of"
        monkeypatch.setattr(place, name, no_work)
    (tmp_path / "in").mkdir()
    shutil.copy(photo, tmp_path / "in" / "a.png")
    output = tmp_path / f"out.{ending}"
    output.symlink_to(tmp_path / "nowhere" / output.name)
    names = {"photo": str(tmp_path / "in" / "a.png"), "folder": str(tmp_path / "in")}
    message = f"out.{ending}: cannot be written (a link is there that leads nowhere)"
    fails(1, message, *(str(part).format(**names) for part in command), output, "--overwrite")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "target") == ["in", output.name]


def test_evaluate_by_name_and_by_folder(tmp_path: Path, photo: Path) -> None:
    data = tmp_path / "datasets"
    (data / "Set5").mkdir(parents=True)
    shutil.copy(photo, data / "Set5")
    named = run(
        "evaluate", "--img-dir", data, "--target-dataset", "Set5", "--scale", 4, "-o", tmp_path / "r.json"
    )
    assert named.returncode == 0, named.stderr
    record = json.loads((tmp_path / "r.json").read_text())
    assert f"{record['mean']['model']['psnr']:.2f}" in named.stdout
    by_folder = json.loads(run("evaluate", data / "Set5", "-s", 4, "--json").stdout)
    assert by_folder["mean"]["model"]["psnr"] == record["mean"]["model"]["psnr"]
    fast = json.loads(run("evaluate", data / "Set5", "-s", 4, "--json", "--fast", "--no-perceptual").stdout)
    assert fast["mean"]["model"]["psnr"] != record["mean"]["model"]["psnr"]
    assert fast["mean"]["model"].get("ssimulacra2") is None
    fails(1, "--overwrite replaces it", "evaluate", data / "Set5", "-s", 4, "-o", tmp_path / "r.json")
    (data / "Set5" / "bad.png").write_bytes(b"\x89PNG")
    done = run("evaluate", data / "Set5", "-s", 4, "-o", tmp_path / "r.csv")
    assert done.returncode == 1
    assert "bad.png" in done.stderr
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 2


def test_models_help_and_version() -> None:
    listed = json.loads(run("models", "--json").stdout)
    assert {m["name"] for m in listed["models"]} >= {"car_plus_x2", "car_plus_x4"}
    assert "car_plus_x4" in run("models").stdout
    assert "car 1." in run("--version").stdout
    for command in ("downscale", "upscale", "compare", "evaluate", "train"):
        text = run(command, "--help").stdout
        assert "For example" in text
        assert f"car {command}" in text


def test_an_interrupted_folder_run_leaves_whole_files_and_goes_on(tmp_path: Path, photo: Path) -> None:
    photos, small = tmp_path / "photos", tmp_path / "small"
    photos.mkdir()
    large = Image.open(photo).resize((240, 288))
    for i in range(20):
        large.save(photos / f"{i:02d}.png", compress_level=1)
    process = start_car("downscale", photos, "-o", small, "-s", 2)
    wait_until(lambda: list(small.glob("*.png")), process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    *progress, last = errors.splitlines()
    assert last == "car: interrupted"
    assert all(
        re.fullmatch(r"shrinking: \d+ % done, about .* left", line) for line in progress
    )  # of a slow run
    done = digest(small)
    assert 1 <= len(done) < 20
    assert all(name.endswith(".x2.png") for name in done)
    assert run("downscale", photos, "-o", small, "-s", 2).returncode == 0
    after = digest(small)
    assert len(after) == 20
    assert len(set(after.values())) == 1
    assert after.items() >= done.items()


@pytest.mark.parametrize("launcher", [["-m", "car"], ["-c", "from car.__main__ import main; main()"]])
def test_an_interrupt_during_the_imports_is_one_line_too(launcher: list[str], tmp_path: Path) -> None:
    stand_in = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise SystemExit(7)\n"
    (tmp_path / "torch.py").write_text(stand_in)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    for handler, code, said in ((signal.SIG_DFL, 130, "car: interrupted\n"), (signal.SIG_IGN, 7, "")):
        done = subprocess.run(
            [sys.executable, *launcher, "train", "car_plus_x4", "--data", tmp_path],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
            preexec_fn=functools.partial(signal.signal, signal.SIGINT, handler),
            timeout=LIMIT,
        )
        assert (done.returncode, done.stderr, done.stdout) == (code, said, "")


def test_the_package_is_imported_when_it_is_used() -> None:
    code = """
import sys, car
assert "torch" not in sys.modules
assert {"downscale", "load"} <= set(dir(car))
assert not hasattr(car, "_nothing") and "torch" not in sys.modules
from car import downscale
assert car.codec.api.downscale is downscale and car.pictures.read.read and car.load
assert not hasattr(car, "nothing")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=LIMIT)


def test_pngsuite_works_or_is_refused(data_dir: Path, tmp_path: Path) -> None:
    suite = data_dir / "pngsuite"
    if not suite.is_dir():
        pytest.skip(f"{suite} is not there")
    done = run("downscale", suite, "-o", tmp_path, "-s", 4, "--json")
    result = json.loads(done.stdout)
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
    assert {Path(f["source"]).name[0] for f in result["failures"]} == {"x"}
    good = [p for p in suite.glob("*.png") if not p.name.startswith("x")]
    assert {Path(r["source"]).name for r in result["results"]} >= {p.name for p in good}
    assert len(result["results"]) + len(result["failures"]) == len(list(suite.glob("*.png")))


def test_names_and_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink = Naming(".png", add=".x4")
    assert shrink("photo.jpg") == "photo.x4.png"
    restore = Naming(".png", restores=True)
    assert restore("photo.x4.webp") == "photo.png"
    assert restore("thumb.png") == "thumb.png"
    assert restore(".x4.png") == ".x4.png"
    for name in ("a.png", "a.jpg"):
        (tmp_path / name).write_bytes(b"")
    todo = plan([str(tmp_path)], str(tmp_path / "out"), shrink)
    assert [job.target.name for job in todo.jobs] == ["a.x4.png"]
    assert "as that of" in todo.problems[0]
    with pytest.raises(UsageError, match="several inputs need a folder"):
        plan([str(tmp_path)], str(tmp_path / "a.png"), shrink)
    with pytest.raises(ImageError, match="is a folder"):
        check_target(Job(tmp_path / "a.png", tmp_path), overwrite=True)
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    with pytest.raises(ImageError, match="same file"):
        check_target(Job(tmp_path / "a.png", tmp_path / "link.png"), overwrite=True)
    images = names.find_images([str(tmp_path / "a.png")] * 2)
    assert (images.names, images.many) == ({tmp_path / "a.png": "a.png"}, True)


def test_progress_is_told_in_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(common.time, "monotonic", lambda: now[0])
    for seconds, shown in ((10, True), (10, False), (0.5, True)):  # of these, only the first takes long
        with common.progress(10, "measuring", shown) as advance:
            for parts in (1, 1, 6, 2):
                now[0] += seconds * parts
                advance(parts)
    assert capsys.readouterr().err.splitlines() == [
        "measuring: 10 % done, about 90 seconds left",
        "measuring: 20 % done, about 80 seconds left",
        "measuring: 80 % done, about 20 seconds left",
    ]


def test_work_on_one_picture_is_told_with_the_time_that_is_left(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(common.time, "monotonic", lambda: now[0])
    with common.telling(shown=True):
        for seconds, parts in ((10, 10), (0.5, 8)):  # of these, only the first takes long
            work = Work("refining", parts)
            for _ in range(parts - 6):
                now[0] += seconds
                work.advance()
            work.end()
    assert capsys.readouterr().err.splitlines() == [
        "refining: 10 % done, about 90 seconds left",
        "refining: 20 % done, about 80 seconds left",
        "refining: 30 % done, about 70 seconds left",
        "refining: 40 % done, about 60 seconds left",
    ]
    with common.telling(shown=True):
        work = Work("restoring", 1000)
        for _ in range(25):  # no line says what the one before has said
            now[0] += 10
            work.advance()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(", ")[0] for line in lines] == ["restoring: 1 % done", "restoring: 2 % done"]
    with common.telling(shown=False):
        Work("refining", 1).advance()
    assert not capsys.readouterr().err


def test_a_bar_appears_only_for_work_that_takes_long(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(common.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(common.stderr.console, "_force_terminal", True)
    monkeypatch.setattr(type(common.stderr), "is_terminal", True)
    for seconds, shown in ((0.05, False), (2, True)):
        with common.telling(shown=True):
            work = Work("restoring", 4)
            for _ in range(4):
                now[0] += seconds
                work.advance()
        assert bool(capsys.readouterr().err) == shown
