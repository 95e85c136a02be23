"""One odd folder through every command and endpoint: the same pictures, the same answers."""

import importlib.util
import io
import json
import os
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from car.batch import names
from car.cli.main import _main
from car.codec.codec import Codec
from car.codec.options import Options
from car.errors import ImageError, StorageError, UsageError
from car.files import places
from car.files.places import Passed, open_source
from car.pictures import formats
from car.pictures.formats import INPUT_SUFFIXES
from car.pictures.picture import Picture
from car.pictures.write import write
from car.train.data import load_store
from car.weights import load

PICTURES = {"a.png", "b.jfif", "cut.png", "link.png", "same.jpg", "same.png", "trip/c.JPE"}
LEFT_OUT = {
    "hidden files": 1,
    "hidden folders": 2,
    "links to folders": 1,
    "links that lead nowhere": 1,
    "pipes, sockets and devices": 1,
    ".psd": 2,
    ".cr2": 1,
    ".txt": 1,
    "other files": 1,
}


@pytest.fixture
def odd(tmp_path: Path, photo: Path) -> Path:
    """A folder of seven pictures, of which one is damaged and two would have one result, among much else."""
    folder = tmp_path / "odd"
    for name in ("trip", ".Trash-1000", "@eaDir"):
        (folder / name).mkdir(parents=True)
    picture = Image.open(photo).crop((0, 0, 48, 40))
    for name in ("a.png", "same.png", ".hidden.png", ".Trash-1000/old.png", "@eaDir/thumb.png"):
        picture.save(folder / name)
    for name in ("b.jfif", "same.jpg", "trip/c.JPE"):
        picture.save(folder / name, "JPEG", quality=95)
    content = (folder / "a.png").read_bytes()
    (folder / "cut.png").write_bytes(content[: len(content) // 2])
    for name in ("x.psd", "trip/y.PSD", "z.cr2", "notes.txt", ".DS_Store", "README"):
        (folder / name).write_text("no picture")
    (folder / "link.png").symlink_to("a.png")
    (folder / "again").symlink_to("trip")
    (folder / "dead.png").symlink_to("nowhere.png")
    os.mkfifo(folder / "pipe.png")
    return folder


@pytest.fixture
def car(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command in this process; gives its exit code, output and errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["car", *map(str, arguments)])
        capsys.readouterr()
        code = _main()
        return (code, *capsys.readouterr())

    return run


def test_every_command_finds_the_same_pictures(
    odd: Path, tmp_path: Path, car: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(str(odd), INPUT_SUFFIXES)
    passed = Passed()
    assert [name for name, _ in source.pictures(passed)] == sorted(PICTURES)
    assert (dict(passed.left_out), passed.problems) == (LEFT_OUT, [])

    code, out, err = car("downscale", odd, "-o", tmp_path / "small", "-s", 4, "--json")
    told = json.loads(out)
    done = {Path(result["source"]).relative_to(odd).as_posix() for result in told["results"]}
    assert (code, done, told["left_out"]) == (1, PICTURES - {"cut.png", "same.png"}, LEFT_OUT)
    assert "cut.png: " in err
    assert "same.png: its result would be" in err
    assert "2 of 7 pictures failed" in err

    code, out, bulk_err = car("bulk", "downscale", odd, tmp_path / "bulk", "-s", 4, "--json")
    told = json.loads(out)
    assert (code, told["done"], told["found"], told["left_out"]) == (1, 5, 7, LEFT_OUT)
    assert "same.png: its result would be" in bulk_err
    assert "2 of 7 pictures failed" in bulk_err
    for name in ("a.x4.png", "b.x4.png", "link.x4.png", "same.x4.png", "trip/c.x4.png"):
        assert (tmp_path / "small" / name).read_bytes() == (tmp_path / "bulk" / name).read_bytes()

    code, out, err = car("gallery", odd, "-o", tmp_path / "site", "--json")
    told = json.loads(out)
    assert (code, {shown["source"] for shown in told["pictures"]}) == (1, done)
    assert told["left_out"] == LEFT_OUT

    code, out, err = car("evaluate", odd, "-s", 4, "--json")
    told = json.loads(out)
    assert code == 1
    assert [Path(failure["source"]).name for failure in told["failures"]] == ["cut.png"]
    assert {image["name"] for image in told["images"]} == {Path(p).name for p in PICTURES - {"cut.png"}}
    assert told["left_out"] == LEFT_OUT

    rated: list[str] = []

    def refuse(path: Path, **_: Any) -> Any:
        rated.append(path.relative_to(odd).as_posix())
        raise ImageError(f"{path}: refused")

    monkeypatch.setattr("car.cli.rating.read", refuse)
    assert car("rate", odd, "-o", tmp_path / "rate", "-s", 4)[0] == 2
    assert set(rated) == PICTURES

    skipped: list[str] = []
    store = load_store([odd], tmp_path / "cache", min_size=8, on_skip=skipped.append)
    assert set(store.names) == PICTURES - {"cut.png"}
    assert any("left out: 2 .psd" in line for line in skipped)
    assert any("cut.png" in line for line in skipped)


@pytest.mark.parametrize("installed", [True, False])
def test_heic_is_found_in_folders_where_it_can_be_read(
    installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: installed if name == "pillow_heif" else None
    )
    suffixes = runpy.run_path(formats.__file__)["INPUT_SUFFIXES"]
    for name in ("a.HEIC", "b.heif", "c.hif", "d.MPO"):
        (tmp_path / name).write_bytes(b"")
    found = [name for name, _ in open_source(str(tmp_path), suffixes).pictures(Passed())]
    assert found == (["a.HEIC", "b.heif", "c.hif"] if installed else []) + ["d.MPO"]


def test_the_service_finds_the_same_pictures(odd: Path, tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    client_module = pytest.importorskip("fastapi.testclient")
    from car.serve.app import create_app
    from car.serve.settings import Settings

    (odd / "out.png").symlink_to(shutil.copy(odd / "a.png", tmp_path / "secret.png"))
    with client_module.TestClient(create_app(Settings(folder=odd))) as client:
        assert client.get("/v1/pictures").json() == sorted(PICTURES)  # a link out of the folder is none here
        for name in ("a.png", "b.jfif", "trip/c.JPE", "link.png"):
            assert client.get(f"/small/{name}").status_code == 200
        for name in (".hidden.png", ".Trash-1000/old.png", "@eaDir/thumb.png", "again/c.JPE", "x.psd"):
            assert client.get(f"/small/{name}").status_code == 404
        assert "cut.png" not in client.get("/small/cut.png").text  # where files lie is nobody's business
        assert client.get("/small/cut.png").status_code == 422


def test_what_a_small_picture_says_has_one_answer(tmp_path: Path, photo: Path, car: Any) -> None:
    codec = Codec(load("car_plus_x4"), Options(device="cpu"))
    pixels = np.asarray(Image.open(photo).convert("RGB").crop((0, 0, 48, 40)))
    small, info = codec.shrink(Picture(pixels, None, False, None, None, ()))
    good, damaged = tmp_path / "s/good.x4.png", tmp_path / "s/damaged.x4.png"
    good.parent.mkdir()
    write(good, small, info=info)
    about = PngImagePlugin.PngInfo()
    about.add_text("car", info.to_text().replace(",4,", ',"4",'))
    Image.open(good).save(damaged, pnginfo=about)
    contradicted = "the picture was made at scale 4, not 2"
    why = "the metadata of the small picture is damaged"
    for option in (("--scale", 2), ("--model", "car_plus_x2")):
        for ask in (("upscale", good, "-o", tmp_path / "x.png"), ("bulk", "upscale", good, tmp_path / "x")):
            code, _, err = car(*ask, *option)
            assert code in (1, 2)
            assert contradicted in err
            assert err.count(contradicted) == 1
    for ask in (("upscale", damaged, "-o", tmp_path / "x.png"), ("bulk", "upscale", damaged, tmp_path / "x")):
        assert why in car(*ask)[2]
        assert car(*ask, "--scale", 4)[0] == 0
    assert not (tmp_path / "x/good.png").exists()

    pytest.importorskip("fastapi")
    client_module = pytest.importorskip("fastapi.testclient")
    from car.serve.app import create_app
    from car.serve.settings import Settings

    with client_module.TestClient(create_app(Settings())) as client:
        for query in ("scale=2", "model=car_plus_x2"):
            answer = client.post(f"/v1/upscale?{query}", content=good.read_bytes())
            assert (answer.status_code, answer.json()["error"]) == (422, contradicted)
        answer = client.post("/v1/upscale", content=damaged.read_bytes())
        assert (answer.status_code, why in answer.json()["error"]) == (422, True)
        # what is misspelt is not taken for the default
        for query, nearest in (("fromat=webp", "format"), ("scal=2", "scale"), ("Scale=2", "scale")):
            answer = client.post(f"/v1/downscale?{query}", content=good.read_bytes())
            name = query.partition("=")[0]
            text = f"no parameter is called '{name}'; did you mean '{nearest}'?"
            assert (answer.status_code, answer.json()["error"]) == (422, text)
        assert client.post("/v1/downscale?scale=2&scale=4", content=b"").status_code == 422
        assert client.get("/v1/models?x=1").status_code == 422


def test_what_is_excluded_or_cannot_be_read(odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(*exclude: str) -> tuple[set[str], int]:
        passed = Passed()
        listed = {name for name, _ in open_source(str(odd), INPUT_SUFFIXES, exclude).pictures(passed)}
        return listed, passed.left_out["excluded"]

    assert found("same.*", "*.txt") == (PICTURES - {"same.png", "same.jpg"}, 3)
    assert found("trip") == found("trip/") == found("t*") == (PICTURES - {"trip/c.JPE"}, 1)
    assert found("trip/*") == (PICTURES - {"trip/c.JPE"}, 2)
    assert found("a.png/x", "c.png") == (PICTURES, 0)

    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("trip"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    images = names.find_images([str(odd)])
    assert set(images.names.values()) == PICTURES - {"trip/c.JPE"}
    assert images.problems == (f"{odd}/trip: cannot be read (Permission denied)",)


def test_no_name_ends_the_work_or_moves_the_cursor(tmp_path: Path, photo: Path, car: Any) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    picture = Image.open(photo).crop((0, 0, 16, 16))
    evil = "\x1b]0;owned\x07\n\u202egnp.png"
    for name in ("a.png", f"{'n' * 250}.png", evil, "z.png"):
        picture.save(folder / name, "PNG")
    code, out, err = car("downscale", folder, "-o", tmp_path / "small", "-s", 2)
    assert code == 1
    assert "a.png 16x16" in out
    assert "z.png 16x16" in out
    assert f"{'n' * 250}.x2.png: cannot be written (its name is too long; rename the source" in err
    assert "1 of 4 pictures failed" in err
    (folder / evil).write_bytes(b"no picture")
    outputs = [
        out,
        err,
        *car("evaluate", folder, "-s", 2)[1:],
        *car("bulk", "downscale", folder, tmp_path / "b")[1:],
    ]
    outputs += [*car("info", tmp_path / "small" / evil.replace(".png", ".x2.png"))[1:]]
    for text in outputs:
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert all("gnp" not in line or "owned" in line for line in text.splitlines())
    assert "\\x1b]0;owned\\x07\\n\\u202egnp" in out


def test_standard_input_and_output(
    tmp_path: Path, photo: Path, car: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = io.BytesIO()
    Image.open(photo).crop((0, 0, 48, 40)).save(picture, "PNG")

    class Stream(io.TextIOWrapper):
        def isatty(self) -> bool:
            return self.tty

        tty = False

    def piped(content: bytes, *arguments: object, tty: bool = False) -> tuple[int, bytes, str]:
        out, source = io.BytesIO(), Stream(io.BytesIO(content))
        target = Stream(out, write_through=True)
        target.tty = tty
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", source)
            patch.setattr(sys, "stdout", target)
            code, _, err = car(*arguments)
            return code, out.getvalue(), err

    code, small, err = piped(picture.getvalue(), "downscale", "-", "-s", 4, "--format", "webp")
    assert (code, err) == (0, "")
    assert Image.open(io.BytesIO(small)).format == "WEBP"
    code, large, err = piped(small, "upscale", "-")
    assert (code, err) == (0, "")
    assert Image.open(io.BytesIO(large)).size == (48, 40)
    code, out, _ = piped(small, "upscale", "-", "-o", tmp_path / "large.png")
    assert (code, b"standard input 12x10" in out) == (0, True)
    assert (tmp_path / "large.png").read_bytes() == large
    target = str(tmp_path / "again.png")
    code, out, _ = piped(small, "upscale", "-", "-o", target, "--json")
    (result,) = json.loads(out)["results"]
    assert (code, result["source"], result["target"]) == (0, "standard input", target)
    (tmp_path / "s.webp").write_bytes(small)
    assert piped(b"", "upscale", tmp_path / "s.webp", "-o", "-")[1] == large
    for content, arguments, code, message in (
        (
            b"no picture",
            ("downscale", "-", "-s", 4),
            1,
            "standard input: not a picture of a known format",
        ),
        (b"", ("downscale", "-", "-s", 4), 1, "standard input: the file is empty"),
        (small, ("downscale", "-", tmp_path / "s.webp", "-s", 4), 2, "- stands for one picture"),
        (small, ("downscale", tmp_path, "-s", 4, "-o", "-"), 2, "- stands for one picture"),
        (
            small,
            ("upscale", "-", "-o", tmp_path),
            2,
            f"{tmp_path}: name a file, because a picture from standard input",
        ),
        (small, ("upscale", "-", "--json"), 2, "--json and the picture cannot both"),
    ):
        ended, out, err = piped(content, *arguments)
        assert (ended, out) == (code, b"")
        assert err.startswith(f"car: {message}")
        assert len(err.splitlines()) == 1
    assert piped(small, "upscale", "-", tty=True)[2].startswith("car: standard output is a terminal")


def test_a_bucket_is_listed_page_by_page_as_a_folder_is(odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = places.Place(str(odd))
    inside = [found for found in place.walk() if found.entry]
    keys = sorted(
        [*(found.name for found in inside), "trip/"]
    )  # a marker of a folder, as some programs write

    def call_s3(method: str, *, Bucket: str, Prefix: str, ContinuationToken: str = "0") -> dict[str, Any]:
        assert (method, Bucket) == ("list_objects_v2", "b")
        start = int(ContinuationToken)
        about = [{"Key": f"p/{key}", "Size": 1, "ETag": "e"} for key in keys if f"p/{key}".startswith(Prefix)]
        more = (
            {"IsTruncated": True, "NextContinuationToken": str(start + 2)} if start + 2 < len(about) else {}
        )
        return {"Contents": about[start : start + 2]} | more

    class Bucket:
        protocol = "s3"
        split_path = staticmethod(lambda path: ("b", "p", None))

    Bucket.call_s3 = staticmethod(call_s3)
    monkeypatch.setattr(places.Place, "is_local", False, raising=False)
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda url: (Bucket(), "b/p"))
    passed = Passed()
    source = open_source("s3://b/p", INPUT_SUFFIXES)
    assert [name for name, _ in source.pictures(passed)] == sorted(PICTURES)
    of_links = ("links to folders", "links that lead nowhere", "pipes, sockets and devices")
    assert dict(passed.left_out) == {kind: count for kind, count in LEFT_OUT.items() if kind not in of_links}
    assert [found.name for found in source.place.walk(below="trip")] == ["trip/c.JPE", "trip/y.PSD"]
    keys.reverse()
    with pytest.raises(StorageError, match="not in the order"):
        list(source.pictures(passed))
    with pytest.raises(UsageError, match="without wildcards"):
        open_source("s3://*/x", INPUT_SUFFIXES)


def test_sizes_leave_out_small_pictures_and_are_named(
    car: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    for name, size in (("large", (100, 60)), ("small", (50, 60))):
        Image.new("RGB", size, "teal").save(tmp_path / f"{name}.png")
    code, out, _ = car("downscale", tmp_path, "--size", 50)
    assert code == 0
    assert "left out: 1 picture too small to shrink so" in out
    assert Image.open(tmp_path / "large.size50.png").size == (50, 30)
    assert car("upscale", tmp_path, "-o", tmp_path / "back")[0] == 0
    assert Image.open(tmp_path / "back/large.png").size == (100, 60)
    for options, said in (
        (("--width", 90), "at most 80x48 is possible"),
        (("--size", 50, "--scale", 2), "give only one of scale, size"),
        (("--megapixels", 0), "megapixels must be a positive number"),
    ):
        code, _, err = car("downscale", tmp_path / "large.png", *options)
        assert code == 2
        assert said in err
